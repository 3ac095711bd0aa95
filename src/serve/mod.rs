//! The server: questions by HTTP, answers from one engine.
//!
//! ```text
//! http threads                                        the thread that has the engine
//! api: request -> Ask --> desk: a bounded line  -----> answer: prefix kept, prompt read, tokens chosen
//!      response <- Part <---------------------------   metrics: what happened, for /metrics and the page
//! ```

pub mod api;
pub mod ask;
pub mod desk;
