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
use crate::quant::blocks::blocks;
use crate::quant::cast::Plain;
use crate::quant::wide::Act512;

/// Rows that share widened vectors.
const ROWS: usize = 16;

/// 256 weights of a row, which are 8 blocks of 32.
pub struct Unpacked {
    /// As signed bytes: `4g + k` holds the columns `8k..8k + 8` of the blocks `4g..4g + 4`.
    pub bytes: [__m256i; 8],
    /// Scale of each block.
    pub scales: __m256,
    /// Minima of each block's halves, for formats that have them.
    pub mins: Option<[__m256; 2]>,
}

/// What the bytes of a format are.
///
/// Of the four vectors of a block the sums of two products are added as words where they fit:
///
/// ```text
///               largest   with hi, at most 127      with lo, at most 64
/// Q8_0              128   1: 2 * 128 * 127 = 32512  1: 2 * 128 * 64 = 16384
/// Q4_K, MXFP4        15   4: 8 *  15 * 127 = 15240  4: 8 *  15 * 64 =  7680
/// Q2_K               45   2: 4 *  45 * 127 = 22860  4: 8 *  45 * 64 = 23040
/// IQ2_XXS            43   2: 4 *  43 * 127 = 21844  4: 8 *  43 * 64 = 22016
/// ```
#[derive(Clone, Copy)]
pub struct Kind {
    signed: bool,
    /// Vectors that are added, for `hi` and for `lo` of [`Act512`].
    together: [usize; 2],
}

impl Kind {
    /// Bytes whose magnitude is at most `largest`.
    pub const fn new(largest: i32, signed: bool) -> Kind {
        Kind {
            signed,
            together: [fits(largest, 127), fits(largest, 64)],
        }
    }
}

/// How many vectors can be added: a word then holds `2 * n` products.
const fn fits(largest: i32, plane: i32) -> usize {
    let mut n = 4;
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
    kind: Kind,
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
            acc[h] = step(acc[h], &w, byte_sums(&w.bytes, x, h, kind), x, h);
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
                    acc[h] = step(acc[h], &w, word_sums(&words, wide), x, h);
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

/// Adds the sums of 8 blocks to their lanes; `h` says which half of `x` they were multiplied with.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn step(acc: __m256, w: &Unpacked, sums: [__m256i; 2], x: &Act512, h: usize) -> __m256 {
    // A block has two lanes that are neighbours; they come out as 0 1 4 5 | 2 3 6 7.
    let mixed = _mm256_hadd_epi32(sums[0], sums[1]);
    let sums = _mm256_permute4x64_epi64::<0b11_01_10_00>(mixed);
    let scales = _mm256_mul_ps(w.scales, lanes(&x.d, h));
    let mut acc = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(sums), acc);
    for (min, half) in w.mins.iter().flatten().zip(&x.halves) {
        acc = _mm256_fnmadd_ps(*min, lanes(half, h), acc);
    }
    acc
}

/// Products of blocks 0..4 and 4..8, summed but for two lanes a block.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn byte_sums(w: &[__m256i; 8], x: &Act512, h: usize, kind: Kind) -> [__m256i; 2] {
    let mut sums = [_mm256_setzero_si256(); 2];
    for (g, sums) in sums.iter_mut().enumerate() {
        let w = &w.as_chunks().0[g];
        let hi = plane_sums(w, &x.hi, (h, g), kind.signed, kind.together[0], 128);
        let lo = plane_sums(w, &x.lo, (h, g), kind.signed, kind.together[1], 1);
        *sums = _mm256_add_epi32(hi, lo);
    }
    sums
}

/// `factor` times the products of blocks `4g..4g + 4` with half `h` of a plane.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn plane_sums(
    w: &[__m256i; 4],
    plane: &[[i8; 64]; 8],
    (h, g): (usize, usize),
    signed: bool,
    together: usize,
    factor: i16,
) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    let mut pairs = _mm256_setzero_si256();
    for (k, w) in w.iter().enumerate() {
        let x = load32(&plane[4 * h + k].as_chunks::<32>().0[g]);
        let products = if signed {
            _mm256_maddubs_epi16(_mm256_abs_epi8(*w), _mm256_sign_epi8(x, *w))
        } else {
            _mm256_maddubs_epi16(*w, x)
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
fn word_sums(w: &Words, x: &Words) -> [__m256i; 2] {
    let mut sums = [_mm256_setzero_si256(); 2];
    for (i, (w, x)) in w.iter().zip(x).enumerate() {
        sums[i / 8] = _mm256_add_epi32(sums[i / 8], _mm256_madd_epi16(*w, *x));
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
