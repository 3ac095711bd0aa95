//! The server's APIs over an engine that follows a script: shapes, streams, refusals, clients that leave.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/loopback.rs"]
mod loopback;
#[path = "../common/scripted.rs"]
mod scripted;

mod chat;
mod choices;
mod history;
mod ollama;
mod others;
mod refusals;
mod waiting;

use common::golden;
use infall::engine::Schema;
use infall::json::recogniser::Rules;
use infall::json::source::respaced;
use infall::serve::api::Served;
use infall::text::chat::{Call, Chat, Message, Prompt, Thinking, Tool};
use infall::text::tokenizer::Special;
use infall::units::TokenId;
use loopback::Client;
use scripted::{Scripted, events, json, real, serve, served, values};
use serde_json::{Value, json as value};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const HELLO: &str = " Hello, <wörld>!";

/// A request of one user's text.
fn said(text: &str) -> Value {
    value!({"model": "any", "max_tokens": 100, "messages": [{"role": "user", "content": text}]})
}

fn with(mut request: Value, more: Value) -> Value {
    let members = more.as_object().unwrap().clone();
    request.as_object_mut().unwrap().extend(members);
    request
}

/// Two tools as OpenAI describes them.
fn tools() -> Value {
    let schema = value!({"type": "object", "properties": {"city": {"type": "string"}}});
    value!([
        {"type": "function", "function": {"name": "weather", "description": "tells", "parameters": schema}},
        {"type": "function", "function": {"name": "now"}},
    ])
}

fn one<T>(client: impl FnOnce(&Scripted) -> T) -> T {
    serve(served(), 8, client)
}

/// The tokens of a conversation.
fn rendered(
    messages: &[Message<'_>],
    tools: &[Tool],
    response_format: Option<&str>,
    thinking: Thinking,
) -> Vec<TokenId> {
    let tokenizer = real();
    let chat = Chat::new(&tokenizer).unwrap();
    chat.render(&Prompt {
        messages,
        tools,
        response_format,
        thinking,
    })
}

/// A schema as an answer is held to it.
fn compiled(schema: &Value) -> Arc<Schema> {
    Arc::new(Schema::compile(&schema.to_string()).unwrap().0)
}

/// The arguments of a call, whose digits stay.
const CALL: &str = "{\"city\": \"Paris <&>\", \"days\": 1.50, \"deep\": {\"a\": [1e2]}}";

/// What a stream of `/v1/chat/completions` adds up to.
fn joined(chunks: &[(String, Value)], field: &str) -> String {
    let texts = chunks
        .iter()
        .filter_map(|(_, chunk)| chunk["choices"][0]["delta"][field].as_str());
    texts.collect()
}

/// The message of an error in the shape of OpenAI's, after a look at the rest of it.
fn openai_message(answer: &loopback::Answer) -> String {
    let body = json(answer);
    let error = body["error"].as_object().unwrap();
    assert_eq!(
        error.keys().collect::<Vec<_>>(),
        ["code", "message", "param", "type"]
    );
    error["message"].as_str().unwrap().to_owned()
}

fn anthropic_error(answer: &loopback::Answer) -> (String, String) {
    let body = json(answer);
    assert_eq!(body["type"], "error");
    let text = |name: &str| body["error"][name].as_str().unwrap().to_owned();
    (text("type"), text("message"))
}

#[test]
fn health_and_models() {
    one(|server| {
        let health = server.request("GET", "/health", "", "");
        assert_eq!((health.code, health.text()), (200, "{\"status\":\"ok\"}"));
        let models = json(&server.request("GET", "/v1/models", "", ""));
        let model = &models["data"][0];
        assert_eq!(
            (&models["object"], &models["has_more"]),
            (&value!("list"), &value!(false))
        );
        assert_eq!(
            (&models["first_id"], &models["last_id"]),
            (&value!("scripted"), &value!("scripted"))
        );
        assert_eq!(
            (&model["id"], &model["object"]),
            (&value!("scripted"), &value!("model"))
        );
        assert_eq!(
            (&model["type"], &model["display_name"]),
            (&value!("model"), &value!("scripted"))
        );
        assert!(model["created"].as_u64().unwrap() > 1_700_000_000);
        for name in ["scripted", "gpt-5", "a/b"] {
            let found = json(&server.request("GET", &format!("/v1/models/{name}"), "", ""));
            assert_eq!(&found, model);
        }
        let head = {
            let mut client = Client::connect(server.address);
            client.send(scripted::request("HEAD", "/v1/models", "", ""));
            client.head()
        };
        assert_eq!(head.code, 200);
    });
}
