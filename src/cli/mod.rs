//! The command line: the table of subcommands, and what they share.

use crate::error::{Context, Error, ErrorKind, Result};
use args::Command;
use std::ffi::OsString;
use std::io::{Read, Write};

mod args;
mod bench;
mod chat;
mod generate;
mod inspect;
mod io_probe;
mod kv_dir;
mod logits;
mod model;
mod perplexity;
mod plan;
mod profile;
mod progress;
mod report;
mod run;
mod run_report;
mod serve;
mod sessions;
mod synth;
mod tokenize;
mod turns;
mod verify;
mod whole_file;

const COMMANDS: &[Command] = &[
    run::COMMAND,
    chat::COMMAND,
    serve::COMMAND,
    inspect::COMMAND,
    verify::COMMAND,
    plan::COMMAND,
    io_probe::COMMAND,
    bench::COMMAND,
    report::COMMAND,
    perplexity::COMMAND,
    logits::COMMAND,
    tokenize::COMMAND,
    synth::COMMAND,
    sessions::COMMAND,
];

/// Runs the program on its arguments (without its own name) and gives its exit code: 0 done, 1 failed, 2 usage.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let mut args = args.into_iter();
    let name = args.next().unwrap_or_default();
    if name == "--version" || name == "-V" {
        return exit_code(
            "",
            print(concat!("infall ", env!("CARGO_PKG_VERSION"), "\n")),
        );
    }
    if name == "--help" || name == "-h" || name == "help" {
        return exit_code("", print(&usage()));
    }
    let Some(command) = COMMANDS.iter().find(|c| name == c.name) else {
        let what = if name.is_empty() {
            "no subcommand".into()
        } else {
            format!("unknown subcommand '{}'", name.display())
        };
        note(&format!("infall: {what}\n\n{}", usage()));
        return 2;
    };
    let result = match command.parse(args) {
        Ok(None) => print(&command.usage()),
        Ok(Some(args)) => (command.run)(&args),
        Err(error) => Err(error),
    };
    exit_code(command.name, result)
}

fn exit_code(command: &str, result: Result<()>) -> u8 {
    let Err(error) = result else { return 0 };
    match error.kind() {
        ErrorKind::Closed => return 0,
        ErrorKind::Told => {}
        _ => note(&format!("infall {command}: {error}\n")),
    }
    if error.kind() == ErrorKind::Usage {
        2
    } else {
        1
    }
}

/// Writes to stdout at once.
///
/// Errors: `Closed` when nobody reads any more, else `Io`.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::BrokenPipe => {
                Error::new(ErrorKind::Closed, "standard output was closed")
            }
            _ => Error::io("standard output", &e),
        })
}

/// Ends a command whose output said that the answer is no.
fn told() -> Error {
    Error::new(ErrorKind::Told, "the answer is no")
}

/// Writes to stderr; if that fails there is nobody left to tell.
fn note(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn usage() -> String {
    let mut text =
        String::from("infall: DeepSeek-V4-Flash on machines with less memory than the model\n\n");
    for command in COMMANDS {
        text += &format!("  infall {:<10} {}\n", command.name, command.help);
    }
    text + "\ninfall SUBCOMMAND --help lists the flags.\n"
}

/// All of standard input, or of a file, as text; bounded.
fn read_text(source: Source<'_>) -> Result<String> {
    let mut bytes = Vec::new();
    let limit = LIMITS.text_bytes + 1;
    let (name, result) = match source {
        Source::Stdin => (
            "standard input".into(),
            std::io::stdin().lock().take(limit).read_to_end(&mut bytes),
        ),
        Source::File(path) => {
            let read = |file: std::fs::File| file.take(limit).read_to_end(&mut bytes);
            (
                path.display().to_string(),
                std::fs::File::open(path).and_then(read),
            )
        }
    };
    result.map_err(|e| Error::io(&name, &e))?;
    if bytes.len() as u64 == limit {
        return Err(Error::limit("bytes of text", "found", LIMITS.text_bytes).context(name));
    }
    String::from_utf8(bytes)
        .map_err(|e| {
            Error::format(format!(
                "not UTF-8 text at byte {}",
                e.utf8_error().valid_up_to()
            ))
        })
        .context(|| name)
}

/// Where a text comes from.
enum Source<'a> {
    Stdin,
    File(&'a std::path::Path),
}

/// Bounds on what is read from outside.
const LIMITS: Limits = Limits {
    text_bytes: 64 << 20,
};

struct Limits {
    /// A prompt, or a list of token ids.
    text_bytes: u64,
}
