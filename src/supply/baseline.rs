//! Strategy `baseline`: the published engines' way. Fixed weights are mapped; experts are read through the page
//! cache into owned slabs, so that the page cache is a second cache that no budget bounds.

use super::cache::{Cache, CacheOptions};
use super::fixed::Fixed;
use super::policy::Policy;
use super::{Opened, Opening, SupplyNeeds, largest_slab};
use crate::error::Result;
use crate::model::Model;
use crate::os::slots::Source;
use crate::os::{self, File};
use std::path::Path;
use std::sync::Arc;

/// Maps the file for the fixed weights and opens it a second time for the experts.
pub fn open(opening: Opening<'_>) -> Result<Opened> {
    let Opening {
        path,
        file,
        model,
        options,
        budget,
        progress,
    } = opening;
    let (fixed, _) = Fixed::map(file, model, options.lock, progress)?;
    let experts = File::open(path)?;
    experts.check_same(file)?;
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
        model.config.n_expert_used,
        cache,
    )?;
    Ok(Opened {
        fixed,
        experts: Box::new(experts),
        notes: Vec::new(),
    })
}

/// The mapped fixed weights, and slabs without any bytes around the experts.
pub fn needs(_: &Path, model: &Model) -> Result<SupplyNeeds> {
    Ok(SupplyNeeds {
        fixed: Fixed::bytes(model, os::page_size()),
        slab: largest_slab(&model.experts, 1),
        streams: true,
        n_pools: 1,
    })
}
