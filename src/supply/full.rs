//! Strategy `full`: the whole model mapped, resident, and locked where that is allowed. The twin the other strategies are tested against.

use super::fixed::{Fixed, Lock};
use super::{ExpertSupply, Opened, Opening, Stats, SupplyNeeds};
use crate::error::Result;
use crate::model::Model;
use crate::model::experts::{ExpertMap, ExpertRef};
use crate::os::{self, File, Map, ReadAt};
use crate::units::{ExpertId, Extent, LayerId};
use std::path::Path;
use std::sync::Arc;

/// Bytes made resident between two reports of progress.
const STEP: u64 = 64 << 20;

struct Full {
    file: Arc<Map>,
    experts: ExpertMap,
    /// Indices of the layer's experts: all are ready.
    chosen: Vec<usize>,
    given: bool,
    stats: Stats,
}

/// Maps the file and asks the system to read all of it.
pub fn open(opening: Opening<'_>) -> Result<Opened> {
    let Opening {
        file,
        model,
        options,
        progress,
        ..
    } = opening;
    let (offset, len) = (0, file.len());
    let map = map(file, &[Extent { offset, len }], progress)?;
    let mut lock = Lock::default();
    if options.lock {
        lock.add(len, map.lock(Extent { offset, len }));
    }
    let experts = Box::new(Full {
        file: Arc::clone(&map),
        experts: model.experts.clone(),
        chosen: Vec::with_capacity(model.config.n_expert),
        given: true,
        stats: Stats::default(),
    });
    Ok(Opened {
        fixed: Fixed::mapped(map, lock),
        experts,
        notes: Vec::new(),
    })
}

/// All tensors.
pub fn needs(_: &Path, model: &Model) -> Result<SupplyNeeds> {
    Ok(SupplyNeeds {
        fixed: Fixed::bytes(model, os::page_size()),
        slab: model.experts.max_slab_len(),
        streams: false,
        n_pools: 0,
    })
}

/// Maps a file and has the system read some of it now.
///
/// Errors: a failed read, or no address space.
pub fn map(file: &File, wanted: &[Extent], progress: &mut dyn FnMut(u64, u64)) -> Result<Arc<Map>> {
    let map = Map::new(file)?;
    let all = wanted.iter().map(|e| e.len).sum();
    let mut done = 0;
    for extent in wanted {
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
    Ok(Arc::new(map))
}

impl ExpertSupply for Full {
    fn start(&mut self, _: usize) -> Result<()> {
        self.file.check()
    }

    fn begin(&mut self, _: LayerId, experts: &[ExpertId], _: &[usize], _: bool) -> Result<()> {
        self.file.check()?;
        let n = experts.len();
        self.stats.touches += n as u64;
        self.stats.hits += n as u64;
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
        self.experts.extents(layer, expert).of(self.file.as_slice())
    }

    fn stats(&self) -> Stats {
        self.stats
    }
}
