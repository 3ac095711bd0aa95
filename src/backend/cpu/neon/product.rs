//! FENCE: weights in blocks times [`Act512`], with NEON; see `wide.rs` for what they are.
//!
//! Promise: as in `neon.rs`. A format gives its weights as signed bytes, 256 columns at a time ([`Unpacked`]);
//! everything else stands here once for all formats. `DOT` chooses the byte product, see [`dot`]; the sums are whole numbers
//! and exact, so both give the same bits.
#![allow(unsafe_code)]

use std::arch::aarch64::*;
use std::arch::asm;

use crate::backend::cpu::dispatch::TOKENS;
use crate::backend::cpu::rows::{activations, blocks_in_row, part, tile_parts};
use crate::quant::blocks::blocks;
use crate::quant::cast::Plain;
use crate::quant::wide::Act512;
use std::ops::Range;

/// Rows that meet a part of all vectors while it lies in the first-level cache.
pub const ROWS: usize = 16;

/// 256 weights of a row, which are 8 blocks of 32.
pub struct Unpacked {
    /// As signed bytes: `[j][k]` holds the columns `8k..8k + 8` of the blocks `2j` and `2j + 1`.
    pub bytes: [[int8x16_t; 4]; 4],
    /// Scale of each block.
    pub scales: Eight,
    /// Minima of each block's halves, where the format has them.
    pub mins: Option<[Eight; 2]>,
    /// Factors of each block's halves, where the format has them.
    pub factors: Option<[[int32x4_t; 2]; 2]>,
}

/// A value for each of eight blocks.
pub type Eight = [float32x4_t; 2];

/// Lanes 0..8 and 8..16 of a sum.
type Lanes = [Eight; 2];

/// As [`crate::backend::cpu::dispatch::RowsKernel`].
#[target_feature(enable = "neon")]
#[inline]
pub fn rows<const DOT: bool, B: Plain, const N: usize>(
    rows: &[u8],
    x: &[u8],
    y: &mut [f32],
    unpack: impl Fn(&[B; N]) -> Unpacked,
) {
    let x: &[Act512] = activations(x);
    let (rows, n) = (blocks::<B>(rows), blocks_in_row(x, 8 / N));
    assert_eq!(rows.len(), n * y.len(), "rows of {n} blocks");
    if n == 0 {
        return y.fill(0.0);
    }
    for (row, y) in rows.chunks(n).zip(y) {
        let mut acc = zero_lanes();
        for s in 0..n.div_ceil(N) {
            let mut last = None;
            let w = unpack(part(row, s, &mut last));
            step::<DOT>(&mut acc, &w, x, s);
        }
        *y = total(&acc);
    }
}

/// As [`crate::backend::cpu::dispatch::TileKernel`]. A part of a row is unpacked once and meets the same part of all
/// vectors.
#[target_feature(enable = "neon")]
#[inline]
pub fn tile<const DOT: bool, B: Plain, const N: usize>(
    rows: &[u8],
    x: &[&[u8]],
    y: &mut [&mut [f32]],
    unpack: impl Fn(&[B; N]) -> Unpacked,
) {
    let (vectors, rows, n) = tile_parts::<B>(rows, x, y, 8 / N);
    let x = &vectors[..x.len()];
    if n == 0 {
        return y.iter_mut().for_each(|y| y.fill(0.0));
    }
    for (r, rows) in rows.chunks(ROWS * n).enumerate() {
        let mut acc = [[zero_lanes(); TOKENS]; ROWS];
        for s in 0..n.div_ceil(N) {
            for (row, acc) in rows.chunks(n).zip(&mut acc) {
                let mut last = None;
                let w = unpack(part(row, s, &mut last));
                for (x, acc) in x.iter().zip(acc) {
                    step::<DOT>(acc, &w, x, s);
                }
            }
        }
        for (i, acc) in acc.iter().take(rows.len() / n).enumerate() {
            for (y, acc) in y.iter_mut().zip(acc) {
                y[r * ROWS + i] = total(acc);
            }
        }
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn zero_lanes() -> Lanes {
    [[vdupq_n_f32(0.0); 2]; 2]
}

/// Adds the products of part `s` of a row, 8 blocks, to their lanes.
#[target_feature(enable = "neon")]
#[inline]
fn step<const DOT: bool>(acc: &mut Lanes, w: &Unpacked, x: &[Act512], s: usize) {
    let (x, h) = (&x[s / 2], s % 2);
    let sums = match &w.factors {
        None => byte_sums::<DOT>(w, x, h, 0..4),
        Some(factors) => {
            let (a, b) = (
                byte_sums::<DOT>(w, x, h, 0..2),
                byte_sums::<DOT>(w, x, h, 2..4),
            );
            let both = |i: usize| vmlaq_s32(vmulq_s32(a[i], factors[0][i]), b[i], factors[1][i]);
            [both(0), both(1)]
        }
    };
    let (d, acc) = (eight(&x.d, h), &mut acc[h]);
    for i in 0..2 {
        let scales = vmulq_f32(w.scales[i], d[i]);
        acc[i] = vfmaq_f32(acc[i], scales, vcvtq_f32_s32(sums[i]));
    }
    for (min, halves) in w.mins.iter().flatten().zip(&x.halves) {
        let halves = eight(halves, h);
        for i in 0..2 {
            acc[i] = vfmsq_f32(acc[i], min[i], halves[i]);
        }
    }
}

/// The products of columns `8k..8k + 8` of eight blocks, for all `k` of `ks`.
#[target_feature(enable = "neon")]
#[inline]
fn byte_sums<const DOT: bool>(
    w: &Unpacked,
    x: &Act512,
    h: usize,
    ks: Range<usize>,
) -> [int32x4_t; 2] {
    // Two lanes of each of these blocks: 0 0 1 1, 2 2 3 3, and so on.
    let mut sums = [vdupq_n_s32(0); 4];
    for (j, sum) in sums.iter_mut().enumerate() {
        let (mut hi, mut lo) = (vdupq_n_s32(0), vdupq_n_s32(0));
        for k in ks.clone() {
            hi = dot::<DOT>(hi, w.bytes[j][k], piece(&x.hi[4 * h + k], j));
            lo = dot::<DOT>(lo, w.bytes[j][k], piece(&x.lo[4 * h + k], j));
        }
        *sum = vaddq_s32(vshlq_n_s32::<7>(hi), lo);
    }
    [vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3])]
}

/// Bytes `16j..16j + 16` of a vector: eight columns of the blocks `2j` and `2j + 1`.
#[target_feature(enable = "neon")]
#[inline]
pub fn piece(x: &[i8; 64], j: usize) -> int8x16_t {
    let x = &x.as_chunks::<16>().0[j];
    // SAFETY: `x` is 16 bytes; a load of bytes needs no alignment.
    unsafe { vld1q_s8(x.as_ptr()) }
}

/// Half `h` of a value for each block.
#[target_feature(enable = "neon")]
#[inline]
pub fn eight(x: &[f32; 16], h: usize) -> Eight {
    let x = &x.as_chunks::<8>().0[h].as_chunks::<4>().0;
    // SAFETY: both are four values.
    unsafe { [vld1q_f32(x[0].as_ptr()), vld1q_f32(x[1].as_ptr())] }
}

/// The sum of the lanes: those 8 apart, then 4, 2 and 1.
#[target_feature(enable = "neon")]
#[inline]
fn total([low, high]: &Lanes) -> f32 {
    let eight = [vaddq_f32(low[0], high[0]), vaddq_f32(low[1], high[1])];
    let four = vaddq_f32(eight[0], eight[1]);
    let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    vpadds_f32(two)
}

/// `acc` plus 16 products of signed bytes, in each lane those of four; exact for all `w`, and `x` from -127.
///
/// Without `DOT` the sums of two products reach 2 * 128 * 127, which fits 16 bits.
#[target_feature(enable = "neon")]
#[inline]
fn dot<const DOT: bool>(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    if DOT {
        // SAFETY: `DOT` is true in the table of `with_dotprod` only, which detected the instruction.
        unsafe { sdot(acc, w, x) }
    } else {
        let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
        let high = vmull_high_s8(w, x);
        vpadalq_s16(acc, vpaddq_s16(low, high))
    }
}

/// `acc` plus the products of each four bytes. (The intrinsic `vdotq_s32` is not stable yet.)
///
/// Not compiled for `dotprod`, but told to the assembler: so it can be inlined into NEON functions.
///
/// # Safety
///
/// The CPU has `dotprod`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn sdot(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: by the caller's promise the instruction exists; it touches only the registers named.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.16b",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}
