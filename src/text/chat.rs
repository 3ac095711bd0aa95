//! The form in which a conversation is put to the model.
//!
//! ```text
//! BOS [effort] system ( <｜User｜> text <｜Assistant｜> [<think> reasoning] </think> answer EOS )*
//!                       <｜User｜> text <｜Assistant｜> <think> or </think>
//! system:  texts, tools, format of the answer; blank lines between
//! text:    texts of the user and results of tools; blank lines between
//! answer:  text, then a blank line and the calls of tools (see [`super::dsml`]), if there are some
//! ```
//!
//! Nothing else stands between these parts. The marks are put in by their ids; a special token spelled out in a text
//! stays text, so that nobody can fake a turn or a call. Sources: `encoding_dsv4.py` of the release, and llama.cpp's
//! template of it for several system texts and for users in a row.
//!
//! A system message behind the first turn stays where it is, as a part of the user's turn. The release leaves it in its
//! place too (without a mark; a developer message is a turn of the user); llama.cpp's template moves it to the front, which
//! changes the prompt from its first token on, and all of it would have to be computed again.

use super::dsml::{Part, write_calls, write_tools};
use super::tokenizer::{Special, Tokenizer};
use crate::error::{Error, Result};
use crate::units::TokenId;
use std::ops::Range;

pub use super::dsml::{Argument, Call, Tool};

/// What the release puts before the system text to ask for the most thorough reasoning.
const MAX_EFFORT: &str = "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n\
You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, \
rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.\n\
Explicitly write out your entire deliberation process, documenting every intermediate step, considered alternative, \
and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n";

/// What the release says before the schema of an answer.
const RESPONSE_FORMAT: &str =
    "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";

const RESULT: &str = "<tool_result>";
const END_RESULT: &str = "</tool_result>";

/// Stands for `END_RESULT` in a result.
const ESCAPED_END_RESULT: &str = "&lt;/tool_result>";

/// Between the parts of the system text and of a user's turn, and in front of calls.
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
    /// Instructions. In front of all others they are the system text, else a part of the user's turn.
    System(&'a str),
    /// What the user says.
    User(&'a str),
    /// What the model said.
    Assistant {
        /// What came before `</think>`; empty without reasoning.
        reasoning: &'a str,
        /// The answer.
        content: &'a str,
        /// The tools it called.
        calls: &'a [Call],
    },
    /// What a called tool gave.
    ToolResult {
        /// The id of the call.
        id: &'a str,
        /// The result.
        body: &'a str,
    },
}

/// A conversation, and what the model is to know about the answer.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    /// From the first to the last.
    pub messages: &'a [Message<'a>],
    /// What it may call.
    pub tools: &'a [Tool],
    /// The JSON schema that the answer should follow, best spaced by [`crate::json::source::respaced`]; the model is
    /// asked, not forced.
    pub response_format: Option<&'a str>,
    /// Whether it reasons.
    pub thinking: Thinking,
}

/// A conversation in tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// All of them.
    pub tokens: Vec<TokenId>,
    /// How many tokens other conversations with the same system text begin with, in ascending order: up to the end of
    /// system text and tools, and up to the end of the format if there is one.
    pub shared: Vec<usize>,
    /// Where answers stand, without the marks around them.
    pub answers: Vec<Range<usize>>,
    /// Whether they end within the reasoning of the next answer.
    pub reasons: bool,
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
        let mut out = Writer::new(self.tokenizer);
        self.write_start(thinking, &mut out);
        out.text(system);
        out.finish()
    }

    /// A user's turn and the opener of the answer, the last token.
    pub fn user_turn(&self, text: &str, thinking: Thinking) -> Vec<TokenId> {
        let mut out = Writer::new(self.tokenizer);
        self.write_turn(&mut vec![Said::Text(text)], &mut out);
        self.write_opener(thinking, &mut out);
        out.finish()
    }

    /// A whole conversation and the opener of the next answer.
    ///
    /// System texts are joined by a blank line, and so are users, results and late system texts that follow each other
    /// without an answer. Results stand in the order of the calls. Reasoning before the last of them is dropped, unless
    /// there are tools or results; all of it is when thinking is off.
    pub fn render(&self, prompt: &Prompt<'_>) -> Vec<TokenId> {
        self.render_with_places(prompt).tokens
    }

    /// As [`Chat::render`], and where its parts are.
    pub fn render_with_places(&self, prompt: &Prompt<'_>) -> Rendered {
        let mut out = Writer::new(self.tokenizer);
        let (shared, answers) = self.write_turns(prompt, &mut out);
        self.write_opener(prompt.thinking, &mut out);
        Rendered {
            tokens: out.finish(),
            shared,
            answers,
            reasons: prompt.thinking != Thinking::Off,
        }
    }

    /// A conversation and the beginning of the next answer, which goes on: behind its text, or in its reasoning where there
    /// is no text yet.
    pub fn render_begun(&self, prompt: &Prompt<'_>, reasoning: &str, content: &str) -> Rendered {
        let mut out = Writer::new(self.tokenizer);
        let (shared, answers) = self.write_turns(prompt, &mut out);
        let thinks = prompt.thinking != Thinking::Off;
        let reasons = thinks && content.is_empty();
        out.mark(self.assistant);
        if reasons {
            out.mark(self.think);
            out.text(reasoning);
        } else {
            self.write_answer(thinks, reasoning, content, &[], &mut out);
        }
        Rendered {
            tokens: out.finish(),
            shared,
            answers,
            reasons,
        }
    }

    /// The system text and the turns. Gives what [`Rendered`] says of them.
    fn write_turns(
        &self,
        prompt: &Prompt<'_>,
        out: &mut Writer<'_>,
    ) -> (Vec<usize>, Vec<Range<usize>>) {
        let Prompt {
            messages, thinking, ..
        } = *prompt;
        self.write_start(thinking, out);
        let is_system = |m: &&Message<'_>| matches!(m, Message::System(_));
        let (system, messages) = messages.split_at(messages.iter().take_while(is_system).count());
        let shared = write_system(prompt, system, out);

        let is_said = |m: &Message<'_>| !matches!(m, Message::Assistant { .. });
        let last_said = messages.iter().rposition(is_said);
        let is_result = |m: &Message<'_>| matches!(m, Message::ToolResult { .. });
        let keeps_all = !prompt.tools.is_empty() || messages.iter().any(is_result);
        // What was said since the last answer, and the calls of that answer.
        let (mut said, mut called): (Vec<Said<'_>>, &[Call]) = (Vec::new(), &[]);
        let mut answers = Vec::new();
        for (i, message) in messages.iter().enumerate() {
            match *message {
                Message::System("") => {}
                Message::System(text) | Message::User(text) => said.push(Said::Text(text)),
                Message::ToolResult { id, body } => {
                    // As in the release, one that belongs to no call counts as the first's.
                    let call = called.iter().position(|call| call.id == id).unwrap_or(0);
                    said.push(Said::Result { call, body });
                }
                Message::Assistant {
                    reasoning,
                    content,
                    calls,
                } => {
                    self.write_turn(&mut said, out);
                    out.mark(self.assistant);
                    let begin = out.tokens.len();
                    let kept = keeps_all || last_said.is_none_or(|last| i > last);
                    let reasons = thinking != Thinking::Off && kept;
                    self.write_answer(reasons, reasoning, content, calls, out);
                    if !calls.is_empty() {
                        called = calls;
                    }
                    out.end_run();
                    answers.push(begin..out.tokens.len());
                    out.mark(self.eos);
                }
            }
        }
        self.write_turn(&mut said, out);
        (shared, answers)
    }

    /// An answer as [`Chat::render`] writes it into later prompts: what stands behind the mark of the answer, up to the end
    /// of the turn. `opener` is what the prompt ended with.
    pub fn answer(
        &self,
        opener: TokenId,
        reasoning: &str,
        content: &str,
        calls: &[Call],
    ) -> Vec<TokenId> {
        let mut out = Writer::new(self.tokenizer);
        self.write_answer(opener == self.think, reasoning, content, calls, &mut out);
        out.finish()
    }

    /// The mark in front of an answer.
    pub fn assistant(&self) -> TokenId {
        self.assistant
    }

    /// The token between reasoning and answer.
    pub fn end_think(&self) -> TokenId {
        self.end_think
    }

    /// The token that ends an answer.
    pub fn end_of_turn(&self) -> TokenId {
        self.eos
    }

    fn write_start(&self, thinking: Thinking, out: &mut Writer<'_>) {
        out.mark(self.bos);
        if thinking == Thinking::Max {
            out.text(MAX_EFFORT);
        }
    }

    /// A turn of the user, if something was said, which then is forgotten.
    fn write_turn(&self, said: &mut Vec<Said<'_>>, out: &mut Writer<'_>) {
        if said.is_empty() {
            return;
        }
        out.mark(self.user);
        let results = said.iter().filter_map(|part| match part {
            Said::Result { call, body } => Some((*call, *body)),
            Said::Text(_) => None,
        });
        let mut results: Vec<(usize, &str)> = results.collect();
        results.sort_by_key(|(call, _)| *call);
        let mut results = results.into_iter();
        for (i, part) in said.drain(..).enumerate() {
            out.text(if i > 0 { BLANK_LINE } else { "" });
            match part {
                Said::Text(text) => out.text(text),
                Said::Result { .. } => {
                    let body = results.next().map_or("", |(_, body)| body);
                    out.text(RESULT);
                    out.text(&body.replace(END_RESULT, ESCAPED_END_RESULT));
                    out.text(END_RESULT);
                }
            }
        }
    }

    /// An answer without the marks around it.
    fn write_answer(
        &self,
        reasons: bool,
        reasoning: &str,
        content: &str,
        calls: &[Call],
        out: &mut Writer<'_>,
    ) {
        if reasons {
            out.mark(self.think);
            out.text(reasoning);
        }
        out.mark(self.end_think);
        out.text(content);
        if !calls.is_empty() {
            out.text(BLANK_LINE);
            write_calls(calls, &mut |part| out.part(part));
        }
    }

    fn write_opener(&self, thinking: Thinking, out: &mut Writer<'_>) {
        out.mark(self.assistant);
        // Without the end mark the model would reason all the same.
        out.mark(if thinking == Thinking::Off {
            self.end_think
        } else {
            self.think
        });
    }
}

/// A part of a user's turn.
enum Said<'a> {
    Text(&'a str),
    Result {
        /// The place of the call in its answer.
        call: usize,
        body: &'a str,
    },
}

/// Writes what comes in front of the first turn and tells which beginnings of it others share.
fn write_system(prompt: &Prompt<'_>, system: &[Message<'_>], out: &mut Writer<'_>) -> Vec<usize> {
    let texts = system.iter().filter_map(|message| match message {
        Message::System(text) => Some(*text),
        _ => None,
    });
    let texts: Vec<&str> = texts.collect();
    let system = texts.join(BLANK_LINE);
    out.text(&system);
    let mut is_empty = system.is_empty();
    if !prompt.tools.is_empty() {
        out.text(if is_empty { "" } else { BLANK_LINE });
        write_tools(prompt.tools, &mut |part| out.part(part));
        is_empty = false;
    }
    let border = out.border(BLANK_LINE.to_owned() + RESPONSE_FORMAT);
    if let Some(schema) = prompt.response_format {
        out.text(if is_empty { "" } else { BLANK_LINE });
        out.text(RESPONSE_FORMAT);
        out.text(schema);
    }
    out.end_run();
    let mut shared = Vec::new();
    if !is_empty {
        shared.push(out.n_tokens_before(border));
    }
    if prompt.response_format.is_some() {
        shared.push(out.tokens.len());
    }
    shared
}

/// A place in the text of a run: behind so many of its bytes.
#[derive(Clone, Copy)]
struct Border {
    /// Tokens in front of the run.
    run: usize,
    bytes: usize,
}

/// Bytes at the end of a text of which the last tokens can depend on what follows; more than a token has.
const TAIL: usize = 4096;

/// Collects text up to the next mark: a token may reach over the border of two texts.
struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<TokenId>,
    text: String,
}

impl<'a> Writer<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Writer<'a> {
        Writer {
            tokenizer,
            tokens: Vec::new(),
            text: String::new(),
        }
    }

    fn text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn mark(&mut self, mark: TokenId) {
        self.end_run();
        self.tokens.push(mark);
    }

    fn end_run(&mut self) {
        let text = std::mem::take(&mut self.text);
        let tokens = self.tokenizer.encode(&text, Special::Plain);
        self.tokens.extend(tokens);
    }

    /// Where the tokens up to here end that are the same whether a mark follows or `more`.
    fn border(&self, more: String) -> Border {
        let text = self.text.as_str();
        let mut at = text.len().saturating_sub(TAIL);
        while !text.is_char_boundary(at) {
            at += 1;
        }
        let tail = &text[at..];
        let encode = |text: &str| self.tokenizer.encode(text, Special::Plain);
        let (plain, with) = (encode(tail), encode(&(tail.to_owned() + &more)));
        let n_same = plain.iter().zip(&with).take_while(|(a, b)| a == b).count();
        Border {
            run: self.tokens.len(),
            bytes: text.len() - self.tokenizer.decode(&plain[n_same..]).len(),
        }
    }

    /// Tokens in front of a border in a run that has ended.
    fn n_tokens_before(&self, border: Border) -> usize {
        let mut bytes = 0;
        let is_before = |token: &&TokenId| {
            bytes += self.tokenizer.token_bytes(**token).len();
            bytes <= border.bytes
        };
        border.run
            + self.tokens[border.run..]
                .iter()
                .take_while(is_before)
                .count()
    }

    fn part(&mut self, part: Part<'_>) {
        let mut rest = match part {
            Part::Text(text) => return self.text(text),
            Part::Markup(markup) => markup,
        };
        while let Some((found, mark)) = self.tokenizer.find_special(rest) {
            self.text(&rest[..found.start]);
            self.mark(mark);
            rest = &rest[found.end..];
        }
        self.text(rest);
    }

    fn finish(mut self) -> Vec<TokenId> {
        self.end_run();
        self.tokens
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
