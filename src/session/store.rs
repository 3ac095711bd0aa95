//! A folder of saved sessions.
//!
//! A session's file is called `NAME.session`. Names that begin with `auto-` are the program's own, made of what the session
//! holds and was computed with; when room is needed, those used longest ago go. A name that the user gave stays until the
//! user removes it. Whatever else lies in the folder is left alone.

pub use super::file::Header;
use super::file::{Origin, Reader, TokensHash, Writer};
use crate::error::{Context, Error, Result};
use crate::os::{self, DirectFile, NewFile};
use crate::units::{Bytes, TokenId};
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// End of the file names of sessions.
const END: &str = ".session";

/// Begin of the names that the program gives.
const AUTO: &str = "auto-";

/// Bounds on what is read from outside.
const LIMITS: Limits = Limits {
    entries: 1 << 16,
    name: 64,
};

struct Limits {
    /// Names in the folder.
    entries: usize,
    /// Bytes of a session's name.
    name: usize,
}

/// Sessions in a folder, within some space.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    space: u64,
}

/// A file that is called like a session.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name without the end.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// When it was saved or restored last.
    pub used: SystemTime,
}

/// What lies in a folder.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Sessions, the one used last in front.
    pub entries: Vec<Entry>,
    /// What was ignored, and why.
    pub notes: Vec<String>,
}

/// Whether `name` can be given to a session.
///
/// Errors: usage errors that say what a name is.
pub fn check_name(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let is_good = (1..=LIMITS.name).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(plain);
    if is_good {
        return Ok(());
    }
    let most = LIMITS.name;
    Err(Error::usage(format!(
        "the name of a session: found '{name}', expected up to {most} letters, digits, '-', '_' and '.', the first a letter, digit \
         or '_'"
    )))
}

/// As [`check_name`], and not one of the program's own.
fn check_user_name(name: &str) -> Result<()> {
    check_name(name)?;
    if name.starts_with(AUTO) {
        return Err(Error::usage(format!(
            "the name of a session: found '{name}', but what begins with '{AUTO}' is named by the program"
        )));
    }
    Ok(())
}

/// The name that the program gives: it tells contents apart.
fn auto_name(header: &Header) -> String {
    format!("{AUTO}{:016x}", header.hash())
}

impl Store {
    /// The store in `folder`, which is made with the first save, with `space` bytes for sessions.
    ///
    /// Errors: there is something at the place that is no folder.
    pub fn open(folder: &Path, space: u64) -> Result<Store> {
        match std::fs::metadata(folder) {
            Ok(found) if !found.is_dir() => {
                let what = format!("{}: found a file, expected a folder", folder.display());
                return Err(Error::usage(what));
            }
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(folder.display(), &e));
            }
            Ok(_) | Err(_) => {}
        }
        Ok(Store {
            folder: folder.to_path_buf(),
            space,
        })
    }

    /// Bytes that sessions may take.
    pub fn space(&self) -> u64 {
        self.space
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}{END}"))
    }

    fn missing(&self, name: &str) -> Error {
        let folder = self.folder.display();
        Error::usage(format!("{folder} holds no session '{name}'"))
    }

    /// What lies in the folder, by name and length; unfinished files of processes that are gone are removed.
    ///
    /// Errors: the folder cannot be read, or holds too much.
    pub fn list(&self) -> Result<Listing> {
        let failed = |e: std::io::Error| Error::io(self.folder.display(), &e);
        let mut listing = Listing::default();
        let files = match std::fs::read_dir(&self.folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(listing),
            files => files.map_err(failed)?,
        };
        for (i, file) in files.enumerate() {
            if i == LIMITS.entries {
                let what = format!("files of {}", self.folder.display());
                return Err(Error::limit(&what, "found", LIMITS.entries));
            }
            let path = file.map_err(failed)?.path();
            match self.entry(&path) {
                Ok(entry) => listing.entries.extend(entry),
                Err(why) => listing
                    .notes
                    .push(format!("{} is ignored: {why}", path.display())),
            }
        }
        let newest_first = |a: &Entry, b: &Entry| (b.used, &b.name).cmp(&(a.used, &a.name));
        listing.entries.sort_by(newest_first);
        listing.notes.sort();
        Ok(listing)
    }

    /// The session at `path`; nothing for what is gone or was abandoned; why it is no session for the rest.
    fn entry(&self, path: &Path) -> std::result::Result<Option<Entry>, String> {
        let name = path.file_name().and_then(|n| n.to_str());
        let name = name.ok_or("its name is no text")?;
        if os::is_part(name) {
            os::remove_abandoned(path);
            return Ok(None);
        }
        let name = name
            .strip_suffix(END)
            .ok_or(format!("its name does not end with {END}"))?;
        check_name(name).map_err(|e| e.to_string())?;
        let found = match std::fs::symlink_metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            found => found.map_err(|e| e.to_string())?,
        };
        if !found.is_file() {
            return Err("it is no regular file".into());
        }
        Ok(Some(Entry {
            name: name.to_string(),
            bytes: found.len(),
            used: found.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        }))
    }

    /// Opens a session and reads its header; all errors name the file.
    ///
    /// Errors: there is none of this name; see [`Reader::open`].
    pub fn read(&self, name: &str) -> Result<Reader> {
        check_name(name)?;
        let path = self.path(name);
        // No link: it may lead anywhere.
        match std::fs::symlink_metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(self.missing(name)),
            Ok(found) if !found.is_file() => {
                let what = format!("{}: it is no regular file", path.display());
                Err(Error::format(what))
            }
            Ok(_) | Err(_) => Reader::open(Box::new(DirectFile::open(&path)?)),
        }
    }

    /// Marks a session as used now.
    pub fn touch(&self, name: &str) {
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(os::NO_LINKS);
        if let Ok(file) = options.open(self.path(name)) {
            // Refused, it only seems older than it is.
            file.set_modified(SystemTime::now()).ok();
        }
    }

    /// The sessions that hold a beginning of `tokens` and were computed with `origin`, the longest in front; one that holds
    /// all of `tokens` only if it has logits. Whatever is not what it should be is told in notes.
    ///
    /// A session can be restored at its own length only, since the rows behind the window of its last tokens are gone.
    ///
    /// Errors: as [`Store::list`].
    pub fn prefixes(&self, origin: &Origin, tokens: &[TokenId]) -> Result<Listing> {
        let mut listing = self.list()?;
        let mut found: Vec<(Header, Entry)> = Vec::new();
        for entry in listing.entries.drain(..) {
            match self.read(&entry.name) {
                Ok(reader) => found.push((reader.header().clone(), entry)),
                Err(error) => listing.notes.push(error.to_string()),
            }
        }
        // Stable: of two that are equally long the one used last stays in front.
        found.sort_by_key(|(header, _)| header.n_tokens);
        let (mut hash, mut n) = (TokensHash::EMPTY, 0);
        for (header, entry) in found {
            let is_whole = header.n_tokens == tokens.len() as u64;
            if header.n_tokens > tokens.len() as u64 || is_whole && !header.has_logits {
                continue;
            }
            let end = header.n_tokens as usize;
            hash = tokens[n..end].iter().fold(hash, |hash, t| hash.then(*t));
            n = end;
            if n == 0 || header.tokens_hash != hash.0 {
                continue;
            }
            match header.origin.check(origin) {
                Ok(()) => listing.entries.push(entry),
                Err(why) => {
                    let name = &entry.name;
                    let note = format!("session {name} holds the first {n} tokens, but {why}");
                    listing.notes.push(note);
                }
            }
        }
        listing.entries.reverse();
        Ok(listing)
    }

    /// Saves a session under `name`, or without one under a name of the program's own, and returns the name. `fill` writes
    /// the body. Until the new file is whole and on the disk an older one of this name stays; so for a moment both take
    /// space.
    ///
    /// Errors: no name, no space, a failed write, and those of `fill`; an older file of this name is still there then.
    pub fn save(
        &self,
        name: Option<&str>,
        header: &Header,
        fill: &mut dyn FnMut(&mut Writer) -> Result<()>,
    ) -> Result<String> {
        let name = match name {
            Some(name) => {
                check_user_name(name)?;
                name.to_string()
            }
            None => auto_name(header),
        };
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|e| Error::io(self.folder.display(), &e))?;
        self.make_room(&name, header.file_bytes().unwrap_or(u64::MAX))?;
        let mut writer = Writer::create(NewFile::create(&self.path(&name))?, header)?;
        fill(&mut writer)?;
        writer.finish()?;
        Ok(name)
    }

    /// Removes sessions of the program's own names, used longest ago first, until `bytes` more fit.
    fn make_room(&self, name: &str, bytes: u64) -> Result<()> {
        let entries = self.list()?.entries;
        let others = || entries.iter().filter(|e| e.name != name);
        let kept = others().filter(|e| !e.name.starts_with(AUTO));
        let kept: u64 = kept.map(|e| e.bytes).sum();
        if kept.saturating_add(bytes) > self.space {
            let kept = match kept {
                0 => String::new(),
                kept => format!(", of which sessions with a name take {}", Bytes(kept)),
            };
            return Err(Error::new(
                crate::error::ErrorKind::Limit,
                format!(
                    "a session of {} does not fit into the {} of --kv-space{kept}",
                    Bytes(bytes),
                    Bytes(self.space)
                ),
            ));
        }
        let mut held: u64 = others().map(|e| e.bytes).sum();
        for entry in others().rev().filter(|e| e.name.starts_with(AUTO)) {
            if held + bytes <= self.space {
                break;
            }
            self.remove_file(&entry.name)?;
            held -= entry.bytes;
        }
        Ok(())
    }

    fn remove_file(&self, name: &str) -> Result<bool> {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io(path.display(), &e)),
        }
    }

    /// Removes a session.
    ///
    /// Errors: there is none of this name, or the system refuses.
    pub fn remove(&self, name: &str) -> Result<()> {
        check_name(name)?;
        if self.remove_file(name)? {
            return Ok(());
        }
        Err(self.missing(name))
    }

    /// Removes all sessions and returns their number; other files stay.
    ///
    /// Errors: as [`Store::list`], and the system refuses.
    pub fn remove_all(&self) -> Result<usize> {
        let entries = self.list()?.entries;
        for entry in &entries {
            self.remove_file(&entry.name)
                .context(|| "removing a session")?;
        }
        Ok(entries.len())
    }
}
