//! The indexer.
#![allow(unused_variables, clippy::too_many_arguments, clippy::todo)] // until it is written

use super::super::encode::Encoder;
use super::super::{Buffer, Metal, Selection};
use crate::backend::{Heads, RowForm, Select};
use crate::error::Result;

/// See [`crate::backend::Backend::index_queries`].
pub fn index_queries(
    e: &mut Encoder,
    n: usize,
    heads: Heads,
    q: &mut Buffer,
    rope: &Buffer,
    form: RowForm,
) -> Result<()> {
    todo!()
}
/// See [`crate::backend::Select`]; `scores` is scratch, `[n, rows visible to the last token]`.
pub fn select(
    e: &mut Encoder,
    step: Select<'_, Metal>,
    scores: &mut Buffer,
    selection: &mut Selection,
) -> Result<()> {
    todo!()
}
