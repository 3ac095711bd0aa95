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
use crate::quant::blocks::{Weights, blocks, with_blocks};
use crate::quant::wide::{Act512, BLOCKS, n_blocks, place};

/// The plain kernel of `format`, for formats that have such.
pub fn twin(format: Format) -> Option<FormatKernel> {
    let rows = with_blocks!(format, Block => rows::<Block>, _ => return None);
    Some(FormatKernel {
        activation: Activation::Block512,
        rows,
        tile: None,
    })
}

fn rows<B: Weights>(rows: &[u8], x: &[u8], y: &mut [f32]) {
    let x: &[Act512] = activations(x);
    let (rows, n) = (blocks::<B>(rows), n_blocks(x) / B::GROUPS);
    assert_eq!(rows.len(), n * y.len(), "rows of {n} blocks");
    for (r, y) in y.iter_mut().enumerate() {
        let row = &rows[r * n..][..n];
        let mut lanes = [0.0_f32; BLOCKS];
        for b in 0..n * B::GROUPS {
            let (x, l) = (&x[b / BLOCKS], b % BLOCKS);
            let w = row[b / B::GROUPS].group(b % B::GROUPS);
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
