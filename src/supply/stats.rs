//! What a supply did: counters that only grow.

use crate::units::{LayerId, Phase};
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
    /// Nanoseconds in which at least one read ran, whether somebody waited for it or not.
    pub read_ns: u64,
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
            read_ns: self.read_ns - before.read_ns,
            stall_ns: self.stall_ns - before.stall_ns,
        }
    }
}

impl AddAssign for Stats {
    fn add_assign(&mut self, more: Stats) {
        self.touches += more.touches;
        self.hits += more.hits;
        self.misses += more.misses;
        self.ahead_used += more.ahead_used;
        self.ahead_wasted += more.ahead_wasted;
        self.evictions += more.evictions;
        self.experts_read += more.experts_read;
        self.reads += more.reads;
        self.read_bytes += more.read_bytes;
        self.read_ns += more.read_ns;
        self.stall_ns += more.stall_ns;
    }
}

/// What became of one expert so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpertUse {
    /// As [`Stats::touches`].
    pub touches: u64,
    /// As [`Stats::hits`].
    pub hits: u64,
    /// Whether it can be read now without a wait.
    pub resident: bool,
}

/// Counters by layer and phase.
///
/// What happens belongs to the layer in work at that time: a read ahead is asked for (`experts_read`) in an earlier
/// layer than the one it is for, and its `reads` and `read_bytes` count where they were finished. What comes before
/// the first layer counts there, what comes after the last or after a fault, in the layer that was last in work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsTable {
    /// By layer, then by phase.
    cells: Vec<[Stats; 2]>,
}

impl StatsTable {
    /// Zeros.
    pub fn new(n_layer: usize) -> StatsTable {
        StatsTable {
            cells: vec![Default::default(); n_layer],
        }
    }

    /// Rows.
    pub fn n_layer(&self) -> usize {
        self.cells.len()
    }

    /// One layer in one phase.
    pub fn cell(&self, layer: LayerId, phase: Phase) -> Stats {
        self.cells[layer.0][phase as usize]
    }

    /// All layers in one phase.
    pub fn phase(&self, phase: Phase) -> Stats {
        let mut sum = Stats::default();
        self.cells.iter().for_each(|row| sum += row[phase as usize]);
        sum
    }

    /// All of it.
    pub fn total(&self) -> Stats {
        let mut sum = Stats::default();
        Phase::ALL.iter().for_each(|p| sum += self.phase(*p));
        sum
    }
}

/// The difference of two tables of the same supply.
impl Sub for &StatsTable {
    type Output = StatsTable;

    fn sub(self, before: &StatsTable) -> StatsTable {
        assert_eq!(self.n_layer(), before.n_layer(), "tables of one model");
        let rows = self.cells.iter().zip(&before.cells);
        StatsTable {
            cells: rows.map(|(a, b)| [a[0] - b[0], a[1] - b[1]]).collect(),
        }
    }
}

/// Sorts growing counters into a table: each look adds what came since the last.
pub struct StatsMeter {
    table: StatsTable,
    seen: Stats,
    at: (LayerId, Phase),
}

impl StatsMeter {
    /// Begins with a table of zeros and counters of 0.
    pub fn new(n_layer: usize) -> StatsMeter {
        StatsMeter {
            table: StatsTable::new(n_layer),
            seen: Stats::default(),
            at: (LayerId(0), Phase::Prefill),
        }
    }

    /// The counters are `now`; what they grow by from here on belongs to this layer and phase.
    pub fn enter(&mut self, layer: LayerId, phase: Phase, now: Stats) {
        self.look(now);
        self.at = (layer, phase);
    }

    /// The counters are `now`.
    pub fn look(&mut self, now: Stats) {
        let (layer, phase) = self.at;
        self.table.cells[layer.0][phase as usize] += now - self.seen;
        self.seen = now;
    }

    /// What was sorted up to the last look.
    pub fn table(&self) -> &StatsTable {
        &self.table
    }
}
