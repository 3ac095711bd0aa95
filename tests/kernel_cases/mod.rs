//! The cases of `kernels.rs`: matrices and vectors of every kind, what they multiply to in f64, and the comparison.

pub mod bounds;

use half::f16;
use infall::backend::cpu::dispatch::Activation;
use infall::quant::Format;
use infall::quant::blocks::{Group, dequantize_row, groups};
use infall::quant::cast::to_bytes;
use infall::quant::encode::encode_row;
use infall::quant::wide::{Act512, place, quantize_512};

/// The longest row of a case.
pub const LONGEST: usize = 2048;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// -1..1
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Scales of blocks; magnitudes of weights for the formats without scales.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    Usual,
    Zero,
    MinusZero,
    Subnormal,
    Largest,
    /// Each block another of the above.
    Mixed,
    /// Not finite: one block of the row (one weight in formats without blocks).
    Infinite,
    MinusInfinite,
    Nan,
}

pub const FINITE: [Scale; 6] = [
    Scale::Usual,
    Scale::Zero,
    Scale::MinusZero,
    Scale::Subnormal,
    Scale::Largest,
    Scale::Mixed,
];
pub const NOT_FINITE: [Scale; 3] = [Scale::Infinite, Scale::MinusInfinite, Scale::Nan];

impl Scale {
    fn f16(self, random: &mut Random) -> [u8; 2] {
        let bits = match self {
            Scale::Usual => f16::from_f32(random.unit()).to_bits(),
            Scale::Zero => 0,
            Scale::MinusZero => 0x8000,
            Scale::Subnormal => (1 + random.below(0x3ff) as u16) | (random.bits() as u16 & 0x8000),
            Scale::Largest => 0x7bff | (random.bits() as u16 & 0x8000),
            Scale::Mixed => return FINITE[random.below(5)].f16(random),
            Scale::Infinite => 0x7c00,
            Scale::MinusInfinite => 0xfc00,
            Scale::Nan => 0x7e00,
        };
        bits.to_le_bytes()
    }

    /// Of an MXFP4 block. Its scale is not signed, never 0, and only NaN is not finite.
    fn e8m0(self, random: &mut Random) -> u8 {
        match self {
            Scale::Usual => 118 + random.below(12) as u8,
            Scale::Zero => 0,
            Scale::MinusZero => 1,
            Scale::Subnormal => random.below(3) as u8,
            Scale::Largest => 254,
            Scale::Mixed => [0, 1, 2, 127, 254][random.below(5)],
            Scale::Infinite | Scale::MinusInfinite | Scale::Nan => 255,
        }
    }

    fn value(self, format: Format, random: &mut Random) -> f32 {
        let (smallest, largest) = match format {
            Format::F16 => (6e-8, 65504.0),
            _ => (1e-39, 3e38),
        };
        match self {
            Scale::Usual => random.unit(),
            Scale::Zero => 0.0,
            Scale::MinusZero => -0.0,
            Scale::Subnormal => smallest * (1 + random.below(100)) as f32,
            Scale::Largest => random.unit().signum() * largest,
            Scale::Mixed => FINITE[random.below(5)].value(format, random),
            Scale::Infinite => f32::INFINITY,
            Scale::MinusInfinite => f32::NEG_INFINITY,
            Scale::Nan => f32::NAN,
        }
    }
}

/// The bytes of a block beside its scale.
#[derive(Clone, Copy, Debug)]
pub enum Fill {
    Random,
    /// 0x80 makes quants of -128, 0xff the largest quants and scales.
    All(u8),
}

pub const FILLS: [Fill; 7] = [
    Fill::Random,
    Fill::All(0),
    Fill::All(0xff),
    Fill::All(0x80),
    Fill::All(0x7f),
    Fill::All(0x0f),
    Fill::All(0xf0),
];

/// One row of `cols` weights.
pub fn row(format: Format, cols: usize, scale: Scale, fill: Fill, random: &mut Random) -> Vec<u8> {
    let mut row = vec![0; format.row_bytes(cols).unwrap()];
    for b in &mut row {
        *b = match fill {
            Fill::Random => random.bits() as u8,
            Fill::All(b) => b,
        };
    }
    let bytes = format.block_bytes();
    let odd = random.below((cols / format.block_len()).max(1));
    for (i, block) in row.chunks_exact_mut(bytes).enumerate() {
        let scale = if NOT_FINITE.contains(&scale) && i != odd {
            Scale::Usual
        } else {
            scale
        };
        let places: &[usize] = match format {
            Format::F32 | Format::F16 | Format::Bf16 => {
                encode_row(format, &[scale.value(format, random)], block);
                &[]
            }
            Format::Mxfp4 => {
                block[0] = scale.e8m0(random);
                &[]
            }
            Format::Iq1M => {
                // Four bits of the scale in each of four words.
                let d = u16::from_le_bytes(scale.f16(random));
                for (i, high) in block[49..].iter_mut().step_by(2).enumerate() {
                    *high = *high & 15 | (d >> (4 * i) << 4) as u8;
                }
                &[]
            }
            Format::Q8_0 | Format::Q4_0 | Format::Q5_0 | Format::Iq4Nl => &[0],
            Format::Iq1S | Format::Iq2Xxs | Format::Iq2Xs | Format::Iq2S => &[0],
            Format::Iq3Xxs | Format::Iq3S | Format::Iq4Xs => &[0],
            Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
            Format::Q2K => &[80, 82],
            Format::Q3K => &[108],
            Format::Q6K => &[208],
            Format::I32 => panic!("no weights"),
        };
        for place in places {
            block[*place..][..2].copy_from_slice(&scale.f16(random));
        }
    }
    row
}

/// A vector of weights' partners.
#[derive(Clone, Copy, Debug)]
pub enum Vector {
    Usual,
    /// Every other 32 values are zero, and from 256 on every other 256.
    ZeroBlocks,
    OneHot,
    Huge,
    Small,
    /// Too small to be quantised.
    Tiny,
    /// One magnitude, so quants of -127 and 127 only.
    Plus,
    Minus,
    Signs,
    /// A negative element is the largest of its block, or a positive.
    Spike,
    /// All but one element are as far from 0 as both planes of a quant allow: 128 * 127 - 64.
    Low,
}

pub const VECTORS: [Vector; 11] = [
    Vector::Usual,
    Vector::ZeroBlocks,
    Vector::OneHot,
    Vector::Huge,
    Vector::Small,
    Vector::Tiny,
    Vector::Plus,
    Vector::Minus,
    Vector::Signs,
    Vector::Spike,
    Vector::Low,
];

pub fn vector(kind: Vector, len: usize, random: &mut Random) -> Vec<f32> {
    let hot = random.below(len.max(1));
    let value = |i: usize| {
        let unit = random.unit();
        match kind {
            Vector::Usual => unit,
            Vector::ZeroBlocks if i / 32 % 2 == 1 || i / 256 % 2 == 1 => 0.0,
            Vector::ZeroBlocks => unit,
            Vector::OneHot => f32::from(i == hot),
            Vector::Huge => unit * 1e30,
            Vector::Small => unit * 1e-30,
            Vector::Tiny => unit * 1e-40,
            Vector::Plus => 1.25,
            Vector::Minus => -1.25,
            Vector::Signs => 1.25 * unit.signum(),
            Vector::Spike if i % 32 == 5 => 9.0 * unit.signum(),
            Vector::Spike => unit,
            Vector::Low if i % 32 == 5 => 16256.0,
            Vector::Low => 16192.0 * unit.signum(),
        }
    };
    (0..len).map(value).collect()
}

/// A vector as a kernel wants it.
pub enum Prepared {
    F32(Vec<f32>),
    Block512(Vec<Act512>),
}

impl Prepared {
    pub fn new(activation: Activation, x: &[f32]) -> Prepared {
        match activation {
            Activation::F32 => Prepared::F32(x.to_vec()),
            Activation::Block512 => {
                let mut blocks = vec![Act512::ZERO; x.len().div_ceil(512)];
                quantize_512(x, &mut blocks);
                Prepared::Block512(blocks)
            }
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Prepared::F32(x) => to_bytes(x),
            Prepared::Block512(x) => to_bytes(x),
        }
    }

    /// What it stands for.
    pub fn values(&self) -> Vec<f64> {
        let scaled = |d: f32, hi: &[i8], lo: &[i8]| -> Vec<f64> {
            let planes = hi.iter().zip(lo);
            let quants = planes.map(|(hi, lo)| 128.0 * f64::from(*hi) + f64::from(*lo));
            quants.map(|q| f64::from(d) * q).collect()
        };
        match self {
            Prepared::F32(x) => x.iter().map(|x| f64::from(*x)).collect(),
            Prepared::Block512(x) => {
                let block = |x: &Act512, b| {
                    let places = (0..32).map(|e| place(b, e));
                    let plane = |p: &[[i8; 64]; 8]| -> Vec<i8> {
                        places.clone().map(|(vector, at)| p[vector][at]).collect()
                    };
                    scaled(x.d[b], &plane(&x.hi), &plane(&x.lo))
                };
                let blocks = x
                    .iter()
                    .flat_map(|x| (0..x.n_blocks()).map(move |b| (x, b)));
                blocks.flat_map(|(x, b)| block(x, b)).collect()
            }
        }
    }
}

/// The weights of a row as differences of a scaled part and a minimum, in f64; `tests/quant_golden.rs` holds groups against
/// another implementation.
pub fn parts(format: Format, row: &[u8]) -> Vec<(f64, f64)> {
    let Some(groups) = groups(format, row) else {
        return float_parts(format, row);
    };
    let part = |group: &Group, e: usize| {
        let min = group.mins.map_or(0.0, |mins| mins[e / 16]);
        (
            f64::from(group.scale) * f64::from(group.q[e]),
            f64::from(min),
        )
    };
    let parts = groups.iter();
    parts
        .flat_map(|group| (0..32).map(move |e| part(group, e)))
        .collect()
}

/// The weights as the scalar kernels round them to f32.
pub fn float_parts(format: Format, row: &[u8]) -> Vec<(f64, f64)> {
    let mut weights = vec![0.0; row.len() / format.block_bytes() * format.block_len()];
    dequantize_row(format, row, &mut weights);
    weights.iter().map(|w| (f64::from(*w), 0.0)).collect()
}

/// The product in f64, and the sum of the magnitudes of all its terms.
pub fn exact(parts: &[(f64, f64)], x: &[f64]) -> (f64, f64) {
    assert_eq!(parts.len(), x.len());
    let (mut sum, mut magnitudes) = (0.0, 0.0);
    for ((scaled, min), x) in parts.iter().zip(x) {
        sum += scaled * x;
        magnitudes += (scaled * x).abs();
        if *min != 0.0 {
            sum -= min * x;
            magnitudes += (min * x).abs();
        }
    }
    (sum, magnitudes)
}

/// Beside its units a sum may be off by this: each product below the normal numbers rounds to a subnormal.
pub const BELOW: f64 = LONGEST as f64 * f32::from_bits(1) as f64;

/// And a twin off its f64 value by this: the product of two scales rounds so, then is multiplied with quants,
/// most in IQ2_XXS.
pub const TWIN_BELOW: f64 = BELOW * (31 * 43 * 16256) as f64;

/// `found` is within `units`, and what is rounded off `below` the normal numbers, of `expected`; what is NaN stays NaN, what is infinite does not become a number.
///
/// Returns by how many units it is off.
pub fn check(
    found: f32,
    expected: f64,
    magnitudes: f64,
    (units, below): (f64, f64),
    what: &dyn Fn() -> String,
) -> f64 {
    if !magnitudes.is_finite() {
        let kept = if expected.is_nan() {
            found.is_nan()
        } else {
            !found.is_finite()
        };
        assert!(kept, "{}: {found:e}, expected {expected:e}", what());
        return 0.0;
    }
    if magnitudes > f64::from(f32::MAX) / 4.0 {
        return 0.0; // a part of the sum may overflow, in one order more than in another
    }
    let unit = 2_f64.powi(-23) * magnitudes;
    let difference = (f64::from(found) - expected).abs();
    assert!(
        difference <= units * unit + below,
        "{}: {found:e}, expected {expected:e}: off by {difference:e}, allowed {:e}",
        what(),
        units * unit + below
    );
    if difference > below {
        difference / unit
    } else {
        0.0
    }
}
