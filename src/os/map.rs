//! A file's contents as memory.
#![allow(unsafe_code)]

use super::set::{Placed, part_of};
use super::{File, FileSet, ReadAt, bus, platform, space};
use crate::error::{Error, ErrorKind, Result};
use crate::units::Extent;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

/// A private read-only mapping of whole files, one behind the other as in their [`FileSet`], from a page of
/// [`super::share::SHARED_PAGE`] bytes on. The gaps between two read as zeros.
///
/// The files must stay as they are while they are mapped: changed bytes may or may not be seen, and all bytes are zeros from
/// the touch of a page on that another program cut off or that the disk refuses. [`Map::populate`] and [`Map::check`] tell
/// beforehand, as an error; what happens between them and the touch is told by the next [`Map::check`], which is to be asked
/// before anything that was computed from the bytes is used.
#[derive(Debug)]
pub struct Map {
    start: NonNull<u8>,
    len: usize,
    parts: Vec<Placed<File>>,
    /// Dropped before the pages are. None for pages that are not touched.
    watch: Option<bus::Watch>,
}

// SAFETY: the mapping is owned by this value alone and is only ever read.
unsafe impl Send for Map {}
// SAFETY: as above; shared reads need no order among themselves.
unsafe impl Sync for Map {}

impl Map {
    /// Maps all of `files`.
    ///
    /// Errors: `Format` for an empty file, `Io` when the system refuses.
    pub fn new(files: &FileSet) -> Result<Map> {
        let mut map = Map::with_flags(files.placed()?, libc::MAP_PRIVATE)?;
        // SAFETY: the pages are the map's own, which gives them back after the watch; nothing writes to them. `check` tells
        // those who use their bytes.
        map.watch = unsafe { bus::Watch::new(map.start, map.len)? };
        Ok(map)
    }

    /// Maps the very pages of the page cache, to ask about them or to have them dropped.
    pub(super) fn shared(file: &File) -> Result<Map> {
        let file = file.try_clone()?;
        Map::with_flags(vec![Placed { start: 0, file }], libc::MAP_SHARED)
    }

    fn with_flags(parts: Vec<Placed<File>>, flags: libc::c_int) -> Result<Map> {
        if let Some(Placed { file, .. }) = parts.iter().find(|p| p.file.is_empty()) {
            return Err(Error::format(format!("{}: the file is empty", file.name())));
        }
        let len = parts.last().map_or(0, |p| p.start + p.file.len());
        let len = usize::try_from(len)
            .ok()
            .filter(|len| *len <= isize::MAX as usize)
            .ok_or_else(|| Error::limit("length of the files", len, isize::MAX))?;
        let refused = |file: &File, e: &std::io::Error| {
            Error::io(format!("{}: map of {} bytes", file.name(), file.len()), e)
        };
        let start =
            space::reserve(len, libc::PROT_READ).map_err(|e| refused(&parts[0].file, &e))?;
        // Gives all back when a part is refused.
        let map = Map {
            start,
            len,
            parts,
            watch: None,
        };
        for Placed { start: at, file } in &map.parts {
            let (fd, len) = (file.as_fd().as_raw_fd(), file.len() as usize);
            let place = start.as_ptr().wrapping_add(*at as usize).cast();
            let flags = flags | libc::MAP_FIXED;
            // SAFETY: the pages that are mapped over were reserved just now, for this: a part starts at a page, and ends
            // in the reservation and before the next one; `fd` is open through the call, and the mapping outlives it by
            // definition of mmap.
            let found = unsafe { libc::mmap(place, len, libc::PROT_READ, flags, fd, 0) };
            if found == libc::MAP_FAILED {
                return Err(refused(file, &std::io::Error::last_os_error()));
            }
        }
        Ok(map)
    }

    /// The contents of the files, each at its place in their set.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` and `len` are one live reservation, readable everywhere until `drop`, which needs `&mut self`;
        // this program never writes to it, and the type's documentation binds other programs.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Has the system read `range` and map it, so that a touch needs no wait; what lies outside the file in which it begins
    /// is ignored.
    ///
    /// Errors: `Io` when the file was cut or the device fails: what would be SIGBUS at a touch.
    pub fn populate(&self, range: Extent) -> Result<()> {
        let Some(pages) = self.pages(range) else {
            return Ok(());
        };
        match platform::populate(pages.file, pages.range, pages.start) {
            Ok(true) => Ok(()),
            Ok(false) => read_through(pages.file, pages.range),
            Err(error) => {
                let what = lost(pages.file, pages.range.offset);
                Err(Error::new(ErrorKind::Io, format!("{what} ({error})")))
            }
        }
    }

    /// Lets the pages that lie wholly in `range` go: out of this process, and out of the page cache where no other
    /// process uses them and the system has such a call. They can be touched again and are then read again.
    pub fn give_up(&self, range: Extent) {
        let page = super::page_size() as u64;
        let part = &self.parts[part_of(&self.parts, range.offset)];
        let file_end = part.start + part.file.len();
        let end = range.end().map_or(file_end, |end| end.min(file_end));
        let first = range.offset.next_multiple_of(page);
        // The last page of a file is whole in this sense.
        let end = if end == file_end {
            end
        } else {
            end / page * page
        };
        if let Some(len @ 1..) = end.checked_sub(first)
            && let Some(pages) = self.pages(Extent { offset: first, len })
        {
            let len = pages.range.len as usize;
            // SAFETY: these are whole pages of this read-only mapping of a file: what is dropped comes again, with the
            // same bytes, at the next touch.
            unsafe { libc::madvise(pages.start, len, libc::MADV_DONTNEED) };
            platform::drop_cached(pages.file, pages.range);
        }
    }

    /// Keeps `range` in memory from now on; false when the system refuses.
    pub fn lock(&self, range: Extent) -> bool {
        let Some(pages) = self.pages(range) else {
            return true;
        };
        // SAFETY: the pages belong to this mapping; locking changes no contents.
        unsafe { libc::mlock(pages.start, pages.range.len as usize) == 0 }
    }

    /// An error when a touch found that bytes are gone; else as [`File::check`], of each file.
    pub fn check(&self) -> Result<()> {
        if let Some(at) = self.watch.as_ref().and_then(bus::Watch::fault) {
            let part = &self.parts[part_of(&self.parts, at as u64)];
            let what = lost(&part.file, at as u64 - part.start);
            return Err(Error::new(ErrorKind::Io, what));
        }
        self.parts.iter().try_for_each(|p| p.file.check())
    }

    /// The pages that hold `range`, as far as it lies in the file in which it begins, if any.
    pub(super) fn pages(&self, range: Extent) -> Option<FilePages<'_>> {
        let part = &self.parts[part_of(&self.parts, range.offset)];
        let (offset, len) = (range.offset - part.start, part.file.len());
        let end = offset
            .checked_add(range.len)
            .map_or(len, |end| end.min(len));
        let first = offset & !(super::page_size() as u64 - 1);
        // It fits: it is at most the length of the mapping.
        let at = (part.start + first) as usize;
        (first < end).then(|| FilePages {
            file: &part.file,
            range: Extent {
                offset: first,
                len: end - first,
            },
            start: self.start.as_ptr().wrapping_add(at).cast(),
        })
    }
}

/// What to say when the byte at `offset` cannot be had.
fn lost(file: &File, offset: u64) -> String {
    let name = file.name();
    format!(
        "{name}: could not be read at byte {offset}: it was cut while it is in use, or its disk fails; start again"
    )
}

/// Mapped pages of one file.
pub(super) struct FilePages<'a> {
    pub file: &'a File,
    /// In the file, from a page on.
    pub range: Extent,
    /// Of the first byte.
    pub start: *mut libc::c_void,
}

/// Brings `range` into the page cache by reads, whose failures are errors: a mapping then finds it there.
fn read_through(file: &File, range: Extent) -> Result<()> {
    let mut bytes = [0; READ_THROUGH];
    let end = range.end().map_or(file.len(), |end| end.min(file.len()));
    for at in (range.offset..end).step_by(READ_THROUGH) {
        let n = (end - at).min(READ_THROUGH as u64) as usize;
        file.read_exact_at(at, &mut bytes[..n])?;
    }
    Ok(())
}

/// Bytes of one read of [`read_through`]; they lie on the stack of a reader.
const READ_THROUGH: usize = 32 << 10;

impl Drop for Map {
    fn drop(&mut self) {
        self.watch = None;
        // SAFETY: the pages are this value's own; no slice of them outlives it.
        unsafe { space::give_back(self.start, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::Temporary;
    use super::super::meter;
    use super::*;

    #[test]
    fn a_map_shows_the_file() {
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
        let temporary = Temporary::with("map", &bytes);
        let file = File::open(&temporary.0).unwrap();
        let map = Map::new(&FileSet::open(&temporary.0).unwrap()).unwrap();
        let ranges = [
            (0, 1),
            (4097, 2),
            (9_999, 1),
            (9_000, u64::MAX),
            (1 << 40, 5),
            (0, 0),
        ];
        for (offset, len) in ranges {
            let range = Extent { offset, len };
            map.populate(range).unwrap();
            read_through(&file, range).unwrap();
            map.lock(range);
            map.give_up(range);
            assert_eq!(map.as_slice(), bytes);
        }
    }

    #[test]
    fn what_is_given_up_leaves_memory_and_what_is_populated_enters_it() {
        let page = super::super::page_size() as u64;
        let bytes = vec![7; 64 * page as usize];
        let temporary = Temporary::with("views", &bytes);
        let file = File::open(&temporary.0).unwrap();
        let cached = |first: u64, n: u64| {
            let range = Extent {
                offset: first * page,
                len: n * page,
            };
            meter::cached_bytes_in(&file, range).map(|bytes| bytes / page)
        };
        if meter::drop_cached(&file) != Some(0) {
            return println!("skipped: this file system keeps files in memory");
        }
        let map = Map::new(&FileSet::open(&temporary.0).unwrap()).unwrap();
        // Parts of pages count as pages where they enter, and do not where they leave.
        map.populate(Extent {
            offset: 10 * page + 5,
            len: 20 * page,
        })
        .unwrap();
        assert_eq!(cached(10, 21), Some(21));
        map.give_up(Extent {
            offset: 12 * page - 1,
            len: 10 * page + 2,
        });
        assert_eq!(
            (cached(12, 10), cached(10, 2), cached(22, 9)),
            (Some(0), Some(2), Some(9))
        );
        assert_eq!(map.as_slice(), bytes);
    }

    #[test]
    fn a_file_that_is_cut_is_an_error_before_it_is_a_signal_16() {
        let page = super::super::page_size() as u64;
        let temporary = Temporary::with("cut", &vec![7; 64 * page as usize]);
        let file = File::open(&temporary.0).unwrap();
        let map = Map::new(&FileSet::open(&temporary.0).unwrap()).unwrap();
        let whole = Extent {
            offset: 0,
            len: file.len(),
        };
        map.populate(whole).unwrap();
        map.check().unwrap();
        let writer = std::fs::OpenOptions::new()
            .write(true)
            .open(&temporary.0)
            .unwrap();
        writer.set_len(32 * page).unwrap();
        let error = map.check().unwrap_err().to_string();
        assert!(error.contains("changed while it is in use"), "{error}");
        map.populate(Extent {
            offset: 0,
            len: 32 * page,
        })
        .unwrap();
        for range in [
            whole,
            Extent {
                offset: 40 * page,
                len: 10,
            },
        ] {
            for error in [map.populate(range), read_through(&file, range)] {
                let error = error.unwrap_err().to_string();
                assert!(error.contains("cut: "), "{error}");
            }
        }
    }

    /// The touch comes before any check, in several threads at once, and in any part of a set.
    #[test]
    fn a_touch_of_what_was_cut_is_an_error_and_no_signal() {
        let page = super::super::page_size();
        let temporary = ["bus-1", "bus-2"].map(|name| Temporary::with(name, &vec![7; 64 * page]));
        for cut in [1, 0] {
            let files = temporary.each_ref().map(|t| File::open(&t.0).unwrap());
            let set = FileSet::new(files.into()).unwrap();
            let map = Map::new(&set).unwrap();
            let start = set.starts().nth(cut).unwrap() as usize;
            let writer = std::fs::OpenOptions::new()
                .write(true)
                .open(&temporary[cut].0)
                .unwrap();
            writer.set_len(32 * page as u64 + 5).unwrap();
            let bytes = map.as_slice();
            // The page that holds the end reads on with zeros.
            assert_eq!(
                (bytes[start + 32 * page], bytes[start + 33 * page - 1]),
                (7, 0)
            );
            assert!(map.watch.as_ref().unwrap().fault().is_none());
            let touch = |at: usize| {
                std::hint::black_box(&bytes[start + at * page..][..page])
                    .iter()
                    .any(|b| *b != 0)
            };
            std::thread::scope(|scope| {
                for at in 40..48 {
                    scope.spawn(move || assert!(!touch(at)));
                }
            });
            for _ in 0..2 {
                let error = map.check().unwrap_err().to_string();
                let name = format!("bus-{}: could not be read at byte ", cut + 1);
                let (_, rest) = error.split_once(&name).unwrap_or_else(|| panic!("{error}"));
                let (at, rest) = rest.split_once(": ").unwrap();
                let at: usize = at.parse().unwrap();
                assert!((40 * page..48 * page).contains(&at), "{error}");
                assert!(rest.starts_with("it was cut while it is in use"), "{error}");
            }
            // Others are not touched.
            drop(map);
            writer.set_len(64 * page as u64).unwrap();
        }
    }

    #[test]
    fn a_map_of_two_files_has_each_at_its_place() {
        let page = super::super::page_size();
        let bytes = [vec![1; 3 * page + 5], vec![2; 2 * page]];
        let temporary = ["first", "second"].map(|name| Temporary::with(name, &bytes[0]));
        std::fs::write(&temporary[1].0, &bytes[1]).unwrap();
        let files = || temporary.each_ref().map(|t| File::open(&t.0).unwrap());
        let set = FileSet::new(files().into()).unwrap();
        let map = Map::new(&set).unwrap();
        let second = set.starts().nth(1).unwrap();
        let (all, at) = (map.as_slice(), second as usize);
        assert_eq!(all[..bytes[0].len()], bytes[0]);
        assert_eq!(all[at..], bytes[1]);
        assert!(all[bytes[0].len()..at].iter().all(|byte| *byte == 0));
        // Pages go and come in the file of the range.
        let [a, b] = files();
        if meter::drop_cached(&a).is_none() {
            return println!("skipped: the system does not tell what is cached");
        }
        map.give_up(Extent {
            offset: 0,
            len: u64::MAX,
        });
        map.give_up(Extent {
            offset: second,
            len: u64::MAX,
        });
        let cached = |file| meter::cached_bytes(file).unwrap();
        let kept_in_memory = cached(&b) > 0;
        map.populate(Extent {
            offset: second + 5,
            len: 1 << 40,
        })
        .unwrap();
        assert_eq!(cached(&b), bytes[1].len() as u64);
        assert!(kept_in_memory || cached(&a) == 0);
        let writer = std::fs::OpenOptions::new()
            .write(true)
            .open(&temporary[1].0);
        writer.unwrap().set_len(5).unwrap();
        let error = map.check().unwrap_err().to_string();
        assert!(
            error.contains("second: changed while it is in use"),
            "{error}"
        );
    }

    #[test]
    fn an_empty_file_is_not_mapped() {
        let temporary = Temporary::with("empty", b"");
        let error = Map::new(&FileSet::open(&temporary.0).unwrap()).unwrap_err();
        assert!(error.to_string().contains("empty"), "{error}");
    }
}
