//! Clients that wait, and clients that leave.

use super::*;
use std::net::Shutdown;

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
            // The one in work has just begun; its time so far is rounded up.
            assert_eq!((answer.code, answer.field("retry-after")), (429, Some("1")));
            assert_eq!(json(&answer)["error"]["type"], "rate_limit_error");
            assert_eq!(
                openai_message(&answer),
                "1 requests wait already; come again later"
            );
        }
        let answer = server.post("/v1/messages", &said("hi"));
        assert_eq!((answer.code, answer.field("retry-after")), (429, Some("1")));
        assert_eq!(anthropic_error(&answer).0, "rate_limit_error");
        server.desk.close("the model is lost");
        let answer = server.post("/v1/messages", &said("hi"));
        assert_eq!((answer.code, answer.field("retry-after")), (503, Some("2")));
        assert_eq!(
            anthropic_error(&answer),
            ("overloaded_error".into(), "the model is lost".into())
        );
        assert_eq!(server.post(CHAT, &said("hi")).code, 503);
        let health = server.request("GET", "/health", "", "");
        assert_eq!(health.code, 503);
        let told = value!({"status": "error", "message": "the model is lost"});
        assert_eq!(json(&health), told);
    });
}

/// What waits is told at once that the server ends; what is in work, when the desk ends it.
#[test]
fn an_end_is_told_in_the_words_of_each_api() {
    let stream = value!({"stream": true});
    for (path, kind) in [
        (CHAT, "server_error"),
        ("/v1/completions", "server_error"),
        ("/v1/responses", "server_error"),
        ("/v1/messages", "overloaded_error"),
    ] {
        serve(served(), 4, |server| {
            let body = |word: &str| {
                let body = with(said(word), stream.clone());
                with(body, value!({"input": word, "prompt": word}))
            };
            let mut in_work = server.begin(path, &body("@endless"));
            server.wait(|server| server.asks.lock().unwrap().len() == 1);
            let mut waits = server.begin(path, &body("hi"));
            let mut whole = server.begin(path, &with(body("hi"), value!({"stream": false})));
            server.wait(|server| server.desk.n_waiting() == 2);
            server.desk.close("the server ends");
            let last = |answer: &loopback::Answer| {
                let (name, value) = values(answer).pop().unwrap();
                let error = match path {
                    "/v1/responses" => {
                        assert_eq!(name, "response.failed");
                        let error = &value["response"]["error"];
                        value!({"type": error["code"], "message": error["message"]})
                    }
                    _ => value["error"].clone(),
                };
                assert_eq!(error["message"], "the server ends", "{path}");
                assert_eq!(error["type"], kind, "{path}");
            };
            last(&waits.answer());
            assert_eq!(whole.answer().code, 503);
            assert_eq!(server.n_cancelled.load(Relaxed), 0);
            server.desk.cut();
            last(&in_work.answer());
            assert_eq!(server.n_cancelled.load(Relaxed), 1);
        });
    }
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

/// A client that has sent a request and will send nothing more.
fn half_closed(server: &Scripted, path: &str, request: &Value) -> Client {
    let client = server.begin(path, request);
    client.stream().shutdown(Shutdown::Write).unwrap();
    client
}

#[test]
fn a_client_that_closes_its_sending_side_gets_its_answer() {
    one(|server| {
        for request in [said("hi"), with(said("hi"), value!({"stream": true}))] {
            for path in [CHAT, "/v1/messages"] {
                let mut client = half_closed(server, path, &request);
                let answer = client.answer();
                assert_eq!(answer.code, 200);
                assert!(answer.text().contains("wörld"), "{}", answer.text());
                assert!(client.is_closed());
            }
        }
        // What fails soon has its status, and what takes its time is waited for.
        assert_eq!(half_closed(server, CHAT, &said("@fail")).answer().code, 500);
        let answer = json(&half_closed(server, CHAT, &said("@read")).answer());
        assert_eq!(answer["choices"][0]["message"]["content"], HELLO);
        let stream = with(said("@read"), value!({"stream": true}));
        let chunks = values(&half_closed(server, CHAT, &stream).answer());
        assert_eq!(joined(&chunks, "content"), HELLO);
        assert_eq!(server.n_cancelled.load(Relaxed), 0);
    });
}

#[test]
fn a_client_that_closes_its_sending_side_and_then_leaves_is_not_answered() {
    one(|server| {
        let requests = [
            (CHAT, said("@slow")),
            (CHAT, with(said("@slow"), value!({"stream": true}))),
        ];
        for (i, (path, request)) in requests.iter().enumerate() {
            let client = half_closed(server, path, request);
            server.wait(|server| server.asks.lock().unwrap().len() == i + 1);
            let waiting = half_closed(server, path, request);
            server.wait(|server| server.desk.n_waiting() == 1);
            // They take what they are sent meanwhile.
            std::thread::sleep(Duration::from_millis(700));
            assert_eq!(server.n_cancelled.load(Relaxed), i);
            assert_eq!(server.desk.n_waiting(), 1);
            drop(waiting);
            let took = server.wait(|server| server.desk.n_waiting() == 0);
            assert!(took < Duration::from_secs(1), "{request}: {took:?}");
            drop(client);
            let took = server.wait(|server| server.n_cancelled.load(Relaxed) == i + 1);
            assert!(took < Duration::from_secs(1), "{request}: {took:?}");
        }
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
        // Comments and pings are not seen by all clients: events that mean nothing new are.
        let empty = first.iter().filter(|(_, data)| {
            data.contains("\"delta\":{},") && data.contains("\"finish_reason\":null")
        });
        assert!((1..=2).contains(&empty.count()), "{first:?}");
    });
}

#[test]
fn who_waits_for_a_response_gets_events() {
    one(|server| {
        let request = value!({"input": "@read", "stream": true});
        let chunks = values(&server.post("/v1/responses", &request));
        let names: Vec<&str> = chunks.iter().map(|(name, _)| name.as_str()).collect();
        let n = names
            .iter()
            .filter(|name| **name == "response.in_progress")
            .count();
        assert_eq!(
            names[..1 + n],
            [vec!["response.created"], vec!["response.in_progress"; n]].concat()
        );
        assert!((2..=3).contains(&n), "{names:?}");
        for (i, (_, chunk)) in chunks.iter().enumerate() {
            assert_eq!(chunk["sequence_number"], i);
        }
    });
}

#[test]
fn the_status_of_an_answer_in_one_piece_comes_before_it() {
    one(|server| {
        for (path, request) in [
            (CHAT, said("@read")),
            ("/v1/messages", said("@read")),
            ("/v1/responses", value!({"input": "@read"})),
        ] {
            let begin = Instant::now();
            let mut client = server.begin(path, &request);
            let head = client.head();
            let told = begin.elapsed();
            assert_eq!((head.code, head.field("content-length")), (200, None));
            assert!(
                told > Duration::from_millis(400) && told < Duration::from_millis(2500),
                "{told:?}"
            );
        }
        let answer = json(&server.post(CHAT, &said("@read")));
        assert_eq!(answer["choices"][0]["message"]["content"], HELLO);
        // What fails soon has its own status, what fails late is told in the body.
        assert_eq!(server.post(CHAT, &said("@fail")).code, 500);
        let answer = server.post(CHAT, &said("@wane"));
        assert_eq!(
            (answer.code, openai_message(&answer).as_str()),
            (200, "disk: read failed")
        );
        let answer = server.post("/v1/messages", &said("@wane"));
        assert_eq!(answer.code, 200);
        let error = ("api_error".to_owned(), "disk: read failed".to_owned());
        assert_eq!(anthropic_error(&answer), error);
        let answer = json(&server.post("/v1/responses", &value!({"input": "@wane"})));
        assert_eq!(
            (&answer["status"], &answer["usage"]),
            (&value!("failed"), &Value::Null)
        );
        assert_eq!(
            answer["error"],
            value!({"code": "server_error", "message": "disk: read failed"})
        );
    });
}
