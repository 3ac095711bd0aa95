//! infall (in work)
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod error;
pub mod gguf;
pub mod model;
pub mod os;
pub mod quant;
pub mod units;
