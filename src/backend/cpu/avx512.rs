//! FENCE: kernels for x86-64 with AVX-512 (F, BW, VL), its byte products and shuffles (VNNI, VBMI) and GFNI: Ice Lake,
//! Zen 4 and newer. Each function is compiled for `avx512vl,avx512vnni,avx512vbmi,gfni`, which contain F, BW, AVX2, FMA, F16C.
//!
//! Promise: as in `avx2.rs`, whose table fills what is missing here. `float` holds the formats without blocks,
//! `unpack` those with blocks and `product` what is done with them.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::avx2::{self, fold8};
use crate::backend::cpu::dispatch::{Activation, Kernels, WeightKernels};
use crate::backend::cpu::table::{float_kernels, kernel, with_blocks};
use crate::backend::cpu::unpack as shape;
use crate::quant::Format;
use crate::quant::cast::Plain;

mod float;
mod lanes;
mod product;
mod quantize;
mod unpack;

/// The table, or the names of the features this CPU lacks.
pub fn kernels() -> Result<Kernels, String> {
    avx2::kernels()?;
    let features = [
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512vbmi", is_x86_feature_detected!("avx512vbmi")),
        ("gfni", is_x86_feature_detected!("gfni")),
    ];
    let missing: Vec<_> = features.iter().filter(|f| !f.1).map(|f| f.0).collect();
    if missing.is_empty() {
        Ok(KERNELS)
    } else {
        Err(missing.join(" "))
    }
}

const KERNELS: Kernels = Kernels {
    name: "avx512",
    // SAFETY (of every closure here): the table leaves this module only after `kernels` has detected the
    // features that the functions are compiled for.
    weights: with_blocks!(
        "avx512vl,avx512vnni,avx512vbmi,gfni",
        float_kernels!(),
        Q8_0 Q8_0 |w| unpack::q8_0(w),
        Q2K Q2_K |w| unpack::q2_k(w),
        Q4K Q4_K |w| unpack::q4_k(w),
        Iq2Xxs IQ2_XXS |w| unpack::iq2_xxs(w),
        Mxfp4 MXFP4 |w: &[_; 16]| unpack::two(w, shape::MXFP4, |w| lanes::mxfp4(w)),
        Q4_0 Q4_0 |w: &[_; 16]| unpack::two(w, shape::Q4_0, |w| lanes::q4_0(w)),
        Q4_1 Q4_1 |w: &[_; 16]| unpack::two(w, shape::Q4_1, |w| lanes::q4_1(w)),
        Q5_0 Q5_0 |w: &[_; 16]| unpack::two(w, shape::Q5_0, |w| lanes::q5_0(w)),
        Q5_1 Q5_1 |w: &[_; 16]| unpack::two(w, shape::Q5_1, |w| lanes::q5_1(w)),
        Iq4Nl IQ4_NL |w: &[_; 16]| unpack::two(w, shape::IQ4_NL, |w| lanes::iq4_nl(w)),
        Q3K Q3_K |w: &[_; 2]| unpack::two(w, shape::Q3_K, |w| lanes::q3_k(w)),
        Q5K Q5_K |w: &[_; 2]| unpack::two(w, shape::Q5_K, |w| lanes::q5_k(w)),
        Q6K Q6_K |w: &[_; 2]| unpack::two(w, shape::Q6_K, |w| lanes::q6_k(w)),
        Iq1S IQ1_S |w: &[_; 2]| unpack::in_turn(w, shape::IQ1_S, |w| lanes::iq1_s::<USE>(w)),
        Iq1M IQ1_M |w: &[_; 2]| unpack::in_turn(w, shape::IQ1_M, |w| lanes::iq1_m::<USE>(w)),
        Iq2Xs IQ2_XS |w: &[_; 2]| unpack::in_turn(w, shape::IQ2_XS, |w| lanes::iq2_xs::<USE>(w)),
        Iq2S IQ2_S |w: &[_; 2]| unpack::in_turn(w, shape::IQ2_S, |w| lanes::iq2_s::<USE>(w)),
        Iq3Xxs IQ3_XXS |w: &[_; 2]| unpack::two(w, shape::IQ3_XXS, |w| lanes::iq3_xxs(w)),
        Iq3S IQ3_S |w: &[_; 2]| unpack::two(w, shape::IQ3_S, |w| lanes::iq3_s(w)),
        Iq4Xs IQ4_XS |w: &[_; 2]| unpack::two(w, shape::IQ4_XS, |w| lanes::iq4_xs(w)),
    ),
    // SAFETY: as above.
    rows_f32: |rows, x, y| unsafe { float::f32_rows(rows, x, y) },
    // SAFETY: as above.
    dot_f32: |a, b| unsafe { float::dot_f32(a, b) },
    // SAFETY: as above.
    axpys: |a, rows, y| unsafe { float::axpys(a, rows, y) },
    // SAFETY: as above.
    quantize_512: |x, out| unsafe { quantize::quantize_512(x, out) },
    ..avx2::KERNELS
};

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn load64<T: Plain>(x: &[T; 64]) -> __m512i {
    const { assert!(size_of::<T>() == 1) };
    // SAFETY: `x` is 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// The four sums of lanes that are equal modulo 4.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn fold16(x: __m512) -> __m128 {
    let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(x)));
    fold8(_mm256_add_ps(_mm512_castps512_ps256(x), high))
}
