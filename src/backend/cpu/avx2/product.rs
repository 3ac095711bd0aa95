//! FENCE: weights in blocks times [`Act512`], with AVX2; see `wide.rs` for what they are.
//!
//! Promise: as in `avx2.rs`. A format gives its weights as signed bytes, 256 columns at a time ([`Unpacked`]);
//! everything else stands here once for all formats.
//!
//! One vector meets the bytes as they are. For several both sides are widened to words, which takes fewer steps once the
//! weights are unpacked for all of them. The sums are whole numbers and exact, so both ways give the same bits.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{floats, fold8, load32, prefetch_ahead, quad_sums};
use crate::backend::cpu::dispatch::TOKENS;
use crate::backend::cpu::rows::{activations, blocks_in_row, part, tile_parts};
use crate::backend::cpu::unpack::Shape;
use crate::quant::blocks::blocks;
use crate::quant::cast::Plain;
use crate::quant::wide::Act512;
use std::ops::Range;

/// Rows that share widened vectors.
const ROWS: usize = 16;

/// 256 weights of a row, which are 8 blocks of 32.
pub struct Unpacked {
    /// As signed bytes: `4g + k` holds the columns `8k..8k + 8` of the blocks `4g..4g + 4`.
    pub bytes: [__m256i; 8],
    /// Scale of each block.
    pub scales: __m256,
    /// Minima of each block's halves, where the format has them.
    pub mins: [__m256; 2],
    /// Factors of each block's halves, where the format has them.
    pub factors: [__m256i; 2],
}

/// Vectors of a block, of four or the two of a half, whose products are added as words, for `hi` and for `lo` of [`Act512`].
/// Words hold so many:
///
/// ```text
///               largest   with hi, at most 127      with lo, at most 64
/// Q8_0, IQ4         128   1: 2 * 128 * 127 = 32512  1: 2 * 128 * 64 = 16384
/// Q2_K               45   2: 4 *  45 * 127 = 22860  4: 8 *  45 * 64 = 23040
/// Q5_K, Q5_1         31   4: 8 *  31 * 127 = 31496  4: 8 *  31 * 64 = 15872
/// ```
const fn together(shape: Shape) -> [usize; 2] {
    let vectors = if shape.factors { 2 } else { 4 };
    [
        fits(shape.largest, 127, vectors),
        fits(shape.largest, 64, vectors),
    ]
}

/// How many vectors, of `n`, can be added: a word then holds twice as many products.
const fn fits(largest: i32, plane: i32, mut n: i32) -> usize {
    while 2 * n * largest * plane > i16::MAX as i32 {
        n /= 2;
    }
    assert!(n > 0, "two products fit a word");
    n as usize
}

/// 256 weights or activations as words: of each 32 bytes the even ones, then the odd ones.
type Words = [__m256i; 16];

/// Lanes 0..8 and 8..16 of a sum.
type Lanes = [__m256; 2];

/// As [`crate::backend::cpu::dispatch::RowsKernel`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub fn rows<B: Plain, const N: usize>(
    rows: &[u8],
    x: &[u8],
    y: &mut [f32],
    shape: Shape,
    unpack: impl Fn(&[B; N]) -> Unpacked,
) {
    let x: &[Act512] = activations(x);
    let (rows, n) = (blocks::<B>(rows), blocks_in_row(x, 8 / N));
    assert_eq!(rows.len(), n * y.len(), "rows of {n} blocks");
    if n == 0 {
        return y.fill(0.0);
    }
    for (row, y) in rows.chunks(n).zip(y) {
        let mut acc = [_mm256_setzero_ps(); 2];
        for s in 0..n.div_ceil(N) {
            let mut last = None;
            let w = part(row, s, &mut last);
            prefetch_ahead(w);
            let (w, x, h) = (unpack(w), &x[s / 2], s % 2);
            let sums = |k| byte_sums(&w.bytes, x, h, shape, k);
            acc[h] = step(acc[h], &w, shape, sums, x, h);
        }
        [*y] = totals(&[acc]);
    }
}

/// As [`crate::backend::cpu::dispatch::TileKernel`]. A part of a row is unpacked once and meets the same part of all
/// vectors, which lie in the first-level cache while some rows pass.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub fn tile<B: Plain, const N: usize>(
    rows: &[u8],
    x: &[&[u8]],
    y: &mut [&mut [f32]],
    shape: Shape,
    unpack: impl Fn(&[B; N]) -> Unpacked,
) {
    let (vectors, rows, n) = tile_parts::<B>(rows, x, y, 8 / N);
    let x = &vectors[..x.len()];
    if n == 0 {
        return y.iter_mut().for_each(|y| y.fill(0.0));
    }
    let mut wide = [[_mm256_setzero_si256(); 16]; TOKENS];
    for (r, rows) in rows.chunks(ROWS * n).enumerate() {
        let mut acc = [[[_mm256_setzero_ps(); 2]; TOKENS]; ROWS];
        for s in 0..n.div_ceil(N) {
            for (x, wide) in x.iter().zip(&mut wide) {
                *wide = activation_words(&x[s / 2], s % 2);
            }
            for (row, acc) in rows.chunks(n).zip(&mut acc) {
                let mut last = None;
                let w = unpack(part(row, s, &mut last));
                let words = weight_words(&w);
                for ((x, wide), acc) in x.iter().zip(&wide).zip(acc) {
                    let (x, h) = (&x[s / 2], s % 2);
                    let sums = |k| word_sums(&words, wide, k);
                    acc[h] = step(acc[h], &w, shape, sums, x, h);
                }
            }
        }
        for (i, acc) in acc.iter().take(rows.len() / n).enumerate() {
            for (y, sum) in y.iter_mut().zip(totals(acc)) {
                y[r * ROWS + i] = sum;
            }
        }
    }
}

/// Adds the products of 8 blocks to their lanes. `sums` gives those of the vectors `k` of each block, but for two lanes a
/// block; `h` says which half of `x` they were multiplied with.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn step(
    acc: __m256,
    w: &Unpacked,
    shape: Shape,
    sums: impl Fn(Range<usize>) -> [__m256i; 2],
    x: &Act512,
    h: usize,
) -> __m256 {
    let sums = if shape.factors {
        _mm256_add_epi32(
            _mm256_mullo_epi32(in_order(sums(0..2)), w.factors[0]),
            _mm256_mullo_epi32(in_order(sums(2..4)), w.factors[1]),
        )
    } else {
        in_order(sums(0..4))
    };
    let scales = _mm256_mul_ps(w.scales, lanes(&x.d, h));
    let mut acc = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(sums), acc);
    if shape.mins {
        for (min, half) in w.mins.iter().zip(&x.halves) {
            acc = _mm256_fnmadd_ps(*min, lanes(half, h), acc);
        }
    }
    acc
}

/// One sum for each block, of two lanes that are neighbours.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn in_order(sums: [__m256i; 2]) -> __m256i {
    // They come out as 0 1 4 5 | 2 3 6 7.
    let mixed = _mm256_hadd_epi32(sums[0], sums[1]);
    _mm256_permute4x64_epi64::<0b11_01_10_00>(mixed)
}

/// Products of the vectors `k` of blocks 0..4 and 4..8, summed but for two lanes a block.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn byte_sums(
    w: &[__m256i; 8],
    x: &Act512,
    h: usize,
    shape: Shape,
    k: Range<usize>,
) -> [__m256i; 2] {
    let [hi_together, lo_together] = together(shape);
    let mut sums = [_mm256_setzero_si256(); 2];
    for (g, sums) in sums.iter_mut().enumerate() {
        let w = &w.as_chunks().0[g];
        let hi = plane_sums(w, &x.hi, (h, g), shape.signed, k.clone(), hi_together, 128);
        let lo = plane_sums(w, &x.lo, (h, g), shape.signed, k.clone(), lo_together, 1);
        *sums = _mm256_add_epi32(hi, lo);
    }
    sums
}

/// `factor` times the products of the vectors `ks` of blocks `4g..4g + 4` with half `h` of a plane.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn plane_sums(
    w: &[__m256i; 4],
    plane: &[[i8; 64]; 8],
    (h, g): (usize, usize),
    signed: bool,
    ks: Range<usize>,
    together: usize,
    factor: i16,
) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    let mut pairs = _mm256_setzero_si256();
    for k in ks {
        let (w, x) = (w[k], load32(&plane[4 * h + k].as_chunks::<32>().0[g]));
        let products = if signed {
            _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
        } else {
            _mm256_maddubs_epi16(w, x)
        };
        pairs = _mm256_add_epi16(pairs, products);
        if (k + 1) % together == 0 {
            let part = _mm256_madd_epi16(pairs, _mm256_set1_epi16(factor));
            sum = _mm256_add_epi32(sum, part);
            pairs = _mm256_setzero_si256();
        }
    }
    sum
}

/// As [`byte_sums`]. At most `32 * 128 * 16319` for a block, far from what 32 bits hold.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn word_sums(w: &Words, x: &Words, k: Range<usize>) -> [__m256i; 2] {
    let mut sums = [_mm256_setzero_si256(); 2];
    for (g, sum) in sums.iter_mut().enumerate() {
        for i in 8 * g + 2 * k.start..8 * g + 2 * k.end {
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(w[i], x[i]));
        }
    }
    sums
}

/// The bytes of [`Unpacked`] as words.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn weight_words(w: &Unpacked) -> Words {
    let mut words = [_mm256_setzero_si256(); 16];
    for (words, bytes) in words.as_chunks_mut::<2>().0.iter_mut().zip(w.bytes) {
        *words = [
            _mm256_maddubs_epi16(_mm256_set1_epi16(1), bytes),
            _mm256_srai_epi16::<8>(bytes),
        ];
    }
    words
}

/// `128 hi + lo` of half `h`, in the order of [`weight_words`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn activation_words(x: &Act512, h: usize) -> Words {
    let hi = x.hi.as_flattened().as_chunks::<32>().0;
    let lo = x.lo.as_flattened().as_chunks::<32>().0;
    let mut words = [_mm256_setzero_si256(); 16];
    for (i, words) in words.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let at = 8 * h + 2 * (i % 4) + i / 4;
        let (hi, lo) = (load32(&hi[at]), load32(&lo[at]));
        *words = [
            _mm256_add_epi16(
                _mm256_maddubs_epi16(_mm256_set1_epi16(128), hi),
                _mm256_maddubs_epi16(_mm256_set1_epi16(1), lo),
            ),
            _mm256_add_epi16(
                _mm256_maddubs_epi16(_mm256_set1_epi16(i16::MIN), hi),
                _mm256_srai_epi16::<8>(lo),
            ),
        ];
    }
    words
}

/// Half `h` of the lanes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn lanes(x: &[f32; 16], h: usize) -> __m256 {
    floats(&x.as_chunks().0[h])
}

/// The sum of the lanes of each: those 8 apart, then 4, 2 and 1.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn totals<const N: usize>(acc: &[Lanes; N]) -> [f32; N] {
    let mut quads = [_mm_setzero_ps(); N];
    for (quad, [low, high]) in quads.iter_mut().zip(acc) {
        *quad = fold8(_mm256_add_ps(*low, *high));
    }
    quad_sums(quads)
}
