//! `infall bench --row FILE`: one run of the experiment, kept as a row for `infall report`.

use super::super::args::{Args, Flag};
use super::super::model;
use super::super::note;
use super::LIMITS;
use crate::bench::experiment::{Experiment, State};
use crate::engine::interrupt;
use crate::error::{Error, Result};
use crate::report::row::Setup;
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
    let cap_mib: Option<u64> = args.number("--cap-mib")?;
    let described = Setup {
        budget: args.text("--budget")?.unwrap_or("auto").into(),
        cap_bytes: cap_mib.map(|mib| mib.saturating_mul(1 << 20)),
        cap_by: text("--cap-by")?,
        run: args.number("--run-number")?.unwrap_or(1),
        ..Setup::default()
    };
    let (machine, commit) = (text("--machine")?, text("--commit")?);

    let needed = experiment.n_prompt + experiment.n_gen;
    let prepared = model::prepare_for(args, needed)?;
    let ctx = prepared.plan().ctx;
    if needed > ctx {
        return Err(Error::usage(format!(
            "--ctx: found {ctx}, expected at least {needed}, the tokens of -p and -n"
        )));
    }
    // What cannot be written should not come to light after the work.
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let io = |e| Error::io(part.display(), &e);
    std::fs::write(part, "").map_err(io)?;
    interrupt::install()?;
    let row = experiment.run(
        prepared,
        &mut |prepared| model::load(prepared, args),
        &mut || !interrupt::requested(),
    );
    let mut row = match row {
        Ok(row) => row,
        Err(error) => {
            // An empty file is no row; that it cannot be removed is the lesser fault.
            let _ = std::fs::remove_file(part);
            return Err(error);
        }
    };
    row.machine = machine;
    row.commit = commit;
    row.command = format!("infall bench {}", args.told(DESCRIBING));
    row.setup = Setup {
        budget: described.budget,
        cap_bytes: described.cap_bytes,
        cap_by: described.cap_by,
        run: described.run,
        ..row.setup
    };
    std::fs::write(part, row.text()).map_err(io)?;
    std::fs::rename(part, path).map_err(|e| Error::io(path.display(), &e))?;
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
