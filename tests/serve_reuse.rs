//! Reuse of what was read, as clients meet it: the program itself with the small model, conversations in the form of Claude
//! Code and of Codex, and prompts beside them. What is compared is the number of prompt tokens computed.
//!
//! `cargo test --release --test serve_reuse -- --nocapture` prints the figures.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/loopback.rs"]
mod loopback;

use common::{Folder, tiny};
use loopback::Client;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

/// A running server, ended with the test.
struct Served {
    process: Child,
    address: SocketAddr,
    // Kept open, or what the server notes would end it.
    _stderr: BufReader<std::process::ChildStderr>,
}

impl Served {
    fn new(flags: &[&str]) -> Served {
        let mut process = Command::new(env!("CARGO_BIN_EXE_infall"))
            .args(["serve", "--port", "0", "--threads", "1", "--ctx", "8000"])
            .arg("-m")
            .arg(tiny())
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
            address,
            _stderr: stderr,
        }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let (mut client, body) = (Client::connect(self.address), body.to_string());
        let n = body.len();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {n}\r\n\r\n{body}"
        ));
        let answer = client.answer();
        assert_eq!(answer.code, 200, "{}", answer.text());
        serde_json::from_str(answer.text()).unwrap()
    }

    fn end(mut self) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        assert_eq!(self.process.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What an answer says of its tokens, in any API.
#[derive(Clone, Copy, Debug)]
struct Used {
    prompt: i64,
    computed: i64,
    answer: i64,
}

fn used(answer: &Value) -> Used {
    let usage = &answer["usage"];
    let n = |value: &Value| value.as_i64().unwrap_or(0);
    if usage["cache_read_input_tokens"].is_i64() {
        let computed = n(&usage["input_tokens"]);
        return Used {
            prompt: computed + n(&usage["cache_read_input_tokens"]),
            computed,
            answer: n(&usage["output_tokens"]),
        };
    }
    let prompt = n(&usage["prompt_tokens"]) + n(&usage["input_tokens"]);
    let cached = n(&usage["prompt_tokens_details"]["cached_tokens"])
        + n(&usage["input_tokens_details"]["cached_tokens"]);
    Used {
        prompt,
        computed: prompt - cached,
        answer: n(&usage["completion_tokens"]) + n(&usage["output_tokens"]),
    }
}

/// Words of a text, others for each `which`.
fn words(which: usize, n: usize) -> String {
    const WORDS: [&str; 12] = [
        "the", "supply", "of", "experts", "decides", "how", "fast", "file", "reads", "a", "test",
        "model",
    ];
    let word = |i: usize| WORDS[(i * i + 7 * i * which + which) % WORDS.len()];
    (0..n).map(word).collect::<Vec<_>>().join(" ")
}

/// What the turns of a conversation cost.
#[derive(Default)]
struct Costs {
    before: Option<Used>,
    computed: i64,
    new: i64,
    n_turns: usize,
}

impl Costs {
    /// Adds a turn; `answer_came_back` unless the client changed the answer before it.
    fn add(&mut self, used: Used, answer_came_back: bool) {
        if let Some(before) = self.before {
            let known = before.prompt + if answer_came_back { before.answer } else { 0 };
            let new = used.prompt - known;
            // The opener of the answer before may be another token now.
            assert!(
                10 * used.computed <= 11 * new + 20,
                "turn {}: {used:?}, {new} new",
                self.n_turns
            );
            self.computed += used.computed;
            self.new += new;
        }
        self.n_turns += 1;
        self.before = Some(used);
    }

    fn check(&self, what: &str) {
        println!(
            "{what}: {} turns, last prompt {} tokens; behind the first turn {} new tokens, {} computed ({:.2})",
            self.n_turns,
            self.before.unwrap().prompt,
            self.new,
            self.computed,
            self.computed as f64 / self.new as f64
        );
        assert!(10 * self.computed <= 11 * self.new);
    }
}

/// A conversation of 30 turns as Claude Code holds it: a billing line that changes, system blocks, tools, reminders in the
/// user's turns and as system messages, calls with results, and a request for a title after every fifth turn.
fn claude_code(thinks: bool) {
    let what = if thinks {
        "Claude Code, thinking"
    } else {
        "Claude Code"
    };
    let served = Served::new(&[]);
    let schema =
        json!({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]});
    let ask = |turn: usize, messages: &[Value]| {
        let billing = format!(
            "x-anthropic-billing-header: cc_version=2.1.197.{turn:03x}; cch={:05x};",
            turn * 977
        );
        let mut body = json!({"model": "m", "max_tokens": 12, "temperature": 0, "messages": messages,
            "system": [{"type": "text", "text": billing},
                {"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": words(0, 120)}],
            "tools": [{"name": "Read", "description": words(1, 20), "input_schema": schema},
                {"name": "Bash", "description": words(2, 20), "input_schema": schema}]});
        if thinks {
            body["thinking"] = json!({"type": "enabled", "budget_tokens": 1024});
        }
        body
    };
    let title = |turn: usize| {
        json!({"model": "m", "max_tokens": 6, "temperature": 0,
        "system": "Write a title of five words for this conversation.",
        "messages": [{"role": "user", "content": words(turn, 30)}]})
    };
    let (mut messages, mut costs, mut asked) = (Vec::new(), Costs::default(), Vec::new());
    let mut came_back = true;
    for turn in 0..30 {
        if turn % 3 != 2 {
            let reminder = format!("<system-reminder>{}</system-reminder>", words(turn, 12));
            messages.push(
                json!({"role": "user", "content": [{"type": "text", "text": reminder},
                {"type": "text", "text": words(100 + turn, 25)}]}),
            );
        }
        if turn % 7 == 4 {
            messages.push(
                json!({"role": "system", "content": format!("Plan mode: {}", words(turn, 10))}),
            );
        }
        let answer = served.post("/v1/messages", &ask(turn, &messages));
        costs.add(used(&answer), came_back);
        asked.push((turn, messages.clone(), answer["content"].clone()));
        let mut content = answer["content"].as_array().unwrap().clone();
        // Every third turn it calls a tool, which the small model does not of itself.
        came_back = turn % 3 != 1 && !content.is_empty();
        if turn % 3 == 1 {
            content.push(
                json!({"type": "tool_use", "id": format!("toolu_{turn}"), "name": "Read",
                "input": {"path": format!("src/{turn}.rs")}}),
            );
        }
        if content.is_empty() {
            content.push(json!({"type": "text", "text": "Done."}));
        }
        messages.push(json!({"role": "assistant", "content": content}));
        if turn % 3 == 1 {
            messages.push(json!({"role": "user", "content": [{"type": "tool_result",
                "tool_use_id": format!("toolu_{turn}"), "content": words(200 + turn, 30)}]}));
        }
        if turn % 5 == 4 {
            served.post("/v1/messages", &title(turn));
        }
    }
    costs.check(what);
    // The answers are those of a server that computes all of each prompt, as something else is asked in between. Its own
    // answers keep the tokens in which they were chosen, as here.
    let plain = Served::new(&["--sessions", "1"]);
    for (turn, messages, content) in &asked[..4] {
        let answer = plain.post("/v1/messages", &ask(*turn, messages));
        let used = used(&answer);
        assert!(used.computed > used.prompt - 10, "{used:?}");
        assert_eq!(&answer["content"], content, "{what}, turn {turn}");
        plain.post("/v1/completions", &json!({"prompt": "x", "max_tokens": 1}));
    }
}

#[test]
fn claude_code_computes_what_is_new() {
    claude_code(false);
}

#[test]
fn claude_code_with_thinking_computes_what_is_new() {
    claude_code(true);
}

/// The same as Codex does it: instructions, developer items in front and in the middle, calls and their outputs.
#[test]
fn codex_computes_what_is_new() {
    codex(false);
}

/// A client may tell another answer than was given. Then all tokens are those of the text, and the last answer is that of a
/// server that computed nothing else.
#[test]
fn changed_answers_are_computed_anew_and_answered_like_by_a_fresh_server() {
    codex(true);
}

fn codex(changes: bool) {
    let served = Served::new(&[]);
    let shell = json!({"type": "function", "name": "shell", "description": words(3, 30), "strict": false,
        "parameters": {"type": "object", "properties": {"command": {"type": "array", "items": {"type": "string"}}}}});
    let ask = |input: &[Value]| {
        json!({"model": "m", "max_output_tokens": 12, "temperature": 0, "store": false,
        "instructions": words(4, 150), "tools": [shell.clone()], "tool_choice": "auto", "input": input})
    };
    let message = |role: &str, text: &str| {
        json!({"type": "message", "role": role,
        "content": [{"type": "input_text", "text": text}]})
    };
    let mut input = vec![
        message(
            "developer",
            "<permissions instructions>read only</permissions instructions>",
        ),
        message(
            "user",
            "<environment_context><cwd>/src</cwd></environment_context>",
        ),
    ];
    let (mut costs, mut asked, mut came_back) = (Costs::default(), Vec::new(), true);
    for turn in 0..30 {
        if turn % 3 != 2 {
            input.push(message("user", &words(300 + turn, 30)));
        }
        if turn % 8 == 5 {
            input.push(message(
                "developer",
                "<collaboration_mode>plan</collaboration_mode>",
            ));
        }
        let answer = served.post("/v1/responses", &ask(&input));
        costs.add(used(&answer), came_back);
        asked.push((input.clone(), answer["output"].clone()));
        let output = answer["output"].as_array().unwrap();
        came_back = turn % 3 != 1 && !output.is_empty() && !changes;
        if output.is_empty() || changes {
            input.push(message("assistant", &format!("Done with {turn}.")));
        } else {
            input.extend(output.iter().cloned());
        }
        if turn % 3 == 1 {
            let call = format!("call_{turn}");
            input.push(
                json!({"type": "function_call", "call_id": call, "name": "shell",
                "arguments": format!("{{\"command\": [\"ls\", \"{turn}\"]}}")}),
            );
            input.push(json!({"type": "function_call_output", "call_id": call, "output": words(400 + turn, 30)}));
        }
    }
    costs.check(if changes {
        "Codex, answers changed"
    } else {
        "Codex"
    });
    if !changes {
        return;
    }
    // Ids differ.
    let texts = |output: &Value| -> Vec<Value> {
        let output = output.as_array().unwrap();
        output
            .iter()
            .map(|item| item["content"][0]["text"].clone())
            .collect()
    };
    let (input, output) = &asked[29];
    let fresh = Served::new(&[]).post("/v1/responses", &ask(input));
    assert_eq!(texts(&fresh["output"]), texts(output));
}

fn chat(served: &Served, messages: &[Value], more: Value) -> (Used, String) {
    let mut body = json!({"messages": messages, "max_tokens": 8, "temperature": 0});
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    let answer = served.post("/v1/chat/completions", &body);
    let message = &answer["choices"][0]["message"];
    (
        used(&answer),
        message["content"].as_str().unwrap().to_owned(),
    )
}

fn said(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

/// Other conversations with the same system text, one with a schema, in turns; the answers are those of a server that
/// computed all.
#[test]
fn a_system_text_is_read_once() {
    let served = Served::new(&[]);
    let system = said("system", &words(5, 200));
    let schema = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x",
        "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}}});
    let plain = |n: usize| vec![system.clone(), said("user", &words(500 + n, 20))];
    let (first, _) = chat(&served, &plain(0), json!({}));
    let mut costs = Vec::new();
    for n in 1..6 {
        let more = if n % 2 == 0 {
            schema.clone()
        } else {
            json!({})
        };
        let (used, answer) = chat(&served, &plain(n), more.clone());
        costs.push(used.computed);
        assert!(
            used.computed < first.prompt / 3,
            "{n}: {used:?} of {first:?}"
        );
        if n > 3 {
            let (_, fresh) = chat(&Served::new(&[]), &plain(n), more);
            assert_eq!(answer, fresh, "{n}");
        }
    }
    println!(
        "system text of {} tokens: next conversations, every second with a schema, compute {costs:?}",
        first.prompt
    );
}

/// A conversation of many turns outlives ones beside it that share its system text, and an edited early turn costs what
/// follows it.
#[test]
fn the_long_conversation_stays_and_an_edited_turn_is_reused_up_to_it() {
    let served = Served::new(&[]);
    let system = said("system", &words(6, 150));
    let mut talk = vec![system.clone()];
    let mut before = None::<Used>;
    for turn in 0..12 {
        talk.push(said("user", &words(600 + turn, 30)));
        let (used, _) = chat(&served, &talk, json!({}));
        if let Some(before) = before {
            let new = used.prompt - before.prompt;
            assert!(used.computed <= new + 2, "turn {turn}: {used:?}, {new} new");
        }
        before = Some(used);
        talk.push(said("assistant", &format!("Answer {turn}.")));
        let side = [system.clone(), said("user", &words(700 + turn, 10))];
        chat(&served, &side[turn % 2..], json!({}));
    }
    // The fourth user's turn is edited: three turns stay.
    let mut edited = talk[..7].to_vec();
    let (kept, _) = chat(&Served::new(&[]), &edited, json!({}));
    edited.push(said("user", &words(800, 30)));
    let (used, answer) = chat(&served, &edited, json!({}));
    let (fresh, expected) = chat(&Served::new(&[]), &edited, json!({}));
    assert_eq!((used.prompt, answer), (fresh.prompt, expected));
    println!(
        "edited turn: {} tokens in front of it, {} of {} computed",
        kept.prompt, used.computed, used.prompt
    );
    // Further back points stand further apart.
    assert!(used.computed < 2 * used.prompt / 3, "{used:?}");
    // And the conversation as it was is still there.
    talk.push(said("user", "and now?"));
    let (used, _) = chat(&served, &talk, json!({}));
    assert!(used.computed < 30, "{used:?}");
}

/// With a folder: a conversation is taken up behind its last answer, and a new one behind the system text, by the next
/// server; its own beginnings are not kept beside it.
#[test]
fn saved_sessions_keep_the_last_answer_and_the_system_text() {
    let folder = Folder::new("serve-reuse-kv");
    let flags = ["--kv-dir", folder.text()];
    // A text to which the small model answers in the tokens of its text: others are known only to the server that chose them.
    let mut talk = vec![said("system", &words(8, 150))];
    let mut last = None;
    for turn in 0..2 {
        let served = Served::new(&flags);
        talk.push(said("user", &words(980 + turn, 20)));
        let (used, answer) = chat(&served, &talk, json!({}));
        if let Some(Used { prompt, answer, .. }) = last {
            let new = used.prompt - prompt - answer;
            assert!(used.computed <= new + 2, "turn {turn}: {used:?}, {new} new");
        }
        last = Some(used);
        talk.push(said("assistant", &answer));
        served.end();
        assert_eq!(folder.names().len(), 1, "turn {turn}");
    }
    let served = Served::new(&flags);
    let other = [talk[0].clone(), said("user", "another question")];
    let (used, answer) = chat(&served, &other, json!({}));
    assert!(used.computed < 30, "{used:?}");
    assert_eq!(answer, chat(&Served::new(&[]), &other, json!({})).1);
    // A question asked anew is computed from the point in front of it.
    let (used, answer) = chat(&served, &talk[..talk.len() - 1], json!({}));
    assert_eq!(used.computed, 1);
    assert_eq!(&answer, talk[talk.len() - 1]["content"].as_str().unwrap());
}
