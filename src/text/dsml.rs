//! Tools in the model's markup: how they are made known, and how a call of them is written.
//!
//! ```text
//! <｜DSML｜tool_calls>
//! <｜DSML｜invoke name="NAME">
//! <｜DSML｜parameter name="KEY" string="true">text as it is</｜DSML｜parameter>
//! <｜DSML｜parameter name="KEY" string="false">JSON</｜DSML｜parameter>
//! </｜DSML｜invoke>
//! </｜DSML｜tool_calls>
//! ```
//!
//! A call without parameters has an empty line in their place. What would end a value or a name too early is escaped
//! so that it comes back: `<` as `&lt;`, `"` as `&quot;`, and an `&` before such an escape as `&amp;`. Nothing else is
//! escaped. Source: `encoding_dsv4.py` of the release, which escapes nothing.

use crate::error::{Context, Error, Result};
use crate::json::recogniser::Rules;
use crate::json::source::{as_string, check, members, quote, respaced, whole_characters};

/// Opens the calls of an answer.
pub(super) const BLOCK: &str = "<｜DSML｜tool_calls>";
pub(super) const END_BLOCK: &str = "</｜DSML｜tool_calls>";
pub(super) const INVOKE: &str = "<｜DSML｜invoke name=\"";
pub(super) const END_NAME: &str = "\">\n";
pub(super) const END_INVOKE: &str = "</｜DSML｜invoke>\n";
pub(super) const PARAMETER: &str = "<｜DSML｜parameter name=\"";
pub(super) const TEXT_VALUE: &str = "\" string=\"true\">";
pub(super) const JSON_VALUE: &str = "\" string=\"false\">";
pub(super) const END_PARAMETER: &str = "</｜DSML｜parameter>";

/// What the release says about tools before it lists them.
const TOOLS: &str = "## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a \
\"<｜DSML｜tool_calls>\" block like the following:

<｜DSML｜tool_calls>
<｜DSML｜invoke name=\"$TOOL_NAME\">
<｜DSML｜parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name=\"$TOOL_NAME2\">
...
</｜DSML｜invoke>
</｜DSML｜tool_calls>

String parameters should be specified as is and set `string=\"true\"`. For all other types (numbers, booleans, \
arrays, objects), pass the value in JSON format and set `string=\"false\"`.

If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside \
<think>...</think> BEFORE any tool calls or final response.

Otherwise, output directly after </think> with tool calls or final response.

### Available Tool Schemas

";

/// And after.
const END_TOOLS: &str = "\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n";

/// A piece of a rendering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// Markup; special tokens spelled out in it are these tokens.
    Markup(&'a str),
    /// Text of a user or of the model; nothing in it is special.
    Text(&'a str),
}

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    name: String,
    /// The function as one line of JSON.
    line: String,
}

impl Tool {
    /// A function with its description and the JSON schema of its parameters.
    ///
    /// Errors: `Format` when `parameters` is no JSON object.
    pub fn new(name: &str, description: Option<&str>, parameters: Option<&str>) -> Result<Tool> {
        let mut line = format!("{{\"name\": {}", quote(name));
        if let Some(description) = description {
            line += &format!(", \"description\": {}", quote(description));
        }
        if let Some(parameters) = parameters {
            check(parameters, Rules::OBJECT).context(|| format!("parameters of tool '{name}'"))?;
            line += &format!(", \"parameters\": {}", respaced(parameters)?);
        }
        Ok(Tool {
            name: name.to_owned(),
            line: line + "}",
        })
    }

    /// A function as the JSON object that a client describes it with; the model sees all of it.
    ///
    /// Errors: `Format` when it is none, or has no name.
    pub fn from_function(json: &str) -> Result<Tool> {
        let members = members(json).context(|| "tool")?;
        let name = members.iter().find(|(key, _)| key == "name");
        let name = name.and_then(|(_, value)| as_string(value));
        Ok(Tool {
            name: name.ok_or_else(|| Error::format("tool: found no name, expected a string"))?,
            line: respaced(json)?,
        })
    }

    /// The name by which the model calls it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The section of the system text that makes tools known.
pub(super) fn write_tools(tools: &[Tool], out: &mut dyn FnMut(Part<'_>)) {
    out(Part::Markup(TOOLS));
    for tool in tools {
        out(Part::Text(&tool.line));
        out(Part::Text("\n"));
    }
    out(Part::Text(END_TOOLS));
}

/// A call of a tool by the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The client's name for this call, which its result refers to. The model does not see it; empty in what
    /// the model wrote.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Names and values, in the order in which the model gave them.
    pub arguments: Vec<(String, Argument)>,
}

/// A value given to a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A string.
    Text(String),
    /// Any other value, as JSON.
    Json(String),
}

impl Call {
    /// A call whose arguments a client holds as a JSON object.
    ///
    /// Errors: `Format` when they are none.
    pub fn from_json(id: &str, name: &str, arguments: &str) -> Result<Call> {
        let members = members(arguments).context(|| format!("arguments of '{name}'"))?;
        let arguments = members.into_iter().map(|(key, value)| {
            let argument = match as_string(value) {
                Some(text) => Argument::Text(text),
                None => Argument::Json(respaced(value)?),
            };
            Ok((key, argument))
        });
        Ok(Call {
            id: id.to_owned(),
            name: name.to_owned(),
            arguments: arguments.collect::<Result<_>>()?,
        })
    }

    /// A call of an earlier turn, whose arguments may be anything. JSON of an object is taken as such, also when it is
    /// the text of another string; what stands for nothing is no argument; all else is the one argument `arguments`, so
    /// that the model sees what it wrote.
    pub fn from_history(id: &str, name: &str, arguments: &str) -> Call {
        let json = whole_characters(arguments.trim());
        let inner = check(&json, Rules::TEXT)
            .ok()
            .and_then(|()| as_string(&json));
        let texts = [Some(&*json), inner.as_deref()];
        let object = texts
            .into_iter()
            .flatten()
            .map(|json| Call::from_json(id, name, json));
        let nothing = ["", "null", "{", "[]", "\"\""].contains(&&*json);
        object
            .into_iter()
            .find_map(Result::ok)
            .unwrap_or_else(|| Call {
                id: id.to_owned(),
                name: name.to_owned(),
                arguments: match nothing {
                    true => Vec::new(),
                    false => vec![("arguments".to_owned(), Argument::Text(arguments.to_owned()))],
                },
            })
    }

    /// The arguments as a JSON object, in their order.
    pub fn arguments_json(&self) -> String {
        let mut out = String::from("{");
        for (i, (key, argument)) in self.arguments.iter().enumerate() {
            out += if i > 0 { ", " } else { "" };
            out += &quote(key);
            out += ": ";
            match argument {
                Argument::Text(text) => out += &quote(text),
                Argument::Json(json) => out += json,
            }
        }
        out.push('}');
        out
    }
}

/// The calls of an answer.
pub(super) fn write_calls(calls: &[Call], out: &mut dyn FnMut(Part<'_>)) {
    out(Part::Markup(BLOCK));
    out(Part::Markup("\n"));
    for call in calls {
        out(Part::Markup(INVOKE));
        out(Part::Text(&NAME_END.escape(&call.name)));
        out(Part::Markup(END_NAME));
        for (key, argument) in &call.arguments {
            out(Part::Markup(PARAMETER));
            out(Part::Text(&NAME_END.escape(key)));
            match argument {
                Argument::Text(text) => {
                    out(Part::Markup(TEXT_VALUE));
                    out(Part::Text(&VALUE_END.escape(text)));
                }
                Argument::Json(json) => {
                    out(Part::Markup(JSON_VALUE));
                    // It can only stand in a string, which has an escape of its own.
                    let in_string = format!("\\u003c{}", &END_PARAMETER[1..]);
                    out(Part::Text(&json.replace(END_PARAMETER, &in_string)));
                }
            }
            out(Part::Markup(END_PARAMETER));
            out(Part::Markup("\n"));
        }
        if call.arguments.is_empty() {
            out(Part::Markup("\n"));
        }
        out(Part::Markup(END_INVOKE));
    }
    out(Part::Markup(END_BLOCK));
}

/// Escapes a mark in a text that it ends: the mark's first byte becomes `&` and `entity`.
pub(super) struct Escape {
    mark: &'static str,
    entity: &'static str,
}

/// For names and keys.
pub(super) const NAME_END: Escape = Escape {
    mark: "\"",
    entity: "quot;",
};

/// For text values.
pub(super) const VALUE_END: Escape = Escape {
    mark: END_PARAMETER,
    entity: "lt;",
};

const AMP: &str = "amp;";

impl Escape {
    /// The text without the mark in it; [`Escape::unescape`] gives it back.
    pub(super) fn escape(&self, text: &str) -> String {
        self.each(text, |level, out| {
            out.push('&');
            match level {
                0 => out.push_str(self.entity),
                _ => out.push_str(AMP),
            }
            1
        })
    }

    /// What was escaped.
    pub(super) fn unescape(&self, text: &str) -> String {
        self.each(text, |level, out| match level {
            0 => {
                out.push_str(&self.mark[..1]);
                1
            }
            1 => {
                out.push_str(&self.mark[..1]);
                1 + self.entity.len()
            }
            _ => {
                out.push('&');
                1 + AMP.len()
            }
        })
    }

    /// Copies the text but for the mark and its escapes: `replace` is told how often it is escaped, writes what
    /// stands for the beginning, and returns how many bytes it has dealt with.
    fn each(&self, text: &str, replace: impl Fn(usize, &mut String) -> usize) -> String {
        let mut out = String::with_capacity(text.len());
        let (mut rest, first) = (text, self.mark.as_bytes()[0]);
        while let Some(at) = memchr::memchr2(first, b'&', rest.as_bytes()) {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let n = match self.level(rest) {
                Some(level) => replace(level, &mut out),
                None => {
                    out.push_str(&rest[..1]);
                    1
                }
            };
            rest = &rest[n..];
        }
        out + rest
    }

    /// How often the mark with which `text` begins is escaped.
    fn level(&self, text: &str) -> Option<usize> {
        if text.starts_with(self.mark) {
            return Some(0);
        }
        let mut rest = text.strip_prefix('&')?;
        let mut level = 1;
        while let Some(shorter) = rest.strip_prefix(AMP) {
            (rest, level) = (shorter, level + 1);
        }
        let rest = rest.strip_prefix(self.entity)?;
        rest.starts_with(&self.mark[1..]).then_some(level)
    }
}

/// Unescapes a text that comes in pieces.
#[derive(Clone, Debug, Default)]
pub(super) struct Unescaper {
    /// An `&` and the `amp;`s behind it are given, but for the last one, with which the rest of the text begins: it
    /// goes if an escape ends there.
    in_chain: bool,
}

impl Unescaper {
    /// Appends what `text` says to `out`, and returns how many of its bytes that took; the rest is to come again with
    /// more behind it. With `is_last`, all of it is taken.
    pub(super) fn push(
        &mut self,
        escape: &Escape,
        text: &str,
        is_last: bool,
        out: &mut String,
    ) -> usize {
        let last = [escape.entity, &escape.mark[1..]];
        let mut at = 0;
        loop {
            let rest = &text[at..];
            if !self.in_chain {
                let Some(n) = memchr::memchr(b'&', rest.as_bytes()) else {
                    out.push_str(rest);
                    return text.len();
                };
                out.push_str(&rest[..n]);
                at += n;
            }
            let first = if self.in_chain { AMP } else { "&" };
            let after = &text[at + first.len()..];
            if after.starts_with(AMP) {
                out.push_str(first);
                at += first.len();
                self.in_chain = true;
                continue;
            }
            let ends = begins_with(after, &last);
            if ends == Some(true) {
                // Of a chain the last `amp;` goes, of a single escape all of it.
                let given = if self.in_chain {
                    escape.entity
                } else {
                    &escape.mark[..1]
                };
                out.push_str(given);
                out.push_str(last[1]);
                at += first.len() + last[0].len() + last[1].len();
            } else if !is_last && (ends.is_none() || AMP.starts_with(after)) {
                return at;
            } else {
                out.push_str(first);
                at += first.len();
            }
            self.in_chain = false;
        }
    }
}

/// Whether `text` begins with `parts`; `None` when it ends too early to tell.
fn begins_with(text: &str, parts: &[&str]) -> Option<bool> {
    let mut rest = text;
    for part in parts {
        match rest.strip_prefix(part) {
            Some(after) => rest = after,
            None if part.starts_with(rest) => return None,
            None => return Some(false),
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use sha2::{Digest, Sha256};

    fn digest(text: &str) -> String {
        let digest = Sha256::digest(text);
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_texts_about_tools_are_the_published_ones() {
        assert_eq!((TOOLS.len(), END_TOOLS.len()), (890, 98));
        assert_eq!(
            digest(TOOLS),
            "c7c9042638154a237b5d1bd48be772374a35a4d24c5cacfd1ffbd92703da329c"
        );
        assert_eq!(
            digest(END_TOOLS),
            "3f9ac63d8e9ea51690e882a457650794bc193cb2367bed0b33ddf115b3b0e7d0"
        );
    }

    #[test]
    fn calls_of_earlier_turns_are_taken_in_any_form() {
        let text = |text: &str| vec![("arguments".to_owned(), Argument::Text(text.to_owned()))];
        let json = |json: &str| Call::from_json("", "f", json).unwrap().arguments;
        for (given, expected) in [
            ("", vec![]),
            ("null", vec![]),
            ("{", vec![]),
            ("[]", vec![]),
            ("\"\"", vec![]),
            (" {\"a\": 1} ", json("{\"a\": 1}")),
            ("\"{\\\"a\\\": 1}\"", json("{\"a\": 1}")),
            ("{\"a\": 1, \"a\": 2}", json("{\"a\": 2}")),
            ("{\"a\": \"\\ud83d\"}", json("{\"a\": \"\u{FFFD}\"}")),
            ("{\"a\": ", text("{\"a\": ")),
            ("[1]", text("[1]")),
            ("no json", text("no json")),
            ("\"text\"", text("\"text\"")),
        ] {
            assert_eq!(
                Call::from_history("", "f", given).arguments,
                expected,
                "{given}"
            );
        }
    }

    #[test]
    fn what_is_escaped_comes_back_and_has_no_mark() {
        const PARTS: &[&str] = &[
            "<",
            "/｜DSML｜parameter>",
            "</｜DSML｜parameter>",
            "&lt;",
            "&",
            "amp;",
            "lt;",
            "\"",
            "&quot;",
            "quot;",
            "é",
            "x",
        ];
        for escape in [NAME_END, VALUE_END] {
            for seed in 1..5000 {
                let mut rng = Rng::new(seed);
                let text: String = (0..rng.below(8))
                    .map(|_| PARTS[rng.below(PARTS.len())])
                    .collect();
                let escaped = escape.escape(&text);
                assert!(!escaped.contains(escape.mark), "{text:?}: {escaped:?}");
                assert_eq!(escape.unescape(&escaped), text, "{escaped:?}");
                // And so it does in pieces, however they are cut.
                let (mut unescaper, mut pending, mut out) =
                    <(Unescaper, String, String)>::default();
                for c in escaped.chars() {
                    pending.push(c);
                    if rng.below(3) > 0 {
                        let n = unescaper.push(&escape, &pending, false, &mut out);
                        pending.drain(..n);
                        assert!(pending.len() < 64, "{pending:?}");
                    }
                }
                let n = unescaper.push(&escape, &pending, true, &mut out);
                assert_eq!((n, out), (pending.len(), text.clone()), "{escaped:?}");
                // And what the model wrote stays as it wrote it.
                if !text.contains(escape.mark) {
                    assert_eq!(escape.escape(&escape.unescape(&text)), text);
                }
            }
        }
        assert_eq!(
            VALUE_END.escape("a < b && \"c\" &lt; d"),
            "a < b && \"c\" &lt; d"
        );
    }

    #[test]
    fn tools_are_lines_of_json() {
        let schema = "{\"type\":\"object\",\n \"properties\":{\"a\":{\"type\":\"number\"}}}";
        let tool = Tool::new("add", Some("adds \"é\""), Some(schema)).unwrap();
        assert_eq!(
            tool.line,
            "{\"name\": \"add\", \"description\": \"adds \\\"é\\\"\", \"parameters\": {\"type\": \"object\", \
             \"properties\": {\"a\": {\"type\": \"number\"}}}}"
        );
        assert_eq!(Tool::from_function(&tool.line).unwrap(), tool);
        assert_eq!(
            Tool::new("now", None, None).unwrap().line,
            "{\"name\": \"now\"}"
        );
        for (error, expected) in [
            (
                Tool::new("x", None, Some("[]")),
                "parameters of tool 'x': byte 0: found '['",
            ),
            (
                Tool::from_function("{\"name\":1}"),
                "tool: found no name, expected a string",
            ),
            (Tool::from_function("{"), "tool: byte 1: found the end"),
        ] {
            let message = error.unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn arguments_keep_their_order_and_their_digits() {
        let json =
            "{\"z\": \"a\\n\\\"b\\\"\", \"a\": [1.10, {\"k\": null}], \"\": 12345678901234567890}";
        let call = Call::from_json("id", "f", json).unwrap();
        assert_eq!(
            call.arguments[0],
            ("z".into(), Argument::Text("a\n\"b\"".into()))
        );
        assert_eq!(call.arguments_json(), json);
        assert_eq!(
            Call::from_json("", "f", "{}").unwrap().arguments_json(),
            "{}"
        );
        let error = Call::from_json("", "f", "[1]").unwrap_err();
        assert_eq!(
            error.to_string(),
            "arguments of 'f': byte 0: found '[', expected an object"
        );
    }
}
