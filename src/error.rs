//! The only error type that crosses a module.
//!
//! A message names the thing, what was found and what was expected; each level that adds knowledge
//! puts it in front with [`Error::context`], so the whole reads like `file: tensor: fault`.

use std::fmt;

/// What kind of fault it is; decides the exit code and, in a server, the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The command line or an option is wrong (exit code 2).
    Usage,
    /// The system refused an operation: open, read, write, map.
    Io,
    /// Outside data does not follow its format.
    Format,
    /// Outside data is well formed, but asks for something this program does not do.
    Unsupported,
    /// A bound of a `LIMITS` table, or of memory, was exceeded.
    Limit,
    /// Nobody reads the output any more: the end of the work, but no fault.
    Closed,
    /// The answer to a question is no, and the output says why (exit code 1).
    Told,
}

/// A fault with its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// The result of everything that can fail for a reason outside this program.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` with its message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into(),
        }
    }

    /// A wrong option or argument.
    pub fn usage(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Usage, message)
    }

    /// Malformed outside data.
    pub fn format(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Format, message)
    }

    /// Well-formed outside data that this program does not handle.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Unsupported, message)
    }

    /// `what` was `found`, more than `limit`.
    pub fn limit(what: &str, found: impl fmt::Display, limit: impl fmt::Display) -> Self {
        Error::new(
            ErrorKind::Limit,
            format!("{what} {found} exceeds the limit {limit}"),
        )
    }

    /// A system call failed while doing `what`.
    pub fn io(what: impl fmt::Display, source: &std::io::Error) -> Self {
        Error::new(ErrorKind::Io, format!("{what}: {source}"))
    }

    /// Puts the thing concerned in front of the message.
    #[must_use]
    pub fn context(mut self, thing: impl fmt::Display) -> Self {
        self.message = format!("{thing}: {}", self.message);
        self
    }

    /// The kind of fault.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Adds [`Error::context`] to a `Result`; the text is made only when there is an error.
pub trait Context<T> {
    /// Puts the thing concerned in front of the error's message.
    fn context<D: fmt::Display>(self, thing: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<D: fmt::Display>(self, thing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| e.context(thing()))
    }
}
