//! FENCE: kernels for aarch64 with NEON, and with its products of four bytes (`dotprod`) and of matrices of bytes (`i8mm`)
//! where there are any.
//!
//! Promise: Rust compiles for aarch64 only with NEON; `dotprod` and `i8mm` are used by the tables of [`with_dotprod`]
//! and [`with_i8mm`] only, which leave these on a CPU where they were detected. Inside, the only unsafe steps are loads and stores
//! through references to arrays of the right size, and single instructions that touch registers only.
//!
//! `float` holds the formats without blocks, `unpack` those with blocks, `product` and `pairs` what is done with them. Seen running
//! under emulation only, on Linux; for macOS seen type-checked only. No speed was ever measured.
#![allow(unsafe_code)]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use crate::backend::cpu::dispatch::{
    Activation, FormatKernel, Kernels, RowsKernel, TileKernel, WeightKernels,
};
use crate::backend::cpu::scalar;

mod float;
mod pairs;
mod product;
mod unpack;

/// The table that every aarch64 processor runs.
pub const KERNELS: Kernels = table::<false>("neon");

/// The table with four-byte products, or `None` on a CPU without them.
pub fn with_dotprod() -> Option<Kernels> {
    is_aarch64_feature_detected!("dotprod").then_some(const { table::<true>("neon-dotprod") })
}

/// The table with four-byte products for one vector and products of matrices for several, or `None` on a CPU without them.
pub fn with_i8mm() -> Option<Kernels> {
    let mut kernels = with_dotprod().filter(|_| is_aarch64_feature_detected!("i8mm"))?;
    kernels.name = "neon-i8mm";
    let w = &mut kernels.weights;
    // SAFETY: this table exists only on a CPU where `i8mm` was just detected.
    w.q8_0.tile = Some(|rows, x, y| unsafe { pairs::tile(rows, x, y, |w| unpack::q8_0(w)) });
    // SAFETY: as above.
    w.q4_k.tile = Some(|rows, x, y| unsafe { pairs::tile(rows, x, y, |w| unpack::q4_k(w)) });
    // SAFETY: as above.
    w.q2_k.tile = Some(|rows, x, y| unsafe { pairs::tile(rows, x, y, |w| unpack::q2_k(w)) });
    // SAFETY: as above.
    w.iq2_xxs.tile = Some(|rows, x, y| unsafe { pairs::tile(rows, x, y, |w| unpack::iq2_xxs(w)) });
    // SAFETY: as above.
    w.mxfp4.tile = Some(|rows, x, y| unsafe { pairs::tile(rows, x, y, |w| unpack::mxfp4(w)) });
    Some(kernels)
}

/// With `DOT` only for a CPU that has `dotprod`.
const fn table<const DOT: bool>(name: &'static str) -> Kernels {
    const { assert!(cfg!(target_feature = "neon")) };
    Kernels {
        name,
        // SAFETY (of every closure here): NEON is there, as just asserted, and `dotprod` where DOT is true:
        // such a table leaves this module only after `with_dotprod` has detected it.
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
                |rows, x, y| unsafe { q8_0_rows::<DOT>(rows, x, y) },
                // SAFETY: as above.
                |rows, x, y| unsafe { q8_0_tile::<DOT>(rows, x, y) },
            ),
            // SAFETY: as above.
            q4_k: kernel(
                Activation::Block512,
                // SAFETY: as above.
                |rows, x, y| unsafe { q4_k_rows::<DOT>(rows, x, y) },
                // SAFETY: as above.
                |rows, x, y| unsafe { q4_k_tile::<DOT>(rows, x, y) },
            ),
            // SAFETY: as above.
            q2_k: kernel(
                Activation::Block512,
                // SAFETY: as above.
                |rows, x, y| unsafe { q2_k_rows::<DOT>(rows, x, y) },
                // SAFETY: as above.
                |rows, x, y| unsafe { q2_k_tile::<DOT>(rows, x, y) },
            ),
            // SAFETY: as above.
            iq2_xxs: kernel(
                Activation::Block512,
                // SAFETY: as above.
                |rows, x, y| unsafe { iq2_xxs_rows::<DOT>(rows, x, y) },
                // SAFETY: as above.
                |rows, x, y| unsafe { iq2_xxs_tile::<DOT>(rows, x, y) },
            ),
            // SAFETY: as above.
            mxfp4: kernel(
                Activation::Block512,
                // SAFETY: as above.
                |rows, x, y| unsafe { mxfp4_rows::<DOT>(rows, x, y) },
                // SAFETY: as above.
                |rows, x, y| unsafe { mxfp4_tile::<DOT>(rows, x, y) },
            ),
        },
        // SAFETY: as above.
        dot_f32: |a, b| unsafe { float::dot_f32(a, b) },
        // SAFETY: as above.
        axpys: |a, rows, y| unsafe { float::axpys(a, rows, y) },
        // SAFETY: as above.
        f16_to_f32: |x, y| unsafe { float::f16_to_f32(x, y) },
        // SAFETY: as above.
        f32_to_f16: |x, y| unsafe { float::f32_to_f16(x, y) },
        // The quantiser is the scalar one, which is compiled for NEON too.
        ..scalar::KERNELS
    }
}

const fn kernel(activation: Activation, rows: RowsKernel, tile: TileKernel) -> FormatKernel {
    FormatKernel {
        activation,
        rows,
        tile: Some(tile),
    }
}

#[target_feature(enable = "neon")]
fn q8_0_rows<const DOT: bool>(rows: &[u8], x: &[u8], y: &mut [f32]) {
    product::rows::<DOT, _, _>(rows, x, y, |w| unpack::q8_0(w));
}

#[target_feature(enable = "neon")]
fn q8_0_tile<const DOT: bool>(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    product::tile::<DOT, _, _>(rows, x, y, |w| unpack::q8_0(w));
}

#[target_feature(enable = "neon")]
fn q4_k_rows<const DOT: bool>(rows: &[u8], x: &[u8], y: &mut [f32]) {
    product::rows::<DOT, _, _>(rows, x, y, |w| unpack::q4_k(w));
}

#[target_feature(enable = "neon")]
fn q4_k_tile<const DOT: bool>(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    product::tile::<DOT, _, _>(rows, x, y, |w| unpack::q4_k(w));
}

#[target_feature(enable = "neon")]
fn q2_k_rows<const DOT: bool>(rows: &[u8], x: &[u8], y: &mut [f32]) {
    product::rows::<DOT, _, _>(rows, x, y, |w| unpack::q2_k(w));
}

#[target_feature(enable = "neon")]
fn q2_k_tile<const DOT: bool>(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    product::tile::<DOT, _, _>(rows, x, y, |w| unpack::q2_k(w));
}

#[target_feature(enable = "neon")]
fn iq2_xxs_rows<const DOT: bool>(rows: &[u8], x: &[u8], y: &mut [f32]) {
    product::rows::<DOT, _, _>(rows, x, y, |w| unpack::iq2_xxs(w));
}

#[target_feature(enable = "neon")]
fn iq2_xxs_tile<const DOT: bool>(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    product::tile::<DOT, _, _>(rows, x, y, |w| unpack::iq2_xxs(w));
}

#[target_feature(enable = "neon")]
fn mxfp4_rows<const DOT: bool>(rows: &[u8], x: &[u8], y: &mut [f32]) {
    product::rows::<DOT, _, _>(rows, x, y, |w| unpack::mxfp4(w));
}

#[target_feature(enable = "neon")]
fn mxfp4_tile<const DOT: bool>(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    product::tile::<DOT, _, _>(rows, x, y, |w| unpack::mxfp4(w));
}

#[target_feature(enable = "neon")]
#[inline]
fn load_u8(x: &[u8; 16]) -> uint8x16_t {
    // SAFETY: `x` is 16 bytes; a load of bytes needs no alignment.
    unsafe { vld1q_u8(x.as_ptr()) }
}

/// Four f16 bits to their values. (The type of the intrinsic `vcvt_f32_f16` is newer than this crate's Rust.)
#[target_feature(enable = "neon")]
#[inline]
fn widen_f16(bits: uint16x4_t) -> float32x4_t {
    let values;
    // SAFETY: an instruction every aarch64 processor has; it reads and writes only the registers named.
    unsafe {
        asm!(
            "fcvtl {values:v}.4s, {bits:v}.4h",
            values = lateout(vreg) values,
            bits = in(vreg) bits,
            options(pure, nomem, nostack),
        );
    }
    values
}
