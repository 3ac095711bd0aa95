//! Attention of one layer: `scratch.x` in, `scratch.y` out.
//!
//! Queries pass a low-rank bottleneck; one vector a token is both key and value. A layer attends to the raw
//! window and, depending on its kind, to compressed rows: all of them (HCA), or those that an indexer chooses
//! (CSA). Values carry their rotation, so the output is rotated back.

use super::kv::LayerCache;
use super::scratch::Scratch;
use super::weights::Attention;
use crate::backend::profile::Stage;
use crate::backend::{Attend, Backend, Compress, Compressed, Heads, Product, Select, StoreKeys};
use crate::error::Result;
use crate::model::config::{Config, LayerKind};

/// Runs the chunk of `n` tokens from position `pos`.
pub fn attention<B: Backend>(
    c: &Config,
    backend: &mut B,
    w: &Attention<B>,
    cache: &mut LayerCache<B>,
    s: &mut Scratch<B>,
    n: usize,
    pos: usize,
) -> Result<()> {
    let heads = Heads {
        n: c.n_head,
        dim: c.head_dim,
        n_rot: c.n_rot,
    };
    backend.stage(Stage::Projections);
    project(backend, w, s, n)?;
    let rope = s.rope.of_tokens(w.kind);
    backend.stage(Stage::Norms);
    backend.rms_norm(n, &mut s.q_latent, &w.q_a_norm, c.rms_eps)?;
    backend.store_keys(StoreKeys {
        n,
        k: &mut s.k,
        norm: &w.kv_norm,
        rms_eps: c.rms_eps,
        rope,
        n_rot: c.n_rot,
        rows: &mut s.k_rows,
    })?;

    backend.stage(Stage::Projections);
    let q = Product {
        weight: &w.q_b,
        y: &mut s.q,
    };
    match &w.indexer {
        None => backend.matmul(n, &s.q_latent, &mut [q])?,
        Some(i) => {
            let index_q = Product {
                weight: &i.q_b,
                y: &mut s.index_q,
            };
            backend.matmul(n, &s.q_latent, &mut [q, index_q])?;
        }
    }
    backend.stage(Stage::Norms);
    backend.head_norm_rope(n, heads, &mut s.q, rope, c.rms_eps)?;

    let mut compressed = None;
    if let (Some(ratio), Some(weights), Some(rows)) =
        (w.kind.ratio(), &w.compressor, &mut cache.compressed)
    {
        let overlap = w.kind == LayerKind::Csa;
        let rope_windows = s.rope.of_windows(ratio);
        backend.stage(Stage::Compressor);
        backend.compress(Compress {
            n,
            pos,
            ratio,
            overlap,
            dim: c.head_dim,
            n_rot: c.n_rot,
            kv: &s.compress_kv,
            gate: &mut s.compress_gate,
            ape: &weights.ape,
            norm: &weights.norm,
            rms_eps: c.rms_eps,
            rope: rope_windows,
            state: &mut rows.state,
            rows: &mut rows.rows,
        })?;
        let mut selected = None;
        if let (Some(i), Some(index)) = (&w.indexer, &mut cache.index) {
            // Index rows are built from the first token on, long before they are needed.
            backend.compress(Compress {
                n,
                pos,
                ratio,
                overlap,
                dim: c.head_dim_index,
                n_rot: c.n_rot,
                kv: &s.index_kv,
                gate: &mut s.index_gate,
                ape: &i.compressor.ape,
                norm: &i.compressor.norm,
                rms_eps: c.rms_eps,
                rope: rope_windows,
                state: &mut index.state,
                rows: &mut index.rows,
            })?;
            let heads = Heads {
                n: c.n_head_index,
                dim: c.head_dim_index,
                n_rot: c.n_rot,
            };
            backend.stage(Stage::Indexer);
            backend.index_queries(n, heads, &mut s.index_q, rope, w.index_form)?;
            let step = Select {
                n,
                pos,
                ratio,
                n_head: c.n_head_index,
                dim: c.head_dim_index,
                top_k: c.top_k_index,
                q: &s.index_q,
                head_weight: &s.index_weight,
                scale: ((c.head_dim_index * c.n_head_index) as f32).sqrt().recip(),
                rows: &index.rows,
            };
            backend.select(step, &mut s.selection)?;
            selected = Some((&s.selection, c.top_k_index));
        }
        compressed = Some(Compressed {
            rows: &rows.rows,
            ratio,
            selected,
        });
    }

    backend.stage(Stage::Attention);
    backend.attend(Attend {
        n,
        pos,
        heads,
        window: c.window,
        q: &s.q,
        sinks: &w.sinks,
        ring: &cache.ring,
        chunk: &s.k_rows,
        compressed,
        rope,
        out: &mut s.attended,
    })?;
    backend.stage(Stage::Norms);
    backend.commit_keys(n, pos, c.window, &s.k_rows, &mut cache.ring)?;
    backend.stage(Stage::OutputProjections);
    backend.matmul_grouped(n, c.n_group_o, &s.attended, &w.output_a, &mut s.o_latent)?;
    backend.matmul(
        n,
        &s.o_latent,
        &mut [Product {
            weight: &w.output_b,
            y: &mut s.y,
        }],
    )
}

/// All products of the layer's input in one pass.
fn project<B: Backend>(
    backend: &mut B,
    w: &Attention<B>,
    s: &mut Scratch<B>,
    n: usize,
) -> Result<()> {
    let q = Product {
        weight: &w.q_a,
        y: &mut s.q_latent,
    };
    let k = Product {
        weight: &w.kv,
        y: &mut s.k,
    };
    let Some(c) = &w.compressor else {
        return backend.matmul(n, &s.x, &mut [q, k]);
    };
    let kv = Product {
        weight: &c.kv,
        y: &mut s.compress_kv,
    };
    let gate = Product {
        weight: &c.gate,
        y: &mut s.compress_gate,
    };
    let Some(i) = &w.indexer else {
        return backend.matmul(n, &s.x, &mut [q, k, kv, gate]);
    };
    let index_kv = Product {
        weight: &i.compressor.kv,
        y: &mut s.index_kv,
    };
    let index_gate = Product {
        weight: &i.compressor.gate,
        y: &mut s.index_gate,
    };
    let weight = Product {
        weight: &i.proj,
        y: &mut s.index_weight,
    };
    backend.matmul(n, &s.x, &mut [q, k, kv, gate, index_kv, index_gate, weight])
}
