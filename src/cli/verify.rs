//! `infall verify`: whether a file that was downloaded is whole and sound.

use super::args::{Args, Command, Flag};
use super::progress::Progress;
use super::{model, note, print, told};
use crate::engine::interrupt;
use crate::error::{Error, Result};
use crate::sha256;
use crate::units::Bytes;
use crate::verify::{self, Report};
use std::path::PathBuf;
use std::time::Duration;

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "verify",
    positional: "[MODEL]",
    max_positional: 1,
    help: "reads all of a model file: SHA-256, extents of tensors, scales that are no numbers",
    flags: &[&[
        model::MODEL_FLAG,
        Flag::with(
            &["--sha256"],
            "HEX",
            "the hash that the file must have; exit code 1 if it has another",
        ),
        Flag::switch(&["--quiet"], "no progress and no figures of speed"),
    ]],
    run,
};

fn run(args: &Args) -> Result<()> {
    let path = args
        .positional
        .first()
        .map_or_else(|| model::model_path(args), PathBuf::from);
    let expected = args.text("--sha256")?.map(parse).transpose()?;
    interrupt::install()?;
    let quiet = args.has("--quiet");
    let mut progress = Progress::new("verify", "MiB", quiet);
    let mut show = |done: u64, all: u64| {
        progress.show((done >> 20) as usize, (all >> 20) as usize);
        !interrupt::requested()
    };
    let report = verify::file(&path, &mut show);
    progress.clear();
    let report = report?;
    if !quiet {
        note(&speeds(&report));
    }
    let mut faults = report.faults;
    let found = sha256::hex(&report.sha256);
    if let Some(expected) = expected.filter(|expected| *expected != report.sha256) {
        let expected = sha256::hex(&expected);
        faults.push(format!("SHA-256: found {found}, expected {expected}"));
    }
    let mut out = format!("{found}  {}\n", path.display());
    for text in &report.notes {
        out += &format!("note: {text}\n");
    }
    for fault in &faults {
        out += &format!("fault: {fault}\n");
    }
    let (n_tensors, size) = (report.n_tensors, Bytes(report.n_bytes));
    if faults.is_empty() {
        let hash = if expected.is_some() {
            ", SHA-256 as expected"
        } else {
            ""
        };
        return print(&format!("{out}sound: {n_tensors} tensors, {size}{hash}\n"));
    }
    let n = faults.len();
    let s = if n == 1 { "" } else { "s" };
    print(&format!("{out}not sound: {n} fault{s}\n"))?;
    Err(told())
}

fn parse(text: &str) -> Result<[u8; 32]> {
    sha256::from_hex(text).ok_or_else(|| {
        Error::usage(format!(
            "--sha256: found '{text}', expected 64 hexadecimal digits"
        ))
    })
}

/// How fast it went, and what each stage would do alone.
fn speeds(report: &Report) -> String {
    let rate = |time: Duration| report.n_bytes as f64 / 1e9 / time.as_secs_f64().max(1e-9);
    let (time, busy) = (report.time, report.busy);
    format!(
        "{} in {:.1} s, {:.2} GB/s; alone: reads {:.2}, SHA-256 {:.2}, scales {:.2} GB/s\n",
        Bytes(report.n_bytes),
        time.as_secs_f64(),
        rate(time),
        rate(busy.read),
        rate(busy.hash),
        rate(busy.look)
    )
}
