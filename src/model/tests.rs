use super::*;
use crate::gguf::writer::Writer;
use crate::os::{File, MemFile, ReadAt};
use crate::quant::Format;
use crate::units::{ExpertId, LayerId};
use std::path::Path;

mod derived;

/// A file of which only the header exists; the rest reads as zeros.
struct Hollow {
    header: Vec<u8>,
    len: u64,
}

impl ReadAt for Hollow {
    fn len(&self) -> u64 {
        self.len
    }
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        for (i, byte) in buf.iter_mut().enumerate() {
            *byte = self.header.get(offset as usize + i).copied().unwrap_or(0);
        }
        Ok(())
    }
    fn name(&self) -> &str {
        "hollow"
    }
}

/// Tensor types of a file.
#[derive(Clone, Copy)]
struct Types {
    gate_up: Format,
    down: Format,
    embedding: Format,
    output: Format,
    /// Hyper-connection and compressor position tables.
    hyper: Format,
    /// Compressor, indexer projection and router matrices.
    small: Format,
    index_q: Format,
}

/// The types of the published mixed files, with the experts' given.
const fn published(gate_up: Format, down: Format) -> Types {
    Types {
        gate_up,
        down,
        embedding: Format::F16,
        output: Format::Q8_0,
        hyper: Format::F16,
        small: Format::F16,
        index_q: Format::F16,
    }
}

const Q2: Types = published(Format::Iq2Xxs, Format::Q2K);
const Q4: Types = published(Format::Q4K, Format::Q4K);
/// The types a converter that keeps the release's precision writes.
const CONVERTED: Types = Types {
    gate_up: Format::Mxfp4,
    down: Format::Mxfp4,
    embedding: Format::Bf16,
    output: Format::Bf16,
    hyper: Format::F32,
    small: Format::Bf16,
    index_q: Format::Q8_0,
};

/// The numbers in which the published sizes of the model differ.
#[derive(Clone)]
struct Size {
    n_layer: u64,
    n_embd: u64,
    n_head: u64,
    n_lora_q: u64,
    n_group_o: u64,
    n_expert: u64,
    n_ff: u64,
    top_k: u32,
    scale: f32,
    ratios: Vec<i32>,
}

fn flash() -> Size {
    let ratio = |l| match l {
        0 | 1 | 43 => 0,
        l if l % 2 == 0 => 4,
        _ => 128,
    };
    Size {
        n_layer: 43,
        n_embd: 4096,
        n_head: 64,
        n_lora_q: 1024,
        n_group_o: 8,
        n_expert: 256,
        n_ff: 2048,
        top_k: 512,
        scale: 1.5,
        ratios: (0..44).map(ratio).collect(),
    }
}

fn pro() -> Size {
    let ratio = |l| match l {
        0 | 1 => 128,
        l if l % 2 == 0 => 4,
        _ => 128,
    };
    Size {
        n_layer: 61,
        n_embd: 7168,
        n_head: 128,
        n_lora_q: 1536,
        n_group_o: 16,
        n_expert: 384,
        n_ff: 3072,
        top_k: 1024,
        scale: 2.5,
        ratios: (0..61).map(ratio).collect(),
    }
}

const N_VOCAB: u64 = 129_280;

/// A metadata value to be written.
#[derive(Clone, Debug)]
enum Set {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'static str),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// The keys of a file of size `s`, without their prefix.
fn keys(s: &Size) -> Vec<(&'static str, Set)> {
    use Set::{Bool, F32, F32s, I32s, U32};
    vec![
        ("block_count", U32(s.n_layer as u32)),
        ("embedding_length", U32(s.n_embd as u32)),
        ("vocab_size", U32(N_VOCAB as u32)),
        ("context_length", U32(1 << 20)),
        ("attention.head_count", U32(s.n_head as u32)),
        ("attention.head_count_kv", U32(1)),
        ("attention.key_length", U32(512)),
        ("attention.value_length", U32(512)),
        ("rope.dimension_count", U32(64)),
        ("attention.q_lora_rank", U32(s.n_lora_q as u32)),
        ("attention.output_lora_rank", U32(1024)),
        ("attention.output_group_count", U32(s.n_group_o as u32)),
        ("attention.sliding_window", U32(128)),
        ("attention.indexer.head_count", U32(64)),
        ("attention.indexer.key_length", U32(128)),
        ("attention.indexer.top_k", U32(s.top_k)),
        ("expert_count", U32(s.n_expert as u32)),
        ("expert_used_count", U32(6)),
        ("expert_shared_count", U32(1)),
        ("expert_feed_forward_length", U32(s.n_ff as u32)),
        ("hash_layer_count", U32(3)),
        ("hyper_connection.count", U32(4)),
        ("hyper_connection.sinkhorn_iterations", U32(20)),
        ("rope.scaling.original_context_length", U32(65_536)),
        ("expert_weights_scale", F32(s.scale)),
        ("attention.compress_rope_freq_base", F32(160_000.0)),
        ("rope.freq_base", F32(10_000.0)),
        ("rope.scaling.factor", F32(16.0)),
        ("rope.scaling.yarn_beta_fast", F32(32.0)),
        ("rope.scaling.yarn_beta_slow", F32(1.0)),
        ("attention.layer_norm_rms_epsilon", F32(1e-6)),
        ("hyper_connection.epsilon", F32(1e-6)),
        ("expert_weights_norm", Bool(true)),
        ("attention.compress_ratios", I32s(s.ratios.clone())),
        ("swiglu_clamp_exp", F32s(vec![10.0; s.n_layer as usize + 1])),
    ]
}

/// `w` with these keys.
fn with_keys(mut w: Writer, keys: &[(&str, Set)]) -> Writer {
    w.string("general.architecture", "deepseek4");
    for (name, value) in keys {
        let key = format!("deepseek4.{name}");
        match value {
            Set::U32(v) => w.u32(&key, *v),
            Set::F32(v) => w.f32(&key, *v),
            Set::Bool(v) => w.bool(&key, *v),
            Set::Text(v) => w.string(&key, v),
            Set::I32s(v) => w.i32_array(&key, v),
            Set::F32s(v) => w.f32_array(&key, v),
        };
    }
    w
}

/// Name, dimensions (fastest first) and type of every tensor of a file.
fn tensors(s: &Size, t: Types) -> Vec<(String, Vec<u64>, Format)> {
    use Format::{F32, I32, Q8_0};
    let (d, ff, e) = (s.n_embd, s.n_ff, s.n_expert);
    let mut list: Vec<(String, Vec<u64>, Format)> = vec![
        ("token_embd.weight".into(), vec![d, N_VOCAB], t.embedding),
        ("output.weight".into(), vec![d, N_VOCAB], t.output),
        ("output_norm.weight".into(), vec![d], F32),
        ("output_hc_fn.weight".into(), vec![4 * d, 4], t.hyper),
        ("output_hc_base.weight".into(), vec![4], F32),
        ("output_hc_scale.weight".into(), vec![1], F32),
    ];
    for layer in 0..s.n_layer {
        let mut add = |name: &str, dims: &[u64], format| {
            list.push((format!("blk.{layer}.{name}"), dims.to_vec(), format));
        };
        for site in ["attn", "ffn"] {
            add(&format!("hc_{site}_fn.weight"), &[4 * d, 24], t.hyper);
            add(&format!("hc_{site}_base.weight"), &[24], F32);
            add(&format!("hc_{site}_scale.weight"), &[3], F32);
            add(&format!("{site}_norm.weight"), &[d], F32);
        }
        add("attn_q_a.weight", &[d, s.n_lora_q], Q8_0);
        add("attn_q_a_norm.weight", &[s.n_lora_q], F32);
        add("attn_q_b.weight", &[s.n_lora_q, s.n_head * 512], Q8_0);
        add("attn_kv.weight", &[d, 512], Q8_0);
        add("attn_kv_a_norm.weight", &[512], F32);
        add("attn_sinks.weight", &[s.n_head], F32);
        let group = s.n_head * 512 / s.n_group_o;
        add("attn_output_a.weight", &[group, s.n_group_o * 1024], Q8_0);
        add("attn_output_b.weight", &[s.n_group_o * 1024, d], Q8_0);
        let ratio = s.ratios[layer as usize] as u64;
        if ratio != 0 {
            let width = if ratio == 4 { 1024 } else { 512 };
            add("attn_compressor_kv.weight", &[d, width], t.small);
            add("attn_compressor_gate.weight", &[d, width], t.small);
            add("attn_compressor_ape.weight", &[width, ratio], t.hyper);
            add("attn_compressor_norm.weight", &[512], F32);
        }
        if ratio == 4 {
            add("indexer.attn_q_b.weight", &[s.n_lora_q, 8192], t.index_q);
            add("indexer.proj.weight", &[d, 64], t.small);
            add("indexer_compressor_kv.weight", &[d, 256], t.small);
            add("indexer_compressor_gate.weight", &[d, 256], t.small);
            add("indexer_compressor_ape.weight", &[256, 4], t.hyper);
            add("indexer_compressor_norm.weight", &[128], F32);
        }
        add("ffn_gate_inp.weight", &[d, e], t.small);
        if layer < 3 {
            add("ffn_gate_tid2eid.weight", &[6, N_VOCAB], I32);
        } else {
            add("exp_probs_b.bias", &[e], F32);
        }
        add("ffn_gate_exps.weight", &[d, ff, e], t.gate_up);
        add("ffn_up_exps.weight", &[d, ff, e], t.gate_up);
        add("ffn_down_exps.weight", &[ff, d, e], t.down);
        add("ffn_gate_shexp.weight", &[d, ff], Q8_0);
        add("ffn_up_shexp.weight", &[d, ff], Q8_0);
        add("ffn_down_shexp.weight", &[ff, d], Q8_0);
    }
    list
}

/// Binds a file of these tensors.
fn bind(mut w: Writer, tensors: &[(String, Vec<u64>, Format)]) -> Result<Model> {
    for (name, dims, format) in tensors {
        w.tensor(name, dims, *format)?;
    }
    let header = w.header();
    let len = header.len() as u64 + w.data_len();
    Model::bind(Gguf::read(&Hollow { header, len })?)
}

fn gib(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / f64::from(1 << 30))
}

#[test]
fn flash_binds_in_each_convention_with_the_known_totals() {
    let size = flash();
    let cases = [
        (Q2, 7_077_888, "72.56", 8_801_384_796, "80.76"),
        (Q4, 14_155_776, "145.12", 8_801_384_796, "153.32"),
        (CONVERTED, 13_369_344, "137.06", 0, "145.63"),
    ];
    for (types, expert, routed, rest, all) in cases {
        let model = bind(
            with_keys(Writer::new(), &keys(&size)),
            &tensors(&size, types),
        )
        .unwrap();
        let totals = model.byte_totals();
        assert_eq!(model.experts.slab_len(LayerId(42)), expert);
        assert_eq!(model.experts.max_slab_len(), expert);
        assert_eq!(model.experts.n_experts_total(), 43 * 256);
        assert_eq!(totals.routed, 43 * 256 * expert);
        assert_eq!(gib(totals.routed), routed);
        if rest > 0 {
            assert_eq!(totals.embedding + totals.fixed, rest);
        }
        assert_eq!(gib(totals.routed + totals.embedding + totals.fixed), all);
        assert_eq!(totals.embedding, 4096 * N_VOCAB * 2);
        assert!(model.notes.is_empty(), "{:?}", model.notes);
    }
}

#[test]
fn flash_has_the_published_numbers() {
    let model = bind(
        with_keys(Writer::new(), &keys(&flash())),
        &tensors(&flash(), Q2),
    )
    .unwrap();
    let c = &model.config;
    assert_eq!(
        (c.q_width(), c.group_width(), c.hc_width()),
        (32_768, 4096, 16_384)
    );
    assert_eq!(
        (c.n_ctx_train, c.window, c.top_k_index),
        (1 << 20, 128, 512)
    );
    assert_eq!((c.expert_scale, c.rms_eps, c.hc_eps), (1.5, 1e-6, 1e-6));
    let yarn = Yarn {
        factor: 16.0,
        original_ctx: 65_536,
        beta_fast: 32.0,
        beta_slow: 1.0,
    };
    assert_eq!(c.yarn, yarn);
    let count = |kind| c.layers.iter().filter(|l| l.kind == kind).count();
    let kinds = [LayerKind::Sliding, LayerKind::Csa, LayerKind::Hca];
    assert_eq!(kinds.map(count), [2, 21, 20]);
    assert_eq!(c.layers.iter().filter(|l| l.hash_routed).count(), 3);
    let clamps = (c.layers[0].clamp_exp, c.layers[42].clamp_shared);
    assert_eq!(clamps, (10.0, 10.0));

    let layer = &model.weights.layers[2];
    assert!(matches!(&layer.moe.choice, ExpertChoice::Hash(t) if t.rows == 129_280 && t.cols == 6));
    let compressor = layer.compressor.as_ref().unwrap();
    assert_eq!((compressor.kv.rows, compressor.ape.rows), (1024, 4));
    let indexer = layer.indexer.as_ref().unwrap();
    assert_eq!((indexer.q_b.rows, indexer.compressor.ape.cols), (8192, 256));
    let layer = &model.weights.layers[3];
    assert!(matches!(&layer.moe.choice, ExpertChoice::Score(bias) if bias.len == 256));
    assert!(layer.indexer.is_none() && model.weights.layers[1].compressor.is_none());
    assert_eq!(layer.compressor.as_ref().unwrap().ape.rows, 128);
}

#[test]
fn pro_binds() {
    let model = bind(
        with_keys(Writer::new(), &keys(&pro())),
        &tensors(&pro(), Q4),
    )
    .unwrap();
    assert_eq!(model.experts.n_experts_total(), 61 * 384);
    assert_eq!(model.config.expert_scale, 2.5);
    assert!(model.weights.layers[0].compressor.is_some());
}

#[test]
fn experts_lie_one_after_the_other() {
    let aligned = |alignment| {
        let s = flash();
        let w = with_keys(Writer::new().aligned(alignment).unwrap(), &keys(&s));
        bind(w, &tensors(&s, Q2)).unwrap().experts
    };
    let map = aligned(16_384);
    assert!(map.is_page_aligned(4096) && map.is_page_aligned(16_384));
    let map = aligned(32);
    assert!(!map.is_page_aligned(4096));
    let first = map.extents(LayerId(7), ExpertId(0));
    let last = map.extents(LayerId(7), ExpertId(255));
    let layer = &map.layers[7];
    assert_eq!(first.gate.offset, layer.gate.extent.offset);
    assert_eq!(last.down.end(), layer.down.extent.end());
    assert_eq!((last.up.len, last.down.len), (2_162_688, 2_752_512));
}

/// A file of this repository, or of the fixtures beside it.
fn open(path: &str) -> Option<File> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if !path.exists() {
        println!("skipped: {} is not here", path.display());
        return None;
    }
    Some(File::open(&path).unwrap())
}

#[test]
fn small_models_bind() {
    let cases = [
        ("models/tiny-q4.gguf", 6, 4096, 3 * 36_864),
        ("tests/golden/micro-q2.gguf", 5, 512, 2 * 16_896 + 21_504),
        ("../shared/fixtures/micro-q4.gguf", 5, 512, 3 * 36_864),
    ];
    for (path, n_layer, n_vocab, slab_len) in cases {
        let Some(file) = open(path) else { continue };
        let model = Model::bind(Gguf::read(&file).unwrap()).unwrap();
        assert!(model.notes.is_empty(), "{:?}", model.notes);
        assert_eq!(model.config.n_layer, n_layer);
        assert_eq!(model.config.n_vocab, n_vocab);
        assert_eq!(model.experts.max_slab_len(), slab_len);
        let totals = model.byte_totals();
        let all = totals.routed + totals.embedding + totals.fixed;
        let listed: u64 = model.gguf.tensors.iter().map(|t| t.extent.len).sum();
        assert_eq!(all, listed);
    }
}

/// By hand from the sizes that `inspect` lists: 9,007,460 bytes of fixed weights, with three tables of 4,096 rows of
/// 6 ids of which a token reads one each; 6 experts of 110,592 bytes in each of 6 layers; 256 f16 of the embedding.
#[test]
fn a_token_reads_its_experts_one_row_of_tables_and_the_rest() {
    let file = open("models/tiny-q4.gguf").unwrap();
    let model = Model::bind(Gguf::read(&file).unwrap()).unwrap();
    let fixed = 9_007_460 - 3 * 4095 * 6 * 4;
    assert_eq!(model.token_bytes(), fixed + 6 * 6 * 110_592 + 256 * 2);
    // The 45,942,265 of models/README.md, and the biases of 32 experts in 3 layers, which are not trained.
    assert_eq!(model.n_params(), 45_942_265 + 3 * 32);
}

/// The numbers of Flash with the value of `name` replaced, or dropped.
fn changed(name: &'static str, value: Option<Set>) -> Result<Config> {
    let mut keys = keys(&flash());
    keys.retain(|(key, _)| *key != name);
    keys.extend(value.map(|value| (name, value)));
    let header = with_keys(Writer::new(), &keys).header();
    Config::from_gguf(&Gguf::read(&MemFile::new("changed", header)).unwrap())
}

#[test]
fn numbers_may_be_written_in_other_ways() {
    use Set::{Bool, F32, F32s, I32s, Text, U32};
    let original = changed("none", None).unwrap();
    let same = [
        ("expert_gating_func", Some(U32(4))),
        ("expert_group_count", Some(U32(0))),
        ("expert_weights_norm", None),
        ("attention.value_length", None),
        ("rope.scaling.type", Some(Text("yarn"))),
        ("rope.scaling.yarn_beta_fast", None),
        ("rope.scaling.yarn_beta_slow", None),
        ("rope.freq_base", Some(U32(10_000))),
        ("swiglu_clamp_exp", Some(F32(10.0))),
        ("swiglu_clamp_shexp", Some(F32s(vec![10.0; 43]))),
        ("expert_feed_forward_length", Some(I32s(vec![2048; 44]))),
        ("block_count", Some(U32(43))),
        ("unknown", Some(Bool(true))),
    ];
    for (name, value) in same {
        assert_eq!(changed(name, value).unwrap(), original, "{name}");
    }
    let unscaled = changed("rope.scaling.type", Some(Text("none"))).unwrap();
    assert_eq!(
        (unscaled.yarn.factor, unscaled.yarn.original_ctx),
        (1.0, 1 << 20)
    );
    let clamped = changed("swiglu_clamp_shexp", Some(F32(7.0))).unwrap();
    let layer = clamped.layers[42];
    assert_eq!((layer.clamp_exp, layer.clamp_shared), (10.0, 7.0));
}

#[test]
fn numbers_out_of_bounds_are_refused_by_name() {
    use Set::{Bool, F32, F32s, I32s, Text, U32};
    let cases = [
        ("block_count", Some(U32(0)), "found 0, expected 1 to 512"),
        (
            "block_count",
            Some(U32(45)),
            "compress_ratios: found 44 elements, expected at least 45",
        ),
        (
            "vocab_size",
            Some(U32(u32::MAX)),
            "found 4294967295, expected 1 to 4194304",
        ),
        (
            "vocab_size",
            Some(Text("big")),
            "found a string, expected an integer",
        ),
        ("vocab_size", None, "deepseek4.vocab_size is missing"),
        (
            "attention.head_count_kv",
            Some(U32(8)),
            "found 8, expected 1",
        ),
        (
            "attention.value_length",
            Some(U32(256)),
            "found 256, expected 512",
        ),
        ("attention.output_group_count", Some(U32(7)), "no multiple"),
        ("rope.dimension_count", Some(U32(63)), "odd"),
        (
            "rope.dimension_count",
            Some(U32(512)),
            "key_length is not above",
        ),
        (
            "rope.dimension_count",
            Some(U32(128)),
            "indexer.key_length is not above",
        ),
        ("expert_used_count", Some(U32(0)), "found 0"),
        ("expert_count", Some(U32(5)), "expert_used_count is above"),
        (
            "expert_shared_count",
            Some(U32(2)),
            "found 2, expected 1 to 1",
        ),
        ("expert_gating_func", Some(U32(2)), "found 2, expected 4"),
        (
            "expert_group_count",
            Some(U32(8)),
            "found 8, expected 0 or 1",
        ),
        (
            "expert_weights_norm",
            Some(Bool(false)),
            "found false, expected true",
        ),
        (
            "hyper_connection.count",
            Some(U32(2)),
            "found 2, expected 4",
        ),
        (
            "hash_layer_count",
            Some(U32(44)),
            "found 44, expected 0 to 43",
        ),
        ("rope.freq_base", Some(F32(f32::NAN)), "found NaN"),
        ("rope.freq_base", Some(F32(1.0)), "found 1, expected 1.001"),
        ("rope.scaling.type", Some(Text("linear")), "found linear"),
        ("rope.scaling.yarn_beta_slow", Some(F32(32.0)), "not below"),
        (
            "attention.layer_norm_rms_epsilon",
            Some(F32(0.0)),
            "found 0",
        ),
        (
            "attention.compress_ratios",
            Some(I32s(vec![0; 42])),
            "found 42 elements",
        ),
        (
            "attention.compress_ratios",
            Some(I32s(vec![-1; 43])),
            "array of integers",
        ),
        (
            "attention.compress_ratios",
            Some(I32s(vec![8; 43])),
            "layer 0: compress ratio 8",
        ),
        (
            "swiglu_clamp_exp",
            Some(F32s(vec![-1.0; 43])),
            "layer 0: found -1",
        ),
        ("swiglu_clamp_exp", Some(F32(f32::INFINITY)), "found inf"),
        (
            "expert_feed_forward_length",
            Some(I32s((0..43).collect())),
            "different widths",
        ),
    ];
    for (name, value, expected) in cases {
        let message = changed(name, value.clone()).unwrap_err().to_string();
        assert!(message.contains(expected), "{name} {value:?}: {message}");
    }
}

#[test]
fn tensors_of_another_shape_or_type_are_refused_by_name() {
    let size = flash();
    let original = tensors(&size, Q2);
    let with = |name: &str, dims: &[u64], format: Format| {
        let mut tensors = original.clone();
        tensors.retain(|t| t.0 != name);
        if !dims.is_empty() {
            tensors.push((name.to_owned(), dims.to_vec(), format));
        }
        bind(with_keys(Writer::new(), &keys(&size)), &tensors)
    };
    let cases: [(&str, &[u64], Format, &str); 6] = [
        (
            "blk.7.ffn_gate_exps.weight",
            &[4096, 2048, 255],
            Format::Iq2Xxs,
            "dims [4096, 2048, 255], expected [4096, 2048, 256]",
        ),
        ("blk.42.attn_norm.weight", &[], Format::F32, "is missing"),
        (
            "output_norm.weight",
            &[4096, 2],
            Format::F32,
            "dims [4096, 2], expected [4096]",
        ),
        (
            "blk.0.attn_norm.weight",
            &[4096],
            Format::Q8_0,
            "type Q8_0, expected one of F32 F16 BF16",
        ),
        (
            "blk.0.attn_kv.weight",
            &[4096, 512],
            Format::I32,
            "type I32, expected one of F32",
        ),
        (
            "blk.1.ffn_gate_tid2eid.weight",
            &[6, N_VOCAB],
            Format::F32,
            "expected one of I32",
        ),
    ];
    for (name, dims, format, expected) in cases {
        let message = with(name, dims, format).unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("hollow: tensor {name}")),
            "{message}"
        );
        assert!(message.contains(expected), "{message}");
    }

    // Other types than the published ones, ones at the end, and tensors that mean nothing here.
    for (name, dims, format) in [
        ("blk.5.attn_q_a.weight", &[4096, 1024][..], Format::Q4K),
        ("blk.5.exp_probs_b.bias", &[256, 1], Format::F16),
        (
            "blk.5.ffn_down_exps.weight",
            &[2048, 4096, 256],
            Format::Q4K,
        ),
        ("blk.0.exp_probs_b.bias", &[256], Format::F32),
        ("blk.9.ffn_up_exps.weight", &[4096, 2048, 256], Format::Q2K),
    ] {
        let model = with(name, dims, format).unwrap();
        assert!(model.notes.is_empty(), "{name}: {:?}", model.notes);
    }
    let model = with("blk.5.exp_probs_b_vl.bias", &[256], Format::F32).unwrap();
    let expected = "1 tensors are not used, first blk.5.exp_probs_b_vl.bias";
    assert_eq!(model.notes[0], expected);
}
