//! Tokens of a text and text of tokens, and the prompt of a conversation: `/tokenize`, `/detokenize` and
//! `/apply-template`, in the forms of llama.cpp and vLLM.

use super::chat::push;
use super::conversation::Conversation;
use super::fault::Outcome;
use super::history::{member, string};
use super::spot::Spot;
use super::{Api, params};
use crate::engine::tokenizer::Special;
use crate::json::object::{Json, list, object};
use crate::units::TokenId;

/// The tokens of `content` or `prompt`, or of the prompt that `messages` make.
pub fn tokenize(api: &Api, request: &Spot<'_>) -> Outcome<Json> {
    let at = &request.node;
    let text = ["content", "prompt", "text", "input"]
        .iter()
        .find_map(|name| string(at, name));
    let tokens = match text {
        None => template(api, request)?,
        Some(text) => {
            let special =
                match member(at, "parse_special").is_none_or(|flag| flag.flag() != Ok(false)) {
                    true => Special::Parse,
                    false => Special::Plain,
                };
            let mut tokens = Vec::new();
            if params::flag(at, "add_special")? || params::flag(at, "add_special_tokens")? {
                tokens.extend(api.tokenizer.bos());
            }
            tokens.extend(api.tokenizer.encode(text, special));
            tokens
        }
    };
    let pieces = params::flag(at, "with_pieces")?;
    let item = |token: &TokenId| {
        let id = Json::from(token.0 as usize);
        match pieces {
            false => id,
            true => {
                let bytes = api.tokenizer.token_bytes(*token);
                object([
                    ("id", id),
                    ("piece", (&*String::from_utf8_lossy(bytes)).into()),
                ])
            }
        }
    };
    Ok(object([
        ("tokens", list(tokens.iter().map(item))),
        ("count", tokens.len().into()),
        ("max_model_len", api.served.ctx.into()),
    ]))
}

/// The text of `tokens`.
pub fn detokenize(api: &Api, request: &Spot<'_>) -> Outcome<Json> {
    let tokens = params::tokens(&request.node.need("tokens")?, &api.tokenizer)?;
    let text = api.tokenizer.decode(&tokens);
    let text = String::from_utf8_lossy(&text);
    // The first name is llama.cpp's, the other vLLM's.
    Ok(object([
        ("content", (&*text).into()),
        ("prompt", (&*text).into()),
    ]))
}

/// The prompt of a conversation.
pub fn apply_template(api: &Api, request: &Spot<'_>) -> Outcome<Json> {
    let text = api.tokenizer.decode(&template(api, request)?);
    Ok(object([(
        "prompt",
        (&*String::from_utf8_lossy(&text)).into(),
    )]))
}

fn template(api: &Api, request: &Spot<'_>) -> Outcome<Vec<TokenId>> {
    let mut conversation = Conversation::new(api.served.thinking);
    for message in request.need("messages")?.items()? {
        push(&message, &mut conversation);
    }
    Ok(conversation.tokens(&api.tokenizer)?)
}
