//! Routed experts, and what surrounds them.
#![allow(unused_variables, clippy::too_many_arguments, clippy::todo)] // until it is written

use super::super::encode::Encoder;
use super::super::{Buffer, Metal};
use crate::backend::Experts;
use crate::error::Result;
use crate::units::Phase;

/// Addresses of the matrices of one expert on the device.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExpertSlot {
    pub gate: u64,
    pub up: u64,
    pub down: u64,
}
/// See [`crate::backend::Experts`]: `slots[i]` is the expert of group `step.which[i]`; `weights` are those of the routes, `[n, n_used]`.
pub fn experts(
    e: &mut Encoder,
    phase: Phase,
    step: Experts<'_, Metal>,
    slots: &[ExpertSlot],
    weights: &Buffer,
) -> Result<()> {
    todo!()
}
/// See [`crate::backend::Backend::swiglu`].
pub fn swiglu(
    e: &mut Encoder,
    len: usize,
    clamp: f32,
    gate: &mut Buffer,
    up: &Buffer,
) -> Result<()> {
    todo!()
}
/// See [`crate::backend::Backend::combine`].
pub fn combine(
    e: &mut Encoder,
    n: usize,
    n_used: usize,
    n_embd: usize,
    routed: &Buffer,
    y: &mut Buffer,
) -> Result<()> {
    todo!()
}
