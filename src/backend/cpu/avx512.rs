//! FENCE: kernels for x86-64 with AVX-512 (F, BW, VL) and its VNNI byte products.
//!
//! Promise: as in `avx2.rs`, whose table fills what is missing here and whose shape this file follows.
//!
//! `dpbusd` multiplies unsigned by signed bytes and adds fours without saturation. Sub-block sums fit 16
//! bits, so that `dpwssd` with the scale in the low word of a lane (the high word 0) scales and adds them.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::avx2::sums_of_32;
use super::avx2::{self, as_bytes, f16, iq2_xxs_words, load16, load32, q4_k_words};
use crate::backend::cpu::dispatch::{
    Activation, FormatKernel, Kernels, RowsKernel, TOKENS, TileKernel, WeightKernels,
};
use crate::backend::cpu::rows::{activations, in_tiles};
use crate::quant::blocks::{BlockIq2Xxs, BlockMxfp4, BlockQ2K, BlockQ4K, BlockQ8_0, blocks};
use crate::quant::cast::{Plain, to_bytes};
use crate::quant::encode::{Act32, Act256};
use crate::quant::tables::{IQ2_XXS_GRID, MXFP4_SCALES, MXFP4_VALUES};

/// The table, or the names of the features this CPU lacks.
pub fn kernels() -> Result<Kernels, String> {
    avx2::kernels()?;
    let features = [
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
    ];
    let missing: Vec<_> = features.iter().filter(|f| !f.1).map(|f| f.0).collect();
    if missing.is_empty() {
        Ok(KERNELS)
    } else {
        Err(missing.join(" "))
    }
}

const KERNELS: Kernels = Kernels {
    name: "avx512",
    // SAFETY (of every closure here): the table leaves this module only after `kernels` has detected the
    // features that the functions are compiled for.
    weights: WeightKernels {
        // SAFETY: as above.
        f32: tiled(
            Activation::F32,
            // SAFETY: as above.
            |rows, x, y| unsafe { f32_tile::<4, 1>(rows, [x], [y]) },
            // SAFETY: as above.
            |rows, x, y| unsafe { f32_tile::<2, TOKENS>(rows, x, y) },
        ),
        // SAFETY: as above.
        f16: tiled(
            Activation::F32,
            // SAFETY: as above.
            |rows, x, y| unsafe { f16_tile::<4, 1>(rows, [x], [y]) },
            // SAFETY: as above.
            |rows, x, y| unsafe { f16_tile::<2, TOKENS>(rows, x, y) },
        ),
        // SAFETY: as above.
        bf16: tiled(
            Activation::F32,
            // SAFETY: as above.
            |rows, x, y| unsafe { bf16_tile::<4, 1>(rows, [x], [y]) },
            // SAFETY: as above.
            |rows, x, y| unsafe { bf16_tile::<2, TOKENS>(rows, x, y) },
        ),
        // SAFETY: as above.
        q8_0: tiled(
            Activation::Block32,
            // SAFETY: as above.
            |rows, x, y| unsafe { q8_0_tile::<4, 1>(rows, [x], [y]) },
            // SAFETY: as above.
            |rows, x, y| unsafe { q8_0_tile::<2, TOKENS>(rows, x, y) },
        ),
        // SAFETY: as above.
        q4_k: tiled(
            Activation::Block256,
            // SAFETY: as above.
            |rows, x, y| unsafe { q4_k_tile::<2, 1>(rows, [x], [y]) },
            // SAFETY: as above.
            |rows, x, y| unsafe { q4_k_tile::<1, TOKENS>(rows, x, y) },
        ),
        // SAFETY: as above.
        q2_k: tiled(
            Activation::Block256,
            // SAFETY: as above.
            |rows, x, y| unsafe { q2_k_tile::<2, 1>(rows, [x], [y]) },
            // SAFETY: as above.
            |rows, x, y| unsafe { q2_k_tile::<1, TOKENS>(rows, x, y) },
        ),
        // SAFETY: as above.
        iq2_xxs: tiled(
            Activation::Block256,
            // SAFETY: as above.
            |rows, x, y| unsafe { iq2_xxs_tile::<2, 1>(rows, [x], [y]) },
            // SAFETY: as above.
            |rows, x, y| unsafe { iq2_xxs_tile::<1, TOKENS>(rows, x, y) },
        ),
        // SAFETY: as above.
        mxfp4: tiled(
            Activation::Block32,
            // SAFETY: as above.
            |rows, x, y| unsafe { mxfp4_tile::<4, 1>(rows, [x], [y]) },
            // SAFETY: as above.
            |rows, x, y| unsafe { mxfp4_tile::<2, TOKENS>(rows, x, y) },
        ),
    },
    // SAFETY: as above.
    dot_f32: |a, b| unsafe { dot_f32(a, b) },
    // SAFETY: as above.
    axpys: |a, rows, y| unsafe { axpys(a, rows, y) },
    ..avx2::KERNELS
};

const fn tiled(activation: Activation, rows: RowsKernel, tile: TileKernel) -> FormatKernel {
    FormatKernel {
        activation,
        rows,
        tile: Some(tile),
    }
}

// ---- weights times f32: 32 columns a step --------------------------------------------------------

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn f32_tile<const R: usize, const T: usize>(rows: &[u8], x: [&[u8]; T], y: [&mut [f32]; T]) {
    float_tile::<R, T, 128>(rows, x, y, |w| f32_weights(w));
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn f16_tile<const R: usize, const T: usize>(rows: &[u8], x: [&[u8]; T], y: [&mut [f32]; T]) {
    float_tile::<R, T, 64>(rows, x, y, |w| {
        let (w, _) = w.as_chunks::<32>();
        [
            _mm512_cvtph_ps(load32(&w[0])),
            _mm512_cvtph_ps(load32(&w[1])),
        ]
    });
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn bf16_tile<const R: usize, const T: usize>(rows: &[u8], x: [&[u8]; T], y: [&mut [f32]; T]) {
    float_tile::<R, T, 64>(rows, x, y, |w| {
        let (w, _) = w.as_chunks::<32>();
        let widen = |w| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(w)));
        [widen(load32(&w[0])), widen(load32(&w[1]))]
    });
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of one length");
    let [[sum]] = float_dots::<1, 1, 128>([to_bytes(a)], [b], |w| f32_weights(w));
    sum
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn axpys(a: &[f32], rows: &[f32], y: &mut [f32]) {
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

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn f32_weights(w: &[u8; 128]) -> [__m512; 2] {
    let (w, _) = w.as_chunks::<64>();
    [
        _mm512_castsi512_ps(load64(&w[0])),
        _mm512_castsi512_ps(load64(&w[1])),
    ]
}

/// Rows of weights of `STEP / 32` bytes; `weights` widens 32 of them.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
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

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn float_dots<const R: usize, const T: usize, const STEP: usize>(
    rows: [&[u8]; R],
    x: [&[f32]; T],
    weights: impl Fn(&[u8; STEP]) -> [__m512; 2],
) -> [[f32; T]; R] {
    let mut acc = [[[_mm512_setzero_ps(); 2]; T]; R];
    let n = x[0].len();
    let (steps, x) = (cut(rows, n * (STEP / 32)), cut(x, n));
    let next = next_pass(rows);
    for i in 0..n / 32 {
        for r in 0..R {
            prefetch(next[r].cast::<[u8; STEP]>(), i);
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

// ---- formats with blocks of 32 activations ---------------------------------------------------------------

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn q8_0_tile<const R: usize, const T: usize>(rows: &[u8], x: [&[u8]; T], y: [&mut [f32]; T]) {
    let x = vectors(x);
    in_tiles::<R, T, _>(
        blocks(rows),
        x[0].len(),
        y,
        |rows| q8_0_dots(rows, x),
        |row| q8_0_dots(row, x),
    );
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn q8_0_dots<const R: usize, const T: usize>(
    rows: [&[BlockQ8_0]; R],
    x: [&[Act32]; T],
) -> [[f32; T]; R] {
    let n = x[0].len();
    let mut acc = [[_mm512_setzero_ps(); T]; R];
    let (next, rows, x) = (next_pass(rows), cut(rows, n), cut(x, n));
    // Two blocks a step, each in one half of the lanes; behind an odd last one stands a block of zeros.
    for i in (0..n).step_by(2) {
        let mut planes = [Planes512::of(x[0], i); T];
        for t in 1..T {
            planes[t] = Planes512::of(x[t], i);
        }
        for r in 0..R {
            prefetch(next[r].cast::<[BlockQ8_0; 2]>(), i / 2);
            let (a, b) = (&rows[r][i], rows[r].get(i + 1).unwrap_or(&NO_WEIGHTS));
            // With w + 128 unsigned (its top bit turned): Σ w x = Σ (w + 128) x - Σ 128 x.
            let w = side_by_side(load32(&a.q), load32(&b.q));
            let unsigned = _mm512_xor_si512(w, _mm512_set1_epi8(-128));
            let d = halves(f16(a.d), f16(b.d));
            for t in 0..T {
                let sums = _mm512_cvtepi32_ps(planes[t].dot(unsigned));
                acc[r][t] = _mm512_fmadd_ps(_mm512_mul_ps(d, planes[t].d), sums, acc[r][t]);
            }
        }
    }
    lane_sums(acc)
}

const NO_WEIGHTS: BlockQ8_0 = BlockQ8_0 {
    d: [0; 2],
    q: [0; 32],
};

/// Two blocks of activations for products with weights that 128 makes unsigned.
#[derive(Clone, Copy)]
struct Planes512 {
    hi: __m512i,
    lo: __m512i,
    /// Minus 128 times the sums by fours of what both planes stand for.
    excess: __m512i,
    /// The scale of the first in the lower half, of the second in the upper.
    d: __m512,
}

impl Planes512 {
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn of(x: &[Act32], i: usize) -> Planes512 {
        let (a, b) = (&x[i], x.get(i + 1).unwrap_or(&Act32::ZERO));
        let hi = side_by_side(load32(&a.hi), load32(&b.hi));
        let lo = side_by_side(load32(&a.lo), load32(&b.lo));
        let (zero, offset) = (_mm512_setzero_si512(), _mm512_set1_epi8(-128));
        let sums = [
            _mm512_dpbusd_epi32(zero, offset, hi),
            _mm512_dpbusd_epi32(zero, offset, lo),
        ];
        Planes512 {
            hi,
            lo,
            excess: _mm512_sub_epi32(zero, join_planes(sums)),
            d: halves(a.d, b.d),
        }
    }

    /// Sums by fours of the products: at most 4 * 255 * 16,319, so 32 bits hold them.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn dot(&self, unsigned: __m512i) -> __m512i {
        let hi = _mm512_dpbusd_epi32(_mm512_setzero_si512(), unsigned, self.hi);
        let lo = _mm512_dpbusd_epi32(self.excess, unsigned, self.lo);
        join_planes([hi, lo])
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn side_by_side(a: __m256i, b: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b)
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn halves(a: f32, b: f32) -> __m512 {
    _mm512_mask_mov_ps(_mm512_set1_ps(a), 0xff00, _mm512_set1_ps(b))
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn mxfp4_tile<const R: usize, const T: usize>(rows: &[u8], x: [&[u8]; T], y: [&mut [f32]; T]) {
    let x = vectors(x);
    in_tiles::<R, T, _>(
        blocks(rows),
        x[0].len(),
        y,
        |rows| mxfp4_dots(rows, x),
        |row| mxfp4_dots(row, x),
    );
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn mxfp4_dots<const R: usize, const T: usize>(
    rows: [&[BlockMxfp4]; R],
    x: [&[Act32]; T],
) -> [[f32; T]; R] {
    // The values plus 12 are unsigned.
    let values = _mm256_broadcastsi128_si256(load16(&MXFP4_VALUES));
    let values = _mm256_add_epi8(values, _mm256_set1_epi8(12));
    let n = x[0].len();
    let mut acc = [[_mm256_setzero_ps(); T]; R];
    let (next, rows, x) = (next_pass(rows), cut(rows, n), cut(x, n));
    for i in 0..n {
        let planes = Planes::of(x, i, _mm256_set1_epi8(12));
        for r in 0..R {
            prefetch(next[r], i);
            let w = &rows[r][i];
            let d = MXFP4_SCALES[usize::from(w.e)];
            let unsigned = _mm256_shuffle_epi8(values, avx2::nibbles(&w.qs));
            for t in 0..T {
                let sums = _mm256_cvtepi32_ps(planes[t].dot(unsigned));
                acc[r][t] = _mm256_fmadd_ps(_mm256_set1_ps(d * x[t][i].d), sums, acc[r][t]);
            }
        }
    }
    let mut y = [[0.0; T]; R];
    for (y, acc) in y.iter_mut().zip(acc) {
        let mut quads = [_mm_setzero_ps(); T];
        for (quad, acc) in quads.iter_mut().zip(acc) {
            *quad = fold8(acc);
        }
        *y = quad_sums(quads);
    }
    y
}

/// 32 activations for products with weights that an offset makes unsigned.
#[derive(Clone, Copy)]
struct Planes {
    hi: __m256i,
    lo: __m256i,
    /// Minus the offset's products: `128 hi`, and `lo`.
    excess: [__m256i; 2],
}

impl Planes {
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn new(x: &Act32, offset: __m256i) -> Planes {
        let (hi, lo) = (load32(&x.hi), load32(&x.lo));
        let zero = _mm256_setzero_si256();
        let minus = |x| _mm256_sub_epi32(zero, _mm256_dpbusd_epi32(zero, offset, x));
        Planes {
            hi,
            lo,
            excess: [minus(hi), minus(lo)],
        }
    }

    /// Block `i` of each vector.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn of<const T: usize>(x: [&[Act32]; T], i: usize, offset: __m256i) -> [Planes; T] {
        let mut planes = [Planes::new(&x[0][i], offset); T];
        for t in 1..T {
            planes[t] = Planes::new(&x[t][i], offset);
        }
        planes
    }

    /// Sums by fours of the products.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn dot(&self, unsigned: __m256i) -> __m256i {
        let hi = _mm256_dpbusd_epi32(self.excess[0], unsigned, self.hi);
        let lo = _mm256_dpbusd_epi32(self.excess[1], unsigned, self.lo);
        _mm256_add_epi32(_mm256_slli_epi32::<7>(hi), lo)
    }
}

/// `128 hi + lo` in each lane, which sums 16 products of a block; as in the AVX2 table.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn join_planes([hi, lo]: [__m512i; 2]) -> __m512i {
    _mm512_add_epi32(_mm512_slli_epi32::<7>(hi), lo)
}

// ---- formats with blocks of 256 activations ---------------------------------------------------------------

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn q4_k_tile<const R: usize, const T: usize>(rows: &[u8], x: [&[u8]; T], y: [&mut [f32]; T]) {
    let x = vectors(x);
    in_tiles::<R, T, _>(
        blocks(rows),
        x[0].len(),
        y,
        |rows| q4_k_dots(rows, x),
        |row| q4_k_dots(row, x),
    );
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn q4_k_dots<const R: usize, const T: usize>(
    rows: [&[BlockQ4K]; R],
    x: [&[Act256]; T],
) -> [[f32; T]; R] {
    // 64 bytes of quants hold the sub-blocks 4h | 4h + 2 in low and 4h + 1 | 4h + 3 in high nibbles; side by side
    // they are two vectors in the order of the activations.
    let first = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    let mask = _mm512_set1_epi8(15);
    let n = x[0].len();
    let mut acc = [[_mm512_setzero_ps(); T]; R];
    let (next, rows, x) = (next_pass(rows), cut(rows, n), cut(x, n));
    for i in 0..n {
        for r in 0..R {
            prefetch(next[r], i);
            let w = &rows[r][i];
            let (scales, mins) = q4_k_words(&w.scales);
            let scales = _mm512_castsi256_si512(_mm256_cvtepu16_epi32(scales));
            let mins = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(mins));
            let mut quants = [_mm512_setzero_si512(); 4];
            let mut factors = [_mm512_setzero_si512(); 4];
            for (h, qs) in w.qs.as_chunks::<64>().0.iter().enumerate() {
                let qs = load64(qs);
                let low = _mm512_and_si512(qs, mask);
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(qs), mask);
                quants[2 * h] = _mm512_shuffle_i64x2::<0x44>(low, high);
                quants[2 * h + 1] = _mm512_shuffle_i64x2::<0xee>(low, high);
            }
            for (k, factors) in factors.iter_mut().enumerate() {
                let pick = _mm512_add_epi32(first, _mm512_set1_epi32(2 * k as i32));
                *factors = _mm512_permutexvar_epi32(pick, scales);
            }
            let (d, dmin) = (f16(w.d), f16(w.dmin));
            for t in 0..T {
                let x = &x[t][i];
                let sums = scaled_sums(quants, factors, x);
                let scale = _mm512_set1_ps(d * x.d);
                acc[r][t] = _mm512_fmadd_ps(scale, sums, acc[r][t]);
                let min_scale = _mm512_set1_ps(dmin * x.d);
                let min_sums = _mm256_mul_ps(mins, sums_of_32(&x.sums));
                let min_sums = _mm512_zextps256_ps512(min_sums);
                acc[r][t] = _mm512_fnmadd_ps(min_scale, min_sums, acc[r][t]);
            }
        }
    }
    lane_sums(acc)
}

/// Sums by fours of quants times activations, each times the factor in the low word of its lane.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn scaled_sums(quants: [__m512i; 4], factors: [__m512i; 4], x: &Act256) -> __m512 {
    let planes = [x.hi.as_chunks::<64>().0, x.lo.as_chunks::<64>().0];
    let mut sums = [_mm512_setzero_si512(); 2];
    for k in 0..4 {
        for (sums, x) in sums.iter_mut().zip(planes) {
            let dots = _mm512_dpbusd_epi32(_mm512_setzero_si512(), quants[k], load64(&x[k]));
            *sums = _mm512_dpwssd_epi32(*sums, dots, factors[k]);
        }
    }
    _mm512_cvtepi32_ps(join_planes(sums))
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn q2_k_tile<const R: usize, const T: usize>(rows: &[u8], x: [&[u8]; T], y: [&mut [f32]; T]) {
    let x = vectors(x);
    in_tiles::<R, T, _>(
        blocks(rows),
        x[0].len(),
        y,
        |rows| q2_k_dots(rows, x),
        |row| q2_k_dots(row, x),
    );
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn q2_k_dots<const R: usize, const T: usize>(
    rows: [&[BlockQ2K]; R],
    x: [&[Act256]; T],
) -> [[f32; T]; R] {
    // Shift 2j of the bytes gives the sub-blocks 2j, 2j + 1 | 8 + 2j, 9 + 2j, four lanes each; two shifts side by
    // side are two vectors in the order of the activations.
    let first = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    let n = x[0].len();
    let mut acc = [[_mm512_setzero_ps(); T]; R];
    let (next, rows, x) = (next_pass(rows), cut(rows, n), cut(x, n));
    for i in 0..n {
        for r in 0..R {
            prefetch(next[r], i);
            let w = &rows[r][i];
            let packed = load16(&w.scales);
            let four_bits = _mm_set1_epi8(15);
            let scales = _mm512_cvtepu8_epi32(_mm_and_si128(packed, four_bits));
            let mins = _mm512_cvtepu8_epi32(_mm_and_si128(_mm_srli_epi16::<4>(packed), four_bits));
            let mins = _mm512_cvtepi32_ps(mins);
            let qs = load64(&w.qs);
            let two_bits = |q| _mm512_and_si512(q, _mm512_set1_epi8(3));
            let (a, b) = (two_bits(qs), two_bits(_mm512_srli_epi16::<2>(qs)));
            let c = two_bits(_mm512_srli_epi16::<4>(qs));
            let d = two_bits(_mm512_srli_epi16::<6>(qs));
            let quants = [
                _mm512_shuffle_i64x2::<0x44>(a, b),
                _mm512_shuffle_i64x2::<0x44>(c, d),
                _mm512_shuffle_i64x2::<0xee>(a, b),
                _mm512_shuffle_i64x2::<0xee>(c, d),
            ];
            let mut factors = [_mm512_setzero_si512(); 4];
            for (k, factors) in factors.iter_mut().enumerate() {
                let pick = _mm512_add_epi32(first, _mm512_set1_epi32(4 * k as i32));
                *factors = _mm512_permutexvar_epi32(pick, scales);
            }
            let (d, dmin) = (f16(w.d), f16(w.dmin));
            for t in 0..T {
                let x = &x[t][i];
                let sums = scaled_sums(quants, factors, x);
                acc[r][t] = _mm512_fmadd_ps(_mm512_set1_ps(d * x.d), sums, acc[r][t]);
                let x_sums = _mm512_castsi512_ps(load64::<u8>(as_bytes(&x.sums)));
                let min_sums = _mm512_mul_ps(mins, x_sums);
                let min_scale = _mm512_set1_ps(dmin * x.d);
                acc[r][t] = _mm512_fnmadd_ps(min_scale, min_sums, acc[r][t]);
            }
        }
    }
    lane_sums(acc)
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn iq2_xxs_tile<const R: usize, const T: usize>(rows: &[u8], x: [&[u8]; T], y: [&mut [f32]; T]) {
    let x = vectors(x);
    in_tiles::<R, T, _>(
        blocks(rows),
        x[0].len(),
        y,
        |rows| iq2_xxs_dots(rows, x),
        |row| iq2_xxs_dots(row, x),
    );
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn iq2_xxs_dots<const R: usize, const T: usize>(
    rows: [&[BlockIq2Xxs]; R],
    x: [&[Act256]; T],
) -> [[f32; T]; R] {
    // Two groups of 32 a step: the factors of groups 2k | 2k + 1.
    let first = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    let n = x[0].len();
    let mut acc = [[_mm512_setzero_ps(); T]; R];
    let (next, rows, x) = (next_pass(rows), cut(rows, n), cut(x, n));
    for i in 0..n {
        for r in 0..R {
            prefetch(next[r], i);
            let w = &rows[r][i];
            let (signs, words) = iq2_xxs_words(&w.groups);
            let words = _mm512_castsi256_si512(load32::<u8>(as_bytes(&words)));
            let mut points = [_mm512_setzero_si512(); 4];
            let mut factors = [_mm512_setzero_si512(); 4];
            let mut minus = [0u64; 4];
            for k in 0..4 {
                points[k] = iq2_xxs_points(&w.groups[2 * k], &w.groups[2 * k + 1]);
                minus[k] = u64::from(signs[2 * k]) | u64::from(signs[2 * k + 1]) << 32;
                let pick = _mm512_add_epi32(first, _mm512_set1_epi32(2 * k as i32));
                factors[k] = _mm512_permutexvar_epi32(pick, words);
            }
            let d = f16(w.d) * 0.125;
            for t in 0..T {
                let x = &x[t][i];
                let planes = [x.hi.as_chunks::<64>().0, x.lo.as_chunks::<64>().0];
                let mut sums = [_mm512_setzero_si512(); 2];
                for k in 0..4 {
                    for (sums, x) in sums.iter_mut().zip(planes) {
                        let x = load64(&x[k]);
                        let x = _mm512_mask_sub_epi8(x, minus[k], _mm512_setzero_si512(), x);
                        // At most 4 * 43 * 127.
                        let dots = _mm512_dpbusd_epi32(_mm512_setzero_si512(), points[k], x);
                        *sums = _mm512_dpwssd_epi32(*sums, dots, factors[k]);
                    }
                }
                let sums = _mm512_cvtepi32_ps(join_planes(sums));
                acc[r][t] = _mm512_fmadd_ps(_mm512_set1_ps(d * x.d), sums, acc[r][t]);
            }
        }
    }
    lane_sums(acc)
}

/// The eight grid points of two groups.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn iq2_xxs_points(a: &[u8; 8], b: &[u8; 8]) -> __m512i {
    let point = |index: u8| i64::from_le_bytes(IQ2_XXS_GRID[usize::from(index)]);
    let [a, b] = [a, b].map(|g| [point(g[0]), point(g[1]), point(g[2]), point(g[3])]);
    _mm512_setr_epi64(a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3])
}

/// The prepared vectors as their blocks.
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

/// Has block `i` of a row brought near. The streams of rows are shorter than what the hardware learns from.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn prefetch<B>(row: *const B, i: usize) {
    let block = row.wrapping_add(i).cast::<i8>();
    for line in (0..size_of::<B>()).step_by(64) {
        // Any address may be named: nothing is read or written for the program.
        _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(line));
    }
}

// ---- loads, sums ---------------------------------------------------------------------------------

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn load64<T: Plain>(x: &[T; 64]) -> __m512i {
    const { assert!(size_of::<T>() == 1) };
    // SAFETY: `x` is 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// The four sums of lanes that are equal modulo 4.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn fold16(x: __m512) -> __m128 {
    let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(x)));
    fold8(_mm256_add_ps(_mm512_castps512_ps256(x), high))
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn fold8(x: __m256) -> __m128 {
    _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x))
}

/// The sum of all lanes of each.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn lane_sums<const R: usize, const T: usize>(acc: [[__m512; T]; R]) -> [[f32; T]; R] {
    let mut y = [[0.0; T]; R];
    for (y, acc) in y.iter_mut().zip(acc) {
        let mut quads = [_mm_setzero_ps(); T];
        for (quad, acc) in quads.iter_mut().zip(acc) {
            *quad = fold16(acc);
        }
        *y = quad_sums(quads);
    }
    y
}

/// The sum of each, as [`avx2::sum4`] to the bit; four at a time share their steps.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
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
