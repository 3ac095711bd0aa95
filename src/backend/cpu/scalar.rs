//! Plain Rust kernels: the truth the other tables are tested against.
//!
//! [`KERNELS`] multiplies every format with f32 activations: dequantise, then one f32 sum in index order.
//! The functions of [`integer_twin`] are what a fast integer kernel computes, written plainly.

use half::f16;

use super::dispatch::{Activation, FormatKernel, Kernels, RowsKernel, TOKENS, WeightKernels};
use super::rows::{activations, in_passes};
use crate::quant::Format;
use crate::quant::blocks::{
    BlockIq2Xxs, BlockMxfp4, BlockQ2K, BlockQ4K, BlockQ8_0, blocks, dequantize_row, f16_value,
};
use crate::quant::cast::Plain;
use crate::quant::encode::{Act32, Act256, quantize_32, quantize_256};
use crate::quant::tables::MXFP4_SCALES;
use crate::quant::wide::quantize_512;

/// The kernels of a format with f32 activations: functions of its name, since they can hold no value.
macro_rules! with_f32 {
    ($format:ident) => {
        FormatKernel {
            activation: Activation::F32,
            rows: |rows, x, y| rows_f32(Format::$format, rows, x, y),
            tile: Some(|rows, x, y| tile_f32(Format::$format, rows, x, y)),
        }
    };
}

/// The scalar table.
pub const KERNELS: Kernels = Kernels {
    name: "scalar",
    weights: WeightKernels {
        f32: with_f32!(F32),
        f16: with_f32!(F16),
        bf16: with_f32!(Bf16),
        q8_0: with_f32!(Q8_0),
        q4_k: with_f32!(Q4K),
        q2_k: with_f32!(Q2K),
        iq2_xxs: with_f32!(Iq2Xxs),
        mxfp4: with_f32!(Mxfp4),
    },
    dot_f32,
    axpys,
    quantize_32: |x, out| quantize_32(x, out),
    quantize_256: |x, out| quantize_256(x, out),
    quantize_512: |x, out| quantize_512(x, out),
    f16_to_f32,
    f32_to_f16,
};

/// The integer twin of `format`'s fast kernels, for formats that have one.
pub fn integer_twin(format: Format) -> Option<FormatKernel> {
    let (activation, rows): (_, RowsKernel) = match format {
        Format::Q8_0 => (Activation::Block32, rows_q8_0),
        Format::Mxfp4 => (Activation::Block32, rows_mxfp4),
        Format::Q4K => (Activation::Block256, rows_q4_k),
        Format::Q2K => (Activation::Block256, rows_q2_k),
        Format::Iq2Xxs => (Activation::Block256, rows_iq2_xxs),
        Format::F32 | Format::F16 | Format::Bf16 | Format::I32 => return None,
    };
    Some(FormatKernel {
        activation,
        rows,
        tile: None,
    })
}

/// Weights that are dequantised together: a whole number of blocks of every format.
const CHUNK: usize = 256;

/// Rows of any format times f32 activations.
pub fn rows_f32(format: Format, rows: &[u8], x: &[u8], y: &mut [f32]) {
    tile_f32(format, rows, &[x], &mut [y]);
}

/// Rows of any format times several vectors of f32: each sum in index order.
fn tile_f32(format: Format, rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
    assert!(
        x.len() == y.len() && x.len() <= TOKENS,
        "an output for each vector"
    );
    let mut vectors = [&[][..]; TOKENS];
    vectors
        .iter_mut()
        .zip(x)
        .for_each(|(v, x)| *v = activations::<f32>(x));
    let (Some(x), Some(n_rows)) = (vectors.get(..x.len()), y.first().map(|y| y.len())) else {
        return;
    };
    let cols = x[0].len();
    let Some(row_bytes) = format.row_bytes(cols) else {
        panic!("{cols} values are no whole blocks of {}", format.name());
    };
    assert!(x.iter().all(|x| x.len() == cols), "vectors of one length");
    assert!(y.iter().all(|y| y.len() == n_rows), "outputs of one length");
    assert_eq!(
        rows.len(),
        n_rows * row_bytes,
        "{n_rows} rows of {row_bytes} bytes"
    );
    let chunk_bytes = CHUNK / format.block_len() * format.block_bytes();
    for r in 0..n_rows {
        let (row, mut sums) = (&rows[r * row_bytes..][..row_bytes], [0.0; TOKENS]);
        for (c, bytes) in row.chunks(chunk_bytes).enumerate() {
            let start = c * CHUNK;
            let mut weights = [0.0; CHUNK];
            let weights = &mut weights[..CHUNK.min(cols - start)];
            dequantize_row(format, bytes, weights);
            for (sum, x) in sums.iter_mut().zip(x) {
                for (w, x) in weights.iter().zip(&x[start..]) {
                    *sum += w * x;
                }
            }
        }
        y.iter_mut().zip(sums).for_each(|(y, sum)| y[r] = sum);
    }
}

/// The quant of an activation.
fn act(hi: i8, lo: i8) -> i64 {
    128 * i64::from(hi) + i64::from(lo)
}

/// Q8_0: the sum over blocks of `d_w * d_x * Σ q_w q_x`.
fn rows_q8_0(rows: &[u8], x: &[u8], y: &mut [f32]) {
    twin_rows(rows, x, y, |w: &BlockQ8_0, x: &Act32| {
        let sum: i64 = (0..32)
            .map(|e| i64::from(w.q[e]) * act(x.hi[e], x.lo[e]))
            .sum();
        f16_value(w.d) * x.d * sum as f32
    });
}

/// MXFP4: the sum over blocks of `scale_w * d_x * Σ v_w q_x`.
fn rows_mxfp4(rows: &[u8], x: &[u8], y: &mut [f32]) {
    twin_rows(rows, x, y, |w: &BlockMxfp4, x: &Act32| {
        let sum: i64 = (0..32)
            .map(|e| i64::from(w.quant(e)) * act(x.hi[e], x.lo[e]))
            .sum();
        MXFP4_SCALES[usize::from(w.e)] * x.d * sum as f32
    });
}

/// Q4_K: the sum over blocks of `d_x d Σ_k scale_k Σ q_w q_x - d_x dmin Σ_k min_k Σ q_x`.
fn rows_q4_k(rows: &[u8], x: &[u8], y: &mut [f32]) {
    twin_rows(rows, x, y, |w: &BlockQ4K, x: &Act256| {
        let (scales, mins) = w.scales_mins();
        let (mut sum, mut min_sum) = (0, 0);
        for e in 0..256 {
            let q = act(x.hi[e], x.lo[e]);
            sum += i64::from(scales[e / 32]) * i64::from(w.quant(e)) * q;
            min_sum += i64::from(mins[e / 32]) * q;
        }
        f16_value(w.d) * x.d * sum as f32 - f16_value(w.dmin) * x.d * min_sum as f32
    });
}

/// Q2_K: the sum over blocks of `d_x d Σ_s scale_s Σ q_w q_x - d_x dmin Σ_s min_s Σ q_x`.
fn rows_q2_k(rows: &[u8], x: &[u8], y: &mut [f32]) {
    twin_rows(rows, x, y, |w: &BlockQ2K, x: &Act256| {
        let (mut sum, mut min_sum) = (0, 0);
        for e in 0..256 {
            let (scale, q) = (w.scales[e / 16], act(x.hi[e], x.lo[e]));
            sum += i64::from(scale & 15) * i64::from(w.quant(e)) * q;
            min_sum += i64::from(scale >> 4) * q;
        }
        f16_value(w.d) * x.d * sum as f32 - f16_value(w.dmin) * x.d * min_sum as f32
    });
}

/// IQ2_XXS: the sum over blocks of `d_x d / 8 Σ_g factor_g Σ ±grid q_x`.
fn rows_iq2_xxs(rows: &[u8], x: &[u8], y: &mut [f32]) {
    twin_rows(rows, x, y, |w: &BlockIq2Xxs, x: &Act256| {
        let mut sum = 0;
        for g in 0..8 {
            let (factor, points) = w.group(g);
            for (k, (row, signs)) in points.into_iter().enumerate() {
                for (j, point) in row.iter().enumerate() {
                    let e = 32 * g + 8 * k + j;
                    let sign = 1 - 2 * i64::from(signs >> j & 1);
                    sum += i64::from(factor) * sign * i64::from(*point) * act(x.hi[e], x.lo[e]);
                }
            }
        }
        f16_value(w.d) * 0.125 * x.d * sum as f32
    });
}

/// Rows of blocks `W` times a vector of as many blocks `A`, summed in index order.
fn twin_rows<W: Plain, A: Plain>(
    rows: &[u8],
    x: &[u8],
    y: &mut [f32],
    block: impl Fn(&W, &A) -> f32,
) {
    let x: &[A] = activations(x);
    let row = |[row]: [&[W]; 1]| [row.iter().zip(x).fold(0.0, |sum, (w, x)| sum + block(w, x))];
    in_passes(blocks(rows), x.len(), y, row, row);
}

fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of one length");
    a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b)
}

fn axpys(a: &[f32], rows: &[f32], y: &mut [f32]) {
    assert_eq!(rows.len(), a.len() * y.len(), "rows of one length");
    for (a, row) in a.iter().zip(rows.chunks_exact(y.len().max(1))) {
        for (y, x) in y.iter_mut().zip(row) {
            *y += a * x;
        }
    }
}

fn f16_to_f32(x: &[u16], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "vectors of one length");
    for (y, x) in y.iter_mut().zip(x) {
        *y = f16::from_bits(*x).to_f32();
    }
}

fn f32_to_f16(x: &[f32], y: &mut [u16]) {
    assert_eq!(x.len(), y.len(), "vectors of one length");
    for (y, x) in y.iter_mut().zip(x) {
        *y = f16::from_f32(*x).to_bits();
    }
}
