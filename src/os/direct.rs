//! A file that is read past the page cache.

use super::file::short_read;
use super::{AlignedBuf, File, ReadAt, meter, platform};
use crate::error::{Error, Result};
use crate::units::Extent;
use std::path::Path;
use std::sync::OnceLock;

/// A regular file whose reads leave no copy in the system's page cache, where the file system allows that.
///
/// Whole pages in memory and in the file: the system's own condition. A read that is not made in one go goes on
/// at an aligned place, since one unaligned read would bring the cache back.
///
/// Some file systems (FUSE, ecryptfs, some of the network) open a file for such reads and refuse the reads themselves. From
/// the first refusal on, reads go through the page cache, in steps after each of which what was read is dropped from it.
#[derive(Debug)]
pub struct DirectFile {
    /// Open for reads past the cache.
    direct: Option<File>,
    /// The same file, open for reads through it.
    cached: File,
    alignment: usize,
    /// Why the page cache is used after all.
    refused: OnceLock<Refused>,
}

#[derive(Debug)]
struct Refused {
    why: String,
    /// What was seen to become of pages that were dropped; `None` where the system does not tell.
    left: Option<u64>,
}

/// Bytes of a read through the cache, at most this many of which each reader has there at a time: 8 MiB with the most readers.
const STEP: usize = 128 << 10;

/// Bytes before and behind a read that are dropped with it. What other descriptors had the system read ahead can go on here,
/// in pieces of up to this size, each of which is dropped as a whole or not at all.
const AROUND: u64 = 2 << 20;

impl DirectFile {
    /// Opens `path` and tries one read. Where the file system refuses reads past the cache they go through it, and
    /// [`DirectFile::refused`] says so.
    ///
    /// Errors: as [`File::open`].
    pub fn open(path: &Path) -> Result<DirectFile> {
        platform::open_direct(path)
    }

    /// `direct` and `cached` are one file.
    pub(super) fn new(direct: File, cached: File, alignment: usize) -> Result<DirectFile> {
        let mut file = DirectFile {
            direct: Some(direct),
            cached,
            alignment,
            refused: OnceLock::new(),
        };
        // Not at the start, which suits an alignment of any size.
        let at = if file.len() > alignment as u64 {
            alignment
        } else {
            0
        };
        let mut buf = AlignedBuf::zeroed(alignment)?;
        // Whatever else goes wrong goes wrong again where the bytes are needed.
        let _ = file.read_window(at as u64, buf.as_mut_slice(), 0);
        if file.refused.get().is_some() {
            (file.direct, file.alignment) = (None, 1);
        }
        Ok(file)
    }

    pub(super) fn cached(file: File, why: String) -> DirectFile {
        let file = DirectFile {
            direct: None,
            cached: file,
            alignment: 1,
            refused: OnceLock::new(),
        };
        file.refuse(why);
        file
    }

    /// Goes over to reads through the page cache, and sees whether what they leave there can be dropped.
    fn refuse(&self, why: String) {
        self.refused.get_or_init(|| {
            platform::read_without_ahead(&self.cached);
            // Changed pages cannot be dropped.
            platform::meter::write_back(&self.cached);
            let len = self.len().min(STEP as u64);
            let read = self.read_cached(0, &mut vec![0; len as usize]);
            let left = meter::cached_bytes_in(&self.cached, Extent { offset: 0, len });
            Refused {
                why,
                left: left.filter(|_| read.is_ok()),
            }
        });
    }

    /// Why reads go through the page cache, if they do.
    pub fn refused_because(&self) -> Option<&str> {
        self.refused.get().map(|refused| refused.why.as_str())
    }

    /// A note for the user when reads go through the page cache: why, and whether that takes memory.
    pub fn refused(&self) -> Option<String> {
        let Refused { why, left } = self.refused.get()?;
        let then = match left {
            Some(0) => "what was read is dropped from it behind each read",
            Some(_) => "what was read stays there, beside the budget",
            None => "the system does not tell whether what was read stays there",
        };
        Some(format!("reads go through the page cache ({why}); {then}"))
    }

    /// The file beneath, for questions about it.
    pub fn file(&self) -> &File {
        &self.cached
    }

    /// As [`File::share_known`].
    pub(super) fn share_known(&mut self, other: &File) {
        self.cached.share_known(other);
    }

    /// Past the cache; `None` when the file system knows no such reads.
    fn read_direct(
        &self,
        file: &File,
        offset: u64,
        buf: &mut [u8],
        need: usize,
    ) -> Option<Result<()>> {
        let mut done = 0;
        loop {
            let at = offset.saturating_add(done as u64);
            let n = match file.read_some(at, &mut buf[done..]) {
                Ok(n) => n,
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                    self.refuse(Error::io("a direct read", &e).to_string());
                    return None;
                }
                Err(e) => return Some(Err(file.refused_read(at, buf.len() - done, &e))),
            };
            if done + n >= need {
                return Some(Ok(()));
            }
            // Not all came. At the end of the file nothing more will; else the next read starts aligned.
            let next = (done + n) / self.alignment * self.alignment;
            if n == 0 || next == done {
                return Some(Err(short_read(self.name(), offset, need, done + n)));
            }
            done = next;
        }
    }

    /// Through the cache, leaving nothing there.
    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let drop_around = |at: u64, len: usize, around: u64| {
            let offset = at.saturating_sub(around);
            let end = at.saturating_add(len as u64 + around);
            let len = end - offset;
            platform::drop_cached(&self.cached, Extent { offset, len });
        };
        let len = buf.len();
        for (step, at) in buf.chunks_mut(STEP).zip((offset..).step_by(STEP)) {
            self.cached.read_exact_at(at, step)?;
            // With the pages at both ends.
            drop_around(at, step.len(), super::page_size() as u64 - 1);
        }
        drop_around(offset, len, AROUND);
        Ok(())
    }
}

impl ReadAt for DirectFile {
    fn len(&self) -> u64 {
        self.cached.len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let need = buf.len();
        self.read_window(offset, buf, need)
    }

    fn alignment(&self) -> usize {
        self.alignment
    }

    fn read_window(&self, offset: u64, buf: &mut [u8], need: usize) -> Result<()> {
        if let Some(direct) = &self.direct
            && self.refused.get().is_none()
            && let Some(done) = self.read_direct(direct, offset, buf, need)
        {
            return done;
        }
        self.read_cached(offset, &mut buf[..need])
    }

    fn check(&self) -> Result<()> {
        self.cached.check()
    }

    fn name(&self) -> &str {
        self.cached.name()
    }
}

#[cfg(test)]
mod tests {
    use super::super::AlignedBuf;
    use super::super::file::tests::Temporary;
    use super::*;

    #[test]
    fn windows_of_whole_pages_hold_what_the_file_holds() {
        let bytes: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        let temporary = Temporary::with("direct", &bytes);
        let file = DirectFile::open(&temporary.0).unwrap();
        if let Some(why) = file.refused() {
            println!("{why}");
        }
        let mut buf = AlignedBuf::zeroed(32_768).unwrap();
        let page = 4096;
        assert!(
            page % file.alignment() == 0,
            "alignment {}",
            file.alignment()
        );
        for (first, pages, need) in [
            (0, 1, 4096),
            (1, 2, 8192),
            (2, 3, 20_000 - 8192),
            (4, 1, 20_000 - 16_384),
            (4, 4, 5),
        ] {
            let (offset, len) = (first * page, pages * page);
            let window = &mut buf.as_mut_slice()[..len];
            file.read_window(offset as u64, window, need).unwrap();
            assert_eq!(window[..need], bytes[offset..offset + need]);
        }
        let window = &mut buf.as_mut_slice()[..8192];
        let error = file.read_window(16_384, window, 4000).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("read at 16384: found 3616 bytes, expected 4000"),
            "{error}"
        );
    }

    /// As where the first read is refused, later: a read that no block device takes.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_refused_read_goes_through_the_cache_and_leaves_nothing_there() {
        const UNIT: usize = 512 << 10;
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
        let temporary = Temporary::with("refused", &bytes);
        let open = |flags| File::open_with(&temporary.0, flags).unwrap();
        if meter::drop_cached(&open(0)) != Some(0) {
            return println!("skipped: this file system keeps files in memory");
        }
        // The alignment is a lie, so that reads at any place are tried.
        let file = DirectFile::new(open(libc::O_DIRECT), open(0), 4096).unwrap();
        if let Some(why) = file.refused() {
            return println!("skipped: {why}");
        }
        let mut buf = AlignedBuf::zeroed(2 * UNIT).unwrap();
        let buf = buf.as_mut_slice();
        file.read_window(4096, &mut buf[..UNIT], UNIT).unwrap();
        assert_eq!(buf[..UNIT], bytes[4096..4096 + UNIT]);
        assert!(file.refused().is_none());
        for (offset, need) in [
            (5, UNIT),
            (1_000_001, 2 * UNIT - 77),
            (0, 1),
            (2_999_000, 1000),
        ] {
            file.read_window(offset as u64, buf, need).unwrap();
            assert_eq!(buf[..need], bytes[offset..offset + need], "at {offset}");
            assert_eq!(meter::cached_bytes(file.file()), Some(0), "at {offset}");
            let told = file.refused().unwrap();
            assert!(
                told.contains("Invalid argument")
                    && told.contains("dropped from it behind each read"),
                "{told}"
            );
        }
        let error = file.read_window(2_999_000, buf, 1001).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("found 1000 bytes, expected 1001"),
            "{error}"
        );
    }
}
