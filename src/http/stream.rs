//! Answers in pieces: chunks, and events made of them. Source: RFC 9112 section 7.1; HTML Living Standard,
//! "Server-sent events"; lines of JSON as newline-delimited JSON (NDJSON) has them.

use super::response::Responder;
use crate::error::Result;

/// A body in pieces, of a length that nobody knows yet.
pub struct Stream<'r, 'a> {
    responder: &'r mut Responder<'a>,
    /// A piece with its frame; one write for each piece.
    framed: Vec<u8>,
}

impl<'r, 'a> Stream<'r, 'a> {
    pub(super) fn new(responder: &'r mut Responder<'a>) -> Stream<'r, 'a> {
        Stream {
            responder,
            framed: Vec::new(),
        }
    }

    /// Sends a piece now.
    pub fn write(&mut self, piece: &[u8]) -> Result<()> {
        // A chunk without bytes would be the end.
        if piece.is_empty() || self.responder.wants_head_only() {
            return Ok(());
        }
        if !self.responder.has_chunks() {
            return self.responder.send(piece);
        }
        self.framed.clear();
        let size = format!("{:x}\r\n", piece.len());
        self.framed.extend_from_slice(size.as_bytes());
        self.framed.extend_from_slice(piece);
        self.framed.extend_from_slice(b"\r\n");
        self.responder.send(&self.framed)
    }

    /// Tells the client that this was all.
    pub fn finish(self) -> Result<()> {
        if self.responder.has_chunks() && !self.responder.wants_head_only() {
            self.responder.send(b"0\r\n\r\n")?;
        }
        self.responder.is_whole();
        Ok(())
    }

    /// As [`Responder::is_gone`].
    pub fn is_gone(&self) -> bool {
        self.responder.is_gone()
    }

    /// As [`Responder::is_half_closed`].
    pub fn is_half_closed(&self) -> bool {
        self.responder.is_half_closed()
    }
}

/// What makes a body of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events, which have names and comments.
    ServerSent,
    /// Each event is a line of JSON; there are neither names nor comments.
    Lines,
}

impl Framing {
    /// The media type of the body.
    pub fn content_type(self) -> &'static str {
        match self {
            Framing::ServerSent => "text/event-stream",
            Framing::Lines => "application/x-ndjson",
        }
    }
}

/// A body of events.
pub struct Events<'r, 'a> {
    stream: Stream<'r, 'a>,
    framing: Framing,
    /// Events that were not sent yet.
    text: String,
}

impl<'r, 'a> Events<'r, 'a> {
    pub(super) fn new(stream: Stream<'r, 'a>, framing: Framing) -> Events<'r, 'a> {
        Events {
            stream,
            framing,
            text: String::new(),
        }
    }

    /// Sends an event, without a name if `name` is empty, and those that were put in front of it.
    pub fn event(&mut self, name: &'static str, data: &str) -> Result<()> {
        self.put(name, data);
        self.send()
    }

    /// Puts an event where [`Events::send`] finds it.
    pub fn put(&mut self, name: &'static str, data: &str) {
        if self.framing == Framing::Lines {
            // JSON that is written on several lines would be several events.
            debug_assert!(!data.contains(['\r', '\n']));
            self.text += data;
        } else {
            if !name.is_empty() {
                self.text += &format!("event: {name}\n");
            }
            lines(data, "data: ", &mut self.text);
        }
        self.text.push('\n');
    }

    /// Sends what was put, in one piece.
    pub fn send(&mut self) -> Result<()> {
        let sent = self.stream.write(self.text.as_bytes());
        self.text.clear();
        sent
    }

    /// Sends what no client shows: it keeps the connection awake, and tells whether it still is one. Lines have no comments.
    pub fn comment(&mut self, comment: &str) -> Result<()> {
        if self.framing == Framing::Lines {
            return Ok(());
        }
        lines(comment, ": ", &mut self.text);
        self.text.push('\n');
        self.send()
    }

    /// Tells the client that this was all.
    pub fn finish(self) -> Result<()> {
        self.stream.finish()
    }

    /// As [`Responder::is_gone`].
    pub fn is_gone(&self) -> bool {
        self.stream.is_gone()
    }

    /// As [`Responder::is_half_closed`].
    pub fn is_half_closed(&self) -> bool {
        self.stream.is_half_closed()
    }
}

/// Each line of `text`, whichever way lines end there, with `before` in front.
fn lines(text: &str, before: &str, out: &mut String) {
    for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
        *out += before;
        *out += line;
        out.push('\n');
    }
}
