//! The K formats: blocks of 256 weights with scales of 4, 6 or 8 bits for their parts.

use super::{Group, Weights, f16_value};

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

/// Q3_K: 256 weights in 110 bytes, 16 sub-blocks of 16; `w = d * (scale - 32) * (q - 4)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockQ3K {
    /// Bit `b` of byte `l` is the third bit of element `32b + l`.
    pub hmask: [u8; 32],
    /// The other two, as in [`BlockQ2K`].
    pub qs: [u8; 64],
    /// 16 scales of 6 bits, see [`BlockQ3K::scale`].
    pub scales: [u8; 12],
    /// f16 bits.
    pub d: [u8; 2],
}

/// Q4_K: 256 weights in 144 bytes, eight sub-blocks of 32; `w = d * scale * q - dmin * min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockQ4K {
    /// f16 bits.
    pub d: [u8; 2],
    /// f16 bits.
    pub dmin: [u8; 2],
    /// Eight scales and eight minima of 6 bits.
    ///
    /// ```text
    /// byte     bits 7..6         bits 5..0            k = 0..3
    /// k        scale[k+4] 5..4   scale[k]
    /// k + 4    min[k+4]   5..4   min[k]
    /// k + 8    min[k+4]   3..0 (bits 7..4), scale[k+4] 3..0 (bits 3..0)
    /// ```
    pub scales: [u8; 12],
    /// Byte `32c + l`: low nibble is element `64c + l`, high nibble element `64c + 32 + l`.
    pub qs: [u8; 128],
}

/// Q5_K: 256 weights in 176 bytes, eight sub-blocks of 32; `w = d * scale * q - dmin * min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockQ5K {
    /// f16 bits.
    pub d: [u8; 2],
    /// f16 bits.
    pub dmin: [u8; 2],
    /// As in [`BlockQ4K`].
    pub scales: [u8; 12],
    /// Bit `b` of byte `l` is the fifth bit of element `32b + l`.
    pub qh: [u8; 32],
    /// The other four, as in [`BlockQ4K`].
    pub qs: [u8; 128],
}

/// Q6_K: 256 weights in 210 bytes, 16 sub-blocks of 16; `w = d * scale * (q - 32)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockQ6K {
    /// Byte `64a + 32i + l`: low nibble is of element `128a + 32i + l`, high nibble of the element 64 above.
    pub ql: [u8; 128],
    /// Byte `32a + l`: bits `2j, 2j + 1` are the upper two of element `128a + 32j + l`.
    pub qh: [u8; 64],
    /// One for each 16 weights.
    pub scales: [i8; 16],
    /// f16 bits.
    pub d: [u8; 2],
}

const _: () = assert!(size_of::<BlockQ2K>() == 84 && align_of::<BlockQ2K>() == 1);
const _: () = assert!(size_of::<BlockQ3K>() == 110 && align_of::<BlockQ3K>() == 1);
const _: () = assert!(size_of::<BlockQ4K>() == 144 && align_of::<BlockQ4K>() == 1);
const _: () = assert!(size_of::<BlockQ5K>() == 176 && align_of::<BlockQ5K>() == 1);
const _: () = assert!(size_of::<BlockQ6K>() == 210 && align_of::<BlockQ6K>() == 1);

/// The 6-bit scales and minima of the eight sub-blocks, see [`BlockQ4K::scales`].
fn scales_mins(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for k in 0..4 {
        let [s, m, low] = [packed[k], packed[k + 4], packed[k + 8]];
        scales[k] = s & 63;
        mins[k] = m & 63;
        scales[k + 4] = (low & 15) | ((s >> 6) << 4);
        mins[k + 4] = (low >> 4) | ((m >> 6) << 4);
    }
    (scales, mins)
}

/// The two bits of element `e` of Q2_K and Q3_K, and the upper two of Q6_K.
fn two_bits(qs: &[u8; 64], e: usize) -> i32 {
    i32::from(qs[e / 128 * 32 + e % 32] >> (e / 32 % 4 * 2) & 3)
}

/// The four bits of element `e` of Q4_K and Q5_K.
fn four_bits(qs: &[u8; 128], e: usize) -> i32 {
    i32::from(qs[e / 64 * 32 + e % 32] >> (e / 32 % 2 * 4) & 15)
}

/// Bit `e / 32` of byte `e % 32`.
fn one_bit(bits: &[u8; 32], e: usize) -> i32 {
    i32::from(bits[e % 32] >> (e / 32) & 1)
}

impl BlockQ3K {
    /// Scale `k` of 16, with 32 added: the low four bits are nibbles of the first eight bytes, the high two those of the
    /// last four.
    pub fn scale(&self, k: usize) -> u8 {
        let low = self.scales[k % 8] >> (k / 8 * 4) & 15;
        let high = self.scales[8 + k % 4] >> (k / 4 * 2) & 3;
        low | high << 4
    }
}

/// The scales of the halves are whole numbers: they go into the quants.
impl Weights for BlockQ2K {
    const GROUPS: usize = 8;
    fn group(&self, b: usize) -> Group {
        let halves = [0, 1].map(|h| self.scales[2 * b + h]);
        Group {
            scale: f16_value(self.d),
            q: std::array::from_fn(|e| {
                i32::from(halves[e / 16] & 15) * two_bits(&self.qs, 32 * b + e)
            }),
            mins: Some(halves.map(|half| f16_value(self.dmin) * f32::from(half >> 4))),
        }
    }
}

/// The scales of the halves are whole numbers: they go into the quants.
impl Weights for BlockQ3K {
    const GROUPS: usize = 8;
    fn group(&self, b: usize) -> Group {
        let halves = [0, 1].map(|h| i32::from(self.scale(2 * b + h)) - 32);
        let q = |e| two_bits(&self.qs, e) + 4 * one_bit(&self.hmask, e) - 4;
        Group {
            scale: f16_value(self.d),
            q: std::array::from_fn(|e| halves[e / 16] * q(32 * b + e)),
            mins: None,
        }
    }
}

impl Weights for BlockQ4K {
    const GROUPS: usize = 8;
    fn group(&self, b: usize) -> Group {
        let (scales, mins) = scales_mins(&self.scales);
        Group {
            scale: f16_value(self.d) * f32::from(scales[b]),
            q: std::array::from_fn(|e| four_bits(&self.qs, 32 * b + e)),
            mins: Some([f16_value(self.dmin) * f32::from(mins[b]); 2]),
        }
    }
}

impl Weights for BlockQ5K {
    const GROUPS: usize = 8;
    fn group(&self, b: usize) -> Group {
        let (scales, mins) = scales_mins(&self.scales);
        let q = |e| four_bits(&self.qs, e) + 16 * one_bit(&self.qh, e);
        Group {
            scale: f16_value(self.d) * f32::from(scales[b]),
            q: std::array::from_fn(|e| q(32 * b + e)),
            mins: Some([f16_value(self.dmin) * f32::from(mins[b]); 2]),
        }
    }
}

/// The scales of the halves are whole numbers: they go into the quants.
impl Weights for BlockQ6K {
    const GROUPS: usize = 8;
    fn group(&self, b: usize) -> Group {
        let halves = [0, 1].map(|h| i32::from(self.scales[2 * b + h]));
        let q = |e: usize| {
            let low = self.ql[e / 128 * 64 + e % 64] >> (e / 64 % 2 * 4) & 15;
            i32::from(low) + 16 * two_bits(&self.qh, e) - 32
        };
        Group {
            scale: f16_value(self.d),
            q: std::array::from_fn(|e| halves[e / 16] * q(32 * b + e)),
            mins: None,
        }
    }
}
