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
use super::{ExpertSupply, ExpertUse, Opened, Opening, Slabs, Stats, SupplyNeeds, largest_slab};
use crate::error::Result;
use crate::model::Model;
use crate::model::experts::ExpertRef;
use crate::os::slots::Source;
use crate::os::{self, FileSet, Map, ReadAt};
use crate::units::{ExpertId, LayerId};
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
    way: Way,
    /// A pass of so many tokens chooses about all experts of a layer.
    n_wide: usize,
}

/// How a pass gets its experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    InPlace,
    Sweep,
}

/// Maps the files, and opens them once more for reads past the cache.
pub fn open(opening: Opening<'_>) -> Result<Opened> {
    let Opening {
        files,
        model,
        options,
        budget,
        device,
        progress,
    } = opening;
    let direct = Arc::new(files.direct()?);
    let fixed = Fixed::read(&*direct, model, options.readers, options.lock, progress)?;
    let notes = direct.refused();
    let map = Arc::new(Map::new(files)?);
    let n_used = model.config.n_expert_used;
    let cache = |source, budget| {
        let cache = CacheOptions {
            budget,
            n_readers: options.readers,
            policy: Policy::Lru,
            read_ahead: options.read_ahead,
            lock: options.lock,
        };
        Cache::new(&model.experts, source, device, n_used, cache)
    };
    let layer = largest_slab(&model.experts, direct.alignment()) * model.config.n_expert as u64;
    let most = budget.min(SWEEP_LAYERS as u64 * layer);
    let experts = ResidencyLru {
        budget,
        most,
        views: cache(Source::Map(map), budget)?,
        sweep: cache(Source::File(direct), most)?,
        way: Way::InPlace,
        n_wide: model.config.n_expert.div_ceil(n_used),
    };
    Ok(Opened {
        fixed,
        experts: Box::new(experts),
        notes: notes.into_iter().collect(),
    })
}

/// Whole pages around the fixed weights, and around each matrix.
pub fn needs(files: &FileSet, model: &Model) -> Result<SupplyNeeds> {
    let alignment = files.direct()?.alignment();
    Ok(SupplyNeeds {
        fixed: Fixed::bytes(model, alignment),
        slabs: Slabs::of(&model.experts, alignment.max(os::page_size())),
        streams: true,
        n_pools: 2,
    })
}

impl ResidencyLru {
    fn now(&self) -> &Cache {
        match self.way {
            Way::InPlace => &self.views,
            Way::Sweep => &self.sweep,
        }
    }

    fn now_mut(&mut self) -> &mut Cache {
        match self.way {
            Way::InPlace => &mut self.views,
            Way::Sweep => &mut self.sweep,
        }
    }
}

impl ExpertSupply for ResidencyLru {
    fn start(&mut self, n_tokens: usize) -> Result<()> {
        let (way, sweep) = if n_tokens < self.n_wide {
            (Way::InPlace, 0)
        } else {
            (Way::Sweep, self.most)
        };
        // A pass that failed may have left something in work.
        self.rest();
        self.way = way;
        // Growing takes nothing yet, so both together are never more than the budget.
        self.views.set_bound(self.budget - sweep);
        self.sweep.set_bound(sweep);
        self.now_mut().start(n_tokens)
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
        // With the last chunk, so once a layer.
        if self.way == Way::Sweep
            && !more
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

    fn check(&self) -> Result<()> {
        self.views.check()?;
        self.sweep.check()
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

    fn uses(&self) -> Vec<ExpertUse> {
        let both = self.views.uses().into_iter().zip(self.sweep.uses());
        both.map(|(a, b)| ExpertUse {
            touches: a.touches + b.touches,
            hits: a.hits + b.hits,
            resident: a.resident || b.resident,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Gguf;
    use crate::options::Options;
    use crate::os::File;
    use crate::os::meter::{cached_bytes_in, drop_cached};
    use crate::rng::Rng;
    use std::path::{Path, PathBuf};

    /// A copy of a small model that nobody else reads, removed with this value.
    struct Copy(PathBuf);

    impl Copy {
        fn new(name: &str) -> Copy {
            let micro = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/micro-q2.gguf");
            let path = std::env::temp_dir().join(format!("infall-{}-{name}", std::process::id()));
            std::fs::copy(micro, &path).unwrap();
            Copy(path)
        }
    }

    impl Drop for Copy {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).ok();
        }
    }

    /// Experts held at most; all are 5 layers of 8.
    const BUDGET: usize = 20;

    fn open_micro(Copy(path): &Copy) -> (Box<dyn ExpertSupply>, Model, File) {
        let file = File::open(path).unwrap();
        let files = FileSet::open(path).unwrap();
        let model = Model::bind(Gguf::read(&file).unwrap()).unwrap();
        let slabs = needs(&files, &model).unwrap().slabs;
        let opened = open(Opening {
            files: &files,
            model: &model,
            options: &Options::new(path).supply,
            budget: slabs.bytes_of(BUDGET as u64),
            device: None,
            progress: &mut |_, _| {},
        });
        (opened.unwrap().experts, model, file)
    }

    /// A layer as the graph runs it, each expert looked at.
    fn layer(supply: &mut dyn ExpertSupply, layer: usize, experts: &[u32]) {
        let ids: Vec<ExpertId> = experts.iter().map(|e| ExpertId(*e)).collect();
        supply
            .begin(LayerId(layer), &ids, &vec![1; ids.len()], false)
            .unwrap();
        loop {
            let batch = supply.next().unwrap().to_vec();
            if batch.is_empty() {
                break;
            }
            for i in batch {
                let expert = supply.expert(LayerId(layer), ids[i]);
                assert!(!expert.gate.is_empty());
            }
        }
    }

    /// The stranded budget: whatever was done before, decode has all of it, and gives up in the order of use.
    #[test]
    fn decode_has_the_whole_budget_after_any_history_10() {
        let copy = Copy::new("history.gguf");
        let (mut supply, _, _) = open_micro(&copy);
        let supply = &mut *supply;
        for seed in 1..60 {
            let mut rng = Rng::new(seed);
            for _ in 0..rng.below(5) {
                // A pass, wide or narrow, that may stop at any layer, in the middle of it.
                supply.start([1, 2, 3, 8, 500][rng.below(5)]).unwrap();
                for l in 0..rng.below(6) {
                    let all: Vec<u32> = (0..8).filter(|_| rng.below(3) > 0).collect();
                    if rng.below(2) == 0 && l < 4 {
                        let ids: Vec<ExpertId> = all.iter().map(|e| ExpertId(*e)).collect();
                        supply.expect(LayerId(l + 1), &ids, 8).unwrap();
                    }
                    if rng.below(6) == 0 {
                        let ids: Vec<ExpertId> = all.iter().map(|e| ExpertId(*e)).collect();
                        supply
                            .begin(LayerId(l), &ids, &vec![1; ids.len()], true)
                            .unwrap();
                        break;
                    }
                    layer(supply, l, &all);
                }
                if rng.below(2) == 0 {
                    supply.rest();
                }
            }
            supply.start(1).unwrap();
            let keys: Vec<(usize, u32)> = (0..40)
                .map(|i| (i * 7 + seed as usize) % 40)
                .map(|k| (k / 8, k as u32 % 8))
                .collect();
            for (l, e) in &keys {
                layer(supply, *l, &[*e]);
            }
            let touched = |supply: &mut dyn ExpertSupply, keys: &[(usize, u32)]| {
                let before = supply.stats().hits;
                keys.iter().for_each(|(l, e)| layer(supply, *l, &[*e]));
                supply.stats().hits - before
            };
            let (gone, held) = keys.split_at(keys.len() - BUDGET);
            assert_eq!(touched(supply, held), BUDGET as u64, "seed {seed}");
            assert_eq!(touched(supply, &gone[gone.len() - 1..]), 0, "seed {seed}");
        }
    }

    /// What a view loses leaves the page cache, in decode and before a sweep, which leaves nothing there.
    #[test]
    fn no_more_is_cached_than_the_views_hold_2() {
        let copy = Copy::new("cached.gguf");
        if drop_cached(&File::open(&copy.0).unwrap()) != Some(0) {
            return println!("skipped: the file does not leave the page cache here");
        }
        let (mut supply, model, file) = open_micro(&copy);
        let supply = &mut *supply;
        // What came with the header goes.
        drop_cached(&file);
        let files = FileSet::open(&copy.0).unwrap();
        let slab = needs(&files, &model).unwrap().slabs.bytes_of(1);
        let cached = || -> u64 {
            let tensors = model
                .experts
                .layers
                .iter()
                .flat_map(|l| [&l.gate, &l.up, &l.down]);
            tensors
                .map(|t| cached_bytes_in(&file, t.extent).unwrap())
                .sum()
        };
        // A tensor shares its first and last page with others.
        let shared = 15 * 2 * os::page_size() as u64;
        supply.start(1).unwrap();
        for i in 0..200 {
            layer(supply, i % 5, &[(i * 3 % 8) as u32]);
            let most = (i + 1).min(BUDGET) as u64 * slab + shared;
            assert!(cached() <= most, "use {i}: {} of {most}", cached());
        }
        assert!(
            cached() > BUDGET as u64 * model.experts.max_slab_len() - shared,
            "views are cached"
        );
        supply.start(500).unwrap();
        let held = (BUDGET - 16) as u64 * slab + shared;
        assert!(cached() <= held, "two layers of 8 are left to the sweep");
        for l in 0..5 {
            layer(supply, l, &[0, 1, 2, 3, 4, 5, 6, 7]);
            assert!(cached() <= held, "layer {l}");
        }
        // What another process brings there goes two layers behind.
        std::fs::read(&copy.0).unwrap();
        let all = cached();
        supply.start(500).unwrap();
        for l in 0..5 {
            layer(supply, l, &[0, 1, 2, 3, 4, 5, 6, 7]);
        }
        let two_layers = 16 * slab;
        assert!(
            cached() <= held + two_layers && cached() < all,
            "{} of {all}",
            cached()
        );
    }
}
