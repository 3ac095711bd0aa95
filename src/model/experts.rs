//! Where each routed expert lies in the file.
//!
//! ```text
//! blk.L.ffn_gate_exps  | expert 0 | expert 1 | ...      one expert = three ranges,
//! blk.L.ffn_up_exps    | expert 0 | expert 1 | ...      one in each tensor of its layer
//! blk.L.ffn_down_exps  | expert 0 | expert 1 | ...
//! ```

use crate::quant::Format;
use crate::units::{ExpertId, Extent, LayerId};

/// One matrix of all routed experts of a layer, one expert after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertTensor {
    /// Its name in the file.
    pub name: String,
    /// How its elements are stored.
    pub format: Format,
    /// Outputs of one expert.
    pub rows: usize,
    /// Inputs of one expert.
    pub cols: usize,
    /// Where all of it lies in the file.
    pub extent: Extent,
    /// Bytes of one expert.
    pub slice_bytes: u64,
}

impl ExpertTensor {
    fn slice(&self, expert: ExpertId) -> Extent {
        Extent {
            offset: self.extent.offset + u64::from(expert.0) * self.slice_bytes,
            len: self.slice_bytes,
        }
    }
}

/// The routed experts of a layer. Gate and up have the shape `[n_ff_expert, n_embd]`, down `[n_embd, n_ff_expert]`;
/// each has a format of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerExperts {
    /// Gate matrices.
    pub gate: ExpertTensor,
    /// Up matrices.
    pub up: ExpertTensor,
    /// Down matrices.
    pub down: ExpertTensor,
}

/// The three ranges of one expert in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertExtents {
    /// Gate matrix.
    pub gate: Extent,
    /// Up matrix.
    pub up: Extent,
    /// Down matrix.
    pub down: Extent,
}

impl ExpertExtents {
    /// The three matrices in the bytes of the whole file.
    pub fn of<'a>(&self, file: &'a [u8]) -> ExpertRef<'a> {
        let part = |e: Extent| &file[e.offset as usize..(e.offset + e.len) as usize];
        ExpertRef {
            gate: part(self.gate),
            up: part(self.up),
            down: part(self.down),
        }
    }
}

/// The weights of one expert where a kernel can read them.
#[derive(Clone, Copy)]
pub struct ExpertRef<'a> {
    /// `[n_ff_expert, n_embd]`
    pub gate: &'a [u8],
    /// `[n_ff_expert, n_embd]`
    pub up: &'a [u8],
    /// `[n_embd, n_ff_expert]`
    pub down: &'a [u8],
}

/// Where each routed expert lies.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertMap {
    /// Experts of each layer.
    pub n_expert: usize,
    /// One for each layer.
    pub layers: Vec<LayerExperts>,
}

impl ExpertMap {
    /// The three ranges of `expert` of `layer`. Both must exist.
    pub fn extents(&self, layer: LayerId, expert: ExpertId) -> ExpertExtents {
        assert!((expert.0 as usize) < self.n_expert, "no such {expert:?}");
        let LayerExperts { gate, up, down } = &self.layers[layer.0];
        ExpertExtents {
            gate: gate.slice(expert),
            up: up.slice(expert),
            down: down.slice(expert),
        }
    }

    /// Bytes of one expert of `layer`: gate, up and down.
    pub fn slab_len(&self, layer: LayerId) -> u64 {
        let LayerExperts { gate, up, down } = &self.layers[layer.0];
        gate.slice_bytes + up.slice_bytes + down.slice_bytes
    }

    /// Bytes of the largest expert.
    pub fn max_slab_len(&self) -> u64 {
        self.layer_ids()
            .map(|l| self.slab_len(l))
            .max()
            .unwrap_or(0)
    }

    /// Experts of all layers together.
    pub fn n_experts_total(&self) -> usize {
        self.layers.len() * self.n_expert
    }

    /// Bytes of all experts together.
    pub fn total_bytes(&self) -> u64 {
        let slabs: u64 = self.layer_ids().map(|l| self.slab_len(l)).sum();
        slabs * self.n_expert as u64
    }

    /// Whether every range of every expert starts and ends at a multiple of `page` bytes.
    pub fn is_page_aligned(&self, page: u64) -> bool {
        self.layers
            .iter()
            .flat_map(|l| [&l.gate, &l.up, &l.down])
            .all(|t| t.extent.offset.is_multiple_of(page) && t.slice_bytes.is_multiple_of(page))
    }

    fn layer_ids(&self) -> impl Iterator<Item = LayerId> {
        (0..self.layers.len()).map(LayerId)
    }
}
