//! The weights every token uses: read once into owned memory, which large pages make faster to compute from than a
//! mapping of the file.

use crate::error::{Context, Error, Result};
use crate::model::Model;
use crate::os::{AlignedBuf, ReadAt, Slice};
use crate::units::{Bytes, Extent};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of one read.
const STEP: usize = 8 << 20;

/// Fixed weights by their place in the file.
pub struct Fixed {
    /// Ascending by offset; each memory holds a part of the file.
    parts: Vec<Part>,
    lock: Lock,
}

/// What was asked to be kept from being swapped out or dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lock {
    /// Bytes that were to be kept.
    pub wanted: u64,
    /// Bytes of them that the system keeps.
    pub locked: u64,
}

impl Lock {
    /// Of these bytes, which were locked or not.
    pub fn add(&mut self, bytes: u64, locked: bool) {
        self.wanted += bytes;
        self.locked += if locked { bytes } else { 0 };
    }

    /// What to tell the user when not all is kept.
    pub fn note(&self) -> Option<String> {
        let (wanted, locked) = (Bytes(self.wanted), Bytes(self.locked));
        (self.locked < self.wanted).then(|| {
            format!("the system keeps {locked} of {wanted} of weights in memory, the rest can be swapped out (ulimit -l)")
        })
    }
}

struct Part {
    /// The file's offset of the memory's first byte.
    offset: u64,
    memory: Arc<AlignedBuf>,
}

impl Fixed {
    /// Bytes of memory that [`Fixed::read`] needs for a model, in a file of this alignment.
    pub fn bytes(model: &Model, alignment: usize) -> u64 {
        windows(model, alignment).iter().map(|w| w.len).sum()
    }

    /// Reads the fixed weights of a model into owned memory, with `n_readers` threads; with `lock` they are kept
    /// from being swapped out as far as the system allows.
    ///
    /// Errors: a failed read, refused memory or threads.
    pub fn read(
        file: &dyn ReadAt,
        model: &Model,
        n_readers: usize,
        lock: bool,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Fixed> {
        let alignment = file.alignment();
        let all = Fixed::bytes(model, alignment);
        let mut bufs = Vec::new();
        for window in windows(model, alignment) {
            bufs.push((window.offset, AlignedBuf::zeroed(window.len as usize)?));
        }
        let mut work = Vec::new();
        for (offset, buf) in &mut bufs {
            let steps = (0u64..)
                .step_by(STEP)
                .zip(buf.as_mut_slice().chunks_mut(STEP));
            work.extend(steps.map(|(at, bytes)| (*offset + at, bytes)));
        }
        let work = Mutex::new(work.into_iter());
        let (tell, told) = std::sync::mpsc::channel();
        let next = || work.lock().unwrap_or_else(PoisonError::into_inner).next();
        std::thread::scope(|scope| -> Result<()> {
            for id in 0..n_readers.max(1) {
                let (tell, next) = (tell.clone(), &next);
                let reader = move || {
                    while let Some((offset, bytes)) = next() {
                        // The last page of a file may be no whole one.
                        let left = file.end_at(offset).saturating_sub(offset);
                        let need = bytes.len().min(left as usize);
                        let result = file.read_window(offset, bytes, need).map(|()| need as u64);
                        let failed = result.is_err();
                        // Nobody listens any more when another read failed.
                        if tell.send(result).is_err() || failed {
                            return;
                        }
                    }
                };
                std::thread::Builder::new()
                    .spawn_scoped(scope, reader)
                    .map_err(|e| Error::io(format!("starting reader {id} of {n_readers}"), &e))?;
            }
            drop(tell);
            let mut done = 0;
            for result in told {
                done += result.context(|| "fixed weights")?;
                progress(done.min(all), all);
            }
            Ok(())
        })?;
        let mut kept = Lock::default();
        for (_, buf) in bufs.iter().filter(|_| lock) {
            kept.add(buf.as_slice().len() as u64, buf.lock());
        }
        let parts = bufs.into_iter().map(|(offset, buf)| Part {
            offset,
            memory: Arc::new(buf),
        });
        Ok(Fixed {
            parts: parts.collect(),
            lock: kept,
        })
    }

    /// What is kept from being swapped out.
    pub fn lock(&self) -> Lock {
        self.lock
    }

    /// The bytes of a tensor.
    ///
    /// Errors: the extent does not lie in what was read.
    pub fn slice(&self, extent: Extent) -> Result<Slice> {
        let after = self.parts.partition_point(|p| p.offset <= extent.offset);
        let part = after.checked_sub(1).and_then(|i| self.parts.get(i));
        let Some(Part { offset, memory }) = part else {
            return Err(Error::format(format!(
                "no fixed weights at byte {}",
                extent.offset
            )));
        };
        Slice::new(
            memory,
            Extent {
                offset: extent.offset - offset,
                len: extent.len,
            },
        )
    }
}

fn windows(model: &Model, alignment: usize) -> Vec<Extent> {
    windows_around(model.weights.extents.clone(), alignment)
}

/// The whole units of `alignment` bytes around some extents, ascending; those that touch are one.
pub fn windows_around(mut extents: Vec<Extent>, alignment: usize) -> Vec<Extent> {
    let unit = alignment as u64;
    extents.sort_unstable_by_key(|e| (e.offset, e.len));
    let mut windows: Vec<Extent> = Vec::new();
    for e in extents {
        let start = e.offset / unit * unit;
        let end = (e.offset + e.len).next_multiple_of(unit);
        match windows.last_mut() {
            Some(last) if start <= last.offset + last.len => {
                last.len = last.len.max(end - last.offset)
            }
            _ => windows.push(Extent {
                offset: start,
                len: end - start,
            }),
        }
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::gguf::Gguf;
    use crate::os::sim::{Sim, SimFile};
    use crate::os::{File, MemFile};
    use std::path::Path;

    /// Tensors that begin anywhere, touch, leave gaps, and one that takes several steps; the last ends the file.
    const EXTENTS: [(u64, u64); 6] = [
        (37, 100),
        (137, 5000),
        (30_000, 1),
        (30_002, STEP as u64 * 2 + 4321),
        (17_000_000, 3 * 4096),
        (18_000_001, 999),
    ];

    const LEN: u64 = 18_001_000;

    /// Any model, with fixed weights at [`EXTENTS`] in the order of their lengths.
    fn model() -> Model {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/micro-q2.gguf");
        let mut model = Model::bind(Gguf::read(&File::open(&path).unwrap()).unwrap()).unwrap();
        let extents = EXTENTS.map(|(offset, len)| Extent { offset, len });
        model.weights.extents = extents.into();
        model.weights.extents.sort_unstable_by_key(|e| e.len);
        model
    }

    fn byte(offset: u64) -> u8 {
        (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
    }

    fn file(alignment: usize) -> SimFile {
        let sim = Sim {
            seed: alignment as u64,
            wait_us: 100,
            pieces: 3,
            alignment,
        };
        SimFile::new(
            MemFile::new("model.gguf", (0..LEN).map(byte).collect()),
            sim,
        )
    }

    #[test]
    fn all_fixed_weights_come_in_aligned_reads_12() {
        let model = model();
        for (alignment, n_readers) in [(1, 1), (512, 3), (4096, 8)] {
            let file = file(alignment);
            let mut told = Vec::new();
            let mut progress = |done, all| told.push((done, all));
            let fixed = Fixed::read(&file, &model, n_readers, false, &mut progress).unwrap();
            for extent in &model.weights.extents {
                let slice = fixed.slice(*extent).unwrap();
                let expected = (extent.offset..extent.offset + extent.len).map(byte);
                assert!(slice.bytes().iter().copied().eq(expected), "{extent:?}");
            }
            assert_eq!((file.n_unaligned(), file.n_overlaps()), (0, 0));
            let read: u64 = file.log().iter().map(|r| r.len as u64).sum();
            let bytes = Fixed::bytes(&model, alignment);
            assert_eq!(read, bytes, "each window is read once");
            assert!(told.is_sorted() && told.iter().all(|(_, all)| *all == bytes));
            assert!(told.last().unwrap().0 + alignment as u64 > bytes);
        }
    }

    #[test]
    fn each_failed_read_is_an_error_5() {
        let model = model();
        for n in 0.. {
            let file = file(512);
            file.fail_read(n);
            let result = Fixed::read(&file, &model, 1 + n % 4, false, &mut |_, _| {});
            let Err(error) = result else {
                assert!(n > 5, "{n} reads");
                break;
            };
            assert_eq!(error.kind(), ErrorKind::Io);
            let message = error.to_string();
            let read = file.log()[n];
            let expected = format!(
                "fixed weights: model.gguf: read of {} bytes at {}: ",
                read.len, read.offset
            );
            assert!(message.starts_with(&expected), "{message}");
        }
    }

    #[test]
    fn a_file_that_was_cut_is_an_error_5() {
        let model = model();
        for end in [0, 5000, 17_000_000, LEN - 1] {
            let file = file(4096);
            file.truncate(end);
            let result = Fixed::read(&file, &model, 4, false, &mut |_, _| {});
            let error = result.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Format);
            let message = error.to_string();
            assert!(message.contains("model.gguf: read at "), "{message}");
        }
    }

    #[test]
    fn slices_outside_of_what_was_read_are_errors() {
        let model = model();
        let fixed = Fixed::read(&file(1), &model, 2, false, &mut |_, _| {}).unwrap();
        for (offset, len) in [
            (0, 1),
            (36, 10),
            (5136, 2),
            (29_999, 1),
            (17_500_000, 1),
            (18_000_001, 1000),
            (LEN, 1),
            (u64::MAX, 1),
            (40, u64::MAX),
        ] {
            let error = fixed.slice(Extent { offset, len }).err();
            assert!(error.is_some(), "{len} bytes at {offset}");
        }
        // The two that touch are one memory.
        assert!(
            fixed
                .slice(Extent {
                    offset: 100,
                    len: 100
                })
                .is_ok()
        );
    }
}
