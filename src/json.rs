//! JSON as this program writes and reads it: values, a bounded parser, a writer. Source: RFC 8259.

use crate::error::{Error, Result};
use std::collections::HashSet;
use std::fmt::{self, Write};

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A whole number from 0 that fits 64 bits, written without point and exponent.
    Count(u64),
    /// Any other number. What is no number is written as `null`.
    Number(f64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Value>),
    /// An object, in the order of its text; no name stands twice.
    Object(Vec<(String, Value)>),
}

/// Bounds on what is parsed; the length of the text is the caller's to bound.
const LIMITS: Limits = Limits { depth: 32 };

struct Limits {
    /// Lists and objects inside each other.
    depth: usize,
}

impl Value {
    /// Parses a text that holds one value.
    ///
    /// Errors: `Format`, with the place counted in bytes; numbers beyond binary64; values deeper than 32.
    pub fn parse(text: &str) -> Result<Value> {
        let mut parser = Parser { text, at: 0 };
        let value = parser.value(0)?;
        parser.space();
        match parser.peek() {
            None => Ok(value),
            Some(_) => Err(parser.wrong("the end")),
        }
    }

    /// What kind of value it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Count(_) => "a whole number",
            Value::Number(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Object(_) => "an object",
        }
    }
}

/// `text` as a JSON string, in quotes. `<` is escaped too, so that no JSON can end the element of a page it stands in.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' || c == '<' => out += &format!("\\u{:04x}", c as u32),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// On one line, without spaces.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Count(n) => write!(f, "{n}"),
            Value::Number(v) if v.is_finite() => write!(f, "{v}"),
            Value::Number(_) => f.write_str("null"),
            Value::Text(text) => f.write_str(&quote(text)),
            Value::List(items) => {
                f.write_char('[')?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i > 0 { "," } else { "" })?;
                }
                f.write_char(']')
            }
            Value::Object(members) => {
                f.write_char('{')?;
                for (i, (name, value)) in members.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    write!(f, "{comma}{}:{value}", quote(name))?;
                }
                f.write_char('}')
            }
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    /// A border of characters.
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn wrong(&self, expected: &str) -> Error {
        let found = match self.text[self.at..].chars().next() {
            Some(c) => format!("'{}'", c.escape_default()),
            None => "the end".into(),
        };
        Error::format(format!(
            "byte {}: found {found}, expected {expected}",
            self.at
        ))
    }

    fn value(&mut self, depth: usize) -> Result<Value> {
        if depth > LIMITS.depth {
            let error = Error::limit("depth", depth, LIMITS.depth);
            return Err(error.context(format_args!("byte {}", self.at)));
        }
        self.space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                let words = [
                    ("null", Value::Null),
                    ("true", Value::Bool(true)),
                    ("false", Value::Bool(false)),
                ];
                let rest = &self.text[self.at..];
                let found = words.into_iter().find(|(word, _)| rest.starts_with(word));
                let (word, value) = found.ok_or_else(|| self.wrong("a value"))?;
                self.at += word.len();
                Ok(value)
            }
        }
    }

    /// Whether the byte comes next, which is then behind us.
    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn list(&mut self, depth: usize) -> Result<Value> {
        self.at += 1;
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.take(b']') {
                return Ok(Value::List(items));
            }
            if !self.take(b',') {
                return Err(self.wrong("',' or ']'"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value> {
        self.at += 1;
        let (mut members, mut names) = (Vec::new(), HashSet::new());
        if self.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.wrong("a name in quotes"));
            }
            let name = self.string()?;
            if !names.insert(name.clone()) {
                return Err(self.wrong(&format!("no second {}", quote(&name))));
            }
            if !self.take(b':') {
                return Err(self.wrong("':'"));
            }
            members.push((name, self.value(depth + 1)?));
            if self.take(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.take(b',') {
                return Err(self.wrong("',' or '}'"));
            }
        }
    }

    fn string(&mut self) -> Result<String> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest
                .find(|c: char| c == '"' || c == '\\' || c < ' ')
                .unwrap_or(rest.len());
            out += &rest[..plain];
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                _ => return Err(self.wrong("the rest of a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        self.at += 1;
        let c = match self.peek() {
            Some(c @ (b'"' | b'\\' | b'/')) => c as char,
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => return Err(self.wrong("an escape")),
        };
        self.at += 1;
        Ok(c)
    }

    /// `u` and four hexadecimal digits, or two of these that make one character of UTF-16.
    fn unicode(&mut self) -> Result<char> {
        let start = self.at;
        let mut units = vec![self.unit()?];
        if (0xD800..0xDC00).contains(&units[0]) && self.text[self.at..].starts_with("\\u") {
            self.at += 1;
            units.push(self.unit()?);
        }
        let text = String::from_utf16(&units).unwrap_or_default();
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => Ok(c),
            _ => {
                self.at = start;
                Err(self.wrong("a character, not half of one"))
            }
        }
    }

    fn unit(&mut self) -> Result<u16> {
        let digits = self.text.get(self.at + 1..self.at + 5);
        let unit = digits
            .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|d| u16::from_str_radix(d, 16).ok());
        let unit = unit.ok_or_else(|| self.wrong("'u' and four hexadecimal digits"))?;
        self.at += 5;
        Ok(unit)
    }

    fn number(&mut self) -> Result<Value> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let whole = self.at;
        self.digits()?;
        if self.text[whole..self.at].len() > 1 && self.text[whole..].starts_with('0') {
            self.at = whole;
            return Err(self.wrong("a number without a 0 in front"));
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        if let Ok(count) = text.parse() {
            return Ok(Value::Count(count));
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Number(number)),
            _ => {
                self.at = start;
                Err(self.wrong("a number that binary64 holds"))
            }
        }
    }

    fn digits(&mut self) -> Result<()> {
        if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
            return Err(self.wrong("a digit"));
        }
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_with_their_place() {
        let deep = "[".repeat(40);
        for (text, expected) in [
            ("{\"a\": tru}", "byte 6: found 't', expected a value"),
            ("[1, 2", "byte 5: found the end, expected ',' or ']'"),
            (
                "{\"a\":1,\"a\":2}",
                "byte 10: found ':', expected no second \"a\"",
            ),
            (&deep, "byte 33: depth 33 exceeds the limit 32"),
        ] {
            assert_eq!(Value::parse(text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn strings_are_escaped() {
        let text = "a\"b\\c\n\u{1}é</script>";
        let expected = "\"a\\\"b\\\\c\\u000a\\u0001é\\u003c/script>\"";
        assert_eq!(quote(text), expected);
        assert_eq!(Value::parse(expected).unwrap(), Value::Text(text.into()));
        assert_eq!(Value::Number(f64::NAN).to_string(), "null");
    }
}
