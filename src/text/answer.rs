//! What the model writes, taken apart as it comes: reasoning, text, calls of tools.
//!
//! ```text
//! [reasoning </think>] text [blank line, calls]
//! ```
//!
//! What may become a mark is kept back until it is clear that it is one or is not. With tools, calls begin where the opener
//! of a block stands in front of a call, or a call without one; in reasoning, which they end, only at the start of a line. An
//! opener directly behind a quotation mark or a backtick is quoted, and one whose bars are those of keyboards counts only at
//! the start of a line. From there on nothing is text any more: names and arguments come as they are written, and what does
//! not follow the markup to the letter is repaired, with a warning. Bytes that are no UTF-8 become U+FFFD.
//!
//! Source: `encoding_dsv4.py` of the release, which accepts the markup to the letter; it demands the blank line in front
//! of calls, which here may be missing.

use super::calls::{self, Calls, Step};
use super::stream::Utf8Stream;
use super::tag::{self, Scan};

const BEGIN_REASONING: &str = "<think>";
const END_REASONING: &str = "</think>";

/// A blank line stands between text and calls and belongs to neither.
const BLANK_LINE: &str = "\n\n";

/// White space that is kept back where it may have to be dropped.
const MOST_BLANKS: usize = 1024;

/// What an opener that is only quoted stands behind.
const QUOTES: &[char] = &['`', '"', '\'', '“', '‘', '«', '「'];

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// More of the reasoning; never empty.
    Reasoning(&'a str),
    /// More of the text; never empty.
    Text(&'a str),
    /// A call of the tool of this name begins.
    CallBegin(&'a str),
    /// More of its arguments: all pieces together are one JSON object, and none ends within an escape.
    CallArguments(&'a str),
    /// The call is whole.
    CallEnd,
    /// The answer was cut within the call; what would make JSON of its arguments.
    CallCut(&'static str),
    /// What was repaired or left out.
    Warning(&'a str),
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model said all it wanted.
    Whole,
    /// By a bound.
    Cut,
}

/// Takes an answer apart.
#[derive(Clone, Debug)]
pub struct AnswerParser {
    utf8: Utf8Stream,
    /// Text that was not given yet.
    pending: String,
    place: Place,
    tools: bool,
    line: Line,
    /// Whether nothing but white space came.
    is_fresh: bool,
    /// Whether nothing but white space came since calls ended.
    is_behind_calls: bool,
}

#[derive(Clone, Debug)]
enum Place {
    Reasoning,
    Text,
    Calls(Calls),
    /// A bound was exceeded: what comes is left out.
    Nothing,
}

/// What matters of the line that is being written.
#[derive(Clone, Debug)]
struct Line {
    is_blank: bool,
    last: char,
}

impl Line {
    const START: Line = Line {
        is_blank: true,
        last: '\n',
    };

    fn push(&mut self, text: &str) {
        let line = text.rfind('\n').map(|at| &text[at + 1..]);
        self.is_blank = (self.is_blank || line.is_some()) && line.unwrap_or(text).trim().is_empty();
        self.last = text.chars().next_back().unwrap_or(self.last);
    }
}

/// What was found in front of something in text or reasoning.
enum Found {
    /// Nothing.
    Nothing,
    /// What may become something.
    Begun,
    /// The end of the reasoning.
    EndOfReasoning,
    Opening(calls::Opening),
    /// An opening without a call, of so many bytes.
    NoCall(usize),
    /// A closing tag of so many bytes behind the calls.
    Stray(usize),
    /// An opening that the end of the answer cut.
    Cut,
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
            line: Line::START,
            is_fresh: !reasoning,
            is_behind_calls: false,
        }
    }

    /// Takes the bytes of a token and gives what has become clear.
    pub fn push(&mut self, bytes: &[u8], emit: &mut dyn FnMut(Event<'_>)) {
        self.pending.push_str(self.utf8.push(bytes));
        self.advance(None, emit);
    }

    /// Ends the answer and gives what was kept back.
    pub fn finish(mut self, end: End, emit: &mut dyn FnMut(Event<'_>)) {
        // Half of a character where the answer was cut is none.
        if end == End::Whole {
            self.pending.push_str(self.utf8.finish());
            self.advance(None, emit);
        }
        self.advance(Some(end), emit);
        if let Place::Calls(calls) = &self.place
            && let Some(closing) = calls.closing()
        {
            emit(Event::Warning("calls: the answer was cut within a call"));
            emit(Event::CallCut(closing));
        }
    }

    /// Whether it is in the reasoning.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.place, Place::Reasoning)
    }

    /// Whether nothing but white space came, so that reasoning may begin.
    pub fn is_fresh(&self) -> bool {
        self.is_fresh && self.pending.trim().is_empty()
    }

    /// Gives all that is clear; at the end of the answer, all.
    fn advance(&mut self, end: Option<End>, emit: &mut dyn FnMut(Event<'_>)) {
        let text = std::mem::take(&mut self.pending);
        let mut at = 0;
        loop {
            let rest = &text[at..];
            let step = match &mut self.place {
                Place::Calls(_) if end == Some(End::Cut) => Step::Wait,
                Place::Calls(calls) => calls.step(rest, end.is_some(), emit),
                Place::Nothing => Step::Taken(rest.len()),
                Place::Text if self.is_fresh => self.first(rest, end.is_some()),
                Place::Text | Place::Reasoning => self.prose(rest, end, emit),
            };
            match step {
                Step::Wait => break,
                Step::Taken(n) => at += n,
                Step::Over(n) => {
                    at += n;
                    self.place = Place::Text;
                    self.line = Line::START;
                    self.is_behind_calls = true;
                }
                Step::TooMuch(what) => {
                    emit(Event::Warning(&what));
                    if let Place::Calls(calls) = &self.place
                        && let Some(closing) = calls.closing()
                    {
                        emit(Event::CallCut(closing));
                    }
                    self.place = Place::Nothing;
                }
            }
            let closes = end.is_some() && matches!(self.place, Place::Calls(_));
            if at == text.len() && !closes {
                break;
            }
        }
        self.pending = text;
        self.pending.drain(..at);
    }

    /// At the beginning of the text: reasoning that the model opens itself.
    fn first(&mut self, rest: &str, is_last: bool) -> Step {
        let text = rest.trim_start();
        let n_blanks = rest.len() - text.len();
        if !is_last && BEGIN_REASONING.starts_with(text) && n_blanks <= MOST_BLANKS {
            return Step::Wait;
        }
        self.is_fresh = false;
        if text.starts_with(BEGIN_REASONING) {
            self.place = Place::Reasoning;
            return Step::Taken(n_blanks + BEGIN_REASONING.len());
        }
        Step::Taken(0)
    }

    /// Gives text or reasoning up to what is found in it.
    fn prose(&mut self, rest: &str, end: Option<End>, emit: &mut dyn FnMut(Event<'_>)) -> Step {
        let (at, found) = self.find(rest, end);
        let before = &rest[..at];
        let is_open = end.is_none() && matches!(found, Found::Nothing | Found::Begun);
        // White space directly behind calls counts only in front of more text.
        let is_dropped = self.is_behind_calls && before.trim().is_empty();
        if is_dropped && is_open && rest.len() <= MOST_BLANKS {
            return Step::Wait;
        }
        let blank_line = before.strip_suffix(BLANK_LINE);
        let line = before.strip_suffix('\n');
        let n_given = match &found {
            Found::NoCall(n) => at + n,
            _ if is_dropped => 0,
            Found::Opening(_) | Found::Cut => blank_line.map_or(at, str::len),
            // It may become the blank line in front of calls.
            _ if is_open && self.tools => blank_line.or(line).map_or(at, str::len),
            _ => at,
        };
        if n_given > 0 {
            let text = &rest[..n_given];
            self.line.push(text);
            self.is_behind_calls = false;
            match self.place {
                Place::Reasoning => emit(Event::Reasoning(text)),
                _ => emit(Event::Text(text)),
            }
        }
        match found {
            Found::Nothing if is_dropped => Step::Taken(at),
            Found::Nothing | Found::Begun if n_given == 0 => Step::Wait,
            Found::Nothing | Found::Begun => Step::Taken(n_given),
            Found::EndOfReasoning => {
                self.place = Place::Text;
                self.line = Line::START;
                Step::Taken(at + END_REASONING.len())
            }
            Found::Opening(opening) => {
                if self.is_reasoning() {
                    emit(Event::Warning(
                        "calls: found in the reasoning, which they end",
                    ));
                }
                self.place = Place::Calls(Calls::new(&opening, emit));
                Step::Taken(at + opening.len)
            }
            Found::NoCall(n) => {
                emit(Event::Warning(
                    "calls: found no call behind <｜DSML｜tool_calls>, which is text then",
                ));
                Step::Taken(at + n)
            }
            Found::Stray(n) => Step::Taken(at + n),
            Found::Cut => {
                emit(Event::Warning("calls: the answer was cut where one began"));
                Step::Taken(rest.len())
            }
        }
    }

    /// What is found first in text or reasoning, and where.
    fn find(&self, rest: &str, end: Option<End>) -> (usize, Found) {
        let is_reasoning = self.is_reasoning();
        let (mut from, mut line) = (0, self.line.clone());
        while let Some(n) = memchr::memchr(b'<', &rest.as_bytes()[from..]) {
            let at = from + n;
            let text = &rest[at..];
            line.push(&rest[from..at]);
            if is_reasoning && text.starts_with(END_REASONING) {
                return (at, Found::EndOfReasoning);
            }
            if is_reasoning && end.is_none() && END_REASONING.starts_with(text) {
                return (at, Found::Begun);
            }
            if self.tools && self.is_behind_calls && rest[..at].trim().is_empty() {
                match tag::read(text, end.is_some()) {
                    Scan::Found(tag) if tag.is_end && tag.is_marked => {
                        return (at, Found::Stray(tag.len));
                    }
                    Scan::Begun if tag::is_like_mark(text) => return (at, Found::Begun),
                    _ => {}
                }
            }
            if self.tools && may_open(text, &line, is_reasoning) {
                let opening = match (calls::opening(text, false), end) {
                    (Ok(Scan::Begun), None) => return (at, Found::Begun),
                    (Ok(Scan::Begun), Some(End::Cut)) if tag::is_like_mark(text) => {
                        return (at, Found::Cut);
                    }
                    (Ok(Scan::Begun), Some(_)) => calls::opening(text, true),
                    (opening, _) => opening,
                };
                match opening {
                    Ok(Scan::Found(opening)) => return (at, Found::Opening(opening)),
                    Ok(_) => {}
                    Err(n) => return (at, Found::NoCall(n)),
                }
            }
            line.push("<");
            from = at + 1;
        }
        (rest.len(), Found::Nothing)
    }
}

/// Whether calls may begin with `text` at this place of a line.
fn may_open(text: &str, line: &Line, is_reasoning: bool) -> bool {
    let has_its_bar = text == "<" || text.starts_with("<｜");
    line.is_blank || !is_reasoning && has_its_bar && !QUOTES.contains(&line.last)
}
