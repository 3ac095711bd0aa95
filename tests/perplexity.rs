//! `infall perplexity` against llama.cpp's `llama-perplexity`: tests/golden/perplexity.txt says how its figures were made.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Temporary, golden, infall, tiny};
use infall::perplexity::logits_file::Reader;
use infall::supply::STRATEGIES;
use std::process::{Command, Stdio};

/// Standard output of a run that must succeed.
fn perplexity(args: &[&str]) -> String {
    let output = infall(&[&["perplexity", "--quiet"], args].concat());
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && err.is_empty(), "{args:?}: {err}");
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a run that must fail with this exit code.
fn refused(code: i32, args: &[&str]) -> String {
    let output = infall(&[&["perplexity", "--quiet"], args].concat());
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
    err
}

fn path(name: &str) -> String {
    golden(name).to_str().unwrap().into()
}

fn text() -> String {
    path("genesis.txt")
}

/// llama.cpp's running perplexity after each window.
fn golden_windows() -> Vec<f64> {
    let text = std::fs::read_to_string(golden("perplexity.txt")).unwrap();
    let line = text.lines().find(|l| l.starts_with("[1]")).unwrap();
    let windows = line.split(',').filter(|w| !w.is_empty());
    windows
        .map(|w| w.split(']').nth(1).unwrap().parse().unwrap())
        .collect()
}

/// Ours.
fn windows(out: &str) -> Vec<f64> {
    let rows = out.lines().skip(1).take_while(|l| !l.starts_with("PPL"));
    rows.map(|row| row.split_whitespace().nth(1).unwrap().parse().unwrap())
        .collect()
}

fn assert_close(found: &[f64], expected: &[f64], part: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found / expected - 1.0).abs();
        assert!(
            off < part,
            "after window {i}: {found}, llama.cpp {expected}"
        );
    }
}

/// The tables that round activations, and the default KV cache, stay within the half percent that is asked for.
#[test]
fn the_fast_kernels_stay_near_it() {
    let (model, text) = (tiny(), text());
    let out = perplexity(&["-m", model.to_str().unwrap(), "-f", &text, "--ctx", "128"]);
    let expected = golden_windows();
    assert_close(&windows(&out), &expected, 0.005);
    let last = out.lines().last().unwrap();
    // "PPL = 13.1416 ± 1.19472 (28 windows of 128 tokens, 1764 predictions)"; llama.cpp: 13.1261 +/- 1.19359.
    let words: Vec<&str> = last.split_whitespace().collect();
    let numbers = [2, 4].map(|i| words[i].parse::<f64>().unwrap());
    assert_close(&numbers, &[13.1261, 1.19359], 0.005);
    assert!(
        last.ends_with("(28 windows of 128 tokens, 1764 predictions)"),
        "{last}"
    );
}

/// The figures of a report, by name: the value, and its error if there is one.
fn figures(report: &str) -> Vec<(String, f64, Option<f64>)> {
    let lines = report.lines().filter(|l| l.contains(": "));
    lines
        .map(|line| {
            let (name, rest) = line.rsplit_once(':').unwrap();
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
            let rest = rest.replace('%', " ");
            let mut numbers = rest.split('±').map(|n| n.trim().parse().unwrap());
            (name, numbers.next().unwrap(), numbers.next())
        })
        .collect()
}

/// The shipped model with other weights for its routed experts, against its own probabilities in llama.cpp's file.
#[test]
fn divergence_is_llama_cpps() {
    let mut bytes = std::fs::read(tiny()).unwrap();
    let key = b"deepseek4.expert_weights_scale";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    assert_eq!(bytes[at..at + 4], 1.5_f32.to_le_bytes());
    bytes[at..at + 4].copy_from_slice(&1.2_f32.to_le_bytes());
    let model = Temporary::new("scale.gguf");
    std::fs::write(&model.0, bytes).unwrap();

    let kept = path("genesis.logits");
    let out = perplexity(&[
        "-m",
        model.text(),
        "--kld",
        &kept,
        "--kernels",
        "scalar",
        "--kv",
        "f32",
    ]);
    let golden = std::fs::read_to_string(golden("perplexity.txt")).unwrap();
    let report = golden.split("====== Perplexity statistics").nth(1).unwrap();
    let expected = figures(report);
    assert_eq!(expected.len(), 34, "all that llama.cpp prints");
    let found = figures(&out);
    assert_eq!(found.len(), expected.len());
    for (name, value, error) in expected {
        let ours = found.iter().find(|(n, ..)| *n == name);
        let (_, our_value, our_error) = ours.unwrap_or_else(|| panic!("no {name} in {out}"));
        // One row in a hundred hangs on a last bit, see below; it moves the outermost values most.
        let least = if name.contains("Δp") { 0.05 } else { 0.0005 };
        let close = |a: f64, b: f64| (a - b).abs() <= 0.005 * b.abs() + least;
        assert!(
            close(*our_value, value),
            "{name}: {our_value}, llama.cpp {value}"
        );
        assert_eq!(our_error.is_some(), error.is_some(), "{name}");
        if let (Some(ours), Some(error)) = (our_error, error) {
            assert!(
                close(*ours, error),
                "error of {name}: {ours}, llama.cpp {error}"
            );
        }
    }
    // The running figures: perplexity, logarithm of the ratio, divergence, Δp, top; each with its error.
    let row = |text: &str, start: &str| -> Vec<f64> {
        let line = text.lines().find(|l| l.starts_with(start)).unwrap();
        let words = line.split_whitespace().filter(|w| !"±%".contains(w));
        words.map(|w| w.parse().unwrap()).collect()
    };
    let (ours, theirs) = (row(&out, "     1 "), row(&golden, "   1 "));
    assert_eq!((ours.len(), theirs.len()), (11, 11));
    for (a, b) in ours.iter().zip(&theirs) {
        assert!(
            (a - b).abs() <= 0.003 * b.abs() + 0.0005,
            "{ours:?}, llama.cpp {theirs:?}"
        );
    }
}

/// With float activations the two differ by the order of sums and nothing else.
#[test]
fn float_activations_give_llama_cpps_perplexity_and_probabilities() {
    let (model, text, ours) = (tiny(), text(), Temporary::new("logits"));
    let model = model.to_str().unwrap();
    let args = ["-m", model, "-f", &text, "--ctx", "128", "--chunks", "2"];
    let keep = ["--save-logits", ours.text()];
    let float = ["--kernels", "scalar", "--kv", "f32"];
    let out = perplexity(&[&args[..], &keep, &float].concat());
    // Measured: 0.01 %.
    assert_close(&windows(&out), &golden_windows()[..2], 0.0005);

    let theirs = golden("genesis.logits");
    let [mut ours, mut theirs] = [&ours.0, &theirs].map(|path| Reader::open(path).unwrap());
    assert_eq!(ours.header(), theirs.header());
    // A step of the codes is 16 / 65535 = 0.00024. A choice of the router or the indexer that hangs on the last bit
    // moves all of a row: seen in one of 126.
    let n_rows = ours.header().n_rows();
    let mut n_far = 0;
    for _ in 0..n_rows {
        let rows = ours
            .next_row()
            .unwrap()
            .iter()
            .zip(theirs.next_row().unwrap());
        let off = rows.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        n_far += usize::from(off > 0.02);
    }
    assert_eq!(n_rows, 126);
    assert!(n_far <= 3, "{n_far} rows of {n_rows}");
}

#[test]
fn nothing_diverges_from_its_own_probabilities() {
    let (model, text, kept) = (tiny(), text(), Temporary::new("own"));
    let model = ["-m", model.to_str().unwrap(), "-f", &text];
    let keep = [
        "--save-logits",
        kept.text(),
        "--ctx",
        "128",
        "--chunks",
        "4",
    ];
    perplexity(&[&model[..], &keep].concat());
    let own = figures(&perplexity(&[&model[..], &["--kld", kept.text()]].concat()));
    let value = |name: &str| own.iter().find(|(n, ..)| n == name).unwrap().1;
    // The codes' rounding is left.
    assert!(value("Maximum KLD") < 2e-4, "{own:?}");
    assert_eq!(value("Same top p"), 100.0);
}

#[test]
fn strategies_sweeps_and_chunks_give_the_same_bits() {
    let (model, text) = (tiny(), text());
    let model = model.to_str().unwrap();
    let bits = |ctx: &str, more: &[&str]| {
        let file = Temporary::new("bits");
        let args = ["-m", model, "-f", &text, "--chunks", "5", "--ctx", ctx];
        perplexity(&[&args[..], &["--save-logits", file.text()], more].concat());
        std::fs::read(&file.0).unwrap()
    };
    let expected = bits("96", &["--strategy", "full"]);
    for strategy in STRATEGIES {
        let streamed = bits("96", &["--strategy", strategy.name, "--budget", "36"]);
        assert!(streamed == expected, "{}", strategy.name);
    }
    // Windows one by one, two at a time, and in chunks that do not divide them.
    for more in [
        ["--prefill-sweep", "96", "--prefill-chunk", "96"],
        ["--prefill-sweep", "200", "--prefill-chunk", "40"],
    ] {
        assert!(bits("96", &more) == expected, "{more:?}");
    }
    // A window that is longer than a sweep, whose second half does not begin with one.
    let long = bits("300", &[]);
    let pieces = ["--prefill-sweep", "64", "--prefill-chunk", "64"];
    assert!(bits("300", &pieces) == long, "pieces of a window");
}

/// Windows that go through the layers together read experts once.
#[test]
fn windows_share_the_reads_of_experts() {
    let (model, text) = (tiny(), text());
    let model = model.to_str().unwrap();
    let read = |sweep: &str| -> f64 {
        let args = [
            "perplexity",
            "-m",
            model,
            "-f",
            &text,
            "--ctx",
            "128",
            "--chunks",
            "8",
        ];
        let how = [
            "--strategy",
            "baseline",
            "--budget",
            "36",
            "--prefill-chunk",
            "128",
        ];
        let output = infall(&[&args[..], &how, &["--prefill-sweep", sweep]].concat());
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{err}");
        // "... 81.00 MiB of experts read, 8 windows together"
        let words: Vec<&str> = err.split_whitespace().collect();
        let at = words
            .windows(3)
            .position(|w| w == ["of", "experts", "read,"])
            .unwrap();
        assert_eq!(words[at - 1], "MiB", "{err}");
        words[at - 2].parse().unwrap()
    };
    let (alone, together) = (read("128"), read("1024"));
    assert!(together * 4.0 < alone, "{together} and {alone} MiB");
}

#[test]
fn what_cannot_be_scored_is_refused_by_name() {
    let (model, text, kept) = (tiny(), text(), path("genesis.logits"));
    let model = model.to_str().unwrap();
    let error = |code, args: &[&str]| refused(code, &[&["-m", model], args].concat());
    let short = error(2, &["-f", &text, "--ctx", "4096"]);
    assert!(short.contains("tokens, expected at least 8192"), "{short}");
    assert!(error(2, &[]).contains("-f FILE is needed"));
    assert!(error(2, &["-f", &text, "--ctx", "3"]).contains("--ctx: found 3"));
    assert!(error(2, &["-f", &text, "--chunks", "0"]).contains("--chunks"));
    assert!(error(1, &["-f", "/nonexistent.txt"]).contains("/nonexistent.txt"));
    let both = error(2, &["--kld", &kept, "--save-logits", "x"]);
    assert!(both.contains("exclude each other"), "{both}");
    let ctx = error(2, &["--kld", &kept, "--ctx", "64"]);
    assert!(ctx.contains("found 64, expected 128"), "{ctx}");
    let other = Temporary::new("other.txt");
    std::fs::write(&other.0, "In the end ".repeat(200)).unwrap();
    let other = error(2, &["--kld", &kept, "-f", other.text()]);
    assert!(other.contains("another text"), "{other}");
    let text_as_logits = error(1, &["--kld", &text]);
    assert!(
        text_as_logits.contains("no file of logits"),
        "{text_as_logits}"
    );
    let micro = path("micro-q2.gguf");
    let vocabulary = refused(2, &["-m", &micro, "--kld", &kept]);
    assert!(
        vocabulary.contains("4096 tokens, expected 512"),
        "{vocabulary}"
    );
    assert!(!std::fs::exists("x").unwrap() && !std::fs::exists("x.part").unwrap());
}

#[test]
fn ctrl_c_keeps_the_windows_that_are_done() {
    let (model, text, kept) = (tiny(), text(), Temporary::new("stopped"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_infall"));
    // One window at a time, slowly.
    command.args([
        "perplexity",
        "-m",
        model.to_str().unwrap(),
        "-f",
        &text,
        "--ctx",
        "64",
    ]);
    command.args([
        "--kernels",
        "scalar",
        "--threads",
        "1",
        "--prefill-chunk",
        "64",
    ]);
    command.args(["--prefill-sweep", "64", "--save-logits", kept.text()]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut out = String::new();
    let mut stdout = child.stdout.take().unwrap();
    while out.lines().count() < 3 {
        let mut bytes = [0; 64];
        let n = std::io::Read::read(&mut stdout, &mut bytes).unwrap();
        assert!(n > 0, "{out}");
        out += std::str::from_utf8(&bytes[..n]).unwrap();
    }
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    std::io::Read::read_to_string(&mut stdout, &mut out).unwrap();
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(out.lines().last().unwrap().starts_with("PPL = "), "{out}");
    assert!(
        err.contains("stopped after ") && err.contains("nothing is kept"),
        "{err}"
    );
    assert_eq!(output.status.code(), Some(1));
    let part = format!("{}.part", kept.text());
    assert!(!kept.0.exists() && !std::path::Path::new(&part).exists());
}
