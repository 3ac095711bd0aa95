//! How a device answers reads: sizes of an expert's parts and wholes, in order and at random places, by one thread or
//! many, past the page cache and through it.
//!
//! A queue depth of N is N threads with one blocking read each, as the engine's readers work. What goes through the page
//! cache begins with nothing of the file in it, and reads no more than the file holds, so that storage is what is
//! measured.

use crate::error::{Error, Result};
use crate::os::meter::{cached_bytes, drop_cached};
use crate::os::{AlignedBuf, DirectFile, File, ReadAt};
use crate::rng::Rng;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a read: a small one, a matrix of an expert in q2, such an expert, an expert in q4.
pub const SIZES: [usize; 4] = [64 << 10, 9 << 18, 27 << 18, 27 << 19];

/// Reads at a time.
pub const DEPTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// Reads of a cell whose times are kept; then it ends early.
const MOST_READS: u64 = 1 << 18;

/// The size and the share of the best speed that the advice looks at.
const ADVICE: (usize, f64) = (SIZES[1], 0.95);

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
    /// Bytes of the file in the page cache before, if the system tells; a direct read may take them from there.
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
        let fit = SIZES.into_iter().filter(|size| self.fits(*size));
        fit.max().unwrap_or(0)
    }

    fn fits(&self, size: usize) -> bool {
        size as u64 <= self.file_bytes()
    }

    /// Why a cell cannot be measured, if so.
    pub fn skipped(&self, cell: &Cell) -> Option<String> {
        if !self.fits(cell.size) {
            let bytes = self.file_bytes();
            return Some(format!("the file has {bytes} bytes only"));
        }
        self.no_direct().filter(|_| cell.way == Way::Direct)
    }

    /// Why the file cannot be read past the page cache, if so.
    pub fn no_direct(&self) -> Option<String> {
        let why = self.direct.refused_because()?;
        Some(format!("direct reads are impossible: {why}"))
    }

    /// Reads for this long, and at least once a reader. The cell must not be one of the [`Device::skipped`].
    ///
    /// Errors: a failed read; memory is refused.
    pub fn measure(&mut self, cell: &Cell, time: Duration) -> Result<Measured> {
        let largest = self.largest();
        while self.buffers.len() < cell.depth {
            let mut buffer = AlignedBuf::zeroed(largest)?;
            buffer.as_mut_slice().fill(1); // memory is there only from its first write on
            self.buffers.push(buffer);
        }
        let cached_before = match cell.way {
            Way::Direct => cached_bytes(&self.buffered),
            Way::Buffered => drop_cached(&self.buffered),
        };
        let file: &dyn ReadAt = match cell.way {
            Way::Direct => &self.direct,
            Way::Buffered => &self.buffered,
        };
        let places = Places::new(file, cell);
        let most = match cell.way {
            Way::Direct => MOST_READS,
            Way::Buffered => places.n_sequential.min(MOST_READS),
        };
        let next = AtomicU64::new(0);
        let start = Barrier::new(cell.depth);
        let read = |buffer: &mut AlignedBuf| -> Result<Reader> {
            let mut reader = Reader::default();
            start.wait();
            let begun = Instant::now();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let is_first = reader.latencies.is_empty();
                if !is_first && (i >= most || begun.elapsed() >= time) {
                    break;
                }
                let clock = Instant::now();
                let window = &mut buffer.as_mut_slice()[..cell.size];
                file.read_window(places.at(i), window, cell.size)?;
                reader.latencies.push(clock.elapsed());
            }
            reader.time = begun.elapsed();
            Ok(reader)
        };
        let readers: Result<Vec<Reader>> = std::thread::scope(|scope| {
            let buffers = self.buffers[..cell.depth].iter_mut();
            let threads = buffers.map(|buffer| scope.spawn(|| read(buffer)));
            let threads: Vec<_> = threads.collect();
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
    time: Duration,
}

/// Where the reads of a cell are.
struct Places {
    cell: Cell,
    /// Reads beside each other that the file holds.
    n_sequential: u64,
    /// Places where one can begin, this far from each other.
    n_random: u64,
    step: u64,
}

impl Places {
    fn new(file: &dyn ReadAt, cell: &Cell) -> Places {
        let (size, step) = (cell.size as u64, file.alignment() as u64);
        Places {
            cell: *cell,
            n_sequential: file.len() / size,
            n_random: (file.len() - size) / step + 1,
            step,
        }
    }

    /// Of the i-th read; the same in every run.
    fn at(&self, i: u64) -> u64 {
        match self.cell.order {
            Order::Sequential => i % self.n_sequential * self.cell.size as u64,
            Order::Random => {
                let mut rng = Rng::new(i.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 1);
                rng.next_u64();
                rng.below(self.n_random as usize) as u64 * self.step
            }
        }
    }
}

/// The least depth at which random reads of an expert's matrix, or of the largest piece measured below that, come almost
/// as fast as at the best: the readers that the engine should have on this file, and which way they were measured.
pub fn advice(measured: &[(Cell, Measured)]) -> Option<(usize, Cell)> {
    let random = measured
        .iter()
        .filter(|(cell, _)| cell.order == Order::Random);
    let usable = random.filter(|(cell, _)| cell.size <= ADVICE.0);
    let usable: Vec<&(Cell, Measured)> = usable.collect();
    // Ways and sizes in the order of `cells`: direct first, large last.
    let way = usable.first()?.0.way;
    let of_way = usable.iter().filter(|(cell, _)| cell.way == way);
    let size = of_way.clone().map(|(cell, _)| cell.size).max()?;
    let mut alike: Vec<_> = of_way.filter(|(cell, _)| cell.size == size).collect();
    alike.sort_by_key(|(cell, _)| cell.depth);
    let best = alike.iter().map(|(_, m)| m.gb_per_s()).fold(0.0, f64::max);
    let found = alike
        .iter()
        .find(|(_, m)| m.gb_per_s() >= best * ADVICE.1)?;
    Some((found.0.depth, found.0))
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
    fn places_lie_in_the_file_and_reach_its_end() {
        let file = crate::os::MemFile::new("m", vec![0; 10 * 4096 + 17]);
        for order in [Order::Sequential, Order::Random] {
            let places = Places::new(&file, &cell(order, 3 * 4096, 1));
            let all: Vec<u64> = (0..20_000).map(|i| places.at(i)).collect();
            let last = 10 * 4096 + 17 - 3 * 4096;
            assert!(all.iter().all(|at| *at <= last));
            if order == Order::Sequential {
                assert_eq!(all[..4], [0, 12_288, 24_576, 0]);
            } else {
                // Evenly spread: each quarter has about a quarter.
                let low = all.iter().filter(|at| **at < last / 4).count();
                assert!((4_500..5_500).contains(&low), "{low}");
                assert!(all.iter().any(|at| *at > last - 20));
            }
        }
    }

    #[test]
    fn advice_is_the_least_depth_that_is_almost_the_best() {
        let measured = |order, size, depth, bytes| {
            let m = Measured {
                n_reads: 1,
                bytes,
                time: Duration::from_secs(1),
                latency: [Duration::ZERO; 3],
                cached_before: None,
            };
            (cell(order, size, depth), m)
        };
        let of = |speeds: &[(usize, u64)]| {
            let speeds = speeds.iter();
            let rows =
                speeds.map(|(depth, bytes)| measured(Order::Random, SIZES[1], *depth, *bytes));
            // What must not count: other orders and larger reads.
            let other = [
                measured(Order::Sequential, SIZES[1], 1, 9_000),
                measured(Order::Random, SIZES[2], 1, 9_000),
            ];
            let all: Vec<_> = rows.chain(other).collect();
            advice(&all).map(|(depth, _)| depth)
        };
        assert_eq!(of(&[(1, 500), (2, 940), (4, 950), (8, 1_000)]), Some(4));
        assert_eq!(of(&[(1, 1_000), (2, 900)]), Some(1));
        assert!(advice(&[]).is_none());
    }
}
