//! The server's API over an engine that follows a script: what the last `@word` of a prompt says.
#![allow(dead_code)] // each test file uses a part

use super::loopback::{Answer, Client, StopAtEnd, serve_by};
use infall::gguf::Gguf;
use infall::http::{self, Server};
use infall::os::File;
use infall::sampler::SamplerOptions;
use infall::serve::api::{Api, ERRORS, Served};
use infall::serve::ask::{Ask, Done, Finish, Part, Reading, TokenLogprob};
use infall::serve::desk::{Desk, Work};
use infall::text::chat::Thinking;
use infall::text::tokenizer::Tokenizer;
use infall::text::vocabulary::Vocabulary;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// The tokenizer of DeepSeek-V4.
pub fn real() -> Arc<Tokenizer> {
    static REAL: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    let read = || {
        let file = File::open(&super::common::golden("dsv4-vocab.gguf")).unwrap();
        let vocabulary = Vocabulary::read(&Gguf::read(&file).unwrap()).unwrap();
        Arc::new(Tokenizer::new(vocabulary).unwrap())
    };
    REAL.get_or_init(read).clone()
}

/// What is served if a test says nothing else.
pub fn served() -> Served {
    Served {
        model: "scripted".into(),
        bytes: 12_345,
        ctx: 4096,
        key: None,
        thinking: Thinking::Off,
        sampling: SamplerOptions::default(),
    }
}

/// The server, and what its engine saw.
pub struct Scripted {
    pub address: SocketAddr,
    /// Questions taken up, in order.
    pub asks: Mutex<Vec<Ask>>,
    /// Questions whose asker left while they were answered.
    pub n_cancelled: AtomicUsize,
    pub desk: Arc<Desk>,
}

impl Scripted {
    /// The last question taken up.
    pub fn last(&self) -> Ask {
        self.asks.lock().unwrap().last().unwrap().clone()
    }

    /// The prompt of it as text.
    pub fn last_prompt(&self) -> String {
        text(&self.last())
    }

    pub fn request(&self, method: &str, path: &str, fields: &str, body: &str) -> Answer {
        let mut client = Client::connect(self.address);
        client.send(request(method, path, fields, body));
        client.answer()
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.request("POST", path, "", &body.to_string())
    }

    /// A client that has sent a request and read nothing.
    pub fn begin(&self, path: &str, body: &Value) -> Client {
        let mut client = Client::connect(self.address);
        client.send(request("POST", path, "", &body.to_string()));
        client
    }

    /// Waits until `is` holds, and tells how long it took.
    pub fn wait(&self, is: impl Fn(&Scripted) -> bool) -> Duration {
        let begin = Instant::now();
        while !is(self) {
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        }
        begin.elapsed()
    }
}

pub fn request(method: &str, path: &str, fields: &str, body: &str) -> String {
    let n = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {n}\r\n{fields}\r\n{body}"
    )
}

/// The value that an answer holds.
pub fn json(answer: &Answer) -> Value {
    assert_eq!(answer.field("content-type"), Some("application/json"));
    serde_json::from_str(answer.text()).unwrap_or_else(|e| panic!("{e}: {}", answer.text()))
}

/// The events of a stream, with their names; comments have the name `:`.
pub fn events(answer: &Answer) -> Vec<(String, String)> {
    assert_eq!(answer.code, 200, "{}", answer.text());
    assert_eq!(answer.field("content-type"), Some("text/event-stream"));
    let blocks = answer
        .text()
        .split("\n\n")
        .filter(|block| !block.is_empty());
    let event = |block: &str| {
        let (mut name, mut data) = (String::new(), String::new());
        for line in block.lines() {
            match line.split_once(": ").unwrap() {
                ("event", value) => name = value.into(),
                ("data", value) => data += value,
                ("", value) => (name, data) = (":".into(), value.into()),
                _ => panic!("found {line:?}"),
            }
        }
        (name, data)
    };
    blocks.map(event).collect()
}

/// The values of a stream's events, and their names; comments are left out, and `[DONE]` is a string.
pub fn values(answer: &Answer) -> Vec<(String, Value)> {
    let all = events(answer).into_iter().filter(|(name, _)| name != ":");
    let value = |(name, data): (String, String)| {
        let value = match data.as_str() {
            "[DONE]" => "[DONE]".into(),
            data => serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {data}")),
        };
        (name, value)
    };
    all.map(value).collect()
}

/// Serves while `client` runs; `most` questions may wait.
pub fn serve<T>(served: Served, most: usize, client: impl FnOnce(&Scripted) -> T) -> T {
    let desk = Arc::new(Desk::new(most));
    let api = Api::new(desk.clone(), real(), served);
    let server = Server::bind("127.0.0.1:0", http::LIMITS).unwrap();
    let server = server.with_errors(ERRORS);
    let scripted = Scripted {
        address: server.address(),
        asks: Mutex::default(),
        n_cancelled: AtomicUsize::new(0),
        desk,
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let Some(work) = scripted.desk.next(Duration::from_millis(20)) else {
                    continue;
                };
                scripted.asks.lock().unwrap().push(work.ask.clone());
                if !answer(&work) {
                    scripted.n_cancelled.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let _stop = StopAtEnd(&stop);
        let handler = |request, responder: &mut http::Responder<'_>| {
            if !api.handle(&request, responder) {
                let _ = responder.error(http::Status::NotFound, "nothing is there");
            }
        };
        serve_by(server, handler, |_| client(&scripted))
    })
}

fn text(ask: &Ask) -> String {
    String::from_utf8(real().decode(&ask.tokens)).unwrap()
}

/// Follows the script; false when the asker left.
fn answer(work: &Work) -> bool {
    let prompt = text(&work.ask);
    let word = prompt.rsplit('@').next().filter(|_| prompt.contains('@'));
    let word = word.unwrap_or("");
    let word: String = word.chars().take_while(|c| c.is_alphabetic()).collect();
    let turn = prompt.rsplit("<｜User｜>").next().unwrap();
    let has_result = turn.contains("</tool_result>");
    let (n_prompt, n_cached) = (work.ask.tokens.len(), 2);
    let reading = |done: usize| {
        work.give(Part::Reading(Reading {
            done,
            all: n_prompt,
            tokens_per_s: 2.0,
        }))
    };
    if !work.give(Part::Started { n_cached }) {
        return false;
    }
    let mut finish = Finish::EndOfTurn;
    let mut parts = Vec::new();
    if work.ask.reasoning {
        parts.extend(["Let me ", "think."].map(|more| Part::Reasoning(more.into())));
    }
    let hello =
        [" Hello", ", <wörld>", "!"].map(|more| Part::Text(more.into(), logprobs(&work.ask, more)));
    match word.as_str() {
        "read" => {
            // A prompt that takes three seconds.
            for done in 1..=30 {
                if !reading(done.min(n_prompt)) {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            parts.extend(hello);
        }
        "slow" => {
            // Nothing is told until the asker leaves.
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(15) {
                if work.has_left() {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        "endless" => {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(15) {
                if !work.give(Part::Text("more ".into(), Vec::new())) {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        "fail" => {
            work.give(Part::Failed("disk: read failed".into()));
            return true;
        }
        "late" => {
            work.give(Part::Text("begun".into(), Vec::new()));
            work.give(Part::Failed("disk: read failed".into()));
            return true;
        }
        "wane" => {
            std::thread::sleep(Duration::from_millis(1300));
            work.give(Part::Failed("disk: read failed".into()));
            return true;
        }
        "drop" => return true,
        "full" => {
            finish = Finish::ContextFull;
            parts.extend(hello);
        }
        "cut" => {
            finish = Finish::Length;
            parts.extend([
                Part::CallBegin("weather".into()),
                Part::CallArguments("{\"city\": \"Par".into()),
                Part::CallCut("\"}"),
            ]);
        }
        "length" => {
            finish = Finish::Length;
            parts.extend(hello);
        }
        "stop" => {
            finish = Finish::StopString("END".into());
            parts.extend(hello);
        }
        "malformed" => parts.extend([
            Part::Text("Look: ".into(), Vec::new()),
            Part::Warning("calls: found no call".into()),
            Part::Text("<｜DSML｜tool_calls>\nx".into(), Vec::new()),
        ]),
        "tools" if work.ask.tools && !has_result => {
            let paris = "{\"city\": \"Paris <&>\", \"days\": 1.50, \"deep\": {\"a\": [1e2]}}";
            parts.push(Part::Text("I look.".into(), Vec::new()));
            let (begin, rest) = paris.split_at(20);
            parts.extend([
                Part::CallBegin("weather".into()),
                Part::CallArguments(begin.into()),
                Part::CallArguments(rest.into()),
                Part::CallEnd,
                Part::CallBegin("now".into()),
                Part::CallArguments("{}".into()),
                Part::CallEnd,
            ]);
            finish = Finish::Calls;
        }
        "json" => parts.push(Part::Text("{\"a\": 1}".into(), Vec::new())),
        _ => parts.extend(hello),
    }
    reading(n_prompt);
    let n_answer = parts.len();
    parts.push(Part::Done(Done {
        finish,
        n_prompt,
        n_cached,
        n_answer,
        n_reasoning: if work.ask.reasoning { 2 } else { 0 },
    }));
    parts.into_iter().all(|part| work.give(part))
}

/// A piece as one token, and as many others as were asked for.
fn logprobs(ask: &Ask, piece: &str) -> Vec<TokenLogprob> {
    let others = [(vec![0xC3], f64::NEG_INFINITY), (vec![0xC4], -7.0)];
    let token = |n: usize| TokenLogprob {
        bytes: piece.into(),
        logprob: -0.25,
        top: std::iter::once((piece.as_bytes().to_vec(), -0.25))
            .chain(others)
            .take(n)
            .collect(),
    };
    ask.logprobs.map(token).into_iter().collect()
}
