//! A folder of rows: every `*.json` in it, checked, and the list of what was not run.

use super::row::Row;
use crate::error::{Context, Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bounds on a folder.
const LIMITS: Limits = Limits {
    file_bytes: 8 << 20,
    all_bytes: 512 << 20,
    rows: 10_000,
    skipped: 10_000,
    kinds: 64,
};

struct Limits {
    /// Bytes of a file.
    file_bytes: u64,
    /// Bytes of all files.
    all_bytes: u64,
    /// Files of rows.
    rows: usize,
    /// Lines of the list of what was not run.
    skipped: usize,
    /// Different models, strategies, budgets, caps or lengths of work.
    kinds: usize,
}

/// The list of what was not run: a line of headings, then lines of five texts with tabs between them.
const SKIPPED: &str = "skipped.tsv";

/// What a folder holds: rows that can be put together.
pub struct Folder {
    /// At least one, in the order of their files' names.
    pub runs: Vec<Run>,
    /// What was not run, in the order of its file; empty without one.
    pub skipped: Vec<Skipped>,
}

/// A row and where it stands.
pub struct Run {
    /// Its file.
    pub path: PathBuf,
    /// What it holds.
    pub row: Row,
}

/// A cell of the experiment that was not run.
pub struct Skipped {
    /// Model, strategy, budget and cap, in the words of whoever skipped it.
    pub cell: [String; 4],
    /// Why.
    pub reason: String,
}

impl Folder {
    /// Reads all rows of a folder and its `skipped.tsv`, if there is one.
    ///
    /// Errors: all name the file. `Io`; `Limit`; `Format`, no rows, no row, or rows that cannot be put together: of
    /// different machines, commits, kernel tables or threads, of one model and prompt with different tokens, or one run
    /// twice.
    pub fn read(folder: &Path) -> Result<Folder> {
        let name = folder.display();
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|e| Error::io(&name, &e))? {
            let path = entry.map_err(|e| Error::io(&name, &e))?.path();
            if path.extension().is_some_and(|e| e == "json") {
                paths.push(path);
            }
            if paths.len() > LIMITS.rows {
                let error = Error::limit("number of rows", paths.len(), LIMITS.rows);
                return Err(error.context(&name));
            }
        }
        if paths.is_empty() {
            return Err(Error::format(format!("no rows (*.json) in {name}")));
        }
        paths.sort();

        let (mut runs, mut all_bytes) = (Vec::new(), 0);
        for path in paths {
            let text = read_text(&path)?;
            all_bytes += text.len() as u64;
            if all_bytes > LIMITS.all_bytes {
                let error = Error::limit("bytes of all rows", all_bytes, LIMITS.all_bytes);
                return Err(error.context(&name));
            }
            let row = Row::parse(&text).context(|| path.display())?;
            runs.push(Run { path, row });
        }
        can_be_put_together(&runs)?;

        let path = folder.join(SKIPPED);
        let is_there = path.try_exists();
        let skipped = match is_there.map_err(|e| Error::io(path.display(), &e))? {
            true => parse_skipped(&read_text(&path)?).context(|| path.display())?,
            false => Vec::new(),
        };
        Ok(Folder { runs, skipped })
    }
}

/// The text of a regular file, bounded.
fn read_text(path: &Path) -> Result<String> {
    let name = path.display();
    let io = |e: std::io::Error| Error::io(&name, &e);
    // Opening a pipe would wait for whoever writes it.
    if !std::fs::metadata(path).map_err(&io)?.is_file() {
        let error = Error::format("found no regular file, expected one");
        return Err(error.context(&name));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(&io)?;
    let limited = &mut file.take(LIMITS.file_bytes + 1);
    limited.read_to_end(&mut bytes).map_err(&io)?;
    if bytes.len() as u64 > LIMITS.file_bytes {
        let error = Error::limit("bytes", bytes.len(), LIMITS.file_bytes);
        return Err(error.context(&name));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::format(format!("not UTF-8 text at byte {at}")).context(name)
    })
}

/// Whether a table may hold all of these.
fn can_be_put_together(runs: &[Run]) -> Result<()> {
    type Told = fn(&Row) -> String;
    let alike: [(&str, Told); 4] = [
        ("machine", |row| row.machine.clone()),
        ("commit", |row| row.commit.clone()),
        ("setup.kernels", |row| row.setup.kernels.clone()),
        ("setup.n_threads", |row| row.setup.n_threads.to_string()),
    ];
    let first = &runs[0];
    for run in runs {
        for (what, told) in alike {
            same(what, (first, &told(&first.row)), (run, &told(&run.row)))?;
        }
    }
    let kinds: [(&str, Told); 5] = [
        ("models", |row| row.model.hash.clone()),
        ("strategies", |row| row.setup.strategy.clone()),
        ("budgets", |row| row.setup.budget.clone()),
        ("caps", |row| format!("{:?}", row.setup.cap_bytes)),
        ("lengths", |row| format!("{} + {}", row.n_prompt, row.n_gen)),
    ];
    for (what, told) in kinds {
        let n = runs
            .iter()
            .map(|run| told(&run.row))
            .collect::<BTreeSet<_>>()
            .len();
        if n > LIMITS.kinds {
            return Err(Error::limit(&format!("number of {what}"), n, LIMITS.kinds));
        }
    }
    let mut of_work = BTreeMap::new();
    for run in runs {
        let work = (&run.row.model.hash, run.row.n_prompt, run.row.n_gen);
        let first = *of_work.entry(work).or_insert(run);
        let hashes = (&first.row.token_hash, &run.row.token_hash);
        same("token_hash", (first, hashes.0), (run, hashes.1))?;
    }
    // Nanoseconds do not repeat: equal times are the same run.
    let mut of_times = BTreeMap::new();
    for run in runs {
        let times = &run.row.times;
        let key = (times.load_ns, times.prefill_ns, &times.token_ns);
        if let Some(first) = of_times.insert(key, run)
            && first.row == run.row
        {
            return Err(Error::format(format!(
                "{} and {} hold the same run",
                first.path.display(),
                run.path.display()
            )));
        }
    }
    Ok(())
}

/// An error that names both files unless both tell the same.
pub(super) fn same(what: &str, (a, told_a): (&Run, &str), (b, told_b): (&Run, &str)) -> Result<()> {
    if told_a == told_b {
        return Ok(());
    }
    Err(Error::format(format!(
        "{what}: {} has {}, {} has {}: these cannot be compared",
        a.path.display(),
        crate::json::quote(told_a),
        b.path.display(),
        crate::json::quote(told_b),
    )))
}

fn parse_skipped(text: &str) -> Result<Vec<Skipped>> {
    let mut all = Vec::new();
    let lines = text.lines().enumerate().skip(1);
    for (i, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let fields: Vec<String> = line.split('\t').map(|f| f.trim().to_string()).collect();
        let n_fields = fields.len();
        let [model, strategy, budget, cap, reason] = fields.try_into().map_err(|_| {
            Error::format(format!(
                "line {}: found {n_fields} fields, expected 5: model, strategy, budget, cap, reason",
                i + 1
            ))
        })?;
        let cell = [model, strategy, budget, cap];
        all.push(Skipped { cell, reason });
        if all.len() > LIMITS.skipped {
            return Err(Error::limit("number of lines", all.len(), LIMITS.skipped));
        }
    }
    Ok(all)
}
