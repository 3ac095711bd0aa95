//! How `/v1/chat/completions` tells an answer. Source: OpenAI's API reference, "Chat Completions"; `reasoning_content` as
//! DeepSeek's API has it.

use super::fault::Fault;
use super::reply::{Answer, Dialect, Event};
use super::{ids, openai};
use crate::engine::chat::Call;
use crate::json::object::{Json, list, object};
use crate::serve::ask::{Done, TokenLogprob};

/// How this API tells an answer.
pub struct ChatAnswer {
    id: String,
    created: u64,
    model: String,
    has_usage: bool,
    has_logprobs: bool,
    /// Calls told so far.
    n_calls: usize,
}

impl ChatAnswer {
    /// An answer of which nothing is told. With `has_usage` the stream ends with the figures; with `has_logprobs` tokens
    /// come with their log-probabilities.
    pub fn new(model: &str, has_usage: bool, has_logprobs: bool) -> ChatAnswer {
        ChatAnswer {
            id: ids::id("chatcmpl-"),
            created: ids::now_s(),
            model: model.to_owned(),
            has_usage,
            has_logprobs,
            n_calls: 0,
        }
    }

    fn head(&self, kind: &str) -> Json {
        object([
            ("id", (&self.id).into()),
            ("object", kind.into()),
            ("created", self.created.into()),
            ("model", (&self.model).into()),
        ])
    }

    fn chunk(&self, choices: Json) -> Json {
        let chunk = self.head("chat.completion.chunk").with("choices", choices);
        chunk.with_some("usage", self.has_usage.then_some(Json::NULL))
    }

    fn delta(&self, delta: Json) -> Json {
        object([
            ("index", 0_usize.into()),
            ("delta", delta),
            ("finish_reason", Json::NULL),
        ])
    }

    fn tell(&self, choice: Json, out: &mut Vec<Event>) {
        out.push(Event::new("", &self.chunk(list([choice]))));
    }

    fn logprobs(&self, tokens: &[TokenLogprob]) -> Json {
        if self.has_logprobs {
            object([
                ("content", openai::logprobs(tokens)),
                ("refusal", Json::NULL),
            ])
        } else {
            Json::NULL
        }
    }
}

fn calls_json(calls: &[Call]) -> impl Iterator<Item = Json> {
    calls.iter().map(|call| {
        let function = object([
            ("name", (&call.name).into()),
            ("arguments", (&call.arguments_json()).into()),
        ]);
        object([
            ("id", (&call.id).into()),
            ("type", "function".into()),
            ("function", function),
        ])
    })
}

impl Dialect for ChatAnswer {
    fn call_prefix(&self) -> &'static str {
        "call_"
    }

    fn whole(&mut self, answer: &Answer, done: &Done) -> Json {
        // As in OpenAI's answers, calls alone have no text.
        let has_text = !answer.text.is_empty() || answer.calls.is_empty();
        let reasoning = (!answer.reasoning.is_empty()).then_some(&answer.reasoning);
        let calls = (!answer.calls.is_empty()).then(|| list(calls_json(&answer.calls)));
        let message = object([
            ("role", "assistant".into()),
            ("content", has_text.then_some(&answer.text).into()),
            ("refusal", Json::NULL),
        ]);
        let choice = object([
            ("index", 0_usize.into()),
            (
                "message",
                message
                    .with_some("reasoning_content", reasoning)
                    .with_some("tool_calls", calls),
            ),
            ("logprobs", self.logprobs(&answer.logprobs)),
            ("finish_reason", openai::finish_reason(&done.finish).into()),
        ]);
        let choice = choice.with_some("infall_warnings", answer.warnings());
        self.head("chat.completion")
            .with("choices", list([choice]))
            .with("usage", openai::usage(done))
    }

    fn begin(&mut self, out: &mut Vec<Event>) {
        let delta = object([("role", "assistant".into()), ("content", "".into())]);
        self.tell(self.delta(delta), out);
    }

    fn reasoning(&mut self, more: &str, out: &mut Vec<Event>) {
        let delta = object([("reasoning_content", more.into())]);
        self.tell(self.delta(delta), out);
    }

    fn text(&mut self, more: &str, logprobs: &[TokenLogprob], out: &mut Vec<Event>) {
        let choice = self.delta(object([("content", more.into())]));
        let logprobs = self.has_logprobs.then(|| self.logprobs(logprobs));
        self.tell(choice.with_some("logprobs", logprobs), out);
    }

    fn calls(&mut self, calls: &[Call], out: &mut Vec<Event>) {
        let first = self.n_calls;
        self.n_calls += calls.len();
        let calls = calls_json(calls).enumerate();
        let calls = calls.map(|(i, call)| call.with("index", first + i));
        let delta = object([("tool_calls", list(calls))]);
        self.tell(self.delta(delta), out);
    }

    fn end(&mut self, answer: &Answer, done: &Done, out: &mut Vec<Event>) {
        let choice = object([
            ("index", 0_usize.into()),
            ("delta", object([])),
            ("finish_reason", openai::finish_reason(&done.finish).into()),
        ]);
        self.tell(choice.with_some("infall_warnings", answer.warnings()), out);
        if self.has_usage {
            let chunk = self.head("chat.completion.chunk").with("choices", list([]));
            out.push(Event::new("", &chunk.with("usage", openai::usage(done))));
        }
        out.push(openai::end_of_stream());
    }

    fn failed(&mut self, fault: &Fault, out: &mut Vec<Event>) {
        openai::failed(fault, out);
    }
}
