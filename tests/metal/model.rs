//! Whole models on Metal: logits of the independent implementations, every strategy, and nothing left over.

use crate::common::{self, Folder, Loaded, floats, golden, micro_ids, tiny};
use infall::backend::metal::{self, Metal};
use infall::gguf::Gguf;
use infall::model::Model;
use infall::options::{Budget, KvFormat, Options};
use infall::os::File;
use infall::os::share::Device;
use infall::quant::Format;
use infall::session::file::Writer;
use infall::session::store::Store;
use infall::session::{self, Session};
use infall::supply::STRATEGIES;
use infall::units::TokenId;
use std::path::Path;
use std::sync::Arc;

pub fn open(options: &Options) -> Loaded<Metal> {
    let metal = Metal::new().unwrap();
    let device: Arc<dyn Device> = metal.memory();
    Loaded::open_on(options, metal, Some(&device)).unwrap()
}

pub fn options(model: &Path, chunk: usize) -> Options {
    let mut options = Options::new(model);
    (options.kv, options.ctx, options.prefill_chunk) = (KvFormat::F32, 800, chunk);
    options.supply.readers = 2;
    options
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |m, d| if d.is_nan() { f32::NAN } else { d.max(m) })
}

#[test]
fn what_has_no_kernel_is_refused_by_tensor_and_type() {
    let file = File::open(&golden("micro-q2.gguf")).unwrap();
    let model = Model::bind(Gguf::read(&file).unwrap()).unwrap();
    metal::check(&model).unwrap();
    let refused = |change: &dyn Fn(&mut Model), expected: &str| {
        let mut model = model.clone();
        change(&mut model);
        let message = metal::check(&model).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    refused(
        &|m| m.weights.output.format = Format::Q6K,
        "tensor output.weight: type Q6_K, expected one of F32 F16",
    );
    refused(
        &|m| m.experts.layers[3].down.format = Format::Iq3Xxs,
        "tensor blk.3.ffn_down_exps.weight: type IQ3_XXS, expected one of F32 F16",
    );
    refused(
        &|m| m.experts.layers[1].up.format = Format::Q4K,
        "tensor blk.1.ffn_up_exps.weight: type Q4_K, expected IQ2_XXS as in blk.1.ffn_gate_exps.weight with",
    );
}

/// As the plain kernels of the CPU in tests/golden.rs, and with the same bound.
#[test]
fn logits_match_float64() {
    crate::pair::in_some_order(|| {
        let expected = floats(&golden("micro-q2.logits.f32"));
        let n_vocab = expected.len() / micro_ids().len();
        // Two chunks and a bit, then one by one.
        let (n, decode_from) = (140, 130);
        let mut loaded = open(&options(&golden("micro-q2.gguf"), 64));
        let found = loaded.logits(&micro_ids()[..n], decode_from);
        let worst = max_difference(&found, &expected[..n * n_vocab]);
        println!("largest difference {worst:.2e}");
        assert!(worst <= 1e-3, "{worst}");
    });
}

/// Bits of all logits of a prompt and some tokens after it.
pub fn bits(options: &Options, prompt: &[TokenId], rest: &[TokenId]) -> Vec<u32> {
    let mut loaded = open(options);
    let tokens = [prompt, rest].concat();
    let logits = loaded.logits(&tokens, prompt.len());
    logits.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn every_strategy_and_budget_gives_the_same_bits() {
    crate::pair::in_some_order(|| {
        let ids = micro_ids();
        let (prompt, rest) = (&ids[..20], &ids[20..24]);
        let run = |strategy: &str, budget: u64, chunk: usize| {
            let mut options = options(&golden("micro-q2.gguf"), chunk);
            options.strategy = strategy.into();
            options.supply.budget = Budget::Experts(budget);
            println!("{strategy}, {budget} experts, chunks of {chunk}");
            bits(&options, prompt, rest)
        };
        let expected = run("full", 40, 64);
        assert!(run("full", 40, 17) == expected, "full, chunks of 17");
        for strategy in STRATEGIES.iter().filter(|s| s.name != "full") {
            // One choice of a layer, and half of 5 layers of 8.
            for budget in [6, 20] {
                let found = run(strategy.name, budget, 64);
                assert!(
                    found == expected,
                    "{}, {budget} experts: other bits",
                    strategy.name
                );
            }
        }
    });
}

/// A session that was saved goes on with the same bits, on a device that knows nothing of it.
#[test]
fn a_restored_session_goes_on_alike() {
    crate::pair::in_some_order(|| {
        let ids = micro_ids();
        let folder = Folder::new("metal-sessions");
        let store = Store::open(Path::new(folder.text()), 1 << 40).unwrap();
        for kv in [KvFormat::F32, KvFormat::F16, KvFormat::Official] {
            let mut options = options(&golden("micro-q2.gguf"), 64);
            options.kv = kv;
            // What follows goes over a border of windows of 4, of 8 and of 128.
            // The second with the smallest and the most involved form only: it takes most of the time.
            let places: &[usize] = if kv == KvFormat::F16 { &[6] } else { &[6, 126] };
            for &at in places {
                // Once is enough for the order of dispatches.
                #[cfg(not(target_os = "macos"))]
                infall::backend::metal::sim::control::set_order_check(at == 6);
                let go_on = |loaded: &mut Loaded<Metal>, session: &mut Session<Metal>| {
                    let mut logits = session.logits().to_vec();
                    session
                        .prefill(&mut loaded.graph, &ids[at..at + 5], &mut |_| true)
                        .unwrap();
                    logits.extend(session.logits());
                    session.decode(&mut loaded.graph, ids[at + 5]).unwrap();
                    logits.extend(session.logits());
                    logits.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
                };
                let expected = {
                    let mut loaded = open(&options);
                    let mut session = loaded.session();
                    session
                        .prefill(&mut loaded.graph, &ids[..at], &mut |_| true)
                        .unwrap();
                    let header = session.header(session::origin(&mut loaded.graph, 1));
                    let mut fill = |out: &mut Writer| session.save(&mut loaded.graph, out);
                    store.save(Some("x"), &header, &mut fill).unwrap();
                    go_on(&mut loaded, &mut session)
                };
                let mut loaded = open(&options);
                let origin = session::origin(&mut loaded.graph, 1);
                let mut session = loaded.session();
                session
                    .restore(&mut loaded.graph, &origin, &mut store.read("x").unwrap())
                    .unwrap();
                let found = go_on(&mut loaded, &mut session);
                assert!(found == expected, "{kv:?}, {at} tokens: other bits");
            }
        }
    });
}

/// The shipped model's greedy continuations, token for token: some of them, as a token takes a tenth of a second here, or all
/// with `INFALL_TEST_ALL=1`.
#[test]
fn greedy_continuations_are_those_of_the_oracle() {
    crate::pair::in_some_order(|| {
        let mut options = options(&tiny(), 512);
        options.kv = KvFormat::F16;
        let mut loaded = open(&options);
        let all = std::env::var_os("INFALL_TEST_ALL").is_some();
        let n = if all { usize::MAX } else { 1 };
        println!("all cases: {all}");
        let mut cases = common::greedy_cases();
        cases.sort_by_key(|case| case.prompt.len() + case.expected.len());
        for case in cases.into_iter().take(n) {
            let mut session: Session<Metal> = loaded.session();
            session
                .prefill(&mut loaded.graph, &case.prompt, &mut |_| true)
                .unwrap();
            let mut found = Vec::new();
            while found.len() < case.expected.len() {
                let best = common::likeliest(session.logits());
                found.push(best);
                session.decode(&mut loaded.graph, best).unwrap();
            }
            assert_eq!(found, case.expected, "{}", case.name);
        }
    });
}

/// What the device holds of its own is what was said beforehand, and what it shares is the weights and the cache.
#[test]
#[cfg(not(target_os = "macos"))]
fn the_device_holds_what_was_planned() {
    use infall::backend::metal::sim::control;
    use infall::engine::Prepared;
    use infall::options::BackendChoice;
    crate::pair::in_some_order(|| {
        for strategy in STRATEGIES {
            let mut options = options(&golden("micro-q2.gguf"), 64);
            (options.backend, options.ctx, options.prefill_sweep) = (BackendChoice::Metal, 120, 64);
            options.strategy = strategy.name.into();
            options.supply.budget = Budget::Experts(20);
            let prepared = Prepared::new(options).unwrap();
            let uses = prepared.plan().uses.clone();
            let planned = |name: &str| {
                uses.iter()
                    .find(|u| u.0 == name)
                    .map_or(0, |u| u.1 as usize)
            };
            let mut engine = prepared.load(&mut |_, _| {}).unwrap();
            let mut session = engine.session().unwrap();
            engine
                .prefill(&mut session, &micro_ids()[..100], &mut |_| true)
                .unwrap();
            engine.decode(&mut session, micro_ids()[100]).unwrap();
            let (own, said) = (
                control::allocated_bytes(),
                planned("activations") + planned("kernels"),
            );
            println!("{}: {own} bytes of its own, planned {said}", strategy.name);
            assert!(
                own <= said,
                "{}: {own} bytes of its own, planned {said}",
                strategy.name
            );
            // Uploads and scratch are bounds; activations are exact but for pages.
            assert!(own >= planned("activations") / 2);
        }
    });
}

/// What README.md says of the work that a token, and a chunk of a prompt, is cut into.
#[test]
fn a_layer_takes_few_dispatches() {
    crate::pair::in_some_order(|| {
        let mut loaded = open(&options(&tiny(), 64));
        let mut session = loaded.session();
        let prompt: Vec<TokenId> = (0..64).map(|i| TokenId(i * 37 % 4000)).collect();
        let count = |loaded: &mut Loaded<Metal>, work: &mut dyn FnMut(&mut Loaded<Metal>)| {
            let before = loaded.graph.backend().counters();
            work(loaded);
            let after = loaded.graph.backend().counters();
            (
                after.dispatches - before.dispatches,
                after.barriers - before.barriers,
                after.commits - before.commits,
            )
        };
        let prefill = count(&mut loaded, &mut |l| {
            session
                .prefill(&mut l.graph, &prompt, &mut |_| true)
                .map(drop)
                .unwrap();
        });
        // Position 64 closes no window; 67 closes one of four tokens.
        let mut decode = [(0, 0, 0); 4];
        for (i, found) in decode.iter_mut().enumerate() {
            *found = count(&mut loaded, &mut |l| {
                session.decode(&mut l.graph, prompt[i]).unwrap()
            });
        }
        #[cfg(not(target_os = "macos"))]
        print_layers();
        println!(
            "prefill (dispatches, barriers, command buffers): {prefill:?}, decode: {decode:?}"
        );
        assert!(
            decode.iter().all(|d| d.0 <= 194 && d.1 <= 125 && d.2 <= 13),
            "{decode:?}"
        );
        assert!(prefill.0 <= 188 && prefill.2 <= 19, "{prefill:?}");
    });
}

/// The kernels of the last token, a layer a line: what one layer of each kind takes.
#[cfg(not(target_os = "macos"))]
fn print_layers() {
    let trace = infall::backend::metal::sim::control::trace();
    let last = trace
        .iter()
        .rposition(|t| t.kernel.starts_with("embed"))
        .unwrap();
    let (mut layer, mut exits) = (Vec::new(), 0);
    for t in &trace[last + 1..] {
        layer.push(t.kernel.as_str());
        exits += usize::from(t.kernel == "hyper_exit");
        if exits == 2 {
            println!("{} dispatches: {}", layer.len(), layer.join(" "));
            (layer, exits) = (Vec::new(), 0);
        }
    }
    println!(
        "{} dispatches for the head: {}",
        layer.len(),
        layer.join(" ")
    );
}
