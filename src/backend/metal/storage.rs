//! Memory of the backend: buffers of its own, weights in place, and rows that grow.
#![allow(unsafe_code)]

use super::encode::{Bind, Encoder, Grid};
use super::kernels::Kernel;
use super::{Metal, api, args, refused};
use crate::backend::{RowForm, Storage};
use crate::error::{Error, Result};
use crate::os::share::{Device, SHARED_PAGE, Shared};
use crate::os::{AlignedBuf, Slice};
use crate::quant::Format;
use std::sync::Arc;

/// Rows get memory in steps of so many bytes at least.
const STEP: usize = 1 << 20;

/// f32 values in shared memory.
pub struct Buffer {
    pub(super) raw: api::Buffer,
    /// Values.
    pub(super) len: usize,
}

impl Buffer {
    /// Values.
    #[allow(clippy::len_without_is_empty)] // there is none without
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

    /// Its values. All work that writes them must be done, and none begin while they are looked at.
    pub(super) fn values(&self) -> &[f32] {
        // SAFETY: the buffer has room for `len` values, all set since it was zeroed; the owner of the backend, who
        // lends this, encodes nothing meanwhile.
        unsafe { std::slice::from_raw_parts(self.raw.contents().cast().as_ptr(), self.len) }
    }
}

/// A weight matrix in its stored format, `[rows, cols]`, in place where it was loaded.
pub struct Matrix {
    pub(super) format: Format,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_bytes: usize,
    pub(super) memory: api::Buffer,
    /// Of the first row in `memory`; a multiple of 2 at least.
    pub(super) offset: usize,
    // In this order: pages are taken back before they go.
    _shared: Shared,
    _bytes: Slice,
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

/// Rows of a cache, laid out as those of the CPU backend (`backend/cpu/kv_rows.rs`), row after row. Their memory is
/// reserved whole; a buffer without copy covers the part that has been asked for.
pub struct Rows {
    pub(super) form: RowForm,
    pub(super) row_bytes: usize,
    // Before the memory that it lies over.
    raw: Option<api::Buffer>,
    /// The backend has it too, as long as there may be work that touches it.
    memory: Arc<AlignedBuf>,
}

impl Rows {
    /// All that has memory, as a kernel's argument; `None` as long as there is none.
    pub fn all(&self) -> Option<Bind<'_>> {
        self.raw.as_ref().map(|buffer| Bind {
            buffer,
            offset: 0,
            len: buffer.len(),
        })
    }

    /// All that has memory, as a kernel's argument.
    ///
    /// Errors: there is none.
    pub fn bind(&self) -> Result<Bind<'_>> {
        self.all()
            .ok_or_else(|| Error::limit("Metal: rows that have memory", 1, 0))
    }

    /// Rows that have memory.
    pub fn n_reserved(&self) -> usize {
        self.raw.as_ref().map_or(0, |raw| {
            raw.len().min(self.memory.as_slice().len()) / self.row_bytes
        })
    }
}

impl Rows {
    /// Where bytes of rows from `first` on begin in the buffer, which must have memory for them.
    fn place(&self, first: usize, len: usize) -> (&api::Buffer, usize) {
        let at = first * self.row_bytes;
        let raw = self.raw.as_ref().filter(|raw| at + len <= raw.len());
        (
            raw.unwrap_or_else(|| panic!("{len} bytes of rows from row {first} on have no memory")),
            at,
        )
    }

    /// Copies the bytes of whole rows, from row `first` on, out of the store. No work on them may be left.
    pub(super) fn read(&self, first: usize, bytes: &mut [u8]) {
        let (raw, at) = self.place(first, bytes.len());
        // SAFETY: `place` found the bytes in the buffer, which lies over memory that was zeroed; the caller's slice is no part of
        // it, and no work is left.
        unsafe {
            let from = raw.contents().as_ptr().add(at);
            bytes
                .as_mut_ptr()
                .copy_from_nonoverlapping(from, bytes.len());
        }
    }

    /// Copies such bytes into the store. No work on them may be left.
    pub(super) fn write(&mut self, first: usize, bytes: &[u8]) {
        let (raw, at) = self.place(first, bytes.len());
        raw.write(at, bytes);
    }
}

/// Compressed rows chosen for each token, `[n, top_k]` u32, ascending.
pub struct Selection {
    pub(super) ids: Buffer,
}

/// Values of no meaning.
pub(super) fn new_buffer(device: &api::Device, len: usize) -> Result<Buffer> {
    let bytes = 4 * len.max(1);
    let raw = api::autorelease_pool(|| device.new_buffer(bytes, api::Storage::SharedTracked));
    let raw = raw.ok_or_else(|| refused(&format!("a buffer of {bytes} bytes")))?;
    Ok(Buffer { raw, len })
}

/// Has the device copy bytes, a multiple of 4, into the front of a buffer, in the order of its work.
pub(super) fn upload(e: &mut Encoder, buffer: &Buffer, bytes: &[u8]) -> Result<()> {
    let (n, len) = (bytes.len() / 4, buffer.len);
    assert!(n <= len && bytes.len() == 4 * n, "{n} values into {len}");
    let from = e.upload(bytes)?;
    let to = Bind {
        len: 4 * n,
        ..buffer.all()
    };
    let grid = Grid {
        groups: [n.div_ceil(256), 1, 1],
        threads: 256,
        shared: 0,
    };
    let args = args::CopyArgs { n: n as u32 };
    e.dispatch(Kernel::Copy, &[], &args, &[from.bind(), to], grid)
}

impl Selection {
    /// The ids, as bits.
    pub fn ids(&self) -> &Buffer {
        &self.ids
    }
}

impl Metal {
    /// Values of no meaning.
    pub(super) fn new_buffer(&self, len: usize) -> Result<Buffer> {
        new_buffer(&self.device, len)
    }

    /// Covers the first `len` bytes of a store by a buffer.
    fn cover(&mut self, rows: &mut Rows, len: usize) -> Result<()> {
        // Two buffers over the same bytes are not related: nothing may be in flight for the old one.
        self.wait_for_all()?;
        // SAFETY: `AlignedBuf` starts at a shared page and has whole ones. `Rows` drops the buffer before the memory, and the
        // backend keeps the memory until it has waited for all work.
        let raw = api::autorelease_pool(|| unsafe {
            self.device
                .new_buffer_no_copy(rows.memory.first(), len, api::Storage::SharedTracked)
        });
        rows.raw = Some(raw.ok_or_else(|| refused(&format!("a buffer of {len} bytes of rows")))?);
        Ok(())
    }

    /// Copies what a store holds into another of its size.
    pub(super) fn copy_all(&mut self, from: &Rows, to: &mut Rows) -> Result<()> {
        let n = from.n_reserved();
        self.reserve(to, n)?;
        self.wait_for_all()?;
        let (Some(from_raw), Some(to_raw)) = (&from.raw, &to.raw) else {
            return Ok(());
        };
        let len = n * from.row_bytes;
        assert!(len <= from_raw.len() && len <= to_raw.len());
        // SAFETY: both lie in buffers of their own, and no work is left that touches them.
        unsafe {
            let (from, to) = (from_raw.contents(), to_raw.contents());
            to.as_ptr().copy_from_nonoverlapping(from.as_ptr(), len);
        }
        Ok(())
    }
}

impl Storage for Metal {
    type Buffer = Buffer;
    type Matrix = Matrix;
    type Rows = Rows;
    type Selection = Selection;

    fn buffer(&mut self, len: usize) -> Result<Buffer> {
        let buffer = self.new_buffer(len)?;
        // SAFETY: the new buffer has that many bytes, and no work knows it.
        unsafe {
            buffer
                .raw
                .contents()
                .as_ptr()
                .write_bytes(0, buffer.raw.len())
        };
        Ok(buffer)
    }

    fn matrix(&mut self, format: Format, rows: usize, cols: usize, data: Slice) -> Result<Matrix> {
        let bytes = data.bytes();
        let row_bytes = format
            .row_bytes(cols)
            .filter(|b| b.checked_mul(rows) == Some(bytes.len()));
        let row_bytes = row_bytes.ok_or_else(|| {
            let (name, len) = (format.name(), bytes.len());
            Error::format(format!("matrix [{rows}, {cols}] of {name} in {len} bytes"))
        })?;
        let device: Arc<dyn Device> = self.memory();
        let shared = Shared::new(&device, bytes, None)?;
        let place = self.memory.place(bytes)?;
        Ok(Matrix {
            format,
            rows,
            cols,
            row_bytes,
            memory: place.buffer,
            offset: place.offset,
            _shared: shared,
            _bytes: data,
        })
    }

    fn rows(&mut self, form: RowForm, dim: usize, capacity: usize) -> Result<Rows> {
        let row_bytes = form.row_bytes(dim)?;
        let memory = Arc::new(AlignedBuf::zeroed(capacity * row_bytes)?);
        self.stores.push(Arc::clone(&memory));
        Ok(Rows {
            form,
            row_bytes,
            raw: None,
            memory,
        })
    }

    fn reserve(&mut self, rows: &mut Rows, n: usize) -> Result<()> {
        let (needed, most) = (n * rows.row_bytes, rows.memory.as_slice().len());
        assert!(
            needed <= most,
            "{n} rows in a store of {}",
            most / rows.row_bytes
        );
        let held = rows.raw.as_ref().map_or(0, api::Buffer::len);
        if needed <= held {
            return Ok(());
        }
        let step = needed.max(held + held / 2).next_multiple_of(STEP);
        self.cover(rows, step.min(most.next_multiple_of(SHARED_PAGE)))
    }

    fn selection(&mut self, n: usize, top_k: usize) -> Result<Selection> {
        let ids = self.new_buffer(n * top_k)?;
        Ok(Selection { ids })
    }
}
