//! A conversation as a request brings it, whichever API it came by, and its tokens.

use super::format::Format;
use super::notes::Notes;
use super::tools::{Choice, Offered};
use crate::engine::chat::{Call, Chat, Message, Prompt, Rendered, Thinking, Tool};
use crate::engine::tokenizer::Tokenizer;
use crate::engine::{CallForm, Form};
use crate::error::Result;
use crate::serve::ask::{Ask, Places};
use crate::units::TokenId;

/// A warning when the model is asked for both calls and JSON.
const NOT_HELD: &str =
    "the answer may call tools, so that it is asked to be JSON, but not held to it";

/// A conversation, and what the model is to know about the answer.
pub struct Conversation {
    turns: Vec<Turn>,
    /// What the model may call.
    pub tools: Offered,
    /// Which of them, and whether it must.
    pub choice: Choice,
    /// The form of the answer.
    pub format: Option<Format>,
    /// Whether the model reasons.
    pub thinking: Thinking,
    /// Whether the answer goes on where the model's last turn ends, if that comes last.
    pub continues: bool,
    /// What the client should know.
    pub notes: Notes,
}

/// Something said.
pub enum Turn {
    /// Instructions.
    System(String),
    /// By the user.
    User(String),
    /// By the model.
    Assistant(Said),
    /// By a tool.
    Result {
        /// The id of the call.
        id: String,
        /// What it gave.
        body: String,
    },
}

impl Turn {
    fn message(&self) -> Message<'_> {
        match self {
            Turn::System(text) => Message::System(text),
            Turn::User(text) => Message::User(text),
            Turn::Assistant(said) => Message::Assistant {
                reasoning: &said.reasoning,
                content: &said.content,
                calls: &said.calls,
            },
            Turn::Result { id, body } => Message::ToolResult { id, body },
        }
    }
}

/// What the model said.
#[derive(Default)]
pub struct Said {
    /// What came before the answer.
    pub reasoning: String,
    /// The answer.
    pub content: String,
    /// The tools it called.
    pub calls: Vec<Call>,
}

impl Said {
    /// Adds a call; one without an id gets its number, so that results find it.
    pub fn push(&mut self, mut call: Call) {
        if call.id.is_empty() {
            call.id = format!("#{}", self.calls.len());
        }
        self.calls.push(call);
    }
}

impl Conversation {
    /// One in which nothing was said yet.
    pub fn new(thinking: Thinking) -> Conversation {
        Conversation {
            turns: Vec::new(),
            tools: Offered::default(),
            choice: Choice::default(),
            format: None,
            thinking,
            continues: true,
            notes: Notes::default(),
        }
    }

    /// Adds a turn.
    pub fn push(&mut self, turn: Turn) {
        self.turns.push(turn);
    }

    /// Adds what a tool gave: for the call of this id, else for the last call of a tool of this name, else for the next
    /// call that has no result yet.
    pub fn push_result(&mut self, id: Option<&str>, name: Option<&str>, body: String) {
        let id = match id {
            Some(id) if !id.is_empty() => id.to_owned(),
            _ => self.call_without_result(name).unwrap_or_default(),
        };
        self.push(Turn::Result { id, body });
    }

    /// The id of the call that a result without one belongs to.
    fn call_without_result(&self, name: Option<&str>) -> Option<String> {
        let is_said = |turn: &Turn| matches!(turn, Turn::Assistant(said) if !said.calls.is_empty());
        let last = self.turns.iter().rposition(is_said)?;
        let Turn::Assistant(said) = &self.turns[last] else {
            return None;
        };
        let results = self.turns[last..].iter();
        let n_results = results
            .filter(|turn| matches!(turn, Turn::Result { .. }))
            .count();
        let named = said
            .calls
            .iter()
            .rfind(|call| Some(call.name.as_str()) == name);
        let call = named.or_else(|| said.calls.get(n_results))?;
        Some(call.id.clone())
    }

    /// What the model said last, to add to it; a new turn if someone else spoke since, or that one `is_over`.
    pub fn said(&mut self, is_over: fn(&Said) -> bool) -> &mut Said {
        let goes_on = matches!(self.turns.last(), Some(Turn::Assistant(said)) if !is_over(said));
        if !goes_on {
            self.push(Turn::Assistant(Said::default()));
        }
        match self.turns.last_mut() {
            Some(Turn::Assistant(said)) => said,
            _ => unreachable!("the last turn is the model's"),
        }
    }

    /// Whether nothing was said yet.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether anything but instructions was said.
    pub fn has_input(&self) -> bool {
        self.turns
            .iter()
            .any(|turn| !matches!(turn, Turn::System(_)))
    }

    /// Whether the model may call tools.
    pub fn has_tools(&self) -> bool {
        !self.tools.is_empty()
    }

    /// The question that the conversation puts: its tokens, and what the answer may be. Nothing is said about how
    /// tokens are chosen and where the answer ends.
    ///
    /// Errors: as [`Conversation::tokens`]; a strict tool whose schema cannot be held.
    pub fn ask(&mut self, tokenizer: &Tokenizer) -> Result<Ask> {
        let is_result = |turn: &Turn| matches!(turn, Turn::Result { .. });
        let keeps_reasoning = self.has_tools() || self.turns.iter().any(is_result);
        let rendered = self.render(tokenizer)?;
        Ok(Ask {
            tokens: rendered.tokens,
            places: Places {
                shared: rendered.shared,
                answers: rendered.answers,
                answer_stays: !rendered.reasons || keeps_reasoning,
            },
            reasoning: rendered.reasons,
            tools: self.has_tools(),
            most_calls: match self.choice {
                Choice { none: true, .. } => Some(0),
                Choice { single: true, .. } => Some(1),
                _ => None,
            },
            held: self.form()?,
            ..Ask::default()
        })
    }

    /// What the answer is held to.
    fn form(&mut self) -> Result<Option<Form>> {
        if !self.has_tools() || self.choice.none {
            return Ok(self.format.as_ref().and_then(|format| format.form.clone()));
        }
        if self.format.is_some() {
            self.notes.add(NOT_HELD);
        }
        let Choice { required, only, .. } = &self.choice;
        let entries = self.tools.entries().iter();
        if !required && only.is_empty() && !entries.clone().any(|entry| entry.is_strict) {
            return Ok(None);
        }
        let entries = entries.filter(|entry| only.is_empty() || only.contains(&entry.name()));
        let is_strict = entries.clone().any(|entry| entry.is_strict);
        let mut tools = Vec::new();
        for entry in entries {
            tools.push((entry.name(), entry.schema(&mut self.notes)?));
        }
        let form = |tools| {
            Form::Calls(CallForm {
                tools,
                required: *required,
                parallel: !self.choice.single,
            })
        };
        let names = tools.iter().map(|(name, _)| (name.clone(), None)).collect();
        let held = form(tools);
        match held.check() {
            Ok(()) => Ok(Some(held)),
            Err(error) if is_strict => Err(error.context("tools")),
            Err(error) => {
                self.notes
                    .add(format!("tools: parameters not held: {error}"));
                Ok(Some(form(names)))
            }
        }
    }

    /// The prompt.
    ///
    /// Errors: `Unsupported` when the vocabulary has no marks of turns.
    pub fn tokens(&self, tokenizer: &Tokenizer) -> Result<Vec<TokenId>> {
        Ok(self.render(tokenizer)?.tokens)
    }

    fn render(&self, tokenizer: &Tokenizer) -> Result<Rendered> {
        let chat = Chat::new(tokenizer)?;
        let mut messages: Vec<Message<'_>> = self.turns.iter().map(Turn::message).collect();
        let begun = match messages.last() {
            Some(Message::Assistant {
                reasoning,
                content,
                calls: [],
            }) if self.continues => Some((*reasoning, *content)),
            _ => None,
        };
        if begun.is_some() {
            messages.pop();
        }
        let tools: Vec<Tool> = self.tools.list();
        let prompt = Prompt {
            messages: &messages,
            tools: &tools,
            response_format: self.format.as_ref().map(|format| format.schema.as_str()),
            thinking: self.thinking,
        };
        Ok(match begun {
            Some((reasoning, content)) if !(reasoning.is_empty() && content.is_empty()) => {
                chat.render_begun(&prompt, reasoning, content)
            }
            _ => chat.render_with_places(&prompt),
        })
    }
}
