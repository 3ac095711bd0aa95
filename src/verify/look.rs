//! Tensors whose bytes come in pieces: which of their scales are no numbers.

use crate::gguf::TensorInfo;
use crate::quant::scales::{Scale, Unusable};
use std::collections::HashSet;

/// More bytes than any block has: what the next piece may need of the one before.
const TAIL: usize = 256;

/// Tensors that are named; of a file that is damaged all over the first tell enough.
const MAX_NAMED: usize = 20;

/// Looks at the bytes of a file from its first to its last.
#[derive(Default)]
pub struct Look<'a> {
    tensors: Vec<Seen<'a>>,
    /// Where the next piece begins in the file.
    at: u64,
    /// The last bytes before it.
    tail: Vec<u8>,
}

/// What was seen of a tensor.
struct Seen<'a> {
    tensor: &'a TensorInfo,
    /// One past its last byte.
    end: u64,
    n_bad: u64,
    first: Option<Bad>,
    all_zero: bool,
}

/// A scale that is no number.
#[derive(Clone, Copy)]
struct Bad {
    /// The block, counted from the tensor's first.
    block: u64,
    scale: Scale,
    what: Unusable,
}

impl<'a> Look<'a> {
    /// Will look at those of `tensors` that lie in a file of `len` bytes. Where some are the same bytes in the same
    /// format, the first is looked at.
    pub fn new(tensors: &'a [TensorInfo], len: u64) -> Look<'a> {
        let mut known = HashSet::new();
        let mut seen = Vec::new();
        for tensor in tensors {
            let extent = tensor.extent;
            let end = extent.end().filter(|end| *end <= len);
            let (Some(end), true) = (
                end,
                known.insert((extent.offset, extent.len, tensor.format)),
            ) else {
                continue;
            };
            seen.push(Seen {
                tensor,
                end,
                n_bad: 0,
                first: None,
                all_zero: true,
            });
        }
        seen.sort_by_key(|s| s.tensor.extent.offset);
        Look {
            tensors: seen,
            at: 0,
            tail: vec![0; TAIL],
        }
    }

    /// Tensors that are looked at.
    pub fn n_tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Looks at the next piece of the file.
    pub fn at(&mut self, piece: &[u8]) {
        let end = self.at + piece.len() as u64;
        for seen in &mut self.tensors {
            if seen.tensor.extent.offset < end && seen.end > self.at {
                seen.look(self.at, piece, &self.tail);
            }
        }
        self.at = end;
        let new = &piece[piece.len().saturating_sub(TAIL)..];
        self.tail.drain(..new.len().min(self.tail.len()));
        self.tail.extend_from_slice(new);
    }

    /// What is wrong: of each tensor the first place.
    pub fn faults(&self) -> Vec<String> {
        let bad = || self.tensors.iter().filter(|s| s.n_bad > 0);
        let mut faults: Vec<String> = bad().take(MAX_NAMED).filter_map(Seen::fault).collect();
        let n_more = bad().count().saturating_sub(MAX_NAMED);
        if n_more > 0 {
            faults.push(format!("{n_more} more tensors have such scales"));
        }
        faults
    }

    /// Tensors of blocks that hold nothing but zeros: what a hole in a download looks like.
    pub fn notes(&self) -> Option<String> {
        let zero = || {
            let blocks = self.tensors.iter();
            blocks.filter(|s| s.all_zero && s.tensor.format.block_len() > 1)
        };
        let first = zero().next()?;
        Some(format!(
            "{} tensors hold nothing but zeros, first {}: is that a hole in the download?",
            zero().count(),
            first.tensor.name
        ))
    }
}

impl Seen<'_> {
    /// Looks at a piece that begins at byte `at` of the file, behind `tail`.
    fn look(&mut self, at: u64, piece: &[u8], tail: &[u8]) {
        let (start, block_bytes) = (
            self.tensor.extent.offset,
            self.tensor.format.block_bytes() as u64,
        );
        let n = (self.end - at).min(piece.len() as u64) as usize;
        let (piece, mut block) = (&piece[..n], 0);
        let mut rest = if start >= at {
            &piece[(start - at) as usize..]
        } else {
            block = (at - start) / block_bytes;
            let n_before = ((at - start) % block_bytes) as usize;
            if n_before == 0 {
                piece
            } else {
                // A block that the border cuts; a short last piece may not hold its end.
                let n_here = piece.len().min(block_bytes as usize - n_before);
                let (here, rest) = piece.split_at(n_here);
                let whole = [&tail[tail.len() - n_before..], here].concat();
                self.blocks(&whole, block);
                block += 1;
                rest
            }
        };
        let n_whole = rest.len() as u64 / block_bytes * block_bytes;
        rest = &rest[..n_whole as usize];
        self.blocks(rest, block);
    }

    /// Looks at whole blocks, of which `first` is the first one's number.
    fn blocks(&mut self, bytes: &[u8], first: u64) {
        let format = self.tensor.format;
        self.all_zero = self.all_zero && bytes.iter().all(|b| *b == 0);
        for (block, bytes) in (first..).zip(bytes.chunks_exact(format.block_bytes())) {
            for scale in format.scales() {
                if let Some(what) = scale.unusable(bytes) {
                    self.n_bad += 1;
                    let scale = *scale;
                    self.first.get_or_insert(Bad { block, scale, what });
                }
            }
        }
    }

    /// Names the first place.
    fn fault(&self) -> Option<String> {
        let Bad { block, scale, what } = self.first?;
        let (tensor, format) = (self.tensor, self.tensor.format);
        let byte = tensor.extent.offset + block * format.block_bytes() as u64 + scale.offset as u64;
        let mut at = block * format.block_len() as u64;
        let mut place = Vec::new();
        for (name, n) in ["column", "row", "matrix", "stack"]
            .iter()
            .zip(&tensor.dims)
        {
            place.push(format!("{name} {}", at % n));
            at /= n;
        }
        place.reverse();
        let more = match self.n_bad {
            1 => String::new(),
            n => format!("; {} more in this tensor", n - 1),
        };
        Some(format!(
            "tensor {}: {} of {} is {} at byte {byte} ({}){more}",
            tensor.name,
            scale.name,
            format.name(),
            what.name(),
            place.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::Format;
    use crate::rng::Rng;
    use crate::units::Extent;

    fn tensor(name: &str, format: Format, n_blocks: u64, offset: u64) -> TensorInfo {
        TensorInfo {
            name: name.into(),
            dims: vec![n_blocks * format.block_len() as u64],
            format,
            extent: Extent {
                offset,
                len: n_blocks * format.block_bytes() as u64,
            },
        }
    }

    /// One piece is the twin of pieces of every length, blocks cut several times included.
    #[test]
    fn pieces_of_every_length_show_the_same() {
        let mut rng = Rng::new(3);
        let mut tensors = Vec::new();
        let mut at = 7;
        for format in Format::ALL {
            let t = tensor(format.name(), format, 40, at);
            at = t.extent.end().unwrap() + 5;
            tensors.push(t);
        }
        // Shares bytes with the first two, in another format.
        tensors.push(tensor("overlapping", Format::Mxfp4, 12, 9));
        let len = at;
        // Few scales are spoiled, so that the first place says something.
        let mut bytes = vec![0x11_u8; len as usize];
        for t in &tensors {
            for block in (0..40).filter(|b| *b == 5 || rng.below(8) == 0) {
                let n = t.format.block_bytes() as u64;
                for s in t.format.scales() {
                    let first = (t.extent.offset + block * n) as usize + s.offset;
                    let end = (first + 8).min(bytes.len());
                    bytes[first..end].fill(0xff);
                }
            }
        }
        let look = |piece: usize| {
            let mut look = Look::new(&tensors, len);
            bytes.chunks(piece).for_each(|part| look.at(part));
            look.tensors
                .iter()
                .filter_map(Seen::fault)
                .collect::<Vec<_>>()
        };
        let whole = look(bytes.len());
        // All formats but I32, and the one on top.
        assert_eq!(whole.len(), Format::ALL.len(), "{whole:#?}");
        for piece in (1..300).chain([997, 4096]) {
            assert_eq!(look(piece), whole, "pieces of {piece}");
        }
    }

    #[test]
    fn tensors_beyond_the_file_and_equal_ones_are_left_out() {
        let tensors = [
            tensor("a", Format::F32, 4, 0),
            tensor("alias of a", Format::F32, 4, 0),
            tensor("cut", Format::F32, 4, 8),
        ];
        assert_eq!(Look::new(&tensors, 16).n_tensors(), 1);
        assert_eq!(Look::new(&tensors, 24).n_tensors(), 2);
    }

    #[test]
    fn of_many_damaged_tensors_some_are_named() {
        let tensors: Vec<_> = (0..50)
            .map(|i| tensor(&format!("t{i}"), Format::F32, 4, 16 * i))
            .collect();
        let mut look = Look::new(&tensors, 800);
        look.at(&[0xff; 800]);
        let faults = look.faults();
        assert_eq!(faults.len(), MAX_NAMED + 1);
        assert_eq!(faults[MAX_NAMED], "30 more tensors have such scales");
        assert_eq!(
            faults[0],
            "tensor t0: weight of F32 is NaN at byte 0 (column 0); 3 more in this tensor"
        );
    }
}
