//! Kernels compiled for this processor: what the shim computes, and that faults which a GPU may hide are found.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used)]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod faults;
mod operations;
mod positions;
mod sanitizers;
mod spaces;

use infall::backend::metal::sim::compile::Sanitizer;
use infall::backend::metal::sim::{Kernels, Launch, Loaded, control};
use infall::backend::metal::source;
use infall::os::Guarded;
use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::sync::Arc;

/// Seeds of the order of threads that are tried.
const SEEDS: std::ops::Range<u32> = 0..8;

/// The flat text of one file of kernels, whose arguments are `uint n`.
fn flat(kernels: &str) -> String {
    let args = "struct Args { uint n; };";
    let files = [
        ("args.h", args),
        ("test.metal", &format!("#include \"args.h\"\n{kernels}")),
    ];
    let files: BTreeMap<String, String> = files
        .map(|(name, text)| (name.to_string(), text.to_string()))
        .into();
    source::flatten(&files).unwrap()
}

/// Those kernels, or `None`, which is said, where nothing can compile them.
fn load(kernels: &str) -> Option<Arc<Loaded>> {
    if !control::can_run() {
        return None;
    }
    let sanitizer = Sanitizer::from_environment().unwrap();
    Some(Loaded::from_source(&flat(kernels), sanitizer).unwrap_or_else(|why| panic!("{why}")))
}

/// f32 or u32 values that end at a forbidden page.
struct Memory(Guarded);

impl Memory {
    /// NaN, or the largest number.
    fn unset(n: usize) -> Memory {
        Memory(Guarded::filled(4 * n, 0xFF).unwrap())
    }

    fn of<T: Copy>(values: &[T]) -> Memory {
        assert_eq!(size_of::<T>(), 4);
        let memory = Memory::unset(values.len());
        // SAFETY: as many bytes, with the alignment of 16.
        unsafe {
            memory
                .0
                .start()
                .cast::<T>()
                .as_ptr()
                .copy_from(values.as_ptr(), values.len())
        };
        memory
    }

    fn get<T: Copy>(&self) -> Vec<T> {
        assert_eq!(size_of::<T>(), 4);
        // SAFETY: any bits are a value of the types that the tests use.
        unsafe { std::slice::from_raw_parts(self.0.start().cast::<T>().as_ptr(), self.0.len() / 4) }
            .to_vec()
    }
}

/// Groups, threads of a group, threadgroup memory in bytes, seed.
#[derive(Clone, Copy)]
struct Grid {
    groups: [u32; 3],
    threads: [u32; 3],
    shared: u32,
    seed: u32,
}

/// `groups` of `threads`, in one row.
fn row(groups: u32, threads: u32, seed: u32) -> Grid {
    Grid {
        groups: [groups, 1, 1],
        threads: [threads, 1, 1],
        shared: 0,
        seed,
    }
}

impl Grid {
    fn shared(self, bytes: u32) -> Grid {
        Grid {
            shared: bytes,
            ..self
        }
    }
}

/// Runs a kernel with `n` and the memories 1, 2, ...
fn run(
    kernels: &Loaded,
    kernel: &str,
    n: u32,
    memories: &[&Memory],
    grid: Grid,
) -> Result<(), String> {
    run_with(kernels, kernel, n, memories, grid, &[])
}

fn run_with(
    kernels: &Loaded,
    kernel: &str,
    n: u32,
    memories: &[&Memory],
    grid: Grid,
    constants: &[(u32, u32)],
) -> Result<(), String> {
    let args = Memory::of(&[n]);
    let mut buffers = [std::ptr::null_mut(); 31];
    buffers[0] = args.0.start().as_ptr();
    for (buffer, memory) in buffers[1..].iter_mut().zip(memories) {
        *buffer = memory.0.start().as_ptr();
    }
    let launch = Launch {
        kernel,
        constants,
        buffers,
        groups: grid.groups,
        threads: grid.threads,
        shared: grid.shared,
        seed: grid.seed,
    };
    // SAFETY: the memories live through the call.
    unsafe { kernels.run(&launch) }
}

/// Runs a test of this program that others skip, in a program of its own.
fn alone(test: &str, environment: &[(&str, &str)]) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            test,
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}
