//! Strategy `residency-lru`: experts are read in place, through views of the mapping.
//!
//! ```text
//! one token, few tokens   views: mapped pages made resident by the readers, given up by strict LRU
//! many tokens             sweep: slabs of two layers, filled past the page cache, while the views keep the rest
//! ```
//!
//! Each pass computes both bounds from the number of its tokens; none outlives the pass, so that no end of a prefill,
//! error or stop can leave decode with the smaller one.

use super::cache::{Cache, CacheOptions};
use super::fixed::Fixed;
use super::policy::Policy;
use super::{ExpertSupply, Opened, Opening, Stats, SupplyNeeds, largest_slab};
use crate::error::Result;
use crate::model::Model;
use crate::model::experts::ExpertRef;
use crate::os::slots::Source;
use crate::os::{self, DirectFile, ReadAt};
use crate::units::{ExpertId, LayerId};
use std::path::Path;
use std::sync::Arc;

/// Layers that a sweep holds: the one in work and the next.
const SWEEP_LAYERS: usize = 2;

/// How far behind the layer in work pages are let go: nearer ones may still be in use.
const BEHIND: usize = 2;

struct ResidencyLru {
    budget: u64,
    /// Bytes that a sweep takes at most.
    most: u64,
    views: Cache,
    sweep: Cache,
    phase: Phase,
    /// A pass of so many tokens chooses about all experts of a layer.
    n_wide: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    InPlace,
    Sweep,
}

/// Maps the file, and opens it once more for reads past the cache.
pub fn open(opening: Opening<'_>) -> Result<Opened> {
    let Opening {
        path,
        file,
        model,
        options,
        budget,
        progress,
    } = opening;
    let direct = Arc::new(DirectFile::open(path)?);
    direct.file().check_same(file)?;
    let notes = direct.refused();
    let (fixed, map) = Fixed::map(file, model, options.lock, progress)?;
    let n_used = model.config.n_expert_used;
    let cache = |source, budget| {
        let cache = CacheOptions {
            budget,
            n_readers: options.readers,
            policy: Policy::Lru,
            read_ahead: options.read_ahead,
            lock: options.lock,
        };
        Cache::new(&model.experts, source, n_used, cache)
    };
    let layer = largest_slab(&model.experts, direct.alignment()) * model.config.n_expert as u64;
    let most = budget.min(SWEEP_LAYERS as u64 * layer);
    let experts = ResidencyLru {
        budget,
        most,
        views: cache(Source::Map(map), budget)?,
        sweep: cache(Source::File(direct), most)?,
        phase: Phase::InPlace,
        n_wide: model.config.n_expert.div_ceil(n_used),
    };
    Ok(Opened {
        fixed,
        experts: Box::new(experts),
        notes: notes.into_iter().collect(),
    })
}

/// The mapped fixed weights, and whole pages around each matrix.
pub fn needs(path: &Path, model: &Model) -> Result<SupplyNeeds> {
    let alignment = DirectFile::open(path)?.alignment().max(os::page_size());
    Ok(SupplyNeeds {
        fixed: Fixed::bytes(model, os::page_size()),
        slab: largest_slab(&model.experts, alignment),
        streams: true,
    })
}

impl ResidencyLru {
    fn now(&self) -> &Cache {
        match self.phase {
            Phase::InPlace => &self.views,
            Phase::Sweep => &self.sweep,
        }
    }

    fn now_mut(&mut self) -> &mut Cache {
        match self.phase {
            Phase::InPlace => &mut self.views,
            Phase::Sweep => &mut self.sweep,
        }
    }
}

impl ExpertSupply for ResidencyLru {
    fn start(&mut self, n_tokens: usize) {
        let (phase, sweep) = if n_tokens < self.n_wide {
            (Phase::InPlace, 0)
        } else {
            (Phase::Sweep, self.most)
        };
        // A pass that failed may have left something in work.
        self.rest();
        self.phase = phase;
        // Growing takes nothing yet, so both together are never more than the budget.
        self.views.set_bound(self.budget - sweep);
        self.sweep.set_bound(sweep);
        self.now_mut().start(n_tokens);
    }

    fn expect(&mut self, layer: LayerId, experts: &[ExpertId], spare: usize) -> Result<()> {
        self.now_mut().expect(layer, experts, spare)
    }

    fn begin(
        &mut self,
        layer: LayerId,
        experts: &[ExpertId],
        counts: &[usize],
        more: bool,
    ) -> Result<()> {
        if self.phase == Phase::Sweep
            && let Some(behind) = layer.0.checked_sub(BEHIND)
        {
            self.views.give_up_rest(LayerId(behind));
        }
        self.now_mut().begin(layer, experts, counts, more)
    }

    fn next(&mut self) -> Result<&[usize]> {
        self.now_mut().next()
    }

    fn expert(&self, layer: LayerId, expert: ExpertId) -> ExpertRef<'_> {
        self.now().expert(layer, expert)
    }

    fn rest(&mut self) {
        self.views.rest();
        self.sweep.rest();
    }

    fn locked_bytes(&self) -> u64 {
        self.views.locked_bytes() + self.sweep.locked_bytes()
    }

    fn stats(&self) -> Stats {
        let mut stats = self.views.stats();
        stats += self.sweep.stats();
        stats
    }
}
