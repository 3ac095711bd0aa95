//! Hyper-connections.

use super::super::args::{HyperArgs, HyperExitArgs};
use super::super::encode::{Encoder, Grid};
use super::super::kernels::Kernel;
use super::super::{Buffer, Metal};
use super::{each, linear, shared};
use crate::backend::{HC, HyperHead, HyperNumbers, HyperSite};
use crate::error::Result;
use crate::units::Phase;
use std::ops::Range;

/// A token a group, with room for the sums of its simdgroups.
fn tokens_grid(n: usize) -> Grid {
    Grid {
        groups: [n, 1, 1],
        threads: 256,
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
    linear::matmul(e, phase, n, streams, &site.mixer, raw.all())?;
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
    e.dispatch(Kernel::HyperEntry, &[], &args, &binds, tokens_grid(n))
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
        n: n as u32,
        n_embd: n_embd as u32,
    };
    let binds = [y.all(), mix.all(), streams.from(tokens.start * HC * n_embd)];
    e.dispatch(Kernel::HyperExit, &[], &args, &binds, each(n * n_embd))
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
    linear::matmul(e, phase, n, streams, &head.mixer, raw.all())?;
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
    e.dispatch(Kernel::HyperHead, &[], &args, &binds, tokens_grid(n))
}
