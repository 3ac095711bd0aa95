//! Ctrl-C as a flag that the program looks at between two steps.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// What a shell reports for a program that ended by SIGINT: 128 + 2.
const EXIT_CODE: libc::c_int = 130;

/// From now on SIGINT sets the flag; one more before [`clear`] ends the process with code 130.
///
/// A blocking read that waits for a terminal or a socket returns with `Interrupted`; the standard
/// library's `read_line` and `write_all` then go on by themselves.
///
/// Errors: `Io` when the system refuses.
pub fn install() -> Result<()> {
    handle(libc::SIGINT, "handler for SIGINT")
}

/// As [`install`], for SIGTERM too, and gives the flag.
///
/// Errors: as [`install`].
pub fn install_for_servers() -> Result<&'static AtomicBool> {
    install()?;
    handle(libc::SIGTERM, "handler for SIGTERM")?;
    Ok(&REQUESTED)
}

fn handle(signal: libc::c_int, what: &str) -> Result<()> {
    // SAFETY: all-zero is a valid sigaction (no flags, an empty mask, the default handler).
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_interrupt as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: `action` is complete and lives through the call, the old action is not asked for, and the
    // handler does only what is allowed in one: an atomic swap and _exit.
    if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(Error::io(what, &std::io::Error::last_os_error()));
    }
    Ok(())
}

/// Whether SIGINT came since the start or the last [`clear`].
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Forgets the interrupt.
pub fn clear() {
    REQUESTED.store(false, Ordering::Relaxed);
}

extern "C" fn on_interrupt(_signal: libc::c_int) {
    if REQUESTED.swap(true, Ordering::Relaxed) {
        // SAFETY: _exit is async-signal-safe and does not return.
        unsafe { libc::_exit(EXIT_CODE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_sets_the_flag() {
        install().unwrap();
        assert!(!requested());
        // SAFETY: raises a signal whose handler was just installed.
        unsafe { libc::raise(libc::SIGINT) };
        assert!(requested());
        clear();
        assert!(!requested());
    }
}
