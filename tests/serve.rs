//! `infall serve` as its clients meet it: the program itself, with the small model.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/loopback.rs"]
mod loopback;

use common::{Folder, tiny};
use loopback::{Answer, Client};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server, ended with the test.
struct Served {
    process: Child,
    stderr: BufReader<std::process::ChildStderr>,
    address: SocketAddr,
}

impl Served {
    fn new(flags: &[&str]) -> Served {
        Served::with_model(&tiny(), flags)
    }

    fn with_model(model: &Path, flags: &[&str]) -> Served {
        let mut process = Command::new(env!("CARGO_BIN_EXE_infall"))
            .args([
                "serve",
                "--port",
                "0",
                "--threads",
                "1",
                "--ctx",
                "6000",
                "-m",
            ])
            .arg(model)
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(process.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended");
            if let Some(rest) = line.strip_prefix("listening at http://") {
                break rest.split('/').next().unwrap().parse().unwrap();
            }
        };
        Served {
            process,
            stderr,
            address,
        }
    }

    fn client(&self) -> Client {
        Client::connect(self.address)
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        let mut client = self.client();
        client.send(request(path, body));
        client.answer()
    }

    /// The answer to a question, which must be given.
    fn ask(&self, body: &Value) -> Value {
        let answer = self.post("/v1/chat/completions", body);
        assert_eq!(answer.code, 200, "{}", answer.text());
        serde_json::from_str(answer.text()).unwrap()
    }

    /// A figure of `/metrics`.
    fn metric(&self, name: &str) -> f64 {
        let answer = self.client().get_local("/metrics");
        let text = answer.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        value.trim().parse().unwrap()
    }

    /// Ends it as systems do, and gives its exit code and what it still said.
    fn end(mut self) -> (Option<i32>, String) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.stderr, &mut said).unwrap();
        (self.process.wait().unwrap().code(), said)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

trait Local {
    fn get_local(&mut self, path: &str) -> Answer;
}

impl Local for Client {
    fn get_local(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        self.answer()
    }
}

fn request(path: &str, body: &Value) -> String {
    let body = body.to_string();
    let n = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {n}\r\n\r\n{body}")
}

fn question(messages: &[Value], n: usize) -> Value {
    json!({"messages": messages, "max_tokens": n, "temperature": 0})
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

fn usage(answer: &Value) -> (u64, u64) {
    let usage = &answer["usage"];
    let cached = &usage["prompt_tokens_details"]["cached_tokens"];
    (
        usage["prompt_tokens"].as_u64().unwrap(),
        cached.as_u64().unwrap(),
    )
}

/// Words that the small model takes apart into a few hundred tokens.
fn long_text(n_words: usize) -> String {
    (0..n_words).map(|i| format!("word{i} ")).collect()
}

/// A conversation as an agent holds it: the answer comes back each time with the next question, or with a call of a tool and
/// its result. What was computed for it is not computed again, and the answers are those of a server that computed all.
/// What evaluation harnesses ask: how likely a text is that they give. The same tokens decoded one by one say the same.
#[test]
fn an_echoed_prompt_has_the_log_probabilities_of_its_tokens() {
    let served = Served::new(&[]);
    let ask = |path: &str, body: Value| -> Value {
        let answer = served.post(path, &body);
        assert_eq!(answer.code, 200, "{}", answer.text());
        serde_json::from_str(answer.text()).unwrap()
    };
    let tokens = |text: &str, start: bool| -> Vec<u64> {
        let answer = ask("/tokenize", json!({"content": text, "add_special": start}));
        serde_json::from_value(answer["tokens"].clone()).unwrap()
    };
    let complete = |body: Value| ask("/v1/completions", body)["choices"][0].clone();
    let mut prompt = tokens("Once upon a time there was a", true);
    let n_prompt = prompt.len();
    let greedy = json!({"prompt": prompt, "max_tokens": 8, "temperature": 0, "logprobs": 3});
    let decoded = complete(greedy)["logprobs"].clone();
    for text in decoded["tokens"].as_array().unwrap() {
        let found = tokens(text.as_str().unwrap(), false);
        assert_eq!(found.len(), 1, "{text}");
        prompt.extend(found);
    }
    let echo = json!({"prompt": prompt, "max_tokens": 0, "echo": true, "logprobs": 3});
    let echoed = complete(echo)["logprobs"].clone();
    for field in ["token_logprobs", "tokens", "top_logprobs"] {
        let all = echoed[field].as_array().unwrap();
        assert_eq!(all.len(), prompt.len());
        let own: Vec<&Value> = decoded[field].as_array().unwrap().iter().collect();
        assert_eq!(all[n_prompt..].iter().collect::<Vec<_>>(), own, "{field}");
    }
    assert_eq!(echoed["token_logprobs"][0], Value::Null);
    let text = complete(json!({"prompt": "Once upon", "max_tokens": 0, "echo": true}));
    assert_eq!(
        (&text["text"], &text["finish_reason"]),
        (&json!("Once upon"), &json!("length"))
    );
}

#[test]
fn a_conversation_costs_its_new_tokens_only() {
    let served = Served::new(&[]);
    let tools = json!([{"type": "function", "function": {"name": "read_file", "description": "reads a file",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}}}]);
    let asked = |messages: &[Value]| {
        let mut asked = question(messages, 8);
        asked["tools"] = tools.clone();
        asked
    };
    let mut messages = vec![json!({"role": "system", "content": long_text(100)})];
    let mut turns = Vec::new();
    for turn in 0..20 {
        messages.push(user(&format!("Question {turn}: {}", long_text(5))));
        let answer = served.ask(&asked(&messages));
        let (prompt, cached) = usage(&answer);
        println!(
            "turn {turn}: {prompt} tokens, {} of them computed",
            prompt - cached
        );
        if turn > 0 {
            // The question and what came before it since the last one, and some marks.
            assert!(prompt - cached < 200, "turn {turn}: {cached} of {prompt}");
        }
        turns.push((messages.len(), content(&answer).to_owned()));
        if turn % 2 == 0 {
            messages.push(json!({"role": "assistant", "content": content(&answer)}));
            continue;
        }
        let id = format!("call_{turn}");
        messages.push(json!({"role": "assistant", "content": null, "tool_calls": [{"id": id, "type": "function",
            "function": {"name": "read_file", "arguments": "{\"path\": \"src/main.rs\"}"}}]}));
        messages.push(json!({"role": "tool", "tool_call_id": id, "content": "fn main() {}"}));
    }
    let all = served.metric("infall_prompt_tokens_total ");
    let cached = served.metric("infall_prompt_tokens_cached_total ");
    println!("20 turns: {all} tokens of prompts, {cached} of them were there");
    assert!(cached > 0.8 * all, "{cached} of {all}");

    let fresh = Served::new(&[]);
    for turn in [0, 9, 19] {
        let (n, expected) = &turns[turn];
        let answer = fresh.ask(&asked(&messages[..*n]));
        assert_eq!(content(&answer), expected, "turn {turn}");
    }
}

/// An answer that comes back changed, and an earlier question asked anew: the session comes back to a point before it.
#[test]
fn what_changed_is_computed_anew_and_nothing_else() {
    let served = Served::new(&[]);
    let system = json!({"role": "system", "content": long_text(150)});
    let first = [system.clone(), user("one")];
    let before = served.ask(&question(&first, 8));
    let changed = [
        system.clone(),
        user("one"),
        json!({"role": "assistant", "content": "quite another answer"}),
        user("two"),
    ];
    let answer = served.ask(&question(&changed, 8));
    let (prompt, cached) = usage(&answer);
    assert!(prompt - cached < 40, "{cached} of {prompt}");
    // The same question again: all but the last token is there.
    let again = served.ask(&question(&first, 8));
    assert_eq!(content(&again), content(&before));
    let (prompt, cached) = usage(&again);
    assert_eq!(cached, prompt - 1);
    let fresh = Served::new(&[]).ask(&question(&changed, 8));
    assert_eq!(content(&fresh), content(&answer));
}

/// Two conversations take turns. With two sessions none of them costs the other anything.
#[test]
fn each_conversation_has_its_session() {
    let served = Served::new(&["--sessions", "2"]);
    let talks = [long_text(100), format!("Other {}", long_text(100))];
    let mut last = [0, 0];
    for turn in 0..3 {
        for (talk, text) in talks.iter().enumerate() {
            let mut messages = vec![user(text)];
            for i in 0..turn {
                messages.push(json!({"role": "assistant", "content": format!("answer {i}")}));
                messages.push(user(&format!("more {i}")));
            }
            let (prompt, cached) = usage(&served.ask(&question(&messages, 4)));
            // What stood in front of the answer before this one.
            assert!(turn == 0 || cached + 2 >= last[talk], "{cached}, {last:?}");
            last[talk] = prompt;
        }
    }
}

/// Sessions outlive the server, as far as their files are whole.
#[test]
fn sessions_are_saved_at_the_end_and_restored() {
    let folder = Folder::new("serve-kv");
    let flags = ["--kv-dir", folder.text()];
    let asked = question(&[user(&long_text(200))], 12);
    let served = Served::new(&flags);
    let first = served.ask(&asked);
    assert_eq!(usage(&first).1, 0);
    let (code, said) = served.end();
    assert_eq!(code, Some(0), "{said}");
    let names = folder.names();
    assert_eq!(names.len(), 1, "{names:?}");

    let served = Served::new(&flags);
    let second = served.ask(&asked);
    let (prompt, cached) = usage(&second);
    assert_eq!(cached, prompt - 1);
    assert_eq!(content(&second), content(&first));
    drop(served);

    // A damaged file is refused, and the prompt read instead.
    let path = folder.path(&names[0]);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let served = Served::new(&flags);
    let third = served.ask(&asked);
    assert_eq!(usage(&third).1, 0);
    assert_eq!(content(&third), content(&first));
    let (_, said) = served.end();
    assert!(said.contains("checksum"), "{said}");
}

/// With `nommap` neither the model nor saved sessions come into the page cache while it serves, and memory stays within
/// what was said.
#[cfg(all(feature = "nommap", target_os = "linux"))]
#[test]
fn nommap_keeps_the_page_cache_free_while_it_serves() {
    use infall::os::{File, meter};
    let (folder, kept) = (Folder::new("serve-nommap"), Folder::new("serve-nommap-kv"));
    folder.write("model.gguf", std::fs::read(tiny()).unwrap());
    let path = folder.path("model.gguf");
    let model = File::open(&path).unwrap();
    assert_eq!(meter::drop_cached(&model), Some(0));
    let flags = [
        "--strategy",
        "nommap",
        "--budget",
        "60",
        "--kv-dir",
        kept.text(),
    ];
    let served = Served::with_model(&path, &flags);
    let mut messages = Vec::new();
    for turn in 0..4 {
        messages.push(user(&format!("Question {turn}: {}", long_text(60))));
        let answer = served.ask(&question(&messages, 16));
        messages.push(json!({"role": "assistant", "content": content(&answer)}));
    }
    assert!(served.metric("infall_expert_read_bytes_total ") > 1e6);
    // The header is read as other files are.
    let cached = served.metric("infall_model_page_cache_bytes ");
    assert!(
        cached < 2e6,
        "{cached} bytes of the model in the page cache"
    );
    let planned = served.metric("infall_memory_planned_bytes{use=\"experts\"} ")
        + served.metric("infall_memory_planned_bytes{use=\"fixed weights\"} ")
        + served.metric("infall_memory_planned_bytes{use=\"KV cache\"} ")
        + served.metric("infall_memory_planned_bytes{use=\"activations\"} ")
        + served.metric("infall_memory_planned_bytes{use=\"kernels\"} ")
        + served.metric("infall_memory_planned_bytes{use=\"checkpoints\"} ");
    let resident = served.metric("infall_memory_resident_bytes ");
    println!("cached {cached}, resident {resident}, planned without the server's bound {planned}");
    assert!(resident < planned + 64e6, "{resident} of {planned}");
    let (code, said) = served.end();
    assert_eq!(code, Some(0), "{said}");
    let saved = kept.path(&kept.names()[0]);
    let cached = meter::cached_bytes(&File::open(&saved).unwrap()).unwrap();
    assert_eq!(cached, 0, "bytes of a saved session in the page cache");
}

/// A client that leaves takes its work with it: the next one is answered at once.
#[test]
fn a_client_that_leaves_is_not_worked_for() {
    let served = Served::new(&["--prefill-chunk", "16", "--prefill-sweep", "32"]);
    let asked = json!({"messages": [user(&long_text(20))], "max_tokens": 2500, "stream": true});
    let mut client = served.client();
    client.send(request("/v1/chat/completions", &asked));
    assert_eq!(client.head().code, 200);
    for _ in 0..3 {
        client.chunk().unwrap();
    }
    drop(client);
    let start = Instant::now();
    let wait = Duration::from_secs(10);
    while served.metric("infall_requests_cancelled_total ") < 1.0 {
        assert!(start.elapsed() < wait, "it goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
    let n_answer = served.metric("infall_answer_tokens_total ");
    assert!(n_answer < 2500.0, "{n_answer} tokens for nobody");
    let answer = served.ask(&question(&[user("hello")], 4));
    assert_eq!(answer["usage"]["completion_tokens"], 4);
}

/// Told to end, it gives the answer that it has begun to its end, takes no more, and is done.
#[test]
fn an_answer_in_work_is_finished_when_the_server_is_told_to_end() {
    let mut served = Served::new(&[]);
    let asked =
        json!({"messages": [user("hello")], "max_tokens": 1500, "stream": true, "temperature": 0});
    let mut client = served.client();
    client.send(request("/v1/chat/completions", &asked));
    assert_eq!(client.head().code, 200);
    client.chunk().unwrap();
    let pid = served.process.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    let mut body = Vec::new();
    while let Some(chunk) = client.chunk() {
        body.extend(chunk);
    }
    let body = String::from_utf8(body).unwrap();
    assert!(body.ends_with("data: [DONE]\n\n"), "{body}");
    assert_eq!(served.process.wait().unwrap().code(), Some(0));
    assert!(std::net::TcpStream::connect(served.address).is_err());
}

/// JSON as it was asked for, whatever the model would have said.
#[test]
fn an_answer_in_json_mode_is_json() {
    let served = Served::new(&[]);
    for seed in 0..4 {
        let asked = json!({"messages": [user("Give me JSON.")], "max_tokens": 400, "seed": seed,
            "response_format": {"type": "json_object"}});
        let answer = served.ask(&asked);
        let text = content(&answer);
        match answer["choices"][0]["finish_reason"].as_str().unwrap() {
            "stop" => drop(serde_json::from_str::<serde_json::Map<_, _>>(text).unwrap()),
            // Cut, it still is the beginning of an object.
            "length" => assert!(text.trim_start().starts_with('{'), "{text}"),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn the_page_its_events_and_the_figures_are_there() {
    let served = Served::new(&[]);
    let page = served.client().get_local("/");
    assert_eq!(page.code, 200);
    let policy = page.field("content-security-policy").unwrap();
    let nonce = policy.split("'nonce-").nth(1).unwrap();
    let nonce = nonce.split('\'').next().unwrap();
    assert!(page.text().contains(&format!("nonce=\"{nonce}\"")));
    assert!(!page.text().contains("__NONCE__"));

    let mut watcher = served.client();
    watcher.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(watcher.head().code, 200);
    served.ask(&question(&[user("hello")], 8));
    let (mut state, mut experts) = (None, None);
    while experts.is_none()
        || state
            .as_ref()
            .is_none_or(|s: &Value| s["answer_tokens"] != 8)
    {
        let chunk = String::from_utf8(watcher.chunk().unwrap()).unwrap();
        let data = chunk.lines().find_map(|line| line.strip_prefix("data: "));
        let data = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
        match chunk.lines().next() {
            Some("event: state") => state = data,
            Some("event: experts") => experts = data,
            _ => {}
        }
    }
    let (state, experts) = (state.unwrap(), experts.unwrap());
    assert_eq!(state["model"], "tiny-q4");
    assert!(state["rss_bytes"].as_u64().unwrap() > 0);
    let n = experts["experts"].as_u64().unwrap() as usize;
    let rows = experts["rows"].as_object().unwrap();
    assert!(!rows.is_empty() && rows.values().all(|row| row.as_str().unwrap().len() == n));

    for (name, least) in [
        ("infall_requests_total ", 1.0),
        ("infall_answer_tokens_total ", 8.0),
        ("infall_expert_hits_total ", 1.0),
        ("infall_memory_resident_bytes ", 1e6),
        ("infall_memory_planned_bytes{use=\"server\"} ", 1e6),
    ] {
        assert!(served.metric(name) >= least, "{name}");
    }
}

#[test]
fn who_may_not_ask_is_told_so() {
    let served = Served::new(&[]);
    // A name that points to this machine, but is not its own: a page of another server may have sent this.
    let mut client = served.client();
    client.send("GET /v1/models HTTP/1.1\r\nHost: rebound.example\r\n\r\n");
    assert_eq!(client.answer().code, 403);
    assert_eq!(served.client().get_local("/nothing").code, 404);
    let mut client = served.client();
    client.send("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.answer().code, 405);
    drop(served);

    let served = Served::new(&["--api-key", "secret"]);
    for path in ["/v1/models", "/metrics", "/events"] {
        assert_eq!(served.client().get_local(path).code, 401, "{path}");
    }
    for path in ["/", "/health"] {
        assert_eq!(served.client().get_local(path).code, 200, "{path}");
    }
    let mut client = served.client();
    client.send("GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\r\n");
    assert_eq!(client.answer().code, 200);

    for (flags, expected) in [
        (&["--host", "0.0.0.0"][..], "other machines could ask"),
        (&["--api-key", ""], "visible ASCII"),
        (&["--sessions", "0"], "--sessions: found 0"),
        (&["--cors", "nonsense"], "origin 'nonsense'"),
    ] {
        let output = common::infall(&[&["serve", "--port", "0"][..], flags].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}
