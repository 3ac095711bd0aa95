//! Compute encoders: what they take, and the rules it must keep.

use super::classes::{Class, Method};
use super::commands::Item;
use super::device::PIPELINE;
use super::kernels::Function;
use super::memory::BUFFER;
use super::runtime::with;
use super::{Key, State, known};
use crate::backend::metal::messages::Size;
use crate::backend::metal::objc::{Id, Sel};
use std::ffi::c_void;

/// Buffers of a kernel (Apple).
const SLOTS: usize = 31;

/// Bytes given in place of a buffer, at most (Apple).
const MAX_BYTES: usize = 4096;

/// Threadgroup memory of a dispatch, at most (Apple).
const MAX_THREADGROUP_MEMORY: usize = 32768;

/// Offsets of buffers for `constant` arguments are multiples of this: differs by family (inferred).
const CONSTANT_ALIGNMENT: usize = 32;

/// An argument of a kernel.
#[derive(Clone, Default)]
pub(super) enum Slot {
    #[default]
    Empty,
    Buffer {
        key: Key,
        offset: usize,
    },
    Bytes(Vec<u8>),
}

/// An encoder and what is set in it, which stays set from dispatch to dispatch (Apple).
pub(super) struct Encoder {
    commands: Key,
    concurrent: bool,
    pipeline: Option<Key>,
    slots: Vec<Slot>,
    /// Bytes of threadgroup memory by index.
    threadgroup: [usize; SLOTS],
    /// Buffers made resident for what follows.
    used: Vec<Key>,
    ended: bool,
}

impl Encoder {
    pub(super) fn new(commands: Key, concurrent: bool) -> Encoder {
        Encoder {
            commands,
            concurrent,
            pipeline: None,
            slots: vec![Slot::Empty; SLOTS],
            threadgroup: [0; SLOTS],
            used: Vec::new(),
            ended: false,
        }
    }
}

/// A dispatch with all its arguments.
pub(super) struct Dispatch {
    pub(super) encoder: Key,
    /// Whether the encoder leaves its order open.
    pub(super) concurrent: bool,
    pub(super) function: Function,
    pub(super) slots: Vec<Slot>,
    pub(super) groups: [u32; 3],
    pub(super) threads: [u32; 3],
    pub(super) shared: u32,
    /// Buffers made resident for it.
    pub(super) used: Vec<Key>,
}

impl Dispatch {
    /// The kernel's arguments that are there, with its letter for each.
    pub(super) fn arguments(&self) -> impl Iterator<Item = (usize, char, &Slot)> {
        let letters = self.function.access.buffers.chars().zip(&self.slots);
        let numbered = letters.enumerate();
        numbered.filter_map(|(i, (letter, slot))| (letter != '-').then_some((i, letter, slot)))
    }

    /// Its arguments that are buffers: letter, buffer, offset.
    pub(super) fn buffers(&self) -> impl Iterator<Item = (char, Key, usize)> {
        self.arguments().filter_map(|(_, letter, slot)| match slot {
            Slot::Buffer { key, offset } => Some((letter, *key, *offset)),
            _ => None,
        })
    }
}

pub(super) static ENCODER: Class = Class::new(
    "MTLComputeCommandEncoder",
    &[
        Method::new(
            "setComputePipelineState:",
            "v@:@",
            set_pipeline as *const (),
        ),
        Method::new(
            "setBuffer:offset:atIndex:",
            "v@:@QQ",
            set_buffer as *const (),
        ),
        Method::new(
            "setBytes:length:atIndex:",
            "v@:^vQQ",
            set_bytes as *const (),
        ),
        Method::new(
            "setThreadgroupMemoryLength:atIndex:",
            "v@:QQ",
            set_threadgroup_memory as *const (),
        ),
        Method::new(
            "dispatchThreadgroups:threadsPerThreadgroup:",
            "v@:{MTLSize=QQQ}{MTLSize=QQQ}",
            dispatch as *const (),
        ),
        Method::new(
            "memoryBarrierWithScope:",
            "v@:Q",
            memory_barrier as *const (),
        ),
        Method::new(
            "useResources:count:usage:",
            "v@:^@QQ",
            use_resources as *const (),
        ),
        Method::new("endEncoding", "v@:", end_encoding as *const ()),
    ],
);

impl State {
    /// An encoder that still takes work.
    fn open_encoder(&mut self, this: Id, message: &str) -> Option<&mut Encoder> {
        if known(self.encoders.get(&this.addr())).ended {
            self.breach(format!("{message} after endEncoding (Apple)"));
            return None;
        }
        self.encoders.get_mut(&this.addr())
    }

    pub(super) fn dealloc_encoder(&mut self, key: Key) {
        let Some(encoder) = self.encoders.remove(&key) else {
            return;
        };
        if !encoder.ended {
            self.breach("an encoder is deallocated before endEncoding (Apple)");
            known(self.command_buffers.get_mut(&encoder.commands)).open = None;
        }
        self.unhold(encoder.commands);
    }

    fn encode(&mut self, encoder: Key, item: Item) {
        let commands = known(self.encoders.get(&encoder)).commands;
        known(self.command_buffers.get_mut(&commands))
            .items
            .push_back(item);
    }

    /// Why a dispatch cannot be.
    fn fault(&self, dispatch: &Dispatch, threadgroup: &[usize; SLOTS]) -> Option<String> {
        let threads: u64 = dispatch.threads.iter().map(|n| u64::from(*n)).product();
        let limit = self.limits.threads_per_group as u64;
        if threads == 0 || threads > limit {
            return Some(format!(
                "{:?} threads a group, expected 1 to {limit} (maxTotalThreadsPerThreadgroup) (Apple)",
                dispatch.threads
            ));
        }
        if !threads.is_multiple_of(32) {
            return Some(format!(
                "{:?} threads a group, expected whole simdgroups of 32 (a rule of ours)",
                dispatch.threads
            ));
        }
        if dispatch.groups.contains(&0) {
            return Some(format!("{:?} groups: no work (inferred)", dispatch.groups));
        }
        for (i, letter, slot) in dispatch.arguments() {
            match (letter, slot) {
                (_, Slot::Empty) => return Some(format!("buffer {i} is not set (Apple)")),
                ('w', Slot::Bytes(_)) => {
                    return Some(format!("buffer {i} is written, but was set by setBytes"));
                }
                ('c', Slot::Buffer { offset, .. })
                    if !offset.is_multiple_of(CONSTANT_ALIGNMENT) =>
                {
                    return Some(format!(
                        "buffer {i} is constant: offset {offset}, expected a multiple of {CONSTANT_ALIGNMENT} (inferred)"
                    ));
                }
                _ => {}
            }
        }
        let used = &threadgroup[..dispatch.function.access.threadgroup.min(SLOTS)];
        if let Some(i) = used.iter().position(|len| *len == 0) {
            return Some(format!("threadgroup memory {i} has no length (Apple)"));
        }
        let total: usize = threadgroup.iter().sum();
        if total > MAX_THREADGROUP_MEMORY {
            return Some(format!(
                "{total} bytes of threadgroup memory, expected at most {MAX_THREADGROUP_MEMORY} (Apple)"
            ));
        }
        None
    }
}

extern "C" fn set_pipeline(this: Id, _: Sel, pipeline: Id) {
    let message = "setComputePipelineState:";
    with(this, |s| {
        let Some(pipeline) = s.argument(message, pipeline, &PIPELINE) else {
            return;
        };
        let Some(encoder) = s.open_encoder(this, message) else {
            return;
        };
        encoder.pipeline = Some(pipeline);
        let commands = encoder.commands;
        s.keep(commands, pipeline);
    });
}

extern "C" fn set_buffer(this: Id, _: Sel, buffer: Id, offset: usize, index: usize) {
    let message = "setBuffer:offset:atIndex:";
    with(this, |s| {
        let Some(key) = s.argument(message, buffer, &BUFFER) else {
            return;
        };
        let len = known(s.buffers.get(&key)).len;
        let Some(encoder) = s.open_encoder(this, message) else {
            return;
        };
        if index >= SLOTS {
            s.breach(format!(
                "{message} index {index}, expected at most 30 (Apple)"
            ));
            return;
        }
        if offset >= len {
            s.breach(format!(
                "{message} offset {offset} of a buffer of {len} bytes (Apple)"
            ));
            return;
        }
        encoder.slots[index] = Slot::Buffer { key, offset };
        let commands = encoder.commands;
        s.keep(commands, key);
    });
}

extern "C" fn set_bytes(this: Id, _: Sel, bytes: *const c_void, len: usize, index: usize) {
    let message = "setBytes:length:atIndex:";
    with(this, |s| {
        let Some(encoder) = s.open_encoder(this, message) else {
            return;
        };
        if index >= SLOTS {
            s.breach(format!(
                "{message} index {index}, expected at most 30 (Apple)"
            ));
            return;
        }
        if len == 0 || len > MAX_BYTES || bytes.is_null() {
            s.breach(format!(
                "{message} {len} bytes, expected 1 to {MAX_BYTES} (Apple)"
            ));
            return;
        }
        // SAFETY: the caller gives readable bytes.
        let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len) };
        encoder.slots[index] = Slot::Bytes(bytes.to_vec());
    });
}

extern "C" fn set_threadgroup_memory(this: Id, _: Sel, len: usize, index: usize) {
    let message = "setThreadgroupMemoryLength:atIndex:";
    with(this, |s| {
        let Some(encoder) = s.open_encoder(this, message) else {
            return;
        };
        if index >= SLOTS {
            s.breach(format!(
                "{message} index {index}, expected at most 30 (Apple)"
            ));
            return;
        }
        if !len.is_multiple_of(16) {
            s.breach(format!(
                "{message} {len} bytes, expected a multiple of 16 (Apple)"
            ));
            return;
        }
        encoder.threadgroup[index] = len;
    });
}

/// Three numbers that fit the device.
fn numbers(size: Size) -> Option<[u32; 3]> {
    let [w, h, d] = [size.width, size.height, size.depth].map(u32::try_from);
    Some([w.ok()?, h.ok()?, d.ok()?])
}

extern "C" fn dispatch(this: Id, _: Sel, groups: Size, threads: Size) {
    let message = "dispatchThreadgroups:threadsPerThreadgroup:";
    with(this, |s| {
        let Some(encoder) = s.open_encoder(this, message) else {
            return;
        };
        let Some(pipeline) = encoder.pipeline else {
            s.breach(format!("{message} without a pipeline (Apple)"));
            return;
        };
        // Arguments of a wrong type look like this: most of the addresses and remains on a stack are no such numbers.
        let (Some(groups), Some(threads)) = (numbers(groups), numbers(threads)) else {
            s.breach(format!(
                "{message} {groups:?}, {threads:?}: no sizes of a grid"
            ));
            return;
        };
        let encoder = known(s.encoders.get(&this.addr()));
        let function = known(s.pipelines.get(&pipeline)).clone();
        let threadgroup = encoder.threadgroup;
        let dispatch = Dispatch {
            encoder: this.addr(),
            concurrent: encoder.concurrent,
            function,
            slots: encoder.slots.clone(),
            groups,
            threads,
            shared: threadgroup[0] as u32,
            used: encoder.used.clone(),
        };
        if let Some(fault) = s.fault(&dispatch, &threadgroup) {
            s.breach(format!("dispatch of {}: {fault}", dispatch.function.name));
            return;
        }
        s.counts.dispatches += 1;
        s.encode(this.addr(), Item::Dispatch(dispatch));
    });
}

extern "C" fn memory_barrier(this: Id, _: Sel, scope: usize) {
    const BUFFERS: usize = 1;
    let message = "memoryBarrierWithScope:";
    with(this, |s| {
        if s.open_encoder(this, message).is_none() {
            return;
        }
        if scope & BUFFERS == 0 {
            s.breach(format!(
                "{message} {scope}, expected 1 (buffers): there is nothing else"
            ));
            return;
        }
        s.counts.barriers += 1;
        s.encode(this.addr(), Item::Barrier);
    });
}

extern "C" fn use_resources(this: Id, _: Sel, resources: *const Id, count: usize, usage: usize) {
    const READ: usize = 1;
    let message = "useResources:count:usage:";
    with(this, |s| {
        if usage & READ == 0 {
            s.breach(format!("{message} usage {usage}, expected 1 (read)"));
        }
        // SAFETY: the caller gives so many ids.
        let resources = unsafe { std::slice::from_raw_parts(resources, count) };
        for resource in resources {
            let Some(key) = s.argument(message, *resource, &BUFFER) else {
                return;
            };
            let Some(encoder) = s.open_encoder(this, message) else {
                return;
            };
            encoder.used.push(key);
            let commands = encoder.commands;
            s.keep(commands, key);
            s.counts.used_resources += 1;
        }
    });
}

extern "C" fn end_encoding(this: Id, _: Sel) {
    with(this, |s| {
        let Some(encoder) = s.open_encoder(this, "endEncoding") else {
            return;
        };
        encoder.ended = true;
        let commands = encoder.commands;
        s.encode(this.addr(), Item::EndOfEncoder);
        known(s.command_buffers.get_mut(&commands)).open = None;
    });
}
