//! FENCE: activations to blocks with AVX2, to the bit as [`crate::quant::wide`] says.
//!
//! Promise: as in `avx2.rs`.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::quant::wide::{Act512, Block, in_blocks, scale_of};

#[target_feature(enable = "avx2,fma,f16c")]
pub fn quantize_512(x: &[f32], out: &mut [Act512]) {
    in_blocks(x, out, |x| block(x));
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn block(x: &[f32; 32]) -> Block {
    let mut values = [_mm256_setzero_ps(); 4];
    let mut largest = _mm256_setzero_si256();
    for (value, x) in values.iter_mut().zip(x.as_chunks::<8>().0) {
        *value = super::floats(x);
        // As bits, a NaN is larger than any number.
        let bits = _mm256_castps_si256(*value);
        let magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fff_ffff));
        largest = _mm256_max_epu32(largest, magnitude);
    }
    let (d, inverse) = scale_of(f32::from_bits(max8(largest)));
    let (mut upper, mut lower) = ([_mm256_setzero_si256(); 4], [_mm256_setzero_si256(); 4]);
    let mut halves = [_mm256_setzero_si256(); 2];
    for (i, value) in values.into_iter().enumerate() {
        let scaled = _mm256_mul_ps(value, _mm256_set1_ps(inverse));
        // Rounded to nearest even; what is no number becomes 0.
        let number = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_ORD_Q>(scaled, scaled));
        let q = _mm256_and_si256(_mm256_cvtps_epi32(scaled), number);
        upper[i] = _mm256_srai_epi32::<7>(_mm256_add_epi32(q, _mm256_set1_epi32(64)));
        lower[i] = _mm256_sub_epi32(q, _mm256_slli_epi32::<7>(upper[i]));
        halves[i / 2] = _mm256_add_epi32(halves[i / 2], q);
    }
    let both = _mm256_hadd_epi32(halves[0], halves[1]);
    let both = _mm_add_epi32(
        _mm256_castsi256_si128(both),
        _mm256_extracti128_si256::<1>(both),
    );
    let both = _mm_hadd_epi32(both, both);
    Block {
        d,
        hi: narrow(upper),
        lo: narrow(lower),
        halves: [_mm_extract_epi32::<0>(both), _mm_extract_epi32::<1>(both)],
    }
}

/// 32 values as bytes, in order.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn narrow([a, b, c, d]: [__m256i; 4]) -> [i8; 32] {
    let words = [_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d)];
    // Four values of a b c d, and again.
    let mixed = _mm256_packs_epi16(words[0], words[1]);
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let mut bytes = [0; 32];
    // SAFETY: `bytes` is 32 bytes; the store needs no alignment.
    unsafe {
        _mm256_storeu_si256(
            bytes.as_mut_ptr().cast(),
            _mm256_permutevar8x32_epi32(mixed, order),
        );
    }
    bytes
}

/// The largest of eight unsigned numbers.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn max8(x: __m256i) -> u32 {
    let x = _mm_max_epu32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_max_epu32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    let x = _mm_max_epu32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x));
    _mm_cvtsi128_si32(x) as u32
}
