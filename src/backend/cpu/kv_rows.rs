//! Stores of KV-cache rows: rounding into a small form when a row is stored, f32 when it is loaded.

use super::dispatch::Kernels;
use crate::backend::RowForm;
use crate::error::{Error, Result};
use crate::os::AlignedBuf;
use crate::quant::cast;
use crate::quant::rounding;

/// Rows of one memory segment: a cache grows in steps of this many, without copying what it holds.
const SEGMENT: usize = 256;

/// Rows of `dim` values in one form. Row `i` lies in segment `i / SEGMENT`.
pub struct Rows {
    form: RowForm,
    dim: usize,
    row_bytes: usize,
    capacity: usize,
    segments: Vec<AlignedBuf>,
}

impl Rows {
    /// An empty store for up to `capacity` rows.
    ///
    /// Errors: `dim` does not divide into the blocks of `form`.
    pub fn new(form: RowForm, dim: usize, capacity: usize) -> Result<Rows> {
        Ok(Rows {
            form,
            dim,
            row_bytes: form.row_bytes(dim)?,
            capacity,
            segments: Vec::with_capacity(capacity.div_ceil(SEGMENT)),
        })
    }

    /// Values of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Bytes that a full store takes.
    pub fn capacity_bytes(&self) -> usize {
        self.capacity * self.row_bytes
    }

    /// Makes room for the first `n` rows.
    pub fn reserve(&mut self, n: usize) -> Result<()> {
        if n > self.capacity {
            return Err(Error::limit("rows of a KV store", n, self.capacity));
        }
        while self.segments.len() * SEGMENT < n {
            let rows = SEGMENT.min(self.capacity - self.segments.len() * SEGMENT);
            self.segments
                .push(AlignedBuf::zeroed(rows * self.row_bytes)?);
        }
        Ok(())
    }

    /// Rounds and stores row `i`; room must have been made for it. `scratch` holds a row.
    pub fn store(&mut self, i: usize, kernels: &Kernels, row: &[f32], scratch: &mut [f32]) {
        assert_eq!(row.len(), self.dim, "width of a row");
        let (form, at) = (self.form, (i % SEGMENT) * self.row_bytes);
        let bytes = &mut self.segments[i / SEGMENT].as_mut_slice()[at..at + self.row_bytes];
        match form {
            RowForm::F32 => bytes.copy_from_slice(cast::to_bytes(row)),
            RowForm::F16 => (kernels.f32_to_f16)(row, values_of_mut(bytes)),
            RowForm::Fp8 { n_rot } => {
                let (nope, rotary) = row.split_at(self.dim - n_rot);
                let (blocks, tail) = bytes.split_at_mut(self.row_bytes - 2 * n_rot);
                rounding::fp8_encode(nope, values_of_mut(blocks));
                for (v, b) in rotary.iter().zip(tail.chunks_exact_mut(2)) {
                    b.copy_from_slice(&half::bf16::from_f32(*v).to_le_bytes());
                }
            }
            RowForm::Fp4 => {
                let rotated = &mut scratch[..row.len()];
                rotated.copy_from_slice(row);
                rounding::hadamard(rotated);
                rounding::fp4_encode(rotated, values_of_mut(bytes));
            }
        }
    }

    /// The values of row `i` as stored. Rows of the FP4 form stay Hadamard-rotated.
    pub fn load(&self, i: usize, kernels: &Kernels, row: &mut [f32]) {
        let bytes = self.bytes(i);
        match self.form {
            RowForm::F32 => cast::to_bytes_mut(row).copy_from_slice(bytes),
            RowForm::F16 => (kernels.f16_to_f32)(values_of(bytes), row),
            RowForm::Fp8 { n_rot } => {
                let (nope, rotary) = row.split_at_mut(self.dim - n_rot);
                let (blocks, tail) = bytes.split_at(self.row_bytes - 2 * n_rot);
                rounding::fp8_decode(values_of(blocks), nope);
                for (v, b) in rotary.iter_mut().zip(tail.chunks_exact(2)) {
                    *v = half::bf16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            RowForm::Fp4 => rounding::fp4_decode(values_of(bytes), row),
        }
    }

    /// Copies a stored row of another store of the same form.
    pub fn copy_from(&mut self, i: usize, from: &Rows, from_i: usize) {
        let at = (i % SEGMENT) * self.row_bytes;
        self.segments[i / SEGMENT].as_mut_slice()[at..at + self.row_bytes]
            .copy_from_slice(from.bytes(from_i));
    }

    /// Copies all stored rows of a store of the same form and capacity.
    pub fn copy_all(&mut self, from: &Rows) -> Result<()> {
        self.reserve((from.segments.len() * SEGMENT).min(from.capacity))?;
        for (to, from) in self.segments.iter_mut().zip(&from.segments) {
            to.as_mut_slice().copy_from_slice(from.as_slice());
        }
        Ok(())
    }

    fn bytes(&self, i: usize) -> &[u8] {
        let at = (i % SEGMENT) * self.row_bytes;
        &self.segments[i / SEGMENT].as_slice()[at..at + self.row_bytes]
    }
}

/// A part of a stored row as its values.
fn values_of<T: cast::Plain>(bytes: &[u8]) -> &[T] {
    // A row starts at a multiple of its length in a page-aligned segment and is whole values (blocks are
    // aligned to 1 byte, f16 rows of 2 bytes a value to 2), so the cast does not fail.
    cast::from_bytes(bytes).unwrap_or_default()
}

/// The same, to be written.
fn values_of_mut<T: cast::Plain>(bytes: &mut [u8]) -> &mut [T] {
    cast::from_bytes_mut(bytes).unwrap_or_default()
}
