//! Where questions wait for the engine: in the order in which they came, and no more than a few.
//!
//! ```text
//! API thread: enter(Ask) --> line --> next(): engine thread
//!             Ticket  <---- parts ---- Work
//! ```
//!
//! Whoever drops its ticket has left: what waits is forgotten, what is being answered is cancelled.

use super::ask::{Ask, Part};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The line of questions.
pub struct Desk {
    line: Mutex<Line>,
    /// A question came, or the desk was closed.
    bell: Condvar,
    /// Questions that may wait.
    most: usize,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Work>,
    closed: bool,
}

/// Why a question was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// This many wait already.
    Full(usize),
    /// The server ends.
    Closed,
}

/// A question for the engine, and the way back.
pub struct Work {
    /// The question.
    pub ask: Ask,
    parts: Sender<Part>,
    left: Arc<AtomicBool>,
}

/// The asker's side of a question.
pub struct Ticket {
    parts: Receiver<Part>,
    left: Arc<AtomicBool>,
}

/// What came within some time.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// A part of the answer.
    Part(Part),
    /// Nothing yet.
    Nothing,
    /// Nothing any more: the engine dropped the question without a last part, because the server ends.
    Gone,
}

impl Desk {
    /// A desk at which `most` questions may wait, besides the one in work.
    pub fn new(most: usize) -> Desk {
        Desk {
            line: Mutex::default(),
            bell: Condvar::new(),
            most,
        }
    }

    /// Puts a question at the end of the line.
    ///
    /// Errors: why it was not taken.
    pub fn enter(&self, ask: Ask) -> Result<Ticket, Refused> {
        let (parts, answer) = channel();
        let left = Arc::new(AtomicBool::new(false));
        let mut line = self.line();
        line.waiting.retain(|work| !work.has_left());
        if line.closed {
            return Err(Refused::Closed);
        }
        if line.waiting.len() >= self.most {
            return Err(Refused::Full(line.waiting.len()));
        }
        line.waiting.push_back(Work {
            ask,
            parts,
            left: left.clone(),
        });
        self.bell.notify_one();
        Ok(Ticket {
            parts: answer,
            left,
        })
    }

    /// The question at the head of the line, waited for up to `time`; askers that have left are passed over.
    pub fn next(&self, time: Duration) -> Option<Work> {
        let nobody = |line: &mut Line| {
            line.waiting.retain(|work| !work.has_left());
            line.waiting.is_empty() && !line.closed
        };
        let waited = self.bell.wait_timeout_while(self.line(), time, nobody);
        let (mut line, _) = waited.unwrap_or_else(PoisonError::into_inner);
        line.waiting.pop_front()
    }

    /// Questions that wait.
    pub fn n_waiting(&self) -> usize {
        let line = self.line();
        line.waiting.iter().filter(|work| !work.has_left()).count()
    }

    /// Takes no more questions and drops those that wait.
    pub fn close(&self) {
        let mut line = self.line();
        line.closed = true;
        line.waiting.clear();
        self.bell.notify_all();
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // No one panics while holding it half changed.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    /// Gives a part of the answer; false when nobody waits for it any more.
    pub fn give(&self, part: Part) -> bool {
        self.parts.send(part).is_ok() && !self.has_left()
    }

    /// Whether the asker has left.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }
}

impl Ticket {
    /// The next part, waited for up to `time`.
    pub fn next(&self, time: Duration) -> Next {
        match self.parts.recv_timeout(time) {
            Ok(part) => Next::Part(part),
            Err(RecvTimeoutError::Timeout) => Next::Nothing,
            Err(RecvTimeoutError::Disconnected) => Next::Gone,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.left.store(true, Ordering::Relaxed);
    }
}
