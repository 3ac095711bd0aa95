//! FENCE: the formats of weights, 256 columns at a time, as signed bytes in the order of [`Unpacked`].
//!
//! Promise: as in `avx2.rs`.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::lanes::Columns;
use super::product::Unpacked;
use super::{f16, floats, load16, load32};
use crate::backend::cpu::rows::q4_k_scales;
use crate::quant::blocks::{BlockIq2Xxs, BlockQ2K, BlockQ4K, BlockQ8_0};
use crate::quant::cast::Plain;
use crate::quant::tables::IQ2_XXS_GRID;

/// 256 weights that `columns` has unpacked.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub fn one(columns: Columns) -> Unpacked {
    let Columns { bytes, numbers } = columns;
    Unpacked {
        bytes,
        scales: floats(&numbers.scales),
        mins: [floats(&numbers.mins[0]), floats(&numbers.mins[1])],
        factors: [ints(&numbers.factors[0]), ints(&numbers.factors[1])],
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn ints(x: &[i32; 8]) -> __m256i {
    // SAFETY: `x` is 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

/// No minima.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn no_mins() -> [__m256; 2] {
    [_mm256_setzero_ps(); 2]
}

/// No factors.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn no_factors() -> [__m256i; 2] {
    [_mm256_setzero_si256(); 2]
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub fn q8_0(w: &[BlockQ8_0; 8]) -> Unpacked {
    let mut bytes = [_mm256_setzero_si256(); 8];
    for (w, bytes) in fours(w, &mut bytes) {
        for h in 0..2 {
            let q = |i: usize| &w[i].q.as_chunks::<16>().0[h];
            let (a, b) = (pair(q(0), q(2)), pair(q(1), q(3)));
            bytes[2 * h] = _mm256_unpacklo_epi64(a, b);
            bytes[2 * h + 1] = _mm256_unpackhi_epi64(a, b);
        }
    }
    let d = w.map(|w| i16::from_le_bytes(w.d));
    let d = _mm_setr_epi16(d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]);
    Unpacked {
        bytes,
        scales: _mm256_cvtph_ps(d),
        mins: no_mins(),
        factors: no_factors(),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub fn q4_k([w]: &[BlockQ4K; 1]) -> Unpacked {
    let mut bytes = [_mm256_setzero_si256(); 8];
    for (qs, bytes) in
        w.qs.as_chunks::<64>()
            .0
            .iter()
            .zip(bytes.as_chunks_mut::<4>().0)
    {
        // 32 bytes are two blocks, in low nibbles and in high ones.
        let qs = qs.as_chunks::<16>().0;
        for h in 0..2 {
            let [low, high] = nibbles(pair(&qs[h], &qs[h + 2]));
            bytes[2 * h] = _mm256_unpacklo_epi64(low, high);
            bytes[2 * h + 1] = _mm256_unpackhi_epi64(low, high);
        }
    }
    let (scales, mins) = q4_k_scales(&w.scales);
    let times = |d, x: u64| {
        let x = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(x as i64));
        _mm256_mul_ps(_mm256_set1_ps(f16(d)), _mm256_cvtepi32_ps(x))
    };
    Unpacked {
        bytes,
        scales: times(w.d, scales),
        mins: [times(w.dmin, mins); 2],
        factors: no_factors(),
    }
}

/// The scales of 16 weights are whole numbers: they go into the bytes, at most 3 * 15.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub fn q2_k([w]: &[BlockQ2K; 1]) -> Unpacked {
    // Bits 2i of the first 32 bytes are block i, of the others block i + 4.
    let shifts = _mm256_setr_epi64x(0, 2, 4, 6);
    let packed = _mm256_broadcastsi128_si256(load16(&w.scales));
    let scales = _mm256_and_si256(packed, _mm256_set1_epi8(15));
    let mut bytes = [_mm256_setzero_si256(); 8];
    for (g, (qs, bytes)) in
        w.qs.as_chunks::<32>()
            .0
            .iter()
            .zip(bytes.as_chunks_mut::<4>().0)
            .enumerate()
    {
        for h in 0..2 {
            // The scale of each block's half as four words; a byte from 128 on becomes 0.
            let at = |i: usize| (0x8000 + 8 * g + 2 * i + h) as u64 * 0x0001_0001_0001_0001;
            let at = _mm256_setr_epi64x(at(0) as i64, at(1) as i64, at(2) as i64, at(3) as i64);
            let scale = _mm256_shuffle_epi8(scales, at);
            for k in [2 * h, 2 * h + 1] {
                let qs = _mm256_set1_epi64x(i64::from_le_bytes(qs.as_chunks::<8>().0[k]));
                let two_bits = _mm256_and_si256(_mm256_srlv_epi64(qs, shifts), _mm256_set1_epi8(3));
                // No product of a byte reaches the next.
                bytes[k] = _mm256_mullo_epi16(two_bits, scale);
            }
        }
    }
    let mins = _mm_and_si128(_mm_srli_epi16::<4>(load16(&w.scales)), _mm_set1_epi8(15));
    let dmin = _mm256_set1_ps(f16(w.dmin));
    let times = |words| _mm256_mul_ps(dmin, _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(words)));
    Unpacked {
        bytes,
        scales: _mm256_set1_ps(f16(w.d)),
        mins: [
            times(_mm_and_si128(mins, _mm_set1_epi16(255))),
            times(_mm_srli_epi16::<8>(mins)),
        ],
        factors: no_factors(),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub fn iq2_xxs([w]: &[BlockIq2Xxs; 1]) -> Unpacked {
    // A group is a word of four grid indices and one of signs and scale.
    let halves = w.groups.as_flattened().as_chunks::<32>().0;
    let [a, b] = [0, 1].map(|i| _mm256_castsi256_ps(load32(&halves[i])));
    // Of the groups 0 1 4 5 | 2 3 6 7.
    let words = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
    let signs = iq2_xxs_signs(words);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let mut bytes = [_mm256_setzero_si256(); 8];
    for (g, bytes) in bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        for (k, bytes) in bytes.iter_mut().enumerate() {
            let point =
                |i: usize| i64::from_le_bytes(IQ2_XXS_GRID[usize::from(w.groups[4 * g + i][k])]);
            let points = _mm256_setr_epi64x(point(0), point(1), point(2), point(3));
            // Sign byte k of each group, eight times.
            let at = [0, 4].map(|i| (8 * g + k + i) as i64 * 0x0101_0101_0101_0101);
            let at = _mm256_setr_epi64x(at[0], at[1], at[0], at[1]);
            let sign = _mm256_and_si256(_mm256_shuffle_epi8(signs, at), bit);
            let minus = _mm256_cmpeq_epi8(sign, bit);
            *bytes = _mm256_sub_epi8(_mm256_xor_si256(points, minus), minus);
        }
    }
    let factors = _mm256_or_si256(
        _mm256_and_si256(_mm256_srli_epi32::<27>(words), _mm256_set1_epi32(30)),
        _mm256_set1_epi32(1),
    );
    let factors = _mm256_permute4x64_epi64::<0b11_01_10_00>(factors);
    let d = _mm256_set1_ps(f16(w.d) * 0.125);
    Unpacked {
        bytes,
        scales: _mm256_mul_ps(d, _mm256_cvtepi32_ps(factors)),
        mins: no_mins(),
        factors: no_factors(),
    }
}

/// Of words with four fields of seven bits the eight signs of each. The eighth makes their number even.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn iq2_xxs_signs(words: __m256i) -> __m256i {
    let field = |shifted, mask: i32| _mm256_and_si256(shifted, _mm256_set1_epi32(mask));
    let seven = _mm256_or_si256(
        _mm256_or_si256(
            field(words, 0x7f),
            field(_mm256_slli_epi32::<1>(words), 0x7f00),
        ),
        _mm256_or_si256(
            field(_mm256_slli_epi32::<2>(words), 0x7f_0000),
            field(_mm256_slli_epi32::<3>(words), 0x7f00_0000),
        ),
    );
    // The parity of each byte folds into its lowest bit (what shifts in from the next byte stays above it).
    let fold = _mm256_xor_si256(seven, _mm256_srli_epi32::<4>(seven));
    let fold = _mm256_xor_si256(fold, _mm256_srli_epi32::<2>(fold));
    let fold = _mm256_xor_si256(fold, _mm256_srli_epi32::<1>(fold));
    let eighth = _mm256_slli_epi32::<7>(field(fold, 0x0101_0101));
    _mm256_or_si256(seven, eighth)
}

/// Blocks 0..4 and 4..8 with the bytes they become.
#[inline(always)]
fn fours<'a, B>(
    w: &'a [B; 8],
    bytes: &'a mut [__m256i; 8],
) -> impl Iterator<Item = (&'a [B; 4], &'a mut [__m256i; 4])> {
    w.as_chunks().0.iter().zip(bytes.as_chunks_mut().0)
}

/// Low nibbles and high ones of bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn nibbles(bytes: __m256i) -> [__m256i; 2] {
    let mask = _mm256_set1_epi8(15);
    [
        _mm256_and_si256(bytes, mask),
        _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask),
    ]
}

/// `a` in the low half, `b` in the high half.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pair<T: Plain>(a: &[T; 16], b: &[T; 16]) -> __m256i {
    _mm256_set_m128i(load16(b), load16(a))
}
