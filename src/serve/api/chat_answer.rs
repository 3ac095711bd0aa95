//! How `/v1/chat/completions` tells an answer. Source: OpenAI's API reference, "Chat Completions"; `reasoning_content` as
//! DeepSeek's API has it.

use super::fault::{Family, error_body};
use super::reply::{Answer, Called, Dialect, Event};
use super::{ids, openai};
use crate::http::Status;
use crate::json::object::{Json, list, object};
use crate::serve::ask::{Ask, Done, TokenLogprob};

/// How this API tells an answer.
pub struct ChatAnswer {
    id: String,
    created: u64,
    model: String,
    has_usage: bool,
    has_logprobs: bool,
    /// The number of the answer that is told.
    index: usize,
    /// Calls of it told so far.
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
            index: 0,
            n_calls: 0,
        }
    }

    fn head(&self, kind: &str) -> Json {
        object([
            ("id", (&self.id).into()),
            ("object", kind.into()),
            ("created", self.created.into()),
            ("model", (&self.model).into()),
            ("system_fingerprint", openai::FINGERPRINT.into()),
        ])
    }

    fn chunk(&self, choices: Json) -> Json {
        let chunk = self.head("chat.completion.chunk").with("choices", choices);
        chunk.with_some("usage", self.has_usage.then_some(Json::NULL))
    }

    /// Tells more of the answer.
    fn tell(&self, delta: Json, logprobs: Json, out: &mut Vec<Event>) {
        let choice = object([
            ("index", self.index.into()),
            ("delta", delta),
            ("logprobs", logprobs),
            ("finish_reason", Json::NULL),
        ]);
        out.push(Event::new("", &self.chunk(list([choice]))));
    }

    /// Tells more of the last call.
    fn tell_call(&self, call: Json, out: &mut Vec<Event>) {
        let call = call.with("index", self.n_calls.saturating_sub(1));
        let delta = object([("tool_calls", list([call]))]);
        self.tell(delta, Json::NULL, out);
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

fn call_json(call: &Called, arguments: &str) -> Json {
    let function = object([
        ("name", (&call.name).into()),
        ("arguments", arguments.into()),
    ]);
    object([
        ("id", (&call.id).into()),
        ("type", "function".into()),
        ("function", function),
    ])
}

impl Dialect for ChatAnswer {
    fn call_prefix(&self) -> &'static str {
        "call_"
    }

    fn whole(&mut self, answers: &[Answer], total: &Done) -> Json {
        let choices = answers.iter().enumerate().map(|(index, answer)| {
            // As in OpenAI's answers, calls alone have no text.
            let has_text = !answer.text.is_empty() || answer.calls.is_empty();
            let reasoning = (!answer.reasoning.is_empty()).then_some(&answer.reasoning);
            let calls = answer.calls.iter().map(|c| call_json(c, &c.arguments));
            let calls = (!answer.calls.is_empty()).then(|| list(calls));
            let message = object([
                ("role", "assistant".into()),
                ("content", has_text.then_some(&answer.text).into()),
                ("refusal", Json::NULL),
            ]);
            let message = message.with_some("reasoning_content", reasoning);
            let finish = answer.done.as_ref();
            let finish = finish.map(|done| openai::finish_reason(&done.finish));
            object([
                ("index", index.into()),
                ("message", message.with_some("tool_calls", calls)),
                ("logprobs", self.logprobs(&answer.logprobs)),
                ("finish_reason", finish.into()),
            ])
            .with_some("infall_warnings", answer.warnings())
        });
        self.head("chat.completion")
            .with("choices", list(choices))
            .with("usage", openai::usage(total))
    }

    fn failure(&mut self, why: &str) -> Json {
        error_body(Family::OpenAi, Status::InternalServerError, why, None)
    }

    fn begin(&mut self, _: &Ask, _: &mut Vec<Event>) {}

    fn waiting(&mut self, out: &mut Vec<Event>) {
        self.tell(object([]), Json::NULL, out);
    }

    fn next_answer(&mut self, index: usize, out: &mut Vec<Event>) {
        (self.index, self.n_calls) = (index, 0);
        let delta = object([("role", "assistant".into()), ("content", "".into())]);
        self.tell(delta, Json::NULL, out);
    }

    fn reasoning(&mut self, more: &str, out: &mut Vec<Event>) {
        let delta = object([("reasoning_content", more.into())]);
        self.tell(delta, Json::NULL, out);
    }

    fn text(&mut self, more: &str, logprobs: &[TokenLogprob], out: &mut Vec<Event>) {
        let delta = object([("content", more.into())]);
        self.tell(delta, self.logprobs(logprobs), out);
    }

    fn call_begin(&mut self, call: &Called, out: &mut Vec<Event>) {
        self.n_calls += 1;
        self.tell_call(call_json(call, ""), out);
    }

    fn call_arguments(&mut self, _: &Called, more: &str, out: &mut Vec<Event>) {
        let function = object([("arguments", more.into())]);
        self.tell_call(object([("function", function)]), out);
    }

    fn call_end(&mut self, _: &Called, _: &mut Vec<Event>) {}

    fn end_answer(&mut self, answer: &Answer, done: &Done, out: &mut Vec<Event>) {
        let choice = object([
            ("index", self.index.into()),
            ("delta", object([])),
            ("logprobs", Json::NULL),
            ("finish_reason", openai::finish_reason(&done.finish).into()),
        ]);
        let choice = choice.with_some("infall_warnings", answer.warnings());
        out.push(Event::new("", &self.chunk(list([choice]))));
    }

    fn end(&mut self, total: &Done, out: &mut Vec<Event>) {
        if self.has_usage {
            let chunk = self.head("chat.completion.chunk").with("choices", list([]));
            out.push(Event::new("", &chunk.with("usage", openai::usage(total))));
        }
        out.push(openai::end_of_stream());
    }

    fn failed(&mut self, why: &str, out: &mut Vec<Event>) {
        openai::failed(why, out);
    }
}
