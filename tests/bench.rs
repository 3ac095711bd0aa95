//! `infall bench` as a user meets it: tests, formats, limits. Speeds are never judged here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::tiny;
use infall::bench::{Bench, Feed, Kind, Test};
use infall::engine::{Prepared, Sampler, SamplerOptions};
use infall::options::{Budget, Options};
use serde_json::Value;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn infall() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_infall"));
    command.env("INFALL_MODEL", tiny()).stdin(Stdio::null());
    command.arg("bench");
    command
}

fn bench(args: &[&str]) -> Output {
    infall().args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The output of a run that must succeed.
fn good(args: &[&str]) -> String {
    let output = bench(args);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout).to_string()
}

fn json(args: &[&str]) -> Vec<Value> {
    let out = good(&[args, &["--json"]].concat());
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

/// FNV-1a, in a form of its own.
fn fnv(ids: impl IntoIterator<Item = u32>) -> String {
    let mut hash = 14_695_981_039_346_656_037u64;
    for byte in ids.into_iter().flat_map(u32::to_le_bytes) {
        hash ^= u64::from(byte);
        hash = hash.wrapping_mul(1_099_511_628_211);
    }
    format!("{hash:016x}")
}

/// A link to the shipped model under a name that needs quotes.
struct OddName(PathBuf);

impl OddName {
    fn new(test: &str) -> OddName {
        let name = format!("infall-bench-{}-{test},\"a|b\".gguf", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::os::unix::fs::symlink(tiny(), &path).unwrap();
        OddName(path)
    }
}

impl Drop for OddName {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

#[test]
fn json_has_the_fields_of_llama_bench_and_ours() {
    let model = OddName::new("json");
    let path = model.0.to_str().unwrap();
    let args = [
        "-m", path, "-p", "0,24", "-n", "5", "-r", "3", "--depth", "9",
    ];
    let found = json(&[&args[..], &["--threads", "2", "--strategy", "full"]].concat());
    assert_eq!(found.len(), 2);
    for (object, test, n, n_prompt) in [
        (&found[0], "pp24 @ d9", 24.0, 24),
        (&found[1], "tg5 @ d9", 5.0, 0),
    ] {
        assert_eq!(object["test"], test);
        assert_eq!(object["model_filename"], path);
        assert_eq!(object["model_size"], 32_338_276);
        assert_eq!(object["n_prompt"], n_prompt);
        assert_eq!(object["n_gen"], if n_prompt == 0 { 5 } else { 0 });
        assert_eq!(
            (&object["n_depth"], &object["n_threads"]),
            (&9.into(), &2.into())
        );
        assert_eq!(
            (&object["strategy"], &object["read_bytes"]),
            (&"full".into(), &0.into())
        );
        assert!(!object["kernels"].as_str().unwrap().is_empty());
        let numbers = |name: &str| -> Vec<f64> {
            let list = object[name].as_array().unwrap();
            list.iter().map(|v| v.as_f64().unwrap()).collect()
        };
        let (ns, ts) = (numbers("samples_ns"), numbers("samples_ts"));
        assert_eq!((ns.len(), ts.len()), (3, 3));
        for (ns, ts) in ns.iter().zip(&ts) {
            assert!((n * 1e9 / ns - ts).abs() <= 1e-6, "{ns} {ts}");
        }
        let mean = |v: &[f64]| v.iter().sum::<f64>() / 3.0;
        let deviation =
            |v: &[f64]| (v.iter().map(|x| (x - mean(v)).powi(2)).sum::<f64>() / 2.0).sqrt();
        for (name, expected, slack) in [
            ("avg_ts", mean(&ts), 1e-4),
            ("stddev_ts", deviation(&ts), 1e-4),
            ("avg_ns", mean(&ns), 0.6),
            ("stddev_ns", deviation(&ns), 0.6),
        ] {
            let found = object[name].as_f64().unwrap();
            assert!(
                (found - expected).abs() <= slack,
                "{name}: {found} {expected}"
            );
        }
    }
    let (pp, tg) = (&found[0], &found[1]);
    assert!(pp["weights_gb_per_token"].is_null() && pp["bandwidth_gbs"].is_null());
    // The sum is checked with the model; memory that is slower than this is none.
    assert_eq!(tg["weights_gb_per_token"], 0.012_694);
    assert!(tg["bandwidth_gbs"].as_f64().unwrap() > 0.1);
    assert_eq!(tg["budget_bytes"], 21_233_664);
}

#[test]
fn greedy_tokens_are_those_of_a_generation_on_every_strategy() {
    let mut options = Options::new(tiny());
    (options.threads, options.ctx) = (1, 64);
    let prepared = Prepared::new(options).unwrap();
    let mut engine = prepared.load(&mut |_, _| {}).unwrap();
    let mut session = engine.session().unwrap();
    let bos = engine.tokenizer().bos().unwrap();
    engine.prefill(&mut session, &[bos], &mut |_| true).unwrap();
    let greedy = SamplerOptions {
        temperature: 0.0,
        ..SamplerOptions::default()
    };
    // A generation would stop at the first token that ends a turn.
    let mut sampler = Sampler::new(greedy).unwrap();
    let ids = [(); 12].map(|()| {
        let token = sampler.sample(session.logits()).unwrap();
        engine.decode(&mut session, token).unwrap();
        token.0
    });

    let common = ["-p", "0", "-n", "12", "--greedy", "--no-bandwidth"];
    for more in [
        &["-r", "1", "--strategy", "full", "--threads", "2"][..],
        &["-r", "3", "--strategy", "baseline", "--budget", "36"],
        &["-r", "1", "--no-warmup", "--strategy", "full"],
    ] {
        let found = json(&[&common[..], more].concat());
        assert_eq!(found[0]["token_hash"], fnv(ids.iter().copied()), "{more:?}");
        assert_eq!(found[0]["tokens"], "greedy");
        assert!(found[0]["bandwidth_gbs"].is_null());
        if more[1] == "1" {
            assert_eq!(found[0]["stddev_ns"], 0);
            assert_eq!(found[0]["stddev_ts"], 0.0);
        }
    }
}

/// A decode of baseline touches each layer's experts once a token: nothing but the measured tokens is counted.
#[test]
fn only_what_is_measured_is_counted() {
    let mut options = Options::new(tiny());
    (options.threads, options.ctx) = (2, 64);
    options.strategy = "baseline".into();
    options.supply.budget = Budget::Experts(36);
    let prepared = Prepared::new(options).unwrap();
    let mut engine = prepared.load(&mut |_, _| {}).unwrap();
    let mut bench = Bench::new(&mut engine, Feed::Random).unwrap();
    let mut test = Test {
        kind: Kind::Decode,
        n: 7,
        depth: 20,
    };
    let mut seen = Vec::new();
    let mut tick = |done, all| {
        seen.push((done, all));
        true
    };
    let measured = bench.measure(test, 2, true, &mut tick).unwrap().unwrap();
    let touches = 2 * 7 * 6 * 6; // runs, tokens, layers, experts
    assert_eq!(measured.total(|s| s.touches), touches);
    assert_eq!(
        measured.total(|s| s.hits) + measured.total(|s| s.misses),
        touches
    );
    assert!(measured.total(|s| s.read_bytes) > 0);
    assert_eq!(measured.runs.len(), 2);
    // 20 tokens before, one to warm up, two runs of 7.
    assert!(seen.iter().all(|(_, all)| *all == 20 + 1 + 14), "{seen:?}");
    assert!(
        seen.is_sorted() && seen.last() == Some(&(34, 35)),
        "{seen:?}"
    );

    // The same ids, whatever was measured before; others at another depth.
    let again = bench
        .measure(test, 1, false, &mut |_, _| true)
        .unwrap()
        .unwrap();
    assert_eq!(again.token_hash, measured.token_hash);
    test.depth = 21;
    let other = bench
        .measure(test, 1, false, &mut |_, _| true)
        .unwrap()
        .unwrap();
    assert_ne!(other.token_hash, measured.token_hash);

    // Stopped at each step: no result, and the next test works.
    for stop in 0..8 {
        for kind in [Kind::Prefill, Kind::Decode] {
            let mut left = stop;
            let mut tick = |_, _| {
                left -= 1;
                left >= 0
            };
            let test = Test {
                kind,
                n: 8,
                depth: 0,
            };
            assert!(bench.measure(test, 3, true, &mut tick).unwrap().is_none());
        }
    }
    let again = Test { depth: 20, ..test };
    let again = bench
        .measure(again, 1, false, &mut |_, _| true)
        .unwrap()
        .unwrap();
    assert_eq!(again.token_hash, measured.token_hash);
    // More than the context holds.
    let long = Test { n: 64, ..test };
    assert!(bench.measure(long, 1, false, &mut |_, _| true).is_err());
}

#[test]
fn csv_has_one_header_and_quoted_names() {
    let model = OddName::new("csv");
    let path = model.0.to_str().unwrap();
    let args = ["-m", path, "-p", "3", "-n", "2,1", "-r", "2", "--csv"];
    let out = good(&[&args[..], &["--no-bandwidth"]].concat());
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 4, "{out}");
    let header: Vec<&str> = lines[0].split(',').collect();
    assert_eq!(header[..2], ["test", "model_filename"]);
    let quoted = format!("\"{}\"", path.replace('"', "\"\""));
    for (line, test) in lines[1..].iter().zip(["pp3", "tg2", "tg1"]) {
        let rest = line.strip_prefix(&format!("{test},{quoted},"));
        let fields: Vec<&str> = rest
            .unwrap_or_else(|| panic!("{line}"))
            .split(',')
            .collect();
        assert_eq!(fields.len() + 2, header.len(), "{line}");
        let at = |name: &str| fields[header.iter().position(|h| *h == name).unwrap() - 2];
        assert_eq!(at("samples_ns").split(';').count(), 2);
        assert_eq!(at("n_depth"), "0");
        assert_eq!(at("bandwidth_gbs"), "");
    }
}

#[test]
fn the_table_is_aligned() {
    let model = OddName::new("table");
    let path = model.0.to_str().unwrap();
    let out = good(&["-m", path, "-p", "4", "-n", "3", "-r", "1", "--depth", "7"]);
    let (table, below) = out.split_once("\n\n").unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{out}");
    let bars = |line: &str| -> Vec<usize> {
        let chars = line.chars().enumerate();
        chars.filter(|(_, c)| *c == '|').map(|(i, _)| i).collect()
    };
    for line in &lines {
        assert_eq!(bars(line), bars(lines[0]), "{out}");
    }
    assert!(
        lines[2].contains("a?b") && lines[2].contains(" pp4 @ d7 "),
        "{out}"
    );
    assert!(
        lines[3].contains(" tg3 @ d7 ") && lines[3].contains(" ± 0.00 "),
        "{out}"
    );
    assert!(below.starts_with("memory: "), "{out}");
}

#[test]
fn wrong_usage_is_named() {
    let many = vec!["1"; 33].join(",");
    let cases: &[(&[&str], &str)] = &[
        (&["-p", "0", "-n", "0"], "-p and -n are both 0"),
        (&["-r", "0"], "-r: found 0, expected 1 to 1000"),
        (&["-r", "1001"], "-r: found 1001"),
        (&["-p", "1,x"], "-p: found 'x'"),
        (&["-n", ""], "-n: found ''"),
        (&["-n", "-1"], "-n: found '-1'"),
        (&["-p", &many], "-p: found 33 numbers, expected at most 32"),
        (&["-n", "1048576"], "expected less than 1048576 together"),
        (
            &["--depth", "18446744073709551615"],
            "18446744073709551615 tokens before",
        ),
        (&["--ctx", "100"], "--ctx: found 100, expected at least 512"),
        (&["--csv", "--json"], "--csv and --json"),
        (&["--kernels", "mmx"], "--kernels: 'mmx' is unknown"),
        (&["--nonsense"], "'--nonsense'"),
    ];
    for (args, expected) in cases {
        let output = bench(args);
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {err}");
        assert!(
            err.contains(expected) && output.stdout.is_empty(),
            "{args:?}: {err}"
        );
    }
    let help = good(&["--help"]);
    for flag in [
        "-p, --n-prompt",
        "-n, --n-gen",
        "--depth",
        "-r, --runs",
        "-m, --model",
    ] {
        assert!(help.contains(flag), "{flag} in {help}");
    }
}

#[test]
fn ctrl_c_leaves_whole_json_of_what_was_done() {
    let mut command = infall();
    command.args([
        "-p",
        "4",
        "-n",
        "60000",
        "-r",
        "1",
        "--json",
        "--no-bandwidth",
    ]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // The bracket and the first test are there: the second has begun, or is about to.
    let mut out = vec![0; 100];
    stdout.read_exact(&mut out).unwrap();
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    stdout.read_to_end(&mut out).unwrap();
    let output = child.wait_with_output().unwrap();
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(err.contains("stopped in tg60000"), "{err}");
    let found: Vec<Value> = serde_json::from_slice(&out).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["test"], "pp4");
}
