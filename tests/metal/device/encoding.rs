//! What encoders and command buffers take.

use crate::{check, size, values};
use infall::backend::metal::api::{self, Size};
use infall::backend::metal::messages;
use infall::backend::metal::objc::{Id, Owned};
use infall::backend::metal::sim::control;

/// An encoder behind its address, for messages that the safe methods do not send.
fn raw_encoder(work: impl FnOnce(Id, Id)) {
    unsafe extern "C" {
        fn MTLCreateSystemDefaultDevice() -> Id;
    }
    // SAFETY: live objects with the messages they know; what is wrong on purpose is reported and not done.
    unsafe {
        let device = Owned::from_new(MTLCreateSystemDefaultDevice()).unwrap();
        let queue = Owned::from_new(messages::device::new_queue(device.id())).unwrap();
        let commands = messages::queue::command_buffer(queue.id());
        let encoder = messages::command_buffer::compute_encoder(commands, 1);
        let buffer = Owned::from_new(messages::device::new_buffer(device.id(), 64, 0)).unwrap();
        work(encoder, buffer.id());
        messages::encoder::end_encoding(encoder);
        messages::command_buffer::commit(commands);
        messages::command_buffer::wait_until_completed(commands);
    }
}

#[test]
fn a_kernel_runs_with_its_arguments() {
    check(&[], |bench| {
        let (x, y) = (bench.tracked(&[1.0, 2.0, 3.0]), bench.tracked(&[0.0; 4]));
        bench.run(false, |e| {
            bench.dispatch(e, "copy", 2, &[(&x, 4), (&y, 8)]);
            bench.dispatch(e, "add_one", 4, &[(&y, 0)]);
        });
        assert_eq!(values(&y), [1.0, 1.0, 3.0, 4.0]);
        let kernels: Vec<String> = control::trace().into_iter().map(|d| d.kernel).collect();
        assert_eq!(kernels, ["copy", "add_one"]);
        let counts = control::counts();
        assert_eq!(
            (
                counts.dispatches,
                counts.encoders,
                counts.commits,
                counts.waits
            ),
            (2, 1, 1, 1)
        );
    });
}

#[test]
fn a_kernel_has_its_function_constants() {
    check(&[], |bench| {
        let y = bench.tracked(&[0.0]);
        let function = bench.library.function("constant", &[7]).unwrap();
        let pipeline = bench.device.pipeline(&function).unwrap();
        assert_eq!(pipeline.thread_execution_width(), 32);
        assert_eq!(pipeline.static_threadgroup_memory_length(), 0);
        bench.run(true, |e| {
            e.set_pipeline(&pipeline);
            e.set_bytes(0, &1u32.to_ne_bytes());
            e.set_buffer(1, &y, 0);
            e.dispatch_threadgroups(size(1), size(pipeline.max_total_threads_per_threadgroup()));
        });
        assert_eq!(values(&y), [7.0]);
    });
}

#[test]
fn arguments_are_taken_when_they_are_encoded() {
    check(&[], |bench| {
        let y = bench.tracked(&[0.0; 2]);
        bench.run(false, |e| {
            bench.dispatch(e, "add_one", 1, &[(&y, 0)]);
            e.set_bytes(0, &2u32.to_ne_bytes());
            e.dispatch_threadgroups(size(1), size(32));
        });
        assert_eq!(values(&y), [2.0, 1.0]);
    });
}

#[test]
fn bounds_of_arguments_are_checked() {
    check(
        &[
            "setBuffer:offset:atIndex: index 31",
            "setBuffer:offset:atIndex: offset 64 of a buffer of 64",
            "setBytes:length:atIndex: index 31",
            "setBytes:length:atIndex: 4097 bytes",
            "setBytes:length:atIndex: 0 bytes",
            "setThreadgroupMemoryLength:atIndex: 24 bytes",
            "setThreadgroupMemoryLength:atIndex: index 31",
            "memoryBarrierWithScope: 2",
            "useResources:count:usage: usage 2",
        ],
        |_| {
            raw_encoder(|encoder, buffer| {
                let bytes = [0u8; 4097];
                let bytes = bytes.as_ptr().cast();
                // SAFETY: the arguments are of the right types; the device refuses their values.
                unsafe {
                    use messages::encoder::*;
                    set_buffer(encoder, buffer, 63, 30);
                    set_buffer(encoder, buffer, 0, 31);
                    set_buffer(encoder, buffer, 64, 0);
                    set_bytes(encoder, bytes, 4096, 30);
                    set_bytes(encoder, bytes, 4, 31);
                    set_bytes(encoder, bytes, 4097, 0);
                    set_bytes(encoder, bytes, 0, 0);
                    set_threadgroup_memory(encoder, 32, 30);
                    set_threadgroup_memory(encoder, 24, 0);
                    set_threadgroup_memory(encoder, 32, 31);
                    memory_barrier(encoder, 1);
                    memory_barrier(encoder, 2);
                    use_resources(encoder, &buffer, 1, 1);
                    use_resources(encoder, &buffer, 1, 2);
                }
            });
        },
    );
}

#[test]
fn arguments_of_a_wrong_class_are_seen() {
    check(
        &[
            "setBuffer:offset:atIndex:: an argument is a MTLComputeCommandEncoder, expected a MTLBuffer",
            "setBuffer:offset:atIndex:: an argument is nil, expected a MTLBuffer",
            "setComputePipelineState:: an argument is a MTLBuffer, expected a MTLComputePipelineState",
            "setBuffer:offset:atIndex:: an argument is no object of this device",
            "a MTLBuffer has no method endEncoding",
        ],
        |_| {
            raw_encoder(|encoder, buffer| {
                // SAFETY: the device looks at each before it uses it.
                unsafe {
                    use messages::encoder::*;
                    set_buffer(encoder, encoder, 0, 0);
                    set_buffer(encoder, std::ptr::null_mut(), 0, 0);
                    set_pipeline(encoder, buffer);
                    set_buffer(encoder, std::ptr::without_provenance_mut(64), 0, 0);
                    end_encoding(buffer);
                }
            });
        },
    );
}

#[test]
fn a_dispatch_is_checked_whole() {
    let dispatch_of = |what: &str| format!("dispatch of copy: {what}");
    let expected = [
        "dispatchThreadgroups:threadsPerThreadgroup: without a pipeline".to_string(),
        dispatch_of("buffer 2 is not set"),
        dispatch_of("[1056, 1, 1] threads a group"),
        dispatch_of("[0, 1, 1] threads a group"),
        dispatch_of("[33, 1, 1] threads a group, expected whole simdgroups"),
        dispatch_of("[0, 1, 1] groups"),
        dispatch_of("buffer 2 is written, but was set by setBytes"),
        dispatch_of("buffer 0 is constant: offset 4"),
    ];
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    check(&expected, |bench| {
        let (x, y) = (bench.tracked(&[1.0; 16]), bench.tracked(&[0.0; 16]));
        bench.run(true, |e| {
            e.dispatch_threadgroups(size(1), size(32));
            bench.dispatch(e, "copy", 1, &[(&x, 0)]);
            e.set_buffer(2, &y, 0);
            e.dispatch_threadgroups(size(1), size(1024 + 32));
            e.dispatch_threadgroups(size(1), size(0));
            e.dispatch_threadgroups(size(1), size(33));
            e.dispatch_threadgroups(size(0), size(32));
            e.set_bytes(2, &[0; 4]);
            e.dispatch_threadgroups(size(1), size(32));
            e.set_buffer(2, &y, 0);
            e.set_buffer(0, &x, 4);
            e.dispatch_threadgroups(size(1), size(32));
            e.set_bytes(0, &1u32.to_ne_bytes());
            e.dispatch_threadgroups(size(1), size(1024));
        });
        assert_eq!(values(&y)[..2], [1.0, 0.0], "the last one ran");
        assert_eq!(control::counts().dispatches, 1);
    });
}

#[test]
fn a_pipeline_may_allow_fewer_threads() {
    check(&["[96, 1, 1] threads a group, expected 1 to 64"], |bench| {
        control::set_limits(|limits| limits.threads_per_group = 64);
        let y = bench.tracked(&[0.0]);
        bench.run(true, |e| {
            bench.set(e, "add_one", 1, &[(&y, 0)]);
            e.dispatch_threadgroups(size(1), size(96));
            e.dispatch_threadgroups(size(1), size(64));
        });
        assert_eq!(values(&y), [1.0]);
    });
}

#[test]
fn threadgroup_memory_is_given_and_not_too_much() {
    check(
        &[
            "dispatch of scratch: threadgroup memory 0 has no length",
            "dispatch of scratch: 32784 bytes of threadgroup memory",
        ],
        |bench| {
            let y = bench.tracked(&[1.0]);
            bench.run(true, |e| {
                bench.dispatch(e, "scratch", 1, &[(&y, 0)]);
                e.set_threadgroup_memory(0, 32768);
                e.dispatch_threadgroups(size(1), size(32));
                e.set_threadgroup_memory(1, 16);
                e.dispatch_threadgroups(size(1), size(32));
            });
            assert_eq!(values(&y), [0.0]);
        },
    );
}

#[test]
fn encoders_come_one_after_the_other() {
    check(
        &[
            "computeCommandEncoderWithDispatchType: before the encoder in front of it has ended",
            "encodeSignalEvent:value: while an encoder is open",
            "commit before endEncoding",
        ],
        |bench| {
            let commands = bench.commands();
            let event = bench.device.new_shared_event().unwrap();
            let encoder = commands.compute_encoder(true).unwrap();
            assert!(commands.compute_encoder(true).is_none());
            commands.encode_signal_event(&event, 1);
            commands.commit();
            drop(encoder);
            drop(commands.compute_encoder(false).unwrap());
            commands.encode_signal_event(&event, 1);
            commands.commit();
            commands.wait_until_completed();
            assert_eq!(event.signaled_value(), 1);
        },
    );
}

#[test]
fn nothing_is_encoded_after_the_commit() {
    check(
        &[
            "commit after the command buffer was committed",
            "computeCommandEncoderWithDispatchType: after the command buffer was committed",
            "encodeSignalEvent:value: after the command buffer was committed",
        ],
        |bench| {
            let commands = bench.commands();
            let event = bench.device.new_shared_event().unwrap();
            commands.commit();
            commands.commit();
            assert!(commands.compute_encoder(true).is_none());
            commands.encode_signal_event(&event, 1);
            commands.wait_until_completed();
        },
    );
}

#[test]
fn nothing_is_encoded_after_the_end_of_an_encoder() {
    check(
        &[
            "memoryBarrierWithScope: after endEncoding",
            "setBuffer:offset:atIndex: after endEncoding",
            "dispatchThreadgroups:threadsPerThreadgroup: after endEncoding",
            "endEncoding after endEncoding",
        ],
        |_| {
            raw_encoder(|encoder, buffer| {
                // SAFETY: live objects; the messages come too late.
                unsafe {
                    use messages::encoder::*;
                    end_encoding(encoder);
                    memory_barrier(encoder, 1);
                    set_buffer(encoder, buffer, 0, 0);
                    dispatch_threadgroups(encoder, size(1), size(32));
                }
            });
        },
    );
}

#[test]
fn an_encoder_ends_before_it_is_let_go() {
    check(&["an encoder is deallocated before endEncoding"], |_| {
        unsafe extern "C" {
            fn MTLCreateSystemDefaultDevice() -> Id;
        }
        api::autorelease_pool(|| {
            // SAFETY: live objects with the messages they know.
            unsafe {
                let device = Owned::from_new(MTLCreateSystemDefaultDevice()).unwrap();
                let queue = Owned::from_new(messages::device::new_queue(device.id())).unwrap();
                let commands = messages::queue::command_buffer(queue.id());
                messages::command_buffer::compute_encoder(commands, 1);
            }
        });
    });
}

#[test]
fn a_grid_of_absurd_size_is_refused() {
    check(&["no sizes of a grid"], |bench| {
        let y = bench.tracked(&[0.0]);
        bench.run(true, |e| {
            bench.set(e, "add_one", 1, &[(&y, 0)]);
            let groups = Size {
                width: 1 << 40,
                ..size(1)
            };
            e.dispatch_threadgroups(groups, size(32));
        });
    });
}

#[test]
fn a_kernel_that_breaks_a_rule_is_named() {
    check(&["kernel faulty: lane 3 left before a barrier"], |bench| {
        let y = bench.tracked(&[0.0]);
        bench.run(true, |e| bench.dispatch(e, "faulty", 1, &[(&y, 0)]));
    });
}
