//! The indexer.

use super::super::args::{IndexArgs, IndexQueriesArgs};
use super::super::encode::{Encoder, Grid};
use super::super::kernels::Kernel;
use super::super::{Buffer, Metal, Selection};
use super::{form_constant, shared};
use crate::backend::{Heads, RowForm, Select};
use crate::error::{Error, Result};

/// Rows that a group of `index_scores` scores.
const ROWS: usize = 32;
/// Its simdgroups; each takes eight heads at a time.
const SIMDGROUPS: usize = 8;
/// The widest head: a group has [`ROWS`] of them as f32.
const WIDEST: usize = 128;
/// Threads of a group of `index_select`.
const CHOOSERS: usize = 256;
/// What it counts in.
const BINS: usize = 2048;
/// Scores that are kept at a time, where those of one token are not more.
const SCORES: usize = 256 << 10;
/// Heads of a group of `index_queries`, one a simdgroup.
const QUERIES: usize = 4;

/// Scores that [`select`] keeps at a time, for `n` tokens of which the last sees `n_rows`.
pub fn scores_len(n: usize, n_rows: usize) -> usize {
    tokens_at_once(n, n_rows) * n_rows
}

fn tokens_at_once(n: usize, n_rows: usize) -> usize {
    (SCORES / n_rows.max(1)).clamp(1, n.max(1))
}

/// See [`crate::backend::Backend::index_queries`].
pub fn index_queries(
    e: &mut Encoder,
    n: usize,
    heads: Heads,
    q: &Buffer,
    rope: &Buffer,
    form: RowForm,
) -> Result<()> {
    let n_rows = n * heads.n;
    let args = IndexQueriesArgs {
        n_rows: n_rows as u32,
        n_head: heads.n as u32,
        dim: heads.dim as u32,
        n_rot: heads.n_rot as u32,
    };
    let grid = Grid {
        groups: [n_rows.div_ceil(QUERIES), 1, 1],
        threads: 32 * QUERIES,
        shared: shared(QUERIES * heads.dim),
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

/// See [`crate::backend::Select`]; `scores` is scratch, [`scores_len`].
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
    if step.dim > WIDEST || !step.dim.is_multiple_of(8) || step.n_head < 8 {
        return Err(Error::unsupported(format!(
            "--backend metal: the indexer has {} heads of {} values, expected 8 or more of a multiple of 8 up to {WIDEST}",
            step.n_head, step.dim
        )));
    }
    let form = form_constant(step.rows.form);
    let (q, weight, rows) = (step.q.all(), step.head_weight.all(), step.rows.bind()?);
    let at_once = tokens_at_once(step.n, n_rows);
    for first in (0..step.n).step_by(at_once) {
        let n = at_once.min(step.n - first);
        let args = IndexArgs {
            first: first as u32,
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
            groups: [n_rows.div_ceil(ROWS), n, 1],
            threads: 32 * SIMDGROUPS,
            shared: shared(ROWS * (step.dim + 4) + SIMDGROUPS * 9 * ROWS),
        };
        let binds = [q, weight, rows, scores.all()];
        e.dispatch(Kernel::IndexScores, &[form], &args, &binds, grid)?;
        let grid = Grid {
            groups: [n, 1, 1],
            threads: CHOOSERS,
            shared: shared(BINS + 2 * (CHOOSERS / 32) + 2),
        };
        let binds = [scores.all(), selection.ids.all()];
        e.dispatch(Kernel::IndexSelect, &[], &args, &binds, grid)?;
    }
    Ok(())
}
