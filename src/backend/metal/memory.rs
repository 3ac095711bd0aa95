//! Memory of ours that kernels read in place: fixed weights, slabs and views of experts.
//!
//! ```text
//! share --> buffer without copy --> residency set (staged) -- commit, once a pass --> resident
//! take_back --> staged removal -- commit --> let go
//! ```
//!
//! Until its commit a buffer is used by name where a kernel reaches it through an address. The set is on the queue, so that
//! no pass asks for its members one by one; a thread asks for it again while nothing runs, as what is asked for wears off.
//! Source: shared facts about MTLResidencySet (macOS 15), see README.md.

use super::api;
use crate::error::{Error, ErrorKind, Result};
use crate::os::Map;
use crate::os::share::{Device, Pages, SHARED_PAGE};
use crate::units::Bytes;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often residency is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// All memory that is shared with one device.
pub struct Memory {
    device: api::Device,
    shared: Mutex<State>,
}

struct State {
    /// `None` below macOS 15.
    set: Option<api::ResidencySet>,
    buffers: BTreeMap<Pages, Held>,
    /// Bytes of all buffers; pages that two share count twice.
    bytes: u64,
    /// Something was added or removed since the last commit.
    is_staged: bool,
    /// Removed, but not yet committed.
    retired: Vec<Held>,
    n_commits: u64,
}

struct Held {
    buffer: api::Buffer,
    /// What keeps its pages mapped, if not who shared them.
    of: Option<Arc<Map>>,
    /// How often it is shared.
    n: usize,
    /// Whether a commit has made it resident.
    is_resident: bool,
}

/// A place in shared memory.
pub struct Place {
    /// The buffer.
    pub buffer: api::Buffer,
    /// Of the first byte, in it.
    pub offset: usize,
    /// Whether it is in a residency set.
    pub is_resident: bool,
}

impl Place {
    /// The first byte's address on the device.
    pub fn address(&self) -> u64 {
        api::autorelease_pool(|| self.buffer.gpu_address()) + self.offset as u64
    }
}

impl Memory {
    /// Nothing shared yet; what will be is resident for all work of `queue`.
    ///
    /// Errors: the device refuses a residency set.
    pub fn new(device: &api::Device, queue: &api::Queue) -> Result<Memory> {
        let set = api::autorelease_pool(|| device.new_residency_set())?;
        if let Some(set) = &set {
            api::autorelease_pool(|| queue.add_residency_set(set));
        }
        Ok(Memory {
            device: device.clone(),
            shared: Mutex::new(State {
                set,
                buffers: BTreeMap::new(),
                bytes: 0,
                is_staged: false,
                retired: Vec::new(),
                n_commits: 0,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes what was shared since the last time resident, and lets go what was taken back.
    pub fn commit(&self) {
        api::autorelease_pool(|| self.lock().commit());
    }

    /// Where some shared bytes are.
    ///
    /// Errors: they are not shared.
    pub fn place(&self, bytes: &[u8]) -> Result<Place> {
        let (first, end) = (bytes.as_ptr().addr(), bytes.as_ptr().addr() + bytes.len());
        let state = self.lock();
        let from_here = Pages {
            start: first,
            len: usize::MAX,
        };
        let mut before = state.buffers.range(..=from_here).rev();
        let holds = |(pages, _): &(&Pages, &Held)| end <= pages.start + pages.len;
        let Some((pages, held)) = before.find(holds) else {
            let len = Bytes(bytes.len() as u64);
            return Err(Error::format(format!(
                "Metal: {len} of weights are not shared with the device"
            )));
        };
        Ok(Place {
            buffer: held.buffer.clone(),
            offset: first - pages.start,
            is_resident: held.is_resident,
        })
    }

    /// Buffers that are shared now, their bytes, and commits so far.
    pub fn counts(&self) -> (usize, u64, u64) {
        let state = self.lock();
        (state.buffers.len(), state.bytes, state.n_commits)
    }
}

impl State {
    fn commit(&mut self) {
        if let Some(set) = self.set.as_ref().filter(|_| self.is_staged) {
            set.commit();
            self.n_commits += 1;
            // What was only taken back leaves nothing to ask for: at the end that is every slab, one after the other.
            let mut is_new = false;
            for held in self.buffers.values_mut() {
                is_new |= !std::mem::replace(&mut held.is_resident, true);
            }
            if is_new {
                set.request_residency();
            }
        }
        self.is_staged = false;
        self.retired.clear();
    }
}

#[allow(unsafe_code)]
impl Device for Memory {
    fn share(&self, pages: Pages, of: Option<&Arc<Map>>) -> Result<()> {
        let mut state = self.lock();
        if let Some(held) = state.buffers.get_mut(&pages) {
            held.n += 1;
            return Ok(());
        }
        let refused = || {
            let (len, most) = (
                Bytes(pages.len as u64),
                Bytes(api::autorelease_pool(|| self.device.max_buffer_length()) as u64),
            );
            let what =
                format!("Metal: the device refuses to share {len}; its largest buffer has {most}");
            Error::new(ErrorKind::Limit, what)
        };
        assert!(pages.start.is_multiple_of(SHARED_PAGE) && pages.len.is_multiple_of(SHARED_PAGE));
        let start =
            NonNull::new(std::ptr::with_exposed_provenance_mut(pages.start)).ok_or_else(refused)?;
        // SAFETY: whole pages, which stay mapped until `take_back` by the promise of `Shared`, or as long as their mapping
        // is kept. No work reads them any more when they are taken back, and the buffer goes there, or else with the next
        // commit and before the mapping.
        let buffer = api::autorelease_pool(|| unsafe {
            self.device
                .new_buffer_no_copy(start, pages.len, api::Storage::SharedUntracked)
        });
        let buffer = buffer.ok_or_else(refused)?;
        if let Some(set) = &state.set {
            api::autorelease_pool(|| set.add_allocation(&buffer));
        }
        state.is_staged = true;
        state.bytes += pages.len as u64;
        state.buffers.insert(
            pages,
            Held {
                buffer,
                of: of.cloned(),
                n: 1,
                is_resident: false,
            },
        );
        Ok(())
    }

    fn take_back(&self, pages: Pages) {
        let mut state = self.lock();
        let Some(held) = state.buffers.get_mut(&pages) else {
            return;
        };
        held.n -= 1;
        if held.n > 0 {
            return;
        }
        let Some(held) = state.buffers.remove(&pages) else {
            return;
        };
        state.bytes -= pages.len as u64;
        if let Some(set) = &state.set {
            api::autorelease_pool(|| set.remove_allocation(&held.buffer));
        }
        state.is_staged = true;
        let may_stay = held.of.is_some();
        state.retired.push(held);
        if !may_stay {
            api::autorelease_pool(|| state.commit());
        }
    }
}

/// Asks again for residency, as long as it lives.
pub struct KeptAlive {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl KeptAlive {
    /// Begins, where there is a residency set.
    ///
    /// Errors: the system refuses a thread.
    pub fn start(memory: &Arc<Memory>) -> Result<KeptAlive> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let mut kept = KeptAlive {
            stop: Arc::clone(&stop),
            thread: None,
        };
        if memory.lock().set.is_none() {
            return Ok(kept);
        }
        let memory = Arc::clone(memory);
        let ask = move || {
            let (stop, told) = &*stop;
            let mut stopped = stop.lock().unwrap_or_else(PoisonError::into_inner);
            while !*stopped {
                let waited = told.wait_timeout(stopped, ASK_AGAIN);
                stopped = waited.unwrap_or_else(PoisonError::into_inner).0;
                if *stopped {
                    break;
                }
                let state = memory.lock();
                api::autorelease_pool(|| {
                    state
                        .set
                        .iter()
                        .for_each(api::ResidencySet::request_residency)
                });
            }
        };
        let thread = std::thread::Builder::new()
            .name("residency".into())
            .spawn(ask);
        kept.thread = Some(thread.map_err(|e| Error::io("starting the residency thread", &e))?);
        Ok(kept)
    }
}

impl Drop for KeptAlive {
    fn drop(&mut self) {
        let (stop, told) = &*self.stop;
        *stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        told.notify_all();
        // One that panicked has told so.
        drop(self.thread.take().map(JoinHandle::join));
    }
}
