//! Which dispatches are in each other's way.
//!
//! What a kernel touches is not declared. It is sure to touch the first byte of each argument, and what changed while it ran
//! it has written; what it reads shows when two orders of dispatches give two results (`execute.rs`).

use super::Key;

/// What a dispatch touched.
#[derive(Clone, Default)]
pub(super) struct Touched {
    /// The kernel, for messages.
    pub(super) kernel: String,
    pub(super) encoder: Key,
    pub(super) arguments: Vec<Argument>,
    pub(super) written: Vec<Written>,
}

/// The first byte of a kernel's argument.
#[derive(Clone, Copy)]
pub(super) struct Argument {
    pub(super) buffer: Key,
    pub(super) address: usize,
    pub(super) writes: bool,
    /// Whether the device orders encoders that touch the buffer.
    pub(super) tracked: bool,
}

/// Bytes that changed.
#[derive(Clone, Copy)]
pub(super) struct Written {
    pub(super) buffer: Key,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) tracked: bool,
}

/// What ran in the past and may, for all the program knows, still run.
#[derive(Default)]
pub(super) struct History(Vec<(usize, Touched)>);

impl Touched {
    /// An address that two dispatches touch, one of them writing, so that their order matters. Between encoders the
    /// device sees to the order of what it tracks, which it does by buffer: memory of two buffers it does not (inferred).
    pub(super) fn conflict(&self, other: &Touched) -> Option<usize> {
        let one_encoder = self.encoder == other.encoder;
        let unordered =
            |buffers: (Key, Key), tracked: bool| one_encoder || !tracked || buffers.0 != buffers.1;
        for a in &self.arguments {
            for b in &other.arguments {
                if a.address == b.address
                    && (a.writes || b.writes)
                    && unordered((a.buffer, b.buffer), a.tracked && b.tracked)
                {
                    return Some(a.address);
                }
            }
        }
        let first_within = |written: &Written, arguments: &[Argument]| {
            let mut arguments = arguments.iter();
            let hit = arguments.find(|a| {
                (written.start..written.end).contains(&a.address)
                    && unordered((written.buffer, a.buffer), written.tracked && a.tracked)
            });
            hit.map(|a| a.address)
        };
        for a in &self.written {
            if let Some(address) = first_within(a, &other.arguments) {
                return Some(address);
            }
            for b in &other.written {
                if a.start < b.end
                    && b.start < a.end
                    && unordered((a.buffer, b.buffer), a.tracked && b.tracked)
                {
                    return Some(a.start.max(b.start));
                }
            }
        }
        let mut others = other.written.iter();
        others.find_map(|written| first_within(written, &self.arguments))
    }
}

impl History {
    /// What ran since `since` in another encoder and is in the way.
    pub(super) fn conflict(&self, touched: &Touched, since: usize) -> Option<(String, usize)> {
        let others = self.0.iter();
        let mut unordered =
            others.filter(|(when, other)| *when >= since && other.encoder != touched.encoder);
        unordered.find_map(|(_, other)| Some((other.kernel.clone(), touched.conflict(other)?)))
    }

    /// Adds what ran at `when`, and forgets what everybody waited for: before `since`.
    pub(super) fn add(&mut self, when: usize, touched: Touched, since: usize) {
        self.0.retain(|(when, _)| *when >= since);
        self.0.push((when, touched));
    }
}

/// The runs of words that differ, as offsets: of a number that changed, some bytes may be as before.
pub(super) fn differences(before: &[u8], after: &[u8]) -> Vec<(usize, usize)> {
    const BLOCK: usize = 4096;
    const WORD: usize = 4;
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let blocks = before.chunks(BLOCK).zip(after.chunks(BLOCK)).enumerate();
    for (n, (before, after)) in blocks.filter(|(_, (old, new))| old != new) {
        let words = before.chunks(WORD).zip(after.chunks(WORD)).enumerate();
        for (i, (old, _)) in words.filter(|(_, (old, new))| old != new) {
            let start = n * BLOCK + i * WORD;
            let end = start + old.len();
            match runs.last_mut() {
                Some((_, last)) if *last == start => *last = end,
                _ => runs.push((start, end)),
            }
        }
    }
    runs
}
