//! The server's APIs over an engine that follows a script: shapes, streams, refusals, clients that leave.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/loopback.rs"]
mod loopback;
#[path = "common/scripted.rs"]
mod scripted;

use common::golden;
use infall::json::recogniser::Rules;
use infall::json::source::respaced;
use infall::serve::api::Served;
use infall::text::chat::{Call, Chat, Message, Prompt, Thinking, Tool};
use infall::text::tokenizer::Special;
use infall::units::TokenId;
use loopback::Client;
use scripted::{Scripted, events, json, real, serve, served, values};
use serde_json::{Value, json as value};
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

/// What a stream of `/v1/chat/completions` adds up to.
fn joined(chunks: &[(String, Value)], field: &str) -> String {
    let texts = chunks
        .iter()
        .filter_map(|(_, chunk)| chunk["choices"][0]["delta"][field].as_str());
    texts.collect()
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

#[test]
fn chat_answers_in_one_piece() {
    one(|server| {
        let request = with(
            said("hi"),
            value!({
                "temperature": 0.5, "top_p": 0.25, "min_p": 0.125, "top_k": 7, "seed": 42, "stop": "END",
                "logprobs": true, "top_logprobs": 2, "unknown": {"x": []},
            }),
        );
        let answer = json(&server.post(CHAT, &request));
        assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
        assert_eq!(
            (&answer["object"], &answer["model"]),
            (&value!("chat.completion"), &value!("scripted"))
        );
        let choice = &answer["choices"][0];
        assert_eq!(
            choice["message"],
            value!({"role": "assistant", "content": HELLO, "refusal": null})
        );
        assert_eq!(choice["finish_reason"], "stop");
        assert_eq!(choice.get("infall_warnings"), None);
        let tokens = choice["logprobs"]["content"].as_array().unwrap();
        assert_eq!(tokens.len(), 3);
        assert_eq!(
            tokens[2],
            value!({
                "token": "!", "logprob": -0.25, "bytes": [33], "top_logprobs": [
                    {"token": "!", "logprob": -0.25, "bytes": [33]},
                    {"token": "\u{fffd}", "logprob": -9999, "bytes": [195]},
                ],
            })
        );
        let ask = server.last();
        let n = ask.tokens.len();
        assert_eq!(
            answer["usage"],
            value!({
                "prompt_tokens": n, "completion_tokens": 3, "total_tokens": n + 3,
                "prompt_tokens_details": {"cached_tokens": 2},
                "completion_tokens_details": {"reasoning_tokens": 0},
            })
        );
        let s = ask.sampling;
        assert_eq!(
            (s.temperature, s.top_p, s.min_p, s.top_k, s.seed),
            (0.5, 0.25, 0.125, 7, 42)
        );
        assert_eq!(
            (ask.stops, ask.max_tokens, ask.logprobs),
            (vec!["END".to_owned()], Some(100), Some(2))
        );
        assert!(!ask.reasoning && !ask.tools && ask.json.is_none());

        let free = value!({
            "messages": said("hi")["messages"], "stop": null, "max_completion_tokens": 5, "max_tokens": 6,
            "seed": -1, "n": 1,
        });
        json(&server.post(CHAT, &free));
        let ask = server.last();
        assert_eq!(
            (ask.max_tokens, ask.stops.len(), ask.logprobs),
            (Some(5), 0, None)
        );
        assert_eq!(ask.sampling.seed, u64::MAX);
        let seeds: Vec<u64> = (0..2)
            .map(|_| {
                json(&server.post(
                    CHAT,
                    &value!({"messages": said("hi")["messages"], "stop": ["a", "b"]}),
                ));
                server.last().sampling.seed
            })
            .collect();
        assert_ne!(seeds[0], seeds[1]);
        assert_eq!(
            (server.last().max_tokens, server.last().stops.len()),
            (None, 2)
        );
    });
}

#[test]
fn chat_answers_in_a_stream() {
    one(|server| {
        let request = with(
            said("hi"),
            value!({
                "stream": true, "stream_options": {"include_usage": true}, "reasoning_effort": "low", "logprobs": true,
            }),
        );
        let chunks = values(&server.post(CHAT, &request));
        let (last, rest) = chunks.split_last().unwrap();
        assert_eq!(last.1, "[DONE]");
        let (usage, rest) = rest.split_last().unwrap();
        assert_eq!(
            (&usage.1["choices"], &usage.1["usage"]["completion_tokens"]),
            (&value!([]), &value!(5))
        );
        assert_eq!(
            usage.1["usage"]["completion_tokens_details"]["reasoning_tokens"],
            2
        );
        let id = &usage.1["id"];
        for (name, chunk) in rest {
            assert_eq!(
                (name.as_str(), &chunk["object"]),
                ("", &value!("chat.completion.chunk"))
            );
            assert_eq!((&chunk["id"], &chunk["usage"]), (id, &Value::Null));
        }
        assert_eq!(
            rest[0].1["choices"][0]["delta"],
            value!({"role": "assistant", "content": ""})
        );
        assert_eq!(joined(rest, "reasoning_content"), "Let me think.");
        assert_eq!(joined(rest, "content"), HELLO);
        let tokens = rest
            .iter()
            .filter_map(|(_, c)| c["choices"][0]["logprobs"]["content"].as_array());
        assert_eq!(tokens.flatten().count(), 3);
        let end = &rest.last().unwrap().1["choices"][0];
        assert_eq!(
            (&end["delta"], &end["finish_reason"]),
            (&value!({}), &value!("stop"))
        );

        let chunks = values(&server.post(CHAT, &with(said("@length"), value!({"stream": true}))));
        let (_, end) = &chunks[chunks.len() - 2];
        assert_eq!(
            (&end["choices"][0]["finish_reason"], end.get("usage")),
            (&value!("length"), None)
        );
    });
}

#[test]
fn thinking_is_chosen_in_several_ways() {
    let cases = [
        (value!({}), Thinking::Off),
        (value!({"reasoning_effort": "none"}), Thinking::Off),
        (value!({"reasoning_effort": "minimal"}), Thinking::Off),
        (value!({"reasoning_effort": "high"}), Thinking::On),
        (value!({"reasoning_effort": "xhigh"}), Thinking::Max),
        (value!({"thinking": {"type": "enabled"}}), Thinking::On),
        (
            value!({"thinking": {"type": "enabled"}, "reasoning_effort": "max"}),
            Thinking::Max,
        ),
        (
            value!({"thinking": {"type": "disabled"}, "reasoning_effort": "max"}),
            Thinking::Off,
        ),
        (
            value!({"chat_template_kwargs": {"enable_thinking": true}}),
            Thinking::On,
        ),
        (
            value!({"chat_template_kwargs": {"thinking": true}}),
            Thinking::On,
        ),
        (
            value!({"chat_template_kwargs": {"thinking": false}, "reasoning_effort": "high"}),
            Thinking::Off,
        ),
    ];
    one(|server| {
        for (more, thinking) in cases {
            json(&server.post(CHAT, &with(said("hi"), more)));
            assert_eq!(
                server.last().tokens,
                rendered(&[Message::User("hi")], &[], None, thinking)
            );
            assert_eq!(server.last().reasoning, thinking != Thinking::Off);
        }
    });
    let thinks = Served {
        thinking: Thinking::On,
        ..served()
    };
    serve(thinks, 8, |server| {
        for path in [CHAT, "/v1/messages"] {
            json(&server.post(path, &said("hi")));
            assert!(server.last().reasoning);
            json(&server.post(
                path,
                &with(said("hi"), value!({"thinking": {"type": "disabled"}})),
            ));
            assert!(!server.last().reasoning);
        }
    });
}

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

const CALL: &str = "{\"city\": \"Paris <&>\", \"days\": 1.50, \"deep\": {\"a\": [1e2]}}";

#[test]
fn chat_calls_tools() {
    one(|server| {
        let request = with(
            said("@tools"),
            value!({"tools": tools(), "tool_choice": "auto"}),
        );
        let answer = json(&server.post(CHAT, &request));
        let choice = &answer["choices"][0];
        assert_eq!(
            (&choice["finish_reason"], &choice["message"]["content"]),
            (&value!("tool_calls"), &value!("I look."))
        );
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        let function = |call: &Value| (call["type"].clone(), call["function"].clone());
        assert_eq!(
            function(&calls[0]),
            (
                value!("function"),
                value!({"name": "weather", "arguments": CALL})
            )
        );
        assert_eq!(
            function(&calls[1]),
            (
                value!("function"),
                value!({"name": "now", "arguments": "{}"})
            )
        );
        assert_ne!(calls[0]["id"], calls[1]["id"]);
        assert!(calls[0]["id"].as_str().unwrap().starts_with("call_"));
        assert!(server.last().tools);

        // The client goes on with what it got.
        let mut messages = request["messages"].as_array().unwrap().clone();
        messages.push(choice["message"].clone());
        for (call, result) in calls.iter().zip(["sun", "noon"]).rev() {
            messages.push(value!({"role": "tool", "tool_call_id": call["id"], "content": result}));
        }
        let more = value!({"messages": messages, "tools": tools()});
        assert_eq!(
            json(&server.post(CHAT, &more))["choices"][0]["message"]["content"],
            HELLO
        );
        let schema = Some("{\"properties\":{\"city\":{\"type\":\"string\"}},\"type\":\"object\"}");
        let described = [
            Tool::new("weather", Some("tells"), schema).unwrap(),
            Tool::new("now", None, None).unwrap(),
        ];
        // The order of the members is that of the test's JSON library.
        let function = |i: usize| Tool::from_function(&tools()[i]["function"].to_string()).unwrap();
        assert_eq!(
            described.map(|tool| tool.name().to_owned()),
            [0, 1].map(|i| function(i).name().to_owned())
        );
        let called = [
            Call::from_json("a", "weather", CALL).unwrap(),
            Call::from_json("b", "now", "{}").unwrap(),
        ];
        let expected = [
            Message::User("@tools"),
            Message::Assistant {
                reasoning: "",
                content: "I look.",
                calls: &called,
            },
            Message::ToolResult {
                id: "b",
                body: "noon",
            },
            Message::ToolResult {
                id: "a",
                body: "sun",
            },
        ];
        let expected = rendered(&expected, &[0, 1].map(function), None, Thinking::Off);
        assert_eq!(server.last().tokens, expected);

        let chunks = values(&server.post(CHAT, &with(request.clone(), value!({"stream": true}))));
        let calls = chunks
            .iter()
            .find_map(|(_, c)| c["choices"][0]["delta"]["tool_calls"].as_array())
            .unwrap();
        assert_eq!(
            (&calls[0]["index"], &calls[1]["index"]),
            (&value!(0), &value!(1))
        );
        assert_eq!(calls[0]["function"]["arguments"], CALL);
        assert_eq!(
            chunks[chunks.len() - 2].1["choices"][0]["finish_reason"],
            "tool_calls"
        );

        // No tool may be called, so none is shown.
        json(&server.post(CHAT, &with(request, value!({"tool_choice": "none"}))));
        assert_eq!(
            server.last().tokens,
            rendered(&[Message::User("@tools")], &[], None, Thinking::Off)
        );
        assert!(!server.last().tools);
    });
}

#[test]
fn golden_conversations_have_their_tokens() {
    let tokens = |server: &Scripted| -> Vec<u64> {
        let ask = server.last();
        ask.tokens.iter().map(|token| u64::from(token.0)).collect()
    };
    let lines = std::fs::read_to_string(golden("tools.jsonl")).unwrap();
    one(|server| {
        for line in lines.lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let message = |m: &Value| match text(&m[0]).as_str() {
                "tool" => value!({"role": "tool", "tool_call_id": m[1], "content": m[2]}),
                "assistant" => {
                    let calls = m[3].as_array().cloned().unwrap_or_default();
                    let call = |c: &Value| value!({"id": c[0], "type": "function", "function": {"name": c[1], "arguments": c[2]}});
                    let calls: Vec<Value> = calls.iter().map(call).collect();
                    value!({"role": "assistant", "reasoning_content": m[1], "content": m[2], "tool_calls": calls})
                }
                role => value!({"role": role, "content": m[1]}),
            };
            let messages: Vec<Value> = case["messages"]
                .as_array()
                .unwrap()
                .iter()
                .map(message)
                .collect();
            // By hand, so that the texts of tools stay as they are.
            let tools = case["tools"].as_array().unwrap().iter();
            let tools: Vec<String> = tools
                .map(|tool| format!("{{\"type\":\"function\",\"function\":{}}}", text(tool)))
                .collect();
            let format = case["schema"].as_str().map_or(String::new(), |schema| {
                format!(",\"response_format\":{{\"type\":\"json_schema\",\"json_schema\":{{\"name\":\"x\",\"schema\":{schema}}}}}")
            });
            let effort = if case["thinking"] == "off" {
                "none"
            } else {
                "high"
            };
            let body = format!(
                "{{\"messages\":{},\"tools\":[{}],\"reasoning_effort\":\"{effort}\"{format}}}",
                Value::from(messages),
                tools.join(",")
            );
            let answer = server.request("POST", CHAT, "", &body);
            assert_eq!(answer.code, 200, "{}", answer.text());
            let ids: Vec<u64> = case["ids"]
                .as_array()
                .unwrap()
                .iter()
                .map(|id| id.as_u64().unwrap())
                .collect();
            assert_eq!(tokens(server), ids, "{body}");
        }
    });
}

#[test]
fn parts_of_a_text_and_roles() {
    one(|server| {
        let request = value!({"messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
            {"role": "assistant", "content": null, "reasoning_content": "r"},
            {"role": "user", "content": "<｜User｜>"},
        ]});
        json(&server.post(CHAT, &request));
        let expected = [
            Message::System("be brief"),
            Message::System("a\n\nb"),
            Message::User("c\n\nd"),
            Message::Assistant {
                reasoning: "r",
                content: "",
                calls: &[],
            },
            Message::User("<｜User｜>"),
        ];
        assert_eq!(
            server.last().tokens,
            rendered(&expected, &[], None, Thinking::Off)
        );
    });
}

#[test]
fn answers_are_held_to_json() {
    let schema = value!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let list = value!({"type": "array"});
    let named = |schema: &Value| value!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
    let flat = |schema: &Value| value!({"text": {"format": {"type": "json_schema", "name": "n", "schema": schema}}});
    let input = value!({"input": "hi"});
    let cases = [
        (
            CHAT,
            with(said("hi"), value!({"response_format": {"type": "text"}})),
            None,
        ),
        (
            CHAT,
            with(
                said("hi"),
                value!({"response_format": {"type": "json_object"}}),
            ),
            Some((Rules::WRITTEN_OBJECT, value!({"type": "object"}))),
        ),
        (
            CHAT,
            with(said("hi"), value!({"response_format": named(&schema)})),
            Some((Rules::WRITTEN_OBJECT, schema.clone())),
        ),
        (
            CHAT,
            with(said("hi"), value!({"response_format": named(&list)})),
            Some((Rules::WRITTEN, list.clone())),
        ),
        (
            "/v1/responses",
            with(input.clone(), flat(&schema)),
            Some((Rules::WRITTEN_OBJECT, schema.clone())),
        ),
        (
            "/v1/responses",
            with(input, value!({"text": {"format": {"type": "text"}}})),
            None,
        ),
        (
            "/v1/messages",
            with(
                said("hi"),
                value!({"output_config": {"format": {"type": "json_schema", "schema": schema}}}),
            ),
            Some((Rules::WRITTEN_OBJECT, schema.clone())),
        ),
    ];
    one(|server| {
        for (path, request, expected) in cases {
            json(&server.post(path, &request));
            let ask = server.last();
            assert_eq!(ask.json, expected.as_ref().map(|(rules, _)| *rules));
            let format = expected.map(|(_, schema)| respaced(&schema.to_string()).unwrap());
            assert_eq!(
                ask.tokens,
                rendered(
                    &[Message::User("hi")],
                    &[],
                    format.as_deref(),
                    Thinking::Off
                )
            );
        }
        let both = value!({"tools": tools(), "response_format": {"type": "json_object"}});
        let answer = json(&server.post(CHAT, &with(said("hi"), both)));
        let warning = answer["choices"][0]["infall_warnings"][0].as_str().unwrap();
        assert!(warning.contains("not held to it"), "{warning}");
        assert!(server.last().json.is_none() && server.last().tools);
    });
}

#[test]
fn malformed_calls_are_text_with_a_warning() {
    const TEXT: &str = "Look: <｜DSML｜tool_calls>\nx";
    let reason = value!(["calls: found 'x', expected a call"]);
    let tool = value!([{"name": "now", "input_schema": {"type": "object"}}]);
    one(|server| {
        let request = with(said("@malformed"), value!({"tools": tools()}));
        let answer = json(&server.post(CHAT, &request));
        let choice = &answer["choices"][0];
        assert_eq!(
            (&choice["message"]["content"], &choice["infall_warnings"]),
            (&value!(TEXT), &reason)
        );
        let chunks = values(&server.post(CHAT, &with(request, value!({"stream": true}))));
        assert_eq!(joined(&chunks, "content"), TEXT);
        assert_eq!(
            chunks[chunks.len() - 2].1["choices"][0]["infall_warnings"],
            reason
        );

        let request = with(said("@malformed"), value!({"tools": tool}));
        let answer = json(&server.post("/v1/messages", &request));
        assert_eq!(
            (&answer["content"][0]["text"], &answer["infall_warnings"]),
            (&value!(TEXT), &reason)
        );
        let chunks = values(&server.post("/v1/messages", &with(request, value!({"stream": true}))));
        assert_eq!(chunks[chunks.len() - 2].1["infall_warnings"], reason);
        let answer = json(&server.post("/v1/responses", &value!({"input": "@malformed"})));
        assert_eq!(
            (
                &answer["output"][0]["content"][0]["text"],
                &answer["infall_warnings"]
            ),
            (&value!(TEXT), &reason)
        );
    });
}

#[test]
fn completions() {
    const PATH: &str = "/v1/completions";
    one(|server| {
        let request = value!({"prompt": "Once <｜User｜>", "logprobs": 3, "stop": ["x"], "temperature": 0, "max_tokens": 9});
        let answer = json(&server.post(PATH, &request));
        assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
        assert_eq!(answer["object"], "text_completion");
        let choice = &answer["choices"][0];
        assert_eq!(
            (&choice["text"], &choice["finish_reason"]),
            (&value!(HELLO), &value!("stop"))
        );
        assert_eq!(
            choice["logprobs"],
            value!({
                "tokens": [" Hello", ", <wörld>", "!"],
                "token_logprobs": [-0.25, -0.25, -0.25],
                "text_offset": [0, 6, 15],
                "top_logprobs": [
                    {" Hello": -0.25, "\u{fffd}": -9999},
                    {", <wörld>": -0.25, "\u{fffd}": -9999},
                    {"!": -0.25, "\u{fffd}": -9999},
                ],
            })
        );
        let ask = server.last();
        let mut tokens = vec![real().bos().unwrap()];
        tokens.extend(real().encode("Once <｜User｜>", Special::Parse));
        assert_eq!(
            (&ask.tokens, ask.max_tokens, ask.logprobs),
            (&tokens, Some(9), Some(3))
        );
        assert_eq!(answer["usage"]["prompt_tokens"], tokens.len());

        for prompt in [value!(["hi"]), value!([[5, 6]]), value!([5, 6])] {
            json(&server.post(PATH, &value!({"prompt": prompt})));
        }
        assert_eq!(server.last().tokens, [TokenId(5), TokenId(6)]);
        assert_eq!(server.last().max_tokens, Some(16));

        let stream = value!({"prompt": "hi", "stream": true, "logprobs": 0, "stream_options": {"include_usage": true}});
        let chunks = values(&server.post(PATH, &stream));
        let texts = chunks
            .iter()
            .filter_map(|(_, c)| c["choices"][0]["text"].as_str());
        assert_eq!(texts.collect::<String>(), HELLO);
        let offsets = chunks
            .iter()
            .filter_map(|(_, c)| c["choices"][0]["logprobs"]["text_offset"][0].as_u64());
        assert_eq!(offsets.collect::<Vec<u64>>(), [0, 6, 15]);
        let n = chunks.len();
        assert_eq!(chunks[n - 3].1["choices"][0]["finish_reason"], "stop");
        assert_eq!(chunks[n - 2].1["usage"]["completion_tokens"], 3);
        assert_eq!(chunks[n - 1].1, "[DONE]");
    });
}

#[test]
fn responses() {
    const PATH: &str = "/v1/responses";
    one(|server| {
        let tool = value!({"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": true});
        let now = value!({"type": "function", "name": "now", "description": "d"});
        let request = value!({
            "input": "@tools", "instructions": "be brief", "tools": [tool, now], "max_output_tokens": 7,
            "reasoning": {"effort": "low"}, "store": true, "metadata": {"k": "v"},
        });
        let answer = json(&server.post(PATH, &request));
        assert!(answer["id"].as_str().unwrap().starts_with("resp_"));
        assert_eq!(
            (&answer["object"], &answer["status"]),
            (&value!("response"), &value!("completed"))
        );
        assert_eq!(
            (&answer["tools"], &answer["metadata"]),
            (&request["tools"], &request["metadata"])
        );
        assert_eq!(
            (&answer["error"], &answer["incomplete_details"]),
            (&Value::Null, &Value::Null)
        );
        let n = server.last().tokens.len();
        assert_eq!(
            answer["usage"],
            value!({
                "input_tokens": n, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 4,
                "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": n + 4,
            })
        );
        let output = answer["output"].as_array().unwrap();
        let kinds: Vec<&str> = output
            .iter()
            .map(|item| item["type"].as_str().unwrap())
            .collect();
        assert_eq!(
            kinds,
            ["reasoning", "message", "function_call", "function_call"]
        );
        assert_eq!(
            output[0]["content"],
            value!([{"type": "reasoning_text", "text": "Let me think."}])
        );
        assert_eq!(output[1]["content"][0]["text"], "I look.");
        assert_eq!(
            (&output[2]["name"], &output[2]["arguments"]),
            (&value!("weather"), &value!(CALL))
        );
        assert_eq!(server.last().max_tokens, Some(7));

        // The client goes on with what it got.
        let mut input =
            vec![value!({"role": "user", "content": [{"type": "input_text", "text": "@tools"}]})];
        input.extend(output.iter().cloned());
        for (item, result) in [(3, "noon"), (2, "sun")] {
            input.push(value!({"type": "function_call_output", "call_id": output[item]["call_id"], "output": result}));
        }
        let answer = json(&server.post(PATH, &with(request.clone(), value!({"input": input}))));
        assert_eq!(answer["output"][1]["content"][0]["text"], HELLO);
        let called = [
            Call::from_json("a", "weather", CALL).unwrap(),
            Call::from_json("b", "now", "{}").unwrap(),
        ];
        let messages = [
            Message::System("be brief"),
            Message::User("@tools"),
            Message::Assistant {
                reasoning: "Let me think.",
                content: "I look.",
                calls: &called,
            },
            Message::ToolResult {
                id: "b",
                body: "noon",
            },
            Message::ToolResult {
                id: "a",
                body: "sun",
            },
        ];
        let described = [
            Tool::new("weather", None, Some("{\"type\":\"object\"}")).unwrap(),
            Tool::new("now", Some("d"), None).unwrap(),
        ];
        assert_eq!(
            server.last().tokens,
            rendered(&messages, &described, None, Thinking::On)
        );

        let chunks = values(&server.post(PATH, &with(request, value!({"stream": true}))));
        let item = |deltas: &[&'static str]| {
            let mut all = vec!["response.output_item.added"];
            all.extend(deltas);
            all.push("response.output_item.done");
            all
        };
        let part = |deltas: &[&'static str]| {
            let mut all = vec!["response.content_part.added"];
            all.extend(deltas);
            all.push("response.content_part.done");
            item(&all)
        };
        let call = item(&[
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
        ]);
        let expected = [
            vec!["response.created", "response.in_progress"],
            part(&[
                "response.reasoning_text.delta",
                "response.reasoning_text.delta",
                "response.reasoning_text.done",
            ]),
            part(&["response.output_text.delta", "response.output_text.done"]),
            call.clone(),
            call,
            vec!["response.completed"],
        ]
        .concat();
        let names: Vec<&str> = chunks.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, expected);
        for (i, (name, chunk)) in chunks.iter().enumerate() {
            assert_eq!(
                (&chunk["type"], &chunk["sequence_number"]),
                (&value!(name), &value!(i))
            );
        }
        let indices = chunks
            .iter()
            .filter_map(|(_, c)| c["output_index"].as_u64());
        assert!(indices.is_sorted());
        let whole = &chunks.last().unwrap().1["response"];
        let done = chunks
            .iter()
            .filter(|(name, _)| name == "response.output_item.done");
        let done: Vec<Value> = done.map(|(_, c)| c["item"].clone()).collect();
        assert_eq!(whole["output"], Value::from(done));

        let cut = json(&server.post(PATH, &value!({"input": "@length"})));
        assert_eq!(
            (&cut["status"], &cut["incomplete_details"]),
            (
                &value!("incomplete"),
                &value!({"reason": "max_output_tokens"})
            )
        );
    });
}

#[test]
fn messages() {
    const PATH: &str = "/v1/messages";
    one(|server| {
        let tools = value!([
            {"name": "weather", "description": "tells", "input_schema": {"type": "object"}},
            {"type": "custom", "name": "now", "input_schema": {"type": "object"}},
        ]);
        let request = with(
            said("@tools"),
            value!({
                "system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}],
                "tools": tools, "tool_choice": {"type": "auto"}, "thinking": {"type": "enabled", "budget_tokens": 1024},
                "stop_sequences": ["END"], "temperature": 0.5, "top_k": 3,
            }),
        );
        let whole = server.post(PATH, &request);
        // Digits are those of the model.
        assert!(
            whole.text().contains(&format!("\"input\":{CALL}")),
            "{}",
            whole.text()
        );
        let answer = json(&whole);
        assert!(answer["id"].as_str().unwrap().starts_with("msg_"));
        assert_eq!(
            (&answer["type"], &answer["role"]),
            (&value!("message"), &value!("assistant"))
        );
        assert_eq!(
            (&answer["stop_reason"], &answer["stop_sequence"]),
            (&value!("tool_use"), &Value::Null)
        );
        let blocks = answer["content"].as_array().unwrap();
        assert_eq!(
            blocks[0],
            value!({"type": "thinking", "thinking": "Let me think.", "signature": "unsigned"})
        );
        assert_eq!(blocks[1], value!({"type": "text", "text": "I look."}));
        assert_eq!(
            (&blocks[2]["type"], &blocks[2]["name"]),
            (&value!("tool_use"), &value!("weather"))
        );
        assert_eq!(
            (&blocks[3]["name"], &blocks[3]["input"]),
            (&value!("now"), &value!({}))
        );
        assert!(blocks[2]["id"].as_str().unwrap().starts_with("toolu_"));
        let ask = server.last();
        assert_eq!(
            answer["usage"],
            value!({
                "input_tokens": ask.tokens.len() - 2, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2,
                "output_tokens": 4, "output_tokens_details": {"thinking_tokens": 2},
            })
        );
        assert_eq!(
            (ask.stops, ask.sampling.temperature, ask.sampling.top_k),
            (vec!["END".to_owned()], 0.5, 3)
        );

        // The client goes on with what it got, as it was written.
        let content = whole.text().split_once("\"content\":").unwrap().1;
        let content = content.split_once(",\"stop_reason\"").unwrap().0;
        let result = |block: usize, text: &str| value!({"type": "tool_result", "tool_use_id": blocks[block]["id"], "content": text});
        let results = value!([
            result(3, "noon"), {"type": "tool_result", "tool_use_id": blocks[2]["id"], "content": [{"type": "text", "text": "sun"}]},
            {"type": "text", "text": "go on"},
        ]);
        let mut body = with(request.clone(), value!({"messages": []})).to_string();
        let turns = format!(
            "\"messages\":[{},{{\"role\":\"assistant\",\"content\":{content}}},{{\"role\":\"user\",\"content\":{results}}}]",
            request["messages"][0]
        );
        body = body.replace("\"messages\":[]", &turns);
        let answer = json(&server.request("POST", PATH, "", &body));
        assert_eq!(answer["content"][1]["text"], HELLO, "{answer}");
        let called = [
            Call::from_json("a", "weather", CALL).unwrap(),
            Call::from_json("b", "now", "{}").unwrap(),
        ];
        let expected = [
            Message::System("a\n\nb"),
            Message::User("@tools"),
            Message::Assistant {
                reasoning: "Let me think.",
                content: "I look.",
                calls: &called,
            },
            Message::ToolResult {
                id: "b",
                body: "noon",
            },
            Message::ToolResult {
                id: "a",
                body: "sun",
            },
            Message::User("go on"),
        ];
        let schema = Some("{\"type\":\"object\"}");
        let described = [
            Tool::new("weather", Some("tells"), schema).unwrap(),
            Tool::new("now", None, schema).unwrap(),
        ];
        let expected = rendered(&expected, &described, None, Thinking::On);
        assert_eq!(server.last().tokens, expected);
        let counted = json(&server.request("POST", "/v1/messages/count_tokens", "", &body));
        assert_eq!(counted, value!({"input_tokens": expected.len()}));

        let chunks = values(&server.post(PATH, &with(request, value!({"stream": true}))));
        for (name, chunk) in &chunks {
            assert_eq!(chunk["type"], *name);
        }
        let (begin, end) = (&chunks[0].1["message"], &chunks[chunks.len() - 2].1);
        assert_eq!(
            (&begin["content"], &begin["stop_reason"]),
            (&value!([]), &Value::Null)
        );
        assert_eq!(begin["usage"]["input_tokens"], ask.tokens.len());
        assert_eq!(
            end["delta"],
            value!({"stop_reason": "tool_use", "stop_sequence": null})
        );
        assert_eq!(end["usage"]["output_tokens"], 4);
        let told = chunks[1..chunks.len() - 2].iter().map(|(name, c)| {
            let what = match name.as_str() {
                "content_block_start" => &c["content_block"]["type"],
                "content_block_delta" => &c["delta"]["type"],
                _ => &c["type"],
            };
            (c["index"].as_u64().unwrap(), what.as_str().unwrap())
        });
        let told: Vec<(u64, &str)> = told.collect();
        assert_eq!(
            told,
            [
                (0, "thinking"),
                (0, "thinking_delta"),
                (0, "thinking_delta"),
                (0, "signature_delta"),
                (0, "content_block_stop"),
                (1, "text"),
                (1, "text_delta"),
                (1, "content_block_stop"),
                (2, "tool_use"),
                (2, "input_json_delta"),
                (2, "content_block_stop"),
                (3, "tool_use"),
                (3, "input_json_delta"),
                (3, "content_block_stop"),
            ]
        );
        assert!(
            chunks
                .iter()
                .any(|(_, c)| c["delta"]["partial_json"] == CALL)
        );

        let request = value!({
            "max_tokens": 5, "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
            "thinking": {"type": "adaptive"}, "output_config": {"effort": "max"},
        });
        json(&server.post(PATH, &request));
        let expected = [Message::System("s"), Message::User("u")];
        assert_eq!(
            server.last().tokens,
            rendered(&expected, &[], None, Thinking::Max)
        );
        for (word, reason, sequence) in [
            ("hi", "end_turn", Value::Null),
            ("@length", "max_tokens", Value::Null),
            ("@stop", "stop_sequence", value!("END")),
        ] {
            let answer = json(&server.post(PATH, &said(word)));
            assert_eq!(
                (&answer["stop_reason"], &answer["stop_sequence"]),
                (&value!(reason), &sequence)
            );
        }
    });
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
fn wrong_requests_name_their_place() {
    let hi = || said("hi");
    let turn = |message: Value| value!({"max_tokens": 1, "messages": [message]});
    let image = value!({"type": "image_url", "image_url": {"url": "data:"}});
    let call =
        |arguments: &str| value!({"id": "a", "function": {"name": "f", "arguments": arguments}});
    let cases = [
        (CHAT, value!([]), "found array, expected object"),
        (CHAT, value!({}), "messages: missing"),
        (
            CHAT,
            with(hi(), value!({"n": 2})),
            "n: expected 1: a request gets one answer",
        ),
        (
            CHAT,
            with(hi(), value!({"temperature": 3})),
            "temperature: found 3, expected a number from 0 to 2",
        ),
        (
            CHAT,
            with(hi(), value!({"top_p": "x"})),
            "top_p: found string, expected number",
        ),
        (
            CHAT,
            with(hi(), value!({"max_tokens": 0})),
            "max_tokens: found 0, expected a whole number from 1",
        ),
        (
            CHAT,
            with(hi(), value!({"stop": [1]})),
            "stop[0]: found number, expected string",
        ),
        (
            CHAT,
            with(hi(), value!({"stop": ""})),
            "stop: stop string: found none, expected text",
        ),
        (
            CHAT,
            with(hi(), value!({"stop": 5})),
            "stop: found number, expected string or array",
        ),
        (
            CHAT,
            with(hi(), value!({"stop": vec!["x"; 33]})),
            "stop: stop strings 33 exceeds the limit 32",
        ),
        (
            CHAT,
            with(hi(), value!({"logprobs": true, "top_logprobs": 21})),
            "top_logprobs: found 21, expected at most 20",
        ),
        (
            CHAT,
            with(hi(), value!({"stream": "yes"})),
            "stream: found string, expected boolean",
        ),
        (
            CHAT,
            with(hi(), value!({"reasoning_effort": "huge"})),
            "reasoning_effort: found 'huge', expected none, minimal",
        ),
        (
            CHAT,
            with(hi(), value!({"response_format": {"type": "xml"}})),
            "response_format.type: found 'xml', expected text",
        ),
        (
            CHAT,
            with(
                hi(),
                value!({"response_format": {"type": "json_schema", "json_schema": {}}}),
            ),
            "response_format.json_schema.schema: missing",
        ),
        (
            CHAT,
            with(hi(), value!({"tools": [{"type": "web"}]})),
            "tools[0].type: found 'web', expected function",
        ),
        (
            CHAT,
            with(
                hi(),
                value!({"tools": [{"type": "function", "function": {}}]}),
            ),
            "tools[0].function.name: missing",
        ),
        (
            CHAT,
            with(hi(), value!({"tools": tools(), "tool_choice": "required"})),
            "tool_choice: found 'required', expected none or auto",
        ),
        (
            CHAT,
            with(
                hi(),
                value!({"tools": tools(), "tool_choice": {"type": "function"}}),
            ),
            "tool_choice: found a named tool, expected none or auto",
        ),
        (
            CHAT,
            with(hi(), value!({"tools": [tools()[1], tools()[1]]})),
            "tools[1]: found a second tool 'now'",
        ),
        (
            CHAT,
            with(
                hi(),
                value!({"tools": (0..513).map(|i| value!({"type": "function", "function": {"name": format!("f{i}")}})).collect::<Vec<_>>()}),
            ),
            "tools[512]: found more tools than 512",
        ),
        (
            CHAT,
            turn(value!({"role": "user", "content": [image]})),
            "messages[0].content[0].type: found 'image_url', expected text",
        ),
        (
            CHAT,
            turn(value!({"role": "user"})),
            "messages[0].content: missing",
        ),
        (
            CHAT,
            turn(value!({"role": "robot", "content": ""})),
            "messages[0].role: found 'robot', expected system",
        ),
        (
            CHAT,
            turn(value!({"role": "tool", "content": ""})),
            "messages[0].tool_call_id: missing",
        ),
        (
            CHAT,
            turn(value!({"role": "assistant", "tool_calls": [call("[]")]})),
            "messages[0].tool_calls[0].function.arguments: arguments of 'f': byte 0: found '['",
        ),
        (
            CHAT,
            value!({"messages": vec![value!({"role": "user", "content": ""}); 4097]}),
            "messages[4096]: found more messages than 4096",
        ),
        ("/v1/completions", value!({}), "prompt: missing"),
        (
            "/v1/completions",
            value!({"prompt": ["a", "b"]}),
            "prompt: found several prompts, expected one",
        ),
        (
            "/v1/completions",
            value!({"prompt": []}),
            "prompt: found nothing",
        ),
        (
            "/v1/completions",
            value!({"prompt": [1, 9_999_999]}),
            "prompt[1]: found 9999999, expected the number of a token",
        ),
        (
            "/v1/completions",
            value!({"prompt": "a", "echo": true}),
            "echo: not supported",
        ),
        (
            "/v1/completions",
            value!({"prompt": "a", "suffix": "b"}),
            "suffix: not supported",
        ),
        (
            "/v1/completions",
            value!({"prompt": "a", "logprobs": 6}),
            "logprobs: found 6, expected at most 5",
        ),
        (
            "/v1/responses",
            value!({"input": "a", "previous_response_id": "r"}),
            "previous_response_id: not supported",
        ),
        (
            "/v1/responses",
            value!({"input": [{"type": "item_reference"}]}),
            "input[0].type: found 'item_reference', expected message",
        ),
        (
            "/v1/responses",
            value!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
            "input[0].content[0].type: found 'input_image'",
        ),
        (
            "/v1/responses",
            value!({"input": "a", "tools": [{"type": "web_search"}]}),
            "tools[0].type: found 'web_search'",
        ),
        (
            "/v1/messages",
            value!({"messages": []}),
            "max_tokens: missing",
        ),
        (
            "/v1/messages",
            value!({"max_tokens": 1, "messages": []}),
            "messages: expected the last message to be the user's",
        ),
        (
            "/v1/messages",
            turn(value!({"role": "assistant", "content": "Sure"})),
            "messages: expected the last message",
        ),
        (
            "/v1/messages",
            turn(value!({"role": "user", "content": [{"type": "image"}]})),
            "messages[0].content[0].type: found 'image', expected text",
        ),
        (
            "/v1/messages",
            turn(
                value!({"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": 5}]}),
            ),
            "messages[0].content[0].input: arguments of 'f'",
        ),
        (
            "/v1/messages",
            with(hi(), value!({"tool_choice": {"type": "any"}, "tools": []})),
            "tool_choice.type: found 'any', expected none or auto",
        ),
        (
            "/v1/messages",
            with(
                hi(),
                value!({"tools": [{"type": "bash_20250124", "name": "bash"}]}),
            ),
            "tools[0].type: found 'bash_20250124', expected custom",
        ),
        (
            "/v1/messages",
            with(hi(), value!({"thinking": {"type": "x"}})),
            "thinking.type: found 'x', expected enabled",
        ),
        ("/v1/messages/count_tokens", value!({}), "messages: missing"),
    ];
    one(|server| {
        for (path, request, expected) in cases {
            let answer = server.post(path, &request);
            assert_eq!(answer.code, 400, "{expected}: {}", answer.text());
            let found = if path.starts_with("/v1/messages") {
                let (kind, message) = anthropic_error(&answer);
                assert_eq!(kind, "invalid_request_error");
                message
            } else {
                assert_eq!(json(&answer)["error"]["type"], "invalid_request_error");
                openai_message(&answer)
            };
            assert!(found.starts_with(expected), "{found}, expected {expected}");
        }
        let deep = "[".repeat(10_000);
        let nulls = format!("[{}null]", "null,".repeat(1 << 16));
        for body in ["", "{", "{\"a\":1}x", "\u{1}", &deep, &nulls] {
            let answer = server.request("POST", CHAT, "", body);
            assert_eq!(answer.code, 400);
            assert!(openai_message(&answer).starts_with("body: "));
            let answer = server.request("POST", "/v1/messages", "", body);
            assert_eq!(
                (answer.code, anthropic_error(&answer).0.as_str()),
                (400, "invalid_request_error")
            );
        }
        assert!(server.asks.lock().unwrap().is_empty());
        // Nothing of this harmed anyone.
        json(&server.post(CHAT, &said("hi")));
    });
}

#[test]
fn keys_methods_and_paths() {
    let locked = Served {
        key: Some("secret".into()),
        ..served()
    };
    serve(locked, 8, |server| {
        let body = said("hi").to_string();
        for (fields, code) in [
            ("", 401),
            ("Authorization: Bearer secre\r\n", 401),
            ("Authorization: Basic secret\r\n", 401),
            ("X-Api-Key: secret2\r\n", 401),
            ("Authorization: Bearer secret\r\n", 200),
            ("X-Api-Key: secret\r\n", 200),
        ] {
            for path in [CHAT, "/v1/messages", "/v1/messages/count_tokens"] {
                let answer = server.request("POST", path, fields, &body);
                assert_eq!(answer.code, code, "{path} {fields}");
                match (code, path) {
                    (200, _) => {}
                    (_, CHAT) => assert_eq!(json(&answer)["error"]["code"], "invalid_api_key"),
                    _ => assert_eq!(anthropic_error(&answer).0, "authentication_error"),
                }
            }
            assert_eq!(server.request("GET", "/v1/models", fields, "").code, code);
            assert_eq!(server.request("GET", "/health", fields, "").code, 200);
        }
        let answer = server.request("GET", "/v1/models", "Anthropic-Version: 2023-06-01\r\n", "");
        assert_eq!(anthropic_error(&answer).0, "authentication_error");
        let asked = server.asks.lock().unwrap().len();
        assert_eq!(asked, 4, "only those with the key, without the counts");
    });
    one(|server| {
        for (method, path, allowed) in [
            ("GET", CHAT, "POST"),
            ("HEAD", CHAT, "POST"),
            ("DELETE", "/v1/messages", "POST"),
            ("POST", "/v1/models", "GET, HEAD"),
            ("PUT", "/health", "GET, HEAD"),
        ] {
            let mut client = Client::connect(server.address);
            client.send(scripted::request(method, path, "", ""));
            let answer = client.head();
            assert_eq!((answer.code, answer.field("allow")), (405, Some(allowed)));
        }
        for path in ["/", "/v1", "/v1/messages/", "/v1/chat", "/metrics"] {
            let answer = server.request("GET", path, "", "");
            assert_eq!(
                (answer.code, openai_message(&answer)),
                (404, "nothing is there".into())
            );
        }
    });
}

#[test]
fn prompts_longer_than_the_context_are_refused() {
    let small = Served {
        ctx: 20,
        ..served()
    };
    serve(small, 8, |server| {
        let long = said(&"word ".repeat(50));
        let answer = server.post(CHAT, &long);
        assert_eq!(answer.code, 400);
        let error = json(&answer)["error"].clone();
        assert_eq!(error["code"], "context_length_exceeded");
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .ends_with("expected at most 20, the context"),
            "{error}"
        );
        let answer = server.post("/v1/messages", &with(long, value!({"stream": true})));
        assert_eq!(
            (answer.code, anthropic_error(&answer).0.as_str()),
            (400, "invalid_request_error")
        );
        // As long as the context.
        let tokens = vec![5; 20];
        assert_eq!(
            server
                .post("/v1/completions", &value!({"prompt": tokens}))
                .code,
            200
        );
        let tokens = vec![5; 21];
        assert_eq!(
            server
                .post("/v1/completions", &value!({"prompt": tokens}))
                .code,
            400
        );
    });
}

#[test]
fn failures_are_told_in_each_shape() {
    one(|server| {
        let answer = server.post(CHAT, &said("@fail"));
        assert_eq!(
            (answer.code, openai_message(&answer).as_str()),
            (500, "disk: read failed")
        );
        assert_eq!(json(&answer)["error"]["type"], "server_error");
        let answer = server.post("/v1/messages", &said("@fail"));
        assert_eq!(
            (answer.code, anthropic_error(&answer).0.as_str()),
            (500, "api_error")
        );
        let answer = server.post(CHAT, &said("@drop"));
        assert_eq!((answer.code, answer.field("retry-after")), (503, Some("2")));

        let stream = value!({"stream": true});
        let chunks = values(&server.post(CHAT, &with(said("@late"), stream.clone())));
        assert_eq!(
            chunks.last().unwrap().1["error"]["message"],
            "disk: read failed"
        );
        let chunks = values(&server.post("/v1/messages", &with(said("@late"), stream.clone())));
        let (name, last) = chunks.last().unwrap();
        assert_eq!(
            (name.as_str(), &last["error"]["type"]),
            ("error", &value!("api_error"))
        );
        let chunks =
            values(&server.post("/v1/responses", &value!({"input": "@late", "stream": true})));
        let (name, last) = chunks.last().unwrap();
        assert_eq!(
            (name.as_str(), &last["response"]["status"]),
            ("response.failed", &value!("failed"))
        );
        assert_eq!(last["response"]["error"]["message"], "disk: read failed");
        let chunks = values(&server.post(
            "/v1/completions",
            &value!({"prompt": "@drop", "stream": true}),
        ));
        assert_eq!(
            chunks.last().unwrap().1["error"]["message"],
            "the server ends"
        );
    });
}

#[test]
fn a_full_line_and_a_closed_desk() {
    serve(served(), 1, |server| {
        let _answered = server.begin(CHAT, &said("@slow"));
        server.wait(|server| server.asks.lock().unwrap().len() == 1);
        let mut waiting = server.begin(CHAT, &with(said("hi"), value!({"stream": true})));
        server.wait(|server| server.desk.n_waiting() == 1);
        // The head is there before the engine has begun.
        assert_eq!(waiting.head().code, 200);
        for path in [CHAT, "/v1/responses", "/v1/completions"] {
            let request = with(
                said("hi"),
                value!({"input": "hi", "prompt": "hi", "stream": true}),
            );
            let answer = server.post(path, &request);
            assert_eq!((answer.code, answer.field("retry-after")), (429, Some("2")));
            assert_eq!(json(&answer)["error"]["type"], "rate_limit_error");
            assert_eq!(
                openai_message(&answer),
                "1 requests wait already; come again later"
            );
        }
        let answer = server.post("/v1/messages", &said("hi"));
        assert_eq!((answer.code, answer.field("retry-after")), (429, Some("2")));
        assert_eq!(anthropic_error(&answer).0, "rate_limit_error");
        server.desk.close();
        let answer = server.post("/v1/messages", &said("hi"));
        assert_eq!((answer.code, answer.field("retry-after")), (503, Some("2")));
        assert_eq!(anthropic_error(&answer).0, "overloaded_error");
        assert_eq!(server.post(CHAT, &said("hi")).code, 503);
    });
}

#[test]
fn whoever_leaves_is_not_answered_any_more() {
    one(|server| {
        let stream = value!({"stream": true});
        let cases = [
            (CHAT, said("@slow")),
            (CHAT, with(said("@slow"), stream.clone())),
            (CHAT, with(said("@endless"), stream.clone())),
            ("/v1/messages", with(said("@endless"), stream)),
            ("/v1/messages", said("@endless")),
        ];
        for (i, (path, request)) in cases.iter().enumerate() {
            let client = server.begin(path, request);
            server.wait(|server| server.asks.lock().unwrap().len() == i + 1);
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(server.n_cancelled.load(Relaxed), i);
            drop(client);
            let took = server.wait(|server| server.n_cancelled.load(Relaxed) == i + 1);
            assert!(took < Duration::from_secs(1), "{path} {request}: {took:?}");
        }
        json(&server.post(CHAT, &said("hi")));
    });
}

#[test]
fn who_waits_is_told_how_far_it_is() {
    one(|server| {
        let begin = Instant::now();
        let mut first = server.begin(CHAT, &with(said("@read"), value!({"stream": true})));
        server.wait(|server| server.asks.lock().unwrap().len() == 1);
        let mut second = server.begin(
            "/v1/messages",
            &with(said("@read"), value!({"stream": true})),
        );
        let (first, second) = (events(&first.answer()), events(&second.answer()));
        let comments = |events: &[(String, String)]| -> Vec<String> {
            let all = events.iter().filter(|(name, _)| name == ":");
            all.map(|(_, text)| text.clone()).collect()
        };
        let n = server.last().tokens.len();
        let told = comments(&first);
        assert!((2..=4).contains(&told.len()), "{told:?}");
        assert_eq!(
            *told.last().unwrap(),
            format!("prefill {n}/{n} tokens, 2.0 t/s, 0 s left")
        );
        let told = comments(&second);
        assert_eq!(told[0], "waiting for the engine, 1 in line");
        assert!(told.last().unwrap().starts_with("prefill "));
        let pings = second.iter().filter(|(name, _)| name == "ping").count();
        assert_eq!(pings, told.len());
        assert!(told.len() <= begin.elapsed().as_secs() as usize);
    });
}
