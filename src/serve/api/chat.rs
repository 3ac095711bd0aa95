//! `POST /v1/chat/completions`: what a request says. Source: OpenAI's API reference, "Chat Completions"; `thinking` as
//! DeepSeek's API has it.

use super::chat_answer::ChatAnswer;
use super::conversation::{Conversation, Said, Turn, content};
use super::reply::Question;
use super::spot::Spot;
use super::{Api, format, openai, params};
use crate::engine::chat::{Call, Thinking};
use crate::error::Result;
use crate::json::Node;
use crate::serve::ask::Ask;

/// The most alternatives to a token that can be asked for.
const MAX_TOP: u64 = 20;

/// Reads a request.
pub fn question(api: &Api, request: &Spot<'_>) -> Result<Question> {
    let at = &request.node;
    params::one_answer(at)?;
    let mut conversation = Conversation::new(thinking(at, api.served.thinking)?);
    for message in at.need("messages")?.items()? {
        let turn = turn(&message)?;
        conversation.push(&message, turn)?;
    }
    openai::tools(request, false, &mut conversation)?;
    let warning = format::read(request.get("response_format")?, &mut conversation)?;
    let logprobs = match (params::flag(at, "logprobs")?, at.get("top_logprobs")?) {
        (true, Some(n)) => Some(openai::n_top(&n, MAX_TOP)?),
        (true, None) => Some(0),
        (false, _) => None,
    };
    let ask = Ask {
        max_tokens: params::positive(at, &["max_completion_tokens", "max_tokens"])?,
        sampling: params::sampling(at, api.served.sampling)?,
        stops: params::stops(at, "stop")?,
        logprobs,
        ..conversation.ask(&api.tokenizer)?
    };
    Ok(Question {
        asks: vec![ask],
        streams: params::flag(at, "stream")?,
        warnings: warning.into_iter().collect(),
        dialect: Box::new(ChatAnswer::new(
            &api.served.model,
            openai::wants_usage(at)?,
            logprobs.is_some(),
        )),
    })
}

/// Whether the model reasons: `thinking` and the template's switches say whether, `reasoning_effort` says how much.
fn thinking(at: &Node<'_>, default: Thinking) -> Result<Thinking> {
    let mut on = params::thinking(at)?;
    if let Some(template) = at.get("chat_template_kwargs")? {
        for name in ["enable_thinking", "thinking"] {
            if let Some(flag) = template.get(name)? {
                on = Some(flag.flag()?);
            }
        }
    }
    let effort = params::effort(at, "reasoning_effort")?;
    Ok(match (on, effort) {
        (Some(false), _) => Thinking::Off,
        (Some(true), Some(Thinking::Max)) => Thinking::Max,
        (Some(true), _) => Thinking::On,
        (None, effort) => effort.unwrap_or(default),
    })
}

fn turn(message: &Node<'_>) -> Result<Turn> {
    let said = || match message.get("content")? {
        Some(at) => content(&at),
        None => Ok(String::new()),
    };
    let role = message.need("role")?;
    Ok(match role.text()? {
        "system" | "developer" => Turn::System(content(&message.need("content")?)?),
        "user" => Turn::User(content(&message.need("content")?)?),
        "tool" => Turn::Result {
            id: message.need("tool_call_id")?.text()?.to_owned(),
            body: said()?,
        },
        "assistant" => {
            let mut answer = Said {
                reasoning: params::text(message, "reasoning_content")?
                    .unwrap_or("")
                    .to_owned(),
                content: said()?,
                calls: Vec::new(),
            };
            if let Some(calls) = message.get("tool_calls")? {
                for at in calls.items()? {
                    answer.push(&at, call(&at)?)?;
                }
            }
            Turn::Assistant(answer)
        }
        other => {
            let expected = "expected system, developer, user, assistant or tool";
            return Err(role.error(&format!("found '{other}', {expected}")));
        }
    })
}

fn call(at: &Node<'_>) -> Result<Call> {
    let function = at.need("function")?;
    let (id, name) = (at.need("id")?.text()?, function.need("name")?.text()?);
    openai::call(id, name, &function.need("arguments")?)
}
