//! What a model will take, counted by the code that will take it: a [`Storage`] that holds nothing.

use super::Lengths;
use super::kv::{KvCache, RowForms};
use super::scratch::Scratch;
use crate::backend::{RowForm, Storage};
use crate::error::Result;
use crate::model::config::Config;
use crate::options::KvFormat;
use crate::os::Slice;
use crate::quant::Format;

/// Bytes that a graph and its cache take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The KV cache when its context is full.
    pub kv: u64,
    /// Activations of a chunk, and the streams of a sweep.
    pub scratch: u64,
    /// A point that a session can come back to.
    pub checkpoint: u64,
}

/// Counts what a cache of `ctx` tokens, and chunks and sweeps of these lengths, will take, where every allocation is a
/// multiple of `page` bytes.
///
/// Errors: a row does not divide into the blocks of its form.
pub fn needs(
    config: &Config,
    kv: KvFormat,
    ctx: usize,
    lengths: Lengths,
    page: u64,
) -> Result<Needs> {
    let mut cache = Tally { page, bytes: 0 };
    let checkpoint = KvCache::new(config, &mut cache, kv, ctx)?.checkpoint_bytes(page);
    let mut scratch = Tally { page, bytes: 0 };
    Scratch::new(
        config,
        &mut scratch,
        RowForms::new(config, kv),
        lengths.chunk,
        lengths.sweep,
    )?;
    Ok(Needs {
        kv: cache.bytes,
        scratch: scratch.bytes,
        checkpoint,
    })
}

struct Tally {
    page: u64,
    bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: usize) {
        self.bytes += (bytes as u64).next_multiple_of(self.page);
    }
}

impl Storage for Tally {
    type Buffer = ();
    type Matrix = ();
    type Rows = ();
    type Selection = ();

    fn buffer(&mut self, len: usize) -> Result<()> {
        self.add(4 * len);
        Ok(())
    }

    fn matrix(&mut self, _: Format, _: usize, _: usize, _: Slice) -> Result<()> {
        Ok(()) // it lies where it was loaded to
    }

    /// Stores count whole: that they grow in steps is no promise.
    fn rows(&mut self, form: RowForm, dim: usize, capacity: usize) -> Result<()> {
        self.add(form.row_bytes(dim)? * capacity);
        Ok(())
    }

    fn reserve(&mut self, (): &mut (), _: usize) -> Result<()> {
        Ok(())
    }

    fn selection(&mut self, n: usize, top_k: usize) -> Result<()> {
        self.add(4 * n * top_k);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Gguf;
    use crate::model::Model;
    use crate::os::File;
    use std::path::Path;

    /// By hand from the formula of the KV cache: f16, 6 layers [0, 0, 4, 128, 4, 128], heads of 128, indexer
    /// heads of 64, window 128, context 4096. States are f32: kv and gate of 8 tokens (2 x 128, 2 x 64 wide) or
    /// of 128 tokens (128 wide).
    #[test]
    fn the_cache_of_the_shipped_model_is_counted_to_the_byte() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-q4.gguf");
        let model = Model::bind(Gguf::read(&File::open(&path).unwrap()).unwrap()).unwrap();
        let raw = 6 * 128 * 128 * 2;
        let compressed = 2 * 1024 * 128 * 2 + 2 * 1024 * 64 * 2 + 2 * 32 * 128 * 2;
        let states = 2 * (8 * 2 * 256 + 8 * 2 * 128) * 4 + 2 * (128 * 2 * 128) * 4;
        let needs = needs(
            &model.config,
            KvFormat::F16,
            4096,
            Lengths {
                chunk: 256,
                sweep: 256,
            },
            1,
        )
        .unwrap();
        assert_eq!(needs.kv, raw + compressed + states);
        assert_eq!(needs.checkpoint, raw + states);
    }
}
