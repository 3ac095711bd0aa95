//! Random damage to good requests and good JSON, in bounded memory: a request, a need for more bytes, or one status;
//! a value that serde_json reads too, or an error. And to the keys and shapes of a model file: a sound model, or an
//! error. Two seconds of each; `scripts/fuzz.sh` goes on for longer.
#![allow(clippy::unwrap_used)]
#![allow(unsafe_code)]

mod common;

use common::{golden, put_value};
use infall::error::ErrorKind;
use infall::gguf::Gguf;
use infall::gguf::writer::Writer;
use infall::http::{LIMITS, Limits, Parser, Request, Step};
use infall::json::{self, Value};
use infall::model::{ExpertChoice, Model};
use infall::os::{File, ReadAt};
use infall::quant::Format;
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

/// Checks damaged input of a corpus; see [`fuzz_made`].
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
    for good in &corpus {
        check(good, &mut Rng::new(1));
    }
    fuzz_made(what, |rng| mutated(&corpus, rng), check);
}

/// Checks what `make` makes until the time is over; an input that fails is shown.
fn fuzz_made(
    what: &str,
    make: impl Fn(&mut Rng) -> Vec<u8>,
    check: impl Fn(&[u8], &mut Rng) -> &'static str,
) {
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
    while start.elapsed() < Duration::from_secs(seconds) {
        let input = make(&mut rng);
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

/// Keys of the architecture, those that may be missing too.
const KEYS: &[&str] = &[
    "block_count",
    "nextn_predict_layers",
    "embedding_length",
    "embedding_length_out",
    "vocab_size",
    "context_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.q_lora_rank",
    "attention.output_lora_rank",
    "attention.output_group_count",
    "attention.sliding_window",
    "attention.indexer.head_count",
    "attention.indexer.key_length",
    "attention.indexer.top_k",
    "attention.compress_ratios",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "expert_count",
    "expert_used_count",
    "expert_shared_count",
    "expert_feed_forward_length",
    "expert_weights_scale",
    "hash_layer_count",
    "hyper_connection.count",
    "swiglu_clamp_exp",
    "swiglu_clamp_shexp",
];

/// A number that is likely to be wrong in an interesting way.
fn number(rng: &mut Rng) -> u64 {
    let some = [
        0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1024,
    ];
    match rng.below(8) {
        0 => rng.next_u64(),
        1 => u64::MAX >> rng.below(64),
        _ => some[rng.below(some.len())],
    }
}

/// The header of the small golden model with one to four changes to its keys and tensors.
fn changed_header(model: &Gguf, rng: &mut Rng) -> Vec<u8> {
    let name = |key: &str| format!("deepseek4.{key}");
    let mut without = Vec::new();
    let mut w = Writer::new();
    let mut tensors: Vec<_> = model
        .tensors
        .iter()
        .map(|t| (t.name.clone(), t.dims.clone(), t.format))
        .collect();
    for _ in 0..1 + rng.below(4) {
        let key = name(KEYS[rng.below(KEYS.len())]);
        let at = rng.below(tensors.len().max(1));
        match rng.below(9) {
            0 | 1 if !without.contains(&key) => {
                w.u32(&key, number(rng) as u32);
                without.push(key);
            }
            2 if !without.contains(&key) => {
                let n = rng.below(9);
                w.i32_array(&key, &Vec::from_iter((0..n).map(|_| number(rng) as i32)));
                without.push(key);
            }
            3 if !without.contains(&key) => {
                let some = [0.0, -1.0, 1e38, f32::NAN, f32::INFINITY, 1.5];
                w.f32(&key, some[rng.below(some.len())]);
                without.push(key);
            }
            4 => without.push(key),
            5 => drop(tensors.swap_remove(at)),
            6 => {
                let dims = &mut tensors[at].1;
                let axis = rng.below(dims.len());
                dims[axis] = number(rng);
            }
            7 => {
                let (block, from) = (number(rng), rng.below(6));
                for (name, ..) in &mut tensors {
                    *name = name.replace(&format!("blk.{from}."), &format!("blk.{block}."));
                }
            }
            _ => {
                let block = if rng.below(4) == 0 { number(rng) } else { 5 };
                tensors.push((
                    format!("blk.{block}.nextn.enorm.weight"),
                    vec![256],
                    Format::F32,
                ));
            }
        }
    }
    for key in model.keys().filter(|key| !without.iter().any(|w| w == key)) {
        put_value(&mut w, key, model.value(key).unwrap());
    }
    for (name, dims, format) in &tensors {
        // Some shapes cannot even be written.
        let _ = w.tensor(name, dims, *format);
    }
    w.header()
}

/// A file of any length of which the header exists.
struct HeaderOnly<'a>(&'a [u8]);

impl ReadAt for HeaderOnly<'_> {
    fn len(&self) -> u64 {
        1 << 60
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> infall::error::Result<()> {
        let start = usize::try_from(offset).unwrap().min(self.0.len());
        let n = buf.len().min(self.0.len() - start);
        buf[..n].copy_from_slice(&self.0[start..][..n]);
        buf[n..].fill(0);
        Ok(())
    }

    fn name(&self) -> &str {
        "header"
    }
}

#[test]
fn changed_keys_and_shapes_are_a_sound_model_or_an_error_in_bounded_memory() {
    let file = File::open(&golden("micro-q2.gguf")).unwrap();
    let model = Gguf::read(&file).unwrap();
    let read = |input: &[u8]| Gguf::read(&HeaderOnly(input)).and_then(Model::bind);
    let make = |rng: &mut Rng| changed_header(&model, rng);
    fuzz_made("keys", make, |input, _| {
        let (model, most) = most_held(|| read(input));
        // Tensors and tokens are held once as read, once by meaning.
        assert!(most <= 64 * input.len() + (1 << 20), "{most} bytes");
        let model = match model {
            Ok(model) => model,
            Err(error) => {
                assert!(error.to_string().starts_with("header: "), "{error}");
                return "an error";
            }
        };
        // What the graph takes for granted.
        let (c, w) = (&model.config, &model.weights);
        assert_eq!((c.layers.len(), w.layers.len()), (c.n_layer, c.n_layer));
        assert_eq!((w.output.rows, w.output.cols), (c.n_vocab, c.n_embd));
        assert!(c.n_head.is_multiple_of(c.n_group_o) && c.n_expert_used <= c.n_expert);
        for (layer, tensors) in c.layers.iter().zip(&w.layers) {
            assert_eq!(tensors.attn.output_a.cols * c.n_group_o, c.q_width());
            assert_eq!(tensors.attn.output_a.rows, c.n_group_o * c.n_lora_o);
            assert_eq!(layer.kind.ratio().is_some(), tensors.compressor.is_some());
            let hash = matches!(tensors.moe.choice, ExpertChoice::Hash(_));
            assert_eq!(layer.hash_routed, hash);
        }
        assert!(model.token_bytes() > 0 && model.experts.total_bytes() > 0);
        "a model"
    });
}
