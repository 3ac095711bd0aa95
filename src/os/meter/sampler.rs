//! A thread that looks at memory and reads in regular intervals.

use super::super::FileSet;
use super::{Process, System, Thinned, cached_bytes_of};
use crate::error::{Error, Result};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Since the start of the sampler.
    pub at: Duration,
    /// This process.
    pub process: Process,
    /// The machine.
    pub system: System,
    /// Bytes of the watched files in the page cache, when they were last counted.
    pub cached_bytes: Option<u64>,
}

/// What was seen between start and stop.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Looks taken, the first at the start and the last at the stop.
    pub n_samples: u64,
    /// The largest of each figure; `None` where none was seen.
    pub peaks: Sample,
    /// The looks, thinned out to [`SAMPLES`] at most, and the last one.
    pub samples: Vec<Sample>,
}

/// Looks that are kept: five minutes in intervals of 250 ms.
pub const SAMPLES: usize = 1200;

/// Looks at memory in regular intervals until it is stopped or dropped; what it keeps does not grow.
#[derive(Debug)]
pub struct Sampler {
    stop: Arc<Stop>,
    began: Instant,
    /// `None` once it has ended.
    thread: Option<JoinHandle<Watched>>,
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

/// Counting the cached pages of files may take this share of the time, and no more: 1 / 20.
const CACHE_SHARE: u32 = 20;

impl Sampler {
    /// Starts to look every `interval`, also at the page cache of `files` where they are given; at that less often
    /// when counting takes more than a twentieth of the time.
    ///
    /// Errors: `Io` when the system has no more threads.
    pub fn start(interval: Duration, files: Option<FileSet>) -> Result<Sampler> {
        let stop = Arc::new(Stop::default());
        let seen = Arc::clone(&stop);
        let began = Instant::now();
        let thread = std::thread::Builder::new()
            .name("sampler".into())
            .stack_size(STACK)
            .spawn(move || watch(began, interval.max(SHORTEST), files.as_ref(), &seen))
            .map_err(|e| Error::io("thread of the sampler", &e))?;
        let thread = Some(thread);
        Ok(Sampler {
            stop,
            began,
            thread,
        })
    }

    /// When [`Sample::at`] is 0.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Takes a last look and returns what was seen.
    pub fn stop(mut self) -> Watched {
        self.end().unwrap_or_default()
    }

    fn end(&mut self) -> Option<Watched> {
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

fn watch(began: Instant, interval: Duration, files: Option<&FileSet>, stop: &Stop) -> Watched {
    let mut watched = Watched::default();
    let mut samples = Thinned::new(SAMPLES);
    let mut cache_due = began;
    let mut cached = None;
    let mut stopping = false;
    loop {
        let (process, system) = (Process::now(), System::now());
        let begun = Instant::now();
        if let Some(files) = files.filter(|_| stopping || begun >= cache_due) {
            cached = cached_bytes_of(files);
            cache_due = begun + begun.elapsed() * CACHE_SHARE;
        }
        let sample = Sample {
            at: begun - began,
            process,
            system,
            cached_bytes: cached,
        };
        watched.n_samples += 1;
        watched.peaks = Sample {
            at: sample.at,
            process: watched.peaks.process.max(process),
            system: watched.peaks.system.max(system),
            cached_bytes: watched.peaks.cached_bytes.max(cached),
        };
        if stopping {
            watched.samples = samples.into_items();
            watched.samples.push(sample);
            return watched;
        }
        samples.push(sample);
        stopping = stop.wait(interval);
    }
}
