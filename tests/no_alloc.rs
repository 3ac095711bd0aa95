//! The decode loop allocates nothing: memory is made at start, and a token only uses it.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(unsafe_code)]

mod common;

use common::{Loaded, golden, micro_ids};
use infall::backend::Backend;
use infall::graph::{RouteProbe, Routing};
use infall::options::{Budget, Options};
use infall::routes;
use infall::sampler::guide::{Guide, Opening};
use infall::sampler::vocabulary::{GuideVocabulary, Marks};
use infall::sampler::{Sampler, SamplerOptions};
use infall::schema::Schema;
use infall::supply::STRATEGIES;
use infall::units::TokenId;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator as it came; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A probe that writes a trace into the null device.
fn trace() -> RouteProbe {
    let header = routes::Header {
        model: "micro-q2.gguf".into(),
        model_hash: 0,
        n_layer: 5,
        n_expert: 8,
        n_used: 3,
        n_vocab: 512,
    };
    let out = std::fs::File::create("/dev/null").unwrap();
    let mut recorder = routes::Recorder::new(out, "null", header, 400).unwrap();
    Box::new(move |what| {
        match what {
            Routing::Begin { phase, n_tokens } => recorder.begin(phase, n_tokens),
            Routing::Chosen { layer, tokens, ids } => recorder.chosen(layer, tokens, ids),
            Routing::End => return recorder.end(),
        }
        Ok(())
    })
}

#[test]
fn decoding_and_choosing_allocate_nothing() {
    decoding();
    choosing_held();
}

/// Answers of a given form, once their states were seen: here all tokens of a string.
fn choosing_held() {
    let bytes: Vec<[u8; 1]> = (0..=255).map(|byte| [byte]).collect();
    let tokens = bytes.iter().map(|byte| Some(&byte[..])).chain([None]);
    let marks = Marks {
        end: TokenId(256),
        call: None,
        turns: Vec::new(),
    };
    let vocabulary = Arc::new(GuideVocabulary::new(tokens, marks).unwrap());
    let grammar = Schema::json(false).unwrap().grammar();
    let mut sampler = Sampler::new(SamplerOptions {
        min_p: 0.1,
        ..SamplerOptions::default()
    })
    .unwrap();
    sampler.set_guide(Some(Guide::new(vocabulary, grammar, Opening::default())));
    let mut logits = [0.0; 257];
    logits[usize::from(b'"')] = 10.0;
    sampler.sample(&logits).unwrap();
    (logits[usize::from(b'"')], logits[usize::from(b'a')]) = (0.0, 10.0);
    sampler.sample(&logits).unwrap();
    let before = CALLS.load(Ordering::Relaxed);
    for _ in 0..300 {
        sampler.sample(&logits).unwrap();
    }
    assert_eq!(CALLS.load(Ordering::Relaxed) - before, 0);
}

fn decoding() {
    for (strategy, watched) in STRATEGIES.iter().flat_map(|s| [(s, false), (s, true)]) {
        let mut options = Options::new(golden("micro-q2.gguf"));
        (options.threads, options.ctx, options.prefill_chunk) = (2, 400, 64);
        options.strategy = strategy.name.into();
        // Less than all 40, so that experts come and go.
        options.supply.budget = Budget::Experts(20);
        let mut loaded = Loaded::open(&options).unwrap();
        let ids = micro_ids();
        loaded.graph.set_route_probe(watched.then(trace));
        if watched {
            loaded.graph.backend().start_profile();
        }
        let mut session = loaded.session();
        session
            .prefill(&mut loaded.graph, &ids[..100], &mut |_| true)
            .unwrap();
        // The first tokens may still grow scratch; then windows close and the indexer chooses, without any.
        ids[100..110]
            .iter()
            .for_each(|id| session.decode(&mut loaded.graph, *id).unwrap());
        let before = CALLS.load(Ordering::Relaxed);
        ids[110..150]
            .iter()
            .for_each(|id| session.decode(&mut loaded.graph, *id).unwrap());
        let calls = CALLS.load(Ordering::Relaxed) - before;
        assert_eq!(
            calls, 0,
            "allocations in 40 tokens, {}, traced and profiled: {watched}",
            strategy.name
        );
        let stats = loaded.graph.supply_stats();
        assert!(
            strategy.name == "full" || stats.evictions > 100,
            "{stats:?}"
        );
    }
}
