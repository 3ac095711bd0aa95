//! The choice of experts.
#![allow(unused_variables, clippy::too_many_arguments, clippy::todo)] // until it is written

use super::super::Buffer;
use super::super::encode::Encoder;
use crate::error::Result;

/// The choice of [`crate::backend::Route`] from the products `scores[n, n_expert]`: `ids[n, n_used]` u32 (given, where `preset`) and `weights`.
pub fn route(
    e: &mut Encoder,
    n: usize,
    n_expert: usize,
    n_used: usize,
    bias: Option<&Buffer>,
    scale: f32,
    preset: bool,
    scores: &mut Buffer,
    ids: &mut Buffer,
    weights: &mut Buffer,
) -> Result<()> {
    todo!()
}
