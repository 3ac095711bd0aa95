//! Compressors.
#![allow(unused_variables, clippy::too_many_arguments, clippy::todo)] // until it is written

use super::super::Metal;
use super::super::encode::Encoder;
use crate::backend::Compress;
use crate::error::Result;

/// See [`crate::backend::Compress`].
pub fn compress(e: &mut Encoder, step: Compress<'_, Metal>) -> Result<()> {
    todo!()
}
