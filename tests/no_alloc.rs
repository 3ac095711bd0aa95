//! The decode loop allocates nothing: memory is made at start, and a token only uses it.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(unsafe_code)]

mod common;

use common::{Loaded, golden, micro_ids};
use infall::options::{Budget, Options};
use infall::supply::STRATEGIES;
use std::alloc::{GlobalAlloc, Layout, System};
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

#[test]
fn decoding_allocates_nothing() {
    for strategy in STRATEGIES {
        let mut options = Options::new(golden("micro-q2.gguf"));
        (options.threads, options.ctx, options.prefill_chunk) = (2, 400, 64);
        options.strategy = strategy.name.into();
        // Less than all 40, so that experts come and go.
        options.supply.budget = Budget::Experts(20);
        let mut loaded = Loaded::open(&options).unwrap();
        let ids = micro_ids();
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
        assert_eq!(calls, 0, "allocations in 40 tokens, {}", strategy.name);
        let stats = loaded.graph.supply_stats();
        assert!(
            strategy.name == "full" || stats.evictions > 100,
            "{stats:?}"
        );
    }
}
