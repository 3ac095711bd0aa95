//! A value and where it stands, for readers whose errors name the place: `messages[3].content: found number, ...`.

use super::Value;
use crate::error::{Error, Result};

/// A value inside another, with the way to it.
///
/// Errors of all getters: `Format`, with the way, what was found and what was expected.
#[derive(Clone, Debug)]
pub struct Node<'a> {
    value: &'a Value,
    /// `messages[3].content`; empty for the outermost value.
    path: String,
}

impl Value {
    /// The outermost value, whose errors name no place.
    pub fn root(&self) -> Node<'_> {
        Node {
            value: self,
            path: String::new(),
        }
    }
}

impl<'a> Node<'a> {
    /// The value itself.
    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// The member of an object; `None` when it is missing or `null`, which mean the same to those who ask.
    pub fn get(&self, name: &str) -> Result<Option<Node<'a>>> {
        let Value::Object(members) = self.value else {
            return Err(self.wrong("object"));
        };
        let found = members.iter().find(|(n, _)| n == name);
        let found = found.filter(|(_, value)| *value != Value::Null);
        Ok(found.map(|(_, value)| self.child(value, name)))
    }

    /// The member of an object, which must be there and not `null`.
    pub fn need(&self, name: &str) -> Result<Node<'a>> {
        let found = self.get(name)?;
        found.ok_or_else(|| self.child(&Value::Null, name).error("missing"))
    }

    /// The members of an object with their names, in the order of the text.
    pub fn members(&self) -> Result<impl Iterator<Item = (&'a str, Node<'a>)>> {
        let Value::Object(members) = self.value else {
            return Err(self.wrong("object"));
        };
        let all = members.iter();
        Ok(all.map(|(name, value)| (name.as_str(), self.child(value, name))))
    }

    /// The items of an array.
    pub fn items(&self) -> Result<impl Iterator<Item = Node<'a>>> {
        let Value::List(items) = self.value else {
            return Err(self.wrong("array"));
        };
        Ok(items.iter().enumerate().map(|(i, value)| Node {
            value,
            path: format!("{}[{i}]", self.path),
        }))
    }

    /// A string.
    pub fn text(&self) -> Result<&'a str> {
        match self.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.wrong("string")),
        }
    }

    /// A boolean.
    pub fn flag(&self) -> Result<bool> {
        match self.value {
            Value::Bool(flag) => Ok(*flag),
            _ => Err(self.wrong("boolean")),
        }
    }

    /// A number, rounded to binary64 where it is larger than 2^53.
    pub fn number(&self) -> Result<f64> {
        match self.value {
            Value::Count(n) => Ok(*n as f64),
            Value::Number(number) => Ok(*number),
            _ => Err(self.wrong("number")),
        }
    }

    /// A whole number from 0 that fits 64 bits, written without point and exponent.
    pub fn count(&self) -> Result<u64> {
        let expected = "whole number from 0";
        match self.value {
            Value::Count(n) => Ok(*n),
            Value::Number(found) => Err(self.error(&format!("found {found}, expected {expected}"))),
            _ => Err(self.wrong(expected)),
        }
    }

    /// The error that this is of another kind than `expected`, such as "string or array".
    pub fn wrong(&self, expected: &str) -> Error {
        self.at(self.value.wrong(expected))
    }

    /// A fault of this value in the words of whoever knows its meaning.
    pub fn error(&self, fault: &str) -> Error {
        self.at(Error::format(fault))
    }

    /// A fault of this value that was found elsewhere, with the way to it in front.
    pub fn at(&self, error: Error) -> Error {
        match self.path.as_str() {
            "" => error,
            path => error.context(path),
        }
    }

    fn child<'b>(&self, value: &'b Value, name: &str) -> Node<'b> {
        let dot = if self.path.is_empty() { "" } else { "." };
        Node {
            value,
            path: format!("{}{dot}{name}", self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_and_faults_name_their_place() {
        let text = r#"{"model":"m","messages":[{"role":"user","content":5}],"n":-3,"seed":null,"stop":["a"],"x":{"y":true}}"#;
        let value = Value::parse(text).unwrap();
        let root = value.root();
        assert_eq!(root.need("model").unwrap().text().unwrap(), "m");
        assert!(root.get("seed").unwrap().is_none());
        assert!(root.get("tools").unwrap().is_none());
        assert_eq!(root.need("n").unwrap().number().unwrap(), -3.0);
        let x = root.need("x").unwrap();
        assert!(x.need("y").unwrap().flag().unwrap());
        let names: Vec<&str> = root.members().unwrap().map(|(name, _)| name).collect();
        assert_eq!(names, ["model", "messages", "n", "seed", "stop", "x"]);

        let messages = root.need("messages").unwrap();
        let message = messages.items().unwrap().next().unwrap();
        let content = message.need("content").unwrap();
        assert_eq!(content.count().unwrap(), 5);
        for (error, expected) in [
            (
                content.wrong("string or array"),
                "messages[0].content: found number, expected string or array",
            ),
            (
                message.need("name").unwrap_err(),
                "messages[0].name: missing",
            ),
            (
                content.need("text").unwrap_err(),
                "messages[0].content: found number, expected object",
            ),
            (
                x.need("y").unwrap().text().unwrap_err(),
                "x.y: found boolean, expected string",
            ),
            (
                root.need("n").unwrap().count().unwrap_err(),
                "n: found -3, expected whole number from 0",
            ),
            (root.text().unwrap_err(), "found object, expected string"),
            (
                messages.flag().unwrap_err(),
                "messages: found array, expected boolean",
            ),
        ] {
            assert_eq!(error.to_string(), expected);
        }
    }
}
