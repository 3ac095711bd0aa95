//! How much of a file lies in the page cache, and getting it out.
#![allow(unsafe_code)]

use super::super::{File, FileSet, Map, ReadAt, page_size, platform};
use crate::units::Extent;

/// The bytes of `file` that lie in the page cache, or `None` when the system does not say.
///
/// The cost grows with the pieces in which the pages are cached: 0.2 ms were seen for 2 GiB read in a row, 1 us for
/// a file that is not cached; single pages cost much more. Linux: cachestat(2), or mincore(2) where that is missing;
/// both answer only to the owner of the file and to those who may write it (cachestat since 6.14). macOS: mincore(2).
pub fn cached_bytes(file: &File) -> Option<u64> {
    let (offset, len) = (0, file.len());
    cached_bytes_in(file, Extent { offset, len })
}

/// As [`cached_bytes`], of all files of a set.
pub fn cached_bytes_of(files: &FileSet) -> Option<u64> {
    files.files().map(cached_bytes).sum()
}

/// As [`cached_bytes`], for the part `range` of the file: the cached pages that hold any of it, at most its length.
pub fn cached_bytes_in(file: &File, range: Extent) -> Option<u64> {
    let end = range.end().unwrap_or(u64::MAX).min(file.len());
    let Some(len @ 1..) = end.checked_sub(range.offset) else {
        return Some(0); // an empty range, or one past the end
    };
    let range = Extent { len, ..range };
    let n_pages = platform::meter::cached_pages(file, range)?;
    Some(n_pages.saturating_mul(page_size() as u64).min(len))
}

/// Drops `file` from the page cache and returns the bytes that are left there, `None` when the system does not
/// say.
///
/// Changes of the file are written first. Pages that any process maps and has touched stay, and so does the
/// whole file where it lives in memory (tmpfs) or the system has no such call: what is left tells.
pub fn drop_cached(file: &File) -> Option<u64> {
    platform::meter::write_back(file);
    let mut left = None;
    for round in 0..DROP_ROUNDS {
        platform::meter::drop_cached(file);
        let now = cached_bytes(file)?;
        // The first call can miss pages that another CPU has not yet put on the lists: one more at least.
        let stuck = round > 1 && left.is_some_and(|before| now >= before);
        left = Some(now);
        if now == 0 || stuck {
            break;
        }
    }
    left
}

/// As [`drop_cached`], of all files of a set.
pub fn drop_cached_of(files: &FileSet) -> Option<u64> {
    // Each is dropped, also when the system does not say what is left.
    let left: Vec<_> = files.files().map(drop_cached).collect();
    left.into_iter().sum()
}

/// Calls to drop a file; after the third one each must have had an effect for the next.
const DROP_ROUNDS: usize = 16;

/// Pages that one call of mincore answers for; one byte each, on the stack.
const MINCORE_PAGES: usize = 16 << 10;

/// The cached pages that hold any of `range`, which is not empty and lies in the file, by mincore(2) on a mapping
/// that nobody touches.
pub(in crate::os) fn pages_by_mincore(file: &File, range: Extent) -> Option<u64> {
    let page = page_size();
    let mut present = [0u8; MINCORE_PAGES];
    let mut n_pages = Some(0u64);
    let map = Map::shared(file).ok()?;
    let pages = map.pages(range)?;
    let (start, len) = (pages.start, pages.range.len as usize);
    for at in (0..len).step_by(MINCORE_PAGES * page) {
        let part = (len - at).min(MINCORE_PAGES * page);
        // SAFETY: `at` and `part` lie in the `len` bytes at `start`, whole pages of a live mapping but for its end,
        // which the system rounds up; `present` has a byte for each page, and no page is touched.
        let code = unsafe { libc::mincore(start.byte_add(at), part, present.as_mut_ptr().cast()) };
        let found = &present[..part.div_ceil(page)];
        let n_found = found.iter().filter(|flags| *flags & 1 != 0).count() as u64;
        n_pages = n_pages.filter(|_| code == 0).map(|n| n + n_found);
    }
    n_pages
}
