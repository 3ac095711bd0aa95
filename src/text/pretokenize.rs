//! How text is cut into pieces before merging: no token crosses the border of a piece.
//!
//! The reference splits three times, each time every piece of the split before, into matches and the gaps
//! between them:
//!
//! ```text
//! 1  \p{N}{1,3}
//! 2  [一-龥぀-ゟ゠-ヿ]+
//! 3  [!-/:-@\[-`{-~][A-Za-z]+              punctuation glued to letters
//!  | [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+  a word with one character before it, mostly a space
//!  |  ?[\p{P}\p{S}]+[\r\n]*                punctuation with a space before it and all line ends behind it
//!  | \s*[\r\n]+                            blank lines
//!  | \s+(?!\S)                             space, but its last character if a word follows
//!  | \s+
//! ```
//!
//! Here splits 1 and 2 cut the text into segments (they cannot meet: no number is in the range of 2), and
//! split 3 is tried by hand at each place of a segment. The end of a segment is the end of text for split 3.
//! Source: `tokenizer.json` of the release.

use super::unicode::RUNS;

/// The general categories that the splits tell apart, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Other,
    Letter,
    Mark,
    Number,
    Punctuation,
    Symbol,
}

const CLASSES: [Class; 6] = [
    Class::Other,
    Class::Letter,
    Class::Mark,
    Class::Number,
    Class::Punctuation,
    Class::Symbol,
];

/// The classes of ASCII, which most text is made of; the table is searched for the rest.
const ASCII: [Class; 128] = {
    let mut classes = [Class::Other; 128];
    let (mut code, mut run) = (0, 0);
    while code < classes.len() {
        if RUNS[run + 1] >> 3 <= code as u32 {
            run += 1;
        }
        classes[code] = CLASSES[(RUNS[run] & 7) as usize];
        code += 1;
    }
    classes
};

fn class(c: char) -> Class {
    let code = c as u32;
    if let Some(class) = ASCII.get(code as usize) {
        return *class;
    }
    // The first run begins at 0, so there is always one that began before.
    let run = RUNS.partition_point(|run| run >> 3 <= code) - 1;
    CLASSES[(RUNS[run] & 7) as usize]
}

/// Digits of a run that stay together.
const DIGITS: usize = 3;

/// What splits 1 and 2 make of a character.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Segment {
    Number,
    Ideographs,
    Other,
}

fn segment(c: char) -> Segment {
    match c {
        '\0'..='\x7f' if !c.is_ascii_digit() => Segment::Other,
        '\u{4e00}'..='\u{9fa5}' | '\u{3040}'..='\u{30ff}' => Segment::Ideographs,
        _ if class(c) == Class::Number => Segment::Number,
        _ => Segment::Other,
    }
}

/// The pieces of `text`, in order; put together they are the text.
pub fn pieces(text: &str) -> Pieces<'_> {
    Pieces {
        segment: "",
        rest: text,
    }
}

/// See [`pieces`].
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    /// What is left of the segment being cut.
    segment: &'a str,
    /// What follows it.
    rest: &'a str,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.segment.is_empty() {
            let kind = segment(self.rest.chars().next()?);
            let longest = match kind {
                Segment::Number => DIGITS,
                Segment::Ideographs | Segment::Other => usize::MAX,
            };
            let len = run_len(self.rest, longest, |c| segment(c) == kind);
            (self.segment, self.rest) = self.rest.split_at(len);
        }
        let piece;
        (piece, self.segment) = self.segment.split_at(piece_len(self.segment));
        Some(piece)
    }
}

/// Bytes of the first piece of a segment: a match of split 3, or the gap before the next one.
fn piece_len(segment: &str) -> usize {
    let is_start = |i: &usize| match_len(&segment[*i..]).is_some();
    match_len(segment).unwrap_or_else(|| {
        let places = segment.char_indices().map(|(i, _)| i);
        places.skip(1).find(is_start).unwrap_or(segment.len())
    })
}

/// Bytes of the match of split 3 at the start of `text`, if there is one.
fn match_len(text: &str) -> Option<usize> {
    let mut chars = text.chars();
    let first = chars.next()?;
    let second = chars.next();
    let behind = &text[first.len_utf8()..];

    if first.is_ascii_punctuation() && second.is_some_and(|c| c.is_ascii_alphabetic()) {
        return Some(1 + run_len(behind, usize::MAX, |c| c.is_ascii_alphabetic()));
    }
    let first_class = class(first);
    // A mark may be the optional character or begin the word; the match is the same.
    let may_precede = !matches!(first, '\r' | '\n') && !is_sign(first_class);
    if is_word(first_class) || may_precede && second.is_some_and(|c| is_word(class(c))) {
        return Some(first.len_utf8() + run_len(behind, usize::MAX, |c| is_word(class(c))));
    }
    if is_sign(first_class) || first == ' ' && second.is_some_and(|c| is_sign(class(c))) {
        let signs = first.len_utf8() + run_len(behind, usize::MAX, |c| is_sign(class(c)));
        let line_ends = run_len(&text[signs..], usize::MAX, |c| matches!(c, '\r' | '\n'));
        return Some(signs + line_ends);
    }
    if first.is_whitespace() {
        return Some(space_len(text));
    }
    None
}

/// The last three alternatives, for a text that begins with white space.
fn space_len(text: &str) -> usize {
    let space = &text[..run_len(text, usize::MAX, char::is_whitespace)];
    if let Some(last_line_end) = space.rfind(['\r', '\n']) {
        return last_line_end + 1;
    }
    match space.char_indices().next_back() {
        Some((last, _)) if last > 0 && space.len() < text.len() => last,
        _ => space.len(),
    }
}

/// Bytes of the longest start of `text` of at most `longest` characters that all are `wanted`.
fn run_len(text: &str, longest: usize, wanted: impl Fn(char) -> bool) -> usize {
    let run = text.chars().take(longest).take_while(|c| wanted(*c));
    run.map(char::len_utf8).sum()
}

fn is_word(class: Class) -> bool {
    matches!(class, Class::Letter | Class::Mark)
}

fn is_sign(class: Class) -> bool {
    matches!(class, Class::Punctuation | Class::Symbol)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use fancy_regex::Regex;

    /// The splits as the reference has them, for a backtracking engine: the slow, simple twin.
    struct Twin([Regex; 3]);

    impl Twin {
        fn new() -> Twin {
            let splits = [
                r"\p{N}{1,3}",
                r"[一-龥\u3040-ゟ゠-ヿ]+",
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
            ];
            Twin(splits.map(|split| Regex::new(split).unwrap()))
        }

        fn pieces<'a>(&self, text: &'a str) -> Vec<&'a str> {
            self.0.iter().fold(vec![text], |pieces, split| {
                let cut = |piece| Self::cut(split, piece);
                pieces.into_iter().flat_map(cut).collect()
            })
        }

        fn cut<'a>(split: &Regex, text: &'a str) -> Vec<&'a str> {
            let mut pieces = Vec::new();
            let mut end = 0;
            for found in split.find_iter(text) {
                let found = found.unwrap();
                pieces.extend([&text[end..found.start()], found.as_str()]);
                end = found.end();
            }
            pieces.push(&text[end..]);
            pieces.retain(|piece| !piece.is_empty());
            pieces
        }
    }

    fn assert_equal(twin: &Twin, text: &str) {
        let found: Vec<&str> = pieces(text).collect();
        assert_eq!(found, twin.pieces(text), "{text:?}");
    }

    /// Characters of every kind that the splits tell apart, and of the borders of their ranges.
    const KINDS: &[&[char]] = &[
        &[
            ' ', '\t', '\n', '\r', '\u{b}', '\u{85}', '\u{a0}', '\u{2028}', '\u{3000}',
        ],
        &['a', 'Z', 'é', 'ß', 'Ж', 'ا', '한', '龦', 'ｱ', '𝔘', 'ʰ'],
        &[
            '一', '龥', 'あ', 'ン', '\u{3040}', '\u{3099}', '゛', '゠', '・', 'ヿ',
        ],
        &['0', '9', '٣', '²', '½', 'Ⅷ', '〇', '𝟘'],
        &['\u{301}', '\u{903}', '\u{20dd}', '\u{fe0f}', '\u{1f3fb}'],
        &['!', '\'', '(', '_', '~', '/', '-', '«', '—', '。', '｜'],
        &['+', '<', '=', '^', '`', '$', '€', '©', '👍', '→'],
        &[
            '\0', '\x1b', '\x7f', '\u{ad}', '\u{200b}', '\u{200d}', '\u{feff}', '\u{e000}',
            '\u{378}',
        ],
    ];

    #[test]
    fn equals_the_twin_on_every_code_point_between_neighbours() {
        let twin = Twin::new();
        for c in (0..=0x10ffff).filter_map(char::from_u32) {
            // Before a word, inside one, behind a sign, between digits, before and behind space.
            assert_equal(&twin, &format!("{c}a{c}b+{c}1{c}2 {c} {c}\n{c}{c}"));
        }
    }

    #[test]
    fn equals_the_twin_on_every_three_kinds() {
        let twin = Twin::new();
        let mut rng = Rng::new(1);
        let mut pick = |kind: usize| KINDS[kind][rng.below(KINDS[kind].len())];
        for code in 0..KINDS.len().pow(3) {
            for _ in 0..8 {
                let kinds = [code % 8, code / 8 % 8, code / 64];
                let text: String = kinds.into_iter().map(&mut pick).collect();
                assert_equal(&twin, &text);
            }
        }
    }

    #[test]
    fn equals_the_twin_on_random_text() {
        let twin = Twin::new();
        for seed in 0..3000 {
            let mut rng = Rng::new(seed);
            let mut text = String::new();
            for _ in 0..rng.below(40) {
                // Runs of a kind, because most of the rules are about runs.
                let kind = KINDS[rng.below(KINDS.len())];
                for _ in 0..=rng.below(4) {
                    text.push(kind[rng.below(kind.len())]);
                }
            }
            assert_equal(&twin, &text);
        }
    }

    #[test]
    fn long_runs_take_linear_time() {
        for text in [" ", "\n", "\n ", "a", "1", "!", "\u{200b}", "あ・", "\0 "] {
            let text = text.repeat(1 << 20);
            let start = std::time::Instant::now();
            assert_eq!(pieces(&text).map(str::len).sum::<usize>(), text.len());
            // A quadratic scan of a million characters takes minutes.
            assert!(start.elapsed().as_secs() < 5, "{:?}", &text[..4]);
        }
    }
}
