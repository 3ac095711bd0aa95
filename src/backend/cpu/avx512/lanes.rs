//! FENCE: the steps of `unpack.rs` on vectors of 64 bytes, and the formats made of them.
//!
//! Promise: as in `avx512.rs`.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::load64;
use super::unpack::{IQ2_POINTS, bit_matrix, byte_of_256, spread};
use crate::backend::cpu::avx2::{f16, load16, load32};
use crate::backend::cpu::unpack::unpackers;

pub type V = __m512i;
pub const W: usize = 8;

use crate::quant::grids::IQ1_CODES;

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
fn sixteens<'a>(of: impl Fn(usize) -> &'a [u8; 16]) -> [V; 2] {
    let mut fours = [_mm512_setzero_si512(); 2];
    for (h, four) in fours.iter_mut().enumerate() {
        let two = |i: usize| {
            let low = _mm256_castsi128_si256(load16(of(4 * h + i)));
            _mm256_inserti128_si256::<1>(low, load16(of(4 * h + i + 1)))
        };
        *four = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(two(0)), two(2));
    }
    let even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
    let odd = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
    [
        _mm512_permutex2var_epi64(fours[0], even, fours[1]),
        _mm512_permutex2var_epi64(fours[0], odd, fours[1]),
    ]
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
fn splat(n: u8) -> V {
    _mm512_set1_epi8(n as i8)
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn and(x: V, mask: u8) -> V {
    _mm512_and_si512(x, splat(mask))
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
    _mm512_sub_epi8(x, splat(n))
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

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn eights_of<const N: usize, const USE: usize>(
    grid: &'static Eights<N>,
    index: &[u16; 32],
) -> [V; 32 / W] {
    let codes = codes_of::<N, USE>(grid.codes, index);
    let mut points = [_mm512_setzero_si512(); 4];
    for (k, points) in points.iter_mut().enumerate() {
        *points = spread::<8>(codes, k, IQ2_POINTS);
    }
    points
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn iq1_points<const USE: usize, const M: bool>(index: &[u16; 32]) -> [V; 32 / W] {
    // -8 of code 0; 0 and 8 differ from it by the bits 0xf8 and 0xf0.
    const POINTS: i64 = bit_matrix(&[0, 0, 0, 0b01, 0b11, 0b11, 0b11, 0b11]);
    let codes = codes_of::<_, USE>(&IQ1_CODES, index);
    let mut points = [_mm512_setzero_si512(); 4];
    for (k, points) in points.iter_mut().enumerate() {
        *points = spread::<0xf8>(codes, k, POINTS);
    }
    points
}

/// The codes of points, 64 of a grid looked up at a time: 32 steps for a grid of 1,024, where a load for each point, and
/// what brings them together, takes twice the time.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn codes_of<const N: usize, const USE: usize>(grid: &'static [u16; N], index: &[u16; 32]) -> V {
    let index = words(index);
    let bit = |n: i16| _mm512_test_epi16_mask(index, _mm512_set1_epi16(n));
    let mut codes = [_mm512_setzero_si512(); 16];
    let second = bit(64);
    for (codes, [a, b, c, d]) in codes.iter_mut().zip(grid.as_chunks::<32>().0.as_chunks().0) {
        let first = _mm512_permutex2var_epi16(words(a), index, words(b));
        let other = _mm512_permutex2var_epi16(words(c), index, words(d));
        *codes = _mm512_mask_blend_epi16(second, first, other);
    }
    // Of each two the one that the next bit of the index says. Loops of fixed length, which are unrolled.
    for level in 0..4 {
        let (n, second) = ((N / 128) >> level, bit(128 << level));
        for i in 0..8 {
            if 2 * i + 1 < n {
                codes[i] = _mm512_mask_blend_epi16(second, codes[2 * i], codes[2 * i + 1]);
            }
        }
    }
    codes[0]
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn words(x: &[u16; 32]) -> V {
    // SAFETY: `x` is 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// The bytes of the points are looked up one plane after the other, then laid side by side: some 40 steps, where a load for
/// each point takes some 200.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn fours(grid: &'static Fours, low: &[u8; 64], ninth: &[u8; 8]) -> [V; 32 / W] {
    let index = load64(low);
    let (eighth, ninth) = (_mm512_movepi8_mask(index), u64::from_le_bytes(*ninth));
    let mut planes = [_mm512_setzero_si512(); 4];
    for (to, plane) in planes.iter_mut().zip(&grid.planes) {
        let [a, b] = plane.as_chunks::<4>().0 else {
            return planes;
        };
        let (a, b) = (byte_of_256(a, index, eighth), byte_of_256(b, index, eighth));
        *to = _mm512_mask_blend_epi8(ninth, a, b);
    }
    let [a, b, c, d] = planes;
    // Words of the points 0 to 3 of each 16, then 4 to 7, 8 to 11, 12 to 15.
    let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
    let (p0, p4) = (_mm512_unpacklo_epi16(ab, cd), _mm512_unpackhi_epi16(ab, cd));
    let (ab, cd) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
    let (p8, p12) = (_mm512_unpacklo_epi16(ab, cd), _mm512_unpackhi_epi16(ab, cd));
    // Two words are eight columns; a block has eight words, so 16 are two blocks.
    [
        _mm512_unpacklo_epi64(p0, p8),
        _mm512_unpackhi_epi64(p0, p8),
        _mm512_unpacklo_epi64(p4, p12),
        _mm512_unpackhi_epi64(p4, p12),
    ]
}
