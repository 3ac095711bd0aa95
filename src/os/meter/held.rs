//! Memory taken away, to see how the program does on a smaller machine.

use super::super::{AlignedBuf, available_memory, page_size};
use crate::error::{Error, ErrorKind, Result};
use crate::units::Bytes;

/// Bytes that one call locks: a refusal then tells how much could be had.
const PIECE: u64 = 256 << 20;

/// Memory that is in use and locked until this is dropped.
#[derive(Debug)]
pub struct Held {
    pieces: Vec<AlignedBuf>,
}

/// Takes `bytes` of memory, touches every page and locks it, so that the rest of the machine has to do without.
///
/// Errors: `Limit` when less is available, or the system refuses to lock so much (`ulimit -l`); the message says
/// how much was reached, and all of it is given back.
pub fn simulate_used_memory(bytes: u64) -> Result<Held> {
    // More than there is would not be refused: the system would end some process.
    if let Some(available) = available_memory().filter(|available| *available < bytes) {
        let (found, limit) = (Bytes(bytes), Bytes(available));
        return Err(Error::limit("memory to hold", found, limit));
    }
    let mut pieces = Vec::new();
    let mut held = 0;
    while held < bytes {
        let len = (bytes - held).min(PIECE);
        let reached = |why: &dyn std::fmt::Display| {
            let (held, bytes) = (Bytes(held), Bytes(bytes));
            let message = format!("held {held} of {bytes}, then refused: {why}");
            Error::new(ErrorKind::Limit, message)
        };
        let mut piece = AlignedBuf::zeroed(len as usize).map_err(|e| reached(&e))?;
        let pages = piece.as_mut_slice().chunks_mut(page_size());
        pages.for_each(|page| page[0] = 1);
        if !piece.lock() {
            let why = std::io::Error::last_os_error();
            return Err(reached(&format!("mlock, see `ulimit -l`: {why}")));
        }
        pieces.push(piece);
        held += len;
    }
    Ok(Held { pieces })
}

impl Held {
    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|p| p.as_slice().len() as u64).sum()
    }
}
