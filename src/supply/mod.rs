//! How routed experts reach a kernel: one trait, one strategy a file, chosen by name at run time.

use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::experts::{ExpertMap, ExpertRef};
use crate::options::SupplyOptions;
use crate::os::FileSet;
use crate::os::share::Device;
use crate::units::{ExpertId, LayerId};
use fixed::Fixed;
use std::sync::Arc;

mod baseline;
pub mod cache;
pub mod fixed;
mod full;
#[cfg(feature = "nommap")]
mod nommap;
pub mod policy;
pub mod probe;
#[cfg(feature = "residency-lru")]
mod residency_lru;
mod slab;
mod stats;

pub use stats::{ExpertUse, Stats, StatsMeter, StatsTable};

/// Makes routed experts readable, layer by layer.
///
/// ```text
/// start   expect(later layer)*   begin(layer, chosen)   other work   { next -> some of them -> kernels }*   ...   rest
/// ```
pub trait ExpertSupply: Send + Sync {
    /// A pass over `n_tokens` tokens begins. A pass over one is a decoded token: use fades.
    ///
    /// Errors: the file is not what it was when it was opened.
    fn start(&mut self, n_tokens: usize) -> Result<()>;

    /// These experts of a layer that was not begun are likely needed soon; beside them `spare` others must find
    /// room. A hint: what it costs to heed it is decided by the strategy.
    ///
    /// Errors: memory is refused.
    fn expect(&mut self, _layer: LayerId, _experts: &[ExpertId], _spare: usize) -> Result<()> {
        Ok(())
    }

    /// A layer chose these experts, ascending, each by `counts` tokens; with `more`, other chunks of tokens follow
    /// in the same layer and may choose them again. Reads of what is missing begin.
    ///
    /// Errors: memory is refused, or the file is not what it was when it was opened.
    fn begin(
        &mut self,
        layer: LayerId,
        experts: &[ExpertId],
        counts: &[usize],
        more: bool,
    ) -> Result<()>;

    /// Indices into the chosen experts that can be read until the next call, none of them given out before:
    /// first those that need no wait. Empty when all were given out.
    ///
    /// Errors: a failed read. The layer is over then; the next [`ExpertSupply::begin`] works.
    fn next(&mut self) -> Result<&[usize]>;

    /// The weights of an expert that the last [`ExpertSupply::next`] gave out.
    fn expert(&self, layer: LayerId, expert: ExpertId) -> ExpertRef<'_>;

    /// An error when the file is not what it was when it was opened, or when bytes that were given out could not be read.
    /// What was computed since the last call without an error, here or of [`ExpertSupply::start`], is worth nothing then.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Nothing more follows now, after success, error or cancel: what was expected is given up.
    fn rest(&mut self) {}

    /// Bytes that the system keeps from being swapped out.
    fn locked_bytes(&self) -> u64 {
        0
    }

    /// Counters so far.
    fn stats(&self) -> Stats;

    /// The same expert by expert, `[n_layer, n_expert]`; touches and hits sum to those of [`ExpertSupply::stats`].
    fn uses(&self) -> Vec<ExpertUse>;
}

/// A model file opened by a strategy.
pub struct Opened {
    /// The weights every token uses.
    pub fixed: Fixed,
    /// The routed experts.
    pub experts: Box<dyn ExpertSupply>,
    /// Things worth telling that are no faults.
    pub notes: Vec<String>,
}

/// What a strategy opens.
pub struct Opening<'a> {
    /// The model's files.
    pub files: &'a FileSet,
    /// What they hold.
    pub model: &'a Model,
    /// How to read.
    pub options: &'a SupplyOptions,
    /// Bytes of slabs at most.
    pub budget: u64,
    /// What reads the experts where they lie, if it is not the CPU.
    pub device: Option<&'a Arc<dyn Device>>,
    /// Told the bytes loaded, and all bytes to load.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

/// Opens the weights of a bound model.
pub type OpenSupply = fn(Opening<'_>) -> Result<Opened>;

/// Bytes of the largest slab of a model, in a file whose reads are multiples of `alignment`.
pub fn largest_slab(map: &ExpertMap, alignment: usize) -> u64 {
    let layouts = slab::SlabLayout::of_layers(map, alignment);
    let slabs = layouts.iter().map(slab::SlabLayout::len);
    slabs.max().unwrap_or(0) as u64
}

/// All experts of a model as slabs, whose sizes may differ from layer to layer.
///
/// A number of experts stands for as many times the mean, so that a part of them is that part of their bytes, and a
/// choice of each layer is what these take together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slabs {
    /// How many.
    pub n: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Whether their sizes differ.
    pub is_mixed: bool,
}

impl Slabs {
    /// Of a model, in a file whose reads are multiples of `alignment`.
    pub fn of(map: &ExpertMap, alignment: usize) -> Slabs {
        let layouts = slab::SlabLayout::of_layers(map, alignment);
        let lens = || layouts.iter().map(|layout| layout.len() as u64);
        Slabs {
            n: map.n_experts_total() as u64,
            bytes: lens().sum::<u64>() * map.n_expert as u64,
            is_mixed: lens().min() != lens().max(),
        }
    }

    /// Bytes of `n` experts, rounded up.
    pub fn bytes_of(&self, n: u64) -> u64 {
        let bytes = u128::from(self.bytes) * u128::from(n);
        let bytes = bytes.div_ceil(u128::from(self.n.max(1)));
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Experts whose bytes are within `bytes`.
    pub fn count_in(&self, bytes: u64) -> u64 {
        let n = u128::from(bytes) * u128::from(self.n) / u128::from(self.bytes.max(1));
        u64::try_from(n).unwrap_or(u64::MAX)
    }
}

/// What a strategy needs for a model.
#[derive(Clone, Copy, Debug)]
pub struct SupplyNeeds {
    /// Bytes of fixed weights.
    pub fixed: u64,
    /// The experts.
    pub slabs: Slabs,
    /// Whether a budget bounds the experts; if not, all are resident.
    pub streams: bool,
    /// Times that the threads that read are there.
    pub n_pools: u64,
}

/// A strategy that is built in.
#[derive(Clone, Copy, Debug)]
pub struct Built {
    /// On the command line.
    pub name: &'static str,
    /// Opens it.
    pub open: OpenSupply,
    /// What it needs, for a model in these files.
    pub needs: fn(&FileSet, &Model) -> Result<SupplyNeeds>,
}

/// Names of all strategies, built in or not, the most careful of memory last.
pub const NAMES: [&str; 4] = ["full", "baseline", "residency-lru", "nommap"];

/// The strategies that are built in; the only place that reads their features.
pub const STRATEGIES: &[Built] = &[
    Built {
        name: "full",
        open: full::open,
        needs: full::needs,
    },
    Built {
        name: "baseline",
        open: baseline::open,
        needs: baseline::needs,
    },
    #[cfg(feature = "residency-lru")]
    Built {
        name: "residency-lru",
        open: residency_lru::open,
        needs: residency_lru::needs,
    },
    #[cfg(feature = "nommap")]
    Built {
        name: "nommap",
        open: nommap::open,
        needs: nommap::needs,
    },
];

/// The strategy that is used when the user names none.
pub fn default_strategy() -> &'static str {
    STRATEGIES.last().map_or("full", |s| s.name)
}

/// The strategy called `name`.
///
/// Errors: there is none, or it is not built in; the message names the feature then.
pub fn built(name: &str) -> Result<Built> {
    if let Some(strategy) = STRATEGIES.iter().find(|s| s.name == name) {
        return Ok(*strategy);
    }
    let what = if NAMES.contains(&name) {
        format!("is not built in (cargo build --features {name})")
    } else {
        format!("is unknown, expected auto | {}", NAMES.join(" | "))
    };
    Err(Error::usage(format!("--strategy: '{name}' {what}")))
}
