//! JSON that stays text: nothing is lost to a value, a number keeps its digits and a name its place. Source: RFC 8259.

use super::recogniser::{Recogniser, Rules};
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

/// `text` as a JSON string, in quotes; written as Python's `json.dumps(text, ensure_ascii=False)` does.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => out += &format!("\\u{:04x}", c as u32),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// An error unless `text` is one JSON value under `rules`, which names what stands where something else must.
pub fn check(text: &str, rules: Rules) -> Result<()> {
    let mut recogniser = Recogniser::new(rules);
    for (at, byte) in text.bytes().enumerate() {
        recogniser = recogniser.next(byte).ok_or_else(|| {
            let found = text
                .get(at..)
                .and_then(|rest| rest.chars().next())
                .unwrap_or(char::from(byte));
            Error::format(format!(
                "byte {at}: found '{}', expected {}",
                found.escape_default(),
                recogniser.expected()
            ))
        })?;
    }
    if !recogniser.is_complete() {
        return Err(Error::format(format!(
            "byte {}: found the end, expected {}",
            text.len(),
            recogniser.expected()
        )));
    }
    Ok(())
}

/// The members of an object in their order: the name, and the value as it stands, without spaces around it. Of a name
/// that stands twice the last value counts, as in most parsers.
///
/// Errors: `Format` when the text is no object.
pub fn members(text: &str) -> Result<Vec<(String, &str)>> {
    check(text, Rules::OBJECT)?;
    let (mut members, mut places) = (Vec::<(String, &str)>::new(), HashMap::new());
    let (mut depth, mut name, mut value) = (0, None, None::<Range<usize>>);
    for lexeme in (Lexemes { text, at: 0 }) {
        let word = &text[lexeme.clone()];
        if matches!(word, "}" | "]") {
            depth -= 1;
        }
        match word {
            "," | "}" if depth == usize::from(word == ",") => {
                if let (Some(name), Some(value)) = (name.take(), value.take()) {
                    let value = &text[value];
                    match places.get(&name) {
                        Some(at) => {
                            let (_, before) = &mut members[*at];
                            *before = value;
                        }
                        None => {
                            places.insert(String::clone(&name), members.len());
                            members.push((name, value));
                        }
                    }
                }
            }
            ":" if depth == 1 => {}
            _ if depth == 1 && name.is_none() => name = Some(unquote(word)),
            _ if name.is_some() => {
                let start = value.map_or(lexeme.start, |range| range.start);
                value = Some(start..lexeme.end);
            }
            _ => {}
        }
        if matches!(word, "{" | "[") {
            depth += 1;
        }
    }
    Ok(members)
}

/// The items of an array as they stand, without spaces around them.
///
/// Errors: `Format` when the text is no array.
pub fn items(text: &str) -> Result<Vec<&str>> {
    check(text, Rules::TEXT)?;
    let (mut items, mut depth, mut item) = (Vec::new(), 0, None::<Range<usize>>);
    for lexeme in (Lexemes { text, at: 0 }) {
        let word = &text[lexeme.clone()];
        if depth == 0 && word != "[" {
            let found = word.chars().next().unwrap_or_default();
            return Err(Error::format(format!("found '{found}', expected an array")));
        }
        if matches!(word, "}" | "]") {
            depth -= 1;
        }
        match word {
            "," | "]" if depth == usize::from(word == ",") => {
                items.extend(item.take().map(|item| &text[item]));
            }
            _ if depth > 0 || word != "[" => {
                let start = item.map_or(lexeme.start, |range| range.start);
                item = Some(start..lexeme.end);
            }
            _ => {}
        }
        if matches!(word, "{" | "[") {
            depth += 1;
        }
    }
    Ok(items)
}

/// The text of a JSON string of its own, `None` for another value.
///
/// `value` must be valid JSON without spaces around it, as [`members`] gives it.
pub fn as_string(value: &str) -> Option<String> {
    value.starts_with('"').then(|| unquote(value))
}

/// The same value as Python's `json.dumps(value, ensure_ascii=False)` spaces it and writes its strings; numbers stay
/// as they are.
///
/// Errors: `Format` when the text is no JSON.
pub fn respaced(text: &str) -> Result<String> {
    check(text, Rules::TEXT)?;
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for lexeme in (Lexemes { text, at: 0 }) {
        match &text[lexeme] {
            "," => out.push_str(", "),
            ":" => out.push_str(": "),
            string if string.starts_with('"') => out += &quote(&unquote(string)),
            other => out.push_str(other),
        }
    }
    Ok(out)
}

/// The same JSON with U+FFFD in the place of each `\u` escape that is half of a pair.
pub fn whole_characters(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    // The UTF-16 unit that an escape at `at` stands for.
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(found) = memchr::memchr(b'\\', bytes.get(at..).unwrap_or_default()) {
        let start = at + found;
        let (first, second) = (unit(start), unit(start + 6));
        at = start + 2;
        match (first, second) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => at = start + 12,
            (Some(0xD800..=0xDFFF), _) => {
                out.push_str(&text[copied..start]);
                out.push_str("\\ufffd");
                (copied, at) = (start + 6, start + 6);
            }
            _ => {}
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// The strings, words, numbers and signs of a valid text, as places in it.
struct Lexemes<'a> {
    text: &'a str,
    at: usize,
}

impl Iterator for Lexemes<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let bytes = self.text.as_bytes();
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        let start = self.at + bytes[self.at..].iter().position(|b| !is_space(b))?;
        let rest = &bytes[start..];
        let len = match rest[0] {
            b'"' => {
                let mut escaped = false;
                let end = rest[1..].iter().position(|byte| {
                    let ends = *byte == b'"' && !escaped;
                    escaped = *byte == b'\\' && !escaped;
                    ends
                });
                end.map_or(rest.len(), |end| end + 2)
            }
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            _ => {
                let ends = |b: &u8| is_space(b) || matches!(b, b',' | b'}' | b']');
                rest.iter().position(ends).unwrap_or(rest.len())
            }
        };
        self.at = start + len;
        Some(start..self.at)
    }
}

/// What a valid string in quotes stands for.
fn unquote(string: &str) -> String {
    let inner = &string[1..string.len() - 1];
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let escape = rest.as_bytes()[at + 1];
        let (c, len) = match escape {
            b'u' => {
                let unit = |from: usize| {
                    let digits = rest.get(from..from + 4);
                    digits.and_then(|digits| u16::from_str_radix(digits, 16).ok())
                };
                let units = [unit(at + 2), unit(at + 8)];
                // The recogniser lets no half of a pair stand alone.
                let is_pair = units[0].is_some_and(|unit| (0xD800..0xDC00).contains(&unit));
                let n = 1 + usize::from(is_pair);
                let mut chars = char::decode_utf16(units.into_iter().flatten().take(n));
                let c = chars.next().and_then(|c| c.ok());
                (c.unwrap_or(char::REPLACEMENT_CHARACTER), 6 * n)
            }
            b'b' => ('\u{8}', 2),
            b'f' => ('\u{c}', 2),
            b'n' => ('\n', 2),
            b'r' => ('\r', 2),
            b't' => ('\t', 2),
            other => (char::from(other), 2),
        };
        out.push(c);
        rest = &rest[at + len..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stand_as_they_were_written() {
        let text = " {\"a\" : 1.50 ,\n\"b\\n\":{\"a\": [ 1,\"},\\\"\"] } , \"\":\"x:,\" , \"d\":[ ],\"e\" :null}\t";
        let expected = [
            ("a", "1.50"),
            ("b\n", "{\"a\": [ 1,\"},\\\"\"] }"),
            ("", "\"x:,\""),
            ("d", "[ ]"),
            ("e", "null"),
        ];
        let found = members(text).unwrap();
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(name, value)| (&name[..], *value))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(members("{ }").unwrap(), []);
        let twice = "{\"a\":1,\"b\":2,\"\\u0061\":[3]}";
        let expected = [("a".to_owned(), "[3]"), ("b".to_owned(), "2")];
        assert_eq!(members(twice).unwrap(), expected);
        assert_eq!(as_string(r#""\/\"""#).unwrap(), "/\"");
        assert_eq!(as_string("12"), None);
    }

    #[test]
    fn items_stand_as_they_were_written() {
        let text = " [ 1.50 ,[2,[ 3]], {\"a\":[ \"],\" ]},\"x\" ]";
        let expected = ["1.50", "[2,[ 3]]", "{\"a\":[ \"],\" ]}", "\"x\""];
        assert_eq!(items(text).unwrap(), expected);
        assert_eq!(items("[ ]").unwrap(), [""; 0]);
        assert_eq!(items("[[]]").unwrap(), ["[]"]);
        let error = items("{}").unwrap_err().to_string();
        assert_eq!(error, "found '{', expected an array");
        assert!(items("[1,]").is_err());
    }

    #[test]
    fn what_is_no_object_is_named() {
        for (text, expected) in [
            ("[1]", "byte 0: found '[', expected an object"),
            ("{\"a\":1", "byte 6: found the end, expected"),
            ("{\"a\":é}", "byte 5: found '\\u{e9}', expected a value"),
            ("", "byte 0: found the end, expected an object"),
            ("{}x", "byte 2: found 'x', expected the end"),
        ] {
            let message = members(text).unwrap_err().to_string();
            assert!(
                message.starts_with(expected),
                "{message}, expected {expected}"
            );
        }
    }

    #[test]
    fn spaces_and_strings_become_those_of_python() {
        let text = "{\"a\":[1,2.0,{}],\n \"\\u00e9\\/\" :\"\\u003c,:\\ud83d\\udc4d\" , \"e\":1E5}";
        let expected = "{\"a\": [1, 2.0, {}], \"é/\": \"<,:👍\", \"e\": 1E5}";
        assert_eq!(respaced(text).unwrap(), expected);
        assert!(respaced("[1,]").is_err());
    }
}
