//! The kernel tables and the choice between them, made once at start.

use super::scalar;
use crate::error::{Error, Result};
use crate::options::KernelChoice;
use crate::quant::Format;
use crate::quant::wide::Act512;

#[cfg(target_arch = "x86_64")]
use super::avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512;
#[cfg(target_arch = "aarch64")]
use super::neon;

/// How the vector that weight rows are multiplied with must be prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Plain f32.
    F32,
    /// 16 blocks of 32 side by side, [`Act512`].
    Block512,
}

/// `y[i]` = row i · x for `y.len()` consecutive rows of one matrix.
///
/// `rows.len()` is `y.len()` times the bytes of a row. `x` is the bytes of the prepared vector: `[f32]`
/// or `[Act512]` as the [`Activation`] says, with the alignment of that. Each `y[i]` is summed
/// in an order that depends on nothing but the length of the row. Lengths that do not fit are a mistake
/// of the caller and panic; the content of rows and vector is free, and what is NaN stays NaN.
pub type RowsKernel = fn(rows: &[u8], x: &[u8], y: &mut [f32]);

/// Vectors that a [`TileKernel`] takes at most.
pub const TOKENS: usize = 16;

/// As [`RowsKernel`] with several vectors, each to the bit: weights are unpacked once for all of them.
pub type TileKernel = fn(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]);

/// The kernel of one weight format, and what it multiplies with.
#[derive(Clone, Copy)]
pub struct FormatKernel {
    /// Preparation of the vector.
    pub activation: Activation,
    /// Rows times vector.
    pub rows: RowsKernel,
    /// Rows times several vectors, where unpacking is worth sharing.
    pub tile: Option<TileKernel>,
}

impl FormatKernel {
    /// Rows times up to [`TOKENS`] vectors.
    pub fn times(&self, rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
        match self.tile {
            Some(tile) if x.len() > 1 => tile(rows, x, y),
            _ => x.iter().zip(y).for_each(|(x, y)| (self.rows)(rows, x, y)),
        }
    }
}

/// A kernel for each format of weights.
#[derive(Clone, Copy)]
pub struct WeightKernels([Option<FormatKernel>; Format::ALL.len()]);

impl WeightKernels {
    /// No kernels.
    pub const NONE: WeightKernels = WeightKernels([None; Format::ALL.len()]);

    /// These, and `kernel` for `format`.
    pub const fn with(mut self, format: Format, kernel: FormatKernel) -> WeightKernels {
        self.0[format as usize] = Some(kernel);
        self
    }

    /// These, with another tile for `format`, if it has a kernel.
    #[cfg(target_arch = "aarch64")]
    pub fn with_tile(mut self, format: Format, tile: TileKernel) -> WeightKernels {
        if let Some(kernel) = &mut self.0[format as usize] {
            kernel.tile = Some(tile);
        }
        self
    }
}

/// All kernels of one instruction set.
#[derive(Clone, Copy)]
pub struct Kernels {
    /// "scalar", "avx2", "avx512", "neon", "neon-dotprod", "neon-i8mm".
    pub name: &'static str,
    /// Rows times vector, by format.
    pub weights: WeightKernels,
    /// The kernel for rows of f32.
    pub rows_f32: RowsKernel,
    /// Product of two vectors of one length.
    pub dot_f32: fn(&[f32], &[f32]) -> f32,
    /// `y += sum over i of a[i] rows[i]`, in the order of i for each element; `rows` is `[a.len(), y.len()]`.
    pub axpys: fn(a: &[f32], rows: &[f32], y: &mut [f32]),
    /// As [`crate::quant::wide::quantize_512`], to the bit.
    pub quantize_512: fn(&[f32], &mut [Act512]),
    /// Widens f16 bits, for slices of one length.
    pub f16_to_f32: fn(&[u16], &mut [f32]),
    /// Rounds to f16 bits, nearest-even, for slices of one length.
    pub f32_to_f16: fn(&[f32], &mut [u16]),
}

impl Kernels {
    /// The kernel for weights of `format`; `None` for [`Format::I32`], which holds none.
    pub fn weight(&self, format: Format) -> Option<FormatKernel> {
        self.weights.0[format as usize]
    }
}

/// The table of `choice`; an error that names what is missing when this CPU cannot run it.
pub fn select(choice: KernelChoice) -> Result<Kernels> {
    let missing = match choice {
        KernelChoice::Auto => return Ok(available().pop().unwrap_or(scalar::KERNELS)),
        KernelChoice::Scalar => return Ok(scalar::KERNELS),
        #[cfg(target_arch = "x86_64")]
        KernelChoice::Avx2 => match avx2::kernels() {
            Ok(kernels) => return Ok(kernels),
            Err(missing) => missing,
        },
        #[cfg(target_arch = "x86_64")]
        KernelChoice::Avx512 => match avx512::kernels() {
            Ok(kernels) => return Ok(kernels),
            Err(missing) => missing,
        },
        #[cfg(target_arch = "aarch64")]
        KernelChoice::Neon => {
            let best = neon::with_i8mm().or_else(neon::with_dotprod);
            return Ok(best.unwrap_or(neon::KERNELS));
        }
        _ => format!("another kind of processor than {}", std::env::consts::ARCH),
    };
    Err(Error::unsupported(format!(
        "--kernels {}: this needs {missing}",
        choice.name()
    )))
}

/// All tables that this machine runs, the slowest first.
pub fn available() -> Vec<Kernels> {
    let mut tables = vec![scalar::KERNELS];
    #[cfg(target_arch = "x86_64")]
    {
        tables.extend(avx2::kernels());
        tables.extend(avx512::kernels());
    }
    #[cfg(target_arch = "aarch64")]
    {
        tables.push(neon::KERNELS);
        tables.extend(neon::with_dotprod());
        tables.extend(neon::with_i8mm());
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_another_processor_is_refused() {
        let other = if cfg!(target_arch = "aarch64") {
            KernelChoice::Avx2
        } else {
            KernelChoice::Neon
        };
        let Err(error) = select(other) else {
            panic!("{other:?} cannot run here")
        };
        assert!(
            error.to_string().contains(std::env::consts::ARCH),
            "{error}"
        );
    }

    #[test]
    fn auto_is_the_last_available() {
        let names: Vec<_> = available().iter().map(|k| k.name).collect();
        assert_eq!(names[0], "scalar");
        assert_eq!(
            select(KernelChoice::Auto).unwrap().name,
            names[names.len() - 1]
        );
        assert_eq!(select(KernelChoice::Scalar).unwrap().name, "scalar");
        if cfg!(target_arch = "aarch64") {
            let neon = select(KernelChoice::Neon).unwrap();
            assert_eq!(neon.name, names[names.len() - 1]);
        }
    }
}
