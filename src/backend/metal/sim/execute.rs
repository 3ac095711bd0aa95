//! The device at work: only while somebody waits, in the order of the queue.

use super::commands::{Item, Status};
use super::encoders::{Dispatch, Slot};
use super::hazards::{Argument, Touched, Written, differences};
use super::kernels::Launch;
use super::memory;
use super::{Key, State, Traced, known, lock};
use crate::os::{GUARDED_ALIGNMENT, Guarded, explain_faults};
use crate::rng::Rng;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Mutex;

/// Bytes of an argument that are searched for addresses.
const SEARCHED: usize = 64 << 10;

/// Bytes of the memory that stands in for setBytes.
const BYTES: usize = 4096;

/// What runs, to be named when it touches what it may not.
struct Running {
    kernel: String,
    /// Index, address and length of its buffers.
    arguments: Vec<(usize, usize, usize)>,
}

/// Of the device that ran something last: a program has one, but for its tests.
static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

/// Tells who touched an address, and which of its buffers is near.
fn explain(address: usize) -> Option<String> {
    const NEAR: usize = 1 << 20;
    let running = RUNNING.try_lock().ok()?;
    let Running { kernel, arguments } = running.as_ref()?;
    let distance = |(_, start, len): &(usize, usize, usize)| {
        let past = address.saturating_sub(start + len.saturating_sub(1));
        past.max(start.saturating_sub(address))
    };
    let text = match arguments.iter().min_by_key(|a| distance(a)) {
        Some(nearest) if distance(nearest) < NEAR => {
            let (i, start, len) = nearest;
            let offset = address.wrapping_sub(*start).cast_signed();
            format!("byte {offset} of buffer {i}, which has {len}")
        }
        _ => format!("{address:#x}, which is in none of its buffers"),
    };
    Some(format!("software metal: kernel {kernel} touches {text}"))
}

/// The next dispatch, if nothing orders it after those before it.
fn next_unordered(items: &mut VecDeque<Item>, before: &[Dispatch]) -> Option<Dispatch> {
    if !before[0].concurrent || !matches!(items.front(), Some(Item::Dispatch(_))) {
        return None;
    }
    match items.pop_front() {
        Some(Item::Dispatch(dispatch)) => Some(dispatch),
        _ => None,
    }
}

impl State {
    /// Does the next thing; false when nothing is left to do.
    pub(super) fn step(&mut self) -> bool {
        let Some(&key) = self.pending.front() else {
            return false;
        };
        self.clock += 1;
        let now = self.clock as f64 * 1e-6;
        let commands = known(self.command_buffers.get_mut(&key));
        if commands.status == Status::Committed {
            commands.status = Status::Scheduled;
            commands.times.0 = now;
        }
        if commands.fails {
            // None of its signals come (inferred).
            return self.end(key, Status::Failed, now);
        }
        match commands.items.pop_front() {
            None => return self.end(key, Status::Completed, now),
            Some(Item::Barrier | Item::EndOfEncoder) => {}
            Some(Item::Signal { event, value }) => {
                let signaled = known(self.events.get_mut(&event));
                if value <= *signaled {
                    let breach = format!(
                        "an event at {signaled} is signaled {value}: values must grow (Apple)"
                    );
                    self.breach(breach);
                } else {
                    *signaled = value;
                }
            }
            Some(Item::Dispatch(first)) => {
                let mut unordered = vec![first];
                while let Some(next) = next_unordered(&mut commands.items, &unordered) {
                    unordered.push(next);
                }
                self.run(key, &unordered);
            }
        }
        true
    }

    fn end(&mut self, key: Key, status: Status, now: f64) -> bool {
        let commands = known(self.command_buffers.get_mut(&key));
        commands.status = status;
        commands.times.1 = now;
        self.pending.pop_front();
        self.ended(key);
        self.unhold(key);
        true
    }

    /// Runs dispatches that have no order among them.
    fn run(&mut self, commands: Key, dispatches: &[Dispatch]) {
        for dispatch in dispatches {
            self.check_reach(commands, dispatch);
            self.trace.push(Traced {
                kernel: dispatch.function.name.clone(),
                groups: dispatch.groups,
                threads: dispatch.threads,
            });
        }
        let compared = dispatches.len() > 1 && !self.control.order_unchecked;
        let touched = if compared {
            self.run_both_ways(dispatches)
        } else {
            self.shuffled(dispatches)
                .into_iter()
                .map(|dispatch| self.run_one(dispatch))
                .collect()
        };
        for (i, a) in touched.iter().enumerate() {
            for b in &touched[..i] {
                if let Some(address) = a.conflict(b) {
                    self.breach(format!(
                        "{} and {} touch {}, one writes, and no barrier stands between them (Apple)",
                        b.kernel,
                        a.kernel,
                        self.place(address)
                    ));
                }
            }
        }
        let since = known(self.command_buffers.get(&commands)).committed_at;
        for touched in &touched {
            if let Some((kernel, address)) = self.history.conflict(touched, since) {
                self.breach(format!(
                    "{kernel} and, in a later encoder, {} touch {}, one writes, and the device does not track it (Apple)",
                    touched.kernel,
                    self.place(address)
                ));
            }
        }
        // The oldest moment that a command buffer not yet run may look back to.
        let oldest = self
            .pending
            .iter()
            .filter_map(|key| self.command_buffers.get(key));
        let oldest = oldest.map(|c| c.committed_at).min().unwrap_or(self.clock);
        for touched in touched {
            self.history.add(self.clock, touched, oldest);
        }
    }

    /// As encoded, or for seeds above 0 in another order.
    fn shuffled<'a>(&self, dispatches: &'a [Dispatch]) -> Vec<&'a Dispatch> {
        let mut order: Vec<&Dispatch> = dispatches.iter().collect();
        if self.control.seed > 0 {
            let mut rng = Rng::new(u64::from(self.control.seed) << 32 | self.clock as u64);
            for i in (1..order.len()).rev() {
                order.swap(i, rng.below(i + 1));
            }
        }
        order
    }

    /// Runs dispatches as they were encoded and the other way round; what they leave must be the same.
    fn run_both_ways(&mut self, dispatches: &[Dispatch]) -> Vec<Touched> {
        let before = self.written_by(dispatches);
        let touched = dispatches.iter().map(|d| self.run_one(d)).collect();
        let after = self.written_by(dispatches);
        self.restore(&before);
        for dispatch in dispatches.iter().rev() {
            self.launch(dispatch);
        }
        let reversed = self.written_by(dispatches);
        let differs = after.iter().find_map(|(buffer, bytes)| {
            let (offset, _) = *differences(bytes, &reversed[buffer]).first()?;
            Some(known(self.buffers.get(buffer)).start + offset)
        });
        if let Some(address) = differs {
            let names: Vec<&str> = dispatches
                .iter()
                .map(|d| d.function.name.as_str())
                .collect();
            self.breach(format!(
                "the order of {} decides what is at {}, and no barrier stands between them",
                names.join(", "),
                self.place(address)
            ));
        }
        self.restore(&after);
        touched
    }

    /// Copies of the buffers that some dispatches may write.
    fn written_by(&self, dispatches: &[Dispatch]) -> BTreeMap<Key, Vec<u8>> {
        let mut copies = BTreeMap::new();
        for (letter, key, _) in dispatches.iter().flat_map(Dispatch::buffers) {
            if letter == 'w' {
                copies
                    .entry(key)
                    .or_insert_with(|| known(self.buffers.get(&key)).bytes());
            }
        }
        copies
    }

    fn restore(&self, copies: &BTreeMap<Key, Vec<u8>>) {
        for (key, bytes) in copies {
            known(self.buffers.get(key)).restore(bytes);
        }
    }

    /// Runs a dispatch and sees what it touched.
    fn run_one(&mut self, dispatch: &Dispatch) -> Touched {
        let before = self.written_by(std::slice::from_ref(dispatch));
        self.launch(dispatch);
        let mut written = Vec::new();
        for (&buffer, bytes) in &before {
            let memory = known(self.buffers.get(&buffer));
            let runs = differences(bytes, &memory.bytes());
            written.extend(runs.into_iter().map(|(start, end)| Written {
                buffer,
                start: memory.start + start,
                end: memory.start + end,
                tracked: memory.tracked,
            }));
        }
        let arguments = dispatch.buffers().map(|(letter, buffer, offset)| {
            let memory = known(self.buffers.get(&buffer));
            Argument {
                buffer,
                address: memory.start + offset,
                writes: letter == 'w',
                tracked: memory.tracked,
            }
        });
        Touched {
            kernel: dispatch.function.name.clone(),
            encoder: dispatch.encoder,
            arguments: arguments.collect(),
            written,
        }
    }

    fn launch(&mut self, dispatch: &Dispatch) {
        let mut buffers = [std::ptr::null_mut(); 31];
        for (i, _, slot) in dispatch.arguments() {
            buffers[i] = match slot {
                Slot::Empty => std::ptr::null_mut(),
                Slot::Buffer { key, offset } => known(self.buffers.get(key)).at(*offset),
                Slot::Bytes(bytes) => self.bytes_at_a_guard(i, bytes),
            };
        }
        let launch = Launch {
            kernel: &dispatch.function.name,
            constants: &dispatch.function.constants,
            buffers,
            groups: dispatch.groups,
            threads: dispatch.threads,
            shared: dispatch.shared,
            seed: self.control.seed,
        };
        explain_faults(explain);
        *lock(&RUNNING) = Some(self.running(dispatch, &buffers));
        // SAFETY: its buffers are held by the command buffer; the program, which waits for this, does not touch them, or
        // its test will see wrong results.
        if let Err(why) = unsafe { dispatch.function.kernels.run(&launch) } {
            self.breach(format!("kernel {}: {why}", dispatch.function.name));
        }
        *lock(&RUNNING) = None;
    }

    fn running(&self, dispatch: &Dispatch, buffers: &[*mut u8; 31]) -> Running {
        let arguments = dispatch.arguments().map(|(i, _, slot)| match slot {
            Slot::Empty => (i, 0, 0),
            Slot::Buffer { key, .. } => {
                let buffer = known(self.buffers.get(key));
                (i, buffer.start, buffer.len)
            }
            Slot::Bytes(bytes) => (i, buffers[i].addr(), bytes.len()),
        });
        Running {
            kernel: dispatch.function.name.clone(),
            arguments: arguments.collect(),
        }
    }

    /// A copy of some bytes that ends where no kernel may read.
    fn bytes_at_a_guard(&mut self, index: usize, bytes: &[u8]) -> *mut u8 {
        let memory = self
            .bytes
            .entry(index)
            .or_insert_with(|| known(Guarded::filled(BYTES, 0xFF).ok()));
        let room = bytes.len().next_multiple_of(GUARDED_ALIGNMENT);
        let mut copy = bytes.to_vec();
        copy.resize(room, 0xFF);
        // SAFETY: at most 4096 bytes (checked when they were set), at the end of the 4096.
        unsafe {
            let start = memory.start().add(BYTES - room).as_ptr();
            start.copy_from_nonoverlapping(copy.as_ptr(), room);
            start
        }
    }

    /// An address as part of a buffer.
    fn place(&self, address: usize) -> String {
        let mut buffers = self.buffers.values();
        match buffers.find(|b| (b.start..b.start + b.len).contains(&address)) {
            Some(buffer) => format!(
                "byte {} of a buffer of {}",
                address - buffer.start,
                buffer.len
            ),
            None => format!("{address:#x}"),
        }
    }

    /// The buffers of a queue's residency sets.
    pub(super) fn resident(&self, queue: Key) -> HashSet<Key> {
        let sets = known(self.queues.get(&queue)).sets.iter();
        let sets = sets.filter_map(|set| self.sets.get(set));
        sets.flat_map(|set| &set.members).copied().collect()
    }

    /// Notes which buffers the kernels of a command buffer will reach by addresses that they are given.
    pub(super) fn note_reached(&mut self, commands: Key) {
        let items = &known(self.command_buffers.get(&commands)).items;
        let dispatches = items.iter().filter_map(|item| match item {
            Item::Dispatch(dispatch) => Some(dispatch),
            _ => None,
        });
        // Where buffers share memory, any of them may be meant: the one that can be reached, if any can.
        let reached = dispatches.flat_map(|d| {
            let can = |key: &Key| self.can_reach(commands, d, *key);
            let meant = self.addressed(d).into_iter();
            meant.filter_map(move |(_, keys)| {
                keys.iter().copied().find(can).or(keys.first().copied())
            })
        });
        let reached = reached.collect();
        known(self.command_buffers.get_mut(&commands)).reached = reached;
    }

    /// What a kernel reaches by address must be resident (Apple): bound, used by its encoder, or in a committed set of the queue from
    /// before the command buffer's commit until now.
    fn check_reach(&mut self, commands: Key, dispatch: &Dispatch) {
        let missing = self.addressed(dispatch).into_iter().find(|(_, keys)| {
            !keys
                .iter()
                .any(|key| self.can_reach(commands, dispatch, *key))
        });
        if let Some((i, keys)) = missing {
            let key = keys[0];
            let len = known(self.buffers.get(&key)).len;
            self.breach(format!(
                "kernel {}: buffer {i} holds an address in a buffer of {len} bytes, which is neither in a committed residency set of the queue nor used by the encoder (Apple)",
                dispatch.function.name
            ));
        }
    }

    fn can_reach(&self, commands: Key, dispatch: &Dispatch, key: Key) -> bool {
        let commands = known(self.command_buffers.get(&commands));
        let mut bound = dispatch.buffers();
        let resident =
            || commands.resident.contains(&key) && self.resident(commands.queue).contains(&key);
        bound.any(|(_, bound, _)| bound == key) || dispatch.used.contains(&key) || resident()
    }

    /// The buffers whose addresses stand in the arguments of a dispatch, with the argument's index. An address is in several where
    /// buffers without a copy lie over the same memory, as it is that of the memory here.
    fn addressed(&self, dispatch: &Dispatch) -> Vec<(usize, Vec<Key>)> {
        let mut found = Vec::new();
        let first = self.buffers.values().map(|b| b.start).min();
        let end = self.buffers.values().map(|b| b.start + b.len).max();
        let all = first.unwrap_or(0)..end.unwrap_or(0);
        let mut search = |i: usize, bytes: &[u8]| {
            for word in bytes.chunks_exact(8) {
                let word = usize::from_ne_bytes(known(word.try_into().ok()));
                // A table of addresses is nothing else, and what follows it are leftovers.
                if !all.contains(&word) {
                    break;
                }
                let holds = |b: &memory::Buffer| (b.start..b.start + b.len).contains(&word);
                let holders = self.buffers.iter().filter(|(_, buffer)| holds(buffer));
                let mut keys: Vec<Key> = holders.map(|(key, _)| *key).collect();
                keys.sort_unstable();
                if !keys.is_empty() && !found.contains(&(i, keys.clone())) {
                    found.push((i, keys));
                }
            }
        };
        for (i, letter, slot) in dispatch.arguments().filter(|(_, letter, _)| *letter != 'w') {
            match slot {
                Slot::Bytes(bytes) => search(i, bytes),
                Slot::Buffer { key, offset } if letter != 'w' => {
                    let buffer = known(self.buffers.get(key));
                    let start = (buffer.start + offset).next_multiple_of(8) - buffer.start;
                    let len = buffer.len.saturating_sub(start).min(SEARCHED);
                    // SAFETY: within a live buffer.
                    search(i, unsafe {
                        std::slice::from_raw_parts(buffer.at(start), len)
                    });
                }
                _ => {}
            }
        }
        found
    }
}
