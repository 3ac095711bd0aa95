//! The APIs of OpenAI and Anthropic, as far as one model on one machine can be asked by them.
//!
//! ```text
//! request --mod: route, key--> chat, completions, responses, messages: fields -> Conversation -> Ask, and a Dialect
//!         --reply--> desk ... parts as they come --Dialect--> JSON or events
//! ```
//!
//! Whatever a client calls the model, the one that is loaded answers, and the answer tells its name. Fields that are not
//! known are ignored; what is known and cannot be done is refused with its place.

pub mod auth;
mod chat;
mod chat_answer;
mod completions;
mod conversation;
mod fault;
mod format;
mod ids;
mod message;
mod messages;
mod models;
mod openai;
mod params;
mod reply;
mod response;
mod response_call;
mod responses;
mod spot;

use super::desk::Desk;
use crate::engine::SamplerOptions;
use crate::engine::chat::Thinking;
use crate::engine::tokenizer::Tokenizer;
use crate::error::Error;
use crate::http::{ErrorBody, Method, Request, Responder, Status};
use crate::json::object::{Json, object};
use crate::json::{self, Value};
use fault::{Family, Fault, error_body};
use reply::{Question, reply};
use spot::Spot;
use std::sync::{Arc, Mutex, PoisonError};

/// The form of errors whose API is not known: OpenAI's.
pub const ERRORS: ErrorBody = ErrorBody {
    content_type: "application/json",
    text: |status, message| error_body(Family::OpenAi, status, message, None).to_string(),
};

/// Bounds on the body of a request: its values take 25 MiB at most, besides their text. One body is read at a time.
const LIMITS: json::Limits = json::Limits {
    values: 1 << 16,
    ..json::LIMITS
};

/// What is served.
#[derive(Clone, Debug)]
pub struct Served {
    /// The model's name.
    pub model: String,
    /// Tokens of a prompt and its answer at most.
    pub ctx: usize,
    /// What clients must show, if there is one.
    pub key: Option<String>,
    /// Whether the model reasons when a client does not say.
    pub thinking: Thinking,
    /// How tokens are chosen where a client does not say; its seed is not used.
    pub sampling: SamplerOptions,
}

/// Answers requests by way of a desk.
pub struct Api {
    desk: Arc<Desk>,
    tokenizer: Arc<Tokenizer>,
    served: Served,
    /// When it began, in seconds since 1970.
    since: u64,
    /// Held while a body is read and made into tokens.
    reading: Mutex<()>,
}

/// What can be asked for.
#[derive(Clone, Copy)]
enum Route {
    Health,
    Models,
    /// Any: whatever it is called, it is the one that is loaded.
    Model,
    Chat,
    Completions,
    Responses,
    Messages,
    CountTokens,
}

impl Route {
    fn of(path: &str) -> Option<Route> {
        Some(match path {
            "/health" => Route::Health,
            "/v1/models" => Route::Models,
            "/v1/chat/completions" => Route::Chat,
            "/v1/completions" => Route::Completions,
            "/v1/responses" => Route::Responses,
            "/v1/messages" => Route::Messages,
            "/v1/messages/count_tokens" => Route::CountTokens,
            path if path.starts_with("/v1/models/") => Route::Model,
            _ => return None,
        })
    }

    fn allowed(self) -> &'static str {
        match self {
            Route::Health | Route::Models | Route::Model => "GET, HEAD",
            _ => "POST",
        }
    }

    fn family(self, request: &Request) -> Family {
        match self {
            Route::Models | Route::Model if request.header("anthropic-version").is_some() => {
                Family::Anthropic
            }
            Route::Messages | Route::CountTokens => Family::Anthropic,
            _ => Family::OpenAi,
        }
    }
}

impl Api {
    /// An API over a desk whose questions are answered elsewhere, with the vocabulary of the model that answers.
    pub fn new(desk: Arc<Desk>, tokenizer: Arc<Tokenizer>, served: Served) -> Api {
        Api {
            desk,
            tokenizer,
            served,
            since: ids::now_s(),
            reading: Mutex::new(()),
        }
    }

    /// Answers a request; false when its path is none of these APIs', and nothing was done.
    pub fn handle(&self, request: &Request, responder: &mut Responder<'_>) -> bool {
        let Some(route) = Route::of(&request.path) else {
            return false;
        };
        if let Err(fault) = self.answer(route, request, responder) {
            // Errors only tell that the client left.
            let _ = fault.send(route.family(request), responder);
        }
        true
    }

    fn answer(
        &self,
        route: Route,
        request: &Request,
        responder: &mut Responder<'_>,
    ) -> Result<(), Fault> {
        let is_open = matches!(route, Route::Health);
        let key = self.served.key.as_deref().filter(|_| !is_open);
        if key.is_some_and(|key| !auth::shows(request, key)) {
            return Err(Fault::Key);
        }
        let allowed = route.allowed();
        let is_allowed = match request.method {
            Method::Get | Method::Head => allowed != "POST",
            Method::Post => allowed == "POST",
            _ => false,
        };
        if !is_allowed {
            return Err(Fault::Method(allowed));
        }
        let json = match route {
            Route::Health => object([("status", "ok".into())]),
            Route::Models => models::list(&self.served, self.since),
            Route::Model => models::model(&self.served, self.since),
            Route::CountTokens => {
                let n = self.read(&request.body, messages::count)?;
                object([("input_tokens", n.into())])
            }
            Route::Chat => return self.ask(&request.body, chat::question, responder),
            Route::Completions => {
                return self.ask(&request.body, completions::question, responder);
            }
            Route::Responses => return self.ask(&request.body, responses::question, responder),
            Route::Messages => return self.ask(&request.body, messages::question, responder),
        };
        send(&json, responder);
        Ok(())
    }

    /// Reads a question, asks it and answers.
    fn ask(
        &self,
        body: &[u8],
        read: fn(&Api, &Spot<'_>) -> Result<Question, Error>,
        responder: &mut Responder<'_>,
    ) -> Result<(), Fault> {
        let question = self.read(body, read)?;
        for ask in &question.asks {
            let n = ask.tokens.len();
            if n == 0 {
                return Err(Fault::Request("prompt: found no tokens".into()));
            }
            if n > self.served.ctx {
                return Err(Fault::TooLong(n, self.served.ctx));
            }
        }
        reply(question, &self.desk, responder)
    }

    /// Makes something of a body.
    fn read<T>(
        &self,
        body: &[u8],
        read: fn(&Api, &Spot<'_>) -> Result<T, Error>,
    ) -> Result<T, Fault> {
        let _alone = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let value = Value::read(body, &LIMITS).map_err(|e| e.context("body"))?;
        // It is UTF-8, or it would have been refused.
        let text = std::str::from_utf8(body).unwrap_or_default().trim();
        let node = value.root();
        Ok(read(self, &Spot { node, text })?)
    }
}

fn send(json: &Json, responder: &mut Responder<'_>) {
    let fields = [("content-type", "application/json")];
    // Errors only tell that the client left.
    let _ = responder.respond(Status::Ok, &fields, json.to_string().as_bytes());
}
