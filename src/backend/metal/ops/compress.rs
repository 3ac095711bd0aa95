//! Compressors.

use super::super::Metal;
use super::super::args::{CompressArgs, CompressCommitArgs};
use super::super::encode::{Encoder, Grid};
use super::super::kernels::Kernel;
use super::{form_constant, shared};
use crate::backend::Compress;
use crate::error::Result;

/// See [`crate::backend::Compress`].
pub fn compress(e: &mut Encoder, step: Compress<'_, Metal>) -> Result<()> {
    let width = if step.overlap { 2 * step.dim } else { step.dim };
    let capacity = step.state.len() / (2 * width);
    let first = step.pos / step.ratio;
    let n_windows = (step.pos + step.n) / step.ratio - first;
    let (kv, gate, ape, state) = (
        step.kv.all(),
        step.gate.all(),
        step.ape.all(),
        step.state.all(),
    );
    if n_windows > 0 {
        let args = CompressArgs {
            pos: step.pos as u32,
            first: first as u32,
            ratio: step.ratio as u32,
            overlap: u32::from(step.overlap),
            dim: step.dim as u32,
            n_rot: step.n_rot as u32,
            capacity: capacity as u32,
            row_bytes: step.rows.row_bytes as u32,
            eps: step.rms_eps,
        };
        let grid = Grid {
            groups: [n_windows, 1, 1],
            threads: step.dim.next_multiple_of(32).min(256),
            shared: shared(step.dim + 32),
        };
        let (norm, rope) = (step.norm.all(), step.rope.all());
        let binds = [kv, gate, ape, state, norm, rope, step.rows.bind()?];
        let form = form_constant(step.rows.form);
        e.dispatch(Kernel::Compress, &[form], &args, &binds, grid)?;
    }
    let kept = step.n.saturating_sub(capacity);
    let args = CompressCommitArgs {
        first: kept as u32,
        n: step.n as u32,
        pos: step.pos as u32,
        ratio: step.ratio as u32,
        width: width as u32,
        capacity: capacity as u32,
    };
    let grid = Grid {
        groups: [width.div_ceil(64), step.n - kept, 1],
        threads: 64,
        shared: 0,
    };
    e.dispatch(
        Kernel::CompressCommit,
        &[],
        &args,
        &[kv, gate, ape, state],
        grid,
    )
}
