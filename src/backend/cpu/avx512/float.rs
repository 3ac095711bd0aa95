//! FENCE: weights in floating point times f32, 32 columns a step, with AVX-512.
//!
//! Promise: as in `avx512.rs`.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{fold16, load64};
use crate::backend::cpu::avx2::float::{ahead, next_pass};
use crate::backend::cpu::avx2::{as_bytes, load32, prefetch, quad_sums};
use crate::backend::cpu::rows::{cut, in_groups, in_tiles, vectors};
use crate::quant::cast::to_bytes;

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
fn f32_some<const R: usize, const T: usize>(rows: &[u8], x: [&[u8]; T], y: [&mut [f32]; T]) {
    float_tile::<R, T, 128>(rows, x, y, |w| f32_weights(w));
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
fn f16_some<const R: usize, const T: usize>(rows: &[u8], x: [&[u8]; T], y: [&mut [f32]; T]) {
    float_tile::<R, T, 64>(rows, x, y, |w| {
        let (w, _) = w.as_chunks::<32>();
        [
            _mm512_cvtph_ps(load32(&w[0])),
            _mm512_cvtph_ps(load32(&w[1])),
        ]
    });
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
fn bf16_some<const R: usize, const T: usize>(rows: &[u8], x: [&[u8]; T], y: [&mut [f32]; T]) {
    float_tile::<R, T, 64>(rows, x, y, |w| {
        let (w, _) = w.as_chunks::<32>();
        let widen = |w| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(w)));
        [widen(load32(&w[0])), widen(load32(&w[1]))]
    });
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
pub fn f32_rows(rows: &[u8], x: &[u8], y: &mut [f32]) {
    f32_some::<4, 1>(rows, [x], [y]);
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
pub fn f32_tile(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    in_groups(
        x,
        y,
        |x, y| f32_some::<2, 4>(rows, x, y),
        |x, y| f32_rows(rows, x, y),
    );
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
pub fn f16_rows(rows: &[u8], x: &[u8], y: &mut [f32]) {
    f16_some::<4, 1>(rows, [x], [y]);
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
pub fn f16_tile(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    in_groups(
        x,
        y,
        |x, y| f16_some::<2, 4>(rows, x, y),
        |x, y| f16_rows(rows, x, y),
    );
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
pub fn bf16_rows(rows: &[u8], x: &[u8], y: &mut [f32]) {
    bf16_some::<4, 1>(rows, [x], [y]);
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
pub fn bf16_tile(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    in_groups(
        x,
        y,
        |x, y| bf16_some::<2, 4>(rows, x, y),
        |x, y| bf16_rows(rows, x, y),
    );
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
pub fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of one length");
    let [[sum]] = float_dots::<1, 1, 128>([to_bytes(a)], [b], |w| f32_weights(w));
    sum
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
pub fn axpys(a: &[f32], rows: &[f32], y: &mut [f32]) {
    let n = y.len();
    assert_eq!(rows.len(), a.len() * n, "rows of one length");
    // 64 columns stay in registers for all rows.
    let (columns, tail) = y.as_chunks_mut::<64>();
    for (c, y) in columns.iter_mut().enumerate() {
        let mut acc = [_mm512_setzero_ps(); 4];
        for (acc, y) in acc.iter_mut().zip(y.as_chunks::<16>().0) {
            *acc = _mm512_castsi512_ps(load64::<u8>(as_bytes(y)));
        }
        for (a, row) in a.iter().zip(rows.chunks_exact(n)) {
            let a = _mm512_set1_ps(*a);
            let x = &row[64 * c..][..64];
            for (acc, x) in acc.iter_mut().zip(x.as_chunks::<16>().0) {
                *acc = _mm512_fmadd_ps(a, _mm512_castsi512_ps(load64::<u8>(as_bytes(x))), *acc);
            }
        }
        for (acc, y) in acc.into_iter().zip(y.as_chunks_mut::<16>().0) {
            // SAFETY: `y` is 64 bytes; the store needs no alignment.
            unsafe { _mm512_storeu_ps(y.as_mut_ptr(), acc) };
        }
    }
    let start = n - tail.len();
    for (a, row) in a.iter().zip(rows.chunks_exact(n.max(1))) {
        for (y, x) in tail.iter_mut().zip(&row[start..]) {
            *y = a.mul_add(*x, *y);
        }
    }
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn f32_weights(w: &[u8; 128]) -> [__m512; 2] {
    let (w, _) = w.as_chunks::<64>();
    [
        _mm512_castsi512_ps(load64(&w[0])),
        _mm512_castsi512_ps(load64(&w[1])),
    ]
}

/// Rows of weights of `STEP / 32` bytes; `weights` widens 32 of them.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn float_tile<const R: usize, const T: usize, const STEP: usize>(
    rows: &[u8],
    x: [&[u8]; T],
    y: [&mut [f32]; T],
    weights: impl Fn(&[u8; STEP]) -> [__m512; 2] + Copy,
) {
    let x: [&[f32]; T] = vectors(x);
    in_tiles::<R, T, _>(
        rows,
        x[0].len() * (STEP / 32),
        y,
        |rows| float_dots(rows, x, weights),
        |row| float_dots(row, x, weights),
    );
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn float_dots<const R: usize, const T: usize, const STEP: usize>(
    rows: [&[u8]; R],
    x: [&[f32]; T],
    weights: impl Fn(&[u8; STEP]) -> [__m512; 2],
) -> [[f32; T]; R] {
    let mut acc = [[[_mm512_setzero_ps(); 2]; T]; R];
    let n = x[0].len();
    let (steps, x) = (cut(rows, n * (STEP / 32)), cut(x, n));
    let (n_steps, next) = (n / 32, next_pass(rows));
    for i in 0..n_steps {
        for r in 0..R {
            prefetch::<_MM_HINT_T1, _>(ahead::<STEP>(steps[r], next[r], i, n_steps));
            let w = weights(&steps[r].as_chunks::<STEP>().0[i]);
            for t in 0..T {
                let x = f32_weights(as_bytes(&x[t].as_chunks::<32>().0[i]));
                acc[r][t] = [
                    _mm512_fmadd_ps(w[0], x[0], acc[r][t][0]),
                    _mm512_fmadd_ps(w[1], x[1], acc[r][t][1]),
                ];
            }
        }
    }
    if !n.is_multiple_of(32) {
        // The columns that are left, filled up with zeros.
        for r in 0..R {
            let tail = steps[r].as_chunks::<STEP>().1;
            let mut w = [0; STEP];
            w[..tail.len()].copy_from_slice(tail);
            let w = weights(&w);
            for t in 0..T {
                let tail = x[t].as_chunks::<32>().1;
                let mut x = [0.0; 32];
                x[..tail.len()].copy_from_slice(tail);
                let x = f32_weights(as_bytes(&x));
                acc[r][t] = [
                    _mm512_fmadd_ps(w[0], x[0], acc[r][t][0]),
                    _mm512_fmadd_ps(w[1], x[1], acc[r][t][1]),
                ];
            }
        }
    }
    let mut y = [[0.0; T]; R];
    for (y, acc) in y.iter_mut().zip(acc) {
        let mut quads = [_mm_setzero_ps(); T];
        for (quad, [a, b]) in quads.iter_mut().zip(acc) {
            *quad = fold16(_mm512_add_ps(a, b));
        }
        *y = quad_sums(quads);
    }
    y
}
