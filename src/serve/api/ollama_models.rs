//! `/api/tags`, `/api/ps`, `/api/show` and `/api/version`: the loaded model as Ollama's clients ask for it. Source:
//! Ollama's API reference (docs/api.md).

use super::conversation::{Conversation, Turn};
use super::{Api, Served};
use crate::engine::chat::Thinking;
use crate::engine::tokenizer::Tokenizer;
use crate::error::Result;
use crate::http::rfc3339;
use crate::json::object::{Json, list, object};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime};

/// Clients compare this with the version of Ollama that they need. It is the one whose API is answered here.
const API_VERSION: &str = "0.13.0";

/// The architecture of all models that are run here, as a model file calls it.
const FAMILY: &str = "deepseek4";

/// When the model leaves memory: never, in the year that Ollama's clients know for it.
const NEVER: &str = "2318-01-01T00:00:00Z";

/// The name with a tag, without which some clients do not find a model again.
pub fn tagged(name: &str) -> String {
    match name.contains(':') {
        true => name.to_owned(),
        false => format!("{name}:latest"),
    }
}

/// `/api/version`
pub fn version() -> Json {
    object([
        ("version", API_VERSION.into()),
        ("infall", env!("CARGO_PKG_VERSION").into()),
    ])
}

/// `/api/tags`: the one model.
pub fn tags(served: &Served, since: u64) -> Json {
    let model = named(served).with("modified_at", &time(since));
    object([("models", list([model]))])
}

/// `/api/ps`: it is in memory.
pub fn running(served: &Served) -> Json {
    let model = named(served)
        .with("expires_at", NEVER)
        .with("size_vram", 0_u64)
        .with("context_length", served.ctx);
    object([("models", list([model]))])
}

/// `/api/show`
pub fn show(api: &Api) -> Result<Json> {
    let (served, s) = (&api.served, &api.served.sampling);
    let ctx = served.ctx;
    let parameters = format!(
        "num_ctx {ctx}\ntemperature {}\ntop_k {}\ntop_p {}\nmin_p {}",
        s.temperature, s.top_k, s.top_p, s.min_p
    );
    let info = object([
        ("general.architecture", FAMILY.into()),
        ("general.basename", (&served.model).into()),
        (&format!("{FAMILY}.context_length"), ctx.into()),
    ]);
    let capabilities = ["completion", "tools", "thinking"];
    Ok(object([
        ("license", "".into()),
        ("modelfile", "".into()),
        ("parameters", (&parameters).into()),
        ("template", (&template(&api.tokenizer)?).into()),
        ("details", details()),
        ("model_info", info),
        ("capabilities", list(capabilities.map(Json::from))),
        ("modified_at", (&time(api.since)).into()),
    ]))
}

fn named(served: &Served) -> Json {
    let name = tagged(&served.model);
    object([
        ("name", (&name).into()),
        ("model", (&name).into()),
        ("size", served.bytes.into()),
        ("digest", (&digest(served)).into()),
        ("details", details()),
    ])
}

fn details() -> Json {
    object([
        ("parent_model", "".into()),
        ("format", "gguf".into()),
        ("family", FAMILY.into()),
        ("families", list([FAMILY.into()])),
        ("parameter_size", "unknown".into()),
        ("quantization_level", "unknown".into()),
    ])
}

/// 64 hexadecimal digits by which clients tell models apart: the same for the same name and size.
fn digest(served: &Served) -> String {
    let part = |i: u64| {
        let mut hasher = DefaultHasher::new();
        (i, &served.model, served.bytes).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    };
    (0..4).map(part).collect()
}

/// Where a system text and a prompt stand among the marks of turns, in the terms of Ollama's templates.
fn template(tokenizer: &Tokenizer) -> Result<String> {
    let mut conversation = Conversation::new(Thinking::Off);
    conversation.push(Turn::System("{{ .System }}".into()));
    conversation.push(Turn::User("{{ .Prompt }}".into()));
    let text = tokenizer.decode(&conversation.tokens(tokenizer)?);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn time(seconds: u64) -> String {
    rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_tag() {
        assert_eq!(tagged("tiny"), "tiny:latest");
        assert_eq!(tagged("tiny:q4"), "tiny:q4");
    }
}
