//! FENCE: weights in floating point times f32, 16 columns a step, and vectors of f32 and f16, with NEON.
//!
//! Promise: as in `neon.rs`.
#![allow(unsafe_code)]

use std::arch::aarch64::*;
use std::arch::asm;

use super::{load_u8, widen_f16};
use crate::backend::cpu::rows::{cut, in_groups, in_tiles, vectors};
use crate::quant::cast::to_bytes;

/// 16 values.
type Sixteen = [float32x4_t; 4];

#[target_feature(enable = "neon")]
fn f32_some<const R: usize, const T: usize>(rows: &[u8], x: [&[u8]; T], y: [&mut [f32]; T]) {
    float_tile::<R, T, 64>(rows, x, y, |w| f32_weights(w));
}

#[target_feature(enable = "neon")]
fn f16_some<const R: usize, const T: usize>(rows: &[u8], x: [&[u8]; T], y: [&mut [f32]; T]) {
    float_tile::<R, T, 32>(rows, x, y, |w| {
        let [a, b, c, d] = words(w);
        [widen_f16(a), widen_f16(b), widen_f16(c), widen_f16(d)]
    });
}

#[target_feature(enable = "neon")]
fn bf16_some<const R: usize, const T: usize>(rows: &[u8], x: [&[u8]; T], y: [&mut [f32]; T]) {
    float_tile::<R, T, 32>(rows, x, y, |w| {
        let [a, b, c, d] = words(w);
        let widen = |w| vreinterpretq_f32_u32(vshll_n_u16::<16>(w));
        [widen(a), widen(b), widen(c), widen(d)]
    });
}

// 32 registers hold the sums of four rows of one vector, or of two of two, and what is being multiplied.

#[target_feature(enable = "neon")]
pub fn f32_rows(rows: &[u8], x: &[u8], y: &mut [f32]) {
    f32_some::<4, 1>(rows, [x], [y]);
}

#[target_feature(enable = "neon")]
pub fn f32_tile(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    in_groups(
        x,
        y,
        |x, y| f32_some::<2, 2>(rows, x, y),
        |x, y| f32_rows(rows, x, y),
    );
}

#[target_feature(enable = "neon")]
pub fn f16_rows(rows: &[u8], x: &[u8], y: &mut [f32]) {
    f16_some::<4, 1>(rows, [x], [y]);
}

#[target_feature(enable = "neon")]
pub fn f16_tile(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    in_groups(
        x,
        y,
        |x, y| f16_some::<2, 2>(rows, x, y),
        |x, y| f16_rows(rows, x, y),
    );
}

#[target_feature(enable = "neon")]
pub fn bf16_rows(rows: &[u8], x: &[u8], y: &mut [f32]) {
    bf16_some::<4, 1>(rows, [x], [y]);
}

#[target_feature(enable = "neon")]
pub fn bf16_tile(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    in_groups(
        x,
        y,
        |x, y| bf16_some::<2, 2>(rows, x, y),
        |x, y| bf16_rows(rows, x, y),
    );
}

#[target_feature(enable = "neon")]
pub fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of one length");
    let [[sum]] = float_dots::<1, 1, 64>([to_bytes(a)], [b], |w| f32_weights(w));
    sum
}

#[target_feature(enable = "neon")]
#[inline]
fn f32_weights(w: &[u8; 64]) -> Sixteen {
    let (w, _) = w.as_chunks::<16>();
    let load = |i: usize| vreinterpretq_f32_u8(load_u8(&w[i]));
    [load(0), load(1), load(2), load(3)]
}

/// 16 words, four in a vector.
#[target_feature(enable = "neon")]
#[inline]
fn words(w: &[u8; 32]) -> [uint16x4_t; 4] {
    let (w, _) = w.as_chunks::<16>();
    let (a, b) = (
        vreinterpretq_u16_u8(load_u8(&w[0])),
        vreinterpretq_u16_u8(load_u8(&w[1])),
    );
    [
        vget_low_u16(a),
        vget_high_u16(a),
        vget_low_u16(b),
        vget_high_u16(b),
    ]
}

/// Rows of weights of `STEP / 16` bytes; `weights` widens 16 of them.
#[target_feature(enable = "neon")]
#[inline]
fn float_tile<const R: usize, const T: usize, const STEP: usize>(
    rows: &[u8],
    x: [&[u8]; T],
    y: [&mut [f32]; T],
    weights: impl Fn(&[u8; STEP]) -> Sixteen + Copy,
) {
    let x: [&[f32]; T] = vectors(x);
    in_tiles::<R, T, _>(
        rows,
        x[0].len() * (STEP / 16),
        y,
        |rows| float_dots(rows, x, weights),
        |row| float_dots(row, x, weights),
    );
}

/// Sums stay in lanes until the end of a row: the order is fixed by the row's length.
#[target_feature(enable = "neon")]
#[inline]
fn float_dots<const R: usize, const T: usize, const STEP: usize>(
    rows: [&[u8]; R],
    x: [&[f32]; T],
    weights: impl Fn(&[u8; STEP]) -> Sixteen,
) -> [[f32; T]; R] {
    let mut acc = [[[vdupq_n_f32(0.0); 4]; T]; R];
    let n = x[0].len();
    let (steps, x) = (cut(rows, n * (STEP / 16)), cut(x, n));
    for i in 0..n.div_ceil(16) {
        for r in 0..R {
            let w = weights(&step(steps[r], i));
            for t in 0..T {
                let x = f32_weights(as_bytes(&step(x[t], i)));
                for k in 0..4 {
                    acc[r][t][k] = vfmaq_f32(acc[r][t][k], w[k], x[k]);
                }
            }
        }
    }
    let mut y = [[0.0; T]; R];
    for (y, acc) in y.iter_mut().zip(acc) {
        for (y, [a, b, c, d]) in y.iter_mut().zip(acc) {
            *y = vaddvq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d)));
        }
    }
    y
}

/// Step `i` of a row; what is missing at the end is filled up with zeros.
#[inline(always)]
fn step<T: Copy + Default, const N: usize>(row: &[T], i: usize) -> [T; N] {
    let (steps, rest) = row.as_chunks::<N>();
    match steps.get(i) {
        Some(step) => *step,
        None => {
            let mut step = [T::default(); N];
            step[..rest.len()].copy_from_slice(rest);
            step
        }
    }
}

/// An array of f32 seen as bytes.
#[inline(always)]
fn as_bytes(x: &[f32; 16]) -> &[u8; 64] {
    // SAFETY: a reference to as many initialised bytes, of alignment 1.
    unsafe { &*x.as_ptr().cast() }
}

#[target_feature(enable = "neon")]
pub fn axpys(a: &[f32], rows: &[f32], y: &mut [f32]) {
    assert_eq!(rows.len(), a.len() * y.len(), "rows of one length");
    // Every aarch64 processor multiplies and adds in one step: this is a vector loop.
    for (a, row) in a.iter().zip(rows.chunks_exact(y.len().max(1))) {
        for (y, x) in y.iter_mut().zip(row) {
            *y = a.mul_add(*x, *y);
        }
    }
}

#[target_feature(enable = "neon")]
pub fn f16_to_f32(x: &[u16], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "vectors of one length");
    let widen = |x: &[u16; 4], y: &mut [f32; 4]| {
        // SAFETY: `x` is 8 bytes and `y` is 16 that may be written.
        unsafe { vst1q_f32(y.as_mut_ptr(), widen_f16(vld1_u16(x.as_ptr()))) }
    };
    let ((xs, x_tail), (ys, y_tail)) = (x.as_chunks(), y.as_chunks_mut());
    for (x, y) in xs.iter().zip(ys) {
        widen(x, y);
    }
    let (mut x, mut y) = ([0; 4], [0.0; 4]);
    x[..x_tail.len()].copy_from_slice(x_tail);
    widen(&x, &mut y);
    y_tail.copy_from_slice(&y[..y_tail.len()]);
}

#[target_feature(enable = "neon")]
pub fn f32_to_f16(x: &[f32], y: &mut [u16]) {
    assert_eq!(x.len(), y.len(), "vectors of one length");
    let narrow = |x: &[f32; 4], y: &mut [u16; 4]| {
        // SAFETY: `x` is 16 bytes and `y` is 8 that may be written.
        unsafe { vst1_u16(y.as_mut_ptr(), narrow_f16(vld1q_f32(x.as_ptr()))) }
    };
    let ((xs, x_tail), (ys, y_tail)) = (x.as_chunks(), y.as_chunks_mut());
    for (x, y) in xs.iter().zip(ys) {
        narrow(x, y);
    }
    let (mut x, mut y) = ([0.0; 4], [0; 4]);
    x[..x_tail.len()].copy_from_slice(x_tail);
    narrow(&x, &mut y);
    y_tail.copy_from_slice(&y[..y_tail.len()]);
}

/// Four values rounded to f16 bits: nearest-even, as the processor is set at the start of a program.
#[target_feature(enable = "neon")]
#[inline]
fn narrow_f16(values: float32x4_t) -> uint16x4_t {
    let bits;
    // SAFETY: as in `widen_f16`.
    unsafe {
        asm!(
            "fcvtn {bits:v}.4h, {values:v}.4s",
            bits = lateout(vreg) bits,
            values = in(vreg) values,
            options(pure, nomem, nostack),
        );
    }
    bits
}
