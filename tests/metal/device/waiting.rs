//! When work is done, and how a program knows.

use crate::{check, values};
use infall::backend::metal::api::Status;

#[test]
fn nothing_runs_before_a_wait() {
    check(&[], |bench| {
        let (x, y) = (
            bench.tracked(&[5.0]),
            bench
                .device
                .new_buffer(4, super::Storage::SharedTracked)
                .unwrap(),
        );
        let commands = bench.commands();
        let encoder = commands.compute_encoder(true).unwrap();
        bench.dispatch(&encoder, "copy", 1, &[(&x, 0), (&y, 0)]);
        drop(encoder);
        assert_eq!(commands.status(), Status::Open);
        commands.commit();
        assert!(values(&y)[0].is_nan(), "a look too early sees poison");
        assert_eq!(commands.status(), Status::Running);
        assert_eq!(commands.gpu_times(), (0.0, 0.0));
        commands.wait_until_completed();
        assert_eq!(values(&y), [5.0]);
        assert_eq!(commands.status(), Status::Completed);
        let (begin, end) = commands.gpu_times();
        assert!(0.0 < begin && begin < end);
    });
}

#[test]
fn a_wait_before_the_commit_is_seen() {
    check(&["waitUntilCompleted before commit"], |bench| {
        bench.commands().wait_until_completed();
    });
}

#[test]
fn command_buffers_run_in_the_order_of_their_commits() {
    check(&[], |bench| {
        let [x, y] = [1.0, 2.0].map(|v| bench.tracked(&[v]));
        let buffers = [bench.commands(), bench.commands()];
        for (commands, kernel) in buffers.iter().zip(["add_one", "copy"]) {
            let encoder = commands.compute_encoder(true).unwrap();
            let arguments = [(&x, 0), (&y, 0)];
            let n = if kernel == "copy" { 2 } else { 1 };
            bench.dispatch(&encoder, kernel, 1, &arguments[..n]);
            drop(encoder);
            commands.commit();
        }
        buffers[1].wait_until_completed();
        assert_eq!(buffers[0].status(), Status::Completed);
        assert_eq!(values(&y), [2.0]);
    });
}

#[test]
fn an_event_comes_before_what_is_encoded_after_it() {
    check(&[], |bench| {
        let y = bench.tracked(&[0.0]);
        let event = bench.device.new_shared_event().unwrap();
        let commands = bench.commands();
        for value in [3, 4] {
            let encoder = commands.compute_encoder(true).unwrap();
            bench.dispatch(&encoder, "add_one", 1, &[(&y, 0)]);
            drop(encoder);
            commands.encode_signal_event(&event, value);
        }
        commands.commit();
        assert_eq!(event.signaled_value(), 0);
        assert!(event.wait_until_signaled(2, 1));
        assert_eq!((event.signaled_value(), values(&y)[0]), (3, 1.0));
        assert_eq!(commands.status(), Status::Running);
        assert!(event.wait_until_signaled(4, 1));
        assert_eq!(values(&y), [2.0]);
        assert!(!event.wait_until_signaled(5, 1000), "nobody will signal it");
        commands.wait_until_completed();
    });
}

#[test]
fn a_wait_for_ever_is_seen() {
    check(&["waitUntilSignaledValue: 1 will never come"], |bench| {
        let event = bench.device.new_shared_event().unwrap();
        assert!(!event.wait_until_signaled(1, u64::MAX));
    });
}

#[test]
fn values_of_an_event_grow() {
    check(&["an event at 2 is signaled 2"], |bench| {
        let event = bench.device.new_shared_event().unwrap();
        let commands = bench.commands();
        commands.encode_signal_event(&event, 1);
        commands.encode_signal_event(&event, 2);
        commands.encode_signal_event(&event, 2);
        commands.commit();
        commands.wait_until_completed();
    });
}

#[test]
fn a_loop_that_only_looks_ends() {
    check(&[], |bench| {
        let event = bench.device.new_shared_event().unwrap();
        let commands = bench.commands();
        commands.encode_signal_event(&event, 1);
        commands.commit();
        let looks = (0..100).take_while(|_| event.signaled_value() < 1).count();
        assert!((1..100).contains(&looks));
        let looks = (0..100)
            .take_while(|_| commands.status() != Status::Completed)
            .count();
        assert!((1..100).contains(&looks));
    });
}

#[test]
fn the_65th_command_buffer_waits_for_the_first() {
    check(&[], |bench| {
        let buffers: Vec<_> = (0..64).map(|_| bench.commands()).collect();
        buffers.iter().for_each(|commands| commands.commit());
        drop(bench.commands());
        assert_eq!(buffers[0].status(), Status::Completed);
        assert_eq!(buffers[63].status(), Status::Running);
        buffers[63].wait_until_completed();
    });
    check(&["commandBuffer waits for ever"], |bench| {
        let _open: Vec<_> = (0..64).map(|_| bench.commands()).collect();
        assert!(bench.queue.command_buffer().is_none());
    });
}
