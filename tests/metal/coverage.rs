//! A kernel that no test dispatches is not verified.
#![cfg(not(target_os = "macos"))]

use crate::{choices, graph, products};
use infall::backend::metal::kernels::Kernel;
use infall::backend::metal::sim::control::{self, Traced};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

thread_local! {
    static N_ORDERS: Cell<u32> = const { Cell::new(8) };
    static SEEN: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// Orders of threads in which this thread's cases run.
pub fn n_orders() -> u32 {
    N_ORDERS.get()
}

/// Remembers which kernels ran.
pub fn note(trace: &[Traced]) {
    SEEN.with_borrow_mut(|seen| seen.extend(trace.iter().map(|t| t.kernel.clone())));
}

/// All cases once more, in one order: together they run each kernel that there is.
#[test]
fn the_cases_run_every_kernel() {
    if !control::can_run() {
        return;
    }
    let cases = [
        graph::rows_are_normed,
        graph::heads_are_normed_and_rotated,
        graph::hyper_connections_mix_their_streams,
        graph::attention_over_ring_chunk_and_rows,
        graph::attention_over_chosen_rows,
        graph::attention_with_heads_of_the_model,
        graph::attention_over_shared_out_keys,
        graph::attention_over_many_keys,
        choices::the_indexer_chooses_the_lower_of_equal_rows,
        choices::the_indexer_chooses_in_spite_of_nan_and_infinity,
        choices::the_indexer_takes_some_tokens_at_a_time,
        choices::the_router_chooses_and_weighs,
        choices::equal_experts_go_to_the_lower_and_nan_loses,
        products::a_product_is_the_sum_of_its_terms,
        products::an_output_does_not_depend_on_the_number_of_tokens,
        products::tokens_are_embedded_in_all_streams,
        products::rows_that_kernels_cannot_read_are_refused,
        products::experts_of_every_format_in_both_phases,
        products::gates_are_clamped_and_outputs_summed,
    ];
    N_ORDERS.set(1);
    cases.iter().for_each(|case| case());
    let all: BTreeSet<String> = Kernel::all().into_iter().map(Kernel::name).collect();
    let seen = SEEN.take();
    let missing: Vec<_> = all.difference(&seen).collect();
    assert!(missing.is_empty(), "never run: {missing:?}");
    assert_eq!(seen, all);
}
