//! The form of an answer: text, or JSON by a schema.

use super::conversation::Conversation;
use super::notes::Notes;
use super::params;
use super::spot::Spot;
use crate::engine::{Form, JsonRules, Schema};
use crate::error::{Error, Result};
use crate::json::source::{as_string, respaced};
use std::sync::Arc;

/// Where a request says the form directly, besides the place that its API has for it: llama.cpp's, vLLM's and Ollama's
/// fields.
const DIRECT: [&str; 4] = ["json_schema", "guided_json", "structured_outputs", "format"];

/// The form of an answer.
pub struct Format {
    /// What it is held to, if that can be done.
    pub form: Option<Form>,
    /// What it is asked to follow.
    pub schema: String,
}

impl Format {
    /// JSON by a schema, which is given as it stands in the request, or as JSON in a string. What of it cannot be held is
    /// an error if it `is_strict`, and noted otherwise.
    ///
    /// Errors: `Format` when it is no schema.
    fn schema(schema: &Spot<'_>, is_strict: bool, notes: &mut Notes) -> Result<Format> {
        let inner = schema.node.text().ok().and_then(|_| as_string(schema.text));
        let text = inner.as_deref().unwrap_or(schema.text);
        let wrong = |error: &Error| schema.node.error(&error.to_string());
        let form = match Schema::compile(text) {
            Ok((schema, warnings)) => {
                for warning in warnings {
                    notes.add(format!("schema: {warning}"));
                }
                Form::Schema(Arc::new(schema))
            }
            Err(error) if is_strict => return Err(wrong(&error)),
            Err(error) => {
                notes.add(format!("schema: told to the model, not held: {error}"));
                Form::Json(JsonRules::WRITTEN)
            }
        };
        Ok(Format {
            form: Some(form),
            schema: respaced(text).map_err(|e| wrong(&e))?,
        })
    }

    /// Any JSON object.
    fn object() -> Format {
        Format {
            form: Some(Form::Json(JsonRules::WRITTEN_OBJECT)),
            schema: "{\"type\": \"object\"}".into(),
        }
    }
}

/// Reads the form of an answer into a conversation. `typed` is the place that the API has for it: an object with a `type`,
/// and for `json_schema` a `schema`, which stands in a member of that name in `/v1/chat/completions`.
pub fn read(
    request: &Spot<'_>,
    typed: Option<Spot<'_>>,
    conversation: &mut Conversation,
) -> Result<()> {
    let notes = &mut conversation.notes;
    let mut format = match typed {
        Some(at) => by_type(&at, notes)?,
        None => None,
    };
    for name in DIRECT {
        if let (None, Some(spot)) = (&format, request.get(name)?) {
            format = directly(&spot, notes)?;
        }
    }
    conversation.format = format;
    Ok(())
}

fn by_type(at: &Spot<'_>, notes: &mut Notes) -> Result<Option<Format>> {
    let kind = at.node.need("type")?;
    match kind.text()? {
        "text" | "" => Ok(None),
        "json_object" | "json_schema" => {
            let around = at.get("json_schema")?;
            let around = around.as_ref().unwrap_or(at);
            let is_strict = params::flag(&around.node, "strict")?;
            match around.get("schema")? {
                Some(schema) => Format::schema(&schema, is_strict, notes).map(Some),
                None if kind.text() == Ok("json_object") => Ok(Some(Format::object())),
                None => around.need("schema").map(|_| None),
            }
        }
        other => {
            let expected = "expected text, json_object or json_schema";
            Err(kind.error(&format!("found '{other}', {expected}")))
        }
    }
}

/// A schema, the word json, or an object around a schema.
fn directly(at: &Spot<'_>, notes: &mut Notes) -> Result<Option<Format>> {
    match at.node.text() {
        Ok("") => Ok(None),
        Ok("json" | "json_object") => Ok(Some(Format::object())),
        Ok(_) => Format::schema(at, false, notes).map(Some),
        Err(_) => {
            let inner = match at.get("json")? {
                None => at.get("schema")?,
                found => found,
            };
            Format::schema(inner.as_ref().unwrap_or(at), false, notes).map(Some)
        }
    }
}
