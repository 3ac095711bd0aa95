//! FENCE: the formats of weights, 512 columns at a time, as unsigned bytes in the order of
//! [`crate::quant::wide::Act512`].
//!
//! Promise: as in `avx512.rs`; gathers read inside the blocks and tables they are given.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::lanes::Columns;
use super::load64;
use super::product::Unpacked;
use crate::backend::cpu::avx2::{f16, load16, load32};
use crate::backend::cpu::rows::q4_k_scales;
use crate::backend::cpu::unpack::{Numbers, Shape};
use crate::quant::blocks::{BlockIq2Xxs, BlockQ2K, BlockQ4K, BlockQ8_0};
use crate::quant::cast::Plain;
use crate::quant::tables::IQ2_XXS_CODES;

/// Two times 256 weights that `columns` unpacks; `N` is twice the blocks of each.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub fn two<B, const N: usize, const HALF: usize>(
    w: &[B; N],
    shape: Shape,
    columns: impl Fn(&[B; HALF]) -> Columns,
) -> Unpacked {
    let halves = w.as_chunks::<HALF>().0;
    joined(shape, [columns(&halves[0]), columns(&halves[1])])
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn no_columns() -> Columns {
    Columns {
        bytes: [_mm512_setzero_si512(); 4],
        numbers: Numbers::new([0.0; 8]),
    }
}

/// As [`two`], with one place where `columns` is called: it is compiled into this.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub fn in_turn<B, const N: usize, const HALF: usize>(
    w: &[B; N],
    shape: Shape,
    columns: impl Fn(&[B; HALF]) -> Columns,
) -> Unpacked {
    let mut halves = [no_columns(), no_columns()];
    for (half, w) in halves.iter_mut().zip(w.as_chunks::<HALF>().0) {
        *half = columns(w);
    }
    joined(shape, halves)
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn joined(shape: Shape, [a, b]: [Columns; 2]) -> Unpacked {
    let mut bytes = [_mm512_setzero_si512(); 8];
    for k in 0..4 {
        // w + 128: the top bit turned.
        let turn = _mm512_set1_epi8(if shape.signed { -128 } else { 0 });
        bytes[k] = _mm512_xor_si512(a.bytes[k], turn);
        bytes[4 + k] = _mm512_xor_si512(b.bytes[k], turn);
    }
    let (a, b) = (&a.numbers, &b.numbers);
    // Two loads of 32 bytes: one of 64 would wait for the stores of both halves.
    let floats = |a, b| _mm512_castsi512_ps(side_by_side(load_words(a), load_words(b)));
    let ints = |a, b| side_by_side(load_words(a), load_words(b));
    Unpacked {
        bytes,
        scales: floats(&a.scales, &b.scales),
        mins: [
            floats(&a.mins[0], &b.mins[0]),
            floats(&a.mins[1], &b.mins[1]),
        ],
        factors: [
            ints(&a.factors[0], &b.factors[0]),
            ints(&a.factors[1], &b.factors[1]),
        ],
    }
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn load_words<T: Plain>(x: &[T; 8]) -> __m256i {
    const { assert!(size_of::<T>() == 4) };
    // SAFETY: `x` is 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub fn q8_0(w: &[BlockQ8_0; 16]) -> Unpacked {
    let mut bytes = [_mm512_setzero_si512(); 8];
    for (w, bytes) in w
        .as_chunks::<8>()
        .0
        .iter()
        .zip(bytes.as_chunks_mut::<4>().0)
    {
        let both = |i: usize| side_by_side(load32(&w[i].q), load32(&w[i + 4].q));
        *bytes = eights([both(0), both(1), both(2), both(3)]);
        for bytes in bytes {
            // w + 128: the top bit turned.
            *bytes = _mm512_xor_si512(*bytes, _mm512_set1_epi8(-128));
        }
    }
    let words = strided::<{ size_of::<BlockQ8_0>() as i32 }, _>(w);
    Unpacked {
        bytes,
        scales: _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)),
        mins: [_mm512_setzero_ps(); 2],
        factors: [_mm512_setzero_si512(); 2],
    }
}

/// From the blocks 0 | 4, 1 | 5, 2 | 6, 3 | 7 the columns by eights, each of all blocks.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn eights(blocks: [__m512i; 4]) -> [__m512i; 4] {
    let [a, b, c, d] = blocks;
    let (ab, cd) = (_mm512_unpacklo_epi64(a, b), _mm512_unpacklo_epi64(c, d));
    let (ab_odd, cd_odd) = (_mm512_unpackhi_epi64(a, b), _mm512_unpackhi_epi64(c, d));
    let first = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    let second = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    [
        _mm512_permutex2var_epi64(ab, first, cd),
        _mm512_permutex2var_epi64(ab_odd, first, cd_odd),
        _mm512_permutex2var_epi64(ab, second, cd),
        _mm512_permutex2var_epi64(ab_odd, second, cd_odd),
    ]
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub fn q4_k(w: &[BlockQ4K; 2]) -> Unpacked {
    // 32 bytes are blocks 2i (low nibbles) and 2i + 1 (high).
    let pick = _mm512_setr_epi64(0, 0, 4, 4, 8, 8, 12, 12);
    let shifts = _mm512_setr_epi64(0, 4, 0, 4, 0, 4, 0, 4);
    let mut bytes = [_mm512_setzero_si512(); 8];
    let (mut scales, mut mins) = ([0; 2], [0; 2]);
    for (h, w) in w.iter().enumerate() {
        let [a, b] = [0, 1].map(|i| load64(&w.qs.as_chunks::<64>().0[i]));
        for k in 0..4 {
            let pick = _mm512_add_epi64(pick, _mm512_set1_epi64(k as i64));
            let qs = _mm512_srlv_epi64(_mm512_permutex2var_epi64(a, pick, b), shifts);
            bytes[4 * h + k] = _mm512_and_si512(qs, _mm512_set1_epi8(15));
        }
        (scales[h], mins[h]) = q4_k_scales(&w.scales);
    }
    let floats = |x: [u64; 2]| {
        let x = _mm_set_epi64x(x[1] as i64, x[0] as i64);
        _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(x))
    };
    let d = halves(f16(w[0].d), f16(w[1].d));
    let dmin = halves(f16(w[0].dmin), f16(w[1].dmin));
    Unpacked {
        bytes,
        scales: _mm512_mul_ps(d, floats(scales)),
        mins: [_mm512_mul_ps(dmin, floats(mins)); 2],
        factors: [_mm512_setzero_si512(); 2],
    }
}

/// The scales of 16 weights are whole numbers: they go into the bytes, at most 3 * 15.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub fn q2_k(w: &[BlockQ2K; 2]) -> Unpacked {
    // Bits 2i of the first 32 bytes are block i, of the others block i + 4.
    let pick = _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4);
    let shifts = _mm512_setr_epi64(0, 2, 4, 6, 0, 2, 4, 6);
    // Two blocks share a table of 16 bytes: the second finds its multiples at 8.
    let second = _mm512_setr_epi64(0, EIGHTS, 0, EIGHTS, 0, EIGHTS, 0, EIGHTS);
    let mut bytes = [_mm512_setzero_si512(); 8];
    for (h, w) in w.iter().enumerate() {
        let scales = _mm_and_si128(load16(&w.scales), _mm_set1_epi8(15));
        // 0, 1, 2 and 3 times the scale in four bytes: of the first half of block i, then of its second.
        let multiples =
            _mm512_mullo_epi32(_mm512_cvtepu8_epi32(scales), _mm512_set1_epi32(0x0302_0100));
        let tables = [multiples, _mm512_srli_epi64::<32>(multiples)];
        let qs = load64(&w.qs);
        for k in 0..4 {
            let pick = _mm512_add_epi64(pick, _mm512_set1_epi64(k as i64));
            let qs = _mm512_srlv_epi64(_mm512_permutexvar_epi64(pick, qs), shifts);
            let two_bits = _mm512_and_si512(qs, _mm512_set1_epi8(3));
            let index = _mm512_or_si512(two_bits, second);
            bytes[4 * h + k] = _mm512_shuffle_epi8(tables[k / 2], index);
        }
    }
    // 32 minima; the first and the second of each block.
    let mins = _mm256_inserti128_si256::<1>(
        _mm256_castsi128_si256(load16(&w[0].scales)),
        load16(&w[1].scales),
    );
    let mins = _mm256_and_si256(_mm256_srli_epi16::<4>(mins), _mm256_set1_epi8(15));
    let dmin = halves(f16(w[0].dmin), f16(w[1].dmin));
    let floats = |words| _mm512_mul_ps(dmin, _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(words)));
    Unpacked {
        bytes,
        scales: halves(f16(w[0].d), f16(w[1].d)),
        mins: [
            floats(_mm256_and_si256(mins, _mm256_set1_epi16(255))),
            floats(_mm256_srli_epi16::<8>(mins)),
        ],
        factors: [_mm512_setzero_si512(); 2],
    }
}

/// 8 in each byte.
const EIGHTS: i64 = 0x0808_0808_0808_0808;

/// Low and high bytes of the grid's codes: eight columns of two bits each.
static CODES: [[[u8; 64]; 4]; 2] = codes();

const fn codes() -> [[[u8; 64]; 4]; 2] {
    let mut codes = [[[0; 64]; 4]; 2];
    let mut i = 0;
    while i < 256 {
        [codes[0][i / 64][i % 64], codes[1][i / 64][i % 64]] = IQ2_XXS_CODES[i].to_le_bytes();
        i += 1;
    }
    codes
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub fn iq2_xxs(w: &[BlockIq2Xxs; 2]) -> Unpacked {
    // A group is a word of four grid indices and one of signs and scale.
    let groups = [0, 1].map(|h| load64(&w[h].groups.as_flattened().as_chunks::<64>().0[0]));
    let minus = iq2_xxs_signs(groups);
    let mut bytes = [_mm512_setzero_si512(); 8];
    for (h, codes) in iq2_xxs_codes(groups).into_iter().enumerate() {
        for k in 0..4 {
            let points = spread::<{ 128 + 8 }>(codes, k, IQ2_POINTS);
            // 256 - (128 + m) is 128 - m.
            let zero = _mm512_setzero_si512();
            bytes[4 * h + k] = _mm512_mask_sub_epi8(points, minus[4 * h + k], zero, points);
        }
    }
    let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    let words = _mm512_permutex2var_epi32(groups[0], odd, groups[1]);
    let factors = _mm512_or_si512(
        _mm512_and_si512(_mm512_srli_epi32::<27>(words), _mm512_set1_epi32(30)),
        _mm512_set1_epi32(1),
    );
    let d = halves(f16(w[0].d) * 0.125, f16(w[1].d) * 0.125);
    Unpacked {
        bytes,
        scales: _mm512_mul_ps(d, _mm512_cvtepi32_ps(factors)),
        mins: [_mm512_setzero_ps(); 2],
        factors: [_mm512_setzero_si512(); 2],
    }
}

/// The bytes of points `k`, of a lane of four compact codes for each block: `ZERO` for a digit 0, and the bits of `matrix`
/// turned for others.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub fn spread<const ZERO: i32>(codes: __m512i, k: usize, matrix: i64) -> __m512i {
    // Column e of code k stands at bit 16k + 2e; above its two bits are those of others.
    let columns = _mm512_set1_epi64(0x0e0c_0a08_0604_0200 + 0x1010_1010_1010_1010 * k as i64);
    let code = _mm512_multishift_epi64_epi8(columns, codes);
    _mm512_gf2p8affine_epi64_epi8::<ZERO>(code, _mm512_set1_epi64(matrix))
}

/// Bits of a code to a magnitude: 25 and 43 differ from 8 by the bits 0x11 and 0x23.
pub const IQ2_POINTS: i64 = bit_matrix(&[0b11, 0b10, 0, 0, 0b01, 0b10, 0, 0]);

/// Copies seven bits; the eighth makes their number even.
const SIGNS: i64 = bit_matrix(&[1, 2, 4, 8, 16, 32, 64, 127]);

/// The matrix of an affine transform whose bit `i` is the parity of the bits in `of[i]`.
pub const fn bit_matrix(of: &[u8; 8]) -> i64 {
    i64::from_be_bytes(*of)
}

/// The codes of the grid's points: a word for each of the four indices of a group.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn iq2_xxs_codes(groups: [__m512i; 2]) -> [__m512i; 2] {
    // In an order that joining bytes to words brings back to that of the groups.
    let order = _mm512_setr_epi32(0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30);
    let index = _mm512_permutex2var_epi32(groups[0], order, groups[1]);
    let upper = _mm512_movepi8_mask(index);
    let (low, high) = (
        byte_of_256(&CODES[0], index, upper),
        byte_of_256(&CODES[1], index, upper),
    );
    [
        _mm512_unpacklo_epi8(low, high),
        _mm512_unpackhi_epi8(low, high),
    ]
}

/// Byte `index` of 256, where `upper` says which indices are above 127.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub fn byte_of_256(table: &[[u8; 64]; 4], index: __m512i, upper: __mmask64) -> __m512i {
    let [a, b, c, d] = table;
    let first = _mm512_permutex2var_epi8(load64(a), index, load64(b));
    let second = _mm512_permutex2var_epi8(load64(c), index, load64(d));
    _mm512_mask_blend_epi8(upper, first, second)
}

/// The signs of 16 groups, of which each has four fields of seven bits: 64 bits for each vector of [`iq2_xxs`].
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn iq2_xxs_signs(groups: [__m512i; 2]) -> [u64; 8] {
    let fields = _mm512_set1_epi64(0x352e_2720_352e_2720);
    let seven = _mm512_mask_multishift_epi64_epi8(
        _mm512_multishift_epi64_epi8(fields, groups[0]),
        0xf0f0_f0f0_f0f0_f0f0,
        fields,
        groups[1],
    );
    let eight = _mm512_gf2p8affine_epi64_epi8::<0>(seven, _mm512_set1_epi64(SIGNS));
    // From eight bytes of a group and its partner to one byte of each of eight groups.
    let turned = _mm512_permutexvar_epi8(load64(&TURN), eight);
    let mut signs = [0; 8];
    store_words(&mut signs, turned);
    signs
}

/// Rows and columns of eight by eight bytes exchanged.
static TURN: [u8; 64] = {
    let mut turn = [0; 64];
    let mut i = 0;
    while i < 64 {
        turn[i] = (i % 8 * 8 + i / 8) as u8;
        i += 1;
    }
    turn
};

/// The first words of 16 blocks of `STRIDE` bytes.
#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn strided<const STRIDE: i32, B>(w: &[B; 16]) -> __m512i {
    const { assert!(size_of::<B>() == STRIDE as usize && STRIDE >= 4) };
    let numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let offsets = _mm512_mullo_epi32(numbers, _mm512_set1_epi32(STRIDE));
    // SAFETY: four bytes at the start of each of the 16 blocks, none of which is shorter.
    unsafe { _mm512_i32gather_epi32::<1>(offsets, w.as_ptr().cast()) }
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn store_words(to: &mut [u64; 8], x: __m512i) {
    // SAFETY: `to` is 64 bytes; the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn side_by_side(a: __m256i, b: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b)
}

#[target_feature(enable = "avx512vl,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn halves(a: f32, b: f32) -> __m512 {
    _mm512_mask_mov_ps(_mm512_set1_ps(a), 0xff00, _mm512_set1_ps(b))
}
