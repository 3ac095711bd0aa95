//! Hyper-connections.
#![allow(unused_variables, clippy::too_many_arguments, clippy::todo)] // until it is written

use super::super::encode::Encoder;
use super::super::{Buffer, Metal};
use crate::backend::{HyperHead, HyperNumbers, HyperSite};
use crate::error::Result;
use crate::units::Phase;
use std::ops::Range;

/// See [`crate::backend::Backend::hyper_entry`]; `raw` is scratch for the mixer's outputs, `[n, 2 HC + HC^2]`.
pub fn hyper_entry(
    e: &mut Encoder,
    phase: Phase,
    site: &HyperSite<Metal>,
    numbers: HyperNumbers,
    tokens: Range<usize>,
    streams: &Buffer,
    raw: &mut Buffer,
    mix: &mut Buffer,
    x: &mut Buffer,
) -> Result<()> {
    todo!()
}
/// See [`crate::backend::Backend::hyper_exit`].
pub fn hyper_exit(
    e: &mut Encoder,
    tokens: Range<usize>,
    n_embd: usize,
    y: &Buffer,
    mix: &Buffer,
    streams: &mut Buffer,
) -> Result<()> {
    todo!()
}
/// See [`crate::backend::Backend::hyper_head`]; `raw` as for [`hyper_entry`].
pub fn hyper_head(
    e: &mut Encoder,
    phase: Phase,
    head: &HyperHead<Metal>,
    numbers: HyperNumbers,
    tokens: Range<usize>,
    streams: &Buffer,
    raw: &mut Buffer,
    x: &mut Buffer,
) -> Result<()> {
    todo!()
}
