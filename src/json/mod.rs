//! JSON as this program writes and reads it: values, a bounded parser, a writer. Source: RFC 8259.
//!
//! A name that stands twice in an object, half a character of UTF-16 and a number beyond binary64 are errors. Whole
//! numbers from 0 that fit 64 bits are exact; all others are the nearest binary64.

mod node;
pub mod object;
mod parser;
pub mod recogniser;
pub mod source;

pub use node::Node;

use crate::error::{Error, Result};
use parser::Parser;
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

/// Bounds on what is read, and how strict the reader is.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the text.
    pub bytes: usize,
    /// Lists and objects inside each other; the parser goes down by calling itself.
    pub depth: usize,
    /// Bytes of a string or name, without quotes and escapes.
    pub string_bytes: usize,
    /// Bytes that the values take in memory, besides the text of their strings.
    pub value_bytes: usize,
    /// Take what most other parsers take: of a name that stands twice the last value counts, and a number beyond
    /// binary64 is the largest one.
    pub lenient: bool,
}

/// What files may hold, unless their reader says less.
pub const LIMITS: Limits = Limits {
    bytes: 16 << 20,
    depth: 64,
    string_bytes: 16 << 20,
    value_bytes: 100 << 20,
    lenient: false,
};

impl Value {
    /// Reads a text that holds one value, within [`LIMITS`].
    ///
    /// Errors: as [`Value::read`].
    pub fn parse(text: &str) -> Result<Value> {
        Value::read(text.as_bytes(), &LIMITS)
    }

    /// Reads UTF-8 that holds one value.
    ///
    /// Errors, with the place counted in bytes: `Format`; `Limit`.
    pub fn read(bytes: &[u8], limits: &Limits) -> Result<Value> {
        if bytes.len() > limits.bytes {
            return Err(Error::limit("bytes of JSON", bytes.len(), limits.bytes));
        }
        let text = std::str::from_utf8(bytes).map_err(|e| {
            let at = e.valid_up_to();
            Error::format(format!("byte {at}: found what is not UTF-8"))
        })?;
        Parser::read(text, limits)
    }

    /// What kind of value it is, in the words of JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Count(_) | Value::Number(_) => "number",
            Value::Text(_) => "string",
            Value::List(_) => "array",
            Value::Object(_) => "object",
        }
    }

    /// The error that this value is not what was expected.
    pub fn wrong(&self, expected: &str) -> Error {
        let found = self.kind();
        Error::format(format!("found {found}, expected {expected}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_with_their_place() {
        let deep = "[".repeat(80);
        for (text, expected) in [
            ("{\"a\": tru}", "byte 6: found 't', expected a value"),
            ("[1, 2", "byte 5: found the end, expected ',' or ']'"),
            (
                "{\"a\":1,\"a\":2}",
                "byte 10: found ':', expected no second \"a\"",
            ),
            (
                "\"\\ud800\"",
                "byte 2: found 'u', expected a character, not half of one",
            ),
            (&deep, "byte 64: depth 65 exceeds the limit 64"),
        ] {
            assert_eq!(Value::parse(text).unwrap_err().to_string(), expected);
        }
        let error = Value::read(b"[\"a\xff\"]", &LIMITS).unwrap_err();
        assert_eq!(error.to_string(), "byte 3: found what is not UTF-8");
    }

    #[test]
    fn each_bound_holds_and_allows_what_lies_on_it() {
        let limits = Limits {
            bytes: 20,
            depth: 2,
            string_bytes: 3,
            value_bytes: 300,
            lenient: false,
        };
        for (good, bad, expected) in [
            (
                "[[1],\"abc\"]         ",
                "[[1],\"abc\"]          ",
                "bytes of JSON 21",
            ),
            ("[{}]", "[{\"\":[]}]", "byte 5: depth 3"),
            ("\"\\u00e9c\"", "\"\\u00e9cd\"", "byte 7: string bytes 4"),
            ("{\"abc\":1}", "{\"abcd\":1}", "byte 2: string bytes 4"),
            ("[1,2,3]", "[1,2,3,4]", "byte 7: bytes of values 400"),
            (
                "{\"a\":[1]}",
                "{\"a\":[],\"b\":0}",
                "byte 8: bytes of values 400",
            ),
        ] {
            Value::read(good.as_bytes(), &limits).unwrap();
            let error = Value::read(bad.as_bytes(), &limits).unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::Limit);
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_lenient_reader_takes_what_others_take() {
        let limits = Limits {
            lenient: true,
            ..LIMITS
        };
        let read = |text: &str| Value::read(text.as_bytes(), &limits).unwrap();
        assert_eq!(
            read("[1e999,-1e999]"),
            Value::List([f64::MAX, f64::MIN].map(Value::Number).into())
        );
        // Few names are compared, many are looked up.
        for n in [2, 31, 32, 33, 34, 100] {
            let names = (0..2 * n).map(|i| format!("\"{}\":{i}", i % n));
            let text = format!("{{{}}}", names.collect::<Vec<_>>().join(","));
            let expected = (0..n).map(|i| (i.to_string(), Value::Count(n + i)));
            assert_eq!(read(&text), Value::Object(expected.collect()));
            let error = Value::parse(&text).unwrap_err().to_string();
            assert!(error.contains("expected no second \"0\""), "{error}");
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
