//! The server: questions by HTTP, answers from one engine.
//!
//! ```text
//! http threads                                        the thread that has the engine
//! api: request -> Ask --> desk: a bounded line  -----> answer: prefix kept (live), prompt read, tokens chosen
//!      response <- Part <---------------------------          |
//! metrics, events, page <---------- board <-------------------+
//! ```

mod answer;
mod answer_text;
pub mod api;
pub mod ask;
mod board;
pub mod desk;
mod events;
mod gate;
mod live;
mod logprobs;
mod memory;
mod metrics;
mod own;
mod page;
mod place;

use crate::engine::chat::Thinking;
use crate::engine::sessions::HEADERS_BYTES;
use crate::engine::{Engine, Plan, SamplerOptions, Store, guide_vocabulary};
use crate::error::{Error, Result};
use crate::http::{self, Method, Request, Responder, Server, Status};
use crate::options::Serving;
use crate::os::ReadAt;
use answer::Answerer;
use api::{Api, Served};
use board::Board;
use desk::Desk;
use live::Live;
use memory::Memory;
use own::OwnAnswers;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Points of a session to which it can come back.
const CHECKPOINTS: usize = 8;

/// Bytes for the tokens of answers that were chosen otherwise than their text is cut.
const OWN_ANSWERS: usize = 1 << 20;

/// Pages that can look at events at a time.
const MOST_WATCHERS: usize = 4;

/// Requests that are handled besides those that wait for the engine or look at events.
const QUICK_REQUESTS: usize = 4;

/// What a body takes while it is read, as a multiple of its text: the text, what was said, and its tokens, which may be as
/// many as bytes and stand there twice.
const READING_FACTOR: u64 = 12;

/// How long what is being answered at a stop may go on before it can send nothing more.
const STOP_TIME: Duration = Duration::from_secs(10);

/// After this time it is ended, so that its client is told.
const CUT_TIME: Duration = Duration::from_secs(8);

/// How long a server whose model is lost tells so before it ends.
const LOST_TIME: Duration = Duration::from_secs(3);

/// How late the stop may be noticed.
const TICK: Duration = Duration::from_millis(50);

/// The values of a body that grow with the context ([`api::value_bytes`]), as prompts of 4 bytes a token.
const VALUES_AS_PROMPTS: usize = (api::value_bytes(1) - api::value_bytes(0)) / 4;

/// What the grammar of a form takes that an answer is held to, and the masks of its states, in the worst case that was
/// looked for.
const FORM_BYTES: u64 = 40 << 20;

/// How a server is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients find it: a name or a number.
    pub host: String,
    /// At which port; 0 is any free one.
    pub port: u16,
    /// What clients must show.
    pub key: Option<String>,
    /// Serve others than this machine although nobody needs to show a key.
    pub open_to_all: bool,
    /// Pages of this origin may ask; `*` for all. With a key the key decides.
    pub origin: Option<String>,
    /// More names by which clients on this machine may ask, such as a container's for its host.
    pub names: Vec<String>,
    /// Questions that may wait.
    pub queue: usize,
    /// Whether the model reasons when a client does not say.
    pub thinking: Thinking,
    /// How tokens are chosen when a client does not say.
    pub sampling: SamplerOptions,
}

/// A server that has its address and does not answer yet.
pub struct Bound {
    server: Server,
    settings: Settings,
}

/// Bounds on what clients may take, for a line of `queue` questions.
pub fn limits(queue: usize) -> http::Limits {
    http::Limits {
        // Screenshots and documents of a long conversation; their text is bounded by `api::TEXT_BYTES`.
        body_bytes: 24 << 20,
        all_body_bytes: 32 << 20,
        handlers: queue + 1 + MOST_WATCHERS + QUICK_REQUESTS,
        stop_time: STOP_TIME,
        ..http::LIMITS
    }
}

/// What a server with a line of `queue` questions holds.
pub fn needs(sessions: usize, queue: usize) -> Serving {
    let limits = limits(queue);
    let reading = READING_FACTOR * api::TEXT_BYTES as u64 + api::value_bytes(0) as u64;
    Serving {
        sessions,
        checkpoints: CHECKPOINTS,
        // Two more are copies with the tokens that the model chose.
        prompts: limits.handlers + 2 + VALUES_AS_PROMPTS,
        bytes: limits.memory_bytes() as u64
            + reading
            + OWN_ANSWERS as u64
            + HEADERS_BYTES
            + FORM_BYTES,
    }
}

impl Settings {
    /// Takes the address.
    ///
    /// Errors: `Usage` for other machines without a key; an origin that is none; an address that cannot be had.
    pub fn bind(self) -> Result<Bound> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let address = match host.contains(':') {
            true => format!("[{host}]:{}", self.port),
            false => format!("{host}:{}", self.port),
        };
        let mut server =
            Server::bind(address.as_str(), limits(self.queue))?.with_errors(api::ERRORS);
        if !server.address().ip().is_loopback() && self.key.is_none() && !self.open_to_all {
            return Err(Error::usage(format!(
                "--host {}: other machines could ask, expected --api-key or --api-key-file (--no-key allows all to ask)",
                self.host
            )));
        }
        // A page of another origin does not know the key, unless its user gave it.
        let all = self.key.as_ref().map(|_| "*");
        if let Some(origin) = self.origin.as_deref().or(all) {
            server = server.with_origin(origin)?;
        }
        Ok(Bound {
            server,
            settings: self,
        })
    }
}

impl Bound {
    /// Where clients find it.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Answers until `stop` is set; then what waits is told so, and what is being answered has 8 s to end. With a store,
    /// sessions are saved there before they are lost, at the end too. What goes wrong and is no client's fault is told to
    /// `note`.
    ///
    /// A model file that was changed or cannot be read any more ends it too: for 3 s all requests, `/health` among them, are
    /// answered by that error; then it sets `stop`.
    ///
    /// Errors: memory or threads are refused; the model file.
    pub fn run(
        self,
        mut engine: Engine,
        plan: &Plan,
        store: Option<Store>,
        sessions: usize,
        stop: &AtomicBool,
        note: &dyn Fn(&str),
    ) -> Result<()> {
        let Bound { server, settings } = self;
        let live = Live::new(&mut engine, sessions, CHECKPOINTS, store)?;
        let board = Arc::new(Board::new(&engine, plan));
        let seen = board.clone();
        board.settled(&engine);
        engine.set_supply_watch(Box::new(move |stats, uses| seen.supply(stats, uses)));
        let desk = Arc::new(Desk::new(settings.queue));
        let served = Served {
            model: board.fixed.model.clone(),
            bytes: engine.model_files()?.len(),
            ctx: engine.ctx(),
            key: settings.key.clone(),
            thinking: settings.thinking,
            sampling: settings.sampling,
        };
        let front = Front {
            api: Api::new(desk.clone(), engine.tokenizer().clone(), served),
            gate: gate::Gate::new(server.address().ip(), settings.key, settings.names),
            memory: Memory::new(engine.model_files()?),
            board: &board,
            desk: &desk,
            n_watchers: AtomicUsize::new(0),
            stop,
        };
        let mut answerer = Answerer {
            guided: guide_vocabulary(engine.tokenizer()).ok().map(Arc::new),
            engine,
            live,
            own: OwnAnswers::new(OWN_ANSWERS),
            desk: &desk,
            board: &board,
            note,
        };
        let handle = |request: Request, responder: &mut Responder<'_>| {
            // Errors only tell that the client left.
            let _ = front.handle(&request, responder);
        };
        let handle = &handle;
        let ended = AtomicBool::new(false);
        let watch = || {
            let mut stopped = None;
            while !ended.load(Ordering::Relaxed) {
                if stop.load(Ordering::Relaxed) {
                    let stopped = stopped.get_or_insert_with(Instant::now);
                    desk.close("the server ends");
                    if stopped.elapsed() >= CUT_TIME {
                        desk.cut();
                    }
                }
                if desk.closed().is_some_and(|(_, time)| time >= LOST_TIME) {
                    stop.store(true, Ordering::Relaxed);
                }
                std::thread::sleep(TICK);
            }
        };
        let watch = &watch;
        std::thread::scope(|scope| {
            let serving = std::thread::Builder::new()
                .name("http".into())
                .spawn_scoped(scope, move || server.run(handle, stop))
                .map_err(|e| Error::io("thread of the server", &e))?;
            let watching = std::thread::Builder::new()
                .name("stop".into())
                .spawn_scoped(scope, watch);
            if watching.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            let answered = answerer.run(&|| serving.is_finished());
            ended.store(true, Ordering::Relaxed);
            desk.close("the server ends");
            let served = serving.join();
            served.unwrap_or_else(|_| Err(Error::unsupported("the server's thread panicked")))?;
            watching.map_err(|e| Error::io("thread that waits for the stop", &e))?;
            answered
        })
    }
}

/// What requests meet.
struct Front<'a> {
    api: Api,
    gate: gate::Gate,
    memory: Memory,
    board: &'a Board,
    desk: &'a Desk,
    n_watchers: AtomicUsize,
    stop: &'a AtomicBool,
}

impl Front<'_> {
    fn handle(&self, request: &Request, responder: &mut Responder<'_>) -> Result<()> {
        if !self.gate.is_for_us(request) {
            let message = format!(
                "header: host: found {}, expected localhost or an address of this machine; --allow-host NAME takes another name, \
                 and so does --api-key",
                request.host.escape_default()
            );
            return responder.error(Status::Forbidden, &message);
        }
        if self.api.handle(request, responder) {
            return Ok(());
        }
        let path = request.path.as_str();
        if !matches!(path, "/" | "/metrics" | "/events") {
            let message = format!("{path}: found no such path");
            return responder.error(Status::NotFound, &message);
        }
        if !matches!(request.method, Method::Get | Method::Head) {
            responder.add_field("allow", "GET, HEAD");
            let message = format!("{path}: expected GET or HEAD");
            return responder.error(Status::MethodNotAllowed, &message);
        }
        if path == "/" {
            return page::respond(responder);
        }
        if !self.gate.lets_in(request) {
            return responder.error(Status::Unauthorized, "found no valid key");
        }
        match path {
            "/metrics" => {
                let text = metrics::text(self.board, self.desk, &self.memory);
                let fields = [("content-type", metrics::CONTENT_TYPE)];
                responder.respond(Status::Ok, &fields, text.as_bytes())
            }
            _ => self.events(responder),
        }
    }

    fn events(&self, responder: &mut Responder<'_>) -> Result<()> {
        let n = self.n_watchers.fetch_add(1, Ordering::Relaxed);
        let sent = if n < MOST_WATCHERS {
            events::stream((self.board, self.desk, &self.memory), responder, self.stop)
        } else {
            let message = format!("{MOST_WATCHERS} pages look at events already");
            responder.error(Status::ServiceUnavailable, &message)
        };
        self.n_watchers.fetch_sub(1, Ordering::Relaxed);
        sent
    }
}
