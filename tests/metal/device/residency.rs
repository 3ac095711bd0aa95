//! Memory that kernels reach by addresses.

use crate::{Bench, check, values};
use infall::backend::metal::api::{Buffer, ResidencySet};
use infall::backend::metal::sim::control;

const NOT_RESIDENT: &str =
    "kernel follow: buffer 1 holds an address in a buffer of 8 bytes, which is neither";

/// A table with the address of a buffer.
fn table(bench: &Bench, to: &Buffer) -> Buffer {
    let table = bench
        .device
        .new_buffer(8, super::Storage::SharedTracked)
        .unwrap();
    table.write(0, &to.gpu_address().to_ne_bytes());
    table
}

fn set(bench: &Bench) -> ResidencySet {
    let set = bench.device.new_residency_set().unwrap().unwrap();
    bench.queue.add_residency_set(&set);
    set
}

/// Reads a buffer of 8 bytes through a table, after `prepare`.
fn follow(expected: &[&str], prepare: impl Fn(&Bench, &Buffer) -> Option<ResidencySet>) {
    check(expected, |bench| {
        let weights = bench.untracked(&[7.0, 8.0]);
        let (table, y) = (table(bench, &weights), bench.tracked(&[0.0; 2]));
        let set = prepare(bench, &weights);
        bench.run(true, |e| {
            bench.dispatch(e, "follow", 2, &[(&table, 0), (&y, 0)])
        });
        assert_eq!(values(&y), [7.0, 8.0]);
        if let Some(set) = set {
            bench.queue.remove_residency_set(&set);
        }
    });
}

#[test]
fn what_is_in_no_set_is_not_there() {
    follow(&[NOT_RESIDENT], |_, _| None);
}

#[test]
fn a_committed_set_of_the_queue_makes_it_resident() {
    let empty = |set: &ResidencySet, weights: &Buffer| {
        set.remove_allocation(weights);
        set.commit();
    };
    check(&[], |bench| {
        let weights = bench.untracked(&[7.0, 8.0]);
        let (table, y) = (table(bench, &weights), bench.tracked(&[0.0; 2]));
        let set = set(bench);
        set.add_allocation(&weights);
        assert_eq!(set.allocation_count(), 1);
        set.commit();
        set.request_residency();
        bench.run(true, |e| {
            bench.dispatch(e, "follow", 2, &[(&table, 0), (&y, 0)])
        });
        assert_eq!(values(&y), [7.0, 8.0]);
        set.end_residency();
        empty(&set, &weights);
        assert_eq!(set.allocation_count(), 0);
        let counts = control::counts();
        assert_eq!(
            (counts.residency_commits, counts.residency_requests),
            (2, 1)
        );
    });
}

#[test]
fn a_set_without_commit_does_not() {
    follow(&[NOT_RESIDENT], |bench, weights| {
        let set = set(bench);
        set.add_allocation(weights);
        Some(set)
    });
}

#[test]
fn a_set_that_is_not_on_the_queue_does_not() {
    let expected = [
        NOT_RESIDENT,
        "removeResidencySet: the queue does not have it",
    ];
    follow(&expected, |bench, weights| {
        let set = bench.device.new_residency_set().unwrap().unwrap();
        set.add_allocation(weights);
        set.commit();
        Some(set)
    });
}

#[test]
fn a_set_that_is_committed_after_the_work_is_too_late() {
    check(&[NOT_RESIDENT], |bench| {
        let weights = bench.untracked(&[7.0, 8.0]);
        let (table, y) = (table(bench, &weights), bench.tracked(&[0.0; 2]));
        let set = set(bench);
        set.add_allocation(&weights);
        let commands = bench.commands();
        let encoder = commands.compute_encoder(true).unwrap();
        bench.dispatch(&encoder, "follow", 2, &[(&table, 0), (&y, 0)]);
        drop(encoder);
        commands.commit();
        set.commit();
        commands.wait_until_completed();
        set.remove_allocation(&weights);
        set.commit();
    });
}

#[test]
fn what_is_removed_before_the_work_is_done_is_missed() {
    check(&[NOT_RESIDENT], |bench| {
        let weights = bench.untracked(&[7.0, 8.0]);
        let (table, y) = (table(bench, &weights), bench.tracked(&[0.0; 2]));
        let set = set(bench);
        set.add_allocation(&weights);
        set.commit();
        let commands = bench.commands();
        let encoder = commands.compute_encoder(true).unwrap();
        bench.dispatch(&encoder, "follow", 2, &[(&table, 0), (&y, 0)]);
        drop(encoder);
        commands.commit();
        set.remove_allocation(&weights);
        set.commit();
        commands.wait_until_completed();
    });
}

#[test]
fn an_encoder_can_use_what_is_in_no_set() {
    let weights_of = |bench: &Bench| {
        let weights = bench.untracked(&[7.0, 8.0]);
        (table(bench, &weights), weights, bench.tracked(&[0.0; 2]))
    };
    check(&[], |bench| {
        let (table, weights, y) = weights_of(bench);
        bench.run(true, |e| {
            e.use_resources(&[&weights]);
            bench.dispatch(e, "follow", 2, &[(&table, 0), (&y, 0)]);
        });
        assert_eq!(values(&y), [7.0, 8.0]);
        assert_eq!(control::counts().used_resources, 1);
    });
    // For what follows only.
    check(&[NOT_RESIDENT], |bench| {
        let (table, weights, y) = weights_of(bench);
        bench.run(true, |e| {
            bench.dispatch(e, "follow", 2, &[(&table, 0), (&y, 0)]);
            e.use_resources(&[&weights]);
        });
    });
}

#[test]
fn what_work_will_reach_is_not_let_go() {
    check(
        &["a buffer is deallocated while a command buffer will reach it by its address"],
        |bench| {
            let weights = bench.untracked(&[7.0, 8.0]);
            let (table, y) = (table(bench, &weights), bench.tracked(&[0.0; 2]));
            let set = set(bench);
            set.add_allocation(&weights);
            set.commit();
            let commands = bench.commands();
            let encoder = commands.compute_encoder(true).unwrap();
            bench.dispatch(&encoder, "follow", 0, &[(&table, 0), (&y, 0)]);
            drop(encoder);
            commands.commit();
            set.remove_allocation(&weights);
            set.commit();
            drop(weights);
            commands.wait_until_completed();
        },
    );
}

#[test]
fn sets_hold_each_buffer_once() {
    let expected = [
        "addAllocation:: the buffer is already in the set",
        "removeAllocation:: the buffer is not in the set",
    ];
    check(&expected, |bench| {
        let weights = bench.untracked(&[1.0]);
        let set = set(bench);
        set.add_allocation(&weights);
        set.add_allocation(&weights);
        set.commit();
        set.remove_allocation(&weights);
        set.remove_allocation(&weights);
        set.commit();
    });
}

#[test]
fn a_set_that_is_asked_for_and_ended_without_work_leaks() {
    check(
        &["residency was requested and ended with no work between"],
        |bench| {
            let set = set(bench);
            set.request_residency();
            set.end_residency();
        },
    );
}

#[test]
fn a_queue_has_32_sets() {
    check(&["a queue has at most 32 residency sets"], |bench| {
        (0..33).for_each(|_| drop(set(bench)));
    });
}

#[test]
fn older_systems_have_no_sets() {
    check(&[], |bench| {
        control::set_limits(|limits| limits.macos_15 = false);
        assert!(bench.device.new_residency_set().unwrap().is_none());
        // Nor the newer options of the compiler.
        bench.device.library_from_source("", (3, 0)).unwrap();
    });
}

#[test]
fn a_buffer_leaves_its_sets_before_it_is_let_go() {
    let in_set = "a buffer is deallocated while it is in a residency set";
    check(&[in_set, in_set, in_set], |bench| {
        let set = set(bench);
        let weights = || bench.untracked(&[1.0]);
        let [staged, committed, removed, gone] = [0; 4].map(|_| weights());
        for buffer in [&committed, &removed, &gone] {
            set.add_allocation(buffer);
        }
        set.commit();
        set.remove_allocation(&gone);
        set.commit();
        drop(gone);
        set.add_allocation(&staged);
        set.remove_allocation(&removed);
        drop((staged, committed, removed));
        assert_eq!(set.allocation_count(), 0);
    });
}
