//! The Metal backend: shared-storage memory, and a queue of kernels of our own (`metal-shaders/`).
//!
//! Never executed on Apple hardware so far; README.md says what has been proved instead, and how.
//!
//! ```text
//! Backend (mod.rs) --> ops: kernel, arguments, grid --> encode: command buffers --> api --> messages --> objc
//! supply --> memory: weights where they lie, shared without a copy
//! ```

use crate::backend::{HC, MIX};
use crate::error::{Error, ErrorKind, Result};
use crate::model::config::Config;
use crate::model::{LayerExperts, Model};
use crate::os::AlignedBuf;
use crate::os::share::SHARED_PAGE;
use crate::quant::Format;
use crate::units::Phase;
use encode::{Encoder, Ticket};
use memory::{KeptAlive, Memory};
use std::sync::Arc;

pub mod api;
pub mod args;
mod backend;
pub mod encode;
pub mod kernels;
mod library;
pub mod memory;
pub mod messages;
pub mod objc;
mod ops;
#[cfg(all(feature = "metal-sim", not(target_os = "macos")))]
pub mod sim;
pub mod source;
mod storage;

pub use storage::{Buffer, Matrix, Rows, Selection};

/// Outputs of a mixer of the hyper-connections.
const MIXER: usize = HC + MIX;

/// A Metal device as a [`crate::backend::Backend`].
pub struct Metal {
    encoder: Encoder,
    device: api::Device,
    name: String,
    memory: Arc<Memory>,
    /// What the pass is computed for.
    phase: Phase,
    /// The router's last choice.
    choice: Choice,
    scratch: Scratch,
    /// Memory of all stores of rows, and of those that are gone until the next wait.
    stores: Vec<Arc<AlignedBuf>>,
    _kept: KeptAlive,
}

/// What a device allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that it can use without slowing down, about.
    pub working_set: u64,
}

impl Limits {
    /// Of the device of the system.
    ///
    /// Errors: there is none, or it lacks what our kernels need.
    pub fn read() -> Result<Limits> {
        let device = device()?;
        Ok(Limits {
            working_set: api::autorelease_pool(|| device.recommended_max_working_set_size()),
        })
    }
}

/// The device of the system.
fn device() -> Result<api::Device> {
    let none = || Error::unsupported("--backend metal: found no Metal device, expected one");
    let device = api::autorelease_pool(api::Device::system_default).ok_or_else(none)?;
    api::autorelease_pool(|| {
        if device.supports_family(api::FAMILY_APPLE_7) && device.has_unified_memory() {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "--backend metal: found {}, expected a processor of Apple's (M1 or later)",
            device.name()
        )))
    })?;
    Ok(device)
}

/// A choice of experts on its way to the host.
#[derive(Clone, Copy, Default)]
struct Choice {
    /// When it is there.
    ready: Ticket,
    /// Routes.
    n: usize,
    /// Experts to choose from.
    n_expert: usize,
    /// The host made it.
    is_preset: bool,
}

/// Buffers between the kernels of one operation, each as long as the longest call needed.
struct Scratch {
    /// Mixer outputs of the hyper-connections, `[n, 2 HC + HC^2]`.
    mixer: Buffer,
    /// Indexer scores of some tokens.
    scores: Buffer,
    /// Sums over parts of the keys.
    parts: Buffer,
    /// Experts chosen, `[n, n_used]` u32.
    ids: Buffer,
    /// Their weights.
    weights: Buffer,
}

impl Metal {
    /// The device of the system, with one trivial dispatch done: residency that was asked for and never used is not
    /// given back by some systems.
    ///
    /// Errors: there is no device, or it lacks what our kernels need; it refuses them, memory or a thread.
    pub fn new() -> Result<Metal> {
        let device = device()?;
        let queue = api::autorelease_pool(|| device.new_queue());
        let queue = queue.ok_or_else(|| refused("a command queue"))?;
        let memory = Arc::new(Memory::new(&device, &queue)?);
        let pipelines = library::Pipelines::new(&device)?;
        let buffer = |len: usize| storage::new_buffer(&device, len);
        let scratch = Scratch {
            mixer: buffer(1)?,
            scores: buffer(0)?,
            parts: buffer(0)?,
            ids: buffer(0)?,
            weights: buffer(0)?,
        };
        let mut metal = Metal {
            encoder: api::autorelease_pool(|| Encoder::new(&device, queue, pipelines))?,
            name: api::autorelease_pool(|| device.name()),
            device,
            _kept: KeptAlive::start(&memory)?,
            memory,
            phase: Phase::Prefill,
            choice: Choice::default(),
            scratch,
            stores: Vec::new(),
        };
        storage::upload(&mut metal.encoder, &metal.scratch.mixer, &[0; 4])?;
        metal.encoder.wait()?;
        Ok(metal)
    }

    /// What shares weights with the device.
    pub fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.memory)
    }

    /// Bytes of scratch and uploads at most, beside the graph's buffers, for chunks of `chunk` tokens in a context of
    /// `ctx`.
    pub fn scratch_bytes(c: &Config, chunk: usize, ctx: usize) -> u64 {
        let n_chosen = chunk * c.n_expert_used;
        let values = [
            chunk * MIXER,
            ops::index::scores_len(chunk, ctx.div_ceil(4)),
            ops::attention::MOST_PARTS * c.n_head * (c.head_dim + 2),
            n_chosen,
            n_chosen,
        ];
        let pages = |n: &usize| (4 * *n as u64).next_multiple_of(SHARED_PAGE as u64);
        values.iter().map(pages).sum::<u64>() + encode::UPLOAD_BYTES
    }

    /// Waits for all work, and lets go what only work could still need.
    fn wait_for_all(&mut self) -> Result<()> {
        self.encoder.wait()?;
        self.stores.retain(|memory| Arc::strong_count(memory) > 1);
        Ok(())
    }

    /// Makes a scratch buffer longer, if it must be. Kernels that still use the old one keep it.
    fn grow(&mut self, of: impl Fn(&mut Scratch) -> &mut Buffer, len: usize) -> Result<()> {
        if of(&mut self.scratch).len < len {
            *of(&mut self.scratch) = self.new_buffer(len)?;
        }
        Ok(())
    }

    /// The weights of the last choice, `[n, n_used]`, which stay on the device otherwise.
    ///
    /// Errors: the device failed.
    pub fn route_weights(&mut self, n: usize) -> Result<Vec<f32>> {
        self.encoder.wait()?;
        Ok(self.scratch.weights.values()[..n].to_vec())
    }

    /// What was encoded so far.
    pub fn counters(&self) -> encode::Counters {
        self.encoder.counters()
    }
}

/// Refuses matrices of a type without kernels, and layers whose gate and up matrices have different types, which share
/// one kernel.
///
/// Errors: the tensor, its type and those that can be.
pub fn check(model: &Model) -> Result<()> {
    let refused = |name: &str, format: Format, expected: &str| {
        let format = format.name();
        Err(Error::unsupported(format!(
            "{}: tensor {name}: type {format}, expected {expected} with --backend metal (--backend cpu computes it)",
            model.gguf.name
        )))
    };
    let known = kernels::FORMATS.map(|(format, _)| format);
    let routed = |l: &LayerExperts| [&l.gate, &l.up, &l.down].map(|t| (t.name.clone(), t.format));
    let fixed = model.weights.matrices().map(|m| (m.name.clone(), m.format));
    for (name, format) in fixed.chain(model.experts.layers.iter().flat_map(routed)) {
        if !known.contains(&format) {
            let names = known.map(Format::name).join(" ");
            return refused(&name, format, &format!("one of {names}"));
        }
    }
    for LayerExperts { gate, up, .. } in &model.experts.layers {
        if up.format != gate.format {
            let expected = format!("{} as in {}", gate.format.name(), gate.name);
            return refused(&up.name, up.format, &expected);
        }
    }
    Ok(())
}

fn refused(what: &str) -> Error {
    Error::new(
        ErrorKind::Limit,
        format!("Metal: the device refuses {what}"),
    )
}
