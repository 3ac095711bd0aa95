//! `infall report`: what rows of `infall bench --row` say together.

use super::args::{Args, Command, Flag};
use super::print;
use crate::error::{Error, Result};
use crate::report::{self, Folder};
use std::path::Path;

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "report",
    positional: "DIR | --compare A B",
    max_positional: 2,
    help: "makes one page, or tables, of the rows of `bench --row`",
    flags: &[&[
        Flag::with(
            &["-o", "--out"],
            "FILE",
            "write one self-contained HTML page",
        ),
        Flag::switch(&["--text"], "print the tables"),
        Flag::switch(
            &["--compare"],
            "print how fast the second of two folders is against the first",
        ),
    ]],
    run,
};

fn run(args: &Args) -> Result<()> {
    let folders: Vec<&Path> = args.positional.iter().map(Path::new).collect();
    let out = args.value("-o").map(Path::new);
    match (&folders[..], args.has("--compare")) {
        (&[first, second], true) => {
            if out.is_some() || args.has("--text") {
                return Err(Error::usage(
                    "--compare prints one table, expected neither -o nor --text",
                ));
            }
            let (first, second) = (Folder::read(first)?, Folder::read(second)?);
            print(&report::compare::compare(&first, &second)?)
        }
        (&[folder], false) => {
            if out.is_none() && !args.has("--text") {
                return Err(Error::usage(
                    "nothing to make: expected -o FILE, --text or --compare",
                ));
            }
            let folder = Folder::read(folder)?;
            if let Some(path) = out {
                write_whole(path, &report::html::page(&folder))?;
            }
            if args.has("--text") {
                print(&report::text::report(&folder))?;
            }
            Ok(())
        }
        (_, is_compare) => {
            let expected = if is_compare {
                "two: --compare A B"
            } else {
                "one"
            };
            let found = folders.len();
            Err(Error::usage(format!(
                "found {found} folders of rows, expected {expected}"
            )))
        }
    }
}

/// Writes a file whole or not at all.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let written = std::fs::write(part, text).map_err(|e| Error::io(part.display(), &e));
    let renamed = written
        .and_then(|()| std::fs::rename(part, path).map_err(|e| Error::io(path.display(), &e)));
    if renamed.is_err() {
        // What is left of it is no page; that it cannot be removed is the lesser fault.
        let _ = std::fs::remove_file(part);
    }
    renamed
}
