//! What was said before is never refused: each form that a client may send is rendered as well as possible, and what was
//! left out is told once.

use super::*;

const ANSWER: &str = "<｜Assistant｜></think>";

/// The prompt of a request, and what the client was told.
fn prompt(server: &Scripted, path: &str, request: Value) -> (String, Vec<String>) {
    let answer = server.post(path, &request);
    assert_eq!(answer.code, 200, "{request}: {}", answer.text());
    let body = json(&answer);
    let at = match path {
        CHAT => &body["choices"][0],
        _ => &body,
    };
    let told = at["infall_warnings"].as_array();
    let told = told
        .into_iter()
        .flatten()
        .map(|w| w.as_str().unwrap().to_owned());
    (server.last_prompt(), told.collect())
}

fn holds(found: (String, Vec<String>), text: &str, told: &[&str]) {
    assert!(found.0.contains(text), "{}\nexpected {text}", found.0);
    assert_eq!(found.1, told, "{}", found.0);
}

#[test]
fn chat_takes_contents_in_any_form() {
    let image = value!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}});
    let no_image = "image: left out, this model reads text only";
    let placeholder = "[image: not supported by this model]";
    one(|server| {
        for (content, expected, told) in [
            (value!("a"), "<｜User｜>a<｜", vec![]),
            (value!(null), "<｜User｜><｜", vec![]),
            (value!([]), "<｜User｜><｜", vec![]),
            (value!(7), "<｜User｜>7<｜", vec![]),
            (value!(["a", "b"]), "<｜User｜>a\n\nb<｜", vec![]),
            (
                value!([{"type": "text", "text": "a"}, {"type": "text", "text": null}]),
                "<｜User｜>a<｜",
                vec![],
            ),
            (value!([{"text": "a"}]), "<｜User｜>a<｜", vec![]),
            (
                value!({"type": "text", "text": "a"}),
                "<｜User｜>a<｜",
                vec![],
            ),
            (
                value!([image, {"type": "text", "text": "a"}, image]),
                &format!("{placeholder}\n\na\n\n{placeholder}"),
                vec![no_image],
            ),
            (
                value!([{"type": "input_audio", "input_audio": {}}]),
                "[audio: not supported by this model]",
                vec!["audio: left out, this model reads text only"],
            ),
            (
                value!([{"type": "file", "file": {"file_data": "x"}}]),
                "[document: not supported by this model]",
                vec!["document: left out, this model reads text only"],
            ),
            (
                value!([{"type": "hologram", "x": 1}]),
                "[hologram: not supported by this model]",
                vec!["hologram: left out, this model reads text only"],
            ),
            (
                value!([{"type": "hologram", "text": "seen"}]),
                "<｜User｜>seen<｜",
                vec![],
            ),
        ] {
            let request = value!({"messages": [{"role": "user", "content": content}]});
            holds(prompt(server, CHAT, request), expected, &told);
        }
        // Other roles, no role, no object.
        let messages = value!([{"role": "developer", "content": "d"}, {"content": "u"}, "text", {"role": "robot", "content": "r"}]);
        holds(
            prompt(server, CHAT, value!({"messages": messages})),
            "d<｜User｜>u\n\ntext\n\nr<｜",
            &["messages: role 'robot' taken as the user's"],
        );
        let many = vec![value!({"role": "user", "content": ""}); 5000];
        prompt(server, CHAT, value!({"messages": many}));
    });
}

#[test]
fn chat_takes_calls_and_results_in_any_form() {
    let f = "<｜DSML｜invoke name=\"f\">\n";
    let parameter = |name: &str, text: &str| {
        format!(
            "{f}<｜DSML｜parameter name=\"{name}\" string=\"true\">{text}</｜DSML｜parameter>\n"
        )
    };
    one(|server| {
        let ask = |message: Value, result: Value| {
            let messages = [value!({"role": "user", "content": "q"}), message, result];
            prompt(
                server,
                CHAT,
                value!({"messages": messages, "tools": tools()}),
            )
        };
        let result = value!({"role": "tool", "content": "done"});
        for (arguments, expected) in [
            (value!("{\"p\": \"x\"}"), parameter("p", "x")),
            (value!({"p": "x"}), parameter("p", "x")),
            (value!("{\"p\": \"a\", \"p\": \"b\"}"), parameter("p", "b")),
            (value!("\"{\\\"p\\\": \\\"x\\\"}\""), parameter("p", "x")),
            (
                value!("{\"p\": \"cut"),
                parameter("arguments", "{\"p\": \"cut"),
            ),
            (value!("[1]"), parameter("arguments", "[1]")),
            (value!(""), format!("{f}\n</｜DSML｜invoke>")),
            (value!("null"), format!("{f}\n</｜DSML｜invoke>")),
            (value!(null), format!("{f}\n</｜DSML｜invoke>")),
        ] {
            let call = value!({"function": {"name": "f", "arguments": arguments}});
            let message = value!({"role": "assistant", "content": null, "tool_calls": [call]});
            let found = ask(message, result.clone());
            holds(found.clone(), &expected, &[]);
            holds(found, "<tool_result>done</tool_result>", &[]);
        }
        let message =
            value!({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}});
        holds(
            ask(
                message,
                value!({"role": "function", "name": "f", "content": {"type": "text", "text": "r"}}),
            ),
            "<tool_result>r</tool_result>",
            &[],
        );
        let message = value!({"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "f", "input": "raw"}}]});
        holds(
            ask(message, result.clone()),
            &parameter("input", "raw"),
            &[],
        );
        for calls in [value!(null), value!([]), value!("x"), value!([5])] {
            ask(
                value!({"role": "assistant", "content": "a", "tool_calls": calls}),
                result.clone(),
            );
        }
        // Results without ids stand in the order of the calls, and those with ids find theirs.
        let call = |id: &str| value!({"id": id, "function": {"name": "f", "arguments": "{}"}});
        let said = value!({"role": "assistant", "tool_calls": [call(""), call("")]});
        let results = ["one", "two"].map(|text| value!({"role": "tool", "content": text}));
        let messages = [
            vec![value!({"role": "user", "content": "q"}), said],
            results.into(),
        ]
        .concat();
        holds(
            prompt(
                server,
                CHAT,
                value!({"messages": messages, "tools": tools()}),
            ),
            "<tool_result>one</tool_result>\n\n<tool_result>two</tool_result>",
            &[],
        );
        let said = value!({"role": "assistant", "tool_calls": [call("a"), call("b")]});
        let results =
            ["b", "a"].map(|id| value!({"role": "tool", "tool_call_id": id, "content": id}));
        let messages = [
            vec![value!({"role": "user", "content": "q"}), said],
            results.into(),
        ]
        .concat();
        holds(
            prompt(
                server,
                CHAT,
                value!({"messages": messages, "tools": tools()}),
            ),
            "<tool_result>a</tool_result>\n\n<tool_result>b</tool_result>",
            &[],
        );
    });
}

#[test]
fn reasoning_is_known_under_its_other_names() {
    one(|server| {
        for said in [
            value!({"reasoning_content": "R", "content": "A"}),
            value!({"reasoning": "R", "reasoning_details": [{"type": "reasoning.text", "text": "R"}], "content": "A"}),
            value!({"thinking": "R", "content": "A"}),
            value!({"reasoning_details": [{"type": "reasoning.text", "text": "R"}], "content": "A"}),
            value!({"thinking_blocks": [{"type": "thinking", "thinking": "R"}], "content": "A"}),
            value!({"content": [{"type": "thinking", "thinking": "R"}, {"type": "text", "text": "A"}]}),
            value!({"content": "<think>R</think>\n\nA"}),
        ] {
            let messages = [
                value!({"role": "user", "content": "q"}),
                with(said.clone(), value!({"role": "assistant"})),
                value!({"role": "user", "content": "next"}),
            ];
            // With tools, reasoning stays in the prompt.
            let request =
                value!({"messages": messages, "tools": tools(), "thinking": {"type": "enabled"}});
            holds(prompt(server, CHAT, request), "<think>R</think>A<｜", &[]);
        }
    });
}

#[test]
fn messages_takes_blocks_of_any_kind() {
    one(|server| {
        let ask = |content: Value| {
            prompt(
                server,
                "/v1/messages",
                value!({"max_tokens": 9, "messages": [{"role": "user", "content": content}]}),
            )
        };
        holds(
            ask(value!([{"type": "image"}])),
            "[image: not supported by this model]",
            &["image: left out, this model reads text only"],
        );
        holds(
            ask(
                value!([{"type": "document", "title": "T", "source": {"type": "text", "data": "D"}}]),
            ),
            "T\nD",
            &[],
        );
        holds(
            ask(
                value!([{"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "D"}]}}]),
            ),
            "<｜User｜>D<｜",
            &[],
        );
        holds(
            ask(value!([{"type": "document", "source": {"type": "base64", "data": "x"}}])),
            "[document: not supported by this model]",
            &["document: left out, this model reads text only"],
        );
        holds(
            ask(
                value!([{"type": "search_result", "title": "T", "source": "S", "content": [{"type": "text", "text": "C"}]}]),
            ),
            "T\nS\nC",
            &[],
        );
        holds(ask(value!(null)), "<｜User｜><｜", &[]);

        let turns = |said: Value, result: Value| {
            let messages = [
                value!({"role": "user", "content": "q"}),
                value!({"role": "assistant", "content": said}),
                value!({"role": "user", "content": [result]}),
            ];
            prompt(
                server,
                "/v1/messages",
                value!({"max_tokens": 9, "messages": messages}),
            )
        };
        let result = |more: Value| with(value!({"type": "tool_result", "tool_use_id": "t"}), more);
        let used =
            |input: Value| value!([{"type": "tool_use", "id": "t", "name": "f", "input": input}]);
        let done = value!({"content": "done"});
        for input in [value!({"p": "x"}), value!("{\"p\": \"x\"}")] {
            let found = turns(used(input), result(done.clone()));
            holds(
                found,
                "<｜DSML｜parameter name=\"p\" string=\"true\">x</｜DSML｜parameter>",
                &[],
            );
        }
        for input in [value!(5), value!(null), value!([])] {
            turns(used(input), result(done.clone()));
        }
        let failed = |text: &str| {
            turns(
                used(value!({})),
                result(value!({"is_error": true, "content": text})),
            )
        };
        holds(
            failed("no such file"),
            "<tool_result>Error: no such file</tool_result>",
            &[],
        );
        holds(
            failed("error: x"),
            "<tool_result>error: x</tool_result>",
            &[],
        );
        holds(
            turns(used(value!({})), result(value!({}))),
            "<tool_result></tool_result>",
            &[],
        );
        let image = value!({"content": [{"type": "image", "source": {}}]});
        holds(
            turns(used(value!({})), result(image)),
            "<tool_result>[image: not",
            &["image: left out, this model reads text only"],
        );
        let said = value!([
            {"type": "redacted_thinking", "data": "x"},
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result", "title": "T", "url": "U"}]},
        ]);
        holds(
            turns(said, result(done)),
            "T\nU",
            &["server_tool_use: left out"],
        );
    });
}

#[test]
fn responses_takes_items_of_any_kind() {
    one(|server| {
        let user = value!({"role": "user", "content": "q"});
        let ask = |items: Vec<Value>| {
            let input = [vec![user.clone()], items, vec![user.clone()]].concat();
            prompt(
                server,
                "/v1/responses",
                value!({"input": input, "tools": tools()[0]["function"].as_object().map(|f| vec![with(value!({"type": "function"}), f.clone().into())])}),
            )
        };
        let input = |name: &str, text: &str| {
            format!(
                "<｜DSML｜invoke name=\"{name}\">\n<｜DSML｜parameter name=\"input\" string=\"true\">{text}</｜DSML｜parameter>"
            )
        };
        let output = |kind: &str| value!({"type": kind, "call_id": "c", "output": "done"});
        let custom = value!({"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": "*** Begin"});
        holds(
            ask(vec![custom, output("custom_tool_call_output")]),
            &input("apply_patch", "*** Begin"),
            &[],
        );
        let shell = value!({"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls"]}});
        let found = ask(vec![shell, output("local_shell_call_output")]);
        holds(
            found.clone(),
            "<｜DSML｜parameter name=\"command\" string=\"false\">[\"ls\"]</｜DSML｜parameter>",
            &[],
        );
        holds(found, "<tool_result>done</tool_result>", &[]);
        let spaced = value!({"type": "function_call", "call_id": "c", "namespace": "mcp__x", "name": "read", "arguments": "{\"value\": "});
        holds(
            ask(vec![spaced]),
            "<｜DSML｜invoke name=\"mcp__x__read\">",
            &[],
        );
        let mcp = value!({"type": "mcp_call", "id": "c", "name": "f", "arguments": "{}", "output": "found"});
        holds(ask(vec![mcp]), "<tool_result>found</tool_result>", &[]);
        let object =
            value!({"type": "function_call_output", "call_id": "c", "output": {"code": 1}});
        holds(
            ask(vec![object]),
            "<tool_result>{\"code\":1}</tool_result>",
            &[],
        );
        for (kind, told) in [
            (
                "web_search_call",
                "input: web_search_call left out, this model cannot read it",
            ),
            (
                "item_reference",
                "input: item_reference left out, this model cannot read it",
            ),
            (
                "compaction",
                "input: compaction left out, this model cannot read it",
            ),
            (
                "computer_call_output",
                "input: computer_call_output left out, it has no output",
            ),
        ] {
            let item = value!({"type": kind, "id": "x", "encrypted_content": "x"});
            holds(ask(vec![item.clone(), item]), "q\n\nq", &[told]);
        }
        for (item, expected) in [
            (
                value!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "S"}], "content": null}),
                "q<｜",
            ),
            (value!("text"), "q\n\ntext\n\nq"),
            (
                value!({"role": "user", "content": [{"type": "input_image", "image_url": "x"}, {"type": "input_text", "text": "t"}]}),
                "t\n\nq",
            ),
        ] {
            assert!(ask(vec![item]).0.contains(expected));
        }
        for input in [value!(""), value!([])] {
            prompt(server, "/v1/responses", value!({"input": input}));
        }
        let probe = server.post("/v1/responses/input_tokens", &value!({"input": "hi"}));
        assert!(json(&probe)["input_tokens"].as_u64().unwrap() > 2);
    });
}

#[test]
fn half_characters_and_marks_of_byte_order_are_read() {
    one(|server| {
        for (bytes, expected) in [
            (&b"\xEF\xBB\xBF{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}"[..], "x"),
            (b"{\"messages\":[{\"role\":\"user\",\"content\":\"a\\ud83db\"}]}", "a\u{FFFD}b"),
            (b"{\"messages\":[{\"role\":\"user\",\"content\":\"a\xED\xA0\xBDb\"}]}", "a\u{FFFD}\u{FFFD}\u{FFFD}b"),
            (b"{\"n\":1e999,\"n\":1,\"messages\":[{\"role\":\"user\",\"role\":\"user\",\"content\":\"x\"}]}", "x"),
        ] {
            let mut client = Client::connect(server.address);
            let head = scripted::request("POST", CHAT, "", "").replace("Content-Length: 0", &format!("Content-Length: {}", bytes.len()));
            client.send([head.as_bytes(), bytes].concat());
            let answer = client.answer();
            assert_eq!(answer.code, 200, "{}", answer.text());
            assert!(server.last_prompt().contains(&format!("<｜User｜>{expected}{ANSWER}")));
        }
        // A screenshot of 12 MB.
        let url = format!("data:image/png;base64,{}", "QUJD".repeat(3 << 20));
        let content = value!([{"type": "image_url", "image_url": {"url": url}}]);
        let request = value!({"messages": [{"role": "user", "content": content}]});
        holds(
            prompt(server, CHAT, request),
            "[image: not",
            &["image: left out, this model reads text only"],
        );
    });
}
