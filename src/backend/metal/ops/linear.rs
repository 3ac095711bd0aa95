//! Products with weight matrices.
#![allow(unused_variables, clippy::too_many_arguments, clippy::todo)] // until it is written

use super::super::encode::Encoder;
use super::super::{Buffer, Matrix};
use crate::error::Result;
use crate::units::{Phase, TokenId};

/// See [`crate::backend::Backend::embed`].
pub fn embed(
    e: &mut Encoder,
    table: &Matrix,
    tokens: &[TokenId],
    streams: &mut Buffer,
) -> Result<()> {
    todo!()
}
/// `y[n, rows] = x[n, cols] · weightᵀ`
pub fn matmul(
    e: &mut Encoder,
    phase: Phase,
    n: usize,
    x: &Buffer,
    weight: &Matrix,
    y: &mut Buffer,
) -> Result<()> {
    todo!()
}
/// See [`crate::backend::Backend::matmul_grouped`].
pub fn matmul_grouped(
    e: &mut Encoder,
    phase: Phase,
    n: usize,
    groups: usize,
    x: &Buffer,
    weight: &Matrix,
    y: &mut Buffer,
) -> Result<()> {
    todo!()
}
