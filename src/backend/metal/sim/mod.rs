//! FENCE: a software Metal device, for tests on any x86-64.
//!
//! It stands in for the Objective-C runtime and the Metal framework: the functions that `objc.rs` declares are defined here,
//! so the backend runs unchanged. It is hostile: nothing runs before a wait, memory is poisoned and ends at a
//! forbidden page, and every rule that Metal leaves to its caller is checked. A breach ends the program with
//! `software metal: ...`, or is listed where a test called [`control::record`].
//!
//! What it promises: an address that is no live object of ours is reported and not followed. It proves that the backend
//! agrees with our reading of Apple's rules; so each rule names its source: Apple's documentation, something seen by another
//! project, or inferred.
//!
//! A thread that asks for a device gets one of its own, with its own counts: tests do not meet. Other threads may use its
//! objects.
#![allow(unsafe_code)]

mod classes;
mod commands;
pub mod compile;
pub mod control;
mod cpp;
mod device;
mod encoders;
mod execute;
mod foundation;
mod hazards;
mod kernels;
mod loaded;
mod memory;
mod runtime;

pub use kernels::{Access, Kernels, Launch};
pub use loaded::Loaded;

use crate::os::Guarded;
use control::{Control, Counts, Limits, Traced};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::CString;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Where an object lies: its name in the tables below. Never used again after its end.
type Key = usize;

/// An object, dead or alive.
struct Object {
    class: &'static classes::Class,
    /// References of the program.
    owners: usize,
    /// References of the device: of queues, command buffers.
    held: usize,
}

/// All that one thread's device knows.
#[derive(Default)]
struct State {
    /// Itself, for its objects.
    world: Weak<World>,
    objects: HashMap<Key, Object>,
    strings: HashMap<Key, CString>,
    errors: HashMap<Key, String>,
    data: HashMap<Key, Vec<u8>>,
    options: HashMap<Key, device::Options>,
    constants: HashMap<Key, BTreeMap<u32, u32>>,
    libraries: HashMap<Key, Arc<dyn Kernels>>,
    functions: HashMap<Key, kernels::Function>,
    pipelines: HashMap<Key, kernels::Function>,
    queues: HashMap<Key, commands::Queue>,
    command_buffers: HashMap<Key, commands::CommandBuffer>,
    encoders: HashMap<Key, encoders::Encoder>,
    buffers: HashMap<Key, memory::Buffer>,
    events: HashMap<Key, u64>,
    sets: HashMap<Key, memory::ResidencySet>,
    /// The one device.
    device: Option<Key>,
    /// Command buffers that were committed and have not ended, in that order.
    pending: VecDeque<Key>,
    /// Memory for bytes given to kernels, which ends where they do; by index.
    bytes: BTreeMap<usize, Guarded>,
    /// Values of the GPU's clock, in steps done.
    clock: usize,
    /// Looks at how far the device is, since it went on.
    polls: usize,
    /// What ran and touched, for the hazards between encoders.
    history: hazards::History,
    control: Control,
    limits: Limits,
    counts: Counts,
    trace: Vec<Traced>,
}

/// The device of a thread, shared with its objects.
type World = Mutex<State>;

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// Of the object that this thread last sent a message to; its own at first.
    static WORLD: RefCell<Arc<World>> = RefCell::new(Arc::new_cyclic(|world| {
        Mutex::new(State {
            world: Weak::clone(world),
            ..State::default()
        })
    }));
}

impl State {
    /// A rule was broken.
    fn breach(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.control.recording {
            fatal(&what);
        }
        self.control.violations.push(what);
    }
}

/// Ends the program.
fn fatal(what: &str) -> ! {
    eprintln!("software metal: {what}");
    std::process::abort()
}

/// What must be there by the construction of this module.
fn known<T>(found: Option<T>) -> T {
    found.unwrap_or_else(|| fatal("an object without its contents"))
}
