//! What a test asks of the device of its thread, and what it can see of it.

use super::compile::Compiler;
use super::kernels::Kernels;
use super::runtime::with_own;
use super::{State, classes};
use std::sync::Arc;

/// What the device does and when it fails.
#[derive(Default)]
pub(super) struct Control {
    pub(super) recording: bool,
    pub(super) violations: Vec<String>,
    pub(super) kernels: Option<Arc<dyn Kernels>>,
    pub(super) seed: u32,
    pub(super) order_unchecked: bool,
    pub(super) allocation: Countdown,
    pub(super) pipeline: Countdown,
    pub(super) command_buffer: Countdown,
}

/// Strikes once, after so many calls.
#[derive(Default)]
pub(super) struct Countdown(Option<usize>);

impl Countdown {
    /// Whether this call is the one.
    pub(super) fn strikes(&mut self) -> bool {
        match &mut self.0 {
            None => false,
            Some(0) => {
                self.0 = None;
                true
            }
            Some(n) => {
                *n -= 1;
                false
            }
        }
    }
}

/// What kind of device and system it is.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Whether there is a device at all.
    pub has_device: bool,
    /// Whether the system is macOS 15 or later: residency sets, mathMode.
    pub macos_15: bool,
    /// The newest family of Apple GPUs (MTLGPUFamily).
    pub family: isize,
    /// Bytes of the largest buffer.
    pub max_buffer_length: usize,
    /// Bytes that it works well with.
    pub working_set: u64,
    /// Threads that a group of any pipeline may have.
    pub threads_per_group: usize,
    /// Bytes of a page; no-copy buffers consist of them.
    pub page: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            has_device: true,
            macos_15: true,
            family: 1009, // MTLGPUFamilyApple9: M3, M4
            max_buffer_length: 4 << 30,
            working_set: 12 << 30,
            threads_per_group: 1024,
            page: 16384, // of Apple silicon
        }
    }
}

/// How often things were done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counts {
    pub allocations: usize,
    pub pipelines: usize,
    pub command_buffers: usize,
    pub encoders: usize,
    pub dispatches: usize,
    pub barriers: usize,
    pub commits: usize,
    pub waits: usize,
    pub residency_commits: usize,
    pub residency_requests: usize,
    pub used_resources: usize,
}

/// A dispatch that ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// The kernel.
    pub kernel: String,
    /// Threadgroups.
    pub groups: [u32; 3],
    /// Threads of a group.
    pub threads: [u32; 3],
}

fn state<T>(look: impl FnOnce(&mut State) -> T) -> T {
    with_own(look)
}

/// Says that a test is skipped, and why; with `$INFALL_NO_SKIP` it fails.
pub fn skip(why: &str) {
    assert!(std::env::var_os("INFALL_NO_SKIP").is_none(), "{why}");
    eprintln!("skipped: {why}");
}

/// Whether the device can run the kernels of `metal-shaders/`; where nothing compiles them, the test is skipped.
pub fn can_run() -> bool {
    Compiler::find().map_err(|why| skip(&why)).is_ok()
}

/// From now on what breaks a rule is listed, and the device goes on where it can.
pub fn record() {
    state(|s| s.control.recording = true);
}

/// What was listed so far; the list is then empty.
pub fn violations() -> Vec<String> {
    state(|s| std::mem::take(&mut s.control.violations))
}

/// The kernels of every library made from now on, whatever its source.
pub fn set_kernels(kernels: Arc<dyn Kernels>) {
    state(|s| s.control.kernels = Some(kernels));
}

/// Decides the order of threads, and of dispatches where they have none.
pub fn set_seed(seed: u32) {
    state(|s| s.control.seed = seed);
}

/// Whether dispatches between two barriers run in both orders to compare what comes out, as they do at first.
pub fn set_order_check(on: bool) {
    state(|s| s.control.order_unchecked = !on);
}

/// Changes what kind of device it is.
pub fn set_limits(change: impl FnOnce(&mut Limits)) {
    state(|s| change(&mut s.limits));
}

/// One allocation gives nil: the next (0), or so many later.
pub fn fail_allocation(n: usize) {
    state(|s| s.control.allocation = Countdown(Some(n)));
}

/// One pipeline gives nil and an error: the next (0), or so many later.
pub fn fail_pipeline(n: usize) {
    state(|s| s.control.pipeline = Countdown(Some(n)));
}

/// One command buffer does nothing and ends in an error: the next that is committed (0), or so many later.
pub fn fail_command_buffer(n: usize) {
    state(|s| s.control.command_buffer = Countdown(Some(n)));
}

/// The same settings as at first, no failures to come, nothing counted, traced or listed. Objects stay.
pub fn reset() {
    state(|s| {
        s.control = Control::default();
        s.limits = Limits::default();
        s.counts = Counts::default();
        s.trace.clear();
    });
}

/// Objects that are alive.
pub fn live_objects() -> usize {
    live().iter().map(|(_, n)| n).sum()
}

/// Objects that are alive, by class.
pub fn live() -> Vec<(&'static str, usize)> {
    let mut classes = std::collections::BTreeMap::new();
    state(|s| {
        for object in s.objects.values() {
            if object.owners + object.held > 0 {
                *classes.entry(object.class.name).or_insert(0) += 1;
            }
        }
    });
    classes.into_iter().collect()
}

/// Bytes of the buffers that are alive and have memory of their own.
pub fn allocated_bytes() -> usize {
    state(|s| s.allocated_bytes())
}

/// The dispatches that ran, in their order. Where the order of some was compared, as they were encoded.
pub fn trace() -> Vec<Traced> {
    state(|s| s.trace.clone())
}

/// How often things were done.
pub fn counts() -> Counts {
    state(|s| s.counts)
}

/// Class, selector and types of each method the device has.
pub fn methods() -> Vec<(&'static str, &'static str, &'static str)> {
    classes::ALL
        .iter()
        .flat_map(|class| {
            class
                .methods
                .iter()
                .map(|method| (class.name, method.selector, method.types))
        })
        .collect()
}
