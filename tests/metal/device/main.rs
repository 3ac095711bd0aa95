//! The software Metal device: that it does what Metal does, and that it sees each fault it is made to see.
//!
//! Each planted fault stands beside the same thing done rightly, which must be silent: a check that is removed, or one that
//! always strikes, fails a test here.
#![cfg(all(target_arch = "x86_64", not(target_os = "macos")))]
#![allow(clippy::unwrap_used, clippy::expect_used, unsafe_code)]

mod abi;
mod aborts;
mod backend;
mod encoding;
mod failures;
mod hazards;
mod kernels;
mod memory;
mod ownership;
mod residency;
mod waiting;

use infall::backend::metal::api::{
    self, Buffer, CommandBuffer, Device, Encoder, Library, Queue, Size, Storage,
};
use infall::backend::metal::sim::control;
use std::sync::Arc;

/// A device whose breaches are listed, with the kernels of these tests.
struct Bench {
    device: Device,
    queue: Queue,
    library: Library,
}

/// Runs a test on a device of its own, within a pool, and expects these breaches and no object left.
fn check(expected: &[&str], test: impl FnOnce(&Bench)) {
    control::record();
    control::set_kernels(Arc::new(kernels::Plain));
    api::autorelease_pool(|| test(&Bench::new()));
    assert_breaches(expected);
    assert_eq!(control::live(), [], "objects are left");
    assert_eq!(control::allocated_bytes(), 0);
}

/// Each breach holds its expected text, in order.
fn assert_breaches(expected: &[&str]) {
    let found = control::violations();
    assert_eq!(
        found.len(),
        expected.len(),
        "expected {expected:?}, found {found:#?}"
    );
    for (expected, found) in expected.iter().zip(&found) {
        assert!(
            found.contains(expected),
            "expected {expected:?} in {found:?}"
        );
    }
}

impl Bench {
    fn new() -> Bench {
        let device = Device::system_default().unwrap();
        Bench {
            queue: device.new_queue().unwrap(),
            library: device.library_from_source("", (3, 1)).unwrap(),
            device,
        }
    }

    /// A buffer of these values.
    fn buffer(&self, storage: Storage, values: &[f32]) -> Buffer {
        let buffer = self.device.new_buffer(4 * values.len(), storage).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
        buffer.write(0, &bytes);
        buffer
    }

    fn tracked(&self, values: &[f32]) -> Buffer {
        self.buffer(Storage::SharedTracked, values)
    }

    fn untracked(&self, values: &[f32]) -> Buffer {
        self.buffer(Storage::SharedUntracked, values)
    }

    fn commands(&self) -> CommandBuffer {
        self.queue.command_buffer().unwrap()
    }

    /// Sets a kernel and its buffers 1, 2, ..., each with its offset.
    fn set(&self, encoder: &Encoder, kernel: &str, n: u32, buffers: &[(&Buffer, usize)]) {
        let function = self.library.function(kernel, &[]).unwrap();
        encoder.set_pipeline(&self.device.pipeline(&function).unwrap());
        encoder.set_bytes(0, &n.to_ne_bytes());
        for (i, (buffer, offset)) in buffers.iter().enumerate() {
            encoder.set_buffer(1 + i, buffer, *offset);
        }
    }

    /// Encodes a kernel over `n` values.
    fn dispatch(&self, encoder: &Encoder, kernel: &str, n: u32, buffers: &[(&Buffer, usize)]) {
        self.set(encoder, kernel, n, buffers);
        encoder.dispatch_threadgroups(size(1), size(32));
    }

    /// Does some dispatches and waits.
    fn run(&self, concurrent: bool, encode: impl FnOnce(&Encoder)) {
        let commands = self.commands();
        let encoder = commands.compute_encoder(concurrent).unwrap();
        encode(&encoder);
        encoder.end_encoding();
        commands.commit();
        commands.wait_until_completed();
        assert_eq!(commands.status(), api::Status::Completed);
    }
}

fn size(width: usize) -> Size {
    Size {
        width,
        height: 1,
        depth: 1,
    }
}

/// The values of a buffer.
fn values(buffer: &Buffer) -> Vec<f32> {
    let start = buffer.contents().as_ptr();
    (0..buffer.len() / 4)
        // SAFETY: within the buffer, and the device works only while we wait.
        .map(|i| unsafe { start.cast::<f32>().add(i).read_unaligned() })
        .collect()
}
