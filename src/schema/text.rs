//! Characters that an automaton accepts, byte by byte: as UTF-8, with or without the escapes of a JSON string.
//!
//! Behind each byte some character can still follow that leads to an end. A character of several bytes, or an escape, stands
//! for a range of characters until it is whole, and a range is left as soon as no edge of the automaton meets it.

use super::dfa::{Dfa, HALVES, LAST};
use super::grammar::UNBOUNDED;
use crate::error::{Error, Result};

/// Bits of the table of [`Text::possible`]: 1 MiB.
const MAX_TABLE: usize = 1 << 23;

/// Characters.
#[derive(Clone, Debug)]
pub struct Text {
    dfa: Dfa,
    min: u32,
    max: u32,
    written: Written,
    /// For each number of characters and each state whether an end can be reached; `None` where the bounds do not matter, or
    /// nothing but the number does.
    possible: Option<Vec<u64>>,
    /// With up to this many characters, from `min` on, an end can be reached from every state.
    calm: u32,
}

/// How characters are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// As they are.
    Bare,
    /// In a JSON string, with any escapes.
    Json,
    /// In a JSON string, with escapes for those only that need one.
    Plain,
}

/// A place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    state: u32,
    /// Characters that are whole; no more than `min` are counted where there is no upper bound.
    n: u32,
    part: Part,
}

/// What was read of a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Part {
    None,
    /// The first bytes of a character of `len` bytes, `left` of which are missing.
    Bytes {
        len: u8,
        left: u8,
        bits: u32,
    },
    /// The same where all that it may become leads to one state; `second` bounds the next byte.
    Certain {
        left: u8,
        second: (u8, u8),
        next: u32,
    },
    /// `\`
    Escape,
    /// `\u` and `n` digits.
    Unit {
        n: u8,
        unit: u16,
    },
    /// The first half of a pair.
    High(u16),
    /// It and `\`.
    HighEscape(u16),
    /// It, `\u` and `n` digits.
    Low {
        high: u16,
        n: u8,
        unit: u16,
    },
}

/// What the bytes of continuation may be.
const CONTINUES: (u8, u8) = (0x80, 0xBF);

/// Bounds of the second byte other than [`CONTINUES`]. Source: table 3-7 of the Unicode standard.
const SECONDS: [(u8, u8); 5] = [
    CONTINUES,
    (0xA0, 0xBF),
    (0x80, 0x9F),
    (0x90, 0xBF),
    (0x80, 0x8F),
];

impl Place {
    /// Before the first character.
    pub const START: Place = Place {
        state: 0,
        n: 0,
        part: Part::None,
    };
}

impl Text {
    /// From `min` to `max` characters that `dfa` accepts.
    ///
    /// Errors: `Limit` when that is too large to be told.
    pub fn new(dfa: Dfa, min: u32, max: u32, written: Written) -> Result<Text> {
        let n_states = dfa.len();
        // Where every state accepts and can go on, the number of characters alone decides.
        let is_free = (0..n_states as u32).all(|s| dfa.accepts(s) && !dfa.edges(s).is_empty());
        let is_unbounded = min == 0 && max == UNBOUNDED;
        let mut text = Text {
            dfa,
            min,
            max,
            written,
            possible: None,
            calm: max,
        };
        if is_free || is_unbounded || n_states == 0 {
            return Ok(text);
        }
        let n_levels = text.most_counted() as usize + 1;
        if n_levels.saturating_mul(n_states) > MAX_TABLE {
            let (states, most) = (n_states, MAX_TABLE / n_states);
            return Err(Error::limit(
                &format!("length of a text by a pattern of {states} states"),
                n_levels - 1,
                most - 1,
            ));
        }
        let mut table = vec![0; (n_levels * n_states).div_ceil(64)];
        for level in (0..n_levels).rev() {
            for state in 0..n_states {
                let n = level as u32;
                // Without an upper bound an end can be reached from each state.
                let possible = max == UNBOUNDED && n == min
                    || n >= min && text.dfa.accepts(state as u32)
                    || level + 1 < n_levels
                        && text.dfa.edges(state as u32).iter().any(|edge| {
                            let bit = (level + 1) * n_states + edge.next as usize;
                            table[bit / 64] >> (bit % 64) & 1 == 1
                        });
                let bit = level * n_states + state;
                table[bit / 64] |= u64::from(possible) << (bit % 64);
            }
        }
        text.possible = Some(table);
        let is_calm = |n: &u32| (0..n_states as u32).all(|state| text.possible(state, *n));
        let calm = (min..n_levels as u32).take_while(is_calm).last();
        text.calm = calm.unwrap_or(0);
        Ok(text)
    }

    /// Whether it accepts nothing.
    pub fn is_empty(&self) -> bool {
        self.dfa.is_empty() || self.min > self.max || !self.possible(0, 0)
    }

    /// A place from which the same `n` bytes may follow: far from its bounds their number does not matter.
    pub fn alike(&self, place: Place, n: usize) -> Place {
        let ahead = u64::from(place.n) + n as u64;
        match self.max != UNBOUNDED && place.n > self.min && ahead <= self.calm.into() {
            true => Place {
                n: self.min,
                ..place
            },
            false => place,
        }
    }

    /// Bytes of memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        let table = self.possible.as_ref().map_or(0, Vec::len);
        self.dfa.memory_bytes() + table * size_of::<u64>()
    }

    fn most_counted(&self) -> u32 {
        match self.max {
            UNBOUNDED => self.min,
            max => max,
        }
    }

    /// Whether an end can be reached from a state behind `n` characters.
    fn possible(&self, state: u32, n: u32) -> bool {
        match &self.possible {
            _ if n > self.max => false,
            None => true,
            Some(table) => {
                let n = n.min(self.most_counted());
                let bit = n as usize * self.dfa.len() + state as usize;
                table[bit / 64] >> (bit % 64) & 1 == 1
            }
        }
    }

    /// Whether it may end there.
    pub fn may_end(&self, place: Place) -> bool {
        place.part == Part::None
            && self.dfa.accepts(place.state)
            && (self.min..=self.max).contains(&place.n)
    }

    /// The place behind a byte, if a text that is accepted can go on so.
    pub fn next(&self, place: Place, byte: u8) -> Option<Place> {
        match place.part {
            Part::None => match byte {
                b'\\' | b'"' | 0..=0x1F if self.written != Written::Bare => match byte {
                    b'\\' => self.escape(place),
                    _ => None,
                },
                0..=0x7F => self.whole(place, byte.into()),
                0xC2..=0xDF => self.bytes(place, 2, 1, u32::from(byte & 0x1F)),
                0xE0..=0xEF => self.bytes(place, 3, 2, u32::from(byte & 0x0F)),
                0xF0..=0xF4 => self.bytes(place, 4, 3, u32::from(byte & 0x07)),
                _ => None,
            },
            Part::Bytes { len, left, bits } => {
                if !matches!(byte, 0x80..=0xBF) {
                    return None;
                }
                self.bytes(place, len, left - 1, bits << 6 | u32::from(byte & 0x3F))
            }
            Part::Certain { left, second, next } => {
                if !(second.0..=second.1).contains(&byte) {
                    return None;
                }
                if left == 1 {
                    return Some(self.at(next, place.n));
                }
                let part = Part::Certain {
                    left: left - 1,
                    second: CONTINUES,
                    next,
                };
                Some(Place { part, ..place })
            }
            Part::Escape => self.whole(
                place,
                match byte {
                    b'"' | b'\\' => byte.into(),
                    b'/' if self.written == Written::Json => byte.into(),
                    b'b' => 8,
                    b'f' => 12,
                    b'n' => 10,
                    b'r' => 13,
                    b't' => 9,
                    b'u' => return self.unit(place, 0, 0),
                    _ => return None,
                },
            ),
            Part::Unit { n, unit } => self.unit(place, n + 1, unit << 4 | hex(byte)?),
            Part::High(high) => (byte == b'\\').then_some(Place {
                part: Part::HighEscape(high),
                ..place
            }),
            Part::HighEscape(high) => (byte == b'u').then_some(Place {
                part: Part::Low {
                    high,
                    n: 0,
                    unit: 0,
                },
                ..place
            }),
            Part::Low { high, n, unit } => self.low(place, high, n + 1, unit << 4 | hex(byte)?),
        }
    }

    /// Behind `\\`, if a character may come that is written with it.
    fn escape(&self, place: Place) -> Option<Place> {
        let all: &[(u32, u32)] = match self.written {
            Written::Plain => &[(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C)],
            _ => &[(0, LAST)],
        };
        let mut each = all.iter();
        each.find_map(|(low, high)| self.to(place, Part::Escape, *low, *high))
    }

    /// Behind one more character.
    fn at(&self, state: u32, n: u32) -> Place {
        let n = match self.max {
            UNBOUNDED => (n + 1).min(self.min),
            _ => n + 1,
        };
        Place {
            state,
            n,
            part: Part::None,
        }
    }

    fn whole(&self, place: Place, c: u32) -> Option<Place> {
        let state = self.dfa.next(place.state, c)?;
        let found = self.possible(state, place.n + 1);
        found.then(|| self.at(state, place.n))
    }

    /// The edges that meet a range and lead to an end.
    fn edges(&self, place: Place, low: u32, high: u32) -> impl Iterator<Item = &super::dfa::Edge> {
        let edges = self.dfa.edges(place.state);
        let from = edges.partition_point(|edge| edge.high < low);
        let meeting = edges[from..].iter().take_while(move |e| e.low <= high);
        meeting.filter(move |edge| self.possible(edge.next, place.n + 1))
    }

    /// In a character that becomes one of a range, if one of them may come.
    fn to(&self, place: Place, part: Part, low: u32, high: u32) -> Option<Place> {
        let mut edges = self.edges(place, low, high);
        edges.next().map(|_| Place { part, ..place })
    }

    /// Behind the first bytes of a character, `left` of `len` bytes before its end.
    fn bytes(&self, place: Place, len: u8, left: u8, bits: u32) -> Option<Place> {
        if left == 0 {
            let shortest = [0x80, 0x800, 0x1_0000][usize::from(len) - 2];
            return self.whole(place, bits).filter(|_| bits >= shortest);
        }
        let shift = 6 * u32::from(left);
        let (low, high) = (bits << shift, ((bits + 1) << shift) - 1);
        let shortest = [0x80, 0x800, 0x1_0000][usize::from(len) - 2];
        let (low, high) = (low.max(shortest), high.min(LAST));
        let (halves, second) = match (len, left, bits) {
            (3, 2, 0) => (false, SECONDS[1]),
            (3, 2, 0xD) => (true, SECONDS[2]),
            (4, 3, 0) => (false, SECONDS[3]),
            (4, 3, 4) => (false, SECONDS[4]),
            _ => (false, CONTINUES),
        };
        let high = if halves { HALVES.0 - 1 } else { high };
        if low > high {
            return None;
        }
        let mut edges = self.edges(place, low, high);
        let first = edges.next()?;
        let is_certain = first.low <= low && high <= first.high;
        let part = match is_certain {
            true => Part::Certain {
                left,
                second,
                next: first.next,
            },
            false => Part::Bytes { len, left, bits },
        };
        Some(Place { part, ..place })
    }

    /// Behind `n` digits of a unit of UTF-16.
    fn unit(&self, place: Place, n: u8, unit: u16) -> Option<Place> {
        let shift = 4 * u32::from(4 - n);
        let low = u32::from(unit) << shift;
        let high = ((u32::from(unit) + 1) << shift) - 1;
        let high = match self.written {
            Written::Plain => high.min(0x1F),
            _ => high,
        };
        if low > high {
            return None;
        }
        if n == 4 {
            return match (HALVES.0..0xDC00).contains(&low) {
                true => {
                    let (low, high) = pairs(low, low);
                    self.to(place, Part::High(unit), low, high)
                }
                false => self.whole(place, low),
            };
        }
        let part = Part::Unit { n, unit };
        let as_itself = self.to(place, part, low, high);
        let (first, last) = (low.max(HALVES.0), high.min(0xDBFF));
        as_itself.or_else(|| {
            let (low, high) = pairs(first, last);
            (first <= last)
                .then(|| self.to(place, part, low, high))
                .flatten()
        })
    }

    /// Behind `n` digits of the second half of a pair.
    fn low(&self, place: Place, high: u16, n: u8, unit: u16) -> Option<Place> {
        let shift = 4 * u32::from(4 - n);
        let first = (u32::from(unit) << shift).max(0xDC00);
        let last = (((u32::from(unit) + 1) << shift) - 1).min(HALVES.1);
        if first > last {
            return None;
        }
        let base = pairs(high.into(), high.into()).0;
        let (first, last) = (base + first - 0xDC00, base + last - 0xDC00);
        match n {
            4 => self.whole(place, first),
            _ => self.to(place, Part::Low { high, n, unit }, first, last),
        }
    }
}

/// The characters whose pairs begin with the halves from `low` to `high`.
fn pairs(low: u32, high: u32) -> (u32, u32) {
    let of = |half: u32| 0x1_0000 + (half.saturating_sub(HALVES.0) << 10);
    (of(low), of(high) + 0x3FF)
}

fn hex(byte: u8) -> Option<u16> {
    char::from(byte).to_digit(16).map(|digit| digit as u16)
}

#[cfg(test)]
mod tests {
    use super::super::regex;
    use super::*;

    fn text(pattern: &str, written: Written) -> Text {
        Text::new(regex::compile(pattern).unwrap(), 0, UNBOUNDED, written).unwrap()
    }

    fn takes(text: &Text, bytes: &[u8]) -> bool {
        let last = bytes
            .iter()
            .try_fold(Place::START, |place, byte| text.next(place, *byte));
        last.is_some_and(|place| text.may_end(place))
    }

    /// Whether an end is at most `n` bytes away.
    fn ends(text: &Text, place: Place, n: usize) -> bool {
        let mut next = (0..=255).filter_map(|byte| text.next(place, byte));
        text.may_end(place) || n > 0 && next.any(|place| ends(text, place, n - 1))
    }

    /// Every third character, as UTF-8 and as escapes, under a pattern whose ranges end in the middle of everything.
    #[test]
    fn each_character_is_taken_in_each_of_its_forms() {
        let pattern = "^[\"a-z\\u0085-\\u07c3\\u0805-\\uccaf\\ud7f0-\\ue123\\ufff0-\\u{10123}\\u{4f000}-\\u{10fffe}]$";
        let dfa = regex::compile(pattern).unwrap();
        let (quoted, bare) = (text(pattern, Written::Json), text(pattern, Written::Bare));
        for c in (0..=LAST).step_by(3).filter_map(char::from_u32) {
            let mut bytes = [0; 4];
            let utf8 = c.encode_utf8(&mut bytes);
            let expected = dfa.matches(utf8);
            assert_eq!(takes(&bare, utf8.as_bytes()), expected, "{c:?}");
            let is_plain = c >= ' ' && c != '"' && c != '\\';
            assert_eq!(
                takes(&quoted, utf8.as_bytes()),
                expected && is_plain,
                "{c:?}"
            );
            let mut units = [0; 2];
            let units = c.encode_utf16(&mut units).iter();
            let escapes: String = units.map(|unit| format!("\\u{unit:04X}")).collect();
            assert_eq!(takes(&quoted, escapes.as_bytes()), expected, "{escapes}");
        }
        assert!(takes(&text("^\\n\"$", Written::Json), b"\\n\\\"") && !takes(&quoted, b"\\n"));
    }

    #[test]
    fn plain_strings_escape_what_needs_it_only() {
        let plain = text("^[\\x00-\\x1f\"\\\\/aé]*$", Written::Plain);
        for (bytes, expected) in [
            ("aé/", true),
            ("\\n\\u0000\\u001F\\\"\\\\", true),
            ("\\/", false),
            ("\\u0061", false),
            ("\\u00e9", false),
            ("\\ud83d\\ude00", false),
        ] {
            assert_eq!(takes(&plain, bytes.as_bytes()), expected, "{bytes}");
        }
        let letters = text("^a*$", Written::Plain);
        assert!(letters.next(Place::START, b'\\').is_none());
    }

    /// All pairs of bytes, and many longer ones: what is taken is UTF-8, and what begins a character can end it.
    #[test]
    fn bytes_that_are_no_characters_are_refused() {
        for pattern in ["", "^[^\\u0800-\\u0900\\uffff]*$"] {
            let any = text(pattern, Written::Bare);
            for first in 0..=255 {
                for second in 0..=255 {
                    for rest in [&[][..], &[0x80], &[0xBF, 0x80], &[0x41]] {
                        let bytes = [&[first, second], rest].concat();
                        let text = std::str::from_utf8(&bytes);
                        let expected = text.is_ok_and(|text| any.dfa.matches(text));
                        assert_eq!(takes(&any, &bytes), expected, "{bytes:x?}");
                    }
                    let begun = any
                        .next(Place::START, first)
                        .and_then(|p| any.next(p, second));
                    assert!(begun.is_none_or(|place| ends(&any, place, 3)));
                }
            }
        }
    }

    /// Bounds together with a pattern: after each character an end can be reached, for all texts of a small alphabet.
    #[test]
    fn lengths_and_patterns_hold_together() {
        for (pattern, min, max) in [
            ("^(ab|c)*$", 3, 5),
            ("b", 0, 3),
            ("^a*$", 2, 2),
            ("^(aaa)*$", 4, 8),
            ("", 1, 3),
            ("^a?$", 2, 9),
        ] {
            let dfa = regex::compile(pattern).unwrap();
            let bounded = Text::new(dfa.clone(), min, max, Written::Bare).unwrap();
            let mut all = vec![String::new()];
            for n in 0..9 {
                let last: Vec<String> =
                    all.iter().filter(|text| text.len() == n).cloned().collect();
                all.extend(
                    last.iter()
                        .flat_map(|text| ["a", "b", "c"].map(|c| format!("{text}{c}"))),
                );
            }
            let valid: Vec<&String> = all
                .iter()
                .filter(|text| (min..=max).contains(&(text.len() as u32)) && dfa.matches(text))
                .collect();
            assert_eq!(bounded.is_empty(), valid.is_empty(), "{pattern}");
            if bounded.is_empty() {
                continue;
            }
            for text in &all {
                assert_eq!(
                    takes(&bounded, text.as_bytes()),
                    valid.contains(&text),
                    "{pattern}: {text}"
                );
                let mut bytes = text.bytes();
                let begun = bytes.try_fold(Place::START, |place, byte| bounded.next(place, byte));
                let expected = valid.iter().any(|valid| valid.starts_with(&text[..]));
                assert_eq!(begun.is_some(), expected, "{pattern}: {text}");
            }
        }
    }
}
