//! The blocks of stored weights and what they stand for.
//!
//! All structs are bytes only (alignment 1, little-endian), so that any place in a file can be seen as
//! blocks. Source of the layouts: the GGUF format's quantisation types.
//!
//! Every format with blocks says one thing of itself, plainly: 32 of its weights as a [`Group`]. Dequantisation and the
//! definition of the integer products are made of it.

use half::{bf16, f16};

use super::Format;
use super::cast::{Plain, from_bytes};

mod iq;
mod k;
mod simple;

pub use iq::{
    BlockIq1M, BlockIq1S, BlockIq2S, BlockIq2Xs, BlockIq2Xxs, BlockIq3S, BlockIq3Xxs, BlockIq4Xs,
};
pub use k::{BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K};
pub use simple::{BlockIq4Nl, BlockMxfp4, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0};

/// 32 weights in order: `w = scale * q`, less the minimum of the half where there are minima.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Scale.
    pub scale: f32,
    /// Whole numbers, at most 4,096 in magnitude.
    pub q: [i32; 32],
    /// Minima of the first and the last 16 weights.
    pub mins: Option<[f32; 2]>,
}

/// A block of weights.
pub trait Weights: Plain {
    /// Groups of 32 weights in a block.
    const GROUPS: usize;

    /// Group `b`, below [`Weights::GROUPS`].
    fn group(&self, b: usize) -> Group;
}

/// `$body` with `$block` as the type of the blocks of `$format`, or `$none` for a format without blocks.
macro_rules! with_blocks {
    ($format:expr, $block:ident => $body:expr, _ => $none:expr) => {
        with_blocks!(@each $format, $block, $body, $none,
            Q8_0 BlockQ8_0, Q4_0 BlockQ4_0, Q4_1 BlockQ4_1, Q5_0 BlockQ5_0, Q5_1 BlockQ5_1,
            Q2K BlockQ2K, Q3K BlockQ3K, Q4K BlockQ4K, Q5K BlockQ5K, Q6K BlockQ6K,
            Iq1S BlockIq1S, Iq1M BlockIq1M, Iq2Xxs BlockIq2Xxs, Iq2Xs BlockIq2Xs, Iq2S BlockIq2S,
            Iq3Xxs BlockIq3Xxs, Iq3S BlockIq3S, Iq4Nl BlockIq4Nl, Iq4Xs BlockIq4Xs, Mxfp4 BlockMxfp4)
    };
    (@each $format:expr, $block:ident, $body:expr, $none:expr, $($name:ident $of:ident),*) => {
        match $format {
            $($crate::quant::Format::$name => {
                type $block = $crate::quant::blocks::$of;
                $body
            })*
            $crate::quant::Format::F32
            | $crate::quant::Format::F16
            | $crate::quant::Format::Bf16
            | $crate::quant::Format::I32 => $none,
        }
    };
}
pub(crate) use with_blocks;

/// The value of two stored bytes of an f16.
pub fn f16_value(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

/// Writes the weights of `row` as f32.
///
/// `row` holds whole blocks of `format` and `out` has one place for each weight; anything else is a
/// mistake of the caller and panics, as does [`Format::I32`], which holds no weights. The content of
/// the blocks is free: NaN and infinite scales give NaN and infinite weights.
pub fn dequantize_row(format: Format, row: &[u8], out: &mut [f32]) {
    assert_eq!(
        format.row_bytes(out.len()),
        Some(row.len()),
        "{} row of {} weights",
        format.name(),
        out.len()
    );
    match format {
        Format::F32 => {
            for (o, b) in out.iter_mut().zip(row.as_chunks().0) {
                *o = f32::from_le_bytes(*b);
            }
        }
        Format::F16 => {
            for (o, b) in out.iter_mut().zip(row.as_chunks().0) {
                *o = f16_value(*b);
            }
        }
        Format::Bf16 => {
            for (o, b) in out.iter_mut().zip(row.as_chunks().0) {
                *o = bf16::from_le_bytes(*b).to_f32();
            }
        }
        Format::I32 => panic!("I32 is not a format of weights"),
        blocks => {
            with_blocks!(blocks, Block => dequantize(self::blocks::<Block>(row), out), _ => {})
        }
    }
}

/// Writes the weights of blocks.
pub fn dequantize<B: Weights>(blocks: &[B], out: &mut [f32]) {
    for (block, out) in blocks.iter().zip(out.chunks_exact_mut(32 * B::GROUPS)) {
        for (b, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let Group { scale, q, mins } = block.group(b);
            for (e, (out, q)) in out.iter_mut().zip(q).enumerate() {
                *out = scale * q as f32 - mins.map_or(0.0, |mins| mins[e / 16]);
            }
        }
    }
}

/// A row in blocks as groups of 32 weights; `None` for a format without blocks.
pub fn groups(format: Format, row: &[u8]) -> Option<Vec<Group>> {
    fn all<B: Weights>(row: &[u8]) -> Vec<Group> {
        let blocks = blocks::<B>(row).iter();
        blocks
            .flat_map(|block| (0..B::GROUPS).map(|b| block.group(b)))
            .collect()
    }
    with_blocks!(format, Block => Some(all::<Block>(row)), _ => None)
}

/// `row` as blocks; its length must be a whole number of them.
pub fn blocks<B: Plain>(row: &[u8]) -> &[B] {
    match from_bytes(row) {
        Some(blocks) => blocks,
        None => panic!(
            "{} bytes at {:p} are no whole aligned blocks of {}",
            row.len(),
            row,
            size_of::<B>()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::Format;

    #[test]
    fn any_bytes_can_be_dequantized() {
        let mut state = 1_u64;
        for format in Format::ALL.into_iter().filter(|f| *f != Format::I32) {
            for fill in [0, 0x7c, 0x80, 0xfc, 0xff] {
                let mut row = vec![fill; format.block_bytes() * 2];
                let mut out = vec![0.0; format.block_len() * 2];
                dequantize_row(format, &row, &mut out);
                for _ in 0..200 {
                    for b in &mut row {
                        state = state
                            .wrapping_mul(6364136223846793005)
                            .wrapping_add(1442695040888963407);
                        *b = (state >> 56) as u8;
                    }
                    dequantize_row(format, &row, &mut out);
                }
            }
        }
    }

    #[test]
    fn mxfp4_scale_255_is_nan() {
        let block = BlockMxfp4 {
            e: 255,
            qs: [0x21; 16],
        };
        let mut out = [0.0; 32];
        dequantize(&[block], &mut out);
        assert!(out.iter().all(|x| x.is_nan()));
    }

    #[test]
    #[should_panic(expected = "Q4_K row of 255 weights")]
    fn a_row_of_the_wrong_length_is_a_mistake() {
        dequantize_row(Format::Q4K, &[0; 144], &mut [0.0; 255]);
    }
}
