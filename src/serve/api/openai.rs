//! What the answers of OpenAI's APIs share: figures, log-probabilities, the end of a stream.

use super::fault::{Family, Fault};
use super::params::flag;
use super::reply::Event;
use crate::error::Result;
use crate::json::Node;
use crate::json::object::{Json, list, object};
use crate::serve::ask::{Done, Finish, TokenLogprob};

/// What answers with a seed depend on besides the request.
pub const FINGERPRINT: &str = concat!("infall_", env!("CARGO_PKG_VERSION"));

/// The most alternatives to a token of an answer in turns that can be asked for.
pub const MAX_TOP: u64 = 20;

/// What stands for a log-probability of minus infinity, which JSON cannot say.
const IMPOSSIBLE: f64 = -9999.0;

/// The number of likeliest tokens asked for, at most `most`.
pub fn n_top(at: &Node<'_>, most: u64) -> Result<usize> {
    match at.count()? {
        n if n <= most => Ok(n as usize),
        n => Err(at.error(&format!("found {n}, expected at most {most}"))),
    }
}

/// Whether a stream ends with the figures.
pub fn wants_usage(at: &Node<'_>) -> Result<bool> {
    let options = at.get("stream_options")?;
    options.map_or(Ok(false), |options| flag(&options, "include_usage"))
}

/// Why an answer ended.
pub fn finish_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::EndOfTurn | Finish::StopString(_) => "stop",
        Finish::Length | Finish::ContextFull => "length",
        Finish::Calls => "tool_calls",
    }
}

/// The figures of an answer, as `/v1/chat/completions` and `/v1/completions` name them.
pub fn usage(done: &Done) -> Json {
    let cached = object([("cached_tokens", done.n_cached.into())]);
    let reasoning = object([("reasoning_tokens", done.n_reasoning.into())]);
    object([
        ("prompt_tokens", done.n_prompt.into()),
        ("completion_tokens", done.n_answer.into()),
        ("total_tokens", (done.n_prompt + done.n_answer).into()),
        ("prompt_tokens_details", cached),
        ("completion_tokens_details", reasoning),
    ])
}

/// Tokens with their log-probabilities, as `/v1/chat/completions` and `/v1/responses` tell them.
pub fn logprobs(tokens: &[TokenLogprob]) -> Json {
    let one = |bytes: &[u8], logprob: f64| {
        let text = String::from_utf8_lossy(bytes);
        let bytes = bytes.iter().map(|byte| usize::from(*byte).into());
        object([
            ("token", (&*text).into()),
            ("logprob", finite(logprob).into()),
            ("bytes", list(bytes)),
        ])
    };
    list(tokens.iter().map(|token| {
        let top = token.top.iter();
        let top = top.map(|(bytes, logprob)| one(bytes, *logprob));
        one(&token.bytes, token.logprob).with("top_logprobs", list(top))
    }))
}

/// What a stream ends with.
pub fn end_of_stream() -> Event {
    Event {
        name: "",
        data: "[DONE]".into(),
    }
}

/// The end of a stream that failed.
pub fn failed(fault: &Fault, out: &mut Vec<Event>) {
    out.push(Event::new("", &fault.body(Family::OpenAi)));
}

/// A log-probability as JSON can say it.
pub fn finite(logprob: f64) -> f64 {
    logprob.max(IMPOSSIBLE)
}
