//! The whole forward pass against logits and residual streams of independent implementations.

mod common;

use common::{Loaded, beside, floats, golden, micro_ids};
use infall::options::{KernelChoice, KvFormat, Options};
use std::path::Path;
use std::sync::{Arc, Mutex};

fn micro(path: &Path, kernels: KernelChoice, chunk: usize, threads: usize) -> Loaded {
    let mut options = Options::new(path);
    options.kernels = kernels;
    options.kv = KvFormat::F32;
    options.ctx = 400;
    options.prefill_chunk = chunk;
    options.threads = threads;
    Loaded::open(&options).unwrap()
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |m, d| if d.is_nan() { f32::NAN } else { d.max(m) })
}

fn float_path_matches(model: &Path, logits: &Path) {
    let (tokens, expected) = (micro_ids(), floats(logits));
    for (chunk, decode_from) in [(400, 400), (64, 400), (7, 400), (400, 1)] {
        let found = micro(model, KernelChoice::Scalar, chunk, 2).logits(&tokens, decode_from);
        let worst = max_difference(&found, &expected);
        println!("chunk {chunk}, decode from {decode_from}: largest difference {worst:.2e}");
        assert!(
            worst <= 1e-3,
            "chunk {chunk}, decode from {decode_from}: {worst}"
        );
    }
}

#[test]
fn micro_q2_float_path_matches_float64() {
    float_path_matches(&golden("micro-q2.gguf"), &golden("micro-q2.logits.f32"));
}

#[test]
fn micro_q4_float_path_matches_float64() {
    if let (Some(model), Some(logits)) = (beside("micro-q4.gguf"), beside("micro-q4.logits.f32")) {
        float_path_matches(&model, &logits);
    }
}

#[test]
fn residual_streams_match_after_every_layer() {
    const POSITIONS: [usize; 6] = [0, 3, 17, 127, 128, 300];
    let expected = floats(&golden("micro-q2.hidden.f32"));
    let mut loaded = micro(&golden("micro-q2.gguf"), KernelChoice::Scalar, 400, 2);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    loaded.probe(Box::new(move |_, streams| {
        sink.lock().unwrap().push(streams.to_vec())
    }));
    loaded.logits(&micro_ids(), 400);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 6);
    for (layer, streams) in seen.iter().enumerate() {
        for (i, p) in POSITIONS.into_iter().enumerate() {
            let expected = &expected[(layer * 6 + i) * 1024..][..1024];
            let found = &streams[p * 1024..][..1024];
            let size = expected.iter().map(|v| v.abs()).fold(0.0, f32::max);
            let worst = max_difference(found, expected) / size;
            assert!(
                worst <= 1e-4,
                "layer {layer}, position {p}: relative difference {worst}"
            );
        }
    }
}
