//! Automata over characters: each character leads to one state, and from each state an end can be reached.

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::hash::Hash;

/// The most states of an automaton.
const MAX_STATES: usize = 1 << 14;

/// The most ranges of characters in all its states.
const MAX_EDGES: usize = 1 << 18;

/// The last character.
pub const LAST: u32 = 0x10_FFFF;

/// The first half of a pair, the first and last of both halves: these are no characters.
pub const HALVES: (u32, u32) = (0xD800, 0xDFFF);

/// Characters from `low` to `high`, and where they lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The first.
    pub low: u32,
    /// The last.
    pub high: u32,
    /// The state behind them.
    pub next: u32,
}

/// An automaton. It begins in state 0; without states it accepts nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dfa {
    /// Per state, sorted and apart from each other.
    edges: Vec<Vec<Edge>>,
    accepts: Vec<bool>,
}

impl Dfa {
    /// Accepts every text.
    pub fn any() -> Dfa {
        Dfa {
            edges: vec![characters(0, LAST, 0).collect()],
            accepts: vec![true],
        }
    }

    /// Explores the states that can be reached from `start`: `look` tells whether a state accepts, and its ranges of
    /// characters, sorted and apart. States from which no end can be reached are left out.
    ///
    /// Errors: `Limit` for too many states or ranges.
    pub fn explore<K: Clone + Eq + Hash>(
        start: K,
        mut look: impl FnMut(&K) -> Result<(bool, Vec<(u32, u32, K)>)>,
    ) -> Result<Dfa> {
        let mut ids = HashMap::from([(start.clone(), 0)]);
        let (mut keys, mut edges, mut accepts) = (vec![start], Vec::new(), Vec::new());
        let mut n_edges = 0;
        while let Some(key) = keys.get(edges.len()).cloned() {
            let (accept, ranges) = look(&key)?;
            let mut row: Vec<Edge> = Vec::with_capacity(ranges.len());
            for (low, high, key) in ranges {
                let next = *ids.entry(key).or_insert_with_key(|key| {
                    keys.push(key.clone());
                    keys.len() as u32 - 1
                });
                for edge in characters(low, high, next) {
                    match row.last_mut() {
                        Some(last) if last.high + 1 == edge.low && last.next == next => {
                            last.high = edge.high
                        }
                        _ => row.push(edge),
                    }
                }
            }
            n_edges += row.len();
            if keys.len() > MAX_STATES || n_edges > MAX_EDGES {
                return Err(Error::limit("states of a pattern", keys.len(), MAX_STATES));
            }
            edges.push(row);
            accepts.push(accept);
        }
        Ok(Dfa { edges, accepts }.trimmed())
    }

    /// Without the states from which no end can be reached.
    fn trimmed(self) -> Dfa {
        let mut back = vec![Vec::new(); self.edges.len()];
        for (from, row) in self.edges.iter().enumerate() {
            row.iter()
                .for_each(|edge| back[edge.next as usize].push(from));
        }
        let mut alive = self.accepts.clone();
        let mut open: Vec<usize> = (0..alive.len()).filter(|state| alive[*state]).collect();
        while let Some(state) = open.pop() {
            for from in &back[state] {
                if !std::mem::replace(&mut alive[*from], true) {
                    open.push(*from);
                }
            }
        }
        if alive.first() != Some(&true) {
            return Dfa {
                edges: Vec::new(),
                accepts: Vec::new(),
            };
        }
        let mut n = 0;
        let names: Vec<u32> = (alive.iter())
            .map(|alive| {
                n += u32::from(*alive);
                n.wrapping_sub(1)
            })
            .collect();
        let (mut edges, mut accepts) = (Vec::new(), Vec::new());
        for state in (0..alive.len()).filter(|state| alive[*state]) {
            let row = self.edges[state].iter();
            let row = row.filter(|edge| alive[edge.next as usize]);
            let renamed = row.map(|edge| Edge {
                next: names[edge.next as usize],
                ..*edge
            });
            edges.push(renamed.collect());
            accepts.push(self.accepts[state]);
        }
        Dfa { edges, accepts }
    }

    /// What both accept.
    ///
    /// Errors: as [`Dfa::explore`].
    pub fn and(&self, other: &Dfa) -> Result<Dfa> {
        if self.is_empty() || other.is_empty() {
            return Ok(Dfa {
                edges: Vec::new(),
                accepts: Vec::new(),
            });
        }
        Dfa::explore((0, 0), |&(a, b)| {
            let (mut left, mut right) = (self.edges(a), other.edges(b));
            let mut both = Vec::new();
            while let ([x, ..], [y, ..]) = (left, right) {
                let (low, high) = (x.low.max(y.low), x.high.min(y.high));
                if low <= high {
                    both.push((low, high, (x.next, y.next)));
                }
                match x.high < y.high {
                    true => left = &left[1..],
                    false => right = &right[1..],
                }
            }
            Ok((self.accepts(a) && other.accepts(b), both))
        })
    }

    /// What it accepts and is none of `texts`.
    ///
    /// Errors: as [`Dfa::explore`].
    pub fn without(&self, texts: &[&str]) -> Result<Dfa> {
        let texts: Vec<Vec<u32>> = texts
            .iter()
            .map(|text| text.chars().map(u32::from).collect())
            .collect();
        // A state: the texts that begin with what was read, and how much that is; nothing once there are none.
        type Key = Option<(Vec<usize>, usize)>;
        let start: Key = (!texts.is_empty()).then(|| ((0..texts.len()).collect(), 0));
        let others = Dfa::explore(start, |key| {
            let Some((begun, n)) = key else {
                return Ok((true, vec![(0, LAST, None)]));
            };
            let mut next: Vec<(u32, Vec<usize>)> = Vec::new();
            for text in begun.iter().filter(|text| texts[**text].len() > *n) {
                let c = texts[*text][*n];
                match next.iter_mut().find(|(other, _)| *other == c) {
                    Some((_, all)) => all.push(*text),
                    None => next.push((c, vec![*text])),
                }
            }
            next.sort();
            let (mut edges, mut from) = (Vec::new(), 0);
            for (c, all) in next {
                if from < c {
                    edges.push((from, c - 1, None));
                }
                edges.push((c, c, Some((all, n + 1))));
                from = c + 1;
            }
            if from <= LAST {
                edges.push((from, LAST, None));
            }
            let is_one = begun.iter().any(|text| texts[*text].len() == *n);
            Ok((!is_one, edges))
        })?;
        self.and(&others)
    }

    /// What it accepts in which `mark` does not occur.
    ///
    /// Errors: as [`Dfa::explore`].
    pub fn without_mark(&self, mark: &str) -> Result<Dfa> {
        let mark: Vec<u32> = mark.chars().map(u32::from).collect();
        // A state: how much of the mark was read last. The next: the longest start of it that what was read ends with.
        let next = |n: usize, c: u32| {
            let read: Vec<u32> = mark[..n].iter().copied().chain([c]).collect();
            let ends = |k: &usize| read.ends_with(&mark[..*k]);
            (0..=read.len().min(mark.len()))
                .rev()
                .find(ends)
                .unwrap_or(0)
        };
        let mut of_mark = mark.clone();
        of_mark.sort_unstable();
        of_mark.dedup();
        let others = Dfa::explore(0, |n| {
            let (mut edges, mut from) = (Vec::new(), 0);
            for c in &of_mark {
                if from < *c {
                    edges.push((from, c - 1, 0));
                }
                let next = next(*n, *c);
                if next < mark.len() {
                    edges.push((*c, *c, next));
                }
                from = c + 1;
            }
            edges.push((from, LAST, 0));
            Ok((true, edges))
        })?;
        self.and(&others)
    }

    /// What it does not accept.
    ///
    /// Errors: as [`Dfa::explore`].
    pub fn not(&self) -> Result<Dfa> {
        let start = (!self.is_empty()).then_some(0);
        Dfa::explore(start, |state| {
            let Some(state) = *state else {
                return Ok((true, vec![(0, LAST, None)]));
            };
            let (mut edges, mut from) = (Vec::new(), 0);
            for edge in self.edges(state) {
                if from < edge.low {
                    edges.push((from, edge.low - 1, None));
                }
                edges.push((edge.low, edge.high, Some(edge.next)));
                from = edge.high + 1;
            }
            if from <= LAST {
                edges.push((from, LAST, None));
            }
            Ok((!self.accepts(state), edges))
        })
    }

    /// Whether it accepts nothing.
    pub fn is_empty(&self) -> bool {
        self.edges.is_empty()
    }

    /// Bytes of memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        let edges: usize = self.edges.iter().map(Vec::len).sum();
        edges * size_of::<Edge>() + self.edges.len() * (size_of::<Vec<Edge>>() + 1)
    }

    /// How many states it has.
    pub fn len(&self) -> usize {
        self.edges.len()
    }

    /// Where the characters behind a state lead.
    pub fn edges(&self, state: u32) -> &[Edge] {
        &self.edges[state as usize]
    }

    /// Whether a text may end in a state.
    pub fn accepts(&self, state: u32) -> bool {
        self.accepts[state as usize]
    }

    /// The state behind a character.
    pub fn next(&self, state: u32, c: u32) -> Option<u32> {
        let edges = self.edges(state);
        let after = edges.partition_point(|edge| edge.high < c);
        let edge = edges.get(after).filter(|edge| edge.low <= c);
        edge.map(|edge| edge.next)
    }

    /// Whether it accepts a text.
    pub fn matches(&self, text: &str) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut chars = text.chars().map(u32::from);
        let last = chars.try_fold(0, |state, c| self.next(state, c));
        last.is_some_and(|state| self.accepts(state))
    }
}

/// A range without the halves of pairs.
fn characters(low: u32, high: u32, next: u32) -> impl Iterator<Item = Edge> {
    let before = (low, high.min(HALVES.0 - 1));
    let behind = (low.max(HALVES.1 + 1), high.min(LAST));
    [before, behind]
        .into_iter()
        .filter(|(low, high)| low <= high)
        .map(move |(low, high)| Edge { low, high, next })
}
