//! Buffers.

use crate::{check, values};
use infall::backend::metal::api::Storage;
use infall::backend::metal::sim::control;
use infall::os::AlignedBuf;
use std::ptr::NonNull;

#[test]
fn new_memory_is_poisoned_and_the_devices_own() {
    check(&[], |bench| {
        let buffer = bench
            .device
            .new_buffer(100, Storage::SharedUntracked)
            .unwrap();
        assert_eq!(buffer.len(), 100);
        assert!(values(&buffer).iter().all(|v| v.is_nan()));
        assert_eq!(buffer.gpu_address(), buffer.contents().addr().get() as u64);
        assert_eq!(bench.device.current_allocated_size(), 100);
        assert_eq!(control::allocated_bytes(), 100);
    });
}

#[test]
fn a_buffer_that_is_too_long_is_nil() {
    check(&["newBufferWithLength: 0 bytes"], |bench| {
        control::set_limits(|limits| limits.max_buffer_length = 1000);
        assert!(
            bench
                .device
                .new_buffer(1000, Storage::SharedTracked)
                .is_some()
        );
        assert!(
            bench
                .device
                .new_buffer(1001, Storage::SharedTracked)
                .is_none()
        );
        // SAFETY: live objects; the device refuses what the safe method does not ask for.
        unsafe {
            use infall::backend::metal::messages::device::{new_buffer, new_queue};
            use infall::backend::metal::objc::{Id, Owned};
            unsafe extern "C" {
                fn MTLCreateSystemDefaultDevice() -> Id;
            }
            let device = Owned::from_new(MTLCreateSystemDefaultDevice()).unwrap();
            assert!(new_buffer(device.id(), 1001, 0).is_null());
            assert!(new_buffer(device.id(), 0, 0).is_null());
            drop(Owned::from_new(new_queue(device.id())));
        }
    });
}

#[test]
fn options_are_those_we_know() {
    use infall::backend::metal::messages::device::new_buffer;
    use infall::backend::metal::objc::{Id, Owned};
    unsafe extern "C" {
        fn MTLCreateSystemDefaultDevice() -> Id;
    }
    check(&["buffer options 0x20,"], |_| {
        // SAFETY: a live device, and numbers.
        unsafe {
            let device = Owned::from_new(MTLCreateSystemDefaultDevice()).unwrap();
            assert!(new_buffer(device.id(), 16, 0x20).is_null());
            drop(Owned::from_new(new_buffer(device.id(), 16, 0x200)).unwrap());
        }
    });
}

#[test]
fn memory_without_copy_consists_of_pages() {
    let expected = ["16384 bytes at", "16383 bytes at"];
    check(&expected, |bench| {
        let memory = AlignedBuf::zeroed(4 * 16384).unwrap();
        let start = NonNull::from(memory.as_slice()).cast::<u8>();
        let share = |at: NonNull<u8>, len: usize| {
            // SAFETY: within the memory, which outlives all of this; what is not whole pages is refused.
            unsafe {
                bench
                    .device
                    .new_buffer_no_copy(at, len, Storage::SharedUntracked)
            }
        };
        // SAFETY: within the memory.
        let off = unsafe { start.add(4096) };
        assert!(share(off, 16384).is_none());
        assert!(share(start, 16383).is_none());
        assert!(share(start, 0).is_none());
        let shared = share(start, 2 * 16384).unwrap();
        assert_eq!(shared.contents(), start);
        assert_eq!(control::allocated_bytes(), 0, "it is the program's");
    });
}

#[test]
fn memory_without_copy_may_be_too_long() {
    check(&[], |bench| {
        control::set_limits(|limits| limits.max_buffer_length = 16384);
        let memory = AlignedBuf::zeroed(4 * 16384).unwrap();
        let start = NonNull::from(memory.as_slice()).cast::<u8>();
        // SAFETY: refused for its length.
        let shared = unsafe {
            bench
                .device
                .new_buffer_no_copy(start, 2 * 16384, Storage::SharedUntracked)
        };
        assert!(shared.is_none());
    });
}

#[test]
fn a_command_buffer_keeps_what_is_encoded() {
    check(&[], |bench| {
        let y = bench.tracked(&[0.0]);
        let commands = bench.commands();
        let encoder = commands.compute_encoder(true).unwrap();
        let x = bench.tracked(&[3.0]);
        bench.dispatch(&encoder, "copy", 1, &[(&x, 0), (&y, 0)]);
        drop((x, encoder));
        commands.commit();
        assert_eq!(control::allocated_bytes(), 8);
        commands.wait_until_completed();
        assert_eq!(control::allocated_bytes(), 4);
        assert_eq!(values(&y), [3.0]);
    });
}

#[test]
fn memory_without_copy_stays_until_its_work_is_done() {
    let memory = AlignedBuf::zeroed(2 * 16384).unwrap();
    for early in [true, false] {
        let expected: &[&str] =
            &["the last owner leaves a no-copy buffer that a command buffer still uses"];
        check(if early { expected } else { &[] }, |bench| {
            let start = NonNull::from(memory.as_slice()).cast::<u8>();
            // SAFETY: a page of the memory, which outlives all of this.
            let shared = unsafe {
                bench
                    .device
                    .new_buffer_no_copy(start, 16384, Storage::SharedUntracked)
            };
            let (x, y) = (shared.unwrap(), bench.tracked(&[1.0]));
            let commands = bench.commands();
            let encoder = commands.compute_encoder(true).unwrap();
            bench.dispatch(&encoder, "copy", 1, &[(&x, 0), (&y, 0)]);
            drop(encoder);
            commands.commit();
            if early {
                drop(x);
                commands.wait_until_completed();
            } else {
                commands.wait_until_completed();
                drop(x);
            }
            assert_eq!(values(&y), [0.0]);
        });
    }
}
