//! Many clients at once: no thread for those who wait. Alone in its process, because it counts threads.
#![allow(clippy::unwrap_used)]

#[path = "common/loopback.rs"]
mod loopback;

use infall::http::{LIMITS, Request, Responder, Status};
use infall::os::{meter::Process, poll::allow_open_files};
use loopback::{Client, serve};
use std::time::{Duration, Instant};

const IDLE: usize = 1000;
const SLOW: usize = 200;
const ACTIVE: usize = 50;
const ROUNDS: usize = 20;

fn n_threads() -> Option<usize> {
    std::fs::read_dir("/proc/self/task").ok().map(|d| d.count())
}

/// One request from each; all at once would be more than the queue holds.
fn ask_all(clients: &mut [Client]) {
    for some in clients.chunks_mut(ACTIVE) {
        for client in some.iter_mut() {
            client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        }
        for client in some {
            assert_eq!(client.answer().text(), "0");
        }
    }
}

#[test]
fn a_thousand_idle_and_two_hundred_slow_clients_leave_room_for_fifty() {
    let n_files = 2 * (IDLE + SLOW + ACTIVE) as u64 + 200;
    if allow_open_files(n_files) < n_files {
        println!("skipped: this system does not allow {n_files} open files");
        return;
    }
    let limits = infall::http::Limits {
        connections: IDLE + SLOW + ACTIVE,
        ..LIMITS
    };
    let handler = |request: Request, responder: &mut Responder<'_>| {
        let n = request.body.len().to_string();
        responder.respond(Status::Ok, &[], n.as_bytes()).unwrap();
    };
    let start = Instant::now();
    let (before, memory_before) = (n_threads(), Process::now().anon_bytes);
    serve(limits, handler, |address| {
        let connect = |n: usize| (0..n).map(|_| Client::connect(address)).collect::<Vec<_>>();
        let (mut idle, mut slow, mut active) = (connect(IDLE), connect(SLOW), connect(ACTIVE));
        let connected = start.elapsed();
        // Idle ones ask at first and at last; slow ones send a body byte by byte between what the others do.
        ask_all(&mut idle);
        let length = ROUNDS + 1;
        // Their headers are as long as they may be.
        let filler = "x".repeat(limits.field_bytes - 100);
        let head = format!(
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\nX: {filler}\r\n\r\n"
        );
        slow.iter_mut().for_each(|client| client.send(&head));
        let begun = Instant::now();
        let mut slowest = Duration::ZERO;
        for _ in 0..ROUNDS {
            let round = Instant::now();
            for client in &mut active {
                client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody");
            }
            slow.iter_mut().for_each(|client| client.send("x"));
            for client in &mut active {
                assert_eq!(client.answer().text(), "4");
            }
            slowest = slowest.max(round.elapsed());
        }
        let took = begun.elapsed();
        if let (Some(before), Some(now)) = (before, n_threads()) {
            // The server's loop and its handlers.
            assert_eq!(now, before + 1 + limits.handlers);
        }
        let memory = Process::now().anon_bytes;
        if let (Some(before), Some(now)) = (memory_before, memory) {
            assert!(
                now - before < limits.memory_bytes() as u64,
                "{before} and {now}"
            );
        }
        for some in slow.chunks_mut(ACTIVE) {
            some.iter_mut().for_each(|client| client.send("x"));
            for client in some {
                assert_eq!(client.answer().text(), length.to_string());
            }
        }
        ask_all(&mut idle);
        println!(
            "{} connected in {connected:?}; {} requests of {ACTIVE} clients in {took:?}, the slowest round {slowest:?}; \
             memory before {memory_before:?}, with all {memory:?}; all in {:?}",
            IDLE + SLOW + ACTIVE,
            ACTIVE * ROUNDS,
            start.elapsed()
        );
    });
    // A thread is joined a moment before the system forgets it.
    let patience = Instant::now();
    while n_threads() != before && patience.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(n_threads(), before);
}
