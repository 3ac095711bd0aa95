//! A server on this machine and a client for it.
#![allow(dead_code)] // each test file uses a part

use infall::http::{Limits, Request, Responder, Server};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// No answer on this machine takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sets the flag even when the test fails, so that the server ends.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Serves while `client` runs.
pub fn serve<T>(
    limits: Limits,
    handler: impl Fn(Request, &mut Responder<'_>) + Sync,
    client: impl FnOnce(SocketAddr) -> T,
) -> T {
    serve_by(
        Server::bind("127.0.0.1:0", limits).unwrap(),
        handler,
        client,
    )
}

/// Serves with a server that was set up already.
pub fn serve_by<T>(
    server: Server,
    handler: impl Fn(Request, &mut Responder<'_>) + Sync,
    client: impl FnOnce(SocketAddr) -> T,
) -> T {
    let stop = AtomicBool::new(false);
    let address = server.address();
    std::thread::scope(|scope| {
        let served = scope.spawn(|| server.run(&handler, &stop));
        let result = {
            let _stop = StopAtEnd(&stop);
            client(address)
        };
        served.join().unwrap().unwrap();
        result
    })
}

/// What came back.
#[derive(Debug, Default)]
pub struct Answer {
    pub code: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// One connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client {
            stream: BufReader::with_capacity(4096, stream),
        }
    }

    pub fn stream(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// The answer to `GET` of a path.
    pub fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        self.answer()
    }

    /// The next answer with its body, of whatever form.
    pub fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        if let Some(length) = answer.field("content-length") {
            answer.body = vec![0; length.parse().unwrap()];
            self.stream.read_exact(&mut answer.body).unwrap();
        } else if answer.field("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                answer.body.extend(chunk);
            }
        } else if answer.code != 204 {
            self.stream.read_to_end(&mut answer.body).unwrap();
        }
        answer
    }

    /// The next answer without its body.
    pub fn head(&mut self) -> Answer {
        let mut answer = Answer::default();
        let line = self.line();
        let code = line
            .strip_prefix("HTTP/1.1 ")
            .unwrap_or_else(|| panic!("found {line:?}"));
        answer.code = code[..3].parse().unwrap();
        loop {
            let line = self.line();
            if line.is_empty() {
                return answer;
            }
            let (name, value) = line.split_once(": ").unwrap();
            answer.fields.push((name.into(), value.into()));
        }
    }

    /// The next chunk; `None` behind the last.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = usize::from_str_radix(&self.line(), 16).unwrap();
        let mut bytes = vec![0; size + 2];
        self.stream.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes.split_off(size), b"\r\n");
        (size > 0).then_some(bytes)
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.strip_suffix("\r\n")
            .unwrap_or_else(|| panic!("found {line:?}"))
            .into()
    }

    /// Whether the server says nothing more and closes.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }
}
