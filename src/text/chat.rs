//! The form in which a conversation is put to the model.
//!
//! ```text
//! BOS [effort] system ( <｜User｜> text <｜Assistant｜> [<think> reasoning] </think> answer EOS )*
//!                       <｜User｜> text <｜Assistant｜> <think> or </think>
//! ```
//!
//! Nothing stands between these parts. The marks are put in by their ids; a special token spelled out in a text
//! stays text, so that nobody can fake a turn. Sources: `encoding_dsv4.py` of the release, and llama.cpp's template
//! of it for several system texts and for users in a row.

use super::tokenizer::{Special, Tokenizer};
use crate::error::{Error, Result};
use crate::units::TokenId;

/// What the release puts before the system text to ask for the most thorough reasoning.
const MAX_EFFORT: &str = "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n\
You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, \
rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.\n\
Explicitly write out your entire deliberation process, documenting every intermediate step, considered alternative, \
and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n";

/// Between system texts, and between users that follow each other.
const BLANK_LINE: &str = "\n\n";

/// Whether the model reasons before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thinking {
    /// It answers at once.
    Off,
    /// It reasons first.
    On,
    /// It reasons first, and is asked to do so at any length.
    Max,
}

/// A part of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Instructions; they come first, wherever they stand.
    System(&'a str),
    /// What the user says.
    User(&'a str),
    /// What the model said.
    Assistant {
        /// What came before `</think>`; empty without reasoning.
        reasoning: &'a str,
        /// The answer.
        content: &'a str,
    },
}

/// Renders conversations for one vocabulary.
#[derive(Clone, Copy, Debug)]
pub struct Chat<'a> {
    tokenizer: &'a Tokenizer,
    bos: TokenId,
    eos: TokenId,
    user: TokenId,
    assistant: TokenId,
    think: TokenId,
    end_think: TokenId,
}

impl<'a> Chat<'a> {
    /// Looks up the marks.
    ///
    /// Errors: `Unsupported`, with the mark that the vocabulary lacks.
    pub fn new(tokenizer: &'a Tokenizer) -> Result<Chat<'a>> {
        let found = |token: Option<TokenId>, name: &str| {
            token.ok_or_else(|| {
                Error::unsupported(format!("no chat with this vocabulary: it has no {name}"))
            })
        };
        let special = |text| found(tokenizer.special(text), text);
        Ok(Chat {
            tokenizer,
            bos: found(tokenizer.bos(), "start token")?,
            eos: found(tokenizer.eos(), "end token")?,
            user: special("<｜User｜>")?,
            assistant: special("<｜Assistant｜>")?,
            think: special("<think>")?,
            end_think: special("</think>")?,
        })
    }

    /// What a conversation begins with; `system` may be empty.
    pub fn opening(&self, system: &str, thinking: Thinking) -> Vec<TokenId> {
        let mut tokens = vec![self.bos];
        match thinking {
            // One text: a token may reach over the border.
            Thinking::Max => self.text(&format!("{MAX_EFFORT}{system}"), &mut tokens),
            Thinking::Off | Thinking::On => self.text(system, &mut tokens),
        }
        tokens
    }

    /// A user's turn and the opener of the answer, the last token.
    pub fn user_turn(&self, text: &str, thinking: Thinking) -> Vec<TokenId> {
        let mut tokens = vec![self.user];
        self.text(text, &mut tokens);
        self.open_answer(thinking, &mut tokens);
        tokens
    }

    /// A whole conversation and the opener of the next answer.
    ///
    /// System texts are joined by a blank line, and so are users that follow each other without an answer.
    /// Reasoning before the last user is dropped, and all of it when `thinking` is off.
    pub fn render(&self, messages: &[Message<'_>], thinking: Thinking) -> Vec<TokenId> {
        let system = messages.iter().filter_map(|message| match message {
            Message::System(text) => Some(*text),
            Message::User(_) | Message::Assistant { .. } => None,
        });
        let system: Vec<&str> = system.collect();
        let mut tokens = self.opening(&system.join(BLANK_LINE), thinking);

        let last_user = messages.iter().rposition(|m| matches!(m, Message::User(_)));
        // What the user said since the last answer.
        let mut said: Option<String> = None;
        for (i, message) in messages.iter().enumerate() {
            match *message {
                Message::System(_) => {}
                Message::User(text) => match &mut said {
                    Some(said) => said.extend([BLANK_LINE, text]),
                    None => said = Some(text.to_owned()),
                },
                Message::Assistant { reasoning, content } => {
                    self.close_user(&mut said, &mut tokens);
                    tokens.push(self.assistant);
                    if thinking != Thinking::Off && last_user.is_none_or(|last| i > last) {
                        tokens.push(self.think);
                        self.text(reasoning, &mut tokens);
                    }
                    tokens.push(self.end_think);
                    self.text(content, &mut tokens);
                    tokens.push(self.eos);
                }
            }
        }
        self.close_user(&mut said, &mut tokens);
        self.open_answer(thinking, &mut tokens);
        tokens
    }

    /// The token between reasoning and answer.
    pub fn end_think(&self) -> TokenId {
        self.end_think
    }

    /// The token that ends an answer.
    pub fn end_of_turn(&self) -> TokenId {
        self.eos
    }

    fn close_user(&self, said: &mut Option<String>, tokens: &mut Vec<TokenId>) {
        if let Some(text) = said.take() {
            tokens.push(self.user);
            self.text(&text, tokens);
        }
    }

    fn open_answer(&self, thinking: Thinking, tokens: &mut Vec<TokenId>) {
        tokens.push(self.assistant);
        // Without the end mark the model would reason all the same.
        tokens.push(if thinking == Thinking::Off {
            self.end_think
        } else {
            self.think
        });
    }

    fn text(&self, text: &str, tokens: &mut Vec<TokenId>) {
        tokens.extend(self.tokenizer.encode(text, Special::Plain));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn the_effort_text_is_the_published_one() {
        let digest = Sha256::digest(MAX_EFFORT);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(MAX_EFFORT.len(), 476);
        assert_eq!(
            hex,
            "f7a24f3b3050d4a83781e9b755b316aae2ec1d9dc87562541d90bcb04d7350f7"
        );
    }
}
