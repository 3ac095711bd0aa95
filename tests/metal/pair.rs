//! Two backends that are given the same work.

use infall::backend::cpu::Cpu;
use infall::backend::metal::{self, Metal};
use infall::backend::{Backend, RowForm, Storage};
use infall::options::KernelChoice;
use infall::os::{AlignedBuf, Slice};
use infall::quant::{Format, encode};
use infall::rng::Rng;
use infall::units::{Extent, Phase};
use std::sync::Arc;

/// The plain kernels of the CPU, and Metal.
pub struct Pair {
    pub cpu: Cpu,
    pub metal: Metal,
    pub rng: Rng,
}

/// A buffer of each.
pub struct Both {
    pub cpu: Vec<f32>,
    pub metal: metal::Buffer,
}

/// A matrix of each, over the same bytes.
pub struct BothMatrices {
    pub cpu: <Cpu as Storage>::Matrix,
    pub metal: metal::Matrix,
    /// As f32, `[rows, cols]`.
    pub values: Vec<f32>,
}

/// Stores of each.
pub struct BothRows {
    pub cpu: <Cpu as Storage>::Rows,
    pub metal: metal::Rows,
}

impl Pair {
    pub fn new(seed: u64) -> Pair {
        Pair {
            cpu: Cpu::new(KernelChoice::Scalar, 1).unwrap(),
            metal: Metal::new().unwrap(),
            rng: Rng::new(seed + 1),
        }
    }

    /// What the next operations are computed for.
    pub fn pass(&mut self, phase: Phase) {
        self.metal.pass(phase, 1);
    }

    /// `len` values around 0, of about the size `scale`.
    pub fn values(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len)
            .map(|_| (self.rng.uniform() * 2.0 - 1.0) * scale)
            .collect()
    }

    /// Buffers with given values.
    pub fn with(&mut self, values: &[f32]) -> Both {
        let mut metal = self.metal.buffer(values.len()).unwrap();
        self.metal.write(&mut metal, values).unwrap();
        Both {
            cpu: values.to_vec(),
            metal,
        }
    }

    /// Buffers with random values.
    pub fn random(&mut self, len: usize, scale: f32) -> Both {
        let values = self.values(len, scale);
        self.with(&values)
    }

    /// Buffers whose contents would show if they were not written.
    pub fn unwritten(&mut self, len: usize) -> Both {
        self.with(&vec![f32::NAN; len])
    }

    /// A random matrix, `offset` bytes behind the start of a page.
    pub fn matrix(
        &mut self,
        format: Format,
        rows: usize,
        cols: usize,
        offset: usize,
    ) -> BothMatrices {
        let row_bytes = format.row_bytes(cols).unwrap();
        let mut memory = AlignedBuf::zeroed(offset + rows * row_bytes).unwrap();
        let mut values = vec![0.0; rows * cols];
        for r in 0..rows {
            let row = self.values(cols, 1.0 / (cols as f32).sqrt());
            let bytes = &mut memory.as_mut_slice()[offset + r * row_bytes..][..row_bytes];
            encode::encode_row(format, &row, bytes);
            let values = &mut values[r * cols..][..cols];
            infall::quant::blocks::dequantize_row(format, bytes, values);
        }
        let extent = Extent {
            offset: offset as u64,
            len: (rows * row_bytes) as u64,
        };
        let slice = Slice::new(&Arc::new(memory), extent).unwrap();
        let cpu = self.cpu.matrix(format, rows, cols, slice.clone()).unwrap();
        let metal = self.metal.matrix(format, rows, cols, slice).unwrap();
        BothMatrices { cpu, metal, values }
    }

    /// Stores with room for `n` rows of `capacity`.
    pub fn rows(&mut self, form: RowForm, dim: usize, capacity: usize, n: usize) -> BothRows {
        let mut rows = BothRows {
            cpu: self.cpu.rows(form, dim, capacity).unwrap(),
            metal: self.metal.rows(form, dim, capacity).unwrap(),
        };
        self.cpu.reserve(&mut rows.cpu, n).unwrap();
        self.metal.reserve(&mut rows.metal, n).unwrap();
        rows
    }

    /// The values that Metal has computed.
    pub fn found(&mut self, both: &Both) -> Vec<f32> {
        self.metal.host(&both.metal).unwrap().to_vec()
    }

    /// Both hold the same, each within `bound` of the size of what went into a value.
    pub fn assert_near(&mut self, what: &str, both: &Both, size: f32, bound: f32) {
        let found = self.found(both);
        assert_near(what, &found, &both.cpu, size * bound);
    }
}

/// Values that are no further apart than `bound`; NaN matches NaN only.
pub fn assert_near(what: &str, found: &[f32], expected: &[f32], bound: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let near = f == e || (f - e).abs() <= bound || f.is_nan() && e.is_nan();
        assert!(
            near,
            "{what}: value {i} of {}: {f}, expected {e} within {bound}",
            found.len()
        );
    }
}
