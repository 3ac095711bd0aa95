//! Responses: the head, the body at once, errors.

use super::date;
use super::fields::is_token;
use super::refusal::{Refusal, Status};
use super::request::{Method, Request};
use super::stream::{Events, Framing, Stream};
use super::{Limits, WRITE_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::os::poll::{self, Watch};
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a wait for a client looks whether the server ends.
const TICK: Duration = Duration::from_millis(100);

/// How errors are told to clients, those of this module too.
#[derive(Clone, Copy)]
pub struct ErrorBody {
    /// Such as `application/json`.
    pub content_type: &'static str,
    /// The body for a message; the path that was asked for tells in whose form, and is empty where it is not known.
    pub text: fn(path: &str, status: Status, message: &str) -> String,
}

impl ErrorBody {
    /// The message as a line of text.
    pub const PLAIN: ErrorBody = ErrorBody {
        content_type: "text/plain; charset=utf-8",
        text: |_, _, message| format!("{message}\n"),
    };
}

/// Answers one request. All its functions, and those of its streams, wait for a slow client within
/// [`Limits::write_time`] for each piece.
///
/// Errors of all of them: `Closed` when the client is gone or too slow, or the server ends and does not wait any
/// longer; after one, nothing more can be sent. `Format` when a field holds what no header may.
pub struct Responder<'a> {
    stream: &'a TcpStream,
    limits: &'a Limits,
    errors: ErrorBody,
    cancel: &'a AtomicBool,
    path: String,
    wants_head_only: bool,
    is_http_1_1: bool,
    keep_alive: bool,
    /// Fields of every answer.
    fields: Vec<(&'static str, String)>,
    answer: Answer,
}

/// How far the answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    None,
    Begun,
    Whole,
}

impl<'a> Responder<'a> {
    /// For a request that came over `stream`, which does not block. `cancel`: nothing more is to be sent.
    pub(super) fn new(
        stream: &'a TcpStream,
        request: &Request,
        (limits, errors): (&'a Limits, ErrorBody),
        cancel: &'a AtomicBool,
    ) -> Responder<'a> {
        Responder {
            stream,
            limits,
            errors,
            cancel,
            path: request.path.clone(),
            wants_head_only: request.method == Method::Head,
            is_http_1_1: request.is_http_1_1,
            keep_alive: request.keep_alive,
            fields: Vec::new(),
            answer: Answer::None,
        }
    }

    /// Answers with a whole body; `HEAD` gets the same without the body.
    pub fn respond(&mut self, status: Status, fields: &[(&str, &str)], body: &[u8]) -> Result<()> {
        let mut head = self.head(status, fields)?;
        if status != Status::NoContent {
            head += &format!("content-length: {}\r\n", body.len());
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        let body = if self.wants_head_only { &[] } else { body };
        // One packet where it fits.
        let first = body.len().min(WRITE_BYTES - bytes.len().min(WRITE_BYTES));
        bytes.extend_from_slice(&body[..first]);
        self.send(&bytes)?;
        self.send(&body[first..])?;
        self.answer = Answer::Whole;
        Ok(())
    }

    /// Answers with an error in the form that the server was given; 429 and 503 tell when to come again.
    pub fn error(&mut self, status: Status, message: &str) -> Result<()> {
        let body = (self.errors.text)(&self.path, status, message);
        let seconds = self.limits.retry_after_s.to_string();
        let mut fields = vec![("content-type", self.errors.content_type)];
        if is_for_later(status) {
            fields.push(("retry-after", &seconds));
        }
        self.respond(status, &fields, body.as_bytes())
    }

    /// Begins an answer whose length is not known; it must be finished, or the client sees it cut.
    pub fn stream(&mut self, status: Status, fields: &[(&str, &str)]) -> Result<Stream<'_, 'a>> {
        // HTTP/1.0 knows no chunks: there the end of the connection is the end of the body.
        self.keep_alive &= self.is_http_1_1;
        let mut head = self.head(status, fields)?;
        if self.is_http_1_1 {
            head += "transfer-encoding: chunked\r\n";
        }
        head += "\r\n";
        self.send(head.as_bytes())?;
        Ok(Stream::new(self))
    }

    /// Begins an answer of events.
    pub fn events(&mut self, framing: Framing, fields: &[(&str, &str)]) -> Result<Events<'_, 'a>> {
        let mut all = vec![
            ("content-type", framing.content_type()),
            ("cache-control", "no-store"),
            // nginx would wait for more before it hands an event on.
            ("x-accel-buffering", "no"),
        ];
        all.extend_from_slice(fields);
        Ok(Events::new(self.stream(Status::Ok, &all)?, framing))
    }

    /// Whether work on the answer is in vain: the connection is broken, or the server does not wait any longer. A client
    /// that closed it breaks it only when something is sent to it (see [`Responder::is_half_closed`]).
    pub fn is_gone(&self) -> bool {
        let is_broken = match self.stream.peek(&mut [0]) {
            Ok(_) => false,
            Err(e) => !matches!(
                e.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
            ),
        };
        // Behind the end of what a client sends, reading tells no errors.
        is_broken
            || !matches!(self.stream.take_error(), Ok(None))
            || self.cancel.load(Ordering::Relaxed)
    }

    /// Whether the client will send nothing more. It may have left, or still wait for its answer: that is told apart only
    /// by sending something, which breaks the connection of one that left. A client that sent its next request before it
    /// left is noticed only when something is sent, too.
    pub fn is_half_closed(&self) -> bool {
        matches!(self.stream.peek(&mut [0]), Ok(0))
    }

    /// Gives the answer one more field, whatever the answer will be.
    pub fn add_field(&mut self, name: &'static str, value: impl Into<String>) {
        self.fields.push((name, value.into()));
    }

    /// A page of this origin may see the answer.
    pub(super) fn allow(&mut self, origin: &str) {
        self.add_field("access-control-allow-origin", origin);
        self.add_field("vary", "origin");
    }

    /// This is the last answer of the connection.
    pub(super) fn close(&mut self) {
        self.keep_alive = false;
    }

    /// Makes up for a handler that did not answer, and tells whether the connection may go on.
    pub(super) fn finish(mut self) -> bool {
        if self.answer == Answer::None {
            // If it cannot be sent, the answer is not whole.
            let _ = self.error(Status::InternalServerError, "no answer was made");
        }
        self.keep_alive && self.answer == Answer::Whole
    }

    pub(super) fn is_whole(&mut self) {
        self.answer = Answer::Whole;
    }

    pub(super) fn wants_head_only(&self) -> bool {
        self.wants_head_only
    }

    pub(super) fn has_chunks(&self) -> bool {
        self.is_http_1_1
    }

    /// Everything but the fields that tell the length.
    fn head(&mut self, status: Status, fields: &[(&str, &str)]) -> Result<String> {
        assert!(self.answer == Answer::None, "a request has one answer");
        let mut head = head(status);
        let own = self.fields.iter().map(|(name, value)| (*name, &**value));
        let connection = match (self.keep_alive, self.is_http_1_1) {
            (true, true) => None,
            (true, false) => Some(("connection", "keep-alive")),
            (false, _) => Some(("connection", "close")),
        };
        for (name, value) in own.chain(connection).chain(fields.iter().copied()) {
            if !is_token(name.as_bytes()) || value.contains(|c: char| c.is_control() && c != '\t') {
                return Err(Error::format(format!(
                    "header: {}: found control characters",
                    name.escape_default()
                )));
            }
            head += &format!("{name}: {value}\r\n");
        }
        self.answer = Answer::Begun;
        Ok(head)
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = bytes.chunks(WRITE_BYTES).try_for_each(|p| self.piece(p));
        if sent.is_err() {
            (self.keep_alive, self.answer) = (false, Answer::Begun);
        }
        sent
    }

    fn piece(&self, mut piece: &[u8]) -> Result<()> {
        let closed = |why: String| Err(Error::new(ErrorKind::Closed, format!("client: {why}")));
        let until = Instant::now() + self.limits.write_time;
        while !piece.is_empty() {
            if self.cancel.load(Ordering::Relaxed) {
                return closed("not waited for, because the server ends".into());
            }
            match (&mut &*self.stream).write(piece) {
                Ok(n) => piece = &piece[n..],
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        let time = self.limits.write_time;
                        return closed(format!("took nothing more for {time:?}"));
                    }
                    poll::wait(&mut [Watch::writable(self.stream)], left.min(TICK))?;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return closed(e.to_string()),
            }
        }
        Ok(())
    }
}

/// The whole answer to a request that no handler sees; the connection is closed behind it.
pub(super) fn refusal(refusal: &Refusal, errors: ErrorBody, limits: &Limits) -> Vec<u8> {
    let mut text = head(refusal.status);
    let body = (errors.text)(&refusal.path, refusal.status, &refusal.message);
    let (kind, n) = (errors.content_type, body.len());
    text += &format!("connection: close\r\ncontent-type: {kind}\r\ncontent-length: {n}\r\n");
    if is_for_later(refusal.status) {
        text += &format!("retry-after: {}\r\n", limits.retry_after_s);
    }
    text += "\r\n";
    text += &body;
    text.into_bytes()
}

fn head(status: Status) -> String {
    let (code, reason, date) = (status.code(), status.reason(), date::now());
    format!("HTTP/1.1 {code} {reason}\r\ndate: {date}\r\n")
}

/// Whether the same request may be answered better later.
fn is_for_later(status: Status) -> bool {
    matches!(status, Status::TooManyRequests | Status::ServiceUnavailable)
}
