//! The threads that handle requests.

use super::cors::{self, Asker};
use super::refusal::Status;
use super::request::{Method, Request};
use super::response::{ErrorBody, Responder};
use super::server::Connection;
use super::{Limits, server::Handler};
use crate::error::Result;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, PoisonError};

/// A request and where its answer goes.
pub struct Job {
    pub connection: Connection,
    pub request: Request,
}

/// What all handlers share.
pub struct Workers<'a> {
    pub limits: &'a Limits,
    pub errors: ErrorBody,
    pub origin: Option<&'a str>,
    pub handler: Handler<'a>,
    /// Requests that were not begun yet are refused.
    pub stop: &'a AtomicBool,
    /// Nothing more is sent.
    pub cancel: &'a AtomicBool,
    pub jobs: Mutex<Receiver<Job>>,
    /// A byte tells the server that a connection came back.
    pub bell: &'a UnixStream,
}

impl Workers<'_> {
    /// Handles requests until no more can come.
    pub fn work(&self, done: &Sender<(Connection, bool)>) {
        loop {
            let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            let job = jobs.recv();
            drop(jobs);
            let Ok(Job {
                mut connection,
                request,
            }) = job
            else {
                return;
            };
            let goes_on = self.answer(&connection, request);
            connection.release_body();
            // The server takes connections back as long as one is out.
            let _ = done.send((connection, goes_on));
            // When the pipe is full, the server is awake.
            let _ = (&mut &*self.bell).write(&[0]);
        }
    }

    /// Whether the connection may go on.
    fn answer(&self, connection: &Connection, request: Request) -> bool {
        let told = (self.limits, self.errors);
        let mut responder = Responder::new(connection.stream(), &request, told, self.cancel);
        if self.stop.load(Ordering::Relaxed) {
            responder.close();
        }
        // A panic is the end of this request, not of the server; what it left behind is dropped with it.
        let sent = catch_unwind(AssertUnwindSafe(|| self.dispatch(request, &mut responder)));
        if sent.is_err() {
            responder.close();
        }
        responder.finish()
    }

    /// Errors only tell that the client is gone, which the responder knows.
    fn dispatch(&self, request: Request, responder: &mut Responder<'_>) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return responder.error(Status::ServiceUnavailable, "the server ends");
        }
        let asker = cors::asker(&request, self.origin);
        match &asker {
            Asker::Own => {}
            Asker::Allowed(origin) => responder.allow(origin),
            Asker::Foreign => {
                let origin = request.header("origin").unwrap_or_default();
                let message = format!(
                    "header: origin: pages of {} are not allowed here; --cors ORIGIN allows them, and with --api-key the key decides",
                    origin.escape_default()
                );
                return responder.error(Status::Forbidden, &message);
            }
        }
        if request.method == Method::Options {
            let fields = cors::permissions(&request, &asker);
            let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
            return responder.respond(Status::NoContent, &fields, &[]);
        }
        if let Some(coding) = request.header("content-encoding")
            && !coding.eq_ignore_ascii_case("identity")
        {
            let coding = coding.escape_default();
            let message = format!("header: content-encoding: found {coding}, expected none");
            return responder.error(Status::UnsupportedMediaType, &message);
        }
        (self.handler)(request, responder);
        Ok(())
    }
}
