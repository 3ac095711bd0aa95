//! The program as a user meets it: arguments, output, exit codes, odd input.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{golden, tiny};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn infall() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_infall"));
    command.env("INFALL_MODEL", tiny()).stdin(Stdio::null());
    command
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("stdout is whole characters"),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn run(args: &[&str]) -> Ran {
    ran(infall().args(args).output().unwrap())
}

/// With `input` on stdin.
fn run_with(args: &[&str], input: &[u8]) -> Ran {
    let mut command = infall();
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    ran(child.wait_with_output().unwrap())
}

/// A path under the system's temporary folder, removed with this value.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Temporary {
        Temporary(std::env::temp_dir().join(format!("infall-cli-{}-{name}", std::process::id())))
    }

    fn with(name: &str, bytes: &[u8]) -> Temporary {
        let temporary = Temporary::new(name);
        std::fs::write(&temporary.0, bytes).unwrap();
        temporary
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

#[test]
fn the_main_job_answers_and_tells_its_figures() {
    let ran = run(&["run", "--temp", "0", "-n", "64", "-p", "What is Unix?"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(
        ran.out
            .starts_with("[In the authors' words, “A weak pun on Multics”; "),
        "{}",
        ran.out
    );
    // What will be taken, what came of it, and what the experts cost where they were read.
    let lines: Vec<&str> = ran.err.lines().collect();
    assert!((2..=3).contains(&lines.len()), "{}", ran.err);
    for part in [" available = fixed weights ", " + experts ", " + KV cache "] {
        assert!(lines[0].contains(part), "{part} in {}", lines[0]);
    }
    for part in [
        "prompt 8 tokens, ",
        "generated ",
        " t/s",
        "first token ",
        "strategy ",
        "backend cpu",
        "kernels ",
    ] {
        assert!(lines[1].contains(part), "{part} in {}", lines[1]);
    }
}

/// The oracle's answers, through the program's own prompt rendering.
#[test]
fn prompts_are_rendered_and_answered_as_by_the_oracle() {
    let text = std::fs::read_to_string(golden("tiny-q4.greedy.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut n = 0;
    for case in json["cases"].as_array().unwrap() {
        let Some(prompt) = case["prompt"].as_str() else {
            continue;
        };
        let ids: Vec<String> = case["greedy_ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.to_string())
            .collect();
        let limit = ids.len().to_string();
        let shown: Vec<String> = ids.into_iter().filter(|id| id != "1").collect();
        let expected = run(&["tokenize", "--decode", &shown.join(" ")]).out;
        let found = run(&["run", "--temp", "0", "--quiet", "-n", &limit, "-p", prompt]);
        assert_eq!(found.out, expected, "{prompt}");
        n += 1;
    }
    assert!(n >= 5, "only {n} cases have a prompt");
}

#[test]
fn a_conversation_on_a_pipe_keeps_its_history() {
    let input = "What is Unix?\n\nDefine hacker.\n/stats\n/nonsense\n/reset\nDefine hacker.\n/quit\nnever read\n";
    let chat = run_with(&["chat", "--temp", "0", "-n", "40"], input.as_bytes());
    assert_eq!(chat.code, Some(0), "{}", chat.err);
    let one = |prompt: &str| run(&["run", "--temp", "0", "-n", "40", "--quiet", "-p", prompt]).out;
    let first = one("What is Unix?");
    // The second answer is what the whole conversation, written out, leads to. -n cut the first answer short.
    let raw = format!(
        "<｜User｜>What is Unix?<｜Assistant｜></think>{}<｜end▁of▁sentence｜><｜User｜>Define hacker.<｜Assistant｜></think>",
        first.strip_suffix('\n').unwrap()
    );
    let second = run(&[
        "run", "--raw", "--temp", "0", "-n", "40", "--quiet", "-p", &raw,
    ])
    .out;
    let third = one("Define hacker.");
    assert_ne!(second, third, "history matters, or this test shows nothing");
    assert_eq!(chat.out, format!("{first}{second}{third}"));
    assert!(
        chat.err.contains("context: ") && chat.err.contains("unknown command /nonsense"),
        "{}",
        chat.err
    );
}

/// What is asked is seen by what the answer is: that of the text as one prompt.
#[test]
fn texts_of_several_lines_and_with_slashes_are_one_turn() {
    let ask = |input: &str| {
        let ran = run_with(
            &["chat", "--temp", "0", "-n", "12", "--quiet"],
            input.as_bytes(),
        );
        assert_eq!(ran.code, Some(0), "{input:?}: {}", ran.err);
        assert!(!ran.err.contains("unknown"), "{input:?}: {}", ran.err);
        ran.out
    };
    let one = |prompt: &str| run(&["run", "--temp", "0", "-n", "12", "--quiet", "-p", prompt]).out;
    let code = "What is this?\nfn main() {\n    x();\n}";
    let answer = one(code);
    assert_ne!(
        answer,
        one("What is this?"),
        "the lines matter, or this shows nothing"
    );
    for input in [
        format!("{code}\n"),
        format!("\n\n{code}\n\n/quit\nHello"),
        format!("\"\"\"{code}\"\"\"\n/bye\n"),
        format!("\"\"\"\n{code}\n\"\"\"\n/exit\n"),
        format!("{}\r\n", code.replace('\n', "\\\r\n")),
    ] {
        assert_eq!(ask(&input), answer, "{input:?}");
    }
    let spaced = "What is this?\n\n/quit\n\nWhat?";
    assert_eq!(ask(&format!("\"\"\"{spaced}\n\"\"\"\n")), one(spaced));
    for text in ["/etc/hosts: what is it?", "/quit smoking, how?", "// what?"] {
        assert_eq!(ask(&format!("{text}\n")), one(text), "{text}");
    }
    assert_eq!(ask("//quit\n"), one("/quit"));
}

/// Two lines that come one after the other, each answered before the next is given.
#[test]
fn a_line_on_a_pipe_is_answered_when_no_other_comes_with_it() {
    use std::io::{BufRead, BufReader, Write};
    let mut child = infall()
        .args(["chat", "--temp", "0", "-n", "3", "--quiet", "-m"])
        .arg(tiny())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut lines = BufReader::new(output).lines();
    for text in ["What is Unix?", "And who made it?"] {
        writeln!(input, "{text}").unwrap();
        assert!(!lines.next().unwrap().unwrap().is_empty());
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn without_a_bound_an_answer_goes_to_its_end() {
    let bounded = run(&[
        "run",
        "--temp",
        "0",
        "-n",
        "5000",
        "--quiet",
        "-p",
        "What is Unix?",
    ]);
    let free = run(&[
        "run",
        "--temp",
        "0",
        "-n",
        "-1",
        "--quiet",
        "-p",
        "What is Unix?",
    ]);
    assert_eq!((free.code, &free.out), (Some(0), &bounded.out));
}

#[test]
fn the_end_of_input_ends_a_conversation() {
    let chat = run_with(
        &["chat", "--temp", "0", "-n", "3", "--quiet"],
        b"What is Unix?",
    );
    assert_eq!(
        (chat.code, chat.out.lines().count()),
        (Some(0), 1),
        "{}",
        chat.err
    );
    assert_eq!(run_with(&["chat"], b"").code, Some(0));
}

#[test]
fn sampling_repeats_with_its_seed_and_prints_a_seed_of_its_own() {
    let args = ["run", "-n", "24", "--seed", "7", "-p", "What is wizard?"];
    let (a, b) = (run(&args), run(&args));
    assert_eq!(a.out, b.out);
    let c = run(&["run", "-n", "24", "-p", "What is wizard?"]);
    let seed = c.err.lines().find_map(|line| line.strip_prefix("seed "));
    let seed = seed.expect("the seed is printed");
    let d = run(&["run", "-n", "24", "-p", "What is wizard?", "--seed", seed]);
    assert_eq!(c.out, d.out);
}

#[test]
fn prompts_come_from_a_flag_a_file_or_stdin() {
    let file = Temporary::with("prompt", b"What is Unix?");
    let args = ["run", "--temp", "0", "-n", "8", "--quiet"];
    let by_flag = run(&[&args[..], &["-p", "What is Unix?"]].concat()).out;
    let by_file = run(&[&args[..], &["-f", file.text()]].concat()).out;
    assert_eq!(by_flag, by_file);
    assert_eq!(by_flag, run_with(&args, b"What is Unix?").out);
}

#[test]
fn every_subcommand_lists_its_flags_and_names_a_wrong_one() {
    for command in ["run", "chat", "inspect", "verify", "logits", "tokenize"] {
        let help = run(&[command, "--help"]);
        assert_eq!(help.code, Some(0));
        assert!(
            help.out.contains("-m, --model") && help.out.contains(command),
            "{}",
            help.out
        );
        if matches!(command, "run" | "chat" | "logits") {
            for flag in [
                "--threads",
                "--kernels",
                "--kv",
                "--ctx",
                "--prefill-chunk",
                "--strategy",
            ] {
                assert!(help.out.contains(flag), "{command} {flag}");
            }
        }
        let wrong = run(&[command, "--nonsense"]);
        assert_eq!(wrong.code, Some(2));
        assert!(wrong.err.contains("'--nonsense'"), "{}", wrong.err);
    }
    assert_eq!(run(&["--help"]).code, Some(0));
    assert!(run(&["--version"]).out.starts_with("infall "));
    assert_eq!(run(&[]).code, Some(2));
    assert_eq!(run(&["fly"]).code, Some(2));
}

#[test]
fn usage_errors_name_flag_found_and_expected() {
    let cases: &[(&[&str], &str)] = &[
        (&["run", "-p", "x", "-n", "-2"], "-n: found '-2'"),
        (&["run", "-p", "x", "--temp", "hot"], "--temp: found 'hot'"),
        (&["run", "-p", "x", "--temp", "nan"], "--temp"),
        (&["run", "-p", "x", "--top-p", "1.5"], "--top-p"),
        (
            &["run", "-p", "x", "--kv", "f64"],
            "--kv: 'f64' is unknown, expected f32 | f16 | official",
        ),
        (
            &["run", "-p", "x", "--kernels", "mmx"],
            "--kernels: 'mmx' is unknown",
        ),
        (
            &["run", "-p", "x", "--strategy", "magic"],
            "--strategy: 'magic' is unknown",
        ),
        (
            &["run", "-p", "x", "--threads", "1000000"],
            "--threads: found 1000000",
        ),
        (
            &["run", "-p", "x", "--prefill-chunk", "0"],
            "--prefill-chunk: found 0",
        ),
        (
            &["run", "-p", "x", "--ctx", "99999999999"],
            "--ctx: found 99999999999",
        ),
        (
            &["run", "-p", "What is Unix?", "--ctx", "4"],
            "the prompt has 8 tokens, expected at most 4",
        ),
        (&["run", "-p", "x", "-f", "y"], "-p and -f"),
        (
            &["tokenize", "--decode", "4096"],
            "found id 4096, expected below 4096",
        ),
        (&["logits", "--out", "x"], "--tokens"),
    ];
    for (args, expected) in cases {
        let ran = run(args);
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.err);
        assert!(
            ran.err.contains(expected) && ran.out.is_empty(),
            "{args:?}: {}",
            ran.err
        );
    }
}

#[test]
fn files_that_are_no_models_are_refused_by_name() {
    let bytes = std::fs::read(golden("micro-q2.gguf")).unwrap();
    let empty = Temporary::with("empty", b"");
    let text = Temporary::with("text", b"this is no model");
    let cut = Temporary::with("cut", &bytes[..bytes.len() / 2]);
    let folder = std::env::temp_dir();
    for (path, expected) in [
        ("/nonexistent.gguf", "No such file"),
        (empty.text(), "magic"),
        (text.text(), "not a GGUF file"),
        (cut.text(), "is it cut off?"),
        (folder.to_str().unwrap(), "a directory"),
    ] {
        for args in [
            &["run", "-p", "x", "-m", path][..],
            &["inspect", path],
            &["tokenize", "-m", path, "x"],
        ] {
            if args[0] != "run" && path == cut.text() {
                continue; // tokenize is checked below; inspect reads it: tests/verify.rs
            }
            let ran = run(args);
            assert_eq!(ran.code, Some(1), "{args:?}: {}", ran.err);
            assert!(
                ran.err.contains(path) && ran.err.contains(expected),
                "{args:?}: {}",
                ran.err
            );
        }
    }
    let ran = run(&["tokenize", "-m", cut.text(), "x"]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
}

#[test]
fn odd_prompts_are_answered_or_refused() {
    let run0 = run(&["run", "--temp", "0", "-n", "0", "-p", "What is Unix?"]);
    assert_eq!((run0.code, run0.out.trim()), (Some(0), ""), "{}", run0.err);
    assert!(run0.err.contains("generated 0 tokens"), "{}", run0.err);
    assert_eq!(run(&["run", "-n", "4", "-p", ""]).code, Some(0));
    assert_eq!(run(&["run", "--raw", "-n", "4", "-p", ""]).code, Some(0));
    let all_bytes: Vec<u8> = (1..128).collect();
    assert_eq!(
        run_with(&["run", "-n", "4", "--quiet"], &all_bytes).code,
        Some(0)
    );
    let binary = run_with(&["run", "-n", "4"], b"ab\xff\xfe");
    assert_eq!(binary.code, Some(1));
    assert!(
        binary
            .err
            .contains("standard input: not UTF-8 text at byte 2"),
        "{}",
        binary.err
    );
    let binary = ran(infall()
        .args(["run", "-p"])
        .arg(OsStr::from_bytes(b"a\xff"))
        .output()
        .unwrap());
    assert_eq!(binary.code, Some(2));
    assert!(
        binary.err.contains("-p: not UTF-8 text at byte 1"),
        "{}",
        binary.err
    );
}

#[test]
fn the_context_may_fill_up() {
    let ran = run(&["run", "--temp", "0", "--ctx", "12", "-p", "What is Unix?"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(
        ran.err.contains("the context of 12 tokens is full"),
        "{}",
        ran.err
    );
    let chat = run_with(
        &["chat", "--temp", "0", "--ctx", "30", "-n", "4"],
        b"What is Unix?\n\nDefine hacker and wizard and all the others, please.\n",
    );
    assert_eq!(chat.code, Some(0));
    assert!(chat.err.contains("do not fit"), "{}", chat.err);
}

#[test]
fn logits_are_rows_of_little_endian_floats() {
    let model = golden("micro-q2.gguf");
    let (ids, expected) = (
        golden("micro.ids.txt"),
        common::floats(&golden("micro-q2.logits.f32")),
    );
    for more in [
        &[][..],
        &["--prefill-chunk", "7"],
        &["--decode-from", "1"],
        &["--decode-from", "390"],
    ] {
        let out = Temporary::new(&format!("logits{}", more.concat()));
        let fixed = [
            "logits",
            "--kernels",
            "scalar",
            "--kv",
            "f32",
            "--out",
            out.text(),
            "-m",
            model.to_str().unwrap(),
        ];
        let ran = run(&[&fixed[..], &["--tokens", ids.to_str().unwrap()], more].concat());
        assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{}", ran.err);
        let found = common::floats(&out.0);
        assert_eq!(found.len(), 400 * 512);
        let worst = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst <= 1e-3, "{more:?}: {worst}");
    }
}

#[test]
fn bad_lists_of_tokens_are_refused() {
    let out = Temporary::new("refused");
    for (text, expected) in [("1 2 x", "found 'x'"), ("1 5000", "5000"), ("-1", "'-1'")] {
        let list = Temporary::with("list", text.as_bytes());
        let ran = run(&["logits", "--tokens", list.text(), "--out", out.text()]);
        assert_eq!(ran.code, Some(1), "{text}: {}", ran.err);
        assert!(ran.err.contains(expected), "{text}: {}", ran.err);
    }
}

#[test]
fn tokenize_goes_both_ways() {
    let ids = run(&["tokenize", "--ids", "What is Unix?"]);
    assert_eq!(ids.code, Some(0), "{}", ids.err);
    assert!(!ids.out.trim().is_empty() && ids.out.lines().count() == 1);
    assert_eq!(
        run(&["tokenize", "--decode", &ids.out]).out,
        "What is Unix?\n"
    );
    let special = "<｜User｜>Hi";
    let plain = run(&["tokenize", "--ids", special]).out;
    let parsed = run(&["tokenize", "--ids", "--special", special]).out;
    assert!(
        parsed.split(' ').count() < plain.split(' ').count(),
        "{parsed} {plain}"
    );
    assert_eq!(run(&["tokenize", "--ids", ""]).out, "\n");
}

#[test]
fn inspect_tells_what_a_file_holds() {
    let ran = run(&["inspect", tiny().to_str().unwrap(), "--tensors"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    // An expert is gate, up and down of 256 x 256 in Q4_K: 3 * 256 * 144 bytes.
    for part in [
        "deepseek4",
        "routed experts",
        "token embedding",
        "110592 bytes",
        "Q4_K gate",
        "blk.5.ffn_down_exps.weight",
        "pages of 16384",
    ] {
        assert!(ran.out.contains(part), "{part} in {}", ran.out);
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let mut command = infall();
    command.args([
        "run",
        "--quiet",
        "--temp",
        "0",
        "-n",
        "500",
        "-p",
        "What is Unix?",
    ]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
}

#[test]
fn ctrl_c_stops_after_the_token_and_still_prints_the_statistics() {
    let mut command = infall();
    // The end-of-turn token never comes this early at this temperature in a raw text.
    command.args([
        "run",
        "--raw",
        "--seed",
        "1",
        "-n",
        "100000",
        "--ctx",
        "32768",
        "-p",
        "In the beginning",
    ]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 16]).unwrap();
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(
        ran.err.contains("generated ") && ran.err.contains("first token "),
        "{}",
        ran.err
    );
    assert!(String::from_utf8(rest).unwrap().ends_with('\n'));
}
