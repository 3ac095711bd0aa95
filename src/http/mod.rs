//! HTTP/1.1 on the server's side: requests from any cut of bytes, responses at once or in pieces, and connections in
//! bounded number, memory and time. Source: RFC 9110 and RFC 9112; events: HTML Living Standard, "Server-sent events".
//!
//! ```text
//!            one thread                             a few threads
//! accept --> poll, read, Parser --request--> queue --> handler(Request, &mut Responder)
//!              ^    |                                      |
//!              |    +--> refusals, bodies too long         | writes, each with a timeout
//!              +---------------- connection, kept alive ---+
//! ```
//!
//! A connection costs a thread only while its request is handled; one that is idle or slow costs its buffers. Requests
//! that come before the last one was answered wait in the socket and are answered in order.

mod cors;
mod date;
mod fields;
mod parser;
mod refusal;
mod request;
mod response;
mod server;
mod stream;
mod target;
mod worker;

pub use date::rfc3339;
pub use parser::{Parser, Step};
pub use refusal::{Refusal, Status};
pub use request::{Method, Request};
pub use response::{ErrorBody, Responder};
pub use server::Server;
pub use stream::{Events, Framing, Stream};

use std::time::Duration;

/// Bounds on what clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the request line.
    pub line_bytes: usize,
    /// Bytes of all header and trailer fields of a request, with the empty line behind them.
    pub field_bytes: usize,
    /// Fields of a request.
    pub fields: usize,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Bytes of all bodies that are there at a time.
    pub all_body_bytes: usize,
    /// From the first byte of a request, or a new connection, to the end of its header.
    pub head_time: Duration,
    /// From the end of a header to the end of its body.
    pub body_time: Duration,
    /// Until the next request begins.
    pub idle_time: Duration,
    /// For the client to take one piece of a response, 64 KiB at most.
    pub write_time: Duration,
    /// How long what a refused client still sends is thrown away, so that it can read why.
    pub drain_time: Duration,
    /// How much of that.
    pub drain_bytes: usize,
    /// How long requests may go on once the server is told to stop.
    pub stop_time: Duration,
    /// Connections at a time.
    pub connections: usize,
    /// Complete requests that wait for a handler.
    pub queue: usize,
    /// Requests that are handled at a time, each by a thread.
    pub handlers: usize,
    /// Bytes of the stack of such a thread.
    pub stack_bytes: usize,
    /// What a refused client is told to wait, in seconds.
    pub retry_after_s: u32,
}

/// The bounds of a server. Its memory, without what its handlers make, stays below 218 MiB:
/// [`Limits::memory_bytes`].
pub const LIMITS: Limits = Limits {
    line_bytes: 8 << 10,
    field_bytes: 16 << 10,
    fields: 100,
    body_bytes: 16 << 20,
    all_body_bytes: 64 << 20,
    head_time: Duration::from_secs(10),
    body_time: Duration::from_secs(60),
    idle_time: Duration::from_secs(60),
    write_time: Duration::from_secs(20),
    drain_time: Duration::from_secs(2),
    drain_bytes: 1 << 20,
    stop_time: Duration::from_secs(5),
    connections: 1024,
    queue: 64,
    handlers: 16,
    stack_bytes: 512 << 10,
    retry_after_s: 2,
};

/// Bytes taken from a socket at a time.
const READ_BYTES: usize = 16 << 10;

/// Bytes given to a socket at a time.
const WRITE_BYTES: usize = 64 << 10;

/// Connections above their limit that are told so and closed; more are closed without a word.
const TURNED_AWAY: usize = 64;

impl Limits {
    /// Bytes that the connections take at most, all at once and each the worst.
    pub const fn memory_bytes(&self) -> usize {
        // A field is two strings: 48 bytes, and what the allocator adds to each.
        let parsed = 2 * self.line_bytes + self.field_bytes + self.fields * 80;
        // What is not parsed yet: a line that has no end, the last read behind it, and the buffer's doubling.
        let longest_line = if self.line_bytes > self.field_bytes {
            self.line_bytes
        } else {
            self.field_bytes
        };
        let unread = 2 * (longest_line + READ_BYTES);
        let connection = parsed + unread + 1024;
        // A body is counted when its buffer has grown, and growing may copy it.
        let bodies = self.all_body_bytes + 2 * self.body_bytes;
        let threads = self.handlers * (self.stack_bytes + 2 * WRITE_BYTES);
        (self.connections + TURNED_AWAY) * connection + bodies + threads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_what_the_documentation_says() {
        let mib = LIMITS.memory_bytes().div_ceil(1 << 20);
        assert_eq!(mib, 218);
    }
}
