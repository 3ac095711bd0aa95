//! How work reaches the queue: dispatches into one concurrent encoder, with a barrier wherever one touches bytes that
//! another wrote (or writes bytes that another touched) since the last.

use super::api;
use super::kernels::Kernel;
use crate::error::Result;

/// Bytes of a buffer that a kernel reads or writes.
#[derive(Clone, Copy)]
pub struct Bind<'a> {
    /// Which buffer.
    pub buffer: &'a api::Buffer,
    /// First byte.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
}

/// The threads of a dispatch.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Threadgroups.
    pub groups: [usize; 3],
    /// Threads of a group, a multiple of 32.
    pub threads: usize,
    /// Bytes of threadgroup memory, a multiple of 16 (0: none).
    pub shared: usize,
}

/// The structure that a kernel has at buffer 0; see `metal-shaders/args.h`.
///
/// # Safety
///
/// The type is `repr(C)`, has no padding, and holds 4- and 8-byte numbers only.
#[allow(unsafe_code)]
pub unsafe trait Args: Copy {
    /// Name in `metal-shaders/args.h`.
    const NAME: &'static str;
    /// Name, type (`uint`, `float`, `ulong`) and offset of each field.
    const FIELDS: &'static [(&'static str, &'static str, usize)];
}

/// Takes dispatches in order.
pub struct Encoder {}

impl Encoder {
    /// Encodes a kernel. `binds` are its buffers 1, 2, ...; `constants` the values of its function constants 0, 1, ...
    ///
    /// Errors: the pipeline cannot be made, the device refuses memory.
    pub fn dispatch<A: Args>(
        &mut self,
        _kernel: Kernel,
        _constants: &[u32],
        _args: &A,
        _binds: &[Bind<'_>],
        _grid: Grid,
    ) -> Result<()> {
        todo!()
    }

    /// Copies bytes where kernels of this command buffer can read them.
    ///
    /// Errors: the device refuses memory.
    pub fn upload(&mut self, _bytes: &[u8]) -> Result<Upload> {
        todo!()
    }
}

/// Bytes that [`Encoder::upload`] took.
pub struct Upload {
    buffer: api::Buffer,
    offset: usize,
    len: usize,
}

impl Upload {
    /// As a kernel's argument.
    pub fn bind(&self) -> Bind<'_> {
        Bind {
            buffer: &self.buffer,
            offset: self.offset,
            len: self.len,
        }
    }
}
