//! What is refused, and in which shape.

use super::*;

#[test]
fn wrong_requests_name_their_place() {
    let hi = || said("hi");
    let cases = [
        (CHAT, value!([]), "found array, expected object"),
        (CHAT, value!({}), "messages: missing"),
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
            with(hi(), value!({"stop": [1]})),
            "stop[0]: found number, expected string",
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
            with(
                hi(),
                value!({"tools": [{"type": "function", "function": {}}]}),
            ),
            "tools[0].function.name: missing",
        ),
        ("/v1/completions", value!({}), "prompt: missing"),
        (
            "/v1/completions",
            value!({"prompt": [["a", "b"]]}),
            "prompt[0]: found several prompts, expected one",
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
            "/v1/messages",
            with(hi(), value!({"thinking": {"type": "x"}})),
            "thinking.type: found 'x', expected enabled",
        ),
        ("/v1/messages/count_tokens", value!({}), "messages: missing"),
        (
            CHAT,
            value!({"messages": []}),
            "messages: found none, expected at least one message",
        ),
        (
            CHAT,
            with(hi(), value!({"max_tokens": 1.5})),
            "max_tokens: found 1.5, expected a whole number",
        ),
        (
            CHAT,
            with(hi(), value!({"tools": tools(), "tool_choice": "must"})),
            "tool_choice: found 'must', expected none, auto, required or a tool",
        ),
        (
            CHAT,
            with(
                hi(),
                value!({"tools": tools(), "tool_choice": {"type": "function", "function": {"name": "other"}}}),
            ),
            "tool_choice.function.name: found 'other', expected the name of a tool",
        ),
        (
            "/v1/responses",
            value!({"input": "a", "background": true}),
            "background: not supported",
        ),
        (
            "/v1/responses",
            value!({"input": "a", "prompt": {"id": "p"}}),
            "prompt: not supported",
        ),
        (
            "/v1/messages",
            value!({"max_tokens": 1, "messages": []}),
            "messages: at least one message is required",
        ),
        (
            "/v1/messages",
            with(hi(), value!({"tools": [{"type": "custom"}]})),
            "tools[0].name: missing",
        ),
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
        let nulls = format!("[{}null]", "null,".repeat(1 << 19));
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
        for path in ["/", "/v1", "/v1/chat", "/metrics"] {
            let answer = server.request("GET", path, "", "");
            assert_eq!(
                (answer.code, openai_message(&answer)),
                (404, "nothing is there".into())
            );
        }
    });
}

/// What is refused before it comes to an API has the form of the API all the same.
#[test]
fn refusals_outside_the_routes_have_the_shape_of_the_path() {
    one(|server| {
        let long = "a".repeat(100_000);
        let too_long = format!("X-Long: {long}\r\n");
        for (path, is_openai) in [
            (CHAT, true),
            ("/v1/messages", false),
            ("/v1/messages/count_tokens?beta=true", false),
            ("//v1/messages/", false),
        ] {
            let mut client = Client::connect(server.address);
            client.send(format!(
                "POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 999999999\r\n\r\n"
            ));
            let body = client.answer();
            let fields = server.request("POST", path, &too_long, "{}");
            let coded = server.request("POST", path, "Content-Encoding: gzip\r\n", "{}");
            let codes = [body.code, fields.code, coded.code];
            assert_eq!(codes, [413, 431, 415], "{path}");
            let kinds = [
                "request_too_large",
                "invalid_request_error",
                "invalid_request_error",
            ];
            for (answer, kind) in [body, fields, coded].iter().zip(kinds) {
                match is_openai {
                    true => assert!(!openai_message(answer).is_empty()),
                    false => assert_eq!(anthropic_error(answer).0, kind),
                }
            }
        }
        let answer = server.request("GET", "/v1/messages/batches", "", "");
        let error = (
            "not_found_error".to_owned(),
            "no answers, files or batches are kept here".to_owned(),
        );
        assert_eq!((answer.code, anthropic_error(&answer)), (404, error));
        for (path, is_openai) in [("/v1/files", true), ("/v1/messages/batches", false)] {
            for fields in ["", "Anthropic-Version: 2023-06-01\r\n"] {
                let answer = server.request("POST", path, fields, "{}");
                assert_eq!(answer.code, 404);
                match is_openai && fields.is_empty() {
                    true => drop(openai_message(&answer)),
                    false => assert_eq!(anthropic_error(&answer).0, "not_found_error"),
                }
            }
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
        let message = error["message"].as_str().unwrap();
        assert!(
            message.starts_with("This model's maximum context length is 20 tokens."),
            "{error}"
        );
        let answer = server.post("/v1/messages", &with(long, value!({"stream": true})));
        let (kind, message) = anthropic_error(&answer);
        assert_eq!((answer.code, kind.as_str()), (400, "invalid_request_error"));
        assert!(
            message.starts_with("prompt is too long: ") && message.contains(" tokens > 20 maximum"),
            "{message}"
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
