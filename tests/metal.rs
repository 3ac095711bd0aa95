//! Every operation of the Metal backend against the plain kernels of the CPU: on a real device where there is one, else on
//! the software device (feature `metal-sim`), there in eight orders of threads and groups.
//!
//! Errors are bounded by what the roundings of f32 sums in any order can differ; nothing was fitted to what came out.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(any(
    target_os = "macos",
    all(feature = "metal-sim", target_arch = "x86_64")
))]

#[path = "metal/choices.rs"]
mod choices;
mod common;
#[path = "metal/coverage.rs"]
mod coverage;
#[path = "metal/faults.rs"]
mod faults;
#[path = "metal/graph.rs"]
mod graph;
#[path = "metal/model.rs"]
mod model;
#[path = "metal/pair.rs"]
mod pair;
#[path = "metal/products.rs"]
mod products;
#[path = "metal/rows.rs"]
mod rows;
#[path = "metal/trace.rs"]
mod trace;
