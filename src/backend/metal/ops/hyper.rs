//! Hyper-connections.

use super::super::args::{HyperArgs, HyperExitArgs, HyperMixArgs};
use super::super::encode::{Bind, Encoder, Grid};
use super::super::kernels::Kernel;
use super::super::{Buffer, Matrix, Metal};
use super::shared;
use crate::backend::{HC, HyperHead, HyperNumbers, HyperSite};
use crate::error::Result;
use crate::units::Phase;
use std::ops::Range;

/// Threads of a group.
const THREADS: usize = 256;
/// Tokens, and outputs of a mixer, of a group of `hyper_mix` in prefill.
const TILE: [usize; 2] = [4, 8];

/// The products of a mixer with the normed streams of `n` tokens. In decode every output has a group, as there are few; the
/// order of a sum is that of prefill.
fn mixer_products(
    e: &mut Encoder,
    phase: Phase,
    n: usize,
    streams: Bind<'_>,
    (mixer, rms_eps): (&Matrix, f32),
    raw: &Buffer,
) -> Result<()> {
    let (tile, [tokens, rows]) = match phase {
        Phase::Decode => (0, [1, 1]),
        Phase::Prefill => (1, TILE),
    };
    let args = HyperMixArgs {
        n: n as u32,
        rows: mixer.rows as u32,
        cols: mixer.cols as u32,
        row_bytes: mixer.row_bytes as u32,
        eps: rms_eps,
    };
    let grid = Grid {
        groups: [mixer.rows.div_ceil(rows), n.div_ceil(tokens), 1],
        threads: THREADS,
        shared: shared(THREADS / 32 * TILE[0] * (TILE[1] + 1)),
    };
    let binds = [mixer.all(), streams, raw.all()];
    let constants = [0, 0, tile];
    e.dispatch(
        Kernel::HyperMix(mixer.format),
        &constants,
        &args,
        &binds,
        grid,
    )
}

/// Some groups a token, with room for the sums of their simdgroups.
fn tokens_grid(groups: [usize; 3]) -> Grid {
    Grid {
        groups,
        threads: THREADS,
        shared: shared(32),
    }
}

/// See [`crate::backend::Backend::hyper_entry`]; `raw` is scratch for the mixer's outputs, `[n, 2 HC + HC^2]`.
#[allow(clippy::too_many_arguments)] // the operation's own, and the scratch
pub fn hyper_entry(
    e: &mut Encoder,
    phase: Phase,
    site: &HyperSite<Metal>,
    numbers: HyperNumbers,
    tokens: Range<usize>,
    streams: &Buffer,
    raw: &Buffer,
    mix: &Buffer,
    x: &Buffer,
) -> Result<()> {
    let (n, n_embd) = (tokens.len(), site.norm.len());
    let streams = streams.from(tokens.start * HC * n_embd);
    mixer_products(e, phase, n, streams, (&site.mixer, numbers.rms_eps), raw)?;
    let [scale_pre, scale_post, scale_matrix] = site.scale;
    let args = HyperArgs {
        n_embd: n_embd as u32,
        n_sinkhorn: numbers.n_sinkhorn as u32,
        eps: numbers.eps,
        rms_eps: numbers.rms_eps,
        scale_pre,
        scale_post,
        scale_matrix,
    };
    let (base, norm) = (site.base.all(), site.norm.all());
    let binds = [streams, raw.all(), base, norm, mix.all(), x.all()];
    // One group for the input, one for the gates.
    let grid = tokens_grid([2, n, 1]);
    e.dispatch(Kernel::HyperEntry, &[], &args, &binds, grid)
}

/// See [`crate::backend::Backend::hyper_exit`].
pub fn hyper_exit(
    e: &mut Encoder,
    tokens: Range<usize>,
    n_embd: usize,
    y: &Buffer,
    mix: &Buffer,
    streams: &Buffer,
) -> Result<()> {
    let n = tokens.len();
    let args = HyperExitArgs {
        n_embd: n_embd as u32,
    };
    let binds = [y.all(), mix.all(), streams.from(tokens.start * HC * n_embd)];
    let threads = (n_embd / 4).next_multiple_of(32).min(THREADS);
    let grid = Grid {
        groups: [(n_embd / 4).div_ceil(threads), n, 1],
        threads,
        shared: 0,
    };
    e.dispatch(Kernel::HyperExit, &[], &args, &binds, grid)
}

/// See [`crate::backend::Backend::hyper_head`]; `raw` as for [`hyper_entry`].
#[allow(clippy::too_many_arguments)] // the operation's own, and the scratch
pub fn hyper_head(
    e: &mut Encoder,
    phase: Phase,
    head: &HyperHead<Metal>,
    numbers: HyperNumbers,
    tokens: Range<usize>,
    streams: &Buffer,
    raw: &Buffer,
    x: &Buffer,
) -> Result<()> {
    let (n, n_embd) = (tokens.len(), head.norm.len());
    let streams = streams.from(tokens.start * HC * n_embd);
    mixer_products(e, phase, n, streams, (&head.mixer, numbers.rms_eps), raw)?;
    let args = HyperArgs {
        n_embd: n_embd as u32,
        n_sinkhorn: 0,
        eps: numbers.eps,
        rms_eps: numbers.rms_eps,
        scale_pre: head.scale,
        scale_post: 0.0,
        scale_matrix: 0.0,
    };
    let binds = [
        streams,
        raw.all(),
        head.base.all(),
        head.norm.all(),
        x.all(),
    ];
    let grid = tokens_grid([n, 1, 1]);
    e.dispatch(Kernel::HyperHead, &[], &args, &binds, grid)
}
