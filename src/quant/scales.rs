//! Where the scales of a block lie: a NaN or an infinity there makes all of its weights useless.

use super::Format;

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

const fn scale(name: &'static str, offset: usize, kind: ScaleKind) -> Scale {
    Scale { name, offset, kind }
}

/// `d` at the start of the block.
const D: &[Scale] = &[scale("d", 0, ScaleKind::F16)];

/// `d` and `dmin` at the start of the block.
const D_DMIN: &[Scale] = &[
    scale("d", 0, ScaleKind::F16),
    scale("dmin", 2, ScaleKind::F16),
];

impl Format {
    /// The scales of a block; of a format without blocks, the weight itself. Nothing for integers.
    pub const fn scales(self) -> &'static [Scale] {
        match self {
            Format::F32 => const { &[scale("weight", 0, ScaleKind::F32)] },
            Format::F16 => const { &[scale("weight", 0, ScaleKind::F16)] },
            Format::Bf16 => const { &[scale("weight", 0, ScaleKind::Bf16)] },
            Format::I32 => &[],
            Format::Q8_0 | Format::Iq2Xxs => D,
            Format::Q4K => D_DMIN,
            Format::Q2K => {
                const {
                    &[
                        scale("d", 80, ScaleKind::F16),
                        scale("dmin", 82, ScaleKind::F16),
                    ]
                }
            }
            Format::Mxfp4 => const { &[scale("e", 0, ScaleKind::E8m0)] },
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
                    // One in four is no number.
                    let spoil = match rng.below(8) {
                        0 => 0xff,
                        1 => 0x7c,
                        _ => continue,
                    };
                    let last = match scale.kind {
                        ScaleKind::F32 => scale.offset + 3,
                        ScaleKind::F16 | ScaleKind::Bf16 => scale.offset + 1,
                        ScaleKind::E8m0 => scale.offset,
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
