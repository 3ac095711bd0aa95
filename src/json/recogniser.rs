//! Which bytes may follow in a JSON text: a pushdown automaton that is copied like a number, so that many continuations
//! can be tried from one state.
//!
//! ```text
//! value  -> '{' first name | '[' first item | '"' string | number | word       (pushes for '{' and '[')
//! string -> characters, escapes, '"' -> after a name ':', else after a value
//! after  -> ',' | '}' or ']', which pop; nothing but spaces at the top
//! ```
//!
//! A state is never a dead end: whatever was taken can go on to a complete text. Source: RFC 8259, with strings of whole
//! characters only (valid UTF-8, escapes of whole pairs).

/// The deepest nesting that a state can hold.
const MAX_DEPTH: u8 = 64;

const WORDS: [&[u8]; 3] = [b"true", b"false", b"null"];

/// Bounds on a text, and what it may begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Objects and lists inside each other, at most 64.
    depth: u8,
    /// Nothing but an object.
    object: bool,
}

impl Rules {
    /// Whatever is JSON, up to 64 deep.
    pub const TEXT: Rules = Rules {
        depth: MAX_DEPTH,
        object: false,
    };

    /// An object, up to 64 deep.
    pub const OBJECT: Rules = Rules {
        object: true,
        ..Rules::TEXT
    };

    /// What a model may write: nesting stays within what parsers take.
    pub const WRITTEN: Rules = Rules {
        depth: 32,
        object: false,
    };

    /// As [`Rules::WRITTEN`], for an object.
    pub const WRITTEN_OBJECT: Rules = Rules {
        object: true,
        ..Rules::WRITTEN
    };

    /// Whether only objects are meant.
    pub fn is_object(&self) -> bool {
        self.object
    }
}

/// The place in the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Value,
    /// Behind `[`: a value or `]`.
    FirstItem,
    /// Behind `{`: a name or `}`.
    FirstName,
    Name,
    Colon,
    AfterValue,
    String,
    /// In a character of several bytes: those left, and the bounds of the next.
    Character {
        left: u8,
        min: u8,
        max: u8,
    },
    Escape,
    /// Behind `\u` and `n` digits, which make `unit` so far; `low` when it must be the second half of a pair.
    Hex {
        n: u8,
        unit: u16,
        low: bool,
    },
    /// Behind the first half of a pair: `\`, then `u`.
    PairBackslash,
    PairU,
    /// In `true`, `false` or `null`, `n` bytes behind its start.
    Word {
        word: u8,
        n: u8,
    },
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

/// A state: what was read so far, as far as it matters for what may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recogniser {
    at: At,
    depth: u8,
    /// Whether the string is a name.
    in_name: bool,
    /// A bit for each level, the outermost lowest: 1 for an object.
    objects: u64,
    rules: Rules,
}

impl Recogniser {
    /// The state before the first byte.
    pub fn new(rules: Rules) -> Recogniser {
        Recogniser {
            at: At::Value,
            depth: 0,
            in_name: false,
            objects: 0,
            rules,
        }
    }

    /// Whether what was read is a whole value. A number may go on all the same.
    pub fn is_complete(&self) -> bool {
        self.depth == 0 && (self.at == At::AfterValue || self.is_whole_number())
    }

    fn is_whole_number(&self) -> bool {
        matches!(
            self.at,
            At::Zero | At::Whole | At::Fraction | At::ExponentDigits
        )
    }

    /// The state behind `byte`, `None` when no text can go on with it.
    #[inline]
    pub fn next(self, byte: u8) -> Option<Recogniser> {
        match self.at {
            At::String => self.string(byte),
            At::Character { left, min, max } => {
                if !(min..=max).contains(&byte) {
                    return None;
                }
                Some(match left {
                    1 => self.to(At::String),
                    _ => self.character(left - 1, 0x80, 0xBF),
                })
            }
            At::Escape => match byte {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(self.to(At::String)),
                b'u' => Some(self.hex(0, 0, false)),
                _ => None,
            },
            At::Hex { n, unit, low } => self.digit_of_unit(n, unit, low, byte),
            At::PairBackslash => (byte == b'\\').then(|| self.to(At::PairU)),
            At::PairU => (byte == b'u').then(|| self.hex(0, 0, true)),
            At::Word { word, n } => {
                let text = WORDS[usize::from(word)];
                if text[usize::from(n)] != byte {
                    return None;
                }
                Some(if usize::from(n) + 1 == text.len() {
                    self.to(At::AfterValue)
                } else {
                    self.to(At::Word { word, n: n + 1 })
                })
            }
            At::Minus
            | At::Zero
            | At::Whole
            | At::Point
            | At::Fraction
            | At::Exponent
            | At::ExponentSign
            | At::ExponentDigits => self.number(byte),
            At::Value | At::FirstItem | At::FirstName | At::Name | At::Colon | At::AfterValue => {
                self.between(byte)
            }
        }
    }

    fn to(self, at: At) -> Recogniser {
        Recogniser { at, ..self }
    }

    fn character(self, left: u8, min: u8, max: u8) -> Recogniser {
        self.to(At::Character { left, min, max })
    }

    fn hex(self, n: u8, unit: u16, low: bool) -> Recogniser {
        self.to(At::Hex { n, unit, low })
    }

    fn string(self, byte: u8) -> Option<Recogniser> {
        Some(match byte {
            b'"' if self.in_name => self.to(At::Colon),
            b'"' => self.to(At::AfterValue),
            b'\\' => self.to(At::Escape),
            0..=0x1F => return None,
            0x20..=0x7F => self,
            // Table 3-7 of the Unicode standard.
            0xC2..=0xDF => self.character(1, 0x80, 0xBF),
            0xE0 => self.character(2, 0xA0, 0xBF),
            0xED => self.character(2, 0x80, 0x9F),
            0xE1..=0xEF => self.character(2, 0x80, 0xBF),
            0xF0 => self.character(3, 0x90, 0xBF),
            0xF4 => self.character(3, 0x80, 0x8F),
            0xF1..=0xF3 => self.character(3, 0x80, 0xBF),
            _ => return None,
        })
    }

    /// Refuses a half of a pair at its first digit that shows it, not at its last.
    fn digit_of_unit(self, n: u8, unit: u16, low: bool, byte: u8) -> Option<Recogniser> {
        let digit = char::from(byte).to_digit(16)? as u16;
        let fits = match (n, low) {
            (0, true) => digit == 0xD,
            (1, true) => digit >= 0xC,
            (1, false) => unit != 0xD || digit < 0xC,
            _ => true,
        };
        let unit = unit << 4 | digit;
        match n {
            _ if !fits => None,
            0..=2 => Some(self.hex(n + 1, unit, low)),
            _ if (0xD800..0xDC00).contains(&unit) => Some(self.to(At::PairBackslash)),
            _ => Some(self.to(At::String)),
        }
    }

    fn number(self, byte: u8) -> Option<Recogniser> {
        let digit = byte.is_ascii_digit();
        match (self.at, byte) {
            (At::Minus, b'0') => Some(self.to(At::Zero)),
            (At::Minus, _) if digit => Some(self.to(At::Whole)),
            (At::Whole | At::Fraction | At::ExponentDigits, _) if digit => Some(self),
            (At::Point, _) if digit => Some(self.to(At::Fraction)),
            (At::Exponent | At::ExponentSign, _) if digit => Some(self.to(At::ExponentDigits)),
            (At::Exponent, b'+' | b'-') => Some(self.to(At::ExponentSign)),
            (At::Zero | At::Whole, b'.') => Some(self.to(At::Point)),
            (At::Zero | At::Whole | At::Fraction, b'e' | b'E') => Some(self.to(At::Exponent)),
            _ if self.is_whole_number() => self.to(At::AfterValue).between(byte),
            _ => None,
        }
    }

    /// Between strings, words and numbers.
    fn between(self, byte: u8) -> Option<Recogniser> {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            return Some(self);
        }
        match (self.at, byte) {
            (At::Value | At::FirstItem, _) if byte != b']' => self.value(byte),
            (At::FirstItem, b']') => Some(self.pop()),
            (At::FirstName, b'}') => Some(self.pop()),
            (At::FirstName | At::Name, b'"') => Some(Recogniser {
                in_name: true,
                ..self.to(At::String)
            }),
            (At::Colon, b':') => Some(self.to(At::Value)),
            (At::AfterValue, b',') if self.depth > 0 => Some(match self.in_object() {
                true => self.to(At::Name),
                false => self.to(At::Value),
            }),
            (At::AfterValue, b'}') if self.depth > 0 && self.in_object() => Some(self.pop()),
            (At::AfterValue, b']') if self.depth > 0 && !self.in_object() => Some(self.pop()),
            _ => None,
        }
    }

    fn value(self, byte: u8) -> Option<Recogniser> {
        if self.depth == 0 && self.rules.object && byte != b'{' {
            return None;
        }
        Some(match byte {
            b'{' => self.push(true)?,
            b'[' => self.push(false)?,
            b'"' => Recogniser {
                in_name: false,
                ..self.to(At::String)
            },
            b't' => self.to(At::Word { word: 0, n: 1 }),
            b'f' => self.to(At::Word { word: 1, n: 1 }),
            b'n' => self.to(At::Word { word: 2, n: 1 }),
            b'-' => self.to(At::Minus),
            b'0' => self.to(At::Zero),
            b'1'..=b'9' => self.to(At::Whole),
            _ => return None,
        })
    }

    fn in_object(&self) -> bool {
        self.objects >> (self.depth - 1) & 1 == 1
    }

    fn push(self, object: bool) -> Option<Recogniser> {
        if self.depth >= self.rules.depth {
            return None;
        }
        let bit = 1 << self.depth;
        Some(Recogniser {
            depth: self.depth + 1,
            objects: self.objects & !bit | u64::from(object) << self.depth,
            ..self.to(if object { At::FirstName } else { At::FirstItem })
        })
    }

    fn pop(self) -> Recogniser {
        Recogniser {
            depth: self.depth - 1,
            ..self.to(At::AfterValue)
        }
    }

    /// What may follow, for messages; bounds are not told.
    pub fn expected(&self) -> &'static str {
        match self.at {
            At::Value if self.depth == 0 && self.rules.object => "an object",
            At::Value => "a value",
            At::FirstItem => "a value or ']'",
            At::FirstName => "a name in quotes or '}'",
            At::Name => "a name in quotes",
            At::Colon => "':'",
            At::AfterValue if self.depth == 0 => "the end",
            At::AfterValue if self.in_object() => "',' or '}'",
            At::AfterValue => "',' or ']'",
            At::String | At::Character { .. } => "the rest of a string",
            At::Escape | At::Hex { .. } => "an escape",
            At::PairBackslash | At::PairU => "the other half of a character",
            At::Word { .. } => "true, false or null",
            At::Minus | At::Point | At::Exponent | At::ExponentSign => "a digit",
            At::Zero | At::Whole | At::Fraction | At::ExponentDigits => "the rest of a number",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(bytes: &[u8], rules: Rules) -> Option<Recogniser> {
        let mut bytes = bytes.iter();
        bytes.try_fold(Recogniser::new(rules), |r, byte| r.next(*byte))
    }

    #[test]
    fn bounds_hold() {
        let written = |text: &str| after(text.as_bytes(), Rules::WRITTEN).is_some();
        assert!(written(&"[".repeat(32)) && !written(&"[".repeat(33)));
        let digits = |n: usize| "1".repeat(n);
        let text = |text: &str| after(text.as_bytes(), Rules::TEXT);
        assert!(text(&(digits(999) + &" ".repeat(999))).is_some());
        assert!(text(&"[".repeat(64)).is_some() && text(&"[".repeat(65)).is_none());
        for (start, fits) in [(" {", true), ("[", false), ("1", false), ("\"", false)] {
            assert_eq!(
                after(start.as_bytes(), Rules::WRITTEN_OBJECT).is_some(),
                fits
            );
        }
        assert!(size_of::<Recogniser>() <= 24);
    }
}
