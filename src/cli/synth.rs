//! `infall synth`: a random model of a true shape.

use super::args::{Args, Command, Flag};
use super::print;
use super::progress::Progress;
use crate::engine::interrupt;
use crate::error::{Error, Result};
use crate::synth::{Plan, Request, shape_names};
use crate::units::Bytes;
use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "synth",
    positional: "",
    max_positional: 0,
    help: "writes a random model of a true shape, for benchmarks",
    flags: &[&[
        Flag::with(
            &["--shape"],
            "NAME",
            "flash-q2 | flash-q4 | flash-mxfp4 | flash-ud-iq2_xxs | pro-q2 | bench-q2 | bench-q4 | tiny | micro",
        ),
        Flag::with(&["--out"], "FILE", "where it is written"),
        Flag::with(&["--layers"], "N", "layers (default: as the shape)"),
        Flag::with(
            &["--experts"],
            "N",
            "routed experts of a layer (default: as the shape)",
        ),
        Flag::with(
            &["--vocab"],
            "N",
            "tokens of the vocabulary (default 4096; 512 for micro)",
        ),
        Flag::with(
            &["--alias-layers"],
            "K",
            "layer l uses the experts of layer l mod K: the file holds no more",
        ),
        Flag::with(
            &["--align"],
            "BYTES",
            "alignment of tensors; 4096 or more makes experts whole pages (default 32)",
        ),
        Flag::with(&["--seed"], "S", "same seed, same bytes (default 1)"),
        Flag::switch(&["--dry-run"], "only show the sizes"),
        Flag::switch(&["--force"], "replace an existing file"),
        Flag::switch(&["--quiet"], "no progress"),
    ]],
    run,
};

fn run(args: &Args) -> Result<()> {
    let Some(shape) = args.text("--shape")? else {
        let names: Vec<_> = shape_names().collect();
        let names = names.join(" | ");
        return Err(Error::usage(format!(
            "--shape is missing, expected {names}"
        )));
    };
    let plan = Plan::new(&Request {
        shape: shape.into(),
        n_layer: args.number("--layers")?,
        n_expert: args.number("--experts")?,
        n_vocab: args.number("--vocab")?,
        alias_layers: args.number("--alias-layers")?,
        alignment: args.number("--align")?,
        seed: args.number("--seed")?.unwrap_or(1),
    })?;
    let dry = args.has("--dry-run");
    let path = match args.value("--out") {
        Some(path) => Some(Path::new(path)),
        None if dry => None,
        None => return Err(Error::usage("--out is missing, expected a file to write")),
    };
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = sizes(&plan, &mut out);
    print(&out)?;
    let Some(path) = path.filter(|_| !dry) else {
        return Ok(());
    };

    interrupt::install()?;
    let start = Instant::now();
    let mut progress = Progress::new("write", "MiB", args.has("--quiet"));
    let created = plan.create(path, args.has("--force"), &mut |done, all| {
        progress.show((done >> 20) as usize, (all >> 20) as usize);
        !interrupt::requested()
    });
    progress.clear();
    created?;
    let seconds = start.elapsed().as_secs_f64();
    let rate = plan.file_len() as f64 / 1e6 / seconds;
    let path = path.display();
    print(&format!(
        "{path}: written in {seconds:.1} s, {rate:.0} MB/s\n"
    ))
}

fn sizes(plan: &Plan, out: &mut String) -> std::fmt::Result {
    let (c, totals) = (&plan.model.config, plan.model.byte_totals());
    writeln!(
        out,
        "{} layers, {} experts in each, {} used by a token, {} tokens",
        c.n_layer, c.n_expert, c.n_expert_used, c.n_vocab
    )?;
    for (what, bytes) in [
        ("largest expert", plan.model.experts.max_slab_len()),
        ("routed experts", totals.routed),
        ("fixed", totals.fixed),
        ("token embedding", totals.embedding),
        ("file", plan.file_len()),
    ] {
        writeln!(out, "  {what:<16} {bytes:>14}  {}", Bytes(bytes))?;
    }
    for note in &plan.model.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}
