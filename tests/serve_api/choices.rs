//! What a request says of the answer: which tools it calls, how its tokens are chosen, how many answers there are.

use super::*;
use infall::engine::{CallForm, Form};
use infall::units::TokenId;

/// The schema of the parameters of `weather` in [`tools`].
fn weather() -> Value {
    tools()[0]["function"]["parameters"].clone()
}

/// What the answer is held to when it calls `weather`, or either tool.
fn calls(names: &[&str], required: bool, parallel: bool) -> Option<Form> {
    let tool = |name: &&str| {
        let schema = (*name == "weather").then(|| compiled(&weather()));
        (name.to_string(), schema)
    };
    Some(Form::Calls(CallForm {
        tools: names.iter().map(tool).collect(),
        required,
        parallel,
    }))
}

/// The tools of [`tools`] as `/v1/responses` and `/v1/messages` have them.
fn flat(schema: &str, kind: Option<&str>) -> Vec<Value> {
    let tool = |tool: &Value| {
        let function = &tool["function"];
        let mut flat = value!({"name": function["name"]});
        if let Some(kind) = kind {
            flat["type"] = kind.into();
        }
        if let Some(parameters) = function.get("parameters") {
            flat[schema] = parameters.clone();
        }
        flat
    };
    tools().as_array().unwrap().iter().map(tool).collect()
}

#[test]
fn tools_are_chosen_in_all_forms() {
    let both: &[&str] = &["weather", "now"];
    let cases = [
        (CHAT, value!(null), None, None),
        (CHAT, value!("auto"), None, None),
        (CHAT, value!({"type": "auto"}), None, None),
        (CHAT, value!("none"), None, Some(0)),
        (CHAT, value!({"type": "none"}), None, Some(0)),
        (CHAT, value!("required"), calls(both, true, true), None),
        (CHAT, value!("any"), calls(both, true, true), None),
        (
            CHAT,
            value!({"type": "required"}),
            calls(both, true, true),
            None,
        ),
        (
            CHAT,
            value!({"type": "function", "function": {"name": "now"}}),
            calls(&["now"], true, true),
            None,
        ),
        (
            CHAT,
            value!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "now"}}]}}),
            calls(&["now"], false, true),
            None,
        ),
        (
            "/v1/responses",
            value!("required"),
            calls(both, true, true),
            None,
        ),
        (
            "/v1/responses",
            value!({"type": "function", "name": "weather"}),
            calls(&["weather"], true, true),
            None,
        ),
        ("/v1/responses", value!({"type": "web_search"}), None, None),
        (
            "/v1/messages",
            value!({"type": "any"}),
            calls(both, true, true),
            None,
        ),
        (
            "/v1/messages",
            value!({"type": "tool", "name": "now"}),
            calls(&["now"], true, true),
            None,
        ),
        (
            "/v1/messages",
            value!({"type": "auto", "disable_parallel_tool_use": true}),
            None,
            Some(1),
        ),
        (
            "/v1/messages",
            value!({"type": "any", "disable_parallel_tool_use": true}),
            calls(both, true, false),
            Some(1),
        ),
    ];
    one(|server| {
        for (path, choice, held, most_calls) in cases {
            let (request, tools) = match path {
                "/v1/responses" => (
                    value!({"input": "hi"}),
                    flat("parameters", Some("function")),
                ),
                "/v1/messages" => (said("hi"), flat("input_schema", None)),
                _ => (said("hi"), tools().as_array().unwrap().clone()),
            };
            json(&server.post(
                path,
                &with(
                    request.clone(),
                    value!({"tools": tools, "tool_choice": choice}),
                ),
            ));
            let ask = server.last();
            assert_eq!(
                (&ask.held, ask.most_calls),
                (&held, most_calls),
                "{path} {choice}"
            );
            assert!(ask.tools);
            let offered = server.last_prompt();
            assert!(
                offered.contains("\"name\": \"weather\"") && offered.contains("\"name\": \"now\"")
            );
            // Without tools a choice means nothing.
            json(&server.post(path, &with(request, value!({"tool_choice": choice}))));
            let ask = server.last();
            assert_eq!((ask.held, ask.most_calls, ask.tools), (None, None, false));
        }
        let single = value!({"tools": tools(), "parallel_tool_calls": false});
        json(&server.post(CHAT, &with(said("hi"), single.clone())));
        assert_eq!(server.last().most_calls, Some(1));
        let request = with(
            value!({"input": "hi"}),
            with(
                single,
                value!({"tools": flat("parameters", Some("function"))}),
            ),
        );
        let answer = json(&server.post("/v1/responses", &request));
        assert_eq!(answer["parallel_tool_calls"], false);
    });
}

#[test]
fn strict_tools_are_held_and_others_are_free() {
    one(|server| {
        let ask = |tool: Value| server.post(CHAT, &with(said("hi"), value!({"tools": [tool]})));
        let strict = |strict: bool, schema: Value| value!({"type": "function", "function": {"name": "weather", "strict": strict, "parameters": schema}});
        json(&ask(strict(true, weather())));
        assert_eq!(server.last().held, calls(&["weather"], false, true));
        json(&ask(strict(false, weather())));
        assert_eq!(server.last().held, None);
        // What cannot be held is refused for a strict tool only.
        let not = value!({"type": "object", "properties": {"a": {"not": {"type": "string"}}}});
        let answer = ask(strict(true, not.clone()));
        assert_eq!(answer.code, 400);
        assert!(
            openai_message(&answer).starts_with("tools: parameters of 'weather': "),
            "{}",
            answer.text()
        );
        json(&ask(strict(false, not.clone())));
        let format = |strict: bool| value!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": strict, "schema": not}}});
        assert_eq!(server.post(CHAT, &with(said("hi"), format(true))).code, 400);
        let answer = json(&server.post(CHAT, &with(said("hi"), format(false))));
        let told = answer["choices"][0]["infall_warnings"][0].as_str().unwrap();
        assert!(
            told.starts_with("schema: told to the model, not held: "),
            "{told}"
        );
    });
}

#[test]
fn tools_of_other_kinds_become_functions_or_are_left_out() {
    one(|server| {
        let tools = value!([
            {"type": "function", "name": "f", "parameters": {"type": "object"}},
            {"type": "web_search"},
            {"type": "custom", "name": "apply_patch", "description": "Edits.", "format": {"type": "grammar", "syntax": "lark", "definition": "start: X"}},
            {"type": "namespace", "name": "mcp__x", "tools": [{"type": "function", "name": "read", "parameters": {"type": "object"}}]},
            {"type": "local_shell"},
            {"type": "function", "name": "f", "description": "the last counts"},
        ]);
        let answer = json(&server.post("/v1/responses", &value!({"input": "hi", "tools": tools})));
        let prompt = server.last_prompt();
        for shown in [
            "{\"name\": \"f\", \"description\": \"the last counts\"}\n",
            "{\"name\": \"apply_patch\", \"description\": \"Edits.\\n\\nThe input must follow this grammar:\\nstart: X\"",
            "{\"name\": \"mcp__x__read\"",
            "{\"name\": \"local_shell\"",
        ] {
            assert!(prompt.contains(shown), "{prompt}\nexpected {shown}");
        }
        assert_eq!(prompt.matches("\"name\": \"f\"").count(), 1);
        let told = value!([
            "tools: web_search left out, it is not known here",
            "tools: the grammar of 'apply_patch' is told, not held",
        ]);
        assert_eq!(answer["infall_warnings"], told);
        let tools =
            value!([{"type": "web_search_20250305", "name": "web_search"}, {"name": "now"}]);
        let answer =
            json(&server.post("/v1/messages", &with(said("hi"), value!({"tools": tools}))));
        assert_eq!(
            answer["infall_warnings"],
            value!(["tools: web_search_20250305 left out, it is not known here"])
        );
        assert!(server.last_prompt().contains("{\"name\": \"now\"}"));
    });
}

#[test]
fn numbers_are_taken_as_clients_write_them() {
    one(|server| {
        let ask = |more: Value| {
            json(&server.post(
                CHAT,
                &with(value!({"messages": said("hi")["messages"]}), more),
            ));
            server.last()
        };
        for (given, expected) in [
            (value!(null), None),
            (value!(""), None),
            (value!(7), Some(7)),
            (value!(7.0), Some(7)),
            (value!("7"), Some(7)),
            (value!(0), Some(0)),
            (value!(-1), Some(usize::MAX)),
        ] {
            assert_eq!(
                ask(value!({"max_tokens": given})).max_tokens,
                expected,
                "{given}"
            );
        }
        for (given, expected) in [
            (value!(40.0), 40),
            (value!(-1), 0),
            (value!(""), 0),
            (value!("5"), 5),
        ] {
            assert_eq!(
                ask(value!({"top_k": given})).sampling.top_k,
                expected,
                "{given}"
            );
        }
        assert_eq!(
            ask(value!({"temperature": "0.5"})).sampling.temperature,
            0.5
        );
        let random: Vec<u64> = (0..2)
            .map(|_| ask(value!({"seed": -1})).sampling.seed)
            .collect();
        assert_ne!(random[0], random[1]);
        for (given, expected) in [
            (value!(""), 0),
            (value!([]), 0),
            (value!([""]), 0),
            (value!("a"), 1),
            (value!(["a", "b"]), 2),
        ] {
            assert_eq!(
                ask(value!({"stop": given})).stops.len(),
                expected,
                "{given}"
            );
        }
        let adjust = ask(value!({
            "frequency_penalty": 0.5, "presence_penalty": "-1", "repeat_penalty": 1.5, "repeat_last_n": -1,
            "logit_bias": {"5": -100, "7": 2.5},
        }))
        .adjust;
        assert_eq!(
            (
                adjust.frequency,
                adjust.presence,
                adjust.repeat,
                adjust.last_n
            ),
            (0.5, -1.0, 1.5, 1 << 16)
        );
        assert_eq!(adjust.bias, [(TokenId(5), -100.0), (TokenId(7), 2.5)]);
        assert_eq!(
            ask(value!({"logit_bias": [[5, 1]]})).adjust.bias,
            [(TokenId(5), 1.0)]
        );
        for (more, expected) in [
            (
                value!({"frequency_penalty": 5}),
                "frequency_penalty: found 5, expected a number from -2 to 2",
            ),
            (
                value!({"logit_bias": {"x": 1}}),
                "logit_bias.x: expected the number of a token",
            ),
            (
                value!({"logit_bias": {"5": 101}}),
                "logit_bias.5: found 101, expected a number from -100 to 100",
            ),
            (value!({"n": 0}), "n: found 0, expected 1 to 128"),
        ] {
            let answer = server.post(CHAT, &with(said("hi"), more));
            assert_eq!(
                (answer.code, openai_message(&answer).as_str()),
                (400, expected)
            );
            assert_eq!(
                json(&answer)["error"]["param"],
                expected.split(": ").next().unwrap()
            );
        }
    });
}

#[test]
fn several_answers_and_prompts_come_one_after_the_other() {
    one(|server| {
        let answer = json(&server.post(CHAT, &with(said("hi"), value!({"n": 3, "seed": 5}))));
        let choices = answer["choices"].as_array().unwrap();
        assert_eq!(choices.len(), 3);
        let seeds: Vec<u64> = server
            .asks
            .lock()
            .unwrap()
            .iter()
            .map(|ask| ask.sampling.seed)
            .collect();
        assert_eq!(seeds, [5, 6, 7]);
        let prompts = value!({"prompt": [[5, 6, 7], "text", [8]], "n": 2, "max_tokens": 1});
        let answer = json(&server.post("/v1/completions", &prompts));
        let index: Vec<u64> = answer["choices"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["index"].as_u64().unwrap())
            .collect();
        assert_eq!(index, [0, 1, 2, 3, 4, 5]);
        let asks = server.asks.lock().unwrap()[3..].to_vec();
        assert_eq!(asks[0].tokens, [5, 6, 7].map(TokenId));
        assert_eq!((asks[1].tokens.len(), asks[4].tokens.len()), (3, 1));
        // The start token is the server's own.
        let echo =
            value!({"prompt": "text", "echo": true, "logprobs": true, "suffix": "", "best_of": 1});
        json(&server.post("/v1/completions", &echo));
        let ask = server.last();
        assert_eq!((ask.echo, ask.logprobs), (Some(1), Some(0)));
        json(&server.post("/v1/completions", &value!({"prompt": [5], "echo": true})));
        assert_eq!(server.last().echo, Some(0));
    });
}

#[test]
fn begun_answers_go_on() {
    one(|server| {
        let turns = |more: Value| value!([{"role": "user", "content": "q"}, with(value!({"role": "assistant", "content": "The capital is"}), more)]);
        for (path, request) in [
            (CHAT, value!({"messages": turns(value!({}))})),
            (CHAT, value!({"messages": turns(value!({"prefix": true}))})),
            (
                CHAT,
                value!({"messages": turns(value!({})), "continue_final_message": true, "add_generation_prompt": false}),
            ),
            (
                "/v1/messages",
                value!({"max_tokens": 9, "messages": turns(value!({}))}),
            ),
            ("/v1/responses", value!({"input": turns(value!({}))})),
        ] {
            json(&server.post(path, &request));
            assert!(
                server
                    .last_prompt()
                    .ends_with("<｜User｜>q<｜Assistant｜></think>The capital is"),
                "{}",
                server.last_prompt()
            );
        }
        let ask = |message: Value| {
            let messages = value!([{"role": "user", "content": "q"}, message]);
            json(&server.post(
                CHAT,
                &value!({"messages": messages, "thinking": {"type": "enabled"}}),
            ));
            (server.last_prompt(), server.last().reasoning)
        };
        let (prompt, reasons) =
            ask(value!({"role": "assistant", "reasoning_content": "R", "content": "A"}));
        assert!(prompt.ends_with("<think>R</think>A") && !reasons);
        let (prompt, reasons) =
            ask(value!({"role": "assistant", "reasoning_content": "R", "content": ""}));
        assert!(prompt.ends_with("<think>R") && reasons);
        let (prompt, reasons) = ask(value!({"role": "assistant", "content": ""}));
        assert!(prompt.ends_with("<think>") && reasons);
        let anew = value!({"messages": turns(value!({})), "continue_final_message": false});
        json(&server.post(CHAT, &anew));
        assert!(
            server
                .last_prompt()
                .ends_with("The capital is<｜end▁of▁sentence｜><｜Assistant｜></think>")
        );
    });
}

#[test]
fn the_older_form_of_functions_is_answered_in_it() {
    one(|server| {
        let functions = value!([tools()[0]["function"], tools()[1]["function"]]);
        let request = with(
            said("@tools"),
            value!({"functions": functions, "function_call": "auto"}),
        );
        let answer = json(&server.post(CHAT, &request));
        let choice = &answer["choices"][0];
        assert_eq!(
            (
                &choice["finish_reason"],
                choice["message"].get("tool_calls")
            ),
            (&value!("function_call"), None)
        );
        assert_eq!(
            choice["message"]["function_call"],
            value!({"name": "weather", "arguments": CALL})
        );
        let ask = server.last();
        assert_eq!((ask.tools, ask.most_calls), (true, Some(1)));
        json(&server.post(
            CHAT,
            &with(request.clone(), value!({"function_call": {"name": "now"}})),
        ));
        assert_eq!(server.last().held, calls(&["now"], true, false));
        let chunks = values(&server.post(CHAT, &with(request, value!({"stream": true}))));
        let part = |name: &str| -> String {
            let parts = chunks
                .iter()
                .filter_map(|(_, c)| c["choices"][0]["delta"]["function_call"][name].as_str());
            parts.collect()
        };
        assert_eq!(part("name").find("weather"), Some(0));
        assert!(part("arguments").starts_with(CALL));
    });
}
