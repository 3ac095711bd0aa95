//! Text to tokens and back: special tokens are cut out, the rest is split into pieces and each piece's bytes
//! are merged.
//!
//! ```text
//! text --special--> text | special token | text --pretokenize--> pieces --bpe--> tokens
//! ```
//!
//! Source: `tokenizer.json` of the release; GPT-2 for the byte alphabet.

use super::bpe::{Merge, Merges, Scratch};
use super::pretokenize::pieces;
use super::special::Specials;
use super::vocabulary::Vocabulary;
use crate::error::{Context, Error, Result};
use crate::units::TokenId;
use std::collections::HashMap;
use std::ops::Range;

/// Bounds of what a file or a user may ask for.
struct Limits {
    /// Bytes of a special token; the search for them may try this much at each place of a text.
    special: usize,
    /// Bytes that are merged together. A piece is a word, so that only a text without any border meets this
    /// bound; merging needs some 30 times as much memory.
    piece: usize,
}

const LIMITS: Limits = Limits {
    special: 256,
    piece: 4 << 20,
};

/// The only family of tokenizers known here, byte-level BPE.
const MODEL: &str = "gpt2";

/// The names under which files ask for the splits of [`super::pretokenize`].
const PRE: [&str; 2] = ["joyai-llm", "deepseek-v3"];

/// Token types of GGUF files.
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// Special tokens without the bars that the others have.
const BARE_SPECIALS: [&str; 4] = ["<think>", "</think>", "<dsml:", "</dsml:"];

const BOS: &str = "<｜begin▁of▁sentence｜>";
const EOS: &str = "<｜end▁of▁sentence｜>";

/// What to make of special tokens that are spelled out in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// Each becomes its token.
    Parse,
    /// They are text like any other; nobody can smuggle them in.
    Plain,
}

/// A vocabulary, ready for use.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    /// The bytes of all tokens, one after the other.
    bytes: Vec<u8>,
    /// Where each token ends in `bytes`.
    ends: Vec<usize>,
    specials: Specials,
    /// The token of each single byte.
    byte_tokens: [TokenId; 256],
    merges: Merges,
    bos: Option<TokenId>,
    add_bos: bool,
    eos: Option<TokenId>,
}

impl Tokenizer {
    /// Builds the tokenizer of a vocabulary.
    ///
    /// Special are the tokens of the types control and user-defined. In a file without types they are those whose
    /// text has a wide bar (`｜`, which no byte-level token has), stands between `<|` and `|>`, or is `<think>`,
    /// `</think>`, `<dsml:` or `</dsml:`. Merges never make a special token. Of several tokens with the same text
    /// the lowest id counts.
    ///
    /// Errors: `Unsupported` for another family or another way to split; `Limit` for too long a special token;
    /// `Format` when a merge is malformed, occurs twice or names a token that is not there, when a byte has no
    /// token, and when an id is too large.
    pub fn new(parts: Vocabulary) -> Result<Tokenizer> {
        check_family(&parts)?;
        let n_tokens = parts.tokens.len();
        if !parts.token_types.is_empty() && parts.token_types.len() != n_tokens {
            let found = parts.token_types.len();
            return Err(Error::format(format!(
                "token types: found {found}, expected {n_tokens}"
            )));
        }
        let alphabet = Alphabet::new();
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(n_tokens);
        let mut specials = Vec::new();
        let mut is_byte_level = Vec::with_capacity(n_tokens);
        for (id, text) in (0..).zip(&parts.tokens) {
            let special = match parts.token_types.get(id as usize) {
                Some(kind) => matches!(*kind, CONTROL | USER_DEFINED),
                None => looks_special(text),
            };
            if special {
                if text.len() > LIMITS.special {
                    return Err(Error::limit("length", text.len(), LIMITS.special)
                        .context(format!("special token {id}")));
                }
                specials.push((text.clone(), TokenId(id)));
            }
            // A text outside the alphabet is no byte-level token; it stands for itself.
            let byte_level = !special && alphabet.read(text, &mut bytes);
            if !byte_level {
                bytes.extend_from_slice(text.as_bytes());
            }
            is_byte_level.push(byte_level);
            ends.push(bytes.len());
        }
        let specials = Specials::new(specials);

        let mut by_bytes = HashMap::with_capacity(n_tokens);
        for id in (0..n_tokens).rev().filter(|id| is_byte_level[*id]) {
            by_bytes.insert(token_bytes(&bytes, &ends, id), TokenId(id as u32));
        }
        let mut byte_tokens = [TokenId(0); 256];
        for (byte, token) in (0..=255).zip(&mut byte_tokens) {
            let found: Option<&TokenId> = by_bytes.get(&[byte][..]);
            *token = *found
                .ok_or_else(|| Error::format(format!("no token for the byte 0x{byte:02x}")))?;
        }
        let merges = read_merges(&parts.merges, &alphabet, &by_bytes)?;
        let merges = Merges::new(n_tokens, &merges)?;

        let by_id = |name: &str, id: Option<u32>, text: &str| match id {
            Some(id) if id as usize >= n_tokens => Err(Error::format(format!(
                "{name} token: found id {id}, but there are {n_tokens} tokens"
            ))),
            Some(id) => Ok(Some(TokenId(id))),
            None => Ok(specials.get(text)),
        };
        let (bos, eos) = (
            by_id("start", parts.bos, BOS)?,
            by_id("end", parts.eos, EOS)?,
        );
        Ok(Tokenizer {
            bytes,
            ends,
            specials,
            byte_tokens,
            merges,
            bos,
            add_bos: parts.add_bos,
            eos,
        })
    }

    /// Bytes of memory that it takes.
    pub fn memory_bytes(&self) -> u64 {
        let ends = self.ends.capacity() * size_of::<usize>();
        (size_of::<Tokenizer>() + self.bytes.capacity() + ends) as u64 + self.merges.memory_bytes()
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no tokens; never true, as each byte has one.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The token that begins a text: the one that the file names, else the one of the release by its text.
    pub fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    /// The token that the file puts in front of every text, if it puts one there.
    pub fn text_start(&self) -> Option<TokenId> {
        self.bos.filter(|_| self.add_bos)
    }

    /// The token that ends an answer, found like [`Tokenizer::bos`].
    pub fn eos(&self) -> Option<TokenId> {
        self.eos
    }

    /// The tokens at which the turn of the model ends: the end token, and those that begin something else.
    pub fn ends_of_turn(&self) -> [Option<TokenId>; 4] {
        let speakers = ["<｜User｜>", "<｜Assistant｜>"].map(|mark| self.special(mark));
        [self.eos, self.bos, speakers[0], speakers[1]]
    }

    /// The special token of this text.
    pub fn special(&self, text: &str) -> Option<TokenId> {
        self.specials.get(text)
    }

    /// The first special token in a text, and the bytes where it lies.
    pub fn find_special(&self, text: &str) -> Option<(Range<usize>, TokenId)> {
        self.specials.find(text)
    }

    /// Whether a token is special, or has the text of one.
    pub fn is_special(&self, token: TokenId) -> bool {
        let text = std::str::from_utf8(self.token_bytes(token));
        text.is_ok_and(|text| self.special(text).is_some())
    }

    /// Whether a token is special and no text to show: a mark between bars or of reasoning, as the release has them. Other
    /// special tokens may stand for any text.
    pub fn is_control(&self, token: TokenId) -> bool {
        let text = std::str::from_utf8(self.token_bytes(token)).unwrap_or_default();
        let is_mark = ["｜", "|"].iter().any(|bar| {
            let inner = text
                .strip_prefix('<')
                .and_then(|rest| rest.strip_suffix('>'));
            let inner = inner.and_then(|inner| inner.strip_prefix(bar));
            inner.is_some_and(|inner| inner.ends_with(bar))
        });
        (is_mark || matches!(text, "<think>" | "</think>")) && self.special(text).is_some()
    }

    /// What a token stands for, perhaps a part of a character; its text for a special token, nothing for an id
    /// that the vocabulary does not have (a model may have more rows than tokens).
    pub fn token_bytes(&self, token: TokenId) -> &[u8] {
        match token.0 as usize {
            id if id < self.len() => token_bytes(&self.bytes, &self.ends, id),
            _ => &[],
        }
    }

    /// The tokens of a text. No start token is added.
    pub fn encode(&self, text: &str, special: Special) -> Vec<TokenId> {
        let mut tokens = Vec::new();
        let mut scratch = Scratch::default();
        let mut rest = text;
        if special == Special::Parse {
            while let Some((found, token)) = self.find_special(rest) {
                self.encode_plain(&rest[..found.start], &mut scratch, &mut tokens);
                tokens.push(token);
                rest = &rest[found.end..];
            }
        }
        self.encode_plain(rest, &mut scratch, &mut tokens);
        tokens
    }

    fn encode_plain(&self, text: &str, scratch: &mut Scratch, tokens: &mut Vec<TokenId>) {
        for piece in pieces(text) {
            for part in piece.as_bytes().chunks(LIMITS.piece) {
                let bytes = part.iter().map(|byte| self.byte_tokens[usize::from(*byte)]);
                self.merges.apply(bytes, scratch, tokens);
            }
        }
    }

    /// The bytes of the tokens, one after the other.
    pub fn decode(&self, tokens: &[TokenId]) -> Vec<u8> {
        tokens
            .iter()
            .flat_map(|token| self.token_bytes(*token))
            .copied()
            .collect()
    }
}

fn token_bytes<'a>(bytes: &'a [u8], ends: &[usize], id: usize) -> &'a [u8] {
    let begin = if id == 0 { 0 } else { ends[id - 1] };
    &bytes[begin..ends[id]]
}

fn check_family(parts: &Vocabulary) -> Result<()> {
    if parts.model != MODEL {
        let found = short(&parts.model);
        return Err(Error::unsupported(format!(
            "tokenizer model: found '{found}', expected '{MODEL}'"
        )));
    }
    if !PRE.contains(&parts.pre.as_str()) {
        let (found, expected) = (short(&parts.pre), PRE.join("' or '"));
        return Err(Error::unsupported(format!(
            "pre-tokenizer: found '{found}', expected '{expected}'"
        )));
    }
    Ok(())
}

/// Tells special tokens in a file without types; see [`Tokenizer::new`].
fn looks_special(text: &str) -> bool {
    let between_bars = || {
        text.strip_prefix("<|")
            .is_some_and(|rest| rest.ends_with("|>"))
    };
    text.contains('｜') || between_bars() || BARE_SPECIALS.contains(&text)
}

/// The merges by id, in order of their rank.
fn read_merges(
    merges: &[String],
    alphabet: &Alphabet,
    by_bytes: &HashMap<&[u8], TokenId>,
) -> Result<Vec<Merge>> {
    let mut both = Vec::new();
    let mut read = |text: &str| {
        let (left, right) = text
            .split_once(' ')
            .filter(|(left, right)| !left.is_empty() && !right.is_empty())
            .ok_or_else(|| Error::format("expected two tokens with a space between"))?;
        both.clear();
        let mut append = |text| {
            alphabet
                .read(text, &mut both)
                .then_some(both.len())
                .ok_or_else(|| {
                    Error::format(format!(
                        "'{}' has a character that stands for no byte",
                        short(text)
                    ))
                })
        };
        let border = append(left)?;
        append(right)?;
        let token = |bytes: &[u8]| {
            by_bytes.get(bytes).copied().ok_or_else(|| {
                Error::format(format!(
                    "no token '{}'",
                    String::from_utf8_lossy(bytes).escape_debug()
                ))
            })
        };
        Ok(Merge {
            left: token(&both[..border])?,
            right: token(&both[border..])?,
            result: token(&both)?,
        })
    };
    let numbered = merges.iter().enumerate();
    numbered
        .map(|(i, text)| read(text).context(|| format!("merge {i} '{}'", short(text))))
        .collect()
}

/// The start of a text out of a file, for a message.
fn short(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

/// GPT-2's alphabet: a printable character for each byte, so that a token is a string.
///
/// Bytes 33-126, 161-172 and 174-255 are the characters of the same number; the other 68, in order, are the
/// characters from U+0100 on.
struct Alphabet {
    /// The byte of each character.
    bytes: [Option<u8>; 256 + 68],
}

impl Alphabet {
    fn new() -> Alphabet {
        let mut bytes = [None; 256 + 68];
        let mut stand_in = 256;
        for byte in 0..=255 {
            if matches!(byte, 33..=126 | 161..=172 | 174..=255) {
                bytes[usize::from(byte)] = Some(byte);
            } else {
                bytes[stand_in] = Some(byte);
                stand_in += 1;
            }
        }
        Alphabet { bytes }
    }

    /// Appends the bytes of `text`, or nothing when one of its characters is not of the alphabet.
    fn read(&self, text: &str, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        for c in text.chars() {
            let Some(Some(byte)) = self.bytes.get(c as usize) else {
                out.truncate(before);
                return false;
            };
            out.push(*byte);
        }
        true
    }
}
