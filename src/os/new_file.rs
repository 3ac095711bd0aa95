//! A file that is written past the page cache, and stands at its place whole or not at all.
//!
//! ```text
//! .NAME.infall-PID-N.part (locked) -- write_at.. -- fsync -- rename to NAME -- fsync of the folder
//! ```
//!
//! The lock goes with its process, however that ends: what is not locked was left behind by a writer that is gone.

use super::platform;
use super::share::SHARED_PAGE;
use crate::error::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A file that is being written. Dropped before [`NewFile::finish`] it leaves nothing.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    part: PathBuf,
    place: PathBuf,
    /// Whether writes go through the page cache.
    cached: bool,
    is_placed: bool,
}

/// Tries to make and lock a file; each fails only while another process looks for abandoned ones.
const TRIES: usize = 16;

impl NewFile {
    /// Offsets, lengths and addresses of what is written are multiples of this.
    pub const ALIGNMENT: usize = SHARED_PAGE;

    /// Begins a file beside `place`, readable by this user only. Where the file system refuses writes past the cache they
    /// go through it, and are dropped from it in the end.
    ///
    /// Errors: it cannot be made.
    pub fn create(place: &Path) -> Result<NewFile> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = place.file_name().unwrap_or_default();
        for _ in 0..TRIES {
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            let mut part = std::ffi::OsString::from(".");
            part.push(name);
            part.push(format!("{MARK}{}-{n}{PART}", std::process::id()));
            let part = place.with_file_name(part);
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            let (file, cached) = match platform::create_direct(&part, &mut options) {
                // Left by an earlier process of the same number, and about to be removed.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made.map_err(|e| Error::io(part.display(), &e))?,
            };
            let new = NewFile {
                file,
                part,
                place: place.to_path_buf(),
                cached,
                is_placed: false,
            };
            if new.is_ours()? {
                return Ok(new);
            }
        }
        let what = format!("{}: no file beside it could be locked", place.display());
        Err(Error::new(crate::error::ErrorKind::Io, what))
    }

    /// Takes the lock; false when somebody who looked for abandoned files was first. Where there are no locks the file is
    /// ours, and nobody can take it for abandoned.
    fn is_ours(&self) -> Result<bool> {
        if matches!(self.file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Ok(false);
        }
        let inode = self
            .file
            .metadata()
            .map_err(|e| Error::io(self.part.display(), &e))?
            .ino();
        let found = std::fs::symlink_metadata(&self.part);
        Ok(found.is_ok_and(|found| found.ino() == inode))
    }

    /// Writes whole pages.
    ///
    /// Errors: the system refuses, for one when no room is left.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            match self.file.write_at(&bytes[done..], at) {
                Ok(n) if done + n == bytes.len() => break,
                // What did not go at once goes on at an aligned place.
                Ok(n) => {
                    let next = (done + n) / Self::ALIGNMENT * Self::ALIGNMENT;
                    if next == done {
                        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
                        return Err(self.refused(at, bytes.len() - done, &full));
                    }
                    done = next;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.refused(at, bytes.len() - done, &e)),
            }
        }
        Ok(())
    }

    fn refused(&self, at: u64, len: usize, why: &std::io::Error) -> Error {
        let what = format!("{}: write of {len} bytes at {at}", self.place.display());
        Error::io(what, why)
    }

    /// Puts the file in its place, where it replaces what was there; it is on the disk when this returns.
    ///
    /// Errors: the system refuses; unless it is the folder that cannot be written, what was at the place is still there.
    pub fn finish(mut self) -> Result<()> {
        let failed = |e: std::io::Error| Error::io(self.place.display(), &e);
        self.file.sync_all().map_err(failed)?;
        if self.cached {
            platform::drop_written(&self.file);
        }
        std::fs::rename(&self.part, &self.place).map_err(failed)?;
        sync_folder(&self.place).map_err(failed)?;
        self.is_placed = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_placed {
            // If it cannot be removed, the next who looks for abandoned files will do it.
            std::fs::remove_file(&self.part).ok();
        }
    }
}

/// Between a file's name and the number of its writer.
const MARK: &str = ".infall-";

/// Its end.
const PART: &str = ".part";

/// Whether [`NewFile`] calls its unfinished files so.
pub fn is_part(name: &str) -> bool {
    name.starts_with('.') && name.contains(MARK) && name.ends_with(PART)
}

/// For opening a file: fails on a link, and does not wait for the other end of a pipe.
pub const NO_LINKS: i32 = libc::O_NONBLOCK | libc::O_NOFOLLOW;

/// Removes the unfinished file at `part` if its writer is gone, and tells whether it did.
pub fn remove_abandoned(part: &Path) -> bool {
    // Neither a link nor a pipe: opening those could do harm, or wait.
    if !std::fs::symlink_metadata(part).is_ok_and(|found| found.is_file()) {
        return false;
    }
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(NO_LINKS);
    let Ok(file) = options.open(part) else {
        return false;
    };
    // The lock is held until the file is gone: a writer that waits for it then sees that.
    file.try_lock().is_ok() && std::fs::remove_file(part).is_ok()
}

/// Makes a change of names in the folder of `path` last.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::AlignedBuf;
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let name = format!("infall-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir(&path).unwrap();
            Folder(path)
        }

        fn names(&self) -> Vec<String> {
            let files = std::fs::read_dir(&self.0).unwrap();
            files
                .map(|f| f.unwrap().file_name().into_string().unwrap())
                .collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }

    fn page(byte: u8) -> AlignedBuf {
        let mut page = AlignedBuf::zeroed(NewFile::ALIGNMENT).unwrap();
        page.as_mut_slice().fill(byte);
        page
    }

    #[test]
    fn a_file_stands_whole_or_not_at_all() {
        let folder = Folder::new("new-file");
        let place = folder.0.join("x");
        std::fs::write(&place, "old").unwrap();
        let new = NewFile::create(&place).unwrap();
        new.write_at(0, page(1).as_slice()).unwrap();
        assert_eq!(folder.names().len(), 2);
        drop(new);
        assert_eq!(folder.names(), ["x"]);
        assert_eq!(std::fs::read(&place).unwrap(), b"old");

        let new = NewFile::create(&place).unwrap();
        new.write_at(NewFile::ALIGNMENT as u64, page(2).as_slice())
            .unwrap();
        new.write_at(0, page(1).as_slice()).unwrap();
        new.finish().unwrap();
        assert_eq!(folder.names(), ["x"]);
        let found = std::fs::read(&place).unwrap();
        assert_eq!(found[..], [page(1).as_slice(), page(2).as_slice()].concat());
    }

    #[test]
    fn only_what_has_no_writer_is_abandoned() {
        let folder = Folder::new("abandoned");
        let new = NewFile::create(&folder.0.join("x")).unwrap();
        let left = folder.0.join(".x.infall-1-0.part");
        std::fs::write(&left, "half").unwrap();
        std::os::unix::fs::symlink("/nonexistent", folder.0.join(".y.infall-1-0.part")).unwrap();
        let parts: Vec<String> = folder.names();
        assert_eq!(parts.iter().filter(|name| is_part(name)).count(), 3);
        let removed = parts
            .iter()
            .filter(|p| remove_abandoned(&folder.0.join(p)))
            .count();
        assert_eq!((removed, left.exists()), (1, false));
        new.write_at(0, page(3).as_slice()).unwrap();
        new.finish().unwrap();
        assert!(folder.0.join("x").exists());
    }

    #[test]
    fn a_folder_that_is_missing_is_an_error_with_its_name() {
        let error = NewFile::create(Path::new("/nonexistent/x")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/"), "{error}");
    }
}
