//! Number formats of stored weights and of quantised activations.

use crate::error::{Error, Result};

pub mod blocks;
pub mod cast;
pub mod encode;
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
}

impl Format {
    /// Every format, in the order of the enum (`ALL[f as usize] == f`).
    pub const ALL: [Format; 9] = [
        Format::F32,
        Format::F16,
        Format::Bf16,
        Format::I32,
        Format::Q8_0,
        Format::Q4K,
        Format::Q2K,
        Format::Iq2Xxs,
        Format::Mxfp4,
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
        }
    }

    /// The format with this ggml type id; an error that names the type otherwise.
    pub fn from_id(id: u32) -> Result<Format> {
        Format::ALL
            .into_iter()
            .find(|f| f.id() == id)
            .ok_or_else(|| {
                let known: Vec<_> = Format::ALL.iter().map(|f| f.name()).collect();
                Error::unsupported(format!(
                    "type {id} ({}) is not supported; supported are {}",
                    other_type_name(id),
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
        2 => "Q4_0",
        3 => "Q4_1",
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        11 => "Q3_K",
        13 => "Q5_K",
        14 => "Q6_K",
        15 => "Q8_K",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        40 => "NVFP4",
        _ => "unknown",
    }
}
