//! `POST /api/chat` and `POST /api/generate`: what a request says. Source: Ollama's API reference (docs/api.md).

use super::conversation::{Conversation, Turn};
use super::fault::{Family, Outcome};
use super::history::images;
use super::notes::Notes;
use super::ollama_answer::{Kind, OllamaAnswer};
use super::reply::Question;
use super::spot::Spot;
use super::{Api, chat, format, params, tools};
use crate::engine::chat::Thinking;
use crate::engine::tokenizer::{Special, Tokenizer};
use crate::error::Result;
use crate::json::object::Json;
use crate::json::{Node, Value};
use crate::serve::ask::{Ask, Places};
use crate::units::TokenId;

/// Fields that are obeyed, besides those of [`COMMON`].
const KNOWN_IN_CHAT: &[&str] = &["messages", "tools"];

/// The same of `/api/generate`.
const KNOWN_IN_GENERATE: &[&str] = &["prompt", "suffix", "system", "images", "raw"];

/// Fields of both that are obeyed.
const COMMON: [&str; 6] = [
    "think",
    "format",
    "options",
    "stream",
    "logprobs",
    "top_logprobs",
];

/// Options that are obeyed, and those that say how a computer is used, not what is answered.
const OPTIONS: &[&str] = &[
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "seed",
    "num_predict",
    "stop",
    "repeat_penalty",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "numa",
    "low_vram",
    "f16_kv",
    "use_mmap",
    "use_mlock",
    "vocab_only",
];

/// What a request comes to.
pub enum Asked {
    /// Nothing is asked: clients load a model this way. The answer.
    Load(Json),
    /// A question.
    Question(Question),
}

/// Reads a request to `/api/chat`.
pub fn chat(api: &Api, request: &Spot<'_>) -> Outcome<Asked> {
    let at = &request.node;
    let answer = OllamaAnswer::new(&api.served.model, Kind::Chat, wants_logprobs(at)?);
    let mut conversation = Conversation::new(thinking(at, api.served.thinking)?);
    if let Some(messages) = request.get("messages")? {
        for message in messages.items()? {
            chat::push(&message, &mut conversation);
        }
    }
    if conversation.is_empty() {
        return Ok(Asked::Load(answer.loaded()));
    }
    tools::read(request, Family::Ollama, &mut conversation)?;
    question(api, request, conversation, KNOWN_IN_CHAT, None, answer)
}

/// Reads a request to `/api/generate`.
pub fn generate(api: &Api, request: &Spot<'_>) -> Outcome<Asked> {
    let at = &request.node;
    let answer = OllamaAnswer::new(&api.served.model, Kind::Generate, wants_logprobs(at)?);
    let text = |name: &str| -> Result<&str> {
        let node = at.get(name)?;
        Ok(node.map(|node| node.text()).transpose()?.unwrap_or(""))
    };
    let (prompt, system) = (text("prompt")?, text("system")?);
    if !text("suffix")?.is_empty() {
        let fault = "not supported: the model goes on at the end of a text only";
        return Err(at.need("suffix")?.error(fault).into());
    }
    let raw = params::flag(at, "raw")?;
    if raw && !system.is_empty() {
        let fault = "found with raw, which takes a whole prompt";
        return Err(at.need("system")?.error(fault).into());
    }
    if prompt.is_empty() {
        return Ok(Asked::Load(answer.loaded()));
    }
    let mut conversation = Conversation::new(thinking(at, api.served.thinking)?);
    if !system.is_empty() {
        conversation.push(Turn::System(system.to_owned()));
    }
    let images = images(at, &mut conversation.notes);
    conversation.push(Turn::User(prompt.to_owned() + &images));
    let tokens = raw.then(|| raw_tokens(prompt, &api.tokenizer));
    question(
        api,
        request,
        conversation,
        KNOWN_IN_GENERATE,
        tokens,
        answer,
    )
}

/// The question that a conversation puts; with `raw`, the tokens of a prompt without turns.
fn question(
    api: &Api,
    request: &Spot<'_>,
    mut conversation: Conversation,
    known: &[&str],
    raw: Option<Vec<TokenId>>,
    answer: OllamaAnswer,
) -> Outcome<Asked> {
    let at = &request.node;
    format::read(request, None, &mut conversation)?;
    let known: Vec<&str> = known.iter().copied().chain(COMMON).collect();
    params::name_unknown(at, &known, &mut conversation.notes)?;
    let options = options(api, at, &mut conversation.notes)?;
    let mut ask = Ask {
        logprobs: chat::logprobs(at)?,
        max_tokens: options.max_tokens,
        sampling: options.sampling,
        adjust: options.adjust,
        stops: options.stops,
        ..conversation.ask(&api.tokenizer)?
    };
    if let Some(tokens) = raw {
        (ask.tokens, ask.places, ask.reasoning) = (tokens, Places::default(), false);
    }
    Ok(Asked::Question(Question {
        asks: vec![ask],
        streams: at.get("stream")?.map_or(Ok(true), |flag| flag.flag())?,
        warnings: conversation.notes.into_list(),
        dialect: Box::new(answer),
    }))
}

/// How tokens are chosen and where the answer ends; the rest is empty.
fn options(api: &Api, at: &Node<'_>, notes: &mut Notes) -> Outcome<Ask> {
    let none = Value::Object(Vec::new());
    let at = at.get("options")?.unwrap_or_else(|| none.root());
    params::name_unknown(&at, OPTIONS, notes)?;
    let ctx = api.served.ctx;
    if let Some(n) = params::count(&at, &["num_ctx"])?.filter(|n| *n > ctx) {
        notes.add(format!(
            "options.num_ctx: found {n}, the context holds {ctx} tokens; --ctx sets it"
        ));
    }
    Ok(Ask {
        // 0 and negative ones stand for no bound.
        max_tokens: params::count(&at, &["num_predict"])?.filter(|n| *n > 0),
        sampling: params::sampling(&at, api.served.sampling)?,
        adjust: params::adjust(&at, &api.tokenizer)?,
        stops: params::stops(&at, "stop")?,
        ..Ask::default()
    })
}

/// Whether the model reasons: a flag, or how much.
fn thinking(at: &Node<'_>, default: Thinking) -> Result<Thinking> {
    let flag = at.get("think")?.map(|think| think.flag());
    Ok(match flag {
        Some(Ok(true)) => Thinking::On,
        Some(Ok(false)) => Thinking::Off,
        _ => params::effort(at, "think")?.unwrap_or(default),
    })
}

fn wants_logprobs(at: &Node<'_>) -> Result<bool> {
    Ok(chat::logprobs(at)?.is_some())
}

/// The tokens of a text in which special tokens may be spelled out.
fn raw_tokens(prompt: &str, tokenizer: &Tokenizer) -> Vec<TokenId> {
    let mut tokens: Vec<TokenId> = tokenizer.bos().into_iter().collect();
    tokens.extend(tokenizer.encode(prompt, Special::Parse));
    tokens
}
