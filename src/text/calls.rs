//! Reads calls as they come: their names and arguments, and what had to be repaired.
//!
//! A text value reaches up to its closer. If another parameter begins or the answer ends before the closer comes, it is
//! missing or misspelt, and the value ended in front of the first tag: so tags inside of a value stay what they are as
//! long as it is closed.

use super::answer::Event;
use super::dsml::{self, Call, Unescaper, VALUE_END};
use super::tag::{self, Kind, Scan, Tag};
use crate::json::recogniser::{Recogniser, Rules};
use crate::json::source::{as_string, check, quote, respaced};

/// Bounds on calls; what exceeds them is left out.
struct Limits {
    /// Bytes of all calls of a block in their markup.
    block_bytes: usize,
    /// Calls in one block.
    calls: usize,
    /// Parameters of a call.
    parameters: usize,
    /// Bytes of white space in a row outside of values.
    blanks: usize,
}

const LIMITS: Limits = Limits {
    block_bytes: 8 << 20,
    calls: 128,
    parameters: 256,
    blanks: 1024,
};

/// What is repaired, as it is told.
mod repair {
    pub const SPACE: &str = "calls: white space between tags is not as the markup has it";
    pub const TAG: &str = "calls: a tag is not as the markup has it";
    pub const NO_BLOCK: &str = "calls: found no <｜DSML｜tool_calls> in front of a call";
    pub const NO_END_BLOCK: &str = "calls: found no </｜DSML｜tool_calls>";
    pub const NO_END_INVOKE: &str = "calls: found no </｜DSML｜invoke>";
    pub const NO_END_PARAMETER: &str = "calls: found no </｜DSML｜parameter>";
    pub const NO_STRING: &str =
        "calls: a parameter does not say whether it is text or JSON; what can be JSON is";
    pub const NO_JSON: &str = "calls: a value that should be JSON is none, and is taken as text";
    pub const TWICE: &str = "calls: a parameter is given twice; the last one counts";
    pub const OBJECT: &str = "calls: arguments are a JSON object instead of parameters";
    pub const STRAY: &str = "calls: what stands between the tags is left out";
}

/// Calls that are being read.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    place: Place,
    /// Whether the opener of the block was there.
    has_block: bool,
    n_calls: usize,
    n_bytes: usize,
    /// Names of the parameters of the call in work.
    keys: Vec<String>,
    /// Whether the arguments of the call in work are whole, but for its closer.
    is_object: bool,
    /// Whether text was left out since the last tag.
    has_stray: bool,
    /// Repairs that were told.
    told: Vec<&'static str>,
}

#[derive(Clone, Debug)]
enum Place {
    /// Between calls.
    Block,
    /// In a call, between parameters.
    Call,
    Value(Value),
    /// In a JSON object.
    Object(Recogniser, usize),
}

/// A value that is being read.
#[derive(Clone, Debug)]
struct Value {
    form: Form,
    /// What closes it.
    closer: String,
    /// Bytes of the rest that are known to hold neither its end nor a tag.
    searched: usize,
    /// The first tag in it that is not its closer.
    tag: Option<usize>,
    unescaper: Unescaper,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json,
    /// Not said.
    Either,
}

/// What came of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// So many bytes are understood.
    Taken(usize),
    /// More text is needed.
    Wait,
    /// The block ended, with so many bytes.
    Over(usize),
    /// A bound is reached; the rest of the answer is left out.
    TooMuch(String),
}

/// What begins calls.
pub(super) struct Opening {
    /// Bytes in front of the first call.
    pub len: usize,
    /// Whether it is that of a block.
    has_block: bool,
    is_exact: bool,
}

/// The opening of calls that `text` begins with: that of a block in front of a call, or a call. `Err` tells the bytes of an
/// opening behind which no call comes.
pub(super) fn opening(text: &str, is_last: bool) -> Result<Scan<Opening>, usize> {
    let block = match tag::read(text, is_last) {
        Scan::Found(tag) if tag.opens_calls() => tag,
        Scan::Begun => return Ok(Scan::Begun),
        _ => return Ok(Scan::Other),
    };
    if block.kind == Kind::Invoke {
        return Ok(Scan::Found(Opening {
            len: 0,
            has_block: false,
            is_exact: false,
        }));
    }
    let rest = text[block.len..].trim_start();
    if rest.is_empty() && !is_last && text.len() - block.len < LIMITS.blanks {
        return Ok(Scan::Begun);
    }
    match tag::read(rest, is_last) {
        Scan::Found(tag) if tag.opens(Kind::Invoke) => Ok(Scan::Found(Opening {
            len: block.len,
            has_block: true,
            is_exact: block.is_exact,
        })),
        Scan::Begun => Ok(Scan::Begun),
        _ => Err(block.len),
    }
}

impl Calls {
    /// Calls behind their opening.
    pub(super) fn new(opening: &Opening, emit: &mut dyn FnMut(Event<'_>)) -> Calls {
        let mut calls = Calls {
            place: Place::Block,
            has_block: opening.has_block,
            n_calls: 0,
            n_bytes: 0,
            keys: Vec::new(),
            is_object: false,
            has_stray: false,
            told: Vec::new(),
        };
        if !opening.has_block {
            calls.repaired(repair::NO_BLOCK, emit);
        } else if !opening.is_exact {
            calls.repaired(repair::TAG, emit);
        }
        calls
    }

    /// What would make JSON of the arguments told so far; `None` between calls.
    pub(super) fn closing(&self) -> Option<&'static str> {
        match &self.place {
            Place::Block => None,
            Place::Value(value) if value.form == Form::Text => Some("\"}"),
            // Its key comes with the value.
            Place::Value(_) if self.keys.len() == 1 => Some("{}"),
            _ if self.is_object => Some(""),
            _ if self.keys.is_empty() => Some("{}"),
            _ => Some("}"),
        }
    }

    /// Understands more of `rest`, all that is not understood yet.
    pub(super) fn step(
        &mut self,
        rest: &str,
        is_last: bool,
        emit: &mut dyn FnMut(Event<'_>),
    ) -> Step {
        if self.n_bytes + rest.len() > LIMITS.block_bytes && !matches!(self.place, Place::Block) {
            return Step::TooMuch(format!("calls: more than {} bytes", LIMITS.block_bytes));
        }
        let step = match &mut self.place {
            Place::Block => self.between_calls(rest, is_last, emit),
            Place::Call => self.in_call(rest, is_last, emit),
            Place::Value(_) => self.in_value(rest, is_last, emit),
            Place::Object(..) => self.in_object(rest, is_last, emit),
        };
        if let Step::Taken(n) = step {
            self.n_bytes += n;
        }
        step
    }

    fn between_calls(
        &mut self,
        rest: &str,
        is_last: bool,
        emit: &mut dyn FnMut(Event<'_>),
    ) -> Step {
        let text = rest.trim_start();
        let n_blanks = rest.len() - text.len();
        let tag = match tag::read(text, is_last) {
            Scan::Found(tag) if tag.is_marked || self.has_block => tag,
            Scan::Begun => return Step::Wait,
            _ if text.is_empty() && !is_last && n_blanks <= LIMITS.blanks => return Step::Wait,
            _ => {
                if self.has_block {
                    self.repaired(repair::NO_END_BLOCK, emit);
                }
                // The beginning of a tag that does not come any more is no text.
                let is_tag = tag::is_like_mark(text) || matches!(text, "<" | "</");
                return Step::Over(if is_last && is_tag { rest.len() } else { 0 });
            }
        };
        let is_space_exact = std::mem::take(&mut self.has_stray) || &rest[..n_blanks] == "\n";
        if self.has_block && !is_space_exact {
            self.repaired(repair::SPACE, emit);
        }
        let len = n_blanks + tag.len;
        if !tag.is_exact {
            self.repaired(repair::TAG, emit);
        }
        if tag.opens(Kind::Invoke) {
            if self.n_calls == LIMITS.calls {
                return Step::TooMuch(format!("calls: more than {}", LIMITS.calls));
            }
            self.n_calls += 1;
            emit(Event::CallBegin(tag.name.as_deref().unwrap_or_default()));
            self.keys.clear();
            (self.is_object, self.has_stray) = (false, false);
            self.place = Place::Call;
            if tag.is_empty {
                self.end_call(emit);
            }
        } else if tag.closes(Kind::Block) {
            return Step::Over(len);
        } else {
            // A second opener, or a closer too many.
            self.repaired(repair::TAG, emit);
        }
        Step::Taken(len)
    }

    fn in_call(&mut self, rest: &str, is_last: bool, emit: &mut dyn FnMut(Event<'_>)) -> Step {
        let text = rest.trim_start();
        let n_blanks = rest.len() - text.len();
        if text.is_empty() {
            if is_last {
                self.repaired(repair::NO_END_INVOKE, emit);
                self.end_call(emit);
                return Step::Taken(rest.len());
            }
            return match n_blanks > LIMITS.blanks {
                true => Step::Taken(n_blanks - LIMITS.blanks),
                false => Step::Wait,
            };
        }
        let may_be_object = self.keys.is_empty() && !self.is_object && !self.has_stray;
        if text.starts_with('{') && may_be_object {
            self.place = Place::Object(Recogniser::new(Rules::OBJECT), 0);
            return Step::Taken(n_blanks);
        }
        let tag = match tag::read(text, is_last) {
            Scan::Found(tag) => tag,
            Scan::Begun => return Step::Wait,
            Scan::Other => {
                self.repaired(repair::STRAY, emit);
                self.has_stray = true;
                let next = memchr::memchr(b'<', &text.as_bytes()[1..]);
                // A character is not cut: `<` is none's second byte.
                return Step::Taken(n_blanks + next.map_or(text.len(), |n| n + 1));
            }
        };
        let blanks = &rest[..n_blanks];
        let is_space_exact = match tag.closes(Kind::Invoke) && self.keys.is_empty() {
            true => matches!(blanks, "\n" | "\n\n"),
            false => blanks == "\n",
        };
        if tag.closes(Kind::Invoke) {
            let is_space_exact = std::mem::take(&mut self.has_stray) || is_space_exact;
            self.check_tag(&tag, is_space_exact, emit);
            self.end_call(emit);
            return Step::Taken(n_blanks + tag.len);
        }
        if tag.kind == Kind::Block || tag.opens(Kind::Invoke) {
            self.repaired(repair::NO_END_INVOKE, emit);
            self.end_call(emit);
            return Step::Taken(0);
        }
        let is_space_exact = std::mem::take(&mut self.has_stray) || is_space_exact;
        let is_parameter = !tag.is_end && tag.kind != Kind::Invoke;
        let len = n_blanks + tag.len;
        if is_parameter {
            self.check_tag(&tag, is_space_exact, emit);
            if self.is_object {
                self.repaired(repair::STRAY, emit);
                return Step::Taken(len);
            }
            if self.keys.len() == LIMITS.parameters {
                return Step::TooMuch(format!("calls: more than {} parameters", LIMITS.parameters));
            }
            self.begin_value(&tag, &text[..tag.len], emit);
            return Step::Taken(len);
        }
        self.repaired(repair::TAG, emit);
        if tag.is_end && tag.kind == Kind::Unknown && tag.is_marked {
            self.end_call(emit);
        }
        Step::Taken(len)
    }

    fn check_tag(&mut self, tag: &Tag, is_space_exact: bool, emit: &mut dyn FnMut(Event<'_>)) {
        if !is_space_exact {
            self.repaired(repair::SPACE, emit);
        }
        if tag.is_exact {
            return;
        }
        let opens = tag.kind == Kind::Parameter && !tag.is_end;
        match opens && tag.is_text.is_none() && !tag.is_empty {
            true => self.repaired(repair::NO_STRING, emit),
            false => self.repaired(repair::TAG, emit),
        }
    }

    fn begin_value(&mut self, tag: &Tag, text: &str, emit: &mut dyn FnMut(Event<'_>)) {
        let key = match &tag.name {
            Some(name) => name.clone(),
            None => tag::element(text).to_owned(),
        };
        if self.keys.contains(&key) {
            self.repaired(repair::TWICE, emit);
        }
        self.keys.push(key);
        let form = match tag.is_text {
            _ if tag.is_empty => Form::Text,
            Some(true) => Form::Text,
            Some(false) => Form::Json,
            None => Form::Either,
        };
        if form == Form::Text {
            emit(Event::CallArguments(&(self.key() + "\"")));
        }
        if tag.is_empty {
            emit(Event::CallArguments("\""));
            return;
        }
        self.place = Place::Value(Value {
            form,
            closer: tag::closer(text),
            searched: 0,
            tag: None,
            unescaper: Unescaper::default(),
        });
    }

    /// What stands in front of the value of the last key.
    fn key(&self) -> String {
        let first = if self.keys.len() > 1 { ", " } else { "{" };
        let key = self.keys.last().map_or("", String::as_str);
        format!("{first}{}: ", quote(key))
    }

    fn in_value(&mut self, rest: &str, is_last: bool, emit: &mut dyn FnMut(Event<'_>)) -> Step {
        let Place::Value(value) = &mut self.place else {
            return Step::Wait;
        };
        let mut at = value.searched;
        let end = loop {
            let Some(n) = memchr::memchr(b'<', &rest.as_bytes()[at..]) else {
                at = rest.len();
                break None;
            };
            at += n;
            let text = &rest[at..];
            let closers = [dsml::END_PARAMETER, &value.closer];
            if let Some(closer) = closers.iter().find(|closer| text.starts_with(**closer)) {
                let repair = (*closer != dsml::END_PARAMETER).then_some(repair::TAG);
                break Some((at, closer.len(), repair));
            }
            match tag::read(text, is_last) {
                Scan::Found(tag) if tag.opens(Kind::Parameter) && tag.is_marked => {
                    break Some(value.ended_without_closer(rest, at));
                }
                Scan::Found(tag) if tag.is_marked || tag.is_end => {
                    value.tag.get_or_insert(at);
                }
                Scan::Begun => break None,
                _ if !is_last && value.closer.starts_with(text) => break None,
                // The beginning of a tag that does not come any more.
                Scan::Other if is_last && tag::is_like_mark(text) => {
                    value.tag.get_or_insert(at);
                }
                _ => {}
            }
            at += 1;
        };
        value.searched = at;
        let end = match end {
            None if is_last => Some(value.ended_without_closer(rest, rest.len())),
            end => end,
        };
        let Some((n, n_closer, repair)) = end else {
            if value.form != Form::Text {
                return Step::Wait;
            }
            // The line's end in front of a tag may be the markup's.
            let sure = rest[..value.tag.unwrap_or(at)].trim_end_matches([' ', '\t']);
            let sure = match sure.strip_suffix('\n') {
                Some(line) => line.len(),
                None => value.tag.unwrap_or(at),
            };
            let mut text = String::new();
            let n = value
                .unescaper
                .push(&VALUE_END, &rest[..sure], false, &mut text);
            value.searched -= n;
            value.tag = value.tag.map(|tag| tag - n);
            if text.is_empty() && n == 0 {
                return Step::Wait;
            }
            emit_text(&text, emit);
            return Step::Taken(n);
        };
        let (form, mut text) = (value.form, String::new());
        value
            .unescaper
            .push(&VALUE_END, &rest[..n], true, &mut text);
        self.place = Place::Call;
        if let Some(repair) = repair {
            self.repaired(repair, emit);
        }
        if form == Form::Text {
            emit_text(&text, emit);
            emit(Event::CallArguments("\""));
        } else {
            self.whole_value(form, &rest[..n], &text, emit);
        }
        Step::Taken(n + n_closer)
    }

    /// Gives a value that may be JSON, as it stands and as text.
    fn whole_value(
        &mut self,
        form: Form,
        source: &str,
        text: &str,
        emit: &mut dyn FnMut(Event<'_>),
    ) {
        let json = source.trim_matches([' ', '\t', '\n', '\r']);
        let is_json = check(json, Rules::TEXT).is_ok();
        let is_json = is_json && (form == Form::Json || as_string(json).is_none());
        if form == Form::Json && !is_json {
            self.repaired(repair::NO_JSON, emit);
        }
        let value = if is_json {
            json.to_owned()
        } else {
            quote(text)
        };
        emit(Event::CallArguments(&(self.key() + &value)));
    }

    fn in_object(&mut self, rest: &str, is_last: bool, emit: &mut dyn FnMut(Event<'_>)) -> Step {
        let Place::Object(state, read) = &mut self.place else {
            return Step::Wait;
        };
        for (at, byte) in rest.bytes().enumerate().skip(*read) {
            let Some(next) = state.next(byte) else {
                break;
            };
            (*state, *read) = (next, at + 1);
            if next.is_complete() {
                let object = &rest[..=at];
                // Names that stand twice stay as they are.
                let arguments = match Call::from_json("", "", object) {
                    Ok(call) => call.arguments_json(),
                    Err(_) => respaced(object).unwrap_or_else(|_| object.to_owned()),
                };
                emit(Event::CallArguments(&arguments));
                self.is_object = true;
                self.place = Place::Call;
                self.repaired(repair::OBJECT, emit);
                return Step::Taken(at + 1);
            }
        }
        if *read == rest.len() && !is_last {
            return Step::Wait;
        }
        // It is none: left out like any other text.
        let n = *read;
        self.place = Place::Call;
        self.has_stray = true;
        self.repaired(repair::STRAY, emit);
        Step::Taken(n.max(1))
    }

    fn end_call(&mut self, emit: &mut dyn FnMut(Event<'_>)) {
        let closing = self.closing().unwrap_or("");
        if !closing.is_empty() {
            emit(Event::CallArguments(closing));
        }
        emit(Event::CallEnd);
        self.place = Place::Block;
    }

    /// Tells a repair, each kind once.
    fn repaired(&mut self, what: &'static str, emit: &mut dyn FnMut(Event<'_>)) {
        if !self.told.contains(&what) {
            self.told.push(what);
            emit(Event::Warning(what));
        }
    }
}

impl Value {
    /// The end of a value whose closer is missing or misspelt, in front of what ends it at `at`: its bytes, those of its
    /// closer, and what is repaired.
    fn ended_without_closer(&self, rest: &str, at: usize) -> (usize, usize, Option<&'static str>) {
        let end = self.tag.unwrap_or(at);
        if let Scan::Found(tag) = tag::read(&rest[end..], true)
            && tag.closes(Kind::Parameter)
        {
            return (end, tag.len, Some(repair::TAG));
        }
        let lines = rest[..end].trim_end_matches([' ', '\t']);
        let n = lines.strip_suffix('\n').map_or(end, str::len);
        (n, 0, Some(repair::NO_END_PARAMETER))
    }
}

/// Gives more of a string, if there is more.
fn emit_text(text: &str, emit: &mut dyn FnMut(Event<'_>)) {
    if !text.is_empty() {
        let quoted = quote(text);
        emit(Event::CallArguments(&quoted[1..quoted.len() - 1]));
    }
}
