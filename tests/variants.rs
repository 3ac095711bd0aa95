//! One model in other files: without the keys that follow from its tensors, with a block that predicts further tokens,
//! with experts of several types and sizes. The published logits stay.
#![allow(clippy::unwrap_used)]

mod common;

use common::float64::{assert_near, wide};
use common::{Loaded, Temporary, done, floats, golden, infall, micro_ids, put_value};
use infall::gguf::writer::Writer;
use infall::gguf::{Gguf, Value};
use infall::model::Model;
use infall::options::{Budget, KernelChoice, KvFormat, Options};
use infall::os::{File, ReadAt};
use infall::quant::{Format, blocks};
use infall::rng::Rng;
use infall::supply::{self, STRATEGIES, Slabs};
use infall::units::{LayerId, TokenId};
use std::path::Path;

/// The model whose logits are published.
const MICRO: &str = "micro-q2.gguf";

/// Keys of it that its tensors tell.
const DERIVED: [&str; 18] = [
    "block_count",
    "embedding_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.q_lora_rank",
    "attention.output_lora_rank",
    "attention.output_group_count",
    "attention.indexer.head_count",
    "attention.indexer.key_length",
    "attention.compress_ratios",
    "expert_count",
    "expert_used_count",
    "expert_shared_count",
    "expert_feed_forward_length",
    "hash_layer_count",
];

/// A file to be made of the model.
#[derive(Default)]
struct Variant {
    /// Keys left out.
    without: Vec<&'static str>,
    /// Numbers of keys.
    numbers: Vec<(&'static str, u32)>,
    /// A further block that predicts further tokens.
    has_nextn: bool,
    /// Which tensors are stored as F32, by the same values.
    widened: Option<fn(&str) -> bool>,
}

impl Variant {
    fn write(&self, name: &str) -> Temporary {
        let file = File::open(&golden(MICRO)).unwrap();
        let gguf = Gguf::read(&file).unwrap();
        let mut w = Writer::new();
        let full = |name: &str| format!("deepseek4.{name}");
        for key in gguf.keys().filter(|key| *key != "general.alignment") {
            let is = |name: &&str| full(name) == key;
            if self.without.iter().any(is) || self.numbers.iter().any(|(name, _)| is(name)) {
                continue;
            }
            match gguf.value(key).unwrap() {
                // One more, for the block that is no layer.
                Value::Ints(v) if self.has_nextn && v.len() == 5 => {
                    let more = v.iter().copied().chain([0]).collect();
                    put_value(&mut w, key, &Value::Ints(more));
                }
                Value::Floats(v) if self.has_nextn && v.len() == 5 => {
                    let more = v.iter().copied().chain([1.0]).collect();
                    put_value(&mut w, key, &Value::Floats(more));
                }
                value => put_value(&mut w, key, value),
            }
        }
        for (name, number) in &self.numbers {
            w.u32(&full(name), *number);
        }
        for t in &gguf.tensors {
            let wide = self.widened.is_some_and(|is| is(&t.name));
            let format = if wide { Format::F32 } else { t.format };
            w.tensor(&t.name, &t.dims, format).unwrap();
        }
        if self.has_nextn {
            // The tensors of a layer, and three more.
            for t in gguf.tensors.iter().filter(|t| t.name.starts_with("blk.0.")) {
                let name = t.name.replace("blk.0.", "blk.5.");
                w.tensor(&name, &t.dims, t.format).unwrap();
            }
            for name in ["enorm", "hnorm", "shared_head_norm"] {
                let name = format!("blk.5.nextn.{name}.weight");
                w.tensor(&name, &[256], Format::F32).unwrap();
            }
        }
        let made = Temporary::new(name);
        let mut out = std::fs::File::create(&made.0).unwrap();
        let mut rng = Rng::new(7);
        w.write(&mut out, |info, sink| {
            if info.name.starts_with("blk.5.") {
                let byte = |_| rng.next_u64() as u8;
                return sink.put(&(0..info.extent.len).map(byte).collect::<Vec<_>>());
            }
            let old = gguf.tensor(&info.name).unwrap();
            let mut bytes = vec![0; old.extent.len as usize];
            file.read_exact_at(old.extent.offset, &mut bytes)?;
            if old.format == info.format {
                return sink.put(&bytes);
            }
            let mut values = vec![0.0; info.dims.iter().product::<u64>() as usize];
            blocks::dequantize_row(old.format, &bytes, &mut values);
            let values = values.iter().flat_map(|v| v.to_le_bytes());
            sink.put(&values.collect::<Vec<_>>())
        })
        .unwrap();
        made
    }
}

/// Tokens that are computed.
const N: usize = 40;

fn options(path: &Path) -> Options {
    let mut options = Options::new(path);
    (options.kernels, options.kv) = (KernelChoice::Scalar, KvFormat::F32);
    (options.ctx, options.prefill_chunk, options.threads) = (128, 32, 2);
    options
}

/// Logits after each of the first tokens, with the experts of `strategy` in a budget of `n_experts`.
fn logits(path: &Path, strategy: &str, n_experts: u64) -> Vec<f32> {
    let mut options = options(path);
    options.strategy = strategy.into();
    options.supply.budget = Budget::Experts(n_experts);
    let tokens: Vec<TokenId> = micro_ids().into_iter().take(N).collect();
    Loaded::open(&options).unwrap().logits(&tokens, N - 4)
}

fn assert_published(what: &str, found: &[f32]) {
    let published = wide(&floats(&golden("micro-q2.logits.f32"))[..N * 512]);
    assert_near(what, found, &published, 1e-3);
}

fn bound(path: &Path) -> Model {
    Model::bind(Gguf::read(&File::open(path).unwrap()).unwrap()).unwrap()
}

#[test]
fn a_file_without_keys_that_tensors_tell_gives_the_published_logits() {
    let bare = Variant {
        without: DERIVED.to_vec(),
        ..Variant::default()
    };
    let bare = bare.write("bare.gguf");
    assert_eq!(bound(&bare.0).config, bound(&golden(MICRO)).config);
    assert_published("all keys derived", &logits(&bare.0, "full", 40));
}

/// Its tensors are noise, so a single product with one of them would show.
#[test]
fn a_block_that_predicts_further_tokens_changes_nothing_and_is_told() {
    let plain = logits(&golden(MICRO), "full", 40);
    assert_published("plain", &plain);
    for (n, numbers) in [
        vec![("block_count", 6), ("nextn_predict_layers", 1)],
        vec![("block_count", 6)],
        vec![("nextn_predict_layers", 1)],
    ]
    .into_iter()
    .enumerate()
    {
        let with_block = Variant {
            numbers,
            has_nextn: true,
            ..Variant::default()
        };
        let file = with_block.write(&format!("nextn-{n}.gguf"));
        for strategy in STRATEGIES {
            let found = logits(&file.0, strategy.name, 20);
            assert_eq!(found, plain, "{}", strategy.name);
        }
        let shown = infall(&["inspect", file.text()]);
        let shown = String::from_utf8(shown.stdout).unwrap();
        let notes: Vec<&str> = shown.lines().filter(|l| l.starts_with("note: ")).collect();
        let [note] = notes[..] else {
            panic!("{notes:?}");
        };
        let expected =
            "note: block 5 predicts further tokens (nextn) and is not used: 27 tensors, ";
        assert!(note.starts_with(expected), "{note}");
        assert!(shown.contains("in each of 5 layers"), "{shown}");
    }
}

#[test]
fn gate_and_up_of_a_layer_may_have_different_types() {
    let variants: [fn(&str) -> bool; 2] = [
        |name| name == "blk.1.ffn_gate_exps.weight" || name == "blk.4.ffn_up_exps.weight",
        |name| name.ends_with("ffn_up_exps.weight"),
    ];
    for (n, widened) in variants.into_iter().enumerate() {
        let mixed = Variant {
            widened: Some(widened),
            ..Variant::default()
        };
        let mixed = mixed.write(&format!("gate-up-{n}.gguf"));
        let layer = &bound(&mixed.0).experts.layers[4];
        assert_eq!(
            (layer.gate.format, layer.up.format),
            (Format::Iq2Xxs, Format::F32)
        );
        for strategy in [&STRATEGIES[0], &STRATEGIES[STRATEGIES.len() - 1]] {
            assert_published(strategy.name, &logits(&mixed.0, strategy.name, 20));
        }
    }
}

/// Layer 2 has experts of 12 times the size.
fn mixed() -> Temporary {
    let mixed = Variant {
        widened: Some(|name| name.starts_with("blk.2.") && name.contains("_exps")),
        ..Variant::default()
    };
    mixed.write("sizes.gguf")
}

/// By hand: four layers of 55,296 bytes an expert (256 rows of 66, 66 and 84 bytes), one of 786,432.
#[test]
fn a_part_of_mixed_experts_is_that_part_of_their_bytes() {
    const ALL: u64 = 8 * (4 * 55_296 + 786_432);
    let file = mixed();
    let model = bound(&file.0);
    let lens = [1, 2].map(|l| model.experts.slab_len(LayerId(l)));
    assert_eq!(lens, [55_296, 786_432]);
    let slabs = Slabs::of(&model.experts, 1);
    assert_eq!((slabs.n, slabs.bytes, slabs.is_mixed), (40, ALL, true));
    // One token: three experts of each of five layers.
    assert_eq!(slabs.bytes_of(15), 3 * ALL / 8);
    assert_eq!((slabs.bytes_of(40), slabs.bytes_of(20)), (ALL, ALL / 2));
    assert_eq!(
        (slabs.count_in(ALL / 2), slabs.count_in(ALL / 2 - 1)),
        (20, 19)
    );
    let plan = |budget: &str| {
        let args = [
            "plan",
            "-m",
            file.text(),
            "--strategy",
            "baseline",
            "--budget",
            budget,
        ];
        infall(&args)
    };
    for (budget, n, bytes) in [("50%", 20, ALL / 2), ("20", 20, ALL / 2), ("100%", 40, ALL)] {
        let plan = plan(budget);
        let text = String::from_utf8(plan.stdout).unwrap();
        let mean = format!(
            "experts held: {n} of {:.2} KiB, the mean",
            ALL as f64 / 40.0 / 1024.0
        );
        assert!(text.contains(&mean), "{text}");
        let line = text
            .lines()
            .find(|l| l.trim_start().starts_with("experts "))
            .unwrap();
        assert_eq!(line.split_whitespace().nth(1).unwrap(), bytes.to_string());
    }
    let refused = String::from_utf8(plan("14").stderr).unwrap();
    let expected = "found room for 14 experts of 196.80 KiB, the mean, expected at least 15 (5 layers, 3 experts a \
                    token): 2.88 MiB";
    assert!(refused.contains(expected), "{refused}");
    done(&[
        "plan",
        "-m",
        file.text(),
        "--strategy",
        "baseline",
        "--budget",
        "15",
    ]);
}

/// With every layer used alike, as many experts are held as the plan says, and never more bytes.
#[test]
fn mixed_experts_fill_the_budget_and_no_more() {
    use infall::supply::Opening;
    use infall::units::ExpertId;
    let path = mixed();
    let (files, gguf) = infall::gguf::open(&path.0).unwrap();
    let model = Model::bind(gguf).unwrap();
    for strategy in STRATEGIES.iter().filter(|s| s.name != "full") {
        let slabs = (strategy.needs)(&files, &model).unwrap().slabs;
        for n in [15, 20, 30, 40] {
            let budget = slabs.bytes_of(n);
            let mut experts = (supply::built(strategy.name).unwrap().open)(Opening {
                files: &files,
                model: &model,
                options: &Options::new(&path.0).supply,
                budget,
                device: None,
                progress: &mut |_, _| {},
            })
            .unwrap()
            .experts;
            let mut rng = Rng::new(n);
            let (mut sum, mut count) = (0.0, 0);
            for token in 0..160 {
                experts.start(1).unwrap();
                for layer in (0..5).map(LayerId) {
                    let mut ids: Vec<ExpertId> = (0..8).map(ExpertId).collect();
                    while ids.len() > 3 {
                        ids.remove(rng.below(ids.len()));
                    }
                    experts.begin(layer, &ids, &[1; 3], false).unwrap();
                    while !experts.next().unwrap().is_empty() {}
                }
                let uses = experts.uses();
                let len = |at: usize| model.experts.slab_len(LayerId(at / 8));
                let resident = (0..40).filter(|at| uses[*at].resident);
                let held: u64 = resident.clone().map(len).sum();
                assert!(held <= budget, "{held} of {budget} bytes");
                if token >= 40 {
                    sum += resident.count() as f64;
                    count += 1;
                }
            }
            let (mean, n) = (sum / f64::from(count), n as f64);
            println!("{}: {mean:.1} held, {n} said", strategy.name);
            assert!(
                (mean - n).abs() <= 2.0,
                "{}: {mean} held, {n} said",
                strategy.name
            );
        }
    }
}
