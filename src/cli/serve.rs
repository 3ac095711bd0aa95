//! `infall serve`: answers by HTTP.

use super::args::{Args, Command, Flag};
use super::kv_dir::{self, KV_DIR_FLAGS};
use super::model::{self, MODEL_FLAGS};
use super::{Source, note, read_text};
use crate::engine::chat::{Chat, Thinking};
use crate::engine::{SamplerOptions, give_memory_back, interrupt};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::serve::{self, Settings};
use std::path::Path;

/// Bounds on the flags.
const LIMITS: Limits = Limits {
    sessions: 64,
    queue: 256,
};

struct Limits {
    sessions: usize,
    queue: usize,
}

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "serve",
    positional: "",
    max_positional: 0,
    help: "answers by HTTP: the APIs of OpenAI and Anthropic, and a page",
    flags: &[
        &[
            Flag::with(
                &["--host"],
                "ADDRESS",
                "where to listen (default 127.0.0.1: this machine only)",
            ),
            Flag::with(&["--port"], "N", "at which port (default 8000; 0: any)"),
            Flag::with(&["--api-key"], "KEY", "what clients must show"),
            Flag::with(
                &["--api-key-file"],
                "FILE",
                "a file that holds it; others see no flags of this program",
            ),
            Flag::switch(&["--no-key"], "let other machines ask without a key"),
            Flag::with(
                &["--cors"],
                "ORIGIN",
                "web pages from there may ask, * for all (default: the server's own page; with a key the key decides)",
            ),
            Flag::with(
                &["--allow-host"],
                "NAMES",
                "more names of this machine, with commas between them (such as myhost.lan)",
            ),
            Flag::with(
                &["--sessions"],
                "N",
                "conversations kept in memory (default 2: one, and what is asked beside it)",
            ),
            Flag::with(
                &["--queue"],
                "N",
                "requests that may wait (default 64); more are told when to come again",
            ),
            Flag::with(
                &["--temp"],
                "T",
                "temperature where a request names none (default 1)",
            ),
            Flag::switch(
                &["--think"],
                "let the model reason first where a request does not say",
            ),
        ],
        KV_DIR_FLAGS,
        MODEL_FLAGS,
    ],
    run,
};

fn run(args: &Args) -> Result<()> {
    // Bodies come and go by the megabyte, on many threads.
    give_memory_back();
    let sessions = within(
        "--sessions",
        args.number("--sessions")?.unwrap_or(2),
        LIMITS.sessions,
    )?;
    let queue = within(
        "--queue",
        args.number("--queue")?.unwrap_or(64),
        LIMITS.queue,
    )?;
    let defaults = SamplerOptions::default();
    let settings = Settings {
        host: args.text("--host")?.unwrap_or("127.0.0.1").into(),
        port: args.number("--port")?.unwrap_or(8000),
        key: key(args)?,
        open_to_all: args.has("--no-key"),
        origin: args.text("--cors")?.map(String::from),
        names: args.text("--allow-host")?.map_or(Vec::new(), names),
        queue,
        thinking: match args.has("--think") {
            true => Thinking::On,
            false => Thinking::Off,
        },
        sampling: SamplerOptions {
            temperature: args.number("--temp")?.unwrap_or(defaults.temperature),
            ..defaults
        },
    };
    let store = kv_dir::store(args)?;
    // What cannot be had should not come to light after the model was loaded.
    let server = settings.bind()?;
    let options = Options {
        serving: Some(serve::needs(sessions, queue)),
        ..model::options(args)?
    };
    let prepared = model::prepare_with(options, args)?;
    Chat::new(prepared.tokenizer())?;
    let plan = prepared.plan().clone();
    let engine = model::load(prepared, args)?;
    let stop = interrupt::install_for_servers()?;
    note(&format!(
        "listening at http://{}/ (Ctrl-C ends)\n",
        server.address()
    ));
    let tell = |text: &str| note(&format!("note: {text}\n"));
    server.run(engine, &plan, store, sessions, stop, &tell)
}

fn within(flag: &str, found: usize, most: usize) -> Result<usize> {
    if !(1..=most).contains(&found) {
        return Err(Error::usage(format!(
            "{flag}: found {found}, expected 1 to {most}"
        )));
    }
    Ok(found)
}

fn names(list: &str) -> Vec<String> {
    let names = list.split(',').map(|name| name.trim().to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

/// The key that clients must show, if one was given.
fn key(args: &Args) -> Result<Option<String>> {
    let (flag, key) = match (args.text("--api-key")?, args.value("--api-key-file")) {
        (Some(_), Some(_)) => {
            return Err(Error::usage(
                "--api-key and --api-key-file are both given, expected one",
            ));
        }
        (Some(key), None) => ("--api-key", key.to_owned()),
        (None, Some(path)) => {
            let text = read_text(Source::File(Path::new(path)))?;
            ("--api-key-file", text.trim().to_owned())
        }
        (None, None) => return Ok(None),
    };
    let fits = |c: char| c.is_ascii_graphic();
    if key.is_empty() || key.len() > 256 || !key.chars().all(fits) {
        return Err(Error::usage(format!(
            "{flag}: expected 1 to 256 visible ASCII characters"
        )));
    }
    Ok(Some(key))
}
