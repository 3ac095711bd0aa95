//! The blocks of stored weights and what they stand for.
//!
//! All structs are bytes only (alignment 1, little-endian), so that any place in a file can be seen as
//! blocks. Source of the layouts: the GGUF format's quantisation types.

use half::{bf16, f16};

use super::Format;
use super::cast::{Plain, from_bytes};
use super::tables::{IQ2_XXS_GRID, MXFP4_SCALES, MXFP4_VALUES, iq2_xxs_signs};

/// Q8_0: 32 weights in 34 bytes; `w = d * q`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// f16 bits.
    pub d: [u8; 2],
    /// Quants.
    pub q: [i8; 32],
}

/// Q4_K: 256 weights in 144 bytes, eight sub-blocks of 32; `w = d * scale * q - dmin * min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockQ4K {
    /// f16 bits.
    pub d: [u8; 2],
    /// f16 bits.
    pub dmin: [u8; 2],
    /// Eight scales and eight minima of 6 bits, see [`BlockQ4K::scales_mins`].
    pub scales: [u8; 12],
    /// Byte `32c + l`: low nibble is element `64c + l`, high nibble element `64c + 32 + l`.
    pub qs: [u8; 128],
}

/// Q2_K: 256 weights in 84 bytes, 16 sub-blocks of 16; `w = d * (scale & 15) * q - dmin * (scale >> 4)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockQ2K {
    /// One for each 16 weights: low nibble scale, high nibble minimum.
    pub scales: [u8; 16],
    /// Byte `32a + l`: bits `2j, 2j + 1` are element `128a + 32j + l`.
    pub qs: [u8; 64],
    /// f16 bits.
    pub d: [u8; 2],
    /// f16 bits.
    pub dmin: [u8; 2],
}

/// IQ2_XXS: 256 weights in 66 bytes, eight groups of 32;
/// `w = d * (2s + 1) / 8 * GRID[index][j] * sign`, see [`BlockIq2Xxs::group`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockIq2Xxs {
    /// f16 bits.
    pub d: [u8; 2],
    /// A group: four grid indices, then a little-endian word of 4 × 7 sign bits and 4 bits `s`.
    pub groups: [[u8; 8]; 8],
}

/// MXFP4: 32 weights in 17 bytes; `w = MXFP4_VALUES[code] * MXFP4_SCALES[e]`, which is E2M1 times E8M0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockMxfp4 {
    /// Exponent of the scale, biased by 127; 255 makes the block NaN.
    pub e: u8,
    /// Byte `j`: low nibble is element `j`, high nibble element `j + 16`.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ8_0>() == 34 && align_of::<BlockQ8_0>() == 1);
const _: () = assert!(size_of::<BlockQ4K>() == 144 && align_of::<BlockQ4K>() == 1);
const _: () = assert!(size_of::<BlockQ2K>() == 84 && align_of::<BlockQ2K>() == 1);
const _: () = assert!(size_of::<BlockIq2Xxs>() == 66 && align_of::<BlockIq2Xxs>() == 1);
const _: () = assert!(size_of::<BlockMxfp4>() == 17 && align_of::<BlockMxfp4>() == 1);

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
        Format::Q8_0 => each_block(row, out, BlockQ8_0::dequantize),
        Format::Q4K => each_block(row, out, BlockQ4K::dequantize),
        Format::Q2K => each_block(row, out, BlockQ2K::dequantize),
        Format::Iq2Xxs => each_block(row, out, BlockIq2Xxs::dequantize),
        Format::Mxfp4 => each_block(row, out, BlockMxfp4::dequantize),
        Format::I32 => panic!("I32 is not a format of weights"),
    }
}

fn each_block<B: Plain, const N: usize>(row: &[u8], out: &mut [f32], f: fn(&B, &mut [f32; N])) {
    for (block, out) in blocks::<B>(row).iter().zip(out.as_chunks_mut().0) {
        f(block, out);
    }
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

impl BlockQ8_0 {
    /// The 32 weights.
    pub fn dequantize(&self, out: &mut [f32; 32]) {
        let d = f16_value(self.d);
        for (o, q) in out.iter_mut().zip(self.q) {
            *o = d * f32::from(q);
        }
    }
}

impl BlockQ4K {
    /// The 6-bit scales and minima of the eight sub-blocks.
    ///
    /// ```text
    /// byte     bits 7..6         bits 5..0            k = 0..3
    /// k        scale[k+4] 5..4   scale[k]
    /// k + 4    min[k+4]   5..4   min[k]
    /// k + 8    min[k+4]   3..0 (bits 7..4), scale[k+4] 3..0 (bits 3..0)
    /// ```
    pub fn scales_mins(&self) -> ([u8; 8], [u8; 8]) {
        let (mut scales, mut mins) = ([0; 8], [0; 8]);
        for k in 0..4 {
            let [s, m, low] = [self.scales[k], self.scales[k + 4], self.scales[k + 8]];
            scales[k] = s & 63;
            mins[k] = m & 63;
            scales[k + 4] = (low & 15) | ((s >> 6) << 4);
            mins[k + 4] = (low >> 4) | ((m >> 6) << 4);
        }
        (scales, mins)
    }

    /// The quant (0..=15) of element `e`.
    pub fn quant(&self, e: usize) -> u8 {
        (self.qs[e / 64 * 32 + e % 32] >> (e / 32 % 2 * 4)) & 15
    }

    /// The 256 weights.
    pub fn dequantize(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (f16_value(self.d), f16_value(self.dmin));
        let (scales, mins) = self.scales_mins();
        for (e, o) in out.iter_mut().enumerate() {
            let (scale, min) = (
                d * f32::from(scales[e / 32]),
                dmin * f32::from(mins[e / 32]),
            );
            *o = scale * f32::from(self.quant(e)) - min;
        }
    }
}

impl BlockQ2K {
    /// The quant (0..=3) of element `e`.
    pub fn quant(&self, e: usize) -> u8 {
        (self.qs[e / 128 * 32 + e % 32] >> (e / 32 % 4 * 2)) & 3
    }

    /// The 256 weights.
    pub fn dequantize(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (f16_value(self.d), f16_value(self.dmin));
        for (e, o) in out.iter_mut().enumerate() {
            let sc = self.scales[e / 16];
            let (scale, min) = (d * f32::from(sc & 15), dmin * f32::from(sc >> 4));
            *o = scale * f32::from(self.quant(e)) - min;
        }
    }
}

impl BlockIq2Xxs {
    /// Of group `g` (0..8): its odd scale factor `2s + 1`, and of its four points the grid row and the signs.
    pub fn group(&self, g: usize) -> (u8, [(&'static [u8; 8], u8); 4]) {
        let [i0, i1, i2, i3, w0, w1, w2, w3] = self.groups[g];
        let word = u32::from_le_bytes([w0, w1, w2, w3]);
        let mut k = 0;
        let points = [i0, i1, i2, i3].map(|index| {
            let signs = iq2_xxs_signs(word >> k);
            k += 7;
            (&IQ2_XXS_GRID[usize::from(index)], signs)
        });
        (2 * (word >> 28) as u8 + 1, points)
    }

    /// The 256 weights.
    pub fn dequantize(&self, out: &mut [f32; 256]) {
        let d = f16_value(self.d);
        for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (factor, points) = self.group(g);
            let scale = d * f32::from(factor) * 0.125;
            for ((row, signs), out) in points.into_iter().zip(out.as_chunks_mut::<8>().0) {
                for (j, o) in out.iter_mut().enumerate() {
                    let magnitude = scale * f32::from(row[j]);
                    *o = if signs >> j & 1 == 1 {
                        -magnitude
                    } else {
                        magnitude
                    };
                }
            }
        }
    }
}

impl BlockMxfp4 {
    /// Twice the E2M1 value of element `e`.
    pub fn quant(&self, e: usize) -> i8 {
        MXFP4_VALUES[usize::from(self.qs[e % 16] >> (e / 16 * 4)) & 15]
    }

    /// The 32 weights.
    pub fn dequantize(&self, out: &mut [f32; 32]) {
        let scale = MXFP4_SCALES[usize::from(self.e)];
        for (e, o) in out.iter_mut().enumerate() {
            *o = scale * f32::from(self.quant(e));
        }
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
        block.dequantize(&mut out);
        assert!(out.iter().all(|x| x.is_nan()));
    }

    #[test]
    #[should_panic(expected = "Q4_K row of 255 weights")]
    fn a_row_of_the_wrong_length_is_a_mistake() {
        dequantize_row(Format::Q4K, &[0; 144], &mut [0.0; 255]);
    }
}
