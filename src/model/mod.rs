//! A model file by meaning: numbers, tensors, experts, vocabulary.
//!
//! After [`Model::bind`] nobody looks a key or a tensor up by its name.

pub mod config;
pub mod experts;
mod keys;
pub mod weights;

pub use config::{Config, HC, HC_MIX, LayerConfig, LayerKind, Yarn};
pub use experts::{ExpertExtents, ExpertMap, ExpertTensor, LayerExperts};
pub use weights::{
    Attention, Compressor, ExpertChoice, Hyper, Indexer, LayerWeights, Matrix, Moe, Vector, Weights,
};

use crate::error::{Context, Result};
use crate::gguf::Gguf;
use crate::quant::Format;

/// A model file whose header was read and understood.
#[derive(Clone, Debug)]
pub struct Model {
    /// The file's header.
    pub gguf: Gguf,
    /// The model's numbers.
    pub config: Config,
    /// Every tensor but the routed experts.
    pub weights: Weights,
    /// Where the routed experts lie.
    pub experts: ExpertMap,
    /// Things worth telling that are no faults.
    pub notes: Vec<String>,
}

/// Bytes of tensor data by how they are used; tensors without a meaning are not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteTotals {
    /// Routed experts: a token uses few of them.
    pub routed: u64,
    /// Token embedding: a token uses one row.
    pub embedding: u64,
    /// The rest: every token uses all of it.
    pub fixed: u64,
}

impl Model {
    /// Gives the contents of `gguf` their meaning.
    ///
    /// Errors: `Format` for missing or inconsistent parts, also of a split file, `Unsupported` for an architecture, variant or format
    /// that is not computed here, `Limit` for absurd numbers; each names the file.
    pub fn bind(gguf: Gguf) -> Result<Model> {
        gguf.check_complete()?;
        let config = Config::from_gguf(&gguf).context(|| &gguf.name)?;
        let (weights, experts, unused) = weights::bind(&gguf, &config).context(|| &gguf.name)?;
        let notes = gguf.notes.iter().cloned().chain(unused).collect();
        Ok(Model {
            gguf,
            config,
            weights,
            experts,
            notes,
        })
    }

    /// Bytes of tensor data by use.
    pub fn byte_totals(&self) -> ByteTotals {
        let embedding = self.weights.token_embd.extent.len;
        let all: u64 = self.weights.extents.iter().map(|e| e.len).sum();
        ByteTotals {
            routed: self.experts.total_bytes(),
            embedding,
            fixed: all - embedding,
        }
    }

    /// Bytes of weights that computing one token reads: one row of the token embedding and of each table of experts
    /// by token id, the experts that it uses in each layer, and all of the rest.
    pub fn token_bytes(&self) -> u64 {
        let row = |m: &Matrix| m.extent.len / m.rows.max(1) as u64;
        let layers = self.weights.layers.iter();
        let tables = layers.filter_map(|l| match &l.moe.choice {
            ExpertChoice::Hash(table) => Some(table),
            ExpertChoice::Score(_) => None,
        });
        let unread: u64 = tables.map(|t| t.extent.len - row(t)).sum();
        // Experts of a layer have one size.
        let used = self.experts.total_bytes() / self.config.n_expert as u64
            * self.config.n_expert_used as u64;
        self.byte_totals().fixed - unread + row(&self.weights.token_embd) + used
    }

    /// Elements of all tensors of the file but tables of ids.
    pub fn n_params(&self) -> u64 {
        let weights = self.gguf.tensors.iter();
        let weights = weights.filter(|t| t.format != Format::I32);
        weights.map(|t| t.dims.iter().product::<u64>()).sum()
    }
}

#[cfg(test)]
mod tests;
