//! Blocks of 32 weights with one scale.

use super::{Group, Weights, f16_value};
use crate::quant::tables::{IQ4_VALUES, MXFP4_VALUES, mxfp4_scale};

/// Q8_0: 32 weights in 34 bytes; `w = d * q`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// f16 bits.
    pub d: [u8; 2],
    /// Quants.
    pub q: [i8; 32],
}

/// Q4_0: 32 weights in 18 bytes; `w = d * (q - 8)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// f16 bits.
    pub d: [u8; 2],
    /// Byte `j`: low nibble is element `j`, high nibble element `j + 16`.
    pub qs: [u8; 16],
}

/// Q4_1: 32 weights in 20 bytes; `w = d * q + m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// f16 bits.
    pub d: [u8; 2],
    /// f16 bits.
    pub m: [u8; 2],
    /// As in [`BlockQ4_0`].
    pub qs: [u8; 16],
}

/// Q5_0: 32 weights in 22 bytes; `w = d * (q - 16)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// f16 bits.
    pub d: [u8; 2],
    /// Bit `e % 8` of byte `e / 8` is the fifth bit of element `e`.
    pub qh: [u8; 4],
    /// The other four, as in [`BlockQ4_0`].
    pub qs: [u8; 16],
}

/// Q5_1: 32 weights in 24 bytes; `w = d * q + m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockQ5_1 {
    /// f16 bits.
    pub d: [u8; 2],
    /// f16 bits.
    pub m: [u8; 2],
    /// As in [`BlockQ5_0`].
    pub qh: [u8; 4],
    /// As in [`BlockQ5_0`].
    pub qs: [u8; 16],
}

/// IQ4_NL: 32 weights in 18 bytes; `w = d * IQ4_VALUES[code]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockIq4Nl {
    /// f16 bits.
    pub d: [u8; 2],
    /// As in [`BlockQ4_0`].
    pub qs: [u8; 16],
}

/// MXFP4: 32 weights in 17 bytes; `w = MXFP4_VALUES[code] * mxfp4_scale(e)`, which is E2M1 times E8M0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockMxfp4 {
    /// Exponent of the scale, biased by 127; 255 makes the block NaN.
    pub e: u8,
    /// Byte `j`: low nibble is element `j`, high nibble element `j + 16`.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ8_0>() == 34 && align_of::<BlockQ8_0>() == 1);
const _: () = assert!(size_of::<BlockQ4_0>() == 18 && align_of::<BlockQ4_0>() == 1);
const _: () = assert!(size_of::<BlockQ4_1>() == 20 && align_of::<BlockQ4_1>() == 1);
const _: () = assert!(size_of::<BlockQ5_0>() == 22 && align_of::<BlockQ5_0>() == 1);
const _: () = assert!(size_of::<BlockQ5_1>() == 24 && align_of::<BlockQ5_1>() == 1);
const _: () = assert!(size_of::<BlockIq4Nl>() == 18 && align_of::<BlockIq4Nl>() == 1);
const _: () = assert!(size_of::<BlockMxfp4>() == 17 && align_of::<BlockMxfp4>() == 1);

/// The four bits of element `e`.
fn nibble(qs: &[u8; 16], e: usize) -> i32 {
    i32::from(qs[e % 16] >> (e / 16 * 4) & 15)
}

/// The fifth bit of element `e`, in its place.
fn fifth(qh: &[u8; 4], e: usize) -> i32 {
    i32::from(qh[e / 8] >> (e % 8) & 1) << 4
}

/// A block without minima.
fn plain(scale: f32, q: impl Fn(usize) -> i32) -> Group {
    Group {
        scale,
        q: std::array::from_fn(q),
        mins: None,
    }
}

/// A block to which `m` is added.
fn above(d: [u8; 2], m: [u8; 2], q: impl Fn(usize) -> i32) -> Group {
    Group {
        mins: Some([-f16_value(m); 2]),
        ..plain(f16_value(d), q)
    }
}

impl Weights for BlockQ8_0 {
    const GROUPS: usize = 1;
    fn group(&self, _: usize) -> Group {
        plain(f16_value(self.d), |e| i32::from(self.q[e]))
    }
}

impl Weights for BlockQ4_0 {
    const GROUPS: usize = 1;
    fn group(&self, _: usize) -> Group {
        plain(f16_value(self.d), |e| nibble(&self.qs, e) - 8)
    }
}

impl Weights for BlockQ4_1 {
    const GROUPS: usize = 1;
    fn group(&self, _: usize) -> Group {
        above(self.d, self.m, |e| nibble(&self.qs, e))
    }
}

impl Weights for BlockQ5_0 {
    const GROUPS: usize = 1;
    fn group(&self, _: usize) -> Group {
        let q = |e| (nibble(&self.qs, e) | fifth(&self.qh, e)) - 16;
        plain(f16_value(self.d), q)
    }
}

impl Weights for BlockQ5_1 {
    const GROUPS: usize = 1;
    fn group(&self, _: usize) -> Group {
        let q = |e| nibble(&self.qs, e) | fifth(&self.qh, e);
        above(self.d, self.m, q)
    }
}

impl Weights for BlockIq4Nl {
    const GROUPS: usize = 1;
    fn group(&self, _: usize) -> Group {
        let q = |e| i32::from(IQ4_VALUES[nibble(&self.qs, e) as usize]);
        plain(f16_value(self.d), q)
    }
}

impl Weights for BlockMxfp4 {
    const GROUPS: usize = 1;
    fn group(&self, _: usize) -> Group {
        let q = |e| i32::from(MXFP4_VALUES[nibble(&self.qs, e) as usize]);
        plain(mxfp4_scale(self.e), q)
    }
}
