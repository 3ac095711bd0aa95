//! `POST /v1/chat/completions`: what a request says. Source: OpenAI's API reference, "Chat Completions"; `thinking` as
//! DeepSeek's API has it; further fields of llama.cpp, vLLM and OpenRouter that clients of all of them send.

use super::chat_answer::ChatAnswer;
use super::conversation::{Conversation, Said, Turn};
use super::fault::{Family, Outcome};
use super::history::{content, member, reasoning, split_reasoning, string, word};
use super::reply::Question;
use super::spot::Spot;
use super::{Api, format, history, openai, params, tools};
use crate::engine::chat::{Call, Thinking};
use crate::error::Result;
use crate::json::Node;
use crate::serve::ask::Ask;

/// Fields that are obeyed, besides [`params::SAMPLERS`].
const KNOWN: &[&str] = &[
    "messages",
    "max_completion_tokens",
    "max_tokens",
    "n_predict",
    "n",
    "stop",
    "stream",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
    "response_format",
    "json_schema",
    "guided_json",
    "structured_outputs",
    "format",
    "logprobs",
    "top_logprobs",
    "reasoning_effort",
    "reasoning",
    "thinking",
    "enable_thinking",
    "chat_template_kwargs",
    "continue_final_message",
];

/// Reads a request.
pub fn question(api: &Api, request: &Spot<'_>) -> Outcome<Question> {
    let at = &request.node;
    let mut conversation = Conversation::new(thinking(at, api.served.thinking)?);
    let messages = request.need("messages")?;
    for message in messages.items()? {
        push(&message, &mut conversation);
    }
    if conversation.is_empty() {
        return Err(messages
            .node
            .error("found none, expected at least one message")
            .into());
    }
    if let Some(flag) = at.get("continue_final_message")? {
        conversation.continues = flag.flag()?;
    }
    tools::read(request, Family::OpenAi, &mut conversation)?;
    let has_functions = at.get("functions")?.is_some();
    conversation.choice.single |= has_functions;
    format::read(request, request.get("response_format")?, &mut conversation)?;
    params::name_unknown(at, KNOWN, &mut conversation.notes)?;
    let logprobs = logprobs(at)?;
    let ask = Ask {
        max_tokens: params::count(at, &["max_completion_tokens", "max_tokens", "n_predict"])?,
        sampling: params::sampling(at, api.served.sampling)?,
        adjust: params::adjust(at, &api.tokenizer)?,
        stops: params::stops(at, "stop")?,
        logprobs,
        ..conversation.ask(&api.tokenizer)?
    };
    Ok(Question {
        asks: ask.repeated(params::n_answers(at)?).collect(),
        streams: params::flag(at, "stream")?,
        warnings: conversation.notes.into_list(),
        dialect: Box::new(
            ChatAnswer::new(
                &api.served.model,
                openai::wants_usage(at)?,
                logprobs.is_some(),
            )
            .with_functions(has_functions),
        ),
    })
}

/// How many alternatives are wanted with each token: `top_logprobs` beside a flag, or `logprobs` as a number.
pub fn logprobs(at: &Node<'_>) -> Result<Option<usize>> {
    let Some(node) = at.get("logprobs")? else {
        return Ok(None);
    };
    match (node.flag(), at.get("top_logprobs")?) {
        (Ok(false), _) => Ok(None),
        (Ok(true), None) => Ok(Some(0)),
        (Ok(true), Some(n)) => openai::n_top(&n, openai::MAX_TOP).map(Some),
        (Err(_), _) => openai::n_top(&node, openai::MAX_TOP).map(Some),
    }
}

/// Whether the model reasons: `thinking` and the switches of templates say whether, an effort says how much.
fn thinking(at: &Node<'_>, default: Thinking) -> Result<Thinking> {
    let mut on = params::thinking(at)?;
    let template = at.get("chat_template_kwargs")?;
    let reasoning = at.get("reasoning")?;
    let places = [
        (Some(at), "enable_thinking"),
        (template.as_ref(), "enable_thinking"),
        (template.as_ref(), "thinking"),
        (reasoning.as_ref(), "enabled"),
    ];
    for (node, name) in places {
        let flag = node.map(|node| node.get(name)).transpose()?.flatten();
        on = flag.map(|flag| flag.flag()).transpose()?.or(on);
    }
    let effort = match (params::effort(at, "reasoning_effort")?, &reasoning) {
        (None, Some(reasoning)) => params::effort(reasoning, "effort")?,
        (effort, _) => effort,
    };
    Ok(match (on, effort) {
        (Some(false), _) => Thinking::Off,
        (Some(true), Some(Thinking::Max)) => Thinking::Max,
        (Some(true), _) => Thinking::On,
        (None, effort) => effort.unwrap_or(default),
    })
}

/// Adds a message, whatever it is.
pub fn push(message: &Spot<'_>, conversation: &mut Conversation) {
    let at = &message.node;
    let notes = &mut conversation.notes;
    if at.get("role").is_err() {
        let text = history::part(at, notes);
        return conversation.push(Turn::User(text));
    }
    if member(at, "name").is_some() && string(at, "role") == Some("user") {
        notes.add("name: not shown to the model");
    }
    let text = content(at, "content", notes) + &history::images(at, notes);
    match string(at, "role").unwrap_or("user") {
        "system" | "developer" => conversation.push(Turn::System(text)),
        "user" => conversation.push(Turn::User(text)),
        "tool" | "function" => {
            // The last name is Ollama's.
            let name = string(at, "name").or(string(at, "tool_name"));
            let id = string(at, "tool_call_id");
            conversation.push_result(id, name, text);
        }
        "assistant" | "model" => {
            let said = said(message, text);
            conversation.push(Turn::Assistant(said));
        }
        other => {
            notes.add(format!(
                "messages: role '{}' taken as the user's",
                word(other)
            ));
            conversation.push(Turn::User(text));
        }
    }
}

/// What the model said.
fn said(message: &Spot<'_>, content: String) -> Said {
    let at = &message.node;
    let mut said = Said {
        reasoning: reasoning(at),
        content,
        calls: Vec::new(),
    };
    if said.content.is_empty() {
        said.content += string(at, "refusal").unwrap_or_default();
    }
    split_reasoning(&mut said);
    if let Some(calls) = part_of(message, "tool_calls")
        && let Ok(calls) = calls.items()
    {
        calls.for_each(|spot| said.push(call(&spot)));
    }
    if let Some(older) = part_of(message, "function_call") {
        said.push(call(&older));
    }
    said
}

fn part_of<'a>(spot: &Spot<'a>, name: &str) -> Option<Spot<'a>> {
    spot.get(name).ok().flatten()
}

/// A call: of a function, of a tool that takes a text, or in the older form without a function around it.
fn call(spot: &Spot<'_>) -> Call {
    let id = string(&spot.node, "id");
    if let Some(custom) = part_of(spot, "custom") {
        let input = string(&custom.node, "input").unwrap_or_default();
        return tools::custom_call(id, string(&custom.node, "name"), input);
    }
    let function = part_of(spot, "function").unwrap_or_else(|| spot.clone());
    let arguments = part_of(&function, "arguments");
    history::call(id, string(&function.node, "name"), arguments)
}
