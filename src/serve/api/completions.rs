//! `POST /v1/completions`: text that goes on, without turns. Source: OpenAI's API reference, "Completions".

use super::fault::{Family, Outcome, error_body};
use super::notes::Notes;
use super::reply::{Answer, Called, Dialect, Event, Question};
use super::spot::Spot;
use super::{Api, ids, openai, params};
use crate::engine::tokenizer::{Special, Tokenizer};
use crate::error::Result;
use crate::http::Status;
use crate::json::Node;
use crate::json::object::{Json, list, object};
use crate::serve::ask::{Ask, Done, TokenLogprob};
use crate::units::TokenId;

/// The most alternatives to a token that can be asked for.
const MAX_TOP: u64 = 5;

/// Tokens of an answer when a request does not say, as in OpenAI's API.
const DEFAULT_TOKENS: usize = 16;

/// Prompts of a request at most.
const MAX_PROMPTS: usize = 128;

/// Tokens of a prompt at most that is told with its log-probabilities.
const MAX_ECHO: usize = 1 << 15;

/// Fields that are obeyed.
const KNOWN: &[&str] = &[
    "prompt",
    "max_tokens",
    "n_predict",
    "n",
    "best_of",
    "echo",
    "suffix",
    "logprobs",
    "temperature",
    "top_p",
    "min_p",
    "top_k",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "repeat_penalty",
    "repetition_penalty",
    "repeat_last_n",
    "logit_bias",
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
        dialect: Box::new(Completion {
            id: ids::id("cmpl-"),
            created: ids::now_s(),
            model: api.served.model.clone(),
            has_usage: openai::wants_usage(at)?,
            has_logprobs: logprobs.is_some(),
            index: 0,
            n_chars: 0,
        }),
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

/// How this API tells an answer.
struct Completion {
    id: String,
    created: u64,
    model: String,
    /// The stream ends with the figures.
    has_usage: bool,
    has_logprobs: bool,
    /// The number of the answer that is told.
    index: usize,
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
            ("system_fingerprint", openai::FINGERPRINT.into()),
            ("choices", choices),
        ])
    }

    fn choice(&self, text: &str, logprobs: Json, reason: Json) -> Json {
        object([
            ("index", self.index.into()),
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
            // The first token of a prompt follows nothing.
            own.push(match token.logprob.is_nan() {
                true => Json::NULL,
                false => openai::finite(token.logprob).into(),
            });
            // Parts of characters may look the same; the likeliest of them stays.
            let mut seen: Vec<(String, Json)> = Vec::new();
            for (bytes, logprob) in &token.top {
                let text = String::from_utf8_lossy(bytes);
                if seen.iter().all(|(other, _)| *other != text) {
                    seen.push((text.into_owned(), openai::finite(*logprob).into()));
                }
            }
            let seen = seen.iter().map(|(text, p)| (text.as_str(), p.clone()));
            top.push(match token.logprob.is_nan() {
                true => Json::NULL,
                false => object(seen),
            });
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

    fn whole(&mut self, answers: &[Answer], total: &Done) -> Json {
        let mut choices = Vec::new();
        for (index, answer) in answers.iter().enumerate() {
            (self.index, self.n_chars) = (index, 0);
            let logprobs = self.logprobs(&answer.logprobs);
            let finish = answer.done.as_ref();
            let finish = finish.map(|done| openai::finish_reason(&done.finish));
            let text = answer.reasoning.clone() + &answer.text;
            let choice = self.choice(&text, logprobs, finish.into());
            choices.push(choice.with_some("infall_warnings", answer.warnings()));
        }
        self.answer(list(choices))
            .with("usage", openai::usage(total))
    }

    fn failure(&mut self, why: &str) -> Json {
        error_body(Family::OpenAi, Status::InternalServerError, why, None)
    }

    fn begin(&mut self, _: &Ask, _: &mut Vec<Event>) {}

    fn waiting(&mut self, out: &mut Vec<Event>) {
        self.tell(self.choice("", Json::NULL, Json::NULL), out);
    }

    fn next_answer(&mut self, index: usize, _: &mut Vec<Event>) {
        (self.index, self.n_chars) = (index, 0);
    }

    /// This API has no place for reasoning that the model opens itself but the text.
    fn reasoning(&mut self, more: &str, out: &mut Vec<Event>) {
        self.text(more, &[], out);
    }

    fn text(&mut self, more: &str, logprobs: &[TokenLogprob], out: &mut Vec<Event>) {
        let logprobs = self.logprobs(logprobs);
        self.tell(self.choice(more, logprobs, Json::NULL), out);
    }

    /// There are none: no tools were given.
    fn call_begin(&mut self, _: &Called, _: &mut Vec<Event>) {}

    fn call_arguments(&mut self, _: &Called, _: &str, _: &mut Vec<Event>) {}

    fn call_end(&mut self, _: &Called, _: &mut Vec<Event>) {}

    fn end_answer(&mut self, answer: &Answer, done: &Done, out: &mut Vec<Event>) {
        let reason = openai::finish_reason(&done.finish).into();
        let choice = self.choice("", Json::NULL, reason);
        self.tell(choice.with_some("infall_warnings", answer.warnings()), out);
    }

    fn end(&mut self, total: &Done, out: &mut Vec<Event>) {
        if self.has_usage {
            let chunk = self.answer(list([])).with("usage", openai::usage(total));
            out.push(Event::new("", &chunk));
        }
        out.push(openai::end_of_stream());
    }

    fn failed(&mut self, why: &str, out: &mut Vec<Event>) {
        openai::failed(why, out);
    }
}
