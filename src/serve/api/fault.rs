//! Why there is no answer, in the words of each family of APIs. Sources: the error pages of OpenAI's and Anthropic's
//! API references; Ollama's API reference.

use crate::error::Error;
use crate::http::{self, Responder, Status};
use crate::json::object::{Json, object};
use crate::serve::desk::Refused;

/// Whose errors and fields an API has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `{"error": {"message", "type", "param", "code"}}`
    OpenAi,
    /// `{"type": "error", "error": {"type", "message"}}`
    Anthropic,
    /// `{"error": message}`
    Ollama,
}

/// Why a request gets no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is wrong, and how.
    Request(String),
    /// The request goes on with a conversation that a server keeps; this one keeps none, and the client has it too.
    Thread,
    /// The prompt has this many tokens, and the context takes that many.
    TooLong(usize, usize),
    /// Other servers have this, this one has not, and why.
    Absent(&'static str),
    /// The key is missing or wrong.
    Key,
    /// Nothing is there that could be asked for by this method, only by that one.
    Method(&'static str),
    /// So many questions wait already; they are answered in about so many seconds.
    Full(usize, u64),
    /// Nothing is answered any more, and why.
    Closed(String),
    /// The engine could not go on, and why.
    Engine(String),
}

/// What a request comes to, or why it does not.
pub type Outcome<T> = Result<T, Fault>;

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Request(error.to_string())
    }
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Fault {
        match refused {
            Refused::Full { waiting, seconds } => Fault::Full(waiting, seconds),
            Refused::Closed(why) => Fault::Closed(why),
        }
    }
}

impl Fault {
    fn status(&self) -> Status {
        match self {
            Fault::Request(_) | Fault::Thread | Fault::TooLong(..) => Status::BadRequest,
            Fault::Absent(_) => Status::NotFound,
            Fault::Key => Status::Unauthorized,
            Fault::Method(_) => Status::MethodNotAllowed,
            Fault::Full(..) => Status::TooManyRequests,
            Fault::Closed(_) => Status::ServiceUnavailable,
            Fault::Engine(_) => Status::InternalServerError,
        }
    }

    /// Clients look for the words of an overflow, and then shorten the conversation by themselves.
    pub fn message(&self, family: Family) -> String {
        match self {
            Fault::Request(why) | Fault::Engine(why) | Fault::Closed(why) => why.clone(),
            Fault::Absent(why) => (*why).into(),
            Fault::Thread => "thread: not supported: no conversations are kept here, send all messages".into(),
            Fault::TooLong(found, most) => match family {
                Family::Anthropic => {
                    format!("prompt is too long: {found} tokens > {most} maximum (--ctx sets it)")
                }
                Family::Ollama => format!(
                    "the input length exceeds the context length: found {found} tokens, expected at most {most} (--ctx sets it)"
                ),
                Family::OpenAi => format!(
                    "This model's maximum context length is {most} tokens. However, your messages resulted in {found} \
                     tokens. Please reduce the length of the messages (--ctx sets the maximum)."
                ),
            },
            Fault::Key => {
                "key: found none or another, expected the server's as 'authorization: Bearer KEY', 'x-api-key: KEY' or 'api-key: KEY'"
                    .into()
            }
            Fault::Method(allowed) => format!("method: expected {allowed}"),
            Fault::Full(n, _) => format!("{n} requests wait already; come again later"),
        }
    }

    /// The fault as a family tells it.
    pub fn body(&self, family: Family) -> Json {
        let code = match (self, family) {
            (Fault::TooLong(..), _) => Some("context_length_exceeded"),
            (Fault::Key, _) => Some("invalid_api_key"),
            // The SDK then sends the whole conversation.
            (Fault::Thread, Family::Anthropic) => Some("thread_unsupported_request"),
            _ => None,
        };
        error_body(family, self.status(), &self.message(family), code)
    }

    /// Answers with the fault.
    pub fn send(&self, family: Family, responder: &mut Responder<'_>) -> crate::error::Result<()> {
        let status = self.status();
        let body = self.body(family).to_string();
        let mut fields = vec![("content-type", "application/json")];
        let seconds = match self {
            Fault::Full(_, seconds) => *seconds,
            _ => u64::from(http::LIMITS.retry_after_s),
        };
        let seconds = seconds.to_string();
        match self {
            Fault::Full(..) | Fault::Closed(_) => fields.push(("retry-after", &seconds)),
            Fault::Key => fields.push(("www-authenticate", "Bearer")),
            Fault::Method(allowed) => fields.push(("allow", allowed)),
            _ => {}
        }
        responder.respond(status, &fields, body.as_bytes())
    }
}

/// An error as a family tells it. A message that begins with a place in the request names the parameter.
pub fn error_body(family: Family, status: Status, message: &str, code: Option<&str>) -> Json {
    match family {
        Family::Ollama => object([("error", message.into())]),
        Family::OpenAi => {
            let kind = match status {
                Status::TooManyRequests => "rate_limit_error",
                status if status.code() >= 500 => "server_error",
                _ => "invalid_request_error",
            };
            let error = object([
                ("message", message.into()),
                ("type", kind.into()),
                (
                    "param",
                    param(message)
                        .filter(|_| status == Status::BadRequest)
                        .into(),
                ),
                ("code", code.into()),
            ]);
            object([("error", error)])
        }
        Family::Anthropic => {
            let kind = match status {
                Status::Unauthorized => "authentication_error",
                Status::Forbidden => "permission_error",
                Status::NotFound => "not_found_error",
                Status::ContentTooLarge => "request_too_large",
                Status::TooManyRequests => "rate_limit_error",
                Status::ServiceUnavailable => "overloaded_error",
                status if status.code() >= 500 => "api_error",
                _ => "invalid_request_error",
            };
            let details = code.map(|code| object([("error_code", code.into())]));
            let error = object([("type", kind.into()), ("message", message.into())]);
            let error = error.with_some("details", details);
            object([("type", "error".into()), ("error", error)])
        }
    }
}

/// The place in the request with which a message begins, such as `messages[3].content`.
fn param(message: &str) -> Option<&str> {
    let (place, _) = message.split_once(": ")?;
    let is_place = |c: char| c.is_ascii_alphanumeric() || "_.[]".contains(c);
    (place != "body" && place.chars().all(is_place)).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_begin_with_the_parameter() {
        for (message, expected) in [
            ("messages[3].content: missing", Some("messages[3].content")),
            (
                "temperature: found 3, expected less: much",
                Some("temperature"),
            ),
            ("body: byte 0: found the end", None),
            ("This model: no", None),
            ("no place", None),
        ] {
            assert_eq!(param(message), expected);
        }
    }
}
