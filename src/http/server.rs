//! Connections: one thread accepts, reads and parses for all of them, and hands whole requests to the handlers.

use super::cors;
use super::parser::{Parser, Progress, Step};
use super::refusal::{Refusal, Status};
use super::request::Request;
use super::response::{self, ErrorBody, Responder};
use super::worker::{Job, Workers};
use super::{Limits, READ_BYTES, TURNED_AWAY};
use crate::error::{Error, Result};
use crate::os::poll::{self, Watch};
use std::fmt::Display;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::time::{Duration, Instant};

/// How late time limits and the stop may be noticed.
const TICK: Duration = Duration::from_millis(100);

/// Connections accepted before others are looked at again.
const ACCEPTED_AT_ONCE: usize = 64;

/// An idle connection may be closed for a new one when it is older than this.
const YOUNGEST_EVICTED: Duration = Duration::from_secs(1);

/// Files that the rest of the process may need.
const OTHER_FILES: u64 = 64;

/// Answers requests, several at a time.
pub type Handler<'a> = &'a (dyn Fn(Request, &mut Responder<'_>) + Sync);

/// A bound address, not served yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    limits: Limits,
    errors: ErrorBody,
    origin: Option<String>,
}

impl Server {
    /// Takes an address; port 0 is any free one. Fewer connections are allowed where the system allows fewer files.
    ///
    /// Errors: `Io`, with the address.
    pub fn bind(address: impl ToSocketAddrs + Display, limits: Limits) -> Result<Server> {
        let io = |e: std::io::Error| Error::io(format_args!("address {address}"), &e);
        let listener = TcpListener::bind(&address).map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        // Clients above the usual 128 would try again after a second only.
        poll::allow_waiting(&listener, limits.connections);
        let others = OTHER_FILES + TURNED_AWAY as u64;
        let n_files = poll::allow_open_files(limits.connections as u64 + others);
        let most = usize::try_from(n_files.saturating_sub(others)).unwrap_or(usize::MAX);
        Ok(Server {
            address: listener.local_addr().map_err(io)?,
            listener,
            limits: Limits {
                connections: limits.connections.min(most).max(1),
                ..limits
            },
            errors: ErrorBody::PLAIN,
            origin: None,
        })
    }

    /// Tells errors in this form.
    pub fn with_errors(self, errors: ErrorBody) -> Server {
        Server { errors, ..self }
    }

    /// Allows web pages of this origin, `*` for all. Without it, only pages of this server may ask.
    ///
    /// Errors: `Usage`, when it is no origin.
    pub fn with_origin(self, origin: &str) -> Result<Server> {
        if !cors::is_origin(origin) {
            return Err(Error::usage(format!(
                "origin '{origin}': expected one like https://example.org, or *"
            )));
        }
        Ok(Server {
            origin: Some(origin.into()),
            ..self
        })
    }

    /// Where clients find it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Serves until `stop` is set, which is noticed within 0.1 s. Then nothing more is accepted, requests that were not
    /// begun are refused, and those that were begun have [`Limits::stop_time`] before they can send nothing more; it
    /// returns when the last handler has.
    ///
    /// Errors: `Io`, when the system refuses threads or waiting.
    pub fn run(self, handler: Handler<'_>, stop: &AtomicBool) -> Result<()> {
        let (bell, ring) = bell()?;
        let (jobs, waiting) = sync_channel(self.limits.queue);
        let (done, returned) = channel();
        let cancel = AtomicBool::new(false);
        let workers = Workers {
            limits: &self.limits,
            errors: self.errors,
            origin: self.origin.as_deref(),
            handler,
            stop,
            cancel: &cancel,
            jobs: Mutex::new(waiting),
            bell: &ring,
        };
        std::thread::scope(|scope| {
            // Dropped at the end of this closure: then the workers have no more to wait for.
            let mut connections = Connections {
                limits: &self.limits,
                errors: self.errors,
                listener: Some(self.listener),
                deaf_until: None,
                open: Vec::new(),
                n_handled: 0,
                body_bytes: Arc::default(),
                jobs,
                returned,
                bell,
                scratch: vec![0; READ_BYTES],
            };
            for i in 0..self.limits.handlers {
                let (workers, done) = (&workers, done.clone());
                std::thread::Builder::new()
                    .name(format!("http-{i}"))
                    .stack_size(self.limits.stack_bytes)
                    .spawn_scoped(scope, move || workers.work(&done))
                    .map_err(|e| Error::io("thread for requests", &e))?;
            }
            let served = connections.serve(stop, &cancel);
            cancel.store(true, Ordering::Relaxed);
            served
        })
    }
}

/// Two ends of a pipe, neither of which blocks: what is written into one wakes whoever waits at the other.
fn bell() -> Result<(UnixStream, UnixStream)> {
    let made = UnixStream::pair().and_then(|(a, b)| {
        a.set_nonblocking(true)?;
        b.set_nonblocking(true)?;
        Ok((a, b))
    });
    made.map_err(|e| Error::io("pipe", &e))
}

/// A client.
pub struct Connection {
    stream: TcpStream,
    parser: Parser,
    progress: Progress,
    /// Begin of the state that a time limit holds for.
    since: Instant,
    /// No request was complete yet.
    is_new: bool,
    /// All is said; so many more bytes of what the client still sends are thrown away.
    draining: Option<usize>,
    /// What its body adds to `all_bodies`.
    body_bytes: usize,
    all_bodies: Arc<AtomicUsize>,
}

impl Connection {
    /// Where answers go.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The body is not there any more.
    pub fn release_body(&mut self) {
        self.count_body(0);
    }

    /// Sets what the body takes and gives what all of them take.
    fn count_body(&mut self, bytes: usize) -> usize {
        let before = self
            .all_bodies
            .fetch_sub(self.body_bytes, Ordering::Relaxed);
        let others = before - self.body_bytes;
        self.all_bodies.fetch_add(bytes, Ordering::Relaxed);
        self.body_bytes = bytes;
        others + bytes
    }

    fn time_limit(&self, limits: &Limits) -> Duration {
        match (self.draining, self.progress) {
            (Some(_), _) => limits.drain_time,
            (None, Progress::Idle) if !self.is_new => limits.idle_time,
            (None, Progress::Idle | Progress::Head) => limits.head_time,
            (None, Progress::Body) => limits.body_time,
        }
    }

    fn set_progress(&mut self, progress: Progress, now: Instant) {
        // The time for the first header runs from the begin of the connection.
        let goes_on = self.is_new && progress == Progress::Head;
        if progress != self.progress && !goes_on {
            self.since = now;
        }
        self.progress = progress;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.release_body();
    }
}

/// What becomes of a connection.
enum Fate {
    Stays,
    Ends,
    Handled(Request),
    Refused(Refusal),
}

/// All clients, but for those whose requests are handled now.
struct Connections<'a> {
    limits: &'a Limits,
    errors: ErrorBody,
    /// Gone once the server ends.
    listener: Option<TcpListener>,
    /// The system refused a connection: not asked again before.
    deaf_until: Option<Instant>,
    open: Vec<Connection>,
    /// Connections that are with the workers.
    n_handled: usize,
    body_bytes: Arc<AtomicUsize>,
    jobs: SyncSender<Job>,
    returned: Receiver<(Connection, bool)>,
    bell: UnixStream,
    scratch: Vec<u8>,
}

impl Connections<'_> {
    fn serve(&mut self, stop: &AtomicBool, cancel: &AtomicBool) -> Result<()> {
        let mut watches = Vec::new();
        let mut stopped_at = None;
        loop {
            if stop.load(Ordering::Relaxed) && stopped_at.is_none() {
                stopped_at = Some(Instant::now());
                self.listener = None;
                self.open.retain(|c| c.draining.is_some());
            }
            if stopped_at.is_some() && self.n_handled == 0 && self.open.is_empty() {
                return Ok(());
            }
            if stopped_at.is_some_and(|at| at.elapsed() >= self.limits.stop_time) {
                cancel.store(true, Ordering::Relaxed);
            }
            self.round(&mut watches)?;
        }
    }

    /// Waits for something to do and does it.
    fn round(&mut self, watches: &mut Vec<Watch>) -> Result<()> {
        watches.clear();
        watches.push(Watch::readable(&self.bell));
        watches.extend(self.open.iter().map(|c| Watch::readable(&c.stream)));
        let n_open = self.open.len();
        let now = Instant::now();
        self.deaf_until = self.deaf_until.filter(|until| now < *until);
        if let Some(listener) = self.listener.as_ref().filter(|_| self.deaf_until.is_none()) {
            watches.push(Watch::readable(listener));
        }
        poll::wait(watches, TICK)?;

        let now = Instant::now();
        // From behind, because one that leaves is replaced by the last.
        for i in (0..n_open).rev() {
            let fate = if watches[1 + i].is_ready() {
                self.read(i, now)
            } else {
                self.late(i, now)
            };
            self.follow(i, fate, now);
        }
        if watches[0].is_ready() {
            // Emptied, so that it is not ready again at once.
            while matches!(self.bell.read(&mut self.scratch), Ok(n) if n == READ_BYTES) {}
        }
        while let Ok((connection, goes_on)) = self.returned.try_recv() {
            self.resume(connection, goes_on, now);
        }
        if watches.get(1 + n_open).is_some_and(Watch::is_ready) {
            self.accept(now);
        }
        Ok(())
    }

    /// Takes some of what a client sent.
    fn read(&mut self, i: usize, now: Instant) -> Fate {
        let connection = &mut self.open[i];
        let n = match connection.stream.read(&mut self.scratch) {
            Ok(0) => return Fate::Ends,
            Ok(n) => n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Fate::Stays;
            }
            Err(_) => return Fate::Ends,
        };
        match &mut connection.draining {
            Some(left) if n < *left => {
                *left -= n;
                self.late(i, now)
            }
            Some(_) => Fate::Ends,
            None => {
                connection.parser.push(&self.scratch[..n]);
                match self.parse(i, now) {
                    // Bytes that keep coming are no reason to wait longer.
                    Fate::Stays => self.late(i, now),
                    fate => fate,
                }
            }
        }
    }

    fn parse(&mut self, i: usize, now: Instant) -> Fate {
        let connection = &mut self.open[i];
        loop {
            let step = connection.parser.step();
            connection.set_progress(connection.parser.progress(), now);
            match step {
                Step::Refused(refusal) => return Fate::Refused(refusal),
                Step::Request(request) => {
                    connection.is_new = false;
                    let all = connection.count_body(request.body.capacity());
                    return match all > self.limits.all_body_bytes {
                        true => Fate::Refused(too_many_bytes().at(&request.path)),
                        false => Fate::Handled(request),
                    };
                }
                // Fits into a socket that waits for nothing else; if not, the client is none.
                Step::Continue => match connection.stream.write(b"HTTP/1.1 100 Continue\r\n\r\n") {
                    Ok(25) => {}
                    _ => return Fate::Ends,
                },
                Step::More => {
                    let all = connection.count_body(connection.parser.body_bytes());
                    return match all > self.limits.all_body_bytes {
                        true => Fate::Refused(too_many_bytes().at(connection.parser.path())),
                        false => Fate::Stays,
                    };
                }
            }
        }
    }

    /// Looks at the time of a connection on which nothing happens.
    fn late(&self, i: usize, now: Instant) -> Fate {
        let connection = &self.open[i];
        let limit = connection.time_limit(self.limits);
        if now.saturating_duration_since(connection.since) < limit {
            return Fate::Stays;
        }
        match (connection.draining, connection.progress) {
            (None, Progress::Head | Progress::Body) => {
                let message = format!("request: not complete after {limit:?}");
                let refusal = Refusal::new(Status::RequestTimeout, message);
                Fate::Refused(refusal.at(connection.parser.path()))
            }
            _ => Fate::Ends,
        }
    }

    fn follow(&mut self, i: usize, fate: Fate, now: Instant) {
        match fate {
            Fate::Stays => {}
            Fate::Ends => drop(self.open.swap_remove(i)),
            Fate::Refused(refusal) => self.refuse(i, &refusal, now),
            Fate::Handled(request) => {
                let connection = self.open.swap_remove(i);
                let sent = self.jobs.try_send(Job {
                    connection,
                    request,
                });
                match sent {
                    Ok(()) => self.n_handled += 1,
                    Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                        let refusal = busy("too many requests at a time").at(&job.request.path);
                        self.open.push(job.connection);
                        self.refuse(self.open.len() - 1, &refusal, now);
                    }
                }
            }
        }
    }

    /// A worker is done with it.
    fn resume(&mut self, mut connection: Connection, goes_on: bool, now: Instant) {
        self.n_handled -= 1;
        connection.since = now;
        self.open.push(connection);
        let i = self.open.len() - 1;
        if !goes_on || self.listener.is_none() {
            return self.hang_up(i, now);
        }
        // The next request may be there already.
        let fate = self.parse(i, now);
        self.follow(i, fate, now);
    }

    /// Says why, and hangs up.
    fn refuse(&mut self, i: usize, refusal: &Refusal, now: Instant) {
        let connection = &mut self.open[i];
        // The body is given up.
        connection.parser = Parser::new(self.limits);
        connection.release_body();
        let answer = response::refusal(refusal, self.errors, self.limits);
        // A client that cannot take this much has not read its earlier answers.
        match connection.stream.write(&answer) {
            Ok(n) if n == answer.len() => self.hang_up(i, now),
            _ => drop(self.open.swap_remove(i)),
        }
    }

    /// Ends a connection from our side. It is not closed before the client has closed its own or the time is over:
    /// closing while bytes come in would destroy the answer on its way.
    fn hang_up(&mut self, i: usize, now: Instant) {
        let connection = &mut self.open[i];
        connection.draining = Some(self.limits.drain_bytes);
        connection.since = now;
        if connection.stream.shutdown(Shutdown::Write).is_err() {
            self.open.swap_remove(i);
        }
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTED_AT_ONCE {
            let Some(listener) = &self.listener else {
                return;
            };
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream, now),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                    ) => {}
                // Out of files or memory, which asking again at once would not change.
                Err(_) => {
                    self.deaf_until = Some(now + TICK);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, now: Instant) {
        // A client that is gone already is noticed when it is read.
        if stream
            .set_nonblocking(true)
            .and(stream.set_nodelay(true))
            .is_err()
        {
            return;
        }
        let n = self.open.len() + self.n_handled;
        let is_full = n >= self.limits.connections && !self.evict(now);
        if n >= self.limits.connections + TURNED_AWAY {
            return;
        }
        self.open.push(Connection {
            stream,
            parser: Parser::new(self.limits),
            progress: Progress::Idle,
            since: now,
            is_new: true,
            draining: None,
            body_bytes: 0,
            all_bodies: self.body_bytes.clone(),
        });
        if is_full {
            let refusal = busy("too many connections");
            self.refuse(self.open.len() - 1, &refusal, now);
        }
    }

    /// Closes the connection that has been idle for longest, if one has been for some time.
    fn evict(&mut self, now: Instant) -> bool {
        let idle = self.open.iter().enumerate().filter(|(_, c)| {
            let age = now.saturating_duration_since(c.since);
            c.draining.is_none() && c.progress == Progress::Idle && age >= YOUNGEST_EVICTED
        });
        let oldest = idle.min_by_key(|(_, c)| c.since).map(|(i, _)| i);
        oldest.map(|i| self.open.swap_remove(i)).is_some()
    }
}

fn busy(message: &str) -> Refusal {
    Refusal::new(Status::ServiceUnavailable, message)
}

fn too_many_bytes() -> Refusal {
    busy("too many bytes in bodies at a time")
}
