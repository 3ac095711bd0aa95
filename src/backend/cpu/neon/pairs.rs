//! FENCE: as `product.rs`, for two rows and two vectors at a time, with the matrix product of bytes (`i8mm`).
//!
//! Promise: as in `neon.rs`. `smmla` multiplies eight columns of two rows with those of two vectors, each with each:
//!
//! ```text
//!         x0     x1
//! w0    w0·x0  w0·x1        one register of four sums
//! w1    w1·x0  w1·x1
//! ```
//!
//! That is twice the work of a `sdot`, and the sum over a block stands in one lane. The four elements stay beside each other
//! to the end: each has its 16 lanes in 16 registers, and so the order of `wide.rs`. Rows and vectors are laid side by side
//! once for a tile: the former for all vectors, the latter for [`ROWS`] rows. Where one is left over, it is its own neighbour.
//!
//! Counted under emulation, 64 rows of 4096 columns: for 16 vectors 0.65 to 0.70 of the instructions of `product`, and 0.54 to
//! 0.62 of those on vector registers; for 6 vectors 0.74 to 0.83 and 0.56 to 0.73; for 2 or 3 vectors 0.98 to 1.13 and 0.64 to
//! 0.92.
#![allow(unsafe_code)]

use std::arch::aarch64::*;
use std::arch::asm;

use super::product::{Eight, ROWS, Unpacked, eight, piece};
use super::unpack::eights;
use crate::backend::cpu::dispatch::TOKENS;
use crate::backend::cpu::rows::{part, tile_parts};
use crate::quant::cast::Plain;
use crate::quant::wide::{Act512, BLOCKS};
use std::ops::Range;

/// For each of 8 blocks: four times eight columns of the one and of the other.
type Bytes = [[int8x16_t; 4]; 8];

/// For each of 8 blocks: a value of the row or the vector of each of the four elements.
type Values = [float32x4_t; 8];

/// 256 columns of two rows.
struct Rows {
    bytes: Bytes,
    scales: Values,
    mins: Option<[Values; 2]>,
    factors: Option<[[int32x4_t; 8]; 2]>,
}

/// 256 columns of two vectors.
#[derive(Clone, Copy)]
struct Vectors {
    hi: Bytes,
    lo: Bytes,
    d: Values,
    halves: [Values; 2],
}

/// The lanes of four elements.
type Lanes = [float32x4_t; BLOCKS];

/// As [`crate::backend::cpu::dispatch::TileKernel`].
///
/// # Safety
///
/// The CPU has `i8mm`.
#[target_feature(enable = "neon")]
#[inline]
pub unsafe fn tile<B: Plain, const N: usize>(
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
    let mut pairs = [no_vectors(); TOKENS / 2];
    let pairs = &mut pairs[..x.len().div_ceil(2)];
    for (r, rows) in rows.chunks(ROWS * n).enumerate() {
        let mut acc = [[[vdupq_n_f32(0.0); BLOCKS]; TOKENS / 2]; ROWS / 2];
        for s in 0..n.div_ceil(N) {
            for (pair, x) in pairs.iter_mut().zip(x.chunks(2)) {
                *pair = two_vectors(&x[0][s / 2], &x[x.len() - 1][s / 2], s % 2);
            }
            for (rows, acc) in rows.chunks(2 * n).zip(&mut acc) {
                let row = |row| unpack(part(row, s, &mut None));
                let w = two_rows(&row(&rows[..n]), &row(&rows[rows.len() - n..]));
                // SAFETY: by the caller's promise.
                unsafe { step(acc, &w, pairs, s % 2) };
            }
        }
        for (i, acc) in acc.iter().take(rows.len().div_ceil(2 * n)).enumerate() {
            for (y, acc) in y.chunks_mut(2).zip(acc) {
                let found = totals(*acc);
                for (t, y) in y.iter_mut().enumerate() {
                    let y = &mut y[r * ROWS + 2 * i..];
                    y.iter_mut().zip(found).for_each(|(y, row)| *y = row[t]);
                }
            }
        }
    }
}

/// Adds the products of 8 blocks to their lanes, half `h` of them, for all vectors.
///
/// # Safety
///
/// The CPU has `i8mm`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn step(acc: &mut [Lanes; TOKENS / 2], w: &Rows, x: &[Vectors], h: usize) {
    for b in 0..8 {
        for (x, acc) in x.iter().zip(&mut *acc) {
            // SAFETY: by the caller's promise.
            let sums = unsafe {
                match &w.factors {
                    None => byte_sums(w, x, b, 0..4),
                    Some(factors) => {
                        let first = vmulq_s32(byte_sums(w, x, b, 0..2), factors[0][b]);
                        vmlaq_s32(first, byte_sums(w, x, b, 2..4), factors[1][b])
                    }
                }
            };
            let scales = vmulq_f32(w.scales[b], x.d[b]);
            let mut lane = vfmaq_f32(acc[8 * h + b], scales, vcvtq_f32_s32(sums));
            for (min, halves) in w.mins.iter().flatten().zip(&x.halves) {
                lane = vfmsq_f32(lane, min[b], halves[b]);
            }
            acc[8 * h + b] = lane;
        }
    }
}

/// The products of columns `8k..8k + 8` of block `b`, for all `k` of `ks`: at most 32 * 128 * 16,319.
///
/// # Safety
///
/// The CPU has `i8mm`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn byte_sums(w: &Rows, x: &Vectors, b: usize, ks: Range<usize>) -> int32x4_t {
    let mut sums = vdupq_n_s32(0);
    for k in ks.clone() {
        // SAFETY: by the caller's promise.
        sums = unsafe { smmla(sums, w.bytes[b][k], x.hi[b][k]) };
    }
    sums = vshlq_n_s32::<7>(sums);
    for k in ks {
        // SAFETY: by the caller's promise.
        sums = unsafe { smmla(sums, w.bytes[b][k], x.lo[b][k]) };
    }
    sums
}

/// The sums of the lanes, `[row][vector]`: those 8 apart, then 4, 2 and 1.
#[target_feature(enable = "neon")]
#[inline]
fn totals(mut lanes: Lanes) -> [[f32; 2]; 2] {
    for n in [8, 4, 2, 1] {
        (0..n).for_each(|l| lanes[l] = vaddq_f32(lanes[l], lanes[l + n]));
    }
    let mut found = [[0.0; 2]; 2];
    // SAFETY: `found` is four values.
    unsafe { vst1q_f32(found.as_flattened_mut().as_mut_ptr(), lanes[0]) };
    found
}

#[target_feature(enable = "neon")]
#[inline]
fn two_rows(a: &Unpacked, b: &Unpacked) -> Rows {
    // a a b b, for two blocks.
    let spread = |ab| [vzip1q_f32(ab, ab), vzip2q_f32(ab, ab)];
    let mins = a.mins.iter().zip(&b.mins).next();
    // Whole numbers go the same way as bits.
    let bits = |x: [int32x4_t; 2]| [vreinterpretq_f32_s32(x[0]), vreinterpretq_f32_s32(x[1])];
    let ints = |a, b| {
        let mut ints = [vdupq_n_s32(0); 8];
        for (to, from) in ints.iter_mut().zip(values(bits(a), bits(b), spread)) {
            *to = vreinterpretq_s32_f32(from);
        }
        ints
    };
    let factors = match (&a.factors, &b.factors) {
        (Some(a), Some(b)) => Some([ints(a[0], b[0]), ints(a[1], b[1])]),
        _ => None,
    };
    Rows {
        bytes: bytes(|j, k| [a.bytes[j][k], b.bytes[j][k]]),
        scales: values(a.scales, b.scales, spread),
        mins: mins.map(|(a, b)| [0, 1].map(|h| values(a[h], b[h], spread))),
        factors,
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn two_vectors(a: &Act512, b: &Act512, h: usize) -> Vectors {
    // a b a b, for two blocks.
    let spread = |ab| [vget_low_f32(ab), vget_high_f32(ab)].map(|ab| vcombine_f32(ab, ab));
    let floats = |a, b| values(eight(a, h), eight(b, h), spread);
    Vectors {
        hi: bytes(|j, k| [a, b].map(|x| piece(&x.hi[4 * h + k], j))),
        lo: bytes(|j, k| [a, b].map(|x| piece(&x.lo[4 * h + k], j))),
        d: floats(&a.d, &b.d),
        halves: [0, 1].map(|i| floats(&a.halves[i], &b.halves[i])),
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn no_vectors() -> Vectors {
    two_vectors(&Act512::ZERO, &Act512::ZERO, 0)
}

/// From `[j][k]` of both, which hold eight columns of the blocks `2j` and `2j + 1`, as in [`Unpacked`].
#[target_feature(enable = "neon")]
#[inline]
fn bytes(of: impl Fn(usize, usize) -> [int8x16_t; 2]) -> Bytes {
    let mut bytes = [[vdupq_n_s8(0); 4]; 8];
    for (j, blocks) in bytes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        for k in 0..4 {
            let [a, b] = of(j, k);
            [blocks[0][k], blocks[1][k]] = eights(a, b);
        }
    }
    bytes
}

/// From the values of both; `spread` makes of `a b` of two blocks the values for each of them.
#[target_feature(enable = "neon")]
#[inline]
fn values(a: Eight, b: Eight, spread: impl Fn(float32x4_t) -> [float32x4_t; 2]) -> Values {
    let mut values = [vdupq_n_f32(0.0); 8];
    for (values, (a, b)) in values
        .as_chunks_mut::<4>()
        .0
        .iter_mut()
        .zip(a.into_iter().zip(b))
    {
        [values[0], values[1]] = spread(vzip1q_f32(a, b));
        [values[2], values[3]] = spread(vzip2q_f32(a, b));
    }
    values
}

/// `acc` plus the products of two times eight bytes, each of `w` with each of `x`. (The intrinsic `vmmlaq_s32` is not stable
/// yet; for the rest see `sdot`.)
///
/// # Safety
///
/// The CPU has `i8mm`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn smmla(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: by the caller's promise the instruction exists; it touches only the registers named.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "smmla {acc:v}.4s, {w:v}.16b, {x:v}.16b",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}
