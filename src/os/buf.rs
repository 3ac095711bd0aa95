//! Memory owned by the page.
#![allow(unsafe_code)]

use super::share::SHARED_PAGE;
use super::space;
use crate::error::{Error, ErrorKind, Result};
use crate::units::Bytes;
use std::ptr::NonNull;

/// Owned bytes that start at a page of [`SHARED_PAGE`] bytes, are zero at first and take memory only where they are touched.
///
/// They come from the system, not from the allocator: a size that cannot be had is an error instead of the
/// end of the program, the start suits direct reads and graphics buffers, and dropping gives the memory
/// back at once.
#[derive(Debug)]
pub struct AlignedBuf {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the pages are owned by this value alone; access follows the borrow of the value.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above.
unsafe impl Sync for AlignedBuf {}

/// Buffers from this size on are put on large pages where the system has them: a slab is touched for the first time
/// by a reader, and 4 KiB pages would cost it a fault for each.
const HUGE_PAGE: usize = 2 << 20;

impl AlignedBuf {
    /// `len` zero bytes.
    ///
    /// Errors: `Limit` when the system has no such memory.
    pub fn zeroed(len: usize) -> Result<AlignedBuf> {
        if len == 0 {
            let start = NonNull::<Page>::dangling().cast();
            return Ok(AlignedBuf { start, len });
        }
        let refused = |why: &dyn std::fmt::Display| {
            let size = Bytes(len as u64);
            Error::new(
                ErrorKind::Limit,
                format!("cannot have {size} of memory: {why}"),
            )
        };
        // A slice is at most isize::MAX bytes long.
        if isize::try_from(len).is_err() {
            return Err(refused(&"no address space is that large"));
        }
        let start = space::reserve(len, libc::PROT_READ | libc::PROT_WRITE);
        let start = start.map_err(|e| refused(&e))?;
        let buf = AlignedBuf { start, len };
        if len >= HUGE_PAGE {
            super::platform::prefer_huge_pages(&buf);
        }
        Ok(buf)
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` and `len` are initialised pages owned by `self` (or no bytes at all), and nobody
        // writes while this borrow lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of the first byte, for readers that share the buffer out.
    pub(super) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The address of the first byte, for a device that shares the buffer; who uses it sees to the order of accesses.
    pub fn first(&self) -> NonNull<u8> {
        self.start
    }

    /// Keeps the bytes from being swapped out; false when the system refuses.
    pub fn lock(&self) -> bool {
        // SAFETY: `start` and `len` are one mapping of ours; locking changes no contents.
        self.len == 0 || unsafe { libc::mlock(self.start.as_ptr().cast(), self.len) } == 0
    }

    /// The bytes, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Gives an empty buffer the alignment of the others.
#[repr(align(16384))]
struct Page;

const _: () = assert!(align_of::<Page>() == SHARED_PAGE);

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the pages are this value's own; no slice of them outlives it.
            unsafe { space::give_back(self.start, self.len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_zero_and_writable() {
        for len in [0, 1, 63, 4096, 7_077_888] {
            let mut buf = AlignedBuf::zeroed(len).unwrap();
            assert_eq!(buf.as_slice().len(), len);
            assert!(buf.as_slice().as_ptr().addr().is_multiple_of(SHARED_PAGE));
            assert!(buf.as_slice().iter().all(|b| *b == 0));
            buf.as_mut_slice().fill(7);
            assert!(buf.as_slice().iter().all(|b| *b == 7));
        }
    }

    #[test]
    fn absurd_sizes_are_errors() {
        for len in [usize::MAX, isize::MAX as usize, 1 << 60] {
            let error = AlignedBuf::zeroed(len).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Limit);
        }
    }
}
