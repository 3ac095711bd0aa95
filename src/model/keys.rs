//! The keys of the architecture, and what the shapes of the tensors say of them.
//!
//! Converters leave out keys that follow from the tensors, each its own. So a number that a shape tells is taken from
//! there; a key of it, where there is one, must say the same. What no shape tells is demanded by name.

use super::config::{ARCHITECTURE, HC, LIMITS, LayerConfig, LayerKind, Yarn};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::gguf::{Gguf, Value};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;

/// The id of the router score sqrt(softplus(x)) in `expert_gating_func`.
const GATING_SQRT_SOFTPLUS: u32 = 4;

/// The vocabulary, which every file that can run has.
const TOKENS_KEY: &str = "tokenizer.ggml.tokens";

/// How many layers there are.
const BLOCKS: &str = "block_count";

/// How many of the blocks predict further tokens and are no layers of the main model.
const NEXTN: &str = "nextn_predict_layers";

/// Compress ratios, by layer.
const RATIOS: &str = "attention.compress_ratios";

/// A number that a tensor tells.
pub struct Told {
    value: usize,
    /// Which tensor, and how.
    by: String,
}

impl Told {
    /// `number` in place of what the tensor says itself.
    fn map(self, number: impl FnOnce(usize) -> usize) -> Told {
        Told {
            value: number(self.value),
            by: self.by,
        }
    }
}

/// The keys of the architecture; a name is given without its prefix.
pub struct Keys<'a>(pub &'a Gguf);

impl Keys<'_> {
    /// Refuses what would need other formulas than the ones computed here.
    pub fn refuse_other_variants(&self) -> Result<()> {
        self.expect("attention.head_count_kv", &[1], 1)?;
        self.expect("hyper_connection.count", &[HC as u32], HC as u32)?;
        let gating = GATING_SQRT_SOFTPLUS;
        self.expect("expert_gating_func", &[gating], gating)?;
        self.expect("expert_group_count", &[0, 1], 0)?;
        self.expect("expert_group_used_count", &[0, 1], 0)?;
        if self.0.opt_bool(&key("expert_weights_norm"))? == Some(false) {
            return Err(self.other("expert_weights_norm", false, "true"));
        }
        Ok(())
    }

    /// An error unless the number of `name`, `default` if it is missing, is one of `known`.
    pub fn expect(&self, name: &str, known: &[u32], default: u32) -> Result<()> {
        let found = self.0.opt_u32(&key(name))?.unwrap_or(default);
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

    /// A whole number within `range` that only the key tells.
    pub fn count(&self, name: &str, range: &RangeInclusive<usize>) -> Result<usize> {
        let value = self.0.u32(&key(name))? as usize;
        within(value, range).context(|| format!("key {}", key(name)))
    }

    /// A whole number within `range`, if the key is there.
    fn opt_count(&self, name: &str, range: &RangeInclusive<usize>) -> Result<Option<usize>> {
        let there = self.0.value(&key(name)).is_some();
        there.then(|| self.count(name, range)).transpose()
    }

    /// A whole number within `range`: what a tensor told, which the key must not contradict, or else the key's.
    pub fn told(
        &self,
        name: &str,
        range: &RangeInclusive<usize>,
        told: Option<Told>,
    ) -> Result<usize> {
        let Some(Told { value, by }) = told else {
            return self.count(name, range);
        };
        match self.opt_count(name, range)? {
            Some(found) if found != value => Err(contradicted(name, found, value, &by)),
            Some(found) => Ok(found),
            None => within(value, range).context(|| format!("{by}, which is {}", key(name))),
        }
    }

    /// As [`Keys::told`], by the dimension `axis` of a tensor.
    pub fn sized(
        &self,
        name: &str,
        range: &RangeInclusive<usize>,
        tensor: &str,
        axis: usize,
    ) -> Result<usize> {
        self.told(name, range, self.dim(tensor, axis))
    }

    /// A dimension of a tensor, the fastest is 0; `None` where the file has no such tensor.
    pub fn dim(&self, name: &str, axis: usize) -> Option<Told> {
        let tensor = self.0.tensor(name)?;
        // Ones at the end may be left out.
        let dim = tensor.dims.get(axis).copied().unwrap_or(1);
        Some(Told {
            value: usize::try_from(dim).unwrap_or(usize::MAX),
            by: format!("tensor {name} has dims {:?}", tensor.dims),
        })
    }

    /// A number within `range`.
    pub fn number(&self, name: &str, range: &RangeInclusive<f32>) -> Result<f32> {
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

    /// Layers of the main model: the blocks of the file but for those at the end that hold `nextn` tensors, which
    /// predict further tokens.
    ///
    /// `block_count` may count those or not; `nextn_predict_layers` tells how many there are, or were, if the file was
    /// written without them.
    pub fn n_layer(&self) -> Result<usize> {
        let blocks = self.opt_count(BLOCKS, &LIMITS.n_layer)?;
        let nextn = self.opt_count(NEXTN, &(0..=*LIMITS.n_layer.end()))?;
        let Some(found) = Blocks::find(self.0)? else {
            let blocks = blocks.map_or_else(|| self.count(BLOCKS, &LIMITS.n_layer), Ok)?;
            let nextn = nextn.unwrap_or(0);
            return (blocks.checked_sub(nextn).filter(|n| *n > 0))
                .ok_or_else(|| contradicted_text(NEXTN, nextn, &format!("below {}", key(BLOCKS))));
        };
        let Blocks { n_main, n_nextn } = found;
        if n_nextn > 0 && nextn.is_some_and(|n| n != n_nextn) {
            let by = format!("so many blocks from {n_main} on have nextn tensors");
            return Err(contradicted(NEXTN, nextn.unwrap_or(0), n_nextn, &by));
        }
        let n_extra = nextn.unwrap_or(n_nextn);
        let Some(blocks) = blocks.filter(|b| *b != n_main + n_extra) else {
            return Ok(n_main);
        };
        if blocks != n_main {
            let by = format!("tensors of layers 0 to {} are there", n_main - 1);
            return Err(contradicted(BLOCKS, blocks, n_main + n_extra, &by));
        }
        if n_nextn > 0 || n_extra == 0 || self.n_ratios() > blocks {
            return Ok(n_main);
        }
        // Either all blocks are layers, and those of the key were left out; or the last ones are no layers, and
        // their nextn tensors were left out. The one is computed, the other must not be.
        let by = format!("or nextn tensors in block {}", n_main - 1);
        Err(contradicted_text(NEXTN, n_extra, &format!("0, {by}")))
    }

    /// Elements of the compress ratios; 0 where there are none.
    fn n_ratios(&self) -> usize {
        let ratios = self.0.u32_array(&key(RATIOS));
        ratios.map_or(0, |r| r.len())
    }

    /// Rows of embedding and output: what the key says, or else as many as there are tokens.
    pub fn n_vocab(&self) -> Result<usize> {
        let (name, rows) = ("vocab_size", self.dim("token_embd.weight", 1));
        let tokens = match self.0.value(TOKENS_KEY) {
            Some(Value::Strings(tokens)) if self.0.value(&key(name)).is_none() => tokens.len(),
            _ => return self.told(name, &LIMITS.n_vocab, rows),
        };
        match rows {
            Some(Told { value, by }) if value != tokens => Err(Error::format(format!(
                "key {TOKENS_KEY}: found {tokens} elements, expected {value} ({by}, and there is no key {})",
                key(name)
            ))),
            _ => within(tokens, &LIMITS.n_vocab).context(|| format!("key {TOKENS_KEY}: elements")),
        }
    }

    /// Groups of heads in the output projection, and the rank of each.
    pub fn output_groups(&self, q_width: usize) -> Result<(usize, usize)> {
        let name = "blk.0.attn_output_a.weight";
        let mut groups = None;
        if let Some(width) = self.dim(name, 0) {
            if !q_width.is_multiple_of(width.value) {
                let expected = format!("a part of the {q_width} outputs of all heads");
                return Err(Error::format(format!("{}, expected {expected}", width.by)));
            }
            groups = Some(width.map(|width| q_width / width));
        }
        let n_group = self.told("attention.output_group_count", &LIMITS.n_head, groups)?;
        let rank = self.dim(name, 1);
        if let Some(Told { value, by }) = &rank
            && !value.is_multiple_of(n_group)
        {
            return Err(Error::format(format!("{by}, expected {n_group} groups")));
        }
        let rank = rank.map(|rank| rank.map(|rows| rows / n_group));
        let rank = self.told("attention.output_lora_rank", &LIMITS.n_lora, rank)?;
        Ok((n_group, rank))
    }

    /// Heads of the indexer, and their width.
    pub fn indexer(&self, layers: &[LayerConfig]) -> Result<(usize, usize)> {
        // No layer selects anything: then the keys say what nothing needs.
        let layer = layers.iter().position(|l| l.kind == LayerKind::Csa);
        let layer = layer.unwrap_or(0);
        let proj = format!("blk.{layer}.indexer.proj.weight");
        let norm = format!("blk.{layer}.indexer_compressor_norm.weight");
        Ok((
            self.sized("attention.indexer.head_count", &LIMITS.n_head, &proj, 1)?,
            self.sized("attention.indexer.key_length", &LIMITS.head_dim, &norm, 0)?,
        ))
    }

    /// The width of an expert, written once or for each layer.
    pub fn expert_width(&self, n_layer: usize) -> Result<usize> {
        let name = "expert_feed_forward_length";
        let told = self.dim("blk.0.ffn_gate_exps.weight", 1);
        let widths = match self.0.value(&key(name)) {
            Some(Value::Uints(_) | Value::Ints(_)) => self.0.u32_array(&key(name))?,
            _ => return self.told(name, &LIMITS.n_ff, told),
        };
        let widths = first(name, &widths, n_layer)?;
        if widths.iter().any(|w| *w != widths[0]) {
            return Err(self.other(name, "different widths", "one width for all layers"));
        }
        let width = within(widths[0] as usize, &LIMITS.n_ff);
        let width = width.context(|| format!("key {}", key(name)))?;
        match told {
            Some(Told { value, by }) if value != width => {
                Err(contradicted(name, width, value, &by))
            }
            _ => Ok(width),
        }
    }

    /// Shared experts, each of width `n_ff`.
    pub fn n_expert_shared(&self, n_ff: usize) -> Result<usize> {
        let width = self.dim("blk.0.ffn_gate_shexp.weight", 1);
        // Another width is an error that names the tensor, later.
        let whole = width.filter(|w| w.value.is_multiple_of(n_ff));
        let told = whole.map(|w| w.map(|width| width / n_ff));
        self.told("expert_shared_count", &(1..=1), told)
    }

    /// Frequency scaling.
    pub fn yarn(&self, n_ctx_train: usize) -> Result<Yarn> {
        let factor = match self.0.opt_string(&key("rope.scaling.type"))? {
            Some("none") => 1.0,
            Some("yarn") => self.number("rope.scaling.factor", &LIMITS.yarn_factor)?,
            None => self.number_or("rope.scaling.factor", &LIMITS.yarn_factor, 1.0)?,
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

    /// Layers, from the first, that have a table of experts by token id.
    pub fn n_hash_layer(&self, n_layer: usize) -> Result<usize> {
        let table = |layer: usize| format!("blk.{layer}.ffn_gate_tid2eid.weight");
        let has_table = |layer: &usize| self.0.tensor(&table(*layer)).is_some();
        let with_table = (0..n_layer).take_while(has_table).count();
        if let Some(later) = (with_table..n_layer).find(has_table) {
            return Err(Error::format(format!(
                "tensor {} is there, expected such a table in the first layers only, and layer {with_table} has none",
                table(later)
            )));
        }
        let told = (!self.0.tensors.is_empty()).then(|| Told {
            value: with_table,
            by: "so many layers have a tensor ffn_gate_tid2eid.weight".into(),
        });
        self.told("hash_layer_count", &(0..=n_layer), told)
    }

    /// What differs between layers.
    pub fn layers(&self, n_layer: usize, n_hash_layer: usize) -> Result<Vec<LayerConfig>> {
        let ratios = self.ratios(n_layer)?;
        let clamp_exp = self.clamps("swiglu_clamp_exp", n_layer)?;
        let clamp_shared = match self.0.value(&key("swiglu_clamp_shexp")) {
            Some(_) => self.clamps("swiglu_clamp_shexp", n_layer)?,
            None => clamp_exp.clone(),
        };
        (0..n_layer)
            .map(|layer| {
                Ok(LayerConfig {
                    kind: LayerKind::from_ratio(ratios[layer])
                        .context(|| format!("key {}: layer {layer}", key(RATIOS)))?,
                    hash_routed: layer < n_hash_layer,
                    clamp_exp: clamp_exp[layer],
                    clamp_shared: clamp_shared[layer],
                })
            })
            .collect()
    }

    /// The compress ratio of each layer: the rows of its compressor's table of positions, 0 without a compressor.
    fn ratios(&self, n_layer: usize) -> Result<Vec<u32>> {
        let told = |layer: usize| {
            let name = format!("blk.{layer}.attn_compressor_ape.weight");
            self.dim(&name, 1).unwrap_or_else(|| Told {
                value: 0,
                by: format!("there is no tensor {name}"),
            })
        };
        if self.0.value(&key(RATIOS)).is_none() && !self.0.tensors.is_empty() {
            let ratio = |layer| u32::try_from(told(layer).value).unwrap_or(u32::MAX);
            return Ok((0..n_layer).map(ratio).collect());
        }
        let ratios = self.0.u32_array(&key(RATIOS))?;
        let ratios = first(RATIOS, &ratios, n_layer)?;
        for (layer, found) in ratios.iter().enumerate() {
            if self.0.tensors.is_empty() {
                break;
            }
            let Told { value, by } = told(layer);
            if *found as usize != value {
                let name = format!("{RATIOS}: layer {layer}");
                return Err(contradicted(&name, *found as usize, value, &by));
            }
        }
        Ok(ratios.to_vec())
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

/// The blocks that a file has tensors of.
struct Blocks {
    /// Up to the last block without `nextn` tensors.
    n_main: usize,
    /// With them, after the others.
    n_nextn: usize,
}

impl Blocks {
    /// `None` when the file has none of the main model.
    fn find(gguf: &Gguf) -> Result<Option<Blocks>> {
        let (mut all, mut nextn) = (BTreeSet::new(), BTreeSet::new());
        for tensor in &gguf.tensors {
            let Some((block, rest)) = block_of(&tensor.name) else {
                continue;
            };
            within(block, &(0..=LIMITS.n_layer.end() - 1))
                .context(|| format!("tensor {}: block", tensor.name))?;
            all.insert(block);
            if rest.starts_with("nextn.") {
                nextn.insert(block);
            }
        }
        let Some(n_main) = all.difference(&nextn).last().map(|last| last + 1) else {
            return Ok(None);
        };
        if let Some(first) = nextn.first().filter(|first| **first < n_main) {
            return Err(Error::format(format!(
                "block {first} has nextn tensors, expected them after the last layer, {}",
                n_main - 1
            )));
        }
        Ok(Some(Blocks {
            n_main,
            n_nextn: nextn.len(),
        }))
    }
}

/// The number of the block that a tensor belongs to, and the rest of its name.
pub fn block_of(tensor: &str) -> Option<(usize, &str)> {
    let (block, rest) = tensor.strip_prefix("blk.")?.split_once('.')?;
    Some((block.parse().ok()?, rest))
}

/// A key says one thing, and a tensor another.
fn contradicted(name: &str, found: usize, expected: usize, by: &str) -> Error {
    contradicted_text(name, found, &format!("{expected} ({by})"))
}

fn contradicted_text(name: &str, found: usize, expected: &str) -> Error {
    let name = key(name);
    Error::format(format!("key {name}: found {found}, expected {expected}"))
}

fn key(name: &str) -> String {
    format!("{ARCHITECTURE}.{name}")
}

/// The first `n` elements; files may hold more, for blocks that are no layers of the main model.
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
