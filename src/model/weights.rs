//! The model's tensors by meaning. Shapes and formats are checked here, once.
//!
//! Shapes are `[rows, cols]`: a matrix maps `cols` inputs to `rows` outputs, and its rows are contiguous.
//! A GGUF file lists the same dimensions the other way round.

use super::config::{Config, HC, HC_MIX, LayerConfig, LayerKind};
use super::experts::{ExpertMap, ExpertTensor, LayerExperts};
use super::keys::block_of;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::quant::Format;
use crate::units::{Bytes, Extent};
use std::collections::{BTreeMap, HashSet};

/// Formats that a kernel multiplies: all but tables of ids.
const MATRIX_FORMATS: &[Format] = &{
    let mut formats = [Format::F32; Format::ALL.len() - 1];
    let (mut n, mut i) = (0, 0);
    while i < Format::ALL.len() {
        if !matches!(Format::ALL[i], Format::I32) {
            formats[n] = Format::ALL[i];
            n += 1;
        }
        i += 1;
    }
    formats
};

/// Formats of what is used element by element.
const VECTOR_FORMATS: &[Format] = &[Format::F32, Format::F16, Format::Bf16];

/// Formats of tables of ids.
const ID_FORMATS: &[Format] = &[Format::I32];

/// A tensor of two dimensions.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Its name in the file.
    pub name: String,
    /// How its elements are stored.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs: elements of a row, a whole number of blocks.
    pub cols: usize,
    /// Where it lies in the file.
    pub extent: Extent,
}

/// A tensor of one dimension, of F32, F16 or BF16.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector {
    /// Its name in the file.
    pub name: String,
    /// How its elements are stored.
    pub format: Format,
    /// Elements.
    pub len: usize,
    /// Where it lies in the file.
    pub extent: Extent,
}

/// Every tensor of the model except the routed experts.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Token embedding `[n_vocab, n_embd]`.
    pub token_embd: Matrix,
    /// Output head `[n_vocab, n_embd]`.
    pub output: Matrix,
    /// Norm before the output head `[n_embd]`.
    pub output_norm: Vector,
    /// Merges the residual streams before the output: mix `[HC, HC * n_embd]`, base `[HC]`, scale `[1]`.
    pub output_hc: Hyper,
    /// One for each layer.
    pub layers: Vec<LayerWeights>,
    /// The extents of all of these tensors, in the order of binding.
    pub extents: Vec<Extent>,
}

impl Weights {
    /// Every matrix that is multiplied, tables of ids and of positions aside.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let root = [&self.token_embd, &self.output, &self.output_hc.mix];
        root.into_iter()
            .chain(self.layers.iter().flat_map(LayerWeights::matrices))
    }

    /// Bytes of all norms, biases and position tables as f32, the form in which they are used.
    pub fn vector_bytes(&self) -> u64 {
        let compressor = |c: &Compressor| c.ape.rows * c.ape.cols + c.norm.len;
        let layer = |l: &LayerWeights| {
            let hyper = l.hc_attn.base.len + l.hc_ffn.base.len;
            let attn = &l.attn;
            let attention = attn.norm.len + attn.q_a_norm.len + attn.kv_norm.len + attn.sinks.len;
            let index = l.indexer.as_ref().map(|i| &i.compressor);
            let rows: usize = l.compressor.iter().chain(index).map(compressor).sum();
            let bias = match &l.moe.choice {
                ExpertChoice::Score(bias) => bias.len,
                ExpertChoice::Hash(_) => 0,
            };
            hyper + attention + rows + bias + l.moe.norm.len
        };
        let layers: usize = self.layers.iter().map(layer).sum();
        4 * (layers + self.output_norm.len + self.output_hc.base.len) as u64
    }
}

/// The tensors of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerWeights {
    /// Hyper-connection around the attention.
    pub hc_attn: Hyper,
    /// Attention.
    pub attn: Attention,
    /// Makes compressed rows; in CSA and HCA layers.
    pub compressor: Option<Compressor>,
    /// Selects compressed rows; in CSA layers.
    pub indexer: Option<Indexer>,
    /// Hyper-connection around the experts.
    pub hc_ffn: Hyper,
    /// Router and shared expert.
    pub moe: Moe,
}

impl LayerWeights {
    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let (attn, moe) = (&self.attn, &self.moe);
        let all = [&self.hc_attn.mix, &self.hc_ffn.mix, &attn.q_a, &attn.q_b];
        let all = all.into_iter().chain([&attn.kv, &attn.output_a]);
        let all = all.chain([&attn.output_b, &moe.router, &moe.gate_shared]);
        let all = all.chain([&moe.up_shared, &moe.down_shared]);
        let rows = self.compressor.iter();
        let rows = rows.chain(self.indexer.iter().map(|i| &i.compressor));
        all.chain(rows.flat_map(|c| [&c.kv, &c.gate]))
            .chain(self.indexer.iter().flat_map(|i| [&i.q_b, &i.proj]))
    }
}

/// A hyper-connection: mix `[HC_MIX, HC * n_embd]`, base `[HC_MIX]`, scale `[3]` unless said otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Hyper {
    /// Mixing logits from the normed streams.
    pub mix: Matrix,
    /// Added to the logits.
    pub base: Vector,
    /// Factors of the logits' parts.
    pub scale: Vector,
}

/// The attention of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Norm of the input `[n_embd]`.
    pub norm: Vector,
    /// Query, down `[n_lora_q, n_embd]`.
    pub q_a: Matrix,
    /// Norm between the two `[n_lora_q]`.
    pub q_a_norm: Vector,
    /// Query, up `[n_head * head_dim, n_lora_q]`.
    pub q_b: Matrix,
    /// Key, which is also the value `[head_dim, n_embd]`.
    pub kv: Matrix,
    /// Norm of the key `[head_dim]`.
    pub kv_norm: Vector,
    /// Logit of attending to nothing, for each head `[n_head]`.
    pub sinks: Vector,
    /// Output, down: group t has rows t * n_lora_o .. `[n_group_o * n_lora_o, n_head * head_dim / n_group_o]`.
    pub output_a: Matrix,
    /// Output, up `[n_embd, n_group_o * n_lora_o]`.
    pub output_b: Matrix,
}

/// A compressor of d channels; width is d, or 2 d where windows overlap.
#[derive(Clone, Debug, PartialEq)]
pub struct Compressor {
    /// Values `[width, n_embd]`.
    pub kv: Matrix,
    /// Scores `[width, n_embd]`.
    pub gate: Matrix,
    /// Added to the scores by position in the window `[ratio, width]`. llama.cpp quantises it like a matrix.
    pub ape: Matrix,
    /// Norm of the compressed row `[d]`.
    pub norm: Vector,
}

/// The indexer of a CSA layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Indexer {
    /// Query, from the normed low-rank query `[n_head_index * head_dim_index, n_lora_q]`.
    pub q_b: Matrix,
    /// Weights of the heads `[n_head_index, n_embd]`.
    pub proj: Matrix,
    /// Makes the indexer's keys, d = head_dim_index.
    pub compressor: Compressor,
}

/// The router and shared expert of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Moe {
    /// Norm of the input `[n_embd]`.
    pub norm: Vector,
    /// Scores of the routed experts `[n_expert, n_embd]`.
    pub router: Matrix,
    /// How experts are chosen.
    pub choice: ExpertChoice,
    /// Shared expert, gate `[n_ff_expert, n_embd]`.
    pub gate_shared: Matrix,
    /// Shared expert, up `[n_ff_expert, n_embd]`.
    pub up_shared: Matrix,
    /// Shared expert, down `[n_embd, n_ff_expert]`.
    pub down_shared: Matrix,
}

/// How a layer chooses routed experts.
#[derive(Clone, Debug, PartialEq)]
pub enum ExpertChoice {
    /// The largest of score + bias `[n_expert]`.
    Score(Vector),
    /// By token id, of I32 `[n_vocab, n_expert_used]`. The ids themselves are unchecked data.
    Hash(Matrix),
}

/// Binds all tensors of `gguf`; with notes on those that are not used.
///
/// Errors: `Format` for a missing tensor or a wrong shape, `Unsupported` for a format without a kernel.
pub(super) fn bind(gguf: &Gguf, config: &Config) -> Result<(Weights, ExpertMap, Vec<String>)> {
    let mut binder = Binder {
        gguf,
        bound: HashSet::new(),
        extents: Vec::new(),
    };
    let b = &mut binder;
    let c = config;
    let token_embd = b.matrix("token_embd.weight", c.n_vocab, c.n_embd)?;
    let output = b.matrix("output.weight", c.n_vocab, c.n_embd)?;
    let output_norm = b.vector("output_norm.weight", c.n_embd)?;
    let output_hc = b.hyper("output_hc", c, [HC, HC, 1])?;
    let mut layers = Vec::with_capacity(c.n_layer);
    let mut experts = Vec::with_capacity(c.n_layer);
    for (index, layer) in c.layers.iter().enumerate() {
        layers.push(bind_layer(b, c, index, *layer)?);
        experts.push(bind_experts(b, c, index)?);
    }
    let experts = ExpertMap {
        n_expert: c.n_expert,
        layers: experts,
    };
    let notes = b.unused_notes(c.n_layer);
    let weights = Weights {
        token_embd,
        output,
        output_norm,
        output_hc,
        layers,
        extents: binder.extents,
    };
    Ok((weights, experts, notes))
}

fn bind_layer(
    b: &mut Binder,
    c: &Config,
    index: usize,
    layer: LayerConfig,
) -> Result<LayerWeights> {
    let blk = |name: &str| format!("blk.{index}.{name}");
    let w = |name: &str| format!("blk.{index}.{name}.weight");
    let low_o = c.n_group_o * c.n_lora_o;
    Ok(LayerWeights {
        hc_attn: b.hyper(&blk("hc_attn"), c, [HC_MIX, HC_MIX, 3])?,
        attn: Attention {
            norm: b.vector(&w("attn_norm"), c.n_embd)?,
            q_a: b.matrix(&w("attn_q_a"), c.n_lora_q, c.n_embd)?,
            q_a_norm: b.vector(&w("attn_q_a_norm"), c.n_lora_q)?,
            q_b: b.matrix(&w("attn_q_b"), c.q_width(), c.n_lora_q)?,
            kv: b.matrix(&w("attn_kv"), c.head_dim, c.n_embd)?,
            kv_norm: b.vector(&w("attn_kv_a_norm"), c.head_dim)?,
            sinks: b.vector(&w("attn_sinks"), c.n_head)?,
            output_a: b.matrix(&w("attn_output_a"), low_o, c.group_width())?,
            output_b: b.matrix(&w("attn_output_b"), c.n_embd, low_o)?,
        },
        compressor: match layer.kind.ratio() {
            Some(_) => Some(b.compressor(&blk("attn_compressor"), c, layer.kind, c.head_dim)?),
            None => None,
        },
        indexer: match layer.kind {
            LayerKind::Csa => Some(Indexer {
                q_b: b.matrix(
                    &w("indexer.attn_q_b"),
                    c.n_head_index * c.head_dim_index,
                    c.n_lora_q,
                )?,
                proj: b.matrix(&w("indexer.proj"), c.n_head_index, c.n_embd)?,
                compressor: b.compressor(
                    &blk("indexer_compressor"),
                    c,
                    layer.kind,
                    c.head_dim_index,
                )?,
            }),
            LayerKind::Sliding | LayerKind::Hca => None,
        },
        hc_ffn: b.hyper(&blk("hc_ffn"), c, [HC_MIX, HC_MIX, 3])?,
        moe: Moe {
            norm: b.vector(&w("ffn_norm"), c.n_embd)?,
            router: b.matrix(&w("ffn_gate_inp"), c.n_expert, c.n_embd)?,
            choice: if layer.hash_routed {
                b.ignore(&blk("exp_probs_b.bias")); // some files carry one that is not used
                let table = w("ffn_gate_tid2eid");
                ExpertChoice::Hash(b.table(&table, c.n_vocab, c.n_expert_used, ID_FORMATS)?)
            } else {
                ExpertChoice::Score(b.vector(&blk("exp_probs_b.bias"), c.n_expert)?)
            },
            gate_shared: b.matrix(&w("ffn_gate_shexp"), c.n_ff_expert, c.n_embd)?,
            up_shared: b.matrix(&w("ffn_up_shexp"), c.n_ff_expert, c.n_embd)?,
            down_shared: b.matrix(&w("ffn_down_shexp"), c.n_embd, c.n_ff_expert)?,
        },
    })
}

fn bind_experts(b: &mut Binder, c: &Config, index: usize) -> Result<LayerExperts> {
    let w = |name: &str| format!("blk.{index}.{name}.weight");
    let gate = b.experts(&w("ffn_gate_exps"), c.n_ff_expert, c.n_embd, c.n_expert)?;
    let up = b.experts(&w("ffn_up_exps"), c.n_ff_expert, c.n_embd, c.n_expert)?;
    let down = b.experts(&w("ffn_down_exps"), c.n_embd, c.n_ff_expert, c.n_expert)?;
    Ok(LayerExperts { gate, up, down })
}

/// Finds tensors by name and remembers which were used.
struct Binder<'a> {
    gguf: &'a Gguf,
    bound: HashSet<String>,
    /// Of all tensors but the routed experts.
    extents: Vec<Extent>,
}

impl Binder<'_> {
    /// The tensor `name` with exactly these dimensions, fastest first, in one of `formats`.
    fn find(&mut self, name: &str, dims: &[usize], formats: &[Format]) -> Result<(Format, Extent)> {
        let tensor = self
            .gguf
            .tensor(name)
            .ok_or_else(|| Error::format(format!("tensor {name} is missing")))?;
        let expected: Vec<u64> = dims.iter().map(|n| *n as u64).collect();
        if without_ones(&tensor.dims) != without_ones(&expected) {
            let found = &tensor.dims;
            return Err(Error::format(format!(
                "tensor {name}: dims {found:?}, expected {expected:?}"
            )));
        }
        if !formats.contains(&tensor.format) {
            let known: Vec<_> = formats.iter().map(|f| f.name()).collect();
            return Err(Error::unsupported(format!(
                "tensor {name}: type {}, expected one of {}",
                tensor.format.name(),
                known.join(" ")
            )));
        }
        self.bound.insert(name.to_owned());
        Ok((tensor.format, tensor.extent))
    }

    /// A tensor of two dimensions in one of `formats`.
    fn table(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        formats: &[Format],
    ) -> Result<Matrix> {
        let (format, extent) = self.find(name, &[cols, rows], formats)?;
        self.extents.push(extent);
        Ok(Matrix {
            name: name.to_owned(),
            format,
            rows,
            cols,
            extent,
        })
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        self.table(name, rows, cols, MATRIX_FORMATS)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vector> {
        let (format, extent) = self.find(name, &[len], VECTOR_FORMATS)?;
        self.extents.push(extent);
        Ok(Vector {
            name: name.to_owned(),
            format,
            len,
            extent,
        })
    }

    /// A hyper-connection of `[logits, bases, scales]`.
    fn hyper(&mut self, prefix: &str, c: &Config, [mix, base, scale]: [usize; 3]) -> Result<Hyper> {
        Ok(Hyper {
            mix: self.matrix(&format!("{prefix}_fn.weight"), mix, c.hc_width())?,
            base: self.vector(&format!("{prefix}_base.weight"), base)?,
            scale: self.vector(&format!("{prefix}_scale.weight"), scale)?,
        })
    }

    /// A compressor to rows of `dim` channels.
    fn compressor(
        &mut self,
        prefix: &str,
        c: &Config,
        kind: LayerKind,
        dim: usize,
    ) -> Result<Compressor> {
        let width = kind.overlap() * dim;
        let ratio = kind.ratio().unwrap_or(1);
        let ape = format!("{prefix}_ape.weight");
        Ok(Compressor {
            kv: self.matrix(&format!("{prefix}_kv.weight"), width, c.n_embd)?,
            gate: self.matrix(&format!("{prefix}_gate.weight"), width, c.n_embd)?,
            ape: self.matrix(&ape, ratio, width)?,
            norm: self.vector(&format!("{prefix}_norm.weight"), dim)?,
        })
    }

    /// A stack of `n_expert` matrices.
    fn experts(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        n_expert: usize,
    ) -> Result<ExpertTensor> {
        let (format, extent) = self.find(name, &[cols, rows, n_expert], MATRIX_FORMATS)?;
        Ok(ExpertTensor {
            name: name.to_owned(),
            format,
            rows,
            cols,
            extent,
            slice_bytes: extent.len / n_expert as u64, // exact: the shape says so
        })
    }

    /// Counts a tensor as used that may be there and means nothing here.
    fn ignore(&mut self, name: &str) {
        self.bound.insert(name.to_owned());
    }

    /// Names tensors of the file that are not used: each block after the `n_layer` layers, and what has no meaning here.
    fn unused_notes(&self, n_layer: usize) -> Vec<String> {
        let mut blocks: BTreeMap<usize, (usize, u64)> = BTreeMap::new();
        let mut others = Vec::new();
        for tensor in &self.gguf.tensors {
            if self.bound.contains(&tensor.name) {
                continue;
            }
            match block_of(&tensor.name) {
                Some((block, _)) if block >= n_layer => {
                    let (n, bytes) = blocks.entry(block).or_default();
                    *n += 1;
                    *bytes = bytes.saturating_add(tensor.extent.len);
                }
                _ => others.push(&tensor.name),
            }
        }
        let mut notes: Vec<String> = blocks
            .into_iter()
            .map(|(block, (n, bytes))| {
                format!(
                    "block {block} predicts further tokens (nextn) and is not used: {n} tensors, {}",
                    Bytes(bytes)
                )
            })
            .collect();
        if let Some(first) = others.first() {
            notes.push(format!(
                "{} tensors are not used, first {first}",
                others.len()
            ));
        }
        notes
    }
}

/// `dims` without the ones at the end, which only fill up the number of dimensions.
fn without_ones(dims: &[u64]) -> &[u64] {
    let kept = dims.iter().rposition(|n| *n != 1).map_or(0, |at| at + 1);
    &dims[..kept]
}
