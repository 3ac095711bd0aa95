//! `infall sessions`: what is saved in a folder.

use super::args::{Args, Command, utf8};
use super::kv_dir::{DIR_FLAG, store};
use super::print;
use crate::engine::Store;
use crate::engine::sessions::{Entry, Header};
use crate::error::{Error, Result};
use crate::units::Bytes;
use std::time::SystemTime;

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "sessions",
    positional: "list | show NAME | rm NAME",
    max_positional: 2,
    help: "lists, shows or removes saved sessions",
    flags: &[&[
        DIR_FLAG,
        super::args::Flag::switch(&["--all"], "with rm: all sessions of the folder"),
    ]],
    run,
};

fn run(args: &Args) -> Result<()> {
    let words = args.positional.iter().map(|word| utf8("an argument", word));
    let words = words.collect::<Result<Vec<&str>>>()?;
    let Some(store) = store(args)? else {
        return Err(Error::usage("--kv-dir is missing: which folder?"));
    };
    match (words[..].as_ref(), args.has("--all")) {
        (["list"], false) => list(&store),
        (["show", name], false) => show(&store, name),
        (["rm", name], false) => store.remove(name),
        (["rm"], true) => {
            let n = store.remove_all()?;
            print(&format!("{n} removed\n"))
        }
        _ => Err(Error::usage(
            "expected list, show NAME, rm NAME or rm --all (see infall sessions --help)",
        )),
    }
}

fn list(store: &Store) -> Result<()> {
    let listing = store.list()?;
    let mut text = String::new();
    if !listing.entries.is_empty() {
        text += &format!(
            "{:<21}  {:>7}  {:>10}  {:<8}  {:<16}  {}\n",
            "name", "tokens", "size", "KV", "model", "used"
        );
    }
    for entry in &listing.entries {
        let size = Bytes(entry.bytes).to_string();
        text += &match store.read(&entry.name) {
            Ok(reader) => {
                let Header {
                    n_tokens, origin, ..
                } = reader.header();
                format!(
                    "{:<21}  {n_tokens:>7}  {size:>10}  {:<8}  {:016x}  {}\n",
                    entry.name,
                    origin.kv.name(),
                    origin.model_hash,
                    ago(entry)
                )
            }
            Err(why) => format!("{:<21}  {:>7}  {size:>10}  {why}\n", entry.name, "-"),
        };
    }
    let bytes = listing.entries.iter().map(|e| e.bytes).sum();
    text += &format!("{} sessions, {}\n", listing.entries.len(), Bytes(bytes));
    for note in &listing.notes {
        text += &format!("note: {note}\n");
    }
    print(&text)
}

/// All of a header, and whether what follows is whole.
fn show(store: &Store, name: &str) -> Result<()> {
    let reader = store.read(name)?;
    let header = reader.header();
    let origin = &header.origin;
    print(&format!(
        "tokens      {}\nsize        {}\nmodel       {:016x}, {} layers, vocabulary of {} tokens\nKV form     {}\narithmetic  {}\n\
         logits      {}\n",
        header.n_tokens,
        Bytes(header.file_bytes().unwrap_or(0)),
        origin.model_hash,
        origin.n_layer,
        origin.n_vocab,
        origin.kv.name(),
        origin.arithmetic,
        if header.has_logits { "yes" } else { "no" },
    ))?;
    reader.verify()?;
    print("whole       yes, every block has its checksum\n")
}

/// How long ago it was used.
fn ago(entry: &Entry) -> String {
    let seconds = SystemTime::now()
        .duration_since(entry.used)
        .map_or(0, |time| time.as_secs());
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86400),
    }
}
