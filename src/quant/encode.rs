//! Scalar quantisers of weights, for synthetic models.

use std::sync::OnceLock;

use half::{bf16, f16};

use super::Format;
use super::blocks::{BlockIq2Xxs, BlockMxfp4, BlockQ2K, BlockQ4K, BlockQ8_0, f16_value};
use super::cast::to_bytes;
use super::rounding::fp4_encode;
use super::tables::{IQ2_XXS_CODES, IQ2_XXS_GRID};

/// The formats that [`encode_row`] knows.
pub const QUANTISERS: [Format; 8] = [
    Format::F32,
    Format::F16,
    Format::Bf16,
    Format::Q8_0,
    Format::Q4K,
    Format::Q2K,
    Format::Iq2Xxs,
    Format::Mxfp4,
];

/// Encodes a row of weights.
///
/// `out.len()` is [`Format::row_bytes`] of `x.len()`; anything else is a mistake of the caller and
/// panics, as does a format that is not one of [`QUANTISERS`]. Simple quantisers, meant for synthetic models: the error is near
/// what the format allows, see the bounds in the tests. Values that are not finite make weights without
/// meaning, but no panic.
pub fn encode_row(format: Format, x: &[f32], out: &mut [u8]) {
    assert_eq!(
        format.row_bytes(x.len()),
        Some(out.len()),
        "{} row of {} weights",
        format.name(),
        x.len()
    );
    match format {
        Format::F32 => each(x, out, |[x]: &[f32; 1]| *x),
        Format::F16 => each(x, out, |[x]: &[f32; 1]| f16::from_f32(*x).to_bits()),
        Format::Bf16 => each(x, out, |[x]: &[f32; 1]| bf16::from_f32(*x).to_bits()),
        Format::Q8_0 => each(x, out, q8_0),
        Format::Q4K => each(x, out, q4_k),
        Format::Q2K => each(x, out, q2_k),
        Format::Iq2Xxs => each(x, out, iq2_xxs),
        Format::Mxfp4 => each(x, out, |x: &[f32; 32]| {
            let mut block = [BlockMxfp4 { e: 0, qs: [0; 16] }];
            fp4_encode(x, &mut block);
            block[0]
        }),
        other => panic!("{} has no quantiser here", other.name()),
    }
}

/// Writes the block of each `N` values; the machines this runs on are little-endian, as the format is.
fn each<const N: usize, B: super::cast::Plain>(
    x: &[f32],
    out: &mut [u8],
    f: impl Fn(&[f32; N]) -> B,
) {
    const { assert!(cfg!(target_endian = "little")) };
    for (x, out) in x
        .as_chunks::<N>()
        .0
        .iter()
        .zip(out.chunks_exact_mut(size_of::<B>()))
    {
        out.copy_from_slice(to_bytes(&[f(x)]));
    }
}

fn q8_0(x: &[f32; 32]) -> BlockQ8_0 {
    let amax = x.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
    let d = f16_bytes(amax / 127.0);
    let inverse = inverse(f16_value(d));
    BlockQ8_0 {
        d,
        q: x.map(|x| (x * inverse).round_ties_even() as i8),
    }
}

/// Scale and (positive) minimum with which `levels` steps just cover a sub-block: `x = scale * q - min`.
fn span(x: &[f32], levels: f32) -> (f32, f32) {
    let low = x.iter().fold(0.0, |m: f32, x| m.min(*x));
    let high = x.iter().fold(0.0, |m: f32, x| m.max(*x));
    // A little less than the whole range: clipping the ends costs less than a coarser step everywhere.
    // Found by trial on normal data; matters with 4 levels, hardly with 16.
    let shrink = if levels < 4.0 { 0.85 } else { 0.97 };
    ((high - low) * shrink / levels, -low * shrink)
}

fn q4_k(x: &[f32; 256]) -> BlockQ4K {
    let spans: [_; 8] = std::array::from_fn(|k| span(&x[32 * k..][..32], 15.0));
    let (d, sc) = share(spans.map(|s| s.0), 63.0);
    let (dmin, m) = share(spans.map(|s| s.1), 63.0);
    let mut block = BlockQ4K {
        d,
        dmin,
        scales: [0; 12],
        qs: [0; 128],
    };
    for k in 0..4 {
        block.scales[k] = sc[k] | (sc[k + 4] >> 4) << 6;
        block.scales[k + 4] = m[k] | (m[k + 4] >> 4) << 6;
        block.scales[k + 8] = (sc[k + 4] & 15) | m[k + 4] << 4;
    }
    for (e, x) in x.iter().enumerate() {
        let k = e / 32;
        let q = quant(
            *x,
            f16_value(d) * f32::from(sc[k]),
            f16_value(dmin) * f32::from(m[k]),
            15.0,
        );
        block.qs[e / 64 * 32 + e % 32] |= q << (e / 32 % 2 * 4);
    }
    block
}

fn q2_k(x: &[f32; 256]) -> BlockQ2K {
    let spans: [_; 16] = std::array::from_fn(|k| span(&x[16 * k..][..16], 3.0));
    let (d, sc) = share(spans.map(|s| s.0), 15.0);
    let (dmin, m) = share(spans.map(|s| s.1), 15.0);
    let scales = std::array::from_fn(|k| sc[k] | m[k] << 4);
    let mut block = BlockQ2K {
        scales,
        qs: [0; 64],
        d,
        dmin,
    };
    for (e, x) in x.iter().enumerate() {
        let k = e / 16;
        let q = quant(
            *x,
            f16_value(d) * f32::from(sc[k]),
            f16_value(dmin) * f32::from(m[k]),
            3.0,
        );
        block.qs[e / 128 * 32 + e % 32] |= q << (e / 32 % 4 * 2);
    }
    block
}

/// One f16 scale for `values` (none negative), and each as a multiple 0..=`levels` of it.
fn share<const N: usize>(values: [f32; N], levels: f32) -> ([u8; 2], [u8; N]) {
    let d = f16_bytes(values.iter().fold(0.0, |m: f32, v| m.max(*v)) / levels);
    let inverse = inverse(f16_value(d));
    (d, values.map(|v| (v * inverse).round().min(levels) as u8))
}

/// The nearest quant 0..=`levels` of `x = scale * q - min`.
fn quant(x: f32, scale: f32, min: f32, levels: f32) -> u8 {
    ((x + min) * inverse(scale)).round().min(levels) as u8
}

/// For each group of 32 the best of the 16 scales, for each eight values the grid point nearest to
/// their rounded magnitudes.
fn iq2_xxs(x: &[f32; 256]) -> BlockIq2Xxs {
    let amax = x.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
    // The largest factor is 31/8, the largest magnitude 43; that a group clips its ends at 0.8 of its
    // largest value costs least on normal data (found by trial).
    let d = f16_bytes(amax * 0.8 / (43.0 * 31.0 / 8.0));
    let mut groups = [[0; 8]; 8];
    for (group, x) in groups.iter_mut().zip(x.as_chunks::<32>().0) {
        let mut best = f32::INFINITY;
        for s in 0..16_u8 {
            let (candidate, error) = iq2_xxs_group(x, f16_value(d) * f32::from(2 * s + 1) * 0.125);
            if error < best {
                best = error;
                *group = candidate;
                group[7] |= s << 4;
            }
        }
    }
    BlockIq2Xxs { d, groups }
}

/// The group with this scale (its four top bits left zero), and its squared error.
fn iq2_xxs_group(x: &[f32; 32], scale: f32) -> ([u8; 8], f32) {
    let mut group = [0; 8];
    let (mut word, mut error) = (0_u32, 0.0);
    for (k, x) in x.as_chunks::<8>().0.iter().enumerate() {
        // The number of minus signs must be even: else turn the sign that costs least.
        let mut negative = x.map(|x| x < 0.0);
        if !negative.iter().filter(|n| **n).count().is_multiple_of(2) {
            let smallest = (0..8)
                .min_by(|a, b| x[*a].abs().total_cmp(&x[*b].abs()))
                .unwrap_or(0);
            negative[smallest] = !negative[smallest];
        }
        let signed: [f32; 8] = std::array::from_fn(|j| if negative[j] { -x[j] } else { x[j] });
        let inverse = inverse(scale);
        let digits =
            signed.map(|x| usize::from(x * inverse > 16.5) + usize::from(x * inverse > 34.0));
        let index = nearest_points()[digits.iter().rev().fold(0, |code, digit| code * 3 + digit)];
        group[k] = index;
        for (j, negative) in negative.iter().enumerate().take(7) {
            word |= u32::from(*negative) << (7 * k + j);
        }
        for (x, magnitude) in signed.iter().zip(IQ2_XXS_GRID[usize::from(index)]) {
            error += (x - scale * f32::from(magnitude)).powi(2);
        }
    }
    group[4..].copy_from_slice(&word.to_le_bytes());
    (group, error)
}

/// For each of the 3^8 points (base-3 code, digit j times 3^j) the index of the nearest grid point.
fn nearest_points() -> &'static [u8; 6561] {
    static NEAREST: OnceLock<Box<[u8; 6561]>> = OnceLock::new();
    NEAREST.get_or_init(|| {
        let digit = |code: u16, j: usize| i32::from(code >> (2 * j) & 3);
        Box::new(std::array::from_fn(|point| {
            let distance = |code: u16| -> i32 {
                let mut rest = point as i32;
                (0..8)
                    .map(|j| {
                        let d = digit(code, j) - rest % 3;
                        rest /= 3;
                        d * d
                    })
                    .sum()
            };
            (0..=255_u8)
                .min_by_key(|i| distance(IQ2_XXS_CODES[usize::from(*i)]))
                .unwrap_or(0)
        }))
    })
}

fn f16_bytes(x: f32) -> [u8; 2] {
    f16::from_f32(x).to_le_bytes()
}

/// `1 / x`, and 0 for a scale of 0, which then makes all quants 0.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::blocks::dequantize_row;

    /// About normal: the sum of twelve uniforms.
    fn normal(n: usize) -> Vec<f32> {
        let mut state = 7_u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        (0..n)
            .map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0)
            .collect()
    }

    #[test]
    fn weight_error_is_near_what_the_format_allows() {
        // Relative RMS error on normal data; a little above what is measured.
        let bounds = [
            (Format::F32, 0.0),
            (Format::F16, 3e-4),
            (Format::Bf16, 2.5e-3),
            (Format::Q8_0, 8e-3),
            (Format::Q4K, 0.08),
            (Format::Q2K, 0.36),
            (Format::Iq2Xxs, 0.40),
            (Format::Mxfp4, 0.13),
        ];
        let x = normal(4096);
        for (format, bound) in bounds {
            for scale in [1e-3, 1.0, 50.0] {
                let x: Vec<f32> = x.iter().map(|x| x * scale).collect();
                let mut row = vec![0; format.row_bytes(x.len()).unwrap()];
                encode_row(format, &x, &mut row);
                let mut y = vec![0.0; x.len()];
                dequantize_row(format, &row, &mut y);
                let error: f32 = x.iter().zip(&y).map(|(x, y)| (x - y).powi(2)).sum();
                let rms = (error / x.iter().map(|x| x * x).sum::<f32>()).sqrt();
                println!("{} at {scale}: {rms}", format.name());
                assert!(
                    rms <= bound,
                    "{} at {scale}: {rms} > {bound}",
                    format.name()
                );
            }
        }
    }

    #[test]
    fn hostile_weights_do_not_panic() {
        for format in QUANTISERS {
            for odd in [
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                f32::MAX,
                -f32::MAX,
                1e-45,
                0.0,
            ] {
                for x in [
                    [odd; 256],
                    std::array::from_fn(|i| if i == 77 { odd } else { i as f32 }),
                ] {
                    let mut row = vec![0; format.row_bytes(256).unwrap()];
                    encode_row(format, &x, &mut row);
                    dequantize_row(format, &row, &mut [0.0; 256]);
                }
            }
            let mut row = vec![0; format.row_bytes(256).unwrap()];
            encode_row(format, &[0.0; 256], &mut row);
            let mut y = [1.0; 256];
            dequantize_row(format, &row, &mut y);
            assert_eq!(y, [0.0; 256], "{}", format.name());
        }
    }
}
