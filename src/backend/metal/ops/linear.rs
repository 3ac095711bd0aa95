//! Products with weight matrices, and the rows of the token table.

use super::super::args::{EmbedArgs, ProductArgs};
use super::super::encode::{Bind, Encoder, Grid};
use super::super::kernels::Kernel;
use super::super::{Buffer, Matrix};
use super::shared;
use crate::error::Result;
use crate::quant::cast;
use crate::units::{Phase, TokenId};

/// Rows that a simdgroup of `matvec` computes.
pub const ROWS: usize = 4;
/// Simdgroups of a group of it.
pub const SIMDGROUPS: usize = 4;
/// Rows, and tokens, of a tile of `matmul`; also its step along the columns.
pub const TILE: usize = 32;

/// See [`crate::backend::Backend::embed`].
pub fn embed(e: &mut Encoder, table: &Matrix, tokens: &[TokenId], streams: &Buffer) -> Result<()> {
    let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
    let ids = e.upload(cast::to_bytes(&ids))?;
    let args = EmbedArgs {
        n: tokens.len() as u32,
        cols: table.cols as u32,
        row_bytes: table.row_bytes as u32,
    };
    let grid = Grid {
        groups: [table.cols.div_ceil(16 * 64), tokens.len(), 1],
        threads: 64,
        shared: 0,
    };
    let binds = [table.all(), ids.bind(), streams.all()];
    e.dispatch(Kernel::Embed(table.format), &[], &args, &binds, grid)
}

/// `y[n, rows] = x[n, cols] · weightᵀ`
pub fn matmul(
    e: &mut Encoder,
    phase: Phase,
    n: usize,
    x: Bind<'_>,
    weight: &Matrix,
    y: Bind<'_>,
) -> Result<()> {
    matmul_grouped(e, phase, (n, 1), x, weight, y)
}

/// See [`crate::backend::Backend::matmul_grouped`], for `n` tokens and a number of groups. Decode computes rows one by one,
/// prefill in tiles; which of both depends on the phase alone, so that the number of tokens changes no bit.
pub fn matmul_grouped(
    e: &mut Encoder,
    phase: Phase,
    (n, groups): (usize, usize),
    x: Bind<'_>,
    weight: &Matrix,
    y: Bind<'_>,
) -> Result<()> {
    let rows = weight.rows / groups;
    let args = ProductArgs {
        n: n as u32,
        rows: rows as u32,
        cols: weight.cols as u32,
        row_bytes: weight.row_bytes as u32,
        x_stride: (groups * weight.cols) as u32,
        y_stride: weight.rows as u32,
    };
    let (kernel, grid) = match phase {
        Phase::Decode => {
            let grid = Grid {
                groups: [rows.div_ceil(ROWS * SIMDGROUPS), n, groups],
                threads: 32 * SIMDGROUPS,
                shared: 0,
            };
            (Kernel::Matvec(weight.format), grid)
        }
        Phase::Prefill => {
            let grid = Grid {
                groups: [rows.div_ceil(TILE), n.div_ceil(TILE), groups],
                threads: 128,
                shared: shared(2 * TILE * TILE),
            };
            (Kernel::Matmul(weight.format), grid)
        }
    };
    e.dispatch(kernel, &[], &args, &[weight.all(), x, y], grid)
}
