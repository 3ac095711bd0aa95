//! The fixed weights, placed where a backend's kernels read them.

use super::kv::RowForms;
use crate::backend::{Backend, ExpertShape, HyperHead, HyperSite, RowForm};
use crate::error::{Context, Error, Result};
use crate::model::Model;
use crate::model::config::{Config, LayerKind};
use crate::model::experts::LayerExperts;
use crate::model::weights::{self as model, ExpertChoice};
use crate::options::KvFormat;
use crate::os::Slice;
use crate::quant::blocks;
use crate::supply::fixed::Fixed;
use crate::units::{ExpertId, TokenId};

/// All weights but the routed experts.
pub struct Weights<B: Backend> {
    pub(super) embed: B::Matrix,
    pub(super) layers: Vec<Layer<B>>,
    pub(super) head: HyperHead<B>,
    pub(super) output: B::Matrix,
}

pub(super) struct Layer<B: Backend> {
    pub attn_site: HyperSite<B>,
    pub attention: Attention<B>,
    pub moe_site: HyperSite<B>,
    pub moe: Moe<B>,
}

pub(super) struct Attention<B: Backend> {
    pub kind: LayerKind,
    pub q_a: B::Matrix,
    pub q_a_norm: B::Buffer,
    pub q_b: B::Matrix,
    pub kv: B::Matrix,
    pub kv_norm: B::Buffer,
    pub sinks: B::Buffer,
    pub output_a: B::Matrix,
    pub output_b: B::Matrix,
    pub compressor: Option<Compressor<B>>,
    pub indexer: Option<Indexer<B>>,
    /// How indexer rows, and with them the indexer's queries, are rounded.
    pub index_form: RowForm,
}

pub(super) struct Compressor<B: Backend> {
    pub kv: B::Matrix,
    pub gate: B::Matrix,
    pub ape: B::Buffer,
    pub norm: B::Buffer,
}

pub(super) struct Indexer<B: Backend> {
    pub q_b: B::Matrix,
    pub proj: B::Matrix,
    pub compressor: Compressor<B>,
}

pub(super) struct Moe<B: Backend> {
    pub router: B::Matrix,
    pub bias: Option<B::Buffer>,
    pub hash: Option<HashTable>,
    pub shape: ExpertShape,
    pub gate_shared: B::Matrix,
    pub up_shared: B::Matrix,
    pub down_shared: B::Matrix,
    pub clamp_shared: f32,
}

/// Experts of each token id in a hash-routed layer, `[n_vocab, n_expert_used]` i32; every id was checked.
pub(super) struct HashTable {
    ids: Slice,
    n_used: usize,
}

impl HashTable {
    /// The experts of a token.
    pub fn experts(&self, token: TokenId) -> impl Iterator<Item = ExpertId> {
        let row = 4 * self.n_used;
        let bytes = &self.ids.bytes()[token.0 as usize * row..][..row];
        bytes
            .chunks_exact(4)
            .map(|b| ExpertId(u32::from_le_bytes([b[0], b[1], b[2], b[3]])))
    }

    fn check(ids: Slice, n_used: usize, n_expert: usize) -> Result<HashTable> {
        let numbers = ids
            .bytes()
            .chunks_exact(4)
            .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        for (i, id) in numbers.enumerate() {
            if usize::try_from(id).is_ok_and(|id| id < n_expert) {
                continue;
            }
            let token = i / n_used;
            return Err(Error::format(format!(
                "token {token}: expert {id}, expected 0..{n_expert}"
            )));
        }
        Ok(HashTable { ids, n_used })
    }
}

/// Places tensors on a backend.
struct Loader<'a, B: Backend> {
    backend: &'a mut B,
    fixed: &'a Fixed,
}

impl<B: Backend> Loader<'_, B> {
    fn matrix(&mut self, m: &model::Matrix) -> Result<B::Matrix> {
        let data = self.fixed.slice(m.extent)?;
        self.backend
            .matrix(m.format, m.rows, m.cols, data)
            .context(|| format!("tensor {}", m.name))
    }

    fn values(&mut self, v: &model::Vector) -> Result<Vec<f32>> {
        let mut values = vec![0.0; v.len];
        blocks::dequantize_row(v.format, self.fixed.slice(v.extent)?.bytes(), &mut values);
        Ok(values)
    }

    fn vector(&mut self, v: &model::Vector) -> Result<B::Buffer> {
        let values = self.values(v)?;
        let mut buffer = self.backend.buffer(values.len())?;
        self.backend.write(&mut buffer, &values)?;
        Ok(buffer)
    }

    /// A small matrix as f32 values, `[rows, cols]`.
    fn table(&mut self, m: &model::Matrix) -> Result<B::Buffer> {
        let bytes = self.fixed.slice(m.extent)?;
        let mut values = vec![0.0; m.rows * m.cols];
        blocks::dequantize_row(m.format, bytes.bytes(), &mut values);
        let mut buffer = self.backend.buffer(values.len())?;
        self.backend.write(&mut buffer, &values)?;
        Ok(buffer)
    }

    fn site(&mut self, site: &model::Hyper, norm: &model::Vector) -> Result<HyperSite<B>> {
        let scale = self.values(&site.scale)?;
        Ok(HyperSite {
            mixer: self.matrix(&site.mix)?,
            base: self.vector(&site.base)?,
            scale: [scale[0], scale[1], scale[2]],
            norm: self.vector(norm)?,
        })
    }

    fn compressor(&mut self, c: &model::Compressor) -> Result<Compressor<B>> {
        Ok(Compressor {
            kv: self.matrix(&c.kv)?,
            gate: self.matrix(&c.gate)?,
            ape: self.table(&c.ape)?,
            norm: self.vector(&c.norm)?,
        })
    }

    fn attention(
        &mut self,
        layer: &model::LayerWeights,
        kind: LayerKind,
        index_form: RowForm,
    ) -> Result<Attention<B>> {
        let w = &layer.attn;
        let compressor = layer
            .compressor
            .as_ref()
            .map(|c| self.compressor(c))
            .transpose()?;
        let indexer = layer.indexer.as_ref().map(|i| {
            Ok(Indexer {
                q_b: self.matrix(&i.q_b)?,
                proj: self.matrix(&i.proj)?,
                compressor: self.compressor(&i.compressor)?,
            })
        });
        let indexer = indexer.transpose()?;
        Ok(Attention {
            kind,
            q_a: self.matrix(&w.q_a)?,
            q_a_norm: self.vector(&w.q_a_norm)?,
            q_b: self.matrix(&w.q_b)?,
            kv: self.matrix(&w.kv)?,
            kv_norm: self.vector(&w.kv_norm)?,
            sinks: self.vector(&w.sinks)?,
            output_a: self.matrix(&w.output_a)?,
            output_b: self.matrix(&w.output_b)?,
            compressor,
            indexer,
            index_form,
        })
    }

    fn moe(
        &mut self,
        c: &Config,
        l: usize,
        w: &model::Moe,
        experts: &LayerExperts,
    ) -> Result<Moe<B>> {
        let layer = &c.layers[l];
        let (mut bias, mut hash) = (None, None);
        match &w.choice {
            ExpertChoice::Score(b) => bias = Some(self.vector(b)?),
            ExpertChoice::Hash(table) => {
                let ids = self.fixed.slice(table.extent)?;
                let checked = HashTable::check(ids, c.n_expert_used, c.n_expert);
                hash = Some(checked.context(|| format!("tensor {}", table.name))?);
            }
        }
        Ok(Moe {
            router: self.matrix(&w.router)?,
            bias,
            hash,
            shape: ExpertShape {
                n_embd: c.n_embd,
                n_ff: c.n_ff_expert,
                gate: experts.gate.format,
                up: experts.up.format,
                down: experts.down.format,
                clamp: layer.clamp_exp,
            },
            gate_shared: self.matrix(&w.gate_shared)?,
            up_shared: self.matrix(&w.up_shared)?,
            down_shared: self.matrix(&w.down_shared)?,
            clamp_shared: layer.clamp_shared,
        })
    }
}

impl<B: Backend> Weights<B> {
    /// Places the fixed weights of a bound model; KV rows will have the form `kv`.
    ///
    /// Errors: memory is refused; a table of experts names one that does not exist.
    pub fn load(model: &Model, fixed: &Fixed, backend: &mut B, kv: KvFormat) -> Result<Weights<B>> {
        let (c, w) = (&model.config, &model.weights);
        let index_form = RowForms::new(c, kv).index;
        let mut loader = Loader { backend, fixed };
        let mut layers = Vec::new();
        for (l, layer) in w.layers.iter().enumerate() {
            layers.push(Layer {
                attn_site: loader.site(&layer.hc_attn, &layer.attn.norm)?,
                attention: loader.attention(layer, c.layers[l].kind, index_form)?,
                moe_site: loader.site(&layer.hc_ffn, &layer.moe.norm)?,
                moe: loader.moe(c, l, &layer.moe, &model.experts.layers[l])?,
            });
        }
        let head = HyperHead {
            mixer: loader.matrix(&w.output_hc.mix)?,
            base: loader.vector(&w.output_hc.base)?,
            scale: loader.values(&w.output_hc.scale)?[0],
            norm: loader.vector(&w.output_norm)?,
        };
        Ok(Weights {
            embed: loader.matrix(&w.token_embd)?,
            layers,
            head,
            output: loader.matrix(&w.output)?,
        })
    }
}
