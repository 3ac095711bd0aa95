//! `POST /v1/responses`: what a request says. Nothing is kept between requests: each brings the whole conversation.
//! Source: OpenAI's API reference, "Responses".

use super::conversation::{Conversation, Said, Turn, content};
use super::reply::Question;
use super::response::Response;
use super::spot::Spot;
use super::{Api, format, openai, params};
use crate::error::Result;
use crate::json::Node;
use crate::json::object::{Json, list, object};
use crate::serve::ask::Ask;

/// Reads a request.
pub fn question(api: &Api, request: &Spot<'_>) -> Result<Question> {
    let at = &request.node;
    for name in ["previous_response_id", "conversation"] {
        if let Some(node) = at.get(name)? {
            return Err(
                node.error("not supported: no answers are kept here, send all of the input")
            );
        }
    }
    let (effort, summary) = match at.get("reasoning")? {
        Some(reasoning) => {
            let summary = params::text(&reasoning, "summary")?;
            (params::effort(&reasoning, "effort")?, summary)
        }
        None => (None, None),
    };
    let mut conversation = Conversation::new(effort.unwrap_or(api.served.thinking));
    if let Some(text) = params::text(at, "instructions")? {
        conversation.push(&at.need("instructions")?, Turn::System(text.to_owned()))?;
    }
    let input = at.need("input")?;
    match input.text() {
        Ok(text) => conversation.push(&input, Turn::User(text.to_owned()))?,
        Err(_) => {
            let items = input.items().map_err(|_| input.wrong("string or array"))?;
            for item in items {
                push(&item, &mut conversation)?;
            }
        }
    }
    openai::tools(request, true, &mut conversation)?;
    let text = request.get("text")?;
    let form = text.map(|text| text.get("format")).transpose()?.flatten();
    let warning = format::read(form, &mut conversation)?;
    let ask = Ask {
        max_tokens: params::positive(at, &["max_output_tokens"])?,
        sampling: params::sampling(at, api.served.sampling)?,
        ..conversation.ask(&api.tokenizer)?
    };
    // What the answer repeats of the request.
    let repeated = |name: &str, otherwise: Json| -> Result<Json> {
        let found = request.get(name)?;
        Ok(found.map_or(otherwise, |spot| Json::written(spot.text)))
    };
    let request = vec![
        ("instructions", repeated("instructions", Json::NULL)?),
        ("max_output_tokens", ask.max_tokens.into()),
        ("metadata", repeated("metadata", object([]))?),
        ("parallel_tool_calls", true.into()),
        ("temperature", f64::from(ask.sampling.temperature).into()),
        ("tool_choice", repeated("tool_choice", "auto".into())?),
        ("tools", repeated("tools", list([]))?),
        ("top_p", f64::from(ask.sampling.top_p).into()),
    ];
    Ok(Question {
        asks: vec![ask],
        streams: params::flag(at, "stream")?,
        warnings: warning.into_iter().collect(),
        dialect: Box::new(
            Response::new(&api.served.model, request)
                .with_summary(summary.is_some_and(|summary| summary != "none")),
        ),
    })
}

/// Adds an item: reasoning, text and calls that follow each other are one turn of the model.
fn push(item: &Node<'_>, conversation: &mut Conversation) -> Result<()> {
    let has_answered = |said: &Said| !said.content.is_empty() || !said.calls.is_empty();
    match params::text(item, "type")?.unwrap_or("message") {
        "message" => {
            let (role, text) = (item.need("role")?, content(&item.need("content")?)?);
            match role.text()? {
                "system" | "developer" => conversation.push(item, Turn::System(text)),
                "user" => conversation.push(item, Turn::User(text)),
                "assistant" => {
                    conversation.said(item, has_answered)?.content = text;
                    Ok(())
                }
                other => {
                    let expected = "expected system, developer, user or assistant";
                    Err(role.error(&format!("found '{other}', {expected}")))
                }
            }
        }
        "reasoning" => {
            let said = conversation.said(item, has_answered)?;
            if let Some(parts) = item.get("content")? {
                for part in parts.items()? {
                    said.reasoning += part.need("text")?.text()?;
                }
            }
            Ok(())
        }
        "function_call" => {
            let (id, name) = (item.need("call_id")?.text()?, item.need("name")?.text()?);
            let call = openai::call(id, name, &item.need("arguments")?)?;
            conversation.said(item, |_| false)?.push(item, call)
        }
        "function_call_output" => {
            let id = item.need("call_id")?.text()?.to_owned();
            let body = content(&item.need("output")?)?;
            conversation.push(item, Turn::Result { id, body })
        }
        other => {
            let expected = "expected message, reasoning, function_call or function_call_output";
            Err(item
                .need("type")?
                .error(&format!("found '{other}', {expected}")))
        }
    }
}
