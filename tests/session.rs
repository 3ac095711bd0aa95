//! What a session promises: the same bits for every chunk size, thread count and kernel table, and a way back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Loaded, golden, kernel_choices, micro_ids, tiny};
use infall::options::{KernelChoice, KvFormat, Options};
use infall::session::Prefill;
use infall::units::TokenId;
use std::path::Path;

fn open(model: &Path, kernels: KernelChoice, chunk: usize, threads: usize) -> Loaded {
    let mut options = Options::new(model);
    options.kernels = kernels;
    options.ctx = 2000;
    options.prefill_chunk = chunk;
    options.threads = threads;
    Loaded::open(&options).unwrap()
}

/// Tokens of the shipped model's vocabulary, enough for its indexer to choose (from position 259 on).
fn tiny_ids(n: usize) -> Vec<TokenId> {
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        TokenId((state >> 33) as u32 % 4096)
    };
    (0..n).map(|_| next()).collect()
}

fn assert_same_bits(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}");
    let differs = a
        .iter()
        .zip(b)
        .position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!(differs, None, "{what}: first element that differs");
}

#[test]
fn logits_have_the_same_bits_for_every_chunk_and_thread_count() {
    for (model, ids) in [
        (golden("micro-q2.gguf"), micro_ids()),
        (tiny(), tiny_ids(450)),
    ] {
        for kernels in kernel_choices() {
            // The plain table is slow: the small model suffices for it.
            if kernels == KernelChoice::Scalar && model == tiny() {
                continue;
            }
            let whole = open(&model, kernels, ids.len(), 1).logits(&ids, ids.len());
            assert!(whole.iter().all(|v| v.is_finite()));
            let all = [
                (7, ids.len(), 3),
                (400, 0, 2),
                (64, ids.len(), 2),
                (1, ids.len(), 2),
                (400, ids.len(), 2),
                (131, 300, 1),
            ];
            // All tables cut their work alike: the cases that are left out for the others are done by the best.
            let n = if Some(&kernels) == kernel_choices().last() {
                all.len()
            } else {
                2
            };
            for (chunk, decode_from, threads) in all.into_iter().take(n) {
                let found = open(&model, kernels, chunk, threads).logits(&ids, decode_from);
                let what = format!(
                    "{kernels:?}, chunk {chunk}, decode from {decode_from}, {threads} threads"
                );
                assert_same_bits(&what, &found, &whole);
            }
        }
    }
}

/// Rounded KV rows must not know chunks either.
#[test]
fn logits_have_the_same_bits_with_rounded_rows() {
    let ids = micro_ids();
    for kv in [KvFormat::F16, KvFormat::Official] {
        let logits = |chunk, threads, decode_from| {
            let mut options = Options::new(golden("micro-q2.gguf"));
            (
                options.kv,
                options.ctx,
                options.prefill_chunk,
                options.threads,
            ) = (kv, 400, chunk, threads);
            Loaded::open(&options).unwrap().logits(&ids, decode_from)
        };
        let whole = logits(400, 1, 400);
        assert_same_bits(&format!("{kv:?}, chunk 33"), &logits(33, 2, 400), &whole);
        assert_same_bits(&format!("{kv:?}, one by one"), &logits(400, 2, 0), &whole);
    }
}

#[test]
fn a_rewound_session_goes_on_as_if_nothing_had_followed() {
    let ids = micro_ids();
    let mut loaded = open(&golden("micro-q2.gguf"), KernelChoice::Auto, 64, 2);
    // Before and behind borders of windows (4, 128) and of the ring.
    for at in [0, 1, 129, 130, 131, 255] {
        let mut session = loaded.session();
        session
            .prefill(&mut loaded.graph, &ids[..at], &mut |_| true)
            .unwrap();
        let point = session.checkpoint(&mut loaded.graph).unwrap();
        session
            .prefill(
                &mut loaded.graph,
                &ids[at..].iter().rev().copied().collect::<Vec<_>>(),
                &mut |_| true,
            )
            .unwrap();
        session.rewind(&mut loaded.graph, &point).unwrap();
        assert_eq!(session.tokens(), &ids[..at]);
        session
            .prefill(&mut loaded.graph, &ids[at..300], &mut |_| true)
            .unwrap();

        let mut straight = loaded.session();
        straight
            .prefill(&mut loaded.graph, &ids[..300], &mut |_| true)
            .unwrap();
        assert_same_bits(
            &format!("rewound to {at}"),
            session.logits(),
            straight.logits(),
        );
    }
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_before_any_work() {
    let ids = tiny_ids(2001);
    let mut loaded = open(&tiny(), KernelChoice::Auto, 64, 1);
    let mut session = loaded.session();
    let mut calls = 0;
    let mut count = |_| {
        calls += 1;
        true
    };
    let error = session
        .prefill(&mut loaded.graph, &ids, &mut count)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("2001 tokens do not fit: 0 of the context's 2000"),
        "{error}"
    );
    assert_eq!(calls, 0);
    assert!(session.tokens().is_empty());
}

#[test]
fn a_stopped_prefill_keeps_whole_sweeps_and_can_go_on() {
    let ids = tiny_ids(200);
    let mut options = Options::new(tiny());
    (options.ctx, options.threads) = (2000, 1);
    (options.prefill_chunk, options.prefill_sweep) = (16, 64);
    let mut loaded = Loaded::open(&options).unwrap();
    let mut session = loaded.session();
    let end = session
        .prefill(&mut loaded.graph, &ids, &mut |done| done < 150)
        .unwrap();
    assert_eq!((end, session.tokens().len()), (Prefill::Stopped, 128));
    session
        .prefill(&mut loaded.graph, &ids[128..], &mut |_| true)
        .unwrap();
    let mut straight = loaded.session();
    straight
        .prefill(&mut loaded.graph, &ids, &mut |_| true)
        .unwrap();
    assert_same_bits("after a stop", session.logits(), straight.logits());
}

#[test]
fn a_foreign_token_is_an_error_and_harms_nothing() {
    let mut loaded = open(&tiny(), KernelChoice::Auto, 64, 1);
    let mut session = loaded.session();
    let error = session
        .decode(&mut loaded.graph, TokenId(4096))
        .unwrap_err();
    assert!(error.to_string().contains("4096"), "{error}");
    session.decode(&mut loaded.graph, TokenId(4095)).unwrap();
    assert_eq!(session.tokens(), [TokenId(4095)]);
}

/// What a token costs in barriers: the jobs that threads share, of each of which all wait for the last.
#[test]
fn a_token_takes_few_jobs_of_the_pool() {
    let ids = tiny_ids(410);
    for kernels in kernel_choices() {
        let mut loaded = open(&tiny(), kernels, 512, 2);
        let mut session = loaded.session();
        session
            .prefill(&mut loaded.graph, &ids[..400], &mut |_| true)
            .unwrap();
        let before = loaded.graph.backend().n_jobs();
        for id in &ids[400..] {
            session.decode(&mut loaded.graph, *id).unwrap();
        }
        let jobs = loaded.graph.backend().n_jobs() - before;
        // Ten tokens of six layers, and their heads.
        println!("{kernels:?}: {:.1} jobs a layer", jobs as f64 / 60.0);
        assert!((1..=15 * 60).contains(&jobs), "{kernels:?}: {jobs} jobs");
    }
}
