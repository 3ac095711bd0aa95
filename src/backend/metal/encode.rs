//! How work reaches the queue.
//!
//! ```text
//! dispatch, dispatch, ...  -- flush -->  command buffer on the queue, which ends by raising the event to its ticket
//! ```
//!
//! Dispatches go into one concurrent encoder, with a barrier wherever one touches bytes that another wrote, or writes
//! bytes that another touched, since the last barrier. Between command buffers Metal tracks what ours write.

use super::api;
use super::args::Args;
use super::kernels::Kernel;
use super::library::Pipelines;
use super::refused;
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::ptr::NonNull;

/// Bytes of a buffer that a kernel reads or writes.
#[derive(Clone, Copy)]
pub struct Bind<'a> {
    /// Which buffer.
    pub buffer: &'a api::Buffer,
    /// First byte.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
}

/// The threads of a dispatch.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Threadgroups.
    pub groups: [usize; 3],
    /// Threads of a group, a multiple of 32.
    pub threads: usize,
    /// Bytes of threadgroup memory, a multiple of 16 (0: none).
    pub shared: usize,
}

/// What was encoded so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Dispatches.
    pub dispatches: u64,
    /// Barriers between them.
    pub barriers: u64,
    /// Command buffers committed.
    pub commits: u64,
}

/// A command buffer's place in the order of commits, from 1 on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Bytes of a piece of upload memory.
const PIECE: usize = 256 << 10;

/// Bytes of uploads in flight at most: a layer has about three command buffers, and is waited for.
pub const UPLOAD_BYTES: u64 = 8 * PIECE as u64;

/// What stands behind an upload.
const END: [u8; 8] = [0; 8];

/// Uploads start at multiples of this.
const UPLOAD_ALIGNMENT: usize = 256;

/// How long the processor waits before it looks whether the device has failed, in milliseconds.
const PATIENCE_MS: u64 = 1000;

/// Takes dispatches in order.
pub struct Encoder {
    device: api::Device,
    queue: api::Queue,
    pipelines: Pipelines,
    event: api::SharedEvent,
    /// Of the last commit.
    last: Ticket,
    open: Option<Open>,
    in_flight: VecDeque<InFlight>,
    /// Pieces that no command buffer reads.
    free: Vec<api::Buffer>,
    counters: Counters,
}

/// The command buffer that takes dispatches now.
struct Open {
    // Before the command buffer, as an encoder ends first.
    encoder: api::Encoder,
    commands: api::CommandBuffer,
    /// What was touched since the last barrier.
    touched: Vec<Touch>,
    pieces: Vec<api::Buffer>,
    /// Bytes used of the last piece.
    used: usize,
    /// Bytes of threadgroup memory that the encoder gives to each dispatch now.
    shared: usize,
}

struct InFlight {
    commands: api::CommandBuffer,
    pieces: Vec<api::Buffer>,
}

struct Touch {
    buffer: NonNull<u8>,
    start: usize,
    end: usize,
    writes: bool,
}

impl Touch {
    fn new(bind: &Bind<'_>, writes: bool) -> Touch {
        Touch {
            buffer: bind.buffer.contents(),
            start: bind.offset,
            end: bind.offset + bind.len,
            writes,
        }
    }

    /// Whether the order of the two matters.
    fn collides(&self, other: &Touch) -> bool {
        self.buffer == other.buffer
            && self.start < other.end
            && other.start < self.end
            && (self.writes || other.writes)
    }
}

impl Encoder {
    /// Nothing encoded yet.
    ///
    /// Errors: the device refuses an event.
    pub fn new(device: &api::Device, queue: api::Queue, pipelines: Pipelines) -> Result<Encoder> {
        Ok(Encoder {
            device: device.clone(),
            queue,
            pipelines,
            event: device
                .new_shared_event()
                .ok_or_else(|| refused("an event"))?,
            last: Ticket(0),
            open: None,
            in_flight: VecDeque::new(),
            free: Vec::new(),
            counters: Counters::default(),
        })
    }

    /// What was encoded so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Encodes a kernel. `binds` are its buffers 1, 2, ...; `constants` the values of its function constants 0, 1, ...
    ///
    /// Errors: the pipeline cannot be made, or allows fewer threads; the device refuses memory.
    pub fn dispatch<A: Args>(
        &mut self,
        kernel: Kernel,
        constants: &[u32],
        args: &A,
        binds: &[Bind<'_>],
        grid: Grid,
    ) -> Result<()> {
        if grid.groups.contains(&0) {
            return Ok(());
        }
        let access = kernel.access().bytes().map(|access| access == b'w');
        assert_eq!(access.len(), binds.len(), "{}: buffers", kernel.name());
        api::autorelease_pool(|| {
            let pipeline = self.pipelines.get(&self.device, kernel, constants)?;
            let most = pipeline.max_total_threads_per_threadgroup();
            if grid.threads > most {
                let what = format!("{}: threads of a group", kernel.name());
                return Err(Error::limit(&what, grid.threads, most));
            }
            let open = open(&mut self.open, &self.queue)?;
            let touches = || {
                binds
                    .iter()
                    .zip(access.clone())
                    .map(|(b, w)| Touch::new(b, w))
            };
            if touches().any(|touch| open.touched.iter().any(|t| t.collides(&touch))) {
                open.encoder.memory_barrier_buffers();
                self.counters.barriers += 1;
                open.touched.clear();
            }
            open.touched.extend(touches());
            let encoder = &open.encoder;
            encoder.set_pipeline(&pipeline);
            encoder.set_bytes(0, args.bytes());
            for (i, bind) in binds.iter().enumerate() {
                encoder.set_buffer(1 + i, bind.buffer, bind.offset);
            }
            if grid.shared != open.shared {
                encoder.set_threadgroup_memory(0, grid.shared);
                open.shared = grid.shared;
            }
            let [width, height, depth] = grid.groups;
            let groups = api::Size {
                width,
                height,
                depth,
            };
            let threads = api::Size {
                width: grid.threads,
                height: 1,
                depth: 1,
            };
            encoder.dispatch_threadgroups(groups, threads);
            self.counters.dispatches += 1;
            Ok(())
        })
    }

    /// The dispatches that follow, up to the next flush, read these buffers through addresses, and no residency set
    /// holds them.
    ///
    /// Errors: the device refuses memory.
    pub fn use_buffers(&mut self, buffers: &[&api::Buffer]) -> Result<()> {
        if buffers.is_empty() {
            return Ok(());
        }
        api::autorelease_pool(|| {
            open(&mut self.open, &self.queue)?
                .encoder
                .use_resources(buffers);
            Ok(())
        })
    }

    /// Copies bytes where kernels of this command buffer can read them.
    ///
    /// Errors: the device refuses memory.
    pub fn upload(&mut self, bytes: &[u8]) -> Result<Upload> {
        // With an end that is no leftover of another upload: who reads on finds zeros.
        let len = bytes.len() + END.len();
        api::autorelease_pool(|| {
            let open = open(&mut self.open, &self.queue)?;
            let last = open.pieces.last();
            if last.is_none_or(|piece| open.used + len > piece.len()) {
                let free = self.free.pop_if(|_| len <= PIECE);
                let new = || {
                    self.device
                        .new_buffer(len.max(PIECE), api::Storage::SharedTracked)
                };
                let piece = free
                    .or_else(new)
                    .ok_or_else(|| refused("memory for uploads"))?;
                open.pieces.push(piece);
                open.used = 0;
            }
            let offset = open.used;
            open.used = (offset + len).next_multiple_of(UPLOAD_ALIGNMENT);
            let piece = open
                .pieces
                .last()
                .ok_or_else(|| refused("memory for uploads"))?;
            piece.write(offset, bytes);
            piece.write(offset + bytes.len(), &END);
            Ok(Upload {
                buffer: piece.clone(),
                offset,
                len: bytes.len(),
            })
        })
    }

    /// Gives what was encoded to the queue. The ticket is that of the last commit.
    pub fn flush(&mut self) -> Ticket {
        let Some(open) = self.open.take() else {
            return self.last;
        };
        self.last.0 += 1;
        self.counters.commits += 1;
        api::autorelease_pool(|| {
            drop(open.encoder);
            open.commands.encode_signal_event(&self.event, self.last.0);
            open.commands.commit();
        });
        self.in_flight.push_back(InFlight {
            commands: open.commands,
            pieces: open.pieces,
        });
        self.last
    }

    /// Waits until the command buffer of a ticket, and all before it, are done.
    ///
    /// Errors: one of them failed.
    pub fn wait_for(&mut self, ticket: Ticket) -> Result<()> {
        api::autorelease_pool(|| {
            while !self.event.wait_until_signaled(ticket.0, PATIENCE_MS) {
                // A failed command buffer raises no event.
                self.check()?;
                if self.in_flight.is_empty() {
                    return Err(refused("to raise its event"));
                }
            }
            self.settle()
        })
    }

    /// Gives what was encoded to the queue, and waits for all of it.
    ///
    /// Errors: a command buffer failed.
    pub fn wait(&mut self) -> Result<()> {
        api::autorelease_pool(|| {
            self.flush();
            // The event is raised a moment before the status is known.
            self.in_flight
                .iter()
                .for_each(|f| f.commands.wait_until_completed());
            self.check()?;
            self.settle()
        })
    }

    /// An error if a command buffer failed; what was in flight is forgotten then, as none that follow can be trusted.
    fn check(&mut self) -> Result<()> {
        let is_failed = |f: &InFlight| f.commands.status() == api::Status::Failed;
        let Some(failed) = self.in_flight.iter().find(|f| is_failed(f)) else {
            return Ok(());
        };
        let error = failed.commands.error();
        self.in_flight
            .iter()
            .for_each(|f| f.commands.wait_until_completed());
        self.in_flight.clear();
        Err(error)
    }

    /// Takes back what command buffers used that are done.
    fn settle(&mut self) -> Result<()> {
        self.check()?;
        let is_done = |f: &InFlight| f.commands.status() == api::Status::Completed;
        while self.in_flight.front().is_some_and(is_done) {
            let done = self.in_flight.pop_front().map_or(Vec::new(), |f| f.pieces);
            // A larger one served one large upload.
            let pieces = done.into_iter().filter(|piece| piece.len() == PIECE);
            self.free.extend(pieces);
        }
        Ok(())
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // Memory that kernels read may go with the backend.
        self.flush();
        api::autorelease_pool(|| {
            let in_flight = self.in_flight.iter();
            in_flight.for_each(|f| f.commands.wait_until_completed());
        });
    }
}

/// The open command buffer, made when there is none.
fn open<'a>(open: &'a mut Option<Open>, queue: &api::Queue) -> Result<&'a mut Open> {
    if open.is_none() {
        let commands = queue
            .command_buffer()
            .ok_or_else(|| refused("a command buffer"))?;
        let encoder = commands
            .compute_encoder(true)
            .ok_or_else(|| refused("an encoder"))?;
        *open = Some(Open {
            encoder,
            commands,
            touched: Vec::new(),
            pieces: Vec::new(),
            used: 0,
            shared: 0,
        });
    }
    open.as_mut().ok_or_else(|| refused("a command buffer"))
}

/// Bytes that [`Encoder::upload`] took.
pub struct Upload {
    buffer: api::Buffer,
    offset: usize,
    len: usize,
}

impl Upload {
    /// As a kernel's argument.
    pub fn bind(&self) -> Bind<'_> {
        Bind {
            buffer: &self.buffer,
            offset: self.offset,
            len: self.len,
        }
    }
}
