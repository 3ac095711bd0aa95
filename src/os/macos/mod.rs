//! What only macOS has.
#![allow(unsafe_code)]

pub mod meter;

use super::{DirectFile, File};
use crate::error::{Error, Result};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// macOS has no such advice; its pages are 16 KiB.
pub fn prefer_huge_pages(_: &super::AlignedBuf) {}

/// Pages of Apple silicon: reads that are not whole pages go through the cache in spite of F_NOCACHE.
const DIRECT_ALIGNMENT: usize = 16_384;

/// Opens and turns the cache and its read-ahead off for this descriptor.
pub fn open_direct(path: &Path) -> Result<DirectFile> {
    let file = File::open(path)?;
    for (command, value) in [(libc::F_NOCACHE, 1), (libc::F_RDAHEAD, 0)] {
        // SAFETY: both commands take an int and change flags of this open descriptor only.
        let code = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, value) };
        if code == -1 && command == libc::F_NOCACHE {
            let why = Error::io("F_NOCACHE", &std::io::Error::last_os_error()).to_string();
            return Ok(DirectFile::cached(file, why));
        }
    }
    Ok(DirectFile::new(file, DIRECT_ALIGNMENT))
}

/// macOS has no advice that waits for the pages; this one starts the reading.
pub const MADV_POPULATE: libc::c_int = libc::MADV_WILLNEED;

pub fn available_memory() -> Option<u64> {
    meter::available_memory()
}
