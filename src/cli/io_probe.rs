//! `infall io-probe`: how fast the experts of a model can be read from this disk.

use super::args::{Args, Command, Flag};
use super::model::{MODEL_FLAG, model_path};
use super::print;
use crate::engine;
use crate::error::{Error, Result};
use crate::units::Bytes;

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "io-probe",
    positional: "",
    max_positional: 0,
    help: "measures how fast experts can be read past the page cache",
    flags: &[&[
        MODEL_FLAG,
        Flag::with(&["--readers"], "N", "threads that read (default 8)"),
        Flag::with(&["--queue"], "N", "experts asked for at a time (default 6)"),
        Flag::with(&["--gb"], "N", "gibibytes to read (default 2)"),
    ]],
    run,
};

/// Largest accepted `--readers` and `--queue`.
const MOST: usize = 64;

fn run(args: &Args) -> Result<()> {
    let count = |flag: &str, default: usize| {
        let n = args.number(flag)?.unwrap_or(default);
        if n == 0 || n > MOST {
            return Err(Error::usage(format!(
                "{flag}: found {n}, expected 1 to {MOST}"
            )));
        }
        Ok(n)
    };
    let (readers, queue) = (count("--readers", 8)?, count("--queue", 6)?);
    let gib: u64 = args.number("--gb")?.unwrap_or(2).min(1 << 20);
    let probe = engine::io_probe(&model_path(args), readers, queue, gib << 30)?;
    let ms = |i: usize| probe.latency[i].as_secs_f64() * 1e3;
    print(&format!(
        "{} in {} experts, {:.2} s: {:.0} MB/s ({readers} readers, {queue} experts at a time); an expert takes \
         {:.1} ms, 1 in 100 more than {:.1} ms\n",
        Bytes(probe.bytes),
        probe.n_experts,
        probe.time.as_secs_f64(),
        probe.bytes as f64 / 1e6 / probe.time.as_secs_f64(),
        ms(0),
        ms(1),
    ))
}
