//! Answers in pieces: chunks, and events made of them. Source: RFC 9112 section 7.1; HTML Living Standard,
//! "Server-sent events".

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
}

/// A body of events.
pub struct Events<'r, 'a> {
    stream: Stream<'r, 'a>,
}

impl<'r, 'a> Events<'r, 'a> {
    pub(super) fn new(stream: Stream<'r, 'a>) -> Events<'r, 'a> {
        Events { stream }
    }

    /// Sends an event, without a name if `name` is empty.
    pub fn event(&mut self, name: &'static str, data: &str) -> Result<()> {
        let mut text = String::with_capacity(name.len() + data.len() + 32);
        if !name.is_empty() {
            text += &format!("event: {name}\n");
        }
        lines(data, "data: ", &mut text);
        text.push('\n');
        self.stream.write(text.as_bytes())
    }

    /// Sends what no client shows: it keeps the connection awake, and tells whether it still is one.
    pub fn comment(&mut self, comment: &str) -> Result<()> {
        let mut text = String::new();
        lines(comment, ": ", &mut text);
        text.push('\n');
        self.stream.write(text.as_bytes())
    }

    /// Tells the client that this was all.
    pub fn finish(self) -> Result<()> {
        self.stream.finish()
    }

    /// As [`Responder::is_gone`].
    pub fn is_gone(&self) -> bool {
        self.stream.is_gone()
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
