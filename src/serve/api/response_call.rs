//! Calls as `/v1/responses` tells them: the item that a call becomes depends on how the client declared its tool. Source:
//! OpenAI's API reference, "Responses".

use super::reply::Called;
use crate::json::object::{Json, list, object};
use crate::json::source::{as_string, items, members};

/// What a custom tool's text is called where it is a function.
const INPUT: &str = "{\"input\": \"";

/// How a client declared a tool that the model sees as a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolKind {
    /// As a function.
    Function,
    /// As a function of this name in a namespace.
    Namespace {
        /// The namespace.
        namespace: String,
        /// The function in it.
        name: String,
    },
    /// As a custom tool, whose call is a text: the string `input` of the function.
    Custom,
    /// As the shell of the client's machine; the function has `command`, `timeout_ms` and `working_directory`.
    LocalShell,
}

/// What is told of a call: its item, and the text that comes in pieces.
pub struct CallItem {
    kind: ToolKind,
    id: String,
    /// The text so far.
    text: String,
    /// Bytes of the arguments that are part of the text or do not count.
    read: usize,
}

impl CallItem {
    /// A call of which only the name is known.
    pub fn new(kind: ToolKind, id: String) -> CallItem {
        CallItem {
            kind,
            id,
            text: String::new(),
            read: 0,
        }
    }

    /// The item's own name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The tool's name as the client knows it.
    pub fn name<'a>(&'a self, call: &'a Called) -> &'a str {
        match &self.kind {
            ToolKind::Namespace { name, .. } => name,
            _ => &call.name,
        }
    }

    /// What the ids of such items begin with.
    pub fn prefix(kind: &ToolKind) -> &'static str {
        match kind {
            ToolKind::Custom => "ctc_",
            ToolKind::LocalShell => "lsh_",
            _ => "fc_",
        }
    }

    /// The events of more text and of all of it, and what the text is called.
    pub fn events(&self) -> Option<(&'static str, &'static str, &'static str)> {
        match self.kind {
            ToolKind::Function | ToolKind::Namespace { .. } => Some((
                "response.function_call_arguments.delta",
                "response.function_call_arguments.done",
                "arguments",
            )),
            ToolKind::Custom => Some((
                "response.custom_tool_call_input.delta",
                "response.custom_tool_call_input.done",
                "input",
            )),
            ToolKind::LocalShell => None,
        }
    }

    /// What has become clear of the text, now that the call has these arguments; all of it when it `is_over`.
    pub fn more(&mut self, call: &Called, is_over: bool) -> String {
        let more = match self.kind {
            ToolKind::Custom => self.more_input(&call.arguments, is_over),
            _ => call.arguments[self.read..].to_owned(),
        };
        self.read = match self.kind {
            ToolKind::Custom => self.read,
            _ => call.arguments.len(),
        };
        self.text += &more;
        more
    }

    /// More of a custom tool's text: the string as it comes if it comes first, else all of it at the end.
    fn more_input(&mut self, arguments: &str, is_over: bool) -> String {
        if let Some(input) = arguments.strip_prefix(INPUT) {
            let new = &input[self.read..];
            let end = end_of_string(new);
            self.read += end;
            // No piece ends within an escape.
            return as_string(&format!("\"{}\"", &new[..end])).unwrap_or_default();
        }
        match is_over {
            true => whole_input(arguments),
            false => String::new(),
        }
    }

    /// All of the text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The item.
    pub fn json(&self, call: &Called, status: &str) -> Json {
        let item = |kind: &str| {
            object([
                ("id", self.id.as_str().into()),
                ("type", kind.into()),
                ("status", status.into()),
                ("call_id", (&call.id).into()),
            ])
        };
        match &self.kind {
            ToolKind::Function => item("function_call")
                .with("name", self.name(call))
                .with("arguments", &self.text),
            ToolKind::Namespace { namespace, .. } => item("function_call")
                .with("name", self.name(call))
                .with("namespace", namespace)
                .with("arguments", &self.text),
            ToolKind::Custom => item("custom_tool_call")
                .with("name", self.name(call))
                .with("input", &self.text),
            ToolKind::LocalShell => {
                item("local_shell_call").with("action", shell_action(&call.closed()))
            }
        }
    }
}

/// Bytes of the rest of a JSON string up to the quote that ends it.
fn end_of_string(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    });
    end.unwrap_or(text.len())
}

/// The text of a custom tool whose string does not come first: `input`, or the only argument, or all arguments.
fn whole_input(arguments: &str) -> String {
    let members = members(arguments).unwrap_or_default();
    let input = members.iter().find(|(name, _)| name == "input");
    let found = match (input, members.as_slice()) {
        (Some((_, value)), _) | (None, [(_, value)]) => *value,
        _ => arguments,
    };
    as_string(found).unwrap_or_else(|| found.to_owned())
}

/// The action of a shell's call; a command that is one text is run by a shell.
fn shell_action(arguments: &str) -> Json {
    let members = members(arguments).unwrap_or_default();
    let find = |name: &str| members.iter().find(|(found, _)| found == name);
    let command = match find("command") {
        Some((_, value)) => match (as_string(value), items(value)) {
            (Some(text), _) => ["bash", "-lc", &text].map(Json::from).to_vec(),
            (None, Ok(words)) => {
                let words = words.into_iter();
                let text = |word: &str| as_string(word).unwrap_or_else(|| word.to_owned());
                words.map(|word| Json::from(&text(word))).collect()
            }
            (None, Err(_)) => Vec::new(),
        },
        None => Vec::new(),
    };
    let texts = |name: &str| find(name).and_then(|(_, value)| as_string(value));
    let timeout = find("timeout_ms").and_then(|(_, value)| value.parse::<u64>().ok());
    object([
        ("type", "exec".into()),
        ("command", list(command)),
        ("env", object([])),
    ])
    .with_some("timeout_ms", timeout)
    .with_some("user", texts("user").as_ref())
    .with_some("working_directory", texts("working_directory").as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(arguments: &str) -> Called {
        Called {
            arguments: arguments.into(),
            ..Called::default()
        }
    }

    #[test]
    fn text_of_a_custom_tool_comes_as_it_is_written() {
        let pieces = [
            "{",
            "\"input\": ",
            "\"a ",
            "\\\"b",
            "\\\" \\\\",
            "\\n{}",
            "\\u0001",
            "é\"",
            ", \"more\": \"x\"}",
        ];
        let (mut told, mut arguments) = (String::new(), String::new());
        let mut item = CallItem::new(ToolKind::Custom, "x".into());
        for piece in pieces {
            arguments += piece;
            let is_over = piece.ends_with('}') && piece.starts_with(',');
            told += &item.more(&called(&arguments), is_over);
        }
        assert_eq!(told, "a \"b\" \\\n{}\u{1}é");
        assert_eq!(item.text(), told);
        for (arguments, text) in [
            ("{\"patch\": \"p\\n\"}", "p\n"),
            ("{\"n\": 1, \"input\": \"x\"}", "x"),
            ("{\"a\": 1, \"b\": 2}", "{\"a\": 1, \"b\": 2}"),
            ("{\"input\": [1]}", "[1]"),
            ("{}", "{}"),
        ] {
            let mut item = CallItem::new(ToolKind::Custom, "x".into());
            assert_eq!(item.more(&called(arguments), false), "", "{arguments}");
            assert_eq!(item.more(&called(arguments), true), text, "{arguments}");
        }
    }

    #[test]
    fn a_shell_gets_words() {
        for (arguments, action) in [
            (
                "{\"command\": [\"ls\", \"-l\"], \"timeout_ms\": 5, \"working_directory\": \"/\"}",
                "{\"type\":\"exec\",\"command\":[\"ls\",\"-l\"],\"env\":{},\"timeout_ms\":5,\"working_directory\":\"/\"}",
            ),
            (
                "{\"command\": \"ls | wc\"}",
                "{\"type\":\"exec\",\"command\":[\"bash\",\"-lc\",\"ls | wc\"],\"env\":{}}",
            ),
            ("", "{\"type\":\"exec\",\"command\":[],\"env\":{}}"),
        ] {
            assert_eq!(shell_action(arguments).to_string(), action);
        }
    }
}
