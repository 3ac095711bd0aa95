//! What the system says of the server's memory, asked no more often than it is cheap.

use crate::engine::FileSet;
use crate::engine::meter::{Process, cached_bytes_of};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Looking at the page cache may take this part of the time, and no more: 1 / 20.
const SHARE: u32 = 20;

/// A look that was cheap is good for this long.
const SHORTEST: Duration = Duration::from_millis(200);

/// Looks at memory.
pub struct Memory {
    model: FileSet,
    cached: Mutex<Look>,
}

struct Look {
    bytes: Option<u64>,
    /// Not again before.
    next: Instant,
}

impl Memory {
    /// For the files of the model.
    pub fn new(model: FileSet) -> Memory {
        let cached = Mutex::new(Look {
            bytes: None,
            next: Instant::now(),
        });
        Memory { model, cached }
    }

    /// Bytes of this process in memory.
    pub fn resident(&self) -> Option<u64> {
        Process::now().rss_bytes
    }

    /// Bytes of the model's files in the page cache, some time ago.
    pub fn model_cached(&self) -> Option<u64> {
        let mut look = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now >= look.next {
            look.bytes = cached_bytes_of(&self.model);
            look.next = Instant::now() + (now.elapsed() * SHARE).max(SHORTEST);
        }
        look.bytes
    }
}
