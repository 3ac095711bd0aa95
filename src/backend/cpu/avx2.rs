//! FENCE: kernels for x86-64 with AVX2, FMA and F16C.
//!
//! Promise: the table leaves [`kernels`] only on a CPU where these features were detected; inside, the
//! only unsafe steps are unaligned loads and stores through references to arrays of the right size.
//!
//! `float` holds the formats without blocks, `unpack` those with blocks and `product` what is done with them.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::backend::cpu::dispatch::{Activation, Kernels, WeightKernels};
use crate::backend::cpu::table::{float_kernels, kernel, with_blocks};
use crate::backend::cpu::unpack as shape;
use crate::quant::Format;
use crate::quant::cast::Plain;

pub(super) mod float;
mod lanes;
mod product;
mod quantize;
mod unpack;

/// The table, or the names of the features this CPU lacks.
pub fn kernels() -> Result<Kernels, String> {
    let features = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
    ];
    let missing: Vec<_> = features.iter().filter(|f| !f.1).map(|f| f.0).collect();
    if missing.is_empty() {
        Ok(KERNELS)
    } else {
        Err(missing.join(" "))
    }
}

/// Private but for the AVX-512 table, whose features include all of these.
pub(super) const KERNELS: Kernels = Kernels {
    name: "avx2",
    // SAFETY (of every closure here): a table leaves this module only after `kernels` has detected the
    // features that the functions are compiled for.
    weights: with_blocks!(
        "avx2,fma,f16c",
        float_kernels!(),
        Q8_0 Q8_0 |w| unpack::q8_0(w),
        Q2K Q2_K |w| unpack::q2_k(w),
        Q4K Q4_K |w| unpack::q4_k(w),
        Iq2Xxs IQ2_XXS |w| unpack::iq2_xxs(w),
        Mxfp4 MXFP4 |w| unpack::one(lanes::mxfp4(w)),
        Q4_0 Q4_0 |w| unpack::one(lanes::q4_0(w)),
        Q4_1 Q4_1 |w| unpack::one(lanes::q4_1(w)),
        Q5_0 Q5_0 |w| unpack::one(lanes::q5_0(w)),
        Q5_1 Q5_1 |w| unpack::one(lanes::q5_1(w)),
        Iq4Nl IQ4_NL |w| unpack::one(lanes::iq4_nl(w)),
        Q3K Q3_K |w| unpack::one(lanes::q3_k(w)),
        Q5K Q5_K |w| unpack::one(lanes::q5_k(w)),
        Q6K Q6_K |w| unpack::one(lanes::q6_k(w)),
        Iq1S IQ1_S |w| unpack::one(lanes::iq1_s::<USE>(w)),
        Iq1M IQ1_M |w| unpack::one(lanes::iq1_m::<USE>(w)),
        Iq2Xs IQ2_XS |w| unpack::one(lanes::iq2_xs::<USE>(w)),
        Iq2S IQ2_S |w| unpack::one(lanes::iq2_s::<USE>(w)),
        Iq3Xxs IQ3_XXS |w| unpack::one(lanes::iq3_xxs(w)),
        Iq3S IQ3_S |w| unpack::one(lanes::iq3_s(w)),
        Iq4Xs IQ4_XS |w| unpack::one(lanes::iq4_xs(w)),
    ),
    // SAFETY: as above.
    rows_f32: |rows, x, y| unsafe { float::f32_rows(rows, x, y) },
    // SAFETY: as above.
    dot_f32: |a, b| unsafe { float::dot_f32(a, b) },
    // SAFETY: as above.
    axpys: |a, rows, y| unsafe { float::axpys(a, rows, y) },
    // SAFETY: as above.
    quantize_512: |x, out| unsafe { quantize::quantize_512(x, out) },
    // SAFETY: as above.
    f16_to_f32: |x, y| unsafe { float::f16_to_f32(x, y) },
    // SAFETY: as above.
    f32_to_f16: |x, y| unsafe { float::f32_to_f16(x, y) },
};

/// How far ahead of the weights in use others are brought into the second cache, in bytes of one row. The streams of rows
/// are shorter than what the hardware learns from.
pub(super) const AHEAD: usize = 4096;

/// Has what lies [`AHEAD`] of `w` in its row brought into the second cache, and from nearer by into the first.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn prefetch_ahead<B>(w: &B) {
    prefetch::<_MM_HINT_T1, B>(std::ptr::from_ref(w).wrapping_byte_add(AHEAD));
    prefetch::<_MM_HINT_T0, B>(std::ptr::from_ref(w).wrapping_byte_add(1024));
}

/// Has the block at `at` brought near, as `HINT` says.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn prefetch<const HINT: i32, B>(at: *const B) {
    for line in (0..size_of::<B>()).step_by(64) {
        // Any address may be named: nothing is read or written for the program.
        _mm_prefetch::<HINT>(at.wrapping_byte_add(line).cast());
    }
}

/// An array seen as bytes: `N * size_of::<T>()` must be `BYTES`.
#[inline(always)]
pub(super) fn as_bytes<T: Plain, const N: usize, const BYTES: usize>(x: &[T; N]) -> &[u8; BYTES] {
    const { assert!(N * size_of::<T>() == BYTES) };
    // SAFETY: a reference to as many initialised bytes (`T` is `Plain`), of alignment 1.
    unsafe { &*x.as_ptr().cast() }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn load16<T: Plain>(x: &[T; 16]) -> __m128i {
    const { assert!(size_of::<T>() == 1) };
    // SAFETY: `x` is 16 bytes; the load needs no alignment.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn load32<T: Plain>(x: &[T; 32]) -> __m256i {
    const { assert!(size_of::<T>() == 1) };
    // SAFETY: `x` is 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn floats(x: &[f32; 8]) -> __m256 {
    // SAFETY: `x` is 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

/// The value of f16 bits.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn f16(bytes: [u8; 2]) -> f32 {
    let bits = _mm_cvtsi32_si128(i32::from(u16::from_le_bytes(bytes)));
    _mm_cvtss_f32(_mm_cvtph_ps(bits))
}

/// The four sums of lanes that are equal modulo 4.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn fold8(x: __m256) -> __m128 {
    _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x))
}

/// Lanes 2 apart, then 1.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn sum4(x: __m128) -> f32 {
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

/// The sum of each, as [`sum4`] to the bit; four at a time share their steps.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn quad_sums<const T: usize>(quads: [__m128; T]) -> [f32; T] {
    let mut sums = [0.0; T];
    let (fours, rest) = quads.as_chunks::<4>();
    let (sum_fours, sum_rest) = sums.as_chunks_mut::<4>();
    for (sums, [a, b, c, d]) in sum_fours.iter_mut().zip(fours) {
        // Lanes 0 + 2 of a and b, then 1 + 3; and of c and d.
        let ab = _mm_add_ps(_mm_unpacklo_ps(*a, *b), _mm_unpackhi_ps(*a, *b));
        let cd = _mm_add_ps(_mm_unpacklo_ps(*c, *d), _mm_unpackhi_ps(*c, *d));
        let all = _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
        // SAFETY: `sums` is 16 bytes; the store needs no alignment.
        unsafe { _mm_storeu_ps(sums.as_mut_ptr(), all) };
    }
    for (sum, quad) in sum_rest.iter_mut().zip(rest) {
        *sum = sum4(*quad);
    }
    sums
}
