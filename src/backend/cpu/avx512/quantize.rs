//! FENCE: activations to [`Act512`] with AVX-512, to the bit as [`crate::quant::wide::quantize_512`].
//!
//! Promise: as in `avx512.rs`.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::quant::wide::{Act512, Block, in_blocks, scale_of};

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
pub fn quantize_512(x: &[f32], out: &mut [Act512]) {
    in_blocks(x, out, |x| block(x));
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn block(x: &[f32; 32]) -> Block {
    let [first, second] = [0, 1].map(|h| x.as_chunks::<16>().0[h].as_ptr());
    // SAFETY: 16 values each; the loads need no alignment.
    let x = unsafe { [_mm512_loadu_ps(first), _mm512_loadu_ps(second)] };
    // As bits, a NaN is larger than any number.
    let magnitude = |x| _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fff_ffff));
    let amax = _mm512_reduce_max_epu32(_mm512_max_epu32(magnitude(x[0]), magnitude(x[1])));
    let (d, inverse) = scale_of(f32::from_bits(amax));
    let (mut hi, mut lo, mut halves) = ([0; 32], [0; 32], [0; 2]);
    for (h, x) in x.into_iter().enumerate() {
        let scaled = _mm512_mul_ps(x, _mm512_set1_ps(inverse));
        // Rounded to nearest even; what is no number becomes 0.
        let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(scaled, scaled);
        let q = _mm512_maskz_cvtps_epi32(number, scaled);
        let upper = _mm512_srai_epi32::<7>(_mm512_add_epi32(q, _mm512_set1_epi32(64)));
        let lower = _mm512_sub_epi32(q, _mm512_slli_epi32::<7>(upper));
        store(&mut hi.as_chunks_mut().0[h], _mm512_cvtepi32_epi8(upper));
        store(&mut lo.as_chunks_mut().0[h], _mm512_cvtepi32_epi8(lower));
        halves[h] = _mm512_reduce_add_epi32(q);
    }
    Block { d, hi, lo, halves }
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn store(to: &mut [i8; 16], x: __m128i) {
    // SAFETY: `to` is 16 bytes; the store needs no alignment.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), x) }
}
