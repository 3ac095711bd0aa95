//! Answers that are JSON: after each token, the tokens of the vocabulary that keep the answer the start of a JSON text.
//!
//! ```text
//! in a string   tokens without '"' and '\' are the same in every string: one set, made once
//!               the others are walked
//! elsewhere     all tokens are walked: few get past their first byte
//! walk          in the order of their bytes, so that what neighbours begin with is tried once, and a refused
//!               beginning refuses all tokens that have it
//! ```

use super::mask::Mask;
use crate::error::{Error, Result};
use crate::json::recogniser::{Recogniser, Rules};
use crate::units::TokenId;
use std::sync::Arc;

/// Bytes of a token that may be part of JSON; longer ones (runs of signs and spaces) are never chosen.
const MAX_TOKEN_BYTES: usize = 128;

/// The tokens of a vocabulary in the order in which masks are made. Made once, shared by all answers.
#[derive(Clone, Debug)]
pub struct JsonVocabulary {
    /// The bytes of all tokens, one after the other; nothing for tokens that are never chosen.
    bytes: Vec<u8>,
    /// Where each token ends in `bytes`.
    ends: Vec<u32>,
    /// The token that ends an answer.
    end: TokenId,
    /// All tokens that may be chosen, by their bytes.
    all: Vec<Entry>,
    /// Those of them with a `"` or a `\`.
    leaving_strings: Vec<Entry>,
    /// Those of the others that stay in a string in which they begin.
    in_strings: Mask,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    token: TokenId,
    /// Bytes that it begins with like the entry before it.
    shared: u8,
}

impl JsonVocabulary {
    /// Tokens by id: their bytes, or `None` for special tokens, which are never part of JSON. `end` is the token that
    /// ends an answer; it must be one of them.
    ///
    /// Errors: `Limit` for a vocabulary of more than 4 GiB.
    pub fn new<'a>(
        tokens: impl Iterator<Item = Option<&'a [u8]>>,
        end: TokenId,
    ) -> Result<JsonVocabulary> {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for token in tokens {
            let token = token.filter(|token| token.len() <= MAX_TOKEN_BYTES);
            bytes.extend_from_slice(token.unwrap_or_default());
            ends.push(
                u32::try_from(bytes.len())
                    .map_err(|_| Error::limit("bytes of a vocabulary", bytes.len(), u32::MAX))?,
            );
        }
        let mut in_strings = Mask::none(ends.len());
        let (mut all, mut leaving) = (Vec::new(), Vec::new());
        for token in (0..ends.len() as u32).map(TokenId) {
            let text = text_of(&bytes, &ends, token);
            if text.is_empty() {
                continue;
            }
            all.push(token);
            if text.iter().any(|byte| matches!(byte, b'"' | b'\\')) {
                leaving.push(token);
            } else if follow(Recogniser::inside_string(), text).is_some() {
                in_strings.allow(token);
            }
        }
        let sorted = |mut tokens: Vec<TokenId>| {
            tokens.sort_unstable_by_key(|token| (text_of(&bytes, &ends, *token), *token));
            let mut before: &[u8] = &[];
            let entries = tokens.into_iter().map(|token| {
                let text = text_of(&bytes, &ends, token);
                let shared = before.iter().zip(text).take_while(|(a, b)| a == b).count() as u8;
                before = text;
                Entry { token, shared }
            });
            entries.collect()
        };
        let (all, leaving_strings) = (sorted(all), sorted(leaving));
        Ok(JsonVocabulary {
            bytes,
            ends,
            end,
            all,
            leaving_strings,
            in_strings,
        })
    }

    fn text(&self, token: TokenId) -> &[u8] {
        text_of(&self.bytes, &self.ends, token)
    }

    /// Allows the tokens of `entries` that may come behind `state`.
    ///
    /// `path[n]` becomes the state behind the first n bytes of the token that was looked at last.
    fn walk(&self, entries: &[Entry], path: &mut Path, state: Recogniser, mask: &mut Mask) {
        path[0] = state;
        // Bytes of that token that were taken.
        let mut taken = 0;
        for entry in entries {
            let shared = usize::from(entry.shared);
            if shared > taken {
                continue; // begins with what was just refused
            }
            let text = self.text(entry.token);
            taken = shared;
            while let Some(next) = text.get(taken).and_then(|byte| path[taken].next(*byte)) {
                taken += 1;
                path[taken] = next;
            }
            if taken == text.len() {
                mask.allow(entry.token);
            }
        }
    }
}

type Path = [Recogniser; MAX_TOKEN_BYTES + 1];

fn text_of<'a>(bytes: &'a [u8], ends: &[u32], token: TokenId) -> &'a [u8] {
    let id = token.0 as usize;
    let begin = if id == 0 { 0 } else { ends[id - 1] };
    &bytes[begin as usize..ends[id] as usize]
}

fn follow(state: Recogniser, text: &[u8]) -> Option<Recogniser> {
    text.iter().try_fold(state, |state, byte| state.next(*byte))
}

/// An answer that is to be JSON.
#[derive(Clone, Debug)]
pub struct JsonGuide {
    vocabulary: Arc<JsonVocabulary>,
    /// While there is one the answer is free, up to and with this token.
    begins_behind: Option<TokenId>,
    state: Recogniser,
    mask: Mask,
    path: Box<Path>,
}

impl JsonGuide {
    /// The guide of an answer that has not begun. With `begins_behind` everything up to that token is free: the end of
    /// the reasoning.
    pub fn new(
        vocabulary: Arc<JsonVocabulary>,
        rules: Rules,
        begins_behind: Option<TokenId>,
    ) -> JsonGuide {
        let state = Recogniser::new(rules);
        JsonGuide {
            begins_behind,
            state,
            mask: Mask::none(vocabulary.ends.len()),
            path: Box::new([state; MAX_TOKEN_BYTES + 1]),
            vocabulary,
        }
    }

    /// The tokens that may come next, `None` while all may. There is always one; it is the end token alone once the
    /// text can only end.
    pub fn mask(&mut self) -> Option<&Mask> {
        if self.begins_behind.is_some() {
            return None;
        }
        let (vocabulary, state) = (&self.vocabulary, self.state);
        self.mask.clear();
        if state.is_complete() {
            self.mask.allow(vocabulary.end);
        }
        if state.is_inside_string() {
            self.mask.copy_from(&vocabulary.in_strings);
            let entries = &vocabulary.leaving_strings;
            vocabulary.walk(entries, &mut self.path, state, &mut self.mask);
        } else if !state.is_finished() {
            vocabulary.walk(&vocabulary.all, &mut self.path, state, &mut self.mask);
        }
        Some(&self.mask)
    }

    /// Takes the token that was chosen.
    ///
    /// Errors: `Format` for one that the mask forbids; the state stays.
    pub fn accept(&mut self, token: TokenId) -> Result<()> {
        if let Some(last) = self.begins_behind {
            self.begins_behind = (token != last).then_some(last);
            return Ok(());
        }
        let known = (token.0 as usize) < self.vocabulary.ends.len();
        let text = if known {
            self.vocabulary.text(token)
        } else {
            &[]
        };
        match follow(self.state, text) {
            Some(state) if !text.is_empty() => self.state = state,
            _ if token == self.vocabulary.end && self.state.is_complete() => {}
            _ => {
                let expected = self.state.expected();
                return Err(Error::format(format!(
                    "JSON: found token {}, expected {expected}",
                    token.0
                )));
            }
        }
        Ok(())
    }

    /// Whether what was accepted is a whole JSON text.
    pub fn is_complete(&self) -> bool {
        self.begins_behind.is_none() && self.state.is_complete()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const END: TokenId = TokenId(256);

    /// The bytes by number, the end, then others.
    fn vocabulary(more: &[&str]) -> Arc<JsonVocabulary> {
        let bytes: Vec<[u8; 1]> = (0..=255).map(|byte| [byte]).collect();
        let more = more
            .iter()
            .map(|text| (!text.starts_with('<')).then_some(text.as_bytes()));
        let all = bytes
            .iter()
            .map(|byte| Some(&byte[..]))
            .chain([None])
            .chain(more);
        Arc::new(JsonVocabulary::new(all, END).unwrap())
    }

    #[test]
    fn the_mask_is_what_each_token_by_itself_would_be() {
        let long = "a".repeat(MAX_TOKEN_BYTES + 1);
        let more = [
            "{\"", "\":", "\",\"", "\"}", "\": \"", "[[", "]]", "]]}", "}}\n", "tr", "true",
            "true,", "null]", "1.", "12", "0.5", "e9", "\\\"", "\\u", "\\ud83d", "\\ude00", "é",
            "👍", "\u{1}", "  ", "\n  \"", "ab", "abc\"", "abc\\n", "abd", "<x>", "", &long,
            "aba\"\"", "aba\",",
        ];
        let vocabulary = vocabulary(&more);
        for seed in 1..300 {
            let mut rng = Rng::new(seed);
            let mut guide = JsonGuide::new(vocabulary.clone(), Rules::WRITTEN, None);
            for _ in 0..40 {
                let state = guide.state;
                let mask = guide.mask().unwrap().clone();
                let mut allowed = Vec::new();
                for token in (0..vocabulary.ends.len() as u32).map(TokenId) {
                    let text = vocabulary.text(token);
                    let expected = match text {
                        [] => token == END && state.is_complete(),
                        _ if state.is_finished() => false,
                        _ => follow(state, text).is_some(),
                    };
                    assert_eq!(
                        mask.allows(token),
                        expected,
                        "seed {seed}: {state:?}, {text:?}"
                    );
                    allowed.extend(expected.then_some(token));
                }
                assert_eq!(mask.count(), allowed.len());
                assert!(!mask.allows(TokenId(100_000)));
                let token = allowed[rng.below(allowed.len())];
                guide.accept(token).unwrap();
                if token == END {
                    assert!(guide.is_complete());
                    break;
                }
            }
        }
    }

    #[test]
    fn what_is_forbidden_is_an_error_and_changes_nothing() {
        let mut guide = JsonGuide::new(vocabulary(&["{\"", "<x>"]), Rules::WRITTEN_OBJECT, None);
        for token in [TokenId(b'['.into()), END, TokenId(258), TokenId(9999)] {
            let message = guide.accept(token).unwrap_err().to_string();
            assert_eq!(
                message,
                format!("JSON: found token {}, expected an object", token.0)
            );
        }
        guide.accept(TokenId(257)).unwrap();
        for byte in b"a\":1}" {
            assert!(!guide.is_complete());
            guide.accept(TokenId(u32::from(*byte))).unwrap();
        }
        assert!(guide.is_complete());
        assert_eq!(guide.mask().unwrap().count(), 1);
        guide.accept(END).unwrap();
    }

    #[test]
    fn before_its_beginning_everything_is_free() {
        let mut guide = JsonGuide::new(vocabulary(&["<x>"]), Rules::WRITTEN, Some(TokenId(257)));
        for token in [TokenId(3), END, TokenId(257)] {
            assert!(guide.mask().is_none() && !guide.is_complete());
            guide.accept(token).unwrap();
        }
        assert!(guide.mask().is_some());
        assert!(guide.accept(TokenId(257)).is_err());
    }
}
