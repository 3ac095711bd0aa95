//! The form of an answer: text, or JSON by a schema.

use super::conversation::Conversation;
use super::spot::Spot;
use crate::engine::JsonRules;
use crate::error::Result;
use crate::json::source::{as_string, respaced};

/// A warning when the model is asked for both calls and JSON.
const NOT_HELD: &str =
    "the answer may call tools, so that it is asked to be JSON, but not held to it";

/// Where a request says the form directly, besides the place that its API has for it: llama.cpp's, vLLM's and Ollama's
/// fields.
const DIRECT: [&str; 4] = ["json_schema", "guided_json", "structured_outputs", "format"];

/// The form of an answer.
pub struct Format {
    /// What it is held to.
    pub rules: JsonRules,
    /// What it is asked to follow.
    pub schema: String,
}

impl Format {
    /// JSON by a schema, which is given as it stands in the request, or as JSON in a string.
    ///
    /// Errors: `Format` when it is no object.
    fn schema(schema: &Spot<'_>) -> Result<Format> {
        let inner = schema.node.text().ok().and_then(|_| as_string(schema.text));
        let text = respaced(inner.as_deref().unwrap_or(schema.text));
        let kind = schema.node.get("type")?.and_then(|kind| kind.text().ok());
        Ok(Format {
            rules: match kind {
                Some("object") => JsonRules::WRITTEN_OBJECT,
                _ => JsonRules::WRITTEN,
            },
            schema: text.map_err(|e| schema.node.error(&e.to_string()))?,
        })
    }

    /// Any JSON object.
    fn object() -> Format {
        Format {
            rules: JsonRules::WRITTEN_OBJECT,
            schema: "{\"type\": \"object\"}".into(),
        }
    }
}

/// Reads the form of an answer into a conversation that has its tools. `typed` is the place that the API has for it: an
/// object with a `type`, and for `json_schema` a `schema`, which stands in a member of that name in
/// `/v1/chat/completions`.
pub fn read(
    request: &Spot<'_>,
    typed: Option<Spot<'_>>,
    conversation: &mut Conversation,
) -> Result<()> {
    let mut format = typed.as_ref().map(by_type).transpose()?.flatten();
    for name in DIRECT {
        if let (None, Some(spot)) = (&format, request.get(name)?) {
            format = directly(&spot)?;
        }
    }
    if format.is_some() && conversation.has_tools() {
        conversation.notes.add(NOT_HELD);
    }
    conversation.format = format;
    Ok(())
}

fn by_type(at: &Spot<'_>) -> Result<Option<Format>> {
    let kind = at.node.need("type")?;
    match kind.text()? {
        "text" | "" => Ok(None),
        "json_object" | "json_schema" => {
            let around = at.get("json_schema")?;
            let around = around.as_ref().unwrap_or(at);
            match around.get("schema")? {
                Some(schema) => Format::schema(&schema).map(Some),
                None if kind.text() == Ok("json_object") => Ok(Some(Format::object())),
                None => Err(around
                    .need("schema")
                    .err()
                    .unwrap_or_else(|| kind.error("missing"))),
            }
        }
        other => {
            let expected = "expected text, json_object or json_schema";
            Err(kind.error(&format!("found '{other}', {expected}")))
        }
    }
}

/// A schema, the word json, or an object around a schema.
fn directly(at: &Spot<'_>) -> Result<Option<Format>> {
    match at.node.text() {
        Ok("") => Ok(None),
        Ok("json" | "json_object") => Ok(Some(Format::object())),
        Ok(_) => Format::schema(at).map(Some),
        Err(_) => {
            let inner = match at.get("json")? {
                None => at.get("schema")?,
                found => found,
            };
            Format::schema(inner.as_ref().unwrap_or(at)).map(Some)
        }
    }
}
