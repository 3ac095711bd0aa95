//! Attention.

use super::super::args::AttendArgs;
use super::super::encode::{Encoder, Grid};
use super::super::kernels::Kernel;
use super::super::{Buffer, Metal};
use super::{form_constant, shared};
use crate::backend::{Attend, Heads};
use crate::error::{Error, Result};
use crate::units::Phase;

/// Simdgroups of a group.
const SIMDGROUPS: usize = 8;
/// Heads of a group.
const HEADS: usize = 16;
/// Keys that a group brings to f32 together, one a simdgroup.
const KEYS: usize = 8;
/// The widest head: a simdgroup has eight blocks of eight columns.
const WIDEST: usize = 512;
/// Parts of the keys at most: `attend_join` has a lane for each.
pub const MOST_PARTS: usize = 32;
/// Keys of a part at least.
const PART: usize = 64;

/// How the keys of a token are shared out among groups.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// Parts; 1: the output needs no joining.
    n: usize,
    /// Keys of each, a multiple of [`KEYS`].
    len: usize,
}

impl Parts {
    /// In decode one token has the device to itself; in prefill its tokens are enough.
    pub fn new(phase: Phase, step: &Attend<'_, Metal>) -> Parts {
        let position = step.pos + step.n - 1;
        let n_compressed = step.compressed.as_ref().map_or(0, |c| {
            let most = c.selected.map_or(usize::MAX, |(_, top_k)| top_k);
            ((position + 1) / c.ratio).min(most)
        });
        let n_keys = step.window.min(position + 1) + n_compressed;
        if phase == Phase::Prefill || step.n > 1 {
            return Parts { n: 1, len: n_keys };
        }
        let len = n_keys.div_ceil(MOST_PARTS).next_multiple_of(KEYS).max(PART);
        Parts {
            n: n_keys.div_ceil(len),
            len,
        }
    }

    /// Values of the sums of all parts, their maxima and totals.
    pub fn values(self, heads: Heads) -> usize {
        let is_joined = self.n > 1;
        usize::from(is_joined) * self.n * heads.n * (heads.dim + 2)
    }
}

/// See [`crate::backend::Attend`]; `sums` is scratch, [`Parts::values`].
pub fn attend(e: &mut Encoder, step: Attend<'_, Metal>, parts: Parts, sums: &Buffer) -> Result<()> {
    let heads = step.heads;
    if heads.dim > WIDEST || !heads.dim.is_multiple_of(8) {
        return Err(Error::unsupported(format!(
            "--backend metal: heads have {} values, expected a multiple of 8 up to {WIDEST}",
            heads.dim
        )));
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
        n_parts: parts.n as u32,
        part: parts.len as u32,
        scale: 1.0 / (heads.dim as f32).sqrt(),
    };
    let scores = SIMDGROUPS * HEADS * KEYS;
    let values = KEYS * (heads.dim + 4) + scores + HEADS * KEYS + 2 * 64 + 2 * HEADS + 4;
    let grid = Grid {
        groups: [heads.n.div_ceil(HEADS), parts.n, step.n],
        threads: 32 * SIMDGROUPS,
        shared: shared(values),
    };
    let ring = step.ring.bind()?;
    // What there is none of is not looked at.
    let rows = compressed.and_then(|c| c.rows.all()).unwrap_or(ring);
    let ids = selected.map_or(step.sinks.all(), |(selection, _)| selection.ids.all());
    let (sums, rope, out) = (sums.all(), step.rope.all(), step.out.all());
    let (q, sinks) = (step.q.all(), step.sinks.all());
    let binds = [
        q,
        sinks,
        ring,
        step.chunk.bind()?,
        rows,
        ids,
        rope,
        sums,
        out,
    ];
    let constants = [form_constant(step.ring.form), heads.dim as u32];
    e.dispatch(Kernel::Attend, &constants, &args, &binds, grid)?;
    if parts.n == 1 {
        return Ok(());
    }
    let grid = Grid {
        groups: [heads.dim.div_ceil(128), heads.n, 1],
        threads: 32,
        shared: 0,
    };
    let binds = [sums, rope, out];
    e.dispatch(Kernel::AttendJoin, &constants, &args, &binds, grid)
}
