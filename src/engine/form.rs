//! What an answer is held to, whichever API asked for it.

use super::JsonRules;
use crate::error::{Error, Result};
pub use crate::schema::Schema;
use std::sync::Arc;

/// The form of an answer, which the choice of tokens holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// Any JSON under these rules.
    Json(JsonRules),
    /// JSON that a schema allows.
    Schema(Arc<Schema>),
    /// Calls of tools.
    Calls(CallForm),
}

/// How tools are called.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallForm {
    /// The tools that may be called, and the schemas of their parameters; without one only the markup is held.
    pub tools: Vec<(String, Option<Arc<Schema>>)>,
    /// The answer must be calls; without, it is free until it opens them.
    pub required: bool,
    /// Several calls may come; without, one.
    pub parallel: bool,
}

impl Form {
    /// The rules of an answer in JSON.
    pub(super) fn rules(&self) -> Result<JsonRules> {
        match self {
            Form::Json(rules) => Ok(*rules),
            Form::Schema(schema) => Ok(schema.rules()),
            Form::Calls(_) => Err(Error::unsupported("calls are not held yet")),
        }
    }
}
