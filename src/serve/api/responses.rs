//! `POST /v1/responses` and `/v1/responses/input_tokens`: what a request says. Nothing is kept between requests: each
//! brings the whole conversation. Source: OpenAI's API reference, "Responses"; the items that Codex sends.

use super::conversation::{Conversation, Said, Turn};
use super::fault::{Family, Outcome};
use super::history::{content, items, member, split_reasoning, string, word};
use super::reply::Question;
use super::response::Response;
use super::spot::Spot;
use super::{Api, format, history, openai, params, tools};
use crate::error::Result;
use crate::json::object::{Json, list, object};
use crate::json::{Node, Value};
use crate::serve::ask::Ask;

/// Fields that are obeyed, besides [`params::SAMPLERS`].
const KNOWN: &[&str] = &[
    "input",
    "instructions",
    "max_output_tokens",
    "stream",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "text",
    "response_format",
    "reasoning",
    "top_logprobs",
    "background",
];

/// Fields that ask for something that is kept here between requests, which nothing is.
const KEPT: [&str; 3] = ["previous_response_id", "conversation", "prompt"];

/// Reads a request.
pub fn question(api: &Api, request: &Spot<'_>) -> Outcome<Question> {
    let at = &request.node;
    let mut conversation = conversation(api, request)?;
    let ask = Ask {
        max_tokens: params::count(at, &["max_output_tokens"])?,
        sampling: params::sampling(at, api.served.sampling)?,
        adjust: params::adjust(at, &api.tokenizer)?,
        logprobs: logprobs(at)?,
        ..conversation.ask(&api.tokenizer)?
    };
    // What the answer repeats of the request.
    let repeated = |name: &str, otherwise: Json| -> Result<Json> {
        let found = request.get(name)?;
        Ok(found.map_or(otherwise, |spot| Json::written(spot.text)))
    };
    let request = vec![
        ("instructions", repeated("instructions", Json::NULL)?),
        (
            "max_output_tokens",
            ask.max_tokens.filter(|n| *n < usize::MAX).into(),
        ),
        ("metadata", repeated("metadata", object([]))?),
        ("parallel_tool_calls", (!conversation.choice.single).into()),
        ("temperature", f64::from(ask.sampling.temperature).into()),
        ("tool_choice", repeated("tool_choice", "auto".into())?),
        ("tools", repeated("tools", list([]))?),
        ("top_p", f64::from(ask.sampling.top_p).into()),
        ("top_logprobs", ask.logprobs.unwrap_or(0).into()),
        ("user", repeated("user", Json::NULL)?),
    ];
    let summary = member(at, "reasoning");
    let summary = summary.and_then(|at| string(&at, "summary"));
    Ok(Question {
        asks: vec![ask],
        streams: params::flag(at, "stream")?,
        warnings: conversation.notes.into_list(),
        dialect: Box::new(
            Response::new(&api.served.model, request)
                .with_tools(conversation.tools.kinds())
                .with_summary(summary.is_some_and(|summary| summary != "none")),
        ),
    })
}

/// How many alternatives are wanted with each token, if tokens are.
fn logprobs(at: &Node<'_>) -> Result<Option<usize>> {
    let includes = items(at, "include");
    let wants = |node: &Node<'_>| node.text() == Ok("message.output_text.logprobs");
    match at.get("top_logprobs")? {
        Some(n) => openai::n_top(&n, openai::MAX_TOP).map(Some),
        None => Ok(includes.iter().any(wants).then_some(0)),
    }
}

/// Tokens of the prompt that a request would have.
pub fn count(api: &Api, request: &Spot<'_>) -> Outcome<usize> {
    Ok(conversation(api, request)?.tokens(&api.tokenizer)?.len())
}

fn conversation(api: &Api, request: &Spot<'_>) -> Result<Conversation> {
    let at = &request.node;
    for name in KEPT {
        if let Some(node) = at.get(name)?
            && (name != "prompt" || node.text().is_err())
        {
            return Err(
                node.error("not supported: no answers are kept here, send all of the input")
            );
        }
    }
    if let Some(node) = at.get("background")?
        && node.flag()?
    {
        return Err(node.error("not supported: no answers are kept here, expected false"));
    }
    let effort = match at.get("reasoning")? {
        Some(reasoning) => params::effort(&reasoning, "effort")?,
        None => None,
    };
    let mut conversation = Conversation::new(effort.unwrap_or(api.served.thinking));
    if member(at, "instructions").is_some() {
        let text = content(at, "instructions", &mut conversation.notes);
        conversation.push(Turn::System(text));
    }
    let input = request.need("input")?;
    match input.node.text() {
        Ok(text) => conversation.push(Turn::User(text.to_owned())),
        Err(_) => {
            let items = input
                .items()
                .map_err(|_| input.node.wrong("string or array"))?;
            items.for_each(|item| push(&item, &mut conversation));
        }
    }
    if !conversation.has_input() {
        // Codex probes a server with an empty list.
        conversation.push(Turn::User(String::new()));
    }
    tools::read(request, Family::OpenAi, &mut conversation)?;
    let text = request.get("text")?;
    if let Some(text) = &text
        && string(&text.node, "verbosity").is_some_and(|verbosity| verbosity != "medium")
    {
        conversation
            .notes
            .add("text.verbosity: not supported, ignored");
    }
    let form = text.map(|text| text.get("format")).transpose()?.flatten();
    let older = request.get("response_format")?;
    format::read(request, form.or(older), &mut conversation)?;
    params::name_unknown(at, KNOWN, &mut conversation.notes)?;
    Ok(conversation)
}

/// Adds an item: reasoning, text and calls that follow each other are one turn of the model.
fn push(item: &Spot<'_>, conversation: &mut Conversation) {
    let has_answered = |said: &Said| !said.content.is_empty() || !said.calls.is_empty();
    let at = &item.node;
    let kind = match (string(at, "type"), at.text()) {
        (Some(kind), _) => kind,
        (None, Ok(_)) => "text",
        (None, Err(_)) => "message",
    };
    match kind {
        "message" | "text" => push_message(at, conversation, has_answered),
        "reasoning" => {
            let parts = match items(at, "content") {
                parts if parts.is_empty() => items(at, "summary"),
                parts => parts,
            };
            let texts: String = parts
                .iter()
                .filter_map(|part| string(part, "text"))
                .collect();
            conversation.said(has_answered).reasoning += &texts;
        }
        kind if kind.ends_with("_output") => push_output(item, kind, conversation),
        kind if kind.ends_with("_call") && push_call(item, kind, conversation) => {}
        other => conversation.notes.add(format!(
            "input: {} left out, this model cannot read it",
            word(other)
        )),
    }
}

fn push_message(at: &Node<'_>, conversation: &mut Conversation, is_over: fn(&Said) -> bool) {
    let text = match at.text() {
        Ok(text) => text.to_owned(),
        Err(_) => content(at, "content", &mut conversation.notes),
    };
    match string(at, "role").unwrap_or("user") {
        "system" | "developer" => conversation.push(Turn::System(text)),
        "assistant" => {
            let said = conversation.said(is_over);
            said.content = text;
            split_reasoning(said);
        }
        role => {
            if role != "user" {
                let note = format!("input: role '{}' taken as the user's", word(role));
                conversation.notes.add(note);
            }
            conversation.push(Turn::User(text));
        }
    }
}

/// Adds a call; false when the client did not make it and the model cannot be shown it.
fn push_call(item: &Spot<'_>, kind: &str, conversation: &mut Conversation) -> bool {
    let at = &item.node;
    let id = string(at, "call_id").or_else(|| string(at, "id"));
    let name = string(at, "name");
    let get = |name: &str| item.get(name).ok().flatten();
    let call = match kind {
        "function_call" | "mcp_call" => {
            let name = tools::in_namespace(string(at, "namespace"), name.unwrap_or_default());
            history::call(id, Some(&name), get("arguments"))
        }
        "custom_tool_call" => {
            let name = tools::in_namespace(string(at, "namespace"), name.unwrap_or_default());
            tools::custom_call(id, Some(&name), string(at, "input").unwrap_or_default())
        }
        // Tools of the client that have a form of their own.
        "local_shell_call" => history::call(id, Some(tools::LOCAL_SHELL), get("action")),
        "shell_call" => history::call(id, Some("shell"), get("action")),
        "apply_patch_call" => history::call(id, Some("apply_patch"), get("operation")),
        _ => return false,
    };
    conversation.said(|_| false).push(call);
    if kind == "mcp_call" {
        let body = content(at, "output", &mut conversation.notes);
        conversation.push_result(id, None, body);
    }
    true
}

/// Adds what a call gave.
fn push_output(item: &Spot<'_>, kind: &str, conversation: &mut Conversation) {
    let at = &item.node;
    let output = item.get("output").ok().flatten();
    let body = match &output {
        // An object of any form is shown as it is.
        Some(spot)
            if matches!(spot.node.value(), Value::Object(_))
                && string(&spot.node, "type").is_none() =>
        {
            spot.text.to_owned()
        }
        _ => content(at, "output", &mut conversation.notes),
    };
    if output.is_none() && kind != "function_call_output" {
        let note = format!("input: {} left out, it has no output", word(kind));
        return conversation.notes.add(note);
    }
    let failed = matches!(string(at, "status"), Some("failed" | "incomplete"));
    let id = string(at, "call_id").or_else(|| string(at, "id"));
    conversation.push_result(id, None, history::result(body, failed));
}
