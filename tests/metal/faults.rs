//! What goes wrong on the software device is an error that leaves nothing behind.
#![cfg(all(
    not(target_os = "macos"),
    feature = "nommap",
    feature = "residency-lru"
))]

use crate::common::{golden, micro_ids};
use crate::model::{bits, open, options};
use infall::backend::metal::sim::control;
use infall::error::Result;
use infall::options::{BackendChoice, Budget, Options};

fn streaming(strategy: &str, budget: u64) -> Options {
    let mut options = options(&golden("micro-q2.gguf"), 16);
    (options.backend, options.ctx) = (BackendChoice::Metal, 64);
    options.strategy = strategy.into();
    options.supply.budget = Budget::Experts(budget);
    options
}

/// Opens a model, reads a prompt and decodes two tokens: the logits after the last, as bits.
fn run(options: Options) -> Result<Vec<u32>> {
    let prepared = infall::engine::Prepared::new(options)?;
    let mut engine = prepared.load(&mut |_, _| {})?;
    let mut session = engine.session()?;
    engine.prefill(&mut session, &micro_ids()[..20], &mut |_| true)?;
    engine.decode(&mut session, micro_ids()[20])?;
    engine.decode(&mut session, micro_ids()[21])?;
    Ok(session.logits().iter().map(|v| v.to_bits()).collect())
}

/// Each of the first failures, then fewer and fewer of the later ones.
fn some_of(n: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(0), |n| Some(n + 1 + n / 3)).take_while(move |i| *i < n)
}

#[test]
fn each_refused_allocation_is_an_error_and_leaves_nothing() {
    if !control::can_run() {
        return;
    }
    for strategy in ["nommap", "residency-lru"] {
        control::reset();
        let expected = run(streaming(strategy, 20)).unwrap();
        let n = control::counts().allocations;
        assert!(n > 100, "{n}");
        for i in some_of(n) {
            control::reset();
            control::fail_allocation(i);
            match run(streaming(strategy, 20)) {
                // Some are done without: the limits are read twice.
                Ok(found) => assert!(found == expected, "{strategy}, allocation {i}: other bits"),
                Err(error) => assert!(error.to_string().contains("Metal"), "{error}"),
            }
            assert_eq!(control::live(), [], "{strategy}, allocation {i} of {n}");
        }
    }
}

#[test]
fn a_failed_command_buffer_is_an_error_and_the_next_run_works() {
    if !control::can_run() {
        return;
    }
    control::reset();
    let expected = run(streaming("nommap", 20)).unwrap();
    let n = control::counts().commits;
    for i in some_of(n) {
        control::reset();
        control::fail_command_buffer(i);
        let error = run(streaming("nommap", 20)).unwrap_err();
        assert!(
            error.to_string().contains("command buffer"),
            "{i} of {n}: {error}"
        );
        assert_eq!(control::live(), [], "command buffer {i} of {n}");
    }
    assert!(run(streaming("nommap", 20)).unwrap() == expected);
}

#[test]
fn a_session_goes_on_after_a_failed_command_buffer() {
    if !control::can_run() {
        return;
    }
    control::reset();
    let mut loaded = open(&streaming("nommap", 20));
    let mut session = loaded.session();
    let tokens = &micro_ids()[..20];
    session
        .prefill(&mut loaded.graph, tokens, &mut |_| true)
        .unwrap();
    let expected = session.logits().to_vec();
    control::fail_command_buffer(3);
    assert!(session.decode(&mut loaded.graph, micro_ids()[20]).is_err());
    assert!(session.tokens().is_empty(), "what is broken is forgotten");
    session
        .prefill(&mut loaded.graph, tokens, &mut |_| true)
        .unwrap();
    assert_eq!(session.logits(), expected);
}

/// Nothing that a failed command buffer should have written is taken to be there.
#[test]
fn the_same_work_is_done_again_after_a_failed_command_buffer() {
    if !control::can_run() {
        return;
    }
    control::reset();
    control::set_order_check(false);
    let tokens = &micro_ids()[..16];
    let expected = {
        let mut loaded = open(&streaming("nommap", 20));
        let mut session = loaded.session();
        session
            .prefill(&mut loaded.graph, tokens, &mut |_| true)
            .unwrap();
        session.logits().to_vec()
    };
    for i in 0..4 {
        let mut loaded = open(&streaming("nommap", 20));
        let mut session = loaded.session();
        let mut prefill = || {
            session
                .prefill(&mut loaded.graph, tokens, &mut |_| true)
                .map(|_| session.logits().to_vec())
        };
        control::fail_command_buffer(i);
        assert!(prefill().is_err(), "command buffer {i}");
        assert!(
            prefill().unwrap() == expected,
            "command buffer {i}: other logits"
        );
    }
}

/// Before macOS 15 there are no residency sets: what is reached by address is named to each encoder.
#[test]
fn systems_without_residency_sets_give_the_same_bits() {
    if !control::can_run() {
        return;
    }
    let ids = micro_ids();
    for strategy in ["nommap", "residency-lru", "full"] {
        control::reset();
        let expected = bits(&streaming(strategy, 20), &ids[..20], &ids[20..23]);
        assert!(control::counts().residency_commits > 0);
        control::reset();
        control::set_limits(|limits| limits.macos_15 = false);
        let found = bits(&streaming(strategy, 20), &ids[..20], &ids[20..23]);
        assert!(found == expected, "{strategy}: other bits");
        assert_eq!(control::counts().residency_commits, 0);
        assert!(control::counts().used_resources > 0);
    }
}

/// Views of experts that were given up are let go: what is shared is the weights and the budget, never more.
#[test]
fn what_is_given_up_is_let_go() {
    if !control::can_run() {
        return;
    }
    control::reset();
    let mut loaded = open(&streaming("residency-lru", 6));
    let memory = loaded.graph.backend().memory();
    let mut session = loaded.session();
    let (weights, _, _) = memory.counts();
    session
        .prefill(&mut loaded.graph, &micro_ids()[..5], &mut |_| true)
        .unwrap();
    for (i, token) in micro_ids()[5..15].iter().enumerate() {
        let (_, _, before) = memory.counts();
        session.decode(&mut loaded.graph, *token).unwrap();
        let (shared, _, commits) = memory.counts();
        // Three views an expert; six experts.
        assert!(
            shared <= weights + 3 * 6,
            "{shared} buffers, {weights} of them weights"
        );
        assert!(
            i == 0 || commits - before <= 1,
            "one commit a token, found {}",
            commits - before
        );
    }
    // At the end each is taken back by itself. Nothing is new then, so residency is not asked for; but by the thread.
    let before = control::counts();
    drop((session, loaded, memory));
    let after = control::counts();
    assert!(after.residency_commits > before.residency_commits + weights / 2);
    assert!(after.residency_requests <= before.residency_requests + 10);
    assert_eq!(control::live(), []);
}
