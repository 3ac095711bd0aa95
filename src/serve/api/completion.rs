//! How `/v1/completions` tells an answer. Source: OpenAI's API reference, "Completions".

use super::fault::{Family, Fault};
use super::reply::{Answer, Called, Dialect, Event};
use super::{ids, openai};
use crate::json::object::{Json, list, object};
use crate::serve::ask::{Ask, Done, TokenLogprob};

/// An answer that is told.
pub struct Completion {
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
    /// An answer of which nothing is told. With `has_usage` the stream ends with the figures; with `has_logprobs` tokens come
    /// with their log-probabilities.
    pub fn new(model: &str, has_usage: bool, has_logprobs: bool) -> Completion {
        Completion {
            id: ids::id("cmpl-"),
            created: ids::now_s(),
            model: model.to_owned(),
            has_usage,
            has_logprobs,
            index: 0,
            n_chars: 0,
        }
    }

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

    fn failure(&mut self, fault: &Fault) -> Json {
        fault.body(Family::OpenAi)
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

    fn failed(&mut self, fault: &Fault, out: &mut Vec<Event>) {
        openai::failed(fault, out);
    }
}
