//! infall runs DeepSeek-V4-Flash, a mixture of experts of 284 billion parameters, on machines with less memory
//! than the model.
//!
//! # The way of the data
//!
//! ```text
//! model file --os--> gguf (directory) --> model (Config, Weights, ExpertMap) --> supply + backend
//! prompt --chat--> text --tokenizer--> tokens --graph--> logits --sampler--> token --> text
//!                  in each layer: router picks experts -> supply.acquire -> ExpertRef -> backend
//! ```
//!
//! # The modules, in the order in which they may use each other
//!
//! | row | modules | task |
//! |---|---|---|
//! | 0 | [`units`] [`error`] [`rng`] | small types |
//! | 1 | [`options`] [`os`] [`quant`] [`json`] [`sha256`] | options; files, memory, signals; number formats; JSON; hashes |
//! | 2 | [`gguf`] [`routes`] [`http`] [`schema`] | the container: names and extents, not meaning; traces of which experts were chosen; requests and responses; forms that an answer is held to |
//! | 3 | [`model`] [`text`] [`sampler`] | the model's numbers and tensors; tokens; the choice of a token |
//! | 4 | [`supply`] [`backend`] | how experts reach a kernel; the kernels |
//! | 5 | [`graph`] | the forward pass, generic over the backend |
//! | 6 | [`session`] [`plan`] [`synth`] | a conversation and its KV cache, in memory and in files; every byte decided beforehand; random models |
//! | 7 | [`engine`] [`report`] | all of it, opened and ready; rows of the experiment, and what is made of them |
//! | 8 | [`bench`](mod@bench) [`serve`] [`perplexity`] [`verify`] | how fast it computes, what memory and disks allow, one run of the experiment; the server; how well a model knows a text; whether a file is sound |
//! | 9 | [`cli`] | the command line |
//!
//! `tests/tidy.rs` holds the code against this table.
//!
//! # Unsafe code
//!
//! stands behind these fences only, each with its promise at the top: `os/` (system calls), `quant/cast.rs`
//! (bytes as blocks), `backend/cpu/pool.rs` (threads), `backend/cpu/{avx2,avx512,neon}.rs` and their folders, and
//! `backend/cpu/{table,unpack}.rs` (intrinsics), `backend/metal/` but for its operations (messages, memory that a device reads).
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod backend;
pub mod bench;
pub mod cli;
pub mod engine;
pub mod error;
pub mod gguf;
pub mod graph;
pub mod http;
pub mod json;

pub mod model;
pub mod options;
pub mod os;
pub mod perplexity;
pub mod plan;
pub mod quant;
pub mod report;
pub mod rng;
pub mod routes;
pub mod sampler;
pub mod schema;
pub mod serve;
pub mod session;
pub mod sha256;
pub mod supply;
pub mod synth;
pub mod text;
pub mod units;
pub mod verify;
