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
        ("context_length", served.ctx.into()),
        ("max_input_tokens", served.ctx.into()),
        ("max_tokens", served.ctx.into()),
        // Anthropic's SDK demands it.
        ("lifecycle", "active".into()),
    ])
}

/// A list of it alone.
pub fn list(served: &Served, since: u64) -> Json {
    object([
        ("object", "list".into()),
        ("data", object::list([model(served, since)])),
        // Codex decodes this name, whose entries are descriptions of OpenAI's own models, and goes on without.
        ("models", object::list([])),
        ("has_more", false.into()),
        ("first_id", (&served.model).into()),
        ("last_id", (&served.model).into()),
    ])
}

/// What llama.cpp's clients ask of a server.
pub fn props(served: &Served) -> Json {
    let settings = object([("n_ctx", served.ctx.into())]);
    let modalities = object([("vision", false.into()), ("audio", false.into())]);
    object([
        ("default_generation_settings", settings),
        ("total_slots", 1_usize.into()),
        ("model_alias", (&served.model).into()),
        ("model_path", (&served.model).into()),
        ("modalities", modalities),
        (
            "build_info",
            concat!("infall ", env!("CARGO_PKG_VERSION")).into(),
        ),
    ])
}
