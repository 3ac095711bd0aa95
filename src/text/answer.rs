//! What the model writes, taken apart as it comes: reasoning, text, calls of tools.
//!
//! ```text
//! [reasoning </think>] text [blank line, calls]
//! ```
//!
//! What may become a mark is kept back until it is clear that it is one or is not. Calls are given once all of them are
//! whole; whatever does not follow the markup to the letter is text, with the reason. Bytes that are no UTF-8 become
//! U+FFFD. Source: `encoding_dsv4.py` of the release, which accepts the same; it demands the blank line in front of
//! calls, which here may be missing.

use super::dsml::{self, Argument, Call};
use super::stops::begun;
use super::stream::Utf8Stream;
use crate::json::recogniser::Rules;
use crate::json::source::{check, quote};

/// Bounds on calls; what exceeds them is text.
struct Limits {
    /// Bytes of all calls of an answer in their markup.
    block_bytes: usize,
    /// Calls in one block.
    calls: usize,
    /// Parameters of a call.
    parameters: usize,
    /// Bytes of a name.
    name_bytes: usize,
}

const LIMITS: Limits = Limits {
    block_bytes: 8 << 20,
    calls: 128,
    parameters: 256,
    name_bytes: 1024,
};

const END_REASONING: &str = "</think>";

/// A blank line stands between text and calls and belongs to neither.
const BLANK_LINE: &str = "\n\n";

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// More of the reasoning; never empty.
    Reasoning(&'a str),
    /// More of the text; never empty.
    Text(&'a str),
    /// Calls of tools, at least one.
    Calls(Vec<Call>),
    /// More of the text, which began as calls but is none.
    Malformed {
        /// The text, up to where it went wrong or to the end of the answer.
        text: &'a str,
        /// What was found and what was expected.
        reason: &'a str,
    },
}

/// Takes an answer apart.
#[derive(Clone, Debug)]
pub struct AnswerParser {
    utf8: Utf8Stream,
    /// Text that was not given yet.
    pending: String,
    place: Place,
    tools: bool,
}

#[derive(Clone, Debug)]
enum Place {
    Reasoning,
    Text,
    Calls(Block),
}

impl AnswerParser {
    /// A parser at the beginning of an answer. `reasoning` when the prompt ended with `<think>`; without `tools` what
    /// looks like calls is text.
    pub fn new(reasoning: bool, tools: bool) -> AnswerParser {
        AnswerParser {
            utf8: Utf8Stream::default(),
            pending: String::new(),
            place: if reasoning {
                Place::Reasoning
            } else {
                Place::Text
            },
            tools,
        }
    }

    /// Takes the bytes of a token and gives what has become clear.
    pub fn push(&mut self, bytes: &[u8], emit: &mut dyn FnMut(Event<'_>)) {
        self.pending.push_str(self.utf8.push(bytes));
        while self.advance(emit) {}
    }

    /// Ends the answer and gives what was kept back.
    pub fn finish(mut self, emit: &mut dyn FnMut(Event<'_>)) {
        self.pending.push_str(self.utf8.finish());
        while self.advance(emit) {}
        match &self.place {
            _ if self.pending.is_empty() => {}
            Place::Reasoning => emit(Event::Reasoning(&self.pending)),
            Place::Text => emit(Event::Text(&self.pending)),
            Place::Calls(block) => emit(Event::Malformed {
                text: &self.pending,
                reason: &wrong("", &[], block.expected()),
            }),
        }
    }

    /// Whether it is in the reasoning.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.place, Place::Reasoning)
    }

    /// Gives what is clear; false when all that is left has to wait for more.
    fn advance(&mut self, emit: &mut dyn FnMut(Event<'_>)) -> bool {
        match &mut self.place {
            Place::Reasoning => {
                let found = self.pending.find(END_REASONING);
                let kept = || self.pending.len() - begun(&self.pending, END_REASONING);
                let end = found.unwrap_or_else(kept);
                if end > 0 {
                    emit(Event::Reasoning(&self.pending[..end]));
                }
                self.pending
                    .drain(..end + found.map_or(0, |_| END_REASONING.len()));
                if found.is_some() {
                    self.place = Place::Text;
                }
                found.is_some()
            }
            Place::Text => {
                let found = self.pending.find(dsml::BLOCK).filter(|_| self.tools);
                let end = match found {
                    Some(begin) => {
                        let before = &self.pending[..begin];
                        before.strip_suffix(BLANK_LINE).unwrap_or(before).len()
                    }
                    None if self.tools => self.pending.len() - self.may_begin_calls(),
                    None => self.pending.len(),
                };
                if end > 0 {
                    emit(Event::Text(&self.pending[..end]));
                }
                self.pending.drain(..end);
                if let Some(begin) = found {
                    self.place = Place::Calls(Block::new(begin - end + dsml::BLOCK.len()));
                }
                found.is_some()
            }
            Place::Calls(block) => {
                let (at, reason) = match block.advance(&self.pending) {
                    Step::Wait => return false,
                    Step::End => (block.at, None),
                    Step::Wrong(reason) => (block.at, Some(reason)),
                };
                match reason {
                    None => emit(Event::Calls(std::mem::take(&mut block.calls))),
                    Some(reason) => emit(Event::Malformed {
                        text: &self.pending[..at],
                        reason: &reason,
                    }),
                }
                self.pending.drain(..at);
                self.place = Place::Text;
                true
            }
        }
    }

    /// Bytes at the end of the text that may be the start of calls, with or without the blank line.
    fn may_begin_calls(&self) -> usize {
        let block = begun(&self.pending, dsml::BLOCK);
        let before = &self.pending[..self.pending.len() - block];
        let blank = match before {
            _ if before.ends_with(BLANK_LINE) => BLANK_LINE.len(),
            _ if before.ends_with('\n') && block == 0 => 1,
            _ => 0,
        };
        block + blank
    }
}

/// Calls that are being read.
#[derive(Clone, Debug)]
struct Block {
    /// Bytes of the pending text that are understood.
    at: usize,
    expect: Expect,
    calls: Vec<Call>,
    /// The call that is being read.
    call: Call,
}

/// What comes next in a block.
#[derive(Clone, Debug)]
enum Expect {
    /// The end of the line.
    Begin,
    /// A call, or the end of the block.
    Call,
    Name,
    /// A parameter, or the end of the call; an empty line where there are none.
    Parameter,
    Key,
    /// The rest of a value of which `searched` bytes are known not to hold its end.
    Value {
        is_text: bool,
        searched: usize,
    },
    /// The end of the line.
    EndValue,
}

enum Step {
    /// More is needed.
    Wait,
    /// The block ended.
    End,
    Wrong(String),
}

/// What the text begins with.
enum Found {
    /// One of those asked for, by number.
    Mark(usize),
    /// The start of one.
    Start,
    Other,
}

fn begins(text: &str, marks: &[&str]) -> Found {
    if let Some(which) = marks.iter().position(|mark| text.starts_with(mark)) {
        return Found::Mark(which);
    }
    match marks.iter().any(|mark| mark.starts_with(text)) {
        true => Found::Start,
        false => Found::Other,
    }
}

/// A line about text that is not as it must be; it shows no more than what was needed to tell.
fn wrong(found: &str, marks: &[&str], expected: &str) -> String {
    let alike = |mark: &&str| {
        let pairs = found.chars().zip(mark.chars());
        pairs.take_while(|(a, b)| a == b).count()
    };
    let n = 1 + marks.iter().map(alike).max().unwrap_or(0);
    let found: String = found.chars().take(n).collect();
    match found.as_str() {
        "" => format!("calls: found the end, expected {expected}"),
        _ => format!("calls: found '{found}', expected {expected}"),
    }
}

impl Block {
    fn new(at: usize) -> Block {
        Block {
            at,
            expect: Expect::Begin,
            calls: Vec::new(),
            call: Call::default(),
        }
    }

    fn expected(&self) -> &'static str {
        match self.expect {
            Expect::Begin | Expect::EndValue => "the end of the line",
            Expect::Call if self.calls.is_empty() => "a call",
            Expect::Call => "a call or the end of the calls",
            Expect::Name | Expect::Key => "a name in quotes",
            Expect::Parameter => "a parameter or the end of the call",
            Expect::Value { .. } => "the end of a value",
        }
    }

    /// Understands as much of `text` as it can.
    fn advance(&mut self, text: &str) -> Step {
        loop {
            if self.at > LIMITS.block_bytes || text.len() > LIMITS.block_bytes {
                return Step::Wrong(format!("calls: more than {} bytes", LIMITS.block_bytes));
            }
            let rest = &text[self.at..];
            let taken = match &self.expect {
                Expect::Begin | Expect::EndValue => self.marks(rest, &["\n"]),
                Expect::Call if self.calls.is_empty() => self.marks(rest, &[dsml::INVOKE]),
                Expect::Call => self.marks(rest, &[dsml::INVOKE, dsml::END_BLOCK]),
                Expect::Name => self.name(rest, &[dsml::END_NAME]),
                Expect::Parameter => self.parameter(rest),
                Expect::Key => self.name(rest, &[dsml::TEXT_VALUE, dsml::JSON_VALUE]),
                Expect::Value { is_text, searched } => self.value(rest, *is_text, *searched),
            };
            match taken {
                Ok(Some(n)) => self.at += n,
                Ok(None) => return Step::Wait,
                Err(reason) => return Step::Wrong(reason),
            }
            if matches!(self.expect, Expect::Call) && text[..self.at].ends_with(dsml::END_BLOCK) {
                return Step::End;
            }
        }
    }

    /// Takes one of `marks` and goes on to what follows it.
    fn marks(&mut self, rest: &str, marks: &[&str]) -> Result<Option<usize>, String> {
        let which = match begins(rest, marks) {
            Found::Mark(which) => which,
            Found::Start => return Ok(None),
            Found::Other => return Err(wrong(rest, marks, self.expected())),
        };
        match self.expect {
            Expect::Begin => self.expect = Expect::Call,
            Expect::EndValue => self.expect = Expect::Parameter,
            Expect::Call if which == 0 && self.calls.len() == LIMITS.calls => {
                return Err(format!("calls: more than {}", LIMITS.calls));
            }
            Expect::Call if which == 0 => self.expect = Expect::Name,
            _ => {}
        }
        Ok(Some(marks[which].len()))
    }

    /// Takes a name in quotes, and one of `ends` with which the quotes end.
    fn name(&mut self, rest: &str, ends: &[&str]) -> Result<Option<usize>, String> {
        let end = rest.find('"');
        if end.unwrap_or(rest.len()) > LIMITS.name_bytes {
            return Err(format!(
                "calls: name of more than {} bytes",
                LIMITS.name_bytes
            ));
        }
        let Some(end) = end else { return Ok(None) };
        let which = match begins(&rest[end..], ends) {
            Found::Mark(which) => which,
            Found::Start => return Ok(None),
            Found::Other => return Err(wrong(&rest[end..], ends, "the end of a tag")),
        };
        let name = dsml::NAME_END.unescape(&rest[..end]);
        if matches!(self.expect, Expect::Name) {
            if name.is_empty() {
                return Err("calls: found an empty name, expected that of a tool".into());
            }
            self.call.name = name;
            self.expect = Expect::Parameter;
        } else {
            if self.call.arguments.iter().any(|(key, _)| *key == name) {
                return Err(format!("calls: found parameter {} twice", quote(&name)));
            }
            self.call
                .arguments
                .push((name, Argument::Text(String::new())));
            self.expect = Expect::Value {
                is_text: which == 0,
                searched: 0,
            };
        }
        Ok(Some(end + ends[which].len()))
    }

    fn parameter(&mut self, rest: &str) -> Result<Option<usize>, String> {
        // The empty line of a call without parameters.
        let line = usize::from(self.call.arguments.is_empty() && rest.starts_with('\n'));
        let marks = &[dsml::END_INVOKE, dsml::PARAMETER];
        let marks = if line > 0 { &marks[..1] } else { &marks[..] };
        match begins(&rest[line..], marks) {
            Found::Mark(0) => {
                self.calls.push(std::mem::take(&mut self.call));
                self.expect = Expect::Call;
                Ok(Some(line + dsml::END_INVOKE.len()))
            }
            Found::Mark(_) if self.call.arguments.len() == LIMITS.parameters => {
                Err(format!("calls: more than {} parameters", LIMITS.parameters))
            }
            Found::Mark(_) => {
                self.expect = Expect::Key;
                Ok(Some(dsml::PARAMETER.len()))
            }
            Found::Start => Ok(None),
            Found::Other => Err(wrong(&rest[line..], marks, self.expected())),
        }
    }

    fn value(
        &mut self,
        rest: &str,
        is_text: bool,
        searched: usize,
    ) -> Result<Option<usize>, String> {
        let end = dsml::END_PARAMETER;
        let Some(found) = memchr::memmem::find(&rest.as_bytes()[searched..], end.as_bytes()) else {
            let searched = rest.len().saturating_sub(end.len() - 1);
            self.expect = Expect::Value { is_text, searched };
            return Ok(None);
        };
        let value = &rest[..searched + found];
        let argument = if is_text {
            Argument::Text(dsml::VALUE_END.unescape(value))
        } else {
            let json = value.trim_matches([' ', '\t', '\n', '\r']);
            check(json, Rules::TEXT).map_err(|e| format!("calls: JSON value: {e}"))?;
            Argument::Json(json.to_owned())
        };
        if let Some((_, place)) = self.call.arguments.last_mut() {
            *place = argument;
        }
        self.expect = Expect::EndValue;
        Ok(Some(value.len() + end.len()))
    }
}
