//! FENCE: what the tables of all instruction sets are made of.
//!
//! Promise: the functions that are called here are compiled for the features of a table, which leaves its module only after
//! these were detected.

use super::dispatch::{Activation, FormatKernel, RowsKernel, TileKernel};

/// A kernel for one vector and for several.
pub const fn kernel(activation: Activation, rows: RowsKernel, tile: TileKernel) -> FormatKernel {
    FormatKernel {
        activation,
        rows,
        tile: Some(tile),
    }
}

/// The kernels of the formats without blocks, of the calling module's `float`.
macro_rules! float_kernels {
    () => {
        float_kernels!(WeightKernels::NONE, F32 f32_rows f32_tile, F16 f16_rows f16_tile, Bf16 bf16_rows bf16_tile)
    };
    ($kernels:expr, $($format:ident $rows:ident $tile:ident),*) => {
        $kernels$(.with(
            Format::$format,
            kernel(
                Activation::F32,
                // SAFETY: as the head of this file promises.
                |rows, x, y| unsafe { float::$rows(rows, x, y) },
                // SAFETY: as above.
                |rows, x, y| unsafe { float::$tile(rows, x, y) },
            ),
        ))*
    };
}
pub(super) use float_kernels;

/// `$kernels`, and those of formats with blocks: how each is unpacked, the rest is the calling module's `product`.
#[allow(unused_macros)] // NEON has its own, which also chooses the byte product
macro_rules! with_blocks {
    ($features:tt, $kernels:expr, $($format:ident $shape:ident $unpack:expr),* $(,)?) => {
        $kernels$(.with(Format::$format, {
            #[target_feature(enable = $features)]
            fn rows(rows: &[u8], x: &[u8], y: &mut [f32]) {
                #[allow(dead_code)] // most formats do not ask
                const USE: usize = 0;
                product::rows(rows, x, y, shape::$shape, $unpack);
            }
            #[target_feature(enable = $features)]
            fn tile(rows: &[u8], x: &[&[u8]], y: &mut [&mut [f32]]) {
                #[allow(dead_code)] // most formats do not ask
                const USE: usize = 1;
                product::tile(rows, x, y, shape::$shape, $unpack);
            }
            kernel(
                Activation::Block512,
                // SAFETY: as the head of this file promises.
                |r, x, y| unsafe { rows(r, x, y) },
                // SAFETY: as above.
                |r, x, y| unsafe { tile(r, x, y) },
            )
        }))*
    };
}
#[allow(unused_imports)]
pub(super) use with_blocks;
