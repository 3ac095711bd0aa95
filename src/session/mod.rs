//! One conversation: its tokens, and the KV cache that holds them.

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::graph::kv::{Checkpoint, KvCache};
use crate::graph::{Graph, Wanted};
use crate::units::{Phase, TokenId};
use std::ops::Range;

pub mod file;
mod save;
pub mod store;

pub use save::origin;

/// Tokens and their cache.
pub struct Session<B: Backend> {
    kv: KvCache<B>,
    tokens: Vec<TokenId>,
    logits: Vec<f32>,
}

/// How a prefill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefill {
    /// All tokens are in the cache; the logits are those after the last.
    Done,
    /// `keep_going` said no at a chunk border; the tokens before it are in the cache.
    Stopped,
}

impl<B: Backend> Session<B> {
    /// An empty session over an empty cache.
    pub fn new(kv: KvCache<B>) -> Session<B> {
        Session {
            tokens: Vec::with_capacity(kv.ctx()),
            kv,
            logits: Vec::new(),
        }
    }

    /// The tokens in the cache.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Tokens that still fit.
    pub fn room(&self) -> usize {
        self.kv.ctx() - self.tokens.len()
    }

    /// Tokens that fit into an empty session.
    pub fn ctx(&self) -> usize {
        self.kv.ctx()
    }

    /// Logits after the last token, `[n_vocab]`; empty before the first.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.kv.clear();
        self.tokens.clear();
        self.logits.clear();
    }

    /// Appends tokens in sweeps; `keep_going(done)` is told how far it came and can stop it.
    ///
    /// Errors: more tokens than fit, before any work; a failed read. After an error, or a stop, the session holds
    /// the tokens of whole sweeps: never some that its cache does not.
    pub fn prefill(
        &mut self,
        graph: &mut Graph<B>,
        tokens: &[TokenId],
        keep_going: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Prefill> {
        self.check_room(tokens.len())?;
        let mut done = 0;
        while done < tokens.len() {
            let sweep = graph.sweep().min(tokens.len() - done);
            let last = done + sweep == tokens.len();
            let wanted = if last { Wanted::Last } else { Wanted::Nothing };
            let before = graph.checkpoint(&self.kv)?;
            let part = &tokens[done..done + sweep];
            let mut tell = |n| keep_going(done + n);
            let result = self.append_keeping(graph, part, Phase::Prefill, wanted, &mut tell);
            if !matches!(result, Ok(true)) {
                self.rewind(graph, &before)?;
            }
            if !result? {
                return Ok(Prefill::Stopped);
            }
            done += sweep;
        }
        keep_going(done);
        Ok(Prefill::Done)
    }

    /// Appends tokens and gives the logits after each, `[n_vocab]`, to `sink`.
    ///
    /// Errors: as [`Session::decode`], and those of `sink`; after one in the middle the session is empty.
    pub fn prefill_all_logits(
        &mut self,
        graph: &mut Graph<B>,
        tokens: &[TokenId],
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        self.check_room(tokens.len())?;
        self.logits.clear();
        for sweep in tokens.chunks(graph.sweep()) {
            let result = self.append(
                graph,
                sweep,
                Phase::Prefill,
                Wanted::All,
                &mut |_| true,
                sink,
            );
            self.mend();
            result?;
        }
        Ok(())
    }

    /// Appends `tokens`, windows of equal length, to `sessions`, one window to each in order. The windows go through a
    /// layer together, so that together they read each expert once. Of each window the logits after the tokens `rows` go
    /// to `sink`; `keep_going(done)` is told how far it came and can stop it: the answer is false then.
    ///
    /// Errors: more tokens than fit, before any work; several windows that are more than a sweep; a failed read; those of
    /// `sink`. A session that an error or a stop left in the middle is empty.
    pub fn prefill_windows(
        sessions: &mut [&mut Session<B>],
        graph: &mut Graph<B>,
        tokens: &[TokenId],
        rows: Range<usize>,
        keep_going: &mut dyn FnMut(usize) -> bool,
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<bool> {
        let window = tokens.len() / sessions.len().max(1);
        for session in &*sessions {
            session.check_room(window)?;
        }
        // One window may be longer than a sweep.
        let sweep = match sessions.len() {
            1 => graph.sweep().min(window.max(1)),
            _ => tokens.len().max(1),
        };
        for (i, part) in tokens.chunks(sweep).enumerate() {
            let (start, len) = (i * sweep, part.len() / sessions.len());
            let within = |row: usize| row.saturating_sub(start).min(len);
            let rows = within(rows.start)..within(rows.end);
            let mut kvs: Vec<&mut KvCache<B>> = sessions.iter_mut().map(|s| &mut s.kv).collect();
            let mut tell = |n| keep_going(start + n);
            let result =
                graph.forward_windows(&mut kvs, part, Phase::Prefill, rows, &mut tell, sink);
            for (session, window) in sessions.iter_mut().zip(part.chunks(len)) {
                session.logits.clear();
                if session.kv.len() > session.tokens.len() {
                    session.tokens.extend_from_slice(window);
                }
                session.mend();
            }
            if !result? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Appends one token.
    ///
    /// Errors: no room, before any work; a failed read. After a failure in the middle the session is empty.
    pub fn decode(&mut self, graph: &mut Graph<B>, token: TokenId) -> Result<()> {
        self.check_room(1)?;
        let result =
            self.append_keeping(graph, &[token], Phase::Decode, Wanted::Last, &mut |_| true);
        self.mend();
        result.map(drop)
    }

    /// Forgets everything if an error left the layers at different lengths.
    fn mend(&mut self) {
        if !self.kv.is_whole() {
            self.clear();
        }
    }

    /// Keeps what is needed to come back to this point.
    pub fn checkpoint(&self, graph: &mut Graph<B>) -> Result<Checkpoint<B>> {
        graph.checkpoint(&self.kv)
    }

    /// Makes a checkpoint at each of these numbers of tokens when it comes there; see [`KvCache::mark`].
    pub fn mark(&mut self, at: &[usize]) {
        self.kv.mark(at);
    }

    /// The checkpoints that were made since they were asked for.
    pub fn take_marked(&mut self) -> Vec<Checkpoint<B>> {
        self.kv.take_marked()
    }

    /// Forgets the tokens behind a checkpoint of this session. There are no logits until a token is appended.
    ///
    /// Errors: the session is shorter than the checkpoint, since it was cleared.
    pub fn rewind(&mut self, graph: &mut Graph<B>, to: &Checkpoint<B>) -> Result<()> {
        if to.len() > self.tokens.len() {
            return Err(Error::limit(
                "tokens of a checkpoint",
                to.len(),
                self.tokens.len(),
            ));
        }
        self.kv.rewind(graph.backend(), to)?;
        self.tokens.truncate(to.len());
        self.logits.clear();
        Ok(())
    }

    /// Forgets everything and takes what `from` held at a checkpoint of it. There are no logits until a token is appended.
    ///
    /// Errors: `from` is shorter than the checkpoint, since it was cleared; more tokens than fit, refused memory. After a
    /// failure in the middle the session is empty.
    pub fn copy(
        &mut self,
        graph: &mut Graph<B>,
        from: &Session<B>,
        at: &Checkpoint<B>,
    ) -> Result<()> {
        let Some(tokens) = from.tokens.get(..at.len()) else {
            let found = at.len();
            return Err(Error::limit(
                "tokens of a checkpoint",
                found,
                from.tokens.len(),
            ));
        };
        self.clear();
        self.kv.copy(graph.backend(), &from.kv, at)?;
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }

    fn check_room(&self, n: usize) -> Result<()> {
        let (held, ctx) = (self.tokens.len(), self.kv.ctx());
        if n > ctx - held {
            return Err(Error::usage(format!(
                "{n} tokens do not fit: {held} of the context's {ctx} are used (--ctx sets its size)"
            )));
        }
        Ok(())
    }

    /// Appends a sweep and keeps the logits after its last token, if they are wanted.
    fn append_keeping(
        &mut self,
        graph: &mut Graph<B>,
        tokens: &[TokenId],
        phase: Phase,
        wanted: Wanted,
        keep_going: &mut dyn FnMut(usize) -> bool,
    ) -> Result<bool> {
        let mut logits = std::mem::take(&mut self.logits);
        logits.clear();
        let result = self.append(graph, tokens, phase, wanted, keep_going, &mut |row| {
            logits.extend_from_slice(row);
            Ok(())
        });
        self.logits = logits;
        result
    }

    fn append(
        &mut self,
        graph: &mut Graph<B>,
        tokens: &[TokenId],
        phase: Phase,
        wanted: Wanted,
        keep_going: &mut dyn FnMut(usize) -> bool,
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<bool> {
        let result = graph.forward(&mut self.kv, tokens, phase, wanted, keep_going, sink);
        if self.kv.len() > self.tokens.len() {
            self.tokens.extend_from_slice(tokens);
        }
        result
    }
}
