//! The forward pass, written once for every backend and shared by prefill and decode.
//!
//! ```text
//! tokens -> embed -> [ hyper entry -> attention -> hyper exit
//!                      hyper entry -> experts   -> hyper exit ] x n_layer -> hyper head -> logits
//! ```
//!
//! A chunk of any size gives the bits that its tokens give one by one. Source: the DeepSeek-V4 model card and
//! its reference implementation's published behaviour.

use crate::backend::{Backend, HC, HyperNumbers};
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::options::KvFormat;
use crate::supply::{ExpertSupply, Stats};
use crate::units::{LayerId, TokenId};
use kv::{Checkpoint, KvCache, RowForms};
use scratch::{LOGIT_ROWS, Scratch};
use weights::Weights;

mod attention;
pub mod kv;
mod moe;
mod rope;
mod scratch;
pub mod tally;
pub mod weights;

/// Sees the streams `[n, HC n_embd]` that enter a layer (the last call: that leave the last layer).
pub type Probe = Box<dyn FnMut(LayerId, &[f32]) + Send>;

/// Which tokens of a chunk need logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// None of them: more of the prompt follows.
    Nothing,
    /// The last.
    Last,
    /// Every one.
    All,
}

/// A model placed on a backend, with the scratch memory of one chunk.
pub struct Graph<B: Backend> {
    config: Config,
    backend: B,
    weights: Weights<B>,
    supply: Box<dyn ExpertSupply>,
    scratch: Scratch<B>,
    chunk: usize,
    kv: KvFormat,
    probe: Option<Probe>,
}

impl<B: Backend> Graph<B> {
    /// Joins the parts; `chunk` tokens are computed together at most, with KV rows in `kv` form.
    pub fn new(
        config: Config,
        mut backend: B,
        weights: Weights<B>,
        supply: Box<dyn ExpertSupply>,
        chunk: usize,
        kv: KvFormat,
    ) -> Result<Graph<B>> {
        let scratch = Scratch::new(&config, &mut backend, RowForms::new(&config, kv), chunk)?;
        Ok(Graph {
            config,
            backend,
            weights,
            supply,
            scratch,
            chunk,
            kv,
            probe: None,
        })
    }

    /// Tokens computed together at most.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// What computes: see [`Backend::describe`].
    pub fn describe(&self) -> String {
        self.backend.describe()
    }

    /// What the supply of experts did so far.
    pub fn supply_stats(&self) -> Stats {
        self.supply.stats()
    }

    /// The backend, for caches.
    pub fn backend(&mut self) -> &mut B {
        &mut self.backend
    }

    /// An empty cache for `ctx` tokens.
    pub fn cache(&mut self, ctx: usize) -> Result<KvCache<B>> {
        KvCache::new(&self.config, &mut self.backend, self.kv, ctx)
    }

    /// What a cache needs to come back to the tokens it holds now.
    pub fn checkpoint(&mut self, cache: &KvCache<B>) -> Result<Checkpoint<B>> {
        cache.checkpoint(&self.config, &mut self.backend, self.kv)
    }

    /// Calls `probe` at every layer border from now on.
    pub fn set_probe(&mut self, probe: Option<Probe>) {
        self.probe = probe;
    }

    /// Appends a chunk of tokens to the cache and gives the wanted rows of logits `[n_vocab]` to `sink`, in order.
    ///
    /// Errors: more tokens than a chunk or the context holds, a token outside the vocabulary, a failed read of an
    /// expert. After an error the cache is unusable until it is cleared.
    pub fn forward(
        &mut self,
        kv: &mut KvCache<B>,
        tokens: &[TokenId],
        wanted: Wanted,
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let (n, pos) = (tokens.len(), kv.len());
        if n == 0 {
            return Ok(());
        }
        if n > self.chunk {
            return Err(Error::limit("tokens of a chunk", n, self.chunk));
        }
        if let Some(token) = tokens.iter().find(|t| t.0 as usize >= self.config.n_vocab) {
            return Err(Error::limit("token id", token.0, self.config.n_vocab - 1));
        }
        kv.begin(&mut self.backend, n)?;
        self.scratch.rope.fill(&mut self.backend, pos, n)?;
        self.backend
            .embed(&self.weights.embed, tokens, &mut self.scratch.streams)?;
        for l in 0..self.config.n_layer {
            self.observe(LayerId(l), n)?;
            self.layer(LayerId(l), tokens, pos, kv)?;
        }
        self.observe(LayerId(self.config.n_layer), n)?;
        kv.end(n);

        let first = match wanted {
            Wanted::Nothing => n,
            Wanted::Last => n - 1,
            Wanted::All => 0,
        };
        self.head(first, n, sink)
    }

    fn layer(
        &mut self,
        id: LayerId,
        tokens: &[TokenId],
        pos: usize,
        kv: &mut KvCache<B>,
    ) -> Result<()> {
        let n = tokens.len();
        let Graph {
            config,
            backend,
            weights,
            supply,
            scratch,
            ..
        } = self;
        let (layer, numbers, n_embd) =
            (&weights.layers[id.0], hyper_numbers(config), config.n_embd);

        backend.hyper_entry(
            &layer.attn_site,
            numbers,
            n,
            &scratch.streams,
            &mut scratch.mix,
            &mut scratch.x,
        )?;
        attention::attention(
            config,
            backend,
            &layer.attention,
            &mut kv.layers[id.0],
            scratch,
            n,
            pos,
        )?;
        backend.hyper_exit(n, n_embd, &scratch.y, &scratch.mix, &mut scratch.streams)?;

        backend.hyper_entry(
            &layer.moe_site,
            numbers,
            n,
            &scratch.streams,
            &mut scratch.mix,
            &mut scratch.x,
        )?;
        moe::moe(
            config,
            backend,
            &layer.moe,
            &mut **supply,
            id,
            scratch,
            tokens,
        )?;
        backend.hyper_exit(n, n_embd, &scratch.y, &scratch.mix, &mut scratch.streams)
    }

    /// Logits of tokens `first..n` of the chunk, some rows at a time.
    fn head(
        &mut self,
        first: usize,
        n: usize,
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let Graph {
            config,
            backend,
            weights,
            scratch,
            ..
        } = self;
        let mut start = first;
        while start < n {
            let rows = LOGIT_ROWS.min(n - start);
            let numbers = hyper_numbers(config);
            backend.hyper_head(
                &weights.head,
                numbers,
                start,
                rows,
                &scratch.streams,
                &mut scratch.x,
            )?;
            let logits = crate::backend::Product {
                weight: &weights.output,
                y: &mut scratch.logits,
            };
            backend.matmul(rows, &scratch.x, &mut [logits])?;
            let logits = backend.host(&scratch.logits)?;
            logits
                .chunks_exact(config.n_vocab)
                .take(rows)
                .try_for_each(&mut *sink)?;
            start += rows;
        }
        Ok(())
    }

    fn observe(&mut self, layer: LayerId, n: usize) -> Result<()> {
        if let Some(probe) = &mut self.probe {
            let streams = self.backend.host(&self.scratch.streams)?;
            probe(layer, &streams[..n * HC * self.config.n_embd]);
        }
        Ok(())
    }
}

fn hyper_numbers(config: &Config) -> HyperNumbers {
    HyperNumbers {
        eps: config.hc_eps,
        n_sinkhorn: config.n_sinkhorn,
        rms_eps: config.rms_eps,
    }
}
