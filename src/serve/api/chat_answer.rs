//! How `/v1/chat/completions` tells an answer. Source: OpenAI's API reference, "Chat Completions"; `reasoning_content` as
//! DeepSeek's API has it.

use super::fault::{Family, Fault};
use super::reply::{Answer, Called, Dialect, Event};
use super::{ids, openai};
use crate::json::object::{Json, list, object};
use crate::serve::ask::{Ask, Done, Finish, TokenLogprob};

/// How this API tells an answer.
pub struct ChatAnswer {
    id: String,
    created: u64,
    model: String,
    has_usage: bool,
    has_logprobs: bool,
    /// The request has `functions`, so that a call is a `function_call`.
    has_functions: bool,
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
            has_functions: false,
            index: 0,
            n_calls: 0,
        }
    }

    /// Whether a call is told in the older form, of which an answer has one at most.
    pub fn with_functions(self, has_functions: bool) -> ChatAnswer {
        ChatAnswer {
            has_functions,
            ..self
        }
    }

    fn finish_reason(&self, done: &Done) -> Json {
        match (&done.finish, self.has_functions) {
            (Finish::Calls, true) => "function_call".into(),
            (finish, _) => openai::finish_reason(finish).into(),
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

    /// Tells more of the function's call.
    fn tell_function(&self, function: Json, out: &mut Vec<Event>) {
        self.tell(object([("function_call", function)]), Json::NULL, out);
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

fn function_json(call: &Called, arguments: &str) -> Json {
    object([
        ("name", (&call.name).into()),
        ("arguments", arguments.into()),
    ])
}

fn call_json(call: &Called, arguments: &str) -> Json {
    object([
        ("id", (&call.id).into()),
        ("type", "function".into()),
        ("function", function_json(call, arguments)),
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
            let calls = answer.calls.iter();
            let (calls, function) = match answer.calls.first() {
                None => (None, None),
                Some(call) if self.has_functions => {
                    (None, Some(function_json(call, &call.arguments)))
                }
                Some(_) => (Some(list(calls.map(|c| call_json(c, &c.arguments)))), None),
            };
            let message = object([
                ("role", "assistant".into()),
                ("content", has_text.then_some(&answer.text).into()),
                ("refusal", Json::NULL),
            ]);
            let message = message
                .with_some("reasoning_content", reasoning)
                .with_some("tool_calls", calls)
                .with_some("function_call", function);
            let finish = answer.done.as_ref().map(|done| self.finish_reason(done));
            object([
                ("index", index.into()),
                ("message", message),
                ("logprobs", self.logprobs(&answer.logprobs)),
                ("finish_reason", finish.into()),
            ])
            .with_some("infall_warnings", answer.warnings())
        });
        self.head("chat.completion")
            .with("choices", list(choices))
            .with("usage", openai::usage(total))
    }

    fn failure(&mut self, fault: &Fault) -> Json {
        fault.body(Family::OpenAi)
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
        match self.has_functions {
            true => self.tell_function(function_json(call, ""), out),
            false => self.tell_call(call_json(call, ""), out),
        }
    }

    fn call_arguments(&mut self, _: &Called, more: &str, out: &mut Vec<Event>) {
        let function = object([("arguments", more.into())]);
        match self.has_functions {
            true => self.tell_function(function, out),
            false => self.tell_call(object([("function", function)]), out),
        }
    }

    fn call_end(&mut self, _: &Called, _: &mut Vec<Event>) {}

    fn end_answer(&mut self, answer: &Answer, done: &Done, out: &mut Vec<Event>) {
        let choice = object([
            ("index", self.index.into()),
            ("delta", object([])),
            ("logprobs", Json::NULL),
            ("finish_reason", self.finish_reason(done)),
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

    fn failed(&mut self, fault: &Fault, out: &mut Vec<Event>) {
        openai::failed(fault, out);
    }
}
