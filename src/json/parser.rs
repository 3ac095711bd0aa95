//! The bounded reading of a text, by descent.

use super::{Limits, Value, quote};
use crate::error::{Error, Result};
use std::collections::HashMap;

/// What an item of a list takes at most: its list may hold two copies of it while it grows.
const ITEM_BYTES: usize = 100;

/// What a member of an object takes at most, its name included.
const MEMBER_BYTES: usize = 200;

/// Members of an object whose names are compared one by one; beyond, they are looked up.
const FEW_MEMBERS: usize = 32;

/// What looking up takes for a member more.
const LOOKUP_BYTES: usize = 200;

/// A place in a text.
pub(super) struct Parser<'a> {
    text: &'a str,
    /// A border of characters.
    at: usize,
    limits: &'a Limits,
    /// What the values take so far.
    value_bytes: usize,
}

impl<'a> Parser<'a> {
    /// Reads all of `text` as one value.
    pub fn read(text: &'a str, limits: &'a Limits) -> Result<Value> {
        let mut parser = Parser {
            text,
            at: 0,
            limits,
            value_bytes: 0,
        };
        let value = parser.value(1)?;
        parser.space();
        match parser.peek() {
            None => Ok(value),
            Some(_) => Err(parser.wrong("the end")),
        }
    }

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

    /// An error when there is more of `what` than allowed.
    fn within(&self, what: &str, found: usize, limit: usize) -> Result<()> {
        if found <= limit {
            return Ok(());
        }
        let error = Error::limit(what, found, limit);
        Err(error.context(format_args!("byte {}", self.at)))
    }

    /// `depth`: of the list or object that comes, if one does.
    fn value(&mut self, depth: usize) -> Result<Value> {
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

    /// Counts memory for values.
    fn charge(&mut self, bytes: usize) -> Result<()> {
        self.value_bytes += bytes;
        self.within("bytes of values", self.value_bytes, self.limits.value_bytes)
    }

    /// Whether the byte comes next, which is then behind us.
    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn list(&mut self, depth: usize) -> Result<Value> {
        self.within("depth", depth, self.limits.depth)?;
        self.at += 1;
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(Value::List(items));
        }
        loop {
            self.charge(ITEM_BYTES)?;
            items.push(self.value(depth + 1)?);
            if self.take(b']') {
                items.shrink_to_fit();
                return Ok(Value::List(items));
            }
            if !self.take(b',') {
                return Err(self.wrong("',' or ']'"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value> {
        self.within("depth", depth, self.limits.depth)?;
        self.at += 1;
        let (mut members, mut places) = (Vec::new(), HashMap::new());
        if self.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.wrong("a name in quotes"));
            }
            self.charge(MEMBER_BYTES)?;
            let name = self.string()?;
            let before = match members.len() <= FEW_MEMBERS {
                true => members.iter().position(|(other, _)| *other == name),
                false => places.get(&name).copied(),
            };
            if before.is_some() && !self.limits.lenient {
                return Err(self.wrong(&format!("no second {}", quote(&name))));
            }
            if !self.take(b':') {
                return Err(self.wrong("':'"));
            }
            let value = self.value(depth + 1)?;
            match before {
                Some(at) => members[at].1 = value,
                None => {
                    members.push((name, value));
                    self.note_places(&members, &mut places)?;
                }
            }
            if self.take(b'}') {
                members.shrink_to_fit();
                return Ok(Value::Object(members));
            }
            if !self.take(b',') {
                return Err(self.wrong("',' or '}'"));
            }
        }
    }

    /// Notes where names stand that will be looked up.
    fn note_places(
        &mut self,
        members: &[(String, Value)],
        places: &mut HashMap<String, usize>,
    ) -> Result<()> {
        if members.len() <= FEW_MEMBERS {
            return Ok(());
        }
        for (at, (name, _)) in members.iter().enumerate().skip(places.len()) {
            self.charge(LOOKUP_BYTES)?;
            places.insert(name.clone(), at);
        }
        Ok(())
    }

    fn string(&mut self) -> Result<String> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest
                .find(|c: char| c == '"' || c == '\\' || c < ' ')
                .unwrap_or(rest.len());
            self.within("string bytes", out.len() + plain, self.limits.string_bytes)?;
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
            Ok(number) if self.limits.lenient => Ok(Value::Number(f64::MAX.copysign(number))),
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
