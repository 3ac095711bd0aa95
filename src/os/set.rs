//! The files of a model, read as one.
//!
//! ```text
//! | part 1 ........ |  gap  | part 2 .... |  gap  | part 3 ............ |
//! 0                         start of part 2       start of part 3       len
//! ```
//!
//! An offset in a set says the part and the place in it. A file alone is a set whose offsets are its own. Starts are
//! multiples of [`GAP`] and there is a whole one or more between two parts, so no page and no aligned read holds bytes of
//! two of them.

use super::{DirectFile, File, ReadAt};
use crate::error::{Error, Result};
use std::path::PathBuf;

/// Larger than any page and any unit of direct reads; only addresses are spent, no memory.
const GAP: u64 = 16 << 20;

/// One file or several, in order.
#[derive(Debug)]
pub struct FileSet<F = File> {
    parts: Vec<Placed<F>>,
}

/// A file and where it begins in its set.
#[derive(Debug)]
pub(super) struct Placed<F> {
    pub start: u64,
    pub file: F,
}

impl<F: ReadAt> FileSet<F> {
    /// Places files one behind the other; at least one.
    ///
    /// Errors: `Limit` when their lengths exceed 64 bits together.
    pub fn new(files: Vec<F>) -> Result<FileSet<F>> {
        assert!(!files.is_empty(), "a set holds a file");
        let mut parts = Vec::with_capacity(files.len());
        let mut start = 0;
        for file in files {
            let next = FileSet::<F>::start_behind(start, file.len())?;
            parts.push(Placed { start, file });
            start = next;
        }
        Ok(FileSet { parts })
    }

    /// Where the next file begins behind one of `len` bytes that begins at `start`.
    ///
    /// Errors: as [`FileSet::new`].
    pub fn start_behind(start: u64, len: u64) -> Result<u64> {
        let end = start.checked_add(len);
        end.and_then(|end| end.checked_next_multiple_of(GAP)?.checked_add(GAP))
            .ok_or_else(|| Error::limit("length of all parts", "", u64::MAX))
    }

    /// The files, in order.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &F> {
        self.parts.iter().map(|p| &p.file)
    }

    /// Where each file begins in the set.
    pub fn starts(&self) -> impl ExactSizeIterator<Item = u64> {
        self.parts.iter().map(|p| p.start)
    }

    /// The part that holds `offset`, or the gap before it.
    fn part(&self, offset: u64) -> &Placed<F> {
        &self.parts[part_of(&self.parts, offset)]
    }

    /// Another view of each file, at the same places.
    fn each<G>(&self, open: impl Fn(&F) -> Result<G>) -> Result<FileSet<G>> {
        let each = |p: &Placed<F>| {
            Ok(Placed {
                start: p.start,
                file: open(&p.file)?,
            })
        };
        let parts = self.parts.iter().map(each).collect::<Result<Vec<_>>>()?;
        Ok(FileSet { parts })
    }
}

/// The index of the part that holds `offset`, or of the one before the gap that does.
pub(super) fn part_of<F>(parts: &[Placed<F>], offset: u64) -> usize {
    // The first begins at 0.
    parts.partition_point(|p| p.start <= offset) - 1
}

impl FileSet {
    /// Opens a file alone.
    ///
    /// Errors: as [`File::open`].
    pub fn open(path: impl Into<PathBuf>) -> Result<FileSet> {
        FileSet::new(vec![File::open(&path.into())?])
    }

    /// Opens the same files once more.
    ///
    /// Errors: as [`File::open`], and `Format` for one that was replaced or written since.
    pub fn reopen(&self) -> Result<FileSet> {
        self.each(|file| {
            let mut again = File::open(file.path())?;
            again.check_same(file)?;
            again.share_known(file);
            Ok(again)
        })
    }

    /// Opens the same files once more, past the page cache where that can be.
    ///
    /// Errors: as [`FileSet::reopen`].
    pub fn direct(&self) -> Result<FileSet<DirectFile>> {
        self.each(|file| {
            let mut direct = DirectFile::open(file.path())?;
            direct.file().check_same(file)?;
            direct.share_known(file);
            Ok(direct)
        })
    }

    /// As [`File::remember`], of each file.
    pub fn remember(&self) -> Result<()> {
        self.files().try_for_each(File::remember)
    }

    /// As [`File::take_note`], of the first file that has one.
    pub fn take_note(&self) -> Option<String> {
        self.files().find_map(File::take_note)
    }

    /// The same open files, for a mapping.
    pub(super) fn placed(&self) -> Result<Vec<Placed<File>>> {
        Ok(self.each(File::try_clone)?.parts)
    }
}

impl FileSet<DirectFile> {
    /// As [`DirectFile::refused`], of the first file that has one.
    pub fn refused(&self) -> Option<String> {
        self.files().find_map(DirectFile::refused)
    }
}

impl<F: ReadAt> ReadAt for FileSet<F> {
    /// Where the last file ends.
    fn len(&self) -> u64 {
        self.parts.last().map_or(0, |p| p.start + p.file.len())
    }

    fn end_at(&self, offset: u64) -> u64 {
        let part = self.part(offset);
        part.start + part.file.len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let part = self.part(offset);
        part.file.read_exact_at(offset - part.start, buf)
    }

    fn alignment(&self) -> usize {
        self.files().map(ReadAt::alignment).max().unwrap_or(1)
    }

    fn read_window(&self, offset: u64, buf: &mut [u8], need: usize) -> Result<()> {
        let part = self.part(offset);
        part.file.read_window(offset - part.start, buf, need)
    }

    fn check(&self) -> Result<()> {
        self.files().try_for_each(ReadAt::check)
    }

    /// That of the first file; errors name the file that they are about.
    fn name(&self) -> &str {
        self.parts.first().map_or("", |p| p.file.name())
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemFile;
    use super::*;

    fn set(lens: &[usize]) -> FileSet<MemFile> {
        let file = |(i, len): (usize, &usize)| {
            let bytes = (0..*len).map(|at| (at * 7 + i * 31) as u8).collect();
            MemFile::new(format!("part {i}"), bytes)
        };
        FileSet::new(lens.iter().enumerate().map(file).collect()).unwrap()
    }

    #[test]
    fn offsets_say_the_part_and_the_place_in_it() {
        let lens = [100, 0, 1 << 20, 5];
        let set = set(&lens);
        let starts: Vec<u64> = set.starts().collect();
        assert_eq!(starts[0], 0);
        for (i, (start, len)) in std::iter::zip(&starts, lens).enumerate() {
            assert!(start.is_multiple_of(GAP));
            assert_eq!(set.end_at(*start), start + len as u64);
            if let Some(next) = starts.get(i + 1) {
                assert!(start + len as u64 + GAP <= *next);
            }
            let mut buf = vec![0; len.min(50)];
            let from = len - buf.len();
            set.read_exact_at(start + from as u64, &mut buf).unwrap();
            let right = |(at, byte): (usize, &u8)| *byte == ((from + at) * 7 + i * 31) as u8;
            assert!(buf.iter().enumerate().all(right), "part {i}");
        }
        assert_eq!(set.len(), starts[3] + 5);
    }

    #[test]
    fn no_read_goes_from_one_part_into_the_next() {
        let set = set(&[100, 200]);
        let second = set.starts().nth(1).unwrap();
        for (offset, named) in [
            (90, "part 0: read at 90: found 10"),
            (second + 195, "part 1: read at 195: found 5"),
        ] {
            let error = set.read_exact_at(offset, &mut [0; 20]).unwrap_err();
            assert!(error.to_string().starts_with(named), "{error}");
        }
        for gap in [100, second - 1] {
            assert!(set.read_exact_at(gap, &mut [0; 1]).is_err());
            set.read_window(gap, &mut [0; 1], 0).ok();
        }
    }
}
