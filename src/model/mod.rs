//! A model file by meaning: numbers, tensors, experts, vocabulary.
//!
//! After [`Model::bind`] nobody looks a key or a tensor up by its name.

pub mod config;
pub mod experts;
pub mod weights;

pub use config::{Config, HC, HC_MIX, LayerConfig, LayerKind, Yarn};
pub use experts::{ExpertExtents, ExpertMap, ExpertTensor, LayerExperts};
pub use weights::{
    Attention, Compressor, ExpertChoice, Hyper, Indexer, LayerWeights, Matrix, Moe, Vector, Weights,
};

use crate::error::{Context, Error, Result};
use crate::gguf::Gguf;
use std::cmp::Ordering;

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
    /// Errors: `Format` for missing or inconsistent parts, `Unsupported` for an architecture, variant or format
    /// that is not computed here, `Limit` for absurd numbers; each names the file.
    pub fn bind(gguf: Gguf) -> Result<Model> {
        let config = Config::from_gguf(&gguf).context(|| &gguf.name)?;
        let (weights, experts, unused) = weights::bind(&gguf, &config).context(|| &gguf.name)?;
        let fewer = check_token_count(&gguf, config.n_vocab).context(|| &gguf.name)?;
        let notes = gguf
            .notes
            .iter()
            .cloned()
            .chain(unused)
            .chain(fewer)
            .collect();
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
}

/// An error when there are more tokens than rows in the embedding; a note when there are fewer.
fn check_token_count(gguf: &Gguf, n_vocab: usize) -> Result<Option<String>> {
    if gguf.value(TOKENS_KEY).is_none() {
        return Ok(Some("the file has no tokens".to_owned()));
    }
    let found = gguf.string_array(TOKENS_KEY)?.len();
    let message = format!("key {TOKENS_KEY}: found {found} elements, expected {n_vocab}");
    match found.cmp(&n_vocab) {
        Ordering::Greater => Err(Error::format(message)),
        Ordering::Less => Ok(Some(message)),
        Ordering::Equal => Ok(None),
    }
}

const TOKENS_KEY: &str = "tokenizer.ggml.tokens";

/// The tokenizer's data as it stands in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct VocabularyParts {
    /// `tokenizer.ggml.model`, the family of tokenizers.
    pub model: String,
    /// `tokenizer.ggml.pre`, how text is split before merging.
    pub pre: String,
    /// The tokens' texts, by id.
    pub tokens: Vec<String>,
    /// The tokens' types, by id; empty when the file has none.
    pub token_types: Vec<i32>,
    /// Pairs "left right" in order of priority.
    pub merges: Vec<String>,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The token that ends an answer.
    pub eos: Option<u32>,
}

/// The vocabulary of `gguf`, which may be a file without weights.
///
/// Errors: `Format` when a part is missing or they contradict each other.
pub fn vocabulary(gguf: &Gguf) -> Result<VocabularyParts> {
    read_vocabulary(gguf).context(|| &gguf.name)
}

fn read_vocabulary(gguf: &Gguf) -> Result<VocabularyParts> {
    let tokens = gguf.string_array(TOKENS_KEY)?;
    let n = tokens.len();
    let types_key = "tokenizer.ggml.token_type";
    let token_types = gguf.opt_i32_array(types_key)?.unwrap_or_default();
    if !token_types.is_empty() && token_types.len() != n {
        return Err(Error::format(format!(
            "key {types_key}: found {} elements, expected {n}",
            token_types.len()
        )));
    }
    let token_id = |key: &str| match gguf.opt_u32(key)? {
        Some(id) if id as usize >= n => Err(Error::format(format!(
            "key {key}: found {id}, but there are {n} tokens"
        ))),
        id => Ok(id),
    };
    Ok(VocabularyParts {
        // Files of the first convention name neither; they hold the same byte-level vocabulary.
        model: gguf
            .opt_string("tokenizer.ggml.model")?
            .unwrap_or("gpt2")
            .to_owned(),
        pre: gguf
            .opt_string("tokenizer.ggml.pre")?
            .unwrap_or("joyai-llm")
            .to_owned(),
        tokens: tokens.to_vec(),
        token_types,
        merges: gguf.string_array("tokenizer.ggml.merges")?.to_vec(),
        bos: token_id("tokenizer.ggml.bos_token_id")?,
        eos: token_id("tokenizer.ggml.eos_token_id")?,
    })
}

#[cfg(test)]
mod tests;
