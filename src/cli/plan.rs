//! `infall plan`: what would be taken, before anything is loaded.

use super::args::{Args, Command};
use super::model::{self, MODEL_FLAGS};
use super::print;
use crate::engine::Prepared;
use crate::error::Result;
use crate::units::Bytes;
use std::fmt::Write;

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "plan",
    positional: "",
    max_positional: 0,
    help: "shows the memory that a run would take; loads nothing",
    flags: &[MODEL_FLAGS],
    run,
};

fn run(args: &Args) -> Result<()> {
    let prepared = Prepared::new(model::options(args)?)?;
    let plan = prepared.plan();
    let mut out = String::new();
    // Writing to a String does not fail.
    let why = plan
        .why
        .as_ref()
        .map_or(String::new(), |w| format!(", {w}"));
    let _ = writeln!(out, "strategy {}{why}", plan.strategy);
    let _ = writeln!(
        out,
        "context {}, prefill chunk {}, {} compute threads, experts held: {}",
        plan.ctx,
        plan.lengths.chunk,
        plan.n_threads,
        plan.experts_held()
    );
    let rest = plan.available.map(|a| (a, a.saturating_sub(plan.total())));
    let lines = plan
        .uses
        .iter()
        .copied()
        .chain([("total", plan.total())])
        .chain(
            rest.into_iter()
                .flat_map(|(a, r)| [("available", a), ("left", r)]),
        );
    for (name, bytes) in lines {
        let _ = writeln!(out, "  {name:<14} {bytes:>16}  {}", Bytes(bytes));
    }
    for note in prepared.notes() {
        let _ = writeln!(out, "note: {note}");
    }
    print(&out)
}
