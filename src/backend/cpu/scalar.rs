//! temp
use super::dispatch::*;
use crate::quant::{Format, blocks, cast, encode};
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
fn rows(f: Format, rows: &[u8], x: &[u8], y: &mut [f32]) {
    let x: &[f32] = cast::from_bytes(x).unwrap_or_default();
    let rb = rows.len() / y.len();
    let mut w = vec![0.0; x.len()];
    for (r, y) in rows.chunks_exact(rb).zip(y) {
        blocks::dequantize_row(f, r, &mut w);
        *y = dot(&w, x);
    }
}
pub fn kernels() -> Kernels {
    Kernels {
        name: "scalar",
        of: |f| FormatKernel {
            activation: Activation::F32,
            rows: match f {
                Format::F32 => |a, b, c| rows(Format::F32, a, b, c),
                Format::F16 => |a, b, c| rows(Format::F16, a, b, c),
                Format::Bf16 => |a, b, c| rows(Format::Bf16, a, b, c),
                Format::I32 => |_, _, _| {},
                Format::Q8_0 => |a, b, c| rows(Format::Q8_0, a, b, c),
                Format::Q4K => |a, b, c| rows(Format::Q4K, a, b, c),
                Format::Q2K => |a, b, c| rows(Format::Q2K, a, b, c),
                Format::Iq2Xxs => |a, b, c| rows(Format::Iq2Xxs, a, b, c),
                Format::Mxfp4 => |a, b, c| rows(Format::Mxfp4, a, b, c),
            },
        },
        dot_f32: dot,
        axpy: |a, x, y| y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x),
        quantize_q8_0: encode::quantize_q8_0,
        quantize_q8_k: encode::quantize_q8_k,
    }
}
