//! temp
use super::scalar;
use crate::error::Result;
use crate::options::KernelChoice;
use crate::quant::Format;
use crate::quant::encode::{ActQ8_0, ActQ8K};
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    F32,
    Q8_0,
    Q8K,
}
pub type RowsKernel = fn(rows: &[u8], x: &[u8], y: &mut [f32]);
#[derive(Clone, Copy)]
pub struct FormatKernel {
    pub activation: Activation,
    pub rows: RowsKernel,
}
pub struct Kernels {
    pub name: &'static str,
    pub of: fn(Format) -> FormatKernel,
    pub dot_f32: fn(&[f32], &[f32]) -> f32,
    pub axpy: fn(f32, &[f32], &mut [f32]),
    pub quantize_q8_0: fn(&[f32], &mut [ActQ8_0]),
    pub quantize_q8_k: fn(&[f32], &mut [ActQ8K]),
}
impl Kernels {
    pub fn of(&self, f: Format) -> FormatKernel {
        (self.of)(f)
    }
}
pub fn select(_: KernelChoice) -> Result<Kernels> {
    Ok(scalar::kernels())
}
