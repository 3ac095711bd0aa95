//! One file a family of kernels: which kernel serves an operation, with which arguments, on which grid.

use super::encode::Grid;
use crate::backend::RowForm;

pub mod attention;
pub mod compress;
pub mod experts;
pub mod hyper;
pub mod index;
pub mod linear;
pub mod norms;
pub mod router;

/// Function constant 0 of kernels that touch rows: how `metal-shaders/rows.h` numbers the forms.
fn form_constant(form: RowForm) -> u32 {
    match form {
        RowForm::F32 => 0,
        RowForm::F16 => 1,
        RowForm::Fp8 { .. } => 2,
        RowForm::Fp4 => 3,
    }
}

/// One thread for each of `n` values.
fn each(n: usize) -> Grid {
    Grid {
        groups: [n.div_ceil(256), 1, 1],
        threads: 256,
        shared: 0,
    }
}

/// Bytes of threadgroup memory for `n` values of 4 bytes.
fn shared(n: usize) -> usize {
    (4 * n).next_multiple_of(16)
}
