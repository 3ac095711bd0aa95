//! Strategy `full`: fixed weights read once, all experts mapped and resident, and locked where that is allowed. The twin
//! the other strategies are tested against.

use super::fixed::{Fixed, Lock, windows_around};
use super::{ExpertSupply, ExpertUse, Opened, Opening, Slabs, Stats, SupplyNeeds};
use crate::error::Result;
use crate::model::Model;
use crate::model::experts::{ExpertMap, ExpertRef, LayerExperts};
use crate::os::share::Shared;
use crate::os::{self, FileSet, Map, ReadAt};
use crate::units::{ExpertId, Extent, LayerId};
use std::sync::Arc;

/// Bytes made resident between two reports of progress.
const STEP: u64 = 64 << 20;

struct Full {
    map: Arc<Map>,
    /// All tensors of experts, where a device shares them.
    _shared: Vec<Shared>,
    experts: ExpertMap,
    /// Indices of the layer's experts: all are ready.
    chosen: Vec<usize>,
    given: bool,
    stats: Stats,
    /// `[n_layer, n_expert]`
    uses: Vec<ExpertUse>,
    locked: u64,
}

/// Maps the files and asks the system to read all experts; the fixed weights are read past the page cache.
pub fn open(opening: Opening<'_>) -> Result<Opened> {
    let Opening {
        files,
        model,
        options,
        device,
        progress,
        ..
    } = opening;
    let direct = files.direct()?;
    let fixed = Fixed::read(&direct, model, options.readers, options.lock, progress)?;
    let map = Arc::new(Map::new(files)?);
    populate(&map, &model.experts, progress)?;
    let mut lock = Lock::default();
    let all = tensors(&model.experts).collect();
    for pages in windows_around(all, os::page_size()) {
        if options.lock {
            lock.add(pages.len, map.lock(pages));
        }
    }
    let mut shared = Vec::new();
    for extent in tensors(&model.experts).filter(|_| device.is_some()) {
        let bytes = &map.as_slice()[extent.offset as usize..][..extent.len as usize];
        shared.extend(
            device
                .map(|d| Shared::new(d, bytes, Some(&map)))
                .transpose()?,
        );
    }
    let resident = ExpertUse {
        resident: true,
        ..ExpertUse::default()
    };
    let experts = Box::new(Full {
        _shared: shared,
        map: Arc::clone(&map),
        experts: model.experts.clone(),
        chosen: Vec::with_capacity(model.config.n_expert),
        given: true,
        stats: Stats::default(),
        uses: vec![resident; model.experts.n_experts_total()],
        locked: lock.locked,
    });
    Ok(Opened {
        fixed,
        experts,
        notes: direct.refused().into_iter().chain(lock.note()).collect(),
    })
}

/// All tensors.
pub fn needs(files: &FileSet, model: &Model) -> Result<SupplyNeeds> {
    Ok(SupplyNeeds {
        fixed: Fixed::bytes(model, files.direct()?.alignment()),
        slabs: Slabs::of(&model.experts, 1),
        streams: false,
        n_pools: 0,
    })
}

/// All tensors of experts.
fn tensors(experts: &ExpertMap) -> impl Iterator<Item = Extent> {
    let of = |layer: &LayerExperts| [&layer.gate, &layer.up, &layer.down].map(|t| t.extent);
    experts.layers.iter().flat_map(of)
}

/// Has the system read the experts now.
///
/// Errors: a failed read.
fn populate(map: &Map, experts: &ExpertMap, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
    let all = experts.total_bytes();
    let mut done = 0;
    for extent in tensors(experts) {
        for at in (0..extent.len).step_by(STEP as usize) {
            let len = STEP.min(extent.len - at);
            progress(done, all);
            map.populate(Extent {
                offset: extent.offset + at,
                len,
            })?;
            done += len;
        }
    }
    Ok(())
}

impl ExpertSupply for Full {
    fn start(&mut self, _: usize) -> Result<()> {
        self.map.check()
    }

    fn begin(&mut self, l: LayerId, experts: &[ExpertId], _: &[usize], _: bool) -> Result<()> {
        self.map.check()?;
        let n = experts.len();
        self.stats.touches += n as u64;
        self.stats.hits += n as u64;
        for expert in experts {
            let used = &mut self.uses[l.0 * self.experts.n_expert + expert.0 as usize];
            used.touches += 1;
            used.hits += 1;
        }
        self.chosen.clear();
        self.chosen.extend(0..n);
        self.given = false;
        Ok(())
    }

    fn next(&mut self) -> Result<&[usize]> {
        if std::mem::replace(&mut self.given, true) {
            return Ok(&[]);
        }
        Ok(&self.chosen)
    }

    fn expert(&self, layer: LayerId, expert: ExpertId) -> ExpertRef<'_> {
        self.experts.extents(layer, expert).of(self.map.as_slice())
    }

    fn check(&self) -> Result<()> {
        self.map.check()
    }

    fn locked_bytes(&self) -> u64 {
        self.locked
    }

    fn stats(&self) -> Stats {
        self.stats
    }

    fn uses(&self) -> Vec<ExpertUse> {
        self.uses.clone()
    }
}
