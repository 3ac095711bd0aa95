//! How routed experts reach a kernel: one trait, one strategy a file, chosen by name at run time.

use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::experts::ExpertRef;
use crate::options::SupplyOptions;
use crate::os::File;
use crate::units::{ExpertId, LayerId};
use fixed::Fixed;
use std::path::Path;

mod baseline;
mod cache;
pub mod fixed;
mod full;
#[cfg(feature = "nommap")]
mod nommap;
pub mod policy;
mod slab;
mod stats;

pub use stats::Stats;

/// Makes routed experts readable, layer by layer.
///
/// ```text
/// expect(later layer)*   begin(layer, chosen)   other work   { next -> some of them -> kernels }*   ...   rest
/// ```
pub trait ExpertSupply: Send + Sync {
    /// These experts of a layer that was not begun are needed soon. A hint: what it costs to heed it is decided
    /// by the strategy.
    ///
    /// Errors: memory is refused.
    fn expect(&mut self, _layer: LayerId, _experts: &[ExpertId]) -> Result<()> {
        Ok(())
    }

    /// A layer chose these experts, ascending, each by `counts` tokens. Reads of what is missing begin.
    ///
    /// Errors: memory is refused.
    fn begin(&mut self, layer: LayerId, experts: &[ExpertId], counts: &[usize]) -> Result<()>;

    /// Indices into the chosen experts that can be read until the next call, none of them given out before:
    /// first those that need no wait. Empty when all were given out.
    ///
    /// Errors: a failed read. The layer is over then; the next [`ExpertSupply::begin`] works.
    fn next(&mut self) -> Result<&[usize]>;

    /// The weights of an expert that the last [`ExpertSupply::next`] gave out.
    fn expert(&self, layer: LayerId, expert: ExpertId) -> ExpertRef<'_>;

    /// A decoded token begins: use fades.
    fn token(&mut self) {}

    /// Nothing more follows now, after success, error or cancel: what was expected is given up.
    fn rest(&mut self) {}

    /// Counters so far.
    fn stats(&self) -> Stats;
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
    /// The model file's path, for descriptors of its own.
    pub path: &'a Path,
    /// The model file.
    pub file: &'a File,
    /// What it holds.
    pub model: &'a Model,
    /// How to read.
    pub options: &'a SupplyOptions,
    /// Bytes of slabs at most.
    pub budget: u64,
    /// Told the bytes loaded, and all bytes to load.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

/// Opens the weights of a bound model.
pub type OpenSupply = fn(Opening<'_>) -> Result<Opened>;

/// A way to supply experts.
pub struct Strategy {
    /// On the command line.
    pub name: &'static str,
    /// `None` where the cargo feature of the same name is not built in.
    pub open: Option<OpenSupply>,
}

/// All strategies; the only place that reads their features.
pub const STRATEGIES: &[Strategy] = &[
    Strategy {
        name: "full",
        open: Some(full::open),
    },
    Strategy {
        name: "baseline",
        open: Some(baseline::open),
    },
    Strategy {
        name: "residency-lru",
        open: None,
    },
    #[cfg(feature = "nommap")]
    Strategy {
        name: "nommap",
        open: Some(nommap::open),
    },
    #[cfg(not(feature = "nommap"))]
    Strategy {
        name: "nommap",
        open: None,
    },
];

/// The strategy called `name`.
///
/// Errors: there is none, or it is not built in; the message names the feature then.
pub fn strategy(name: &str) -> Result<OpenSupply> {
    match STRATEGIES.iter().find(|s| s.name == name) {
        Some(Strategy {
            open: Some(open), ..
        }) => Ok(*open),
        Some(_) => Err(Error::usage(format!(
            "--strategy: '{name}' is not built in (cargo build --features {name})"
        ))),
        None => {
            let known: Vec<_> = STRATEGIES.iter().map(|s| s.name).collect();
            Err(Error::usage(format!(
                "--strategy: '{name}' is unknown, expected {}",
                known.join(" | ")
            )))
        }
    }
}
