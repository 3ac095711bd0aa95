//! The choice of experts.

use super::super::Buffer;
use super::super::args::RouteArgs;
use super::super::encode::{Encoder, Grid};
use super::super::kernels::Kernel;
use super::shared;
use crate::error::Result;

/// What [`route`] needs beside buffers.
#[derive(Clone, Copy, Debug)]
pub struct Choosing {
    /// Tokens.
    pub n: usize,
    /// Experts of the layer.
    pub n_expert: usize,
    /// Experts a token.
    pub n_used: usize,
    /// Sum of a token's weights.
    pub scale: f32,
    /// Whether the choice is given.
    pub preset: bool,
}

/// The choice of [`crate::backend::Route`] from the products `x[n, n_expert]`: `ids[n, n_used]` u32 and their weights.
pub fn route(
    e: &mut Encoder,
    c: Choosing,
    x: &Buffer,
    bias: Option<&Buffer>,
    ids: &Buffer,
    weights: &Buffer,
) -> Result<()> {
    let args = RouteArgs {
        n_expert: c.n_expert as u32,
        n_used: c.n_used as u32,
        has_bias: u32::from(bias.is_some()),
        is_preset: u32::from(c.preset),
        scale: c.scale,
    };
    let grid = Grid {
        groups: [c.n, 1, 1],
        threads: 32,
        shared: shared(c.n_expert + 2 * c.n_used),
    };
    // Without a bias it is not looked at.
    let binds = [x.all(), bias.unwrap_or(x).all(), ids.all(), weights.all()];
    e.dispatch(Kernel::Route, &[], &args, &binds, grid)
}
