//! Attention.
#![allow(unused_variables, clippy::too_many_arguments, clippy::todo)] // until it is written

use super::super::Metal;
use super::super::encode::Encoder;
use crate::backend::Attend;
use crate::error::Result;

/// See [`crate::backend::Attend`].
pub fn attend(e: &mut Encoder, step: Attend<'_, Metal>) -> Result<()> {
    todo!()
}
