//! How `/v1/responses` tells an answer: items, each with its events. Source: OpenAI's API reference, "Streaming events".
//!
//! ```text
//! created, in_progress, ( item added, [part added], deltas, done, [part done], item done )*, completed or incomplete
//! ```

use super::fault::{Family, Fault};
use super::ids;
use super::reply::{Answer, Dialect, Event};
use crate::engine::chat::Call;
use crate::json::object::{Json, list, object};
use crate::serve::ask::{Done, Finish, TokenLogprob};

/// An answer that is told.
pub struct Response {
    id: String,
    created: u64,
    model: String,
    /// What it repeats of the request.
    request: Vec<(&'static str, Json)>,
    /// Events told so far.
    n_events: usize,
    /// Whole items.
    items: Vec<Json>,
    /// The item that is told.
    open: Option<Item>,
}

/// An item of text.
struct Item {
    kind: Kind,
    id: String,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
}

impl Item {
    fn json(&self, status: &str) -> Json {
        let part = (status == "completed").then(|| self.part());
        let item = object([("id", (&self.id).into()), ("status", status.into())]);
        match self.kind {
            Kind::Reasoning => item
                .with("type", "reasoning")
                .with("summary", list([]))
                .with("content", list(part)),
            Kind::Message => item
                .with("type", "message")
                .with("role", "assistant")
                .with("content", list(part)),
        }
    }

    fn part(&self) -> Json {
        match self.kind {
            Kind::Reasoning => object([
                ("type", "reasoning_text".into()),
                ("text", (&self.text).into()),
            ]),
            Kind::Message => object([
                ("type", "output_text".into()),
                ("text", (&self.text).into()),
                ("annotations", list([])),
                ("logprobs", list([])),
            ]),
        }
    }

    fn delta_event(&self) -> &'static str {
        match self.kind {
            Kind::Reasoning => "response.reasoning_text.delta",
            Kind::Message => "response.output_text.delta",
        }
    }

    fn done_event(&self) -> &'static str {
        match self.kind {
            Kind::Reasoning => "response.reasoning_text.done",
            Kind::Message => "response.output_text.done",
        }
    }
}

impl Response {
    /// An answer of which nothing is told.
    pub fn new(model: &str, request: Vec<(&'static str, Json)>) -> Response {
        Response {
            id: ids::id("resp_"),
            created: ids::now_s(),
            model: model.to_owned(),
            request,
            n_events: 0,
            items: Vec::new(),
            open: None,
        }
    }

    /// The response object, without figures.
    fn json(&self, status: &str) -> Json {
        let head = object([
            ("id", (&self.id).into()),
            ("object", "response".into()),
            ("created_at", self.created.into()),
            ("status", status.into()),
            ("model", (&self.model).into()),
            ("output", list(self.items.iter().cloned())),
            ("previous_response_id", Json::NULL),
            ("store", false.into()),
        ]);
        let request = self.request.iter();
        request.fold(head, |json, (name, value)| json.with(name, value.clone()))
    }

    /// The response object at the end.
    fn ended(&self, answer: &Answer, done: &Done) -> (&'static str, Json) {
        let (event, status, reason) = match done.finish {
            Finish::Length => (
                "response.incomplete",
                "incomplete",
                Some("max_output_tokens"),
            ),
            _ => ("response.completed", "completed", None),
        };
        let details = reason.map(|reason| object([("reason", reason.into())]));
        let cached = object([("cached_tokens", done.n_cached.into())]);
        let reasoning = object([("reasoning_tokens", done.n_reasoning.into())]);
        let usage = object([
            ("input_tokens", done.n_prompt.into()),
            ("input_tokens_details", cached),
            ("output_tokens", done.n_answer.into()),
            ("output_tokens_details", reasoning),
            ("total_tokens", (done.n_prompt + done.n_answer).into()),
        ]);
        let json = self
            .json(status)
            .with("error", Json::NULL)
            .with("incomplete_details", details)
            .with("usage", usage)
            .with_some("infall_warnings", answer.warnings());
        (event, json)
    }

    fn tell<const N: usize>(
        &mut self,
        name: &'static str,
        members: [(&str, Json); N],
        out: &mut Vec<Event>,
    ) {
        let json = object(members)
            .with("type", name)
            .with("sequence_number", self.n_events);
        self.n_events += 1;
        out.push(Event::new(name, &json));
    }

    /// More of an item of this kind, which is opened if it is not.
    fn more(&mut self, kind: Kind, more: &str, out: &mut Vec<Event>) {
        if self.open.as_ref().is_some_and(|item| item.kind != kind) {
            self.close(out);
        }
        let index = self.items.len();
        let mut item = match self.open.take() {
            Some(item) => item,
            None => {
                let prefix = match kind {
                    Kind::Reasoning => "rs_",
                    Kind::Message => "msg_",
                };
                let item = Item {
                    kind,
                    id: ids::id(prefix),
                    text: String::new(),
                };
                let json = item.json("in_progress");
                let added = [("output_index", index.into()), ("item", json)];
                self.tell("response.output_item.added", added, out);
                self.tell("response.content_part.added", part(&item, index), out);
                item
            }
        };
        item.text += more;
        let [id, output, content] = place(&item.id, index);
        let delta = [id, output, content, ("delta", more.into())];
        match kind {
            Kind::Reasoning => self.tell(item.delta_event(), delta, out),
            Kind::Message => {
                let [id, output, content, delta] = delta;
                let all = [id, output, content, delta, ("logprobs", list([]))];
                self.tell(item.delta_event(), all, out);
            }
        }
        self.open = Some(item);
    }

    /// Ends the item that is told.
    fn close(&mut self, out: &mut Vec<Event>) {
        let Some(item) = self.open.take() else { return };
        let index = self.items.len();
        let [id, output, content] = place(&item.id, index);
        let text = ("text", (&item.text).into());
        match item.kind {
            Kind::Reasoning => self.tell(item.done_event(), [id, output, content, text], out),
            Kind::Message => {
                let all = [id, output, content, text, ("logprobs", list([]))];
                self.tell(item.done_event(), all, out);
            }
        }
        self.tell("response.content_part.done", part(&item, index), out);
        self.whole_item(item.json("completed"), out);
    }

    fn whole_item(&mut self, item: Json, out: &mut Vec<Event>) {
        let index = self.items.len().into();
        self.items.push(item.clone());
        let members = [("output_index", index), ("item", item)];
        self.tell("response.output_item.done", members, out);
    }
}

/// Where a text stands.
fn place(id: &str, index: usize) -> [(&'static str, Json); 3] {
    [
        ("item_id", id.into()),
        ("output_index", index.into()),
        ("content_index", 0_usize.into()),
    ]
}

fn part(item: &Item, index: usize) -> [(&'static str, Json); 4] {
    let [id, output, content] = place(&item.id, index);
    [id, output, content, ("part", item.part())]
}

impl Dialect for Response {
    fn call_prefix(&self) -> &'static str {
        "call_"
    }

    fn whole(&mut self, answer: &Answer, done: &Done) -> Json {
        self.close(&mut Vec::new());
        self.ended(answer, done).1
    }

    fn begin(&mut self, out: &mut Vec<Event>) {
        for name in ["response.created", "response.in_progress"] {
            let json = self.json("in_progress");
            self.tell(name, [("response", json)], out);
        }
    }

    fn reasoning(&mut self, more: &str, out: &mut Vec<Event>) {
        self.more(Kind::Reasoning, more, out);
    }

    fn text(&mut self, more: &str, _: &[TokenLogprob], out: &mut Vec<Event>) {
        self.more(Kind::Message, more, out);
    }

    fn calls(&mut self, calls: &[Call], out: &mut Vec<Event>) {
        self.close(out);
        for call in calls {
            let (id, index) = (ids::id("fc_"), self.items.len());
            let arguments = call.arguments_json();
            let item = |status: &str, arguments: &str| {
                object([
                    ("id", (&id).into()),
                    ("type", "function_call".into()),
                    ("status", status.into()),
                    ("call_id", (&call.id).into()),
                    ("name", (&call.name).into()),
                    ("arguments", arguments.into()),
                ])
            };
            let added = [
                ("output_index", index.into()),
                ("item", item("in_progress", "")),
            ];
            self.tell("response.output_item.added", added, out);
            let [item_id, output, _] = place(&id, index);
            let delta = [item_id, output, ("delta", (&arguments).into())];
            self.tell("response.function_call_arguments.delta", delta, out);
            let [item_id, output, _] = place(&id, index);
            let done = [
                item_id,
                output,
                ("name", (&call.name).into()),
                ("arguments", (&arguments).into()),
            ];
            self.tell("response.function_call_arguments.done", done, out);
            self.whole_item(item("completed", &arguments), out);
        }
    }

    fn end(&mut self, answer: &Answer, done: &Done, out: &mut Vec<Event>) {
        self.close(out);
        let (event, json) = self.ended(answer, done);
        self.tell(event, [("response", json)], out);
    }

    fn failed(&mut self, fault: &Fault, out: &mut Vec<Event>) {
        let why = fault.message(Family::OpenAi);
        let error = object([("code", "server_error".into()), ("message", (&*why).into())]);
        let json = self.json("failed").with("error", error);
        self.tell("response.failed", [("response", json)], out);
    }
}
