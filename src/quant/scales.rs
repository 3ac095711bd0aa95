//! Where the scales of a block lie: a NaN or an infinity there makes all of its weights useless.

use super::Format;
use super::blocks::{BlockIq1M, BlockQ2K, BlockQ3K, BlockQ6K};
use std::mem::offset_of;

/// One number of a block that must be finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// What it is called in the block's description in [`super::blocks`].
    pub name: &'static str,
    /// Its first byte in the block.
    pub offset: usize,
    /// How it is stored.
    pub kind: ScaleKind,
}

/// How a scale is stored, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleKind {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
    /// An exponent alone, of which 255 is NaN.
    E8m0,
    /// IEEE binary16 in the top four bits of four 16-bit words, the lowest first.
    Nibbles,
}

/// What a scale is that is no number to compute with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Not a number.
    Nan,
    /// Infinite, of either sign.
    Infinite,
}

impl Unusable {
    /// In a message.
    pub fn name(self) -> &'static str {
        match self {
            Unusable::Nan => "NaN",
            Unusable::Infinite => "infinite",
        }
    }
}

const fn f16(name: &'static str, offset: usize) -> Scale {
    let kind = ScaleKind::F16;
    Scale { name, offset, kind }
}

const fn first(name: &'static str, kind: ScaleKind) -> Scale {
    let offset = 0;
    Scale { name, offset, kind }
}

/// `d` at the start of the block.
const D: &[Scale] = &[f16("d", 0)];

/// `d` and `dmin` there.
const D_DMIN: &[Scale] = &[f16("d", 0), f16("dmin", 2)];

/// `d` and `m` there.
const D_M: &[Scale] = &[f16("d", 0), f16("m", 2)];

const OF_Q2K: &[Scale] = &[
    f16("d", offset_of!(BlockQ2K, d)),
    f16("dmin", offset_of!(BlockQ2K, dmin)),
];
const OF_Q3K: &[Scale] = &[f16("d", offset_of!(BlockQ3K, d))];
const OF_Q6K: &[Scale] = &[f16("d", offset_of!(BlockQ6K, d))];
const OF_IQ1M: &[Scale] = &[Scale {
    name: "d",
    offset: offset_of!(BlockIq1M, scales),
    kind: ScaleKind::Nibbles,
}];

impl Format {
    /// The scales of a block; of a format without blocks, the weight itself. Nothing for integers.
    pub const fn scales(self) -> &'static [Scale] {
        match self {
            Format::F32 => const { &[first("weight", ScaleKind::F32)] },
            Format::F16 => const { &[first("weight", ScaleKind::F16)] },
            Format::Bf16 => const { &[first("weight", ScaleKind::Bf16)] },
            Format::I32 => &[],
            Format::Q8_0 | Format::Q4_0 | Format::Q5_0 | Format::Iq4Nl | Format::Iq4Xs => D,
            Format::Iq1S | Format::Iq2Xxs | Format::Iq2Xs | Format::Iq2S => D,
            Format::Iq3Xxs | Format::Iq3S => D,
            Format::Q4_1 | Format::Q5_1 => D_M,
            Format::Q4K | Format::Q5K => D_DMIN,
            Format::Q2K => OF_Q2K,
            Format::Q3K => OF_Q3K,
            Format::Q6K => OF_Q6K,
            Format::Iq1M => OF_IQ1M,
            Format::Mxfp4 => const { &[first("e", ScaleKind::E8m0)] },
        }
    }
}

impl Scale {
    /// What is wrong with it in a block, if anything is. The block must be whole.
    pub fn unusable(self, block: &[u8]) -> Option<Unusable> {
        let bytes = &block[self.offset..];
        let word = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
        // Bits of the exponent and of the fraction: all of the first set is no finite number.
        let (bits, exponent) = match self.kind {
            ScaleKind::F32 => (
                u32::from(word(bytes)) | u32::from(word(&bytes[2..])) << 16,
                0x7f80_0000,
            ),
            ScaleKind::F16 => (word(bytes).into(), 0x7c00),
            ScaleKind::Bf16 => (word(bytes).into(), 0x7f80),
            ScaleKind::Nibbles => {
                let nibbles = (0..4).map(|i| u32::from(bytes[2 * i + 1] >> 4) << (4 * i));
                (nibbles.sum(), 0x7c00)
            }
            ScaleKind::E8m0 => return (bytes[0] == 255).then_some(Unusable::Nan),
        };
        if bits & exponent != exponent {
            return None;
        }
        let fraction = bits & ((exponent & exponent.wrapping_neg()) - 1);
        Some(if fraction == 0 {
            Unusable::Infinite
        } else {
            Unusable::Nan
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::blocks::dequantize_row;

    /// The definition of the weights is the oracle: a scale that is called unusable spoils weights of its block, and
    /// what is not in the table never does.
    #[test]
    fn the_table_names_the_bytes_that_spoil_weights() {
        let mut rng = crate::rng::Rng::new(7);
        for format in Format::ALL.into_iter().filter(|f| *f != Format::I32) {
            let mut out = vec![0.0; format.block_len()];
            for _ in 0..2000 {
                let mut block: Vec<u8> = (0..format.block_bytes())
                    .map(|_| rng.next_u64() as u8)
                    .collect();
                for scale in format.scales() {
                    if scale.kind == ScaleKind::E8m0 {
                        block[scale.offset] %= 128; // a sound scale may be too large for its weights
                    }
                    // The top byte of an infinity or a NaN.
                    let spoil = match rng.below(8) {
                        0 => 0xff,
                        1 => 0x7c,
                        _ => continue,
                    };
                    let last = match scale.kind {
                        ScaleKind::F32 => scale.offset + 3,
                        ScaleKind::F16 | ScaleKind::Bf16 => scale.offset + 1,
                        ScaleKind::E8m0 => scale.offset,
                        ScaleKind::Nibbles => {
                            block[scale.offset + 7] = spoil;
                            block[scale.offset + 5] = spoil << 4;
                            continue;
                        }
                    };
                    block[last] = spoil;
                }
                let unusable = format
                    .scales()
                    .iter()
                    .any(|scale| scale.unusable(&block).is_some());
                dequantize_row(format, &block, &mut out);
                let spoiled = out.iter().any(|w| !w.is_finite());
                assert_eq!(unusable, spoiled, "{}: {block:x?}", format.name());
            }
        }
    }

    #[test]
    fn nan_and_infinity_are_told_apart() {
        let f16 = Format::F16.scales()[0];
        let found = |bits: u16| f16.unusable(&bits.to_le_bytes());
        assert_eq!(found(0x7c00), Some(Unusable::Infinite));
        assert_eq!(found(0xfc00), Some(Unusable::Infinite));
        assert_eq!(found(0x7c01), Some(Unusable::Nan));
        assert_eq!(found(0x7bff), None);
        let bf16 = Format::Bf16.scales()[0];
        let found = |bits: u16| bf16.unusable(&bits.to_le_bytes());
        assert_eq!(found(0xff80), Some(Unusable::Infinite));
        assert_eq!(found(0x7fc0), Some(Unusable::Nan));
        assert_eq!(found(0x7f7f), None);
        let f32 = Format::F32.scales()[0];
        let found = |x: f32| f32.unusable(&x.to_le_bytes());
        assert_eq!(found(f32::NEG_INFINITY), Some(Unusable::Infinite));
        assert_eq!(found(f32::NAN), Some(Unusable::Nan));
        assert_eq!(found(f32::MAX), None);
        let e = Format::Mxfp4.scales()[0];
        assert_eq!(e.unusable(&[255; 17]), Some(Unusable::Nan));
        assert_eq!(e.unusable(&[254; 17]), None);
    }
}
