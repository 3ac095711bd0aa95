//! `POST /v1/completions`: text that goes on, without turns. Source: OpenAI's API reference, "Completions".

use super::fault::{Fault, Outcome};
use super::reply::{Answer, Dialect, Event, Question};
use super::spot::Spot;
use super::{Api, ids, openai, params};
use crate::engine::chat::Call;
use crate::engine::tokenizer::{Special, Tokenizer};
use crate::error::Result;
use crate::json::Node;
use crate::json::object::{Json, list, object};
use crate::serve::ask::{Ask, Done, TokenLogprob};
use crate::units::TokenId;

/// The most alternatives to a token that can be asked for.
const MAX_TOP: u64 = 5;

/// Tokens of an answer when a request does not say, as in OpenAI's API.
const DEFAULT_TOKENS: usize = 16;

/// Reads a request.
pub fn question(api: &Api, request: &Spot<'_>) -> Outcome<Question> {
    let at = &request.node;
    for name in ["echo", "suffix"] {
        if let Some(node) = at.get(name)?
            && node.flag() != Ok(false)
            && node.text() != Ok("")
        {
            return Err(node
                .error("not supported, expected false or nothing")
                .into());
        }
    }
    let logprobs = at.get("logprobs")?;
    let logprobs = logprobs.map(|n| openai::n_top(&n, MAX_TOP)).transpose()?;
    let ask = Ask {
        tokens: prompt(&at.need("prompt")?, &api.tokenizer)?,
        reasoning: false,
        tools: false,
        max_tokens: params::count(at, &["max_tokens"])?.or(Some(DEFAULT_TOKENS)),
        sampling: params::sampling(at, api.served.sampling)?,
        adjust: params::adjust(at, &api.tokenizer)?,
        stops: params::stops(at, "stop")?,
        held: None,
        logprobs,
    };
    Ok(Question {
        ask,
        streams: params::flag(at, "stream")?,
        warnings: Vec::new(),
        dialect: Box::new(Completion {
            id: ids::id("cmpl-"),
            created: ids::now_s(),
            model: api.served.model.clone(),
            has_usage: openai::wants_usage(at)?,
            has_logprobs: logprobs.is_some(),
            n_chars: 0,
        }),
    })
}

/// A text, in which special tokens are spelled out, or its tokens by number; either may be the only item of a list.
fn prompt(at: &Node<'_>, tokenizer: &Tokenizer) -> Result<Vec<TokenId>> {
    if let Ok(text) = at.text() {
        let bos = tokenizer.bos().into_iter();
        return Ok(bos.chain(tokenizer.encode(text, Special::Parse)).collect());
    }
    let items = at.items().map_err(|_| at.wrong("string or array"))?;
    let items: Vec<Node<'_>> = items.collect();
    match items.as_slice() {
        [] => Err(at.error("found nothing, expected text or tokens")),
        [one] if one.count().is_err() => prompt(one, tokenizer),
        [first, ..] if first.count().is_err() => {
            Err(at.error("found several prompts, expected one: a request gets one answer"))
        }
        _ => params::tokens(at, tokenizer),
    }
}

/// How this API tells an answer.
struct Completion {
    id: String,
    created: u64,
    model: String,
    /// The stream ends with the figures.
    has_usage: bool,
    has_logprobs: bool,
    /// Characters of the tokens told so far, if log-probabilities were asked for.
    n_chars: usize,
}

impl Completion {
    fn answer(&self, choices: Json) -> Json {
        object([
            ("id", (&self.id).into()),
            ("object", "text_completion".into()),
            ("created", self.created.into()),
            ("model", (&self.model).into()),
            ("choices", choices),
        ])
    }

    fn choice(&self, text: &str, logprobs: Json, reason: Json) -> Json {
        object([
            ("index", 0_usize.into()),
            ("text", text.into()),
            ("logprobs", logprobs),
            ("finish_reason", reason),
        ])
    }

    fn tell(&self, choice: Json, out: &mut Vec<Event>) {
        let chunk = self.answer(list([choice]));
        let chunk = chunk.with_some("usage", self.has_usage.then_some(Json::NULL));
        out.push(Event::new("", &chunk));
    }

    /// Tokens, their places in the text, and how likely they were.
    fn logprobs(&mut self, tokens: &[TokenLogprob]) -> Json {
        if !self.has_logprobs {
            return Json::NULL;
        }
        let (mut texts, mut places, mut own, mut top) = (vec![], vec![], vec![], vec![]);
        for token in tokens {
            let text = String::from_utf8_lossy(&token.bytes);
            texts.push((&*text).into());
            places.push(self.n_chars.into());
            self.n_chars += text.chars().count();
            own.push(openai::finite(token.logprob).into());
            // Parts of characters may look the same; the likeliest of them stays.
            let mut seen: Vec<(String, Json)> = Vec::new();
            for (bytes, logprob) in &token.top {
                let text = String::from_utf8_lossy(bytes);
                if seen.iter().all(|(other, _)| *other != text) {
                    seen.push((text.into_owned(), openai::finite(*logprob).into()));
                }
            }
            let seen = seen.iter().map(|(text, p)| (text.as_str(), p.clone()));
            top.push(object(seen));
        }
        object([
            ("tokens", list(texts)),
            ("token_logprobs", list(own)),
            ("top_logprobs", list(top)),
            ("text_offset", list(places)),
        ])
    }
}

impl Dialect for Completion {
    fn call_prefix(&self) -> &'static str {
        "call_"
    }

    fn whole(&mut self, answer: &Answer, done: &Done) -> Json {
        self.n_chars = 0;
        let logprobs = self.logprobs(&answer.logprobs);
        let reason = openai::finish_reason(&done.finish).into();
        let choice = self.choice(&answer.text, logprobs, reason);
        let choice = choice.with_some("infall_warnings", answer.warnings());
        self.answer(list([choice]))
            .with("usage", openai::usage(done))
    }

    fn begin(&mut self, _: &mut Vec<Event>) {}

    /// There is none: the prompt does not open it.
    fn reasoning(&mut self, _: &str, _: &mut Vec<Event>) {}

    fn text(&mut self, more: &str, logprobs: &[TokenLogprob], out: &mut Vec<Event>) {
        let logprobs = self.logprobs(logprobs);
        self.tell(self.choice(more, logprobs, Json::NULL), out);
    }

    /// There are none: no tools were given.
    fn calls(&mut self, _: &[Call], _: &mut Vec<Event>) {}

    fn end(&mut self, answer: &Answer, done: &Done, out: &mut Vec<Event>) {
        let reason = openai::finish_reason(&done.finish).into();
        let choice = self.choice("", Json::NULL, reason);
        self.tell(choice.with_some("infall_warnings", answer.warnings()), out);
        if self.has_usage {
            let chunk = self.answer(list([])).with("usage", openai::usage(done));
            out.push(Event::new("", &chunk));
        }
        out.push(openai::end_of_stream());
    }

    fn failed(&mut self, fault: &Fault, out: &mut Vec<Event>) {
        openai::failed(fault, out);
    }
}
