//! FENCE: weights in blocks times [`Act512`], with AVX-512 and VNNI; see `wide.rs` for what they are.
//!
//! Promise: as in `avx512.rs`. A format gives its weights as unsigned bytes, 512 columns at a time
//! ([`Unpacked`]); everything else stands here once for all formats.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::load64;
use crate::backend::cpu::avx2::{prefetch_ahead, sum4};
use crate::backend::cpu::dispatch::TOKENS;
use crate::backend::cpu::rows::{activations, blocks_in_row, part, tile_parts};
use crate::backend::cpu::unpack::Shape;
use crate::quant::blocks::blocks;
use crate::quant::cast::Plain;
use crate::quant::wide::{Act512, BLOCKS};
use std::ops::Range;

/// 512 weights of a row.
pub struct Unpacked {
    /// As unsigned bytes, in the order of [`Act512`]; 128 is added to signed ones.
    pub bytes: [__m512i; 8],
    /// Scale of each block.
    pub scales: __m512,
    /// Minima of each block's halves, where the format has them.
    pub mins: [__m512; 2],
    /// Factors of each block's halves, where the format has them.
    pub factors: [__m512i; 2],
}

/// As [`crate::backend::cpu::dispatch::RowsKernel`].
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub fn rows<B: Plain, const N: usize>(
    rows: &[u8],
    x: &[u8],
    y: &mut [f32],
    shape: Shape,
    unpack: impl Fn(&[B; N]) -> Unpacked,
) {
    let x: &[Act512] = activations(x);
    let (rows, n) = (blocks::<B>(rows), blocks_in_row(x, BLOCKS / N));
    assert_eq!(rows.len(), n * y.len(), "rows of {n} blocks");
    if n == 0 {
        return y.fill(0.0);
    }
    let together = together::<N>(n);
    for (row, y) in rows.chunks(n * together).zip(y.chunks_mut(together)) {
        let mut acc = _mm512_setzero_ps();
        for (s, x) in x.iter().enumerate() {
            let mut last = None;
            let w = part(row, s, &mut last);
            prefetch_ahead(w);
            acc = step(acc, &unpack(w), x, shape);
        }
        finish(acc, y);
    }
}

/// Rows of 256 weights go two at a time: such an x stands there twice.
fn together<const N: usize>(blocks_in_row: usize) -> usize {
    if 2 * blocks_in_row == N { 2 } else { 1 }
}

/// The sums of one row, or of two that have half of the lanes each.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn finish(acc: __m512, y: &mut [f32]) {
    if let [y] = y {
        *y = sum16(acc);
    } else if let [a, b] = y {
        *a = sum16(_mm512_maskz_mov_ps(0x00ff, acc));
        *b = sum16(_mm512_maskz_compress_ps(0xff00, acc));
    }
}

/// Adds the products of 16 blocks to their lanes.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn step(acc: __m512, w: &Unpacked, x: &Act512, shape: Shape) -> __m512 {
    let mut sums = if shape.factors {
        let [a, b] = [half_sums(w, x, 0, shape), half_sums(w, x, 1, shape)];
        // With the largest factor, 128, and bytes of 32: 2 * 128 * 16 * 32 * 16,319, just below 2^31.
        _mm512_add_epi32(
            _mm512_mullo_epi32(a, w.factors[0]),
            _mm512_mullo_epi32(b, w.factors[1]),
        )
    } else {
        byte_sums(w, x, 0..4)
    };
    if shape.signed && !shape.factors {
        let both = _mm512_add_epi32(ints(&x.sums[0]), ints(&x.sums[1]));
        sums = _mm512_sub_epi32(sums, _mm512_slli_epi32::<7>(both));
    }
    let scales = _mm512_mul_ps(w.scales, floats(&x.d));
    let mut acc = _mm512_fmadd_ps(scales, _mm512_cvtepi32_ps(sums), acc);
    if shape.mins {
        for (min, half) in w.mins.iter().zip(&x.halves) {
            acc = _mm512_fnmadd_ps(*min, floats(half), acc);
        }
    }
    acc
}

/// The products of one half of each block.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn half_sums(w: &Unpacked, x: &Act512, half: usize, shape: Shape) -> __m512i {
    let sums = byte_sums(w, x, 2 * half..2 * half + 2);
    if shape.signed {
        _mm512_sub_epi32(sums, _mm512_slli_epi32::<7>(ints(&x.sums[half])))
    } else {
        sums
    }
}

/// The products of the bytes of each block whose vectors are `k`.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn byte_sums(w: &Unpacked, x: &Act512, k: Range<usize>) -> __m512i {
    let zero = _mm512_setzero_si512();
    let (mut hi, mut lo) = ([zero; 2], [zero; 2]);
    for h in 0..2 {
        for k in k.clone() {
            let w = w.bytes[4 * h + k];
            hi[h] = _mm512_dpbusd_epi32(hi[h], w, load64(&x.hi[4 * h + k]));
            lo[h] = _mm512_dpbusd_epi32(lo[h], w, load64(&x.lo[4 * h + k]));
        }
    }
    // At most 16 * 255 * 16,319 in a lane. A block has two lanes that are neighbours.
    let join = |i: usize| _mm512_add_epi32(_mm512_slli_epi32::<7>(hi[i]), lo[i]);
    let (a, b) = (join(0), join(1));
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    _mm512_add_epi32(
        _mm512_permutex2var_epi32(a, even, b),
        _mm512_permutex2var_epi32(a, odd, b),
    )
}

/// Rows that are computed together for several vectors.
const ROWS: usize = 8;

/// As [`crate::backend::cpu::dispatch::TileKernel`]. A part of a row is unpacked once and meets the same part of all
/// vectors, which lie in the first-level cache while some rows pass.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub fn tile<B: Plain, const N: usize>(
    rows: &[u8],
    x: &[&[u8]],
    y: &mut [&mut [f32]],
    shape: Shape,
    unpack: impl Fn(&[B; N]) -> Unpacked,
) {
    let (vectors, rows, n) = tile_parts::<B>(rows, x, y, BLOCKS / N);
    let x = &vectors[..x.len()];
    if n == 0 {
        return y.iter_mut().for_each(|y| y.fill(0.0));
    }
    let together = together::<N>(n);
    for (r, rows) in rows.chunks(ROWS * n * together).enumerate() {
        let mut acc = [[_mm512_setzero_ps(); TOKENS]; ROWS];
        for s in 0..n.div_ceil(N) {
            for (row, acc) in rows.chunks(n * together).zip(&mut acc) {
                let mut last = None;
                let w = unpack(part(row, s, &mut last));
                for (x, acc) in x.iter().zip(acc) {
                    *acc = step(*acc, &w, &x[s], shape);
                }
            }
        }
        for (t, y) in y.iter_mut().enumerate() {
            let y = y[r * ROWS * together..].chunks_mut(together);
            y.zip(&acc).for_each(|(y, acc)| finish(acc[t], y));
        }
    }
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn floats(x: &[f32; 16]) -> __m512 {
    // SAFETY: `x` is 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn ints(x: &[i32; 16]) -> __m512i {
    // SAFETY: `x` is 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// Lanes 8 apart, then 4, 2 and 1.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn sum16(x: __m512) -> f32 {
    sum4(super::fold16(x))
}
