//! How fast this machine's memory can be read: the bound of a decode that reads each weight once.

use crate::backend::cpu::pool::Pool;
use crate::error::Result;
use crate::os::{self, AlignedBuf};
use std::time::{Duration, Instant};

/// What is read at most: more than last-level caches hold.
const MOST_BYTES: u64 = 1 << 30;

/// What is read at least, whatever the system says is free.
const LEAST_BYTES: u64 = 64 << 20;

/// The part of the available memory that is taken for a moment.
const PART: u64 = 4;

/// Bytes that a thread takes at a time.
const PIECE: usize = 1 << 20;

/// Reads of the whole; the best counts, as others only ever slow one down.
const N_PASSES: usize = 5;

/// A measured speed of reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bandwidth {
    /// 10^9 bytes a second, of all threads together.
    pub gb_per_s: f64,
    /// Bytes of the buffer.
    pub buffer_bytes: u64,
    /// How often it was read; the best time counts.
    pub n_passes: usize,
}

/// Reads a buffer of 1 GiB (a quarter of the available memory if that is less) in order with the threads of the
/// kernels, adding up 64-bit words, a few times.
///
/// Errors: the memory or a thread is refused.
pub fn measure(n_threads: usize) -> Result<Bandwidth> {
    let room = os::available_memory().map_or(LEAST_BYTES, |available| available / PART);
    let bytes = room.clamp(LEAST_BYTES, MOST_BYTES) as usize / PIECE * PIECE;
    let mut buffer = AlignedBuf::zeroed(bytes)?;
    let mut pool = Pool::new(n_threads)?;
    let mut sums = vec![0u64; n_threads];
    // Memory is there only from its first write on.
    pool.for_rows(buffer.as_mut_slice(), PIECE, &mut sums, |_, piece, _| {
        piece.fill(1);
    });
    let mut best = Duration::MAX;
    for _ in 0..N_PASSES {
        let start = Instant::now();
        pool.for_rows(buffer.as_mut_slice(), PIECE, &mut sums, |_, piece, sum| {
            *sum = sum.wrapping_add(sum_words(piece));
        });
        best = best.min(start.elapsed());
    }
    // The sums are not needed, but reading is what they are for.
    std::hint::black_box(&sums);
    Ok(Bandwidth {
        gb_per_s: bytes as f64 / best.as_nanos().max(1) as f64,
        buffer_bytes: bytes as u64,
        n_passes: N_PASSES,
    })
}

/// The sum of the 64-bit words of whole blocks of 64 bytes. Eight sums at once, which compilers keep in vectors.
fn sum_words(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 8];
    for block in bytes.as_chunks::<64>().0 {
        for (sum, word) in sums.iter_mut().zip(block.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_whole_blocks_is_read_once() {
        let mut bytes = vec![0u8; 64 * 5 + 63];
        for (i, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *word = (1u64 << i.min(40)).to_ne_bytes();
        }
        assert_eq!(sum_words(&bytes), (1 << 40) - 1);
        assert_eq!(sum_words(&[255; 128]), 0u64.wrapping_sub(16));
    }
}
