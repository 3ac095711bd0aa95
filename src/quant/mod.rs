//! Number formats of stored weights and of quantised activations.

use crate::error::{Error, Result};

pub mod blocks;
pub mod cast;
pub mod encode;
pub mod grids;
pub mod rounding;
pub mod scales;
pub mod tables;
pub mod wide;

/// A tensor's storage format. Source: the GGUF format document, ggml type ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
    /// 32-bit signed integers (tables of ids, never weights).
    I32,
    /// 32 weights: one f16 scale and 32 signed bytes.
    Q8_0,
    /// 256 weights of 4 bits with 6-bit scales and minima.
    Q4K,
    /// 256 weights of 2 bits with 4-bit scales and minima.
    Q2K,
    /// 256 weights as indices into a grid of eight-weight points, with signs.
    Iq2Xxs,
    /// 32 weights of E2M1 with one E8M0 scale.
    Mxfp4,
    /// 32 weights of 4 bits with one scale.
    Q4_0,
    /// 32 weights of 4 bits with a scale and a minimum.
    Q4_1,
    /// 32 weights of 5 bits with one scale.
    Q5_0,
    /// 32 weights of 5 bits with a scale and a minimum.
    Q5_1,
    /// 256 weights of 3 bits with 6-bit scales.
    Q3K,
    /// 256 weights of 5 bits with 6-bit scales and minima.
    Q5K,
    /// 256 weights of 6 bits with 8-bit scales.
    Q6K,
    /// 256 weights as indices into a grid of points of -1, 0 and 1.
    Iq1S,
    /// As [`Format::Iq1S`], with finer scales.
    Iq1M,
    /// As [`Format::Iq2Xxs`], with a larger grid and finer scales.
    Iq2Xs,
    /// As [`Format::Iq2Xs`], with a larger grid and free signs.
    Iq2S,
    /// 256 weights as indices into a grid of four-weight points, with signs.
    Iq3Xxs,
    /// As [`Format::Iq3Xxs`], with a larger grid and free signs.
    Iq3S,
    /// 32 weights as indices into a table of 16 values.
    Iq4Nl,
    /// As [`Format::Iq4Nl`] in blocks of 256 with 6-bit scales.
    Iq4Xs,
}

impl Format {
    /// Every format, in the order of the enum (`ALL[f as usize] == f`).
    pub const ALL: [Format; 24] = [
        Format::F32,
        Format::F16,
        Format::Bf16,
        Format::I32,
        Format::Q8_0,
        Format::Q4K,
        Format::Q2K,
        Format::Iq2Xxs,
        Format::Mxfp4,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q3K,
        Format::Q5K,
        Format::Q6K,
        Format::Iq1S,
        Format::Iq1M,
        Format::Iq2Xs,
        Format::Iq2S,
        Format::Iq3Xxs,
        Format::Iq3S,
        Format::Iq4Nl,
        Format::Iq4Xs,
    ];

    /// (ggml id, name, weights a block, bytes a block)
    const fn row(self) -> (u32, &'static str, usize, usize) {
        match self {
            Format::F32 => (0, "F32", 1, 4),
            Format::F16 => (1, "F16", 1, 2),
            Format::Bf16 => (30, "BF16", 1, 2),
            Format::I32 => (26, "I32", 1, 4),
            Format::Q8_0 => (8, "Q8_0", 32, 34),
            Format::Q4K => (12, "Q4_K", 256, 144),
            Format::Q2K => (10, "Q2_K", 256, 84),
            Format::Iq2Xxs => (16, "IQ2_XXS", 256, 66),
            Format::Mxfp4 => (39, "MXFP4", 32, 17),
            Format::Q4_0 => (2, "Q4_0", 32, 18),
            Format::Q4_1 => (3, "Q4_1", 32, 20),
            Format::Q5_0 => (6, "Q5_0", 32, 22),
            Format::Q5_1 => (7, "Q5_1", 32, 24),
            Format::Q3K => (11, "Q3_K", 256, 110),
            Format::Q5K => (13, "Q5_K", 256, 176),
            Format::Q6K => (14, "Q6_K", 256, 210),
            Format::Iq1S => (19, "IQ1_S", 256, 50),
            Format::Iq1M => (29, "IQ1_M", 256, 56),
            Format::Iq2Xs => (17, "IQ2_XS", 256, 74),
            Format::Iq2S => (22, "IQ2_S", 256, 82),
            Format::Iq3Xxs => (18, "IQ3_XXS", 256, 98),
            Format::Iq3S => (21, "IQ3_S", 256, 110),
            Format::Iq4Nl => (20, "IQ4_NL", 32, 18),
            Format::Iq4Xs => (23, "IQ4_XS", 256, 136),
        }
    }

    /// The format with this ggml type id.
    ///
    /// Errors: `Unsupported` for any other, with its name where it has one, and what would do instead.
    pub fn from_id(id: u32) -> Result<Format> {
        let found = Format::ALL.into_iter().find(|f| f.id() == id);
        found.ok_or_else(|| {
            let known: Vec<_> = Format::ALL.iter().map(|f| f.name()).collect();
            Error::unsupported(format!(
                "type {id} ({}) is not supported; {}; supported are {}",
                other_type_name(id),
                instead(id),
                known.join(" ")
            ))
        })
    }

    /// The ggml type id.
    pub const fn id(self) -> u32 {
        self.row().0
    }

    /// The usual name, as in ggml.
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// Weights in one block.
    pub const fn block_len(self) -> usize {
        self.row().2
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        self.row().3
    }

    /// Bytes of a row of `cols` weights, or `None` when `cols` is no whole number of blocks or too large.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        let (_, _, len, bytes) = self.row();
        if !cols.is_multiple_of(len) {
            return None;
        }
        (cols / len).checked_mul(bytes)
    }
}

/// Names of ggml types that exist but are not read here, so that a message can say what was found.
fn other_type_name(id: u32) -> &'static str {
    match id {
        4 => "Q4_2, which ggml removed",
        5 => "Q4_3, which ggml removed",
        9 => "Q8_1, a type of activations",
        15 => "Q8_K, a type of activations",
        24 => "I8",
        25 => "I16",
        27 => "I64",
        28 => "F64",
        31..=33 => "Q4_0 in a row order that ggml removed",
        34 => "TQ1_0",
        35 => "TQ2_0",
        36..=38 => "IQ4_NL in a row order that ggml removed",
        40 => "NVFP4",
        41 => "Q1_0",
        42 => "Q2_0",
        97..=399 => "a type of ik_llama.cpp or another fork",
        _ => "unknown",
    }
}

/// What a user can take instead of a type that is not read.
fn instead(id: u32) -> &'static str {
    match id {
        34 | 41 => "IQ1_S and IQ1_M are of about its size",
        35 | 42 => "IQ2_XXS is of about its size",
        40 => "take MXFP4, which is of about its size",
        4 | 5 | 31..=33 | 36..=38 => "quantise the original again with a llama.cpp of today",
        97..=399 => "take a file made with llama.cpp's own types",
        _ => "take a file with other types",
    }
}
