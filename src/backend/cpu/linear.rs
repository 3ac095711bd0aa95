//! Products of weight matrices with rows of activations.
//!
//! Work is cut over weight rows; a kernel sums each element in one fixed order, so neither the cut nor the
//! number of tokens changes a bit.

use super::dispatch::{Activation, FormatKernel, Kernels, TOKENS};
use super::pool::{Pool, Tile, Tiled};
use super::{Cpu, Matrix};
use crate::backend::Product;
use crate::backend::profile::Cost;
use crate::quant::cast;
use crate::quant::wide::Act512;
use std::ops::Range;

/// Products that [`matmul`] computes in one pass at most.
pub const MAX_PRODUCTS: usize = 8;

/// Activations in the forms that kernels read, made once for all products of the same rows.
#[derive(Default)]
pub struct Prepared {
    blocks: Vec<Act512>,
}

impl Prepared {
    /// Brings `rows = [.., cols]` into `form`; the memory is kept from call to call.
    pub fn fill(
        &mut self,
        kernels: &Kernels,
        pool: &mut Pool,
        form: Activation,
        rows: &[f32],
        cols: usize,
    ) {
        match form {
            Activation::F32 => {}
            Activation::Block512 => {
                let (n, blocks) = (rows.len() / cols, cols.div_ceil(512));
                if self.blocks.len() < n * blocks {
                    self.blocks.resize(n * blocks, Act512::ZERO);
                }
                let out = &mut self.blocks[..n * blocks];
                each_row(pool, out, blocks, |r, out| {
                    (kernels.quantize_512)(&rows[r * cols..][..cols], out)
                });
            }
        }
    }

    /// The bytes of row `r` for a kernel that reads `form`; `rows` as given to [`Prepared::fill`].
    pub fn row<'a>(&'a self, form: Activation, rows: &'a [f32], cols: usize, r: usize) -> &'a [u8] {
        match form {
            Activation::F32 => cast::to_bytes(&rows[r * cols..][..cols]),
            Activation::Block512 => {
                let blocks = cols.div_ceil(512);
                cast::to_bytes(&self.blocks[r * blocks..][..blocks])
            }
        }
    }
}

/// One row runs at once on the calling thread; more are spread.
fn each_row<T: Send>(
    pool: &mut Pool,
    data: &mut [T],
    row_len: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    let mut none = [(); crate::options::LIMITS.threads];
    pool.for_rows(data, row_len, &mut none, |r, row, ()| f(r, row));
}

/// Columns of an output tile: enough tiles to keep every thread busy, of whole passes of rows. (24 rows of a mixer in two
/// tiles would leave one thread with two thirds of them.)
pub fn tile_columns(cols: usize, n_threads: usize) -> usize {
    let tiles = 4 * n_threads;
    (cols.div_ceil(tiles).next_multiple_of(4)).clamp(4, 64)
}

/// Some weight rows times `n` vectors: vector `t` goes to `part` of the tile's columns in row `row(t)`.
pub fn product<'a>(
    kernel: &FormatKernel,
    weights: &[u8],
    n: usize,
    x: impl Fn(usize) -> &'a [u8],
    (tile, part): (&mut Tile<'_>, Range<usize>),
    row: impl Fn(usize) -> usize,
) {
    for first in (0..n).step_by(TOKENS) {
        let n = TOKENS.min(n - first);
        let mut vectors = [&[][..]; TOKENS];
        let mut rows = [0; TOKENS];
        let mut y: [&mut [f32]; TOKENS] = std::array::from_fn(|_| Default::default());
        for i in 0..n {
            (vectors[i], rows[i]) = (x(first + i), row(first + i));
        }
        tile.rows(&rows[..n], &mut y);
        let mut y = y.map(|y| y.get_mut(part.clone()).unwrap_or_default());
        kernel.times(weights, &vectors[..n], &mut y[..n]);
    }
}

/// See [`crate::backend::Backend::matmul`].
pub fn matmul(cpu: &mut Cpu, n: usize, x: &[f32], products: &mut [Product<'_, Cpu>]) {
    assert!(products.len() <= MAX_PRODUCTS, "products of one call");
    let cols = products.first().map_or(0, |p| p.weight.cols);
    let x = &x[..n * cols];
    let form = Activation::Block512;
    if products.iter().any(|p| p.weight.kernel.activation == form) {
        cpu.prepared
            .fill(&cpu.kernels, &mut cpu.pool, form, x, cols);
    }
    let n_threads = cpu.pool.n_threads();
    let mut weights: [Option<&Matrix>; MAX_PRODUCTS] = [None; MAX_PRODUCTS];
    let mut outputs: [Tiled<'_>; MAX_PRODUCTS] = std::array::from_fn(|_| Tiled::new(&mut [], 1, 1));
    let n_products = products.len();
    for (i, p) in products.iter_mut().enumerate() {
        assert_eq!(p.weight.cols, cols, "products share their input");
        let rows = p.weight.rows;
        cpu.count(|| Cost::product(n, rows, cols, p.weight.row_bytes));
        outputs[i] = Tiled::new(&mut p.y[..n * rows], rows, tile_columns(rows, n_threads));
        weights[i] = Some(p.weight);
    }
    let prepared = &cpu.prepared;
    cpu.pool
        .for_tiles(&mut outputs[..n_products], |o, mut tile| {
            let Some(weight) = weights[o] else {
                return;
            };
            let (rows, kernel) = (weight.row_range(tile.columns()), weight.kernel);
            let x = |t| prepared.row(kernel.activation, x, cols, t);
            let part = 0..tile.columns().len();
            product(&kernel, rows, n, x, (&mut tile, part), |t| t);
        });
}

/// See [`crate::backend::Backend::matmul_grouped`].
pub fn matmul_grouped(
    cpu: &mut Cpu,
    n: usize,
    groups: usize,
    x: &[f32],
    weight: &Matrix,
    y: &mut [f32],
) {
    let (cols, rows_a_group) = (weight.cols, weight.rows / groups);
    let x = &x[..n * groups * cols];
    let kernel = weight.kernel;
    cpu.count(|| Cost::product(n, weight.rows, cols, weight.row_bytes));
    cpu.prepared
        .fill(&cpu.kernels, &mut cpu.pool, kernel.activation, x, cols);
    let tile = tile_columns(weight.rows, cpu.pool.n_threads());
    let prepared = &cpu.prepared;
    cpu.pool.for_tiles(
        &mut [Tiled::new(&mut y[..n * weight.rows], weight.rows, tile)],
        |_, mut tile| {
            let columns = tile.columns();
            let mut start = columns.start;
            while start < columns.end {
                let group = start / rows_a_group;
                let end = columns.end.min((group + 1) * rows_a_group);
                let rows = weight.row_range(start..end);
                let x = |t| prepared.row(kernel.activation, x, cols, t * groups + group);
                let part = start - columns.start..end - columns.start;
                product(&kernel, rows, n, x, (&mut tile, part), |t| t);
                start = end;
            }
        },
    );
}
