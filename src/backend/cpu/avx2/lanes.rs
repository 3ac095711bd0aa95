//! FENCE: the steps of `unpack.rs` on vectors of 32 bytes, and the formats made of them.
//!
//! Promise: as in `avx2.rs`.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{f16, load16};
use crate::backend::cpu::unpack::{points_by_loads, unpackers};

pub type V = __m256i;
pub const W: usize = 4;

unpackers!("avx2,fma,f16c");
points_by_loads!("avx2,fma,f16c");

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn eights(x: [u64; W]) -> V {
    let [a, b, c, d] = x;
    _mm256_setr_epi64x(a as i64, b as i64, c as i64, d as i64)
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sixteens<'a>(of: impl Fn(usize) -> &'a [u8; 16]) -> [V; 2] {
    let pair =
        |a, b| _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load16(of(a))), load16(of(b)));
    let (a, b) = (pair(0, 2), pair(1, 3));
    [_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)]
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn shift_right(x: V, bits: [u64; W]) -> V {
    _mm256_srlv_epi64(x, eights(bits))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn up<const N: i32>(x: V) -> V {
    _mm256_slli_epi64::<N>(x)
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn down<const N: i32>(x: V) -> V {
    _mm256_srli_epi64::<N>(x)
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn splat(n: u8) -> V {
    _mm256_set1_epi8(n as i8)
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn and(x: V, mask: u8) -> V {
    _mm256_and_si256(x, splat(mask))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn or(a: V, b: V) -> V {
    _mm256_or_si256(a, b)
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add(a: V, b: V) -> V {
    _mm256_add_epi8(a, b)
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sub(x: V, n: u8) -> V {
    _mm256_sub_epi8(x, splat(n))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn lookup(table: &[i8; 16], codes: V) -> V {
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load16(table)), codes)
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn mask(bits: &[u8; 32], first: usize, k: usize) -> V {
    // Of the four blocks' bytes, byte 4 i + k eight times.
    let mut index = [0; W];
    for (i, index) in index.iter_mut().enumerate() {
        *index = (4 * i + k) as u64 * (u64::MAX / 255);
    }
    let bits = _mm256_broadcastsi128_si256(load16(&bits.as_chunks::<16>().0[first / 4]));
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let set = _mm256_and_si256(_mm256_shuffle_epi8(bits, eights(index)), bit);
    _mm256_cmpeq_epi8(set, bit)
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn negate(x: V, bits: &[u8; 32], first: usize, k: usize) -> V {
    let minus = mask(bits, first, k);
    _mm256_sub_epi8(_mm256_xor_si256(x, minus), minus)
}
