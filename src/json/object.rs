//! JSON as answers are made of it: text from the start, so that numbers keep their digits.

use super::source::quote;
use std::borrow::Cow;
use std::fmt;

/// A JSON value, written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json(Cow<'static, str>);

/// An object with these members.
pub fn object<'a>(members: impl IntoIterator<Item = (&'a str, Json)>) -> Json {
    let empty = Json("{}".into());
    let all = members.into_iter();
    all.fold(empty, |object, (name, value)| object.with(name, value))
}

/// An array of these items.
pub fn list(items: impl IntoIterator<Item = Json>) -> Json {
    let items: Vec<Cow<'_, str>> = items.into_iter().map(|item| item.0).collect();
    Json::written(format!("[{}]", items.join(",")))
}

impl Json {
    /// `null`
    pub const NULL: Json = Json(Cow::Borrowed("null"));

    /// A value that is JSON already.
    pub fn written(json: impl Into<String>) -> Json {
        Json(Cow::Owned(json.into()))
    }

    /// An object with one more member.
    pub fn with(mut self, name: &str, value: impl Into<Json>) -> Json {
        let text = self.0.to_mut();
        assert_eq!(text.pop(), Some('}'), "only objects have members");
        let comma = if text.len() > 1 { "," } else { "" };
        *text += &format!("{comma}{}:{}}}", quote(name), value.into());
        self
    }

    /// As [`Json::with`], if there is a value.
    pub fn with_some(self, name: &str, value: Option<impl Into<Json>>) -> Json {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Json {
        Json::written(quote(text))
    }
}

impl From<&String> for Json {
    fn from(text: &String) -> Json {
        Json::written(quote(text))
    }
}

impl From<bool> for Json {
    fn from(flag: bool) -> Json {
        Json::written(flag.to_string())
    }
}

impl From<u64> for Json {
    fn from(n: u64) -> Json {
        Json::written(n.to_string())
    }
}

impl From<usize> for Json {
    fn from(n: usize) -> Json {
        Json::written(n.to_string())
    }
}

/// What is no number becomes `null`.
impl From<f64> for Json {
    fn from(x: f64) -> Json {
        if x.is_finite() {
            Json::written(x.to_string())
        } else {
            Json::NULL
        }
    }
}

/// `null` without a value.
impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Json {
        value.map_or(Json::NULL, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written() {
        let call = object([("a", Json::written("1.50")), ("b\"", "x\n".into())]);
        let all = [call, object([]), list([]), f64::NAN.into(), 0.5.into()];
        let json = object([("all", list(all)), ("n", None::<u64>.into())])
            .with_some("left out", None::<u64>)
            .with("yes", true);
        assert_eq!(
            json.to_string(),
            "{\"all\":[{\"a\":1.50,\"b\\\"\":\"x\\n\"},{},[],null,0.5],\"n\":null,\"yes\":true}"
        );
    }
}
