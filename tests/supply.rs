//! What a supply of experts promises: the same tokens whatever the strategy, the budget and the timing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Loaded, golden, micro_ids, tiny};
use infall::options::{Budget, Options};
use infall::os::File;
use infall::os::meter::drop_cached;
use infall::supply::STRATEGIES;
use infall::units::TokenId;
use std::path::Path;

fn logits(
    model: &Path,
    ids: &[TokenId],
    decode_from: usize,
    change: &dyn Fn(&mut Options),
) -> Vec<f32> {
    let mut options = Options::new(model);
    (options.ctx, options.prefill_chunk, options.threads) = (600, 64, 2);
    change(&mut options);
    let mut loaded = Loaded::open(&options).unwrap();
    loaded.logits(ids, decode_from)
}

#[test]
fn logits_do_not_depend_on_the_supply_1() {
    let tiny_ids: Vec<TokenId> = (0..180).map(|i| TokenId((i * 37 + 11) % 4000)).collect();
    for (model, ids, budgets) in [
        (
            golden("micro-q2.gguf"),
            micro_ids()[..200].to_vec(),
            [3, 8, 20, 40],
        ),
        (tiny(), tiny_ids, [6, 32, 96, 192]),
    ] {
        let expected = logits(&model, &ids, 100, &|_| {});
        for strategy in STRATEGIES {
            for budget in budgets {
                for read_ahead in [true, false] {
                    let found = logits(&model, &ids, 100, &|o| {
                        o.strategy = strategy.name.into();
                        o.supply.budget = Budget::Experts(budget);
                        o.supply.read_ahead = read_ahead;
                    });
                    let same = found
                        .iter()
                        .zip(&expected)
                        .all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(
                        same,
                        "{}, {budget} experts, read ahead {read_ahead}",
                        strategy.name
                    );
                }
            }
        }
    }
}

/// A file that is removed with this value.
struct Temporary(std::path::PathBuf);

impl Temporary {
    /// On the disk of the build, which reads past the page cache; the system's temporary folder may be memory.
    fn new(name: &str) -> Temporary {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        Temporary(folder.join(format!("{}-{name}", std::process::id())))
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

fn infall(args: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_infall"));
    command.args(args).output().unwrap()
}

/// The report of a run of the program.
fn report(model: &str, args: &[&str]) -> serde_json::Value {
    let file = Temporary::new("report.json");
    let fixed = [
        "run",
        "-m",
        model,
        "--raw",
        "--temp",
        "0",
        "--report",
        file.text(),
    ];
    let output = infall(&[&fixed[..], args].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&std::fs::read(&file.0).unwrap()).unwrap()
}

/// Says beforehand what is taken, and keeps to it: on a model with 160 MiB of experts, from the least budget to all.
#[test]
fn memory_stays_within_the_ledger_2_3() {
    let model = Temporary::new("promise.gguf");
    let shape = [
        "synth",
        "--shape",
        "bench-q2",
        "--layers",
        "2",
        "--experts",
        "48",
    ];
    let made = infall(&[&shape[..], &["--quiet", "--out", model.text()]].concat());
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let prompt = "In the beginning God created the heaven and the earth. ".repeat(2);
    for strategy in STRATEGIES {
        for budget in ["12", "20", "48", "96"] {
            let args = [
                "-n",
                "12",
                "-p",
                &prompt,
                "--ctx",
                "1024",
                "--strategy",
                strategy.name,
                "--budget",
                budget,
            ];
            let left = drop_cached(&File::open(&model.0).unwrap());
            let r = report(model.text(), &args);
            let n = |name: &str| r[name].as_u64().unwrap_or_else(|| panic!("{name} in {r}"));
            let what = format!("{}, {budget} experts: {r}", strategy.name);
            assert!(
                n("peak_rss_bytes") <= n("plan_total_bytes") + (64 << 20),
                "{what}"
            );
            assert_eq!(
                n("expert_hits") + n("expert_misses"),
                n("expert_touches"),
                "{what}"
            );
            assert_eq!(
                n("experts_read"),
                n("expert_misses") + n("expert_ahead_wasted"),
                "{what}"
            );
            if strategy.name == "nommap" {
                // Only the header is read through the cache.
                match (left, r["peak_model_cached_bytes"].as_u64()) {
                    (Some(0), Some(cached)) => assert!(cached <= 16 << 20, "{what}"),
                    _ => println!("skipped: what of the file is cached is not known here"),
                }
            }
        }
    }
}

/// A long prompt goes through a layer as a whole, so each of its experts is read once, however few chunks fit.
#[test]
fn a_prompt_reads_each_expert_at_most_once() {
    let ids: Vec<TokenId> = (0..500).map(|i| TokenId((i * 37 + 11) % 4000)).collect();
    for strategy in ["baseline", "nommap"] {
        if !STRATEGIES.iter().any(|s| s.name == strategy) {
            println!("skipped: {strategy} is not built in");
            continue;
        }
        for read_ahead in [true, false] {
            let mut options = Options::new(tiny());
            (options.ctx, options.prefill_chunk, options.threads) = (600, 64, 2);
            options.strategy = strategy.into();
            // One layer has 32 experts; with twice that the next can be read while one is computed.
            options.supply.budget = Budget::Experts(64);
            options.supply.read_ahead = read_ahead;
            let mut loaded = Loaded::open(&options).unwrap();
            let mut session = loaded.session();
            session
                .prefill(&mut loaded.graph, &ids, &mut |_| true)
                .unwrap();
            let stats = loaded.graph.supply_stats();
            assert!(stats.experts_read <= 6 * 32, "{strategy}: {stats:?}");
            assert!(
                stats.experts_read > 5 * 32,
                "500 tokens choose nearly all experts: {stats:?}"
            );
        }
    }
}

#[test]
fn budgets_that_cannot_work_say_what_can() {
    let model = tiny();
    let run = |args: &[&str]| {
        let output = infall(
            &[
                &[
                    "plan",
                    "-m",
                    model.to_str().unwrap(),
                    "--strategy",
                    "baseline",
                ],
                args,
            ]
            .concat(),
        );
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    for (budget, expected) in [
        (
            "35",
            "found room for 35 experts of 108.00 KiB, expected at least 36 (6 layers, 6 experts a token): 3.80 MiB",
        ),
        ("0", "--budget: found '0'"),
        ("1.5GB", "--budget: found '1.5GB'"),
        ("8 GB", "--budget: found '8 GB'"),
    ] {
        let (code, message) = run(&["--budget", budget]);
        assert_eq!(code, Some(2), "{budget}: {message}");
        assert!(message.contains(expected), "{budget}: {message}");
    }
    assert_eq!(run(&["--budget", "36"]).0, Some(0));
    assert_eq!(run(&["--ssd-streaming-cache-experts", "1GB"]).0, Some(0));
}
