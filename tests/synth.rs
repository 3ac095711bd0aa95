//! Synthetic models: whole, runnable, repeatable, and routed like real text.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Loaded, golden, tiny};
use infall::backend::cpu::Cpu;
use infall::error::{ErrorKind, Result};
use infall::gguf::Gguf;
use infall::graph::weights::Weights;
use infall::graph::{Graph, Lengths};
use infall::model::Model;
use infall::model::experts::ExpertRef;
use infall::options::{KernelChoice, KvFormat, Options};
use infall::os::File;
use infall::rng::Rng;
use infall::session::Session;
use infall::supply::{self, ExpertSupply, ExpertUse, Opening, Stats};
use infall::synth::{Plan, Request, shape_names};
use infall::text::chat::Chat;
use infall::text::tokenizer::{Special, Tokenizer};
use infall::text::vocabulary::Vocabulary;
use infall::units::{ExpertId, LayerId, TokenId};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

fn request(shape: &str) -> Request {
    Request {
        shape: shape.into(),
        n_layer: None,
        n_expert: None,
        n_vocab: None,
        alias_layers: None,
        alignment: None,
        seed: 1,
    }
}

/// Which experts each layer used, token by token.
type Routes = Arc<Mutex<Vec<Vec<Vec<ExpertId>>>>>;

/// A supply that notes what is asked of it.
struct Recorder {
    inner: Box<dyn ExpertSupply>,
    routes: Routes,
}

impl ExpertSupply for Recorder {
    fn start(&mut self, n_tokens: usize) -> Result<()> {
        self.inner.start(n_tokens)
    }

    fn begin(
        &mut self,
        layer: LayerId,
        experts: &[ExpertId],
        counts: &[usize],
        more: bool,
    ) -> Result<()> {
        self.routes.lock().unwrap()[layer.0].push(experts.to_vec());
        self.inner.begin(layer, experts, counts, more)
    }
    fn next(&mut self) -> Result<&[usize]> {
        self.inner.next()
    }
    fn expert(&self, layer: LayerId, expert: ExpertId) -> ExpertRef<'_> {
        self.inner.expert(layer, expert)
    }
    fn stats(&self) -> Stats {
        self.inner.stats()
    }
    fn uses(&self) -> Vec<ExpertUse> {
        self.inner.uses()
    }
}

/// Routes of the tokens, and the logits of the last; `greedy` more tokens are the likeliest ones.
fn routes(path: &Path, tokens: &[TokenId], greedy: usize) -> (Vec<Vec<Vec<ExpertId>>>, Vec<f32>) {
    let options = Options::new(path);
    let (files, gguf) = infall::gguf::open(path).unwrap();
    let model = Model::bind(gguf).unwrap();
    let opened = (supply::built("full").unwrap().open)(Opening {
        files: &files,
        model: &model,
        options: &options.supply,
        budget: u64::MAX,
        device: None,
        progress: &mut |_, _| {},
    })
    .unwrap();
    let mut cpu = Cpu::new(KernelChoice::Auto, 2).unwrap();
    let weights = Weights::load(&model, &opened.fixed, &mut cpu, KvFormat::F16).unwrap();
    let routes = Routes::new(Mutex::new(vec![Vec::new(); model.config.n_layer]));
    let recorder = Recorder {
        inner: opened.experts,
        routes: Arc::clone(&routes),
    };
    let config = model.config;
    let mut graph = Graph::new(
        config,
        cpu,
        weights,
        Box::new(recorder),
        Lengths {
            chunk: 16,
            sweep: 16,
        },
        KvFormat::F16,
    )
    .unwrap();
    let mut session = Session::new(graph.cache(4096).unwrap());
    for token in tokens {
        session.decode(&mut graph, *token).unwrap();
    }
    for _ in 0..greedy {
        let logits = session.logits();
        let best = (0..logits.len())
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
            .unwrap();
        session.decode(&mut graph, TokenId(best as u32)).unwrap();
    }
    let routes = std::mem::take(&mut *routes.lock().unwrap());
    (routes, session.logits().to_vec())
}

/// Share of the experts that the token before used too.
fn overlap(routes: &[Vec<ExpertId>]) -> f64 {
    let shared = |w: &[Vec<ExpertId>]| w[1].iter().filter(|e| w[0].contains(e)).count();
    let all: usize = routes[1..].iter().map(Vec::len).sum();
    routes.windows(2).map(shared).sum::<usize>() as f64 / all as f64
}

/// Share of all uses that the `part` most used of `n` experts have.
fn top_share(routes: &[Vec<ExpertId>], n: usize, part: f64) -> f64 {
    let mut count = vec![0; n];
    routes
        .iter()
        .flatten()
        .for_each(|e| count[e.0 as usize] += 1);
    count.sort_unstable_by(|a, b| b.cmp(a));
    let top = ((n as f64 * part) as usize).max(1);
    count[..top].iter().sum::<usize>() as f64 / count.iter().sum::<usize>() as f64
}

/// A folder under the system's temporary one, removed with this value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("infall-synth-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn n_files(&self) -> usize {
        std::fs::read_dir(&self.0).unwrap().count()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn bound(path: &Path) -> Model {
    Model::bind(Gguf::read(&File::open(path).unwrap()).unwrap()).unwrap()
}

fn create(request: &Request, path: &Path) -> Model {
    let plan = Plan::new(request).unwrap();
    plan.create(path, false, &mut |_, _| true).unwrap();
    plan.model
}

/// Token ids outside the special ones, all equally likely.
fn random_tokens(n: usize, n_vocab: usize) -> Vec<TokenId> {
    let mut rng = Rng::new(9);
    let mut token = || TokenId((12 + rng.below(n_vocab - 12)) as u32);
    (0..n).map(|_| token()).collect()
}

#[test]
fn every_shape_is_a_whole_model_with_the_published_sizes() {
    // Bytes of an expert and experts of all layers; those of Flash are published, the others follow from the
    // blocks of the formats: 66 (IQ2_XXS), 84 (Q2_K) and 144 (Q4_K) bytes for 256 weights.
    let cases = [
        ("flash-q2", 7_077_888, 43 * 256),
        ("flash-q4", 14_155_776, 43 * 256),
        ("flash-mxfp4", 13_369_344, 43 * 256),
        // Layer 26: two matrices of IQ2_S (82 bytes) and one of MXFP4 (17 for 32).
        ("flash-ud-iq2_xxs", 2048 * 16 * (2 * 82 + 136), 43 * 256),
        ("pro-q2", 3072 * 28 * (2 * 66 + 84), 61 * 384),
        ("bench-q2", 1024 * 8 * (2 * 66 + 84), 12 * 64),
        ("bench-q4", 1024 * 8 * 3 * 144, 12 * 64),
        ("tiny", 256 * 3 * 144, 6 * 32),
        ("micro", 256 * (2 * 66 + 84), 5 * 8),
    ];
    let names: Vec<_> = shape_names().collect();
    assert_eq!(names, cases.map(|c| c.0));
    for (name, expert, n_experts) in cases {
        let model = Plan::new(&request(name)).unwrap().model;
        assert!(model.notes.is_empty(), "{name}: {:?}", model.notes);
        assert_eq!(model.experts.max_slab_len(), expert, "{name}");
        assert_eq!(model.experts.n_experts_total(), n_experts, "{name}");
        let title = model.gguf.string("general.name").unwrap();
        assert_eq!(title, format!("synthetic {name}, seed 1"));
    }
    let mut whole = request("flash-q2");
    whole.n_vocab = Some(129_280);
    let totals = Plan::new(&whole).unwrap().model.byte_totals();
    assert_eq!(totals.embedding + totals.fixed, 8_801_384_796);
}

/// The table of types that others read in the published file, and its size of 90.86 GB (without the 5 MB of a real
/// vocabulary).
#[test]
fn flash_ud_iq2_xxs_has_the_types_of_the_published_file() {
    use infall::quant::Format::{Bf16, Iq2S, Iq2Xxs, Iq3Xxs, Mxfp4, Q4K, Q5K, Q6K, Q8_0};
    let mut whole = request("flash-ud-iq2_xxs");
    whole.n_vocab = Some(129_280);
    let model = Plan::new(&whole).unwrap().model;
    let gb = model.gguf.file_len as f64 / 1e9;
    assert!((gb - 90.86).abs() < 0.1, "{gb}");
    for (name, format) in [
        ("token_embd.weight", Q4K),
        ("output.weight", Q4K),
        ("blk.9.attn_q_a.weight", Q5K),
        ("blk.9.attn_q_b.weight", Q8_0),
        ("blk.9.ffn_gate_shexp.weight", Q5K),
        ("blk.9.ffn_down_shexp.weight", Q6K),
        ("blk.9.attn_compressor_kv.weight", Q8_0),
        ("blk.8.indexer.proj.weight", Q8_0),
        ("blk.9.ffn_gate_inp.weight", Bf16),
    ] {
        assert_eq!(model.gguf.tensor(name).unwrap().format, format, "{name}");
    }
    let types = |model: &Model| {
        let layers = model.experts.layers.iter();
        Vec::from_iter(layers.map(|l| [l.gate.format, l.up.format, l.down.format]))
    };
    for (l, found) in types(&model).into_iter().enumerate() {
        let expected = match l {
            26 => [Iq2S, Iq2S, Mxfp4],
            42 => [Iq2Xxs, Iq2Xxs, Mxfp4],
            _ => [Iq2Xxs, Iq2Xxs, Iq3Xxs],
        };
        assert_eq!(found, expected, "layer {l}");
    }
    // A cut model shows all of them.
    let mut cut = request("flash-ud-iq2_xxs");
    cut.n_layer = Some(4);
    let found = types(&Plan::new(&cut).unwrap().model);
    let base = [Iq2Xxs, Iq2Xxs, Iq3Xxs];
    let last = [Iq2Xxs, Iq2Xxs, Mxfp4];
    assert_eq!(found, [base, base, [Iq2S, Iq2S, Mxfp4], last]);
    // Layers share experts of one type only.
    cut.alias_layers = Some(1);
    let model = Plan::new(&cut).unwrap().model;
    assert_eq!(types(&model), found);
    let offset = |l: usize| {
        let layer = &model.experts.layers[l];
        [&layer.gate, &layer.up, &layer.down].map(|t| t.extent.offset)
    };
    let [first, second, sensitive, last] = [0, 1, 2, 3].map(offset);
    assert_eq!(first, second);
    assert!((0..3).all(|i| sensitive[i] != first[i]));
    assert_eq!(last[..2], first[..2]);
    assert_ne!(last[2], first[2]);
}

#[test]
fn small_shapes_are_those_of_the_shipped_models() {
    for (name, path) in [("tiny", tiny()), ("micro", golden("micro-q2.gguf"))] {
        let (made, shipped) = (Plan::new(&request(name)).unwrap().model, bound(&path));
        assert_eq!(made.config, shipped.config, "{name}");
        let list = |model: &Model| {
            let mut list: Vec<_> = model
                .gguf
                .tensors
                .iter()
                .map(|t| (t.name.clone(), t.dims.clone(), t.format))
                .collect();
            list.sort_by(|a, b| a.0.cmp(&b.0));
            list
        };
        assert_eq!(list(&made), list(&shipped), "{name}");
    }
}

#[test]
fn its_vocabulary_can_say_and_render_everything() {
    for n_vocab in [268, 4096, 129_280] {
        let mut request = request("flash-q2");
        request.n_vocab = Some(n_vocab);
        let gguf = Plan::new(&request).unwrap().model.gguf;
        let tokenizer = Tokenizer::new(Vocabulary::read(&gguf).unwrap()).unwrap();
        assert_eq!(tokenizer.len(), n_vocab);
        let text = "Ein Fuß im Café:\n\t你好 \u{1f600}\0";
        let tokens = tokenizer.encode(text, Special::Parse);
        assert_eq!(tokens.len(), text.len(), "a token for each byte");
        assert_eq!(tokenizer.decode(&tokens), text.as_bytes());
        assert!(Chat::new(&tokenizer).is_ok());
        let mut all: Vec<_> = (0..n_vocab)
            .map(|id| tokenizer.token_bytes(TokenId(id as u32)))
            .collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), n_vocab, "each token says something else");
    }
}

#[test]
fn activations_keep_their_size_over_many_layers() {
    let folder = Folder::new("deep");
    let path = folder.file("deep.gguf");
    let mut request = request("tiny");
    (request.n_layer, request.alias_layers, request.n_vocab) = (Some(43), Some(2), Some(1024));
    create(&request, &path);
    let mut options = Options::new(&path);
    (options.ctx, options.threads, options.prefill_chunk) = (200, 2, 200);
    let mut loaded = Loaded::open(&options).unwrap();
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sizes);
    loaded.probe(Box::new(move |_, streams| {
        seen.lock().unwrap().push(rms(streams))
    }));
    let tokens = random_tokens(150, 1024);
    let logits = loaded.logits(&tokens, tokens.len());
    // The embedding has size 1, and what the layers add is meant to be of that order.
    let sizes = sizes.lock().unwrap();
    assert_eq!(sizes.len(), 44);
    assert!(sizes.iter().all(|s| (0.5..10.0).contains(s)), "{sizes:?}");
    assert!(logits.iter().all(|x| x.is_finite()));
    for row in logits.chunks(1024) {
        assert_eq!(row[1], 0.0, "the end-of-turn token is never the likeliest");
        assert!((0.3..3.0).contains(&rms(row)), "{}", rms(row));
    }
}

fn rms(x: &[f32]) -> f32 {
    (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt()
}

#[test]
fn experts_are_used_as_by_real_text() {
    let folder = Folder::new("routes");
    let path = folder.file("routes.gguf");
    let mut request = request("tiny");
    (request.n_expert, request.n_layer) = (Some(64), Some(6));
    create(&request, &path);
    let (routes, _) = routes(&path, &random_tokens(400, 4096), 0);
    // Drawn evenly, a token would share 6 of 64 experts (0.09) with the one before, and the six most popular
    // experts would have 0.09 of all uses.
    for (layer, routes) in routes.iter().enumerate() {
        let routes = &routes[100..];
        let (overlap, top) = (overlap(routes), top_share(routes, 64, 0.1));
        assert!((0.28..0.6).contains(&top), "layer {layer}: {top}");
        let range = if layer < 3 { 0.15..0.35 } else { 0.3..0.65 };
        assert!(range.contains(&overlap), "layer {layer}: {overlap}");
    }
}

fn bytes_of(request: &Request) -> Vec<u8> {
    let mut out = Vec::new();
    let plan = Plan::new(request).unwrap();
    plan.write(&mut out, &mut |_, _| true).unwrap();
    assert_eq!(out.len() as u64, plan.file_len());
    out
}

#[test]
fn equal_requests_make_equal_bytes_on_every_machine() {
    let bytes = bytes_of(&request("micro"));
    assert_eq!(bytes, bytes_of(&request("micro")));
    let hash: String = Sha256::digest(&bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    // As x86-64 made it; the code of a machine that makes other bytes is wrong.
    assert_eq!(
        hash,
        "9132a82569bb7a30dcb26d3d010487ac38e467b98d77cc34fc0a52e0955ad212"
    );
    let mut other = request("micro");
    other.seed = 2;
    let other = bytes_of(&other);
    assert_eq!(other.len(), bytes.len());
    let same = bytes.iter().zip(&other).filter(|(a, b)| a == b).count();
    assert!(
        same < bytes.len() / 10,
        "{same} of {} bytes are equal",
        bytes.len()
    );
}

/// What the sizes and the alignment change is where tensors lie, not what stands in them.
#[test]
fn a_tensor_does_not_depend_on_the_rest_of_the_file() {
    let mut other = request("micro");
    (other.n_layer, other.alignment) = (Some(2), Some(4096));
    let (a, b) = (bytes_of(&request("micro")), bytes_of(&other));
    let (a_model, b_model) = (
        Plan::new(&request("micro")).unwrap().model,
        Plan::new(&other).unwrap().model,
    );
    for tensor in &b_model.gguf.tensors {
        let there = a_model.gguf.tensor(&tensor.name).unwrap().extent;
        let part = |bytes: &[u8], at: u64| bytes[at as usize..][..there.len as usize].to_vec();
        assert!(
            part(&a, there.offset) == part(&b, tensor.extent.offset),
            "{}",
            tensor.name
        );
        assert_eq!(tensor.extent.offset % 4096, 0);
    }
}

#[test]
fn aligned_experts_are_whole_pages() {
    for shape in ["flash-q2", "flash-q4", "pro-q2", "bench-q2", "bench-q4"] {
        let mut request = request(shape);
        request.alignment = Some(4096);
        let model = Plan::new(&request).unwrap().model;
        assert!(model.experts.is_page_aligned(4096), "{shape}");
    }
}

#[test]
fn layers_share_experts_when_asked() {
    let mut shared = request("micro");
    shared.alias_layers = Some(2);
    let model = Plan::new(&shared).unwrap().model;
    assert_eq!(model.gguf.u32("infall.synth.alias_layers").unwrap(), 2);
    assert!(model.notes[0].contains("share data"), "{:?}", model.notes);
    for layer in 0..5 {
        for expert in [0, 7].map(ExpertId) {
            let there = model.experts.extents(LayerId(layer), expert);
            assert_eq!(there, model.experts.extents(LayerId(layer % 2), expert));
        }
    }
    // Three layers of eight experts less, and some names of keys more.
    let whole = Plan::new(&request("micro")).unwrap();
    let saved = whole.file_len() - model.gguf.file_len;
    assert!(saved.abs_diff(3 * 8 * 256 * 216) < 1024, "{saved}");

    let folder = Folder::new("alias");
    let path = folder.file("alias.gguf");
    create(&shared, &path);
    let mut options = Options::new(&path);
    (options.ctx, options.threads) = (64, 1);
    let logits = Loaded::open(&options)
        .unwrap()
        .logits(&random_tokens(9, 512), 5);
    assert!(logits.iter().all(|x| x.is_finite()));
}

#[test]
fn nothing_is_left_of_a_file_that_failed() {
    let folder = Folder::new("failed");
    let path = folder.file("model.gguf");
    let plan = Plan::new(&request("micro")).unwrap();
    let error = plan
        .create(&path, false, &mut |done, _| done < 1 << 20)
        .unwrap_err();
    assert!(error.to_string().contains("stopped"), "{error}");
    assert_eq!(folder.n_files(), 0);
    let missing = plan.create(&folder.file("no/such/folder"), false, &mut |_, _| true);
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::Io);
    // A file system has no room for the whole Pro model, unless it is a very large one.
    let error = Plan::new(&request("pro-q2"))
        .unwrap()
        .create(&path, false, &mut |_, _| false);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("bytes are needed") || error.contains("stopped"),
        "{error}"
    );
    assert_eq!(folder.n_files(), 0);

    /// A disk of a megabyte.
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            match self.0 <= 1 << 20 {
                true => Ok(bytes.len()),
                false => Err(std::io::ErrorKind::StorageFull.into()),
            }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let error = plan.write(&mut Full(0), &mut |_, _| true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("no storage space"), "{error}");
}

fn infall(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_infall"));
    let output = command.arg("synth").args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn the_command_writes_refuses_and_replaces() {
    let folder = Folder::new("command");
    let path = folder.file("model.gguf");
    let out = path.to_str().unwrap();
    let (code, shown, err) = infall(&["--shape", "micro", "--dry-run", "--out", out]);
    assert_eq!(code, Some(0), "{err}");
    // 5 layers of 8 experts of 55,296 bytes.
    assert!(
        shown.contains(" 55296 ") && shown.contains(" 2211840 "),
        "{shown}"
    );
    assert_eq!(folder.n_files(), 0, "a dry run writes nothing");
    assert_eq!(infall(&["--shape", "flash-q4", "--dry-run"]).0, Some(0));

    let (code, shown, err) = infall(&["--shape", "micro", "--out", out]);
    assert_eq!(code, Some(0), "{err}");
    assert!(shown.contains("written in"), "{shown}");
    let first = std::fs::read(&path).unwrap();
    assert_eq!(first, bytes_of(&request("micro")));
    let again = ["--shape", "micro", "--seed", "2", "--out", out];
    let (code, _, err) = infall(&again);
    assert_eq!(code, Some(2));
    assert!(err.contains("exists already (--force"), "{err}");
    assert_eq!(std::fs::read(&path).unwrap(), first);
    assert_eq!(infall(&[&again[..], &["--force"]].concat()).0, Some(0));
    assert_ne!(std::fs::read(&path).unwrap(), first);
    assert_eq!(folder.n_files(), 1);
}

#[test]
fn odd_arguments_are_named() {
    let (code, help, _) = infall(&["--help"]);
    let all: Vec<_> = shape_names().collect();
    assert!(code == Some(0) && help.contains(&all.join(" | ")), "{help}");
    let cases: &[(&[&str], &str)] = &[
        (&["--out", "x"], "--shape is missing, expected flash-q2 |"),
        (
            &["--shape", "huge"],
            "--shape: 'huge' is unknown, expected flash-q2 |",
        ),
        (&["--shape", "micro"], "--out is missing"),
        (
            &["--shape", "tiny", "--layers", "0"],
            "--layers: found 0, expected 1 to 512",
        ),
        (
            &["--shape", "tiny", "--layers", "513"],
            "--layers: found 513",
        ),
        (
            &["--shape", "tiny", "--experts", "3"],
            "--experts: found 3, expected 6 to 4096",
        ),
        (
            &["--shape", "tiny", "--vocab", "267"],
            "--vocab: found 267, expected 268 to",
        ),
        (&["--shape", "tiny", "--align", "100"], "--align: "),
        (&["--shape", "tiny", "--align", "0"], "--align: "),
        (
            &["--shape", "tiny", "--alias-layers", "0"],
            "--alias-layers: found 0, expected 1 to 6",
        ),
        (
            &["--shape", "tiny", "--alias-layers", "7"],
            "--alias-layers: found 7",
        ),
        (&["--shape", "tiny", "--seed", "-1"], "--seed: found '-1'"),
        (
            &["--shape", "micro", "--out", "/"],
            "/: expected the name of a file",
        ),
        (
            &["--shape", "micro", "--force", "--out", "/dev/null"],
            "no regular file",
        ),
    ];
    for (args, expected) in cases {
        let (code, _, err) = infall(args);
        assert_eq!(code, Some(2), "{args:?}: {err}");
        assert!(err.contains(expected), "{args:?}: {err}");
    }
}

/// Prints the figures of a file: `SYNTH_FILE=model.gguf cargo test --test synth -- --ignored --nocapture measure`.
#[test]
#[ignore = "measures a file that it is given"]
fn measure() {
    let path = PathBuf::from(std::env::var_os("SYNTH_FILE").expect("SYNTH_FILE names a file"));
    let n: usize = std::env::var("N").map_or(400, |n| n.parse().unwrap());
    let mut rng = Rng::new(9);
    let uniform: Vec<TokenId> = (0..n)
        .map(|_| TokenId(12 + rng.below(4084) as u32))
        .collect();
    let text = include_str!("../README.md").as_bytes();
    let bytes: Vec<TokenId> = text
        .iter()
        .take(n)
        .map(|b| TokenId(12 + u32::from(*b)))
        .collect();
    let n_expert = Model::bind(Gguf::read(&File::open(&path).unwrap()).unwrap())
        .unwrap()
        .config
        .n_expert;
    for (what, tokens, greedy) in [
        ("random", &uniform, 0),
        ("text", &bytes, 0),
        ("greedy", &bytes[..16].to_vec(), n),
    ] {
        let (routes, logits) = routes(&path, tokens, greedy);
        let mean = logits.iter().sum::<f32>() / logits.len() as f32;
        let sd =
            (logits.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / logits.len() as f32).sqrt();
        println!("{what}: logits {mean} +- {sd}");
        for (l, routes) in routes.iter().enumerate() {
            let routes = &routes[routes.len() / 4..];
            println!(
                "  layer {l}: overlap {:.3}, after 8 {:.3}, top 5% {:.3}, 10% {:.3}, 25% {:.3}, 50% {:.3}",
                overlap(routes),
                overlap(&routes.iter().step_by(8).cloned().collect::<Vec<_>>()),
                top_share(routes, n_expert, 0.05),
                top_share(routes, n_expert, 0.1),
                top_share(routes, n_expert, 0.25),
                top_share(routes, n_expert, 0.5),
            );
        }
    }
}
