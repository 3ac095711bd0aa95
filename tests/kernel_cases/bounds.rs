//! How far kernels may be off.

use infall::quant::Format;

/// How far a result may be off, in units of 2^-23 (one f32 rounding is half a unit) of the sum of the magnitudes
/// of its terms. With a bound of 0 results have the same bits.
pub struct Bound {
    pub format: Format,
    /// The scalar table against f64: one sum in index order.
    pub scalar: f64,
    /// The integer twin against f64; formats that have one.
    pub twin: f64,
    /// The fast tables: against the twin, or for formats without against f64.
    pub fast: f64,
    pub reason: &'static str,
}

const BOUNDS: [Bound; 23] = [
    Bound {
        format: Format::F32,
        scalar: 256.0,
        twin: 0.0,
        fast: 2.0,
        reason: "512 equal terms in one sum may all round one way, by half a unit each; 16 lanes and more share the work in a fast table",
    },
    Bound {
        format: Format::F16,
        scalar: 256.0,
        twin: 0.0,
        fast: 2.0,
        reason: "as F32: widening is exact",
    },
    Bound {
        format: Format::Bf16,
        scalar: 256.0,
        twin: 0.0,
        fast: 2.0,
        reason: "as F32: widening is exact",
    },
    Bound {
        format: Format::Q8_0,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "integer sums are exact; roundings for each of up to 64 blocks (of random signs, or 16 blocks of equal)",
    },
    Bound {
        format: Format::Mxfp4,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q8_0",
    },
    Bound {
        format: Format::Q4K,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "integer sums are exact and round once to f32; up to 8 blocks, scale and minimum apart, roundings as Q8_0",
    },
    Bound {
        format: Format::Q2K,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q4_K",
    },
    Bound {
        format: Format::Iq2Xxs,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q4_K without minima",
    },
    Bound {
        format: Format::Q4_0,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q8_0",
    },
    Bound {
        format: Format::Q4_1,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q4_K",
    },
    Bound {
        format: Format::Q5_0,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q8_0",
    },
    Bound {
        format: Format::Q5_1,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q4_K",
    },
    Bound {
        format: Format::Q3K,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q4_K without minima",
    },
    Bound {
        format: Format::Q5K,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q4_K",
    },
    Bound {
        format: Format::Q6K,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q4_K without minima",
    },
    Bound {
        format: Format::Iq1S,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q4_K without minima",
    },
    Bound {
        format: Format::Iq1M,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q4_K without minima",
    },
    Bound {
        format: Format::Iq2Xs,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q4_K without minima",
    },
    Bound {
        format: Format::Iq2S,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q4_K without minima",
    },
    Bound {
        format: Format::Iq3Xxs,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q4_K without minima",
    },
    Bound {
        format: Format::Iq3S,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q4_K without minima",
    },
    Bound {
        format: Format::Iq4Nl,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q8_0",
    },
    Bound {
        format: Format::Iq4Xs,
        scalar: 256.0,
        twin: 2.0,
        fast: 0.0,
        reason: "as Q4_K without minima",
    },
];

/// The bound of a format.
pub fn bound(format: Format) -> &'static Bound {
    match BOUNDS.iter().find(|b| b.format == format) {
        Some(bound) => bound,
        None => panic!("{} has no bound and so no case", format.name()),
    }
}
