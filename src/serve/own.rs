//! Answers in the tokens that the model chose.
//!
//! A client sends an answer back as text. The tokens of that text may be others than those the model chose: a text can be cut
//! into tokens in several ways, and calls may be spelled in several ways too. The cache holds what the model chose, so the
//! prompt must have that, or the conversation is computed again from this answer on.
//!
//! An entry is found by all tokens in front of the answer and by the answer's own: only a prompt that begins with the same
//! conversation, up to the end of the answer, can meet it.

use crate::units::TokenId;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;

/// What an entry takes besides its tokens, the map's spare room included.
const ENTRY_BYTES: usize = 200;

/// Answers that were chosen in other tokens than their text has, within a bound of bytes. Those not met for longest go.
#[derive(Debug)]
pub struct OwnAnswers {
    most_bytes: usize,
    /// By the hash of what stands in front and of `plain`.
    entries: HashMap<u64, Entry>,
    bytes: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    /// The tokens of the text.
    plain: Vec<TokenId>,
    /// Those that the model chose.
    chosen: Vec<TokenId>,
    used: u64,
}

impl Entry {
    fn bytes(&self) -> usize {
        4 * (self.plain.len() + self.chosen.len()) + ENTRY_BYTES
    }
}

impl OwnAnswers {
    /// None yet.
    pub fn new(most_bytes: usize) -> OwnAnswers {
        OwnAnswers {
            most_bytes,
            entries: HashMap::new(),
            bytes: 0,
            clock: 0,
        }
    }

    /// Keeps the tokens `chosen` of an answer behind `prefix`, if its text has other ones, `plain`.
    pub fn keep(&mut self, prefix: &[TokenId], plain: Vec<TokenId>, chosen: Vec<TokenId>) {
        let key = Prefix::of(prefix).key(&plain);
        self.clock += 1;
        let entry = Entry {
            plain,
            chosen,
            used: self.clock,
        };
        let bytes = entry.bytes();
        if entry.plain == entry.chosen || bytes > self.most_bytes {
            return;
        }
        self.remove(key);
        while self.bytes + bytes > self.most_bytes {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            match oldest.map(|(key, _)| *key) {
                Some(oldest) => self.remove(oldest),
                None => return,
            }
        }
        self.bytes += bytes;
        self.entries.insert(key, entry);
    }

    /// A prompt with the tokens that the model chose in the place of its own answers, if one of `answers`, where answers
    /// stand in `tokens`, has such.
    pub fn put_into(
        &mut self,
        tokens: &[TokenId],
        answers: &[Range<usize>],
    ) -> Option<Vec<TokenId>> {
        let mut out = Vec::new();
        let (mut prefix, mut done) = (Prefix::default(), 0);
        for answer in answers {
            let plain = tokens.get(answer.clone())?;
            out.extend_from_slice(tokens.get(done..answer.start)?);
            prefix.extend(&out);
            let found = self.entries.get_mut(&prefix.key(plain));
            match found.filter(|entry| entry.plain == plain) {
                Some(entry) => {
                    self.clock += 1;
                    entry.used = self.clock;
                    out.extend_from_slice(&entry.chosen);
                }
                None => out.extend_from_slice(plain),
            }
            done = answer.end;
        }
        out.extend_from_slice(tokens.get(done..)?);
        (out != tokens).then_some(out)
    }

    fn remove(&mut self, key: u64) {
        if let Some(entry) = self.entries.remove(&key) {
            self.bytes -= entry.bytes();
        }
    }
}

/// A hash of the first tokens of a prompt. Two prompts that collide and go on with the same answer share its spelling, no
/// more.
#[derive(Clone, Default)]
struct Prefix {
    hasher: DefaultHasher,
    n_tokens: usize,
}

impl Prefix {
    fn of(tokens: &[TokenId]) -> Prefix {
        let mut prefix = Prefix::default();
        prefix.extend(tokens);
        prefix
    }

    /// That of `tokens`, the first of which were taken in already.
    fn extend(&mut self, tokens: &[TokenId]) {
        for token in &tokens[self.n_tokens..] {
            self.hasher.write_u32(token.0);
        }
        self.n_tokens = tokens.len();
    }

    /// Of an answer behind it.
    fn key(&self, plain: &[TokenId]) -> u64 {
        let mut hasher = self.hasher.clone();
        plain.iter().for_each(|token| hasher.write_u32(token.0));
        hasher.write_usize(self.n_tokens);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[u32]) -> Vec<TokenId> {
        ids.iter().copied().map(TokenId).collect()
    }

    #[test]
    fn only_the_same_conversation_meets_an_answer() {
        let mut own = OwnAnswers::new(1 << 20);
        own.keep(&tokens(&[1, 2, 3]), tokens(&[10, 11]), tokens(&[12]));
        let mut put = |prompt: &[u32], answer: Range<usize>| {
            own.put_into(&tokens(prompt), std::slice::from_ref(&answer))
        };
        let expected = Some(tokens(&[1, 2, 3, 12, 9]));
        assert_eq!(put(&[1, 2, 3, 10, 11, 9], 3..5), expected);
        // Another conversation, another answer, a longer one, and the same tokens with the border elsewhere.
        for (prompt, answer) in [
            (&[1, 2, 4, 10, 11][..], 3..5),
            (&[1, 2, 3, 10, 13], 3..5),
            (&[1, 2, 3, 10, 11, 11], 3..6),
            (&[1, 2, 3, 10, 11], 2..5),
            (&[10, 11], 0..2),
        ] {
            assert_eq!(put(prompt, answer), None, "{prompt:?}");
        }
        // A place that is none changes nothing.
        assert_eq!(put(&[1, 2, 3, 10, 11], 3..50), None);
        // What follows an answer is found by the tokens that were chosen for it.
        own.keep(&tokens(&[1, 2, 3, 12, 9]), tokens(&[20]), tokens(&[21, 22]));
        let found = own.put_into(&tokens(&[1, 2, 3, 10, 11, 9, 20]), &[3..5, 6..7]);
        assert_eq!(found, Some(tokens(&[1, 2, 3, 12, 9, 21, 22])));
    }

    #[test]
    fn memory_is_bounded_and_what_was_met_last_stays() {
        let most = 10 * (ENTRY_BYTES + 4 * 3);
        let mut own = OwnAnswers::new(most);
        let meets = |own: &mut OwnAnswers, i: u32| {
            own.put_into(&tokens(&[i, 10, 11]), std::slice::from_ref(&(1..3)))
                .is_some()
        };
        for i in 0..100 {
            own.keep(&tokens(&[i]), tokens(&[10, 11]), tokens(&[12]));
            // The first is met each time.
            assert!(meets(&mut own, 0));
            assert!(own.bytes <= most);
        }
        assert_eq!(own.entries.len(), 10);
        assert!(meets(&mut own, 99) && !meets(&mut own, 50));
        // What is the same needs no entry, and what is too long gets none.
        own.keep(&tokens(&[7]), tokens(&[1]), tokens(&[1]));
        own.keep(&tokens(&[8]), tokens(&[1; 5000]), tokens(&[2]));
        assert_eq!(own.entries.len(), 10);
    }
}
