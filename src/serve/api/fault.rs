//! Why there is no answer, in the words of either family of APIs. Sources: the error pages of OpenAI's and Anthropic's
//! API references.

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
}

/// Why a request gets no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is wrong, and how.
    Request(String),
    /// The prompt has this many tokens, and the context takes that many.
    TooLong(usize, usize),
    /// The key is missing or wrong.
    Key,
    /// Nothing is there that could be asked for by this method, only by that one.
    Method(&'static str),
    /// This many questions wait already.
    Full(usize),
    /// The server ends.
    Closed,
    /// The engine could not go on, and why.
    Engine(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Request(error.to_string())
    }
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Fault {
        match refused {
            Refused::Full(n) => Fault::Full(n),
            Refused::Closed => Fault::Closed,
        }
    }
}

impl Fault {
    fn status(&self) -> Status {
        match self {
            Fault::Request(_) | Fault::TooLong(..) => Status::BadRequest,
            Fault::Key => Status::Unauthorized,
            Fault::Method(_) => Status::MethodNotAllowed,
            Fault::Full(_) => Status::TooManyRequests,
            Fault::Closed => Status::ServiceUnavailable,
            Fault::Engine(_) => Status::InternalServerError,
        }
    }

    fn message(&self) -> String {
        match self {
            Fault::Request(why) | Fault::Engine(why) => why.clone(),
            Fault::TooLong(found, most) => {
                format!("prompt: found {found} tokens, expected at most {most}, the context")
            }
            Fault::Key => {
                "key: found none or another, expected the server's as 'authorization: Bearer KEY' or 'x-api-key: KEY'"
                    .into()
            }
            Fault::Method(allowed) => format!("method: expected {allowed}"),
            Fault::Full(n) => format!("{n} requests wait already; come again later"),
            Fault::Closed => "the server ends".into(),
        }
    }

    /// Answers with the fault.
    pub fn send(&self, family: Family, responder: &mut Responder<'_>) -> crate::error::Result<()> {
        let status = self.status();
        let code = match self {
            Fault::TooLong(..) => Some("context_length_exceeded"),
            Fault::Key => Some("invalid_api_key"),
            _ => None,
        };
        let body = error_body(family, status, &self.message(), code).to_string();
        let mut fields = vec![("content-type", "application/json")];
        let seconds = http::LIMITS.retry_after_s.to_string();
        match self {
            Fault::Full(_) | Fault::Closed => fields.push(("retry-after", &seconds)),
            Fault::Key => fields.push(("www-authenticate", "Bearer")),
            Fault::Method(allowed) => fields.push(("allow", allowed)),
            _ => {}
        }
        responder.respond(status, &fields, body.as_bytes())
    }
}

/// An error as a family tells it; the code is OpenAI's.
pub fn error_body(family: Family, status: Status, message: &str, code: Option<&str>) -> Json {
    match family {
        Family::OpenAi => {
            let kind = match status {
                Status::TooManyRequests => "rate_limit_error",
                status if status.code() >= 500 => "server_error",
                _ => "invalid_request_error",
            };
            let error = object([
                ("message", message.into()),
                ("type", kind.into()),
                ("param", Json::NULL),
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
            let error = object([("type", kind.into()), ("message", message.into())]);
            object([("type", "error".into()), ("error", error)])
        }
    }
}
