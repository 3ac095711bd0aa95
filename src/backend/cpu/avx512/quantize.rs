//! FENCE: activations to [`Act512`] with AVX-512, to the bit as [`crate::quant::wide::quantize_512`].
//!
//! Promise: as in `avx512.rs`.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::quant::encode::scale_of;
use crate::quant::wide::{Act512, place};

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub fn quantize_512(x: &[f32], out: &mut [Act512]) {
    assert!(
        x.len().is_multiple_of(32) && x.len().div_ceil(512) == out.len(),
        "16 blocks of 32 values each"
    );
    for (x, out) in x.chunks(512).zip(&mut *out) {
        let x = x.as_chunks::<32>().0;
        if x.len() < 16 {
            *out = Act512::ZERO;
        }
        out.n_blocks = [x.len() as u32; 16];
        for (b, x) in x.iter().enumerate() {
            block(x, b, out);
        }
    }
    if let ([only], 256) = (out, x.len()) {
        only.repeat_256();
    }
}

/// Sets block `b`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn block(x: &[f32; 32], b: usize, out: &mut Act512) {
    let [first, second] = [0, 1].map(|h| x.as_chunks::<16>().0[h].as_ptr());
    // SAFETY: 16 values each; the loads need no alignment.
    let x = unsafe { [_mm512_loadu_ps(first), _mm512_loadu_ps(second)] };
    // As bits, a NaN is larger than any number.
    let magnitude = |x| _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fff_ffff));
    let amax = _mm512_reduce_max_epu32(_mm512_max_epu32(magnitude(x[0]), magnitude(x[1])));
    let (d, inverse) = scale_of(f32::from_bits(amax));
    let (mut hi, mut lo) = ([0; 32], [0; 32]);
    let mut sum = 0;
    for (h, x) in x.into_iter().enumerate() {
        let scaled = _mm512_mul_ps(x, _mm512_set1_ps(inverse));
        // Rounded to nearest even; what is no number becomes 0.
        let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(scaled, scaled);
        let q = _mm512_maskz_cvtps_epi32(number, scaled);
        let upper = _mm512_srai_epi32::<7>(_mm512_add_epi32(q, _mm512_set1_epi32(64)));
        let lower = _mm512_sub_epi32(q, _mm512_slli_epi32::<7>(upper));
        store(&mut hi.as_chunks_mut().0[h], _mm512_cvtepi32_epi8(upper));
        store(&mut lo.as_chunks_mut().0[h], _mm512_cvtepi32_epi8(lower));
        let half = _mm512_reduce_add_epi32(q);
        out.halves[h][b] = d * half as f32;
        sum += half;
    }
    for k in 0..4 {
        let (vector, _) = place(b, 8 * k);
        out.hi[vector].as_chunks_mut().0[b % 8] = hi.as_chunks::<8>().0[k];
        out.lo[vector].as_chunks_mut().0[b % 8] = lo.as_chunks::<8>().0[k];
    }
    out.d[b] = d;
    out.sums[b] = sum;
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn store(to: &mut [i8; 16], x: __m128i) {
    // SAFETY: `to` is 16 bytes; the store needs no alignment.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), x) }
}
