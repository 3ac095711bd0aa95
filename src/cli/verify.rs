//! `infall verify`: whether a file that was downloaded is whole and sound.

use super::args::{Args, Command, Flag};
use super::progress::Progress;
use super::{model, note, print, told};
use crate::engine::interrupt;
use crate::error::{Error, Result};
use crate::sha256;
use crate::units::Bytes;
use crate::verify::{self, Report};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "verify",
    positional: "[MODEL]",
    max_positional: 1,
    help: "reads all of a model file, or all of its parts: SHA-256, extents of tensors, scales that are no numbers",
    flags: &[&[
        model::MODEL_FLAG,
        Flag::with(
            &["--sha256"],
            "HEX[,HEX...]",
            "the hash that the file must have, or those of all parts; exit code 1 if it has another",
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
    let files = verify::files(&path)?;
    let expected = args.text("--sha256")?.map_or(Ok(Vec::new()), hashes)?;
    let expected = assigned(&expected, &files.paths, &path)?;
    interrupt::install()?;
    let quiet = args.has("--quiet");
    let mut progress = Progress::new("verify", "MiB", quiet);
    let (mut before, all) = (0, files.n_bytes);
    let (mut n_faults, mut n_tensors) = (0, 0);
    if let Some(fault) = files.fault {
        n_faults += 1;
        print(&format!("fault: {fault}\n"))?;
    }
    for (path, expected) in files.paths.iter().zip(expected) {
        let mut show = |done: u64, _: u64| {
            progress.show(((before + done) >> 20) as usize, (all >> 20) as usize);
            !interrupt::requested()
        };
        let report = verify::file(path, &mut show);
        progress.clear();
        let mut report = report?;
        before += report.n_bytes;
        n_tensors += report.n_tensors;
        if !quiet {
            note(&speeds(&report));
        }
        let found = sha256::hex(&report.sha256);
        if let Some(expected) = expected.filter(|expected| *expected != report.sha256) {
            let expected = sha256::hex(&expected);
            let fault = format!("SHA-256: found {found}, expected {expected}");
            report.faults.push(fault);
        }
        let mut out = format!("{found}  {}\n", path.display());
        for text in &report.notes {
            out += &format!("note: {text}\n");
        }
        for fault in &report.faults {
            out += &format!("fault: {fault}\n");
        }
        print(&out)?;
        n_faults += report.faults.len();
    }
    if n_faults == 0 {
        let size = Bytes(before);
        let hash = if args.has("--sha256") {
            ", SHA-256 as expected"
        } else {
            ""
        };
        return print(&format!("sound: {n_tensors} tensors, {size}{hash}\n"));
    }
    let s = if n_faults == 1 { "" } else { "s" };
    print(&format!("not sound: {n_faults} fault{s}\n"))?;
    Err(told())
}

/// The hashes of `--sha256`.
fn hashes(text: &str) -> Result<Vec<[u8; 32]>> {
    let hash = |text: &str| {
        let expected = "expected 64 hexadecimal digits";
        sha256::from_hex(text)
            .ok_or_else(|| Error::usage(format!("--sha256: found '{text}', {expected}")))
    };
    text.split(',').map(hash).collect()
}

/// What each file must have: one hash is that of the file that was named, several are those of all parts.
fn assigned(hashes: &[[u8; 32]], paths: &[PathBuf], named: &Path) -> Result<Vec<Option<[u8; 32]>>> {
    match hashes {
        [] => Ok(vec![None; paths.len()]),
        [one] => Ok(paths.iter().map(|p| (p == named).then_some(*one)).collect()),
        all if all.len() == paths.len() => Ok(all.iter().copied().map(Some).collect()),
        all => {
            let (found, n) = (all.len(), paths.len());
            Err(Error::usage(format!(
                "--sha256: found {found} hashes, expected one, of the file that is named, or {n}, of all parts that are there"
            )))
        }
    }
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
