//! `POST /v1/chat/completions`. Source: OpenAI's API reference, "Chat Completions"; `reasoning_content` and `thinking`
//! as DeepSeek's API has them.

use super::conversation::{Conversation, Said, Turn, content};
use super::reply::{Answer, Dialect, Event, Question};
use super::spot::Spot;
use super::{Api, format, ids, openai, params};
use crate::engine::chat::{Call, Thinking};
use crate::error::Result;
use crate::json::Node;
use crate::json::object::{Json, list, object};
use crate::serve::ask::{Ask, Done, TokenLogprob};

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
        ask,
        streams: params::flag(at, "stream")?,
        warnings: warning.into_iter().collect(),
        dialect: Box::new(Chat {
            id: ids::id("chatcmpl-"),
            created: ids::now_s(),
            model: api.served.model.clone(),
            has_usage: openai::wants_usage(at)?,
            has_logprobs: logprobs.is_some(),
            n_calls: 0,
        }),
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

/// How this API tells an answer.
struct Chat {
    id: String,
    created: u64,
    model: String,
    /// The stream ends with the figures.
    has_usage: bool,
    has_logprobs: bool,
    /// Calls told so far.
    n_calls: usize,
}

impl Chat {
    fn head(&self, kind: &str) -> Json {
        object([
            ("id", (&self.id).into()),
            ("object", kind.into()),
            ("created", self.created.into()),
            ("model", (&self.model).into()),
        ])
    }

    fn chunk(&self, choices: Json) -> Json {
        let chunk = self.head("chat.completion.chunk").with("choices", choices);
        chunk.with_some("usage", self.has_usage.then_some(Json::NULL))
    }

    fn delta(&self, delta: Json) -> Json {
        object([
            ("index", 0_usize.into()),
            ("delta", delta),
            ("finish_reason", Json::NULL),
        ])
    }

    fn tell(&self, choice: Json, out: &mut Vec<Event>) {
        out.push(Event::new("", &self.chunk(list([choice]))));
    }

    fn logprobs(&self, tokens: &[TokenLogprob]) -> Json {
        if self.has_logprobs {
            object([
                ("content", openai::logprobs(tokens)),
                ("refusal", Json::NULL),
            ])
        } else {
            Json::NULL
        }
    }
}

fn calls_json(calls: &[Call]) -> impl Iterator<Item = Json> {
    calls.iter().map(|call| {
        let function = object([
            ("name", (&call.name).into()),
            ("arguments", (&call.arguments_json()).into()),
        ]);
        object([
            ("id", (&call.id).into()),
            ("type", "function".into()),
            ("function", function),
        ])
    })
}

impl Dialect for Chat {
    fn call_prefix(&self) -> &'static str {
        "call_"
    }

    fn whole(&mut self, answer: &Answer, done: &Done) -> Json {
        // As in OpenAI's answers, calls alone have no text.
        let has_text = !answer.text.is_empty() || answer.calls.is_empty();
        let reasoning = (!answer.reasoning.is_empty()).then_some(&answer.reasoning);
        let calls = (!answer.calls.is_empty()).then(|| list(calls_json(&answer.calls)));
        let message = object([
            ("role", "assistant".into()),
            ("content", has_text.then_some(&answer.text).into()),
            ("refusal", Json::NULL),
        ]);
        let choice = object([
            ("index", 0_usize.into()),
            (
                "message",
                message
                    .with_some("reasoning_content", reasoning)
                    .with_some("tool_calls", calls),
            ),
            ("logprobs", self.logprobs(&answer.logprobs)),
            ("finish_reason", openai::finish_reason(&done.finish).into()),
        ]);
        let choice = choice.with_some("infall_warnings", answer.warnings());
        self.head("chat.completion")
            .with("choices", list([choice]))
            .with("usage", openai::usage(done))
    }

    fn begin(&mut self, out: &mut Vec<Event>) {
        let delta = object([("role", "assistant".into()), ("content", "".into())]);
        self.tell(self.delta(delta), out);
    }

    fn reasoning(&mut self, more: &str, out: &mut Vec<Event>) {
        let delta = object([("reasoning_content", more.into())]);
        self.tell(self.delta(delta), out);
    }

    fn text(&mut self, more: &str, logprobs: &[TokenLogprob], out: &mut Vec<Event>) {
        let choice = self.delta(object([("content", more.into())]));
        let logprobs = self.has_logprobs.then(|| self.logprobs(logprobs));
        self.tell(choice.with_some("logprobs", logprobs), out);
    }

    fn calls(&mut self, calls: &[Call], out: &mut Vec<Event>) {
        let first = self.n_calls;
        self.n_calls += calls.len();
        let calls = calls_json(calls).enumerate();
        let calls = calls.map(|(i, call)| call.with("index", first + i));
        let delta = object([("tool_calls", list(calls))]);
        self.tell(self.delta(delta), out);
    }

    fn end(&mut self, answer: &Answer, done: &Done, out: &mut Vec<Event>) {
        let choice = object([
            ("index", 0_usize.into()),
            ("delta", object([])),
            ("finish_reason", openai::finish_reason(&done.finish).into()),
        ]);
        self.tell(choice.with_some("infall_warnings", answer.warnings()), out);
        if self.has_usage {
            let chunk = self.head("chat.completion.chunk").with("choices", list([]));
            out.push(Event::new("", &chunk.with("usage", openai::usage(done))));
        }
        out.push(openai::end_of_stream());
    }

    fn failed(&mut self, why: &str, out: &mut Vec<Event>) {
        openai::failed(why, out);
    }
}
