//! FENCE: buffers that reader threads fill and one owner reads.
//!
//! ```text
//! owner:    add --> idle -- fill --> loading -- wait --> idle (bytes can be read) -- fill --> ...
//! readers:                  demand before read-ahead, several parts of one buffer at a time
//! ```
//!
//! Promise: while a slot is loading, only readers touch its memory, each a part of its own; the owner sees its
//! bytes only when all parts are done. A slot can be filled again only through `&mut Slots`, so no borrow of
//! its bytes is left then.
#![allow(unsafe_code)]

use super::share::{self, Device};
use super::{AlignedBuf, Map, ReadAt, page_size};
use crate::error::{Error, Result};
use crate::units::Extent;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// A slot of one [`Slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId(u32);

/// What a reader fetches in one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Where it begins in the file.
    pub offset: u64,
    /// Where it goes in the buffer.
    pub at: usize,
    /// Bytes to read, a whole number of the file's alignment.
    pub len: usize,
    /// Bytes that must come; the file may end before the others.
    pub need: usize,
}

/// Whether somebody waits for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Wanted now.
    Demand,
    /// Likely wanted soon; done when nothing is wanted now.
    Ahead,
}

/// Where the bytes of slots come from.
#[derive(Clone)]
pub enum Source {
    /// Readers read them into memory of the slots' own.
    File(Arc<dyn ReadAt>),
    /// Readers make them resident where they are mapped; slots have no memory of their own.
    Map(Arc<Map>),
}

impl Source {
    /// What offsets and lengths of parts are multiples of.
    pub fn alignment(&self) -> usize {
        match self {
            Source::File(file) => file.alignment(),
            Source::Map(_) => page_size(),
        }
    }

    /// As [`ReadAt::check`].
    pub fn check(&self) -> Result<()> {
        match self {
            Source::File(file) => file.check(),
            Source::Map(map) => map.check(),
        }
    }
}

/// Buffers of any size, or names for mapped ranges, and the threads that fill them from one file.
pub struct Slots {
    shared: Arc<Shared>,
    slots: Vec<Option<Arc<Slot>>>,
    free_ids: Vec<SlotId>,
    readers: Vec<JoinHandle<()>>,
    device: Option<Arc<dyn Device>>,
}

/// `buf` is written only by readers and only while `left` is above 0, each in its own part (`Slots::fill` checks
/// that parts do not overlap); its bytes are looked at only by the owner and only while `left` is 0. `left` orders
/// the two: release on each finished part, acquire before the owner looks.
struct Slot {
    /// Before the memory, as it is given up first.
    _shared: Option<share::Shared>,
    /// Empty where the source is a mapping.
    buf: AlignedBuf,
    len: usize,
    /// Parts that are not read yet. Above 0 the memory belongs to the readers.
    left: AtomicUsize,
    fault: Mutex<Option<Error>>,
    /// Kept from being swapped out.
    locked: AtomicBool,
}

struct Task {
    slot: Arc<Slot>,
    part: Part,
}

struct Shared {
    source: Source,
    queue: Mutex<Queue>,
    /// A task was added, or the end was asked for.
    work: Condvar,
    /// The last part of a slot is done.
    done: Condvar,
    n_reads: AtomicU64,
    n_bytes: AtomicU64,
    busy_ns: AtomicU64,
}

struct Queue {
    demand: VecDeque<Task>,
    ahead: VecDeque<Task>,
    stop: bool,
    /// Reads that run now.
    n_running: usize,
    /// Since when there was always one.
    busy_since: Option<Instant>,
}

/// What readers did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Reads that succeeded.
    pub n_reads: u64,
    /// Bytes of these.
    pub n_bytes: u64,
    /// Nanoseconds in which at least one read ran; counted when none does any more.
    pub busy_ns: u64,
}

impl Slots {
    /// No slots yet, and `n_readers` threads that read `source`. Up to `n_slots` slots can be made, whose fills
    /// have at most `n_parts` parts waiting at a time without allocation.
    ///
    /// Errors: the system refuses a thread.
    pub fn new(source: Source, n_readers: usize, n_slots: usize, n_parts: usize) -> Result<Slots> {
        let shared = Arc::new(Shared {
            source,
            queue: Mutex::new(Queue {
                demand: VecDeque::with_capacity(n_parts),
                ahead: VecDeque::with_capacity(n_parts),
                stop: false,
                n_running: 0,
                busy_since: None,
            }),
            work: Condvar::new(),
            done: Condvar::new(),
            n_reads: AtomicU64::new(0),
            n_bytes: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
        });
        let mut slots = Slots {
            shared,
            slots: Vec::with_capacity(n_slots),
            free_ids: Vec::with_capacity(n_slots),
            readers: Vec::with_capacity(n_readers),
            device: None,
        };
        for id in 0..n_readers.max(1) {
            let shared = Arc::clone(&slots.shared);
            let reader = std::thread::Builder::new()
                .name(format!("reader-{id}"))
                .stack_size(READER_STACK)
                .spawn(move || shared.serve())
                .map_err(|e| Error::io(format!("starting reader {id} of {n_readers}"), &e))?;
            slots.readers.push(reader);
        }
        Ok(slots)
    }

    /// Has a device share the memory of all slots that are made from now on; called before there are any.
    pub fn share_with(&mut self, device: &Arc<dyn Device>) {
        assert!(self.slots.is_empty(), "no slot was made yet");
        self.device = Some(Arc::clone(device));
    }

    /// A new idle slot of `len` bytes: zeros that start at a page, or none of its own.
    ///
    /// Errors: memory is refused, by the system or by the device that shares it.
    pub fn add(&mut self, len: usize) -> Result<SlotId> {
        let owned = match self.shared.source {
            Source::File(_) => len,
            Source::Map(_) => 0,
        };
        // One without memory was kept when it was removed.
        if let Some(&id) = self.free_ids.last()
            && matches!(&self.slots[id.0 as usize], Some(slot) if slot.len == len)
        {
            self.free_ids.pop();
            return Ok(id);
        }
        let buf = AlignedBuf::zeroed(owned)?;
        let device = self.device.as_ref().filter(|_| owned > 0);
        let shared = device.map(|d| share::Shared::new(d, buf.as_slice(), None));
        let slot = Some(Arc::new(Slot {
            _shared: shared.transpose()?,
            buf,
            len,
            left: AtomicUsize::new(0),
            fault: Mutex::new(None),
            locked: AtomicBool::new(false),
        }));
        if let Some(id) = self.free_ids.pop() {
            self.slots[id.0 as usize] = slot;
            return Ok(id);
        }
        self.slots.push(slot);
        Ok(SlotId(self.slots.len() as u32 - 1))
    }

    /// Gives the memory of an idle slot back.
    pub fn remove(&mut self, id: SlotId) {
        assert!(self.is_idle(id), "a slot in use is not removed");
        if !self.slot(id).buf.is_empty() {
            self.slots[id.0 as usize] = None;
        }
        self.free_ids.push(id);
    }

    /// Keeps an idle slot from being swapped out from now on, if the system allows that.
    pub fn lock(&self, id: SlotId) {
        assert!(self.is_idle(id), "a slot is locked when it is filled");
        let slot = self.slot(id);
        if !slot.buf.is_empty() && !slot.locked.load(Ordering::Relaxed) {
            slot.locked.store(slot.buf.lock(), Ordering::Relaxed);
        }
    }

    /// Bytes of the slots that the system keeps from being swapped out.
    pub fn locked_bytes(&self) -> u64 {
        let locked = |slot: &&Arc<Slot>| slot.locked.load(Ordering::Relaxed);
        let slots = self.slots.iter().flatten().filter(locked);
        slots.map(|slot| slot.buf.len() as u64).sum()
    }

    /// Has readers fill an idle slot. Its former contents are gone.
    pub fn fill(&mut self, id: SlotId, urgency: Urgency, parts: &[Part]) {
        let slot = self.slot(id);
        assert!(
            slot.left.load(Ordering::Acquire) == 0,
            "a slot is filled once at a time"
        );
        let mut end = 0;
        for part in parts {
            assert!(part.at >= end && part.need <= part.len, "parts in order");
            end = part.at + part.len;
        }
        assert!(end <= slot.len, "parts within the slot");
        slot.left.store(parts.len(), Ordering::Release);
        let slot = Arc::clone(slot);
        let mut queue = self.shared.lock();
        let list = match urgency {
            Urgency::Demand => &mut queue.demand,
            Urgency::Ahead => &mut queue.ahead,
        };
        list.extend(parts.iter().map(|part| Task {
            slot: Arc::clone(&slot),
            part: *part,
        }));
        drop(queue);
        self.shared.work.notify_all();
    }

    /// Makes what is left of a read-ahead a demand.
    pub fn hurry(&mut self, id: SlotId) {
        let slot = self.slot(id);
        let mut queue = self.shared.lock();
        for _ in 0..queue.ahead.len() {
            match queue.ahead.pop_front() {
                Some(task) if Arc::ptr_eq(&task.slot, slot) => queue.demand.push_back(task),
                Some(task) => queue.ahead.push_back(task),
                None => break,
            }
        }
    }

    /// Takes back the reads ahead of a slot that no reader has begun; it then ends with a fault.
    pub fn cancel_ahead(&mut self, id: SlotId) {
        let slot = self.slot(id);
        let mut queue = self.shared.lock();
        queue.ahead.retain(|task| {
            let keep = !Arc::ptr_eq(&task.slot, slot);
            if !keep {
                task.slot.fail(Error::format("the read was cancelled"));
                task.slot.finish_part();
            }
            keep
        });
    }

    /// Whether no reader works on the slot.
    pub fn is_idle(&self, id: SlotId) -> bool {
        self.slot(id).left.load(Ordering::Acquire) == 0
    }

    /// Waits until the slot is idle.
    ///
    /// Errors: the first fault of its readers; the bytes then mean nothing.
    pub fn wait(&mut self, id: SlotId) -> Result<()> {
        let slot = Arc::clone(self.slot(id));
        let mut queue = self.shared.lock();
        while slot.left.load(Ordering::Acquire) != 0 {
            queue = self
                .shared
                .done
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(queue);
        let fault = slot
            .fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        fault.map_or(Ok(()), Err)
    }

    /// The bytes that an idle slot has of its own.
    pub fn bytes(&self, id: SlotId) -> &[u8] {
        assert!(self.is_idle(id), "a slot is read when it is filled");
        // The slot is idle (acquire), and becomes loading only through `&mut self`, which cannot exist while this
        // borrow lives.
        self.slot(id).buf.as_slice()
    }

    /// What the readers did so far.
    pub fn totals(&self) -> Totals {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Totals {
            n_reads: load(&self.shared.n_reads),
            n_bytes: load(&self.shared.n_bytes),
            busy_ns: load(&self.shared.busy_ns),
        }
    }

    fn slot(&self, id: SlotId) -> &Arc<Slot> {
        match self.slots.get(id.0 as usize) {
            Some(Some(slot)) => slot,
            _ => panic!("{id:?} was removed"),
        }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        {
            let mut queue = self.shared.lock();
            queue.stop = true;
            queue.demand.clear();
            queue.ahead.clear();
        }
        self.shared.work.notify_all();
        for reader in self.readers.drain(..) {
            // A reader does not panic; if it did there is nothing to save here.
            let _ = reader.join();
        }
    }
}

/// Bytes of a reader's stack: it calls pread and formats an error at most.
pub const READER_STACK: usize = 128 << 10;

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut queue = self.lock();
        loop {
            if queue.stop {
                return;
            }
            let task = queue.demand.pop_front().or_else(|| queue.ahead.pop_front());
            let Some(task) = task else {
                queue = self
                    .work
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.busy_since.get_or_insert_with(Instant::now);
            queue.n_running += 1;
            drop(queue);
            self.read(&task);
            queue = self.lock();
            queue.n_running -= 1;
            let idle = queue.n_running == 0 && queue.demand.is_empty() && queue.ahead.is_empty();
            if idle && let Some(since) = queue.busy_since.take() {
                let ns = since.elapsed().as_nanos() as u64;
                self.busy_ns.fetch_add(ns, Ordering::Relaxed);
            }
            // Under the lock, so that a waiting owner cannot miss it.
            if task.slot.finish_part() {
                self.done.notify_all();
            }
        }
    }

    fn read(&self, Task { slot, part }: &Task) {
        let result = match &self.source {
            Source::File(file) => {
                // SAFETY: `left` counts this part, so the memory belongs to the readers; the part lies in the buffer,
                // which has the slot's length here, and overlaps no other (checked by `fill`), and each part is taken
                // from the queue once.
                let buf = unsafe {
                    std::slice::from_raw_parts_mut(slot.buf.start().add(part.at), part.len)
                };
                file.read_window(part.offset, buf, part.need)
            }
            Source::Map(map) => map.populate(Extent {
                offset: part.offset,
                len: part.need as u64,
            }),
        };
        match result {
            Ok(()) => {
                self.n_reads.fetch_add(1, Ordering::Relaxed);
                self.n_bytes.fetch_add(part.len as u64, Ordering::Relaxed);
            }
            Err(error) => slot.fail(error),
        }
    }
}

impl Slot {
    /// Keeps the first fault.
    fn fail(&self, error: Error) {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.get_or_insert(error);
    }

    /// Whether it was the last.
    fn finish_part(&self) -> bool {
        self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemFile;
    use super::super::sim::{Sim, SimFile};
    use super::*;

    fn slots(bytes: Vec<u8>, n_readers: usize) -> Slots {
        let file = Source::File(Arc::new(MemFile::new("memory", bytes)));
        Slots::new(file, n_readers, 8, 64).unwrap()
    }

    /// A file whose reads wait while the lock is held.
    struct Gate(Arc<Mutex<()>>);

    impl ReadAt for Gate {
        fn len(&self) -> u64 {
            1000
        }

        fn read_exact_at(&self, _: u64, _: &mut [u8]) -> Result<()> {
            drop(self.0.lock().unwrap());
            Ok(())
        }

        fn name(&self) -> &str {
            "gate"
        }
    }

    #[test]
    fn demand_comes_before_what_is_read_ahead() {
        let gate = Arc::new(Mutex::new(()));
        let file = SimFile::new(Gate(Arc::clone(&gate)), Sim::default());
        let file = Arc::new(file);
        let mut slots = Slots::new(Source::File(Arc::clone(&file) as _), 1, 8, 8).unwrap();
        let ids: Vec<SlotId> = (0..6).map(|_| slots.add(10).unwrap()).collect();
        let held = gate.lock().unwrap();
        // Until the gate opens the only reader stands in the first read, and the others queue.
        slots.fill(ids[0], Urgency::Demand, &[part(0, 0, 10)]);
        while file.log().is_empty() {
            std::thread::yield_now();
        }
        for (id, urgency) in [
            (1, Urgency::Ahead),
            (2, Urgency::Ahead),
            (3, Urgency::Demand),
            (4, Urgency::Ahead),
            (5, Urgency::Demand),
        ] {
            slots.fill(ids[id], urgency, &[part(id as u64 * 10, 0, 10)]);
        }
        slots.hurry(ids[2]);
        slots.cancel_ahead(ids[4]);
        assert!(slots.is_idle(ids[4]) && !slots.is_idle(ids[0]));
        drop(held);
        let results: Vec<bool> = ids.iter().map(|id| slots.wait(*id).is_ok()).collect();
        assert_eq!(results, [true, true, true, true, false, true]);
        let order: Vec<u64> = file.log().iter().map(|read| read.offset / 10).collect();
        assert_eq!(order, [0, 3, 5, 2, 1]);
        let Totals {
            n_reads, n_bytes, ..
        } = slots.totals();
        assert_eq!((n_reads, n_bytes), (5, 50));
    }

    #[test]
    fn slots_dropped_while_they_load_wait_for_their_readers() {
        let gate = Arc::new(Mutex::new(()));
        let file: Arc<dyn ReadAt> = Arc::new(Gate(Arc::clone(&gate)));
        let mut slots = Slots::new(Source::File(Arc::clone(&file)), 2, 8, 8).unwrap();
        let held = gate.lock().unwrap();
        for urgency in [Urgency::Demand, Urgency::Ahead, Urgency::Demand] {
            let id = slots.add(10).unwrap();
            slots.fill(id, urgency, &[part(0, 0, 10)]);
        }
        drop(held);
        drop(slots);
        // No reader holds the file any more.
        assert_eq!(Arc::strong_count(&file), 1);
    }

    #[test]
    fn a_slot_counts_as_locked_once_and_until_it_goes() {
        let mut slots = slots(vec![7; 100], 1);
        let (a, b) = (slots.add(64).unwrap(), slots.add(32).unwrap());
        assert_eq!(slots.locked_bytes(), 0);
        (0..3).for_each(|_| slots.lock(a));
        let one = slots.locked_bytes();
        if one == 0 {
            println!("skipped: the system locks no memory");
            return;
        }
        assert_eq!(one, 64);
        slots.lock(b);
        slots.fill(a, Urgency::Demand, &[part(0, 0, 64)]);
        assert_eq!(slots.locked_bytes(), 96);
        slots.wait(a).unwrap();
        slots.remove(a);
        assert_eq!(slots.locked_bytes(), 32);
        slots.add(64).unwrap();
        assert_eq!(slots.locked_bytes(), 32);
    }

    fn part(offset: u64, at: usize, len: usize) -> Part {
        Part {
            offset,
            at,
            len,
            need: len,
        }
    }

    #[test]
    fn parts_come_from_everywhere_and_go_to_their_places() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i % 251) as u8).collect();
        for n_readers in [1, 2, 9] {
            let begun = Instant::now();
            let mut slots = slots(bytes.clone(), n_readers);
            let (a, b) = (slots.add(100).unwrap(), slots.add(50).unwrap());
            for round in 0..50 {
                slots.fill(a, Urgency::Demand, &[part(10, 0, 30), part(500, 30, 60)]);
                slots.fill(b, Urgency::Ahead, &[part(900 + round, 0, 50)]);
                if round % 2 == 0 {
                    slots.hurry(b);
                }
                slots.wait(a).unwrap();
                slots.wait(b).unwrap();
                assert_eq!(slots.bytes(a)[..30], bytes[10..40]);
                assert_eq!(slots.bytes(a)[30..90], bytes[500..560]);
                assert_eq!(slots.bytes(b), &bytes[900 + round as usize..][..50]);
            }
            let totals = slots.totals();
            assert_eq!((totals.n_reads, totals.n_bytes), (150, 50 * 140));
            assert!(totals.busy_ns > 0 && totals.busy_ns <= begun.elapsed().as_nanos() as u64);
        }
    }

    #[test]
    fn a_fault_reaches_the_one_who_waits_and_the_slot_can_be_filled_again() {
        let mut slots = slots(vec![7; 100], 2);
        let id = slots.add(64).unwrap();
        slots.fill(id, Urgency::Demand, &[part(0, 0, 32), part(90, 32, 32)]);
        let error = slots.wait(id).unwrap_err();
        assert!(error.to_string().contains("read at 90"), "{error}");
        slots.fill(id, Urgency::Demand, &[part(0, 0, 64)]);
        slots.wait(id).unwrap();
        assert_eq!(slots.bytes(id), [7; 64]);
    }

    #[test]
    fn cancelled_reads_end_with_a_fault_and_leave_the_slot_idle() {
        let mut slots = slots(vec![7; 100], 1);
        let ids: Vec<SlotId> = (0..8).map(|_| slots.add(64).unwrap()).collect();
        ids.iter()
            .for_each(|id| slots.fill(*id, Urgency::Ahead, &[part(0, 0, 32), part(32, 32, 32)]));
        for id in ids {
            slots.cancel_ahead(id);
            // What a reader had begun may still come whole.
            let result = slots.wait(id);
            assert!(slots.is_idle(id));
            assert!(result.is_ok() || result.unwrap_err().to_string().contains("cancelled"));
            slots.remove(id);
        }
    }

    #[test]
    #[should_panic(expected = "parts in order")]
    fn parts_that_overlap_are_a_mistake() {
        let mut slots = slots(vec![7; 100], 1);
        let id = slots.add(64).unwrap();
        slots.fill(id, Urgency::Demand, &[part(0, 0, 33), part(40, 32, 32)]);
    }
}
