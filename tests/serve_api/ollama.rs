//! Ollama's `/api/chat`, `/api/generate` and what its clients ask of a model.

use super::*;

/// The lines of a stream.
fn lines(answer: &loopback::Answer) -> Vec<Value> {
    assert_eq!(answer.code, 200, "{}", answer.text());
    assert_eq!(answer.field("content-type"), Some("application/x-ndjson"));
    assert!(answer.text().ends_with('\n'));
    let lines = answer.text().lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn whole(request: Value) -> Value {
    with(request, value!({"stream": false}))
}

/// The names of an object's members.
fn names(object: &Value) -> Vec<&str> {
    let names = object.as_object().unwrap().keys();
    names.map(String::as_str).collect()
}

/// What the last line or a whole answer has besides the text.
const FIGURES: [&str; 6] = [
    "eval_count",
    "eval_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "total_duration",
];

#[test]
fn a_chat_is_told_in_lines_or_at_once() {
    const PATH: &str = "/api/chat";
    one(|server| {
        let request = with(
            said("@tools"),
            value!({
                "think": true, "tools": tools(), "keep_alive": "5m",
                "options": {"temperature": 0.5, "top_k": 3, "top_p": 0.25, "min_p": 0.125, "seed": 7, "num_predict": 9,
                    "stop": ["END"], "repeat_penalty": 1.5, "repeat_last_n": 5, "presence_penalty": 0.5,
                    "frequency_penalty": 0.25, "num_ctx": 8192, "num_thread": 4, "mirostat": 2},
            }),
        );
        let answer = json(&server.post(PATH, &whole(request.clone())));
        let ask = server.last();
        let expected: Value = serde_json::from_str(CALL).unwrap();
        let message = &answer["message"];
        assert_eq!(
            names(message),
            ["content", "role", "thinking", "tool_calls"]
        );
        assert_eq!(
            (&message["role"], &message["content"], &message["thinking"]),
            (
                &value!("assistant"),
                &value!("I look."),
                &value!("Let me think.")
            )
        );
        let calls = &message["tool_calls"];
        assert_eq!(
            (
                &calls[0]["function"]["name"],
                &calls[0]["function"]["arguments"]
            ),
            (&value!("weather"), &expected)
        );
        assert_eq!(
            (
                &calls[1]["function"]["name"],
                &calls[1]["function"]["arguments"]
            ),
            (&value!("now"), &value!({}))
        );
        assert_eq!(answer["model"], "scripted:latest");
        assert_eq!(
            (&answer["done"], &answer["done_reason"]),
            (&value!(true), &value!("stop"))
        );
        assert_eq!(
            (&answer["prompt_eval_count"], &answer["eval_count"]),
            (&value!(ask.tokens.len()), &value!(10))
        );
        let time = |name: &str| answer[name].as_u64().unwrap();
        let parts = ["load_duration", "prompt_eval_duration", "eval_duration"];
        let sum: u64 = parts.iter().map(|name| time(name)).sum();
        assert_eq!(sum, time("total_duration"));
        let created = answer["created_at"].as_str().unwrap();
        assert!(created.starts_with("20") && created.ends_with('Z') && created.len() == 24);
        assert_eq!(
            answer["infall_warnings"],
            value!([
                "max_tokens: not supported, ignored",
                "mirostat: not supported, ignored",
                "options.num_ctx: found 8192, the context holds 4096 tokens; --ctx sets it",
            ])
        );
        assert!(ask.reasoning && ask.tools);
        let s = ask.sampling;
        assert_eq!(
            (s.temperature, s.top_k, s.top_p, s.min_p, s.seed),
            (0.5, 3, 0.25, 0.125, 7)
        );
        let a = ask.adjust;
        assert_eq!(
            (a.repeat, a.last_n, a.presence, a.frequency),
            (1.5, 5, 0.5, 0.25)
        );
        assert_eq!(
            (ask.max_tokens, ask.stops),
            (Some(9), vec!["END".to_owned()])
        );

        // A stream is what comes if nothing is said of it.
        let told = lines(&server.post(PATH, &request));
        let (last, parts) = told.split_last().unwrap();
        assert!(parts.iter().all(|part| part["done"] == false));
        let join = |field: &str| -> String {
            let texts = parts
                .iter()
                .filter_map(|part| part["message"][field].as_str());
            texts.collect()
        };
        assert_eq!(
            (join("thinking"), join("content")),
            ("Let me think.".to_owned(), "I look.".to_owned())
        );
        let called: Vec<&Value> = parts
            .iter()
            .filter_map(|part| part["message"]["tool_calls"].as_array())
            .flatten()
            .map(|call| &call["function"])
            .collect();
        assert_eq!(called.len(), 2);
        assert_eq!(
            (&called[0]["index"], &called[0]["arguments"]),
            (&value!(0), &expected)
        );
        assert_eq!(
            (&called[1]["index"], &called[1]["name"]),
            (&value!(1), &value!("now"))
        );
        assert_eq!(
            last["message"],
            value!({"role": "assistant", "content": ""})
        );
        assert_eq!(
            (&last["done"], &last["done_reason"]),
            (&value!(true), &value!("stop"))
        );
        assert!(FIGURES.iter().all(|name| last[name].is_u64()), "{last}");
        assert_eq!(names(last), names(&answer));

        // The client goes on with what it got.
        let history = value!([
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "look", "images": ["QUJD", "x".repeat(9000)]},
            message,
            {"role": "tool", "tool_name": "now", "content": "noon"},
            {"role": "tool", "tool_name": "weather", "content": "sun"},
        ]);
        let request = with(request, value!({"messages": history}));
        let answer = json(&server.post(PATH, &whole(request)));
        assert_eq!(answer["message"]["content"], HELLO);
        assert_eq!(
            answer["infall_warnings"][0],
            "image: left out, this model reads text only"
        );
        let described: Vec<Tool> = tools()
            .as_array()
            .unwrap()
            .iter()
            .map(|tool| Tool::from_function(&tool["function"].to_string()).unwrap())
            .collect();
        let called = [
            Call::from_json("a", "weather", &expected.to_string()).unwrap(),
            Call::from_json("b", "now", "{}").unwrap(),
        ];
        let seen = "[image: not supported by this model]";
        let messages = [
            Message::System("be brief"),
            Message::User(&format!("look\n\n{seen}\n\n{seen}")),
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
        assert_eq!(
            server.last().tokens,
            rendered(&messages, &described, None, Thinking::On)
        );
    });
}

#[test]
fn a_prompt_is_answered_as_a_turn_or_as_it_is() {
    const PATH: &str = "/api/generate";
    one(|server| {
        let request = value!({"model": "x", "prompt": "hi", "system": "be brief", "think": false});
        let answer = json(&server.post(PATH, &whole(request.clone())));
        assert_eq!(
            (&answer["response"], &answer["done_reason"]),
            (&value!(HELLO), &value!("stop"))
        );
        assert!(FIGURES.iter().all(|name| answer[name].is_u64()), "{answer}");
        assert_eq!(answer.get("infall_warnings"), None);
        let messages = [Message::System("be brief"), Message::User("hi")];
        let expected = rendered(&messages, &[], None, Thinking::Off);
        assert_eq!(server.last().tokens, expected);
        let told = lines(&server.post(PATH, &request));
        let text = told.iter().map(|line| line["response"].as_str().unwrap());
        assert_eq!(text.collect::<String>(), HELLO);
        assert_eq!(told.iter().filter(|line| line["done"] == true).count(), 1);

        let raw =
            value!({"prompt": "Once <｜User｜>", "raw": true, "logprobs": true, "top_logprobs": 2});
        let answer = json(&server.post(PATH, &whole(raw)));
        let mut tokens = vec![real().bos().unwrap()];
        tokens.extend(real().encode("Once <｜User｜>", Special::Parse));
        assert_eq!(
            (&server.last().tokens, server.last().reasoning),
            (&tokens, false)
        );
        let first = &answer["logprobs"][0];
        assert_eq!(
            (&first["token"], &first["logprob"]),
            (&value!(" Hello"), &value!(-0.25))
        );
        assert_eq!(first["top_logprobs"].as_array().unwrap().len(), 2);

        let more = value!({"context": [1, 2], "template": "{{ .Prompt }}", "images": ["QUJD"]});
        let answer = json(&server.post(PATH, &whole(with(request, more))));
        assert_eq!(
            answer["infall_warnings"],
            value!([
                "image: left out, this model reads text only",
                "context: not supported, ignored",
                "template: not supported, ignored",
            ])
        );
        let long = json(&server.post(PATH, &whole(value!({"prompt": "@length"}))));
        assert_eq!(long["done_reason"], "length");
        // No bound in either form.
        for n in [-1, -2, 0] {
            let request = value!({"prompt": "hi", "options": {"num_predict": n}});
            json(&server.post(PATH, &whole(request)));
            assert!(server.last().max_tokens.is_none_or(|n| n == usize::MAX));
        }
    });
}

#[test]
fn answers_are_held_to_a_format() {
    one(|server| {
        let schema = value!({"type": "object", "properties": {"a": {"type": "integer"}}});
        for (format, is_held) in [
            (value!("json"), true),
            (schema, true),
            (value!(""), false),
            (Value::Null, false),
        ] {
            let request = with(said("@json"), value!({"format": format}));
            let answer = json(&server.post("/api/chat", &whole(request.clone())));
            assert_eq!(server.last().held.is_some(), is_held, "{format}");
            assert_eq!(answer["message"]["content"], "{\"a\": 1}");
            json(&server.post(
                "/api/generate",
                &whole(value!({"prompt": "@json", "format": format})),
            ));
            assert_eq!(server.last().held.is_some(), is_held, "{format}");
        }
        for (think, reasons) in [
            (value!(true), true),
            (value!("low"), true),
            (value!("high"), true),
            (value!(false), false),
            (Value::Null, false),
        ] {
            json(&server.post(
                "/api/chat",
                &whole(with(said("hi"), value!({"think": think}))),
            ));
            assert_eq!(server.last().reasoning, reasons, "{think}");
        }
    });
}

#[test]
fn nothing_asked_is_a_load() {
    one(|server| {
        for (path, request) in [
            ("/api/generate", value!({"model": "x"})),
            (
                "/api/generate",
                value!({"model": "x", "prompt": "", "keep_alive": -1}),
            ),
            ("/api/chat", value!({"model": "x"})),
            ("/api/chat", value!({"model": "x", "messages": []})),
        ] {
            let answer = json(&server.post(path, &request));
            assert_eq!(
                (&answer["done"], &answer["done_reason"]),
                (&value!(true), &value!("load"))
            );
            let text = match path {
                "/api/chat" => &answer["message"]["content"],
                _ => &answer["response"],
            };
            assert_eq!(text, "");
        }
        assert!(server.asks.lock().unwrap().is_empty());
    });
}

#[test]
fn the_model_as_ollama_tells_it() {
    one(|server| {
        let get = |path: &str| json(&server.request("GET", path, "", ""));
        let version = get("/api/version")["version"].as_str().unwrap().to_owned();
        assert!(version.split('.').all(|part| part.parse::<u32>().is_ok()));
        let (tags, running) = (get("/api/tags"), get("/api/ps"));
        for list in [&tags, &running] {
            let models = list["models"].as_array().unwrap();
            assert_eq!(models.len(), 1);
            assert_eq!(
                (&models[0]["name"], &models[0]["model"], &models[0]["size"]),
                (
                    &value!("scripted:latest"),
                    &value!("scripted:latest"),
                    &value!(12345)
                )
            );
            let digest = models[0]["digest"].as_str().unwrap();
            assert!(digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()));
            assert_eq!(models[0]["details"]["format"], "gguf");
        }
        assert_eq!(tags["models"][0]["digest"], running["models"][0]["digest"]);
        assert_eq!(running["models"][0]["context_length"], 4096);
        let show = json(&server.post("/api/show", &value!({"model": "scripted:latest"})));
        assert_eq!(
            show["capabilities"],
            value!(["completion", "tools", "thinking"])
        );
        let architecture = show["model_info"]["general.architecture"].as_str().unwrap();
        assert_eq!(
            show["model_info"][format!("{architecture}.context_length")],
            4096
        );
        let template = show["template"].as_str().unwrap();
        assert!(
            template.contains("{{ .System }}<｜User｜>{{ .Prompt }}<｜Assistant｜>"),
            "{template}"
        );
        assert!(
            show["parameters"]
                .as_str()
                .unwrap()
                .contains("num_ctx 4096\n")
        );
    });
}

#[test]
fn errors_have_ollamas_shape() {
    let message = |answer: &loopback::Answer| {
        let body = json(answer);
        assert_eq!(names(&body), ["error"]);
        body["error"].as_str().unwrap().to_owned()
    };
    one(|server| {
        for (path, request, expected) in [
            ("/api/chat", value!([]), "found array, expected object"),
            (
                "/api/chat",
                value!({"messages": 5}),
                "messages: found number, expected array",
            ),
            (
                "/api/chat",
                with(said("hi"), value!({"think": "huge"})),
                "think: found 'huge', expected",
            ),
            (
                "/api/chat",
                with(said("hi"), value!({"options": {"temperature": 9}})),
                "options.temperature: found 9, expected a number from 0 to 2",
            ),
            (
                "/api/chat",
                with(said("hi"), value!({"options": []})),
                "options: found array, expected object",
            ),
            (
                "/api/generate",
                value!({"prompt": "a", "suffix": "b"}),
                "suffix: not supported",
            ),
            (
                "/api/generate",
                value!({"prompt": "a", "system": "b", "raw": true}),
                "system: found with raw",
            ),
            (
                "/api/generate",
                value!({"prompt": 1}),
                "prompt: found number, expected string",
            ),
        ] {
            let answer = server.post(path, &request);
            assert_eq!(answer.code, 400, "{}", answer.text());
            let found = message(&answer);
            assert!(found.starts_with(expected), "{found}, expected {expected}");
        }
        for (path, expected) in [
            ("/api/embed", "this model makes no embeddings"),
            ("/api/embeddings", "this model makes no embeddings"),
            ("/api/pull", "the model was given"),
            ("/api/create", "the model was given"),
        ] {
            let answer = server.post(path, &value!({"model": "x"}));
            assert_eq!(answer.code, 404);
            assert!(message(&answer).starts_with(expected));
        }
        let answer = server.request("DELETE", "/api/delete", "", "{}");
        assert_eq!(answer.code, 404);
        assert!(message(&answer).starts_with("the model was given"));
        let answer = server.request("GET", "/api/chat", "", "");
        assert_eq!(
            (answer.code, message(&answer).as_str()),
            (405, "method: expected POST")
        );
        let answer = server.request("GET", "/api/other", "", "");
        assert_eq!(
            (answer.code, message(&answer).as_str()),
            (404, "nothing is there")
        );

        let answer = server.post("/api/chat", &whole(said("@fail")));
        assert_eq!(
            (answer.code, message(&answer).as_str()),
            (500, "disk: read failed")
        );
        let answer = server.post("/api/chat", &whole(said("@wane")));
        assert_eq!(
            (answer.code, message(&answer).as_str()),
            (200, "disk: read failed")
        );
        let told = lines(&server.post("/api/chat", &said("@late")));
        assert_eq!(
            *told.last().unwrap(),
            value!({"error": "disk: read failed"})
        );
    });
    let small = Served {
        ctx: 20,
        ..served()
    };
    serve(small, 8, |server| {
        let answer = server.post("/api/chat", &said(&"word ".repeat(50)));
        assert_eq!(answer.code, 400);
        assert!(message(&answer).starts_with("the input length exceeds the context length"));
    });
}

#[test]
fn who_waits_for_lines_gets_empty_ones() {
    one(|server| {
        let told = lines(&server.post("/api/chat", &said("@read")));
        let n = told
            .iter()
            .take_while(|line| line["message"]["content"] == "" && line["done"] == false)
            .count();
        assert!((1..=2).contains(&n), "{told:?}");
        let text = told
            .iter()
            .map(|line| line["message"]["content"].as_str().unwrap());
        assert_eq!(text.collect::<String>(), HELLO);
        // One that left is noticed by them.
        for half in [true, false] {
            let n = server.n_cancelled.load(Relaxed);
            let client = server.begin("/api/chat", &said("@slow"));
            if half {
                client.stream().shutdown(std::net::Shutdown::Write).unwrap();
            }
            server.wait(|server| server.last_prompt().contains("@slow"));
            std::thread::sleep(Duration::from_millis(600));
            assert_eq!(server.n_cancelled.load(Relaxed), n);
            drop(client);
            let took = server.wait(|server| server.n_cancelled.load(Relaxed) == n + 1);
            assert!(took < Duration::from_secs(1), "{took:?}");
        }
    });
}
