//! Answers of a given form: after each token, the tokens of the vocabulary with which the answer can still become one.
//!
//! ```text
//! reasoning   free up to the token that ends it, but for tokens that end the turn
//! text        where the form is only to hold calls: free until their mark
//! held        a machine of bytes tells: all tokens are walked in the order of their bytes, so that what neighbours begin
//!             with is tried once, and a refused beginning refuses all tokens that have it
//! ```
//!
//! The mask of a state is kept, since states come again: in a string, between members.

use super::mask::Mask;
use super::vocabulary::{GuideVocabulary, MARK, MAX_TOKEN_BYTES};
use crate::error::{Error, Result};
use crate::schema::grammar::Grammar;
use crate::schema::machine::{Machine, State};
use crate::units::TokenId;
use std::collections::HashMap;
use std::sync::Arc;

/// Masks that are kept: 4 MiB with 128k tokens.
const MAX_MASKS: usize = 256;

/// Where the held part of an answer begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Behind this token, which ends the reasoning; without, at once.
    pub behind: Option<TokenId>,
    /// Only with this, which the text and the reasoning are searched for; without it the answer is free. The grammar begins
    /// with it. [`MARK`] stands for the mark of calls.
    pub with: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Reasoning(TokenId),
    Text,
    Held,
}

/// Holds an answer to a form.
#[derive(Clone, Debug)]
pub struct Guide {
    vocabulary: Arc<GuideVocabulary>,
    machine: Machine,
    /// In the held part.
    state: State,
    part: Part,
    opening: Vec<u8>,
    /// How much of the opening the answer ends with.
    opened: usize,
    masks: HashMap<State, Mask>,
    /// The mask outside the held part.
    free: Mask,
    path: Box<[State; MAX_TOKEN_BYTES + 1]>,
}

impl Guide {
    /// The guide of an answer that has not begun.
    pub fn new(vocabulary: Arc<GuideVocabulary>, grammar: Arc<Grammar>, opening: Opening) -> Guide {
        let machine = Machine::new(grammar);
        let state = machine.start();
        Guide {
            part: match (&opening.behind, &opening.with) {
                (Some(end), _) => Part::Reasoning(*end),
                (None, Some(_)) => Part::Text,
                (None, None) => Part::Held,
            },
            opening: opening.with.unwrap_or_default(),
            opened: 0,
            free: Mask::none(vocabulary.len()),
            path: Box::new([state; MAX_TOKEN_BYTES + 1]),
            masks: HashMap::new(),
            state,
            machine,
            vocabulary,
        }
    }

    /// The tokens that may come next, `None` while all may. There is always one; it is the end token alone once the text can
    /// only end.
    pub fn mask(&mut self) -> Option<&Mask> {
        if self.part != Part::Held {
            return self.free_mask();
        }
        let (state, forgot) = self.machine.rest(self.state);
        self.state = state;
        let alike = self.machine.alike(state, MAX_TOKEN_BYTES);
        if forgot || self.masks.len() >= MAX_MASKS && !self.masks.contains_key(&alike) {
            self.masks.clear();
        }
        let (machine, path, vocabulary) = (&mut self.machine, &mut self.path, &self.vocabulary);
        Some(self.masks.entry(alike).or_insert_with(|| {
            let mut mask = Mask::none(vocabulary.len());
            if machine.is_complete(state) {
                mask.allow(vocabulary.end);
            }
            if !machine.is_finished(state) {
                walk(vocabulary, machine, path, state, &mut mask);
            }
            mask
        }))
    }

    /// Outside the held part: tokens that end the turn are forbidden before an answer that must come, and the mark of calls
    /// where it does not open them.
    fn free_mask(&mut self) -> Option<&Mask> {
        let vocabulary = &self.vocabulary;
        let may_end = !self.opening.is_empty();
        let may_open = may_end && self.opening.get(self.opened) == Some(&MARK);
        let mark = vocabulary.mark.filter(|_| !may_open);
        if may_end && mark.is_none() {
            return None;
        }
        self.free.allow_all(vocabulary.len());
        mark.iter().for_each(|mark| self.free.forbid(*mark));
        if !may_end {
            self.free.forbid(vocabulary.end);
            (vocabulary.turns.iter()).for_each(|token| self.free.forbid(*token));
        }
        Some(&self.free)
    }

    /// Takes the token that was chosen.
    ///
    /// Errors: `Format` for one that the mask forbids; the state stays.
    pub fn accept(&mut self, token: TokenId) -> Result<()> {
        if self.part != Part::Held {
            return self.accept_free(token);
        }
        let text = self.vocabulary.text(token);
        match follow(&mut self.machine, self.state, text) {
            Some(state) if !text.is_empty() => self.state = state,
            _ if token == self.vocabulary.end && self.machine.is_complete(self.state) => {}
            _ => return Err(self.refused(token)),
        }
        Ok(())
    }

    fn accept_free(&mut self, token: TokenId) -> Result<()> {
        if let Some(mask) = self.free_mask()
            && !mask.allows(token)
            && (token.0 as usize) < self.vocabulary.len()
        {
            return Err(self.refused(token));
        }
        if self.part == Part::Reasoning(token) {
            self.opened = 0;
            self.part = match self.opening.is_empty() {
                true => Part::Held,
                false => Part::Text,
            };
            return Ok(());
        }
        if self.opening.is_empty() {
            return Ok(());
        }
        let text = self.vocabulary.text(token);
        if text.is_empty() {
            self.opened = 0;
        }
        for (i, byte) in text.iter().enumerate() {
            self.opened = opened(&self.opening, self.opened, *byte);
            if self.opened == self.opening.len() {
                self.opened = 0;
                let start = self.machine.start();
                let rest = [&self.opening[..], &text[i + 1..]].concat();
                // What goes on as no call does is text.
                if let Some(state) = follow(&mut self.machine, start, &rest) {
                    (self.part, self.state) = (Part::Held, state);
                    break;
                }
            }
        }
        Ok(())
    }

    fn refused(&self, token: TokenId) -> Error {
        let found = String::from_utf8_lossy(self.vocabulary.text(token)).into_owned();
        Error::format(format!(
            "held answer: found token {} '{}', expected one that its form allows",
            token.0,
            found.escape_debug()
        ))
    }

    /// Whether what was accepted is whole.
    pub fn is_complete(&self) -> bool {
        match self.part {
            Part::Reasoning(_) => false,
            Part::Text => true,
            Part::Held => self.machine.is_complete(self.state),
        }
    }
}

/// How much of `opening` a text ends with that ended with its first `n` bytes and goes on with `byte`.
fn opened(opening: &[u8], n: usize, byte: u8) -> usize {
    let read = [&opening[..n], &[byte]].concat();
    let ends = |k: &usize| read.ends_with(&opening[..*k]);
    (0..=read.len().min(opening.len()))
        .rev()
        .find(ends)
        .unwrap_or(0)
}

/// Allows the tokens that may come behind `state`. `path[n]` becomes the state behind the first n bytes of the token that was
/// looked at last.
fn walk(
    vocabulary: &GuideVocabulary,
    machine: &mut Machine,
    path: &mut [State; MAX_TOKEN_BYTES + 1],
    state: State,
    mask: &mut Mask,
) {
    path[0] = state;
    // Bytes of that token that were taken.
    let mut taken = 0;
    for entry in &vocabulary.entries {
        let shared = usize::from(entry.shared);
        if shared > taken {
            continue; // begins with what was just refused
        }
        let text = vocabulary.text(entry.token);
        taken = shared;
        while let Some(next) = text.get(taken).and_then(|b| machine.next(path[taken], *b)) {
            taken += 1;
            path[taken] = next;
        }
        if taken == text.len() {
            mask.allow(entry.token);
        }
    }
}

fn follow(machine: &mut Machine, state: State, text: &[u8]) -> Option<State> {
    let mut bytes = text.iter();
    bytes.try_fold(state, |state, byte| machine.next(state, *byte))
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::Marks;
    use super::*;
    use crate::rng::Rng;
    use crate::schema::Schema;

    const END: TokenId = TokenId(256);
    const CALL: TokenId = TokenId(257);
    const THOUGHT: TokenId = TokenId(258);
    const USER: TokenId = TokenId(259);

    /// The bytes by number, the end, the mark of calls, two other special tokens, then others.
    fn vocabulary(more: &[&str]) -> Arc<GuideVocabulary> {
        let bytes: Vec<[u8; 1]> = (0..=255).map(|byte| [byte]).collect();
        let bytes = bytes.iter().map(|byte| Some(&byte[..]));
        let more = more.iter().map(|text| Some(text.as_bytes()));
        let marks = Marks {
            end: END,
            call: Some(CALL),
            turns: vec![USER],
        };
        Arc::new(GuideVocabulary::new(bytes.chain([None; 4]).chain(more), marks).unwrap())
    }

    fn guide(vocabulary: Arc<GuideVocabulary>, schema: &str, opening: Opening) -> Guide {
        let schema = Schema::compile(schema).unwrap().0;
        Guide::new(vocabulary, schema.grammar(), opening)
    }

    #[test]
    fn the_mask_is_what_each_token_by_itself_would_be() {
        let long = "a".repeat(MAX_TOKEN_BYTES + 1);
        let more = [
            "{\"", "\":", "\",\"", "\"}", "\": \"", "[[", "]]", "]]}", "}}\n", "tr", "true",
            "true,", "null]", "1.", "12", "0.5", "e9", "\\\"", "\\u", "\\ud83d", "\\ude00", "é",
            "👍", "\u{1}", "  ", "\n  \"", "ab", "abc\"", "abc\\n", "abd", "", &long, "aba\"\"",
            "aba\",", "{\"ab\":", "[12,", "-1", "0.25",
        ];
        let vocabulary = vocabulary(&more);
        for (which, schema) in [
            "true",
            r#"{"properties": {"ab": {"type": "integer", "minimum": -3, "maximum": 120}, "c": {"enum": ["aba", "abd", 1]}}}"#,
            r#"{"items": {"type": ["string", "number"], "maxLength": 4, "pattern": "^a", "minimum": 0.25}, "minItems": 1}"#,
            // Far from its bound at first, and near it soon.
            r#"{"type": "string", "minLength": 1, "maxLength": 140, "pattern": "^[a-c1-9\\[\\]]*$"}"#,
        ]
        .iter()
        .enumerate()
        {
            for seed in 1..15 {
                let mut rng = Rng::new(seed);
                let mut guide = guide(vocabulary.clone(), schema, Opening::default());
                for _ in 0..40 {
                    let mask = guide.mask().unwrap().clone();
                    let mut allowed = Vec::new();
                    for token in (0..vocabulary.len() as u32).map(TokenId) {
                        let expected = guide.clone().accept(token).is_ok();
                        assert_eq!(mask.allows(token), expected, "{which}, {seed}: {token:?}");
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
    }

    fn say(guide: &mut Guide, text: &str) {
        for byte in text.bytes() {
            guide.accept(TokenId(byte.into())).unwrap();
        }
    }

    #[test]
    fn what_is_forbidden_is_an_error_and_changes_nothing() {
        let mut guide = guide(vocabulary(&[]), "{\"type\":\"object\"}", Opening::default());
        for (token, found) in [
            (TokenId(b'['.into()), "91 '['"),
            (END, "256 ''"),
            (TokenId(9999), "9999 ''"),
        ] {
            let message = guide.accept(token).unwrap_err().to_string();
            let expected = "expected one that its form allows";
            assert_eq!(
                message,
                format!("held answer: found token {found}, {expected}")
            );
        }
        for part in ["{\"a\"", ":", "1", "}"] {
            assert!(!guide.is_complete());
            say(&mut guide, part);
        }
        assert!(guide.is_complete());
        assert_eq!(guide.mask().unwrap().count(), 1);
        guide.accept(END).unwrap();
    }

    #[test]
    fn the_turn_cannot_end_before_an_answer_that_must_come() {
        let behind = Some(THOUGHT);
        let opening = Opening { behind, with: None };
        let mut guide = guide(vocabulary(&["ab"]), "{\"const\": 1}", opening);
        let mask = guide.mask().unwrap().clone();
        assert_eq!(mask.count(), 261 - 3);
        for token in [END, USER, CALL] {
            assert!(!mask.allows(token));
            assert!(guide.accept(token).is_err());
        }
        guide.accept(TokenId(260)).unwrap();
        guide.accept(THOUGHT).unwrap();
        assert!(!guide.is_complete() && guide.mask().unwrap().count() == 1);
        say(&mut guide, "1");
        assert!(guide.is_complete());
    }

    /// A grammar of `<MARK 1`: free until its first two bytes are said, in reasoning and in text.
    #[test]
    fn text_is_free_until_calls_are_opened() {
        let mut builder = crate::schema::grammar::Builder::default();
        let root = builder.bytes([b'<', MARK, b'1']).unwrap();
        let grammar = Arc::new(builder.finish(root).unwrap());
        let with = Some(vec![b'<', MARK]);
        for behind in [None, Some(THOUGHT)] {
            let opening = Opening {
                behind,
                with: with.clone(),
            };
            let mut guide = Guide::new(vocabulary(&["a<", "<b"]), grammar.clone(), opening);
            assert_eq!(guide.is_complete(), behind.is_none());
            for (said, may_open) in [
                (260, true),
                (261, false),
                (60, true),
                (60, true),
                (258, false),
                (97, false),
                (256, false),
                (260, true),
            ] {
                guide.accept(TokenId(said)).unwrap();
                let mask = guide.mask();
                let allowed = mask.is_none_or(|mask| mask.allows(CALL) && mask.allows(TokenId(0)));
                assert_eq!(allowed, may_open, "{said}");
                assert!(
                    guide
                        .mask()
                        .is_none_or(|mask| mask.allows(END) && mask.allows(USER))
                );
            }
            guide.accept(CALL).unwrap();
            assert!(!guide.is_complete() && guide.mask().unwrap().count() == 1);
            say(&mut guide, "1");
            assert!(guide.is_complete() && guide.mask().unwrap().allows(END));
        }
    }
}
