//! What the device runs: kernels compiled for this processor, or those of a test.

use std::sync::Arc;

/// A library of kernels.
pub trait Kernels: Send + Sync {
    /// What a kernel does with its arguments; `None` when there is no such kernel.
    fn access(&self, kernel: &str) -> Option<Access>;

    /// Runs a kernel.
    ///
    /// Errors: what it did that no kernel may.
    ///
    /// # Safety
    ///
    /// The buffers that it uses are there and not used otherwise meanwhile.
    unsafe fn run(&self, launch: &Launch<'_>) -> Result<(), String>;
}

/// What a kernel does with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// A letter for each buffer from 0 on: `c` constant, `r` reads, `w` writes, `-` no such argument.
    pub buffers: String,
    /// Arguments in threadgroup memory.
    pub threadgroup: usize,
}

/// A kernel's name and constants.
#[derive(Clone)]
pub(super) struct Function {
    pub(super) kernels: Arc<dyn Kernels>,
    pub(super) name: String,
    pub(super) access: Access,
    /// Index and value of its constants.
    pub(super) constants: Vec<(u32, u32)>,
}

/// One run of a kernel.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Its name.
    pub kernel: &'a str,
    /// Index and value of its constants.
    pub constants: &'a [(u32, u32)],
    /// Its buffers; null for those not set.
    pub buffers: [*mut u8; 31],
    /// Threadgroups.
    pub groups: [u32; 3],
    /// Threads of a group.
    pub threads: [u32; 3],
    /// Bytes of threadgroup memory 0.
    pub shared: u32,
    /// Decides the order of groups and threads.
    pub seed: u32,
}
