//! Buffers and residency sets.

use super::classes::{Class, Method};
use super::runtime::{id, with, with_own};
use super::{Key, State, known};
use crate::backend::metal::objc::{Id, Sel};
use crate::os::Guarded;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::ptr::null_mut;

/// What new memory holds: as f32, f16 and bf16 it is NaN, as an index it is far outside.
const POISON: u8 = 0xFF;

/// Sets that a queue may have (Apple).
pub(super) const MAX_SETS: usize = 32;

/// Memory that kernels see.
pub(super) struct Buffer {
    /// Its memory, unless it is the program's.
    own: Option<Guarded>,
    /// Address of its first byte.
    pub(super) start: usize,
    pub(super) len: usize,
    /// Whether the device orders encoders that touch it.
    pub(super) tracked: bool,
}

impl Buffer {
    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut::<u8>(self.start).wrapping_add(offset)
    }

    /// A copy of its bytes.
    pub(super) fn bytes(&self) -> Vec<u8> {
        // SAFETY: memory of a live buffer: ours, or the program's, which keeps it as long as the buffer.
        unsafe { std::slice::from_raw_parts(self.at(0), self.len) }.to_vec()
    }

    /// Puts a copy back.
    pub(super) fn restore(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.len);
        // SAFETY: as above; the copy is elsewhere.
        unsafe {
            self.at(0)
                .copy_from_nonoverlapping(bytes.as_ptr(), self.len)
        }
    }
}

/// Buffers that are resident together.
#[derive(Default)]
pub(super) struct ResidencySet {
    /// As of the last commit.
    pub(super) members: BTreeSet<Key>,
    /// Added (true) or removed since.
    staged: Vec<(Key, bool)>,
    /// The clock when residency was last requested, until it is ended.
    requested: Option<usize>,
}

pub(super) static BUFFER: Class = Class::new(
    "MTLBuffer",
    &[
        Method::new("contents", "^v@:", contents as *const ()),
        Method::new("length", "Q@:", length as *const ()),
        Method::new("gpuAddress", "Q@:", gpu_address as *const ()),
    ],
);
pub(super) static SET_DESCRIPTOR_CLASS: Class = Class::new(
    "+MTLResidencySetDescriptor",
    &[Method::new("new", "@@:", new_set_descriptor as *const ())],
)
.macos_15();
pub(super) static SET_DESCRIPTOR: Class = Class::new("MTLResidencySetDescriptor", &[]).macos_15();
pub(super) static SET: Class = Class::new(
    "MTLResidencySet",
    &[
        Method::new("addAllocation:", "v@:@", add_allocation as *const ()),
        Method::new("removeAllocation:", "v@:@", remove_allocation as *const ()),
        Method::new("commit", "v@:", commit as *const ()),
        Method::new("requestResidency", "v@:", request_residency as *const ()),
        Method::new("endResidency", "v@:", end_residency as *const ()),
        Method::new("allocationCount", "Q@:", allocation_count as *const ()),
    ],
)
.macos_15();

/// Whether a buffer with these options is tracked; `None` for options that we do not use.
fn is_tracked(options: usize) -> Option<bool> {
    // Storage shared and the default cache mode are 0; tracking: default 0 (which tracks buffers), untracked 0x100,
    // tracked 0x200 (Apple).
    match options {
        0 | 0x200 => Some(true),
        0x100 => Some(false),
        _ => None,
    }
}

impl State {
    fn allocation(&mut self, options: usize, len: usize) -> Option<bool> {
        self.counts.allocations += 1;
        let Some(tracked) = is_tracked(options) else {
            self.breach(format!(
                "buffer options {options:#x}, expected shared memory, tracked or not"
            ));
            return None;
        };
        let refused = self.control.allocation.strikes() || len > self.limits.max_buffer_length; // (Apple): nil
        (!refused).then_some(tracked)
    }

    fn buffer(&mut self, buffer: Buffer) -> Id {
        let key = self.make(&BUFFER);
        self.buffers.insert(key, buffer);
        id(key)
    }

    pub(super) fn allocated_bytes(&self) -> usize {
        let own = self.buffers.values().filter(|buffer| buffer.own.is_some());
        own.map(|buffer| buffer.len).sum()
    }

    /// Only the device still holds the object: nothing wrong, unless its memory is the program's.
    pub(super) fn last_owner_left(&mut self, key: Key) {
        let pending = |s: &State| {
            let mut pending = s
                .pending
                .iter()
                .filter_map(|key| s.command_buffers.get(key));
            pending.any(|commands| commands.held.contains(&key))
        };
        if self.buffers.get(&key).is_some_and(|b| b.own.is_none()) && pending(self) {
            // The command buffer keeps the object, but not the memory below it (Apple).
            self.breach("the last owner leaves a no-copy buffer that a command buffer still uses");
        }
    }

    pub(super) fn dealloc_buffer(&mut self, key: Key) {
        if !self.buffers.contains_key(&key) {
            return;
        }
        let in_set = self
            .sets
            .values()
            .any(|set| set.members.contains(&key) || set.staged.contains(&(key, true)));
        if in_set {
            // A set does not keep what it holds (seen by MoltenVK).
            self.breach("a buffer is deallocated while it is in a residency set");
            for set in self.sets.values_mut() {
                set.members.remove(&key);
                set.staged.retain(|(other, _)| *other != key);
            }
        }
        let mut pending = self
            .pending
            .iter()
            .filter_map(|key| self.command_buffers.get(key));
        if pending.any(|commands| commands.reached.contains(&key)) {
            self.breach(
                "a buffer is deallocated while a command buffer will reach it by its address",
            );
        }
        self.buffers.remove(&key);
    }

    pub(super) fn dealloc_set(&mut self, key: Key) {
        self.sets.remove(&key);
    }
}

pub(super) extern "C" fn new_buffer(this: Id, _: Sel, len: usize, options: usize) -> Id {
    with(this, |s| {
        if len == 0 {
            s.breach("newBufferWithLength: 0 bytes (Apple)");
            return null_mut();
        }
        let Some(tracked) = s.allocation(options, len) else {
            return null_mut();
        };
        let Ok(own) = Guarded::filled(len, POISON) else {
            return null_mut();
        };
        let start = own.start().as_ptr().expose_provenance();
        s.buffer(Buffer {
            own: Some(own),
            start,
            len,
            tracked,
        })
    })
}

pub(super) extern "C" fn new_buffer_no_copy(
    this: Id,
    _: Sel,
    bytes: *mut c_void,
    len: usize,
    options: usize,
    deallocator: *const c_void,
) -> Id {
    with(this, |s| {
        let page = s.limits.page;
        if !bytes.addr().is_multiple_of(page)
            || bytes.is_null()
            || !len.is_multiple_of(page)
            || len == 0
        {
            s.breach(format!(
                "newBufferWithBytesNoCopy: {len} bytes at {bytes:?}, expected whole pages of {page} bytes (Apple)"
            ));
            return null_mut();
        }
        if !deallocator.is_null() {
            s.breach(
                "newBufferWithBytesNoCopy: a deallocator, expected nil: the memory has an owner",
            );
            return null_mut();
        }
        let Some(tracked) = s.allocation(options, len) else {
            return null_mut();
        };
        s.buffer(Buffer {
            own: None,
            start: bytes.expose_provenance(),
            len,
            tracked,
        })
    })
}

extern "C" fn contents(this: Id, _: Sel) -> *mut c_void {
    with(this, |s| known(s.buffers.get(&this.addr())).at(0).cast())
}

extern "C" fn length(this: Id, _: Sel) -> usize {
    with(this, |s| known(s.buffers.get(&this.addr())).len)
}

extern "C" fn gpu_address(this: Id, _: Sel) -> u64 {
    with(this, |s| known(s.buffers.get(&this.addr())).start as u64)
}

extern "C" fn new_set_descriptor(_: Id, _: Sel) -> Id {
    with_own(|s| id(s.make(&SET_DESCRIPTOR)))
}

pub(super) extern "C" fn new_residency_set(this: Id, _: Sel, descriptor: Id, error: *mut Id) -> Id {
    let message = "newResidencySetWithDescriptor:error:";
    with(this, |s| {
        if s.argument(message, descriptor, &SET_DESCRIPTOR).is_none() {
            return s.refuse("no descriptor", error);
        }
        let key = s.make(&SET);
        s.sets.insert(key, ResidencySet::default());
        id(key)
    })
}

extern "C" fn add_allocation(this: Id, _: Sel, allocation: Id) {
    stage(this, "addAllocation:", allocation, true);
}

extern "C" fn remove_allocation(this: Id, _: Sel, allocation: Id) {
    stage(this, "removeAllocation:", allocation, false);
}

fn stage(this: Id, message: &str, allocation: Id, add: bool) {
    with(this, |s| {
        let Some(buffer) = s.argument(message, allocation, &BUFFER) else {
            return;
        };
        let set = known(s.sets.get_mut(&this.addr()));
        let last = set.staged.iter().rev().find(|(key, _)| *key == buffer);
        let present = last.map_or(set.members.contains(&buffer), |(_, added)| *added);
        if present == add {
            s.breach(format!(
                "{message}: the buffer is {} the set",
                if add { "already in" } else { "not in" }
            ));
            return;
        }
        set.staged.push((buffer, add));
    });
}

extern "C" fn commit(this: Id, _: Sel) {
    with(this, |s| {
        let set = known(s.sets.get_mut(&this.addr()));
        for (buffer, add) in std::mem::take(&mut set.staged) {
            if add {
                set.members.insert(buffer);
            } else {
                set.members.remove(&buffer);
            }
        }
        s.counts.residency_commits += 1;
    });
}

extern "C" fn request_residency(this: Id, _: Sel) {
    with(this, |s| {
        let clock = s.clock;
        known(s.sets.get_mut(&this.addr())).requested = Some(clock);
        s.counts.residency_requests += 1;
    });
}

extern "C" fn end_residency(this: Id, _: Sel) {
    with(this, |s| {
        let clock = s.clock;
        if known(s.sets.get_mut(&this.addr())).requested.take() == Some(clock) {
            s.breach("residency was requested and ended with no work between: its memory leaks (seen by llama.cpp #25937)");
        }
    });
}

extern "C" fn allocation_count(this: Id, _: Sel) -> usize {
    with(this, |s| {
        let set = known(s.sets.get(&this.addr()));
        let mut all = set.members.clone();
        for (buffer, add) in &set.staged {
            if *add {
                all.insert(*buffer);
            } else {
                all.remove(buffer);
            }
        }
        all.len()
    })
}
