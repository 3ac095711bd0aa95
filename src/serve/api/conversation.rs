//! A conversation as a request brings it, whichever API it came by, and its tokens.

use super::format::Format;
use crate::engine::SamplerOptions;
use crate::engine::chat::{Call, Chat, Message, Prompt, Rendered, Thinking, Tool};
use crate::engine::tokenizer::Tokenizer;
use crate::error::Result;
use crate::json::Node;
use crate::serve::ask::{Ask, Places};
use crate::units::TokenId;

/// Bounds on a conversation, besides those on the values of a body.
struct Limits {
    /// Turns of all kinds.
    turns: usize,
    tools: usize,
    /// Calls in one answer.
    calls: usize,
}

const LIMITS: Limits = Limits {
    turns: 4096,
    tools: 512,
    calls: 128,
};

/// A conversation, and what the model is to know about the answer.
pub struct Conversation {
    turns: Vec<Turn>,
    tools: Vec<Tool>,
    /// The form of the answer.
    pub format: Option<Format>,
    /// Whether the model reasons.
    pub thinking: Thinking,
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
    /// Adds a call.
    pub fn push(&mut self, at: &Node<'_>, call: Call) -> Result<()> {
        check(at, "calls", self.calls.len() + 1, LIMITS.calls)?;
        self.calls.push(call);
        Ok(())
    }
}

impl Conversation {
    /// One in which nothing was said yet.
    pub fn new(thinking: Thinking) -> Conversation {
        Conversation {
            turns: Vec::new(),
            tools: Vec::new(),
            format: None,
            thinking,
        }
    }

    /// Adds a turn; `at` is where it stands in the request.
    pub fn push(&mut self, at: &Node<'_>, turn: Turn) -> Result<()> {
        check(at, "messages", self.turns.len() + 1, LIMITS.turns)?;
        self.turns.push(turn);
        Ok(())
    }

    /// Adds what the model may call.
    pub fn push_tool(&mut self, at: &Node<'_>, tool: Tool) -> Result<()> {
        check(at, "tools", self.tools.len() + 1, LIMITS.tools)?;
        if self.tools.iter().any(|other| other.name() == tool.name()) {
            return Err(at.error(&format!("found a second tool '{}'", tool.name())));
        }
        self.tools.push(tool);
        Ok(())
    }

    /// What the model said last, to add to it; a new turn if someone else spoke since, or that one `is_over`.
    pub fn said(&mut self, at: &Node<'_>, is_over: fn(&Said) -> bool) -> Result<&mut Said> {
        let goes_on = matches!(self.turns.last(), Some(Turn::Assistant(said)) if !is_over(said));
        if !goes_on {
            self.push(at, Turn::Assistant(Said::default()))?;
        }
        match self.turns.last_mut() {
            Some(Turn::Assistant(said)) => Ok(said),
            _ => unreachable!("the last turn is the model's"),
        }
    }

    /// Whether the model may call tools.
    pub fn has_tools(&self) -> bool {
        !self.tools.is_empty()
    }

    /// What was said last.
    pub fn last(&self) -> Option<&Turn> {
        self.turns.last()
    }

    /// The question that the conversation puts: its tokens, and what the answer may be. Nothing is said about how
    /// tokens are chosen and where the answer ends.
    ///
    /// Errors: as [`Conversation::tokens`].
    pub fn ask(&self, tokenizer: &Tokenizer) -> Result<Ask> {
        // A mask of JSON would leave no call.
        let held = self.format.as_ref().filter(|_| !self.has_tools());
        let reasoning = self.thinking != Thinking::Off;
        let is_result = |turn: &Turn| matches!(turn, Turn::Result { .. });
        let rendered = self.render(tokenizer)?;
        Ok(Ask {
            tokens: rendered.tokens,
            places: Places {
                shared: rendered.shared,
                answers: rendered.answers,
                answer_stays: !reasoning || self.has_tools() || self.turns.iter().any(is_result),
            },
            reasoning,
            tools: self.has_tools(),
            max_tokens: None,
            sampling: SamplerOptions::default(),
            stops: Vec::new(),
            json: held.map(|format| format.rules),
            logprobs: None,
        })
    }

    /// The prompt.
    ///
    /// Errors: `Unsupported` when the vocabulary has no marks of turns.
    pub fn tokens(&self, tokenizer: &Tokenizer) -> Result<Vec<TokenId>> {
        Ok(self.render(tokenizer)?.tokens)
    }

    fn render(&self, tokenizer: &Tokenizer) -> Result<Rendered> {
        let messages: Vec<Message<'_>> = self.turns.iter().map(Turn::message).collect();
        Ok(Chat::new(tokenizer)?.render_with_places(&Prompt {
            messages: &messages,
            tools: &self.tools,
            response_format: self.format.as_ref().map(|format| format.schema.as_str()),
            thinking: self.thinking,
        }))
    }
}

/// The text of a message: a string, or a list of parts that hold text, with a blank line between them.
///
/// Errors: `Format`, with the place of a part of another type.
pub fn content(at: &Node<'_>) -> Result<String> {
    if let Ok(text) = at.text() {
        return Ok(text.to_owned());
    }
    let parts = at.items().map_err(|_| at.wrong("string or array"))?;
    let texts = parts.map(|part| part_text(&part).map(str::to_owned));
    Ok(texts.collect::<Result<Vec<String>>>()?.join("\n\n"))
}

/// The text of a part.
pub fn part_text<'a>(part: &Node<'a>) -> Result<&'a str> {
    let kind = part.need("type")?;
    match kind.text()? {
        "text" | "input_text" | "output_text" => part.need("text")?.text(),
        other => Err(kind.error(&format!("found '{other}', expected text"))),
    }
}

/// An error when `found` is more than `most`.
fn check(at: &Node<'_>, what: &str, found: usize, most: usize) -> Result<()> {
    if found > most {
        return Err(at.error(&format!("found more {what} than {most}")));
    }
    Ok(())
}
