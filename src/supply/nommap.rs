//! Strategy `nommap`: tensor data is never mapped, and never in the page cache, where the file system allows that; where
//! it does not, what was read is dropped from it at once.
//!
//! Fixed weights are read once into owned memory; experts are read past the page cache straight into their
//! slabs. What the program holds is what it says it holds.

use super::cache::{Cache, CacheOptions};
use super::fixed::Fixed;
use super::policy::Policy;
use super::{Opened, Opening, Slabs, SupplyNeeds};
use crate::error::Result;
use crate::model::Model;
use crate::os::slots::Source;
use crate::os::{FileSet, ReadAt};
use std::sync::Arc;

/// Opens the model's files a second time, for reads past the cache.
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
    let cache = CacheOptions {
        budget,
        n_readers: options.readers,
        policy: Policy::HalfLife,
        read_ahead: options.read_ahead,
        lock: options.lock,
    };
    let experts = Cache::new(
        &model.experts,
        Source::File(direct),
        device,
        model.config.n_expert_used,
        cache,
    )?;
    Ok(Opened {
        fixed,
        experts: Box::new(experts),
        notes: notes.into_iter().collect(),
    })
}

/// Whole pages around the fixed weights, and slabs of whole pages.
pub fn needs(files: &FileSet, model: &Model) -> Result<SupplyNeeds> {
    let alignment = files.direct()?.alignment();
    Ok(SupplyNeeds {
        fixed: Fixed::bytes(model, alignment),
        slabs: Slabs::of(&model.experts, alignment),
        streams: true,
        n_pools: 1,
    })
}
