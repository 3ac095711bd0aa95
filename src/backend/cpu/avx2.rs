//! FENCE: kernels for x86-64 with AVX2, FMA and F16C.
//!
//! Promise: the table leaves [`kernels`] only on a CPU where these features were detected; inside, the
//! only unsafe steps are unaligned loads and stores through references to arrays of the right size.
//!
//! Each kernel `rows_*` is a driver over `*_dots::<R>`, which takes R rows in one pass, so that a load of x
//! serves R rows. Sums stay in lanes until the end of a row: the order is fixed by the row's length.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::backend::cpu::dispatch::{Activation, FormatKernel, Kernels, RowsKernel, WeightKernels};
use crate::backend::cpu::rows::{activations, in_passes, q4_k_scales};
use crate::backend::cpu::scalar;
use crate::quant::blocks::{BlockIq2Xxs, BlockMxfp4, BlockQ2K, BlockQ4K, BlockQ8_0, blocks};
use crate::quant::cast::to_bytes;
use crate::quant::encode::{self, Act32, Act256};
use crate::quant::tables::{IQ2_XXS_GRID, MXFP4_SCALES, MXFP4_VALUES};

/// The table, or the names of the features this CPU lacks.
pub fn kernels() -> Result<Kernels, String> {
    let features = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
    ];
    let missing: Vec<_> = features.iter().filter(|f| !f.1).map(|f| f.0).collect();
    if missing.is_empty() {
        Ok(KERNELS)
    } else {
        Err(missing.join(" "))
    }
}

/// Private but for the AVX-512 table, whose features include all of these.
pub(super) const KERNELS: Kernels = Kernels {
    name: "avx2",
    // SAFETY (of every closure here): a table leaves this module only after `kernels` has detected the
    // features that the functions are compiled for.
    weights: WeightKernels {
        // SAFETY: as above.
        f32: kernel(Activation::F32, |rows, x, y| unsafe {
            rows_f32(rows, x, y)
        }),
        // SAFETY: as above.
        f16: kernel(Activation::F32, |rows, x, y| unsafe {
            rows_f16(rows, x, y)
        }),
        // SAFETY: as above.
        bf16: kernel(Activation::F32, |rows, x, y| unsafe {
            rows_bf16(rows, x, y)
        }),
        // SAFETY: as above.
        q8_0: kernel(Activation::Block32, |rows, x, y| unsafe {
            rows_q8_0(rows, x, y)
        }),
        // SAFETY: as above.
        q4_k: kernel(Activation::Block256, |rows, x, y| unsafe {
            rows_q4_k(rows, x, y)
        }),
        // SAFETY: as above.
        q2_k: kernel(Activation::Block256, |rows, x, y| unsafe {
            rows_q2_k(rows, x, y)
        }),
        // SAFETY: as above.
        iq2_xxs: kernel(Activation::Block256, |rows, x, y| unsafe {
            rows_iq2_xxs(rows, x, y)
        }),
        // SAFETY: as above.
        mxfp4: kernel(Activation::Block32, |rows, x, y| unsafe {
            rows_mxfp4(rows, x, y)
        }),
    },
    // SAFETY: as above.
    dot_f32: |a, b| unsafe { dot_f32(a, b) },
    // SAFETY: as above.
    axpys: |a, rows, y| unsafe { axpys(a, rows, y) },
    // SAFETY: as above.
    quantize_32: |x, out| unsafe { quantize_32(x, out) },
    // SAFETY: as above.
    quantize_256: |x, out| unsafe { quantize_256(x, out) },
    quantize_512: scalar::KERNELS.quantize_512,
    // SAFETY: as above.
    f16_to_f32: |x, y| unsafe { f16_to_f32(x, y) },
    // SAFETY: as above.
    f32_to_f16: |x, y| unsafe { f32_to_f16(x, y) },
};

const fn kernel(activation: Activation, rows: RowsKernel) -> FormatKernel {
    FormatKernel {
        activation,
        rows,
        tile: None,
    }
}

// ---- weights times f32: 16 columns a step --------------------------------------------------------

#[target_feature(enable = "avx2,fma,f16c")]
fn rows_f32(rows: &[u8], x: &[u8], y: &mut [f32]) {
    float_rows::<64>(rows, x, y, |w| f32_weights(w));
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rows_f16(rows: &[u8], x: &[u8], y: &mut [f32]) {
    float_rows::<32>(rows, x, y, |w| {
        let (w, _) = w.as_chunks::<16>();
        [
            _mm256_cvtph_ps(load16(&w[0])),
            _mm256_cvtph_ps(load16(&w[1])),
        ]
    });
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rows_bf16(rows: &[u8], x: &[u8], y: &mut [f32]) {
    float_rows::<32>(rows, x, y, |w| {
        let (w, _) = w.as_chunks::<16>();
        let widen = |w| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(w)));
        [widen(load16(&w[0])), widen(load16(&w[1]))]
    });
}

#[target_feature(enable = "avx2,fma,f16c")]
fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of one length");
    let [sum] = float_dots::<1, 64>([to_bytes(a)], b, |w| f32_weights(w));
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
fn float_rows<const STEP: usize>(
    rows: &[u8],
    x: &[u8],
    y: &mut [f32],
    weights: impl Fn(&[u8; STEP]) -> [__m256; 2] + Copy,
) {
    let x: &[f32] = activations(x);
    in_passes::<4, _>(
        rows,
        x.len() * (STEP / 16),
        y,
        |rows| float_dots(rows, x, weights),
        |row| float_dots(row, x, weights),
    );
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn float_dots<const R: usize, const STEP: usize>(
    rows: [&[u8]; R],
    x: &[f32],
    weights: impl Fn(&[u8; STEP]) -> [__m256; 2],
) -> [f32; R] {
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    let (xs, x_tail) = x.as_chunks::<16>();
    let steps = rows.map(|row| &row.as_chunks::<STEP>().0[..xs.len()]);
    for (i, x) in xs.iter().enumerate() {
        let x = f32_weights(as_bytes(x));
        for r in 0..R {
            let w = weights(&steps[r][i]);
            acc[r] = [
                _mm256_fmadd_ps(w[0], x[0], acc[r][0]),
                _mm256_fmadd_ps(w[1], x[1], acc[r][1]),
            ];
        }
    }
    if !x_tail.is_empty() {
        // The columns that are left, filled up with zeros.
        let mut x = [0.0; 16];
        x[..x_tail.len()].copy_from_slice(x_tail);
        let x = f32_weights(as_bytes(&x));
        for r in 0..R {
            let tail = rows[r].as_chunks::<STEP>().1;
            let mut w = [0; STEP];
            w[..tail.len()].copy_from_slice(tail);
            let w = weights(&w);
            acc[r] = [
                _mm256_fmadd_ps(w[0], x[0], acc[r][0]),
                _mm256_fmadd_ps(w[1], x[1], acc[r][1]),
            ];
        }
    }
    acc.map(|[a, b]| sum8(_mm256_add_ps(a, b)))
}

// ---- formats with blocks of 32 activations ---------------------------------------------------------------

#[target_feature(enable = "avx2,fma,f16c")]
fn rows_q8_0(rows: &[u8], x: &[u8], y: &mut [f32]) {
    let x = activations(x);
    in_passes::<4, _>(
        blocks(rows),
        x.len(),
        y,
        |rows| q8_0_dots(rows, x),
        |row| q8_0_dots(row, x),
    );
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn q8_0_dots<const R: usize>(rows: [&[BlockQ8_0]; R], x: &[Act32]) -> [f32; R] {
    let mut acc = [_mm256_setzero_ps(); R];
    let rows = rows.map(|row| &row[..x.len()]);
    for (i, x) in x.iter().enumerate() {
        let x_planes = [load32(&x.hi), load32(&x.lo)];
        for r in 0..R {
            let w = &rows[r][i];
            let sums = dot_planes(load32(&w.q), x_planes);
            acc[r] = _mm256_fmadd_ps(
                _mm256_set1_ps(f16(w.d) * x.d),
                _mm256_cvtepi32_ps(sums),
                acc[r],
            );
        }
    }
    acc.map(|a| sum8(a))
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rows_mxfp4(rows: &[u8], x: &[u8], y: &mut [f32]) {
    let x = activations(x);
    in_passes::<4, _>(
        blocks(rows),
        x.len(),
        y,
        |rows| mxfp4_dots(rows, x),
        |row| mxfp4_dots(row, x),
    );
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn mxfp4_dots<const R: usize>(rows: [&[BlockMxfp4]; R], x: &[Act32]) -> [f32; R] {
    let values = _mm256_broadcastsi128_si256(load16(&MXFP4_VALUES));
    let mut acc = [_mm256_setzero_ps(); R];
    let rows = rows.map(|row| &row[..x.len()]);
    for (i, x) in x.iter().enumerate() {
        let x_planes = [load32(&x.hi), load32(&x.lo)];
        for r in 0..R {
            let w = &rows[r][i];
            let sums = dot_planes(_mm256_shuffle_epi8(values, nibbles(&w.qs)), x_planes);
            let scale = MXFP4_SCALES[usize::from(w.e)] * x.d;
            acc[r] = _mm256_fmadd_ps(_mm256_set1_ps(scale), _mm256_cvtepi32_ps(sums), acc[r]);
        }
    }
    acc.map(|a| sum8(a))
}

/// 32 products of signed bytes `w` and `128 hi + lo`, summed by fours; exact for all `w`.
///
/// `|w| * (x with the sign of w)`: the pair sums reach 2 * 128 * 127, which fits 16 bits.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn dot_planes(w: __m256i, [hi, lo]: [__m256i; 2]) -> __m256i {
    let magnitude = _mm256_abs_epi8(w);
    let hi = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(hi, w));
    let lo = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(lo, w));
    _mm256_add_epi32(
        _mm256_madd_epi16(hi, _mm256_set1_epi16(128)),
        _mm256_madd_epi16(lo, _mm256_set1_epi16(1)),
    )
}

/// `128 hi + lo` in each lane. Over the 32 products of a block that a lane sums, at most
/// 31 * 43 * 16256 * 32 (IQ2_XXS), which fits 32 bits.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn join_planes([hi, lo]: [__m256i; 2]) -> __m256i {
    _mm256_add_epi32(_mm256_slli_epi32::<7>(hi), lo)
}

/// Low nibbles in the low half, high nibbles in the high half.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn nibbles(bytes: &[u8; 16]) -> __m256i {
    let low = load16(bytes);
    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(low), low);
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

// ---- formats with blocks of 256 activations ---------------------------------------------------------------

#[target_feature(enable = "avx2,fma,f16c")]
fn rows_q4_k(rows: &[u8], x: &[u8], y: &mut [f32]) {
    let x = activations(x);
    in_passes::<2, _>(
        blocks(rows),
        x.len(),
        y,
        |rows| q4_k_dots(rows, x),
        |row| q4_k_dots(row, x),
    );
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn q4_k_dots<const R: usize>(rows: [&[BlockQ4K]; R], x: &[Act256]) -> [f32; R] {
    let mut acc = [_mm256_setzero_ps(); R];
    let rows = rows.map(|row| &row[..x.len()]);
    for (i, x) in x.iter().enumerate() {
        let planes = [x.hi.as_chunks::<32>().0, x.lo.as_chunks::<32>().0];
        let x_sums = sums_of_32(&x.sums);
        for r in 0..R {
            let w = &rows[r][i];
            let (scales, mins) = q4_k_words(&w.scales);
            let scales = _mm256_broadcastsi128_si256(scales);
            let mut sums = [_mm256_setzero_si256(); 2];
            for (c, qs) in w.qs.as_chunks::<32>().0.iter().enumerate() {
                let (qs, mask) = (load32(qs), _mm256_set1_epi8(15));
                let low = _mm256_and_si256(qs, mask);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(qs), mask);
                for (k, q) in [(2 * c, low), (2 * c + 1, high)] {
                    let scale = spread_word(scales, k);
                    for (sums, x) in sums.iter_mut().zip(planes) {
                        let pairs = _mm256_maddubs_epi16(q, load32(&x[k])); // at most 2 * 15 * 127
                        *sums = _mm256_add_epi32(*sums, _mm256_madd_epi16(pairs, scale));
                    }
                }
            }
            let scale = _mm256_set1_ps(f16(w.d) * x.d);
            acc[r] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(join_planes(sums)), acc[r]);
            let min_scale = _mm256_set1_ps(f16(w.dmin) * x.d);
            let mins = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(mins));
            acc[r] = _mm256_fnmadd_ps(min_scale, _mm256_mul_ps(mins, x_sums), acc[r]);
        }
    }
    acc.map(|a| sum8(a))
}

/// The eight scales and the eight minima, as 16-bit words.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q4_k_words(packed: &[u8; 12]) -> (__m128i, __m128i) {
    let (scales, mins) = q4_k_scales(packed);
    let words = |bytes: u64| _mm_cvtepu8_epi16(_mm_cvtsi64_si128(bytes as i64));
    (words(scales), words(mins))
}

/// Sums of 32 quants from sums of 16.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn sums_of_32(sums: &[f32; 16]) -> __m256 {
    let [a, b] = float_halves(sums);
    // The pairs come out as 0 1 4 5 | 2 3 6 7 of the eight sums.
    let mixed = _mm256_castps_pd(_mm256_hadd_ps(a, b));
    _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(mixed))
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rows_q2_k(rows: &[u8], x: &[u8], y: &mut [f32]) {
    let x = activations(x);
    in_passes::<2, _>(
        blocks(rows),
        x.len(),
        y,
        |rows| q2_k_dots(rows, x),
        |row| q2_k_dots(row, x),
    );
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn q2_k_dots<const R: usize>(rows: [&[BlockQ2K]; R], x: &[Act256]) -> [f32; R] {
    // Even sub-blocks' scales to the low half, odd ones' to the high half: 32 weights are one of each.
    let even_odd = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    let (two_bits, four_bits) = (_mm256_set1_epi8(3), _mm_set1_epi8(15));
    let mut acc = [_mm256_setzero_ps(); R];
    let rows = rows.map(|row| &row[..x.len()]);
    for (i, x) in x.iter().enumerate() {
        let planes = [x.hi.as_chunks::<32>().0, x.lo.as_chunks::<32>().0];
        let x_sums = float_halves(&x.sums);
        for r in 0..R {
            let w = &rows[r][i];
            let packed = load16(&w.scales);
            let scales = _mm_shuffle_epi8(_mm_and_si128(packed, four_bits), even_odd);
            let scales = _mm256_cvtepu8_epi16(scales);
            let mins = _mm_and_si128(_mm_srli_epi16::<4>(packed), four_bits);
            let mut sums = [_mm256_setzero_si256(); 2];
            for (a, qs) in w.qs.as_chunks::<32>().0.iter().enumerate() {
                let qs = load32(qs);
                let quants = [
                    qs,
                    _mm256_srli_epi16::<2>(qs),
                    _mm256_srli_epi16::<4>(qs),
                    _mm256_srli_epi16::<6>(qs),
                ];
                for (j, q) in quants.into_iter().enumerate() {
                    let q = _mm256_and_si256(q, two_bits);
                    let scale = spread_word(scales, 4 * a + j);
                    for (sums, x) in sums.iter_mut().zip(planes) {
                        let pairs = _mm256_maddubs_epi16(q, load32(&x[4 * a + j]));
                        *sums = _mm256_add_epi32(*sums, _mm256_madd_epi16(pairs, scale));
                    }
                }
            }
            let scale = _mm256_set1_ps(f16(w.d) * x.d);
            acc[r] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(join_planes(sums)), acc[r]);
            let [low, high] = [mins, _mm_srli_si128::<8>(mins)]
                .map(|mins| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(mins)));
            let min_sums = _mm256_fmadd_ps(low, x_sums[0], _mm256_mul_ps(high, x_sums[1]));
            let min_scale = _mm256_set1_ps(f16(w.dmin) * x.d);
            acc[r] = _mm256_fnmadd_ps(min_scale, min_sums, acc[r]);
        }
    }
    acc.map(|a| sum8(a))
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rows_iq2_xxs(rows: &[u8], x: &[u8], y: &mut [f32]) {
    let x = activations(x);
    in_passes::<2, _>(
        blocks(rows),
        x.len(),
        y,
        |rows| iq2_xxs_dots(rows, x),
        |row| iq2_xxs_dots(row, x),
    );
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn iq2_xxs_dots<const R: usize>(rows: [&[BlockIq2Xxs]; R], x: &[Act256]) -> [f32; R] {
    // Byte b of the vector takes sign byte b / 8 of its group, and of that the bit b % 8.
    let sign_byte = _mm256_setr_epi64x(
        0,
        0x0101_0101_0101_0101,
        0x0202_0202_0202_0202,
        0x0303_0303_0303_0303,
    );
    let sign_bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let mut acc = [_mm256_setzero_ps(); R];
    let rows = rows.map(|row| &row[..x.len()]);
    for (i, x) in x.iter().enumerate() {
        let planes = [x.hi.as_chunks::<32>().0, x.lo.as_chunks::<32>().0];
        for r in 0..R {
            let w = &rows[r][i];
            let (signs, factors) = iq2_xxs_words(&w.groups);
            let mut sums = [_mm256_setzero_si256(); 2];
            for g in 0..8 {
                let grid = iq2_xxs_points(&w.groups[g]);
                let bits = _mm256_shuffle_epi8(_mm256_set1_epi32(signs[g] as i32), sign_byte);
                let minus = _mm256_cmpeq_epi8(_mm256_and_si256(bits, sign_bit), sign_bit);
                let factor = _mm256_set1_epi16(factors[g] as i16);
                for (sums, x) in sums.iter_mut().zip(planes) {
                    let x = _mm256_sub_epi8(_mm256_xor_si256(load32(&x[g]), minus), minus);
                    let pairs = _mm256_maddubs_epi16(grid, x); // at most 2 * 43 * 127
                    *sums = _mm256_add_epi32(*sums, _mm256_madd_epi16(pairs, factor));
                }
            }
            let scale = _mm256_set1_ps(f16(w.d) * 0.125 * x.d);
            acc[r] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(join_planes(sums)), acc[r]);
        }
    }
    acc.map(|a| sum8(a))
}

/// The four grid points of a group.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn iq2_xxs_points(group: &[u8; 8]) -> __m256i {
    let point = |k: usize| i64::from_le_bytes(IQ2_XXS_GRID[usize::from(group[k])]);
    _mm256_setr_epi64x(point(0), point(1), point(2), point(3))
}

/// Of all eight groups at once: the 32 sign bits in element order, and the odd scale factor.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn iq2_xxs_words(groups: &[[u8; 8]; 8]) -> ([u32; 8], [u32; 8]) {
    // Gather the second word of each group into one vector, in order.
    let halves = groups.as_flattened().as_chunks::<32>().0;
    let odd = _mm256_shuffle_ps::<0b11_01_11_01>(
        _mm256_castsi256_ps(load32(&halves[0])),
        _mm256_castsi256_ps(load32(&halves[1])),
    );
    let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_castps_si256(odd));
    // Four fields of seven bits to the low seven bits of four bytes.
    let field = |shifted, mask: i32| _mm256_and_si256(shifted, _mm256_set1_epi32(mask));
    let seven = _mm256_or_si256(
        _mm256_or_si256(
            field(words, 0x7f),
            field(_mm256_slli_epi32::<1>(words), 0x7f00),
        ),
        _mm256_or_si256(
            field(_mm256_slli_epi32::<2>(words), 0x7f_0000),
            field(_mm256_slli_epi32::<3>(words), 0x7f00_0000),
        ),
    );
    // The parity of each byte folds into its lowest bit (what shifts in from the next byte stays above it).
    let fold = _mm256_xor_si256(seven, _mm256_srli_epi32::<4>(seven));
    let fold = _mm256_xor_si256(fold, _mm256_srli_epi32::<2>(fold));
    let fold = _mm256_xor_si256(fold, _mm256_srli_epi32::<1>(fold));
    let eighth = _mm256_slli_epi32::<7>(field(fold, 0x0101_0101));
    let factors = _mm256_or_si256(
        field(_mm256_srli_epi32::<27>(words), 30),
        _mm256_set1_epi32(1),
    );
    (words_of(_mm256_or_si256(seven, eighth)), words_of(factors))
}

// ---- vectors -------------------------------------------------------------------------------------

#[target_feature(enable = "avx2,fma,f16c")]
fn axpys(a: &[f32], rows: &[f32], y: &mut [f32]) {
    assert_eq!(rows.len(), a.len() * y.len(), "rows of one length");
    // Compiled for FMA, this is a vector loop.
    for (a, row) in a.iter().zip(rows.chunks_exact(y.len().max(1))) {
        for (y, x) in y.iter_mut().zip(row) {
            *y = a.mul_add(*x, *y);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_32(x: &[f32], out: &mut [Act32]) {
    encode::quantize_32(x, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_256(x: &[f32], out: &mut [Act256]) {
    encode::quantize_256(x, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn f16_to_f32(x: &[u16], y: &mut [f32]) {
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
fn f32_to_f16(x: &[f32], y: &mut [u16]) {
    assert_eq!(x.len(), y.len(), "vectors of one length");
    let narrow = |x: &[f32; 8], y: &mut [u16; 8]| {
        let x = _mm256_castsi256_ps(load32(as_bytes(x)));
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

// ---- loads, stores, sums -------------------------------------------------------------------------

/// An array seen as bytes: `N * size_of::<T>()` must be `BYTES`.
#[inline(always)]
pub(super) fn as_bytes<T, const N: usize, const BYTES: usize>(x: &[T; N]) -> &[u8; BYTES]
where
    T: crate::quant::cast::Plain,
{
    const { assert!(N * size_of::<T>() == BYTES) };
    // SAFETY: a reference to as many initialised bytes (`T` is `Plain`), of alignment 1.
    unsafe { &*x.as_ptr().cast() }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn load16<T: crate::quant::cast::Plain>(x: &[T; 16]) -> __m128i {
    const { assert!(size_of::<T>() == 1) };
    // SAFETY: `x` is 16 bytes; the load needs no alignment.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn load32<T: crate::quant::cast::Plain>(x: &[T; 32]) -> __m256i {
    const { assert!(size_of::<T>() == 1) };
    // SAFETY: `x` is 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn float_halves(x: &[f32; 16]) -> [__m256; 2] {
    f32_weights(as_bytes(x))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store_f32(x: __m256, y: &mut [f32; 8]) {
    // SAFETY: `y` is 32 bytes that may be written; the store needs no alignment.
    unsafe { _mm256_storeu_ps(y.as_mut_ptr(), x) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn words_of(x: __m256i) -> [u32; 8] {
    let mut words = [0; 8];
    // SAFETY: `words` is 32 bytes that may be written; the store needs no alignment.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), x) }
    words
}

/// Word `k` of each half, in all places of that half.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn spread_word(words: __m256i, k: usize) -> __m256i {
    let low_byte = 2 * k as i16;
    _mm256_shuffle_epi8(words, _mm256_set1_epi16((low_byte + 1) << 8 | low_byte))
}

/// The value of f16 bits.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn f16(bytes: [u8; 2]) -> f32 {
    let bits = _mm_cvtsi32_si128(i32::from(u16::from_le_bytes(bytes)));
    _mm_cvtss_f32(_mm_cvtph_ps(bits))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn sum8(x: __m256) -> f32 {
    sum4(_mm_add_ps(
        _mm256_castps256_ps128(x),
        _mm256_extractf128_ps::<1>(x),
    ))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn sum4(x: __m128) -> f32 {
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}
