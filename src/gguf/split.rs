//! Models that were split into several files. Source: the naming and the keys of llama.cpp's gguf-split.
//!
//! ```text
//! NAME-00001-of-00003.gguf   split.no 0, split.count 3, split.tensors.count, all other metadata, some tensors or none
//! NAME-00002-of-00003.gguf   split.no 1, ...                                                     its tensors
//! NAME-00003-of-00003.gguf   split.no 2, ...
//! ```
//!
//! Each part is a GGUF file with offsets of its own; no tensor is cut. Together they are one [`Gguf`] whose extents count
//! in the [`FileSet`] of the parts.

use super::{ALIGNMENT_KEY, Gguf, LIMITS, bounded};
use crate::error::{Context, Error, Result};
use crate::os::{File, FileSet, ReadAt};
use std::path::{Path, PathBuf};

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// One of the files of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its path.
    pub name: String,
    /// Bytes; `None` when it is not there.
    pub len: Option<u64>,
    /// Bytes when all of its tensors are there; 0 as long as it is not.
    pub whole_len: u64,
    /// Where it begins in the set of files.
    pub start: u64,
    /// Where its tensor data begins in the set.
    pub data_start: u64,
    /// Tensors that it holds.
    pub n_tensors: usize,
}

/// Opens the model of which `path` is the file or one of the parts, and reads its header.
///
/// Errors: as [`Gguf::read`]; a part that is missing, not readable, or not of this set, by name.
pub fn open(path: &Path) -> Result<(FileSet, Gguf)> {
    let (files, gguf) = survey(path)?;
    gguf.check_data()?;
    gguf.check_complete()?;
    Ok((files, gguf))
}

/// Reads the header of the model of which `path` is the file or one of the parts. Parts after the first may be missing; see
/// [`Gguf::check_complete`].
///
/// Errors: as [`open`].
pub fn header(path: &Path) -> Result<Gguf> {
    let (_, gguf) = survey(path)?;
    gguf.check_data()?;
    Ok(gguf)
}

/// As [`header`], with the files that are there; their data may still be on its way, or be of types that are not read here.
///
/// Errors: as [`header`], but for those of [`Gguf::check_data`].
pub fn survey(path: &Path) -> Result<(FileSet, Gguf)> {
    let Found { files, gguf } = Found::at(path)?;
    Ok((FileSet::new(files)?, gguf))
}

/// What there is of a model.
struct Found {
    files: Vec<File>,
    gguf: Gguf,
}

impl Found {
    fn at(path: &Path) -> Result<Found> {
        let file = File::open(path)?;
        let name = PartName::of(path);
        let gguf = Gguf::survey(&file);
        let split = match &gguf {
            Ok(gguf) => Split::of(gguf).context(|| &gguf.name)?,
            Err(_) => None,
        };
        let Some(split) = split else {
            return whole(file, name, gguf);
        };
        let Some(name) = name else {
            return Err(Error::format(format!(
                "{}: part {} of {} of a split model by its keys, expected a name that ends in {}: the other parts are looked \
                 for by it",
                path.display(),
                split.no + 1,
                split.count,
                PartName::ending(split.no, split.count),
            )));
        };
        name.check(split).context(|| path.display())?;
        let mut own = Some((file, gguf?));
        let (mut files, mut set) = (Vec::new(), Set::new(split));
        for no in 0..split.count {
            let other = name.path(no);
            let found = match own.take_if(|_| no == split.no) {
                None if other.exists() => {
                    let file = File::open(&other)?;
                    let gguf = Gguf::survey(&file)?;
                    Some((file, gguf))
                }
                own => own,
            };
            let (file, gguf) = found.unzip();
            set.add(other.display().to_string(), gguf)?;
            files.extend(file);
        }
        let gguf = set.finish()?;
        Ok(Found { files, gguf })
    }
}

/// A file that is no part.
fn whole(file: File, name: Option<PartName>, gguf: Result<Gguf>) -> Result<Found> {
    let named = name.filter(|name| name.count > 1);
    let named = named.map(|name| format!("named part {} of {}", name.no + 1, name.count));
    let gguf = match (gguf, named) {
        (Ok(mut gguf), Some(named)) => {
            gguf.check_data().context(|| &named)?;
            let note = format!("{named}, but without the key {COUNT}: read as a whole file");
            gguf.notes.push(note);
            gguf
        }
        (Err(error), Some(named)) => return Err(error.context(named)),
        (gguf, None) => gguf?,
    };
    let files = vec![file];
    Ok(Found { files, gguf })
}

impl Gguf {
    /// Reads the header of a model from all of its parts, which are given in order.
    ///
    /// Errors: as [`Gguf::read`]; parts that are not of one set.
    pub fn read_parts<F: ReadAt>(files: &FileSet<F>) -> Result<Gguf> {
        let count = files.files().len() as u64;
        let mut set: Option<Set> = None;
        for file in files.files() {
            let gguf = Gguf::read(file)?;
            let split = match &set {
                Some(set) => set.split,
                None => match Split::of(&gguf).context(|| file.name())? {
                    None if count == 1 => return Ok(gguf),
                    split => Split {
                        count,
                        ..expected(split, count).context(|| file.name())?
                    },
                },
            };
            let set = set.get_or_insert_with(|| Set::new(split));
            set.add(file.name().to_owned(), Some(gguf))?;
        }
        set.ok_or_else(|| Error::format("no file"))?.finish()
    }

    /// An error that names the first part that is missing.
    pub fn check_complete(&self) -> Result<()> {
        let missing = || self.parts.iter().filter(|p| p.len.is_none());
        let Some(first) = missing().next() else {
            return Ok(());
        };
        let (n, count) = (missing().count(), self.parts.len());
        let are = if n == 1 { "is" } else { "are" };
        Err(Error::format(format!(
            "{}: {n} of {count} parts of the split model {are} missing, wanted first: {}",
            self.name, first.name
        )))
    }

    /// The part that holds `offset`, an offset in the set of files, and its number, from 0.
    pub fn part_at(&self, offset: u64) -> (usize, &Part) {
        let mut parts = self.parts.iter().enumerate().rev();
        let holds = parts.find(|(_, p)| p.len.is_some() && p.start <= offset);
        // The first part is always there and begins at 0.
        holds.unwrap_or((0, &self.parts[0]))
    }
}

/// What the keys of a part say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Split {
    /// Its number, from 0.
    no: u64,
    /// Parts of the set.
    count: u64,
    /// Tensors of all parts.
    n_tensors: u64,
}

impl Split {
    /// `None` for a whole file.
    fn of(gguf: &Gguf) -> Result<Option<Split>> {
        let count = u64::from(gguf.opt_u32(COUNT)?.unwrap_or(1));
        if count <= 1 {
            return Ok(None);
        }
        bounded(count, COUNT, LIMITS.parts)?;
        let (no, n_tensors) = (u64::from(gguf.u32(NO)?), u64::from(gguf.u32(TENSORS)?));
        if no >= count {
            let range = format!("0 to {}", count - 1);
            return Err(Error::format(format!(
                "key {NO}: found {no}, expected {range}"
            )));
        }
        Ok(Some(Split {
            no,
            count,
            n_tensors,
        }))
    }
}

/// The name of a part: `NAME-00001-of-00004.gguf`.
struct PartName {
    folder: PathBuf,
    /// What stands before the numbers.
    prefix: String,
    /// From 0.
    no: u64,
    count: u64,
}

impl PartName {
    fn of(path: &Path) -> Option<PartName> {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = name.rsplit_once("-of-")?;
        let (prefix, no) = rest.rsplit_once('-')?;
        let number = |digits: &str| {
            let plain = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse().ok())?
        };
        let (no, count): (u64, u64) = (number(no)?, number(count)?);
        (1..=count).contains(&no).then(|| PartName {
            folder: path.parent().map(Path::to_owned).unwrap_or_default(),
            prefix: prefix.to_owned(),
            no: no - 1,
            count,
        })
    }

    fn ending(no: u64, count: u64) -> String {
        format!("-{:05}-of-{count:05}.gguf", no + 1)
    }

    /// The path of another part.
    fn path(&self, no: u64) -> PathBuf {
        let ending = PartName::ending(no, self.count);
        self.folder.join(format!("{}{ending}", self.prefix))
    }

    /// An error when the keys say something else.
    fn check(&self, split: Split) -> Result<()> {
        if (self.no, self.count) == (split.no, split.count) {
            return Ok(());
        }
        Err(Error::format(format!(
            "named part {} of {}, but its keys say part {} of {}: was it renamed, or swapped with another?",
            self.no + 1,
            self.count,
            split.no + 1,
            split.count
        )))
    }
}

/// The keys of a part of a set of `count`, which must be there.
fn expected(split: Option<Split>, count: u64) -> Result<Split> {
    split.ok_or_else(|| {
        Error::format(format!(
            "key {COUNT} is missing, expected {count}: no part of this set"
        ))
    })
}

/// The headers of parts as they become one.
struct Set {
    /// What is known of the set, from one of its parts.
    split: Split,
    /// That of the first part, and what was added to it.
    gguf: Option<Gguf>,
    /// Where the next part begins.
    next: u64,
}

impl Set {
    fn new(split: Split) -> Set {
        Set {
            split,
            gguf: None,
            next: 0,
        }
    }

    /// Adds the next part, `None` if it is not there.
    fn add(&mut self, name: String, gguf: Option<Gguf>) -> Result<()> {
        let mut part = Part {
            name,
            len: None,
            whole_len: 0,
            start: self.next,
            data_start: self.next,
            n_tensors: 0,
        };
        let Some(mut gguf) = gguf else {
            let count = self.split.count;
            let all = self.gguf.as_mut().ok_or_else(|| {
                Error::format(format!(
                    "part 1 of {count} of the split model, with the metadata, is missing, wanted first: {}",
                    part.name
                ))
            })?;
            all.parts.push(part);
            return Ok(());
        };
        let no = self.gguf.as_ref().map_or(0, |all| all.parts.len());
        self.check(no as u64, &gguf).context(|| &part.name)?;
        part.len = Some(gguf.file_len);
        part.whole_len = gguf.parts.iter().map(|p| p.whole_len).sum();
        part.data_start += gguf.data_start;
        part.n_tensors = gguf.tensors.len();
        let len = gguf.file_len.max(part.whole_len);
        self.next = FileSet::<File>::start_behind(part.start, len)?;
        for tensor in &mut gguf.tensors {
            tensor.extent.offset += part.start; // below `next`
        }
        let Some(all) = &mut self.gguf else {
            gguf.parts = vec![part];
            self.gguf = Some(gguf);
            return Ok(());
        };
        let n_tensors = (all.tensors.len() + gguf.tensors.len()) as u64;
        bounded(n_tensors, "tensor count", LIMITS.tensors)?;
        all.tensors.extend(gguf.tensors);
        all.refused.extend(gguf.refused);
        let notes = gguf.notes.iter();
        let notes = notes.map(|note| format!("{}: {note}", part.name));
        all.notes.extend(notes);
        all.file_len += gguf.file_len;
        all.parts.push(part);
        Ok(())
    }

    /// An error when a part is not number `no` of this set.
    fn check(&self, no: u64, part: &Gguf) -> Result<()> {
        let found = expected(Split::of(part)?, self.split.count)?;
        for (key, found, expected) in [
            (COUNT, found.count, self.split.count),
            (NO, found.no, no),
            (TENSORS, found.n_tensors, self.split.n_tensors),
        ] {
            if found != expected {
                return Err(Error::format(format!(
                    "key {key}: found {found}, expected {expected}: a part of another set, or another part of this one?"
                )));
            }
        }
        self.gguf
            .as_ref()
            .map_or(Ok(()), |all| all.check_alike(part))
    }

    /// The header of all of them.
    fn finish(self) -> Result<Gguf> {
        let mut all = self.gguf.ok_or_else(|| Error::format("no file"))?;
        all.index_tensors(|all, twice| {
            let part = |i: usize| &all.part_at(all.tensors[i].extent.offset).1.name;
            let [a, b] = twice.map(part);
            format!("tensor {} is in {a} and in {b}", all.tensors[twice[0]].name)
        })?;
        let found = (all.tensors.len() + all.refused.len()) as u64;
        let expected = self.split.n_tensors;
        if all.check_complete().is_ok() && found != expected {
            let (name, n) = (&all.name, all.parts.len());
            return Err(Error::format(format!(
                "{name}: found {found} tensors in {n} parts, expected {expected} (key {TENSORS})"
            )));
        }
        Ok(all)
    }
}

impl Gguf {
    /// An error when a later part has a key with another value than the first.
    fn check_alike(&self, part: &Gguf) -> Result<()> {
        for (key, value) in &part.metadata {
            let is_own = key == NO || key == ALIGNMENT_KEY;
            match self.value(key) {
                Some(first) if !is_own && first != value => {
                    let (found, expected) = (value.summary(), first.summary());
                    return Err(Error::format(format!(
                        "key {key}: found {found}, expected {expected} as in {}: a part of another model?",
                        self.name
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_have_two_numbers_of_five_digits() {
        let name = |text: &str| PartName::of(Path::new(text)).map(|p| (p.prefix, p.no, p.count));
        let part = |prefix: &str, no, count| Some((prefix.to_owned(), no, count));
        assert_eq!(name("/a/m-00001-of-00004.gguf"), part("m", 0, 4));
        assert_eq!(name("m-of-x-00012-of-00012.gguf"), part("m-of-x", 11, 12));
        assert_eq!(name("-00002-of-00003.gguf"), part("", 1, 3));
        for other in [
            "m.gguf",
            "m-00001-of-00004",
            "m-00001-of-00004.gguf.part",
            "m-1-of-4.gguf",
            "m-00005-of-00004.gguf",
            "m-00000-of-00004.gguf",
            "m-0000a-of-00004.gguf",
            "m-+0001-of-00004.gguf",
            "m00001-of-00004.gguf",
        ] {
            assert_eq!(name(other), None, "{other}");
        }
        let again = PartName::of(Path::new("/a/b/m-00001-of-00004.gguf")).unwrap();
        assert_eq!(again.path(2), Path::new("/a/b/m-00003-of-00004.gguf"));
    }
}
