//! Experts in owned slabs or in views of the mapping, read on demand and given up by worth: what all strategies that
//! stream share.
//!
//! ```text
//! absent -- place --> placed -- read --> loading -- wait --> ready -- evict --> absent
//!            (a slab is reserved)  (readers own it)        (kernels may read it)
//! ```
//!
//! Which slab an expert gets is decided by `place` alone, and that depends on what was chosen and never on how
//! fast a read was: reading ahead changes time only, not which experts are resident.

use super::ExpertSupply;
use super::policy::{Policy, Worth};
use super::slab::{MAX_PARTS, SlabLayout};
use super::stats::{ExpertUse, Stats};
use crate::error::{Error, Result};
use crate::model::experts::{ExpertMap, ExpertRef};
use crate::os::page_size;
use crate::os::share::{Device, Shared};
use crate::os::slots::{Part, SlotId, Slots, Source, Urgency};
use crate::units::{Bytes, ExpertId, Extent, LayerId};
use std::sync::Arc;
use std::time::Instant;

/// How a cache works.
#[derive(Clone, Copy, Debug)]
pub struct CacheOptions {
    /// Bytes of slabs at most.
    pub budget: u64,
    /// Threads that read.
    pub n_readers: usize,
    /// Which expert is given up.
    pub policy: Policy,
    /// Whether reads begin as soon as the experts of a coming layer are known.
    pub read_ahead: bool,
    /// Whether slabs are kept from being swapped out.
    pub lock: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Absent,
    Placed,
    Loading(Urgency),
    Ready,
}

struct Entry {
    slot: Option<SlotId>,
    /// The mapped pages of gate, up and down, where a device shares them.
    shared: Option<[Shared; 3]>,
    state: State,
    /// Not to be given up: chosen by the layer in work and not computed yet, or expected.
    wanted: bool,
    /// In `Cache::kept`.
    kept: bool,
    /// Where it stands in `Cache::resident`.
    at: u32,
    /// As in [`Stats`].
    touches: u64,
    hits: u64,
}

/// What there is for an expert after others were given up.
enum Room {
    /// A slab that was given up.
    Slab(SlotId),
    /// Bytes within the bound.
    Bytes,
    /// Nothing: all others are protected.
    None,
}

/// See the module.
pub struct Cache {
    map: ExpertMap,
    layouts: Vec<SlabLayout>,
    entries: Vec<Entry>,
    source: Source,
    slots: Slots,
    /// What shares experts where they are mapped.
    device: Option<Arc<dyn Device>>,
    options: CacheOptions,
    /// Bytes of slabs at most, now.
    bound: u64,
    /// Keys that have a slab.
    resident: Vec<u32>,
    /// Idle slabs without an expert, and their bytes.
    free: Vec<(SlotId, usize)>,
    /// Bytes of all slabs.
    used: u64,
    worth: Worth,
    /// Placed before their layer began.
    expected: Vec<u32>,
    /// Computed, but more chunks of their layer follow.
    kept: Vec<u32>,
    work: Work,
    stats: Stats,
}

/// The layer in work.
struct Work {
    layer: LayerId,
    chosen: Vec<ExpertId>,
    /// Whether it was given out and computed.
    done: Vec<bool>,
    /// Indices into `chosen` that were given out last.
    batch: Vec<usize>,
    /// Indices into `chosen` of those that have, or had, a slab: first the hits, then as slabs were found.
    order: Vec<usize>,
    /// Of `chosen`, those that have been looked at for a slab.
    n_seen: usize,
    /// Of `order`, those that are done with.
    n_released: usize,
    /// More chunks of this layer follow.
    more: bool,
}

impl Cache {
    /// An empty cache over the experts of `source`.
    ///
    /// With a `device`, what can be given out is shared with it.
    ///
    /// Errors: the budget does not hold the experts of one token in one layer; memory or threads are refused.
    pub fn new(
        map: &ExpertMap,
        source: Source,
        device: Option<&Arc<dyn Device>>,
        n_used: usize,
        options: CacheOptions,
    ) -> Result<Cache> {
        let alignment = source.alignment();
        let layouts = SlabLayout::of_layers(map, alignment);
        let largest = layouts.iter().map(SlabLayout::len).max().unwrap_or(0);
        let least = (n_used * largest) as u64;
        if options.budget < least {
            return Err(Error::limit(
                "least budget of experts: one layer's choice needs",
                Bytes(least),
                Bytes(options.budget),
            ));
        }
        let n_keys = map.n_experts_total();
        let smallest = layouts
            .iter()
            .map(SlabLayout::len)
            .min()
            .unwrap_or(1)
            .max(1);
        let n_slots = ((options.budget / smallest as u64) as usize).min(n_keys);
        let n_parts = MAX_PARTS * map.n_expert;
        let mut slots = Slots::new(source.clone(), options.n_readers, n_slots, n_parts)?;
        if let Some(device) = device {
            slots.share_with(device);
        }
        let mut free = Vec::with_capacity(n_slots);
        let mut used = 0;
        if largest == smallest {
            // All slabs are alike: made now, they take memory when they are first filled.
            for _ in 0..n_slots {
                free.push((slots.add(largest)?, largest));
                used += largest as u64;
            }
        }
        let absent = || Entry {
            slot: None,
            shared: None,
            state: State::Absent,
            wanted: false,
            kept: false,
            at: 0,
            touches: 0,
            hits: 0,
        };
        Ok(Cache {
            map: map.clone(),
            layouts,
            device: device.filter(|_| matches!(source, Source::Map(_))).cloned(),
            source,
            slots,
            bound: options.budget,
            options,
            entries: (0..n_keys).map(|_| absent()).collect(),
            resident: Vec::with_capacity(n_slots),
            free,
            used,
            worth: Worth::new(options.policy, n_keys),
            expected: Vec::with_capacity(n_keys),
            kept: Vec::with_capacity(map.n_expert),
            work: Work {
                layer: LayerId(0),
                chosen: Vec::with_capacity(map.n_expert),
                done: Vec::with_capacity(map.n_expert),
                batch: Vec::with_capacity(map.n_expert),
                order: Vec::with_capacity(map.n_expert),
                n_seen: 0,
                n_released: 0,
                more: false,
            },
            stats: Stats::default(),
        })
    }

    fn key(&self, layer: LayerId, expert: ExpertId) -> usize {
        layer.0 * self.map.n_expert + expert.0 as usize
    }

    fn id(&self, key: usize) -> (LayerId, ExpertId) {
        (
            LayerId(key / self.map.n_expert),
            ExpertId((key % self.map.n_expert) as u32),
        )
    }

    /// Bounds the slabs by `bytes` from now on, at most the budget, and gives up what is above; called between passes,
    /// when nothing is protected.
    pub fn set_bound(&mut self, bytes: u64) {
        self.bound = bytes.min(self.options.budget);
        self.make_room(0);
    }

    /// Lets a layer's pages go that no view holds.
    pub fn give_up_rest(&self, layer: LayerId) {
        for e in 0..self.map.n_expert {
            let key = self.key(layer, ExpertId(e as u32));
            if self.entries[key].state == State::Absent {
                self.give_up(key);
            }
        }
    }

    /// Lets the pages of an absent expert go, where they are mapped.
    fn give_up(&self, key: usize) {
        let Source::Map(map) = &self.source else {
            return;
        };
        let (layer, expert) = self.id(key);
        let absent = |e: usize| {
            let key = layer.0 * self.map.n_expert + e;
            e < self.map.n_expert && self.entries[key].state == State::Absent
        };
        // A page that is shared with a neighbour goes when both are absent. Whole pages go: a part of one at an end
        // of the range is kept, unless the range is made longer by what a page can hold of the neighbour.
        let (e, other) = (expert.0 as usize, page_size() as u64 - 1);
        let before = if e > 0 && absent(e - 1) { other } else { 0 };
        let after = if absent(e + 1) { other } else { 0 };
        let extents = self.map.extents(layer, expert);
        for Extent { offset, len } in [extents.gate, extents.up, extents.down] {
            map.give_up(Extent {
                offset: offset - before,
                len: len + before + after,
            });
        }
    }

    /// Reserves a slab for an absent expert, giving up others where the budget asks for it; false when nothing
    /// can be given up now.
    fn place(&mut self, key: usize) -> Result<bool> {
        let len = self.layouts[self.id(key).0.0].len();
        let slot = match self.free.iter().rposition(|(_, free)| *free == len) {
            Some(i) => self.free.swap_remove(i).0,
            None => match self.make_room(len) {
                Room::Slab(slot) => slot,
                Room::Bytes => {
                    let slot = self.slots.add(len)?;
                    self.used += len as u64;
                    slot
                }
                Room::None => return Ok(false),
            },
        };
        let entry = &mut self.entries[key];
        (entry.slot, entry.state, entry.at) =
            (Some(slot), State::Placed, self.resident.len() as u32);
        self.resident.push(key as u32);
        Ok(true)
    }

    /// Gives up others until `len` bytes more are within the bound.
    fn make_room(&mut self, len: usize) -> Room {
        while self.used + len as u64 > self.bound {
            if let Some((slot, other)) = self.free.pop() {
                self.slots.remove(slot);
                self.used -= other as u64;
                continue;
            }
            let entries = &self.entries;
            let evictable =
                |key: &usize| !entries[*key].wanted && entries[*key].state == State::Ready;
            let keys = self.resident.iter().map(|k| *k as usize).filter(evictable);
            let Some(victim) = self.worth.least(keys) else {
                return Room::None;
            };
            self.stats.evictions += 1;
            self.forget(victim);
            // The slab went to the free ones: taken again if it fits, else removed above.
            if let Some(&(slot, other)) = self.free.last()
                && other == len
            {
                self.free.pop();
                return Room::Slab(slot);
            }
        }
        Room::Bytes
    }

    /// Takes the slab of an expert that no reader works for.
    fn forget(&mut self, key: usize) {
        let len = self.layouts[self.id(key).0.0].len();
        let entry = &mut self.entries[key];
        let Some(slot) = entry.slot.take() else {
            return;
        };
        let at = entry.at as usize;
        let unread = entry.state == State::Placed;
        entry.shared = None;
        (entry.state, entry.wanted) = (State::Absent, false);
        self.resident.swap_remove(at);
        if let Some(&moved) = self.resident.get(at) {
            self.entries[moved as usize].at = at as u32;
        }
        self.free.push((slot, len));
        if !unread {
            self.give_up(key);
        }
    }

    /// Starts the reads of a placed expert.
    fn read(&mut self, key: usize, urgency: Urgency, split: usize) {
        let (layer, expert) = self.id(key);
        let Some(slot) = self.entries[key].slot else {
            return;
        };
        let mut parts = [Part {
            offset: 0,
            at: 0,
            len: 0,
            need: 0,
        }; MAX_PARTS];
        let n = self.layouts[layer.0].parts(self.map.extents(layer, expert), split, &mut parts);
        self.slots.fill(slot, urgency, &parts[..n]);
        self.entries[key].state = State::Loading(urgency);
        self.stats.experts_read += 1;
    }

    /// Waits for the readers of a loading expert.
    fn settle(&mut self, key: usize) -> Result<()> {
        let (layer, expert) = self.id(key);
        let Some(slot) = self.entries[key].slot else {
            return Ok(());
        };
        if let State::Loading(Urgency::Ahead) = self.entries[key].state {
            self.slots.hurry(slot);
        }
        if let Err(error) = self.wait(slot) {
            self.forget(key);
            return Err(error.context(format_args!("expert {} of layer {}", expert.0, layer.0)));
        }
        if let Err(error) = self.share(key) {
            self.entries[key].state = State::Ready;
            self.forget(key);
            return Err(error);
        }
        self.entries[key].state = State::Ready;
        if self.options.lock {
            self.slots.lock(slot);
        }
        Ok(())
    }

    /// Has the device share the mapped pages of an expert that readers made resident.
    fn share(&mut self, key: usize) -> Result<()> {
        let (Source::Map(map), Some(device)) = (&self.source, &self.device) else {
            return Ok(());
        };
        let (layer, expert) = self.id(key);
        let expert = self.map.extents(layer, expert).of(map.as_slice());
        let share = |bytes| Shared::new(device, bytes, Some(map));
        self.entries[key].shared =
            Some([share(expert.gate)?, share(expert.up)?, share(expert.down)?]);
        Ok(())
    }

    /// Waits until a slab is idle, and counts the time.
    fn wait(&mut self, slot: SlotId) -> Result<()> {
        if self.slots.is_idle(slot) {
            return self.slots.wait(slot);
        }
        let start = Instant::now();
        let result = self.slots.wait(slot);
        self.stats.stall_ns += start.elapsed().as_nanos() as u64;
        result
    }

    /// Drops an expert that was placed ahead and is not needed.
    fn drop_expected(&mut self, key: usize) {
        self.entries[key].wanted = false;
        match self.entries[key].state {
            State::Absent | State::Ready => return,
            State::Placed => {}
            State::Loading(_) => {
                self.stats.ahead_wasted += 1;
                if let Some(slot) = self.entries[key].slot {
                    self.slots.cancel_ahead(slot);
                    // Cancelled or not, it is not used.
                    let _ = self.wait(slot);
                }
            }
        }
        self.forget(key);
    }

    /// The key of the `i`-th chosen expert.
    fn chosen_key(&self, i: usize) -> usize {
        self.key(self.work.layer, self.work.chosen[i])
    }

    /// Finds slabs for chosen experts, one after the other, until none can be had.
    fn place_chosen(&mut self) -> Result<()> {
        while self.work.n_seen < self.work.chosen.len() {
            let i = self.work.n_seen;
            let key = self.chosen_key(i);
            // One that was done may be absent again.
            if self.entries[key].state == State::Absent && !self.work.done[i] {
                if !self.place(key)? {
                    break;
                }
                self.entries[key].wanted = true;
                self.work.order.push(i);
            }
            self.work.n_seen += 1;
        }
        Ok(())
    }

    /// Starts the reads of chosen experts that have a slab.
    fn start_reads(&mut self) {
        let with_slab = self.work.n_released..self.work.order.len();
        let placed = |cache: &Cache, n: usize| {
            let key = cache.chosen_key(cache.work.order[n]);
            (cache.entries[key].state == State::Placed).then_some(key)
        };
        let n_placed = with_slab.clone().filter_map(|n| placed(self, n)).count();
        // Few misses are split so that all readers have work.
        let split = self.options.n_readers.div_ceil(3 * n_placed.max(1));
        for n in with_slab {
            if let Some(key) = placed(self, n) {
                self.read(key, Urgency::Demand, split);
            }
        }
    }

    /// Gives out what is ready and not done.
    fn take_ready(&mut self) {
        let (layer, n_expert) = (self.work.layer.0, self.map.n_expert);
        let (work, entries) = (&mut self.work, &self.entries);
        for (i, expert) in work.chosen.iter().enumerate() {
            let key = layer * n_expert + expert.0 as usize;
            if !work.done[i] && entries[key].state == State::Ready {
                work.batch.push(i);
            }
        }
    }

    fn next_batch(&mut self) -> Result<()> {
        while let Some(i) = self.work.batch.pop() {
            self.work.done[i] = true;
        }
        // One by one in the order of their slabs, whichever came first: what makes room for what is then the same
        // however fast the reads were.
        while let Some(&i) = self.work.order.get(self.work.n_released)
            && self.work.done[i]
        {
            self.work.n_released += 1;
            self.release(self.chosen_key(i));
            self.place_chosen()?;
        }
        if self.work.n_released == self.work.chosen.len() {
            self.end_layer();
            return Ok(());
        }
        if self.work.n_released == self.work.order.len() {
            self.make_way()?;
        }
        self.take_ready();
        self.start_reads();
        if self.work.batch.is_empty() {
            self.wait_for_some()?;
            self.take_ready();
        }
        Ok(())
    }

    /// Gives up what was kept for later chunks, then what was expected for later layers, so that the layer in
    /// work gets a slab.
    fn make_way(&mut self) -> Result<()> {
        self.release_kept();
        self.place_chosen()?;
        if self.work.n_released < self.work.order.len() {
            return Ok(());
        }
        while let Some(key) = self.expected.pop() {
            self.drop_expected(key as usize);
        }
        self.place_chosen()?;
        assert!(
            self.work.n_released < self.work.order.len(),
            "the budget holds an expert"
        );
        Ok(())
    }

    /// Waits for the first of those that load, and takes the others that are there by then.
    fn wait_for_some(&mut self) -> Result<()> {
        let mut waited = false;
        for n in self.work.n_released..self.work.order.len() {
            let key = self.chosen_key(self.work.order[n]);
            let Entry {
                slot: Some(slot),
                state: State::Loading(_),
                ..
            } = self.entries[key]
            else {
                continue;
            };
            if !waited || self.slots.is_idle(slot) {
                waited = true;
                self.settle(key)?;
            }
        }
        Ok(())
    }

    /// An expert is computed: it may be given up, unless other chunks of its layer follow.
    fn release(&mut self, key: usize) {
        let entry = &mut self.entries[key];
        if !self.work.more {
            entry.wanted = entry.kept;
        } else if !entry.kept {
            entry.kept = true;
            self.kept.push(key as u32);
        }
    }

    fn release_kept(&mut self) {
        while let Some(key) = self.kept.pop() {
            let entry = &mut self.entries[key as usize];
            (entry.kept, entry.wanted) = (false, false);
        }
    }

    /// Leaves no reader at work for the layer, and nothing of it protected but what is kept.
    fn end_layer(&mut self) {
        for i in 0..self.work.chosen.len() {
            let key = self.chosen_key(i);
            self.entries[key].wanted = self.entries[key].kept;
            match self.entries[key].state {
                // A second fault adds nothing to the first.
                State::Loading(_) => drop(self.settle(key)),
                State::Placed => self.forget(key),
                State::Absent | State::Ready => {}
            }
        }
        self.work.chosen.clear();
        self.work.done.clear();
        self.work.batch.clear();
        self.work.order.clear();
        (self.work.n_seen, self.work.n_released) = (0, 0);
    }
}

impl ExpertSupply for Cache {
    fn expect(&mut self, layer: LayerId, experts: &[ExpertId], spare: usize) -> Result<()> {
        let len_of = |key: u32| self.layouts[key as usize / self.map.n_expert].len() as u64;
        let mut held: u64 = self.expected.iter().map(|key| len_of(*key)).sum();
        let len = self.layouts[layer.0].len() as u64;
        let room = self.bound.saturating_sub(spare as u64 * len);
        for expert in experts {
            let key = self.key(layer, *expert);
            let absent = self.entries[key].state == State::Absent;
            if self.entries[key].wanted || absent && (held + len > room || !self.place(key)?) {
                continue;
            }
            held += len;
            self.entries[key].wanted = true;
            self.expected.push(key as u32);
            if self.options.read_ahead && self.entries[key].state == State::Placed {
                self.read(key, Urgency::Ahead, 1);
            }
        }
        Ok(())
    }

    fn begin(
        &mut self,
        layer: LayerId,
        experts: &[ExpertId],
        counts: &[usize],
        more: bool,
    ) -> Result<()> {
        self.end_layer();
        self.source.check()?;
        if layer != self.work.layer {
            self.release_kept();
        }
        self.work.more = more;
        let n_expert = self.map.n_expert;
        // What was expected of this layer and is not chosen is dropped.
        let mut i = 0;
        while i < self.expected.len() {
            let key = self.expected[i] as usize;
            if key / n_expert > layer.0 {
                i += 1;
                continue;
            }
            self.expected.swap_remove(i);
            if key / n_expert < layer.0
                || experts
                    .binary_search(&ExpertId((key % n_expert) as u32))
                    .is_err()
            {
                self.drop_expected(key);
            }
        }
        self.work.layer = layer;
        for (expert, count) in experts.iter().zip(counts) {
            let key = self.key(layer, *expert);
            self.worth.touch(key, *count);
            self.stats.touches += 1;
            self.entries[key].touches += 1;
            match self.entries[key].state {
                State::Ready => {
                    self.stats.hits += 1;
                    self.entries[key].hits += 1;
                    self.work.order.push(self.work.chosen.len());
                }
                state => {
                    self.stats.misses += 1;
                    self.stats.ahead_used += u64::from(matches!(state, State::Loading(_)));
                }
            }
            self.entries[key].wanted = self.entries[key].slot.is_some();
            self.work.chosen.push(*expert);
            self.work.done.push(false);
        }
        for i in 0..self.work.chosen.len() {
            let entry = &self.entries[self.chosen_key(i)];
            if entry.wanted && entry.state != State::Ready {
                self.work.order.push(i);
            }
        }
        // Reads begin now; the caller has other work to do before it asks.
        let placed = self.place_chosen();
        match placed {
            Ok(()) => self.start_reads(),
            Err(_) => self.end_layer(),
        }
        placed
    }

    fn next(&mut self) -> Result<&[usize]> {
        let found = self.next_batch();
        if found.is_err() {
            self.end_layer();
        }
        found.map(|()| &self.work.batch[..])
    }

    fn expert(&self, layer: LayerId, expert: ExpertId) -> ExpertRef<'_> {
        let key = self.key(layer, expert);
        let Entry {
            slot: Some(slot),
            state: State::Ready,
            ..
        } = self.entries[key]
        else {
            panic!("{expert:?} of {layer:?} was not given out");
        };
        let extents = self.map.extents(layer, expert);
        match &self.source {
            Source::File(_) => self.layouts[layer.0].view(extents, self.slots.bytes(slot)),
            Source::Map(map) => extents.of(map.as_slice()),
        }
    }

    fn start(&mut self, n_tokens: usize) -> Result<()> {
        if n_tokens == 1 {
            self.worth.token();
        }
        self.source.check()
    }

    fn check(&self) -> Result<()> {
        self.source.check()
    }

    fn rest(&mut self) {
        self.end_layer();
        self.release_kept();
        while let Some(key) = self.expected.pop() {
            self.drop_expected(key as usize);
        }
    }

    fn locked_bytes(&self) -> u64 {
        self.slots.locked_bytes()
    }

    fn stats(&self) -> Stats {
        let totals = self.slots.totals();
        Stats {
            reads: totals.n_reads,
            read_bytes: totals.n_bytes,
            read_ns: totals.busy_ns,
            ..self.stats
        }
    }

    fn uses(&self) -> Vec<ExpertUse> {
        let used = |e: &Entry| ExpertUse {
            touches: e.touches,
            hits: e.hits,
            resident: e.state == State::Ready,
        };
        self.entries.iter().map(used).collect()
    }
}

#[cfg(test)]
mod tests;
