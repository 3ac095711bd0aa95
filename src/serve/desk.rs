//! Where questions wait for the engine: in the order in which they came, and no more than a few.
//!
//! ```text
//! API thread: enter(Ask) --> line --> next(): engine thread
//!             Ticket  <---- parts ---- Work
//! ```
//!
//! An asker that drops its ticket has left: what waits is forgotten, what is being answered is cancelled. A desk that is closed says
//! why: that is the health of the server.

use super::ask::{Ask, Part};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The queue of questions.
pub struct Desk {
    line: Mutex<Line>,
    /// A question came.
    bell: Condvar,
    /// Questions that may wait.
    most: usize,
    /// What is being answered is to end.
    cut: Arc<AtomicBool>,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Work>,
    /// Why nothing more is taken, and since when.
    closed: Option<(String, Instant)>,
    pace: Pace,
}

/// How long answers take.
#[derive(Default)]
struct Pace {
    /// When the last one was begun, if it is not ended.
    began: Option<Instant>,
    /// Answers that the mean is made of, at most [`Pace::MOST`].
    n: u32,
    /// A mean in which later answers count more.
    mean: Duration,
}

impl Pace {
    /// The mean forgets an answer after about so many.
    const MOST: u32 = 8;

    /// The one that was begun ended after `took`.
    fn end(&mut self, took: Duration) {
        self.began = None;
        self.n = (self.n + 1).min(Pace::MOST);
        self.mean = (self.mean * (self.n - 1) + took) / self.n;
    }

    /// Seconds until `n` answers are given, from 1 to 600.
    fn seconds(&self, n: usize) -> u64 {
        let mean = match (self.n, self.began) {
            // The first tells at least how long it took so far.
            (0, Some(began)) => began.elapsed(),
            _ => self.mean,
        };
        // A float beyond the range becomes the largest number.
        let all = (mean.as_secs_f64() * n as f64).ceil() as u64;
        all.clamp(1, 600)
    }
}

/// Why a question was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too many wait already.
    Full {
        /// How many.
        waiting: usize,
        /// Seconds after which they will be answered, if they take as long as those before.
        seconds: u64,
    },
    /// Nothing is answered any more, and why.
    Closed(String),
}

/// A question for the engine, and the way back.
pub struct Work {
    /// The question.
    pub ask: Ask,
    parts: Sender<Part>,
    left: Arc<AtomicBool>,
    cut: Arc<AtomicBool>,
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
    /// Nothing any more: the engine dropped the question without a last part; [`Desk::closed`] tells why.
    Gone,
}

impl Desk {
    /// A desk at which `most` questions may wait, besides the one in work.
    pub fn new(most: usize) -> Desk {
        Desk {
            line: Mutex::default(),
            bell: Condvar::new(),
            most,
            cut: Arc::default(),
        }
    }

    /// Puts a question at the end of the queue.
    ///
    /// Errors: why it was not taken.
    pub fn enter(&self, ask: Ask) -> Result<Ticket, Refused> {
        let (parts, answer) = channel();
        let left = Arc::new(AtomicBool::new(false));
        let mut line = self.line();
        line.waiting.retain(|work| !work.has_left());
        if let Some((why, _)) = &line.closed {
            return Err(Refused::Closed(why.clone()));
        }
        let waiting = line.waiting.len();
        if waiting >= self.most {
            let seconds = line.pace.seconds(waiting + 1);
            return Err(Refused::Full { waiting, seconds });
        }
        line.waiting.push_back(Work {
            ask,
            parts,
            left: left.clone(),
            cut: self.cut.clone(),
        });
        self.bell.notify_one();
        Ok(Ticket {
            parts: answer,
            left,
        })
    }

    /// The question at the head of the queue, waited for up to `time`; askers that have left are passed over. To be followed by
    /// [`Desk::ended`].
    pub fn next(&self, time: Duration) -> Option<Work> {
        let nobody = |line: &mut Line| {
            line.waiting.retain(|work| !work.has_left());
            line.waiting.is_empty()
        };
        let waited = self.bell.wait_timeout_while(self.line(), time, nobody);
        let (mut line, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let work = line.waiting.pop_front()?;
        line.pace.began = Some(Instant::now());
        Some(work)
    }

    /// The question that was given out last is done with.
    pub fn ended(&self) {
        let mut line = self.line();
        if let Some(began) = line.pace.began {
            line.pace.end(began.elapsed());
        }
    }

    /// Questions that wait.
    pub fn n_waiting(&self) -> usize {
        let line = self.line();
        line.waiting.iter().filter(|work| !work.has_left()).count()
    }

    /// Takes no more questions and drops those that wait; the first reason stays.
    pub fn close(&self, why: &str) {
        let mut line = self.line();
        line.closed.get_or_insert((why.into(), Instant::now()));
        line.waiting.clear();
    }

    /// Has what is being answered end.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Why nothing is answered any more, and for how long, if it was closed.
    pub fn closed(&self) -> Option<(String, Duration)> {
        let line = self.line();
        let closed = line.closed.as_ref();
        closed.map(|(why, since)| (why.clone(), since.elapsed()))
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

    /// Whether the asker has left, or the desk has it end.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed) || self.cut.load(Ordering::Relaxed)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_told_by_the_pace_of_the_last_answers() {
        let mut pace = Pace::default();
        assert_eq!(pace.seconds(9), 1);
        pace.began = Instant::now().checked_sub(Duration::from_millis(2100));
        assert_eq!(pace.seconds(2), 5);
        pace.end(Duration::from_secs(3));
        assert_eq!((pace.seconds(1), pace.seconds(4)), (3, 12));
        pace.end(Duration::from_secs(6));
        assert_eq!(pace.seconds(4), 18);
        assert_eq!(pace.seconds(usize::MAX), 600);
        // The mean of many is near the last ones.
        (0..50).for_each(|_| pace.end(Duration::from_millis(100)));
        assert_eq!((pace.seconds(1), pace.seconds(65)), (1, 7));
    }
}
