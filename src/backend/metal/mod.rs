//! The Metal backend: shared-storage memory, and a queue of kernels of our own (`metal-shaders/`).
//!
//! Never executed on Apple hardware so far; README.md says what has been proved instead, and how.

use crate::backend::RowForm;
use crate::quant::Format;
use encode::Bind;
use std::rc::Rc;

pub mod api;
pub mod args;
pub mod encode;
pub mod kernels;
mod library;
pub mod memory;
pub mod messages;
pub mod objc;
mod ops;

/// f32 values in shared memory.
pub struct Buffer {
    raw: api::Buffer,
    /// Values.
    len: usize,
}

impl Buffer {
    /// Values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Values from `first` on, as a kernel's argument.
    pub fn from(&self, first: usize) -> Bind<'_> {
        Bind {
            buffer: &self.raw,
            offset: 4 * first,
            len: 4 * (self.len - first),
        }
    }

    /// All of it, as a kernel's argument.
    pub fn all(&self) -> Bind<'_> {
        self.from(0)
    }
}

/// A weight matrix in its stored format, `[rows, cols]`, in place where it was loaded.
pub struct Matrix {
    format: Format,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    /// Shared by all matrices of one memory.
    memory: Rc<api::Buffer>,
    /// Of the first row in `memory`; a multiple of 2 at least.
    offset: usize,
}

impl Matrix {
    /// All of it, as a kernel's argument.
    pub fn all(&self) -> Bind<'_> {
        Bind {
            buffer: &self.memory,
            offset: self.offset,
            len: self.rows * self.row_bytes,
        }
    }
}

/// Rows of a cache, laid out as those of the CPU backend (`backend/cpu/kv_rows.rs`), row after row.
pub struct Rows {
    form: RowForm,
    dim: usize,
    row_bytes: usize,
    raw: api::Buffer,
    /// Bytes that have memory.
    len: usize,
}

impl Rows {
    /// All of it, as a kernel's argument.
    pub fn all(&self) -> Bind<'_> {
        Bind {
            buffer: &self.raw,
            offset: 0,
            len: self.len,
        }
    }
}

/// Compressed rows chosen for each token, `[n, top_k]` u32, ascending.
pub struct Selection {
    raw: api::Buffer,
    n: usize,
    top_k: usize,
}

impl Selection {
    /// All of it, as a kernel's argument.
    pub fn all(&self) -> Bind<'_> {
        Bind {
            buffer: &self.raw,
            offset: 0,
            len: 4 * self.n * self.top_k,
        }
    }
}
