//! FENCE: weights in floating point times f32, 16 columns a step, and vectors of f32 and f16, with AVX2.
//!
//! Promise: as in `avx2.rs`.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{AHEAD, as_bytes, floats, fold8, load16, load32, prefetch, quad_sums};
use crate::backend::cpu::rows::{cut, in_groups, in_tiles, vectors};
use crate::quant::cast::to_bytes;

#[target_feature(enable = "avx2,fma,f16c")]
fn f32_some<const R: usize, const T: usize>(rows: &[u8], x: [&[u8]; T], y: [&mut [f32]; T]) {
    float_tile::<R, T, 64>(rows, x, y, |w| f32_weights(w));
}

#[target_feature(enable = "avx2,fma,f16c")]
fn f16_some<const R: usize, const T: usize>(rows: &[u8], x: [&[u8]; T], y: [&mut [f32]; T]) {
    float_tile::<R, T, 32>(rows, x, y, |w| {
        let (w, _) = w.as_chunks::<16>();
        [
            _mm256_cvtph_ps(load16(&w[0])),
            _mm256_cvtph_ps(load16(&w[1])),
        ]
    });
}

#[target_feature(enable = "avx2,fma,f16c")]
fn bf16_some<const R: usize, const T: usize>(rows: &[u8], x: [&[u8]; T], y: [&mut [f32]; T]) {
    float_tile::<R, T, 32>(rows, x, y, |w| {
        let (w, _) = w.as_chunks::<16>();
        let widen = |w| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(w)));
        [widen(load16(&w[0])), widen(load16(&w[1]))]
    });
}

// A tile takes two rows at a time, and as many vectors as was found fastest: 16 registers hold their sums and what is
// being multiplied.

#[target_feature(enable = "avx2,fma,f16c")]
pub fn f32_rows(rows: &[u8], x: &[u8], y: &mut [f32]) {
    f32_some::<4, 1>(rows, [x], [y]);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub fn f32_tile(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    in_groups(
        x,
        y,
        |x, y| f32_some::<2, 3>(rows, x, y),
        |x, y| f32_rows(rows, x, y),
    );
}

#[target_feature(enable = "avx2,fma,f16c")]
pub fn f16_rows(rows: &[u8], x: &[u8], y: &mut [f32]) {
    f16_some::<4, 1>(rows, [x], [y]);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub fn f16_tile(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    in_groups(
        x,
        y,
        |x, y| f16_some::<2, 2>(rows, x, y),
        |x, y| f16_rows(rows, x, y),
    );
}

#[target_feature(enable = "avx2,fma,f16c")]
pub fn bf16_rows(rows: &[u8], x: &[u8], y: &mut [f32]) {
    bf16_some::<4, 1>(rows, [x], [y]);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub fn bf16_tile(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    in_groups(
        x,
        y,
        |x, y| bf16_some::<2, 2>(rows, x, y),
        |x, y| bf16_rows(rows, x, y),
    );
}

#[target_feature(enable = "avx2,fma,f16c")]
pub fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of one length");
    let [[sum]] = float_dots::<1, 1, 64>([to_bytes(a)], [b], |w| f32_weights(w));
    sum
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn f32_weights(w: &[u8; 64]) -> [__m256; 2] {
    let (w, _) = w.as_chunks::<32>();
    [
        _mm256_castsi256_ps(load32(&w[0])),
        _mm256_castsi256_ps(load32(&w[1])),
    ]
}

/// Rows of weights of `STEP / 16` bytes; `weights` widens 16 of them.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn float_tile<const R: usize, const T: usize, const STEP: usize>(
    rows: &[u8],
    x: [&[u8]; T],
    y: [&mut [f32]; T],
    weights: impl Fn(&[u8; STEP]) -> [__m256; 2] + Copy,
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

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn float_dots<const R: usize, const T: usize, const STEP: usize>(
    rows: [&[u8]; R],
    x: [&[f32]; T],
    weights: impl Fn(&[u8; STEP]) -> [__m256; 2],
) -> [[f32; T]; R] {
    let mut acc = [[[_mm256_setzero_ps(); 2]; T]; R];
    let n = x[0].len();
    let (steps, x) = (cut(rows, n * (STEP / 16)), cut(x, n));
    let (n_steps, next) = (n / 16, next_pass(rows));
    for i in 0..n_steps {
        for r in 0..R {
            prefetch::<_MM_HINT_T1, _>(ahead::<STEP>(steps[r], next[r], i, n_steps));
            let w = weights(&steps[r].as_chunks::<STEP>().0[i]);
            for t in 0..T {
                let x = f32_weights(as_bytes(&x[t].as_chunks::<16>().0[i]));
                acc[r][t] = [
                    _mm256_fmadd_ps(w[0], x[0], acc[r][t][0]),
                    _mm256_fmadd_ps(w[1], x[1], acc[r][t][1]),
                ];
            }
        }
    }
    if !n.is_multiple_of(16) {
        // The columns that are left, filled up with zeros.
        for r in 0..R {
            let tail = steps[r].as_chunks::<STEP>().1;
            let mut w = [0; STEP];
            w[..tail.len()].copy_from_slice(tail);
            let w = weights(&w);
            for t in 0..T {
                let tail = x[t].as_chunks::<16>().1;
                let mut x = [0.0; 16];
                x[..tail.len()].copy_from_slice(tail);
                let x = f32_weights(as_bytes(&x));
                acc[r][t] = [
                    _mm256_fmadd_ps(w[0], x[0], acc[r][t][0]),
                    _mm256_fmadd_ps(w[1], x[1], acc[r][t][1]),
                ];
            }
        }
    }
    let mut y = [[0.0; T]; R];
    for (y, acc) in y.iter_mut().zip(acc) {
        let mut quads = [_mm_setzero_ps(); T];
        for (quad, [a, b]) in quads.iter_mut().zip(acc) {
            *quad = fold8(_mm256_add_ps(a, b));
        }
        *y = quad_sums(quads);
    }
    y
}

/// What is to be brought near at step `i` of a row: what lies [`AHEAD`] in it, and after its end in that of the next pass.
#[inline(always)]
pub fn ahead<const STEP: usize>(
    row: &[u8],
    next: *const u8,
    i: usize,
    n_steps: usize,
) -> *const [u8; STEP] {
    let step = i + AHEAD / STEP;
    match step.checked_sub(n_steps) {
        None => row.as_ptr().wrapping_add(step * STEP).cast(),
        Some(rest) => next.wrapping_add(rest * STEP).cast(),
    }
}

/// Where the rows of the next pass lie: `R` rows on, since a pass takes rows that follow each other. May be past the
/// end: it is only hinted at.
#[inline(always)]
pub fn next_pass<const R: usize, B>(rows: [&[B]; R]) -> [*const B; R] {
    rows.map(|row| row.as_ptr().wrapping_add(R * row.len()))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub fn axpys(a: &[f32], rows: &[f32], y: &mut [f32]) {
    assert_eq!(rows.len(), a.len() * y.len(), "rows of one length");
    // Compiled for FMA, this is a vector loop.
    for (a, row) in a.iter().zip(rows.chunks_exact(y.len().max(1))) {
        for (y, x) in y.iter_mut().zip(row) {
            *y = a.mul_add(*x, *y);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub fn f16_to_f32(x: &[u16], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "vectors of one length");
    let widen = |x: &[u16; 8]| _mm256_cvtph_ps(load16(as_bytes(x)));
    let ((xs, x_tail), (ys, y_tail)) = (x.as_chunks(), y.as_chunks_mut());
    for (x, y) in xs.iter().zip(ys) {
        store_f32(widen(x), y);
    }
    let (mut x, mut y) = ([0; 8], [0.0; 8]);
    x[..x_tail.len()].copy_from_slice(x_tail);
    store_f32(widen(&x), &mut y);
    y_tail.copy_from_slice(&y[..y_tail.len()]);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub fn f32_to_f16(x: &[f32], y: &mut [u16]) {
    assert_eq!(x.len(), y.len(), "vectors of one length");
    let narrow = |x: &[f32; 8], y: &mut [u16; 8]| {
        let x = floats(x);
        let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
        // SAFETY: `y` is 16 bytes that may be written; the store needs no alignment.
        unsafe { _mm_storeu_si128(y.as_mut_ptr().cast(), half) }
    };
    let ((xs, x_tail), (ys, y_tail)) = (x.as_chunks(), y.as_chunks_mut());
    for (x, y) in xs.iter().zip(ys) {
        narrow(x, y);
    }
    let (mut x, mut y) = ([0.0; 8], [0; 8]);
    x[..x_tail.len()].copy_from_slice(x_tail);
    narrow(&x, &mut y);
    y_tail.copy_from_slice(&y[..y_tail.len()]);
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store_f32(x: __m256, y: &mut [f32; 8]) {
    // SAFETY: `y` is 32 bytes that may be written; the store needs no alignment.
    unsafe { _mm256_storeu_ps(y.as_mut_ptr(), x) }
}
