//! FENCE: weights in floating point times f32, 32 columns a step, with AVX-512.
//!
//! Promise: as in `avx512.rs`.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{fold16, load64, prefetch};
use crate::backend::cpu::avx2::{self, as_bytes, load32};
use crate::backend::cpu::rows::{activations, in_tiles};
use crate::quant::cast::{Plain, to_bytes};

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
    in_fours(
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
    in_fours(
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
    in_fours(
        x,
        y,
        |x, y| bf16_some::<2, 4>(rows, x, y),
        |x, y| bf16_rows(rows, x, y),
    );
}

/// Calls `many` for four vectors at a time, `one` for those that are left.
#[inline(always)]
fn in_fours(
    x: &[&[u8]],
    y: &mut [&mut [f32]],
    many: impl Fn([&[u8]; 4], [&mut [f32]; 4]),
    one: impl Fn(&[u8], &mut [f32]),
) {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<4>(), y.as_chunks_mut::<4>());
    for (x, y) in x.iter().zip(y) {
        many(*x, y.each_mut().map(|y| &mut **y));
    }
    for (x, y) in x_rest.iter().zip(y_rest) {
        one(x, y);
    }
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

/// How far ahead of the weights in use others are brought near, in bytes of one row.
const AHEAD: usize = 4096;

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
            // A stream ends with the row and goes on with that of the next pass.
            let ahead = i + AHEAD / STEP;
            let (row, i_ahead) = match ahead.checked_sub(n_steps) {
                None => (steps[r].as_ptr(), ahead),
                Some(rest) => (next[r], rest),
            };
            prefetch::<_MM_HINT_T1, _>(row.cast::<[u8; STEP]>(), i_ahead);
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

// The prepared vectors as their blocks.
#[inline(always)]
fn vectors<const T: usize, A: Plain>(x: [&[u8]; T]) -> [&[A]; T] {
    x.map(activations)
}

/// The first `n` of each: said once, so that no index in a loop needs a check. A function without target features, as a
/// closure would have them and then not be inlined into `map`.
#[inline(always)]
fn cut<const N: usize, B>(rows: [&[B]; N], n: usize) -> [&[B]; N] {
    rows.map(|row| &row[..n])
}

/// Where the rows of the next pass lie: `R` rows on, since a pass takes rows that follow each other. May be past the
/// end: it is only hinted at.
#[inline(always)]
fn next_pass<const R: usize, B>(rows: [&[B]; R]) -> [*const B; R] {
    rows.map(|row| row.as_ptr().wrapping_add(R * row.len()))
}

/// The sum of each, as [`avx2::sum4`] to the bit; four at a time share their steps.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn quad_sums<const T: usize>(quads: [__m128; T]) -> [f32; T] {
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
        *sum = avx2::sum4(*quad);
    }
    sums
}
