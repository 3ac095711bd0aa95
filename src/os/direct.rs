//! A file that is read past the page cache.

use super::file::short_read;
use super::{File, ReadAt, platform};
use crate::error::Result;
use std::path::Path;

/// A regular file whose reads leave no copy in the system's page cache, where the file system allows that.
///
/// Whole pages in memory and in the file: the system's own condition. A read that is not made in one go goes on
/// at an aligned place, since one unaligned read would bring the cache back.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    alignment: usize,
    /// Why the page cache is used after all.
    refused: Option<String>,
}

impl DirectFile {
    /// Opens `path`. Where the file system refuses reads past the cache they go through it, and
    /// [`DirectFile::refused`] says so.
    ///
    /// Errors: as [`File::open`].
    pub fn open(path: &Path) -> Result<DirectFile> {
        platform::open_direct(path)
    }

    pub(super) fn new(file: File, alignment: usize) -> DirectFile {
        DirectFile {
            file,
            alignment,
            refused: None,
        }
    }

    pub(super) fn cached(file: File, why: String) -> DirectFile {
        DirectFile {
            file,
            alignment: 1,
            refused: Some(why),
        }
    }

    /// Why reads go through the page cache, if they do.
    pub fn refused_because(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// A note for the user when reads go through the page cache, and why.
    pub fn refused(&self) -> Option<String> {
        let why = self.refused_because()?;
        Some(format!("expert reads go through the page cache: {why}"))
    }

    /// The file beneath, for questions about it.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl ReadAt for DirectFile {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let need = buf.len();
        self.read_window(offset, buf, need)
    }

    fn alignment(&self) -> usize {
        self.alignment
    }

    fn read_window(&self, offset: u64, buf: &mut [u8], need: usize) -> Result<()> {
        let mut done = 0;
        loop {
            let at = offset.saturating_add(done as u64);
            let n = self.file.read_some(at, &mut buf[done..])?;
            if done + n >= need {
                return Ok(());
            }
            // Not all came. At the end of the file nothing more will; else the next read starts aligned.
            let next = (done + n) / self.alignment * self.alignment;
            if n == 0 || next == done {
                return Err(short_read(self.name(), offset, need, done + n));
            }
            done = next;
        }
    }

    fn check(&self) -> Result<()> {
        self.file.check()
    }

    fn name(&self) -> &str {
        self.file.name()
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
}
