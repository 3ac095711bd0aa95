//! What a cache holds, as bytes: only the rows of its tokens, never its capacity.
//!
//! ```text
//! layer by layer: raw rows 0 .. min(tokens, window) of the ring, compressed rows 0 .. tokens / ratio, those of the indexer
//! layer by layer: states of the compressor and of the indexer's (f32): min(tokens, what it remembers) tokens of the ring
//! ```
//!
//! Rows stand as in the store ([`crate::backend::RowForm`]), which is alike on every backend.

use super::KvCache;
use crate::backend::{Backend, Storage};
use crate::error::Result;
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
