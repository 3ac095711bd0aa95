//! How routed experts reach a kernel: one trait, one strategy a file, chosen by name at run time.

use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::experts::ExpertRef;
use crate::os::File;
use crate::units::{ExpertId, LayerId};
use fixed::Fixed;

pub mod fixed;
mod full;

/// Makes routed experts readable.
pub trait ExpertSupply: Send + Sync {
    /// Makes these experts of a layer readable until the next call.
    ///
    /// Errors: a failed read.
    fn acquire(&mut self, layer: LayerId, experts: &[ExpertId]) -> Result<()>;

    /// The weights of an expert of the last [`ExpertSupply::acquire`].
    fn expert(&self, layer: LayerId, expert: ExpertId) -> ExpertRef<'_>;
}

/// A model file opened by a strategy.
pub struct Opened {
    /// The weights every token uses.
    pub fixed: Fixed,
    /// The routed experts.
    pub experts: Box<dyn ExpertSupply>,
}

/// Opens the weights of a bound model; the closure is told the bytes loaded, and all bytes to load.
pub type OpenSupply = fn(&File, &Model, &mut dyn FnMut(u64, u64)) -> Result<Opened>;

/// The strategies built into this program.
pub const STRATEGIES: &[(&str, OpenSupply)] = &[("full", full::open)];

/// Strategies that are planned and not built yet: asking for one says so.
const PLANNED: &[&str] = &["baseline", "residency-lru", "nommap"];

/// The strategy called `name`.
pub fn strategy(name: &str) -> Result<OpenSupply> {
    if let Some((_, open)) = STRATEGIES.iter().find(|(n, _)| *n == name) {
        return Ok(*open);
    }
    let known: Vec<_> = STRATEGIES.iter().map(|(n, _)| *n).collect();
    let why = if PLANNED.contains(&name) {
        "is not implemented yet"
    } else {
        "is unknown"
    };
    Err(Error::usage(format!(
        "--strategy: '{name}' {why}, expected {}",
        known.join(" | ")
    )))
}
