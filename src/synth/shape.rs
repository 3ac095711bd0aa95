//! The shapes that can be made: numbers, tensors and their types, vocabulary.

use super::fill::Content;
use crate::gguf::writer::Writer;
use crate::model::{HC, HC_MIX};
use crate::quant::Format;

/// The numbers of a shape, named as in [`crate::model::Config`].
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// What the user types.
    pub name: &'static str,
    pub n_layer: usize,
    pub n_expert: usize,
    pub n_vocab: usize,
    n_ctx_train: u32,
    n_embd: u64,
    n_head: u64,
    head_dim: u64,
    n_rot: u32,
    n_lora_q: u64,
    n_lora_o: u64,
    n_group_o: u64,
    window: u32,
    n_head_index: u64,
    head_dim_index: u64,
    top_k_index: u32,
    pub n_expert_used: usize,
    n_ff_expert: u64,
    expert_scale: f32,
    n_hash_layer: usize,
    original_ctx: u32,
    clamp: f32,
    /// Compress ratios of the first layers; 4 and 128 follow in turn.
    first_ratios: &'static [i32],
    types: Types,
}

/// The types of tensors; those without a field are F32, or I32 for ids.
#[derive(Clone, Debug, PartialEq)]
struct Types {
    /// Routed experts.
    experts: Experts,
    /// Routed experts of the one layer that suffers most, [`Shape::sensitive_layer`].
    sensitive: Experts,
    /// Routed experts of the last layer.
    last: Experts,
    embedding: Format,
    output: Format,
    /// Matrices of the hyper-connections, and the compressors' tables of positions.
    hyper: Format,
    /// Matrices of the compressors and of the indexer.
    compressor: Format,
    router: Format,
    q_a: Format,
    gate_up_shared: Format,
    down_shared: Format,
    /// The other matrices of attention.
    projection: Format,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Experts {
    gate_up: Format,
    down: Format,
}

impl Types {
    /// antirez' files, with these experts.
    const fn plain(gate_up: Format, down: Format) -> Types {
        let experts = Experts { gate_up, down };
        Types {
            experts,
            sensitive: experts,
            last: experts,
            embedding: Format::F16,
            output: Format::Q8_0,
            hyper: Format::F16,
            compressor: Format::F16,
            router: Format::F16,
            q_a: Format::Q8_0,
            gate_up_shared: Format::Q8_0,
            down_shared: Format::Q8_0,
            projection: Format::Q8_0,
        }
    }
}

const Q2: Types = Types::plain(Format::Iq2Xxs, Format::Q2K);
const Q4: Types = Types::plain(Format::Q4K, Format::Q4K);

/// The mixture of unsloth's UD-IQ2_XXS.
const UD_IQ2_XXS: Types = Types {
    experts: Experts {
        gate_up: Format::Iq2Xxs,
        down: Format::Iq3Xxs,
    },
    sensitive: Experts {
        gate_up: Format::Iq2S,
        down: Format::Mxfp4,
    },
    last: Experts {
        gate_up: Format::Iq2Xxs,
        down: Format::Mxfp4,
    },
    embedding: Format::Q4K,
    output: Format::Q4K,
    hyper: Format::F32,
    compressor: Format::Q8_0,
    router: Format::Bf16,
    q_a: Format::Q5K,
    gate_up_shared: Format::Q5K,
    down_shared: Format::Q6K,
    projection: Format::Q8_0,
};

/// Experts as released, the rest as llama.cpp's quantiser leaves it.
const MXFP4: Types = Types {
    embedding: Format::Q8_0,
    output: Format::Q6K,
    hyper: Format::F32,
    compressor: Format::Bf16,
    router: Format::Bf16,
    ..Types::plain(Format::Mxfp4, Format::Mxfp4)
};

/// A tensor of a shape.
pub struct Tensor {
    pub name: String,
    /// Fastest first.
    pub dims: Vec<u64>,
    pub format: Format,
    pub content: Content,
}

const FLASH_Q2: Shape = Shape {
    name: "flash-q2",
    n_layer: 43,
    n_expert: 256,
    n_vocab: DEFAULT_VOCAB,
    n_ctx_train: 1 << 20,
    n_embd: 4096,
    n_head: 64,
    head_dim: 512,
    n_rot: 64,
    n_lora_q: 1024,
    n_lora_o: 1024,
    n_group_o: 8,
    window: 128,
    n_head_index: 64,
    head_dim_index: 128,
    top_k_index: 512,
    n_expert_used: 6,
    n_ff_expert: 2048,
    expert_scale: 1.5,
    n_hash_layer: 3,
    original_ctx: 65_536,
    clamp: 10.0,
    first_ratios: &[0, 0],
    types: Q2,
};

const BENCH_Q2: Shape = Shape {
    name: "bench-q2",
    n_layer: 12,
    n_expert: 64,
    n_embd: 2048,
    n_head: 16,
    n_lora_q: 512,
    n_lora_o: 512,
    n_group_o: 4,
    n_head_index: 16,
    n_ff_expert: 1024,
    ..FLASH_Q2
};

/// Every shape: the sizes of the published models with the tensor types of published files, the two small models of
/// this repository, and one between.
pub const SHAPES: &[Shape] = &[
    FLASH_Q2,
    Shape {
        name: "flash-q4",
        types: Q4,
        ..FLASH_Q2
    },
    Shape {
        name: "flash-mxfp4",
        types: MXFP4,
        ..FLASH_Q2
    },
    Shape {
        name: "flash-ud-iq2_xxs",
        types: UD_IQ2_XXS,
        ..FLASH_Q2
    },
    Shape {
        name: "pro-q2",
        n_layer: 61,
        n_expert: 384,
        n_embd: 7168,
        n_head: 128,
        n_lora_q: 1536,
        n_group_o: 16,
        top_k_index: 1024,
        n_ff_expert: 3072,
        expert_scale: 2.5,
        first_ratios: &[128, 128],
        ..FLASH_Q2
    },
    BENCH_Q2,
    Shape {
        name: "bench-q4",
        types: Q4,
        ..BENCH_Q2
    },
    Shape {
        name: "tiny",
        n_layer: 6,
        n_expert: 32,
        n_embd: 256,
        n_head: 8,
        head_dim: 128,
        n_rot: 32,
        n_lora_q: 256,
        n_lora_o: 128,
        n_group_o: 4,
        n_head_index: 8,
        head_dim_index: 64,
        top_k_index: 64,
        n_ff_expert: 256,
        types: Q4,
        ..FLASH_Q2
    },
    Shape {
        name: "micro",
        n_layer: 5,
        n_expert: 8,
        n_vocab: 512,
        n_ctx_train: 16_384,
        n_embd: 256,
        n_head: 4,
        head_dim: 128,
        n_lora_q: 128,
        n_lora_o: 64,
        n_group_o: 2,
        window: 32,
        n_head_index: 16,
        top_k_index: 16,
        n_expert_used: 3,
        n_ff_expert: 256,
        n_hash_layer: 2,
        original_ctx: 1024,
        clamp: 2.5,
        first_ratios: &[0],
        ..FLASH_Q2
    },
];

/// Rows of embedding and output: with the 129,280 of the release they would be 1.5 GiB of every Flash file.
const DEFAULT_VOCAB: usize = 4096;

/// Tokens that a prompt and its rendering need; they come first in every vocabulary, then one for each byte.
const SPECIALS: [&str; 12] = [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
    "｜DSML｜",
    "<｜latest_reminder｜>",
    "<｜fim▁hole｜>",
    "<｜fim▁begin｜>",
    "<｜fim▁end｜>",
];
const BOS: u32 = 0;
const EOS: u32 = 1;
const PAD: u32 = 2;

/// Tokens of the smallest vocabulary.
pub const MIN_VOCAB: usize = SPECIALS.len() + 256;

/// How large things are made, so that activations stay of one size over all layers and routing behaves as
/// [`super`] says. Found by trial; see there.
struct Gains {
    /// Size of a key's elements: with small ones a query attends all keys about equally.
    key: f32,
    /// Standard deviation of what the attention of the first layer adds to the streams, were it to attend one key.
    first_attn: f32,
    /// The same for other layers.
    attn: f32,
    /// Standard deviation of what an expert adds, before its weight.
    expert: f32,
    /// Norm weights before the output head; makes logits of about 1.
    output: f32,
    /// Standard deviation of the router's logits.
    router: f32,
    /// Fall of the selection bias by the logarithm of the rank.
    bias: f32,
    /// Exponent of the popularity in hash layers.
    hash: f64,
}

const GAINS: Gains = Gains {
    key: 0.3,
    first_attn: 24.0,
    attn: 0.15,
    expert: 0.15,
    output: 2.5,
    router: 1.0,
    bias: 0.15,
    hash: 0.9,
};

/// Root mean square of silu(g) u for independent standard normal g and u.
const SWIGLU_RMS: f32 = 0.6;

impl Shape {
    /// The compress ratio of a layer.
    fn ratio(&self, layer: usize) -> i32 {
        match self.first_ratios.get(layer) {
            Some(ratio) => *ratio,
            None if (layer - self.first_ratios.len()).is_multiple_of(2) => 4,
            None => 128,
        }
    }

    fn n_hash_layer(&self) -> usize {
        self.n_hash_layer.min(self.n_layer)
    }

    /// The layer that quantisers spare: 26 of the 43 of Flash, and in fewer layers as far in.
    fn sensitive_layer(&self) -> usize {
        26 * self.n_layer / 43
    }

    /// The types of a layer's experts.
    fn experts(&self, layer: usize) -> Experts {
        match layer {
            _ if layer == self.sensitive_layer() => self.types.sensitive,
            _ if layer + 1 == self.n_layer => self.types.last,
            _ => self.types.experts,
        }
    }

    /// Puts the model's numbers and its vocabulary in `w`.
    pub fn put_metadata(&self, w: &mut Writer) {
        let key = |name: &str| format!("deepseek4.{name}");
        let (n_layer, head_dim) = (self.n_layer as u32, self.head_dim as u32);
        w.string("general.architecture", "deepseek4");
        for (name, value) in [
            ("block_count", n_layer),
            ("embedding_length", self.n_embd as u32),
            ("vocab_size", self.n_vocab as u32),
            ("context_length", self.n_ctx_train),
            ("attention.head_count", self.n_head as u32),
            ("attention.head_count_kv", 1),
            ("attention.key_length", head_dim),
            ("attention.value_length", head_dim),
            ("rope.dimension_count", self.n_rot),
            ("attention.q_lora_rank", self.n_lora_q as u32),
            ("attention.output_lora_rank", self.n_lora_o as u32),
            ("attention.output_group_count", self.n_group_o as u32),
            ("attention.sliding_window", self.window),
            ("attention.indexer.head_count", self.n_head_index as u32),
            ("attention.indexer.key_length", self.head_dim_index as u32),
            ("attention.indexer.top_k", self.top_k_index),
            ("expert_count", self.n_expert as u32),
            ("expert_used_count", self.n_expert_used as u32),
            ("expert_shared_count", 1),
            ("expert_feed_forward_length", self.n_ff_expert as u32),
            ("expert_gating_func", 4), // sqrt(softplus)
            ("hash_layer_count", self.n_hash_layer() as u32),
            ("hyper_connection.count", HC as u32),
            ("hyper_connection.sinkhorn_iterations", 20),
            ("rope.scaling.original_context_length", self.original_ctx),
        ] {
            w.u32(&key(name), value);
        }
        for (name, value) in [
            ("expert_weights_scale", self.expert_scale),
            ("rope.freq_base", 10_000.0),
            ("attention.compress_rope_freq_base", 160_000.0),
            ("rope.scaling.factor", 16.0),
            ("rope.scaling.yarn_beta_fast", 32.0),
            ("rope.scaling.yarn_beta_slow", 1.0),
            ("attention.layer_norm_rms_epsilon", 1e-6),
            ("hyper_connection.epsilon", 1e-6),
        ] {
            w.f32(&key(name), value);
        }
        w.bool(&key("expert_weights_norm"), true);
        w.string(&key("rope.scaling.type"), "yarn");
        let ratios: Vec<i32> = (0..self.n_layer).map(|l| self.ratio(l)).collect();
        w.i32_array(&key("attention.compress_ratios"), &ratios);
        let clamps = vec![self.clamp; self.n_layer];
        w.f32_array(&key("swiglu_clamp_exp"), &clamps);
        w.f32_array(&key("swiglu_clamp_shexp"), &clamps);

        let (tokens, types) = vocabulary(self.n_vocab);
        w.string("tokenizer.ggml.model", "gpt2");
        w.string("tokenizer.ggml.pre", "joyai-llm");
        w.string_array("tokenizer.ggml.tokens", &tokens);
        w.i32_array("tokenizer.ggml.token_type", &types);
        w.string_array::<&str>("tokenizer.ggml.merges", &[]);
        w.u32("tokenizer.ggml.bos_token_id", BOS);
        w.u32("tokenizer.ggml.eos_token_id", EOS);
        w.u32("tokenizer.ggml.padding_token_id", PAD);
    }

    /// Every tensor, in the order of the file.
    pub fn tensors(&self) -> Vec<Tensor> {
        use Format::F32;
        let (d, n_vocab, types) = (self.n_embd, self.n_vocab as u64, &self.types);
        let mut list = List {
            prefix: String::new(),
            hyper: types.hyper,
            tensors: Vec::new(),
        };
        list.random("token_embd.weight", &[d, n_vocab], types.embedding, 1.0);
        let eos = u64::from(EOS);
        let output = Content::Rows {
            sd: per_root(d),
            zero: (eos, eos + 1),
        };
        list.add("output.weight", &[d, n_vocab], types.output, output);
        let half = Content::UpperHalf { mean: GAINS.output };
        list.add("output_norm.weight", &[d], F32, half);
        list.hyper("output_hc", d, [HC as u64, HC as u64, 1]);
        for layer in 0..self.n_layer {
            list.prefix = format!("blk.{layer}.");
            self.put_attention(&mut list, layer);
            self.put_experts(&mut list, layer);
        }
        list.tensors
    }

    fn put_attention(&self, list: &mut List, layer: usize) {
        use Format::F32;
        let (d, lora) = (self.n_embd, self.n_lora_q);
        let (projection, compressor) = (self.types.projection, self.types.compressor);
        let q_width = self.n_head * self.head_dim;
        let (group, low) = (q_width / self.n_group_o, self.n_group_o * self.n_lora_o);
        let gain = match layer {
            0 => GAINS.first_attn / GAINS.key,
            _ => GAINS.attn / GAINS.key,
        };
        list.hyper("hc_attn", d, [HC_MIX as u64, HC_MIX as u64, 3]);
        list.norm("attn_norm.weight", d);
        list.matrix("attn_q_a.weight", d, lora, self.types.q_a);
        list.norm("attn_q_a_norm.weight", lora);
        list.matrix("attn_q_b.weight", lora, q_width, projection);
        list.matrix("attn_kv.weight", d, self.head_dim, projection);
        let keys = Content::Random {
            mean: GAINS.key,
            sd: 0.2 * GAINS.key,
        };
        list.add("attn_kv_a_norm.weight", &[self.head_dim], F32, keys);
        list.random("attn_sinks.weight", &[self.n_head], F32, 1.0);
        list.matrix("attn_output_a.weight", group, low, projection);
        let zero = match layer {
            0 => (d / 2, d),
            _ => (d, d),
        };
        let sd = gain * per_root(low);
        let output = Content::Rows { sd, zero };
        list.add("attn_output_b.weight", &[low, d], projection, output);
        let ratio = self.ratio(layer) as u64;
        let overlap = if ratio == 4 { 2 } else { 1 };
        if ratio != 0 {
            let shape = [d, self.head_dim, overlap, ratio];
            list.compressor("attn_compressor", shape, compressor);
        }
        if ratio == 4 {
            let width = self.n_head_index * self.head_dim_index;
            list.matrix("indexer.attn_q_b.weight", lora, width, compressor);
            list.matrix("indexer.proj.weight", d, self.n_head_index, compressor);
            let shape = [d, self.head_dim_index, overlap, ratio];
            list.compressor("indexer_compressor", shape, compressor);
        }
    }

    fn put_experts(&self, list: &mut List, layer: usize) {
        use Format::{F32, I32};
        let (d, ff, n) = (self.n_embd, self.n_ff_expert, self.n_expert as u64);
        list.hyper("hc_ffn", d, [HC_MIX as u64, HC_MIX as u64, 3]);
        list.norm("ffn_norm.weight", d);
        let router = GAINS.router * per_root(d);
        list.random("ffn_gate_inp.weight", &[d, n], self.types.router, router);
        if layer < self.n_hash_layer() {
            let table = Content::Table {
                exponent: GAINS.hash,
                n_expert: self.n_expert,
            };
            let dims = [self.n_expert_used as u64, self.n_vocab as u64];
            list.add("ffn_gate_tid2eid.weight", &dims, I32, table);
        } else {
            let bias = Content::Popularity { slope: GAINS.bias };
            list.add("exp_probs_b.bias", &[n], F32, bias);
        }
        let down = GAINS.expert / SWIGLU_RMS * per_root(ff);
        let experts = self.experts(layer);
        let gate_up = [experts.gate_up, self.types.gate_up_shared];
        for (name, dims, [routed, shared], sd) in [
            ("ffn_gate", [d, ff], gate_up, per_root(d)),
            ("ffn_up", [d, ff], gate_up, per_root(d)),
            (
                "ffn_down",
                [ff, d],
                [experts.down, self.types.down_shared],
                down,
            ),
        ] {
            let [cols, rows] = dims;
            let all = format!("{name}{EXPERTS_SUFFIX}");
            list.random(&all, &[cols, rows, n], routed, sd);
            list.random(&format!("{name}_shexp.weight"), &dims, shared, sd);
        }
    }
}

/// How the names of the tensors of routed experts end.
pub const EXPERTS_SUFFIX: &str = "_exps.weight";

/// Collects tensors.
struct List {
    prefix: String,
    /// The type of hyper-connections and position tables.
    hyper: Format,
    tensors: Vec<Tensor>,
}

impl List {
    fn add(&mut self, name: &str, dims: &[u64], format: Format, content: Content) {
        self.tensors.push(Tensor {
            name: format!("{}{name}", self.prefix),
            dims: dims.to_vec(),
            format,
            content,
        });
    }

    fn random(&mut self, name: &str, dims: &[u64], format: Format, sd: f32) {
        self.add(name, dims, format, Content::Random { mean: 0.0, sd });
    }

    /// A matrix that keeps the size of what it multiplies.
    fn matrix(&mut self, name: &str, cols: u64, rows: u64, format: Format) {
        self.random(name, &[cols, rows], format, per_root(cols));
    }

    fn norm(&mut self, name: &str, len: u64) {
        let content = Content::Random { mean: 1.0, sd: 0.2 };
        self.add(name, &[len], Format::F32, content);
    }

    /// A hyper-connection of `[logits, bases, scales]`.
    fn hyper(&mut self, name: &str, d: u64, [mix, base, scale]: [u64; 3]) {
        let width = HC as u64 * d;
        self.matrix(&format!("{name}_fn.weight"), width, mix, self.hyper);
        self.random(&format!("{name}_base.weight"), &[base], Format::F32, 0.7);
        let content = Content::Random { mean: 1.0, sd: 0.2 };
        self.add(
            &format!("{name}_scale.weight"),
            &[scale],
            Format::F32,
            content,
        );
    }

    /// A compressor to rows of `dim` channels.
    fn compressor(&mut self, name: &str, [d, dim, overlap, ratio]: [u64; 4], format: Format) {
        let width = overlap * dim;
        self.matrix(&format!("{name}_kv.weight"), d, width, format);
        self.matrix(&format!("{name}_gate.weight"), d, width, format);
        let ape = format!("{name}_ape.weight");
        self.random(&ape, &[width, ratio], self.hyper, 1.0);
        self.norm(&format!("{name}_norm.weight"), dim);
    }
}

/// `1 / sqrt(n)`.
fn per_root(n: u64) -> f32 {
    1.0 / f32::sqrt(n as f32)
}

/// `n` tokens, at least [`MIN_VOCAB`], and their types: the special ones, the bytes in the alphabet of GPT-2, then
/// made-up words, which a model may say but no text becomes, as there are no merges.
fn vocabulary(n: usize) -> (Vec<String>, Vec<i32>) {
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    let mut tokens: Vec<String> = SPECIALS.map(str::to_owned).to_vec();
    let mut stand_in = '\u{100}'..;
    for byte in 0..=255_u8 {
        let c = match byte {
            33..=126 | 161..=172 | 174..=255 => char::from(byte),
            _ => stand_in.next().unwrap_or('\u{143}'),
        };
        tokens.push(c.to_string());
    }
    tokens.extend((0..).map(word).take(n - MIN_VOCAB));
    let types = (0..n)
        .map(|id| if id < SPECIALS.len() { CONTROL } else { NORMAL })
        .collect();
    (tokens, types)
}

/// A word for each number: a space (`Ġ`) and one or more syllables.
fn word(mut number: usize) -> String {
    const CONSONANTS: &[u8] = b"bdfgklmnprstvz";
    const VOWELS: &[u8] = b"aeiou";
    let mut word = String::from('\u{120}');
    loop {
        let syllable = number % (CONSONANTS.len() * VOWELS.len());
        word.push(char::from(CONSONANTS[syllable / VOWELS.len()]));
        word.push(char::from(VOWELS[syllable % VOWELS.len()]));
        number /= CONSONANTS.len() * VOWELS.len();
        if number == 0 {
            return word;
        }
        number -= 1; // so that every word is written in one way only
    }
}
