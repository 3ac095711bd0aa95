//! The flags that name a folder of saved sessions, and what `run` and `chat` do with it.

use super::args::{Args, Flag};
use super::generate::Restored;
use super::note;
use crate::engine::{Engine, Session, Store};
use crate::error::{Error, Result};
use crate::options;
use crate::units::TokenId;
use std::path::Path;
use std::time::Instant;

/// Where sessions are.
pub const DIR_FLAG: Flag = Flag::with(&["--kv-dir"], "DIR", "folder of saved sessions");

/// Where they are and how much room they have.
pub const KV_DIR_FLAGS: &[Flag] = &[
    DIR_FLAG,
    Flag::with(
        &["--kv-space"],
        "SIZE",
        "space for saved sessions: 8GB (default), or a number of bytes",
    ),
];

/// The store that the flags name.
///
/// Errors: usage errors, or a folder that is none.
pub fn store(args: &Args) -> Result<Option<Store>> {
    let space = match args.text("--kv-space")? {
        Some(size) => options::parse_kv_space(size)?,
        None => options::DEFAULT_KV_SPACE,
    };
    match args.value("--kv-dir") {
        Some(folder) => Store::open(Path::new(folder), space).map(Some),
        None if args.has("--kv-space") => Err(Error::usage("--kv-space needs --kv-dir")),
        None => Ok(None),
    }
}

/// Restores the longest saved session that `tokens` begin with into an empty one. What goes wrong is told: the prompt can
/// be read instead.
pub fn restore_prefix(
    store: &Store,
    engine: &mut Engine,
    session: &mut Session,
    tokens: &[TokenId],
) -> Restored {
    let start = Instant::now();
    let mut tell = |text: &str| note(&format!("note: {text}\n"));
    let n_tokens = match engine.restore_prefix(session, store, tokens, &mut tell) {
        Ok(n) => n,
        Err(error) => {
            tell(&error.to_string());
            0
        }
    };
    Restored {
        n_tokens,
        time: start.elapsed(),
    }
}

/// Saves a session for later prompts that begin with it. What goes wrong is told and answered with false: the answer comes
/// all the same.
pub fn save(store: &Store, engine: &mut Engine, session: &mut Session) -> bool {
    let saved = engine.save(session, store, None);
    if let Err(error) = &saved {
        note(&format!("note: the session was not saved: {error}\n"));
    }
    saved.is_ok()
}
