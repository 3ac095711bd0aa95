//! A line on the terminal for long work; nothing on a pipe.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Work shorter than this shows nothing; then the line is written anew this often.
const STEP: Duration = Duration::from_millis(200);

/// One piece of work.
pub struct Progress {
    what: &'static str,
    unit: &'static str,
    start: Instant,
    last: Instant,
    visible: bool,
    written: bool,
}

impl Progress {
    /// Starts the clock. `unit` names what is counted.
    pub fn new(what: &'static str, unit: &'static str, quiet: bool) -> Progress {
        let now = Instant::now();
        let visible = !quiet && std::io::stderr().is_terminal();
        Progress {
            what,
            unit,
            start: now,
            last: now,
            visible,
            written: false,
        }
    }

    /// `done` of `all`.
    pub fn show(&mut self, done: usize, all: usize) {
        if !self.visible || self.last.elapsed() < STEP {
            return;
        }
        self.last = Instant::now();
        self.written = true;
        let rate = done as f64 / self.start.elapsed().as_secs_f64();
        let left = if rate > 0.0 {
            all.saturating_sub(done) as f64 / rate
        } else {
            f64::INFINITY
        };
        let (what, unit) = (self.what, self.unit);
        // A terminal that went away is noticed by what is written to stdout.
        let _ = write!(
            std::io::stderr(),
            "\r\x1b[K{what}: {done} of {all} {unit}, {rate:.0} {unit}/s, {left:.0} s left"
        );
    }

    /// Removes the line.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.written) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
