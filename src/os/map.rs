//! A file's contents as memory.
#![allow(unsafe_code)]

use super::{File, ReadAt, platform};
use crate::error::{Error, Result};
use crate::units::Extent;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

/// A private read-only mapping of a whole file.
///
/// The file must stay as it is while it is mapped: a page that another program cuts off the file ends
/// this program with SIGBUS when it is touched, and changed bytes may or may not be seen.
#[derive(Debug)]
pub struct Map {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is owned by this value alone and is only ever read.
unsafe impl Send for Map {}
// SAFETY: as above; shared reads need no order among themselves.
unsafe impl Sync for Map {}

impl Map {
    /// Maps all of `file`.
    ///
    /// Errors: `Format` for an empty file, `Io` when the system refuses.
    pub fn new(file: &File) -> Result<Map> {
        Map::with_flags(file, libc::MAP_PRIVATE)
    }

    /// Maps the very pages of the page cache, to ask about them or to have them dropped.
    pub(super) fn shared(file: &File) -> Result<Map> {
        Map::with_flags(file, libc::MAP_SHARED)
    }

    fn with_flags(file: &File, flags: libc::c_int) -> Result<Map> {
        let len = usize::try_from(file.len())
            .map_err(|_| Error::limit("file length", file.len(), usize::MAX))?;
        if len == 0 {
            return Err(Error::format(format!("{}: the file is empty", file.name())));
        }
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: a new mapping at an address the system chooses touches no existing memory; `fd` is open
        // through the call, and the mapping outlives it by definition of mmap.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            let what = format!("{}: map of {len} bytes", file.name());
            return Err(Error::io(what, &std::io::Error::last_os_error()));
        }
        let start = NonNull::new(start.cast())
            .ok_or_else(|| Error::format(format!("{}: mapped at address 0", file.name())))?;
        Ok(Map { start, len })
    }

    /// The contents of the file.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` and `len` are one live mapping, readable until `drop`, which needs `&mut self`;
        // this program never writes to it, and the type's documentation binds other programs.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Asks the system to read `range` soon. Whether it does is not reported; parts outside the file are
    /// ignored.
    pub fn will_need(&self, range: Extent) {
        self.with_pages(range, |start, len| {
            // SAFETY: `start` and `len` are whole pages of this mapping; the advice changes no contents.
            unsafe { libc::madvise(start, len, libc::MADV_WILLNEED) };
        });
    }

    /// Has the system read `range` now. Whether it does is not reported; parts outside the file are ignored.
    pub fn populate(&self, range: Extent) {
        self.with_pages(range, |start, len| {
            // SAFETY: `start` and `len` are whole pages of this mapping; the advice changes no contents.
            if unsafe { libc::madvise(start, len, platform::MADV_POPULATE) } != 0 {
                self.will_need(range);
            }
        });
    }

    /// Calls `f` with the pages that hold `range`, if any.
    pub(super) fn with_pages(&self, range: Extent, f: impl FnOnce(*mut libc::c_void, usize)) {
        let len = self.len as u64;
        let end = range.end().map_or(len, |end| end.min(len));
        let first = range.offset & !(super::page_size() as u64 - 1);
        if first < end {
            // Both fit: they are at most `self.len`.
            let start = self.start.as_ptr().wrapping_add(first as usize);
            f(start.cast(), (end - first) as usize);
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: `start` and `len` are exactly one mapping of ours; no slice of it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::Temporary;
    use super::*;

    #[test]
    fn a_map_shows_the_file() {
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
        let temporary = Temporary::with("map", &bytes);
        let map = Map::new(&File::open(&temporary.0).unwrap()).unwrap();
        let ranges = [
            (0, 1),
            (4097, 2),
            (9_999, 1),
            (9_000, u64::MAX),
            (1 << 40, 5),
            (0, 0),
        ];
        for (offset, len) in ranges {
            map.will_need(Extent { offset, len });
            map.populate(Extent { offset, len });
        }
        assert_eq!(map.as_slice(), bytes);
    }

    #[test]
    fn an_empty_file_is_not_mapped() {
        let temporary = Temporary::with("empty", b"");
        let error = Map::new(&File::open(&temporary.0).unwrap()).unwrap_err();
        assert!(error.to_string().contains("empty"), "{error}");
    }
}
