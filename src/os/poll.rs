//! Waiting for many sockets in one thread, and how many files a process may hold open.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// A file to wait for. It is known by its number only: once closed, it counts as ready.
#[repr(transparent)]
pub struct Watch(libc::pollfd);

impl Watch {
    /// Waits until a read or an accept would not block.
    pub fn readable(file: &impl AsFd) -> Watch {
        Watch::new(file, libc::POLLIN)
    }

    /// Waits until a write would not block.
    pub fn writable(file: &impl AsFd) -> Watch {
        Watch::new(file, libc::POLLOUT)
    }

    fn new(file: &impl AsFd, events: libc::c_short) -> Watch {
        Watch(libc::pollfd {
            fd: file.as_fd().as_raw_fd(),
            events,
            revents: 0,
        })
    }

    /// Whether it was ready, broken or closed when [`wait`] returned.
    pub fn is_ready(&self) -> bool {
        self.0.revents != 0
    }
}

/// Waits until one of these is ready, a signal comes, or the time is over; whole milliseconds, rounded up.
///
/// Errors: `Io`.
pub fn wait(watches: &mut [Watch], at_most: Duration) -> Result<()> {
    let ms = at_most.as_nanos().div_ceil(1_000_000);
    let ms = libc::c_int::try_from(ms).unwrap_or(libc::c_int::MAX);
    for watch in &mut *watches {
        watch.0.revents = 0;
    }
    let first = watches.as_mut_ptr().cast::<libc::pollfd>();
    let n = watches.len() as libc::nfds_t;
    // SAFETY: a `Watch` is a pollfd, and `first` starts `n` of them that nobody else uses during the call.
    if unsafe { libc::poll(first, n, ms) } < 0 {
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(Error::io("waiting for sockets", &error));
        }
    }
    Ok(())
}

/// Lets up to `n` clients wait to be accepted, or as many as the system allows; a refusal changes nothing.
pub fn allow_waiting(listener: &TcpListener, n: usize) {
    let n = libc::c_int::try_from(n).unwrap_or(libc::c_int::MAX);
    // SAFETY: listen takes no pointer, and the listener is open.
    unsafe { libc::listen(listener.as_raw_fd(), n) };
}

/// Asks for `n` files that may be open at a time, and gives how many may be: fewer, where the system refuses more.
pub fn allow_open_files(n: u64) -> u64 {
    // SAFETY: all-zero is a valid rlimit: it holds two numbers.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    // SAFETY: `limit` may be written.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        // The smallest limit that POSIX allows.
        return 20;
    }
    let asked = libc::rlimit {
        rlim_cur: n.min(limit.rlim_max),
        ..limit
    };
    if asked.rlim_cur <= limit.rlim_cur {
        return limit.rlim_cur;
    }
    // SAFETY: `asked` is complete and only read.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const asked) } {
        0 => asked.rlim_cur,
        _ => limit.rlim_cur,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    #[test]
    fn what_is_ready_is_told_and_the_rest_waits() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        let mut watches = [Watch::readable(&near), Watch::writable(&near)];
        wait(&mut watches, Duration::from_secs(10)).unwrap();
        assert!(!watches[0].is_ready() && watches[1].is_ready());

        let start = Instant::now();
        let mut watches = [Watch::readable(&near)];
        wait(&mut watches, Duration::from_micros(2500)).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(3));
        assert!(!watches[0].is_ready());

        far.write_all(b"x").unwrap();
        wait(&mut watches, Duration::from_secs(10)).unwrap();
        assert!(watches[0].is_ready());
        near.read_exact(&mut [0]).unwrap();
        drop(far);
        wait(&mut watches, Duration::from_secs(10)).unwrap();
        assert!(watches[0].is_ready(), "the other end was closed");
    }

    #[test]
    fn open_files_are_granted_once_and_never_taken_back() {
        let granted = allow_open_files(64);
        assert!(granted >= 20, "{granted}");
        assert_eq!(allow_open_files(1), granted);
    }
}
