//! Norms, rotations and raw keys.

use super::super::args::{CommitKeysArgs, HeadNormArgs, NormArgs, StoreKeysArgs};
use super::super::encode::{Encoder, Grid};
use super::super::kernels::Kernel;
use super::super::{Buffer, Metal, Rows};
use super::{form_constant, shared};
use crate::backend::{Heads, StoreKeys};
use crate::error::Result;

/// See [`crate::backend::Backend::rms_norm`].
pub fn rms_norm(e: &mut Encoder, n: usize, x: &Buffer, weight: &Buffer, eps: f32) -> Result<()> {
    let args = NormArgs {
        dim: weight.len() as u32,
        eps,
    };
    let grid = Grid {
        groups: [n, 1, 1],
        threads: 256,
        shared: shared(32),
    };
    e.dispatch(Kernel::RmsNorm, &[], &args, &[weight.all(), x.all()], grid)
}

/// See [`crate::backend::Backend::head_norm_rope`].
pub fn head_norm_rope(
    e: &mut Encoder,
    n: usize,
    heads: Heads,
    q: &Buffer,
    rope: &Buffer,
    eps: f32,
) -> Result<()> {
    let n_rows = n * heads.n;
    let args = HeadNormArgs {
        n_rows: n_rows as u32,
        n_head: heads.n as u32,
        dim: heads.dim as u32,
        n_rot: heads.n_rot as u32,
        eps,
    };
    let grid = Grid {
        groups: [n_rows.div_ceil(4), 1, 1],
        threads: 128,
        shared: 0,
    };
    e.dispatch(
        Kernel::HeadNormRope,
        &[],
        &args,
        &[rope.all(), q.all()],
        grid,
    )
}

/// See [`crate::backend::StoreKeys`].
pub fn store_keys(e: &mut Encoder, step: StoreKeys<'_, Metal>) -> Result<()> {
    let dim = step.norm.len();
    let args = StoreKeysArgs {
        dim: dim as u32,
        n_rot: step.n_rot as u32,
        row_bytes: step.rows.row_bytes as u32,
        eps: step.rms_eps,
    };
    let grid = Grid {
        groups: [step.n, 1, 1],
        threads: 32,
        shared: shared(dim),
    };
    let form = form_constant(step.rows.form);
    let (k, norm, rope) = (step.k.all(), step.norm.all(), step.rope.all());
    let binds = [k, norm, rope, step.rows.bind()?];
    e.dispatch(Kernel::StoreKeys, &[form], &args, &binds, grid)
}

/// See [`crate::backend::Backend::commit_keys`].
pub fn commit_keys(
    e: &mut Encoder,
    n: usize,
    pos: usize,
    window: usize,
    chunk: &Rows,
    ring: &Rows,
) -> Result<()> {
    let first = n.saturating_sub(window);
    let args = CommitKeysArgs {
        first: first as u32,
        pos: pos as u32,
        window: window as u32,
        row_bytes: ring.row_bytes as u32,
    };
    let grid = Grid {
        groups: [n - first, 1, 1],
        threads: 64,
        shared: 0,
    };
    let binds = [chunk.bind()?, ring.bind()?];
    e.dispatch(Kernel::CommitKeys, &[], &args, &binds, grid)
}
