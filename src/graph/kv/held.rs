//! What a cache holds, as bytes: only the rows of its tokens, never its capacity.
//!
//! ```text
//! layer by layer: raw rows 0 .. min(tokens, window) of the ring, compressed rows 0 .. tokens / ratio, those of the indexer
//! layer by layer: states of the compressor and of the indexer's (f32): min(tokens, what it remembers) tokens of the ring
//! ```
//!
//! Rows stand as in the store ([`crate::backend::RowForm`]), which is alike on every backend.

use super::{Checkpoint, KvCache, RowForms};
use crate::backend::{Backend, Storage};
use crate::error::Result;
use crate::model::config::Config;
use crate::options::KvFormat;
use crate::quant::cast;

/// Bytes that are moved at once, in whole rows.
const AT_ONCE: usize = 64 << 10;

/// Takes the next bytes.
pub type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<()>;

/// Fills a buffer with the next bytes.
pub type Source<'a> = &'a mut dyn FnMut(&mut [u8]) -> Result<()>;

impl<B: Storage> KvCache<B> {
    /// Bytes that a cache like this one holds after `n` tokens.
    pub fn held_bytes(&self, n: usize) -> u64 {
        let layers = self.layers.iter().map(|layer| {
            let ring = n.min(self.window) * layer.ring_row_bytes;
            let compressed = layer.compressed.iter().chain(&layer.index);
            ring + compressed
                .map(|c| (n / c.ratio) * c.row_bytes + 4 * c.n_state(n))
                .sum::<usize>()
        });
        layers.map(|bytes| bytes as u64).sum()
    }
}

impl<B: Storage> KvCache<B> {
    /// Bytes of a checkpoint after `n` tokens.
    pub fn point_bytes(&self, n: usize) -> u64 {
        let layers = self.layers.iter().map(|layer| {
            let states = layer.compressed.iter().chain(&layer.index);
            n.min(self.window) * layer.ring_row_bytes
                + states.map(|c| 4 * c.n_state(n)).sum::<usize>()
        });
        layers.map(|bytes| bytes as u64).sum()
    }
}

impl<B: Storage> super::CompressedCache<B> {
    /// Values of the state that `n` tokens have written.
    fn n_state(&self, n: usize) -> usize {
        n.min(self.state_shape.0) * self.state_shape.1
    }
}

impl<B: Backend> KvCache<B> {
    /// Gives all that is held to `sink`, [`KvCache::held_bytes`] in pieces.
    ///
    /// Errors: the device failed, and those of `sink`.
    pub fn give(&self, backend: &mut B, sink: Sink<'_>) -> Result<()> {
        let n = self.len;
        let mut piece = Vec::new();
        let mut rows = |backend: &mut B, rows: &B::Rows, row_bytes: usize, n: usize| {
            let step = (AT_ONCE / row_bytes).max(1);
            for first in (0..n).step_by(step) {
                piece.resize(step.min(n - first) * row_bytes, 0);
                backend.read_rows(rows, first, &mut piece)?;
                sink(&piece)?;
            }
            Ok(())
        };
        for layer in &self.layers {
            let held = n.min(self.window);
            rows(backend, &layer.ring, layer.ring_row_bytes, held)?;
            for c in layer.compressed.iter().chain(&layer.index) {
                rows(backend, &c.rows, c.row_bytes, n / c.ratio)?;
            }
        }
        for layer in &self.layers {
            for c in layer.compressed.iter().chain(&layer.index) {
                sink(cast::to_bytes(&backend.host(&c.state)?[..c.n_state(n)]))?;
            }
        }
        Ok(())
    }

    /// Gives a checkpoint to `sink`, [`KvCache::point_bytes`]: layer by layer the ring and the states.
    ///
    /// Errors: the device failed, and those of `sink`.
    pub fn give_point(&self, backend: &mut B, point: &Checkpoint<B>, sink: Sink<'_>) -> Result<()> {
        let (n, mut states) = (point.len, point.states.iter());
        for (layer, ring) in self.layers.iter().zip(&point.rings) {
            let mut rows = vec![0; n.min(self.window) * layer.ring_row_bytes];
            backend.read_rows(ring, 0, &mut rows)?;
            sink(&rows)?;
            let states = layer.compressed.iter().chain(&layer.index).zip(&mut states);
            for (c, state) in states {
                sink(cast::to_bytes(&state[..c.n_state(n)]))?;
            }
        }
        Ok(())
    }

    /// Takes what [`KvCache::give_point`] gave for `n` tokens of a cache of the same shape.
    ///
    /// Errors: refused memory, a failed device, and those of `source`.
    pub fn take_point(
        &self,
        config: &Config,
        backend: &mut B,
        kv: KvFormat,
        n: usize,
        source: Source<'_>,
    ) -> Result<Checkpoint<B>> {
        let mut point = Checkpoint::new(n);
        let form = RowForms::new(config, kv).attention;
        for layer in &self.layers {
            let mut ring = backend.rows(form, config.head_dim, config.window)?;
            backend.reserve(&mut ring, config.window)?;
            let mut rows = vec![0; n.min(self.window) * layer.ring_row_bytes];
            source(&mut rows)?;
            backend.write_rows(&mut ring, 0, &rows)?;
            point.rings.push(ring);
            for c in layer.compressed.iter().chain(&layer.index) {
                let mut state = vec![0.0; c.state_shape.0 * c.state_shape.1];
                source(cast::to_bytes_mut(&mut state[..c.n_state(n)]))?;
                point.states.push(state);
            }
        }
        Ok(point)
    }

    /// Forgets everything and takes what a cache of the same shape held at a checkpoint of it.
    ///
    /// Errors: more tokens than fit, refused memory, a failed device; the cache is empty then.
    pub fn copy(&mut self, backend: &mut B, from: &KvCache<B>, at: &Checkpoint<B>) -> Result<()> {
        self.clear();
        let result = self
            .begin(backend, at.len)
            .and_then(|()| self.copy_rows(backend, from, at.len))
            .and_then(|()| self.rewind(backend, at));
        if result.is_err() {
            self.clear();
        }
        result
    }

    /// Copies the compressed rows of the first `n` tokens. Those are never changed again.
    fn copy_rows(&mut self, backend: &mut B, from: &KvCache<B>, n: usize) -> Result<()> {
        let mut piece = Vec::new();
        for (to, from) in self.layers.iter_mut().zip(&from.layers) {
            let to = to.compressed.iter_mut().chain(&mut to.index);
            for (to, from) in to.zip(from.compressed.iter().chain(&from.index)) {
                let (n_rows, step) = (n / from.ratio, (AT_ONCE / from.row_bytes).max(1));
                for first in (0..n_rows).step_by(step) {
                    piece.resize(step.min(n_rows - first) * from.row_bytes, 0);
                    backend.read_rows(&from.rows, first, &mut piece)?;
                    backend.write_rows(&mut to.rows, first, &piece)?;
                }
            }
        }
        Ok(())
    }

    /// Forgets everything and takes what a cache of the same shape gave when it held `n` tokens.
    ///
    /// Errors: more tokens than fit, refused memory, a failed device, and those of `source`; the cache is empty then.
    pub fn take(&mut self, backend: &mut B, n: usize, source: Source<'_>) -> Result<()> {
        self.clear();
        let result = self
            .begin(backend, n)
            .and_then(|()| self.fill(backend, n, source));
        match result {
            Ok(()) => self.end(n),
            Err(_) => self.clear(),
        }
        result
    }

    fn fill(&mut self, backend: &mut B, n: usize, source: Source<'_>) -> Result<()> {
        let mut piece = Vec::new();
        let mut rows = |backend: &mut B, rows: &mut B::Rows, row_bytes: usize, n: usize| {
            let step = (AT_ONCE / row_bytes).max(1);
            for first in (0..n).step_by(step) {
                piece.resize(step.min(n - first) * row_bytes, 0);
                source(&mut piece)?;
                backend.write_rows(rows, first, &piece)?;
            }
            Ok(())
        };
        for layer in &mut self.layers {
            let held = n.min(self.window);
            rows(backend, &mut layer.ring, layer.ring_row_bytes, held)?;
            for c in layer.compressed.iter_mut().chain(&mut layer.index) {
                rows(backend, &mut c.rows, c.row_bytes, n / c.ratio)?;
            }
        }
        let mut state = Vec::new();
        for layer in &mut self.layers {
            for c in layer.compressed.iter_mut().chain(&mut layer.index) {
                state.resize(c.n_state(n), 0.0);
                source(cast::to_bytes_mut(&mut state))?;
                backend.write(&mut c.state, &state)?;
            }
        }
        Ok(())
    }
}
