//! `/v1/completions`, `/v1/responses` and `/v1/messages`.

use super::*;

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
                "input_tokens": n, "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0}, "output_tokens": 10,
                "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": n + 10,
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
        let call = |n: usize| {
            let mut all = vec!["response.function_call_arguments.delta"; n];
            all.push("response.function_call_arguments.done");
            item(&all)
        };
        let expected = [
            vec!["response.created", "response.in_progress"],
            part(&[
                "response.reasoning_text.delta",
                "response.reasoning_text.delta",
                "response.reasoning_text.done",
            ]),
            part(&["response.output_text.delta", "response.output_text.done"]),
            call(2),
            call(1),
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
                "output_tokens": 10, "output_tokens_details": {"thinking_tokens": 2},
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
        assert_eq!(
            begin["usage"],
            value!({
                "input_tokens": ask.tokens.len() - 2, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2,
                "output_tokens": 0,
            })
        );
        assert_eq!(
            end["delta"],
            value!({"stop_reason": "tool_use", "stop_sequence": null})
        );
        assert_eq!(end["usage"]["output_tokens"], 10);
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
                (2, "input_json_delta"),
                (2, "content_block_stop"),
                (3, "tool_use"),
                (3, "input_json_delta"),
                (3, "content_block_stop"),
            ]
        );
        let pieces = chunks
            .iter()
            .filter(|(_, c)| c["index"] == 2)
            .filter_map(|(_, c)| c["delta"]["partial_json"].as_str());
        assert_eq!(pieces.collect::<String>(), CALL);

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

#[test]
fn answers_that_are_cut_say_so() {
    one(|server| {
        let full = json(&server.post("/v1/messages", &said("@full")));
        assert_eq!(full["stop_reason"], "model_context_window_exceeded");
        let full = json(&server.post(CHAT, &said("@full")));
        let choice = &full["choices"][0];
        assert_eq!(choice["finish_reason"], "length");
        assert_eq!(
            choice["infall_warnings"],
            value!(["the answer ends where the context is full"])
        );
        let full = json(&server.post("/v1/responses", &value!({"input": "@full"})));
        assert_eq!(full["incomplete_details"]["reason"], "max_output_tokens");
        assert_eq!(
            (&full["output"][0]["status"], &full["completed_at"]),
            (&value!("incomplete"), &Value::Null)
        );

        // A call that is cut: as far as it came, but an object where one must be.
        let cut = json(&server.post(CHAT, &said("@cut")));
        let choice = &cut["choices"][0];
        let arguments = &choice["message"]["tool_calls"][0]["function"]["arguments"];
        assert_eq!(
            (&choice["finish_reason"], arguments),
            (&value!("length"), &value!("{\"city\": \"Par"))
        );
        let cut = json(&server.post("/v1/messages", &said("@cut")));
        assert_eq!(
            (&cut["stop_reason"], &cut["content"][0]["input"]),
            (&value!("max_tokens"), &value!({"city": "Par"}))
        );
        let cut = json(&server.post("/v1/responses", &value!({"input": "@cut"})));
        let item = &cut["output"][0];
        assert_eq!(
            (&item["status"], &item["arguments"]),
            (&value!("incomplete"), &value!("{\"city\": \"Par"))
        );
    });
}

#[test]
fn reasoning_is_told_as_its_summary_where_that_is_wanted() {
    one(|server| {
        let request = value!({"input": "hi", "stream": true, "reasoning": {"effort": "low", "summary": "auto"}});
        let chunks = values(&server.post("/v1/responses", &request));
        let of_summary = chunks
            .iter()
            .filter(|(name, _)| name.starts_with("response.reasoning_summary"));
        let names: Vec<&str> = of_summary
            .clone()
            .map(|(name, _)| &name["response.reasoning_summary_".len()..])
            .collect();
        assert_eq!(
            names,
            [
                "part.added",
                "text.delta",
                "text.delta",
                "text.done",
                "part.done"
            ]
        );
        for (_, chunk) in of_summary {
            assert_eq!(
                (&chunk["output_index"], &chunk["summary_index"]),
                (&value!(0), &value!(0))
            );
        }
        let summary = value!([{"type": "summary_text", "text": "Let me think."}]);
        assert_eq!(
            chunks.last().unwrap().1["response"]["output"][0]["summary"],
            summary
        );
        let request = value!({"input": "hi", "reasoning": {"effort": "low"}});
        let answer = json(&server.post("/v1/responses", &request));
        assert_eq!(answer["output"][0]["summary"], value!([]));
        assert_eq!(answer["output"][0]["content"][0]["text"], "Let me think.");
    });
}
