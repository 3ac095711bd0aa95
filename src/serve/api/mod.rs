//! The APIs of OpenAI, Anthropic and Ollama, as far as one model on one machine can be asked by them.
//!
//! ```text
//! request --mod: route, key--> chat, completions, responses, messages, ollama: fields -> Conversation -> Ask, and a Dialect
//!         --reply--> desk ... parts as they come --Dialect--> JSON or events
//! ```
//!
//! Whatever a client calls the model, the one that is loaded answers, and the answer tells its name. What was said before
//! is never refused. A parameter is obeyed, or refused with its place, or named in `infall_warnings`.

pub mod auth;
mod body;
mod chat;
mod chat_answer;
mod completion;
mod completions;
mod conversation;
mod fault;
mod format;
mod history;
mod ids;
mod message;
mod messages;
mod models;
mod notes;
mod ollama;
mod ollama_answer;
mod ollama_models;
mod openai;
mod params;
mod reply;
mod response;
mod response_call;
mod responses;
mod route;
mod spot;
mod tokenize;
mod tools;

use super::desk::Desk;
use crate::engine::SamplerOptions;
use crate::engine::chat::Thinking;
use crate::engine::tokenizer::Tokenizer;
use crate::http::{ErrorBody, Method, Request, Responder, Status};
use crate::json::object::{Json, object};
use crate::json::{self, Value};
use fault::{Fault, Outcome, error_body};
use ollama::Asked;
use reply::{Question, reply};
use route::Route;
use spot::Spot;
use std::sync::{Arc, Mutex, PoisonError};

/// The form of errors that are told before a request has come to its API.
pub const ERRORS: ErrorBody = ErrorBody {
    content_type: "application/json",
    text: |path, status, message| {
        error_body(route::family_of(path), status, message, None).to_string()
    },
};

/// Bytes of a body at most, without the files in it, which are left out before it is read.
pub const TEXT_BYTES: usize = 8 << 20;

/// What the values of a body take at most besides their text. A prompt of token numbers that fills the context fits, and a
/// conversation of messages of a few tokens.
pub const fn value_bytes(ctx: usize) -> usize {
    (32 << 20) + 200 * ctx
}

/// What is served.
#[derive(Clone, Debug)]
pub struct Served {
    /// The model's name.
    pub model: String,
    /// Bytes of its files.
    pub bytes: u64,
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
        // Clients put it into their logs; each family has a name for it.
        let id = ids::id("req_");
        responder.add_field("x-request-id", id.clone());
        responder.add_field("request-id", id);
        if let Err(fault) = self.answer(route, request, responder) {
            // Errors only tell that the client left.
            let _ = fault.send(route::family(request), responder);
        }
        true
    }

    fn answer(
        &self,
        route: Route,
        request: &Request,
        responder: &mut Responder<'_>,
    ) -> Outcome<()> {
        let is_open = matches!(route, Route::Health);
        let key = self.served.key.as_deref().filter(|_| !is_open);
        if key.is_some_and(|key| !auth::shows(request, key)) {
            return Err(Fault::Key);
        }
        let allowed = route.allowed();
        let is_allowed = match (route, request.method) {
            // What is not there is not there for any method.
            (Route::Absent(_), _) => true,
            (_, Method::Get | Method::Head) => allowed != "POST",
            (_, Method::Post) => allowed == "POST",
            _ => false,
        };
        if !is_allowed {
            return Err(Fault::Method(allowed));
        }
        let json = match route {
            Route::Health => {
                self.health(responder);
                return Ok(());
            }
            Route::Models => models::list(&self.served, self.since),
            Route::Model => models::model(&self.served, self.since),
            Route::Props => models::props(&self.served),
            Route::CountMessages => {
                let n = self.read(&request.body, messages::count)?;
                object([("input_tokens", n.into())])
            }
            Route::CountResponses => {
                let n = self.read(&request.body, responses::count)?;
                object([
                    ("object", "response.input_tokens".into()),
                    ("input_tokens", n.into()),
                ])
            }
            Route::Tokenize => self.read(&request.body, tokenize::tokenize)?,
            Route::Detokenize => self.read(&request.body, tokenize::detokenize)?,
            Route::ApplyTemplate => self.read(&request.body, tokenize::apply_template)?,
            Route::OllamaTags => ollama_models::tags(&self.served, self.since),
            Route::OllamaRunning => ollama_models::running(&self.served),
            Route::OllamaShow => ollama_models::show(self)?,
            Route::OllamaVersion => ollama_models::version(),
            Route::OllamaChat => return self.ask_ollama(&request.body, ollama::chat, responder),
            Route::OllamaGenerate => {
                return self.ask_ollama(&request.body, ollama::generate, responder);
            }
            Route::Absent(why) => return Err(Fault::Absent(why)),
            Route::Chat => return self.ask(&request.body, chat::question, responder),
            Route::Completions => {
                return self.ask(&request.body, completions::question, responder);
            }
            Route::Responses => return self.ask(&request.body, responses::question, responder),
            Route::Messages => return self.ask(&request.body, messages::question, responder),
        };
        send(Status::Ok, &json, responder);
        Ok(())
    }

    /// Tells whether questions are answered, and if not, why.
    fn health(&self, responder: &mut Responder<'_>) {
        let (status, json) = match self.desk.closed() {
            None => (Status::Ok, object([("status", "ok".into())])),
            Some((why, _)) => (
                Status::ServiceUnavailable,
                object([("status", "error".into()), ("message", (&*why).into())]),
            ),
        };
        send(status, &json, responder);
    }

    /// Reads a question, asks it and answers.
    fn ask(
        &self,
        body: &[u8],
        read: fn(&Api, &Spot<'_>) -> Outcome<Question>,
        responder: &mut Responder<'_>,
    ) -> Outcome<()> {
        self.put(self.read(body, read)?, responder)
    }

    /// The same, where a request may ask nothing.
    fn ask_ollama(
        &self,
        body: &[u8],
        read: fn(&Api, &Spot<'_>) -> Outcome<Asked>,
        responder: &mut Responder<'_>,
    ) -> Outcome<()> {
        match self.read(body, read)? {
            Asked::Question(question) => self.put(question, responder),
            Asked::Load(json) => {
                send(Status::Ok, &json, responder);
                Ok(())
            }
        }
    }

    /// Asks a question and answers.
    fn put(&self, question: Question, responder: &mut Responder<'_>) -> Outcome<()> {
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
    fn read<T>(&self, body: &[u8], read: fn(&Api, &Spot<'_>) -> Outcome<T>) -> Outcome<T> {
        let _alone = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let text = body::text(body);
        let text = text.trim();
        let limits = json::Limits {
            bytes: TEXT_BYTES,
            value_bytes: value_bytes(self.served.ctx),
            lenient: true,
            ..json::LIMITS
        };
        let value = Value::read(text.as_bytes(), &limits).map_err(|e| e.context("body"))?;
        let node = value.root();
        read(self, &Spot { node, text })
    }
}

fn send(status: Status, json: &Json, responder: &mut Responder<'_>) {
    let fields = [("content-type", "application/json")];
    // Errors only tell that the client left.
    let _ = responder.respond(status, &fields, json.to_string().as_bytes());
}
