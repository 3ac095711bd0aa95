//! Mixture of experts of one layer: `scratch.x` in, `scratch.y` out.
//!
//! The router chooses by the token id (hash layers) or by its scores; the supply makes the chosen experts
//! readable; their outputs are summed in the router's order, so the result does not depend on which experts
//! happened to be in memory.

use super::scratch::Scratch;
use super::weights::Moe;
use crate::backend::profile::Stage;
use crate::backend::{Backend, Experts, Product, Route};
use crate::error::Result;
use crate::model::config::Config;
use crate::supply::ExpertSupply;
use crate::units::{LayerId, TokenId};

/// Some tokens in one layer.
pub struct Chunk<'a> {
    /// The layer.
    pub layer: LayerId,
    /// The tokens.
    pub tokens: &'a [TokenId],
    /// Whether other chunks of the same layer follow.
    pub more: bool,
}

/// Runs the chunk.
pub fn moe<B: Backend>(
    c: &Config,
    backend: &mut B,
    w: &Moe<B>,
    supply: &mut dyn ExpertSupply,
    s: &mut Scratch<B>,
    Chunk {
        layer,
        tokens,
        more,
    }: Chunk<'_>,
) -> Result<()> {
    let n = tokens.len();
    backend.stage(Stage::Router);
    if let Some(table) = &w.hash {
        s.routes.ids.clear();
        tokens
            .iter()
            .for_each(|&t| s.routes.ids.extend(table.experts(t)));
    }
    let step = Route {
        n,
        n_used: c.n_expert_used,
        weight: &w.router,
        bias: w.bias.as_ref(),
        scale: c.expert_scale,
        preset: w.hash.is_some(),
        x: &s.x,
        scores: &mut s.scores,
    };
    backend.route(step, &mut s.routes)?;
    // The shared expert is computed while the choice is on its way, or else while missing experts are read.
    if B::QUEUES {
        shared_expert(c, backend, w, s, n)?;
        backend.stage(Stage::Router);
        backend.routes(&mut s.routes)?;
    }
    s.groups.fill(&s.routes.ids);
    backend.stage(Stage::ExpertSupply);
    supply.begin(layer, &s.groups.experts, &s.groups.counts, more)?;
    if !B::QUEUES {
        shared_expert(c, backend, w, s, n)?;
    }

    let mut n_left = s.groups.experts.len();
    loop {
        backend.stage(Stage::ExpertSupply);
        let which = supply.next()?;
        if which.is_empty() {
            break;
        }
        s.ready.clear();
        s.ready.extend_from_slice(which);
        backend.stage(Stage::RoutedExperts);
        let (supply, chosen) = (&*supply, &s.groups.experts);
        backend.experts(Experts {
            n,
            shape: w.shape,
            x: &s.x,
            routes: &s.routes,
            groups: &s.groups,
            which: &s.ready,
            weights: &|g| supply.expert(layer, chosen[g]),
            hidden: &mut s.hidden,
            out: &mut s.routed,
        })?;
        n_left -= s.ready.len();
        if n_left > 0 {
            // The supply may put others in the place of these.
            backend.stage(Stage::ExpertSupply);
            backend.wait()?;
        }
    }
    backend.stage(Stage::RoutedExperts);
    backend.combine(n, c.n_expert_used, c.n_embd, &s.routed, &mut s.y)
}

/// The expert of all tokens.
fn shared_expert<B: Backend>(
    c: &Config,
    backend: &mut B,
    w: &Moe<B>,
    s: &mut Scratch<B>,
    n: usize,
) -> Result<()> {
    backend.stage(Stage::SharedExpert);
    let gate = Product {
        weight: &w.gate_shared,
        y: &mut s.gate_shared,
    };
    let up = Product {
        weight: &w.up_shared,
        y: &mut s.up_shared,
    };
    backend.matmul(n, &s.x, &mut [gate, up])?;
    let len = n * c.n_expert_shared * c.n_ff_expert;
    backend.swiglu(len, w.clamp_shared, &mut s.gate_shared, &s.up_shared)?;
    let down = Product {
        weight: &w.down_shared,
        y: &mut s.y,
    };
    backend.matmul(n, &s.gate_shared, &mut [down])
}
