//! The small floats of the release and the rounding it does to what it keeps: E4M3 in blocks of 64 with
//! a power-of-two scale for KV rows, E2M1 in blocks of 32 after a Hadamard transform for indexer rows.
//!
//! Each rounding is an encode to a small block and a decode from it. Source: the model's published
//! inference code (`act_quant`, `fp4_act_quant`, `rotate_activation`); OCP 8-bit and microscaling formats.

use super::blocks::{BlockMxfp4, dequantize};

/// Values in a block of E4M3 codes.
pub const FP8_BLOCK: usize = 64;
/// Values in a block of E2M1 codes.
pub const FP4_BLOCK: usize = 32;

/// Largest E4M3 value.
const E4M3_MAX: f32 = 448.0;
/// Largest E2M1 value.
const E2M1_MAX: f32 = 6.0;
/// Smallest amax a block of E4M3 is scaled for.
const FP8_AMAX_MIN: f32 = 1e-4;
/// Smallest amax a block of E2M1 is scaled for: 6 · 2^-126.
const FP4_AMAX_MIN: f32 = E2M1_MAX * f32::MIN_POSITIVE;

/// 64 values in 65 bytes: `x = E4M3(code) * 2^(e - 127)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockFp8 {
    /// Exponent of the scale, biased by 127.
    pub e: u8,
    /// E4M3 codes.
    pub codes: [u8; FP8_BLOCK],
}

const _: () = assert!(size_of::<BlockFp8>() == 65 && align_of::<BlockFp8>() == 1);

impl BlockFp8 {
    /// A block of zeros.
    pub const ZERO: BlockFp8 = BlockFp8 {
        e: 0,
        codes: [0; FP8_BLOCK],
    };
}

/// Rounds `x` to blocks of E4M3: the KV rounding of the non-rotary dims.
///
/// `x.len()` is 64 a block of `out`.
pub fn fp8_encode(x: &[f32], out: &mut [BlockFp8]) {
    let (x, rest) = x.as_chunks::<FP8_BLOCK>();
    assert!(rest.is_empty() && x.len() == out.len(), "64 values a block");
    for (x, block) in x.iter().zip(out) {
        let exponent = ceil_log2_ratio(amax(x).max(FP8_AMAX_MIN), E4M3_MAX);
        block.e = biased(exponent);
        let inverse = pow2(-exponent);
        block.codes = x.map(|x| e4m3_encode(x * inverse));
    }
}

/// The values of `blocks`; `out.len()` is 64 a block.
pub fn fp8_decode(blocks: &[BlockFp8], out: &mut [f32]) {
    let (out, rest) = out.as_chunks_mut::<FP8_BLOCK>();
    assert!(
        rest.is_empty() && out.len() == blocks.len(),
        "64 values a block"
    );
    for (block, out) in blocks.iter().zip(out) {
        let scale = pow2(i32::from(block.e) - 127);
        *out = block
            .codes
            .map(|code| E4M3_VALUES[usize::from(code)] * scale);
    }
}

/// Replaces `x` (a whole number of 64-blocks) by what [`fp8_encode`] keeps of it.
pub fn fp8_round(x: &mut [f32]) {
    assert!(x.len().is_multiple_of(FP8_BLOCK), "whole blocks");
    let mut block = [BlockFp8::ZERO];
    for x in x.as_chunks_mut::<FP8_BLOCK>().0 {
        fp8_encode(x, &mut block);
        fp8_decode(&block, x);
    }
}

/// Rounds `x` to blocks of E2M1: the rounding of indexer rows, which then are rows of the format MXFP4.
///
/// `x.len()` is 32 a block of `out`. Decode with [`super::blocks::dequantize_row`] or [`fp4_decode`].
pub fn fp4_encode(x: &[f32], out: &mut [BlockMxfp4]) {
    let (x, rest) = x.as_chunks::<FP4_BLOCK>();
    assert!(rest.is_empty() && x.len() == out.len(), "32 values a block");
    for (x, block) in x.iter().zip(out) {
        let exponent = ceil_log2_ratio(amax(x).max(FP4_AMAX_MIN), E2M1_MAX);
        block.e = biased(exponent);
        let inverse = pow2(-exponent);
        for (j, byte) in block.qs.iter_mut().enumerate() {
            *byte = e2m1_encode(x[j] * inverse) | e2m1_encode(x[j + 16] * inverse) << 4;
        }
    }
}

/// The values of `blocks`; `out.len()` is 32 a block.
pub fn fp4_decode(blocks: &[BlockMxfp4], out: &mut [f32]) {
    let (out, rest) = out.as_chunks_mut::<FP4_BLOCK>();
    assert!(
        rest.is_empty() && out.len() == blocks.len(),
        "32 values a block"
    );
    for (block, out) in blocks.iter().zip(out) {
        dequantize(std::slice::from_ref(block), out);
    }
}

/// Replaces `x` (a whole number of 32-blocks) by what [`fp4_encode`] keeps of it.
pub fn fp4_round(x: &mut [f32]) {
    assert!(x.len().is_multiple_of(FP4_BLOCK), "whole blocks");
    let mut block = [BlockMxfp4 { e: 0, qs: [0; 16] }];
    for x in x.as_chunks_mut::<FP4_BLOCK>().0 {
        fp4_encode(x, &mut block);
        dequantize(&block, x);
    }
}

/// Walsh-Hadamard transform in natural order, times `len^-1/2`: orthonormal and its own inverse.
///
/// `x.len()` is a power of two.
pub fn hadamard(x: &mut [f32]) {
    assert!(x.len().is_power_of_two(), "a power of two");
    let mut half = 1;
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let norm = 1.0 / (x.len() as f32).sqrt();
    for x in x {
        *x *= norm;
    }
}

/// The E4M3 code nearest to `x`, ties to the even code; beyond ±448 the code of ±448, NaN for NaN.
///
/// ```text
/// code = sign:1 exponent:4 mantissa:3;  exponent 0: m * 2^-9, else (1 + m/8) * 2^(exponent - 7)
/// ```
pub fn e4m3_encode(x: f32) -> u8 {
    let sign = (x.to_bits() >> 24) as u8 & 0x80;
    let a = x.abs();
    if a.is_nan() {
        return sign | 0x7f;
    }
    if a >= E4M3_MAX {
        return sign | 0x7e;
    }
    if a < 0.015_625 {
        // Below 2^-6 the codes are the multiples of 2^-9; rounding up to 8 gives the code of 2^-6.
        return sign | (a * 512.0).round_ties_even() as u8;
    }
    // Keep three mantissa bits, nearest-even; a carry moves into the exponent, as it should. The
    // exponent's bias drops from 127 to 7.
    let bits = a.to_bits();
    let rounded = bits + 0x7_ffff + (bits >> 20 & 1);
    sign | ((rounded >> 20) - (120 << 3)) as u8
}

/// The value of an E4M3 code; 0x7f and 0xff are NaN.
pub fn e4m3_decode(code: u8) -> f32 {
    E4M3_VALUES[usize::from(code)]
}

static E4M3_VALUES: [f32; 256] = e4m3_values();

const fn e4m3_values() -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 128_usize {
        let (exponent, mantissa) = (code as u32 >> 3, code as u32 & 7);
        let value = match (exponent, mantissa) {
            (15, 7) => f32::NAN,
            (0, m) => m as f32 / 512.0,
            (e, m) => f32::from_bits((e + 120) << 23 | m << 20),
        };
        values[code] = value;
        values[code + 128] = -value;
        code += 1;
    }
    values
}

/// The E2M1 code (bit 3 the sign) nearest to `x`, ties to the even code; beyond ±6 the code of ±6.
///
/// NaN, which E2M1 lacks, gives ±6.
pub fn e2m1_encode(x: f32) -> u8 {
    let a = x.abs();
    // At each midpoint the tie goes to the even code: `>` leaves it below, `>=` moves it up.
    let code = u8::from(a > 0.25)
        + u8::from(a >= 0.75)
        + u8::from(a > 1.25)
        + u8::from(a >= 1.75)
        + u8::from(a > 2.5)
        + u8::from(a >= 3.5)
        + u8::from(a > 5.0);
    let code = if a.is_nan() { 7 } else { code };
    (x.to_bits() >> 28) as u8 & 8 | code
}

/// The value of an E2M1 code (low four bits).
pub fn e2m1_decode(code: u8) -> f32 {
    f32::from(super::tables::MXFP4_VALUES[usize::from(code & 15)]) * 0.5
}

/// `⌈log2(a / b)⌉` from the bits: exact, where a rounded quotient or logarithm is not.
///
/// Both are positive and normal; an infinite or NaN `a` counts as 2^128 times its mantissa.
pub fn ceil_log2_ratio(a: f32, b: f32) -> i32 {
    let (a, b) = (a.to_bits(), b.to_bits());
    let exponent = |bits: u32| (bits >> 23 & 0xff) as i32;
    let mantissa = |bits: u32| bits & 0x7f_ffff;
    exponent(a) - exponent(b) + i32::from(mantissa(a) > mantissa(b))
}

/// `2^exponent`, exact: 0 below -149, infinite above 127.
pub fn pow2(exponent: i32) -> f32 {
    match exponent {
        128.. => f32::INFINITY,
        -126..=127 => f32::from_bits(((exponent + 127) as u32) << 23),
        -149..=-127 => f32::from_bits(1 << (exponent + 149)),
        _ => 0.0,
    }
}

/// An E8M0 byte that is never 255 (NaN).
fn biased(exponent: i32) -> u8 {
    (exponent + 127).clamp(0, 254) as u8
}

/// Largest magnitude; NaN is passed over.
fn amax(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m: f32, x| m.max(x.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4m3_nearest_by_search() {
        for code in 0..=0x7e_u8 {
            assert_eq!(e4m3_encode(e4m3_decode(code)), code);
            assert_eq!(e4m3_encode(-e4m3_decode(code)), code | 0x80);
            if code < 0x7e {
                let (low, high) = (e4m3_decode(code), e4m3_decode(code + 1));
                let middle = (low + high) / 2.0;
                let even = code + (code & 1);
                assert_eq!(e4m3_encode(middle), even);
                assert_eq!(e4m3_encode(middle.next_down()), code);
                assert_eq!(e4m3_encode(middle.next_up()), code + 1);
            }
        }
        assert!(e4m3_decode(e4m3_encode(f32::NAN)).is_nan());
        assert_eq!(e4m3_decode(e4m3_encode(f32::NEG_INFINITY)), -448.0);
    }

    #[test]
    fn e4m3_ties() {
        let ties = [
            (2_f32.powi(-10), 0.0),
            (1.5 * 2_f32.powi(-9), 2_f32.powi(-8)),
            (17.0, 16.0),
        ];
        for (x, y) in ties
            .into_iter()
            .chain([(19.0, 20.0), (432.0, 448.0), (500.0, 448.0)])
        {
            assert_eq!(e4m3_decode(e4m3_encode(x)), y);
        }
    }

    #[test]
    fn e2m1_ties_and_ends() {
        let ties = [
            (0.25, 0.0),
            (0.75, 1.0),
            (1.25, 1.0),
            (1.75, 2.0),
            (2.5, 2.0),
            (3.5, 4.0),
            (5.0, 4.0),
        ];
        for (x, y) in
            ties.into_iter()
                .chain([(0.26, 0.5), (5.01, 6.0), (99.0, 6.0), (f32::INFINITY, 6.0)])
        {
            assert_eq!(e2m1_decode(e2m1_encode(x)), y);
            assert_eq!(e2m1_decode(e2m1_encode(-x)), -y);
        }
        for code in 0..8 {
            assert_eq!(e2m1_encode(e2m1_decode(code)), code);
        }
    }

    #[test]
    fn scale_is_the_ceiling_at_and_above_a_power() {
        for k in -20..=100 {
            for top in [E4M3_MAX, E2M1_MAX] {
                let a = top * pow2(k);
                assert_eq!(ceil_log2_ratio(a, top), k);
                assert_eq!(ceil_log2_ratio(a.next_up(), top), k + 1);
                assert_eq!(ceil_log2_ratio(a.next_down(), top), k);
            }
        }
        for e in -149..=127 {
            assert_eq!(f64::from(pow2(e)), 2_f64.powi(e));
        }
        assert_eq!((pow2(-150), pow2(128)), (0.0, f32::INFINITY));
    }

    #[test]
    fn fp8_block_of_sines() {
        let mut x: Vec<f32> = (0..64).map(|i| (3.0 * f64::from(i).sin()) as f32).collect();
        let mut blocks = [BlockFp8::ZERO];
        fp8_encode(&x, &mut blocks);
        assert_eq!(blocks[0].e, 127 - 7);
        fp8_round(&mut x);
        assert_eq!(x[..8], [0.0, 2.5, 2.75, 0.4375, -2.25, -3.0, -0.8125, 2.0]);
        assert!((x.iter().sum::<f32>() - 0.152344).abs() < 1e-6);
    }

    #[test]
    fn fp8_keeps_its_own_values_and_outside_data() {
        let mut x = [0.0; 64];
        x[0] = f32::NAN;
        x[1] = f32::INFINITY;
        fp8_round(&mut x);
        assert!(x[0].is_nan() && x[1].is_infinite());
        let mut x: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).cos() * 1e-3).collect();
        fp8_round(&mut x);
        let once = x.clone();
        fp8_round(&mut x);
        assert_eq!(x, once);
        // A rotary tail is not E4M3: the caller must leave it out, rounding would change it.
        let mut tail = [1.0 + 1.0 / 64.0; 64];
        fp8_round(&mut tail);
        assert_eq!(tail, [1.0; 64]);
    }

    #[test]
    fn hadamard_and_fp4_of_cosines() {
        let mut x: Vec<f32> = (0..128).map(|i| f64::from(i).cos() as f32).collect();
        hadamard(&mut x);
        for (x, y) in x.iter().zip([0.133146, 0.057408, 0.163659, -0.113283]) {
            assert!((x - y).abs() < 1e-6, "{x} {y}");
        }
        let mut blocks = [BlockMxfp4 { e: 0, qs: [0; 16] }; 4];
        fp4_encode(&x, &mut blocks);
        assert_eq!(
            blocks.map(|b| pow2(i32::from(b.e) - 127)),
            [1.0, 0.25, 0.5, 0.125]
        );
        fp4_round(&mut x);
        assert_eq!(x[..8], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0]);
        assert_eq!(x.iter().sum::<f32>(), 12.3125);
    }

    #[test]
    fn hadamard_on_both_sides_keeps_products() {
        let q: Vec<f32> = (0..128).map(|i| (i as f32 * 1.3).sin()).collect();
        let k: Vec<f32> = (0..128).map(|i| (i as f32 * 0.4).cos()).collect();
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let (mut hq, mut hk) = (q.clone(), k.clone());
        hadamard(&mut hq);
        hadamard(&mut hk);
        assert!((dot(&q, &k) - dot(&hq, &hk)).abs() < 1e-5);
        assert!((dot(&q, &k) - dot(&hq, &k)).abs() > 1.0);
        hadamard(&mut hq);
        assert!(q.iter().zip(&hq).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn fp4_zeros_and_extremes() {
        let mut x = [0.0; 32];
        fp4_round(&mut x);
        assert_eq!(x, [0.0; 32]);
        let mut x = [f32::MAX; 32];
        fp4_round(&mut x);
        assert!(x[0] >= f32::MAX / 1.5);
        let mut x = [f32::NAN; 32];
        fp4_round(&mut x);
        let mut x = [f32::from_bits(1); 32];
        fp4_round(&mut x);
        assert_eq!(x, [0.0; 32]);
    }
}
