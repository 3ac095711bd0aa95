//! Two backends that are given the same work.

use infall::backend::cpu::Cpu;
use infall::backend::metal::{self, Metal};
use infall::backend::{Backend, RowForm, Storage};
use infall::options::KernelChoice;
use infall::os::{AlignedBuf, Slice};
use infall::quant::{Format, blocks, encode};
use infall::rng::Rng;
use infall::units::{Extent, Phase};
use std::sync::Arc;

/// Half the distance of neighbours at 1: what one rounding of f32 can be off, in units of the value.
pub const ROUNDING: f32 = 1.0 / (1 << 24) as f32;

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
}

/// Stores of each.
pub struct BothRows {
    pub cpu: <Cpu as Storage>::Rows,
    pub metal: metal::Rows,
}

/// Does some work in each order of threads that the software device has, once on a real one.
pub fn in_each_order(work: impl Fn(&mut Pair)) {
    #[cfg(not(target_os = "macos"))]
    if !metal::sim::control::can_run() {
        return;
    }
    #[cfg(not(target_os = "macos"))]
    for seed in 0..crate::coverage::n_orders() {
        metal::sim::control::reset();
        metal::sim::control::set_seed(seed);
        work(&mut Pair::new(seed.into()));
        crate::coverage::note(&metal::sim::control::trace());
        assert_eq!(metal::sim::control::live(), [], "objects left over");
    }
    #[cfg(target_os = "macos")]
    work(&mut Pair::new(0));
}

/// Does some work in one order of threads of the software device that is not the plain one.
pub fn in_some_order(work: impl Fn()) {
    #[cfg(not(target_os = "macos"))]
    {
        if !metal::sim::control::can_run() {
            return;
        }
        metal::sim::control::reset();
        metal::sim::control::set_seed(3);
    }
    work();
    #[cfg(not(target_os = "macos"))]
    assert_eq!(metal::sim::control::live(), [], "objects left over");
}

impl Pair {
    fn new(seed: u64) -> Pair {
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

    /// `len` values between `-scale` and `scale`.
    pub fn values(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len)
            .map(|_| (self.rng.uniform() * 2.0 - 1.0) * scale)
            .collect()
    }

    /// `len` whole numbers between `-most` and `most`.
    pub fn whole(&mut self, len: usize, most: usize) -> Vec<f32> {
        (0..len)
            .map(|_| self.rng.below(2 * most + 1) as f32 - most as f32)
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

    /// The bytes of random rows, `offset` bytes behind the start of their memory, which is that of one page or more.
    pub fn weights(&mut self, format: Format, rows: usize, cols: usize, offset: usize) -> Slice {
        let row_bytes = format.row_bytes(cols).unwrap();
        let mut memory = AlignedBuf::zeroed(offset + rows * row_bytes).unwrap();
        for r in 0..rows {
            let row = self.values(cols, 1.0);
            encode::encode_row(
                format,
                &row,
                &mut memory.as_mut_slice()[offset + r * row_bytes..][..row_bytes],
            );
        }
        let extent = Extent {
            offset: offset as u64,
            len: (rows * row_bytes) as u64,
        };
        Slice::new(&Arc::new(memory), extent).unwrap()
    }

    /// The bytes of rows in which anything may stand but what makes a weight infinite or NaN.
    pub fn any_weights(
        &mut self,
        format: Format,
        rows: usize,
        cols: usize,
        offset: usize,
    ) -> Slice {
        let len = rows * format.row_bytes(cols).unwrap();
        let mut memory = AlignedBuf::zeroed(offset + len).unwrap();
        let bytes = &mut memory.as_mut_slice()[offset..][..len];
        bytes
            .iter_mut()
            .for_each(|b| *b = self.rng.below(256) as u8);
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            // f16: no exponent of only ones. Wider ones: sizes whose products stay far from the ends.
            let f16s: &[usize] = match format {
                Format::F16 | Format::Q8_0 | Format::Iq2Xxs => &[1],
                Format::Q4K => &[1, 3],
                Format::Q2K => &[81, 83],
                _ => &[],
            };
            for &high in f16s {
                if block[high] & 0x7c == 0x7c {
                    block[high] ^= 0x40;
                }
            }
            let size = 100 + self.rng.below(50) as u8; // of an exponent of eight bits
            match format {
                Format::F32 => set_exponent(&mut block[2..4], size),
                Format::Bf16 => set_exponent(block, size),
                Format::Mxfp4 => block[0] = size,
                _ => {}
            }
        }
        let extent = Extent {
            offset: offset as u64,
            len: len as u64,
        };
        Slice::new(&Arc::new(memory), extent).unwrap()
    }

    /// A random matrix.
    pub fn matrix(
        &mut self,
        format: Format,
        rows: usize,
        cols: usize,
        offset: usize,
    ) -> BothMatrices {
        let data = self.weights(format, rows, cols, offset);
        BothMatrices {
            cpu: self.cpu.matrix(format, rows, cols, data.clone()).unwrap(),
            metal: self.metal.matrix(format, rows, cols, data).unwrap(),
        }
    }

    /// Stores of `capacity` rows with room for `n`.
    pub fn rows(&mut self, form: RowForm, dim: usize, capacity: usize, n: usize) -> BothRows {
        let mut rows = BothRows {
            cpu: self.cpu.rows(form, dim, capacity).unwrap(),
            metal: self.metal.rows(form, dim, capacity).unwrap(),
        };
        self.cpu.reserve(&mut rows.cpu, n).unwrap();
        self.metal.reserve(&mut rows.metal, n).unwrap();
        rows
    }

    /// Both hold the same, no further apart than `bound`.
    pub fn assert_near(&mut self, what: &str, both: &Both, bound: f32) {
        let found = self.metal.host(&both.metal).unwrap();
        assert_near(what, found, &both.cpu, bound);
    }
}

/// The weights of a slice as f32.
pub fn dequantized(format: Format, cols: usize, bytes: &[u8]) -> Vec<f32> {
    let row_bytes = format.row_bytes(cols).unwrap();
    let mut values = vec![0.0; bytes.len() / row_bytes * cols];
    for (row, out) in bytes
        .chunks_exact(row_bytes)
        .zip(values.chunks_exact_mut(cols))
    {
        blocks::dequantize_row(format, row, out);
    }
    values
}

/// Sets the eight bits below the sign of the upper half of a little-endian f32.
fn set_exponent(upper: &mut [u8], exponent: u8) {
    upper[1] = upper[1] & 0x80 | exponent >> 1;
    upper[0] = upper[0] & 0x7f | exponent << 7;
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

/// The same values, bit by bit.
pub fn assert_same_bits(what: &str, found: &[f32], expected: &[f32]) {
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert!(bits(found) == bits(expected), "{what}: other bits");
}
