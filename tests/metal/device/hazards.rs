//! Dispatches whose order matters and that have none.

use crate::{Bench, check, values};
use infall::backend::metal::sim::control;

/// `copy` x to y, then `add_one` to y; with or without a barrier, in an encoder of either kind.
fn write_then_change(bench: &Bench, concurrent: bool, barrier: bool) -> f32 {
    let (x, y) = (bench.tracked(&[5.0]), bench.tracked(&[0.0]));
    bench.run(concurrent, |e| {
        bench.dispatch(e, "copy", 1, &[(&x, 0), (&y, 0)]);
        if barrier {
            e.memory_barrier_buffers();
        }
        bench.dispatch(e, "add_one", 1, &[(&y, 0)]);
    });
    values(&y)[0]
}

#[test]
fn a_serial_encoder_and_a_barrier_give_an_order() {
    check(&[], |bench| {
        assert_eq!(write_then_change(bench, false, false), 6.0);
        assert_eq!(write_then_change(bench, true, true), 6.0);
        assert_eq!(control::counts().barriers, 1);
    });
}

#[test]
fn a_concurrent_encoder_gives_none() {
    let expected = [
        "the order of copy, add_one decides what is at byte 0 of a buffer of 4",
        "copy and add_one touch byte 0 of a buffer of 4, one writes, and no barrier",
    ];
    check(&expected, |bench| {
        write_then_change(bench, true, false);
    });
}

#[test]
fn what_is_only_read_needs_no_order() {
    check(&[], |bench| {
        let (x, y) = (bench.tracked(&[1.0, 2.0]), bench.tracked(&[0.0, 0.0]));
        bench.run(true, |e| {
            bench.dispatch(e, "copy", 1, &[(&x, 4), (&y, 0)]);
            bench.dispatch(e, "copy", 1, &[(&x, 4), (&y, 4)]);
        });
        assert_eq!(values(&y), [2.0, 2.0]);
    });
}

#[test]
fn a_read_inside_what_another_writes_is_seen() {
    // Nothing but the order of the two shows it: `add` reads all of y from 0 on and `copy` writes byte 8.
    check(
        &["the order of add, copy decides what is at byte 8"],
        |bench| {
            let [x, z] = [[5.0; 3], [0.0; 3]].map(|v| bench.tracked(&v));
            let y = bench.tracked(&[1.0, 1.0, 1.0]);
            bench.run(true, |e| {
                bench.dispatch(e, "add", 3, &[(&y, 0), (&z, 0)]);
                bench.dispatch(e, "copy", 1, &[(&x, 0), (&y, 8)]);
            });
            assert_eq!(values(&z), [1.0; 3]);
        },
    );
}

#[test]
fn two_that_write_the_same_bytes_are_seen() {
    // The sum is the same in both orders, but a device adds at once.
    check(&["add and add touch byte 4 of a buffer of 8"], |bench| {
        let (x, y) = (bench.tracked(&[1.0, 2.0]), bench.tracked(&[0.0, 0.0]));
        bench.run(true, |e| {
            bench.dispatch(e, "add", 2, &[(&x, 0), (&y, 0)]);
            bench.dispatch(e, "add", 1, &[(&x, 0), (&y, 4)]);
        });
        assert_eq!(values(&y), [1.0, 3.0]);
    });
}

#[test]
fn a_seed_decides_the_order_where_it_is_not_compared() {
    check(&[], |bench| {
        control::set_order_check(false);
        let mut results = Vec::new();
        for seed in 0..16 {
            control::set_seed(seed);
            let x = bench.tracked(&[5.0]);
            let [y, z] = [0.0, 0.0].map(|v| bench.tracked(&[v]));
            bench.run(true, |e| {
                bench.dispatch(e, "copy", 1, &[(&x, 0), (&y, 0)]);
                bench.dispatch(e, "copy", 1, &[(&y, 0), (&z, 0)]);
            });
            results.push(values(&z)[0]);
        }
        assert_eq!(results[0], 5.0, "as encoded");
        assert!(results.contains(&0.0), "{results:?}");
        control::violations();
    });
}

/// `copy` x to y in one encoder, `add_one` to y in the next, of the same or another command buffer.
fn two_encoders(bench: &Bench, y: &super::Buffer, commits: bool, waits: bool) {
    let x = bench.tracked(&[5.0]);
    let mut commands = bench.commands();
    let encoder = commands.compute_encoder(true).unwrap();
    bench.dispatch(&encoder, "copy", 1, &[(&x, 0), (y, 0)]);
    drop(encoder);
    if commits {
        commands.commit();
        if waits {
            commands.wait_until_completed();
        }
        commands = bench.commands();
    }
    let encoder = commands.compute_encoder(true).unwrap();
    bench.dispatch(&encoder, "add_one", 1, &[(y, 0)]);
    drop(encoder);
    commands.commit();
    commands.wait_until_completed();
    assert_eq!(values(y), [6.0]);
}

#[test]
fn what_the_device_tracks_it_orders_between_encoders() {
    check(&[], |bench| {
        for commits in [false, true] {
            two_encoders(bench, &bench.tracked(&[0.0]), commits, false);
        }
    });
}

#[test]
fn what_it_does_not_track_needs_a_wait() {
    let untracked = "copy and, in a later encoder, add_one touch byte 0 of a buffer of 4";
    check(&[untracked, untracked], |bench| {
        for commits in [false, true] {
            two_encoders(bench, &bench.untracked(&[0.0]), commits, false);
        }
        two_encoders(bench, &bench.untracked(&[0.0]), true, true);
    });
}
