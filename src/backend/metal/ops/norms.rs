//! Norms, rotations and raw keys.
#![allow(unused_variables, clippy::too_many_arguments, clippy::todo)] // until it is written

use super::super::encode::Encoder;
use super::super::{Buffer, Metal, Rows};
use crate::backend::{Heads, StoreKeys};
use crate::error::Result;

/// See [`crate::backend::Backend::rms_norm`].
pub fn rms_norm(
    e: &mut Encoder,
    n: usize,
    x: &mut Buffer,
    weight: &Buffer,
    eps: f32,
) -> Result<()> {
    todo!()
}
/// See [`crate::backend::Backend::head_norm_rope`].
pub fn head_norm_rope(
    e: &mut Encoder,
    n: usize,
    heads: Heads,
    q: &mut Buffer,
    rope: &Buffer,
    eps: f32,
) -> Result<()> {
    todo!()
}
/// See [`crate::backend::StoreKeys`].
pub fn store_keys(e: &mut Encoder, step: StoreKeys<'_, Metal>) -> Result<()> {
    todo!()
}
/// See [`crate::backend::Backend::commit_keys`].
pub fn commit_keys(
    e: &mut Encoder,
    n: usize,
    pos: usize,
    window: usize,
    chunk: &Rows,
    ring: &mut Rows,
) -> Result<()> {
    todo!()
}
