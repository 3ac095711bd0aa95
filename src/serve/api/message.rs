//! How `/v1/messages` tells an answer: blocks, each with its events. Source: Anthropic's API reference, "Streaming
//! messages".
//!
//! ```text
//! message_start, ping*, ( content_block_start, deltas, content_block_stop )*, message_delta, message_stop
//! ```

use super::fault::{Family, Fault};
use super::ids;
use super::reply::{Answer, Dialect, Event};
use crate::engine::chat::Call;
use crate::json::object::{Json, list, object};
use crate::serve::ask::{Done, Finish, TokenLogprob};

/// Stands where Anthropic signs its reasoning. Clients send it back; it is not looked at.
const SIGNATURE: &str = "unsigned";

/// An answer that is told.
pub struct Message {
    id: String,
    model: String,
    /// Tokens of the prompt.
    n_prompt: usize,
    /// Whole blocks.
    blocks: Vec<Json>,
    /// The block that is told, and its text so far.
    open: Option<(Kind, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
}

impl Kind {
    fn block(self, text: &str, signature: &str) -> Json {
        match self {
            Kind::Thinking => object([
                ("type", "thinking".into()),
                ("thinking", text.into()),
                ("signature", signature.into()),
            ]),
            Kind::Text => object([("type", "text".into()), ("text", text.into())]),
        }
    }

    fn delta(self, more: &str) -> Json {
        match self {
            Kind::Thinking => {
                object([("type", "thinking_delta".into()), ("thinking", more.into())])
            }
            Kind::Text => object([("type", "text_delta".into()), ("text", more.into())]),
        }
    }
}

fn usage(done: &Done) -> Json {
    let thinking = object([("thinking_tokens", done.n_reasoning.into())]);
    object([
        (
            "input_tokens",
            done.n_prompt.saturating_sub(done.n_cached).into(),
        ),
        ("cache_creation_input_tokens", 0_usize.into()),
        ("cache_read_input_tokens", done.n_cached.into()),
        ("output_tokens", done.n_answer.into()),
        ("output_tokens_details", thinking),
    ])
}

/// Why it ended, and by which string.
fn stop(finish: &Finish) -> [(&'static str, Json); 2] {
    let (reason, sequence) = match finish {
        Finish::EndOfTurn => ("end_turn", None),
        Finish::Length => ("max_tokens", None),
        Finish::StopString(stop) => ("stop_sequence", Some(stop)),
        Finish::Calls => ("tool_use", None),
    };
    [
        ("stop_reason", reason.into()),
        ("stop_sequence", sequence.into()),
    ]
}

impl Message {
    /// An answer to a prompt of so many tokens, of which nothing is told.
    pub fn new(model: &str, n_prompt: usize) -> Message {
        Message {
            id: ids::id("msg_"),
            model: model.to_owned(),
            n_prompt,
            blocks: Vec::new(),
            open: None,
        }
    }

    fn json(&self, stop: [(&'static str, Json); 2], usage: Json) -> Json {
        let head = object([
            ("id", (&self.id).into()),
            ("type", "message".into()),
            ("role", "assistant".into()),
            ("model", (&self.model).into()),
            ("content", list(self.blocks.iter().cloned())),
        ]);
        let json = stop.into_iter().fold(head, |json, (n, v)| json.with(n, v));
        json.with("usage", usage)
    }

    fn tell(&self, name: &'static str, member: Option<(&str, Json)>, out: &mut Vec<Event>) {
        let mut json = object([("type", name.into())]);
        if name.starts_with("content_block") {
            json = json.with("index", self.blocks.len());
        }
        if let Some((name, value)) = member {
            json = json.with(name, value);
        }
        out.push(Event::new(name, &json));
    }

    /// More of a block of this kind, which is opened if it is not.
    fn more(&mut self, kind: Kind, more: &str, out: &mut Vec<Event>) {
        if self.open.as_ref().is_some_and(|(open, _)| *open != kind) {
            self.close(out);
        }
        if self.open.is_none() {
            let block = ("content_block", kind.block("", ""));
            self.tell("content_block_start", Some(block), out);
        }
        let delta = ("delta", kind.delta(more));
        self.tell("content_block_delta", Some(delta), out);
        let (_, text) = self.open.get_or_insert_with(|| (kind, String::new()));
        *text += more;
    }

    /// Ends the block that is told.
    fn close(&mut self, out: &mut Vec<Event>) {
        let Some((kind, text)) = self.open.take() else {
            return;
        };
        if kind == Kind::Thinking {
            let delta = object([
                ("type", "signature_delta".into()),
                ("signature", SIGNATURE.into()),
            ]);
            self.tell("content_block_delta", Some(("delta", delta)), out);
        }
        self.tell("content_block_stop", None, out);
        self.blocks.push(kind.block(&text, SIGNATURE));
    }
}

impl Dialect for Message {
    fn call_prefix(&self) -> &'static str {
        "toolu_"
    }

    fn whole(&mut self, answer: &Answer, done: &Done) -> Json {
        self.close(&mut Vec::new());
        self.json(stop(&done.finish), usage(done))
            .with_some("infall_warnings", answer.warnings())
    }

    fn begin(&mut self, out: &mut Vec<Event>) {
        let unknown = [("stop_reason", Json::NULL), ("stop_sequence", Json::NULL)];
        let so_far = object([
            ("input_tokens", self.n_prompt.into()),
            ("output_tokens", 0_usize.into()),
        ]);
        let message = self.json(unknown, so_far);
        self.tell("message_start", Some(("message", message)), out);
    }

    fn waiting(&mut self, out: &mut Vec<Event>) {
        self.tell("ping", None, out);
    }

    fn reasoning(&mut self, more: &str, out: &mut Vec<Event>) {
        self.more(Kind::Thinking, more, out);
    }

    fn text(&mut self, more: &str, _: &[TokenLogprob], out: &mut Vec<Event>) {
        self.more(Kind::Text, more, out);
    }

    fn calls(&mut self, calls: &[Call], out: &mut Vec<Event>) {
        self.close(out);
        for call in calls {
            let arguments = call.arguments_json();
            let block = |input: &str| {
                object([
                    ("type", "tool_use".into()),
                    ("id", (&call.id).into()),
                    ("name", (&call.name).into()),
                    ("input", Json::written(input)),
                ])
            };
            let start = ("content_block", block("{}"));
            self.tell("content_block_start", Some(start), out);
            let delta = object([
                ("type", "input_json_delta".into()),
                ("partial_json", (&arguments).into()),
            ]);
            self.tell("content_block_delta", Some(("delta", delta)), out);
            self.tell("content_block_stop", None, out);
            self.blocks.push(block(&arguments));
        }
    }

    fn end(&mut self, answer: &Answer, done: &Done, out: &mut Vec<Event>) {
        self.close(out);
        let json = object([
            ("type", "message_delta".into()),
            ("delta", object(stop(&done.finish))),
        ])
        .with("usage", usage(done))
        .with_some("infall_warnings", answer.warnings());
        out.push(Event::new("message_delta", &json));
        self.tell("message_stop", None, out);
    }

    fn failed(&mut self, fault: &Fault, out: &mut Vec<Event>) {
        out.push(Event::new("error", &fault.body(Family::Anthropic)));
    }
}
