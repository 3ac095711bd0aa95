//! What is known of an open file, to tell whether its bytes are still what they were.
//!
//! Programs that back files up or copy them set the time of a file and change nothing in it. So another time alone is no
//! change where pieces of the contents were remembered: they are read again and compared.
//!
//! ```text
//! up to 64 MiB   |piece|piece|piece|                the whole file, 4 MiB a piece
//! above          |piece|......|piece|......|piece|  1024 of 4 KiB, the first and the last bytes among them
//! ```

use super::{File, ReadAt, meter, platform};
use crate::error::{Error, Result};
use crate::units::Extent;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a file at most that is remembered as a whole.
const MOST_WHOLE: u64 = 64 << 20;

/// Bytes of its pieces. The page cache drops no part of what it reads in one go, which is up to 2 MiB.
const WHOLE: u64 = 4 << 20;

/// Pieces of a larger file.
const N_SAMPLES: u64 = 1024;

/// Bytes of each.
const SAMPLE: u64 = 4 << 10;

/// Bytes of a read.
const READ: u64 = 64 << 10;

/// Which file it is and when it was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    len: u64,
    written: (i64, i64),
}

impl Identity {
    pub fn of(metadata: &Metadata) -> Identity {
        Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// Shared by all descriptors of a file.
#[derive(Debug)]
pub(super) struct Known {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    identity: Identity,
    /// A hash of each piece; none before [`Known::remember`].
    pieces: Vec<u64>,
    /// It is not what it was, and stays so.
    changed: Option<Error>,
    note: Note,
}

/// What there is to say about another time.
#[derive(Debug)]
enum Note {
    Nothing,
    ToTell,
    Told,
}

impl Known {
    pub fn new(identity: Identity) -> Known {
        Known {
            state: Mutex::new(State {
                identity,
                pieces: Vec::new(),
                changed: None,
                note: Note::Nothing,
            }),
        }
    }

    /// Which file it is, with the time that was last found to mean no change.
    pub fn identity(&self) -> Identity {
        self.state().identity
    }

    /// Remembers pieces of the contents, unless that was done.
    pub fn remember(&self, file: &File) -> Result<()> {
        let mut state = self.state();
        if state.pieces.is_empty() {
            state.pieces = hashes(file, state.identity.len)?;
        }
        Ok(())
    }

    /// An error when the file is another one than before, as `now` and the pieces tell.
    pub fn check(&self, file: &File, now: Identity) -> Result<()> {
        let mut state = self.state();
        if state.changed.is_none() && now != state.identity {
            match state.change(file, now)? {
                None => {
                    state.identity = now;
                    if matches!(state.note, Note::Nothing) {
                        state.note = Note::ToTell;
                    }
                }
                Some(found) => {
                    let name = file.name();
                    let changed =
                        format!("{name}: changed while it is in use: {found}; start again");
                    state.changed = Some(Error::format(changed));
                }
            }
        }
        state.changed.clone().map_or(Ok(()), Err)
    }

    /// Whether another time was found that meant no change; told once.
    pub fn take_note(&self) -> bool {
        let mut state = self.state();
        let is_new = matches!(state.note, Note::ToTell);
        if is_new {
            state.note = Note::Told;
        }
        is_new
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No one panics while holding it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How the file differs from what it was, if it does.
    fn change(&self, file: &File, now: Identity) -> Result<Option<String>> {
        let before = self.identity;
        if now.len != before.len {
            let (now, before) = (now.len, before.len);
            return Ok(Some(format!("found {now} bytes, expected {before}")));
        }
        if self.pieces.is_empty() {
            return Ok(Some("it was written since it was opened".into()));
        }
        let found = pieces(before.len).zip(hashes(file, before.len)?);
        for ((Extent { offset, len }, found), hash) in found.zip(&self.pieces) {
            if found != *hash {
                let found = format!("found other bytes among the {len} at {offset}");
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// The pieces of a file of `len` bytes, in order.
fn pieces(len: u64) -> impl Iterator<Item = Extent> {
    let is_whole = len <= MOST_WHOLE;
    let n = match is_whole {
        true => len.div_ceil(WHOLE),
        false => N_SAMPLES,
    };
    (0..n).map(move |i| match is_whole {
        true => Extent {
            offset: i * WHOLE,
            len: WHOLE.min(len - i * WHOLE),
        },
        false => Extent {
            offset: (len - SAMPLE) / (N_SAMPLES - 1) * i
                + (len - SAMPLE) % (N_SAMPLES - 1) * i / (N_SAMPLES - 1),
            len: SAMPLE,
        },
    })
}

/// The hashes of the pieces of a file. The page cache is left as it was found.
fn hashes(file: &File, len: u64) -> Result<Vec<u64>> {
    let mut all: Vec<(Extent, u64)> = pieces(len).map(|piece| (piece, 0)).collect();
    // From behind, as what was read of the header has the system read ahead as soon as that is read on.
    for (piece, hash) in all.iter_mut().rev() {
        let absent = absent(file, *piece);
        *hash = hash_of(file, *piece)?;
        for run in absent {
            // With the pages at both ends.
            let page = super::page_size() as u64;
            let offset = run.offset / page * page;
            let len = (run.offset - offset + run.len).next_multiple_of(page);
            platform::drop_cached(file, Extent { offset, len });
        }
    }
    Ok(all.into_iter().map(|(_, hash)| hash).collect())
}

/// The parts of a piece that are not in the page cache, in runs of reads.
fn absent(file: &File, piece: Extent) -> Vec<Extent> {
    let mut runs: Vec<Extent> = Vec::new();
    let absent = |read: &Extent| meter::cached_bytes_in(file, *read) == Some(0);
    for read in reads(piece).filter(absent) {
        match runs.last_mut() {
            Some(run) if run.end() == Some(read.offset) => run.len += read.len,
            _ => runs.push(read),
        }
    }
    runs
}

/// The reads of a piece.
fn reads(piece: Extent) -> impl DoubleEndedIterator<Item = Extent> {
    (0..piece.len.div_ceil(READ)).map(move |i| Extent {
        offset: piece.offset + i * READ,
        len: READ.min(piece.len - i * READ),
    })
}

/// A hash of a piece. One that differs from another in up to 8 bytes in a row, from a multiple of 8 on, has another hash: each
/// step is a bijection of the state for a given word, and of the word for a given state.
fn hash_of(file: &File, piece: Extent) -> Result<u64> {
    let mut bytes = [0; READ as usize];
    let mut hash = piece.offset;
    // From behind as the pieces are.
    for read in reads(piece).rev() {
        let n = read.len as usize;
        // What is behind the end of a file is hashed as zeros.
        bytes[n..].fill(0);
        file.read_exact_at(read.offset, &mut bytes[..n])?;
        let (words, _) = bytes[..n.next_multiple_of(8)].as_chunks();
        for word in words {
            // Odd, so that the product is a bijection.
            let mixed = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            hash = mixed.rotate_left(29);
        }
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::Temporary;
    use super::*;
    use crate::rng::Rng;
    use std::fs::FileTimes;
    use std::os::unix::fs::FileExt;
    use std::time::{Duration, SystemTime};

    /// Another time than any before, however fast the test.
    fn touch(file: &std::fs::File, n: u64) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(n);
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
    }

    #[test]
    fn another_time_is_no_change_and_another_byte_is_one() {
        let mut rng = Rng::new(5);
        for (n, len) in [1usize, 7, 100, 70_000, 1 << 20].into_iter().enumerate() {
            let bytes: Vec<u8> = (0..len).map(|_| rng.below(256) as u8).collect();
            let temporary = Temporary::with(&format!("known-{n}"), &bytes);
            let writer = std::fs::OpenOptions::new()
                .write(true)
                .open(&temporary.0)
                .unwrap();
            for round in 0..8 {
                let file = File::open(&temporary.0).unwrap();
                file.remember().unwrap();
                let (again, note) = (file.try_clone().unwrap(), File::take_note);
                assert_eq!((file.check(), note(&file)), (Ok(()), None));
                touch(&writer, 100 + 10 * round);
                file.check().unwrap();
                let told = note(&again).unwrap();
                assert!(told.contains("its time changed"), "{told}");
                touch(&writer, 101 + 10 * round);
                assert_eq!((again.check(), note(&file)), (Ok(()), None), "told once");
                // Any one byte, and its way back does not help.
                let at = rng.below(len) as u64;
                writer.write_all_at(&[!bytes[at as usize]], at).unwrap();
                touch(&writer, 102 + 10 * round);
                let error = file.check().unwrap_err().to_string();
                let expected = "changed while it is in use: found other bytes among the ";
                assert!(error.contains(expected), "{error}");
                assert!(error.ends_with("; start again"), "{error}");
                writer.write_all_at(&bytes[at as usize..][..1], at).unwrap();
                assert_eq!(again.check().unwrap_err().to_string(), error);
            }
        }
    }

    #[test]
    fn without_pieces_or_with_another_length_another_time_is_a_change() {
        let temporary = Temporary::with("known-not", &[7; 100]);
        let writer = std::fs::OpenOptions::new()
            .write(true)
            .open(&temporary.0)
            .unwrap();
        let file = File::open(&temporary.0).unwrap();
        touch(&writer, 1);
        assert!(file.check().is_err());
        let file = File::open(&temporary.0).unwrap();
        file.remember().unwrap();
        writer.set_len(99).unwrap();
        let error = file.check().unwrap_err().to_string();
        let expected = "found 99 bytes, expected 100; start again";
        assert!(error.ends_with(expected), "{error}");
    }

    #[test]
    fn pieces_are_in_order_and_reach_from_the_first_byte_to_the_last() {
        let most = MOST_WHOLE;
        for len in [1, WHOLE, WHOLE + 1, most, most + 1, 1 << 37, u64::MAX] {
            let all: Vec<Extent> = pieces(len).collect();
            assert!(all.len() <= N_SAMPLES as usize);
            assert_eq!(all[0].offset, 0);
            assert_eq!(all[all.len() - 1].end(), Some(len));
            let bytes: u64 = all.iter().map(|piece| piece.len).sum();
            assert_eq!(
                bytes,
                if len <= MOST_WHOLE {
                    len
                } else {
                    N_SAMPLES * SAMPLE
                }
            );
            for pair in all.windows(2) {
                assert!(pair[0].end() <= Some(pair[1].offset), "{len}");
            }
        }
    }
}
