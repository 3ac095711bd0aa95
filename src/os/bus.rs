//! SIGBUS: what a touch of a mapped file brings when its bytes cannot be had, because the file was cut or its disk fails.
//!
//! ```text
//! touch of a page that is gone --SIGBUS--> handler: in a watched range?  yes: zeros in the place of all of it, a flag
//!                                                                        no:  as before this module
//! owner of the range: looks at the flag before it believes what was computed from those bytes
//! ```
//!
//! All of the range becomes zeros, not one page: what was computed is thrown away either way, and so a range faults once.
//! The macOS part was type-checked only, never run on a Mac.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Ranges that can be watched at a time; one for each mapped model.
const N_RANGES: usize = 64;

static RANGES: [Range; N_RANGES] = [const { Range::unused() }; N_RANGES];

/// What was done at a SIGBUS before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Addresses of one mapping.
#[derive(Debug)]
struct Range {
    /// 0 for none, [`TAKEN`] for one that is being set.
    start: AtomicUsize,
    len: AtomicUsize,
    /// Where the first touch that failed was, counted from 1; 0 for none.
    fault: AtomicUsize,
}

/// No address of a page.
const TAKEN: usize = 1;

impl Range {
    const fn unused() -> Range {
        Range {
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            fault: AtomicUsize::new(0),
        }
    }
}

/// A range that is watched until this is dropped.
#[derive(Debug)]
pub(super) struct Watch(&'static Range);

impl Watch {
    /// Watches a mapping of ours; `None` when too many are.
    ///
    /// Errors: `Io` when the system refuses the handler.
    ///
    /// # Safety
    ///
    /// The `len` bytes from `start` on are whole pages that belong to the caller, until this is dropped; it reads them
    /// only, and takes no byte for one of the file before [`Watch::fault`] said that there was none.
    pub unsafe fn new(start: NonNull<u8>, len: usize) -> Result<Option<Watch>> {
        install()?;
        let free = RANGES.iter().find(|range| {
            let taken = range
                .start
                .compare_exchange(0, TAKEN, Ordering::AcqRel, Ordering::Relaxed);
            taken.is_ok()
        });
        let Some(range) = free else {
            return Ok(None);
        };
        range.fault.store(0, Ordering::Relaxed);
        range.len.store(len, Ordering::Relaxed);
        // The handler sees the length with the start.
        range
            .start
            .store(start.as_ptr().expose_provenance(), Ordering::Release);
        Ok(Some(Watch(range)))
    }

    /// Where a touch failed, in bytes from the start, if one did.
    pub fn fault(&self) -> Option<usize> {
        self.0.fault.load(Ordering::Acquire).checked_sub(1)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.start.store(0, Ordering::Release);
    }
}

/// Installs the handler, once.
fn install() -> Result<()> {
    static INSTALLED: OnceLock<Result<()>> = OnceLock::new();
    let install = || {
        // SAFETY: all-zero is a valid sigaction.
        let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: it only asks; `before` lives through the call and may be written.
        let asked = unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before) };
        // In place before the handler can look.
        BEFORE.get_or_init(|| before);
        // SAFETY: as above.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_bus as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: `action` is complete and lives through the call, its handler has the type that SA_SIGINFO asks for and does
        // only what is allowed in one: atomics and system calls.
        let set = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
        match (asked, set) {
            (0, 0) => Ok(()),
            _ => Err(Error::io(
                "handler for SIGBUS",
                &std::io::Error::last_os_error(),
            )),
        }
    };
    INSTALLED.get_or_init(install).clone()
}

extern "C" fn on_bus(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the system gives the handler of such a signal its information.
    let address = unsafe { (*info).si_addr() }.addr();
    if !RANGES.iter().any(|range| range.take(address)) {
        // Not ours: the touch is repeated on return, and then meets what was there before.
        if let Some(before) = BEFORE.get() {
            // SAFETY: an action that the system gave itself.
            unsafe { libc::sigaction(signal, before, std::ptr::null_mut()) };
        }
    }
}

impl Range {
    /// Puts zeros in the place of the range if the address lies in it; false when it does not, or that is refused.
    fn take(&self, address: usize) -> bool {
        let start = self.start.load(Ordering::Acquire);
        let len = self.len.load(Ordering::Relaxed);
        if start <= TAKEN || !(start..start + len).contains(&address) {
            return false;
        }
        let at = address - start + 1;
        // The first is told.
        let _ = self
            .fault
            .compare_exchange(0, at, Ordering::AcqRel, Ordering::Relaxed);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let start = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: by the promise of `Watch::new` these pages are the owner's and are only read, and the range is watched,
        // so they are still mapped.
        unsafe { libc::mmap(start, len, libc::PROT_READ, flags, -1, 0) != libc::MAP_FAILED }
    }
}
