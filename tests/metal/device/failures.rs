//! Failures of the device, made to order.

use crate::{check, values};
use infall::backend::metal::api::{Status, Storage};
use infall::backend::metal::sim::control;

#[test]
fn the_nth_allocation_fails() {
    check(&[], |bench| {
        for n in 0..3 {
            control::fail_allocation(n);
            let made: Vec<bool> = (0..4)
                .map(|_| bench.device.new_buffer(4, Storage::SharedTracked).is_some())
                .collect();
            let expected: Vec<bool> = (0..4).map(|i| i != n).collect();
            assert_eq!(made, expected);
        }
        assert_eq!(control::counts().allocations, 12);
    });
}

#[test]
fn the_nth_pipeline_fails_with_a_reason() {
    check(&[], |bench| {
        let function = bench.library.function("copy", &[]).unwrap();
        control::fail_pipeline(1);
        assert!(bench.device.pipeline(&function).is_ok());
        let error = bench.device.pipeline(&function).unwrap_err().to_string();
        assert_eq!(
            error,
            "Metal: pipeline: Compiler encountered an internal error"
        );
        assert!(bench.device.pipeline(&function).is_ok());
        assert_eq!(control::counts().pipelines, 2);
    });
}

#[test]
fn the_nth_command_buffer_fails_and_signals_nothing() {
    check(&[], |bench| {
        let y = bench.tracked(&[0.0]);
        let event = bench.device.new_shared_event().unwrap();
        control::fail_command_buffer(1);
        let buffers: Vec<_> = (1..=3)
            .map(|value| {
                let commands = bench.commands();
                let encoder = commands.compute_encoder(true).unwrap();
                bench.dispatch(&encoder, "add_one", 1, &[(&y, 0)]);
                drop(encoder);
                commands.encode_signal_event(&event, value);
                commands.commit();
                commands
            })
            .collect();
        assert!(event.wait_until_signaled(1, 1));
        buffers[1].wait_until_completed();
        assert_eq!(event.signaled_value(), 1);
        buffers[2].wait_until_completed();
        let status: Vec<Status> = buffers.iter().map(|b| b.status()).collect();
        assert_eq!(
            status,
            [Status::Completed, Status::Failed, Status::Completed]
        );
        assert_eq!(values(&y), [2.0]);
        let error = buffers[1].error().to_string();
        assert_eq!(
            error,
            "Metal: command buffer: Caused GPU Hang Error (planted)"
        );
        assert_eq!(
            buffers[0].error().to_string(),
            "Metal: command buffer: no reason given"
        );
    });
}

#[test]
fn a_kernel_that_does_not_exist_is_an_error() {
    check(&[], |bench| {
        let error = bench
            .library
            .function("no_such", &[])
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "Metal: kernel no_such: Function no_such was not found in the library"
        );
        assert!(bench.library.function("zero\0", &[]).is_err());
    });
}

#[test]
fn a_library_that_cannot_be_is_an_error() {
    check(&[], |bench| {
        assert!(bench.device.library_from_data(b"MTLB").is_ok());
        let error = bench
            .device
            .library_from_data(b"garbage")
            .unwrap_err()
            .to_string();
        assert_eq!(error, "Metal: the compiled kernels: Invalid library file");
        let source = "#include <metal_stdlib>\n  #include \"args.h\"\n";
        let error = bench
            .device
            .library_from_source(source, (3, 0))
            .unwrap_err()
            .to_string();
        assert!(error.contains("file not found"), "{error}");
        assert!(bench.device.library_from_source("a\0b", (3, 0)).is_err());
    });
    check(&["setLanguageVersion: 0x20000"], |bench| {
        bench.device.library_from_source("", (2, 0)).unwrap();
    });
}
