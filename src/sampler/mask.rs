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

    /// Allows a token of the vocabulary.
    pub fn allow(&mut self, token: TokenId) {
        self.words[token.0 as usize / 64] |= 1 << (token.0 % 64);
    }

    /// Allows all tokens of a vocabulary of `n_tokens`.
    pub fn allow_all(&mut self, n_tokens: usize) {
        self.words.fill(u64::MAX);
        if let Some(last) = self
            .words
            .last_mut()
            .filter(|_| !n_tokens.is_multiple_of(64))
        {
            *last = (1 << (n_tokens % 64)) - 1;
        }
    }

    /// Forbids a token of the vocabulary.
    pub fn forbid(&mut self, token: TokenId) {
        self.words[token.0 as usize / 64] &= !(1 << (token.0 % 64));
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
