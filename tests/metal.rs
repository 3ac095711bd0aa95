//! Every operation of the Metal backend against the plain kernels of the CPU: on a real device where there is one, else on
//! the software device (feature `metal-sim`).
//!
//! One table of cases for both. Errors are bounded by what f32 sums in another order may differ, in units of the
//! magnitudes that went in; nothing here was fitted to what came out.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(any(target_os = "macos", feature = "metal-sim"))]

#[path = "metal/cases.rs"]
mod cases;
#[path = "metal/pair.rs"]
mod pair;
