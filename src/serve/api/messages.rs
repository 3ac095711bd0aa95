//! `POST /v1/messages` and `/v1/messages/count_tokens`: what a request says. Source: Anthropic's API reference,
//! "Messages".

use super::conversation::{Conversation, Said, Turn};
use super::fault::{Family, Fault, Outcome};
use super::history::{content, items, member, part, split_reasoning, string, text, word};
use super::message::Message;
use super::reply::Question;
use super::spot::Spot;
use super::{Api, format, history, params, tools};
use crate::engine::chat::Thinking;
use crate::json::Node;
use crate::serve::ask::Ask;

/// Fields that are obeyed, besides [`params::SAMPLERS`].
const KNOWN: &[&str] = &[
    "messages",
    "system",
    "max_tokens",
    "stop_sequences",
    "stream",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "output_format",
];

/// Reads a request.
pub fn question(api: &Api, request: &Spot<'_>) -> Outcome<Question> {
    let at = &request.node;
    let mut conversation = conversation(api, request)?;
    let ask = Ask {
        max_tokens: params::count(at, &["max_tokens"])?,
        sampling: params::sampling(at, api.served.sampling)?,
        adjust: params::adjust(at, &api.tokenizer)?,
        stops: params::stops(at, "stop_sequences")?,
        ..conversation.ask(&api.tokenizer)?
    };
    Ok(Question {
        streams: params::flag(at, "stream")?,
        warnings: conversation.notes.into_list(),
        dialect: Box::new(Message::new(&api.served.model)),
        asks: vec![ask],
    })
}

/// Tokens of the prompt that a request would have.
pub fn count(api: &Api, request: &Spot<'_>) -> Outcome<usize> {
    Ok(conversation(api, request)?.tokens(&api.tokenizer)?.len())
}

fn conversation(api: &Api, request: &Spot<'_>) -> Outcome<Conversation> {
    let at = &request.node;
    if at.get("thread")?.is_some() {
        return Err(Fault::Thread);
    }
    let config = request.get("output_config")?;
    let effort = match &config {
        Some(config) => params::effort(&config.node, "effort")?,
        None => None,
    };
    let mut conversation = Conversation::new(match (params::thinking(at)?, effort) {
        (Some(true), Some(Thinking::Max)) => Thinking::Max,
        (Some(true), _) => Thinking::On,
        (Some(false), _) => Thinking::Off,
        (None, _) => api.served.thinking,
    });
    if let Some(system) = at.get("system")? {
        let text = without_billing(text(&system, &mut conversation.notes));
        conversation.push(Turn::System(text));
    }
    let messages = request.need("messages")?;
    let mut n_messages = 0;
    for message in messages.items()? {
        push(&message, &mut conversation);
        n_messages += 1;
    }
    if n_messages == 0 {
        return Err(messages
            .node
            .error("at least one message is required")
            .into());
    }
    tools::read(request, Family::Anthropic, &mut conversation)?;
    let form = config
        .map(|config| config.get("format"))
        .transpose()?
        .flatten();
    let older = request.get("output_format")?;
    format::read(request, form.or(older), &mut conversation)?;
    params::name_unknown(at, KNOWN, &mut conversation.notes)?;
    let thinking = at.get("thinking")?;
    if thinking.is_some_and(|at| member(&at, "budget_tokens").is_some()) {
        conversation.notes.add("thinking.budget_tokens: not held");
    }
    Ok(conversation)
}

/// Adds a message, whatever it is.
fn push(message: &Spot<'_>, conversation: &mut Conversation) {
    let at = &message.node;
    match string(at, "role").unwrap_or("user") {
        "assistant" => {
            let said = said(message, conversation);
            conversation.push(Turn::Assistant(said));
        }
        "system" | "developer" => {
            let text = content(at, "content", &mut conversation.notes);
            conversation.push(Turn::System(text));
        }
        role => {
            if role != "user" {
                let note = format!("messages: role '{}' taken as the user's", word(role));
                conversation.notes.add(note);
            }
            push_user(at, conversation);
        }
    }
}

/// What Claude Code puts in front of its system text for the billing of Anthropic's own service, in a block of one line. It
/// says nothing to the model, and differs from one conversation or request to the next: with it no beginning of a prompt
/// would come back. Seen in Claude Code 2.1.197; `cch=` in it changes with each request of others (anthropics/claude-code,
/// issue 68900).
const BILLING: &str = "x-anthropic-billing-header:";

/// A system text without that line.
fn without_billing(system: String) -> String {
    if !system.starts_with(BILLING) {
        return system;
    }
    let rest = system.split_once('\n').map_or("", |(_, rest)| rest);
    rest.trim_start_matches('\n').to_owned()
}

/// Adds what the user and the tools said.
fn push_user(message: &Node<'_>, conversation: &mut Conversation) {
    let blocks = items(message, "content");
    if blocks.is_empty() {
        let text = content(message, "content", &mut conversation.notes);
        return conversation.push(Turn::User(text));
    }
    for block in blocks {
        match string(&block, "type") {
            Some("tool_result" | "mcp_tool_result") => {
                let body = content(&block, "content", &mut conversation.notes);
                let failed = member(&block, "is_error");
                let failed = failed.is_some_and(|flag| flag.flag() == Ok(true));
                let body = history::result(body, failed);
                conversation.push_result(string(&block, "tool_use_id"), None, body);
            }
            _ => {
                let text = part(&block, &mut conversation.notes);
                conversation.push(Turn::User(text));
            }
        }
    }
}

/// What the model said.
fn said(message: &Spot<'_>, conversation: &mut Conversation) -> Said {
    let (mut said, notes) = (Said::default(), &mut conversation.notes);
    let body = message.get("content").ok().flatten();
    let blocks = body.as_ref().and_then(|body| body.items().ok());
    let Some(blocks) = blocks else {
        said.content = content(&message.node, "content", notes);
        split_reasoning(&mut said);
        return said;
    };
    for block in blocks {
        let at = &block.node;
        match string(at, "type") {
            Some("thinking") => said.reasoning += string(at, "thinking").unwrap_or_default(),
            Some("tool_use" | "mcp_tool_use") => {
                let input = block.get("input").ok().flatten();
                said.push(history::call(string(at, "id"), string(at, "name"), input));
            }
            // Done by a server that this one is not; what it found follows as text.
            Some("server_tool_use") => notes.add("server_tool_use: left out"),
            _ => said.content += &part(at, notes),
        }
    }
    said
}
