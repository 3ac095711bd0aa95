//! A file that is written whole or not at all.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// A file that will stand at a path once it is whole; until then, and if it never is, what stood there stays.
pub struct WholeFile {
    path: PathBuf,
    part: PathBuf,
}

impl WholeFile {
    /// Begins it beside `path`, so that what cannot be written does not come to light after the work.
    ///
    /// Errors: it cannot be made.
    pub fn create(path: &Path) -> Result<WholeFile> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let (path, part) = (path.to_path_buf(), PathBuf::from(part));
        std::fs::write(&part, "").map_err(|e| Error::io(part.display(), &e))?;
        Ok(WholeFile { path, part })
    }

    /// Writes all of it and puts it in its place.
    ///
    /// Errors: it cannot be written, or not be put there.
    pub fn write(self, text: &str) -> Result<()> {
        std::fs::write(&self.part, text).map_err(|e| Error::io(self.part.display(), &e))?;
        self.finish()
    }

    /// The file, to be written bit by bit before [`WholeFile::finish`].
    ///
    /// Errors: it cannot be opened.
    pub fn open(&self) -> Result<std::fs::File> {
        let file = std::fs::File::create(&self.part);
        file.map_err(|e| Error::io(self.part.display(), &e))
    }

    /// Puts what was written in its place.
    ///
    /// Errors: it cannot be put there.
    pub fn finish(self) -> Result<()> {
        std::fs::rename(&self.part, &self.path).map_err(|e| Error::io(self.path.display(), &e))
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        // After a rename it is not there; if it is and cannot be removed, that is the lesser fault.
        let _ = std::fs::remove_file(&self.part);
    }
}
