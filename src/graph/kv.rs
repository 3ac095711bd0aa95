//! The KV cache of one session.
//!
//! A layer keeps the raw rows of the last `window` tokens in a ring by position, a list of compressed rows that
//! grows with the context, and for each compressor the last tokens' projections. Lists grow in steps; nothing
//! is copied when they do.

use crate::backend::{Backend, RowForm, Storage};
use crate::error::{Error, Result};
use crate::model::config::{Config, LayerKind};
use crate::options::KvFormat;

mod held;

/// Forms of the rows of a cache.
#[derive(Clone, Copy, Debug)]
pub struct RowForms {
    /// Raw and compressed attention rows.
    pub attention: RowForm,
    /// Indexer rows.
    pub index: RowForm,
}

impl RowForms {
    /// The forms that an option stands for.
    pub fn new(config: &Config, kv: KvFormat) -> RowForms {
        match kv {
            KvFormat::F32 => RowForms {
                attention: RowForm::F32,
                index: RowForm::F32,
            },
            KvFormat::F16 => RowForms {
                attention: RowForm::F16,
                index: RowForm::F16,
            },
            KvFormat::Official => RowForms {
                attention: RowForm::Fp8 {
                    n_rot: config.n_rot,
                },
                index: RowForm::Fp4,
            },
        }
    }
}

/// Rows and compressor states of all layers.
pub struct KvCache<B: Storage> {
    pub(super) layers: Vec<LayerCache<B>>,
    len: usize,
    ctx: usize,
    window: usize,
    /// False while a chunk is computed: an error leaves the layers at different lengths.
    whole: bool,
    /// Lengths at which a checkpoint is made on the way.
    marks: Vec<usize>,
    /// Those checkpoints; the last ones lack layers while a chunk is computed.
    marked: Vec<Checkpoint<B>>,
}

/// What one layer keeps.
pub(super) struct LayerCache<B: Storage> {
    /// Raw rows: position modulo the window.
    pub ring: B::Rows,
    ring_row_bytes: usize,
    pub compressed: Option<CompressedCache<B>>,
    pub index: Option<CompressedCache<B>>,
}

/// Compressed rows, and what their compressor remembers.
pub(super) struct CompressedCache<B: Storage> {
    pub rows: B::Rows,
    /// `[ratio or 2 ratio, 2 width]`, see [`crate::backend::Compress::state`].
    pub state: B::Buffer,
    row_bytes: usize,
    /// Tokens that the state remembers, and values of each.
    state_shape: (usize, usize),
    ratio: usize,
}

impl<B: Storage> KvCache<B> {
    /// An empty cache for `ctx` tokens.
    ///
    /// Errors: a row does not divide into the blocks of its form; memory is refused.
    pub fn new(config: &Config, backend: &mut B, kv: KvFormat, ctx: usize) -> Result<KvCache<B>> {
        let forms = RowForms::new(config, kv);
        let mut compressed = |form: RowForm, dim: usize, ratio: usize, halves: usize| {
            let state_shape = (halves * ratio, 2 * (halves * dim));
            Ok(CompressedCache {
                rows: backend.rows(form, dim, ctx / ratio)?,
                state: backend.buffer(state_shape.0 * state_shape.1)?,
                row_bytes: form.row_bytes(dim)?,
                state_shape,
                ratio,
            })
        };
        let mut parts = Vec::new();
        for layer in &config.layers {
            let Some(ratio) = layer.kind.ratio() else {
                parts.push((None, None));
                continue;
            };
            let halves = if layer.kind == LayerKind::Csa { 2 } else { 1 };
            let rows = compressed(forms.attention, config.head_dim, ratio, halves)?;
            let index = match layer.kind {
                LayerKind::Csa => Some(compressed(
                    forms.index,
                    config.head_dim_index,
                    ratio,
                    halves,
                )?),
                _ => None,
            };
            parts.push((Some(rows), index));
        }
        let ring_row_bytes = forms.attention.row_bytes(config.head_dim)?;
        let mut layers = Vec::new();
        for (compressed, index) in parts {
            let mut ring = backend.rows(forms.attention, config.head_dim, config.window)?;
            backend.reserve(&mut ring, config.window)?;
            layers.push(LayerCache {
                ring,
                ring_row_bytes,
                compressed,
                index,
            });
        }
        Ok(KvCache {
            layers,
            len: 0,
            ctx,
            window: config.window,
            whole: true,
            marks: Vec::new(),
            marked: Vec::new(),
        })
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when no token is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that fit.
    pub fn ctx(&self) -> usize {
        self.ctx
    }

    /// False after an error in the middle of a chunk; [`KvCache::clear`] mends it.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Bytes of a [`Checkpoint`], whose rows take whole pages of `page` bytes.
    pub fn checkpoint_bytes(&self, page: u64) -> u64 {
        let layer = |layer: &LayerCache<B>| {
            let ring = (layer.ring_row_bytes * self.window) as u64;
            let states = layer.compressed.iter().chain(&layer.index);
            let states = states.map(|c| 4 * (c.state_shape.0 * c.state_shape.1) as u64);
            ring.next_multiple_of(page) + states.sum::<u64>()
        };
        self.layers.iter().map(layer).sum()
    }

    /// Forgets all tokens and keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
        self.whole = true;
        self.marks.clear();
        self.marked.clear();
    }

    /// Makes a checkpoint at each of these lengths when it comes there, in the middle of a sweep too: a sweep that ended there
    /// would read experts again for what follows.
    pub fn mark(&mut self, lengths: &[usize]) {
        self.marks = lengths.to_vec();
        self.marked.clear();
    }

    /// The checkpoints that were made since they were asked for. No more are made.
    pub fn take_marked(&mut self) -> Vec<Checkpoint<B>> {
        self.marks.clear();
        let (all, n_layer) = (std::mem::take(&mut self.marked), self.layers.len());
        let is_whole = |made: &Checkpoint<B>| made.len <= self.len && made.rings.len() == n_layer;
        all.into_iter().filter(is_whole).collect()
    }

    /// Of `n` tokens behind the first `pos` those up to the next mark.
    pub(super) fn up_to_mark(&self, pos: usize, n: usize) -> usize {
        let ahead = self.marks.iter().filter(|mark| **mark > pos);
        ahead.map(|mark| mark - pos).min().unwrap_or(n).min(n)
    }

    /// Makes room for `n` more tokens.
    pub(super) fn begin(&mut self, backend: &mut B, n: usize) -> Result<()> {
        if !self.whole {
            return Err(Error::format(
                "the KV cache is broken by an earlier error and was not cleared",
            ));
        }
        let len = self.len + n;
        if len > self.ctx {
            return Err(Error::limit("tokens of the context", len, self.ctx));
        }
        for layer in &mut self.layers {
            for c in layer.compressed.iter_mut().chain(&mut layer.index) {
                backend.reserve(&mut c.rows, len / c.ratio)?;
            }
        }
        self.whole = false;
        Ok(())
    }

    /// Counts the `n` tokens of a finished chunk.
    pub(super) fn end(&mut self, n: usize) {
        self.len += n;
        self.whole = true;
    }
}

impl<B: Backend> KvCache<B> {
    /// Keeps what is needed to come back to the tokens held now.
    pub fn checkpoint(
        &self,
        config: &Config,
        backend: &mut B,
        kv: KvFormat,
    ) -> Result<Checkpoint<B>> {
        let mut saved = Checkpoint::new(self.len);
        for layer in &self.layers {
            saved.push(layer, config, backend, kv)?;
        }
        Ok(saved)
    }

    /// Layer `l` has come to `len` tokens: if that is a mark, it goes into the checkpoint.
    pub(super) fn pass_mark(
        &mut self,
        l: usize,
        len: usize,
        config: &Config,
        backend: &mut B,
        kv: KvFormat,
    ) -> Result<()> {
        if !self.marks.contains(&len) {
            return Ok(());
        }
        if l == 0 {
            self.marked.retain(|made| made.len != len);
            self.marked.push(Checkpoint::new(len));
        }
        match self.marked.iter_mut().find(|made| made.len == len) {
            Some(made) => made.push(&self.layers[l], config, backend, kv),
            None => Ok(()),
        }
    }

    /// Forgets the tokens behind a checkpoint of this cache. Compressed rows stay: later tokens replace them.
    pub fn rewind(&mut self, backend: &mut B, to: &Checkpoint<B>) -> Result<()> {
        let mut states = to.states.iter();
        for (layer, ring) in self.layers.iter_mut().zip(&to.rings) {
            backend.copy_rows(ring, &mut layer.ring)?;
            for (c, state) in layer
                .compressed
                .iter_mut()
                .chain(&mut layer.index)
                .zip(&mut states)
            {
                backend.write(&mut c.state, state)?;
            }
        }
        self.len = to.len;
        self.whole = true;
        Ok(())
    }
}

/// The part of a cache that later tokens overwrite, as it was after `len` tokens.
pub struct Checkpoint<B: Storage> {
    len: usize,
    rings: Vec<B::Rows>,
    states: Vec<Vec<f32>>,
}

impl<B: Storage> Checkpoint<B> {
    fn new(len: usize) -> Checkpoint<B> {
        Checkpoint {
            len,
            rings: Vec::new(),
            states: Vec::new(),
        }
    }

    /// Tokens held when it was made.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when no token was held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<B: Backend> Checkpoint<B> {
    /// Takes the next layer as it is now.
    fn push(
        &mut self,
        layer: &LayerCache<B>,
        config: &Config,
        backend: &mut B,
        kv: KvFormat,
    ) -> Result<()> {
        let form = RowForms::new(config, kv).attention;
        let mut ring = backend.rows(form, config.head_dim, config.window)?;
        backend.copy_rows(&layer.ring, &mut ring)?;
        self.rings.push(ring);
        for c in layer.compressed.iter().chain(&layer.index) {
            self.states.push(backend.host(&c.state)?.to_vec());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::gguf::Gguf;
    use crate::model::Model;
    use crate::options::KernelChoice;
    use crate::os::File;

    /// Bytes of a row of Flash: 512 values (64 of them rotary), and 128 of the indexer. The packed ones are 448
    /// bytes of E4M3, 7 scales and 64 bf16; 64 bytes of E2M1 and 4 scales.
    #[test]
    fn every_store_has_the_form_that_was_asked_for() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/micro-q2.gguf");
        let file = File::open(path.as_ref()).unwrap();
        let mut config = Model::bind(Gguf::read(&file).unwrap()).unwrap().config;
        (config.head_dim, config.n_rot, config.head_dim_index) = (512, 64, 128);
        let mut cpu = Cpu::new(KernelChoice::Scalar, 1).unwrap();
        for (kv, attention, index) in [
            (KvFormat::F32, 2048, 512),
            (KvFormat::F16, 1024, 256),
            (KvFormat::Official, 448 + 7 + 128, 64 + 4),
        ] {
            let cache = KvCache::new(&config, &mut cpu, kv, 512).unwrap();
            for (layer, c) in cache.layers.iter().zip(&config.layers) {
                assert_eq!(layer.ring.capacity_bytes(), config.window * attention);
                let bytes =
                    |c: &Option<CompressedCache<Cpu>>| c.as_ref().map(|c| c.rows.capacity_bytes());
                let (rows, index_rows) = match c.kind {
                    LayerKind::Sliding => (None, None),
                    LayerKind::Csa => (Some(128 * attention), Some(128 * index)),
                    LayerKind::Hca => (Some(4 * attention), None),
                };
                assert_eq!(
                    (bytes(&layer.compressed), bytes(&layer.index)),
                    (rows, index_rows)
                );
            }
        }
        let forms = RowForms::new(&config, KvFormat::Official);
        assert_eq!(forms.attention, RowForm::Fp8 { n_rot: 64 });
        assert_eq!(forms.index, RowForm::Fp4);
    }
}
