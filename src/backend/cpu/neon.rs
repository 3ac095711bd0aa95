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

use crate::backend::cpu::dispatch::{Activation, Kernels, WeightKernels};
use crate::backend::cpu::scalar;
use crate::backend::cpu::table::{float_kernels, kernel};
use crate::backend::cpu::unpack as shape;
use crate::quant::Format;

mod float;
mod lanes;
mod pairs;
mod product;
mod unpack;

/// The table that every aarch64 processor runs.
pub const KERNELS: Kernels = table::<false>("neon");

/// The table with four-byte products, or `None` on a CPU without them.
pub fn with_dotprod() -> Option<Kernels> {
    is_aarch64_feature_detected!("dotprod").then_some(const { table::<true>("neon-dotprod") })
}

/// Calls `$with` with all formats that have blocks, and how each is unpacked.
macro_rules! all_blocks {
    ($with:ident, $kernels:expr) => {
        $with!(
            $kernels,
            Q8_0 | w | unpack::q8_0(w),
            Q2K | w | unpack::q2_k(w),
            Q4K | w | unpack::q4_k(w),
            Iq2Xxs | w | unpack::iq2_xxs(w),
            Mxfp4 | w | unpack::one(lanes::mxfp4(w), shape::MXFP4),
            Q4_0 | w | unpack::one(lanes::q4_0(w), shape::Q4_0),
            Q4_1 | w | unpack::one(lanes::q4_1(w), shape::Q4_1),
            Q5_0 | w | unpack::one(lanes::q5_0(w), shape::Q5_0),
            Q5_1 | w | unpack::one(lanes::q5_1(w), shape::Q5_1),
            Iq4Nl | w | unpack::one(lanes::iq4_nl(w), shape::IQ4_NL),
            Q3K | w | unpack::one(lanes::q3_k(w), shape::Q3_K),
            Q5K | w | unpack::one(lanes::q5_k(w), shape::Q5_K),
            Q6K | w | unpack::one(lanes::q6_k(w), shape::Q6_K),
            Iq1S | w | unpack::one(lanes::iq1_s::<USE>(w), shape::IQ1_S),
            Iq1M | w | unpack::one(lanes::iq1_m::<USE>(w), shape::IQ1_M),
            Iq2Xs | w | unpack::one(lanes::iq2_xs::<USE>(w), shape::IQ2_XS),
            Iq2S | w | unpack::one(lanes::iq2_s::<USE>(w), shape::IQ2_S),
            Iq3Xxs | w | unpack::one(lanes::iq3_xxs(w), shape::IQ3_XXS),
            Iq3S | w | unpack::one(lanes::iq3_s(w), shape::IQ3_S),
            Iq4Xs | w | unpack::one(lanes::iq4_xs(w), shape::IQ4_XS),
        )
    };
}

/// The table with four-byte products for one vector and products of matrices for several, or `None` on a CPU without them.
pub fn with_i8mm() -> Option<Kernels> {
    macro_rules! with_pairs {
        ($kernels:expr, $($format:ident $unpack:expr),* $(,)?) => {
            $kernels$(.with_tile(Format::$format, |rows, x, y| {
                #[allow(dead_code)] // most formats do not ask
                const USE: usize = 2;
                // SAFETY: this table exists only on a CPU where `i8mm` was just detected.
                unsafe { pairs::tile(rows, x, y, $unpack) }
            }))*
        };
    }
    let kernels = with_dotprod().filter(|_| is_aarch64_feature_detected!("i8mm"))?;
    Some(Kernels {
        name: "neon-i8mm",
        weights: all_blocks!(with_pairs, kernels.weights),
        ..kernels
    })
}

/// With `DOT` only for a CPU that has `dotprod`.
const fn table<const DOT: bool>(name: &'static str) -> Kernels {
    const { assert!(cfg!(target_feature = "neon")) };
    macro_rules! with_blocks {
        ($kernels:expr, $($format:ident $unpack:expr),* $(,)?) => {
            $kernels$(.with(Format::$format, {
                #[target_feature(enable = "neon")]
                fn rows<const DOT: bool>(rows: &[u8], x: &[u8], y: &mut [f32]) {
                    #[allow(dead_code)] // most formats do not ask
                    const USE: usize = 0;
                    product::rows::<DOT, _, _>(rows, x, y, $unpack);
                }
                #[target_feature(enable = "neon")]
                fn tile<const DOT: bool>(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
                    #[allow(dead_code)] // most formats do not ask
                    const USE: usize = 1;
                    product::tile::<DOT, _, _>(rows, x, y, $unpack);
                }
                kernel(
                    Activation::Block512,
                    // SAFETY: NEON is there, as just asserted, and `dotprod` where DOT is true: such a table leaves
                    // this module only after `with_dotprod` has detected it.
                    |r, x, y| unsafe { rows::<DOT>(r, x, y) },
                    // SAFETY: as above.
                    |r, x, y| unsafe { tile::<DOT>(r, x, y) },
                )
            }))*
        };
    }
    Kernels {
        name,
        weights: all_blocks!(with_blocks, float_kernels!()),
        // SAFETY (of every closure here): NEON is there, as just asserted.
        rows_f32: |rows, x, y| unsafe { float::f32_rows(rows, x, y) },
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
