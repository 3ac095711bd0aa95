//! Products with weight matrices, and the rows of the token table.

use super::super::args::{EmbedArgs, ProductArgs};
use super::super::encode::{Bind, Encoder, Grid};
use super::super::kernels::Kernel;
use super::super::{Buffer, Matrix};
use super::shared;
use crate::error::{Error, Result};
use crate::quant::{Format, cast};
use crate::units::{Phase, TokenId};

/// Rows that a simdgroup of the mat-vec kernels computes.
pub const ROWS: usize = 4;
/// Simdgroups of a group of them.
pub const SIMDGROUPS: usize = 4;
/// Simdgroups of a group of `matvec` that share the columns of the same rows.
const SPLIT: usize = 8;
/// Rows of a tile of the matrix kernels, its tokens at most, and its columns at a time.
pub const TILE_ROWS: usize = 64;
/// See [`TILE_ROWS`].
pub const TILE_TOKENS: usize = 32;
const TILE_COLS: usize = 32;
/// Threads of a group of the matrix kernels.
pub const TILE_THREADS: usize = 128;
/// Tokens of a tile where there are few rows, so that there are more groups.
const FEW_TOKENS: usize = 8;

/// Bytes of threadgroup memory of the mat-vec kernels: the table of the format (`metal-shaders/dots.h`), or sums of
/// simdgroups in its place.
pub fn matvec_shared(format: Format) -> usize {
    match format {
        Format::Iq2Xxs => shared(2 * 256),
        _ => shared(SPLIT * ROWS),
    }
}

/// Bytes of threadgroup memory of the matrix kernels: weights and values, or the sums in their place.
pub fn tile_shared() -> usize {
    shared(((TILE_ROWS + TILE_TOKENS) * TILE_COLS).max(TILE_TOKENS * TILE_ROWS))
}

/// Checks what kernels take for granted of rows of weights that begin at `address`.
///
/// Errors: rows are no whole steps of theirs, or begin between the numbers that kernels read.
pub fn check_rows(format: Format, cols: usize, address: u64) -> Result<()> {
    let alignment = match format {
        Format::F32 | Format::F16 | Format::Bf16 => 8,
        Format::Mxfp4 => 1,
        _ => 2,
    };
    let name = format.name();
    if !cols.is_multiple_of(TILE_COLS) {
        return Err(Error::unsupported(format!(
            "Metal: {name} rows of {cols} weights, expected a multiple of {TILE_COLS}"
        )));
    }
    if !address.is_multiple_of(alignment) {
        return Err(Error::unsupported(format!(
            "Metal: {name} rows at byte {address:#x}, expected a multiple of {alignment}"
        )));
    }
    Ok(())
}

/// See [`crate::backend::Backend::embed`].
pub fn embed(e: &mut Encoder, table: &Matrix, tokens: &[TokenId], streams: &Buffer) -> Result<()> {
    check_rows(table.format, table.cols, table.offset as u64)?;
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
/// prefill in tiles; which of both depends on the phase alone, and how on the matrix, so that the number of tokens changes
/// no bit.
pub fn matmul_grouped(
    e: &mut Encoder,
    phase: Phase,
    (n, groups): (usize, usize),
    x: Bind<'_>,
    weight: &Matrix,
    y: Bind<'_>,
) -> Result<()> {
    let (rows, cols) = (weight.rows / groups, weight.cols);
    check_rows(weight.format, cols, weight.offset as u64)?;
    // Few long rows would keep few simdgroups busy.
    let split = rows * groups <= 512 && cols >= 16 * 32 * SPLIT;
    let tile = if rows < TILE_ROWS {
        FEW_TOKENS
    } else {
        TILE_TOKENS
    };
    let args = ProductArgs {
        n: n as u32,
        rows: rows as u32,
        cols: cols as u32,
        row_bytes: weight.row_bytes as u32,
        x_stride: (groups * cols) as u32,
        y_stride: weight.rows as u32,
        split: u32::from(split),
        tile: tile as u32,
    };
    let (kernel, grid) = match phase {
        Phase::Decode => {
            let (rows_each, simdgroups) = if split {
                (ROWS, SPLIT)
            } else {
                (ROWS * SIMDGROUPS, SIMDGROUPS)
            };
            let grid = Grid {
                groups: [rows.div_ceil(rows_each), n, groups],
                threads: 32 * simdgroups,
                shared: matvec_shared(weight.format),
            };
            (Kernel::Matvec(weight.format), grid)
        }
        Phase::Prefill => {
            let grid = Grid {
                groups: [rows.div_ceil(TILE_ROWS), n.div_ceil(tile), groups],
                threads: TILE_THREADS,
                shared: tile_shared(),
            };
            (Kernel::Matmul(weight.format), grid)
        }
    };
    e.dispatch(kernel, &[], &args, &[weight.all(), x, y], grid)
}
