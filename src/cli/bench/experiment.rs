//! `infall bench --row FILE`: one run of the experiment, kept as a row for `infall report`.

use super::super::args::{Args, Flag};
use super::super::model;
use super::super::note;
use super::super::whole_file::WholeFile;
use super::LIMITS;
use crate::bench::experiment::{Experiment, State};
use crate::engine::interrupt;
use crate::error::{Error, ErrorKind, Result};
use std::path::Path;

/// What `--row` adds.
pub const FLAGS: &[Flag] = &[
    Flag::with(
        &["--row"],
        "FILE",
        "one watched run instead: -p tokens of prompt and -n greedy tokens behind it; writes what happened for `infall report`",
    ),
    Flag::with(
        &["--state"],
        "NAME",
        "with --row: cold (default; nothing of the model in memory) | warm (after the same work)",
    ),
    Flag::with(
        &["--machine"],
        "TEXT",
        "with --row: the machine, as the report shall name it",
    ),
    Flag::with(
        &["--commit"],
        "TEXT",
        "with --row: the commit of the program",
    ),
    Flag::with(
        &["--run-number"],
        "N",
        "with --row: which of the repeated runs (default 1)",
    ),
    Flag::with(
        &["--cap-mib"],
        "N",
        "with --row: memory that the machine was cut to",
    ),
    Flag::with(&["--cap-by"], "TEXT", "with --row: what cut it"),
];

/// Flags that ask for something else.
const NOT_WITH_ROW: &[&str] = &[
    "-d",
    "-r",
    "--no-warmup",
    "--greedy",
    "--no-bandwidth",
    "--profile",
    "--csv",
    "--json",
];

/// Flags that only describe.
const DESCRIBING: &[&str] = &[
    "--row",
    "--machine",
    "--commit",
    "--run-number",
    "--cap-mib",
    "--cap-by",
    "--quiet",
];

/// Runs the experiment once and writes its row to `path`, whole or not at all.
pub fn run(args: &Args, path: &Path) -> Result<()> {
    if let Some(flag) = NOT_WITH_ROW.iter().find(|flag| args.has(flag)) {
        return Err(Error::usage(format!("{flag} has no meaning with --row")));
    }
    let count = |flag: &str, default: usize| {
        let n = args.number(flag)?.unwrap_or(default);
        if n == 0 || n > LIMITS.tokens {
            let limit = LIMITS.tokens;
            return Err(Error::usage(format!(
                "{flag}: found {n}, expected 1 to {limit} with --row"
            )));
        }
        Ok(n)
    };
    let experiment = Experiment {
        n_prompt: count("-p", 512)?,
        n_gen: count("-n", 128)?,
        state: match args.text("--state")?.unwrap_or("cold") {
            "cold" => State::Cold,
            "warm" => State::Warm,
            found => {
                return Err(Error::usage(format!(
                    "--state: found '{found}', expected cold or warm"
                )));
            }
        },
    };
    let text = |flag: &str| args.text(flag).map(|text| text.unwrap_or("").to_string());
    let (machine, commit, cap_by) = (text("--machine")?, text("--commit")?, text("--cap-by")?);
    let budget = args.text("--budget")?.unwrap_or("auto").to_string();
    let cap_mib: Option<u64> = args.number("--cap-mib")?;
    let run_number = args.number("--run-number")?.unwrap_or(1);

    let needed = experiment.n_prompt + experiment.n_gen;
    let prepared = model::prepare_for(args, needed)?;
    let ctx = prepared.plan().ctx;
    if needed > ctx {
        return Err(Error::usage(format!(
            "--ctx: found {ctx}, expected at least {needed}, the tokens of -p and -n"
        )));
    }
    let file = WholeFile::create(path)?;
    interrupt::install()?;
    let row = experiment.run(
        prepared,
        &mut |prepared| model::load(prepared, args),
        &mut || !interrupt::requested(),
    );
    let mut row = match row {
        Err(error) if error.kind() == ErrorKind::Closed => {
            note("stopped, no row was written\n");
            return Ok(());
        }
        row => row?,
    };
    row.machine = machine;
    row.commit = commit;
    row.command = format!("infall bench {}", args.told(DESCRIBING));
    row.setup.budget = budget;
    row.setup.cap_bytes = cap_mib.map(|mib| mib.saturating_mul(1 << 20));
    row.setup.cap_by = cap_by;
    row.setup.run = run_number;
    file.write(&row.text())?;
    if !args.has("--quiet") {
        let figures = row.figures();
        let speed = |thousandths: u64| thousandths as f64 / 1e3;
        note(&format!(
            "{}, {}: prefill {:.1}, decode {:.2} tokens/s, tokens {}\n",
            row.setup.strategy,
            row.setup.state,
            speed(figures.prefill_millitokens_per_s),
            speed(figures.decode_millitokens_per_s),
            row.token_hash,
        ));
    }
    Ok(())
}
