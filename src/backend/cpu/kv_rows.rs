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
        let (form, dim, row_bytes) = (self.form, self.dim, self.row_bytes);
        let bytes = self.bytes_mut(i);
        match form {
            RowForm::F32 => bytes.copy_from_slice(cast::to_bytes(row)),
            RowForm::F16 => (kernels.f32_to_f16)(row, values_of_mut(bytes)),
            RowForm::Fp8 { n_rot } => {
                let (nope, rotary) = row.split_at(dim - n_rot);
                let (blocks, tail) = bytes.split_at_mut(row_bytes - 2 * n_rot);
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
        self.bytes_mut(i).copy_from_slice(from.bytes(from_i));
    }

    /// Copies the bytes of whole rows, from row `first` on, out of the store.
    pub fn read(&self, first: usize, bytes: &mut [u8]) {
        for (i, row) in bytes.chunks_exact_mut(self.row_bytes).enumerate() {
            row.copy_from_slice(self.bytes(first + i));
        }
    }

    /// Copies such bytes into the store; room must have been made for the rows.
    pub fn write(&mut self, first: usize, bytes: &[u8]) {
        for (i, row) in bytes.chunks_exact(self.row_bytes).enumerate() {
            self.bytes_mut(first + i).copy_from_slice(row);
        }
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

    fn bytes_mut(&mut self, i: usize) -> &mut [u8] {
        let at = (i % SEGMENT) * self.row_bytes;
        &mut self.segments[i / SEGMENT].as_mut_slice()[at..at + self.row_bytes]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::scalar::KERNELS;

    fn stored(form: RowForm, row: &[f32]) -> Vec<f32> {
        let mut rows = Rows::new(form, row.len(), 1).unwrap();
        rows.reserve(1).unwrap();
        rows.store(0, &KERNELS, row, &mut vec![0.0; row.len()]);
        let mut found = vec![0.0; row.len()];
        rows.load(0, &KERNELS, &mut found);
        found
    }

    /// The fact sheet's block, x_i = 3 sin(i) with the scale 2^-7: E4M3 of the values in front, and the rotary
    /// tail, here numbers that E4M3 does not have, as bf16.
    #[test]
    fn fp8_rounds_what_is_not_rotated_and_nothing_else() {
        let mut row: Vec<f32> = (0..64).map(|i| 3.0 * (i as f32).sin()).collect();
        row.extend([1.0625, -3.03125, 300.0, 1.001_953_1]);
        let found = stored(RowForm::Fp8 { n_rot: 4 }, &row);
        assert_eq!(
            found[..8],
            [0.0, 2.5, 2.75, 0.4375, -2.25, -3.0, -0.8125, 2.0]
        );
        assert!((found[..64].iter().sum::<f32>() - 0.152_344).abs() < 1e-5);
        // bf16 has 8 bits of precision: only the last value is rounded.
        assert_eq!(found[64..], [1.0625, -3.03125, 300.0, 1.0]);
    }

    /// The fact sheet's row, x_i = cos(i).
    #[test]
    fn fp4_rows_are_rotated_by_hadamard_before_they_are_rounded() {
        let row: Vec<f32> = (0..128).map(|i| (i as f32).cos()).collect();
        let found = stored(RowForm::Fp4, &row);
        assert_eq!(found[..8], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0]);
        assert_eq!(found.iter().sum::<f32>(), 12.3125);
    }

    #[test]
    fn f32_and_f16_rows_keep_what_they_can_hold() {
        let row = [1.0, -0.333_333_34, 65504.0, 1e-8, 2049.0];
        assert_eq!(stored(RowForm::F32, &row), row);
        // The nearest f16: 1/3 is 0x3555, 1e-8 is below half the smallest, 2049 is a tie to even.
        assert_eq!(
            stored(RowForm::F16, &row),
            [1.0, -0.333_251_95, 65504.0, 0.0, 2048.0]
        );
    }

    #[test]
    fn rows_lie_apart_in_every_segment() {
        let mut rows = Rows::new(RowForm::F16, 2, 600).unwrap();
        rows.reserve(600).unwrap();
        for i in 0..600 {
            rows.store(i, &KERNELS, &[i as f32, -(i as f32)], &mut []);
        }
        let mut row = [0.0; 2];
        for i in [0, 1, 255, 256, 511, 512, 599] {
            rows.load(i, &KERNELS, &mut row);
            assert_eq!(row, [i as f32, -(i as f32)]);
        }
    }

    #[test]
    fn rows_that_do_not_divide_into_blocks_say_why() {
        for (form, dim, why) in [
            (
                RowForm::Fp8 { n_rot: 32 },
                128,
                "the part of a key without rotation has 96 values",
            ),
            (RowForm::Fp8 { n_rot: 64 }, 64, "has 0 values"),
            (
                RowForm::Fp4,
                96,
                "an indexer head has 96 values, expected a power of two",
            ),
            (
                RowForm::Fp4,
                16,
                "an indexer head has 16 values, expected a multiple of 32",
            ),
        ] {
            let Err(error) = Rows::new(form, dim, 1) else {
                panic!("{form:?} of {dim}")
            };
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
