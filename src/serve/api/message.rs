//! How `/v1/messages` tells an answer: blocks, each with its events. Source: Anthropic's API reference, "Streaming
//! messages".
//!
//! ```text
//! ping*, message_start, ping*, ( content_block_start, deltas, content_block_stop )*, message_delta, message_stop
//! ```

use super::fault::{Family, Fault};
use super::ids;
use super::reply::{Answer, Called, Dialect, Event};
use crate::json::object::{Json, list, object};
use crate::serve::ask::{Ask, Done, Finish, TokenLogprob};

/// Stands where Anthropic signs its reasoning. Clients send it back; it is not looked at.
const SIGNATURE: &str = "unsigned";

/// A client that waits for reasoning gets an empty piece of it when it has waited this often: some see no pings.
const LONG: usize = 3;

/// An answer that is told.
pub struct Message {
    id: String,
    model: String,
    /// Tokens of the prompt.
    n_prompt: usize,
    /// Whether the prompt opens reasoning.
    reasons: bool,
    /// Whether `message_start` was told.
    has_begun: bool,
    /// How often the client has waited.
    n_waits: usize,
    /// Whole blocks.
    blocks: Vec<Json>,
    /// The block of text that is told, and its text so far.
    open: Option<(Kind, String)>,
    /// Whether a call is told.
    in_call: bool,
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

/// The figures of a prompt, and of an answer as far as it is known.
fn usage(n_prompt: usize, n_cached: usize, n_answer: usize) -> Json {
    object([
        ("input_tokens", n_prompt.saturating_sub(n_cached).into()),
        ("cache_creation_input_tokens", 0_usize.into()),
        ("cache_read_input_tokens", n_cached.into()),
        ("output_tokens", n_answer.into()),
    ])
}

/// The figures of a whole answer.
fn whole_usage(done: &Done) -> Json {
    let thinking = object([("thinking_tokens", done.n_reasoning.into())]);
    usage(done.n_prompt, done.n_cached, done.n_answer).with("output_tokens_details", thinking)
}

/// Why it ended, and by which string.
fn stop(finish: &Finish) -> [(&'static str, Json); 2] {
    let (reason, sequence) = match finish {
        Finish::EndOfTurn => ("end_turn", None),
        Finish::Length => ("max_tokens", None),
        Finish::ContextFull => ("model_context_window_exceeded", None),
        Finish::StopString(stop) => ("stop_sequence", Some(stop)),
        Finish::Calls => ("tool_use", None),
    };
    [
        ("stop_reason", reason.into()),
        ("stop_sequence", sequence.into()),
    ]
}

impl Message {
    /// An answer of which nothing is told.
    pub fn new(model: &str) -> Message {
        Message {
            id: ids::id("msg_"),
            model: model.to_owned(),
            n_prompt: 0,
            reasons: false,
            has_begun: false,
            n_waits: 0,
            blocks: Vec::new(),
            open: None,
            in_call: false,
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

    /// The message begins, if it has not.
    fn start(&mut self, n_cached: usize, out: &mut Vec<Event>) {
        if self.has_begun {
            return;
        }
        self.has_begun = true;
        let unknown = [("stop_reason", Json::NULL), ("stop_sequence", Json::NULL)];
        let message = self.json(unknown, usage(self.n_prompt, n_cached, 0));
        self.tell("message_start", Some(("message", message)), out);
    }

    /// More of a block of this kind, which is opened if it is not.
    fn more(&mut self, kind: Kind, more: &str, out: &mut Vec<Event>) {
        self.start(0, out);
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

    /// More of the arguments of the call that is told.
    fn tell_input(&self, more: &str, out: &mut Vec<Event>) {
        let delta = object([
            ("type", "input_json_delta".into()),
            ("partial_json", more.into()),
        ]);
        self.tell("content_block_delta", Some(("delta", delta)), out);
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

fn call_json(call: &Called, input: &str) -> Json {
    object([
        ("type", "tool_use".into()),
        ("id", (&call.id).into()),
        ("name", (&call.name).into()),
        ("input", Json::written(input)),
    ])
}

impl Dialect for Message {
    fn call_prefix(&self) -> &'static str {
        "toolu_"
    }

    fn whole(&mut self, answers: &[Answer], total: &Done) -> Json {
        self.close(&mut Vec::new());
        let warnings = answers.first().and_then(Answer::warnings);
        self.json(stop(&total.finish), whole_usage(total))
            .with_some("infall_warnings", warnings)
    }

    fn failure(&mut self, fault: &Fault) -> Json {
        fault.body(Family::Anthropic)
    }

    fn begin(&mut self, ask: &Ask, _: &mut Vec<Event>) {
        (self.n_prompt, self.reasons) = (ask.tokens.len(), ask.reasoning);
    }

    fn started(&mut self, n_cached: usize, out: &mut Vec<Event>) {
        self.start(n_cached, out);
    }

    fn beat(&mut self, out: &mut Vec<Event>) {
        self.start(0, out);
        self.tell("ping", None, out);
    }

    fn waiting(&mut self, out: &mut Vec<Event>) {
        self.n_waits += 1;
        match self.open {
            _ if self.in_call => self.tell_input("", out),
            Some((kind, _)) => self.more(kind, "", out),
            // What comes first is reasoning, be it empty.
            None if self.reasons && self.blocks.is_empty() && self.n_waits > LONG => {
                self.more(Kind::Thinking, "", out);
            }
            None => {}
        }
    }

    fn reasoning(&mut self, more: &str, out: &mut Vec<Event>) {
        self.more(Kind::Thinking, more, out);
    }

    fn text(&mut self, more: &str, _: &[TokenLogprob], out: &mut Vec<Event>) {
        self.more(Kind::Text, more, out);
    }

    fn call_begin(&mut self, call: &Called, out: &mut Vec<Event>) {
        self.start(0, out);
        self.close(out);
        let block = ("content_block", call_json(call, "{}"));
        self.tell("content_block_start", Some(block), out);
        self.in_call = true;
    }

    fn call_arguments(&mut self, _: &Called, more: &str, out: &mut Vec<Event>) {
        self.tell_input(more, out);
    }

    fn call_end(&mut self, call: &Called, out: &mut Vec<Event>) {
        self.in_call = false;
        self.tell("content_block_stop", None, out);
        self.blocks.push(call_json(call, &call.closed()));
    }

    fn end_answer(&mut self, answer: &Answer, done: &Done, out: &mut Vec<Event>) {
        self.start(done.n_cached, out);
        self.close(out);
        let json = object([
            ("type", "message_delta".into()),
            ("delta", object(stop(&done.finish))),
        ])
        .with("usage", whole_usage(done))
        .with_some("infall_warnings", answer.warnings());
        out.push(Event::new("message_delta", &json));
        self.tell("message_stop", None, out);
    }

    fn failed(&mut self, fault: &Fault, out: &mut Vec<Event>) {
        out.push(Event::new("error", &fault.body(Family::Anthropic)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::TokenId;

    fn message(reasoning: bool) -> Message {
        let ask = Ask {
            tokens: vec![TokenId(1); 9],
            reasoning,
            tools: true,
            ..Ask::default()
        };
        let mut message = Message::new("m");
        message.begin(&ask, &mut Vec::new());
        message
    }

    fn waited(message: &mut Message, times: usize) -> Vec<String> {
        let mut out = Vec::new();
        for _ in 0..times {
            message.beat(&mut out);
            message.waiting(&mut out);
        }
        let told = out.into_iter().filter(|event| event.name != "ping");
        told.map(|event| event.data).collect()
    }

    #[test]
    fn a_long_wait_for_reasoning_opens_it() {
        let mut thinks = message(true);
        let told = waited(&mut thinks, LONG + 2);
        assert!(told[0].contains("\"message_start\"") && told[0].contains("\"input_tokens\":9"));
        let begun = "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\
                     \"thinking\":\"\",\"signature\":\"\"}}";
        let empty = "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\
                     \"thinking\":\"\"}}";
        assert_eq!(told[1..], [begun, empty, empty]);
        // The reasoning goes on in this block, and an answer without any has one more block.
        let mut out = Vec::new();
        thinks.reasoning("r", &mut out);
        assert_eq!((out.len(), thinks.blocks.len()), (1, 0));
        thinks.text("t", &[], &mut out);
        assert_eq!(thinks.blocks.len(), 1);
        // Without reasoning it is not known what comes first.
        assert_eq!(waited(&mut message(false), LONG + 2).len(), 1);
    }

    #[test]
    fn a_wait_within_a_call_stays_within_it() {
        let mut message = message(true);
        let call = Called {
            name: "f".into(),
            ..Called::default()
        };
        message.call_begin(&call, &mut Vec::new());
        let told = waited(&mut message, LONG + 2);
        assert_eq!(told.len(), LONG + 2);
        assert!(
            told.iter()
                .all(|data| data.contains("\"partial_json\":\"\"")),
            "{told:?}"
        );
    }
}
