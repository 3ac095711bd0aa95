//! Random damage to good requests and good JSON, in bounded memory: a request, a need for more bytes, or one status;
//! a value that serde_json reads too, or an error. Two seconds of each; `scripts/fuzz.sh` goes on for longer.
#![allow(clippy::unwrap_used)]
#![allow(unsafe_code)]

use infall::error::ErrorKind;
use infall::http::{LIMITS, Limits, Parser, Request, Step};
use infall::json::{self, Value};
use infall::rng::Rng;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

/// Counts the bytes that a thread holds, and the most it held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    HELD.set(HELD.get() + bytes);
    MOST.set(MOST.get().max(HELD.get()));
}

// SAFETY: every call is handed to the system's allocator as it came; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The bytes that `work` holds at most, beside what was there before.
fn most_held<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    MOST.set(before);
    let result = work();
    (result, (MOST.get() - before) as usize)
}

/// What turns requests and JSON into others when it comes in.
const WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\r\n\r\n",
    " ",
    "\t",
    ":",
    "0",
    "-1",
    "+",
    "%",
    "%00",
    "%2f",
    ";",
    "\0",
    "\u{7f}",
    "\u{e9}",
    "ffffffffffffffff",
    "99999999999999999999",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close\r\n",
    "Expect: 100-continue\r\n",
    "Host: h\r\n",
    "HTTP/1.0",
    "GET ",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "\\",
    "\\u",
    "\\ud800",
    "\\udc00",
    ",",
    "null",
    "true",
    "1e400",
    "1e-400",
    ".",
    "e",
    "\"a\":",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":",
];

/// One of the corpus with one to eight changes.
fn mutated(corpus: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = corpus[rng.below(corpus.len())].clone();
    let n_changes = 1 + rng.below(8);
    for _ in 0..1 + rng.below(n_changes) {
        let (a, b) = (rng.below(bytes.len() + 1), rng.below(bytes.len() + 1));
        let (a, b) = (a.min(b), a.max(b));
        match rng.below(7) {
            0 => bytes.truncate(a),
            1 => drop(bytes.drain(a..b.min(a + 8))),
            2 => {
                let word = WORDS[rng.below(WORDS.len())];
                bytes.splice(a..a, word.bytes());
            }
            3 => {
                let piece = bytes[a..b].to_vec();
                bytes.splice(b..b, piece);
            }
            4 => {
                let other = &corpus[rng.below(corpus.len())];
                let from = rng.below(other.len() + 1);
                bytes.truncate(a);
                bytes.extend_from_slice(&other[from..]);
            }
            what => {
                if let Some(byte) = bytes.get_mut(a) {
                    let bit = 1 << rng.below(8);
                    *byte = if what == 5 {
                        *byte ^ bit
                    } else {
                        rng.next_u64() as u8
                    };
                }
            }
        }
        bytes.truncate(4096);
    }
    bytes
}

/// Checks damaged input until the time is over; an input that fails is shown.
fn fuzz(what: &str, check: impl Fn(&[u8], &mut Rng) -> &'static str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(what);
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    let corpus: Vec<Vec<u8>> = paths.iter().map(|p| std::fs::read(p).unwrap()).collect();
    let asked = std::env::var("INFALL_FUZZ_SECONDS").ok();
    let seconds = asked.as_ref().map_or(2, |s| s.parse().unwrap());
    // The short run is the same on each machine as far as it gets.
    let seed = asked.map_or(1, |_| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().as_nanos() as u64
    });
    let mut rng = Rng::new(seed);
    let (start, mut n) = (Instant::now(), 0_u64);
    let mut outcomes = std::collections::BTreeMap::new();
    for good in &corpus {
        check(good, &mut rng);
    }
    while start.elapsed() < Duration::from_secs(seconds) {
        let input = mutated(&corpus, &mut rng);
        let checked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&input, &mut rng)));
        let Ok(outcome) = checked else {
            panic!("seed {seed}, input {n}: {}", input.escape_ascii());
        };
        *outcomes.entry(outcome).or_insert(0_u64) += 1;
        n += 1;
    }
    println!("{what}: seed {seed}, {n} inputs: {outcomes:?}");
    assert!(outcomes.len() > 1, "all inputs had one outcome");
}

/// Small, so that damaged requests pass them.
const SMALL: Limits = Limits {
    line_bytes: 100,
    field_bytes: 200,
    fields: 6,
    body_bytes: 300,
    ..LIMITS
};

/// What a connection holds at most under these limits, with what is collected here: the first room of a body is
/// 16 KiB, and requests that were read stay in the list.
const MOST_HELD: usize = 128 << 10;

fn outcomes<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Step> {
    let mut parser = Parser::new(&SMALL);
    let mut all = Vec::new();
    for piece in pieces {
        parser.push(piece);
        loop {
            match parser.step() {
                Step::More => break,
                Step::Continue => {}
                Step::Request(mut request) => {
                    check_request(&request);
                    request.body.shrink_to_fit();
                    all.push(Step::Request(request));
                }
                refused => {
                    all.push(refused);
                    break;
                }
            }
        }
    }
    all
}

fn check_request(request: &Request) {
    assert!(request.body.len() <= SMALL.body_bytes);
    assert!(request.fields.len() <= SMALL.fields);
    let n_bytes: usize = request
        .fields
        .iter()
        .map(|(n, v)| n.len() + v.len() + 3)
        .sum();
    assert!(n_bytes <= SMALL.field_bytes);
    assert!(request.path.starts_with('/') || request.path == "*");
    let texts = request.fields.iter().flat_map(|(n, v)| [n, v]);
    let mut texts = texts.chain([&request.path, &request.query, &request.host]);
    assert!(texts.all(|t| !t.contains(|c: char| c.is_control() && c != '\t')));
}

#[test]
fn damaged_requests_have_one_outcome_in_bounded_memory() {
    fuzz("http", |input, rng| {
        let (whole, most) = most_held(|| outcomes([input].into_iter()));
        assert!(most <= MOST_HELD, "{most} bytes");
        let mut rest = input;
        let cuts = std::iter::from_fn(|| {
            let n = rest.len().min(1 + rng.below(40));
            let (piece, behind) = rest.split_at(n);
            rest = behind;
            (!piece.is_empty()).then_some(piece)
        });
        assert_eq!(outcomes(cuts), whole);
        match whole.last() {
            None => "more bytes",
            Some(Step::Request(_)) => "requests",
            Some(Step::Refused(refusal)) => refusal.status.reason(),
            Some(other) => panic!("{other:?}"),
        }
    });
}

/// Equal, but for the last bits of numbers, which serde_json does not round as well.
fn is_same(ours: &Value, theirs: &serde_json::Value) -> bool {
    use serde_json::Value as V;
    match (ours, theirs) {
        (Value::Null, V::Null) => true,
        (Value::Bool(a), V::Bool(b)) => a == b,
        (Value::Count(a), V::Number(b)) => Some(*a) == b.as_u64(),
        (Value::Number(a), V::Number(b)) => {
            let b = b.as_f64().unwrap();
            (a - b).abs() <= a.abs() * 1e-14 || (a - b).abs() < 1e-320
        }
        (Value::Text(a), V::String(b)) => a == b,
        (Value::List(a), V::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(a), V::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(n, v)| b.get(n).is_some_and(|b| is_same(v, b)))
        }
        _ => false,
    }
}

#[test]
fn damaged_json_is_read_as_serde_reads_it_in_bounded_memory() {
    fuzz("json", |input, _| {
        let (ours, most) = most_held(|| Value::read(input, &json::LIMITS));
        // A list of one item takes three bytes, and room for four; names are held twice while an object is read.
        assert!(most <= 200 * input.len() + 1024, "{most} bytes");
        let theirs: Result<serde_json::Value, _> = serde_json::from_slice(input);
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => {
                assert!(is_same(&ours, &theirs), "{ours} and {theirs}");
                let written = ours.to_string();
                assert_eq!(Value::parse(&written).unwrap().to_string(), written);
                "a value"
            }
            (Err(_), Err(_)) => "an error",
            (Err(error), Ok(_)) => {
                // What only we refuse.
                let is_ours =
                    error.kind() == ErrorKind::Limit || error.to_string().contains("no second");
                assert!(is_ours, "{error}");
                "refused by us alone"
            }
            (Ok(value), Err(error)) => panic!("{value}: {error}"),
        }
    });
}
