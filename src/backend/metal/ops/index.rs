//! The indexer.

use super::super::args::{IndexArgs, IndexQueriesArgs};
use super::super::encode::{Encoder, Grid};
use super::super::kernels::Kernel;
use super::super::{Buffer, Metal, Selection};
use super::{form_constant, shared};
use crate::backend::{Heads, RowForm, Select};
use crate::error::Result;

/// Rows that a group of `index_scores` scores.
const ROWS: usize = 32;
/// Threads of a group of `index_select`.
const CHOOSERS: usize = 256;

/// See [`crate::backend::Backend::index_queries`].
pub fn index_queries(
    e: &mut Encoder,
    n: usize,
    heads: Heads,
    q: &Buffer,
    rope: &Buffer,
    form: RowForm,
) -> Result<()> {
    let args = IndexQueriesArgs {
        n_head: heads.n as u32,
        dim: heads.dim as u32,
        n_rot: heads.n_rot as u32,
    };
    let grid = Grid {
        groups: [n * heads.n, 1, 1],
        threads: 32,
        shared: shared(heads.dim),
    };
    let binds = [rope.all(), q.all()];
    e.dispatch(
        Kernel::IndexQueries,
        &[form_constant(form)],
        &args,
        &binds,
        grid,
    )
}

/// See [`crate::backend::Select`]; `scores` is scratch, `[n, rows visible to the last token]`.
pub fn select(
    e: &mut Encoder,
    step: Select<'_, Metal>,
    scores: &Buffer,
    selection: &Selection,
) -> Result<()> {
    let n_rows = (step.pos + step.n) / step.ratio;
    if n_rows <= step.top_k {
        return Ok(()); // all tokens attend to all rows
    }
    let args = IndexArgs {
        pos: step.pos as u32,
        ratio: step.ratio as u32,
        n_head: step.n_head as u32,
        dim: step.dim as u32,
        top_k: step.top_k as u32,
        stride: n_rows as u32,
        row_bytes: step.rows.row_bytes as u32,
        scale: step.scale,
    };
    let grid = Grid {
        groups: [n_rows.div_ceil(ROWS), step.n, 1],
        threads: 128,
        shared: shared((ROWS + 8) * step.dim + 4 * 64),
    };
    let form = form_constant(step.rows.form);
    let (q, weight) = (step.q.all(), step.head_weight.all());
    let binds = [q, weight, step.rows.bind()?, scores.all()];
    e.dispatch(Kernel::IndexScores, &[form], &args, &binds, grid)?;
    let grid = Grid {
        groups: [step.n, 1, 1],
        threads: CHOOSERS,
        shared: shared(3 * CHOOSERS + 2),
    };
    let binds = [scores.all(), selection.ids.all()];
    e.dispatch(Kernel::IndexSelect, &[], &args, &binds, grid)
}
