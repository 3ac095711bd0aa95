//! Bytes that several owners read, wherever they live.

use super::{AlignedBuf, Map};
use crate::error::{Error, Result};
use crate::units::Extent;
use std::sync::Arc;

/// Read-only memory: a mapped file or an owned copy.
pub enum Memory {
    /// A mapping of a file.
    Map(Arc<Map>),
    /// Owned bytes.
    Owned(AlignedBuf),
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Memory::Map(map) => map.as_slice(),
            Memory::Owned(buf) => buf.as_slice(),
        }
    }
}

/// A part of a [`Memory`], which it keeps alive.
#[derive(Clone)]
pub struct Slice {
    memory: Arc<Memory>,
    start: usize,
    len: usize,
}

impl Slice {
    /// The bytes `range` of `memory`, counted from its start.
    ///
    /// Errors: the range does not lie in the memory.
    pub fn new(memory: &Arc<Memory>, range: Extent) -> Result<Slice> {
        let len = memory.bytes().len();
        let end = range.end().filter(|&end| end <= len as u64);
        let Some(end) = end else {
            let Extent {
                offset,
                len: wanted,
            } = range;
            return Err(Error::format(format!(
                "bytes {offset} + {wanted} of a memory of {len} bytes"
            )));
        };
        // Both fit: they are at most the length of a slice.
        let (start, end) = (range.offset as usize, end as usize);
        Ok(Slice {
            memory: Arc::clone(memory),
            start,
            len: end - start,
        })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.memory.bytes()[self.start..self.start + self.len]
    }
}
