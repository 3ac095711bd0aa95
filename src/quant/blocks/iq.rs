//! The IQ formats of 256 weights: indices into grids of points, with signs and scales; and IQ4_XS.
//!
//! A group of 32 weights is four points of eight elements or eight of four. Scales that a half has for itself are whole
//! numbers, and go into the quants.

use super::{Group, Weights, f16_value};
use crate::quant::grids::{IQ1_GRID, IQ2_S_EIGHTS, IQ2_XS_EIGHTS, IQ3_S_GRID, IQ3_XXS_GRID};
use crate::quant::tables::{IQ2_XXS_GRID, IQ4_VALUES, even_signs};

/// IQ2_XXS: 256 weights in 66 bytes, eight groups of 32;
/// `w = d * (2s + 1) / 8 * GRID[index][j] * sign`, see [`BlockIq2Xxs::points`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockIq2Xxs {
    /// f16 bits.
    pub d: [u8; 2],
    /// A group: four grid indices, then a little-endian word of 4 × 7 sign bits and 4 bits `s`.
    pub groups: [[u8; 8]; 8],
}

/// IQ2_XS: 256 weights in 74 bytes; `w = d * (2s + 1) / 8 * GRID[index][j] * sign`, `s` for each 16 weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockIq2Xs {
    /// f16 bits.
    pub d: [u8; 2],
    /// A little-endian word for each eight weights: 9 bits of grid index, 7 bits of signs.
    pub qs: [[u8; 2]; 32],
    /// For each 32 weights: low nibble `s` of the first half, high nibble of the second.
    pub scales: [u8; 8],
}

/// IQ2_S: 256 weights in 82 bytes; `w = d * (2s + 1) / 8 * GRID[index][j] * sign`, `s` for each 16 weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockIq2S {
    /// f16 bits.
    pub d: [u8; 2],
    /// Low eight bits of the grid index of each eight weights.
    pub qs: [u8; 32],
    /// Bit `j` of a byte: element `j` of the eight is negative.
    pub signs: [u8; 32],
    /// High two bits of four indices, the first in the lowest bits.
    pub qh: [u8; 8],
    /// As in [`BlockIq2Xs`].
    pub scales: [u8; 8],
}

/// IQ3_XXS: 256 weights in 98 bytes; `w = d * (2s + 1) / 4 * GRID[index][j] * sign`, `s` for each 32 weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockIq3Xxs {
    /// f16 bits.
    pub d: [u8; 2],
    /// Grid index of each four weights.
    pub qs: [u8; 64],
    /// For each 32 weights a little-endian word of 4 × 7 sign bits and 4 bits `s`.
    pub words: [[u8; 4]; 8],
}

/// IQ3_S: 256 weights in 110 bytes; `w = d * (2s + 1) * GRID[index][j] * sign`, `s` for each 32 weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockIq3S {
    /// f16 bits.
    pub d: [u8; 2],
    /// Low eight bits of the grid index of each four weights.
    pub qs: [u8; 64],
    /// The ninth bits of eight indices.
    pub qh: [u8; 8],
    /// As in [`BlockIq2S`].
    pub signs: [u8; 32],
    /// `s` of two groups: the first in the low nibble.
    pub scales: [u8; 4],
}

/// IQ1_S: 256 weights in 50 bytes; `w = d * (2s + 1) * (GRID[index][j] ± 1/8)`, `s` and the sign for each 32 weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockIq1S {
    /// f16 bits.
    pub d: [u8; 2],
    /// Low eight bits of the grid index of each eight weights.
    pub qs: [u8; 32],
    /// For each 32 weights a little-endian word: high three bits of four indices, three bits `s`, and whether 1/8 is
    /// subtracted.
    pub qh: [[u8; 2]; 8],
}

/// IQ1_M: 256 weights in 56 bytes; as [`BlockIq1S`] with `s` for each 16 and the sign for each eight weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockIq1M {
    /// Low eight bits of the grid index of each eight weights.
    pub qs: [u8; 32],
    /// A nibble for each eight weights: high three bits of the index, and whether 1/8 is subtracted.
    pub qh: [u8; 16],
    /// Four little-endian words: `s` of four halves, three bits each, and four bits of the f16 scale.
    pub scales: [[u8; 2]; 4],
}

/// IQ4_XS: 256 weights in 136 bytes; `w = d * (scale - 32) * IQ4_VALUES[code]`, a scale for each 32 weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockIq4Xs {
    /// f16 bits.
    pub d: [u8; 2],
    /// High two bits of the eight scales.
    pub scales_h: [u8; 2],
    /// Low four bits of two scales, the first in the low nibble.
    pub scales_l: [u8; 4],
    /// Byte `16b + l`: low nibble is element `32b + l`, high nibble element `32b + 16 + l`.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockIq2Xxs>() == 66 && align_of::<BlockIq2Xxs>() == 1);
const _: () = assert!(size_of::<BlockIq2Xs>() == 74 && align_of::<BlockIq2Xs>() == 1);
const _: () = assert!(size_of::<BlockIq2S>() == 82 && align_of::<BlockIq2S>() == 1);
const _: () = assert!(size_of::<BlockIq3Xxs>() == 98 && align_of::<BlockIq3Xxs>() == 1);
const _: () = assert!(size_of::<BlockIq3S>() == 110 && align_of::<BlockIq3S>() == 1);
const _: () = assert!(size_of::<BlockIq1S>() == 50 && align_of::<BlockIq1S>() == 1);
const _: () = assert!(size_of::<BlockIq1M>() == 56 && align_of::<BlockIq1M>() == 1);
const _: () = assert!(size_of::<BlockIq4Xs>() == 136 && align_of::<BlockIq4Xs>() == 1);

/// The magnitude, negative where bit `e % 8` of `signs` is set.
fn signed(magnitude: u8, signs: u8, e: usize) -> i32 {
    i32::from(magnitude) * (1 - 2 * i32::from(signs >> (e % 8) & 1))
}

/// The odd factors of the halves of a group, from nibbles.
fn factors(scales: u8) -> [i32; 2] {
    [scales & 15, scales >> 4].map(|s| 2 * i32::from(s) + 1)
}

impl BlockIq2Xxs {
    /// Of group `g` (0..8): its odd scale factor `2s + 1`, and of its four points the grid row and the signs.
    pub fn points(&self, g: usize) -> (u8, [(&'static [u8; 8], u8); 4]) {
        let [i0, i1, i2, i3, w0, w1, w2, w3] = self.groups[g];
        let word = u32::from_le_bytes([w0, w1, w2, w3]);
        let mut k = 0;
        let points = [i0, i1, i2, i3].map(|index| {
            let signs = even_signs(word >> k);
            k += 7;
            (&IQ2_XXS_GRID[usize::from(index)], signs)
        });
        (2 * (word >> 28) as u8 + 1, points)
    }
}

impl Weights for BlockIq2Xxs {
    const GROUPS: usize = 8;
    fn group(&self, b: usize) -> Group {
        let (factor, points) = self.points(b);
        Group {
            scale: f16_value(self.d) * 0.125 * f32::from(factor),
            q: std::array::from_fn(|e| {
                let (point, signs) = points[e / 8];
                signed(point[e % 8], signs, e)
            }),
            mins: None,
        }
    }
}

impl BlockIq2Xs {
    /// Grid index and signs of point `p` (0..32).
    pub fn point(&self, p: usize) -> (usize, u8) {
        let word = u16::from_le_bytes(self.qs[p]);
        (usize::from(word & 511), even_signs(u32::from(word >> 9)))
    }
}

impl Weights for BlockIq2Xs {
    const GROUPS: usize = 8;
    fn group(&self, b: usize) -> Group {
        let factors = factors(self.scales[b]);
        let points = [0, 1, 2, 3].map(|p| self.point(4 * b + p));
        Group {
            scale: f16_value(self.d) * 0.125,
            q: std::array::from_fn(|e| {
                let (index, signs) = points[e / 8];
                factors[e / 16] * signed(IQ2_XS_EIGHTS.points[index][e % 8], signs, e)
            }),
            mins: None,
        }
    }
}

impl BlockIq2S {
    /// Grid index of point `p` (0..32).
    pub fn index(&self, p: usize) -> usize {
        let high = self.qh[p / 4] >> (p % 4 * 2) & 3;
        usize::from(self.qs[p]) | usize::from(high) << 8
    }
}

impl Weights for BlockIq2S {
    const GROUPS: usize = 8;
    fn group(&self, b: usize) -> Group {
        let factors = factors(self.scales[b]);
        Group {
            scale: f16_value(self.d) * 0.125,
            q: std::array::from_fn(|e| {
                let p = 4 * b + e / 8;
                let magnitude = IQ2_S_EIGHTS.points[self.index(p)][e % 8];
                factors[e / 16] * signed(magnitude, self.signs[p], e)
            }),
            mins: None,
        }
    }
}

impl Weights for BlockIq3Xxs {
    const GROUPS: usize = 8;
    fn group(&self, b: usize) -> Group {
        let word = u32::from_le_bytes(self.words[b]);
        Group {
            scale: f16_value(self.d) * 0.25 * (2 * (word >> 28) + 1) as f32,
            q: std::array::from_fn(|e| {
                let index = self.qs[8 * b + e / 4];
                let signs = even_signs(word >> (e / 8 * 7));
                signed(IQ3_XXS_GRID[usize::from(index)][e % 4], signs, e)
            }),
            mins: None,
        }
    }
}

impl BlockIq3S {
    /// Grid index of point `p` (0..64).
    pub fn index(&self, p: usize) -> usize {
        let ninth = self.qh[p / 8] >> (p % 8) & 1;
        usize::from(self.qs[p]) | usize::from(ninth) << 8
    }
}

impl Weights for BlockIq3S {
    const GROUPS: usize = 8;
    fn group(&self, b: usize) -> Group {
        let s = self.scales[b / 2] >> (b % 2 * 4) & 15;
        Group {
            scale: f16_value(self.d) * f32::from(2 * s + 1),
            q: std::array::from_fn(|e| {
                let magnitude = IQ3_S_GRID[self.index(8 * b + e / 4)][e % 4];
                signed(magnitude, self.signs[4 * b + e / 8], e)
            }),
            mins: None,
        }
    }
}

/// Eight times element `e` of a point of IQ1, one added or subtracted.
fn eighths(index: usize, minus: bool, e: usize) -> i32 {
    i32::from(IQ1_GRID[index][e % 8] as i8) + if minus { -1 } else { 1 }
}

impl Weights for BlockIq1S {
    const GROUPS: usize = 8;
    fn group(&self, b: usize) -> Group {
        let word = u16::from_le_bytes(self.qh[b]);
        Group {
            scale: f16_value(self.d) * 0.125 * f32::from(2 * (word >> 12 & 7) + 1),
            q: std::array::from_fn(|e| {
                let high = word >> (e / 8 * 3) & 7;
                let index = usize::from(self.qs[4 * b + e / 8]) | usize::from(high) << 8;
                eighths(index, word >> 15 == 1, e)
            }),
            mins: None,
        }
    }
}

impl BlockIq1M {
    /// The scale, as f16 bits: the high nibbles of the four words, the first lowest.
    pub fn d(&self) -> [u8; 2] {
        let [a, b, c, d] = self.scales.map(|word| word[1] >> 4);
        [a | b << 4, c | d << 4]
    }

    /// The odd factor of half `h` (0..16).
    pub fn factor(&self, h: usize) -> u8 {
        let word = u16::from_le_bytes(self.scales[h / 4]);
        2 * (word >> (h % 4 * 3) & 7) as u8 + 1
    }

    /// Grid index of point `p` (0..32), and whether 1/8 is subtracted.
    pub fn point(&self, p: usize) -> (usize, bool) {
        let high = self.qh[p / 2] >> (p % 2 * 4) & 15;
        let index = usize::from(self.qs[p]) | usize::from(high & 7) << 8;
        (index, high >> 3 == 1)
    }
}

impl Weights for BlockIq1M {
    const GROUPS: usize = 8;
    fn group(&self, b: usize) -> Group {
        let factors = [0, 1].map(|h| i32::from(self.factor(2 * b + h)));
        Group {
            scale: f16_value(self.d()) * 0.125,
            q: std::array::from_fn(|e| {
                let (index, minus) = self.point(4 * b + e / 8);
                factors[e / 16] * eighths(index, minus, e)
            }),
            mins: None,
        }
    }
}

impl BlockIq4Xs {
    /// The scale of group `b` (0..8), 32 subtracted.
    pub fn scale(&self, b: usize) -> i8 {
        let low = self.scales_l[b / 2] >> (b % 2 * 4) & 15;
        let high = u16::from_le_bytes(self.scales_h) >> (2 * b) & 3;
        (low | (high as u8) << 4) as i8 - 32
    }
}

impl Weights for BlockIq4Xs {
    const GROUPS: usize = 8;
    fn group(&self, b: usize) -> Group {
        let code = |e| self.qs[16 * b + e % 16] >> (e / 16 * 4) & 15;
        Group {
            scale: f16_value(self.d) * f32::from(self.scale(b)),
            q: std::array::from_fn(|e| i32::from(IQ4_VALUES[usize::from(code(e))])),
            mins: None,
        }
    }
}
