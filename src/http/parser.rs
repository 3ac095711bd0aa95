//! Requests out of bytes that come in any cut. Source: RFC 9112.
//!
//! Lines are looked at only when they are whole, so the outcome does not depend on where the bytes were cut; the one
//! exception is [`Step::Continue`], which is left out when the body is already there.

use super::Limits;
use super::fields::{self, Framing};
use super::refusal::{Refusal, Status};
use super::request::Request;
use super::target;

const NO_CR: &str = "found a line that ends without CR";

/// Bytes of a line that tells the size of a chunk: 16 digits, and extensions, which are ignored.
const CHUNK_LINE_BYTES: usize = 256;

/// The field in which browsers send what all programs of this machine have left with them. It may be long, and is dropped
/// as it comes.
const COOKIE: &[u8] = b"cookie:";

/// Bytes of such a field at most.
const COOKIE_BYTES: usize = 1 << 20;

/// First room for a body.
const BODY_ROOM: usize = 16 << 10;

/// What the bytes so far make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet: more bytes are needed.
    More,
    /// The client waits for `100 Continue` before it sends the body. More may be there already.
    Continue,
    /// A whole request; what came behind it is kept for the next step.
    Request(Request),
    /// The request is refused and nothing more is read.
    Refused(Refusal),
}

/// How far the present request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not begun.
    Idle,
    /// In its line or its header.
    Head,
    /// In its body.
    Body,
}

/// What comes next.
#[derive(Clone, Copy)]
enum Stage {
    /// The request line, or in front of it one empty line, which is skipped.
    Line {
        may_be_empty: bool,
    },
    Fields,
    /// The rest of a field that is dropped, of at most `left` bytes; `last` is the byte before.
    Cookie {
        left: usize,
        last: u8,
    },
    /// So many bytes more of a body.
    Sized(usize),
    ChunkLine,
    /// So many bytes more of a chunk.
    Chunk(usize),
    /// The line end behind a chunk.
    ChunkEnd,
    Trailers,
    /// Nothing: the request was refused.
    Refused,
}

/// The request of a connection as far as it came.
pub struct Parser {
    limits: Limits,
    /// What was not understood yet, from `at` on.
    input: Vec<u8>,
    at: usize,
    /// No line ends before this.
    searched: usize,
    stage: Stage,
    /// There behind the request line.
    request: Option<Request>,
    n_fields: usize,
    field_bytes: usize,
}

const START: Stage = Stage::Line { may_be_empty: true };

impl Parser {
    /// At the begin of a connection.
    pub fn new(limits: &Limits) -> Parser {
        Parser {
            limits: *limits,
            input: Vec::new(),
            at: 0,
            searched: 0,
            stage: START,
            request: None,
            n_fields: 0,
            field_bytes: 0,
        }
    }

    /// Takes more bytes; those of a refused request are dropped.
    pub fn push(&mut self, bytes: &[u8]) {
        if !matches!(self.stage, Stage::Refused) {
            self.input.drain(..self.at);
            self.searched -= self.at;
            self.at = 0;
            self.input.extend_from_slice(bytes);
        }
    }

    /// Goes as far as the bytes lead. To be called again after anything but [`Step::More`] and [`Step::Refused`].
    pub fn step(&mut self) -> Step {
        let step = self.advance().unwrap_or_else(|mut refusal| {
            refusal = refusal.at(self.path());
            *self = Parser {
                stage: Stage::Refused,
                ..Parser::new(&self.limits)
            };
            Step::Refused(refusal)
        });
        if self.at == self.input.len() {
            // An idle connection keeps no buffer, and a body none beside its own.
            self.input = Vec::new();
            (self.at, self.searched) = (0, 0);
        }
        step
    }

    /// How far the present request is.
    pub fn progress(&self) -> Progress {
        match self.stage {
            Stage::Line { .. } if self.input.is_empty() => Progress::Idle,
            Stage::Line { .. } | Stage::Fields | Stage::Cookie { .. } => Progress::Head,
            _ => Progress::Body,
        }
    }

    /// What the present request asks for; empty where that is not known yet.
    pub fn path(&self) -> &str {
        self.request.as_ref().map_or("", |r| &r.path)
    }

    /// Bytes of memory that the body takes as far as it came.
    pub fn body_bytes(&self) -> usize {
        self.request.as_ref().map_or(0, |r| r.body.capacity())
    }

    /// Bytes of memory that were not understood yet.
    pub fn unread_bytes(&self) -> usize {
        self.input.capacity()
    }

    fn advance(&mut self) -> Result<Step, Refusal> {
        loop {
            let done = match self.stage {
                Stage::Line { may_be_empty } => self.request_line(may_be_empty)?,
                Stage::Fields => self.field()?,
                Stage::Cookie { left, last } => self.cookie(left, last)?,
                Stage::Sized(left) => self.sized(left)?,
                Stage::ChunkLine => self.chunk_line()?,
                Stage::Chunk(left) => self.chunk(left)?,
                Stage::ChunkEnd => self.chunk_end()?,
                Stage::Trailers => self.trailer()?,
                Stage::Refused => Some(Step::More),
            };
            if let Some(step) = done {
                return Ok(step);
            }
        }
    }

    // Each of these takes its part of the input, sets what comes next and gives `None`, or gives the outcome.

    fn request_line(&mut self, may_be_empty: bool) -> Result<Option<Step>, Refusal> {
        let limit = self.limits.line_bytes;
        let too_long = || {
            let message = format!("request line: more than {limit} bytes");
            Refusal::new(Status::UriTooLong, message)
        };
        let Some(line) = self.line(limit, too_long)? else {
            return Ok(Some(Step::More));
        };
        if line.is_empty() && may_be_empty {
            self.stage = Stage::Line {
                may_be_empty: false,
            };
            return Ok(None);
        }
        self.request = Some(target::request(&line)?);
        self.stage = Stage::Fields;
        Ok(None)
    }

    /// Whether a field comes that is dropped, which then is next.
    fn is_cookie(&mut self) -> bool {
        let start = self.input[self.at..].get(..COOKIE.len());
        let is_cookie = start.is_some_and(|start| start.eq_ignore_ascii_case(COOKIE));
        if is_cookie {
            self.n_fields += 1;
            self.stage = Stage::Cookie {
                left: COOKIE_BYTES,
                last: 0,
            };
        }
        is_cookie
    }

    fn cookie(&mut self, left: usize, last: u8) -> Result<Option<Step>, Refusal> {
        let input = &self.input[self.at..];
        let end = memchr::memchr(b'\n', input);
        let n = end.map_or(input.len(), |end| end + 1);
        let too_large = n > left || self.n_fields > self.limits.fields;
        if too_large {
            return Err(self.header_too_large());
        }
        // The byte in front of the line's end, or the last there is.
        let before = match end {
            Some(0) => last,
            Some(end) => input[end - 1],
            None => input.last().copied().unwrap_or(last),
        };
        self.at += n;
        self.searched = self.at;
        if end.is_none() {
            self.stage = Stage::Cookie {
                left: left - n,
                last: before,
            };
            return Ok(Some(Step::More));
        }
        if before != b'\r' {
            return Err(Refusal::bad(NO_CR));
        }
        self.stage = Stage::Fields;
        Ok(None)
    }

    fn header_too_large(&self) -> Refusal {
        let Limits {
            field_bytes,
            fields,
            ..
        } = self.limits;
        let message = format!("header: more than {fields} fields or {field_bytes} bytes");
        Refusal::new(Status::HeaderFieldsTooLarge, message)
    }

    /// A header field, or the end of the header.
    fn field(&mut self) -> Result<Option<Step>, Refusal> {
        if self.is_cookie() {
            return Ok(None);
        }
        let Some(line) = self.field_line()? else {
            return Ok(Some(Step::More));
        };
        let body_limit = self.limits.body_bytes;
        let Some(request) = &mut self.request else {
            return Err(Refusal::bad("header: found without a request line"));
        };
        if !line.is_empty() {
            request.fields.push(fields::parse(&line)?);
            return Ok(None);
        }
        let framing = fields::settle(request, body_limit)?;
        let waits = fields::expects_continue(request)?;
        self.stage = match framing {
            Framing::Sized(n) => Stage::Sized(n),
            Framing::Chunked => Stage::ChunkLine,
        };
        let is_told = waits && framing != Framing::Sized(0) && self.at == self.input.len();
        Ok(is_told.then_some(Step::Continue))
    }

    fn sized(&mut self, left: usize) -> Result<Option<Step>, Refusal> {
        let n = self.body(left, left);
        self.stage = Stage::Sized(left - n);
        Ok(match left - n {
            0 => Some(self.done()),
            _ => Some(Step::More),
        })
    }

    fn chunk_line(&mut self) -> Result<Option<Step>, Refusal> {
        let too_long = || Refusal::bad("chunk: found a line without end, expected its size");
        let Some(line) = self.line(CHUNK_LINE_BYTES, too_long)? else {
            return Ok(Some(Step::More));
        };
        let size = chunk_size(&line)?;
        let there = self.request.as_ref().map_or(0, |r| r.body.len());
        let room = self.limits.body_bytes.saturating_sub(there);
        self.stage = match usize::try_from(size) {
            Ok(0) => Stage::Trailers,
            Ok(size) if size <= room => Stage::Chunk(size),
            _ => return Err(fields::too_large(self.limits.body_bytes)),
        };
        Ok(None)
    }

    fn chunk(&mut self, left: usize) -> Result<Option<Step>, Refusal> {
        let there = self.request.as_ref().map_or(0, |r| r.body.len());
        let n = self.body(left, self.limits.body_bytes - there);
        if n < left {
            self.stage = Stage::Chunk(left - n);
            return Ok(Some(Step::More));
        }
        self.stage = Stage::ChunkEnd;
        Ok(None)
    }

    fn chunk_end(&mut self) -> Result<Option<Step>, Refusal> {
        match &self.input[self.at..] {
            [] | [b'\r'] => Ok(Some(Step::More)),
            [b'\r', b'\n', ..] => {
                self.at += 2;
                self.searched = self.at;
                self.stage = Stage::ChunkLine;
                Ok(None)
            }
            _ => Err(Refusal::bad("chunk: expected a line end behind its bytes")),
        }
    }

    /// A field behind the chunks, which is checked and dropped, or the end of the request.
    fn trailer(&mut self) -> Result<Option<Step>, Refusal> {
        let Some(line) = self.field_line()? else {
            return Ok(Some(Step::More));
        };
        if line.is_empty() {
            return Ok(Some(self.done()));
        }
        fields::parse(&line)?;
        Ok(None)
    }

    /// The next line of header or trailers, within the limits of all of them.
    fn field_line(&mut self) -> Result<Option<Vec<u8>>, Refusal> {
        let left = self.limits.field_bytes - self.field_bytes;
        let refusal = self.header_too_large();
        let line = self.line(left, || refusal.clone())?;
        if let Some(line) = &line {
            self.field_bytes += line.len() + 2;
            self.n_fields += usize::from(!line.is_empty());
            if self.n_fields > self.limits.fields {
                return Err(refusal);
            }
        }
        Ok(line)
    }

    /// The next line without its end, once it is there; `limit` counts the end too.
    fn line(
        &mut self,
        limit: usize,
        too_long: impl Fn() -> Refusal,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let end = memchr::memchr(b'\n', &self.input[self.searched..]);
        let end = end.map(|i| self.searched + i);
        // Without an end there is at least one byte more.
        let n = end.unwrap_or(self.input.len()) + 1 - self.at;
        if n > limit {
            return Err(too_long());
        }
        let Some(end) = end else {
            self.searched = self.input.len();
            return Ok(None);
        };
        let line = &self.input[self.at..end];
        let Some(line) = line.strip_suffix(b"\r") else {
            return Err(Refusal::bad(NO_CR));
        };
        let line = line.to_vec();
        self.at = end + 1;
        self.searched = self.at;
        Ok(Some(line))
    }

    /// Moves at most `left` bytes into the body and gives their number; at most `most` are still to come.
    fn body(&mut self, left: usize, most: usize) -> usize {
        let n = left.min(self.input.len() - self.at);
        if let Some(request) = &mut self.request {
            let body = &mut request.body;
            if body.capacity() - body.len() < n {
                let doubled = body.capacity().max(BODY_ROOM / 2) * 2;
                body.reserve_exact((doubled - body.len()).clamp(n, most.max(n)));
            }
            body.extend_from_slice(&self.input[self.at..self.at + n]);
        }
        self.at += n;
        self.searched = self.at;
        n
    }

    /// The request, behind which the next may begin.
    fn done(&mut self) -> Step {
        self.stage = START;
        (self.n_fields, self.field_bytes) = (0, 0);
        match self.request.take() {
            Some(request) => Step::Request(request),
            None => Step::More,
        }
    }
}

/// The number in front of a chunk; what stands behind `;` is checked and ignored.
fn chunk_size(line: &[u8]) -> Result<u64, Refusal> {
    let wrong = || Refusal::bad("chunk: expected its size in 1 to 16 hexadecimal digits");
    let end = memchr::memchr(b';', line).unwrap_or(line.len());
    let (digits, extensions) = line.split_at(end);
    let is_text = |b: &u8| *b == b'\t' || (*b >= b' ' && *b != 0x7f);
    if !digits.iter().all(u8::is_ascii_hexdigit) || !extensions.iter().all(is_text) {
        return Err(wrong());
    }
    let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
    if digits.len() > 16 {
        return Err(wrong());
    }
    u64::from_str_radix(digits, 16).map_err(|_| wrong())
}
