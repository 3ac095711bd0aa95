//! Saved sessions as a user meets them: `run` and `chat` with `--kv-dir`, `infall sessions`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Folder, tiny};
use std::io::Write;
use std::process::{Command, Output, Stdio};

const RUN: [&str; 7] = ["run", "--temp", "0", "-n", "24", "--ctx", "2000"];

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn infall(args: &[&str]) -> Ran {
    ran(common::infall(args))
}

/// `run` with a prompt and more flags, which must succeed.
fn run(prompt: &str, more: &[&str]) -> Ran {
    let model = tiny();
    let mut args = RUN.to_vec();
    args.extend(["-m", model.to_str().unwrap(), "-p", prompt]);
    args.extend(more);
    let ran = infall(&args);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    ran
}

/// `chat` with some lines of input.
fn chat(more: &[&str], lines: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_infall"));
    command
        .args(["chat", "--temp", "0", "-n", "16", "--ctx", "2000", "-m"])
        .arg(tiny())
        .args(more);
    fed(command, lines)
}

fn fed(mut command: Command, lines: &str) -> Ran {
    let pipes = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(lines.as_bytes()).unwrap();
    drop(input);
    ran(child.wait_with_output().unwrap())
}

/// The figure in front of ` tokens` behind `word` in the statistics.
fn figure(said: &str, word: &str) -> Option<usize> {
    let rest = said.split(&format!("{word} ")).nth(1)?;
    rest.split(' ').next()?.parse().ok()
}

const PROMPT: &str = "What is Unix? And what is a hacker, and who says so?";

#[test]
fn a_prompt_is_restored_instead_of_computed_and_answered_alike() {
    let folder = Folder::new("run");
    let dir = ["--kv-dir", folder.text()];
    let plain = run(PROMPT, &[]);
    let n = figure(&plain.err, "prompt").unwrap();
    let first = run(PROMPT, &dir);
    assert_eq!(first.out, plain.out);
    assert_eq!(figure(&first.err, "restored"), None, "{}", first.err);
    assert!(first.err.contains(" t/s, saved in "), "{}", first.err);
    assert_eq!(folder.names().len(), 1);
    let again = run(PROMPT, &dir);
    assert_eq!(again.out, plain.out);
    assert_eq!(figure(&again.err, "restored"), Some(n), "{}", again.err);
    assert_eq!(figure(&again.err, "prompt"), Some(0), "{}", again.err);
    assert!(!again.err.contains("saved in"), "{}", again.err);
    assert_eq!(folder.names().len(), 1);

    // A longer one begins with it: only the rest is computed.
    let text = |n: usize| vec!["one two three four five six seven"; n].join(" ");
    let raw = |text: &str, more: &[&str]| run(text, &[&["--raw"], more].concat());
    let short = raw(&text(20), &dir);
    let n_short = figure(&short.err, "prompt").unwrap();
    let long = raw(&text(30), &dir);
    let n_long = figure(&long.err, "prompt").unwrap();
    let restored = figure(&long.err, "restored").unwrap();
    assert_eq!(restored, n_short, "{}", long.err);
    let straight = raw(&text(30), &[]);
    assert_eq!(long.out, straight.out);
    assert_eq!(Some(restored + n_long), figure(&straight.err, "prompt"));

    // The report has the figure too.
    let report = folder.path("report.json");
    run(
        PROMPT,
        &[&dir[..], &["--report", report.to_str().unwrap()]].concat(),
    );
    let report = std::fs::read_to_string(report).unwrap();
    assert!(
        report.contains(&format!("\"restored_tokens\": {n}")),
        "{report}"
    );
}

#[test]
fn what_cannot_be_used_is_told_and_computed_again() {
    let folder = Folder::new("refused");
    let dir = ["--kv-dir", folder.text()];
    let plain = run(PROMPT, &dir);
    let name = folder.names().remove(0);
    let path = folder.path(&name);
    let whole = std::fs::read(&path).unwrap();
    let n_notes = |ran: &Ran| ran.err.matches("note: ").count();
    // Another form, or other kernels: the session stays, and another is saved beside it.
    for more in [["--kv", "f32"], ["--kernels", "scalar"]] {
        let other = run(PROMPT, &[&dir[..], &more].concat());
        let why = format!(
            "holds the first {} tokens, but computed with",
            figure(&plain.err, "prompt").unwrap()
        );
        assert!(other.err.contains(&why), "{}", other.err);
        assert_eq!(figure(&other.err, "restored"), None);
    }
    assert_eq!(folder.names().len(), 3);
    let done = infall(&["sessions", "rm", "--all", "--kv-dir", folder.text()]);
    assert_eq!(done.out, "3 removed\n");
    // A bit of the header, of the tokens, of the rows, of the last block; the end; another version. Each is found, told
    // once and replaced.
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        bytes
    };
    let mut version = whole.clone();
    version[8] = 3;
    for (bytes, why) in [
        (flipped(100), "its header: damaged: "),
        (flipped(16_384), "bytes 16384 to "),
        (flipped(100_000), "damaged: "),
        (flipped(whole.len() - 1), "damaged: "),
        (whole[..whole.len() - 4096].to_vec(), "cut or grown: "),
        (version, "a session file of version 3, expected 2"),
        (Vec::new(), "found 0 bytes"),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let ran = run(PROMPT, &dir);
        assert_eq!((&ran.out, n_notes(&ran)), (&plain.out, 1), "{}", ran.err);
        assert!(
            ran.err.contains(why) && ran.err.contains(&name),
            "{}",
            ran.err
        );
        assert_eq!(figure(&ran.err, "restored"), None);
        assert!(std::fs::read(&path).unwrap() == whole, "replaced: {why}");
    }
}

#[test]
fn a_conversation_goes_on_in_another_process() {
    let folder = Folder::new("chat");
    let dir = ["--kv-dir", folder.text()];
    let turns = [
        "What is Unix?\n\n",
        "And who made it?\n",
        "/think\nWhy?\n",
        "/nothink\nWhat then?\n",
    ];
    let straight = chat(&[], &turns.concat());
    assert_eq!(straight.code, Some(0), "{}", straight.err);
    let mut out = String::new();
    for (i, turn) in turns.iter().enumerate() {
        let name = format!("part-{i}");
        let before = format!("part-{}", i.wrapping_sub(1));
        let resume: &[&str] = if i == 0 { &[] } else { &["--resume", &before] };
        let part = chat(
            &[&dir[..], resume].concat(),
            &format!("{turn}/save {name}\n"),
        );
        assert_eq!(part.code, Some(0), "{}", part.err);
        assert!(
            part.err.contains(&format!("{name}: ")) && part.err.contains(" tokens saved"),
            "{}",
            part.err
        );
        assert_eq!(
            i > 0,
            part.err.contains(" tokens restored in "),
            "{}",
            part.err
        );
        out += &part.out;
    }
    assert_eq!(out, straight.out);
    // Saving changes nothing for the one who goes on, and loading takes back what came later.
    let lines = format!("{}/save a\n{}/load a\n{1}", turns[0], turns[1]);
    let ran = chat(&dir, &lines);
    let answers: Vec<&str> = straight.out.lines().collect();
    let n_first = chat(&[], turns[0]).out.lines().count();
    let n_second = chat(&[], &turns[..2].concat()).out.lines().count();
    let second = answers[n_first..n_second].join("\n");
    let expected = [&answers[..n_first].join("\n"), &second, &second].map(|s| format!("{s}\n"));
    assert_eq!(ran.out, expected.concat());
}

#[test]
fn commands_that_cannot_be_done_end_no_conversation() {
    let folder = Folder::new("wrong");
    let dir = ["--kv-dir", folder.text()];
    for (flags, lines, said) in [
        (
            &[][..],
            "/save x\n",
            "no folder for sessions: --kv-dir names one",
        ),
        (
            &dir,
            "/save x\n",
            "the conversation is empty, nothing was saved",
        ),
        (
            &dir,
            "Hi\n/save a/b\n",
            "found 'a/b', expected up to 64 letters",
        ),
        (&dir, "Hi\n/save auto-x\n", "is named by the program"),
        (&dir, "/load none\n", "holds no session 'none'"),
        (&dir, "/save\n", "unknown command /save; /help lists them"),
        (
            &["--kv-dir", folder.text(), "--kv-space", "1000"],
            "Hi\n/save x\n",
            "does not fit into the 1000 B of --kv-space",
        ),
    ] {
        let ran = chat(flags, &format!("{lines}/stats\n"));
        assert_eq!(ran.code, Some(0), "{lines}");
        assert!(ran.err.contains(said), "{said}: {}", ran.err);
        assert!(ran.err.contains("context: "), "{lines}");
    }
    assert!(folder.names().is_empty());
    for (args, said) in [
        (&["chat", "--resume", "x"][..], "--resume needs --kv-dir"),
        (
            &["chat", "--resume", "x", "--kv-dir", folder.text()],
            "holds no session 'x'",
        ),
        (
            &[
                "chat",
                "--resume",
                "x",
                "--kv-dir",
                folder.text(),
                "--system",
                "s",
            ],
            "--system has no place",
        ),
        (
            &["run", "-p", "x", "--kv-space", "8GB"],
            "--kv-space needs --kv-dir",
        ),
        (
            &[
                "run",
                "-p",
                "x",
                "--kv-dir",
                folder.text(),
                "--kv-space",
                "8",
            ],
            "",
        ),
        (
            &[
                "run",
                "-p",
                "x",
                "--kv-dir",
                folder.text(),
                "--kv-space",
                "0",
            ],
            "found '0', expected whole gibibytes",
        ),
        (
            &[
                "run",
                "-p",
                "x",
                "--kv-dir",
                folder.text(),
                "--kv-space",
                "8MB",
            ],
            "found '8MB'",
        ),
        (
            &["run", "-p", "x", "--kv-dir", "/dev/null"],
            "expected a folder",
        ),
        (&["sessions", "list"], "--kv-dir is missing"),
        (
            &["sessions", "--kv-dir", folder.text()],
            "expected list, show NAME",
        ),
        (
            &["sessions", "rm", "x", "--all", "--kv-dir", folder.text()],
            "expected list",
        ),
        (
            &["sessions", "rm", "x", "--kv-dir", folder.text()],
            "holds no session 'x'",
        ),
        (
            &["sessions", "show", "../x", "--kv-dir", folder.text()],
            "found '../x', expected",
        ),
    ] {
        let ran = infall(args);
        // Too little space is no fault of a run: it is told, and the answer comes.
        let (code, said) = if said.is_empty() {
            (0, "was not saved: a session of ")
        } else {
            (2, said)
        };
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.err);
        assert!(ran.err.contains(said), "{args:?}: {}", ran.err);
    }
}

#[test]
fn sessions_are_listed_shown_and_removed() {
    let folder = Folder::new("list");
    let dir = ["--kv-dir", folder.text()];
    let sessions = |words: &[&str]| infall(&[&["sessions"], words, &dir].concat());
    assert_eq!(sessions(&["list"]).out, "0 sessions, 0 B\n");
    let said = chat(&dir, "What is Unix?\n/save unix\n").err;
    let n = figure(&said, "unix:").unwrap();
    folder.write("other", "x");
    let whole = std::fs::read(folder.path("unix.session")).unwrap();
    folder.write("cut.session", &whole[..5000]);
    let listed = sessions(&["list"]);
    assert_eq!(listed.code, Some(0), "{}", listed.err);
    let line = |start: &str| {
        let mut lines = listed.out.lines();
        let line = lines.find(|l| l.starts_with(start));
        line.unwrap_or_else(|| panic!("{start} in {}", listed.out))
            .to_string()
    };
    let words: Vec<String> = line("unix").split_whitespace().map(String::from).collect();
    assert_eq!(
        (words[1].as_str(), words[4].as_str()),
        (n.to_string().as_str(), "f16")
    );
    assert!(line("cut").contains("found 5000 bytes"));
    assert!(line("2 sessions, ").ends_with("B"));
    assert!(line("note: ").contains("other is ignored: "));

    let shown = sessions(&["show", "unix"]);
    assert!(
        shown.out.starts_with(&format!("tokens      {n}\n")),
        "{}",
        shown.out
    );
    for part in [
        "KV form     f16\n",
        "arithmetic  cpu ",
        "logits      yes\n",
        "whole       yes",
    ] {
        assert!(shown.out.contains(part), "{part} in {}", shown.out);
    }
    let mut damaged = whole;
    let last = damaged.len() - 9;
    damaged[last] ^= 1;
    folder.write("unix.session", damaged);
    let shown = sessions(&["show", "unix"]);
    assert_eq!(shown.code, Some(1));
    assert!(shown.err.contains("unix.session: bytes "), "{}", shown.err);
    assert_eq!(sessions(&["rm", "unix"]).code, Some(0));
    assert_eq!(folder.names(), ["cut.session", "other"]);
    assert_eq!(sessions(&["rm", "--all"]).out, "1 removed\n");
    assert_eq!(folder.names(), ["other"]);
}

/// A file that may not grow as far as it must stands for a full disk: the system refuses the write.
#[test]
fn a_save_without_room_leaves_the_old_session() {
    let folder = Folder::new("room");
    let dir = ["--kv-dir", folder.text()];
    chat(&dir, "What is Unix?\n/save x\n");
    let before = std::fs::read(folder.path("x.session")).unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_infall"))
        .args(["chat", "--temp", "0", "-n", "16", "--ctx", "2000", "-m"])
        .arg(tiny())
        .args(dir);
    let ran = fed(command, "What is a hacker?\n/save x\n/save y\nAnd then?\n");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(ran.err.matches("File too large").count(), 2, "{}", ran.err);
    assert_eq!(folder.names(), ["x.session"]);
    assert!(std::fs::read(folder.path("x.session")).unwrap() == before);
    let resumed = chat(
        &["--kv-dir", folder.text(), "--resume", "x"],
        "And who made it?\n",
    );
    assert_eq!(resumed.code, Some(0), "{}", resumed.err);
}
