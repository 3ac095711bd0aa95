//! Every activation buffer, sized once. Shapes are `[n, ..]` for a chunk of `n` tokens.

use super::kv::RowForms;
use super::rope::Rope;
use crate::backend::{Groups, HC, MIX, Routes, Storage};
use crate::error::Result;
use crate::model::config::Config;

/// Rows of logits computed together: all rows of a long chunk would take more memory than its KV cache.
pub const LOGIT_ROWS: usize = 16;

/// See the module; fields are in the order of their use.
pub struct Scratch<B: Storage> {
    pub rope: Rope<B>,
    /// `[sweep, HC, n_embd]`
    pub streams: B::Buffer,
    /// `[n, MIX]`
    pub mix: B::Buffer,
    /// `[n, n_embd]`: input of a sub-layer.
    pub x: B::Buffer,
    /// `[n, n_embd]`: output of a sub-layer.
    pub y: B::Buffer,

    /// `[n, n_lora_q]`
    pub q_latent: B::Buffer,
    /// `[n, n_head head_dim]`
    pub q: B::Buffer,
    /// `[n, head_dim]`
    pub k: B::Buffer,
    /// Rounded raw rows of the chunk.
    pub k_rows: B::Rows,
    /// `[n, 2 head_dim]`: compressor projections.
    pub compress_kv: B::Buffer,
    pub compress_gate: B::Buffer,
    /// `[n, 2 head_dim_index]`
    pub index_kv: B::Buffer,
    pub index_gate: B::Buffer,
    /// `[n, n_head_index head_dim_index]`
    pub index_q: B::Buffer,
    /// `[n, n_head_index]`
    pub index_weight: B::Buffer,
    pub selection: B::Selection,
    /// `[n, n_head head_dim]`
    pub attended: B::Buffer,
    /// `[n, n_group_o n_lora_o]`
    pub o_latent: B::Buffer,

    /// `[n, n_expert]`
    pub scores: B::Buffer,
    pub routes: Routes,
    pub groups: Groups,
    /// Groups that can be computed now.
    pub ready: Vec<usize>,
    /// `[n n_expert_used, n_ff_expert]`
    pub hidden: B::Buffer,
    /// `[n n_expert_used, n_embd]`
    pub routed: B::Buffer,
    /// `[n, n_ff_shared]`
    pub gate_shared: B::Buffer,
    pub up_shared: B::Buffer,

    /// `[LOGIT_ROWS, n_vocab]`
    pub logits: B::Buffer,
}

impl<B: Storage> Scratch<B> {
    /// Buffers for chunks of up to `n` tokens in sweeps of up to `sweep`.
    pub fn new(
        c: &Config,
        backend: &mut B,
        forms: RowForms,
        n: usize,
        sweep: usize,
    ) -> Result<Scratch<B>> {
        let mut k_rows = backend.rows(forms.attention, c.head_dim, n)?;
        backend.reserve(&mut k_rows, n)?;
        let rope = Rope::new(c, backend, n)?;
        let selection = backend.selection(n, c.top_k_index)?;
        let mut buffer = |len: usize| backend.buffer(len);
        Ok(Scratch {
            rope,
            streams: buffer(sweep * HC * c.n_embd)?,
            mix: buffer(n * MIX)?,
            x: buffer(n.max(LOGIT_ROWS) * c.n_embd)?,
            y: buffer(n * c.n_embd)?,
            q_latent: buffer(n * c.n_lora_q)?,
            q: buffer(n * c.n_head * c.head_dim)?,
            k: buffer(n * c.head_dim)?,
            k_rows,
            compress_kv: buffer(n * 2 * c.head_dim)?,
            compress_gate: buffer(n * 2 * c.head_dim)?,
            index_kv: buffer(n * 2 * c.head_dim_index)?,
            index_gate: buffer(n * 2 * c.head_dim_index)?,
            index_q: buffer(n * c.n_head_index * c.head_dim_index)?,
            index_weight: buffer(n * c.n_head_index)?,
            selection,
            attended: buffer(n * c.n_head * c.head_dim)?,
            o_latent: buffer(n * c.n_group_o * c.n_lora_o)?,
            scores: buffer(n * c.n_expert)?,
            routes: Routes::default(),
            groups: Groups::default(),
            ready: Vec::with_capacity(c.n_expert),
            hidden: buffer(n * c.n_expert_used * c.n_ff_expert)?,
            routed: buffer(n * c.n_expert_used * c.n_embd)?,
            gate_shared: buffer(n * c.n_expert_shared * c.n_ff_expert)?,
            up_shared: buffer(n * c.n_expert_shared * c.n_ff_expert)?,
            logits: buffer(LOGIT_ROWS.min(n) * c.n_vocab)?,
        })
    }
}
