//! What a user of `infall chat` gives, turn by turn: from lines to texts and commands.
//!
//! ```text
//! """ ... """              one text, as it stands
//! ends with \              goes on in the next line
//! pasted on a terminal     one text, as it stands (terminals mark what is pasted)
//! lines on a pipe          one text as long as they come together; an empty line, a command or a pause ends it
//! /command                 alone in its line; //command is the text /command
//! ```

use super::{LIMITS, note, print};
use crate::engine::{interrupt, poll};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;
use std::time::Duration;

/// Lines on a pipe with a longer pause between them are not one text.
const PAUSE: Duration = Duration::from_millis(50);

/// What terminals put around what is pasted.
const PASTE: (&str, &str) = ("\x1b[200~", "\x1b[201~");

/// Has the terminal do so, and stop it.
const MARK_PASTES: (&str, &str) = ("\x1b[?2004h", "\x1b[?2004l");

/// What asks for a text that spans lines.
const QUOTES: &str = "\"\"\"";

/// What a user gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// A turn of the conversation.
    Text(String),
    /// Something to do.
    Command(ChatCommand),
    /// One word that looks like a command and is none.
    Unknown(String),
}

/// What can be done beside asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatCommand {
    /// Let the model reason.
    Think,
    /// Let it answer at once.
    Nothink,
    /// Tell figures.
    Stats,
    /// Forget the conversation.
    Reset,
    /// List the commands.
    Help,
    /// Leave.
    Quit,
    /// Keep the conversation under this name.
    Save(String),
    /// Go on with the one of this name.
    Load(String),
}

impl ChatCommand {
    /// The command that a line is, if it is one.
    pub fn of(line: &str) -> Option<ChatCommand> {
        let line = line.trim();
        Some(match line {
            "/think" => ChatCommand::Think,
            "/nothink" => ChatCommand::Nothink,
            "/stats" => ChatCommand::Stats,
            "/reset" | "/clear" => ChatCommand::Reset,
            "/help" | "/?" => ChatCommand::Help,
            "/quit" | "/exit" | "/bye" => ChatCommand::Quit,
            _ => match line.split_once(char::is_whitespace)? {
                ("/save", name) => ChatCommand::Save(name.trim().into()),
                ("/load", name) => ChatCommand::Load(name.trim().into()),
                _ => return None,
            },
        })
    }
}

/// Whether a line is one word as commands are.
fn looks_like_command(line: &str) -> bool {
    let word = line.trim().strip_prefix('/');
    word.is_some_and(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase()))
}

/// The lines of a turn so far.
#[derive(Debug, Default)]
struct Gathered {
    lines: Vec<String>,
    /// Whether it is a text as it stands.
    verbatim: bool,
    open: Open,
}

/// What must come before a turn is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Open {
    /// Nothing, but what comes with it belongs to it.
    #[default]
    No,
    /// The next line.
    Line,
    /// Closing quotes.
    Quotes,
    /// The end of what is pasted.
    Paste,
}

impl Gathered {
    /// Whether a line does not belong to it, but comes after it.
    fn ends_before(&self, line: &str) -> bool {
        let is_over = line.trim().is_empty() || ChatCommand::of(line).is_some();
        self.open == Open::No && !self.lines.is_empty() && is_over
    }

    /// Takes a line in; true when the turn is complete.
    fn push(&mut self, line: &str) -> bool {
        let starts = self.lines.is_empty();
        let mut line = line.to_owned();
        if self.open != Open::Quotes {
            let is_open = match (line.rfind(PASTE.0), line.rfind(PASTE.1)) {
                (None, None) => self.open == Open::Paste,
                // None is less than any place.
                (begin, end) => begin > end,
            };
            line = line.replace(PASTE.0, "").replace(PASTE.1, "");
            if is_open {
                (self.verbatim, self.open) = (true, Open::Paste);
                self.lines.push(line);
                return false;
            }
            if self.open == Open::Paste {
                self.open = Open::No;
                self.lines.push(line);
                return false;
            }
            if starts && let Some(rest) = line.trim_start().strip_prefix(QUOTES) {
                (self.verbatim, self.open) = (true, Open::Quotes);
                line = rest.to_owned();
                if line.trim().is_empty() {
                    return false;
                }
            }
        }
        if self.open == Open::Quotes {
            let closed = line.trim_end().strip_suffix(QUOTES);
            self.lines.push(closed.unwrap_or(&line).to_owned());
            return closed.is_some();
        }
        match line.strip_suffix('\\') {
            Some(line) => {
                (self.verbatim, self.open) = (true, Open::Line);
                self.lines.push(line.to_owned());
            }
            None => {
                self.open = Open::No;
                self.lines.push(line);
            }
        }
        starts && ChatCommand::of(&self.lines[0]).is_some()
    }

    /// What the lines are, if they are anything.
    fn given(self) -> Option<Given> {
        let text = self.lines.join("\n");
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        if self.verbatim || self.lines.len() > 1 {
            return Some(Given::Text(text.into()));
        }
        if let Some(command) = ChatCommand::of(text) {
            return Some(Given::Command(command));
        }
        if looks_like_command(text) {
            return Some(Given::Unknown(text.into()));
        }
        let escaped = text.strip_prefix('/');
        let escaped = escaped.filter(|t| ChatCommand::of(t).is_some() || looks_like_command(t));
        Some(Given::Text(escaped.unwrap_or(text).into()))
    }
}

/// Standard input, in turns.
pub struct Turns {
    /// Read without the standard library's buffer, which would hide what is at hand, and whose own line reading goes on
    /// after Ctrl-C.
    input: File,
    is_terminal: bool,
    /// Whether the terminal is asked to mark what is pasted.
    marks_pastes: bool,
    /// What was read behind the last line.
    bytes: Vec<u8>,
    /// A line that came after the last turn.
    next: Option<String>,
}

/// What a wait for a line came to.
enum Line {
    Read(String),
    /// The user pressed Ctrl-C.
    Interrupted,
    /// The end of input.
    End,
}

impl Turns {
    /// Of standard input.
    ///
    /// Errors: it is closed.
    pub fn new() -> Result<Turns> {
        let input = std::io::stdin();
        let is_terminal = input.is_terminal();
        let input = input.as_fd().try_clone_to_owned();
        let input = input.map_err(|e| Error::io("standard input", &e))?;
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Ok(Turns {
            input: input.into(),
            is_terminal,
            marks_pastes: is_terminal && std::io::stdout().is_terminal() && !is_dumb,
            bytes: Vec::new(),
            next: None,
        })
    }

    /// Whether someone types.
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// What is given next, or `None` at the end of input.
    ///
    /// Errors: a failed read; more text than [`LIMITS`] allow.
    pub fn next(&mut self) -> Result<Option<Given>> {
        if self.marks_pastes {
            print(MARK_PASTES.0)?;
        }
        let given = self.gather();
        if self.marks_pastes {
            print(MARK_PASTES.1)?;
        }
        given
    }

    fn gather(&mut self) -> Result<Option<Given>> {
        let mut gathered = Gathered::default();
        let mut n_bytes = 0;
        self.prompt("> ")?;
        loop {
            let line = match self.next.take() {
                Some(line) => Line::Read(line),
                None => self.line()?,
            };
            let line = match line {
                Line::Read(line) => line,
                Line::End => return Ok(gathered.given()),
                Line::Interrupted => {
                    gathered = Gathered::default();
                    print("\n> ")?;
                    continue;
                }
            };
            n_bytes += line.len() as u64;
            if n_bytes > LIMITS.text_bytes {
                return Err(Error::limit("bytes of a turn", "found", LIMITS.text_bytes));
            }
            let is_complete = match gathered.ends_before(&line) {
                true => {
                    self.next = Some(line);
                    true
                }
                false => gathered.push(&line) || gathered.open == Open::No && !self.has_more()?,
            };
            if is_complete {
                if let Some(given) = std::mem::take(&mut gathered).given() {
                    return Ok(Some(given));
                }
                self.prompt("> ")?;
            } else if gathered.open != Open::Paste {
                self.prompt("... ")?;
            }
        }
    }

    fn prompt(&self, text: &str) -> Result<()> {
        if self.is_terminal {
            print(text)
        } else {
            Ok(())
        }
    }

    /// Whether something is at hand that comes together with what was read. A terminal gives one line at a time.
    fn has_more(&self) -> Result<bool> {
        if self.is_terminal || !self.bytes.is_empty() {
            return Ok(!self.bytes.is_empty());
        }
        let mut watch = [poll::Watch::readable(&self.input)];
        poll::wait(&mut watch, PAUSE)?;
        Ok(watch[0].is_ready())
    }

    /// A line without its end. What is no text is told and left out.
    fn line(&mut self) -> Result<Line> {
        let mut buf = [0; 16 << 10];
        let mut searched = 0;
        let mut bytes = loop {
            let end = self.bytes[searched..].iter().position(|b| *b == b'\n');
            if let Some(end) = end {
                let rest = self.bytes.split_off(searched + end + 1);
                break std::mem::replace(&mut self.bytes, rest);
            }
            searched = self.bytes.len();
            if searched as u64 > LIMITS.text_bytes {
                return Err(Error::limit("bytes of a line", "found", LIMITS.text_bytes));
            }
            match self.input.read(&mut buf) {
                Ok(0) if self.bytes.is_empty() => return Ok(Line::End),
                Ok(0) => break std::mem::take(&mut self.bytes),
                Ok(n) => self.bytes.extend_from_slice(&buf[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("standard input", &e)),
            }
            if interrupt::requested() {
                interrupt::clear();
                self.bytes.clear();
                return Ok(Line::Interrupted);
            }
        };
        for end in [b'\n', b'\r'] {
            bytes.pop_if(|last| *last == end);
        }
        Ok(Line::Read(String::from_utf8(bytes).unwrap_or_else(|e| {
            let at = e.utf8_error().valid_up_to();
            note(&format!("the line is not UTF-8 text at byte {at}\n"));
            String::new()
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lines give that come together.
    fn given(lines: &[&str]) -> Vec<Given> {
        let (mut all, mut gathered) = (Vec::new(), Gathered::default());
        for line in lines {
            if gathered.ends_before(line) {
                all.extend(std::mem::take(&mut gathered).given());
            }
            if gathered.push(line) {
                all.extend(std::mem::take(&mut gathered).given());
            }
        }
        all.extend(gathered.given());
        all
    }

    fn text(text: &str) -> Given {
        Given::Text(text.into())
    }

    #[test]
    fn lines_that_come_together_are_one_turn() {
        assert_eq!(
            given(&["fn a() {", "    b();", "}"]),
            [text("fn a() {\n    b();\n}")]
        );
        assert_eq!(
            given(&["", "a", "", "", "b", "c", " "]),
            [text("a"), text("b\nc")]
        );
        let both = [text("a"), Given::Command(ChatCommand::Stats), text("b")];
        assert_eq!(given(&["a", "/stats", "b"]), both);
        // In the middle of a text only known commands are some.
        assert_eq!(
            given(&["paths:", "/tmp", "/usr"]),
            [text("paths:\n/tmp\n/usr")]
        );
    }

    #[test]
    fn only_commands_are_commands() {
        for (line, expected) in [
            ("/quit", Given::Command(ChatCommand::Quit)),
            (" /bye ", Given::Command(ChatCommand::Quit)),
            ("/exit", Given::Command(ChatCommand::Quit)),
            ("/clear", Given::Command(ChatCommand::Reset)),
            (
                "/save  a b",
                Given::Command(ChatCommand::Save("a b".into())),
            ),
            ("/load x", Given::Command(ChatCommand::Load("x".into()))),
            ("/save", Given::Unknown("/save".into())),
            ("/exti", Given::Unknown("/exti".into())),
            ("/quit now", text("/quit now")),
            ("/etc/hosts: what is it?", text("/etc/hosts: what is it?")),
            ("/etc/hosts", text("/etc/hosts")),
            ("/", text("/")),
            ("//quit", text("/quit")),
            ("//save x", text("/save x")),
            ("//exti", text("/exti")),
            ("// a comment", text("// a comment")),
            ("//", text("//")),
        ] {
            assert_eq!(given(&[line]), [expected], "{line}");
        }
    }

    #[test]
    fn quotes_and_backslashes_hold_lines_together() {
        assert_eq!(given(&["\"\"\"one line\"\"\""]), [text("one line")]);
        let lines = ["\"\"\"", "a", "", "/quit", "  b\\", "\"\"\"", "/quit"];
        let both = [text("a\n\n/quit\n  b\\"), Given::Command(ChatCommand::Quit)];
        assert_eq!(given(&lines), both);
        assert_eq!(given(&["\"\"\"a", "b\"\"\" "]), [text("a\nb")]);
        assert_eq!(given(&["\"\"\"", "never closed"]), [text("never closed")]);
        assert_eq!(given(&["\"\"\"\"\"\""]), []);
        assert_eq!(given(&["a\\", "", "b"]), [text("a\n\nb")]);
        assert_eq!(given(&["a \\", "/quit", "/quit"])[0], text("a \n/quit"));
        // Quotes in the middle are text.
        assert_eq!(given(&["x = \"\"\"", "b"]), [text("x = \"\"\"\nb")]);
    }

    #[test]
    fn what_is_pasted_stands_as_it_is() {
        let lines = ["look: \x1b[200~a\\", "", "/quit", "b\x1b[201~ and?"];
        assert_eq!(given(&lines), [text("look: a\\\n\n/quit\nb and?")]);
        assert_eq!(
            given(&["\x1b[200~/quit\x1b[201~"]),
            [Given::Command(ChatCommand::Quit)]
        );
        assert_eq!(given(&["\x1b[200~a", "b\x1b[201~", "/quit"]).len(), 2);
    }
}
