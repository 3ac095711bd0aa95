//! Memory between pages that nobody may touch, for tests of code that must not leave its bounds.
#![allow(unsafe_code)]

use super::page_size;
use crate::error::{Error, ErrorKind, Result};
use std::ptr::NonNull;
use std::sync::OnceLock;

/// What was touched that may not be, told by [`explain_faults`].
pub type Explain = fn(address: usize) -> Option<String>;

static EXPLAIN: OnceLock<Explain> = OnceLock::new();

/// Has a touch of forbidden memory explained on the standard error before it ends the program.
///
/// The explanation runs in a signal handler, in a program that is lost: it may wait for no lock.
pub fn explain_faults(explain: Explain) {
    extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system gives the handler of such a signal its information.
        let address = unsafe { (*info).si_addr() }.addr();
        if let Some(text) = EXPLAIN.get().and_then(|explain| explain(address)) {
            eprintln!("{text}");
        }
        // SAFETY: the touch is repeated on return, and then ends the program.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    if EXPLAIN.set(explain).is_err() {
        return;
    }
    // SAFETY: a zeroed sigaction is a valid one, and the handler has the type that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut());
    }
}

/// The end of a buffer lies at a forbidden page but for less than this; its start is a multiple of it.
pub const GUARDED_ALIGNMENT: usize = 16;

/// Owned bytes; a touch past their end (rounded up to [`GUARDED_ALIGNMENT`]) or a page before their start ends the program.
#[derive(Debug)]
pub struct Guarded {
    mapping: NonNull<u8>,
    mapping_len: usize,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the pages are owned by this value alone, which hands out their address only.
unsafe impl Send for Guarded {}

impl Guarded {
    /// `len` bytes, all `fill`.
    ///
    /// Errors: `Limit` when the system has no such memory.
    pub fn filled(len: usize, fill: u8) -> Result<Guarded> {
        let page = page_size();
        let refused = || {
            Error::new(
                ErrorKind::Limit,
                format!("cannot have {len} bytes of guarded memory"),
            )
        };
        let room = len
            .max(1)
            .checked_next_multiple_of(page)
            .ok_or_else(refused)?;
        let mapping_len = room.checked_add(2 * page).ok_or_else(refused)?;
        // SAFETY: a new mapping at an address the system chooses touches no existing memory.
        let mapping = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapping_len,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANON,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return Err(refused());
        }
        let mapping = NonNull::new(mapping.cast::<u8>()).ok_or_else(refused)?;
        // From here on the mapping has an owner.
        let mut memory = Guarded {
            mapping,
            mapping_len,
            start: mapping,
            len,
        };
        // SAFETY: the pages between the first and the last of the mapping.
        let opened = unsafe {
            let room_start = mapping.add(page);
            memory.start = room_start.add(room - len.next_multiple_of(GUARDED_ALIGNMENT).min(room));
            libc::mprotect(
                room_start.as_ptr().cast(),
                room,
                libc::PROT_READ | libc::PROT_WRITE,
            )
        };
        if opened != 0 {
            return Err(refused());
        }
        // SAFETY: from `start` to the last page, all of it just opened.
        unsafe {
            let end = mapping.add(page + room);
            memory
                .start
                .write_bytes(fill, end.offset_from_unsigned(memory.start));
        }
        Ok(memory)
    }

    /// The first byte; there until this is dropped.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: exactly one mapping of ours.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.mapping_len) };
    }
}
