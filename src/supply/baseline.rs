//! Strategy `baseline`: the published engines' way. Experts are read through the page cache into owned slabs, so that
//! the page cache is a second cache that no budget bounds. Fixed weights are read once, past it.

use super::cache::{Cache, CacheOptions};
use super::fixed::Fixed;
use super::policy::Policy;
use super::{Opened, Opening, Slabs, SupplyNeeds};
use crate::error::Result;
use crate::model::Model;
use crate::os::slots::Source;
use crate::os::{FileSet, ReadAt};
use std::sync::Arc;

/// Opens the model's files twice more: past the cache for the fixed weights, through it for the experts.
pub fn open(opening: Opening<'_>) -> Result<Opened> {
    let Opening {
        files,
        model,
        options,
        budget,
        device,
        progress,
    } = opening;
    let direct = files.direct()?;
    let fixed = Fixed::read(&direct, model, options.readers, options.lock, progress)?;
    let experts = files.reopen()?;
    let cache = CacheOptions {
        budget,
        n_readers: options.readers,
        policy: Policy::Halving,
        read_ahead: options.read_ahead,
        lock: options.lock,
    };
    let experts = Cache::new(
        &model.experts,
        Source::File(Arc::new(experts)),
        device,
        model.config.n_expert_used,
        cache,
    )?;
    Ok(Opened {
        fixed,
        experts: Box::new(experts),
        notes: direct.refused().into_iter().collect(),
    })
}

/// Whole pages around the fixed weights, and slabs without any bytes around the experts.
pub fn needs(files: &FileSet, model: &Model) -> Result<SupplyNeeds> {
    Ok(SupplyNeeds {
        fixed: Fixed::bytes(model, files.direct()?.alignment()),
        slabs: Slabs::of(&model.experts, 1),
        streams: true,
        n_pools: 1,
    })
}
