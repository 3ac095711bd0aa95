//! Byte-pair merging: of all pairs of neighbours the one of the lowest rank becomes one token, the leftmost on
//! equal rank, until no pair has a rank.

use crate::error::{Error, Result};
use crate::units::TokenId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The rank of a pair that is no merge.
const NO_RANK: u32 = u32::MAX;

/// No neighbour.
const NONE: u32 = u32::MAX;

/// A rule: `left` and `right` become `result`.
#[derive(Clone, Copy, Debug)]
pub struct Merge {
    /// The token on the left.
    pub left: TokenId,
    /// The token on the right.
    pub right: TokenId,
    /// What they become; its bytes are those of both.
    pub result: TokenId,
}

/// The merges of a vocabulary, sorted by their left token, then the right one. A search instead of a hash:
/// no vocabulary can make it slow.
#[derive(Clone, Debug)]
pub struct Merges {
    /// Where the merges of a left token begin in `pairs`; one more than there are tokens.
    first: Vec<u32>,
    /// Right token and rank.
    pairs: Vec<(TokenId, u32)>,
    /// What a merge gives, by rank.
    results: Vec<TokenId>,
}

/// Working memory of [`Merges::apply`], kept between pieces.
#[derive(Debug, Default)]
pub struct Scratch {
    symbols: Vec<Symbol>,
    /// Rank << 32 | index of the left symbol. Entries of pairs that changed since stay until they come up.
    queue: BinaryHeap<Reverse<u64>>,
}

/// A token of the piece, linked to its neighbours. One that was merged away is linked by nobody.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    token: TokenId,
    prev: u32,
    next: u32,
    /// Rank of the pair of this symbol and the next.
    rank: u32,
}

impl Merges {
    /// Merges in order of their rank, over a vocabulary of `n_tokens`, which all their ids are below.
    ///
    /// Errors: `Format` when a pair occurs twice.
    pub fn new(n_tokens: usize, merges: &[Merge]) -> Result<Merges> {
        let mut sorted: Vec<(TokenId, TokenId, u32)> = (0..)
            .zip(merges)
            .map(|(rank, merge)| (merge.left, merge.right, rank))
            .collect();
        sorted.sort_unstable();
        if let Some(twice) = sorted
            .windows(2)
            .find(|w| (w[0].0, w[0].1) == (w[1].0, w[1].1))
        {
            let (first, second) = (twice[0].2, twice[1].2);
            return Err(Error::format(format!(
                "merge {second}: the same pair as merge {first}"
            )));
        }
        let mut first = vec![0; n_tokens + 1];
        for (left, ..) in &sorted {
            first[left.0 as usize + 1] += 1;
        }
        for i in 0..n_tokens {
            first[i + 1] += first[i];
        }
        Ok(Merges {
            first,
            pairs: sorted
                .iter()
                .map(|(_, right, rank)| (*right, *rank))
                .collect(),
            results: merges.iter().map(|merge| merge.result).collect(),
        })
    }

    /// Bytes of memory that they take.
    pub fn memory_bytes(&self) -> u64 {
        let pairs = self.pairs.capacity() * size_of::<(TokenId, u32)>();
        (4 * self.first.capacity() + pairs + 4 * self.results.capacity()) as u64
    }

    fn rank(&self, left: TokenId, right: TokenId) -> u32 {
        let left = left.0 as usize;
        let pairs = &self.pairs[self.first[left] as usize..self.first[left + 1] as usize];
        match pairs.binary_search_by_key(&right, |pair| pair.0) {
            Ok(i) => pairs[i].1,
            Err(_) => NO_RANK,
        }
    }

    /// Merges the tokens of one piece and appends what is left to `out`. The piece has fewer than 2^32 tokens.
    /// O(n log n).
    pub fn apply(
        &self,
        piece: impl ExactSizeIterator<Item = TokenId>,
        scratch: &mut Scratch,
        out: &mut Vec<TokenId>,
    ) {
        let Scratch { symbols, queue } = scratch;
        symbols.clear();
        symbols.extend((0..).zip(piece).map(|(i, token): (u32, _)| Symbol {
            token,
            prev: i.wrapping_sub(1), // NONE for the first
            next: i + 1,
            rank: NO_RANK,
        }));
        let Some(last) = symbols.last_mut() else {
            return;
        };
        last.next = NONE;

        let mut entries = std::mem::take(queue).into_vec();
        entries.clear();
        for i in 1..symbols.len() {
            let rank = self.rank(symbols[i - 1].token, symbols[i].token);
            symbols[i - 1].rank = rank;
            if rank != NO_RANK {
                entries.push(entry(rank, i - 1));
            }
        }
        *queue = entries.into();

        while let Some(Reverse(lowest)) = queue.pop() {
            let (rank, left) = ((lowest >> 32) as u32, (lowest & 0xffff_ffff) as usize);
            if symbols[left].rank != rank {
                continue; // the pair is another one by now
            }
            // left right  ->  left: the right symbol goes, and both pairs around have new ranks.
            let right = symbols[left].next as usize;
            let next = symbols[right].next;
            symbols[right].rank = NO_RANK;
            symbols[left].token = self.results[rank as usize];
            symbols[left].next = next;
            if next != NONE {
                symbols[next as usize].prev = left as u32;
            }
            for i in [symbols[left].prev, left as u32] {
                let Some(&Symbol { token, next, .. }) = symbols.get(i as usize) else {
                    continue;
                };
                let next = symbols.get(next as usize);
                let rank = next.map_or(NO_RANK, |next| self.rank(token, next.token));
                symbols[i as usize].rank = rank;
                if rank != NO_RANK {
                    queue.push(entry(rank, i as usize));
                }
            }
        }

        let mut at = 0;
        while let Some(symbol) = symbols.get(at as usize) {
            out.push(symbol.token);
            at = symbol.next;
        }
    }
}

/// An entry of the queue: the lowest rank comes first, then the leftmost pair.
fn entry(rank: u32, left: usize) -> Reverse<u64> {
    Reverse(u64::from(rank) << 32 | left as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// The definition, word for word.
    fn twin(merges: &[Merge], mut tokens: Vec<TokenId>) -> Vec<TokenId> {
        loop {
            let rank = |pair: &[TokenId]| merges.iter().position(|m| [m.left, m.right] == pair);
            let ranked = tokens
                .windows(2)
                .enumerate()
                .filter_map(|(i, pair)| Some((rank(pair)?, i)));
            let Some((rank, i)) = ranked.min() else {
                return tokens;
            };
            tokens[i] = merges[rank].result;
            tokens.remove(i + 1);
        }
    }

    /// Random merges over an alphabet of three, in which several pairs may give one token.
    fn random_merges(rng: &mut Rng) -> (usize, Vec<Merge>) {
        let mut texts: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
        let mut merges: Vec<Merge> = Vec::new();
        for _ in 0..24 {
            let (left, right) = (rng.below(texts.len()), rng.below(texts.len()));
            let (left_id, right_id) = (TokenId(left as u32), TokenId(right as u32));
            if merges
                .iter()
                .any(|m| (m.left, m.right) == (left_id, right_id))
            {
                continue;
            }
            let text = format!("{}{}", texts[left], texts[right]);
            let result = texts.iter().position(|t| *t == text).unwrap_or_else(|| {
                texts.push(text);
                texts.len() - 1
            });
            merges.push(Merge {
                left: left_id,
                right: right_id,
                result: TokenId(result as u32),
            });
        }
        // A merge may come before those that its parts need.
        for i in (1..merges.len()).rev() {
            merges.swap(i, rng.below(i + 1));
        }
        (texts.len(), merges)
    }

    #[test]
    fn equals_the_twin_on_random_merges_and_pieces() {
        let mut scratch = Scratch::default();
        for seed in 0..500 {
            let mut rng = Rng::new(seed);
            let (n_tokens, list) = random_merges(&mut rng);
            let merges = Merges::new(n_tokens, &list).unwrap();
            for _ in 0..10 {
                let piece: Vec<TokenId> = (0..rng.below(40))
                    .map(|_| TokenId(rng.below(3) as u32))
                    .collect();
                let mut found = Vec::new();
                merges.apply(piece.iter().copied(), &mut scratch, &mut found);
                assert_eq!(
                    found,
                    twin(&list, piece.clone()),
                    "seed {seed}, {piece:?}, {list:?}"
                );
            }
        }
    }

    #[test]
    fn a_pair_that_occurs_twice_is_an_error() {
        let merge = Merge {
            left: TokenId(0),
            right: TokenId(0),
            result: TokenId(1),
        };
        let error = Merges::new(2, &[merge, merge]).unwrap_err();
        assert_eq!(error.to_string(), "merge 1: the same pair as merge 0");
    }
}
