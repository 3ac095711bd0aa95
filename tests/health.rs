//! A model file that is touched, changed or cut while it is in use, as a user meets it: the program itself.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/loopback.rs"]
mod loopback;

use common::{Folder, Temporary, tiny};
use infall::supply::STRATEGIES;
use loopback::{Answer, Client};
use serde_json::{Value, json};
use std::fs::FileTimes;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// A copy of the small model.
fn copy(name: &str) -> Temporary {
    let model = Temporary::new(name);
    std::fs::copy(tiny(), &model.0).unwrap();
    model
}

fn writer(model: &Temporary) -> std::fs::File {
    let open = std::fs::OpenOptions::new().write(true).open(&model.0);
    open.unwrap()
}

/// Sets another time than any before.
fn touch(model: &Temporary, n: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(n);
    let times = FileTimes::new().set_modified(time);
    writer(model).set_times(times).unwrap();
}

/// Its experts lie from 11 MiB to its end.
const CUTS: [u64; 2] = [4096, 16 << 20];

/// Whatever is cut in whatever work: one sentence, exit code 1, and no signal.
#[test]
fn a_cut_file_ends_a_run_with_an_error() {
    let prompt = "What is it? ".repeat(1500);
    // So hot that an answer hardly ends: any of 4096 tokens is as likely.
    let decode = [
        "--temp", "100", "--min-p", "0", "--seed", "1", "-n", "-1", "-p", "hi",
    ];
    let read = ["-n", "1", "-p", prompt.as_str()];
    std::thread::scope(|scope| {
        for strategy in STRATEGIES {
            let (decode, read) = (&decode[..], &read[..]);
            scope.spawn(move || {
                for (cut, args) in CUTS
                    .into_iter()
                    .flat_map(|cut| [(cut, decode), (cut, read)])
                {
                    let model = copy("cut.gguf");
                    let mut child = Command::new(env!("CARGO_BIN_EXE_infall"))
                        .args([
                            "run",
                            "--raw",
                            "--quiet",
                            "--threads",
                            "1",
                            "--ctx",
                            "20000",
                        ])
                        .args(["--strategy", strategy.name, "-m", model.text()])
                        .args(args)
                        .stdout(Stdio::piped())
                        .stderr(Stdio::piped())
                        .spawn()
                        .unwrap();
                    if args.len() > 4 {
                        let out = child.stdout.as_mut().unwrap();
                        out.read_exact(&mut [0; 8]).unwrap();
                    } else {
                        std::thread::sleep(Duration::from_millis(150));
                    }
                    writer(&model).set_len(cut).unwrap();
                    let output = child.wait_with_output().unwrap();
                    let said = String::from_utf8(output.stderr).unwrap();
                    let what = format!("{}, {cut}, {:?}: {said}", strategy.name, args[0]);
                    assert_eq!(output.status.code(), Some(1), "{what}");
                    assert!(
                        said.lines().last().unwrap().contains(model.text()),
                        "{what}"
                    );
                    if args.len() > 4 {
                        let expected = [
                            "could not be read at byte ".to_string(),
                            format!("changed while it is in use: found {cut} bytes"),
                        ];
                        assert!(expected.iter().any(|part| said.contains(part)), "{what}");
                        assert!(said.ends_with("; start again\n"), "{what}");
                    }
                }
            });
        }
    });
}

/// A running server, ended with the test.
struct Served {
    process: Child,
    stderr: BufReader<std::process::ChildStderr>,
    address: SocketAddr,
}

impl Served {
    fn new(model: &Temporary, flags: &[&str]) -> Served {
        let mut process = Command::new(env!("CARGO_BIN_EXE_infall"))
            .args([
                "serve",
                "--port",
                "0",
                "--threads",
                "1",
                "--ctx",
                "20000",
                "-m",
            ])
            .arg(&model.0)
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

    fn begin(&self, path: &str, body: &Value) -> Client {
        let mut client = Client::connect(self.address);
        let body = body.to_string();
        let n = body.len();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {n}\r\n\r\n{body}"
        ));
        client
    }

    fn ask(&self) -> Answer {
        let hot = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4});
        self.begin("/v1/chat/completions", &hot).answer()
    }

    fn health(&self) -> (u16, Value) {
        let mut client = Client::connect(self.address);
        client.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answer = client.answer();
        (answer.code, serde_json::from_str(answer.text()).unwrap())
    }

    /// Its exit code and what it still said, when it ends by itself or is told to.
    fn end(mut self, told: bool) -> (Option<i32>, String) {
        if told {
            let pid = self.process.id().to_string();
            assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        }
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (self.process.wait().unwrap().code(), said)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The message of the error that an answer or the last event of one is.
fn error(answer: &Answer) -> (Value, String) {
    let text = answer.text();
    let last = text.rsplit("data: ").next().unwrap();
    let value: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {text}"));
    let message = value["error"]["message"].as_str();
    let message = message.unwrap_or_else(|| panic!("{text}")).to_owned();
    (value["error"]["type"].clone(), message)
}

#[test]
fn a_cut_file_ends_the_answers_of_a_server_and_then_the_server() {
    std::thread::scope(|scope| {
        for strategy in STRATEGIES {
            scope.spawn(|| cut_while_serving(strategy.name));
        }
    });
}

fn cut_while_serving(strategy: &str) {
    let model = copy("served-cut.gguf");
    let server = Served::new(&model, &["--strategy", strategy]);
    let hot = json!({
        "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9999,
        "temperature": 2, "min_p": 0, "seed": 1, "stream": true, "logit_bias": {"1": -100},
    });
    let mut in_work = server.begin("/v1/chat/completions", &hot);
    in_work.head();
    // The second event has text.
    in_work.chunk().unwrap();
    in_work.chunk().unwrap();
    let claude = json!({
        "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "stream": true,
    });
    let mut waits = server.begin("/v1/messages", &claude);
    waits.head();
    writer(&model).set_len(16 << 20).unwrap();
    let mut last = Vec::new();
    while let Some(chunk) = in_work.chunk() {
        last = chunk;
    }
    let last = String::from_utf8(last).unwrap();
    let (_, event) = last.rsplit_once("data: ").unwrap();
    let event: Value = serde_json::from_str(event).unwrap();
    assert_eq!(event["error"]["type"], "server_error");
    let told = event["error"]["message"].as_str().unwrap();
    let is_lost = told.contains(model.text()) && told.ends_with("; start again");
    assert!(is_lost, "{strategy}: {told}");
    let mut all = Vec::new();
    while let Some(chunk) = waits.chunk() {
        all.extend(chunk);
    }
    let all = String::from_utf8(all).unwrap();
    assert!(
        all.contains("event: error\n") && all.contains("overloaded_error"),
        "{all}"
    );
    let (code, health) = server.health();
    let expected = json!({"status": "error", "message": told});
    assert_eq!((code, health), (503, expected));
    let answer = server.ask();
    assert_eq!(
        (answer.code, error(&answer)),
        (503, ("server_error".into(), told.into()))
    );
    let (code, said) = server.end(false);
    assert_eq!((code, said.matches(told).count()), (Some(1), 1), "{said}");
}

#[test]
fn a_touched_file_is_told_once_and_served() {
    let model = copy("touched.gguf");
    let server = Served::new(&model, &[]);
    for n in 0..3 {
        assert_eq!(server.ask().code, 200);
        touch(&model, n);
        assert_eq!(server.ask().code, 200);
        assert_eq!(server.health(), (200, json!({"status": "ok"})));
    }
    let (code, said) = server.end(true);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("note: ").count(), 1, "{said}");
    assert!(said.contains("its time changed"), "{said}");
}

/// One byte, while nothing is asked; nothing that was computed with the file is saved as if it were of what it is now.
#[test]
fn a_changed_file_ends_an_idle_server() {
    let (model, folder) = (copy("changed.gguf"), Folder::new("changed-kv"));
    let server = Served::new(&model, &["--kv-dir", folder.text()]);
    let long = json!({
        "messages": [{"role": "user", "content": "What is it? ".repeat(200)}], "max_tokens": 1,
    });
    let answer = server.begin("/v1/chat/completions", &long).answer();
    assert_eq!(answer.code, 200, "{}", answer.text());
    writer(&model).write_all_at(b"x", 20 << 20).unwrap();
    let begin = Instant::now();
    let told = loop {
        let (code, health) = server.health();
        if code == 503 {
            break health["message"].as_str().unwrap().to_owned();
        }
        assert!(begin.elapsed() < Duration::from_secs(2));
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(
        told.contains("changed while it is in use: found other bytes among"),
        "{told}"
    );
    let answer = server.ask();
    assert_eq!((answer.code, error(&answer).1), (503, told.clone()));
    let (code, said) = server.end(false);
    assert_eq!((code, said.matches(&told).count()), (Some(1), 1), "{said}");
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}
