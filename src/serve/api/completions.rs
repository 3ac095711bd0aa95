//! `POST /v1/completions`: what a request says; text that goes on, without turns. Source: OpenAI's API reference, "Completions".

use super::completion::Completion;
use super::fault::Outcome;
use super::notes::Notes;
use super::reply::Question;
use super::spot::Spot;
use super::{Api, openai, params};
use crate::engine::tokenizer::{Special, Tokenizer};
use crate::error::Result;
use crate::json::Node;
use crate::serve::ask::Ask;
use crate::units::TokenId;

/// The most alternatives to a token that can be asked for.
const MAX_TOP: u64 = 5;

/// Tokens of an answer when a request does not say, as in OpenAI's API.
const DEFAULT_TOKENS: usize = 16;

/// Prompts of a request at most.
const MAX_PROMPTS: usize = 128;

/// Tokens of a prompt at most that is told with its log-probabilities.
const MAX_ECHO: usize = 1 << 15;

/// Fields that are obeyed, besides [`params::SAMPLERS`].
const KNOWN: &[&str] = &[
    "prompt",
    "max_tokens",
    "n_predict",
    "n",
    "best_of",
    "echo",
    "suffix",
    "logprobs",
    "stop",
    "stream",
];

/// Reads a request.
pub fn question(api: &Api, request: &Spot<'_>) -> Outcome<Question> {
    let at = &request.node;
    if let Some(node) = at.get("suffix")?
        && node.text() != Ok("")
    {
        let fault = "not supported: the model goes on at the end of a text only";
        return Err(node.error(fault).into());
    }
    let n = params::n_answers(at)?;
    if let Some(best_of) = params::count(at, &["best_of"])?.filter(|best_of| *best_of > n) {
        let fault = format!("found {best_of}, expected no more than n, which is {n}");
        return Err(at.need("best_of")?.error(&fault).into());
    }
    let logprobs = logprobs(at)?;
    let first = Ask {
        max_tokens: params::count(at, &["max_tokens", "n_predict"])?.or(Some(DEFAULT_TOKENS)),
        sampling: params::sampling(at, api.served.sampling)?,
        adjust: params::adjust(at, &api.tokenizer)?,
        stops: params::stops(at, "stop")?,
        logprobs,
        ..Ask::default()
    };
    let mut notes = Notes::default();
    params::name_unknown(at, KNOWN, &mut notes)?;
    let (place, echoes) = (at.need("prompt")?, params::flag(at, "echo")?);
    let mut asks = Vec::new();
    for Prompt { tokens, n_own } in prompts(&place, &api.tokenizer)? {
        if echoes && logprobs.is_some() && tokens.len() > MAX_ECHO {
            let fault = format!(
                "found {} tokens, expected at most {MAX_ECHO} with echo and logprobs",
                tokens.len()
            );
            return Err(place.error(&fault).into());
        }
        let ask = Ask {
            tokens,
            echo: echoes.then_some(n_own),
            ..first.clone()
        };
        asks.extend(ask.repeated(n));
    }
    Ok(Question {
        asks,
        streams: params::flag(at, "stream")?,
        warnings: notes.into_list(),
        dialect: Box::new(Completion::new(
            &api.served.model,
            openai::wants_usage(at)?,
            logprobs.is_some(),
        )),
    })
}

/// How many likely tokens are wanted with each: a number, or true, as newer clients say.
fn logprobs(at: &Node<'_>) -> Result<Option<usize>> {
    let Some(node) = at.get("logprobs")? else {
        return Ok(None);
    };
    match node.flag() {
        Ok(flag) => Ok(flag.then_some(0)),
        Err(_) => openai::n_top(&node, MAX_TOP).map(Some),
    }
}

/// A prompt in tokens.
struct Prompt {
    tokens: Vec<TokenId>,
    /// Tokens at its front that the client did not give.
    n_own: usize,
}

/// Texts, in which special tokens are spelled out, or their tokens by number; one of either, or a list.
fn prompts(at: &Node<'_>, tokenizer: &Tokenizer) -> Result<Vec<Prompt>> {
    if let Ok(text) = at.text() {
        let bos = tokenizer.bos();
        let encoded = tokenizer.encode(text, Special::Parse);
        return Ok(vec![Prompt {
            tokens: bos.into_iter().chain(encoded).collect(),
            n_own: bos.iter().len(),
        }]);
    }
    let items = at.items().map_err(|_| at.wrong("string or array"))?;
    let items: Vec<Node<'_>> = items.collect();
    match items.as_slice() {
        [] => Err(at.error("found nothing, expected text or tokens")),
        [first, ..] if first.number().is_ok() => {
            let tokens = params::tokens(at, tokenizer)?;
            Ok(vec![Prompt { tokens, n_own: 0 }])
        }
        items if items.len() > MAX_PROMPTS => {
            let fault = format!(
                "found {} prompts, expected at most {MAX_PROMPTS}",
                items.len()
            );
            Err(at.error(&fault))
        }
        items => {
            let all = items.iter().map(|item| prompt(item, tokenizer));
            all.collect()
        }
    }
}

/// A text or its tokens.
fn prompt(at: &Node<'_>, tokenizer: &Tokenizer) -> Result<Prompt> {
    let mut all = prompts(at, tokenizer)?;
    match all.pop() {
        Some(prompt) if all.is_empty() => Ok(prompt),
        _ => Err(at.error("found several prompts, expected one")),
    }
}
