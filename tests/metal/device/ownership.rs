//! References and pools.

use crate::{assert_breaches, check, kernels};
use infall::backend::metal::api::{self, Device, Storage};
use infall::backend::metal::messages;
use infall::backend::metal::objc::{Id, Owned};
use infall::backend::metal::sim::control;
use std::sync::Arc;

unsafe extern "C" {
    fn objc_retain(object: Id) -> Id;
    fn objc_release(object: Id);
    fn objc_autoreleasePoolPush() -> *mut std::ffi::c_void;
    fn objc_autoreleasePoolPop(pool: *mut std::ffi::c_void);
    fn MTLCreateSystemDefaultDevice() -> Id;
}

#[test]
fn clones_share_an_object_and_the_last_lets_it_go() {
    check(&[], |bench| {
        let buffer = bench.device.new_buffer(16, Storage::SharedTracked).unwrap();
        let clone = buffer.clone();
        let live = control::live_objects();
        drop(buffer);
        assert_eq!(control::live_objects(), live);
        assert_eq!(control::allocated_bytes(), 16);
        drop(clone);
        assert_eq!(control::live_objects(), live - 1);
        assert_eq!(control::allocated_bytes(), 0);
    });
}

#[test]
fn there_is_one_device_and_it_says_what_it_is() {
    check(&[], |bench| {
        let again = Device::system_default().unwrap();
        assert_eq!(
            control::live()
                .iter()
                .find(|(class, _)| *class == "MTLDevice"),
            Some(&("MTLDevice", 1))
        );
        assert_eq!(again.name(), "software Metal (no GPU)");
        assert!(again.has_unified_memory() && again.supports_family(api::FAMILY_APPLE_7));
        assert!(
            !again.supports_family(5001 + 1000),
            "families that do not exist"
        );
        control::set_limits(|limits| limits.has_device = false);
        assert!(Device::system_default().is_none());
        assert_eq!(bench.device.max_buffer_length(), 4 << 30);
    });
}

#[test]
fn what_is_left_over_is_counted() {
    control::record();
    let device = Device::system_default().unwrap();
    std::mem::forget(device.new_shared_event().unwrap());
    drop(device);
    assert_eq!(control::live(), [("MTLSharedEvent", 1)]);
    assert_breaches(&[]);
}

#[test]
fn use_after_free_is_seen() {
    control::record();
    // SAFETY: the device reports what is wrong with these, and answers zero.
    unsafe {
        let device = MTLCreateSystemDefaultDevice();
        objc_retain(device);
        objc_release(device);
        assert!(messages::device::has_unified_memory(device));
        objc_release(device);
        assert!(!messages::device::has_unified_memory(device));
        objc_retain(device);
        objc_release(device);
    }
    assert_breaches(&[
        "hasUnifiedMemory sent to a deallocated MTLDevice",
        "retain of a deallocated MTLDevice",
        "over-release of a MTLDevice",
    ]);
}

#[test]
fn an_autoreleased_object_ends_with_its_pool() {
    check(
        &["status sent to a deallocated MTLCommandBuffer"],
        |bench| {
            let kept = bench.commands();
            // SAFETY: the queue is alive; its id is taken where the safe methods hide it.
            let gone = api::autorelease_pool(|| unsafe {
                let device = MTLCreateSystemDefaultDevice();
                let queue = Owned::from_new(messages::device::new_queue(device)).unwrap();
                objc_release(device);
                let commands = messages::queue::command_buffer(queue.id());
                assert_eq!(messages::command_buffer::status(commands), 0);
                commands
            });
            assert_eq!(kept.status(), api::Status::Open);
            // SAFETY: reported, and answered with zero.
            assert_eq!(unsafe { messages::command_buffer::status(gone) }, 0);
        },
    );
}

#[test]
fn a_thread_needs_a_pool() {
    control::record();
    control::set_kernels(Arc::new(kernels::Plain));
    let device = Device::system_default().unwrap();
    drop(device.name());
    assert_breaches(&["a NSString is autoreleased on a thread without a pool"]);
    let queue = device.new_queue().unwrap();
    let commands = api::autorelease_pool(|| queue.command_buffer().unwrap());
    commands.commit();
    commands.wait_until_completed();
    assert_breaches(&[
        "commit on a thread without a pool",
        "waitUntilCompleted on a thread without a pool",
    ]);
    assert_eq!(
        control::live()
            .iter()
            .find(|(class, _)| *class == "NSString"),
        Some(&("NSString", 1))
    );
}

#[test]
fn pools_end_in_the_reverse_order() {
    control::record();
    // SAFETY: pools of this thread; the second pop is the fault that is planted.
    unsafe {
        let outer = objc_autoreleasePoolPush();
        let inner = objc_autoreleasePoolPush();
        objc_autoreleasePoolPop(inner);
        objc_autoreleasePoolPop(outer);
        assert_breaches(&[]);
        let outer = objc_autoreleasePoolPush();
        let _inner = objc_autoreleasePoolPush();
        objc_autoreleasePoolPop(outer);
    }
    assert_breaches(&["pools popped out of order: pool 1 while 2 is the innermost"]);
}

#[test]
fn a_pool_is_emptied_when_its_work_panics() {
    check(&[], |bench| {
        let before = control::live_objects();
        let panics = std::panic::AssertUnwindSafe(|| {
            api::autorelease_pool(|| {
                bench.device.name();
                panic!("planted")
            })
        });
        assert!(std::panic::catch_unwind(panics).is_err());
        assert_eq!(control::live_objects(), before);
    });
}

#[test]
fn nil_answers_zero() {
    let nil = std::ptr::null_mut();
    // SAFETY: nil may be sent anything.
    unsafe {
        assert_eq!(messages::buffer::length(nil), 0);
        assert!(messages::buffer::contents(nil).is_null());
        assert_eq!(messages::command_buffer::gpu_end_time(nil), 0.0);
        assert!(!messages::device::has_unified_memory(nil));
        messages::command_buffer::commit(nil);
    }
}

#[test]
fn objects_are_used_by_other_threads() {
    check(&[], |bench| {
        let buffer = bench.tracked(&[1.0]);
        let device = bench.device.clone();
        let other = std::thread::spawn(move || {
            let made = device.new_buffer(8, Storage::SharedTracked).unwrap();
            (buffer.gpu_address() != made.gpu_address()).then_some(made)
        });
        assert_eq!(other.join().unwrap().unwrap().len(), 8);
    });
}
