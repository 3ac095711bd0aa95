//! The form of an answer: text, or JSON by a schema.

use super::conversation::Conversation;
use super::spot::Spot;
use crate::engine::JsonRules;
use crate::error::Result;
use crate::json::Node;
use crate::json::source::respaced;

/// A warning when the model is asked for both calls and JSON.
const NOT_HELD: &str =
    "the answer may call tools, so that it is asked to be JSON, but not held to it";

/// The form of an answer.
pub struct Format {
    /// What it is held to.
    pub rules: JsonRules,
    /// What it is asked to follow.
    pub schema: String,
}

impl Format {
    /// JSON by a schema, which is given as it stands in the request.
    ///
    /// Errors: `Format` when it is no object.
    fn schema(at: &Node<'_>, schema: &str) -> Result<Format> {
        let kind = at.get("type")?.and_then(|kind| kind.text().ok());
        Ok(Format {
            rules: match kind {
                Some("object") => JsonRules::WRITTEN_OBJECT,
                _ => JsonRules::WRITTEN,
            },
            schema: respaced(schema)?,
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

/// Reads the form of an answer into a conversation that has its tools: `type`, and for `json_schema` a `schema`, which
/// stands in a member of that name in `/v1/chat/completions`. Gives a warning when the answer is not held to it.
pub fn read(at: Option<Spot<'_>>, conversation: &mut Conversation) -> Result<Option<String>> {
    let Some(at) = at else { return Ok(None) };
    let kind = at.node.need("type")?;
    conversation.format = match kind.text()? {
        "text" => None,
        "json_object" => Some(Format::object()),
        "json_schema" => {
            let around = at.get("json_schema")?.unwrap_or(at);
            let schema = around.need("schema")?;
            Some(Format::schema(&schema.node, schema.text)?)
        }
        other => {
            let expected = "expected text, json_object or json_schema";
            return Err(kind.error(&format!("found '{other}', {expected}")));
        }
    };
    let is_free = conversation.format.is_some() && conversation.has_tools();
    Ok(is_free.then(|| NOT_HELD.to_owned()))
}
