//! Which tokens may be chosen.

use crate::units::TokenId;

/// A set of tokens, a bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    words: Vec<u64>,
}

impl Mask {
    /// No token of a vocabulary of `n_tokens`; whatever has a higher id is never allowed.
    pub fn none(n_tokens: usize) -> Mask {
        Mask {
            words: vec![0; n_tokens.div_ceil(64)],
        }
    }

    /// Allows no token any more.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Becomes a copy of `other`, a mask over the same vocabulary.
    pub fn copy_from(&mut self, other: &Mask) {
        self.words.copy_from_slice(&other.words);
    }

    /// Allows a token of the vocabulary.
    pub fn allow(&mut self, token: TokenId) {
        self.words[token.0 as usize / 64] |= 1 << (token.0 % 64);
    }

    /// Whether a token is allowed.
    pub fn allows(&self, token: TokenId) -> bool {
        let word = self.words.get(token.0 as usize / 64);
        word.is_some_and(|word| word >> (token.0 % 64) & 1 == 1)
    }

    /// How many tokens are allowed.
    pub fn count(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }
}
