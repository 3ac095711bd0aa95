//! How `/v1/responses` tells an answer: items, each with its events. Source: OpenAI's API reference, "Streaming events".
//!
//! ```text
//! created, in_progress+, ( item added, [part added], deltas, done, [part done], item done )*, completed or incomplete
//! ```

use super::fault::{Family, Fault};
use super::reply::{Answer, Called, Dialect, Event};
use super::response_call::CallItem;
pub use super::response_call::ToolKind;
use super::{ids, openai};
use crate::json::object::{Json, list, object};
use crate::serve::ask::{Ask, Done, Finish, TokenLogprob};

/// An answer that is told.
pub struct Response {
    id: String,
    created: u64,
    model: String,
    /// What it repeats of the request.
    request: Vec<(&'static str, Json)>,
    /// How the client declared the tools that are not functions.
    kinds: Vec<(String, ToolKind)>,
    /// Whether reasoning is told as its summary, too.
    has_summary: bool,
    /// Events told so far.
    n_events: usize,
    /// Whole items.
    items: Vec<Json>,
    /// The item of text that is told.
    open: Option<Item>,
    /// The call that is told.
    call: Option<CallItem>,
}

/// An item of text.
struct Item {
    kind: Kind,
    id: String,
    text: String,
    /// The tokens of the text, if they were asked for.
    tokens: Vec<TokenLogprob>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
}

impl Item {
    fn json(&self, status: &str, has_summary: bool) -> Json {
        let is_begun = status != "in_progress";
        let part = is_begun.then(|| self.part());
        let item = object([("id", (&self.id).into()), ("status", status.into())]);
        match self.kind {
            Kind::Reasoning => {
                let summary = (is_begun && has_summary).then(|| self.summary());
                item.with("type", "reasoning")
                    .with("summary", list(summary))
                    .with("content", list(part))
            }
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
                ("logprobs", openai::logprobs(&self.tokens)),
            ]),
        }
    }

    fn summary(&self) -> Json {
        object([
            ("type", "summary_text".into()),
            ("text", (&self.text).into()),
        ])
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

/// What an answer says of a request that does not say it.
fn defaults() -> [(&'static str, Json); 16] {
    let format = object([("type", "text".into())]);
    let reasoning = object([("effort", Json::NULL), ("summary", Json::NULL)]);
    [
        ("background", false.into()),
        ("instructions", Json::NULL),
        ("max_output_tokens", Json::NULL),
        ("max_tool_calls", Json::NULL),
        ("metadata", object([])),
        ("parallel_tool_calls", true.into()),
        ("previous_response_id", Json::NULL),
        ("reasoning", reasoning),
        ("service_tier", "default".into()),
        ("store", false.into()),
        ("text", object([("format", format)])),
        ("tool_choice", "auto".into()),
        ("tools", list([])),
        ("top_logprobs", 0_usize.into()),
        ("truncation", "disabled".into()),
        ("user", Json::NULL),
    ]
}

impl Response {
    /// An answer of which nothing is told; what it repeats of the `request` stands in the place of what it says by
    /// itself.
    pub fn new(model: &str, request: Vec<(&'static str, Json)>) -> Response {
        Response {
            id: ids::id("resp_"),
            created: ids::now_s(),
            model: model.to_owned(),
            request,
            kinds: Vec::new(),
            has_summary: false,
            n_events: 0,
            items: Vec::new(),
            open: None,
            call: None,
        }
    }

    /// Calls of these tools are told as the client declared them; those of all others are calls of functions.
    pub fn with_tools(self, kinds: Vec<(String, ToolKind)>) -> Response {
        Response { kinds, ..self }
    }

    /// Whether reasoning is told as its summary, too: all of it, for clients that show nothing else.
    pub fn with_summary(self, has_summary: bool) -> Response {
        Response {
            has_summary,
            ..self
        }
    }

    /// The response object.
    fn json(&self, status: &str, ended: Ended) -> Json {
        let head = object([
            ("id", (&self.id).into()),
            ("object", "response".into()),
            ("created_at", self.created.into()),
            ("completed_at", ended.at.into()),
            ("status", status.into()),
            ("model", (&self.model).into()),
            ("output", list(self.items.iter().cloned())),
            ("error", ended.error.into()),
            ("incomplete_details", ended.details.into()),
            ("usage", ended.usage.into()),
        ]);
        let is_said = |name: &str| self.request.iter().any(|(other, _)| *other == name);
        let request = self.request.iter().cloned();
        let all = request.chain(defaults().into_iter().filter(|(name, _)| !is_said(name)));
        all.fold(head, |json, (name, value)| json.with(name, value))
    }

    /// The response object at the end, and the event that tells it.
    fn ended(&self, answer: &Answer, done: &Done) -> (&'static str, Json) {
        let is_cut = is_cut(&done.finish);
        let (event, status) = match is_cut {
            true => ("response.incomplete", "incomplete"),
            false => ("response.completed", "completed"),
        };
        let cached = object([
            ("cached_tokens", done.n_cached.into()),
            ("cache_write_tokens", 0_usize.into()),
        ]);
        let reasoning = object([("reasoning_tokens", done.n_reasoning.into())]);
        let usage = object([
            ("input_tokens", done.n_prompt.into()),
            ("input_tokens_details", cached),
            ("output_tokens", done.n_answer.into()),
            ("output_tokens_details", reasoning),
            ("total_tokens", (done.n_prompt + done.n_answer).into()),
        ]);
        let ended = Ended {
            at: (!is_cut).then(ids::now_s),
            error: None,
            details: is_cut.then(|| object([("reason", "max_output_tokens".into())])),
            usage: Some(usage),
        };
        let json = self.json(status, ended);
        (event, json.with_some("infall_warnings", answer.warnings()))
    }

    /// The response object of an answer that could not go on.
    fn failed_json(&self, fault: &Fault) -> Json {
        let why = fault.message(Family::OpenAi);
        let error = object([("code", "server_error".into()), ("message", (&why).into())]);
        let ended = Ended {
            error: Some(error),
            ..Ended::default()
        };
        self.json("failed", ended)
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
    fn more(&mut self, kind: Kind, more: &str, tokens: &[TokenLogprob], out: &mut Vec<Event>) {
        if self.open.as_ref().is_some_and(|item| item.kind != kind) {
            self.close("completed", out);
        }
        let index = self.items.len();
        let mut item = match self.open.take() {
            Some(item) => item,
            None => self.begin_item(kind, out),
        };
        item.text += more;
        item.tokens.extend_from_slice(tokens);
        let [id, output, content] = place(&item.id, index);
        let delta = [id, output, content, ("delta", more.into())];
        match kind {
            Kind::Reasoning => {
                self.tell(item.delta_event(), delta, out);
                if self.has_summary {
                    let [id, output, summary] = summary_place(&item.id, index);
                    let delta = [id, output, summary, ("delta", more.into())];
                    self.tell("response.reasoning_summary_text.delta", delta, out);
                }
            }
            Kind::Message => {
                let [id, output, content, delta] = delta;
                let logprobs = ("logprobs", openai::logprobs(tokens));
                let all = [id, output, content, delta, logprobs];
                self.tell(item.delta_event(), all, out);
            }
        }
        self.open = Some(item);
    }

    fn begin_item(&mut self, kind: Kind, out: &mut Vec<Event>) -> Item {
        let prefix = match kind {
            Kind::Reasoning => "rs_",
            Kind::Message => "msg_",
        };
        let item = Item {
            kind,
            id: ids::id(prefix),
            text: String::new(),
            tokens: Vec::new(),
        };
        let index = self.items.len();
        let json = item.json("in_progress", self.has_summary);
        let added = [("output_index", index.into()), ("item", json)];
        self.tell("response.output_item.added", added, out);
        self.tell("response.content_part.added", part(&item, index), out);
        if self.has_summary && kind == Kind::Reasoning {
            let [id, output, summary] = summary_place(&item.id, index);
            let added = [id, output, summary, ("part", item.summary())];
            self.tell("response.reasoning_summary_part.added", added, out);
        }
        item
    }

    /// Ends the item that is told.
    fn close(&mut self, status: &str, out: &mut Vec<Event>) {
        let Some(item) = self.open.take() else { return };
        let index = self.items.len();
        let [id, output, content] = place(&item.id, index);
        let text = ("text", (&item.text).into());
        match item.kind {
            Kind::Reasoning => self.tell(item.done_event(), [id, output, content, text], out),
            Kind::Message => {
                let logprobs = ("logprobs", openai::logprobs(&item.tokens));
                let all = [id, output, content, text, logprobs];
                self.tell(item.done_event(), all, out);
            }
        }
        self.tell("response.content_part.done", part(&item, index), out);
        if self.has_summary && item.kind == Kind::Reasoning {
            let [id, output, summary] = summary_place(&item.id, index);
            let text = [id, output, summary, ("text", (&item.text).into())];
            self.tell("response.reasoning_summary_text.done", text, out);
            let [id, output, summary] = summary_place(&item.id, index);
            let done = [id, output, summary, ("part", item.summary())];
            self.tell("response.reasoning_summary_part.done", done, out);
        }
        self.whole_item(item.json(status, self.has_summary), out);
    }

    fn whole_item(&mut self, item: Json, out: &mut Vec<Event>) {
        let index = self.items.len().into();
        self.items.push(item.clone());
        let members = [("output_index", index), ("item", item)];
        self.tell("response.output_item.done", members, out);
    }

    /// More of the text of the call that is told.
    fn more_of_call(&mut self, call: &Called, is_over: bool, out: &mut Vec<Event>) {
        let Some(item) = &mut self.call else { return };
        let more = item.more(call, is_over);
        let id = item.id().to_owned();
        if let (Some((delta, ..)), false) = (item.events(), more.is_empty()) {
            let [item_id, output, _] = place(&id, self.items.len());
            let members = [item_id, output, ("delta", (&more).into())];
            self.tell(delta, members, out);
        }
    }
}

/// What is known of a response at its end only.
#[derive(Default)]
struct Ended {
    at: Option<u64>,
    error: Option<Json>,
    details: Option<Json>,
    usage: Option<Json>,
}

/// Whether there would be more of an answer.
fn is_cut(finish: &Finish) -> bool {
    matches!(finish, Finish::Length | Finish::ContextFull)
}

/// Where a text stands.
fn place(id: &str, index: usize) -> [(&'static str, Json); 3] {
    [
        ("item_id", id.into()),
        ("output_index", index.into()),
        ("content_index", 0_usize.into()),
    ]
}

/// Where a summary stands.
fn summary_place(id: &str, index: usize) -> [(&'static str, Json); 3] {
    let [id, output, (_, content)] = place(id, index);
    [id, output, ("summary_index", content)]
}

fn part(item: &Item, index: usize) -> [(&'static str, Json); 4] {
    let [id, output, content] = place(&item.id, index);
    [id, output, content, ("part", item.part())]
}

impl Dialect for Response {
    fn call_prefix(&self) -> &'static str {
        "call_"
    }

    fn whole(&mut self, answers: &[Answer], total: &Done) -> Json {
        let none = Answer::default();
        self.ended(answers.first().unwrap_or(&none), total).1
    }

    fn failure(&mut self, fault: &Fault) -> Json {
        self.failed_json(fault)
    }

    fn begin(&mut self, _: &Ask, out: &mut Vec<Event>) {
        let json = self.json("in_progress", Ended::default());
        self.tell("response.created", [("response", json)], out);
        self.waiting(out);
    }

    fn waiting(&mut self, out: &mut Vec<Event>) {
        let json = self.json("in_progress", Ended::default());
        self.tell("response.in_progress", [("response", json)], out);
    }

    fn reasoning(&mut self, more: &str, out: &mut Vec<Event>) {
        self.more(Kind::Reasoning, more, &[], out);
    }

    fn text(&mut self, more: &str, logprobs: &[TokenLogprob], out: &mut Vec<Event>) {
        self.more(Kind::Message, more, logprobs, out);
    }

    fn call_begin(&mut self, call: &Called, out: &mut Vec<Event>) {
        self.close("completed", out);
        let kind = self.kinds.iter().find(|(name, _)| *name == call.name);
        let kind = kind.map_or(ToolKind::Function, |(_, kind)| kind.clone());
        let id = ids::id(CallItem::prefix(&kind));
        let item = CallItem::new(kind, id);
        let added = [
            ("output_index", self.items.len().into()),
            ("item", item.json(call, "in_progress")),
        ];
        self.tell("response.output_item.added", added, out);
        self.call = Some(item);
    }

    fn call_arguments(&mut self, call: &Called, _: &str, out: &mut Vec<Event>) {
        self.more_of_call(call, false, out);
    }

    fn call_end(&mut self, call: &Called, out: &mut Vec<Event>) {
        self.more_of_call(call, true, out);
        let Some(item) = self.call.take() else { return };
        if let Some((_, done, text)) = item.events() {
            let [item_id, output, _] = place(item.id(), self.items.len());
            let name = ("name", item.name(call).into());
            let members = [item_id, output, name, (text, item.text().into())];
            self.tell(done, members, out);
        }
        let status = match call.cut {
            None => "completed",
            Some(_) => "incomplete",
        };
        self.whole_item(item.json(call, status), out);
    }

    fn end_answer(&mut self, answer: &Answer, done: &Done, out: &mut Vec<Event>) {
        let status = match is_cut(&done.finish) {
            true => "incomplete",
            false => "completed",
        };
        self.close(status, out);
        let (event, json) = self.ended(answer, done);
        self.tell(event, [("response", json)], out);
    }

    fn failed(&mut self, fault: &Fault, out: &mut Vec<Event>) {
        let json = self.failed_json(fault);
        self.tell("response.failed", [("response", json)], out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of one call.
    fn told(kind: ToolKind, name: &str, pieces: &[&str]) -> (Vec<&'static str>, String) {
        let mut response = Response::new("m", Vec::new()).with_tools(vec![("t".into(), kind)]);
        let mut call = Called {
            id: "call_1".into(),
            name: name.into(),
            ..Called::default()
        };
        let mut out = Vec::new();
        response.call_begin(&call, &mut out);
        for piece in pieces {
            call.arguments += piece;
            response.call_arguments(&call, piece, &mut out);
        }
        response.call_end(&call, &mut out);
        let item = response.items[0].to_string();
        let (_, item) = item.split_once("\"type\":").unwrap();
        (
            out.iter().map(|event| event.name).collect(),
            item.to_owned(),
        )
    }

    #[test]
    fn calls_are_told_as_their_tools_were_declared() {
        let (added, done) = ("response.output_item.added", "response.output_item.done");
        let input = ["{", "\"input\": ", "\"*** Begin", " Patch\\n\"", "}"];
        let custom = [
            added,
            "response.custom_tool_call_input.delta",
            "response.custom_tool_call_input.delta",
            "response.custom_tool_call_input.done",
            done,
        ];
        let (names, item) = told(ToolKind::Custom, "t", &input);
        assert_eq!(names, custom);
        let status = "\"status\":\"completed\",\"call_id\":\"call_1\"";
        assert_eq!(
            item,
            format!(
                "\"custom_tool_call\",{status},\"name\":\"t\",\"input\":\"*** Begin Patch\\n\"}}"
            )
        );
        // Not the tool that was declared as custom.
        let (names, item) = told(ToolKind::Custom, "other", &["{", "}"]);
        let deltas = names
            .iter()
            .filter(|name| name.ends_with("arguments.delta"));
        assert_eq!((deltas.count(), names.len()), (2, 5));
        let function = "\"function_call\",";
        assert_eq!(
            item,
            format!("{function}{status},\"name\":\"other\",\"arguments\":\"{{}}\"}}")
        );
        let inner = ToolKind::Namespace {
            namespace: "mcp__x".into(),
            name: "look".into(),
        };
        let (_, item) = told(inner, "t", &["{}"]);
        assert_eq!(
            item,
            format!(
                "{function}{status},\"name\":\"look\",\"namespace\":\"mcp__x\",\"arguments\":\"{{}}\"}}"
            )
        );
        let (names, item) = told(ToolKind::LocalShell, "t", &["{\"command\": ", "[\"ls\"]}"]);
        assert_eq!(names, [added, done]);
        assert_eq!(
            item,
            format!(
                "\"local_shell_call\",{status},\"action\":{{\"type\":\"exec\",\"command\":[\"ls\"],\"env\":{{}}}}}}"
            )
        );
    }

    #[test]
    fn a_request_is_repeated_once() {
        let request = vec![("store", true.into()), ("tools", list(["x".into()]))];
        let json = Response::new("m", request).json("in_progress", Ended::default());
        let json = json.to_string();
        for (name, value) in [
            ("store", "true"),
            ("tools", "[\"x\"]"),
            ("top_logprobs", "0"),
        ] {
            assert!(json.contains(&format!("\"{name}\":{value}")), "{json}");
            assert_eq!(json.matches(&format!("\"{name}\":")).count(), 1);
        }
    }
}
