//! The weights every token uses: in a mapping of the file, or read once into owned memory.

use crate::error::{Context, Error, Result};
use crate::model::Model;
use crate::os::{AlignedBuf, Memory, ReadAt, Slice};
use crate::units::Extent;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of one read.
const STEP: usize = 8 << 20;

/// Fixed weights by their place in the file.
pub struct Fixed {
    /// Ascending by offset; each memory holds a part of the file.
    parts: Vec<Part>,
    locked: u64,
}

struct Part {
    /// The file's offset of the memory's first byte.
    offset: u64,
    memory: Arc<Memory>,
}

impl Fixed {
    /// All weights in a memory that holds the whole file.
    pub fn whole_file(file: Arc<Memory>) -> Fixed {
        Fixed {
            parts: vec![Part {
                offset: 0,
                memory: file,
            }],
            locked: 0,
        }
    }

    /// Bytes of memory that [`Fixed::read`] needs for a model, in a file of this alignment.
    pub fn bytes(model: &Model, alignment: usize) -> u64 {
        windows(model, alignment).map(|w| w.len).sum()
    }

    /// Reads the fixed weights of a model into owned memory, with `n_readers` threads; with `lock` they are kept
    /// from being swapped out as far as the system allows.
    ///
    /// Errors: a failed read, refused memory.
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
            for _ in 0..n_readers.max(1) {
                let (tell, next) = (tell.clone(), &next);
                scope.spawn(move || {
                    while let Some((offset, bytes)) = next() {
                        // The last page of a file may be no whole one.
                        let need = bytes.len().min(file.len().saturating_sub(offset) as usize);
                        let result = file.read_window(offset, bytes, need).map(|()| need as u64);
                        let failed = result.is_err();
                        // Nobody listens any more when another read failed.
                        if tell.send(result).is_err() || failed {
                            return;
                        }
                    }
                });
            }
            drop(tell);
            let mut done = 0;
            for result in told {
                done += result.context(|| "fixed weights")?;
                progress(done.min(all), all);
            }
            Ok(())
        })?;
        let locked = bufs
            .iter()
            .filter(|(_, buf)| lock && buf.lock())
            .map(|(_, b)| b.as_slice().len() as u64)
            .sum();
        let parts = bufs.into_iter().map(|(offset, buf)| Part {
            offset,
            memory: Arc::new(Memory::Owned(buf)),
        });
        Ok(Fixed {
            parts: parts.collect(),
            locked,
        })
    }

    /// Bytes that the system keeps from being swapped out.
    pub fn locked_bytes(&self) -> u64 {
        self.locked
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

/// The whole units of `alignment` bytes around the fixed tensors, ascending; those that touch are one.
fn windows(model: &Model, alignment: usize) -> impl Iterator<Item = Extent> {
    let unit = alignment as u64;
    let mut extents: Vec<Extent> = model.weights.extents.clone();
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
    windows.into_iter()
}
