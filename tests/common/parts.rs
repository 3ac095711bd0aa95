//! A model file cut into parts, as llama.cpp's gguf-split cuts it. It reads the file by itself: nothing of infall's reader
//! stands behind it.

use super::Folder;
use std::path::PathBuf;

/// Bytes of the widest page whose use is compared.
const PAGE: usize = 16 << 10;

/// Where tensors go in a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// One behind the other, as llama.cpp writes and reads them.
    Packed,
    /// As far into a page as in the whole file, so that reads of whole pages have the same lengths.
    SamePages,
}

/// One entry of the directory.
#[derive(Clone, Debug)]
struct Tensor {
    /// Name, dimensions and type, as they stand in the file.
    entry: Vec<u8>,
    /// In the whole file.
    start: usize,
    end: usize,
}

/// A file that was read.
pub struct Whole<'a> {
    bytes: &'a [u8],
    n_keys: u64,
    /// The entries of all keys, as they stand in the file.
    keys: &'a [u8],
    tensors: Vec<Tensor>,
    alignment: usize,
    /// A key with a text that parts after the first have too.
    pub extra: Option<(&'static str, &'static str)>,
}

/// Reads numbers one behind the other.
struct At<'a>(&'a [u8], usize);

impl<'a> At<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        self.1 += n;
        &self.0[self.1 - n..self.1]
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }

    fn string(&mut self) -> &'a [u8] {
        let n = self.u64() as usize;
        self.take(n)
    }

    fn skip_value(&mut self, kind: u32) {
        match kind {
            0 | 1 | 7 => drop(self.take(1)),
            2 | 3 => drop(self.take(2)),
            4..=6 => drop(self.take(4)),
            10..=12 => drop(self.take(8)),
            8 => drop(self.string()),
            9 => {
                let (kind, n) = (self.u32(), self.u64());
                (0..n).for_each(|_| self.skip_value(kind));
            }
            _ => panic!("type {kind}"),
        }
    }
}

impl<'a> Whole<'a> {
    pub fn read(bytes: &'a [u8]) -> Whole<'a> {
        let mut at = At(bytes, 8);
        let (n_tensors, n_keys) = (at.u64(), at.u64());
        let first = at.1;
        let mut alignment = 32;
        for _ in 0..n_keys {
            let (key, kind) = (at.string(), at.u32());
            if key == b"general.alignment" {
                let value = bytes[at.1..at.1 + 4].try_into().unwrap();
                alignment = u32::from_le_bytes(value) as usize;
            }
            at.skip_value(kind);
        }
        let keys = &bytes[first..at.1];
        let mut tensors = Vec::new();
        for _ in 0..n_tensors {
            let from = at.1;
            at.string();
            let n_dims = at.u32() as usize;
            at.take(8 * n_dims + 4);
            let entry = bytes[from..at.1].to_vec();
            let start = at.u64() as usize;
            let end = 0;
            tensors.push(Tensor { entry, start, end });
        }
        let data = at.1.next_multiple_of(alignment);
        let mut starts: Vec<usize> = tensors.iter().map(|t| t.start).collect();
        starts.push(bytes.len() - data);
        starts.sort_unstable();
        for tensor in &mut tensors {
            // Up to the next one: with the padding, which does no harm.
            let next = starts.iter().find(|s| **s > tensor.start).unwrap();
            (tensor.start, tensor.end) = (data + tensor.start, data + next);
        }
        Whole {
            bytes,
            n_keys,
            keys,
            tensors,
            alignment,
            extra: None,
        }
    }

    pub fn n_tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Parts with the tensors up to each of `ends`, which begin behind those of the part before.
    pub fn split(&self, ends: &[usize], place: Place) -> Vec<Vec<u8>> {
        let starts = std::iter::once(&0).chain(ends);
        let parts = starts.zip(ends).enumerate();
        let part = |(no, (from, to)): (usize, (&usize, &usize))| {
            let keys = [
                (no as u32, 2),
                (ends.len() as u32, 2),
                (self.n_tensors() as u32, 5),
            ];
            self.part(no == 0, keys, &self.tensors[*from..*to], place)
        };
        parts.map(part).collect()
    }

    /// A part with the split keys `keys`: value and type of `split.no`, `split.count` and `split.tensors.count`.
    fn part(
        &self,
        is_first: bool,
        keys: [(u32, u32); 3],
        tensors: &[Tensor],
        place: Place,
    ) -> Vec<u8> {
        let alignment = if is_first { self.alignment } else { 32 };
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((tensors.len() as u64).to_le_bytes());
        let extra = self.extra.filter(|_| !is_first);
        let n_others = if is_first {
            self.n_keys
        } else {
            extra.iter().len() as u64
        };
        out.extend((3 + n_others).to_le_bytes());
        if is_first {
            out.extend(self.keys);
        }
        let mut put = |text: &str, kind: &[u8]| {
            out.extend((text.len() as u64).to_le_bytes());
            out.extend(text.as_bytes());
            out.extend(kind);
        };
        if let Some((key, text)) = extra {
            put(key, &8u32.to_le_bytes());
            put(text, &[]);
        }
        for (name, (value, kind)) in ["split.no", "split.count", "split.tensors.count"]
            .iter()
            .zip(keys)
        {
            let n = if kind == 2 { 2 } else { 4 };
            put(
                name,
                &[&kind.to_le_bytes(), &value.to_le_bytes()[..n]].concat(),
            );
        }
        let directory: usize = tensors.iter().map(|t| t.entry.len() + 8).sum();
        let data = (out.len() + directory).next_multiple_of(alignment);
        let mut end = data;
        let mut placed = Vec::new();
        for tensor in tensors {
            let mut start = end.next_multiple_of(alignment);
            while place == Place::SamePages && start % PAGE != tensor.start % PAGE {
                start += alignment;
            }
            placed.push(start);
            end = start + tensor.end - tensor.start;
        }
        for (tensor, start) in tensors.iter().zip(&placed) {
            out.extend(&tensor.entry);
            out.extend((start - data).to_le_bytes());
        }
        for (tensor, start) in tensors.iter().zip(placed) {
            out.resize(start, 0);
            out.extend(&self.bytes[tensor.start..tensor.end]);
        }
        out.resize(out.len().max(data), 0);
        out
    }
}

/// The name of part `i`, from 0, of `n`.
pub fn part_name(i: usize, n: usize) -> String {
    format!("model-{:05}-of-{n:05}.gguf", i + 1)
}

/// Writes parts to a folder under their names.
pub fn write(folder: &Folder, parts: &[Vec<u8>]) -> Vec<PathBuf> {
    let one = |(i, bytes): (usize, &Vec<u8>)| {
        let name = part_name(i, parts.len());
        folder.write(&name, bytes);
        folder.path(&name)
    };
    parts.iter().enumerate().map(one).collect()
}
