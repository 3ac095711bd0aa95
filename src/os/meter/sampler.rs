//! A thread that watches for peaks.

use super::super::File;
use super::{Process, System, cached_bytes};
use crate::error::{Error, Result};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The largest figures seen between start and stop; `None` where none was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peaks {
    /// Looks taken, the first at the start and the last at the stop.
    pub n_samples: u64,
    /// Bytes, of [`Process::rss_bytes`].
    pub rss_bytes: Option<u64>,
    /// Bytes, of [`Process::locked_bytes`].
    pub locked_bytes: Option<u64>,
    /// Bytes of the watched file in the page cache.
    pub cached_bytes: Option<u64>,
    /// Bytes, of [`System::used_bytes`].
    pub system_used_bytes: Option<u64>,
}

/// Looks at memory in regular intervals until it is stopped or dropped; what it keeps does not grow.
#[derive(Debug)]
pub struct Sampler {
    stop: Arc<Stop>,
    /// `None` once it has ended.
    thread: Option<JoinHandle<Peaks>>,
}

#[derive(Debug, Default)]
struct Stop {
    wanted: Mutex<bool>,
    changed: Condvar,
}

/// The thread reads a few small files and calls mincore at most.
const STACK: usize = 256 << 10;

/// No shorter interval: the thread would only disturb what it watches.
const SHORTEST: Duration = Duration::from_millis(1);

/// Counting the cached pages of a file may take this share of the time, and no more: 1 / 20.
const CACHE_SHARE: u32 = 20;

impl Sampler {
    /// Starts to look every `interval`, also at the page cache of `file` where one is given; at that less often
    /// when counting takes more than a twentieth of the time.
    ///
    /// Errors: `Io` when the system has no more threads.
    pub fn start(interval: Duration, file: Option<File>) -> Result<Sampler> {
        let stop = Arc::new(Stop::default());
        let seen = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("sampler".into())
            .stack_size(STACK)
            .spawn(move || watch(interval.max(SHORTEST), file.as_ref(), &seen))
            .map_err(|e| Error::io("thread of the sampler", &e))?;
        let thread = Some(thread);
        Ok(Sampler { stop, thread })
    }

    /// Takes a last look and returns the peaks.
    pub fn stop(mut self) -> Peaks {
        self.end().unwrap_or_default()
    }

    fn end(&mut self) -> Option<Peaks> {
        let thread = self.thread.take()?;
        *self
            .stop
            .wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.changed.notify_all();
        thread.join().ok()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.end();
    }
}

impl Stop {
    /// Waits for `interval` or the end; whether it is the end.
    fn wait(&self, interval: Duration) -> bool {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(wanted, interval, |wanted| !*wanted);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn watch(interval: Duration, file: Option<&File>, stop: &Stop) -> Peaks {
    let mut peaks = Peaks::default();
    let mut cache_due = Instant::now();
    let mut stopping = false;
    loop {
        let process = Process::now();
        peaks.n_samples += 1;
        peaks.rss_bytes = peaks.rss_bytes.max(process.rss_bytes);
        peaks.locked_bytes = peaks.locked_bytes.max(process.locked_bytes);
        peaks.system_used_bytes = peaks.system_used_bytes.max(System::now().used_bytes);
        let begun = Instant::now();
        if let Some(file) = file.filter(|_| stopping || begun >= cache_due) {
            peaks.cached_bytes = peaks.cached_bytes.max(cached_bytes(file));
            cache_due = begun + begun.elapsed() * CACHE_SHARE;
        }
        if stopping {
            return peaks;
        }
        stopping = stop.wait(interval);
    }
}
