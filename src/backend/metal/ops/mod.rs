//! One file a family of kernels: which kernel serves an operation, with which arguments, on which grid.

pub mod attention;
pub mod compress;
pub mod experts;
pub mod hyper;
pub mod index;
pub mod linear;
pub mod norms;
pub mod router;
