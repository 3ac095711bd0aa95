//! FENCE: the steps of `unpack.rs` on vectors of 16 bytes, and the formats made of them.
//!
//! Promise: as in `neon.rs`.
#![allow(unsafe_code)]

use std::arch::aarch64::*;

use super::load_u8;
use crate::backend::cpu::unpack::{points_by_loads, unpackers};

pub type V = uint8x16_t;
pub const W: usize = 2;

unpackers!("neon");
points_by_loads!("neon");

#[target_feature(enable = "neon")]
#[inline]
fn eights([a, b]: [u64; W]) -> V {
    vcombine_u8(vcreate_u8(a), vcreate_u8(b))
}

#[target_feature(enable = "neon")]
#[inline]
fn sixteens<'a>(of: impl Fn(usize) -> &'a [u8; 16]) -> [V; 2] {
    let a = vreinterpretq_u64_u8(load_u8(of(0)));
    let b = vreinterpretq_u64_u8(load_u8(of(1)));
    [
        vreinterpretq_u8_u64(vzip1q_u64(a, b)),
        vreinterpretq_u8_u64(vzip2q_u64(a, b)),
    ]
}

#[target_feature(enable = "neon")]
#[inline]
fn shift_right(x: V, [a, b]: [u64; W]) -> V {
    // Shifts to the left by negative numbers.
    let counts = vcombine_s64(vcreate_s64(a.wrapping_neg()), vcreate_s64(b.wrapping_neg()));
    vreinterpretq_u8_u64(vshlq_u64(vreinterpretq_u64_u8(x), counts))
}

#[target_feature(enable = "neon")]
#[inline]
fn up<const N: i32>(x: V) -> V {
    vreinterpretq_u8_u64(vshlq_n_u64::<N>(vreinterpretq_u64_u8(x)))
}

#[target_feature(enable = "neon")]
#[inline]
fn down<const N: i32>(x: V) -> V {
    vreinterpretq_u8_u64(vshrq_n_u64::<N>(vreinterpretq_u64_u8(x)))
}

#[target_feature(enable = "neon")]
#[inline]
fn splat(n: u8) -> V {
    vdupq_n_u8(n)
}

#[target_feature(enable = "neon")]
#[inline]
fn and(x: V, mask: u8) -> V {
    vandq_u8(x, splat(mask))
}

#[target_feature(enable = "neon")]
#[inline]
fn or(a: V, b: V) -> V {
    vorrq_u8(a, b)
}

#[target_feature(enable = "neon")]
#[inline]
fn add(a: V, b: V) -> V {
    vaddq_u8(a, b)
}

#[target_feature(enable = "neon")]
#[inline]
fn sub(x: V, n: u8) -> V {
    vsubq_u8(x, splat(n))
}

#[target_feature(enable = "neon")]
#[inline]
fn lookup(table: &[i8; 16], codes: V) -> V {
    // SAFETY: `table` is 16 bytes; a load of bytes needs no alignment.
    let table = unsafe { vld1q_s8(table.as_ptr()) };
    vreinterpretq_u8_s8(vqtbl1q_s8(table, codes))
}

#[target_feature(enable = "neon")]
#[inline]
fn mask(bits: &[u8; 32], first: usize, k: usize) -> V {
    // Of four blocks' bytes, byte 4 i + k of two blocks eight times.
    let i = first % 4;
    let index = vcombine_u8(
        vdup_n_u8((4 * i + k) as u8),
        vdup_n_u8((4 * i + 4 + k) as u8),
    );
    let bits = load_u8(&bits.as_chunks::<16>().0[first / 4]);
    let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    vtstq_u8(vqtbl1q_u8(bits, index), bit)
}

#[target_feature(enable = "neon")]
#[inline]
fn negate(x: V, bits: &[u8; 32], first: usize, k: usize) -> V {
    let minus = mask(bits, first, k);
    vsubq_u8(veorq_u8(x, minus), minus)
}

/// The value of f16 bits.
#[target_feature(enable = "neon")]
#[inline]
fn f16(bytes: [u8; 2]) -> f32 {
    vgetq_lane_f32::<0>(super::widen_f16(vdup_n_u16(u16::from_le_bytes(bytes))))
}
