//! Address space that starts where a device can share it.
#![allow(unsafe_code)]

use super::page_size;
use super::share::SHARED_PAGE;
use std::io;
use std::ptr::NonNull;

/// New private pages without a file, for `len` bytes (at least 1, at most `isize::MAX`), from a multiple of
/// [`SHARED_PAGE`] on and up to one.
pub fn reserve(len: usize, protection: libc::c_int) -> io::Result<NonNull<u8>> {
    // Where pages are smaller, what is in front of the first shared page and behind the last is given back.
    let len = len.next_multiple_of(SHARED_PAGE);
    let slack = SHARED_PAGE.saturating_sub(page_size());
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON;
    // SAFETY: a new mapping at an address the system chooses touches no existing memory.
    let found = unsafe { libc::mmap(std::ptr::null_mut(), len + slack, protection, flags, -1, 0) };
    if found == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let found: *mut u8 = found.cast();
    let before = found.addr().next_multiple_of(SHARED_PAGE) - found.addr();
    let start = found.wrapping_add(before);
    for (first, n) in [(found, before), (start.wrapping_add(len), slack - before)] {
        if n > 0 {
            // SAFETY: whole pages of the mapping made above, which nobody knows yet.
            unsafe { libc::munmap(first.cast(), n) };
        }
    }
    NonNull::new(start).ok_or_else(|| io::Error::other("mapped at address 0"))
}

/// Gives all pages back that [`reserve`] gave for `len` bytes, whatever was mapped over them.
///
/// # Safety
///
/// `start` comes from [`reserve`] for the same `len`, and nothing looks at the pages any more.
pub unsafe fn give_back(start: NonNull<u8>, len: usize) {
    // SAFETY: by the promise of the caller the pages are one reservation of ours.
    unsafe { libc::munmap(start.as_ptr().cast(), len.next_multiple_of(SHARED_PAGE)) };
}
