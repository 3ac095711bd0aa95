//! Plain Rust kernels: the truth the other tables are tested against.
//!
//! [`KERNELS`] multiplies every format with f32 activations: dequantise, then one f32 sum in index order. What fast integer
//! kernels compute is said plainly in `wide.rs`.

use half::f16;

use super::dispatch::{Activation, FormatKernel, Kernels, TOKENS, WeightKernels};
use super::rows::activations;
use crate::quant::Format;
use crate::quant::blocks::dequantize_row;
use crate::quant::wide::quantize_512;

/// Kernels with f32 activations for formats: functions of their names, since they can hold no value.
macro_rules! with_f32 {
    ($($format:ident)*) => {
        WeightKernels::NONE$(.with(
            Format::$format,
            FormatKernel {
                activation: Activation::F32,
                rows: |rows, x, y| rows_f32(Format::$format, rows, x, y),
                tile: Some(|rows, x, y| tile_f32(Format::$format, rows, x, y)),
            },
        ))*
    };
}

/// The scalar table.
pub const KERNELS: Kernels = Kernels {
    name: "scalar",
    weights: with_f32!(
        F32 F16 Bf16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2K Q3K Q4K Q5K Q6K Iq1S Iq1M Iq2Xxs Iq2Xs Iq2S
        Iq3Xxs Iq3S Iq4Nl Iq4Xs Mxfp4
    ),
    rows_f32: |rows, x, y| rows_f32(Format::F32, rows, x, y),
    dot_f32,
    axpys,
    quantize_512: |x, out| quantize_512(x, out),
    f16_to_f32,
    f32_to_f16,
};

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
