//! `infall report`: what rows of `infall bench --row` say together.

use super::args::{Args, Command, Flag};
use super::print;
use crate::error::{Error, Result};
use crate::report::{self, Folder};
use std::path::Path;

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "report",
    positional: "DIR",
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
            "print how the folder named second differs from the first: --compare A B",
        ),
    ]],
    run,
};

fn run(args: &Args) -> Result<()> {
    let expected = 1;
    let found = args.positional.len();
    if found != expected {
        return Err(Error::usage(format!(
            "found {found} folders, expected {expected}"
        )));
    }
    let folder = Folder::read(Path::new(&args.positional[0]))?;
    if args.has("--text") {
        print(&report::text::report(&folder))?;
    }
    Ok(())
}
