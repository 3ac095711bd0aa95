//! Broken model files: each is refused with an error or read as a sound value, quickly, and never panics.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::parts::{Place, Whole};
use infall::error::{Error, Result};
use infall::gguf::Gguf;
use infall::model::Model;
use infall::os::{FileSet, MemFile, ReadAt};
use infall::text::vocabulary::Vocabulary;
use infall::units::{ExpertId, Extent, LayerId};
use std::time::{Duration, Instant};

const GOLDEN: &[u8] = include_bytes!("golden/micro-q2.gguf");

/// No broken file may keep the program busy for longer.
const LONGEST: Duration = Duration::from_secs(1);

/// What every read file was turned into.
#[derive(Default, Debug)]
struct Outcomes {
    bound: usize,
    refused: usize,
    slowest: Duration,
}

impl Outcomes {
    /// Reads `file`; `case` names it when something goes wrong.
    fn read(&mut self, file: &dyn ReadAt, case: impl FnOnce() -> String) {
        self.survive(|| open(file), case);
    }

    /// Reads all `parts` of a model.
    fn read_parts(&mut self, parts: &[Changed], case: impl FnOnce() -> String) {
        let files = FileSet::new(parts.to_vec()).unwrap();
        self.survive(|| bind(Gguf::read_parts(&files)?), case);
    }

    fn survive(&mut self, work: impl FnOnce() -> Result<()>, case: impl FnOnce() -> String) {
        let start = Instant::now();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let took = start.elapsed();
        match result {
            Ok(Ok(())) => self.bound += 1,
            Ok(Err(error)) => {
                assert!(!error.to_string().is_empty());
                self.refused += 1;
            }
            Err(_) => panic!("panic with {}", case()),
        }
        assert!(took < LONGEST, "{took:?}");
        self.slowest = self.slowest.max(took);
    }
}

/// Reads and binds `file`, and checks what came out where there is no error.
fn open(file: &dyn ReadAt) -> Result<()> {
    let gguf = Gguf::read(file)?;
    assert_eq!(gguf.file_len, file.len());
    bind(gguf)
}

/// Whether an extent lies in the data of one file.
fn lies_in(gguf: &Gguf, extent: Extent) -> bool {
    let part = gguf.part_at(extent.offset).1;
    let end = part.start + part.len.unwrap();
    extent.end().unwrap() <= end && extent.offset >= part.data_start
}

fn bind(gguf: Gguf) -> Result<()> {
    for tensor in &gguf.tensors {
        assert!(lies_in(&gguf, tensor.extent));
        assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
    }
    let tokens = Vocabulary::read(&gguf);
    let model = Model::bind(gguf)?;
    for layer in 0..model.config.n_layer {
        for expert in [0, model.config.n_expert - 1] {
            let extents = model
                .experts
                .extents(LayerId(layer), ExpertId(expert as u32));
            for extent in [extents.gate, extents.up, extents.down] {
                assert!(lies_in(&model.gguf, extent));
            }
        }
    }
    let totals = model.byte_totals();
    assert!(totals.routed > 0 && totals.embedding > 0 && totals.fixed > 0);
    tokens.map(|_| ())
}

/// Offset of the tensor data of the golden file.
fn data_start() -> usize {
    let gguf = Gguf::read(&MemFile::new("golden", GOLDEN.to_vec())).unwrap();
    gguf.data_start as usize
}

/// Numbers from a seed (the generator is SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

#[test]
fn the_golden_file_is_sound() {
    open(&MemFile::new("golden", GOLDEN.to_vec())).unwrap();
}

/// The first `len` bytes of the golden file.
struct Cut {
    len: usize,
}

impl ReadAt for Cut {
    fn len(&self) -> u64 {
        self.len as u64
    }
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let range = offset as usize..offset as usize + buf.len();
        let bytes = GOLDEN[..self.len].get(range);
        buf.copy_from_slice(bytes.ok_or_else(|| Error::format("read past the end"))?);
        Ok(())
    }
    fn name(&self) -> &str {
        "cut"
    }
}

#[test]
fn every_truncation_is_refused() {
    let mut outcomes = Outcomes::default();
    let pages = (0..GOLDEN.len()).step_by(4096);
    let header = 0..data_start() + 64;
    let last = GOLDEN.len() - 64..GOLDEN.len();
    for len in pages.chain(header).chain(last) {
        outcomes.read(&Cut { len }, || format!("the first {len} bytes"));
    }
    println!("{outcomes:?}");
    assert_eq!(outcomes.bound, 0);
}

#[test]
fn every_changed_byte_of_the_header_is_survived() {
    let mut outcomes = Outcomes::default();
    let mut file = MemFile::new("changed", GOLDEN.to_vec());
    for (at, &old) in GOLDEN[..data_start()].iter().enumerate() {
        for new in [old ^ 1, old ^ 0x80, old.wrapping_add(1), 0xff] {
            file.bytes_mut()[at] = new;
            outcomes.read(&file, || format!("byte {at} set to {new}"));
        }
        file.bytes_mut()[at] = old;
    }
    println!("{outcomes:?}");
    assert!(outcomes.bound > 0 && outcomes.refused > 0);
}

#[test]
fn changes_anywhere_are_survived() {
    const SEED: u64 = 20_260_801;
    let mut random = Random(SEED);
    let mut outcomes = Outcomes::default();
    let mut file = MemFile::new("changed", GOLDEN.to_vec());
    let header = data_start() as u64;
    for round in 0..2_000 {
        // One to eight bytes: in every other round within the header, else anywhere.
        let end = if round % 2 == 0 {
            header
        } else {
            GOLDEN.len() as u64
        };
        let places: Vec<usize> = (0..1 + random.next() % 8)
            .map(|_| (random.next() % end) as usize)
            .collect();
        for at in &places {
            file.bytes_mut()[*at] = random.next() as u8;
        }
        outcomes.read(&file, || {
            format!("seed {SEED}, round {round}, bytes {places:?}")
        });
        for at in places {
            file.bytes_mut()[at] = GOLDEN[at];
        }
    }
    println!("{outcomes:?}");
}

/// Any eight or four bytes of the header replaced by a number that lies.
#[test]
fn lying_numbers_are_survived() {
    let mut outcomes = Outcomes::default();
    let mut file = MemFile::new("changed", GOLDEN.to_vec());
    let long = [u64::MAX, 1u64 << 40, 65_536];
    let short = [1u32 << 31, 9];
    for at in 0..data_start() - 8 {
        let lies = long.iter().map(|v| v.to_le_bytes().to_vec());
        let lies = lies.chain(short.iter().map(|v| v.to_le_bytes().to_vec()));
        for lie in lies {
            let range = at..at + lie.len();
            file.bytes_mut()[range.clone()].copy_from_slice(&lie);
            outcomes.read(&file, || format!("bytes {range:?} set to {lie:?}"));
            file.bytes_mut()[range.clone()].copy_from_slice(&GOLDEN[range]);
        }
    }
    println!("{outcomes:?}");
}

/// The counts of a file that holds nothing but zeros behind them: as slow as a file of its size can be.
#[test]
fn large_empty_files_are_refused_quickly() {
    let mut outcomes = Outcomes::default();
    for (n_tensors, n_keys) in [(65_536u64, 0u64), (0, 65_536), (0, u64::MAX), (u64::MAX, 0)] {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(n_tensors.to_le_bytes());
        bytes.extend(n_keys.to_le_bytes());
        bytes.resize(64 << 20, 0);
        let file = MemFile::new("zeros", bytes);
        outcomes.read(&file, || format!("{n_tensors} tensors, {n_keys} keys"));
    }
    println!("{outcomes:?}");
    assert_eq!(outcomes.bound, 0);
}

/// A part of the golden file, cut and changed.
#[derive(Clone)]
struct Changed<'a> {
    bytes: &'a [u8],
    changes: Vec<(usize, u8)>,
}

impl ReadAt for Changed<'_> {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let from = offset as usize;
        let bytes = self.bytes.get(from..from + buf.len());
        buf.copy_from_slice(bytes.ok_or_else(|| Error::format("read past the end"))?);
        for (at, new) in &self.changes {
            if let Some(byte) = at.checked_sub(from).and_then(|i| buf.get_mut(i)) {
                *byte = *new;
            }
        }
        Ok(())
    }
    fn name(&self) -> &str {
        "part"
    }
}

/// The golden file in three parts, the first without tensors, and where the data of each begins.
fn golden_parts() -> Vec<(Vec<u8>, usize)> {
    let whole = Whole::read(GOLDEN);
    let n = whole.n_tensors();
    let parts = whole.split(&[0, n / 2, n], Place::Packed);
    let start = |bytes: &Vec<u8>| {
        let gguf = Gguf::read(&MemFile::new("part", bytes.clone())).unwrap();
        (gguf.data_start as usize).min(bytes.len())
    };
    let with_start = |bytes| {
        let start = start(&bytes);
        (bytes, start)
    };
    parts.into_iter().map(with_start).collect()
}

fn unchanged(parts: &[(Vec<u8>, usize)]) -> Vec<Changed<'_>> {
    let mut all = Vec::new();
    for (bytes, _) in parts {
        let changes = Vec::new();
        all.push(Changed { bytes, changes });
    }
    all
}

#[test]
fn every_truncation_of_a_part_is_refused() {
    let parts = golden_parts();
    let mut outcomes = Outcomes::default();
    let mut set = unchanged(&parts);
    outcomes.read_parts(&set, || "no change".into());
    assert_eq!(outcomes.bound, 1, "the set is sound");
    for (i, (bytes, data_start)) in parts.iter().enumerate() {
        let pages = (0..bytes.len()).step_by(4096);
        // The metadata of the first part are cut at every byte in the whole file.
        let header = (0..(data_start + 64).min(bytes.len())).step_by(if i == 0 { 7 } else { 1 });
        let last = bytes.len() - 64..bytes.len();
        for len in pages.chain(header).chain(last) {
            // A part without tensors has nothing behind its header but what fills it up.
            if i == 0 && len + 32 > *data_start {
                continue;
            }
            set[i].bytes = &bytes[..len];
            outcomes.read_parts(&set, || format!("the first {len} bytes of part {i}"));
        }
        set[i].bytes = bytes;
    }
    println!("{outcomes:?}");
    assert_eq!(outcomes.bound, 1);
}

#[test]
fn changes_of_any_part_are_survived() {
    const SEED: u64 = 20_261_129;
    let parts = golden_parts();
    let mut outcomes = Outcomes::default();
    let mut set = unchanged(&parts);
    // Each byte of the headers of later parts, and of what the first has beside the metadata of the whole file.
    for (i, (bytes, data_start)) in parts.iter().enumerate() {
        let keys = bytes.windows(8).position(|w| w == b"split.no").unwrap();
        for at in (0..24).chain(keys - 8..*data_start) {
            let old = bytes[at];
            for new in [old ^ 1, 0xff] {
                set[i].changes = vec![(at, new)];
                outcomes.read_parts(&set, || format!("byte {at} of part {i} set to {new}"));
            }
        }
        set[i].changes.clear();
    }
    let mut random = Random(SEED);
    for round in 0..2_000 {
        let mut places = Vec::new();
        for _ in 0..1 + random.next() % 8 {
            let i = (random.next() % 3) as usize;
            let (bytes, data_start) = &parts[i];
            let end = if round % 2 == 0 {
                *data_start
            } else {
                bytes.len()
            };
            let at = (random.next() % end as u64) as usize;
            set[i].changes.push((at, random.next() as u8));
            places.push((i, at));
        }
        outcomes.read_parts(&set, || format!("seed {SEED}, round {round}, {places:?}"));
        set.iter_mut().for_each(|part| part.changes.clear());
    }
    println!("{outcomes:?}");
    assert!(outcomes.bound > 0 && outcomes.refused > 0);
}
