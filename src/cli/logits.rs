//! `infall logits`: the logits after each token, for other tools to compare.

use super::args::{Args, Command, Flag};
use super::model::{self, MODEL_FLAGS};
use super::progress::Progress;
use super::{Source, read_text};
use crate::error::{Error, Result};
use crate::units::TokenId;
use std::io::{BufWriter, Write};
use std::path::Path;

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "logits",
    positional: "",
    max_positional: 0,
    help: "writes the logits after each token of a list",
    flags: &[
        &[
            Flag::with(&["--tokens"], "FILE", "token ids, separated by white space"),
            Flag::with(
                &["--out"],
                "FILE",
                "float32 little-endian [n][vocab]: row t = logits after token t",
            ),
            Flag::with(
                &["--decode-from"],
                "K",
                "feed tokens from number K (from 0) on one by one",
            ),
        ],
        MODEL_FLAGS,
    ],
    run,
};

fn run(args: &Args) -> Result<()> {
    let needed = |flag: &str| {
        args.value(flag)
            .map(Path::new)
            .ok_or_else(|| Error::usage(format!("{flag} FILE is needed")))
    };
    let (list, out) = (needed("--tokens")?, needed("--out")?);
    let tokens = parse_ids(&read_text(Source::File(list))?)?;
    let decode_from = args
        .number("--decode-from")?
        .unwrap_or(tokens.len())
        .min(tokens.len());

    let prepared = model::prepare_for(args, tokens.len())?;
    prepared.check_prompt(tokens.len())?;
    let mut engine = model::load(prepared, args)?;
    let mut session = engine.session()?;
    let failed = |e: &std::io::Error| Error::io(out.display(), e);
    let mut file = BufWriter::new(std::fs::File::create(out).map_err(|e| failed(&e))?);
    let mut progress = Progress::new("logits", "tokens", args.has("--quiet"));
    let mut rows = 0;
    let mut write = |row: &[f32]| {
        rows += 1;
        progress.show(rows, tokens.len());
        row.iter()
            .try_for_each(|v| file.write_all(&v.to_le_bytes()))
            .map_err(|e| failed(&e))
    };
    let (prompt, rest) = tokens.split_at(decode_from);
    engine.prefill_all_logits(&mut session, prompt, &mut write)?;
    for token in rest {
        engine.decode(&mut session, *token)?;
        write(session.logits())?;
    }
    progress.clear();
    file.flush().map_err(|e| failed(&e))
}

/// Ids separated by white space.
pub fn parse_ids(text: &str) -> Result<Vec<TokenId>> {
    let id = |word: &str| {
        let wrong = || {
            Error::format(format!(
                "token ids: found '{word}', expected a whole number from 0"
            ))
        };
        word.parse().map(TokenId).map_err(|_| wrong())
    };
    text.split_whitespace().map(id).collect()
}
