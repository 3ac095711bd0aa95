//! What a supply did: counters that only grow.

use std::ops::{AddAssign, Sub};

/// Counters of one supply; the difference of two is what happened between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Selections of an expert by a layer of one chunk: `hits + misses`.
    pub touches: u64,
    /// Experts that were resident when their layer chose them.
    pub hits: u64,
    /// Experts that had to be read; a read that was begun ahead counts too.
    pub misses: u64,
    /// Misses whose read had begun ahead.
    pub ahead_used: u64,
    /// Reads ahead that were not needed, those that were cancelled before they began too.
    pub ahead_wasted: u64,
    /// Resident experts given up.
    pub evictions: u64,
    /// Experts whose read was asked for: `misses + ahead_wasted`, as long as layers end without error or cancel.
    pub experts_read: u64,
    /// Calls of the operating system.
    pub reads: u64,
    /// Bytes of these, whole pages where the file asks for them.
    pub read_bytes: u64,
    /// Nanoseconds that a layer waited.
    pub stall_ns: u64,
}

impl Sub for Stats {
    type Output = Stats;

    fn sub(self, before: Stats) -> Stats {
        Stats {
            touches: self.touches - before.touches,
            hits: self.hits - before.hits,
            misses: self.misses - before.misses,
            ahead_used: self.ahead_used - before.ahead_used,
            ahead_wasted: self.ahead_wasted - before.ahead_wasted,
            evictions: self.evictions - before.evictions,
            experts_read: self.experts_read - before.experts_read,
            reads: self.reads - before.reads,
            read_bytes: self.read_bytes - before.read_bytes,
            stall_ns: self.stall_ns - before.stall_ns,
        }
    }
}

impl AddAssign for Stats {
    fn add_assign(&mut self, other: Stats) {
        self.touches += other.touches;
        self.hits += other.hits;
        self.misses += other.misses;
        self.ahead_used += other.ahead_used;
        self.ahead_wasted += other.ahead_wasted;
        self.evictions += other.evictions;
        self.experts_read += other.experts_read;
        self.reads += other.reads;
        self.read_bytes += other.read_bytes;
        self.stall_ns += other.stall_ns;
    }
}
