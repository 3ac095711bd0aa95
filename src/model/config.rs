//! The model's numbers, from the file's metadata and the shapes of its tensors, validated once.
//!
//! Source of names and meanings: the DeepSeek-V4 configuration and the GGUF keys `deepseek4.*`.

use super::keys::Keys;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use std::ops::RangeInclusive;

/// Residual streams of the hyper-connections.
pub const HC: usize = 4;

/// Mixing logits of a hyper-connection: one a stream on entry, one a stream on exit, and the square matrix.
pub const HC_MIX: usize = (2 + HC) * HC;

/// The architecture this program computes.
pub(super) const ARCHITECTURE: &str = "deepseek4";

/// Ranges of the numbers. All products of two of them that the engine forms fit 64 bits by far, and each
/// is several times that of the largest published model.
pub(super) struct Limits {
    pub(super) n_layer: RangeInclusive<usize>,
    pub(super) n_embd: RangeInclusive<usize>,
    pub(super) n_vocab: RangeInclusive<usize>,
    pub(super) n_ctx: RangeInclusive<usize>,
    /// Heads, of attention and indexer.
    pub(super) n_head: RangeInclusive<usize>,
    /// Widths of a head, of attention and indexer.
    pub(super) head_dim: RangeInclusive<usize>,
    /// Ranks of the low-rank projections.
    pub(super) n_lora: RangeInclusive<usize>,
    pub(super) window: RangeInclusive<usize>,
    pub(super) top_k_index: RangeInclusive<usize>,
    pub(super) n_expert: RangeInclusive<usize>,
    pub(super) n_expert_used: RangeInclusive<usize>,
    pub(super) n_ff: RangeInclusive<usize>,
    pub(super) n_sinkhorn: RangeInclusive<usize>,
    /// Smallest and largest of the numbers with fractions.
    pub(super) eps: RangeInclusive<f32>,
    pub(super) scale: RangeInclusive<f32>,
    pub(super) rope_base: RangeInclusive<f32>,
    pub(super) yarn_factor: RangeInclusive<f32>,
    pub(super) yarn_beta: RangeInclusive<f32>,
    pub(super) clamp: RangeInclusive<f32>,
}

pub(super) const LIMITS: Limits = Limits {
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
    pub(super) fn from_ratio(ratio: u32) -> Result<LayerKind> {
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
        let n_layer = keys.n_layer()?;
        let n_hash_layer = keys.n_hash_layer(n_layer)?;
        let n_ctx_train = keys.count("context_length", &LIMITS.n_ctx)?;
        let layers = keys.layers(n_layer, n_hash_layer)?;
        let in_first = |name: &str| format!("blk.0.{name}.weight");
        let sized = |name, range, tensor: &str, axis| keys.sized(name, range, tensor, axis);
        let n_embd = sized("embedding_length", &LIMITS.n_embd, "token_embd.weight", 0)?;
        let n_head = sized(
            "attention.head_count",
            &LIMITS.n_head,
            &in_first("attn_sinks"),
            0,
        )?;
        let head_dim = sized(
            "attention.key_length",
            &LIMITS.head_dim,
            &in_first("attn_kv"),
            1,
        )?;
        keys.expect(
            "attention.value_length",
            &[head_dim as u32],
            head_dim as u32,
        )?;
        let streams = (HC * n_embd) as u32;
        keys.expect("embedding_length_out", &[streams], streams)?;
        let (n_group_o, n_lora_o) = keys.output_groups(n_head * head_dim)?;
        let (n_head_index, head_dim_index) = keys.indexer(&layers)?;
        let n_ff_expert = keys.expert_width(n_layer)?;
        let config = Config {
            n_layer,
            n_embd,
            n_vocab: keys.n_vocab()?,
            n_ctx_train,
            n_head,
            head_dim,
            n_rot: keys.count("rope.dimension_count", &(2..=*LIMITS.head_dim.end()))?,
            n_lora_q: sized(
                "attention.q_lora_rank",
                &LIMITS.n_lora,
                &in_first("attn_q_a"),
                1,
            )?,
            n_lora_o,
            n_group_o,
            window: keys.count("attention.sliding_window", &LIMITS.window)?,
            n_head_index,
            head_dim_index,
            top_k_index: keys.count("attention.indexer.top_k", &LIMITS.top_k_index)?,
            n_expert: sized(
                "expert_count",
                &LIMITS.n_expert,
                &in_first("ffn_gate_exps"),
                2,
            )?,
            // Only a table of experts by token id tells it too.
            n_expert_used: sized(
                "expert_used_count",
                &LIMITS.n_expert_used,
                &in_first("ffn_gate_tid2eid"),
                0,
            )?,
            n_expert_shared: keys.n_expert_shared(n_ff_expert)?,
            n_ff_expert,
            expert_scale: keys.number("expert_weights_scale", &LIMITS.scale)?,
            n_hash_layer,
            n_sinkhorn: keys.count("hyper_connection.sinkhorn_iterations", &LIMITS.n_sinkhorn)?,
            hc_eps: keys.number("hyper_connection.epsilon", &LIMITS.eps)?,
            rms_eps: keys.number("attention.layer_norm_rms_epsilon", &LIMITS.eps)?,
            rope_base: keys.number("rope.freq_base", &LIMITS.rope_base)?,
            rope_base_compressed: keys
                .number("attention.compress_rope_freq_base", &LIMITS.rope_base)?,
            yarn: keys.yarn(n_ctx_train)?,
            layers,
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
