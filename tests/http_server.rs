//! The server against clients that are slow, many, greedy, gone, or just right.
#![allow(clippy::unwrap_used)]

#[path = "common/loopback.rs"]
mod loopback;

use infall::error::ErrorKind;
use infall::http::{
    ErrorBody, Framing, LIMITS, Limits, Method, Request, Responder, Server, Status,
};
use loopback::{Client, StopAtEnd, serve, serve_by};
use std::io::{ErrorKind as IoKind, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const TEXT: &[(&str, &str)] = &[("content-type", "text/plain")];

/// Says what was asked.
fn echo(request: Request, responder: &mut Responder<'_>) {
    let Request { path, body, .. } = request;
    let body = [path.as_bytes(), b" ", &body].concat();
    responder.respond(Status::Ok, TEXT, &body).unwrap();
}

/// What a busy machine may add to a time.
const SPARE: Duration = Duration::from_secs(30);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Waits until it holds; nothing here takes long.
fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(ms(2));
    }
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    serve(LIMITS, echo, |address| {
        let mut client = Client::connect(address);
        let answer = client.get("/a%20b?c");
        assert_eq!((answer.code, answer.text()), (200, "/a b "));
        assert_eq!(answer.field("content-type"), Some("text/plain"));
        assert!(answer.field("date").unwrap().ends_with(" GMT"));
        assert_eq!(answer.field("connection"), None);

        // Several at once, cut anywhere, are answered in order.
        let some: String = (0..50)
            .map(|i| {
                format!("POST /{i} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
            })
            .collect();
        for piece in some.as_bytes().chunks(999) {
            client.send(piece);
        }
        for i in 0..50 {
            assert_eq!(client.answer().text(), format!("/{i} x"));
        }

        // HEAD tells the length only.
        client.send("HEAD /head HTTP/1.1\r\nHost: h\r\n\r\n");
        let answer = client.head();
        assert_eq!(
            (answer.code, answer.field("content-length")),
            (200, Some("6"))
        );
        client.send("GET http://other/abs HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.text(), "/abs ");
        assert_eq!(answer.field("connection"), Some("close"));
        assert!(client.is_closed());
    });
}

#[test]
fn old_clients_are_served() {
    let handler = |request: Request, responder: &mut Responder<'_>| {
        if request.path == "/stream" {
            let mut stream = responder.stream(Status::Ok, &[]).unwrap();
            stream.write(b"one, ").unwrap();
            stream.write(b"two").unwrap();
            return stream.finish().unwrap();
        }
        echo(request, responder);
    };
    serve(LIMITS, handler, |address| {
        let mut client = Client::connect(address);
        client.send("GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.field("connection"), Some("keep-alive"));
        client.send("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.field("transfer-encoding"), None);
        assert_eq!(answer.text(), "one, two");
        assert!(client.is_closed());

        let mut client = Client::connect(address);
        client.send("GET /2 HTTP/1.0\r\n\r\n");
        assert_eq!(client.answer().text(), "/2 ");
        assert!(client.is_closed());
    });
}

#[test]
fn a_client_that_waits_is_told_to_go_on() {
    serve(LIMITS, echo, |address| {
        let mut client = Client::connect(address);
        client.send(
            "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        );
        assert_eq!(client.head().code, 100);
        client.send("hi");
        assert_eq!(client.answer().text(), "/ hi");
        client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 20000000\r\n\r\n");
        assert_eq!(client.answer().code, 413);
        assert!(client.is_closed());
    });
}

#[test]
fn streams_and_events_come_in_their_pieces() {
    let (next, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let handler = |request: Request, responder: &mut Responder<'_>| {
        let mut events = responder
            .events(Framing::ServerSent, &[("x-id", "7")])
            .unwrap();
        events.comment("still\nthere").unwrap();
        if request.method != Method::Head {
            wait.lock().unwrap().recv().unwrap();
        }
        events.event("", "{\"a\":1}").unwrap();
        events.event("done", "a\r\nb\rc\n").unwrap();
        events.finish().unwrap();
    };
    serve(LIMITS, handler, |address| {
        let mut client = Client::connect(address);
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        let head = client.head();
        assert_eq!(head.field("content-type"), Some("text/event-stream"));
        assert_eq!(head.field("cache-control"), Some("no-store"));
        assert_eq!(head.field("x-id"), Some("7"));
        assert_eq!(head.field("transfer-encoding"), Some("chunked"));
        // The first piece is there before the next is made.
        let first = b": still\n: there\n\n";
        assert_eq!(client.chunk().unwrap(), first);
        next.send(()).unwrap();
        let second = b"data: {\"a\":1}\n\n";
        assert_eq!(client.chunk().unwrap(), second);
        let last = b"event: done\ndata: a\ndata: b\ndata: c\ndata: \n\n";
        assert_eq!(client.chunk().unwrap(), last);
        assert_eq!(client.chunk(), None);
        // The connection goes on, and HEAD has no chunks.
        client.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.head().field("transfer-encoding"), Some("chunked"));
        next.send(()).unwrap();
        let all = [&first[..], second, last].concat();
        assert_eq!(client.get("/").body, all);
    });
}

#[test]
fn pages_of_one_origin_may_ask() {
    let server = |origin: Option<&str>| {
        let server = Server::bind("127.0.0.1:0", LIMITS).unwrap();
        match origin {
            Some(origin) => server.with_origin(origin).unwrap(),
            None => server,
        }
    };
    let ask = |client: &mut Client, method: &str, origin: &str| {
        let wants =
            "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization";
        let text =
            format!("{method} /x HTTP/1.1\r\nHost: me:80\r\nOrigin: {origin}\r\n{wants}\r\n\r\n");
        client.send(text);
        client.answer()
    };
    serve_by(server(Some("https://page.example")), echo, |address| {
        let client = &mut Client::connect(address);
        let answer = ask(client, "OPTIONS", "https://page.example");
        assert_eq!((answer.code, answer.field("content-length")), (204, None));
        let allowed = |answer: &loopback::Answer| {
            let origin = answer.field("access-control-allow-origin");
            (
                origin.map(str::to_string),
                answer.field("vary").map(str::to_string),
            )
        };
        let page = (Some("https://page.example".into()), Some("origin".into()));
        assert_eq!(allowed(&answer), page);
        let names = answer.field("access-control-allow-headers");
        assert_eq!(names, Some("authorization"));
        let methods = answer.field("access-control-allow-methods").unwrap();
        assert!(methods.contains("POST"));
        let answer = ask(client, "POST", "https://page.example");
        assert_eq!((answer.code, answer.text()), (200, "/x "));
        assert_eq!(allowed(&answer), page);

        for foreign in [
            "https://page.example.org",
            "http://page.example",
            "null",
            "https://",
            "",
        ] {
            for method in ["OPTIONS", "POST"] {
                let answer = ask(client, method, foreign);
                assert_eq!(
                    (answer.code, allowed(&answer)),
                    (403, (None, None)),
                    "{foreign}"
                );
            }
        }
        // Its own pages, and whatever is no page.
        let answer = ask(client, "POST", "http://me:80");
        assert_eq!((answer.code, allowed(&answer)), (200, (None, None)));
        client.send("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.code, 204);
        assert!(answer.field("allow").unwrap().contains("GET"));
        assert_eq!(answer.field("access-control-allow-methods"), None);
    });
    serve_by(server(Some("app://any")), echo, |address| {
        let answer = ask(&mut Client::connect(address), "POST", "app://any");
        assert_eq!(
            (answer.code, answer.field("access-control-allow-origin")),
            (200, Some("app://any"))
        );
    });
    serve_by(server(None), echo, |address| {
        assert_eq!(
            ask(
                &mut Client::connect(address),
                "POST",
                "https://page.example"
            )
            .code,
            403
        );
    });
    let bound = Server::bind("127.0.0.1:0", LIMITS).unwrap();
    assert!(bound.with_origin("page.example").is_err());
}

#[test]
fn errors_have_the_form_that_was_given() {
    let errors = ErrorBody {
        content_type: "application/json",
        text: |_, status, message| format!("{{\"{}\":\"{message}\"}}", status.code()),
    };
    let server = Server::bind("127.0.0.1:0", LIMITS)
        .unwrap()
        .with_errors(errors);
    let handler = |request: Request, responder: &mut Responder<'_>| match &*request.path {
        "/nothing" => {}
        "/panic" => panic!("this panic is part of a test"),
        "/field" => {
            let split = responder.respond(Status::Ok, &[("x", "a\r\nb: c")], b"");
            assert_eq!(split.unwrap_err().kind(), ErrorKind::Format);
            responder.error(Status::TooManyRequests, "later").unwrap();
        }
        "/half" => {
            let mut stream = responder.stream(Status::Ok, &[]).unwrap();
            stream.write(b"half").unwrap();
        }
        _ => echo(request, responder),
    };
    serve_by(server, handler, |address| {
        let mut client = Client::connect(address);
        let answer = client.get("/nothing");
        assert_eq!(
            (answer.code, answer.text()),
            (500, "{\"500\":\"no answer was made\"}")
        );
        let answer = client.get("/field");
        assert_eq!((answer.code, answer.text()), (429, "{\"429\":\"later\"}"));
        assert_eq!(answer.field("retry-after"), Some("2"));
        client.send("GET /half HTTP/1.1\r\nHost: h\r\n\r\n");
        client.head();
        assert_eq!(client.chunk().unwrap(), b"half");
        assert!(client.is_closed(), "the last chunk is missing");

        let mut client = Client::connect(address);
        assert_eq!(client.get("/panic").code, 500);
        assert!(client.is_closed());
        let mut client = Client::connect(address);
        client.send("GET / HTTP/3.0\r\n");
        let answer = client.answer();
        assert_eq!(
            (answer.code, answer.text()),
            (505, "{\"505\":\"found HTTP/3.0, expected HTTP/1.1\"}")
        );
        assert_eq!(answer.field("content-type"), Some("application/json"));
        assert!(client.is_closed());
        assert_eq!(Client::connect(address).get("/fine").code, 200);
    });
}

/// 100 MB are announced, or come in chunks: refused at once or at the limit, not at their end.
#[test]
fn bodies_too_large_are_refused_early() {
    let n_handled = AtomicUsize::new(0);
    let handler = |request: Request, responder: &mut Responder<'_>| {
        n_handled.fetch_add(1, Relaxed);
        echo(request, responder);
    };
    serve(LIMITS, handler, |address| {
        let piece = vec![b'x'; 1 << 20];
        // How many of 100 pieces the server lets in.
        let sent = |client: &mut Client, before: &[u8], behind: &[u8]| {
            let piece = [before, &piece, behind].concat();
            let all = |_: &usize| client.stream().write_all(&piece).is_ok();
            (0..100).take_while(all).count()
        };
        let head = "POST / HTTP/1.1\r\nHost: h\r\n";
        let mut client = Client::connect(address);
        client.send(format!("{head}Content-Length: 104857600\r\n\r\n"));
        assert_eq!(client.answer().code, 413);
        let start = Instant::now();
        let n = sent(&mut client, b"", b"");
        assert!(n < 20, "{n} MiB");
        assert!(client.is_closed());
        assert!(start.elapsed() < LIMITS.drain_time + SPARE);

        let mut client = Client::connect(address);
        client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
        let n = sent(&mut client, b"100000\r\n", b"\r\n");
        assert!((16..40).contains(&n), "{n} MiB");
        assert_eq!(n_handled.load(Relaxed), 0);

        // On the limit it is handled whole.
        let mut client = Client::connect(address);
        client.send(format!("{head}Content-Length: 16777216\r\n\r\n"));
        (0..16).for_each(|_| client.send(&piece));
        assert_eq!(client.answer().body.len(), (16 << 20) + 2);
    });
}

#[test]
fn all_bodies_together_are_bounded() {
    let limits = Limits {
        body_bytes: 1 << 20,
        all_body_bytes: 2 << 20,
        ..LIMITS
    };
    serve(limits, echo, |address| {
        let begin = || {
            let mut client = Client::connect(address);
            client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1048576\r\n\r\n");
            client.send(vec![b'x'; (1 << 20) - 1]);
            client
        };
        let mut two = [begin(), begin()];
        std::thread::sleep(ms(400));
        let mut third = begin();
        let answer = third.answer();
        assert_eq!((answer.code, answer.field("retry-after")), (503, Some("2")));
        assert!(third.is_closed());
        for client in &mut two {
            client.send("x");
            assert_eq!(client.answer().code, 200);
        }
        // There is room again.
        let mut client = begin();
        client.send("x");
        assert_eq!(client.answer().code, 200);
    });
}

#[test]
fn slow_clients_are_given_up() {
    let limits = Limits {
        head_time: ms(600),
        body_time: ms(900),
        idle_time: ms(1200),
        ..LIMITS
    };
    serve(limits, echo, |address| {
        // The clocks start before the server can know.
        let connect = || {
            let since = Instant::now();
            (Client::connect(address), since)
        };
        // Time that passed, and not much more than the limit.
        let passed = |since: Instant, limit: Duration| {
            let found = since.elapsed();
            assert!(
                (limit..limit + SPARE).contains(&found),
                "{found:?} for {limit:?}"
            );
        };
        // Three wait for their ends at the same time as the others trickle.
        let (mut silent, at_silent) = connect();
        let (mut idle, _) = connect();
        let at_idle = Instant::now();
        assert_eq!(idle.get("/").code, 200);
        let (mut trickles, at_trickle) = connect();
        let (mut body, at_body) = connect();
        body.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n");
        std::thread::scope(|scope| {
            let read = scope.spawn(move || {
                assert!(silent.is_closed());
                passed(at_silent, limits.head_time);
            });
            // A byte each 20 ms does not gain time.
            let trickle = |client: &Client, byte: &[u8]| {
                let mut stream = client.stream();
                while stream.write(byte).is_ok() {
                    let mut seen = [0];
                    stream.set_nonblocking(true).unwrap();
                    let is_answered = match stream.peek(&mut seen) {
                        Err(e) => e.kind() != IoKind::WouldBlock,
                        Ok(_) => true,
                    };
                    stream.set_nonblocking(false).unwrap();
                    if is_answered {
                        return;
                    }
                    std::thread::sleep(ms(20));
                }
            };
            let head = scope.spawn(move || {
                trickle(&trickles, b"G");
                passed(at_trickle, limits.head_time);
                assert_eq!(trickles.answer().code, 408);
                assert!(trickles.is_closed());
            });
            let tail = scope.spawn(move || {
                trickle(&body, b"x");
                passed(at_body, limits.body_time);
                assert_eq!(body.answer().code, 408);
                assert!(body.is_closed());
            });
            assert!(idle.is_closed());
            passed(at_idle, limits.idle_time);
            for thread in [read, head, tail] {
                thread.join().unwrap();
            }
        });
    });
}

#[test]
fn a_client_that_does_not_read_is_given_up_and_one_that_left_is_noticed() {
    let limits = Limits {
        write_time: ms(300),
        ..LIMITS
    };
    let (told, news) = channel();
    let told = Mutex::new(told);
    let handler = |request: Request, responder: &mut Responder<'_>| {
        let error = match &*request.path {
            // Nobody can buffer this much.
            "/whole" => responder.respond(Status::Ok, TEXT, &vec![0; 64 << 20]),
            "/pieces" => {
                let mut stream = responder.stream(Status::Ok, TEXT).unwrap();
                (0..64).try_for_each(|_| stream.write(&vec![0; 1 << 20]))
            }
            _ => {
                let mut events = responder.events(Framing::ServerSent, &[]).unwrap();
                assert!(!events.is_gone() && !events.is_half_closed());
                events.comment("look").unwrap();
                wait_for("the client closes its side", || events.is_half_closed());
                // It may still read.
                assert!(!events.is_gone());
                // The first write brings about the answer that nobody is there.
                events.comment("there?").unwrap();
                wait_for("the client is gone", || events.is_gone());
                events.comment("there?")
            }
        };
        let _ = told.lock().unwrap().send(error.unwrap_err());
    };
    serve(limits, handler, |address| {
        for path in ["/whole", "/pieces"] {
            let mut client = Client::connect(address);
            client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
            let start = Instant::now();
            let error = news.recv().unwrap();
            assert_eq!(error.kind(), ErrorKind::Closed);
            assert_eq!(error.to_string(), "client: took nothing more for 300ms");
            assert!(start.elapsed() < limits.write_time + SPARE);
            // What was sent is a part, and the client can see that.
            assert_eq!(client.head().code, 200);
        }
        let mut client = Client::connect(address);
        client.send("GET /events HTTP/1.1\r\nHost: h\r\n\r\n");
        client.head();
        assert_eq!(client.chunk().unwrap(), b": look\n\n");
        drop(client);
        assert_eq!(news.recv().unwrap().kind(), ErrorKind::Closed);
    });
}

#[test]
fn requests_above_the_queue_are_told_to_come_again() {
    let limits = Limits {
        handlers: 1,
        queue: 1,
        ..LIMITS
    };
    let (go, gate) = channel::<()>();
    let (gate, n_begun) = (Mutex::new(gate), AtomicUsize::new(0));
    let handler = |request: Request, responder: &mut Responder<'_>| {
        n_begun.fetch_add(1, Relaxed);
        gate.lock().unwrap().recv().unwrap();
        echo(request, responder);
    };
    serve(limits, handler, |address| {
        let ask = |path: &str| {
            let mut client = Client::connect(address);
            client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
            client
        };
        let mut first = ask("/1");
        wait_for("the first is handled", || n_begun.load(Relaxed) == 1);
        let mut second = ask("/2");
        std::thread::sleep(ms(400));
        let mut third = ask("/3");
        let answer = third.answer();
        assert_eq!((answer.code, answer.field("retry-after")), (503, Some("2")));
        assert!(third.is_closed());
        go.send(()).unwrap();
        assert_eq!(first.answer().text(), "/1 ");
        go.send(()).unwrap();
        assert_eq!(second.answer().text(), "/2 ");
        go.send(()).unwrap();
        assert_eq!(second.get("/4").text(), "/4 ");
    });
}

#[test]
fn connections_above_the_limit_are_turned_away_unless_one_is_idle() {
    let limits = Limits {
        connections: 3,
        ..LIMITS
    };
    serve(limits, echo, |address| {
        let mut three = [(); 3].map(|()| Client::connect(address));
        for client in &mut three {
            assert_eq!(client.get("/").code, 200);
            // Times of the server are those of its rounds, which two of them might share.
            std::thread::sleep(ms(50));
        }
        // None has been idle for long.
        let mut fourth = Client::connect(address);
        fourth.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        let answer = fourth.answer();
        assert_eq!((answer.code, answer.field("retry-after")), (503, Some("2")));
        assert!(fourth.is_closed());
        drop(fourth);

        std::thread::sleep(ms(600));
        assert_eq!(three[0].get("/").code, 200);
        std::thread::sleep(ms(600));
        // The second has waited longest.
        let mut fifth = Client::connect(address);
        assert_eq!(fifth.get("/5").text(), "/5 ");
        assert!(three[1].is_closed());
        for client in [&mut three[0], &mut fifth] {
            assert_eq!(client.get("/").code, 200);
        }
    });
}

#[test]
fn the_server_ends_when_it_is_told_and_what_was_begun_with_it() {
    let limits = Limits {
        handlers: 2,
        stop_time: ms(600),
        ..LIMITS
    };
    let server = Server::bind("127.0.0.1:0", limits).unwrap();
    let address = server.address();
    let (stop, n_begun) = (AtomicBool::new(false), AtomicUsize::new(0));
    let handler = |request: Request, responder: &mut Responder<'_>| {
        n_begun.fetch_add(1, Relaxed);
        if request.path == "/short" {
            wait_for("the stop", || stop.load(Relaxed));
            return echo(request, responder);
        }
        // Goes on until nothing more can be sent.
        let mut events = responder.events(Framing::ServerSent, &[]).unwrap();
        while events.comment("on").is_ok() {
            std::thread::sleep(ms(5));
        }
        assert!(events.is_gone());
    };
    std::thread::scope(|scope| {
        let served = scope.spawn(|| server.run(&handler, &stop));
        let stop_at_end = StopAtEnd(&stop);
        let ask = |path: &str| {
            let mut client = Client::connect(address);
            client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
            client
        };
        let (mut short, mut long) = (ask("/short"), ask("/long"));
        wait_for("both are handled", || n_begun.load(Relaxed) == 2);
        let mut waiting = ask("/waiting");
        let mut idle = Client::connect(address);
        std::thread::sleep(ms(400));
        drop(stop_at_end);
        let start = Instant::now();

        let answer = short.answer();
        assert_eq!((answer.code, answer.text()), (200, "/short "));
        assert!(short.is_closed());
        assert_eq!(waiting.answer().code, 503);
        assert!(idle.is_closed());
        assert_eq!(long.head().code, 200);
        while !long.is_closed() {}
        assert!(start.elapsed() >= limits.stop_time);
        drop((short, waiting, idle, long));
        served.join().unwrap().unwrap();
        assert!(start.elapsed() < limits.stop_time + limits.drain_time + SPARE);
        assert_eq!(n_begun.load(Relaxed), 2);
        // The address is free again.
        Server::bind(address, limits).unwrap();
    });
}
