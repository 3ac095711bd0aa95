//! The forward pass, written once for every backend and shared by prefill and decode.
//!
//! ```text
//! tokens -> embed -> [ hyper entry -> attention -> hyper exit
//!                      hyper entry -> experts   -> hyper exit ] x n_layer -> hyper head -> logits
//! ```
//!
//! Tokens go through a layer in chunks, and many chunks through one layer before the next: a sweep. So a long
//! prompt reads each layer's experts once. Chunks and sweeps of any size give the bits that their tokens give one by
//! one. Source: the DeepSeek-V4 model card and its reference implementation's published behaviour.

use crate::backend::profile::Stage;
use crate::backend::{Backend, HC, HyperNumbers};
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::options::KvFormat;
use crate::supply::{ExpertSupply, ExpertUse, Stats, StatsMeter, StatsTable};
use crate::units::{ExpertId, LayerId, Phase, TokenId};
use kv::{Checkpoint, KvCache, RowForms};
use scratch::{LOGIT_ROWS, Scratch};
use std::ops::Range;
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

/// What a pass of tokens through the layers chose, told bit by bit.
#[derive(Clone, Debug)]
pub enum Routing<'a> {
    /// A pass over so many tokens begins. One that fails or is stopped has no end.
    Begin {
        /// What they are computed for.
        phase: Phase,
        /// The tokens.
        n_tokens: usize,
    },
    /// Some tokens of the pass chose their experts in a layer.
    Chosen {
        /// The layer.
        layer: LayerId,
        /// The tokens, counted within the pass.
        tokens: Range<usize>,
        /// `[n, n_expert_used]`, each token's in the router's order.
        ids: &'a [ExpertId],
    },
    /// The pass is done.
    End,
}

/// Sees what is chosen; its error is that of the pass.
pub type RouteProbe = Box<dyn FnMut(Routing<'_>) -> Result<()> + Send>;

/// Sees after each layer of a chunk what the supply of experts did so far, and can ask what became of each expert,
/// `[n_layer, n_expert]`.
pub type SupplyWatch = Box<dyn FnMut(Stats, &dyn Fn() -> Vec<ExpertUse>) + Send>;

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

/// How many tokens go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Computed together.
    pub chunk: usize,
    /// Through one layer before the next, a chunk at a time.
    pub sweep: usize,
}

/// A model placed on a backend, with the scratch memory of one chunk.
pub struct Graph<B: Backend> {
    config: Config,
    backend: B,
    weights: Weights<B>,
    supply: Box<dyn ExpertSupply>,
    scratch: Scratch<B>,
    chunk: usize,
    sweep: usize,
    kv: KvFormat,
    probe: Option<Probe>,
    route_probe: Option<RouteProbe>,
    supply_watch: Option<SupplyWatch>,
    meter: StatsMeter,
}

impl<B: Backend> Graph<B> {
    /// Joins the parts; `chunk` tokens are computed together at most, `sweep` go through a layer before the next,
    /// with KV rows in `kv` form.
    pub fn new(
        config: Config,
        mut backend: B,
        weights: Weights<B>,
        supply: Box<dyn ExpertSupply>,
        Lengths { chunk, sweep }: Lengths,
        kv: KvFormat,
    ) -> Result<Graph<B>> {
        let forms = RowForms::new(&config, kv);
        let scratch = Scratch::new(&config, &mut backend, forms, chunk, sweep)?;
        Ok(Graph {
            meter: StatsMeter::new(config.n_layer),
            config,
            backend,
            weights,
            supply,
            scratch,
            chunk,
            sweep,
            kv,
            probe: None,
            route_probe: None,
            supply_watch: None,
        })
    }

    /// Tokens that [`Graph::forward`] takes at most.
    pub fn sweep(&self) -> usize {
        self.sweep
    }

    /// The model's numbers.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Form of the rows of its caches.
    pub fn kv_format(&self) -> KvFormat {
        self.kv
    }

    /// What computes: see [`Backend::describe`].
    pub fn describe(&self) -> String {
        self.backend.describe()
    }

    /// Bytes of experts that the system keeps from being swapped out.
    pub fn locked_bytes(&self) -> u64 {
        self.supply.locked_bytes()
    }

    /// An error when the model's file is not what it was when it was opened; see [`ExpertSupply::check`].
    pub fn check(&self) -> Result<()> {
        self.supply.check()
    }

    /// What the supply of experts did so far.
    pub fn supply_stats(&self) -> Stats {
        self.supply.stats()
    }

    /// The same by layer and phase, up to the end of the last [`Graph::forward`].
    pub fn supply_table(&self) -> &StatsTable {
        self.meter.table()
    }

    /// What became of each expert so far, `[n_layer, n_expert]`.
    pub fn expert_uses(&self) -> Vec<ExpertUse> {
        self.supply.uses()
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

    /// The checkpoint after `n` tokens that a cache like this one gave as bytes; see [`KvCache::take_point`].
    pub fn take_point(
        &mut self,
        cache: &KvCache<B>,
        n: usize,
        source: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<Checkpoint<B>> {
        cache.take_point(&self.config, &mut self.backend, self.kv, n, source)
    }

    /// Calls `probe` at every layer border from now on.
    pub fn set_probe(&mut self, probe: Option<Probe>) {
        self.probe = probe;
    }

    /// Tells `probe` from now on which experts are chosen.
    pub fn set_route_probe(&mut self, probe: Option<RouteProbe>) {
        self.route_probe = probe;
    }

    /// Tells `watch` from now on what the supply of experts does.
    pub fn set_supply_watch(&mut self, watch: Option<SupplyWatch>) {
        self.supply_watch = watch;
    }

    /// Appends tokens to the cache and gives the wanted rows of logits `[n_vocab]` to `sink`, in order; what the
    /// supply does for them counts for `phase`.
    /// `keep_going(done)` is told how many of them are done, counted over all layers, and stops the work with false;
    /// the answer is then false too.
    ///
    /// Errors: more tokens than a sweep or the context holds, a token outside the vocabulary, a failed read of an
    /// expert. After an error or a stop in the middle the cache is unusable until it is cleared or rewound.
    pub fn forward(
        &mut self,
        kv: &mut KvCache<B>,
        tokens: &[TokenId],
        phase: Phase,
        wanted: Wanted,
        keep_going: &mut dyn FnMut(usize) -> bool,
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<bool> {
        let n = tokens.len();
        let rows = match wanted {
            Wanted::Nothing => n..n,
            Wanted::Last => n.saturating_sub(1)..n,
            Wanted::All => 0..n,
        };
        self.forward_windows(&mut [kv], tokens, phase, rows, keep_going, sink)
    }

    /// As [`Graph::forward`] for several caches at once: `tokens` are windows of equal length, one for each cache in
    /// order, and together at most a sweep. Of each window the logits of the tokens `rows` go to `sink`.
    ///
    /// Errors: as [`Graph::forward`]; all of the caches are unusable then.
    pub fn forward_windows(
        &mut self,
        kvs: &mut [&mut KvCache<B>],
        tokens: &[TokenId],
        phase: Phase,
        rows: Range<usize>,
        keep_going: &mut dyn FnMut(usize) -> bool,
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<bool> {
        self.backend.pass(phase, tokens.len());
        let mut result = self.sweep_layers(kvs, tokens, phase, keep_going);
        self.backend.stage(Stage::ExpertSupply);
        if !matches!(result, Ok(true)) {
            // What is queued still reads experts. Of two errors the first tells more.
            let waited = self.backend.wait();
            result = result.and_then(|done| waited.map(|()| done));
        }
        if result.is_err() {
            self.scratch.rope.forget();
        }
        // Whatever happened, nothing is read ahead for it any more.
        self.supply.rest();
        self.backend.stage(Stage::Other);
        self.meter.look(self.supply.stats());
        if !result? {
            return Ok(false);
        }
        let window = tokens.len() / kvs.len().max(1);
        let mut starts = (0..kvs.len()).map(|i| i * window);
        let result = starts.try_for_each(|s| self.head(s + rows.start, s + rows.end, sink));
        self.backend.stage(Stage::Other);
        result?;
        if !tokens.is_empty() {
            self.tell(Routing::End)?;
        }
        Ok(true)
    }

    fn sweep_layers(
        &mut self,
        kvs: &mut [&mut KvCache<B>],
        tokens: &[TokenId],
        phase: Phase,
        keep_going: &mut dyn FnMut(usize) -> bool,
    ) -> Result<bool> {
        let n = tokens.len();
        if n == 0 {
            return Ok(true);
        }
        let window = n / kvs.len().max(1);
        assert_eq!(n, window * kvs.len(), "windows of equal length");
        if n > self.sweep {
            return Err(Error::limit("tokens of a sweep", n, self.sweep));
        }
        if let Some(token) = tokens.iter().find(|t| t.0 as usize >= self.config.n_vocab) {
            return Err(Error::limit("token id", token.0, self.config.n_vocab - 1));
        }
        for kv in &mut *kvs {
            kv.begin(&mut self.backend, window)?;
        }
        self.meter.enter(LayerId(0), phase, self.supply.stats());
        self.tell(Routing::Begin { phase, n_tokens: n })?;
        self.backend.stage(Stage::ExpertSupply);
        self.backend.wait()?;
        self.supply.start(n)?;
        // All that one token's id tells, or of many tokens what comes first.
        let n_certain = if n == 1 { self.config.n_hash_layer } else { 1 };
        (0..n_certain).try_for_each(|l| self.expect(l, tokens))?;
        self.backend.stage(Stage::Embed);
        self.backend
            .embed(&self.weights.embed, tokens, &mut self.scratch.streams)?;
        let n_layer = self.config.n_layer;
        for l in 0..n_layer {
            self.observe(LayerId(l), n)?;
            self.meter.enter(LayerId(l), phase, self.supply.stats());
            if n > 1 {
                self.backend.stage(Stage::ExpertSupply);
                // Experts of the layer before may make room now.
                self.backend.wait()?;
                self.expect(l + 1, tokens)?;
            }
            for (kv, start) in kvs.iter_mut().zip((0..n).step_by(window)) {
                let pos = kv.len();
                let mut first = 0;
                while first < window {
                    self.backend.stage(Stage::Other);
                    if !keep_going((l * n + start + first) / n_layer) {
                        return Ok(false);
                    }
                    let len = kv.up_to_mark(pos + first, self.chunk.min(window - first));
                    let part = start + first..start + first + len;
                    self.layer(LayerId(l), tokens, part, pos + first, kv)?;
                    first += len;
                    let (config, backend) = (&self.config, &mut self.backend);
                    kv.pass_mark(l, pos + first, config, backend, self.kv)?;
                    if let Some(watch) = &mut self.supply_watch {
                        watch(self.supply.stats(), &|| self.supply.uses());
                    }
                }
            }
        }
        self.observe(LayerId(n_layer), n)?;
        // The last layer too must have had the file's bytes before its tokens count.
        self.supply.check()?;
        kvs.iter_mut().for_each(|kv| kv.end(window));
        Ok(true)
    }

    /// Tells the supply what layer `l` will need, as far as it is known beforehand: hash-routed layers choose by
    /// token id, and many tokens choose nearly all experts of any layer.
    fn expect(&mut self, l: usize, tokens: &[TokenId]) -> Result<()> {
        let Graph {
            config: c,
            weights,
            supply,
            scratch,
            ..
        } = self;
        let Some(layer) = weights.layers.get(l) else {
            return Ok(());
        };
        let spare = c.n_expert.min(tokens.len() * c.n_expert_used);
        if let Some(table) = &layer.moe.hash {
            let ids = &mut scratch.routes.ids;
            ids.clear();
            tokens.iter().for_each(|t| ids.extend(table.experts(*t)));
            scratch.groups.fill(ids);
        } else if spare == c.n_expert {
            let all = &mut scratch.groups.experts;
            all.clear();
            all.extend((0..c.n_expert as u32).map(ExpertId));
        } else {
            return Ok(());
        }
        supply.expect(LayerId(l), &scratch.groups.experts, spare)
    }

    /// One layer of a chunk, `part` of a sweep; its first token stands at position `pos`.
    fn layer(
        &mut self,
        id: LayerId,
        sweep: &[TokenId],
        part: Range<usize>,
        pos: usize,
        kv: &mut KvCache<B>,
    ) -> Result<()> {
        let (n, more) = (part.len(), part.end < sweep.len());
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
        scratch.rope.fill(backend, pos, n)?;

        backend.stage(Stage::HyperConnections);
        backend.hyper_entry(
            &layer.attn_site,
            numbers,
            part.clone(),
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
        backend.stage(Stage::HyperConnections);
        backend.hyper_exit(
            part.clone(),
            n_embd,
            &scratch.y,
            &scratch.mix,
            &mut scratch.streams,
        )?;

        backend.hyper_entry(
            &layer.moe_site,
            numbers,
            part.clone(),
            &scratch.streams,
            &mut scratch.mix,
            &mut scratch.x,
        )?;
        moe::moe(
            config,
            backend,
            &layer.moe,
            &mut **supply,
            scratch,
            moe::Chunk {
                layer: id,
                tokens: &sweep[part.clone()],
                more,
            },
        )?;
        if let Some(probe) = &mut self.route_probe {
            backend.stage(Stage::Other);
            probe(Routing::Chosen {
                layer: id,
                tokens: part.clone(),
                ids: &scratch.routes.ids,
            })?;
        }
        backend.stage(Stage::HyperConnections);
        backend.hyper_exit(part, n_embd, &scratch.y, &scratch.mix, &mut scratch.streams)
    }

    /// Logits of tokens `first..last` of the sweep, some rows at a time.
    fn head(
        &mut self,
        first: usize,
        last: usize,
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let Graph {
            config,
            backend,
            weights,
            scratch,
            ..
        } = self;
        backend.stage(Stage::Head);
        let mut start = first;
        while start < last {
            let end = last.min(start + LOGIT_ROWS.min(self.chunk));
            backend.hyper_head(
                &weights.head,
                hyper_numbers(config),
                start..end,
                &scratch.streams,
                &mut scratch.x,
            )?;
            let logits = crate::backend::Product {
                weight: &weights.output,
                y: &mut scratch.logits,
            };
            backend.matmul(end - start, &scratch.x, &mut [logits])?;
            let logits = backend.host(&scratch.logits)?;
            logits
                .chunks_exact(config.n_vocab)
                .take(end - start)
                .try_for_each(&mut *sink)?;
            start = end;
        }
        Ok(())
    }

    fn tell(&mut self, what: Routing<'_>) -> Result<()> {
        match &mut self.route_probe {
            Some(probe) => probe(what),
            None => Ok(()),
        }
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
