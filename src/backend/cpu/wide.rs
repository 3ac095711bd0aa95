//! Products of weights in blocks with [`Act512`], said plainly: what fast kernels compute to the bit.
//!
//! An element, weight row times [`Act512`] row, is summed in 16 lanes. In the order of the blocks `b` of 32 columns,
//!
//! ```text
//! lane[b % 16] = fma(scale[b] * d[b], Σ w x, lane[b % 16])            Σ w x: whole numbers, exact
//! lane[b % 16] = fma(-min[h][b], halves[h][b], lane[b % 16])          h = 0, 1; formats with minima only
//! ```
//!
//! and at the end lanes 8 apart are added, then 4, 2 and 1. The functions here do just this; a fast kernel gives the same
//! bits, for one vector or many, whatever instructions it has.

use super::dispatch::{Activation, FormatKernel};
use super::rows::activations;
use crate::quant::Format;
use crate::quant::blocks::{
    BlockIq2Xxs, BlockMxfp4, BlockQ2K, BlockQ4K, BlockQ8_0, blocks, f16_value,
};
use crate::quant::tables::MXFP4_SCALES;
use crate::quant::wide::{Act512, BLOCKS, n_blocks, place};

/// The plain kernel of `format`, for formats that have such.
pub fn twin(format: Format) -> Option<FormatKernel> {
    Some(FormatKernel {
        activation: Activation::Block512,
        rows: match format {
            Format::Q8_0 => |rows, x, y| self::rows(rows, x, y, q8_0),
            Format::Mxfp4 => |rows, x, y| self::rows(rows, x, y, mxfp4),
            Format::Q4K => |rows, x, y| self::rows(rows, x, y, q4_k),
            Format::Q2K => |rows, x, y| self::rows(rows, x, y, q2_k),
            Format::Iq2Xxs => |rows, x, y| self::rows(rows, x, y, iq2_xxs),
            Format::F32 | Format::F16 | Format::Bf16 | Format::I32 => return None,
        },
        tile: None,
    })
}

/// 32 weights: `w = scale * q - min` of the half.
struct Block {
    scale: f32,
    q: [i32; 32],
    mins: Option<[f32; 2]>,
}

fn rows(rows: &[u8], x: &[u8], y: &mut [f32], block: impl Fn(&[u8], usize) -> Block) {
    let x: &[Act512] = activations(x);
    let row_bytes = rows.len() / y.len().max(1);
    assert_eq!(rows.len(), row_bytes * y.len(), "whole rows");
    for (r, y) in y.iter_mut().enumerate() {
        let row = &rows[r * row_bytes..][..row_bytes];
        let mut lanes = [0.0_f32; BLOCKS];
        for b in 0..n_blocks(x) {
            let (w, x, l) = (block(row, b), &x[b / BLOCKS], b % BLOCKS);
            let act = |e: usize| {
                let (vector, at) = place(l, e);
                128 * i32::from(x.hi[vector][at]) + i32::from(x.lo[vector][at])
            };
            let sum: i32 = (0..32).map(|e| w.q[e] * act(e)).sum();
            lanes[l] = (w.scale * x.d[l]).mul_add(sum as f32, lanes[l]);
            for (h, min) in w.mins.iter().flatten().enumerate() {
                lanes[l] = (-min).mul_add(x.halves[h][l], lanes[l]);
            }
        }
        for n in [8, 4, 2, 1] {
            (0..n).for_each(|l| lanes[l] += lanes[l + n]);
        }
        *y = lanes[0];
    }
}

fn q8_0(row: &[u8], b: usize) -> Block {
    let w: &BlockQ8_0 = &blocks(row)[b];
    Block {
        scale: f16_value(w.d),
        q: w.q.map(i32::from),
        mins: None,
    }
}

fn mxfp4(row: &[u8], b: usize) -> Block {
    let w: &BlockMxfp4 = &blocks(row)[b];
    Block {
        scale: MXFP4_SCALES[usize::from(w.e)],
        q: std::array::from_fn(|e| i32::from(w.quant(e))),
        mins: None,
    }
}

fn q4_k(row: &[u8], b: usize) -> Block {
    let w: &BlockQ4K = &blocks(row)[b / 8];
    let (scales, mins) = w.scales_mins();
    Block {
        scale: f16_value(w.d) * f32::from(scales[b % 8]),
        q: std::array::from_fn(|e| i32::from(w.quant(b % 8 * 32 + e))),
        mins: Some([f16_value(w.dmin) * f32::from(mins[b % 8]); 2]),
    }
}

/// The scales of the halves are whole numbers: they go into the quants.
fn q2_k(row: &[u8], b: usize) -> Block {
    let w: &BlockQ2K = &blocks(row)[b / 8];
    let halves = [0, 1].map(|h| w.scales[b % 8 * 2 + h]);
    Block {
        scale: f16_value(w.d),
        q: std::array::from_fn(|e| {
            i32::from(halves[e / 16] & 15) * i32::from(w.quant(b % 8 * 32 + e))
        }),
        mins: Some(halves.map(|half| f16_value(w.dmin) * f32::from(half >> 4))),
    }
}

fn iq2_xxs(row: &[u8], b: usize) -> Block {
    let w: &BlockIq2Xxs = &blocks(row)[b / 8];
    let (factor, points) = w.group(b % 8);
    Block {
        scale: f16_value(w.d) * 0.125 * f32::from(factor),
        q: std::array::from_fn(|e| {
            let (point, signs) = points[e / 8];
            i32::from(point[e % 8]) * (1 - 2 * i32::from(signs >> (e % 8) & 1))
        }),
        mins: None,
    }
}
