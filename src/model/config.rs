//! The model's numbers, from the file's metadata, validated once.
//!
//! Source of names and meanings: the DeepSeek-V4 configuration and the GGUF keys `deepseek4.*`.

use crate::error::{Context, Error, ErrorKind, Result};
use crate::gguf::{Gguf, Value};
use std::fmt::Display;
use std::ops::RangeInclusive;

/// Residual streams of the hyper-connections.
pub const HC: usize = 4;

/// Mixing logits of a hyper-connection: one a stream on entry, one a stream on exit, and the square matrix.
pub const HC_MIX: usize = (2 + HC) * HC;

/// Architecture names this program computes.
const ARCHITECTURE: &str = "deepseek4";

/// The id of the router score sqrt(softplus(x)) in `expert_gating_func`.
const GATING_SQRT_SOFTPLUS: u32 = 4;

/// Ranges of the numbers. All products of two of them that the engine forms fit 64 bits by far, and each
/// is several times that of the largest published model.
struct Limits {
    n_layer: RangeInclusive<usize>,
    n_embd: RangeInclusive<usize>,
    n_vocab: RangeInclusive<usize>,
    n_ctx: RangeInclusive<usize>,
    /// Heads, of attention and indexer.
    n_head: RangeInclusive<usize>,
    /// Widths of a head, of attention and indexer.
    head_dim: RangeInclusive<usize>,
    /// Ranks of the low-rank projections.
    n_lora: RangeInclusive<usize>,
    window: RangeInclusive<usize>,
    top_k_index: RangeInclusive<usize>,
    n_expert: RangeInclusive<usize>,
    n_expert_used: RangeInclusive<usize>,
    n_ff: RangeInclusive<usize>,
    n_sinkhorn: RangeInclusive<usize>,
    /// Smallest and largest of the numbers with fractions.
    eps: RangeInclusive<f32>,
    scale: RangeInclusive<f32>,
    rope_base: RangeInclusive<f32>,
    yarn_factor: RangeInclusive<f32>,
    yarn_beta: RangeInclusive<f32>,
    clamp: RangeInclusive<f32>,
}

const LIMITS: Limits = Limits {
    n_layer: 1..=512,
    n_embd: 1..=1 << 16,
    n_vocab: 1..=1 << 22,
    n_ctx: 1..=1 << 26,
    n_head: 1..=1024,
    head_dim: 4..=4096,
    n_lora: 1..=1 << 16,
    window: 1..=1 << 16,
    top_k_index: 1..=1 << 16,
    n_expert: 1..=4096,
    n_expert_used: 1..=64,
    n_ff: 1..=1 << 16,
    n_sinkhorn: 1..=1000,
    eps: 1e-30..=0.1,
    scale: 1e-6..=1e6,
    rope_base: 1.001..=1e12, // its logarithm divides
    yarn_factor: 1.0..=1e6,
    yarn_beta: 1e-3..=1e6,
    clamp: 1e-6..=1e30,
};

/// The numbers of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Transformer blocks.
    pub n_layer: usize,
    /// Width of a residual stream.
    pub n_embd: usize,
    /// Rows of the embedding and of the output.
    pub n_vocab: usize,
    /// Positions the model was made for; a longer context is allowed and untested.
    pub n_ctx_train: usize,
    /// Query heads; there is one key head, and its keys are also the values.
    pub n_head: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rotated dimensions: the last ones of a head, of attention and indexer alike. Even.
    pub n_rot: usize,
    /// Rank of the query projection.
    pub n_lora_q: usize,
    /// Rank of the output projection, for each group.
    pub n_lora_o: usize,
    /// Groups of heads in the output projection; divides `n_head`.
    pub n_group_o: usize,
    /// Raw keys a query sees, its own included.
    pub window: usize,
    /// Heads of the indexer.
    pub n_head_index: usize,
    /// Width of a head of the indexer.
    pub head_dim_index: usize,
    /// Compressed rows the indexer selects.
    pub top_k_index: usize,
    /// Routed experts of a layer.
    pub n_expert: usize,
    /// Routed experts a token uses.
    pub n_expert_used: usize,
    /// Experts every token uses; always 1.
    pub n_expert_shared: usize,
    /// Width of an expert, routed or shared.
    pub n_ff_expert: usize,
    /// Sum of the weights of the routed experts of a token.
    pub expert_scale: f32,
    /// Layers, from the first, that choose experts by token id.
    pub n_hash_layer: usize,
    /// Rounds of Sinkhorn normalisation in a hyper-connection.
    pub n_sinkhorn: usize,
    /// Added in the hyper-connections.
    pub hc_eps: f32,
    /// Added under the root of every norm.
    pub rms_eps: f32,
    /// Base of the rotation in sliding layers.
    pub rope_base: f32,
    /// Base of the rotation in compressed layers, together with `yarn`.
    pub rope_base_compressed: f32,
    /// Frequency scaling of compressed layers.
    pub yarn: Yarn,
    /// What differs between layers; `n_layer` of them.
    pub layers: Vec<LayerConfig>,
}

/// Frequency scaling of rotations (YaRN without its magnitude factor).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// How much low frequencies are slowed; 1 changes nothing.
    pub factor: f32,
    /// Positions before scaling.
    pub original_ctx: usize,
    /// Frequencies with more turns than this in `original_ctx` stay.
    pub beta_fast: f32,
    /// Frequencies with fewer turns than this are slowed by the whole factor.
    pub beta_slow: f32,
}

/// The numbers of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerConfig {
    /// How it attends beyond the window.
    pub kind: LayerKind,
    /// Experts are chosen by token id, not by score.
    pub hash_routed: bool,
    /// Bound of the activations in routed experts.
    pub clamp_exp: f32,
    /// Bound of the activations in the shared expert.
    pub clamp_shared: f32,
}

/// How a layer attends beyond its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// Not at all.
    Sliding,
    /// Compressed sparse attention: overlapping windows of 4 tokens, of which an indexer selects some.
    Csa,
    /// Heavily compressed attention: windows of 128 tokens, all attended.
    Hca,
}

impl LayerKind {
    /// The kind with this compress ratio.
    fn from_ratio(ratio: u32) -> Result<LayerKind> {
        match ratio {
            0 => Ok(LayerKind::Sliding),
            4 => Ok(LayerKind::Csa),
            128 => Ok(LayerKind::Hca),
            _ => Err(Error::unsupported(format!(
                "compress ratio {ratio}, expected 0, 4 or 128"
            ))),
        }
    }

    /// Tokens that make one compressed row; `None` where there are none.
    pub fn ratio(self) -> Option<usize> {
        match self {
            LayerKind::Sliding => None,
            LayerKind::Csa => Some(4),
            LayerKind::Hca => Some(128),
        }
    }

    /// Values a compressor keeps of a token for each channel of its output: 2 where windows overlap.
    pub fn overlap(self) -> usize {
        match self {
            LayerKind::Csa => 2,
            LayerKind::Sliding | LayerKind::Hca => 1,
        }
    }
}

impl Config {
    /// Reads and checks the numbers of `gguf`.
    ///
    /// Errors: `Format` for missing keys and inconsistent numbers, `Limit` for absurd ones, `Unsupported` for
    /// an architecture or variant that is not computed here.
    pub fn from_gguf(gguf: &Gguf) -> Result<Config> {
        let architecture = gguf.string("general.architecture")?;
        if architecture != ARCHITECTURE {
            return Err(Error::unsupported(format!(
                "architecture {architecture}, expected {ARCHITECTURE}"
            )));
        }
        let keys = Keys(gguf);
        keys.refuse_other_variants()?;
        let n_layer = keys.count("block_count", &LIMITS.n_layer)?;
        let n_hash_layer = keys.count("hash_layer_count", &(0..=n_layer))?;
        let n_ctx_train = keys.count("context_length", &LIMITS.n_ctx)?;
        let config = Config {
            n_layer,
            n_embd: keys.count("embedding_length", &LIMITS.n_embd)?,
            n_vocab: keys.count("vocab_size", &LIMITS.n_vocab)?,
            n_ctx_train,
            n_head: keys.count("attention.head_count", &LIMITS.n_head)?,
            head_dim: keys.count("attention.key_length", &LIMITS.head_dim)?,
            n_rot: keys.count("rope.dimension_count", &(2..=*LIMITS.head_dim.end()))?,
            n_lora_q: keys.count("attention.q_lora_rank", &LIMITS.n_lora)?,
            n_lora_o: keys.count("attention.output_lora_rank", &LIMITS.n_lora)?,
            n_group_o: keys.count("attention.output_group_count", &LIMITS.n_head)?,
            window: keys.count("attention.sliding_window", &LIMITS.window)?,
            n_head_index: keys.count("attention.indexer.head_count", &LIMITS.n_head)?,
            head_dim_index: keys.count("attention.indexer.key_length", &LIMITS.head_dim)?,
            top_k_index: keys.count("attention.indexer.top_k", &LIMITS.top_k_index)?,
            n_expert: keys.count("expert_count", &LIMITS.n_expert)?,
            n_expert_used: keys.count("expert_used_count", &LIMITS.n_expert_used)?,
            n_expert_shared: keys.count("expert_shared_count", &(1..=1))?,
            n_ff_expert: keys.expert_width(n_layer)?,
            expert_scale: keys.number("expert_weights_scale", &LIMITS.scale)?,
            n_hash_layer,
            n_sinkhorn: keys.count("hyper_connection.sinkhorn_iterations", &LIMITS.n_sinkhorn)?,
            hc_eps: keys.number("hyper_connection.epsilon", &LIMITS.eps)?,
            rms_eps: keys.number("attention.layer_norm_rms_epsilon", &LIMITS.eps)?,
            rope_base: keys.number("rope.freq_base", &LIMITS.rope_base)?,
            rope_base_compressed: keys
                .number("attention.compress_rope_freq_base", &LIMITS.rope_base)?,
            yarn: keys.yarn(n_ctx_train)?,
            layers: keys.layers(n_layer, n_hash_layer)?,
        };
        config.check()?;
        Ok(config)
    }

    /// Values of all residual streams of a token.
    pub fn hc_width(&self) -> usize {
        HC * self.n_embd
    }

    /// Values of all query heads of a token.
    pub fn q_width(&self) -> usize {
        self.n_head * self.head_dim
    }

    /// Values of the heads of one output group.
    pub fn group_width(&self) -> usize {
        self.q_width() / self.n_group_o
    }

    /// How the numbers must fit together.
    fn check(&self) -> Result<()> {
        let rules = [
            (self.n_rot.is_multiple_of(2), "rope.dimension_count is odd"),
            (
                self.n_rot < self.head_dim,
                "attention.key_length is not above rope.dimension_count",
            ),
            (
                self.n_rot < self.head_dim_index,
                "attention.indexer.key_length is not above rope.dimension_count",
            ),
            (
                self.n_head.is_multiple_of(self.n_group_o),
                "attention.head_count is no multiple of attention.output_group_count",
            ),
            (
                self.n_expert_used <= self.n_expert,
                "expert_used_count is above expert_count",
            ),
            (
                self.yarn.beta_slow < self.yarn.beta_fast,
                "rope.scaling.yarn_beta_slow is not below yarn_beta_fast",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, fault)) => Err(Error::format(format!("{ARCHITECTURE}: {fault}"))),
            None => Ok(()),
        }
    }
}

/// The keys of the architecture; a name is given without its prefix.
struct Keys<'a>(&'a Gguf);

impl Keys<'_> {
    /// Refuses what would need other formulas than the ones computed here.
    fn refuse_other_variants(&self) -> Result<()> {
        self.expect("attention.head_count_kv", &[1], None)?;
        self.expect("hyper_connection.count", &[HC as u32], None)?;
        let gating = GATING_SQRT_SOFTPLUS;
        self.expect("expert_gating_func", &[gating], Some(gating))?;
        self.expect("expert_group_count", &[0, 1], Some(0))?;
        self.expect("expert_group_used_count", &[0, 1], Some(0))?;
        let (k, v) = ("attention.key_length", "attention.value_length");
        let key_length = self.0.u32(&key(k))?;
        self.expect(v, &[key_length], Some(key_length))?;
        if self.0.opt_bool(&key("expert_weights_norm"))? == Some(false) {
            return Err(self.other("expert_weights_norm", false, "true"));
        }
        Ok(())
    }

    /// An error unless the number of `name` is one of `known`.
    fn expect(&self, name: &str, known: &[u32], default: Option<u32>) -> Result<()> {
        let found = match (self.0.opt_u32(&key(name))?, default) {
            (Some(found), _) | (None, Some(found)) => found,
            (None, None) => self.0.u32(&key(name))?,
        };
        if known.contains(&found) {
            return Ok(());
        }
        let expected: Vec<_> = known.iter().map(u32::to_string).collect();
        Err(self.other(name, found, &expected.join(" or ")))
    }

    fn other(&self, name: &str, found: impl Display, expected: &str) -> Error {
        Error::unsupported(format!(
            "key {}: found {found}, expected {expected}",
            key(name)
        ))
    }

    /// A whole number within `range`.
    fn count(&self, name: &str, range: &RangeInclusive<usize>) -> Result<usize> {
        let value = self.0.u32(&key(name))? as usize;
        within(value, range).context(|| format!("key {}", key(name)))
    }

    /// A number within `range`.
    fn number(&self, name: &str, range: &RangeInclusive<f32>) -> Result<f32> {
        let value = self.0.f32(&key(name))?;
        within(value, range).context(|| format!("key {}", key(name)))
    }

    /// A number within `range`, or `default` where the key is missing.
    fn number_or(&self, name: &str, range: &RangeInclusive<f32>, default: f32) -> Result<f32> {
        match self.0.value(&key(name)) {
            Some(_) => self.number(name, range),
            None => Ok(default),
        }
    }

    /// The width of an expert, written once or for each layer.
    fn expert_width(&self, n_layer: usize) -> Result<usize> {
        let name = "expert_feed_forward_length";
        let widths = match self.0.value(&key(name)) {
            Some(Value::Uints(_) | Value::Ints(_)) => self.0.u32_array(&key(name))?,
            _ => return self.count(name, &LIMITS.n_ff),
        };
        let widths = first(name, &widths, n_layer)?;
        if widths.iter().any(|w| *w != widths[0]) {
            return Err(self.other(name, "different widths", "one width for all layers"));
        }
        within(widths[0] as usize, &LIMITS.n_ff).context(|| format!("key {}", key(name)))
    }

    fn yarn(&self, n_ctx_train: usize) -> Result<Yarn> {
        let factor = match self.0.opt_string(&key("rope.scaling.type"))? {
            Some("none") => 1.0,
            Some("yarn") | None => {
                self.number_or("rope.scaling.factor", &LIMITS.yarn_factor, 1.0)?
            }
            Some(other) => return Err(self.other("rope.scaling.type", other, "yarn or none")),
        };
        let original_ctx = if factor > 1.0 {
            self.count("rope.scaling.original_context_length", &LIMITS.n_ctx)?
        } else {
            n_ctx_train
        };
        // The defaults are those of the YaRN paper.
        let beta = |name, default| self.number_or(name, &LIMITS.yarn_beta, default);
        Ok(Yarn {
            factor,
            original_ctx,
            beta_fast: beta("rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: beta("rope.scaling.yarn_beta_slow", 1.0)?,
        })
    }

    fn layers(&self, n_layer: usize, n_hash_layer: usize) -> Result<Vec<LayerConfig>> {
        let name = "attention.compress_ratios";
        let ratios = self.0.u32_array(&key(name))?;
        let ratios = first(name, &ratios, n_layer)?;
        let clamp_exp = self.clamps("swiglu_clamp_exp", n_layer)?;
        let clamp_shared = match self.0.value(&key("swiglu_clamp_shexp")) {
            Some(_) => self.clamps("swiglu_clamp_shexp", n_layer)?,
            None => clamp_exp.clone(),
        };
        (0..n_layer)
            .map(|layer| {
                Ok(LayerConfig {
                    kind: LayerKind::from_ratio(ratios[layer])
                        .context(|| format!("key {}: layer {layer}", key(name)))?,
                    hash_routed: layer < n_hash_layer,
                    clamp_exp: clamp_exp[layer],
                    clamp_shared: clamp_shared[layer],
                })
            })
            .collect()
    }

    /// The bounds of activations, written once or for each layer; `n_layer` of them.
    fn clamps(&self, name: &str, n_layer: usize) -> Result<Vec<f32>> {
        let clamps = match self.0.value(&key(name)) {
            Some(Value::Float(_) | Value::Uint(_) | Value::Int(_)) => {
                vec![self.0.f32(&key(name))?; n_layer]
            }
            _ => first(name, &self.0.f32_array(&key(name))?, n_layer)?.to_vec(),
        };
        for (layer, clamp) in clamps.iter().enumerate() {
            within(*clamp, &LIMITS.clamp)
                .context(|| format!("key {}: layer {layer}", key(name)))?;
        }
        Ok(clamps)
    }
}

fn key(name: &str) -> String {
    format!("{ARCHITECTURE}.{name}")
}

/// The first `n` elements; files may hold more, for layers that are not part of the main model.
fn first<'a, T>(name: &str, elements: &'a [T], n: usize) -> Result<&'a [T]> {
    elements.get(..n).ok_or_else(|| {
        let (name, found) = (key(name), elements.len());
        Error::format(format!(
            "key {name}: found {found} elements, expected at least {n}"
        ))
    })
}

fn within<T: PartialOrd + Display>(value: T, range: &RangeInclusive<T>) -> Result<T> {
    if range.contains(&value) {
        return Ok(value); // never a NaN: it compares with nothing
    }
    let (low, high) = (range.start(), range.end());
    Err(Error::new(
        ErrorKind::Limit,
        format!("found {value}, expected {low} to {high}"),
    ))
}
