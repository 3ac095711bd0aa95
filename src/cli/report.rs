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
    let folders: Vec<&Path> = args.positional.iter().map(Path::new).collect();
    let n_folders = folders.len();
    let out = args.value("-o").map(Path::new);
    let [folder] = folders[..] else {
        return Err(Error::usage(format!(
            "found {n_folders} folders, expected one"
        )));
    };
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
