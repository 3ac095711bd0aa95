//! A folder of saved sessions.
//!
//! A session's file is called `NAME.session`. Names that begin with `auto-` are the program's own, made of what the session
//! holds and was computed with; when room is needed, those used longest ago go. A name that the user gave stays until the
//! user removes it. Whatever else lies in the folder is left alone.
//!
//! A file is opened to look at its header once; from then on it is known by its length and time.

pub use super::file::Header;
use super::file::{Origin, Reader, TokensHash, Writer};
use crate::error::{Context, Error, Result};
use crate::os::{self, DirectFile, NewFile};
use crate::units::{Bytes, TokenId};
use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, DirEntry, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// End of the file names of sessions.
const END: &str = ".session";

/// Begin of the names that the program gives.
const AUTO: &str = "auto-";

/// Bounds on what is read from outside.
const LIMITS: Limits = Limits {
    entries: 1 << 16,
    name: 64,
    headers: 4096,
};

struct Limits {
    /// Names in the folder.
    entries: usize,
    /// Bytes of a session's name.
    name: usize,
    /// Headers that are remembered; those of more files are read each time.
    headers: usize,
}

/// Bytes that a store takes at most for headers it remembers: their fields and points, names, and the map's spare room.
pub const HEADERS_BYTES: u64 = (LIMITS.headers * 1024) as u64;

/// Sessions in a folder, within some space.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    space: u64,
    /// What was read of files, by name.
    seen: Arc<Mutex<HashMap<String, Seen>>>,
}

/// The header of a file of this length and time, or what is wrong with it.
#[derive(Clone, Debug)]
struct Seen {
    bytes: u64,
    used: SystemTime,
    header: std::result::Result<Arc<Header>, String>,
}

/// A saved session that holds a beginning of some tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// The session.
    pub name: String,
    /// Tokens of the beginning: all that the session holds, or up to one of its points.
    pub n_tokens: usize,
}

/// Such sessions.
#[derive(Clone, Debug, Default)]
pub struct Beginnings {
    /// The longest in front.
    pub found: Vec<Beginning>,
    /// What was ignored, and why.
    pub notes: Vec<String>,
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
            seen: Arc::default(),
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
            let file = file.map_err(failed)?;
            match self.entry(&file) {
                Ok(entry) => listing.entries.extend(entry),
                Err(why) => listing
                    .notes
                    .push(format!("{} is ignored: {why}", file.path().display())),
            }
        }
        let newest_first = |a: &Entry, b: &Entry| (b.used, &b.name).cmp(&(a.used, &a.name));
        listing.entries.sort_by(newest_first);
        listing.notes.sort();
        Ok(listing)
    }

    /// The session in a file; nothing for what is gone or was abandoned; why it is no session for the rest.
    fn entry(&self, file: &DirEntry) -> std::result::Result<Option<Entry>, String> {
        let name = file.file_name();
        let name = name.to_str().ok_or("its name is no text")?;
        if os::is_part(name) {
            os::remove_abandoned(&file.path());
            return Ok(None);
        }
        let name = name
            .strip_suffix(END)
            .ok_or(format!("its name does not end with {END}"))?;
        check_name(name).map_err(|e| e.to_string())?;
        let found = match file.metadata() {
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
    /// A session can be taken up at its own length and at its points only, since the rows behind the window of its last
    /// tokens are gone.
    ///
    /// Errors: as [`Store::list`].
    pub fn prefixes(&self, origin: &Origin, tokens: &[TokenId]) -> Result<Beginnings> {
        let listing = self.list()?;
        let mut notes = listing.notes;
        let headers = self.headers(&listing.entries, &mut notes);
        let mut places = Vec::new();
        for (name, header) in &headers {
            places.push((
                header.n_tokens,
                header.tokens_hash,
                header.has_logits,
                name,
                header,
            ));
            for point in &header.points {
                places.push((point.n_tokens, point.tokens_hash, false, name, header));
            }
        }
        // Stable: of two that are equally long the one used last stays in front.
        places.sort_by_key(|(n, ..)| *n);
        let (mut hash, mut n) = (TokensHash::EMPTY, 0);
        let mut found: Vec<Beginning> = Vec::new();
        for (end, tokens_hash, has_logits, name, header) in places {
            let is_whole = end == tokens.len() as u64;
            if end == 0 || end > tokens.len() as u64 || is_whole && !has_logits {
                continue;
            }
            hash = tokens[n..end as usize]
                .iter()
                .fold(hash, |hash, t| hash.then(*t));
            n = end as usize;
            if tokens_hash != hash.0 {
                continue;
            }
            match header.origin.check(origin) {
                Ok(()) => {
                    found.push(Beginning {
                        name: (*name).to_owned(),
                        n_tokens: n,
                    });
                }
                // Told once, of its end.
                Err(why) if end == header.n_tokens => {
                    notes.push(format!(
                        "session {name} holds the first {n} tokens, but {why}"
                    ));
                }
                Err(_) => {}
            }
        }
        found.reverse();
        // Of each session its longest place.
        let mut names = HashSet::new();
        found.retain(|beginning| names.insert(beginning.name.clone()));
        Ok(Beginnings { found, notes })
    }

    /// The headers of files; what cannot be read is told in notes.
    fn headers<'a>(
        &self,
        entries: &'a [Entry],
        notes: &mut Vec<String>,
    ) -> Vec<(&'a str, Arc<Header>)> {
        // A panic leaves no entry half changed.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = HashMap::new();
        let mut headers = Vec::new();
        for entry in entries {
            let same = |seen: &Seen| (seen.bytes, seen.used) == (entry.bytes, entry.used);
            let seen = seen.remove(&entry.name).filter(same).unwrap_or_else(|| {
                let header = self.read(&entry.name);
                let header = header.map(|reader| Arc::new(reader.header().clone()));
                Seen {
                    bytes: entry.bytes,
                    used: entry.used,
                    header: header.map_err(|error| error.to_string()),
                }
            });
            match &seen.header {
                Ok(header) => headers.push((entry.name.as_str(), header.clone())),
                Err(why) => notes.push(why.clone()),
            }
            if known.len() < LIMITS.headers {
                known.insert(entry.name.clone(), seen);
            }
        }
        *seen = known;
        headers
    }

    /// Removes sessions of the program's own names that hold nothing but a beginning of `tokens`, which `name` holds.
    ///
    /// Errors: as [`Store::list`], and the system refuses.
    pub fn remove_beginnings(&self, origin: &Origin, tokens: &[TokenId], name: &str) -> Result<()> {
        let hashes = tokens.iter().scan(TokensHash::EMPTY, |hash, token| {
            *hash = hash.then(*token);
            Some(hash.0)
        });
        let hashes: Vec<u64> = [TokensHash::EMPTY.0].into_iter().chain(hashes).collect();
        let listing = self.list()?;
        for (other, header) in self.headers(&listing.entries, &mut Vec::new()) {
            let end = usize::try_from(header.n_tokens).unwrap_or(usize::MAX);
            let is_beginning = other != name
                && other.starts_with(AUTO)
                && header.origin == *origin
                && hashes.get(end) == Some(&header.tokens_hash);
            if is_beginning {
                self.remove_file(other)?;
            }
        }
        Ok(())
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
        self.save_sparing(name, None, header, fill)
    }

    /// As [`Store::save`]; the session `spared` is not removed to make room.
    ///
    /// Errors: the same.
    pub fn save_sparing(
        &self,
        name: Option<&str>,
        spared: Option<&str>,
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
        self.make_room(&name, spared, header.file_bytes().unwrap_or(u64::MAX))?;
        let mut writer = Writer::create(NewFile::create(&self.path(&name))?, header)?;
        fill(&mut writer)?;
        writer.finish()?;
        Ok(name)
    }

    /// Removes sessions of the program's own names, used longest ago first, until `bytes` more fit.
    fn make_room(&self, name: &str, spared: Option<&str>, bytes: u64) -> Result<()> {
        let entries = self.list()?.entries;
        let others = || entries.iter().filter(|e| e.name != name);
        let may_go = |e: &&Entry| e.name.starts_with(AUTO) && Some(e.name.as_str()) != spared;
        let kept: u64 = others().filter(|e| !may_go(e)).map(|e| e.bytes).sum();
        if kept.saturating_add(bytes) > self.space {
            let kept = match kept {
                0 => String::new(),
                kept => {
                    let also = spared.map_or("", |_| " and the one that is needed now");
                    format!(", of which sessions with a name{also} take {}", Bytes(kept))
                }
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
        for entry in others().rev().filter(may_go) {
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
