//! The tokens of a vocabulary as a guide sees them.

use crate::error::{Error, Result};
use crate::units::TokenId;

/// Bytes of a token that may be part of a guided text; longer ones (runs of signs and spaces) are never chosen.
pub(super) const MAX_TOKEN_BYTES: usize = 128;

/// Stands for the mark of calls where that is a token of its own. No UTF-8 has this byte.
pub const MARK: u8 = 0xFF;

/// The tokens of a vocabulary in the order in which masks are made. Made once, shared by all answers.
#[derive(Clone, Debug)]
pub struct GuideVocabulary {
    /// The bytes of all tokens, one after the other; nothing for tokens that are never part of a guided text.
    bytes: Vec<u8>,
    /// Where each token ends in `bytes`.
    ends: Vec<u32>,
    /// All tokens that may be, by their bytes.
    pub(super) entries: Vec<Entry>,
    /// The token that ends an answer.
    pub(super) end: TokenId,
    /// The mark of calls, if it is a token.
    pub(super) mark: Option<TokenId>,
    /// Other tokens with which a turn ends, or another begins.
    pub(super) turns: Vec<TokenId>,
}

/// A token in the order of the bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub token: TokenId,
    /// Bytes that it begins with like the entry before it.
    pub shared: u8,
}

/// Tokens with a meaning of their own.
#[derive(Clone, Debug)]
pub struct Marks {
    /// Ends an answer.
    pub end: TokenId,
    /// Stands in the tags of calls.
    pub call: Option<TokenId>,
    /// Others with which a turn ends, or another begins.
    pub turns: Vec<TokenId>,
}

impl GuideVocabulary {
    /// Tokens by id: their bytes, or `None` for special tokens. `marks` must be some of them.
    ///
    /// Errors: `Limit` for a vocabulary of more than 4 GiB.
    pub fn new<'a>(
        tokens: impl Iterator<Item = Option<&'a [u8]>>,
        marks: Marks,
    ) -> Result<GuideVocabulary> {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for (id, token) in (0..).map(TokenId).zip(tokens) {
            let fits = |token: &&[u8]| token.len() <= MAX_TOKEN_BYTES && !token.contains(&MARK);
            match marks.call == Some(id) {
                true => bytes.push(MARK),
                false => bytes.extend_from_slice(token.filter(fits).unwrap_or_default()),
            }
            ends.push(
                u32::try_from(bytes.len())
                    .map_err(|_| Error::limit("bytes of a vocabulary", bytes.len(), u32::MAX))?,
            );
        }
        let mut vocabulary = GuideVocabulary {
            bytes,
            ends,
            entries: Vec::new(),
            end: marks.end,
            mark: marks.call,
            turns: marks.turns,
        };
        let all = (0..vocabulary.len() as u32).map(TokenId);
        let mut all: Vec<TokenId> = all.filter(|t| !vocabulary.text(*t).is_empty()).collect();
        all.sort_unstable_by_key(|token| (vocabulary.text(*token), *token));
        let mut before: &[u8] = &[];
        let entries = all.into_iter().map(|token| {
            let text = vocabulary.text(token);
            let shared = before.iter().zip(text).take_while(|(a, b)| a == b).count() as u8;
            before = text;
            Entry { token, shared }
        });
        vocabulary.entries = entries.collect();
        Ok(vocabulary)
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether the mark of calls is a token.
    pub fn has_mark(&self) -> bool {
        self.mark.is_some()
    }

    /// The bytes of a token in a guided text; nothing for one that is never part of it.
    pub(super) fn text(&self, token: TokenId) -> &[u8] {
        let id = token.0 as usize;
        let Some(end) = self.ends.get(id) else {
            return &[];
        };
        let begin = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[begin as usize..*end as usize]
    }
}
