//! FENCE: the steps of `unpack.rs` on vectors of 64 bytes, and the formats made of them.
//!
//! Promise: as in `avx512.rs`.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::backend::cpu::avx2::{f16, load16, load32};
use crate::backend::cpu::unpack::unpackers;

pub type V = __m512i;
pub const W: usize = 8;

unpackers!("avx512vl,avx512vnni,avx512vbmi,gfni");

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn eights(x: [u64; W]) -> V {
    let [a, b, c, d, e, f, g, h] = x;
    _mm512_setr_epi64(
        a as i64, b as i64, c as i64, d as i64, e as i64, f as i64, g as i64, h as i64,
    )
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn shift_right(x: V, bits: [u64; W]) -> V {
    _mm512_srlv_epi64(x, eights(bits))
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn up<const N: u32>(x: V) -> V {
    _mm512_slli_epi64::<N>(x)
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn down<const N: u32>(x: V) -> V {
    _mm512_srli_epi64::<N>(x)
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn and(x: V, mask: u8) -> V {
    _mm512_and_si512(x, _mm512_set1_epi8(mask as i8))
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn or(a: V, b: V) -> V {
    _mm512_or_si512(a, b)
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn add(a: V, b: V) -> V {
    _mm512_add_epi8(a, b)
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn sub(x: V, n: u8) -> V {
    _mm512_sub_epi8(x, _mm512_set1_epi8(n as i8))
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn lookup(table: &[i8; 16], codes: V) -> V {
    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(load16(table)), codes)
}

/// The bits of byte `4 b + k` for each block `b`, one for each byte of its lane.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn set_bits(bits: &[u8; 32], k: usize) -> __mmask64 {
    // Byte 4 b + k eight times, for b = 0..8.
    let mut index = [0; W];
    for (b, index) in index.iter_mut().enumerate() {
        *index = (4 * b + k) as u64 * (u64::MAX / 255);
    }
    let spread = _mm512_permutexvar_epi8(eights(index), _mm512_castsi256_si512(load32(bits)));
    _mm512_test_epi8_mask(spread, _mm512_set1_epi64(0x8040_2010_0804_0201_u64 as i64))
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn mask(bits: &[u8; 32], _: usize, k: usize) -> V {
    _mm512_movm_epi8(set_bits(bits, k))
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn negate(x: V, bits: &[u8; 32], _: usize, k: usize) -> V {
    _mm512_mask_sub_epi8(x, set_bits(bits, k), _mm512_setzero_si512(), x)
}
