//! Regular files and in-memory files behind [`ReadAt`].

use super::known::{Identity, Known};
use super::{ReadAt, platform};
use crate::error::{Error, ErrorKind, Result};
use std::fs::{FileType, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A regular file, open for reading.
#[derive(Debug)]
pub struct File {
    file: std::fs::File,
    path: PathBuf,
    /// The path, for messages.
    name: String,
    len: u64,
    known: Arc<Known>,
}

impl File {
    /// Opens `path` for reading.
    ///
    /// Errors: `Io` when the system refuses or `path` is no regular file (a directory, pipe, device).
    pub fn open(path: &Path) -> Result<File> {
        // Without O_NONBLOCK the opening of a named pipe would wait for a writer; regular files ignore it.
        File::open_with(path, libc::O_NONBLOCK)
    }

    /// Opens with more flags.
    pub(super) fn open_with(path: &Path, flags: libc::c_int) -> Result<File> {
        let name = path.display().to_string();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .map_err(|e| Error::io(&name, &e))?;
        let metadata = file.metadata().map_err(|e| Error::io(&name, &e))?;
        if !metadata.is_file() {
            let found = kind_of(metadata.file_type());
            return Err(Error::new(
                ErrorKind::Io,
                format!("{name}: found {found}, expected a regular file"),
            ));
        }
        Ok(File {
            file,
            path: path.to_owned(),
            name,
            len: metadata.len(),
            known: Arc::new(Known::new(Identity::of(&metadata))),
        })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Remembers pieces of the contents, by which a file that only has another time is told from one that was changed. They
    /// are few, or all of a small file.
    ///
    /// Errors: a failed read; it was changed since it was opened.
    pub fn remember(&self) -> Result<()> {
        platform::read_without_ahead(self);
        self.known.remember(self)?;
        self.check()
    }

    /// An error when the file was changed since it was opened: its length, or its time and something of what
    /// [`File::remember`] saw. Without that, another time is a change. After one it is an error for good.
    pub fn check(&self) -> Result<()> {
        self.known.check(self, self.identity()?)
    }

    /// A note for the user when the file has another time and nothing else changed; once.
    pub fn take_note(&self) -> Option<String> {
        let told = format!(
            "{}: its time changed while it is in use, its size and contents did not, as far as they are compared; going on",
            self.name
        );
        self.known.take_note().then_some(told)
    }

    /// An error when `other` was opened under the same name but is not the same file, or was changed in between.
    pub fn check_same(&self, other: &File) -> Result<()> {
        other.check()?;
        if self.known.identity() == other.known.identity() {
            return Ok(());
        }
        Err(Error::format(format!(
            "{}: replaced while it was opened",
            self.name
        )))
    }

    /// What is or will be known of `other`, which is the same file, is known of this one too.
    pub(super) fn share_known(&mut self, other: &File) {
        self.known = Arc::clone(&other.known);
    }

    fn identity(&self) -> Result<Identity> {
        let metadata = self
            .file
            .metadata()
            .map_err(|e| Error::io(&self.name, &e))?;
        Ok(Identity::of(&metadata))
    }

    /// The same open file once more.
    pub(super) fn try_clone(&self) -> Result<File> {
        let file = self
            .file
            .try_clone()
            .map_err(|e| Error::io(&self.name, &e))?;
        Ok(File {
            file,
            path: self.path.clone(),
            name: self.name.clone(),
            len: self.len,
            known: Arc::clone(&self.known),
        })
    }

    /// One read: the number of bytes that came, 0 at the end of the file.
    pub(super) fn read_some(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.file.read_at(buf, offset) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// What to say when [`File::read_some`] was refused.
    pub(super) fn refused_read(&self, offset: u64, len: usize, error: &std::io::Error) -> Error {
        Error::io(
            format!("{}: read of {len} bytes at {offset}", self.name),
            error,
        )
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl ReadAt for File {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let read = match offset.checked_add(done as u64) {
                Some(at) => self
                    .read_some(at, &mut buf[done..])
                    .map_err(|e| self.refused_read(at, buf.len() - done, &e))?,
                None => 0, // past every file's end
            };
            if read == 0 {
                return Err(short_read(&self.name, offset, buf.len(), done));
            }
            done += read;
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        File::check(self)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// Bytes in memory that behave like a file.
#[derive(Clone, Debug)]
pub struct MemFile {
    name: String,
    bytes: Vec<u8>,
}

impl MemFile {
    /// A file called `name` that holds `bytes`.
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> MemFile {
        MemFile {
            name: name.into(),
            bytes,
        }
    }

    /// The contents, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl ReadAt for MemFile {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|at| self.bytes.get(at..))
            .unwrap_or(&[]);
        match rest.get(..buf.len()) {
            Some(found) => buf.copy_from_slice(found),
            None => return Err(short_read(&self.name, offset, buf.len(), rest.len())),
        }
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

pub(super) fn short_read(name: &str, offset: u64, wanted: usize, found: usize) -> Error {
    Error::format(format!(
        "{name}: read at {offset}: found {found} bytes, expected {wanted}"
    ))
}

fn kind_of(file_type: FileType) -> &'static str {
    if file_type.is_dir() {
        "a directory"
    } else if file_type.is_fifo() {
        "a pipe"
    } else if file_type.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Write;

    /// A file under the system's temporary directory that is removed with this value.
    pub(in crate::os) struct Temporary(pub std::path::PathBuf);

    impl Temporary {
        pub fn with(name: &str, bytes: &[u8]) -> Temporary {
            let name = format!("infall-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::File::create(&path)
                .unwrap()
                .write_all(bytes)
                .unwrap();
            Temporary(path)
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).ok();
        }
    }

    #[test]
    fn both_kinds_of_file_read_alike() {
        let bytes: Vec<u8> = (0..=255).collect();
        let temporary = Temporary::with("read", &bytes);
        let file = File::open(&temporary.0).unwrap();
        let memory = MemFile::new("memory", bytes);
        for source in [&file as &dyn ReadAt, &memory] {
            assert_eq!(source.len(), 256);
            let mut buf = [0; 16];
            source.read_exact_at(240, &mut buf).unwrap();
            assert_eq!(buf[15], 255);
            source.read_exact_at(256, &mut []).unwrap();
            for offset in [241, 256, 1 << 40, u64::MAX - 3] {
                let error = source.read_exact_at(offset, &mut buf).unwrap_err();
                let message = error.to_string();
                assert!(message.contains(&format!("{offset}")), "{message}");
                assert!(message.contains("16"), "{message}");
            }
            let error = source.read_exact_at(241, &mut buf).unwrap_err();
            assert!(
                error
                    .to_string()
                    .ends_with("read at 241: found 15 bytes, expected 16")
            );
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let cases = [
            (std::env::temp_dir(), "a directory"),
            ("/dev/null".into(), "a device"),
            ("/nonexistent/file".into(), "No such file"),
        ];
        for (path, expected) in cases {
            let error = File::open(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io);
            assert!(error.to_string().contains(expected), "{error}");
        }
        let pipe = std::env::temp_dir().join(format!("infall-{}-pipe", std::process::id()));
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        if made.is_ok_and(|status| status.success()) {
            let error = File::open(&pipe).unwrap_err();
            std::fs::remove_file(&pipe).ok();
            assert!(error.to_string().contains("a pipe"), "{error}");
        } else {
            println!("skipped: no mkfifo command");
        }
    }
}
