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
        let split = match (&gguf, &name) {
            (Ok(gguf), _) => Split::of(gguf).context(|| &gguf.name)?,
            (Err(_), _) => None,
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
        // Before any other file is opened.
        let mut own = Some((file, gguf?));
        name.check(split).context(|| path.display())?;
        let (mut files, mut headers) = (Vec::new(), Vec::new());
        for no in 0..split.count {
            let other = name.path(no);
            if no == split.no
                && let Some((file, gguf)) = own.take()
            {
                files.push(file);
                headers.push((gguf.name.clone(), Some(gguf)));
            } else if other.exists() {
                let file = File::open(&other)?;
                headers.push((file.name().to_owned(), Some(Gguf::survey(&file)?)));
                files.push(file);
            } else {
                headers.push((other.display().to_string(), None));
            }
        }
        let gguf = join(headers, split)?;
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
        let read = |file: &F| Ok((file.name().to_owned(), Some(Gguf::read(file)?)));
        let headers = files.files().map(read).collect::<Result<Vec<_>>>()?;
        let first = headers.first().and_then(|(_, gguf)| gguf.as_ref());
        let count = headers.len() as u64;
        match first.map(Split::of).transpose()?.flatten() {
            Some(split) => join(headers, Split { count, ..split }),
            None if count == 1 => single(headers),
            None => Err(Error::format(format!(
                "{}: key {COUNT} is missing, expected {count}, the number of parts",
                files.name()
            ))),
        }
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
        let there = self.parts.iter().enumerate();
        let there = there.filter(|(_, p)| p.len.is_some() && p.start <= offset);
        // The first part is always there and begins at 0.
        there.last().unwrap_or((0, &self.parts[0]))
    }
}

fn single(headers: Vec<(String, Option<Gguf>)>) -> Result<Gguf> {
    let mut ggufs = headers.into_iter().filter_map(|(_, gguf)| gguf);
    ggufs.next().ok_or_else(|| Error::format("no file"))
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

/// One header of all parts; `split` is what one of them says of the set.
fn join(headers: Vec<(String, Option<Gguf>)>, split: Split) -> Result<Gguf> {
    for (no, (name, gguf)) in (0..).zip(&headers) {
        if let Some(gguf) = gguf {
            check_part(gguf, Split { no, ..split }).context(|| name)?;
        }
    }
    let lens = headers
        .iter()
        .map(|(_, gguf)| gguf.as_ref().map(Gguf::len_with_all));
    let lens: Vec<Option<u64>> = lens.collect();
    let mut starts =
        FileSet::<File>::starts_of(lens.iter().map(|len| len.unwrap_or(0)))?.into_iter();
    let mut headers = headers.into_iter();
    let mut place = |(name, gguf): (String, Option<Gguf>)| {
        let start = starts.next().unwrap_or(0);
        let mut part = Part {
            name,
            len: None,
            whole_len: 0,
            start,
            data_start: start,
            n_tensors: 0,
        };
        let gguf = gguf.map(|mut gguf| {
            part.len = Some(gguf.file_len);
            part.whole_len = gguf.parts.iter().map(|p| p.whole_len).sum();
            part.data_start += gguf.data_start;
            part.n_tensors = gguf.tensors.len();
            for tensor in &mut gguf.tensors {
                tensor.extent.offset += start; // the set's length fits 64 bits
            }
            gguf
        });
        (part, gguf)
    };
    let (first, gguf) = match headers.next() {
        Some(header) => place(header),
        None => return Err(Error::format("no file")),
    };
    let Some(mut all) = gguf else {
        let (name, count) = (&first.name, lens.len());
        return Err(Error::format(format!(
            "part 1 of {count} of the split model, with the metadata, is missing, wanted first: {name}"
        )));
    };
    all.parts = vec![first];
    for header in headers {
        let (part, gguf) = place(header);
        if let Some(gguf) = gguf {
            all.check_alike(&gguf).context(|| &part.name)?;
            bounded(
                (all.tensors.len() + gguf.tensors.len()) as u64,
                "tensor count",
                LIMITS.tensors,
            )?;
            let notes = gguf.notes.iter();
            all.notes
                .extend(notes.map(|note| format!("{}: {note}", part.name)));
            all.tensors.extend(gguf.tensors);
            all.refused.extend(gguf.refused);
            all.file_len += gguf.file_len;
        }
        all.parts.push(part);
    }
    all.index_tensors(|all, twice| {
        let parts = twice.map(|i| &*all.part_at(all.tensors[i].extent.offset).1.name);
        format!(
            "tensor {} is in {} and in {}",
            all.tensors[twice[0]].name, parts[0], parts[1]
        )
    })?;
    let found = (all.tensors.len() + all.refused.len()) as u64;
    let expected = split.n_tensors;
    if all.check_complete().is_ok() && found != expected {
        let name = &all.name;
        let n = all.parts.len();
        return Err(Error::format(format!(
            "{name}: found {found} tensors in {n} parts, expected {expected} (key {TENSORS})"
        )));
    }
    Ok(all)
}

/// An error when a part is not the one that it should be.
fn check_part(gguf: &Gguf, expected: Split) -> Result<()> {
    let Some(found) = Split::of(gguf)? else {
        return Err(Error::format(format!(
            "key {COUNT} is missing, expected {}: no part of this set",
            expected.count
        )));
    };
    for (key, found, expected) in [
        (COUNT, found.count, expected.count),
        (NO, found.no, expected.no),
        (TENSORS, found.n_tensors, expected.n_tensors),
    ] {
        if found != expected {
            let part = expected.to_string();
            return Err(Error::format(format!(
                "key {key}: found {found}, expected {part}: a part of another set, or another part of this one?"
            )));
        }
    }
    Ok(())
}

impl Gguf {
    /// Bytes of the file, or those that it has when all of its tensors are there.
    fn len_with_all(&self) -> u64 {
        let whole = self.parts.iter().map(|p| p.whole_len);
        self.file_len.max(whole.max().unwrap_or(0))
    }

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
