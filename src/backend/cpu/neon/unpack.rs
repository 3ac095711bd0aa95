//! FENCE: the formats of weights, 256 columns at a time, as signed bytes in the order of [`Unpacked`].
//!
//! Promise: as in `neon.rs`.
#![allow(unsafe_code)]

use std::arch::aarch64::*;

use super::lanes::Columns;
use super::product::{Eight, Unpacked};
use super::{load_u8, widen_f16};
use crate::backend::cpu::rows::q4_k_scales;
use crate::backend::cpu::unpack::{Numbers, Shape};
use crate::quant::blocks::{BlockIq2Xxs, BlockQ2K, BlockQ4K, BlockQ8_0};
use crate::quant::tables::IQ2_XXS_GRID;

/// 256 weights that `columns` has unpacked.
#[target_feature(enable = "neon")]
#[inline]
pub fn one(columns: Columns, shape: Shape) -> Unpacked {
    let mut bytes = no_bytes();
    for (bytes, from) in bytes.as_flattened_mut().iter_mut().zip(columns.bytes) {
        *bytes = vreinterpretq_s8_u8(from);
    }
    let Numbers {
        scales,
        mins: [min_a, min_b],
        factors: [factor_a, factor_b],
    } = columns.numbers;
    Unpacked {
        bytes,
        scales: floats(&scales),
        mins: if shape.mins {
            Some([floats(&min_a), floats(&min_b)])
        } else {
            None
        },
        factors: if shape.factors {
            Some([ints(&factor_a), ints(&factor_b)])
        } else {
            None
        },
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn floats(x: &[f32; 8]) -> Eight {
    // SAFETY: both halves are four values.
    unsafe { [vld1q_f32(x.as_ptr()), vld1q_f32(x[4..].as_ptr())] }
}

#[target_feature(enable = "neon")]
#[inline]
fn ints(x: &[i32; 8]) -> [int32x4_t; 2] {
    // SAFETY: both halves are four values.
    unsafe { [vld1q_s32(x.as_ptr()), vld1q_s32(x[4..].as_ptr())] }
}

#[target_feature(enable = "neon")]
#[inline]
pub fn q8_0(w: &[BlockQ8_0; 8]) -> Unpacked {
    let mut bytes = no_bytes();
    for (bytes, w) in bytes.iter_mut().zip(w.as_chunks::<2>().0) {
        for h in 0..2 {
            let q = |i: usize| load_i8(&w[i].q.as_chunks::<16>().0[h]);
            [bytes[2 * h], bytes[2 * h + 1]] = eights(q(0), q(1));
        }
    }
    let mut d = [0; 8];
    d.iter_mut()
        .zip(w)
        .for_each(|(d, w)| *d = u16::from_le_bytes(w.d));
    // SAFETY: both halves are four words.
    let [a, b] = unsafe { [vld1_u16(d.as_ptr()), vld1_u16(d[4..].as_ptr())] };
    Unpacked {
        bytes,
        scales: [widen_f16(a), widen_f16(b)],
        mins: None,
        factors: None,
    }
}

#[target_feature(enable = "neon")]
#[inline]
pub fn q4_k([w]: &[BlockQ4K; 1]) -> Unpacked {
    let mut bytes = no_bytes();
    for (bytes, qs) in bytes.iter_mut().zip(w.qs.as_chunks::<32>().0) {
        // 32 bytes are two blocks, in low nibbles and in high ones.
        for h in 0..2 {
            let [low, high] = nibbles(load_u8(&qs.as_chunks::<16>().0[h]));
            let (low, high) = (vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high));
            [bytes[2 * h], bytes[2 * h + 1]] = eights(low, high);
        }
    }
    let (scales, mins) = q4_k_scales(&w.scales);
    Unpacked {
        bytes,
        scales: times(w.d, vcreate_u8(scales)),
        mins: Some([times(w.dmin, vcreate_u8(mins)); 2]),
        factors: None,
    }
}

/// The scales of 16 weights are whole numbers: they go into the bytes, at most 3 * 15.
#[target_feature(enable = "neon")]
#[inline]
pub fn q2_k([w]: &[BlockQ2K; 1]) -> Unpacked {
    let mut bytes = no_bytes();
    for (j, bytes) in bytes.iter_mut().enumerate() {
        // Bits 2i of the first 32 bytes are block i, of the others block i + 4.
        let (half, i) = (&w.qs.as_chunks::<32>().0[j / 2], 2 * (j % 2));
        for h in 0..2 {
            let qs = load_u8(&half.as_chunks::<16>().0[h]);
            let block = |i: usize, block: usize| {
                let shift = vdupq_n_s8(-(2 * i as i8));
                let two_bits = vandq_u8(vshlq_u8(qs, shift), vdupq_n_u8(3));
                let scale = vdupq_n_u8(w.scales[2 * block + h] & 15);
                vreinterpretq_s8_u8(vmulq_u8(two_bits, scale))
            };
            let (a, b) = (block(i, 2 * j), block(i + 1, 2 * j + 1));
            [bytes[2 * h], bytes[2 * h + 1]] = eights(a, b);
        }
    }
    let [_, mins] = nibbles(load_u8(&w.scales));
    let d = f16(w.d);
    Unpacked {
        bytes,
        scales: [d, d],
        mins: Some([
            times(w.dmin, vget_low_u8(vuzp1q_u8(mins, mins))),
            times(w.dmin, vget_low_u8(vuzp2q_u8(mins, mins))),
        ]),
        factors: None,
    }
}

#[target_feature(enable = "neon")]
#[inline]
pub fn iq2_xxs([w]: &[BlockIq2Xxs; 1]) -> Unpacked {
    // Eight bytes take the sign byte of one group, eight that of the next; of it byte j the bit j.
    let sign_byte = vcombine_u8(vdup_n_u8(0), vdup_n_u8(4));
    let sign_bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    let d = vmulq_n_f32(f16(w.d), 0.125);
    let mut bytes = no_bytes();
    let mut scales = [d; 2];
    let fours = w.groups.as_chunks::<4>().0;
    for (half, groups) in fours.iter().enumerate() {
        let (signs, factors) = iq2_xxs_words(groups);
        scales[half] = vmulq_f32(d, vcvtq_f32_u32(factors));
        for (pair, group) in groups.as_chunks::<2>().0.iter().enumerate() {
            let bytes = &mut bytes[2 * half + pair];
            for (k, bytes) in bytes.iter_mut().enumerate() {
                let pick = vaddq_u8(sign_byte, vdupq_n_u8((8 * pair + k) as u8));
                let minus = vreinterpretq_s8_u8(vtstq_u8(vqtbl1q_u8(signs, pick), sign_bit));
                let points = vcombine_s8(point(group[0][k]), point(group[1][k]));
                *bytes = vsubq_s8(veorq_s8(points, minus), minus);
            }
        }
    }
    Unpacked {
        bytes,
        scales,
        mins: None,
        factors: None,
    }
}

/// A point of the grid.
#[target_feature(enable = "neon")]
#[inline]
fn point(index: u8) -> int8x8_t {
    vcreate_s8(u64::from_le_bytes(IQ2_XXS_GRID[usize::from(index)]))
}

/// Of four groups: their 16 sign bytes in element order, and their odd scale factors.
#[target_feature(enable = "neon")]
#[inline]
fn iq2_xxs_words(groups: &[[u8; 8]; 4]) -> (uint8x16_t, uint32x4_t) {
    // The second word of each group, in order.
    let (halves, _) = groups.as_flattened().as_chunks::<16>();
    let a = vreinterpretq_u32_u8(load_u8(&halves[0]));
    let b = vreinterpretq_u32_u8(load_u8(&halves[1]));
    let words = vuzp2q_u32(a, b);
    // Four fields of seven bits to the low seven bits of four bytes.
    let field = |shifted, mask| vandq_u32(shifted, vdupq_n_u32(mask));
    let seven = vorrq_u32(
        vorrq_u32(field(words, 0x7f), field(vshlq_n_u32::<1>(words), 0x7f00)),
        vorrq_u32(
            field(vshlq_n_u32::<2>(words), 0x7f_0000),
            field(vshlq_n_u32::<3>(words), 0x7f00_0000),
        ),
    );
    // The eighth sign is the lowest bit of the number of the others.
    let seven = vreinterpretq_u8_u32(seven);
    let signs = vorrq_u8(seven, vshlq_n_u8::<7>(vcntq_u8(seven)));
    let factors = vorrq_u32(field(vshrq_n_u32::<27>(words), 30), vdupq_n_u32(1));
    (signs, factors)
}

#[target_feature(enable = "neon")]
#[inline]
fn no_bytes() -> [[int8x16_t; 4]; 4] {
    [[vdupq_n_s8(0); 4]; 4]
}

/// Of 16 columns of two blocks the first eight of both, then the others.
#[target_feature(enable = "neon")]
#[inline]
pub fn eights(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    let (a, b) = (vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b));
    [
        vreinterpretq_s8_s64(vzip1q_s64(a, b)),
        vreinterpretq_s8_s64(vzip2q_s64(a, b)),
    ]
}

/// Low nibbles, high nibbles.
#[target_feature(enable = "neon")]
#[inline]
fn nibbles(bytes: uint8x16_t) -> [uint8x16_t; 2] {
    [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)]
}

/// A scale in f16 times eight whole numbers.
#[target_feature(enable = "neon")]
#[inline]
fn times(scale: [u8; 2], x: uint8x8_t) -> Eight {
    let (scale, x) = (f16(scale), vmovl_u8(x));
    [
        vmulq_f32(scale, vcvtq_f32_u32(vmovl_u16(vget_low_u16(x)))),
        vmulq_f32(scale, vcvtq_f32_u32(vmovl_high_u16(x))),
    ]
}

/// The value of f16 bits, in each lane.
#[target_feature(enable = "neon")]
#[inline]
fn f16(bytes: [u8; 2]) -> float32x4_t {
    widen_f16(vdup_n_u16(u16::from_le_bytes(bytes)))
}

#[target_feature(enable = "neon")]
#[inline]
fn load_i8(x: &[i8; 16]) -> int8x16_t {
    // SAFETY: `x` is 16 bytes; a load of bytes needs no alignment.
    unsafe { vld1q_s8(x.as_ptr()) }
}
