//! `/v1/chat/completions`: answers, thinking, tools, JSON.

use super::*;
use infall::engine::Form;

#[test]
fn chat_answers_in_one_piece() {
    one(|server| {
        let request = with(
            said("hi"),
            value!({
                "temperature": 0.5, "top_p": 0.25, "min_p": 0.125, "top_k": 7, "seed": 42, "stop": "END",
                "logprobs": true, "top_logprobs": 2, "unknown": {"x": []}, "store": true, "mirostat": 0,
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
        assert_eq!(
            choice["infall_warnings"],
            value!(["unknown: not supported, ignored"])
        );
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
        assert!(!ask.reasoning && !ask.tools && ask.held.is_none());

        let free = value!({
            "messages": said("hi")["messages"], "stop": null, "max_completion_tokens": 5, "max_tokens": 6,
            "seed": -2, "n": 1,
        });
        json(&server.post(CHAT, &free));
        let ask = server.last();
        assert_eq!(
            (ask.max_tokens, ask.stops.len(), ask.logprobs),
            (Some(5), 0, None)
        );
        assert_eq!(ask.sampling.seed, u64::MAX - 1);
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
        let calls: Vec<&Value> = chunks
            .iter()
            .filter_map(|(_, c)| c["choices"][0]["delta"]["tool_calls"].as_array())
            .flatten()
            .collect();
        // The name comes first, then the arguments as they are written.
        let told: Vec<(u64, Option<&str>, &str)> = calls
            .iter()
            .map(|call| {
                let function = &call["function"];
                let arguments = function["arguments"].as_str().unwrap();
                assert_eq!(call["id"].is_string(), function["name"].is_string());
                (
                    call["index"].as_u64().unwrap(),
                    function["name"].as_str(),
                    arguments,
                )
            })
            .collect();
        let (begin, rest) = CALL.split_at(20);
        assert_eq!(
            told,
            [
                (0, Some("weather"), ""),
                (0, None, begin),
                (0, None, rest),
                (1, Some("now"), ""),
                (1, None, "{}"),
            ]
        );
        assert_eq!(
            chunks[chunks.len() - 2].1["choices"][0]["finish_reason"],
            "tool_calls"
        );

        // The prompt stays as it was, so that what was read of it can be used again.
        json(&server.post(CHAT, &with(request, value!({"tool_choice": "none"}))));
        assert!(server.last_prompt().contains("## Tools"));
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
                "{{\"messages\":{},\"tools\":[{}],\"reasoning_effort\":\"{effort}\",\"continue_final_message\":false{format}}}",
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
            Some(value!({"type": "object"})),
        ),
        (
            CHAT,
            with(said("hi"), value!({"response_format": named(&schema)})),
            Some(schema.clone()),
        ),
        (
            CHAT,
            with(said("hi"), value!({"response_format": named(&list)})),
            Some(list.clone()),
        ),
        (
            "/v1/responses",
            with(input.clone(), flat(&schema)),
            Some(schema.clone()),
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
            Some(schema.clone()),
        ),
    ];
    one(|server| {
        for (path, request, expected) in cases {
            json(&server.post(path, &request));
            let ask = server.last();
            let any_object = value!({"type": "object"});
            let form = expected.as_ref().map(|schema| match *schema == any_object {
                true => Form::Json(Rules::WRITTEN_OBJECT),
                false => Form::Schema(compiled(schema)),
            });
            assert_eq!(ask.held, form);
            let format = expected.map(|schema| respaced(&schema.to_string()).unwrap());
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
        assert!(server.last().held.is_none() && server.last().tools);
    });
}

#[test]
fn what_is_no_call_is_text_with_a_warning() {
    const TEXT: &str = "Look: <｜DSML｜tool_calls>\nx";
    let reason = value!(["calls: found no call"]);
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
