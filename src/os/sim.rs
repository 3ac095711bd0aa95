//! A file with faults made to order, for tests: slow, in pieces, refusing, cut short.

use super::ReadAt;
use super::file::short_read;
use crate::error::{Error, Result};
use crate::rng::Rng;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the buffer of a read holds until the bytes come, so that a look too early is seen.
const POISON: u8 = 0xA5;

/// Another file read through a [`Sim`]'s whims.
///
/// Each read overwrites its whole buffer first, then brings the bytes in pieces, with waits between. A caller that
/// looks before the read is over sees wrong bytes; one that waits sees no difference.
pub struct SimFile {
    file: Box<dyn ReadAt>,
    sim: Sim,
    state: Mutex<State>,
}

/// How a [`SimFile`] behaves.
#[derive(Clone, Copy, Debug)]
pub struct Sim {
    /// Decides all waits and pieces. With several readers they come in the order of their calls.
    pub seed: u64,
    /// Wait before each piece at most, in microseconds.
    pub wait_us: u64,
    /// Pieces of a read at most.
    pub pieces: usize,
    /// What [`ReadAt::alignment`] says, and what reads are held to; a multiple of the file's own.
    pub alignment: usize,
}

impl Default for Sim {
    /// No waits, whole reads, any alignment.
    fn default() -> Sim {
        Sim {
            seed: 0,
            wait_us: 0,
            pieces: 1,
            alignment: 1,
        }
    }
}

/// A call of [`ReadAt::read_window`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimRead {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes asked for.
    pub len: usize,
}

impl SimRead {
    fn overlaps(&self, other: &SimRead) -> bool {
        self.offset < other.offset + other.len as u64
            && other.offset < self.offset + self.len as u64
    }
}

struct State {
    rng: Rng,
    /// Where the file ends now.
    end: u64,
    /// The call that is refused, counted like `log`.
    fail: Option<usize>,
    log: Vec<SimRead>,
    running: Vec<SimRead>,
    n_overlaps: usize,
    n_unaligned: usize,
}

impl SimFile {
    /// `file`, seen through `sim`.
    pub fn new(file: impl ReadAt + 'static, sim: Sim) -> SimFile {
        assert!(
            sim.alignment.is_multiple_of(file.alignment()),
            "reads suit the file beneath"
        );
        let state = State {
            rng: Rng::new(sim.seed),
            end: file.len(),
            fail: None,
            log: Vec::new(),
            running: Vec::new(),
            n_overlaps: 0,
            n_unaligned: 0,
        };
        SimFile {
            file: Box::new(file),
            sim,
            state: Mutex::new(state),
        }
    }

    /// Refuses one read as a broken device does: the `n`-th from now, 0 for the next.
    pub fn fail_read(&self, n: usize) {
        let mut state = self.state();
        state.fail = Some(state.log.len() + n);
    }

    /// Ends the file at `end`, as if another process had cut it; [`ReadAt::len`] is still the old one.
    pub fn truncate(&self, end: u64) {
        self.state().end = end;
    }

    /// All reads so far, refused ones too, in the order in which they began.
    pub fn log(&self) -> Vec<SimRead> {
        self.state().log.clone()
    }

    /// Reads that began while another read of some of the same bytes was running.
    pub fn n_overlaps(&self) -> usize {
        self.state().n_overlaps
    }

    /// Reads whose offset, length or address was no multiple of the alignment. Each was refused.
    pub fn n_unaligned(&self) -> usize {
        self.state().n_unaligned
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a read into the log.
    ///
    /// Errors: it is not aligned, or is the one to be refused.
    fn start(&self, read: SimRead, address: usize) -> Result<()> {
        let alignment = self.sim.alignment;
        let mut state = self.state();
        let call = state.log.len();
        state.log.push(read);
        let refused = |code| {
            let SimRead { offset, len } = read;
            let what = format!("{}: read of {len} bytes at {offset}", self.name());
            Err(Error::io(what, &std::io::Error::from_raw_os_error(code)))
        };
        let multiple = |n: usize| n.is_multiple_of(alignment);
        if !(read.offset.is_multiple_of(alignment as u64)
            && multiple(read.len)
            && multiple(address))
        {
            state.n_unaligned += 1;
            return refused(libc::EINVAL);
        }
        if state.fail == Some(call) {
            return refused(libc::EIO);
        }
        state.n_overlaps += usize::from(state.running.iter().any(|other| other.overlaps(&read)));
        state.running.push(read);
        Ok(())
    }

    /// Brings the bytes piece by piece.
    fn bring(&self, offset: u64, buf: &mut [u8], need: usize) -> Result<()> {
        buf.fill(POISON);
        let n_pieces = 1 + self.state().rng.below(self.sim.pieces.max(1));
        let step = buf.len().div_ceil(n_pieces).max(1);
        let step = step.next_multiple_of(self.sim.alignment);
        for (piece, at) in buf.chunks_mut(step).zip((0..).step_by(step)) {
            let wait_us = self.state().rng.below(self.sim.wait_us as usize + 1) as u64;
            if wait_us > 0 {
                std::thread::sleep(Duration::from_micros(wait_us));
            }
            let start = offset.saturating_add(at as u64);
            let here = need.saturating_sub(at).min(piece.len());
            let rest = self.state().end.saturating_sub(start);
            if here as u64 > rest {
                let found = at + rest as usize;
                return Err(short_read(self.name(), offset, need, found));
            }
            self.file.read_window(start, piece, here)?;
        }
        Ok(())
    }
}

impl ReadAt for SimFile {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn end_at(&self, offset: u64) -> u64 {
        self.file.end_at(offset)
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let need = buf.len();
        self.read_window(offset, buf, need)
    }

    fn alignment(&self) -> usize {
        self.sim.alignment
    }

    fn read_window(&self, offset: u64, buf: &mut [u8], need: usize) -> Result<()> {
        let read = SimRead {
            offset,
            len: buf.len(),
        };
        self.start(read, buf.as_ptr().addr())?;
        let result = self.bring(offset, buf, need);
        let running = &mut self.state().running;
        if let Some(i) = running.iter().position(|r| *r == read) {
            running.swap_remove(i);
        }
        result
    }

    fn name(&self) -> &str {
        self.file.name()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AlignedBuf, MemFile};
    use super::*;
    use crate::error::ErrorKind;

    fn file(len: usize, sim: Sim) -> SimFile {
        let bytes = (0..len).map(|i| (i % 251) as u8).collect();
        SimFile::new(MemFile::new("memory", bytes), sim)
    }

    #[test]
    fn waits_and_pieces_are_not_seen() {
        for (seed, alignment) in (1..40).zip([1, 512, 4096].into_iter().cycle()) {
            let sim = Sim {
                seed,
                wait_us: 3,
                pieces: 5,
                alignment,
            };
            let file = file(20_000, sim);
            let mut buf = AlignedBuf::zeroed(8192).unwrap();
            for (offset, need) in [(0, 8192), (4096, 1), (8192, 8000), (16_384, 3616)] {
                file.read_window(offset, buf.as_mut_slice(), need).unwrap();
                let right = |(i, b): (usize, &u8)| *b == ((offset as usize + i) % 251) as u8;
                let mut bytes = buf.as_slice()[..need].iter().enumerate();
                assert!(bytes.all(right), "seed {seed}, offset {offset}");
            }
            assert_eq!(file.log().len(), 4);
            assert_eq!((file.n_overlaps(), file.n_unaligned()), (0, 0));
        }
    }

    #[test]
    fn the_read_asked_for_fails_and_no_other() {
        let file = file(1000, Sim::default());
        let mut buf = [0; 100];
        file.read_exact_at(0, &mut buf).unwrap();
        file.fail_read(1);
        for i in 0..5 {
            let result = file.read_exact_at(100 * i, &mut buf);
            assert_eq!(result.is_err(), i == 1);
            if let Err(error) = result {
                assert_eq!(error.kind(), ErrorKind::Io);
                let message = error.to_string();
                let expected = "memory: read of 100 bytes at 100: Input/output error";
                assert!(message.starts_with(expected), "{message}");
            }
        }
    }

    #[test]
    fn a_file_that_was_cut_ends_early_until_it_is_whole_again() {
        let sim = Sim {
            pieces: 4,
            ..Sim::default()
        };
        let file = file(1000, sim);
        let mut buf = [0; 100];
        file.truncate(150);
        file.read_exact_at(50, &mut buf).unwrap();
        for (offset, found) in [(51, 99), (149, 1), (150, 0), (400, 0)] {
            let error = file.read_exact_at(offset, &mut buf).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Format);
            let expected = format!("memory: read at {offset}: found {found} bytes, expected 100");
            assert_eq!(error.to_string(), expected);
        }
        file.truncate(1000);
        file.read_exact_at(900, &mut buf).unwrap();
        // Beneath it the file ends all the same.
        file.truncate(2000);
        assert!(file.read_exact_at(901, &mut buf).is_err());
    }

    #[test]
    fn unaligned_reads_are_refused_as_a_direct_file_refuses_them() {
        let sim = Sim {
            alignment: 512,
            ..Sim::default()
        };
        let file = file(4096, sim);
        let mut buf = AlignedBuf::zeroed(1024).unwrap();
        let buf = buf.as_mut_slice();
        file.read_window(512, &mut buf[512..], 7).unwrap();
        assert!(file.read_window(511, &mut buf[..512], 7).is_err());
        assert!(file.read_window(512, &mut buf[..511], 7).is_err());
        assert!(file.read_window(512, &mut buf[1..513], 7).is_err());
        assert_eq!(file.n_unaligned(), 3);
    }

    /// Whose reads end two at a time.
    struct Pairs(std::sync::Barrier);

    impl ReadAt for Pairs {
        fn len(&self) -> u64 {
            1000
        }

        fn read_exact_at(&self, _: u64, _: &mut [u8]) -> Result<()> {
            self.0.wait();
            Ok(())
        }

        fn name(&self) -> &str {
            "pairs"
        }
    }

    #[test]
    fn reads_of_the_same_bytes_at_once_are_counted() {
        for (offset, expected) in [(0, 1), (99, 1), (100, 0)] {
            let file = SimFile::new(Pairs(std::sync::Barrier::new(2)), Sim::default());
            std::thread::scope(|scope| {
                scope.spawn(|| file.read_exact_at(0, &mut [0; 100]));
                scope.spawn(|| file.read_exact_at(offset, &mut [0; 100]));
            });
            assert_eq!(file.n_overlaps(), expected);
        }
        // One after the other is no overlap.
        let file = file(1000, Sim::default());
        file.read_exact_at(0, &mut [0; 100]).unwrap();
        file.read_exact_at(0, &mut [0; 100]).unwrap();
        assert_eq!(file.n_overlaps(), 0);
    }
}
