//! What a run tells of itself: figures of the supply by layer and phase, traces of routing, memory held to make
//! the machine smaller.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Loaded, tiny};
use infall::options::{Budget, Options};
use infall::supply::{STRATEGIES, Stats};
use infall::units::{LayerId, Phase, TokenId};
use std::path::{Path, PathBuf};
use std::process::Output;

/// A file that is removed with this value, on the disk of the build.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Temporary {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        Temporary(folder.join(format!("observe-{}-{name}", std::process::id())))
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

fn infall(args: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_infall"));
    command
        .args(args)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

/// Standard error of a run that must succeed.
fn done(args: &[&str]) -> String {
    let output = infall(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {said}");
    said
}

/// A small model with as many layers, experts and experts a token as Flash: 43, 256, 6.
fn flash_like(name: &str) -> Temporary {
    let model = Temporary::new(name);
    let shape = ["synth", "--shape", "tiny", "--layers", "43"];
    let experts = ["--experts", "256", "--alias-layers", "1", "--quiet"];
    done(&[&shape[..], &experts, &["--out", model.text()]].concat());
    model
}

fn ids(n: u32) -> Vec<TokenId> {
    (0..n).map(|i| TokenId((i * 37 + 11) % 4000)).collect()
}

fn options(model: &Path, strategy: &str, experts: u64, chunk: usize) -> Options {
    let mut options = Options::new(model);
    (options.ctx, options.threads) = (300, 2);
    (options.prefill_chunk, options.prefill_sweep) = (chunk, 100);
    options.strategy = strategy.into();
    options.supply.budget = Budget::Experts(experts);
    options
}

fn sum(all: impl Iterator<Item = Stats>) -> Stats {
    let mut sum = Stats::default();
    all.for_each(|s| sum += s);
    sum
}

#[test]
fn figures_by_layer_and_phase_sum_to_the_whole() {
    let flash = flash_like("flash-like.gguf");
    for (model, n_layer, experts) in [(tiny(), 6, [36, 100]), (flash.0.clone(), 43, [258, 400])] {
        let per_token = 6 * n_layer as u64;
        for strategy in STRATEGIES {
            for experts in experts {
                let options = options(&model, strategy.name, experts, 32);
                let mut loaded = Loaded::open(&options).unwrap();
                let mut session = loaded.session();
                let ids = ids(170);
                // A prompt whose last sweep is one token, tokens one by one, and more prompt.
                let mut prefill = |loaded: &mut Loaded, ids: &[TokenId]| {
                    let graph = &mut loaded.graph;
                    session.prefill(graph, ids, &mut |_| true).unwrap();
                    let table = graph.supply_table().clone();
                    for (i, id) in ids.iter().take(5).enumerate() {
                        let before = graph.supply_table().phase(Phase::Decode);
                        session.decode(graph, *id).unwrap();
                        let s = graph.supply_table().phase(Phase::Decode) - before;
                        assert_eq!(
                            (s.touches, s.hits + s.misses),
                            (per_token, per_token),
                            "{i}"
                        );
                    }
                    let after = graph.supply_table() - &table;
                    assert_eq!(after.phase(Phase::Prefill), Stats::default());
                };
                prefill(&mut loaded, &ids[..101]);
                prefill(&mut loaded, &ids[101..150]);
                // A pass that is stopped is counted as well.
                let mut calls = 0;
                let mut stop = |_| {
                    calls += 1;
                    calls < 3
                };
                session
                    .prefill(&mut loaded.graph, &ids[150..], &mut stop)
                    .unwrap();

                let table = loaded.graph.supply_table();
                let layers = || (0..n_layer).map(LayerId);
                for phase in Phase::ALL {
                    let cells = layers().map(|l| table.cell(l, phase));
                    assert_eq!(sum(cells), table.phase(phase));
                }
                assert_eq!(
                    sum(Phase::ALL.map(|p| table.phase(p)).into_iter()),
                    table.total()
                );
                assert_eq!(table.total(), loaded.graph.supply_stats());
                assert_eq!(table.n_layer(), n_layer);
                assert_eq!(table.phase(Phase::Decode).touches, 10 * per_token);
                for layer in layers() {
                    let (p, d) = (
                        table.cell(layer, Phase::Prefill),
                        table.cell(layer, Phase::Decode),
                    );
                    assert_eq!(d.touches, 60, "{layer:?}");
                    assert_eq!((p.hits + p.misses, d.hits + d.misses), (p.touches, 60));
                }
            }
        }
    }
}

#[test]
fn a_report_tells_phases_and_layers() {
    let model = flash_like("reported.gguf");
    for strategy in STRATEGIES {
        let file = Temporary::new("report.json");
        let fixed = [
            "run",
            "-m",
            model.text(),
            "--raw",
            "--temp",
            "0",
            "--ctx",
            "200",
        ];
        let more = ["-n", "9", "-p", "In the beginning", "--report", file.text()];
        let how = ["--strategy", strategy.name, "--budget", "300"];
        let said = done(&[&fixed[..], &more, &how].concat());
        let r: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&file.0).unwrap()).unwrap();
        let layers = r["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 43);
        let n = |of: &serde_json::Value, name: &str| {
            of[name]
                .as_u64()
                .unwrap_or_else(|| panic!("{name} in {of}"))
        };
        for name in [
            "expert_touches",
            "expert_hits",
            "expert_misses",
            "expert_ahead_used",
            "expert_ahead_wasted",
            "expert_evictions",
            "experts_read",
            "reads",
            "read_bytes",
            "stall_ns",
        ] {
            let mut all = 0;
            for phase in ["prefill", "decode"] {
                let phase_sum = layers.iter().map(|l| n(&l[phase], name)).sum::<u64>();
                assert_eq!(n(&r["phases"][phase], name), phase_sum, "{name}, {phase}");
                all += phase_sum;
            }
            assert_eq!(n(&r, name), all, "{name}");
        }
        // The first token comes from the prompt's logits.
        assert_eq!(r["generated_tokens"].as_f64(), Some(9.0));
        assert_eq!(n(&r["phases"]["decode"], "expert_touches"), 8 * 258);
        let line = said.lines().find(|line| line.starts_with("experts: "));
        assert_eq!(line.is_some(), strategy.name != "full", "{said}");
        assert!(said.contains(" t/s; generated 9 tokens, "), "{said}");
        for part in [
            " were there (while generating ",
            " read in ",
            " waited for experts and ",
            " computed",
        ] {
            assert!(
                line.is_none_or(|line| line.contains(part)),
                "{part} in {said}"
            );
        }
    }
}
