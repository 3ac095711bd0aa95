//! `infall verify`: whether a file that was downloaded is whole and sound.

use super::args::{Args, Command, Flag};
use super::progress::Progress;
use super::{model, note, print, told};
use crate::engine::interrupt;
use crate::error::{Error, Result};
use crate::sha256;
use crate::units::Bytes;
use crate::verify::{self, Busy, Report};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
    let all = (files.n_bytes >> 20) as usize;
    let mut show = |done: u64| {
        progress.show((done >> 20) as usize, all);
        !interrupt::requested()
    };
    let start = Instant::now();
    let reports = verify::all(&files.paths, &mut show);
    progress.clear();
    let reports = reports?;
    if !quiet {
        note(&speeds(&reports, start.elapsed()));
    }
    let (mut n_faults, mut out) = (0, String::new());
    let mut fault = |out: &mut String, text: &str| {
        n_faults += 1;
        *out += &format!("fault: {text}\n");
    };
    for ((report, path), expected) in reports.iter().zip(&files.paths).zip(expected) {
        let found = sha256::hex(&report.sha256);
        out += &format!("{found}  {}\n", path.display());
        for text in &report.notes {
            out += &format!("note: {text}\n");
        }
        for text in &report.faults {
            fault(&mut out, text);
        }
        if let Some(expected) = expected.filter(|expected| *expected != report.sha256) {
            let expected = sha256::hex(&expected);
            let text = format!("SHA-256: found {found}, expected {expected}");
            fault(&mut out, &text);
        }
    }
    if let Some(text) = files.fault {
        fault(&mut out, &text);
    }
    if n_faults == 0 {
        let n_tensors: usize = reports.iter().map(|r| r.n_tensors).sum();
        let size = Bytes(reports.iter().map(|r| r.n_bytes).sum());
        let hash = if args.has("--sha256") {
            ", SHA-256 as expected"
        } else {
            ""
        };
        return print(&format!("{out}sound: {n_tensors} tensors, {size}{hash}\n"));
    }
    let s = if n_faults == 1 { "" } else { "s" };
    print(&format!("{out}not sound: {n_faults} fault{s}\n"))?;
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
        [one] if paths.iter().any(|p| p == named) => {
            Ok(paths.iter().map(|p| (p == named).then_some(*one)).collect())
        }
        all if all.len() == paths.len() => Ok(all.iter().copied().map(Some).collect()),
        all => {
            let (found, n) = (all.len(), paths.len());
            Err(Error::usage(format!(
                "--sha256: found {found} hashes, expected one, of the file that is named, or {n}, of all parts that are there"
            )))
        }
    }
}

/// How fast it went, and how fast each stage was while it worked.
fn speeds(reports: &[Report], time: Duration) -> String {
    let n_bytes: u64 = reports.iter().map(|r| r.n_bytes).sum();
    let rate = |time: Duration| n_bytes as f64 / 1e9 / time.as_secs_f64().max(1e-9);
    let stage = |busy: fn(&Busy) -> Duration| rate(reports.iter().map(|r| busy(&r.busy)).sum());
    format!(
        "{} in {:.1} s, {:.2} GB/s; a thread alone: reads {:.2}, SHA-256 {:.2}, scales {:.2} GB/s\n",
        Bytes(n_bytes),
        time.as_secs_f64(),
        rate(time),
        stage(|b| b.read),
        stage(|b| b.hash),
        stage(|b| b.look)
    )
}
