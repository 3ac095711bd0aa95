//! `infall report`: what rows of `infall bench --row` say together.

use super::args::{Args, Command, Flag};
use super::print;
use super::whole_file::WholeFile;
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
                WholeFile::create(path)?.write(&report::html::page(&folder))?;
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
