//! The tools of a request, in the forms of all three APIs, and which of them the answer may or must call.
//!
//! ```text
//! function (nested or flat), Anthropic's tools          a function
//! custom (text in, by a grammar), local_shell           a function of one argument; its calls are told in their own form
//! namespace                                             its functions, by "namespace__name"
//! what the maker's own servers do (web_search, ...)     left out, with a warning
//! ```

use super::conversation::Conversation;
use super::fault::Family;
use super::history::{self, items, member, string, word};
use super::notes::Notes;
use super::response_call::ToolKind;
use super::spot::Spot;
use crate::engine::Schema;
use crate::engine::chat::{Argument, Call, Tool};
use crate::error::Result;
use crate::json::Node;
use std::collections::HashMap;
use std::sync::Arc;

/// What the argument of a tool is called that takes a text.
pub const CUSTOM_INPUT: &str = "input";

/// The parameters of a tool that takes a text.
const CUSTOM_PARAMETERS: &str = "{\"type\": \"object\", \"properties\": {\"input\": {\"type\": \"string\"}}, \"required\": [\"input\"]}";

/// The name of Codex' shell, whose tool has no name of its own.
pub const LOCAL_SHELL: &str = "local_shell";

/// The parameters of Codex' shell.
const SHELL_PARAMETERS: &str = "{\"type\": \"object\", \"properties\": {\"command\": {\"type\": \"array\", \"items\": {\"type\": \"string\"}}, \"working_directory\": {\"type\": \"string\"}, \"timeout_ms\": {\"type\": \"integer\"}}, \"required\": [\"command\"]}";

/// A tool that the model may call.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As the model knows it.
    pub tool: Tool,
    /// How its calls are told.
    pub kind: ToolKind,
    /// The JSON schema of its parameters.
    pub parameters: Option<String>,
    /// Whether calls must follow the schema.
    pub is_strict: bool,
}

impl Entry {
    /// The name by which the model calls it.
    pub fn name(&self) -> String {
        self.tool.name().to_owned()
    }

    /// What its parameters are held to, as far as they can be. What is not held is noted.
    ///
    /// Errors: a strict tool whose schema cannot be held.
    pub fn schema(&self, notes: &mut Notes) -> Result<Option<Arc<Schema>>> {
        let Some(parameters) = &self.parameters else {
            return Ok(None);
        };
        let place = || format!("tools: parameters of '{}'", word(self.tool.name()));
        match Schema::compile(parameters) {
            Ok((schema, warnings)) => {
                for warning in warnings {
                    notes.add(format!("{}: {warning}", place()));
                }
                Ok(Some(Arc::new(schema)))
            }
            Err(error) if self.is_strict => Err(error.context(place())),
            Err(error) => {
                notes.add(format!("{}: not held: {error}", place()));
                Ok(None)
            }
        }
    }
}

/// The tools, in the order of the request.
#[derive(Clone, Debug, Default)]
pub struct Offered {
    entries: Vec<Entry>,
    places: HashMap<String, usize>,
}

impl Offered {
    /// Adds a tool; of two with one name the last counts.
    fn push(&mut self, entry: Entry) {
        match self.places.get(entry.tool.name()) {
            Some(at) => self.entries[*at] = entry,
            None => {
                self.places
                    .insert(entry.tool.name().to_owned(), self.entries.len());
                self.entries.push(entry);
            }
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All of them.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How calls are told of tools that are no plain functions.
    pub fn kinds(&self) -> Vec<(String, ToolKind)> {
        let entries = self.entries.iter();
        let others = entries.filter(|entry| entry.kind != ToolKind::Function);
        others
            .map(|entry| (entry.name(), entry.kind.clone()))
            .collect()
    }

    /// The tools as they are shown to the model.
    pub fn list(&self) -> Vec<Tool> {
        self.entries
            .iter()
            .map(|entry| entry.tool.clone())
            .collect()
    }
}

/// Which tools the answer may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// None of them, although the model knows them.
    pub none: bool,
    /// At least one.
    pub required: bool,
    /// None but these; empty for all.
    pub only: Vec<String>,
    /// One call at most.
    pub single: bool,
}

/// Reads the tools and the choice of a request.
///
/// Errors: `Format`, with the place of a tool that has no name or whose parameters are no object, and of a choice that is
/// not known or names a tool that is not there.
pub fn read(request: &Spot<'_>, family: Family, conversation: &mut Conversation) -> Result<()> {
    let mut reader = Reader {
        family,
        tools: &mut conversation.tools,
        notes: &mut conversation.notes,
        left_out: Vec::new(),
    };
    for name in ["tools", "functions"] {
        if let Some(list) = request.get(name)? {
            for spot in list.items()? {
                reader.tool(&spot, None)?;
            }
        }
    }
    let mut choice = Choice::default();
    for name in ["tool_choice", "function_call"] {
        if let Some(node) = request.node.get(name)? {
            reader.choice(&node, &mut choice)?;
        }
    }
    if let Some(flag) = request.node.get("parallel_tool_calls")? {
        choice.single |= !flag.flag()?;
    }
    if reader.tools.is_empty() {
        // Some frameworks leave the choice in when they take the tools out.
        choice = Choice::default();
    }
    conversation.choice = choice;
    Ok(())
}

/// Reads tools in the form of one API.
struct Reader<'a> {
    family: Family,
    tools: &'a mut Offered,
    notes: &'a mut Notes,
    /// Names of tools that were left out.
    left_out: Vec<String>,
}

impl Reader<'_> {
    /// Adds a tool, or those of a namespace.
    fn tool(&mut self, spot: &Spot<'_>, namespace: Option<&str>) -> Result<()> {
        let at = &spot.node;
        let kind = at.get("type")?.map(|kind| kind.text()).transpose()?;
        match (kind.unwrap_or("function"), self.family) {
            ("function", _) | ("custom", Family::Anthropic) => self.function(spot, namespace),
            ("custom", Family::OpenAi | Family::Ollama) => {
                let inner = at.get("custom")?;
                if inner.is_some() {
                    self.notes
                        .add("tools: a custom tool is called as a function of one text, input");
                }
                self.custom(inner.as_ref().unwrap_or(at))
            }
            ("namespace", _) => {
                let namespace = at.need("name")?.text()?;
                for spot in spot.need("tools")?.items()? {
                    self.tool(&spot, Some(namespace))?;
                }
                Ok(())
            }
            (LOCAL_SHELL, _) => {
                let text = "Runs a command on the user's machine and gives what it wrote.";
                self.add(
                    LOCAL_SHELL,
                    Some(text),
                    Some(SHELL_PARAMETERS),
                    ToolKind::LocalShell,
                )
            }
            (other, _) => {
                let note = format!("tools: {} left out, it is not known here", word(other));
                self.notes.add(note);
                self.left_out.extend(string(at, "name").map(str::to_owned));
                Ok(())
            }
        }
    }

    /// A function, which stands in a member of that name in `/v1/chat/completions`.
    fn function(&mut self, spot: &Spot<'_>, namespace: Option<&str>) -> Result<()> {
        let nested = spot.get("function")?;
        let function = nested.as_ref().unwrap_or(spot);
        let at = &function.node;
        let name = at.need("name")?.text()?;
        let parameters = match function.get("parameters")? {
            None => function.get("input_schema")?,
            found => found,
        };
        let strict = [at, &spot.node].map(|at| member(at, "strict"));
        let is_strict = strict
            .into_iter()
            .flatten()
            .any(|flag| flag.flag() == Ok(true));
        let kind = match namespace {
            None => ToolKind::Function,
            Some(namespace) => ToolKind::Namespace {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            },
        };
        let tool = match (&nested, namespace) {
            (Some(function), None) => Tool::from_function(function.text),
            _ => Tool::new(
                &in_namespace(namespace, name),
                string(at, "description"),
                parameters.as_ref().map(|spot| spot.text),
            ),
        };
        self.tools.push(Entry {
            tool: tool.map_err(|e| spot.node.error(&e.to_string()))?,
            kind,
            parameters: parameters.map(|spot| spot.text.to_owned()),
            is_strict,
        });
        Ok(())
    }

    /// A tool that takes a text. What the text must look like is told to the model, which is not held to it.
    fn custom(&mut self, at: &Node<'_>) -> Result<()> {
        let name = at.need("name")?.text()?;
        let mut description = string(at, "description").unwrap_or_default().to_owned();
        // Chat nests the grammar once more.
        let format = member(at, "format");
        let grammar = format.map(|format| member(&format, "grammar").unwrap_or(format));
        if let Some(definition) = grammar.and_then(|at| string(&at, "definition")) {
            description += &format!("\n\nThe input must follow this grammar:\n{definition}");
            self.notes.add(format!(
                "tools: the grammar of '{}' is told, not held",
                word(name)
            ));
        }
        self.add(
            name,
            Some(&description),
            Some(CUSTOM_PARAMETERS),
            ToolKind::Custom,
        )
    }

    fn add(
        &mut self,
        name: &str,
        description: Option<&str>,
        parameters: Option<&str>,
        kind: ToolKind,
    ) -> Result<()> {
        self.tools.push(Entry {
            tool: Tool::new(name, description, parameters)?,
            kind,
            parameters: parameters.map(str::to_owned),
            is_strict: false,
        });
        Ok(())
    }

    /// A choice in words or as an object.
    fn choice(&mut self, at: &Node<'_>, choice: &mut Choice) -> Result<()> {
        let flag = |name: &str| member(at, name).is_some_and(|flag| flag.flag() == Ok(true));
        choice.single |= flag("disable_parallel_tool_use");
        let word = match at.text() {
            Ok(word) => word,
            Err(_) => match string(at, "type") {
                Some(word) => word,
                // The older form names a function and nothing else.
                None if string(at, "name").is_some() => "function",
                None => return Err(at.wrong("string or object with a type")),
            },
        };
        match word {
            "auto" | "" => {}
            "none" => choice.none = true,
            "required" | "any" => choice.required = true,
            "function" | "tool" | "custom" => {
                let inner = ["function", "custom"]
                    .into_iter()
                    .find_map(|name| member(at, name));
                if let Some(name) = self.named(&inner.unwrap_or_else(|| at.clone()))? {
                    (choice.required, choice.only) = (true, vec![name]);
                }
            }
            "allowed_tools" => {
                let at = member(at, "allowed_tools").unwrap_or_else(|| at.clone());
                choice.required = matches!(string(&at, "mode"), Some("required" | "any"));
                for tool in items(&at, "tools") {
                    let inner = member(&tool, "function").unwrap_or(tool);
                    choice.only.extend(self.named(&inner)?);
                }
            }
            LOCAL_SHELL => (choice.required, choice.only) = (true, vec![LOCAL_SHELL.to_owned()]),
            other if at.text().is_ok() => {
                let expected = "expected none, auto, required or a tool";
                return Err(at.error(&format!("found '{other}', {expected}")));
            }
            other => self.without_choice(other),
        }
        Ok(())
    }

    /// A choice that cannot be held leaves all tools.
    fn without_choice(&mut self, tool: &str) {
        let note = format!(
            "tool_choice: {} left out, it is not known here",
            history::word(tool)
        );
        self.notes.add(note);
    }

    /// The name of a tool that is there; `None` for one that was left out.
    fn named(&mut self, at: &Node<'_>) -> Result<Option<String>> {
        let node = at.need("name")?;
        let name = in_namespace(string(at, "namespace"), node.text()?);
        if self.left_out.contains(&name) {
            self.without_choice(&name);
            return Ok(None);
        }
        // Without tools there is no choice.
        if !self.tools.is_empty() && !self.tools.places.contains_key(&name) {
            let fault = format!("found '{}', expected the name of a tool", word(&name));
            return Err(node.error(&fault));
        }
        Ok(Some(name))
    }
}

/// The name by which the model knows a function of a namespace.
pub fn in_namespace(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        None => name.to_owned(),
        Some(namespace) => format!("{}__{name}", namespace.trim_end_matches('_')),
    }
}

/// An earlier call of a tool that takes a text.
pub fn custom_call(id: Option<&str>, name: Option<&str>, input: &str) -> Call {
    Call {
        id: id.unwrap_or_default().to_owned(),
        name: name.unwrap_or_default().to_owned(),
        arguments: vec![(CUSTOM_INPUT.to_owned(), Argument::Text(input.to_owned()))],
    }
}
