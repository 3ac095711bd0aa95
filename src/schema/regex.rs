//! Patterns of JSON schemas: the regular part of ECMAScript's expressions, which becomes an automaton.
//!
//! ```text
//! a|b  ab  a* a+ a? a{n} a{n,} a{n,m} (lazy ones alike)  (a) (?:a) (?<name>a)  ^ $  .
//! [a-z] [^a-z]  \d \w \s \D \W \S  \t \n \r \f \v \0 \xHH \uHHHH \u{H..}  \- and other signs
//! ```
//!
//! Dialects differ in what `\w` and its like mean beyond ASCII. Here each stands for what all of them agree on: `\d`, `\w`,
//! `\s` for characters of ASCII, `\D` and `\W` for the other ones of ASCII. Not regular, and so refused: back references,
//! looking around, borders of words.

use super::dfa::{Dfa, LAST};
use crate::error::{Error, ErrorKind, Result};

/// Bytes of a pattern.
const MAX_BYTES: usize = 4096;

/// Steps of its automaton before choices are made one by one.
const MAX_STEPS: usize = 1 << 13;

/// Steps and ranges that are looked at on the way to an automaton: a second or less.
const MAX_WORK: usize = 1 << 27;

/// Steps that its states stand for, all together.
const MAX_WAITING: usize = 1 << 20;

/// Groups inside each other.
const MAX_GROUPS: usize = 64;

/// Ranges of characters.
type Ranges = Vec<(u32, u32)>;

const DIGITS: &[(u32, u32)] = &[(0x30, 0x39)];
const WORD: &[(u32, u32)] = &[(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)];
const SPACES: &[(u32, u32)] = &[(0x09, 0x0D), (0x20, 0x20)];

/// What some dialect takes for a space: the White_Space of Unicode, Python's four separators, the byte order mark.
const ANY_SPACES: &[(u32, u32)] = &[
    (0x09, 0x0D),
    (0x1C, 0x20),
    (0x85, 0x85),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x180E, 0x180E),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
];

/// What `.` does not stand for.
const LINE_ENDS: &[(u32, u32)] = &[(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)];

/// A part of a pattern.
#[derive(Clone, Debug)]
enum Part {
    Class(Ranges),
    Seq(Vec<Part>),
    Any(Vec<Part>),
    Repeat(Box<Part>, u32, Option<u32>),
    Start,
    End,
}

/// The automaton of the texts in which a pattern is found.
///
/// Errors: `Format` and `Unsupported`, with the place in the pattern; `Limit`.
pub fn compile(pattern: &str) -> Result<Dfa> {
    if pattern.len() > MAX_BYTES {
        return Err(Error::limit("bytes of a pattern", pattern.len(), MAX_BYTES));
    }
    let mut parser = Parser {
        chars: pattern.chars().collect(),
        at: 0,
        groups: 0,
    };
    let part = parser.choice()?;
    if parser.at < parser.chars.len() {
        return Err(parser.wrong("')' closes no group"));
    }
    Steps::of(&part)?.automaton()
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    groups: usize,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn take(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        self.at += usize::from(found);
        found
    }

    fn starts(&self, text: &str) -> bool {
        let rest = self.chars[self.at..].iter().copied();
        text.chars().eq(rest.take(text.chars().count()))
    }

    fn wrong(&self, fault: &str) -> Error {
        Error::format(format!("pattern, character {}: {fault}", self.at))
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::unsupported(format!(
            "pattern, character {}: {what} is not supported",
            self.at
        ))
    }

    fn choice(&mut self) -> Result<Part> {
        let mut any = vec![self.seq()?];
        while self.take('|') {
            any.push(self.seq()?);
        }
        Ok(Part::Any(any))
    }

    fn seq(&mut self) -> Result<Part> {
        let mut all = Vec::new();
        while self.peek().is_some_and(|c| c != '|' && c != ')') {
            let part = self.atom()?;
            all.push(self.repeated(part)?);
        }
        Ok(Part::Seq(all))
    }

    fn atom(&mut self) -> Result<Part> {
        let Some(c) = self.peek() else {
            return Err(self.wrong("found the end, expected a character"));
        };
        match c {
            '(' => return self.group(),
            '[' => return Ok(Part::Class(self.class()?)),
            '\\' => return self.escape_outside(),
            '*' | '+' | '?' => return Err(self.wrong("nothing to repeat")),
            '{' if self.bounds().is_some() => return Err(self.wrong("nothing to repeat")),
            _ => {}
        }
        self.at += 1;
        Ok(match c {
            '^' => Part::Start,
            '$' => Part::End,
            '.' => Part::Class(without(LINE_ENDS)),
            c => Part::Class(vec![(c.into(), c.into())]),
        })
    }

    fn group(&mut self) -> Result<Part> {
        for (mark, what) in [
            ("(?=", "looking ahead"),
            ("(?!", "looking ahead"),
            ("(?<=", "looking behind"),
            ("(?<!", "looking behind"),
        ] {
            if self.starts(mark) {
                return Err(self.unsupported(what));
            }
        }
        let named = ["(?<", "(?P<"].into_iter().find(|mark| self.starts(mark));
        if self.starts("(?:") {
            self.at += 3;
        } else if let Some(mark) = named {
            self.at += mark.len();
            while self.peek().is_some_and(|c| c != '>') {
                self.at += 1;
            }
            if !self.take('>') {
                return Err(self.wrong("found the end, expected '>'"));
            }
        } else if self.starts("(?") {
            return Err(self.unsupported("a group with flags"));
        } else {
            self.at += 1;
        }
        self.groups += 1;
        if self.groups > MAX_GROUPS {
            return Err(Error::limit(
                "groups inside each other",
                self.groups,
                MAX_GROUPS,
            ));
        }
        let part = self.choice()?;
        self.groups -= 1;
        match self.take(')') {
            true => Ok(part),
            false => Err(self.wrong("found the end, expected ')'")),
        }
    }

    fn repeated(&mut self, mut part: Part) -> Result<Part> {
        let (min, max) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => match self.bounds() {
                // As it is in the older dialect of the web: a brace that bounds nothing.
                None => return Ok(part),
                Some((min, max, len)) => {
                    self.at += len - 1;
                    if max.is_some_and(|max| max < min) {
                        return Err(self.wrong("the upper bound is below the lower one"));
                    }
                    (min, max)
                }
            },
            _ => return Ok(part),
        };
        self.at += 1;
        self.take('?'); // lazy: the same texts
        part = Part::Repeat(Box::new(part), min, max);
        match self.peek() {
            Some('*' | '+' | '?') => Err(self.wrong("nothing to repeat")),
            _ => Ok(part),
        }
    }

    /// The bounds that stand here and their length, if there are some.
    fn bounds(&self) -> Option<(u32, Option<u32>, usize)> {
        let rest: String = self.chars[self.at..].iter().take(24).collect();
        let inner = rest.strip_prefix('{')?.split_once('}')?.0;
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().unwrap_or(u32::MAX))
        };
        let (min, max) = match inner.split_once(',') {
            None => (number(inner)?, Some(number(inner)?)),
            Some((min, "")) => (number(min)?, None),
            Some((min, max)) => (number(min)?, Some(number(max)?)),
        };
        Some((min, max, inner.len() + 2))
    }

    fn escape_outside(&mut self) -> Result<Part> {
        match self.chars.get(self.at + 1) {
            Some('b' | 'B') => Err(self.unsupported("a border of words")),
            Some('1'..='9' | 'k') => Err(self.unsupported("a back reference")),
            Some('p' | 'P') => Err(self.unsupported("a property of characters")),
            Some('A') => {
                self.at += 2;
                Ok(Part::Start)
            }
            Some('z' | 'Z') => {
                self.at += 2;
                Ok(Part::End)
            }
            _ => Ok(Part::Class(self.escape()?)),
        }
    }

    /// The class that an escape stands for; one character is a class too.
    fn escape(&mut self) -> Result<Ranges> {
        self.at += 1;
        let Some(c) = self.peek() else {
            return Err(self.wrong("found the end, expected a character"));
        };
        self.at += 1;
        let one = |c: u32| vec![(c, c)];
        Ok(match c {
            'd' => DIGITS.to_vec(),
            'w' => WORD.to_vec(),
            's' => SPACES.to_vec(),
            'D' => in_ascii(without(DIGITS)),
            'W' => in_ascii(without(WORD)),
            'S' => without(ANY_SPACES),
            't' => one(9),
            'n' => one(10),
            'v' => one(11),
            'f' => one(12),
            'r' => one(13),
            'b' => one(8), // in classes; outside it is a border
            '0' => one(0),
            'x' => one(self.hex(2)?),
            'u' if self.take('{') => {
                let mut c = 0u32;
                while let Some(digit) = self.peek().and_then(|c| c.to_digit(16)) {
                    c = (c << 4 | digit).min(LAST + 1);
                    self.at += 1;
                }
                if !self.take('}') || c > LAST {
                    return Err(self.wrong("expected hexadecimal digits of a character and '}'"));
                }
                one(c)
            }
            'u' => {
                let high = self.hex(4)?;
                if (0xD800..0xDC00).contains(&high) && self.starts("\\u") {
                    self.at += 2;
                    let low = self.hex(4)?;
                    if !(0xDC00..0xE000).contains(&low) {
                        return Err(self.wrong("expected the other half of a character"));
                    }
                    one(0x1_0000 + ((high - 0xD800) << 10) + low - 0xDC00)
                } else {
                    one(high)
                }
            }
            c if c.is_ascii_alphanumeric() => {
                self.at -= 2;
                return Err(self.unsupported(&format!("'\\{c}'")));
            }
            c => one(c.into()),
        })
    }

    fn hex(&mut self, n: usize) -> Result<u32> {
        let mut value = 0;
        for _ in 0..n {
            let digit = self.peek().and_then(|c| c.to_digit(16));
            let digit = digit.ok_or_else(|| self.wrong("expected a hexadecimal digit"))?;
            value = value << 4 | digit;
            self.at += 1;
        }
        Ok(value)
    }

    fn class(&mut self) -> Result<Ranges> {
        self.at += 1;
        let inverted = self.take('^');
        let mut ranges = Ranges::new();
        loop {
            match self.peek() {
                None => return Err(self.wrong("found the end, expected ']'")),
                Some(']') => break,
                _ => {}
            }
            let first = self.class_atom()?;
            let is_range =
                self.peek() == Some('-') && self.chars.get(self.at + 1).is_some_and(|c| *c != ']');
            let [(low, one)] = first[..] else {
                ranges.extend(first);
                continue;
            };
            if !is_range || low != one {
                ranges.extend(first);
                continue;
            }
            self.at += 1;
            let last = self.class_atom()?;
            match last[..] {
                [(high, same)] if high == same && high >= low => ranges.push((low, high)),
                [(high, same)] if high == same => {
                    return Err(self.wrong("the end of the range is before its start"));
                }
                _ => {
                    ranges.extend([(low, low), (0x2D, 0x2D)]);
                    ranges.extend(last);
                }
            }
        }
        self.at += 1;
        ranges.sort_unstable();
        Ok(if inverted { without(&ranges) } else { ranges })
    }

    fn class_atom(&mut self) -> Result<Ranges> {
        match self.peek() {
            Some('\\') => match self.chars.get(self.at + 1) {
                Some('p' | 'P') => Err(self.unsupported("a property of characters")),
                _ => self.escape(),
            },
            Some(c) => {
                self.at += 1;
                Ok(vec![(c.into(), c.into())])
            }
            None => Err(self.wrong("found the end, expected ']'")),
        }
    }
}

/// All characters but some, which are sorted.
fn without(ranges: &[(u32, u32)]) -> Ranges {
    let (mut others, mut from) = (Ranges::new(), 0);
    for (low, high) in ranges {
        if from < *low {
            others.push((from, low - 1));
        }
        from = from.max(high + 1);
    }
    if from <= LAST {
        others.push((from, LAST));
    }
    others
}

fn in_ascii(ranges: Ranges) -> Ranges {
    let within = ranges.into_iter().filter(|(low, _)| *low < 0x80);
    within.map(|(low, high)| (low, high.min(0x7F))).collect()
}

/// A step of the automaton in which several are taken at once.
#[derive(Clone, Debug)]
enum Step {
    Class(Ranges, usize),
    Either(Vec<usize>),
    /// Goes on only at the start, or at the end, of the text.
    AtStart(usize),
    AtEnd(usize),
    Found,
}

struct Steps {
    steps: Vec<Step>,
    start: usize,
}

impl Steps {
    fn of(part: &Part) -> Result<Steps> {
        let mut steps = Steps {
            steps: vec![Step::Found],
            start: 0,
        };
        // Whatever stands behind what is found, and in front of it.
        let behind = steps.repeat(&Part::Class(without(&[])), 0, None, 0)?;
        let found = steps.add_part(part, behind)?;
        steps.start = steps.repeat(&Part::Class(without(&[])), 0, None, found)?;
        Ok(steps)
    }

    fn add(&mut self, step: Step) -> Result<usize> {
        if self.steps.len() >= MAX_STEPS {
            return Err(Error::limit("steps of a pattern", MAX_STEPS + 1, MAX_STEPS));
        }
        self.steps.push(step);
        Ok(self.steps.len() - 1)
    }

    /// The steps of a part that go on to `next`.
    fn add_part(&mut self, part: &Part, next: usize) -> Result<usize> {
        match part {
            Part::Class(ranges) => self.add(Step::Class(ranges.clone(), next)),
            Part::Seq(all) => (all.iter().rev()).try_fold(next, |next, p| self.add_part(p, next)),
            Part::Any(any) => {
                let starts: Result<Vec<usize>> =
                    any.iter().map(|part| self.add_part(part, next)).collect();
                self.add(Step::Either(starts?))
            }
            Part::Repeat(part, min, max) => self.repeat(part, *min, *max, next),
            Part::Start => self.add(Step::AtStart(next)),
            Part::End => self.add(Step::AtEnd(next)),
        }
    }

    fn repeat(&mut self, part: &Part, min: u32, max: Option<u32>, next: usize) -> Result<usize> {
        let mut start = match max {
            None => {
                let again = self.add(Step::Either(vec![next]))?;
                let once = self.add_part(part, again)?;
                self.steps[again] = Step::Either(vec![once, next]);
                again
            }
            Some(max) => {
                let mut start = next;
                for _ in min..max {
                    let once = self.add_part(part, start)?;
                    start = self.add(Step::Either(vec![once, next]))?;
                }
                start
            }
        };
        for _ in 0..min {
            start = self.add_part(part, start)?;
        }
        Ok(start)
    }

    /// The steps that wait for a character, and whether what was read may end; `at_start` before the first character.
    fn close(
        &self,
        open: impl IntoIterator<Item = usize>,
        at_start: bool,
        work: &mut usize,
    ) -> (Vec<usize>, bool) {
        let mut open: Vec<(usize, bool)> = open.into_iter().map(|step| (step, false)).collect();
        let mut seen = vec![[false; 2]; self.steps.len()];
        *work += self.steps.len() / 16;
        let (mut waiting, mut found) = (Vec::new(), false);
        while let Some((step, at_end)) = open.pop() {
            *work += 1;
            if std::mem::replace(&mut seen[step][usize::from(at_end)], true) {
                continue;
            }
            match &self.steps[step] {
                Step::Class(..) if at_end => {} // behind the end of the text comes nothing
                Step::Class(..) => waiting.push(step),
                Step::Either(any) => open.extend(any.iter().map(|step| (*step, at_end))),
                Step::AtStart(next) if at_start => open.push((*next, at_end)),
                Step::AtStart(_) => {}
                Step::AtEnd(next) => open.push((*next, true)),
                Step::Found => found = true,
            }
        }
        waiting.sort_unstable();
        (waiting, found)
    }

    fn automaton(&self) -> Result<Dfa> {
        // Both kinds of state: those that wait, and whether the text may end here.
        let (mut work, mut n_waiting) = (0, 0);
        let start = self.close([self.start], true, &mut work);
        Dfa::explore(start, |(waiting, accept)| {
            let classes: Vec<(&Ranges, usize)> = waiting
                .iter()
                .filter_map(|step| match &self.steps[*step] {
                    Step::Class(ranges, next) => Some((ranges, *next)),
                    _ => None,
                })
                .collect();
            let mut borders: Vec<u32> = classes
                .iter()
                .flat_map(|(ranges, _)| ranges.iter().flat_map(|(low, high)| [*low, high + 1]))
                .collect();
            borders.sort_unstable();
            borders.dedup();
            let n_ranges: usize = classes.iter().map(|(ranges, _)| ranges.len()).sum();
            work += borders.len() * n_ranges;
            n_waiting += waiting.len();
            if work > MAX_WORK || n_waiting > MAX_WAITING {
                let message = "pattern: it would become too large an automaton";
                return Err(Error::new(ErrorKind::Limit, message));
            }
            let mut edges = Vec::new();
            for pair in borders.windows(2) {
                let within = |ranges: &Ranges| {
                    ranges
                        .iter()
                        .any(|(low, high)| (*low..=*high).contains(&pair[0]))
                };
                let next = classes.iter().filter(|(ranges, _)| within(ranges));
                let next: Vec<usize> = next.map(|(_, next)| *next).collect();
                if !next.is_empty() {
                    edges.push((pair[0], pair[1] - 1, self.close(next, false, &mut work)));
                }
            }
            Ok((*accept, edges))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// All texts of at most `n` signs.
    fn texts(signs: &[&str], n: usize) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut last = all.clone();
        for _ in 0..n {
            let longer = |text: &String| {
                signs
                    .iter()
                    .map(|s| format!("{text}{s}"))
                    .collect::<Vec<_>>()
            };
            last = last.iter().flat_map(longer).collect();
            all.extend(last.clone());
        }
        all
    }

    fn pattern(rng: &mut Rng, depth: usize) -> String {
        const ATOMS: [&str; 18] = [
            "a", "b", "1", "-", ".", "\\d", "\\w", "\\s", "\\D", "\\W", "\\S", "[ab]", "[^a]",
            "[\\d-]", "[a-b1]", "^", "$", "\\x61",
        ];
        const TIMES: [&str; 12] = [
            "", "", "", "", "*", "+", "?", "{2}", "{1,}", "{0,2}", "*?", "{1,2}?",
        ];
        let mut text = String::new();
        for _ in 0..1 + rng.below(3) {
            let atom = match rng.below(if depth == 0 { 6 } else { 9 }) {
                6 => format!("({})", pattern(rng, depth - 1)),
                7 => format!(
                    "(?:{}|{})",
                    pattern(rng, depth - 1),
                    pattern(rng, depth - 1)
                ),
                8 => format!("(?:|{})", pattern(rng, depth - 1)),
                _ => ATOMS[rng.below(ATOMS.len())].to_owned(),
            };
            text += &atom;
            // The other engine knows no repeated border.
            text += if matches!(&atom[..], "^" | "$") {
                ""
            } else {
                TIMES[rng.below(TIMES.len())]
            };
        }
        text
    }

    #[test]
    fn random_patterns_are_found_where_another_engine_finds_them() {
        let texts = texts(&["a", "b", "1", "-", " ", "\n"], 4);
        for seed in 1..300 {
            let pattern = pattern(&mut Rng::new(seed), 2);
            let other = fancy_regex::Regex::new(&pattern).unwrap();
            let dfa = compile(&pattern).unwrap();
            for text in &texts {
                let expected = other.is_match(text).unwrap();
                assert_eq!(dfa.matches(text), expected, "{pattern:?} in {text:?}");
            }
        }
    }

    #[test]
    fn escapes_and_classes_are_those_of_ecmascript() {
        for (pattern, good, bad) in [
            ("^\\u00e9\\u{1F600}\\ud83d\\ude00$", "é😀😀", "é😀"),
            ("^[\\]\\\\^-]{4}$", "]\\^-", "a\\^-"),
            ("^[a-\\d]+$", "-a1", "b"),
            ("^a{,2}$", "a{,2}", "aa"),
            ("^{x}$", "{x}", "x"),
            ("^(?<year>\\d{4})/$", "2024/", "2024"),
            ("^\\/\\.\\-\\$$", "/.-$", "/a-$"),
            ("^[^]$", "\n", ""),
            ("^\\cA?$", "", ""),
        ] {
            match compile(pattern) {
                Ok(dfa) => assert!(dfa.matches(good) && !dfa.matches(bad), "{pattern}"),
                Err(error) => assert!(
                    error.to_string().contains("not supported"),
                    "{pattern}: {error}"
                ),
            }
        }
    }

    #[test]
    fn what_is_left_of_automata_is_what_it_should_be() {
        let texts = texts(&["a", "b", "c"], 5);
        let (left, right) = (compile("^a*b").unwrap(), compile("(b|c)$").unwrap());
        let both = left.and(&right).unwrap();
        let not = left.not().unwrap();
        let names = ["", "ab", "abc", "cc"];
        let others = Dfa::any().without(&names).unwrap();
        let unmarked = Dfa::any().without_mark("aba").unwrap();
        for text in &texts {
            assert_eq!(
                both.matches(text),
                left.matches(text) && right.matches(text)
            );
            assert_eq!(not.matches(text), !left.matches(text));
            assert_eq!(others.matches(text), !names.contains(&text.as_str()));
            assert_eq!(unmarked.matches(text), !text.contains("aba"), "{text}");
        }
    }
}
