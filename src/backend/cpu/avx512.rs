//! FENCE: kernels for x86-64 with AVX-512 (F, BW, VL), its byte products and shuffles (VNNI, VBMI) and GFNI: Ice Lake,
//! Zen 4 and newer. Each function is compiled for `avx512vl,avx512vnni,avx512vbmi,gfni`, which contain F, BW, AVX2, FMA, F16C.
//!
//! Promise: as in `avx2.rs`, whose table fills what is missing here. `float` holds the formats without blocks,
//! `unpack` those with blocks and `product` what is done with them.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::avx2::{self, fold8};
use crate::backend::cpu::dispatch::{
    Activation, FormatKernel, Kernels, RowsKernel, TileKernel, WeightKernels,
};
use crate::quant::cast::Plain;

mod float;
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
    weights: WeightKernels {
        // SAFETY: as above.
        f32: kernel(
            Activation::F32,
            // SAFETY: as above.
            |rows, x, y| unsafe { float::f32_rows(rows, x, y) },
            // SAFETY: as above.
            |rows, x, y| unsafe { float::f32_tile(rows, x, y) },
        ),
        // SAFETY: as above.
        f16: kernel(
            Activation::F32,
            // SAFETY: as above.
            |rows, x, y| unsafe { float::f16_rows(rows, x, y) },
            // SAFETY: as above.
            |rows, x, y| unsafe { float::f16_tile(rows, x, y) },
        ),
        // SAFETY: as above.
        bf16: kernel(
            Activation::F32,
            // SAFETY: as above.
            |rows, x, y| unsafe { float::bf16_rows(rows, x, y) },
            // SAFETY: as above.
            |rows, x, y| unsafe { float::bf16_tile(rows, x, y) },
        ),
        // SAFETY: as above.
        q8_0: kernel(
            Activation::Block512,
            // SAFETY: as above.
            |rows, x, y| unsafe { q8_0_rows(rows, x, y) },
            // SAFETY: as above.
            |rows, x, y| unsafe { q8_0_tile(rows, x, y) },
        ),
        // SAFETY: as above.
        q4_k: kernel(
            Activation::Block512,
            // SAFETY: as above.
            |rows, x, y| unsafe { q4_k_rows(rows, x, y) },
            // SAFETY: as above.
            |rows, x, y| unsafe { q4_k_tile(rows, x, y) },
        ),
        // SAFETY: as above.
        q2_k: kernel(
            Activation::Block512,
            // SAFETY: as above.
            |rows, x, y| unsafe { q2_k_rows(rows, x, y) },
            // SAFETY: as above.
            |rows, x, y| unsafe { q2_k_tile(rows, x, y) },
        ),
        // SAFETY: as above.
        iq2_xxs: kernel(
            Activation::Block512,
            // SAFETY: as above.
            |rows, x, y| unsafe { iq2_xxs_rows(rows, x, y) },
            // SAFETY: as above.
            |rows, x, y| unsafe { iq2_xxs_tile(rows, x, y) },
        ),
        // SAFETY: as above.
        mxfp4: kernel(
            Activation::Block512,
            // SAFETY: as above.
            |rows, x, y| unsafe { mxfp4_rows(rows, x, y) },
            // SAFETY: as above.
            |rows, x, y| unsafe { mxfp4_tile(rows, x, y) },
        ),
    },
    // SAFETY: as above.
    dot_f32: |a, b| unsafe { float::dot_f32(a, b) },
    // SAFETY: as above.
    axpys: |a, rows, y| unsafe { float::axpys(a, rows, y) },
    // SAFETY: as above.
    quantize_512: |x, out| unsafe { quantize::quantize_512(x, out) },
    ..avx2::KERNELS
};

const fn kernel(activation: Activation, rows: RowsKernel, tile: TileKernel) -> FormatKernel {
    FormatKernel {
        activation,
        rows,
        tile: Some(tile),
    }
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
fn q8_0_rows(rows: &[u8], x: &[u8], y: &mut [f32]) {
    product::rows(rows, x, y, unpack::Q8_0, |w| unpack::q8_0(w));
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
fn q8_0_tile(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    product::tile(rows, x, y, unpack::Q8_0, |w| unpack::q8_0(w));
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
fn q4_k_rows(rows: &[u8], x: &[u8], y: &mut [f32]) {
    product::rows(rows, x, y, unpack::Q4_K, |w| unpack::q4_k(w));
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
fn q4_k_tile(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    product::tile(rows, x, y, unpack::Q4_K, |w| unpack::q4_k(w));
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
fn q2_k_rows(rows: &[u8], x: &[u8], y: &mut [f32]) {
    product::rows(rows, x, y, unpack::Q2_K, |w| unpack::q2_k(w));
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
fn q2_k_tile(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    product::tile(rows, x, y, unpack::Q2_K, |w| unpack::q2_k(w));
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
fn iq2_xxs_rows(rows: &[u8], x: &[u8], y: &mut [f32]) {
    product::rows(rows, x, y, unpack::IQ2_XXS, |w| unpack::iq2_xxs(w));
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
fn iq2_xxs_tile(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    product::tile(rows, x, y, unpack::IQ2_XXS, |w| unpack::iq2_xxs(w));
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
fn mxfp4_rows(rows: &[u8], x: &[u8], y: &mut [f32]) {
    product::rows(rows, x, y, unpack::MXFP4, |w| unpack::mxfp4(w));
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
fn mxfp4_tile(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    product::tile(rows, x, y, unpack::MXFP4, |w| unpack::mxfp4(w));
}

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
