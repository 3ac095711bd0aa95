//! Queues, command buffers and events.

use super::classes::{Class, Method};
use super::encoders::{Dispatch, ENCODER, Encoder};
use super::memory::{MAX_SETS, SET};
use super::runtime::with;
use super::{Key, State, known};
use crate::backend::metal::objc::{Id, Sel};
use std::collections::{HashSet, VecDeque};
use std::ptr::null_mut;

/// Command buffers of a queue that may be uncompleted (Apple).
const MAX_UNCOMPLETED: usize = 64;

/// Looks at how far the device is that see the same, until it goes on: no wait is needed for a loop to end.
const POLLS: usize = 4;

/// A longer wait, in milliseconds, for what cannot come counts as one for ever.
const FOR_EVER_MS: u64 = 3_600_000;

/// A queue.
#[derive(Default)]
pub(super) struct Queue {
    /// Residency sets.
    pub(super) sets: Vec<Key>,
    /// Command buffers that have not ended.
    uncompleted: Vec<Key>,
}

/// How far a command buffer is (MTLCommandBufferStatus).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Status {
    #[default]
    Open = 0,
    Committed = 2,
    Scheduled = 3,
    Completed = 4,
    Failed = 5,
}

/// What a command buffer does, one after the other.
pub(super) enum Item {
    Dispatch(Dispatch),
    Barrier,
    EndOfEncoder,
    Signal { event: Key, value: u64 },
}

/// A command buffer.
#[derive(Default)]
pub(super) struct CommandBuffer {
    pub(super) queue: Key,
    pub(super) status: Status,
    pub(super) items: VecDeque<Item>,
    /// The encoder that has not ended.
    pub(super) open: Option<Key>,
    /// What was encoded, kept until the end (Apple).
    pub(super) held: Vec<Key>,
    /// Buffers that kernels will reach by address, as seen at the commit.
    pub(super) reached: HashSet<Key>,
    /// Buffers that were resident at the commit.
    pub(super) resident: HashSet<Key>,
    /// Whether it will fail.
    pub(super) fails: bool,
    /// The clock at its commit.
    pub(super) committed_at: usize,
    /// When it began and ended, in seconds.
    pub(super) times: (f64, f64),
}

pub(super) static QUEUE: Class = Class::new(
    "MTLCommandQueue",
    &[
        Method::new("commandBuffer", "@@:", command_buffer as *const ()),
        Method::new("addResidencySet:", "v@:@", add_residency_set as *const ()).macos_15(),
        Method::new(
            "removeResidencySet:",
            "v@:@",
            remove_residency_set as *const (),
        )
        .macos_15(),
    ],
);
pub(super) static COMMAND_BUFFER: Class = Class::new(
    "MTLCommandBuffer",
    &[
        Method::new(
            "computeCommandEncoderWithDispatchType:",
            "@@:Q",
            compute_encoder as *const (),
        ),
        Method::new(
            "encodeSignalEvent:value:",
            "v@:@Q",
            encode_signal as *const (),
        ),
        Method::new("commit", "v@:", commit as *const ()),
        Method::new(
            "waitUntilCompleted",
            "v@:",
            wait_until_completed as *const (),
        ),
        Method::new("status", "Q@:", status as *const ()),
        Method::new("error", "@@:", error as *const ()),
        Method::new("GPUStartTime", "d@:", start_time as *const ()),
        Method::new("GPUEndTime", "d@:", end_time as *const ()),
    ],
);
pub(super) static EVENT: Class = Class::new(
    "MTLSharedEvent",
    &[
        Method::new("signaledValue", "Q@:", signaled_value as *const ()),
        Method::new(
            "waitUntilSignaledValue:timeoutMS:",
            "B@:QQ",
            wait_until_signaled as *const (),
        ),
    ],
);

impl State {
    /// A command buffer that still takes work.
    pub(super) fn open_commands(&mut self, key: Key, what: &str) -> Option<&mut CommandBuffer> {
        if known(self.command_buffers.get(&key)).status != Status::Open {
            self.breach(format!(
                "{what} after the command buffer was committed (Apple)"
            ));
            return None;
        }
        self.command_buffers.get_mut(&key)
    }

    /// Keeps an object until a command buffer has ended.
    pub(super) fn keep(&mut self, commands: Key, object: Key) {
        self.hold(object);
        known(self.command_buffers.get_mut(&commands))
            .held
            .push(object);
    }

    /// Nothing of it will run any more.
    pub(super) fn ended(&mut self, key: Key) {
        let commands = known(self.command_buffers.get_mut(&key));
        let held = std::mem::take(&mut commands.held);
        commands.items.clear();
        commands.reached.clear();
        let queue = commands.queue;
        for object in held {
            self.unhold(object);
        }
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.uncompleted.retain(|other| *other != key);
        }
    }

    pub(super) fn dealloc_command_buffer(&mut self, key: Key) {
        let Some(commands) = self.command_buffers.get(&key) else {
            return;
        };
        let queue = commands.queue;
        if commands.open.is_some() {
            self.breach("a command buffer is deallocated before endEncoding (Apple)");
        }
        self.ended(key);
        self.command_buffers.remove(&key);
        self.unhold(queue);
    }

    pub(super) fn dealloc_queue(&mut self, key: Key) {
        if let Some(queue) = self.queues.remove(&key) {
            for set in queue.sets {
                self.unhold(set);
            }
        }
    }

    /// A look at how far the device is: it goes on in its own time.
    fn poll(&mut self) {
        self.polls += 1;
        if self.polls >= POLLS {
            self.polls = 0;
            self.step();
        }
    }
}

extern "C" fn command_buffer(this: Id, _: Sel) -> Id {
    let queue = this.addr();
    with(this, |s| {
        // The 65th waits until one of the others has ended (Apple).
        while known(s.queues.get(&queue)).uncompleted.len() >= MAX_UNCOMPLETED {
            if !s.step() {
                s.breach(
                    "commandBuffer waits for ever: 64 of the queue are not yet committed (Apple)",
                );
                return null_mut();
            }
        }
        let key = s.make(&COMMAND_BUFFER);
        let commands = CommandBuffer {
            queue,
            ..CommandBuffer::default()
        };
        s.command_buffers.insert(key, commands);
        s.hold(queue);
        known(s.queues.get_mut(&queue)).uncompleted.push(key);
        s.counts.command_buffers += 1;
        s.autorelease(key)
    })
}

extern "C" fn add_residency_set(this: Id, _: Sel, set: Id) {
    with(this, |s| {
        let Some(set) = s.argument("addResidencySet:", set, &SET) else {
            return;
        };
        let queue = known(s.queues.get_mut(&this.addr()));
        if queue.sets.contains(&set) {
            return;
        }
        if queue.sets.len() >= MAX_SETS {
            s.breach(format!(
                "a queue has at most {MAX_SETS} residency sets (Apple)"
            ));
            return;
        }
        queue.sets.push(set);
        s.hold(set);
    });
}

extern "C" fn remove_residency_set(this: Id, _: Sel, set: Id) {
    with(this, |s| {
        let Some(set) = s.argument("removeResidencySet:", set, &SET) else {
            return;
        };
        let queue = known(s.queues.get_mut(&this.addr()));
        let Some(at) = queue.sets.iter().position(|other| *other == set) else {
            s.breach("removeResidencySet: the queue does not have it");
            return;
        };
        queue.sets.remove(at);
        s.unhold(set);
    });
}

extern "C" fn compute_encoder(this: Id, _: Sel, kind: usize) -> Id {
    let message = "computeCommandEncoderWithDispatchType:";
    with(this, |s| {
        if kind > 1 {
            s.breach(format!(
                "{message} {kind}, expected 0 (serial) or 1 (concurrent)"
            ));
        }
        let Some(commands) = s.open_commands(this.addr(), message) else {
            return null_mut();
        };
        if commands.open.is_some() {
            s.breach(format!(
                "{message} before the encoder in front of it has ended (Apple)"
            ));
            return null_mut();
        }
        let key = s.make(&ENCODER);
        s.encoders.insert(key, Encoder::new(this.addr(), kind == 1));
        known(s.command_buffers.get_mut(&this.addr())).open = Some(key);
        s.hold(this.addr());
        s.counts.encoders += 1;
        s.autorelease(key)
    })
}

extern "C" fn encode_signal(this: Id, _: Sel, event: Id, value: u64) {
    let message = "encodeSignalEvent:value:";
    with(this, |s| {
        let Some(event) = s.argument(message, event, &EVENT) else {
            return;
        };
        let Some(commands) = s.open_commands(this.addr(), message) else {
            return;
        };
        if commands.open.is_some() {
            s.breach(format!("{message} while an encoder is open (Apple)"));
            return;
        }
        commands.items.push_back(Item::Signal { event, value });
        s.keep(this.addr(), event);
    });
}

extern "C" fn commit(this: Id, _: Sel) {
    let key = this.addr();
    with(this, |s| {
        s.needs_pool("commit");
        let clock = s.clock;
        let Some(commands) = s.open_commands(key, "commit") else {
            return;
        };
        if commands.open.is_some() {
            s.breach("commit before endEncoding (Apple)");
            return;
        }
        commands.status = Status::Committed;
        commands.committed_at = clock;
        let queue = commands.queue;
        let fails = s.control.command_buffer.strikes();
        let resident = s.resident(queue);
        let commands = known(s.command_buffers.get_mut(&key));
        commands.fails = fails;
        commands.resident = resident;
        s.hold(key);
        s.pending.push_back(key);
        s.counts.commits += 1;
        s.note_reached(key);
    });
}

extern "C" fn wait_until_completed(this: Id, _: Sel) {
    with(this, |s| {
        s.needs_pool("waitUntilCompleted");
        s.counts.waits += 1;
        if known(s.command_buffers.get(&this.addr())).status == Status::Open {
            s.breach("waitUntilCompleted before commit: it would never return");
            return;
        }
        while s.pending.contains(&this.addr()) {
            s.step();
        }
    });
}

extern "C" fn status(this: Id, _: Sel) -> usize {
    with(this, |s| {
        let status = known(s.command_buffers.get(&this.addr())).status;
        s.poll();
        status as usize
    })
}

extern "C" fn error(this: Id, _: Sel) -> Id {
    with(this, |s| {
        match known(s.command_buffers.get(&this.addr())).status {
            Status::Failed => s.error("Caused GPU Hang Error (planted)"),
            _ => null_mut(),
        }
    })
}

extern "C" fn start_time(this: Id, _: Sel) -> f64 {
    with(this, |s| known(s.command_buffers.get(&this.addr())).times.0)
}

extern "C" fn end_time(this: Id, _: Sel) -> f64 {
    with(this, |s| known(s.command_buffers.get(&this.addr())).times.1)
}

extern "C" fn signaled_value(this: Id, _: Sel) -> u64 {
    with(this, |s| {
        let value = *known(s.events.get(&this.addr()));
        s.poll();
        value
    })
}

extern "C" fn wait_until_signaled(this: Id, _: Sel, value: u64, milliseconds: u64) -> bool {
    with(this, |s| {
        s.counts.waits += 1;
        loop {
            if *known(s.events.get(&this.addr())) >= value {
                return true;
            }
            if !s.step() {
                if milliseconds >= FOR_EVER_MS {
                    s.breach(format!("waitUntilSignaledValue: {value} will never come"));
                }
                return false;
            }
        }
    })
}
