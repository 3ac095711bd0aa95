//! Finds special tokens in text: the leftmost, and of those that begin at one place the longest.

use crate::units::TokenId;
use std::ops::Range;

/// The special tokens of a vocabulary.
#[derive(Clone, Debug)]
pub struct Specials {
    /// Sorted by text; each text once.
    tokens: Vec<(String, TokenId)>,
    /// The bytes that they begin with.
    first_bytes: Vec<u8>,
}

impl Specials {
    /// Of several tokens with one text the lowest id counts; an empty text is never found.
    pub fn new(mut tokens: Vec<(String, TokenId)>) -> Specials {
        tokens.retain(|(text, _)| !text.is_empty());
        tokens.sort_unstable();
        tokens.dedup_by(|later, earlier| later.0 == earlier.0);
        let mut first_bytes: Vec<u8> = tokens.iter().map(|(text, _)| text.as_bytes()[0]).collect();
        first_bytes.dedup();
        Specials {
            tokens,
            first_bytes,
        }
    }

    /// The token of exactly this text.
    pub fn get(&self, text: &str) -> Option<TokenId> {
        let found = self
            .tokens
            .binary_search_by(|(other, _)| other.as_str().cmp(text));
        found.ok().map(|i| self.tokens[i].1)
    }

    /// The first special token in `text`, and the bytes where it lies.
    pub fn find(&self, text: &str) -> Option<(Range<usize>, TokenId)> {
        let bytes = text.as_bytes();
        let mut from = 0;
        loop {
            let start = from + self.next_candidate(&bytes[from..])?;
            if let Some((len, token)) = self.longest_at_start(&bytes[start..]) {
                // Both ends are borders of characters: the token's text is whole characters.
                return Some((start..start + len, token));
            }
            from = start + 1;
        }
    }

    fn next_candidate(&self, bytes: &[u8]) -> Option<usize> {
        match self.first_bytes[..] {
            [] => None,
            [a] => memchr::memchr(a, bytes),
            [a, b] => memchr::memchr2(a, b, bytes),
            [a, b, c] => memchr::memchr3(a, b, c, bytes),
            _ => bytes
                .iter()
                .position(|byte| self.first_bytes.binary_search(byte).is_ok()),
        }
    }

    /// Narrows the sorted list byte by byte to the tokens that begin like `bytes`.
    fn longest_at_start(&self, bytes: &[u8]) -> Option<(usize, TokenId)> {
        let mut tokens = &self.tokens[..];
        let mut longest = None;
        for (depth, byte) in bytes.iter().enumerate() {
            // A token that ends here sorts before those that go on: it counts as smaller than any byte.
            let byte_of = |token: &(String, TokenId)| token.0.as_bytes().get(depth).copied();
            let begin = tokens.partition_point(|token| byte_of(token) < Some(*byte));
            let end = tokens.partition_point(|token| byte_of(token) <= Some(*byte));
            tokens = &tokens[begin..end];
            match tokens.first() {
                None => break,
                Some((text, token)) if text.len() == depth + 1 => {
                    longest = Some((depth + 1, *token))
                }
                Some(_) => {}
            }
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn specials(texts: &[&str]) -> Specials {
        Specials::new(
            (0..)
                .zip(texts)
                .map(|(i, text)| (text.to_string(), TokenId(i)))
                .collect(),
        )
    }

    /// Tries every token at every place.
    fn twin(texts: &[&str], text: &str) -> Option<(Range<usize>, TokenId)> {
        let at = |start: usize| {
            let found = (0..).zip(texts).filter(|(_, t)| {
                !t.is_empty() && text.as_bytes()[start..].starts_with(t.as_bytes())
            });
            // Longest first, then the lowest id.
            let best = found.max_by_key(|(i, t)| (t.len(), std::cmp::Reverse(*i)));
            best.map(|(i, t): (u32, _)| (start..start + t.len(), TokenId(i)))
        };
        (0..text.len()).find_map(at)
    }

    #[test]
    fn equals_the_twin_for_every_number_of_first_bytes() {
        let sets: [&[&str]; 6] = [
            &[],
            &["<a>", "<ab>", "<a", "<", "<a>", ""],
            &["<a>", "ｂ<", "<a><"],
            &["<a>", "ｂ", "a", "ab<", "aba"],
            &["<", "a", "b", ">", "<a>b", "ｂ｜"],
            &["｜", "ｂ｜｜", "ｂ｜"],
        ];
        for texts in sets {
            let specials = specials(texts);
            for seed in 0..2000 {
                let mut rng = Rng::new(seed);
                let text: String = (0..rng.below(12))
                    .map(|_| ['<', 'a', 'b', '>', 'ｂ', '｜', '｝'][rng.below(7)])
                    .collect();
                assert_eq!(
                    specials.find(&text),
                    twin(texts, &text),
                    "{texts:?} in {text:?}"
                );
            }
        }
    }

    #[test]
    fn get_wants_the_whole_text() {
        let specials = specials(&["<a>", "<ab>", "<a>"]);
        assert_eq!(specials.get("<a>"), Some(TokenId(0)));
        assert_eq!(specials.get("<ab>"), Some(TokenId(1)));
        assert_eq!(specials.get("<a"), None);
        assert_eq!(specials.get(""), None);
    }
}
