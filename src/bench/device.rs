//! How a device answers reads: sizes of an expert's parts and wholes, in order and at random places, by one thread or
//! many, past the page cache and through it.
//!
//! A queue depth of N is N threads with one blocking read each, as the engine's readers work. Nothing of the file is in
//! the page cache when a cell begins, or the cell says how much; and what goes through the page cache reads no piece
//! twice, so that storage is what is measured.

use crate::error::{Error, Result};
use crate::os::meter::drop_cached;
use crate::os::{AlignedBuf, DirectFile, File, ReadAt};
use crate::rng::Rng;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// Bytes of a read: a small one, a matrix of an expert in q2, such an expert, an expert in q4.
pub const SIZES: [usize; 4] = [64 << 10, 9 << 18, 27 << 18, 27 << 19];

/// Reads at a time.
pub const DEPTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// Reads of a cell, whose places and times are kept; then it ends early.
const MOST_READS: u64 = 1 << 18;

/// The largest piece that the advice looks at: a matrix of an expert in q2.
const ADVISED: usize = SIZES[1];

/// How often the cells that decide the advice are measured, in turn: one time says nothing of how times differ.
pub const ROUNDS: usize = 3;

/// Where the next read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Behind the last.
    Sequential,
    /// Anywhere.
    Random,
}

/// Which way the bytes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Past the page cache.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// Which reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Which way.
    pub way: Way,
    /// Where.
    pub order: Order,
    /// Bytes of one.
    pub size: usize,
    /// At a time.
    pub depth: usize,
}

/// What came of them.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Reads.
    pub n_reads: u64,
    /// Bytes of all.
    pub bytes: u64,
    /// Wall clock for all.
    pub time: Duration,
    /// Of one read: 50, 95 and 99 of 100 took no longer.
    pub latency: [Duration; 3],
    /// Bytes of the file that could not be dropped from the page cache before, if the system tells.
    pub cached_before: Option<u64>,
}

impl Measured {
    /// 10^9 bytes a second.
    pub fn gb_per_s(&self) -> f64 {
        self.bytes as f64 / self.time.as_nanos().max(1) as f64
    }
}

/// A file to be probed.
pub struct Device {
    buffered: File,
    direct: DirectFile,
    /// One for each reader, as large as the largest read that the file holds.
    buffers: Vec<AlignedBuf>,
}

/// All cells in the order in which they are measured.
pub fn cells() -> impl Iterator<Item = Cell> {
    let ways = [Way::Direct, Way::Buffered].into_iter();
    let orders = |way| [Order::Sequential, Order::Random].map(|order| (way, order));
    let sizes = |(way, order)| SIZES.map(|size| (way, order, size));
    let depths = |(way, order, size)| {
        DEPTHS.map(|depth| Cell {
            way,
            order,
            size,
            depth,
        })
    };
    ways.flat_map(orders).flat_map(sizes).flat_map(depths)
}

impl Device {
    /// Opens a file.
    ///
    /// Errors: as [`File::open`]; an empty file.
    pub fn open(path: &Path) -> Result<Device> {
        let (buffered, direct) = (File::open(path)?, DirectFile::open(path)?);
        buffered.check_same(direct.file())?;
        if buffered.is_empty() {
            return Err(
                Error::format("found an empty file, expected something to read")
                    .context(path.display()),
            );
        }
        Ok(Device {
            buffered,
            direct,
            buffers: Vec::new(),
        })
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.buffered.len()
    }

    /// Bytes of memory that all cells together need at a time.
    pub fn memory_bytes(&self) -> u64 {
        (self.largest() * DEPTHS[DEPTHS.len() - 1]) as u64
    }

    fn largest(&self) -> usize {
        let bytes = self.file_bytes();
        let fit = SIZES.into_iter().filter(|size| *size as u64 <= bytes);
        fit.max().unwrap_or(0)
    }

    /// Why a cell cannot be measured, if so.
    pub fn skipped(&self, cell: &Cell) -> Option<String> {
        let (bytes, pieces) = (self.file_bytes(), self.file_bytes() / cell.size as u64);
        match cell.way {
            _ if pieces == 0 => Some(format!("the file has {bytes} bytes only")),
            Way::Direct => self.no_direct(),
            Way::Buffered => (pieces < cell.depth as u64).then(|| {
                format!("more than {pieces} at a time would read a piece twice, then from the page cache")
            }),
        }
    }

    /// Why the file cannot be read past the page cache, if so.
    pub fn no_direct(&self) -> Option<String> {
        let why = self.direct.refused_because()?;
        Some(format!("direct reads are impossible: {why}"))
    }

    /// Reads for this long, and at least once a reader. The cell must not be one of the [`Device::skipped`].
    ///
    /// Errors: a failed read; memory or a thread is refused.
    pub fn measure(&mut self, cell: &Cell, time: Duration) -> Result<Measured> {
        let largest = self.largest();
        while self.buffers.len() < cell.depth {
            let mut buffer = AlignedBuf::zeroed(largest)?;
            buffer.as_mut_slice().fill(1); // memory is there only from its first write on
            self.buffers.push(buffer);
        }
        let cached_before = drop_cached(&self.buffered);
        let file: &dyn ReadAt = match cell.way {
            Way::Direct => &self.direct,
            Way::Buffered => &self.buffered,
        };
        let places = places(file.len(), cell);
        let most = match cell.way {
            Way::Direct => MOST_READS as usize,
            Way::Buffered => places.len(),
        };
        let next = AtomicUsize::new(cell.depth);
        // Closed until all readers are there. It opens with the time, or with none if one could not be started.
        let gate: RwLock<Option<Instant>> = RwLock::new(None);
        let read = |id: usize, buffer: &mut AlignedBuf| -> Result<Reader> {
            let mut reader = Reader::default();
            let Some(begun) = *gate.read().unwrap_or_else(PoisonError::into_inner) else {
                return Ok(reader);
            };
            let mut i = id;
            loop {
                let clock = Instant::now();
                let window = &mut buffer.as_mut_slice()[..cell.size];
                file.read_window(places[i % places.len()], window, cell.size)?;
                reader.latencies.push(clock.elapsed());
                reader.time = begun.elapsed();
                i = next.fetch_add(1, Ordering::Relaxed);
                if i >= most || reader.time >= time {
                    return Ok(reader);
                }
            }
        };
        let readers: Result<Vec<Reader>> = std::thread::scope(|scope| {
            let mut closed = gate.write().unwrap_or_else(PoisonError::into_inner);
            let mut threads = Vec::new();
            for (id, buffer) in self.buffers[..cell.depth].iter_mut().enumerate() {
                let read = &read;
                let thread = Builder::new().spawn_scoped(scope, move || read(id, buffer));
                let what = || format!("starting reader {id} of {}", cell.depth);
                threads.push(thread.map_err(|e| Error::io(what(), &e))?);
            }
            *closed = Some(Instant::now());
            drop(closed);
            let ended = threads.into_iter().map(|thread| thread.join());
            let fault = |_| Error::format("a reader ended without a word");
            ended.map(|result| result.map_err(fault)?).collect()
        });
        let readers = readers?;
        let time = readers.iter().map(|r| r.time).max().unwrap_or_default();
        let mut latencies: Vec<Duration> = readers.into_iter().flat_map(|r| r.latencies).collect();
        latencies.sort_unstable();
        let n_reads = latencies.len();
        let at = |part: usize| latencies[(n_reads * part).div_ceil(100).max(1) - 1];
        Ok(Measured {
            n_reads: n_reads as u64,
            bytes: (n_reads * cell.size) as u64,
            time,
            latency: [50, 95, 99].map(at),
            cached_before,
        })
    }
}

/// What one reader saw.
#[derive(Default)]
struct Reader {
    latencies: Vec<Duration>,
    /// From the beginning of all to the end of its last read.
    time: Duration,
}

/// Where the reads of a cell are in a file of `len` bytes, at least one: pieces that do not overlap, the same in every
/// run. Random ones are spread over the whole file where it holds more of them than [`MOST_READS`].
fn places(len: u64, cell: &Cell) -> Vec<u64> {
    let size = cell.size as u64;
    let pieces = len / size;
    let n = pieces.min(MOST_READS);
    let mut rng = Rng::new(1);
    let mut places: Vec<u64> = match cell.order {
        Order::Sequential => (0..n).collect(),
        // One of each n-th part of the file.
        Order::Random => (0..n)
            .map(|i| (i * pieces / n, (i + 1) * pieces / n))
            .map(|(from, to)| from + rng.below((to - from) as usize) as u64)
            .collect(),
    };
    if cell.order == Order::Random {
        // Fisher and Yates.
        for i in (1..places.len()).rev() {
            places.swap(i, rng.below(i + 1));
        }
    }
    for place in &mut places {
        *place *= size;
    }
    places
}

/// The cells that decide how many readers the engine should have: random reads of an expert's matrix, or of the largest
/// piece measured below that, past the page cache if that is possible. By depth.
pub fn deciding(measured: &[(Cell, Measured)]) -> Vec<Cell> {
    let cells = measured.iter().map(|(cell, _)| *cell);
    let random = cells.filter(|c| c.order == Order::Random && c.size <= ADVISED);
    let random: Vec<Cell> = random.collect();
    // In the order of `cells`: direct reads first, large ones last.
    let Some(way) = random.first().map(|cell| cell.way) else {
        return Vec::new();
    };
    let of_way = random.into_iter().filter(|cell| cell.way == way);
    let of_way: Vec<Cell> = of_way.collect();
    let size = of_way.last().map_or(0, |cell| cell.size);
    of_way.into_iter().filter(|c| c.size == size).collect()
}

/// A depth with the least, the median and the most GB/s that it reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reached {
    /// Which reads.
    pub cell: Cell,
    /// 10^9 bytes a second.
    pub gb_per_s: [f64; 3],
}

/// Of what the rounds of the [`deciding`] cells found: the least depth that one round at least was as fast at as a round
/// of the best depth, and that best depth, by the median. `None` of nothing.
pub fn advice(rounds: &[(Cell, f64)]) -> Option<(Reached, Reached)> {
    let mut depths: Vec<Reached> = Vec::new();
    for (cell, _) in rounds {
        if depths.iter().any(|reached| reached.cell == *cell) {
            continue;
        }
        let speeds = rounds.iter().filter(|(c, _)| c == cell).map(|(_, s)| *s);
        let mut speeds: Vec<f64> = speeds.collect();
        speeds.sort_by(f64::total_cmp);
        let last = speeds.len() - 1;
        let gb_per_s = [speeds[0], speeds[last / 2], speeds[last]];
        depths.push(Reached {
            cell: *cell,
            gb_per_s,
        });
    }
    depths.sort_by_key(|reached| reached.cell.depth);
    let by_median = |a: &&Reached, b: &&Reached| a.gb_per_s[1].total_cmp(&b.gb_per_s[1]);
    let best = *depths.iter().max_by(by_median)?;
    let least = depths.iter().find(|r| r.gb_per_s[2] >= best.gb_per_s[0])?;
    Some((*least, best))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(order: Order, size: usize, depth: usize) -> Cell {
        let way = Way::Direct;
        Cell {
            way,
            order,
            size,
            depth,
        }
    }

    #[test]
    fn all_cells_are_there_once() {
        let all: Vec<Cell> = cells().collect();
        assert_eq!(all.len(), 2 * 2 * 4 * 6);
        for (i, cell) in all.iter().enumerate() {
            assert!(!all[..i].contains(cell), "{cell:?}");
        }
    }

    #[test]
    fn places_are_pieces_of_the_file_and_none_comes_twice() {
        let small = 64 << 10;
        // Less than one piece more than 100 of them.
        let len = 100 * small as u64 + 17;
        let in_order: Vec<u64> = (0..100).map(|i| i * small as u64).collect();
        assert_eq!(places(len, &cell(Order::Sequential, small, 1)), in_order);
        let mut random = places(len, &cell(Order::Random, small, 1));
        // Neighbours in the file are neighbours in time about once.
        let beside = random.windows(2).filter(|w| w[0] + small as u64 == w[1]);
        assert!(beside.count() < 10, "{random:?}");
        random.sort_unstable();
        assert_eq!(random, in_order);
    }

    #[test]
    fn random_places_reach_all_parts_of_a_large_file() {
        let size = SIZES[0] as u64;
        let pieces = MOST_READS * 5 / 2;
        let mut random = places(pieces * size, &cell(Order::Random, SIZES[0], 1));
        assert_eq!(random.len() as u64, MOST_READS);
        random.sort_unstable();
        for (i, at) in random.iter().enumerate() {
            let part = (at / size + 1) * MOST_READS;
            // In its own part, so none twice: i * pieces <= place * MOST_READS < (i + 1) * pieces, but for rounding.
            assert!(
                part > i as u64 * pieces && part <= (i as u64 + 1) * pieces,
                "{i} {at}"
            );
            assert_eq!(at % size, 0);
        }
    }

    #[test]
    fn random_reads_of_a_matrix_decide() {
        let nothing = Measured {
            n_reads: 1,
            bytes: 1,
            time: Duration::from_secs(1),
            latency: [Duration::ZERO; 3],
            cached_before: None,
        };
        let measured = |fits: &dyn Fn(&Cell) -> bool| -> Vec<(Cell, Measured)> {
            cells().filter(fits).map(|c| (c, nothing)).collect()
        };
        let found = deciding(&measured(&|_| true));
        let expected = DEPTHS.map(|depth| cell(Order::Random, SIZES[1], depth));
        assert_eq!(found, expected);
        // A small file without direct reads.
        let found = deciding(&measured(&|c| c.way == Way::Buffered && c.size == SIZES[0]));
        assert_eq!(found.len(), DEPTHS.len());
        assert!(
            found
                .iter()
                .all(|c| c.way == Way::Buffered && c.size == SIZES[0])
        );
        assert!(deciding(&measured(&|c| c.size > SIZES[1])).is_empty());
    }

    #[test]
    fn advice_is_the_least_depth_whose_rounds_lie_among_those_of_the_best() {
        let of = |speeds: &[(usize, f64)]| {
            let rounds = speeds.iter();
            let rounds =
                rounds.map(|(depth, speed)| (cell(Order::Random, SIZES[1], *depth), *speed));
            let rounds: Vec<_> = rounds.collect();
            advice(&rounds).map(|(least, best)| (least.cell.depth, best.cell.depth))
        };
        let apart = [(1, 0.5), (2, 0.8), (4, 1.0), (1, 0.6), (2, 0.9), (4, 1.1)];
        assert_eq!(of(&apart), Some((4, 4)));
        // One round of 2 was as fast as the slowest of 4.
        let among = [(1, 0.5), (2, 0.8), (4, 1.0), (1, 0.6), (2, 1.0), (4, 1.1)];
        assert_eq!(of(&among), Some((2, 4)));
        assert_eq!(of(&[(1, 2.0), (2, 1.0), (1, 1.9), (2, 1.1)]), Some((1, 1)));
        assert_eq!(of(&[]), None);
    }
}
