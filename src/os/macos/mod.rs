//! What only macOS has.
#![allow(unsafe_code)]

pub mod meter;

use super::{DirectFile, File};
use crate::error::{Error, Result};
use crate::units::Extent;
use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// macOS has no such advice; its pages are 16 KiB.
pub fn prefer_huge_pages(_: &super::AlignedBuf) {}

/// Pages of Apple silicon: reads that are not whole pages go through the cache in spite of F_NOCACHE.
const DIRECT_ALIGNMENT: usize = 16_384;

/// Opens and turns the cache and its read-ahead off for this descriptor.
pub fn open_direct(path: &Path) -> Result<DirectFile> {
    let (file, cached) = (File::open(path)?, File::open(path)?);
    for (command, value) in [(libc::F_NOCACHE, 1), (libc::F_RDAHEAD, 0)] {
        // SAFETY: both commands take an int and change flags of this open descriptor only.
        let code = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, value) };
        if code == -1 && command == libc::F_NOCACHE {
            let why = Error::io("F_NOCACHE", &std::io::Error::last_os_error()).to_string();
            return Ok(DirectFile::cached(cached, why));
        }
    }
    DirectFile::new(file, cached, DIRECT_ALIGNMENT)
}

/// Turns read-ahead off for this descriptor.
pub fn read_without_ahead(file: &File) {
    // SAFETY: the command takes an int and changes a flag of this open descriptor only.
    unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_RDAHEAD, 0) };
}

/// Makes a file and turns the cache off for this descriptor; tells whether the system refused that.
pub fn create_direct(path: &Path, options: &mut OpenOptions) -> std::io::Result<(fs::File, bool)> {
    let file = options.open(path)?;
    // SAFETY: the command takes an int and changes flags of this open descriptor only.
    let code = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_NOCACHE, 1) };
    Ok((file, code == -1))
}

/// macOS has no such call for one file.
pub fn drop_written(_: &fs::File) {}

/// Asks for the pages by F_RDADVISE. `Ok(false)`: macOS has no call that waits for them and tells of failures.
pub fn populate(file: &File, range: Extent, _: *mut libc::c_void) -> std::io::Result<bool> {
    let mut advice = libc::radvisory {
        ra_offset: range.offset as libc::off_t,
        ra_count: range.len.min(i32::MAX as u64) as libc::c_int,
    };
    // SAFETY: the command takes a pointer to this struct, which lives through the call, and changes nothing.
    unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_RDADVISE, &raw mut advice) };
    Ok(false)
}

/// macOS has no call for a part of what a descriptor has cached; the mapping's pages were let go already.
pub fn drop_cached(_: &File, _: Extent) {}

pub fn available_memory() -> Option<u64> {
    meter::available_memory()
}

/// Nothing to tell: large pieces are mapped and given back by themselves. Source: libmalloc's large allocator, by reading.
pub fn give_memory_back() {}
