//! `--profile`: times sum to the whole, and bytes and operations are those that the file's tensors ask for.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{infall, succeeded, tiny};
use infall::engine::{Prepared, Stage};
use infall::gguf::TensorInfo;
use infall::model::config::LayerKind;
use infall::options::Options;
use serde_json::Value;

/// Where a run of the tests below begins: the indexer of the shipped model has 64 rows to choose from at position 259.
const DEPTH: u64 = 260;
const N_PROMPT: u64 = 280;
const N_GEN: u64 = 40;
const RUNS: u64 = 2;

fn bench(more: &[&str]) -> String {
    let (depth, runs) = (DEPTH.to_string(), RUNS.to_string());
    let (n_prompt, n_gen) = (N_PROMPT.to_string(), N_GEN.to_string());
    let model = tiny();
    let args = [
        "bench",
        "-m",
        model.to_str().unwrap(),
        "-d",
        &depth,
        "-p",
        &n_prompt,
        "-n",
        &n_gen,
        "-r",
        &runs,
        "--no-bandwidth",
        "--no-warmup",
    ];
    let output = infall(&[&args[..], more].concat());
    succeeded(&output);
    String::from_utf8(output.stdout).unwrap()
}

fn json(more: &[&str]) -> Vec<Value> {
    serde_json::from_str(&bench(&[more, &["--json"]].concat())).unwrap()
}

/// The whole number called `name` of a stage in a test's profile.
fn of(test: &Value, stage: Stage, name: &str) -> u64 {
    let stages = test["profile"].as_array().unwrap();
    let mut found = stages.iter().filter(|s| s["stage"] == stage.name());
    let value = found.next().unwrap()[name].as_u64().unwrap();
    assert!(found.next().is_none(), "{stage:?} is there once");
    value
}

fn sum(test: &Value, name: &str) -> u64 {
    Stage::ALL.iter().map(|stage| of(test, *stage, name)).sum()
}

/// Nanoseconds of all runs of a test, measured by a clock of its own.
fn measured_ns(test: &Value) -> u64 {
    let samples = test["samples_ns"].as_array().unwrap();
    samples.iter().map(|ns| ns.as_u64().unwrap()).sum()
}

#[test]
fn the_stages_sum_to_the_measured_time() {
    for strategy in ["full", "baseline"] {
        let tests = json(&["--profile", "--strategy", strategy]);
        assert_eq!(tests.len(), 2);
        for test in &tests {
            let name = &test["test"];
            for stage in Stage::ALL {
                for what in ["calls", "ns"] {
                    assert!(of(test, stage, what) > 0, "{name}: {stage:?}: {what}");
                }
            }
            assert_eq!(test["profile"].as_array().unwrap().len(), Stage::ALL.len());
            let (all, whole) = (sum(test, "ns"), measured_ns(test));
            assert!(
                all.abs_diff(whole) * 50 < whole,
                "{name}: stages {all} ns, measured {whole} ns"
            );
            let other = of(test, Stage::Other, "ns");
            assert!(
                other * 3 < whole,
                "{name}: {other} of {whole} ns in no named stage"
            );
            // What the supply itself measured is a part of its stage.
            let stall = test["stall_ns"].as_u64().unwrap();
            assert!(of(test, Stage::ExpertSupply, "ns") >= stall, "{name}");
            let mut shares = 0.0;
            for stage in test["profile"].as_array().unwrap() {
                let number = |name: &str| stage[name].as_f64().unwrap();
                shares += number("share");
                for (rate, of) in [("gb_per_s", "weight_bytes"), ("gflop_per_s", "flop")] {
                    let expected = number(of) / number("ns");
                    assert!((number(rate) - expected).abs() < 1e-6, "{name}: {stage}");
                }
            }
            assert!((shares - 1.0).abs() < 1e-4, "{name}: {shares}");
        }
    }
}

/// The stage that multiplies with a tensor of the fixed weights, from its name; `None` where it is no matrix of a
/// product.
fn stage_of(tensor: &TensorInfo) -> Option<Stage> {
    let name = tensor.name.strip_suffix(".weight")?;
    let name = name.trim_start_matches("blk.");
    let name = name.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    Some(match name {
        "hc_attn_fn" | "hc_ffn_fn" => Stage::HyperConnections,
        "attn_q_a"
        | "attn_q_b"
        | "attn_kv"
        | "attn_compressor_kv"
        | "attn_compressor_gate"
        | "indexer.attn_q_b"
        | "indexer.proj"
        | "indexer_compressor_kv"
        | "indexer_compressor_gate" => Stage::Projections,
        "attn_output_a" | "attn_output_b" => Stage::OutputProjections,
        "ffn_gate_inp" => Stage::Router,
        "ffn_gate_shexp" | "ffn_up_shexp" | "ffn_down_shexp" => Stage::SharedExpert,
        "output" | "output_hc_fn" => Stage::Head,
        _ => return None,
    })
}

/// The sum of `f` over `n` positions from `first` on.
fn over(first: u64, n: u64, f: impl Fn(u64) -> u64) -> u64 {
    (first..first + n).map(f).sum()
}

#[test]
fn bytes_and_operations_are_those_of_the_tensors() {
    let prepared = Prepared::new(Options::new(tiny())).unwrap();
    let (model, tests) = (
        prepared.model(),
        json(&["--profile", "--strategy", "full", "--prefill-chunk", "256"]),
    );
    let (c, tensors) = (&model.config, &model.gguf.tensors);
    let [prefill, decode] = &tests[..] else {
        panic!("{tests:?}")
    };

    // By stage: bytes of the tensors, and two operations for each of their elements and each token.
    let mut in_products = 0;
    for stage in Stage::ALL {
        let its = || tensors.iter().filter(|t| stage_of(t) == Some(stage));
        let bytes: u64 = its().map(|t| t.extent.len).sum();
        if bytes == 0 {
            continue;
        }
        in_products += bytes;
        let flop: u64 = its().map(|t| 2 * t.dims.iter().product::<u64>()).sum();
        // Two chunks of a prompt, 256 and 24 tokens, share their reads; one token of it needs logits.
        let (passes, tokens) = match stage {
            Stage::Head => (1, 1),
            _ => (2, N_PROMPT),
        };
        for (test, passes, tokens) in [(prefill, passes, tokens), (decode, N_GEN, N_GEN)] {
            let found = ["weight_bytes", "flop"].map(|name| of(test, stage, name));
            let expected = [RUNS * passes * bytes, RUNS * tokens * flop];
            assert_eq!(found, expected, "{}: {stage:?}", test["test"]);
        }
    }

    // Routed experts: 6 of 32 for each token and layer, each read once in a decode.
    let (experts, elements) = (110_592, 3 * 256 * 256);
    let routes = |n: u64| RUNS * n * 6 * 6;
    let routed = |test, name| of(test, Stage::RoutedExperts, name);
    assert_eq!(routed(decode, "weight_bytes"), routes(N_GEN) * experts);
    assert_eq!(routed(decode, "flop"), routes(N_GEN) * 2 * elements);
    assert_eq!(routed(prefill, "flop"), routes(N_PROMPT) * 2 * elements);
    // At most all 32 of 6 layers for each of two chunks.
    let most = RUNS * 2 * 6 * 32 * experts;
    let read = routed(prefill, "weight_bytes");
    assert!(read <= most && read > most / 2 && read.is_multiple_of(experts));

    // Rows of 256 f16.
    assert_eq!(of(decode, Stage::Embed, "weight_bytes"), RUNS * N_GEN * 512);

    // What `bench` says a token reads is that, the vectors and position biases, and a row of ids in 3 layers.
    let uncounted = |t: &&TensorInfo| t.dims.len() == 1 || t.name.ends_with("_ape.weight");
    let vectors: u64 = tensors.iter().filter(uncounted).map(|t| t.extent.len).sum();
    let counted = model.token_bytes() - vectors - 3 * 6 * 4;
    assert_eq!(counted, in_products + 6 * 6 * experts + 512);
    assert_eq!(sum(decode, "weight_bytes"), RUNS * N_GEN * counted);
    let said = decode["weights_gb_per_token"].as_f64().unwrap() * 1e9;
    assert!((said - (counted + vectors) as f64).abs() < 600.0, "{said}");

    // Attention: at position p a token sees the last 128 raw rows, and of the compressed ones all, or what the indexer
    // chose; the indexer scores them all where there are more than it may choose.
    let (mut keys, mut scored) = (vec![], vec![]);
    for (first, n) in [(DEPTH, N_PROMPT), (DEPTH, N_GEN)] {
        let (mut all, mut index) = (0, 0);
        for layer in &c.layers {
            all += over(first, n, |p| (p + 1).min(128));
            match layer.kind {
                LayerKind::Sliding => {}
                LayerKind::Hca => all += over(first, n, |p| (p + 1) / 128),
                LayerKind::Csa => {
                    all += over(first, n, |p| ((p + 1) / 4).min(64));
                    let rows = |p| (p + 1) / 4;
                    index += over(first, n, |p| if rows(p) > 64 { rows(p) } else { 0 });
                }
            }
        }
        keys.push(all);
        scored.push(index);
    }
    for (i, test) in [prefill, decode].into_iter().enumerate() {
        // Eight heads of 128 values, keys and values; eight heads of 64.
        let attention = of(test, Stage::Attention, "flop");
        assert_eq!(attention, RUNS * keys[i] * 8 * 4 * 128, "{}", test["test"]);
        let indexer = of(test, Stage::Indexer, "flop");
        assert_eq!(indexer, RUNS * scored[i] * 8 * 2 * 64, "{}", test["test"]);
        for stage in [
            Stage::Norms,
            Stage::Compressor,
            Stage::ExpertSupply,
            Stage::Other,
        ] {
            let cost = of(test, stage, "flop") + of(test, stage, "weight_bytes");
            assert_eq!(cost, 0, "{stage:?}");
        }
    }
}

/// The lines of the table under a title that begins so, its head and rule first.
fn table<'a>(text: &'a str, title: &str) -> Vec<Vec<&'a str>> {
    let lines = text.lines().skip_while(|line| !line.starts_with(title));
    let lines = lines.skip(1).take_while(|line| line.starts_with('|'));
    let cells = |line: &'a str| line.trim_matches('|').split('|').map(str::trim).collect();
    lines.map(cells).collect()
}

/// Shares and times of a table sum to its last row.
fn check_table(text: &str, title: &str) {
    let rows = table(text, title);
    assert!(rows.len() > 12, "{title}: {text}");
    assert_eq!(rows[0][0], "stage");
    let names: Vec<&str> = rows[2..].iter().map(|row| row[0]).collect();
    let mut expected: Vec<&str> = Stage::ALL.iter().map(|stage| stage.name()).collect();
    expected.push("all");
    assert_eq!(names, expected);
    let number = |cell: &str| -> f64 { cell.trim_end_matches(" %").parse().unwrap() };
    for (column, slack) in [(2, 0.0008), (3, 0.8)] {
        let (all, parts) = rows[2..].split_last().unwrap();
        let parts: f64 = parts.iter().map(|row| number(row[column])).sum();
        let all = number(all[column]);
        assert!((parts - all).abs() <= slack, "{title}: {parts} of {all}");
    }
}

#[test]
fn tables_are_printed_where_they_are_asked_for() {
    let plain = bench(&[]);
    assert!(!plain.contains("GFLOP"), "{plain}");
    assert!(json(&[]).iter().all(|test| test.get("profile").is_none()));
    let text = bench(&["--profile"]);
    for title in ["pp280 @ d260: 560 tokens", "tg40 @ d260: 80 tokens"] {
        check_table(&text, title);
    }
    // What was printed before is still there, above.
    let (above, below) = text.split_once("\n\n").unwrap();
    assert_eq!(above.lines().count(), 4);
    assert!(below.starts_with("pp280"), "{below}");

    let model = tiny();
    let args = ["run", "-m", model.to_str().unwrap(), "--temp", "0"];
    let args = [&args[..], &["-n", "16", "-p", "What is Unix?"]].concat();
    let plain = infall(&args);
    assert!(!succeeded(&plain).contains("GFLOP"));
    for quiet in [false, true] {
        let mut args = [&args[..], &["--profile"]].concat();
        args.extend(quiet.then_some("--quiet"));
        let output = infall(&args);
        let said = succeeded(&output);
        assert_eq!(output.stdout, plain.stdout);
        check_table(&said, "prefill: 8 tokens");
        // The first of 16 tokens comes from the prompt's logits.
        check_table(&said, "decode: 15 tokens");
    }

    let output = infall(&["bench", "--csv", "--profile"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--csv has no place for --profile"), "{said}");
    for command in ["run", "bench"] {
        let help = infall(&[command, "--help"]).stdout;
        assert!(String::from_utf8(help).unwrap().contains("--profile"));
    }
}
