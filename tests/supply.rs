//! What a supply of experts promises: the same tokens whatever the strategy, the budget and the timing.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(unsafe_code)]

mod common;

#[cfg(target_os = "linux")]
use common::succeeded;
use common::{Loaded, Temporary, done, golden, infall, micro_ids, tiny};
use infall::options::{Budget, Options};
use infall::os::File;
use infall::os::meter::drop_cached;
use infall::supply::STRATEGIES;
use infall::units::TokenId;
use std::path::Path;

/// What a run gives: its tokens and one hash over the bits of every row of logits.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    tokens: Vec<TokenId>,
    hash: u64,
}

/// FNV-1a over 32-bit words.
fn hash_row(hash: &mut u64, row: &[f32]) {
    for value in row {
        *hash = (*hash ^ u64::from(value.to_bits())).wrapping_mul(0x0100_0000_01b3);
    }
}

fn likeliest(row: &[f32]) -> TokenId {
    let best = (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    TokenId(best as u32)
}

/// Reads a prompt, then gives `n` tokens, the likeliest each time.
fn greedy(options: &Options, prompt: &[TokenId], n: usize) -> Outcome {
    let mut loaded = Loaded::open(options).unwrap();
    let mut session = loaded.session();
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut keep = |row: &[f32]| {
        hash_row(&mut hash, row);
        Ok(())
    };
    session
        .prefill_all_logits(&mut loaded.graph, prompt, &mut keep)
        .unwrap();
    let mut tokens = Vec::new();
    for _ in 0..n {
        let token = likeliest(session.logits());
        tokens.push(token);
        session.decode(&mut loaded.graph, token).unwrap();
        hash_row(&mut hash, session.logits());
    }
    Outcome { tokens, hash }
}

/// All strategies and budgets, with one thread and two, with and without reading ahead, give the bits that
/// `full` gives. Each budget is run in one of the four ways, the next in another.
fn same_bits(model: &Path, prompt: &[TokenId], n_experts: [u64; 2], n: usize) {
    let [layer, all] = n_experts;
    let run = |strategy: &str, budget, threads, read_ahead| {
        let mut options = Options::new(model);
        (options.ctx, options.prefill_chunk, options.threads) = (600, 64, threads);
        options.strategy = strategy.into();
        options.supply.budget = Budget::Experts(budget);
        options.supply.read_ahead = read_ahead;
        greedy(&options, prompt, n)
    };
    let expected = run("full", all, 2, true);
    let different: std::collections::BTreeSet<_> = expected.tokens.iter().collect();
    assert!(different.len() > n / 16, "the text goes on: {different:?}");
    assert_eq!(run("full", all, 1, true), expected);
    for strategy in STRATEGIES.iter().filter(|s| s.name != "full") {
        // One choice of a layer, one layer, 10 %, 50 %, everything.
        for (i, budget) in [6, layer, all / 10, all / 2, all].into_iter().enumerate() {
            let ways = [(1, true), (2, false), (2, true), (1, false)];
            let (threads, read_ahead) = ways[i % 4];
            let found = run(strategy.name, budget, threads, read_ahead);
            let name = strategy.name;
            assert_eq!(
                found, expected,
                "{name}, {budget} experts, {threads} threads, read ahead {read_ahead}"
            );
        }
    }
}

#[test]
fn the_shipped_model_says_the_same_with_every_supply_1() {
    let prompt: Vec<TokenId> = (0..100).map(|i| TokenId((i * 37 + 11) % 4000)).collect();
    same_bits(&tiny(), &prompt, [32, 192], 256);
}

#[test]
fn a_model_of_64_experts_says_the_same_with_every_supply_1() {
    let model = Temporary::new("same-bits.gguf");
    let shape = [
        "synth",
        "--shape",
        "tiny",
        "--experts",
        "64",
        "--layers",
        "5",
        "--quiet",
    ];
    done(&[&shape[..], &["--out", model.text()]].concat());
    let prompt: Vec<TokenId> = (0..100).map(|i| TokenId((i * 37 + 11) % 4000)).collect();
    same_bits(&model.0, &prompt, [64, 320], 16);
}

/// The model with few experts whose indexer chooses among many rows, in chunks and one by one.
#[test]
fn logits_do_not_depend_on_the_supply_1() {
    let (model, ids) = (golden("micro-q2.gguf"), &micro_ids()[..200]);
    let logits = |strategy: &str, budget| {
        let mut options = Options::new(&model);
        (options.ctx, options.prefill_chunk, options.threads) = (600, 64, 2);
        options.strategy = strategy.into();
        options.supply.budget = Budget::Experts(budget);
        Loaded::open(&options).unwrap().logits(ids, 100)
    };
    let expected = logits("full", 40);
    for strategy in STRATEGIES {
        for budget in [3, 8, 20, 40] {
            let found = logits(strategy.name, budget);
            let mut pairs = found.iter().zip(&expected);
            let same = pairs.all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{}, {budget} experts", strategy.name);
        }
    }
}

/// A file that changes under a run is an error for every strategy, and the program goes on; a file that is
/// replaced under its name is not seen.
#[test]
fn a_model_file_that_changes_while_it_runs_is_an_error_16() {
    use std::os::unix::fs::FileExt;
    for strategy in STRATEGIES {
        for change in ["cut", "write", "replace"] {
            let model = Temporary::new(&format!("{}-{change}.gguf", strategy.name));
            std::fs::copy(tiny(), &model.0).unwrap();
            let mut options = Options::new(&model.0);
            (options.ctx, options.threads) = (100, 2);
            options.strategy = strategy.name.into();
            options.supply.budget = Budget::Experts(36);
            let mut loaded = Loaded::open(&options).unwrap();
            let mut session = loaded.session();
            let prompt = [TokenId(7), TokenId(8)];
            let graph = &mut loaded.graph;
            session.prefill(graph, &prompt, &mut |_| true).unwrap();
            session.decode(graph, TokenId(9)).unwrap();
            let before = session.logits().to_vec();
            let writer = || {
                std::fs::OpenOptions::new()
                    .write(true)
                    .open(&model.0)
                    .unwrap()
            };
            match change {
                // The end holds experts, and what it held is gone at once for a mapping too.
                "cut" => writer().set_len(10 << 20).unwrap(),
                "write" => writer().write_all_at(b"x", 20 << 20).unwrap(),
                _ => {
                    let other = Temporary::new("other.gguf");
                    std::fs::write(&other.0, b"another file").unwrap();
                    std::fs::rename(&other.0, &model.0).unwrap();
                }
            }
            let what = format!("{}, {change}", strategy.name);
            for _ in 0..2 {
                let decoded = session.decode(graph, TokenId(10));
                if change == "replace" {
                    decoded.unwrap();
                    assert_ne!(before, session.logits(), "{what}");
                } else {
                    let error = decoded.unwrap_err().to_string();
                    assert!(
                        error.contains("changed while it is in use"),
                        "{what}: {error}"
                    );
                }
            }
        }
    }
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
    done(&[&fixed[..], args].concat());
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
    done(&[&shape[..], &["--quiet", "--out", model.text()]].concat());
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
            let bound = match strategy.name {
                // Only the header is read through the cache.
                "nommap" => 0,
                // What is cached is what was said.
                "residency-lru" => n("plan_fixed_weights_bytes") + n("plan_experts_bytes"),
                _ => continue,
            };
            match (left, r["peak_model_cached_bytes"].as_u64()) {
                (Some(0), Some(cached)) => assert!(cached <= bound + (16 << 20), "{what}"),
                _ => println!("skipped: what of the file is cached is not known here"),
            }
        }
    }
}

/// With a cap of the ledger and 128 MiB on all its memory, page cache included, a run never has to give any back.
#[cfg(all(feature = "nommap", target_os = "linux"))]
#[test]
fn a_cap_of_the_ledger_is_never_met_2() {
    let model = Temporary::new("cap.gguf");
    let shape = [
        "synth",
        "--shape",
        "bench-q2",
        "--layers",
        "4",
        "--experts",
        "32",
    ];
    done(&[&shape[..], &["--quiet", "--out", model.text()]].concat());
    let args = [
        "-n",
        "12",
        "-p",
        "In the beginning",
        "--ctx",
        "1024",
        "--budget",
        "40",
        "--strategy",
        "nommap",
    ];
    let said = report(model.text(), &args)["plan_total_bytes"]
        .as_u64()
        .unwrap();
    let cap = ((said >> 20) + 128).to_string();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/memory-cap.sh");
    let capped = std::process::Command::new(script)
        .args([
            &cap,
            env!("CARGO_BIN_EXE_infall"),
            "run",
            "-m",
            model.text(),
            "--raw",
            "--temp",
            "0",
        ])
        .args(args)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&capped.stderr);
    if capped.status.code() == Some(77) {
        return println!("{}", told.trim());
    }
    let told = succeeded(&capped);
    let cap_line = told
        .lines()
        .find(|l| l.starts_with("memory-cap: peak"))
        .unwrap();
    assert!(cap_line.ends_with("limit met 0 times"), "{cap_line}");
    let free = infall(
        &[
            &["run", "-m", model.text(), "--raw", "--temp", "0"],
            &args[..],
        ]
        .concat(),
    );
    assert_eq!(capped.stdout, free.stdout);
}

/// A long prompt goes through a layer as a whole, so each of its experts is read once, however few chunks fit.
#[test]
fn a_prompt_reads_each_expert_at_most_once() {
    let ids: Vec<TokenId> = (0..500).map(|i| TokenId((i * 37 + 11) % 4000)).collect();
    for strategy in STRATEGIES.iter().map(|s| s.name).filter(|s| *s != "full") {
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

/// Where the system locks little, the run goes on and says the truth.
#[cfg(target_os = "linux")]
#[test]
fn memory_that_cannot_be_locked_is_told_15() {
    use std::os::unix::process::CommandExt;
    const CAP_IPC_LOCK: libc::c_ulong = 14;
    const LIMIT: u64 = 2 << 20;
    let run = |strategy: &str, report: &str, limited: bool| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_infall"));
        let model = tiny();
        command
            .args([
                "run",
                "-m",
                model.to_str().unwrap(),
                "--temp",
                "0",
                "-n",
                "24",
                "-p",
                "Hello",
            ])
            .args(["--strategy", strategy, "--budget", "60", "--report", report]);
        let limit = move || {
            let limit = libc::rlimit {
                rlim_cur: LIMIT,
                rlim_max: LIMIT,
            };
            // SAFETY: both calls take values that live through them and concern only the new process. The first
            // fails where the right was not there, which is as good.
            let code = unsafe {
                libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK);
                libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit)
            };
            if code == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        };
        if limited {
            // SAFETY: the closure only makes two system calls.
            unsafe { command.pre_exec(limit) };
        }
        command.output().unwrap()
    };
    for strategy in STRATEGIES.iter().map(|s| s.name) {
        let file = Temporary::new(&format!("locked-{strategy}.json"));
        let outputs = [false, true].map(|limited| {
            let output = run(strategy, file.text(), limited);
            let told = succeeded(&output);
            let report = std::fs::read(&file.0).unwrap();
            let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
            let n = |name: &str| report[name].as_u64().unwrap();
            let (said, found) = (n("locked_bytes"), n("process_locked_bytes"));
            // The system counts the last page of a file as whole.
            assert!(
                said <= found && found - said < 4096,
                "{strategy}: {said} said, {found} found"
            );
            assert!(!limited || found <= LIMIT, "{strategy}: {found} locked");
            if limited {
                assert!(
                    told.contains("of weights in memory, the rest can be swapped out"),
                    "{told}"
                );
            }
            (output.stdout, (said, found))
        });
        assert_eq!(outputs[0].0, outputs[1].0, "{strategy}: the same answer");
        println!(
            "{strategy}: {:?} bytes locked, {:?} with a limit of {LIMIT}",
            outputs[0].1, outputs[1].1
        );
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
        ("18%", "found room for 35 experts of "),
        ("101%", "--budget: found '101%'"),
        ("8 GB", "--budget: found '8 GB'"),
    ] {
        let (code, message) = run(&["--budget", budget]);
        assert_eq!(code, Some(2), "{budget}: {message}");
        assert!(message.contains(expected), "{budget}: {message}");
    }
    assert_eq!(run(&["--budget", "36"]).0, Some(0));
    // 18.7 % of 192 experts are 35.9: the nearest number.
    assert_eq!(run(&["--budget", "18.7%"]).0, Some(0));
    assert_eq!(run(&["--ssd-streaming-cache-experts", "1GB"]).0, Some(0));
}
