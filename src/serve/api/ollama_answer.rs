//! How `/api/chat` and `/api/generate` tell an answer: lines of JSON, the last of which has the figures. Source: Ollama's
//! API reference (docs/api.md).

use super::fault::{Family, Fault};
use super::ollama_models::tagged;
use super::openai;
use super::reply::{Answer, Called, Dialect, Event};
use crate::http::{Framing, rfc3339};
use crate::json::object::{Json, list, object};
use crate::json::source::respaced;
use crate::serve::ask::{Ask, Done, Finish, TokenLogprob};
use std::time::{Instant, SystemTime};

/// Where an answer has its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In a message.
    Chat,
    /// In `response`.
    Generate,
}

/// How these APIs tell an answer.
pub struct OllamaAnswer {
    model: String,
    kind: Kind,
    has_logprobs: bool,
    /// Calls told so far.
    n_calls: usize,
    /// The request came.
    came: Instant,
    /// The engine began with it.
    begun: Option<Instant>,
    /// The first part of the answer came.
    first: Option<Instant>,
    /// The last part came.
    ended: Option<Instant>,
}

/// What a line says besides the model and the time.
#[derive(Default)]
struct Said<'a> {
    text: &'a str,
    thinking: &'a str,
    calls: Option<Json>,
    logprobs: &'a [TokenLogprob],
}

impl OllamaAnswer {
    /// An answer of which nothing is told. With `has_logprobs` tokens come with their log-probabilities.
    pub fn new(model: &str, kind: Kind, has_logprobs: bool) -> OllamaAnswer {
        OllamaAnswer {
            model: tagged(model),
            kind,
            has_logprobs,
            n_calls: 0,
            came: Instant::now(),
            begun: None,
            first: None,
            ended: None,
        }
    }

    /// The answer to a request that asks nothing.
    pub fn loaded(&self) -> Json {
        self.line(Said::default())
            .with("done", true)
            .with("done_reason", "load")
    }

    fn line(&self, said: Said<'_>) -> Json {
        let line = object([
            ("model", (&self.model).into()),
            ("created_at", (&rfc3339(SystemTime::now())).into()),
        ]);
        let thinking = (!said.thinking.is_empty()).then_some(said.thinking);
        let line = match self.kind {
            Kind::Chat => {
                let message = object([("role", "assistant".into()), ("content", said.text.into())]);
                let message = message.with_some("thinking", thinking);
                line.with("message", message.with_some("tool_calls", said.calls))
            }
            Kind::Generate => {
                let line = line.with("response", said.text);
                line.with_some("thinking", thinking)
            }
        };
        let has_logprobs = self.has_logprobs && !said.logprobs.is_empty();
        line.with_some(
            "logprobs",
            has_logprobs.then(|| openai::logprobs(said.logprobs)),
        )
    }

    /// Tells more of the answer.
    fn tell(&self, said: Said<'_>, out: &mut Vec<Event>) {
        let line = self.line(said).with("done", false);
        out.push(Event::new("", &line));
    }

    /// The engine gives parts of the answer.
    fn answers(&mut self) {
        self.first.get_or_insert_with(Instant::now);
    }

    /// Adds what is known at the end. Times are in nanoseconds: `load_duration` is that in the line of requests.
    fn ended(&self, line: Json, answer: &Answer, done: &Done) -> Json {
        let ended = self.ended.unwrap_or_else(Instant::now);
        let first = self.first.unwrap_or(ended);
        let begun = self.begun.unwrap_or(first);
        // 64 bits hold 584 years.
        let between = |a: Instant, b: Instant| (b.saturating_duration_since(a)).as_nanos() as u64;
        let reason = match done.finish {
            Finish::EndOfTurn | Finish::StopString(_) | Finish::Calls => "stop",
            Finish::Length | Finish::ContextFull => "length",
        };
        line.with("done", true)
            .with("done_reason", reason)
            .with("total_duration", between(self.came, ended))
            .with("load_duration", between(self.came, begun))
            .with("prompt_eval_count", done.n_prompt)
            .with("prompt_eval_duration", between(begun, first))
            .with("eval_count", done.n_answer)
            .with("eval_duration", between(first, ended))
            .with_some("infall_warnings", answer.warnings())
    }
}

/// A call, the number of which in its answer is `index`.
fn call_json(index: usize, call: &Called) -> Json {
    // On one line, as the frame of a stream needs it.
    let arguments = respaced(&call.closed()).unwrap_or_else(|_| "{}".into());
    let function = object([
        ("index", index.into()),
        ("name", (&call.name).into()),
        ("arguments", Json::written(arguments)),
    ]);
    object([("id", (&call.id).into()), ("function", function)])
}

impl Dialect for OllamaAnswer {
    fn framing(&self) -> Framing {
        Framing::Lines
    }

    fn call_prefix(&self) -> &'static str {
        "call_"
    }

    fn whole(&mut self, answers: &[Answer], total: &Done) -> Json {
        // A question has one answer.
        let nothing = Answer::default();
        let answer = answers.first().unwrap_or(&nothing);
        let calls = answer.calls.iter().enumerate();
        let calls = calls.map(|(index, call)| call_json(index, call));
        let line = self.line(Said {
            text: &answer.text,
            thinking: &answer.reasoning,
            calls: (!answer.calls.is_empty()).then(|| list(calls)),
            logprobs: &answer.logprobs,
        });
        self.ended(line, answer, total)
    }

    fn failure(&mut self, fault: &Fault) -> Json {
        fault.body(Family::Ollama)
    }

    fn begin(&mut self, _: &Ask, _: &mut Vec<Event>) {}

    fn started(&mut self, _: usize, _: &mut Vec<Event>) {
        self.begun = Some(Instant::now());
    }

    fn waiting(&mut self, out: &mut Vec<Event>) {
        self.tell(Said::default(), out);
    }

    fn reasoning(&mut self, more: &str, out: &mut Vec<Event>) {
        self.answers();
        let said = Said {
            thinking: more,
            ..Said::default()
        };
        self.tell(said, out);
    }

    fn text(&mut self, more: &str, logprobs: &[TokenLogprob], out: &mut Vec<Event>) {
        self.answers();
        let said = Said {
            text: more,
            logprobs,
            ..Said::default()
        };
        self.tell(said, out);
    }

    fn call_begin(&mut self, _: &Called, _: &mut Vec<Event>) {
        self.answers();
    }

    /// Calls are told when they are whole.
    fn call_arguments(&mut self, _: &Called, _: &str, _: &mut Vec<Event>) {}

    fn call_end(&mut self, call: &Called, out: &mut Vec<Event>) {
        let said = Said {
            calls: Some(list([call_json(self.n_calls, call)])),
            ..Said::default()
        };
        self.tell(said, out);
        self.n_calls += 1;
    }

    fn end_answer(&mut self, answer: &Answer, done: &Done, out: &mut Vec<Event>) {
        self.ended = Some(Instant::now());
        let line = self.line(Said::default());
        out.push(Event::new("", &self.ended(line, answer, done)));
    }

    fn failed(&mut self, fault: &Fault, out: &mut Vec<Event>) {
        let error = self.failure(fault);
        out.push(Event::new("", &error));
    }
}
