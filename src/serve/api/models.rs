//! `GET /v1/models`: the loaded model, with the fields of both families.

use super::Served;
use crate::json::object::{self, Json, object};

/// What Anthropic's reference has for a model whose release date is unknown.
const UNKNOWN_DATE: &str = "1970-01-01T00:00:00Z";

/// The model.
pub fn model(served: &Served, since: u64) -> Json {
    object([
        ("id", (&served.model).into()),
        ("object", "model".into()),
        ("created", since.into()),
        ("owned_by", "infall".into()),
        ("type", "model".into()),
        ("display_name", (&served.model).into()),
        ("created_at", UNKNOWN_DATE.into()),
        ("max_model_len", served.ctx.into()),
    ])
}

/// A list of it alone.
pub fn list(served: &Served, since: u64) -> Json {
    object([
        ("object", "list".into()),
        ("data", object::list([model(served, since)])),
        ("has_more", false.into()),
        ("first_id", (&served.model).into()),
        ("last_id", (&served.model).into()),
    ])
}
