//! `POST /v1/messages` and `/v1/messages/count_tokens`: what a request says. Source: Anthropic's API reference,
//! "Messages".

use super::conversation::{Conversation, Said, Turn, content, part_text};
use super::message::Message;
use super::reply::Question;
use super::spot::Spot;
use super::{Api, format, params};
use crate::engine::chat::{Call, Thinking, Tool};
use crate::error::Result;
use crate::serve::ask::Ask;

/// Reads a request.
pub fn question(api: &Api, request: &Spot<'_>) -> Result<Question> {
    let at = &request.node;
    at.need("max_tokens")?;
    let (conversation, warning) = conversation(api, request)?;
    let ask = Ask {
        max_tokens: params::positive(at, &["max_tokens"])?,
        sampling: params::sampling(at, api.served.sampling)?,
        stops: params::stops(at, "stop_sequences")?,
        ..conversation.ask(&api.tokenizer)?
    };
    Ok(Question {
        streams: params::flag(at, "stream")?,
        warnings: warning.into_iter().collect(),
        dialect: Box::new(Message::new(&api.served.model, ask.tokens.len())),
        ask,
    })
}

/// Tokens of the prompt that a request would have.
pub fn count(api: &Api, request: &Spot<'_>) -> Result<usize> {
    let (conversation, _) = conversation(api, request)?;
    Ok(conversation.tokens(&api.tokenizer)?.len())
}

/// The conversation, and what the client should know of it.
fn conversation(api: &Api, request: &Spot<'_>) -> Result<(Conversation, Option<String>)> {
    let at = &request.node;
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
        let text = without_billing(content(&system)?);
        conversation.push(&system, Turn::System(text))?;
    }
    let messages = request.need("messages")?;
    for message in messages.items()? {
        let role = message.node.need("role")?;
        match role.text()? {
            "user" => push_user(&message, &mut conversation)?,
            "system" => {
                let text = content(&message.node.need("content")?)?;
                conversation.push(&message.node, Turn::System(text))?;
            }
            "assistant" => {
                let said = said(&message)?;
                conversation.push(&message.node, Turn::Assistant(said))?;
            }
            other => {
                let expected = "expected user, assistant or system";
                return Err(role.error(&format!("found '{other}', {expected}")));
            }
        }
    }
    if let Some(Turn::Assistant(_)) | None = conversation.last() {
        let fault = "expected the last message to be the user's: begun answers are not supported";
        return Err(messages.node.error(fault));
    }
    push_tools(request, &mut conversation)?;
    let form = config.map(|config| config.get("format")).transpose()?;
    let warning = format::read(form.flatten(), &mut conversation)?;
    Ok((conversation, warning))
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
fn push_user(message: &Spot<'_>, conversation: &mut Conversation) -> Result<()> {
    let body = message.node.need("content")?;
    if let Ok(text) = body.text() {
        return conversation.push(&body, Turn::User(text.to_owned()));
    }
    let blocks = body.items().map_err(|_| body.wrong("string or array"))?;
    for block in blocks {
        let turn = match block.need("type")?.text()? {
            "tool_result" => Turn::Result {
                id: block.need("tool_use_id")?.text()?.to_owned(),
                body: match block.get("content")? {
                    Some(body) => content(&body)?,
                    None => String::new(),
                },
            },
            _ => Turn::User(part_text(&block)?.to_owned()),
        };
        conversation.push(&block, turn)?;
    }
    Ok(())
}

/// What the model said.
fn said(message: &Spot<'_>) -> Result<Said> {
    let mut said = Said::default();
    let body = message.need("content")?;
    if let Ok(text) = body.node.text() {
        said.content = text.to_owned();
        return Ok(said);
    }
    let blocks = body
        .items()
        .map_err(|_| body.node.wrong("string or array"))?;
    for block in blocks {
        let at = &block.node;
        match at.need("type")?.text()? {
            "thinking" => said.reasoning += at.need("thinking")?.text()?,
            // Only its writer can read it.
            "redacted_thinking" => {}
            "tool_use" => {
                let (id, name) = (at.need("id")?.text()?, at.need("name")?.text()?);
                let input = block.need("input")?;
                let call = Call::from_json(id, name, input.text);
                said.push(at, call.map_err(|e| input.node.error(&e.to_string()))?)?;
            }
            _ => said.content += part_text(at)?,
        }
    }
    Ok(said)
}

fn push_tools(request: &Spot<'_>, conversation: &mut Conversation) -> Result<()> {
    if let Some(choice) = request.node.get("tool_choice")? {
        let kind = choice.need("type")?;
        match kind.text()? {
            "none" => return Ok(()),
            "auto" => {}
            other => return Err(kind.error(&format!("found '{other}', expected none or auto"))),
        }
    }
    let Some(tools) = request.get("tools")? else {
        return Ok(());
    };
    for spot in tools.items()? {
        let at = &spot.node;
        if let Some(kind) = at.get("type")?
            && kind.text()? != "custom"
        {
            return Err(kind.error(&format!("found '{}', expected custom", kind.text()?)));
        }
        let name = at.need("name")?.text()?;
        let schema = spot.need("input_schema")?;
        let tool = Tool::new(name, params::text(at, "description")?, Some(schema.text));
        conversation.push_tool(at, tool.map_err(|e| at.error(&e.to_string()))?)?;
    }
    Ok(())
}
