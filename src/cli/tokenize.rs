//! `infall tokenize`: text to tokens and back.

use super::args::{self, Args, Command, Flag};
use super::logits::parse_ids;
use super::model::{MODEL_FLAG, model_path};
use super::{Source, print, read_text};
use crate::engine;
use crate::engine::tokenizer::Special;
use crate::error::{Error, Result};
use std::fmt::Write;
use std::path::Path;

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "tokenize",
    positional: "[TEXT]",
    max_positional: 1,
    help: "shows the tokens of a text, or the text of tokens",
    flags: &[&[
        MODEL_FLAG,
        Flag::with(
            &["-f", "--file"],
            "FILE",
            "a file that holds the text (default: TEXT, else standard input)",
        ),
        Flag::switch(&["--ids"], "the ids alone, on one line"),
        Flag::switch(&["--special"], "read special tokens in the text as such"),
        Flag::with(&["--decode"], "IDS", "the text of these ids"),
    ]],
    run,
};

fn run(args: &Args) -> Result<()> {
    let given =
        usize::from(args.has("--decode")) + usize::from(args.has("-f")) + args.positional.len();
    if given > 1 {
        return Err(Error::usage("TEXT, -f and --decode exclude each other"));
    }
    if let Some(ids) = args.text("--decode")? {
        let ids = parse_ids(ids)?;
        let tokenizer = engine::vocabulary(&model_path(args))?;
        if let Some(id) = ids.iter().find(|id| id.0 as usize >= tokenizer.len()) {
            return Err(Error::usage(format!(
                "--decode: found id {}, expected below {}",
                id.0,
                tokenizer.len()
            )));
        }
        return print(&format!(
            "{}\n",
            String::from_utf8_lossy(&tokenizer.decode(&ids))
        ));
    }
    let text = match (args.positional.first(), args.value("-f")) {
        (Some(text), _) => args::utf8("TEXT", text)?.to_string(),
        (None, Some(path)) => read_text(Source::File(Path::new(path)))?,
        (None, None) => read_text(Source::Stdin)?,
    };
    let tokenizer = engine::vocabulary(&model_path(args))?;
    let special = if args.has("--special") {
        Special::Parse
    } else {
        Special::Plain
    };
    let tokens = tokenizer.encode(&text, special);
    let mut out = String::new();
    // Writing to a String does not fail.
    if args.has("--ids") {
        for (i, token) in tokens.iter().enumerate() {
            let _ = write!(out, "{}{}", if i == 0 { "" } else { " " }, token.0);
        }
        out.push('\n');
    } else {
        for token in &tokens {
            let bytes = tokenizer.token_bytes(*token);
            let _ = writeln!(out, "{:>7}  {:?}", token.0, String::from_utf8_lossy(bytes));
        }
        let _ = writeln!(out, "{} tokens", tokens.len());
    }
    print(&out)
}
