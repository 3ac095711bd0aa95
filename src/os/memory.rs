//! Bytes that several owners read.

use super::AlignedBuf;
use crate::error::{Error, Result};
use crate::units::Extent;
use std::sync::Arc;

/// A part of owned memory, which it keeps alive.
#[derive(Clone)]
pub struct Slice {
    memory: Arc<AlignedBuf>,
    start: usize,
    len: usize,
}

impl Slice {
    /// The bytes `range` of `memory`, counted from its start.
    ///
    /// Errors: the range does not lie in the memory.
    pub fn new(memory: &Arc<AlignedBuf>, range: Extent) -> Result<Slice> {
        let len = memory.as_slice().len();
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
        &self.memory.as_slice()[self.start..self.start + self.len]
    }
}
