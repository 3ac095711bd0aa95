//! GGUF files: header, metadata and tensor directory. Source: the GGUF format document, versions 2 and 3.
//!
//! ```text
//! "GGUF"  version u32  n_tensors u64  n_kv u64
//! n_kv     x  key string, type u32, value
//! n_tensors x name string, n_dims u32, dims u64 (fastest first), type u32, offset u64
//! padding to the alignment
//! data     tensor offsets count from here
//! ```
//!
//! Everything in a [`Gguf`] has been checked: names are unique, shapes are whole blocks, data lies in the file.

pub mod cursor;
mod split;
mod value;
pub mod writer;

pub use split::{Part, header, open, survey};
pub use value::Value;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::os::ReadAt;
use crate::quant::Format;
use crate::units::Extent;
use cursor::Cursor;

/// Bounds of a file's header; each is far above what a real file has.
struct Limits {
    /// Bytes before the tensor data.
    header_bytes: u64,
    /// Files that a model is split into.
    parts: u64,
    /// Memory of all metadata values together.
    metadata_bytes: u64,
    /// Entries of the tensor directory.
    tensors: u64,
    /// Metadata entries.
    keys: u64,
    /// Bytes of a key or a tensor name.
    name: u64,
    /// Bytes of a metadata string.
    string: u64,
    /// Elements of a metadata array.
    array: u64,
    /// Dimensions of a tensor.
    dims: u32,
    /// `general.alignment`.
    alignment: std::ops::RangeInclusive<u32>,
}

const LIMITS: Limits = Limits {
    header_bytes: 128 << 20,
    parts: 256,
    metadata_bytes: 64 << 20,
    tensors: 1 << 16,
    keys: 1 << 16,
    name: 256,
    string: 8 << 20,
    array: 1 << 21,
    dims: 4,
    alignment: 8..=1 << 20,
};

/// The alignment of a file that names none.
const DEFAULT_ALIGNMENT: u32 = 32;

const MAGIC: [u8; 4] = *b"GGUF";
const ALIGNMENT_KEY: &str = "general.alignment";

/// One entry of the tensor directory.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Elements in each dimension, the fastest first, as in the file; one to four, none 0.
    pub dims: Vec<u64>,
    /// How its elements are stored.
    pub format: Format,
    /// Where its data lies, from the start of the file, or of the set of files that the model was split into.
    pub extent: Extent,
}

/// The header of a GGUF file, or of all files that a model was split into.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// The name of the file, of the first of several, for messages.
    pub name: String,
    /// Format version, 2 or 3.
    pub version: u32,
    /// Tensor offsets are multiples of this.
    pub alignment: u32,
    /// Offset of the tensor data, in the first file.
    pub data_start: u64,
    /// Bytes of the whole file, of all files together.
    pub file_len: u64,
    /// The files, one or several.
    pub parts: Vec<Part>,
    /// The tensor directory, in the order of the file.
    pub tensors: Vec<TensorInfo>,
    /// Why other tensors are not in it: their types are not read here.
    pub refused: Vec<Error>,
    /// Things worth telling that are no faults.
    pub notes: Vec<String>,
    metadata: Vec<(String, Value)>,
    /// Positions in `metadata`, by key.
    by_key: Vec<usize>,
    /// Positions in `tensors`, by name.
    by_name: Vec<usize>,
}

impl Gguf {
    /// Reads the header of `source`; tensor data is not touched.
    ///
    /// Errors: `Format` for malformed files, `Unsupported` for other versions, byte orders and tensor types,
    /// `Limit` for a header beyond the bounds, `Io` when the system refuses; each names the file.
    pub fn read(source: &dyn ReadAt) -> Result<Gguf> {
        let gguf = Gguf::survey(source)?;
        gguf.check_data()?;
        Ok(gguf)
    }

    /// Reads the header of a file whose data may still be on its way, or be of types that are not read here.
    ///
    /// Errors: as [`Gguf::read`], but for those of [`Gguf::check_data`].
    pub fn survey(source: &dyn ReadAt) -> Result<Gguf> {
        Gguf::read_header(source).context(|| source.name())
    }

    /// An error when a tensor is of no type that is read here, or not all there.
    pub fn check_data(&self) -> Result<()> {
        if let Some(error) = self.refused.first() {
            return Err(error.clone());
        }
        let Some(tensor) = self.beyond().next() else {
            return Ok(());
        };
        let (_, part) = self.part_at(tensor.extent.offset);
        let end = tensor.extent.end().unwrap_or(u64::MAX) - part.start;
        let (name, len) = (&part.name, part.len.unwrap_or(0));
        Err(Error::format(format!(
            "{name}: tensor {}: data ends at byte {end}, but the file has {len} bytes; is it cut off?",
            tensor.name
        )))
    }

    /// The tensors that end beyond their file.
    pub fn beyond(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.iter().filter(|tensor| {
            let (_, part) = self.part_at(tensor.extent.offset);
            let end = part.start.saturating_add(part.len.unwrap_or(0));
            tensor.extent.end().is_none_or(|e| e > end)
        })
    }

    fn read_header(source: &dyn ReadAt) -> Result<Gguf> {
        let mut cursor = Cursor::new(source, LIMITS.header_bytes);
        let version = read_version(&mut cursor)?;
        let n_tensors = bounded(cursor.u64("tensor count")?, "tensor count", LIMITS.tensors)?;
        let n_keys = bounded(cursor.u64("key count")?, "key count", LIMITS.keys)?;

        let metadata = read_metadata(&mut cursor, n_keys)?;
        let by_key = sorted_unique(metadata.len(), |i| metadata[i].0.as_str())
            .map_err(|[i, _]| Error::format(format!("key {} is there twice", metadata[i].0)))?;
        let mut gguf = Gguf {
            name: source.name().to_owned(),
            version,
            alignment: DEFAULT_ALIGNMENT,
            data_start: 0,
            file_len: source.len(),
            parts: Vec::new(),
            tensors: Vec::new(),
            refused: Vec::new(),
            notes: Vec::new(),
            metadata,
            by_key,
            by_name: Vec::new(),
        };
        if let Some(alignment) = gguf.opt_u32(ALIGNMENT_KEY)? {
            gguf.alignment = checked_alignment(alignment)?;
        }

        // Offsets count from the end of the directory, so they become absolute after the last entry.
        for index in 0..n_tensors {
            let tensor = read_tensor(&mut cursor, gguf.alignment)
                .context(|| format!("tensor {index} of {n_tensors}"));
            match tensor {
                Ok(tensor) => gguf.tensors.push(tensor),
                // Its entry was read to the end; the next one can be.
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    gguf.refused.push(error.context(source.name()));
                }
                Err(error) => return Err(error),
            }
        }
        gguf.index_tensors(|gguf, [i, _]| {
            format!("tensor {} is there twice", gguf.tensors[i].name)
        })?;
        let alignment = u64::from(gguf.alignment);
        gguf.data_start = cursor.offset().next_multiple_of(alignment); // the header is bounded
        let mut whole_len = gguf.data_start;
        for tensor in &mut gguf.tensors {
            let end =
                place(tensor, gguf.data_start).context(|| format!("tensor {}", tensor.name))?;
            whole_len = whole_len.max(end);
        }
        gguf.notes.extend(overlap_note(&gguf.tensors));
        gguf.parts.push(Part {
            name: gguf.name.clone(),
            len: Some(gguf.file_len),
            whole_len,
            start: 0,
            data_start: gguf.data_start,
            n_tensors: gguf.tensors.len(),
        });
        Ok(gguf)
    }

    /// Orders the tensors by name; `told` says what to tell of two that have one.
    fn index_tensors(&mut self, told: impl FnOnce(&Gguf, [usize; 2]) -> String) -> Result<()> {
        match sorted_unique(self.tensors.len(), |i| &self.tensors[i].name) {
            Ok(order) => self.by_name = order,
            Err(twice) => return Err(Error::format(told(self, twice))),
        }
        Ok(())
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let found = self
            .by_name
            .binary_search_by(|i| self.tensors[*i].name.as_str().cmp(name));
        found.ok().map(|at| &self.tensors[self.by_name[at]])
    }

    /// The metadata keys, in the order of the file.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.iter().map(|(key, _)| key.as_str())
    }

    /// The metadata value of `key`.
    pub fn value(&self, key: &str) -> Option<&Value> {
        let found = self
            .by_key
            .binary_search_by(|i| self.metadata[*i].0.as_str().cmp(key));
        found.ok().map(|at| &self.metadata[self.by_key[at]].1)
    }

    /// The text of `key`, if the key is there.
    pub fn opt_string(&self, key: &str) -> Result<Option<&str>> {
        self.opt(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// The text of `key`.
    pub fn string(&self, key: &str) -> Result<&str> {
        required(key, self.opt_string(key)?)
    }

    /// The number of `key`, in any integer type, if the key is there.
    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>> {
        self.opt(key, "an integer of 0 to 4294967295", Value::as_int)
    }

    /// The number of `key`, in any integer type.
    pub fn u32(&self, key: &str) -> Result<u32> {
        required(key, self.opt_u32(key)?)
    }

    /// The number of `key`, in any numeric type, if the key is there. It may be infinite or NaN.
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>> {
        self.opt(key, "a number", Value::as_f32)
    }

    /// The number of `key`, in any numeric type. It may be infinite or NaN.
    pub fn f32(&self, key: &str) -> Result<f32> {
        required(key, self.opt_f32(key)?)
    }

    /// The bool of `key`, if the key is there.
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        self.opt(key, "a bool", |value| match value {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// The array of `key`, in any integer type.
    pub fn u32_array(&self, key: &str) -> Result<Vec<u32>> {
        let expected = "an array of integers of 0 to 4294967295";
        required(key, self.opt(key, expected, Value::as_ints)?)
    }

    /// The array of `key`, in any integer type, if the key is there.
    pub fn opt_i32_array(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.opt(key, "an array of 32-bit integers", Value::as_ints)
    }

    /// The array of `key`, in any numeric type. Elements may be infinite or NaN.
    pub fn f32_array(&self, key: &str) -> Result<Vec<f32>> {
        required(key, self.opt(key, "an array of numbers", Value::as_f32s)?)
    }

    /// The array of texts of `key`.
    pub fn string_array(&self, key: &str) -> Result<&[String]> {
        let strings = self.opt(key, "an array of strings", |value| match value {
            Value::Strings(texts) => Some(texts.as_slice()),
            _ => None,
        })?;
        required(key, strings)
    }

    /// The value of `key` as `read` sees it; an error when the key is there and `read` finds no such thing.
    fn opt<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(found) => Ok(Some(found)),
            None => Err(Error::format(format!(
                "key {key}: found {}, expected {expected}",
                describe(value)
            ))),
        }
    }
}

fn required<T>(key: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::format(format!("key {key} is missing")))
}

/// The value where it is short, else what it is.
fn describe(value: &Value) -> String {
    match value {
        Value::Uint(v) => v.to_string(),
        Value::Int(v) => v.to_string(),
        Value::Float(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        other => other.kind().to_owned(),
    }
}

fn bounded(count: u64, what: &str, limit: u64) -> Result<u64> {
    if count > limit {
        return Err(Error::limit(what, count, limit));
    }
    Ok(count)
}

fn read_version(cursor: &mut Cursor) -> Result<u32> {
    let magic = cursor.take(4, "magic")?;
    if magic != MAGIC {
        let found = magic.escape_ascii();
        return Err(Error::format(format!(
            "not a GGUF file: starts with \"{found}\", expected \"GGUF\""
        )));
    }
    let version = cursor.u32("version")?;
    match version {
        2 | 3 => Ok(version),
        1 => Err(Error::unsupported(
            "GGUF version 1; versions 2 and 3 are read",
        )),
        _ if matches!(version.swap_bytes(), 1..=3) => Err(Error::unsupported(
            "big-endian GGUF file; little-endian files are read",
        )),
        _ => Err(Error::unsupported(format!(
            "GGUF version {version}; versions 2 and 3 are read"
        ))),
    }
}

fn read_metadata(cursor: &mut Cursor, count: u64) -> Result<Vec<(String, Value)>> {
    let mut budget = LIMITS.metadata_bytes;
    let mut metadata = Vec::new();
    for index in 0..count {
        let key = cursor
            .string(LIMITS.name, "key")
            .context(|| format!("key {index} of {count}"))?;
        let value = Value::read(cursor, &mut budget).context(|| format!("key {key}"))?;
        metadata.push((key, value));
    }
    Ok(metadata)
}

fn checked_alignment(alignment: u32) -> Result<u32> {
    if alignment.is_power_of_two() && LIMITS.alignment.contains(&alignment) {
        return Ok(alignment);
    }
    let (low, high) = (LIMITS.alignment.start(), LIMITS.alignment.end());
    Err(Error::format(format!(
        "key {ALIGNMENT_KEY}: found {alignment}, expected a power of two from {low} to {high}"
    )))
}

/// Reads one entry of the directory; the extent's offset counts from the start of the data.
fn read_tensor(cursor: &mut Cursor, alignment: u32) -> Result<TensorInfo> {
    let name = cursor.string(LIMITS.name, "name")?;
    read_shape(cursor, alignment)
        .context(|| format!("{name:?}"))
        .map(|(dims, format, extent)| TensorInfo {
            name,
            dims,
            format,
            extent,
        })
}

fn read_shape(cursor: &mut Cursor, alignment: u32) -> Result<(Vec<u64>, Format, Extent)> {
    let n_dims = cursor.u32("dimension count")?;
    if n_dims == 0 || n_dims > LIMITS.dims {
        let limit = LIMITS.dims;
        return Err(Error::format(format!(
            "found {n_dims} dimensions, expected 1 to {limit}"
        )));
    }
    let dims = (0..n_dims)
        .map(|_| cursor.u64("dimension"))
        .collect::<Result<Vec<_>>>()?;
    let (id, offset) = (cursor.u32("type")?, cursor.u64("offset")?);
    let format = Format::from_id(id)?;
    let len = data_len(&dims, format)?;
    if !offset.is_multiple_of(u64::from(alignment)) {
        return Err(Error::format(format!(
            "offset {offset} is no multiple of the alignment {alignment}"
        )));
    }
    Ok((dims, format, Extent { offset, len }))
}

/// Bytes of a tensor of these dimensions.
fn data_len(dims: &[u64], format: Format) -> Result<u64> {
    let fault = |why: &str| Error::format(format!("dims {dims:?}: {why}"));
    if dims.contains(&0) {
        return Err(fault("a dimension is 0"));
    }
    let (cols, rows) = dims.split_first().ok_or_else(|| fault("no dimension"))?;
    let block = format.block_len() as u64;
    if !cols.is_multiple_of(block) {
        let name = format.name();
        return Err(fault(&format!(
            "rows of {cols} are no whole blocks of {block} of type {name}"
        )));
    }
    usize::try_from(*cols)
        .ok()
        .and_then(|cols| format.row_bytes(cols))
        .and_then(|bytes| {
            rows.iter()
                .try_fold(bytes as u64, |len, n| len.checked_mul(*n))
        })
        .ok_or_else(|| fault("the size overflows 64 bits"))
}

/// Makes the extent absolute and gives its end.
fn place(tensor: &mut TensorInfo, data_start: u64) -> Result<u64> {
    let extent = &mut tensor.extent;
    let offset = extent.offset.checked_add(data_start);
    offset
        .and_then(|offset| {
            extent.offset = offset;
            extent.end()
        })
        .ok_or_else(|| Error::format("offset and length overflow 64 bits"))
}

/// The indices 0..n sorted by name, or two whose names are equal.
fn sorted_unique<'a>(
    n: usize,
    name: impl Fn(usize) -> &'a str,
) -> std::result::Result<Vec<usize>, [usize; 2]> {
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|i| name(*i));
    match order.windows(2).find(|w| name(w[0]) == name(w[1])) {
        Some(pair) => Err([pair[0], pair[1]]),
        None => Ok(order),
    }
}

/// Says which tensors share bytes, if any do: allowed, but most often a fault of the file's writer.
fn overlap_note(tensors: &[TensorInfo]) -> Option<String> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|t| t.extent.offset);
    let mut widest: Option<(&TensorInfo, u64)> = None; // the tensor that reaches farthest so far
    let mut n_overlaps = 0usize;
    let mut first = None;
    for tensor in order {
        let end = tensor.extent.end().unwrap_or(u64::MAX);
        match widest {
            Some((other, reach)) if tensor.extent.offset < reach => {
                n_overlaps += 1;
                first.get_or_insert((other, tensor));
                if end > reach {
                    widest = Some((tensor, end));
                }
            }
            _ => widest = Some((tensor, end)),
        }
    }
    let (a, b) = first?;
    Some(format!(
        "{n_overlaps} tensors share data with another, first {} with {}",
        b.name, a.name
    ))
}

#[cfg(test)]
mod tests;
