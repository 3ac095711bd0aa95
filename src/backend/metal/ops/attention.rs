//! Attention.

use super::super::Metal;
use super::super::args::AttendArgs;
use super::super::encode::{Encoder, Grid};
use super::super::kernels::Kernel;
use super::{form_constant, shared};
use crate::backend::Attend;
use crate::error::{Error, Result};

/// Heads of a group, one a simdgroup.
const HEADS: usize = 4;
/// Keys that a group brings to f32 together.
const KEYS: usize = 8;
/// The widest head: a lane holds 8 pairs of its values.
const WIDEST: usize = 512;

/// See [`crate::backend::Attend`].
pub fn attend(e: &mut Encoder, step: Attend<'_, Metal>) -> Result<()> {
    let heads = step.heads;
    if heads.dim > WIDEST {
        return Err(Error::limit(
            "--backend metal: width of a head",
            heads.dim,
            WIDEST,
        ));
    }
    let compressed = step.compressed.as_ref();
    let selected = compressed.and_then(|c| c.selected);
    let args = AttendArgs {
        pos: step.pos as u32,
        n_head: heads.n as u32,
        n_rot: heads.n_rot as u32,
        window: step.window as u32,
        ratio: compressed.map_or(0, |c| c.ratio as u32),
        top_k: selected.map_or(0, |(_, top_k)| top_k as u32),
        row_bytes: step.ring.row_bytes as u32,
        scale: 1.0 / (heads.dim as f32).sqrt(),
    };
    let grid = Grid {
        groups: [heads.n.div_ceil(HEADS), step.n, 1],
        threads: 32 * HEADS,
        shared: shared(KEYS * heads.dim),
    };
    let ring = step.ring.bind()?;
    // What there is none of is not looked at.
    let rows = compressed.and_then(|c| c.rows.all()).unwrap_or(ring);
    let ids = selected.map_or(step.sinks.all(), |(selection, _)| selection.ids.all());
    let binds = [
        step.q.all(),
        step.sinks.all(),
        ring,
        step.chunk.bind()?,
        rows,
        ids,
        step.rope.all(),
        step.out.all(),
    ];
    let constants = [form_constant(step.ring.form), heads.dim as u32];
    e.dispatch(Kernel::Attend, &constants, &args, &binds, grid)
}
