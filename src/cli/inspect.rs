//! `infall inspect`: what a model file holds, without its weights.

use super::args::{Args, Command, Flag};
use super::{model, print, told};
use crate::engine::{self, Gguf, LayerKind, Model, Plan, Survey};
use crate::error::{Error, Result};
use crate::units::{Bytes, LayerId};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "inspect",
    positional: "[MODEL]",
    max_positional: 1,
    help: "shows what a model file holds, and whether it runs; the file may still be arriving",
    flags: &[&[
        model::MODEL_FLAG,
        Flag::switch(&["--tensors"], "list all tensors"),
    ]],
    run,
};

/// Pages that direct reads and no-copy buffers care about: Linux and Apple silicon.
const PAGES: [u64; 2] = [4096, 16384];

fn run(args: &Args) -> Result<()> {
    let path = args
        .positional
        .first()
        .map_or_else(|| model::model_path(args), PathBuf::from);
    let survey = engine::survey(&path)?;
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = header(&survey.gguf, &mut out);
    if args.has("--tensors") {
        let _ = tensors(&survey.gguf, &mut out);
    }
    let arriving = arriving(&survey);
    // What is in the file is shown even if it is no model that can run.
    let (line, runs) = match understood(&path, survey, &mut out) {
        Err(error) => (format!("does not run: {error}"), false),
        Ok(plan) => verdict(&plan, arriving.is_some()),
    };
    print(&format!("{out}\n{}{line}\n", arriving.unwrap_or_default()))?;
    if runs { Ok(()) } else { Err(told()) }
}

/// How much of the file is there, if it is not all.
fn arriving(survey: &Survey) -> Option<String> {
    let (found, whole) = (survey.gguf.file_len, survey.whole_len);
    let percent = 100.0 * found as f64 / whole as f64;
    (found < whole)
        .then(|| format!("not complete: {found} of {whole} bytes are there ({percent:.1} %); "))
}

/// Shows what the contents mean, and plans the run that takes the least memory.
fn understood(path: &Path, survey: Survey, out: &mut String) -> Result<Plan> {
    if let Some(first) = survey.refused.first() {
        let more = match survey.refused.len() - 1 {
            0 => String::new(),
            n => format!("; {n} more tensors are of such types"),
        };
        return Err(Error::unsupported(format!("{first}{more}")));
    }
    let model = Model::bind(survey.gguf)?;
    let _ = meaning(&model, out);
    engine::least_plan(path, &model)
}

/// The last line, and whether it is good news.
fn verdict(plan: &Plan, arriving: bool) -> (String, bool) {
    let (needed, available) = (plan.total(), plan.available);
    let fits = available.is_none_or(|available| needed <= available);
    let runs = match (fits, arriving) {
        (true, false) => "runs",
        (true, true) => "runs when complete",
        (false, _) => "does not run here",
    };
    let available = available.map_or("unknown".into(), |bytes| Bytes(bytes).to_string());
    let line = format!(
        "{runs}: the least is --budget {} with {} of memory (strategy {}, context {}); available: {available}",
        plan.n_experts,
        Bytes(needed),
        plan.strategy,
        plan.ctx
    );
    (line, fits)
}

fn header(gguf: &Gguf, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "{}: GGUF version {}, {}",
        gguf.name,
        gguf.version,
        Bytes(gguf.file_len)
    )?;
    writeln!(
        out,
        "{} tensors from byte {}, aligned to {}",
        gguf.tensors.len(),
        gguf.data_start,
        gguf.alignment
    )?;
    writeln!(out, "\nmetadata")?;
    for key in gguf.keys() {
        let value = gguf.value(key).map_or_else(String::new, |v| v.summary());
        writeln!(out, "  {key:<52} {value}")?;
    }
    Ok(())
}

fn meaning(model: &Model, out: &mut String) -> std::fmt::Result {
    let c = &model.config;
    writeln!(out, "\nlayers (attention, choice of experts)")?;
    let kinds: Vec<String> = c
        .layers
        .iter()
        .map(|l| format!("{} {}", kind(l.kind), choice(l.hash_routed)))
        .collect();
    let mut start = 0;
    while start < kinds.len() {
        // A run of equal layers, or of equal pairs, on one line.
        let period = if kinds.get(start + 1) == kinds.get(start) {
            1
        } else {
            2
        };
        let same = |l: usize| kinds[l] == kinds[start + (l - start) % period];
        let end = (start..kinds.len())
            .find(|&l| !same(l))
            .unwrap_or(kinds.len());
        let pattern = kinds[start..end.min(start + period)].join(", ");
        writeln!(out, "  {start:>3}..{:<3} {pattern}", end - 1)?;
        start = end;
    }
    let totals = model.byte_totals();
    writeln!(out, "\nbytes")?;
    for (what, bytes) in [
        ("routed experts", totals.routed),
        ("fixed", totals.fixed),
        ("token embedding", totals.embedding),
    ] {
        writeln!(out, "  {what:<16} {bytes:>14}  {}", Bytes(bytes))?;
    }
    let experts = &model.experts;
    writeln!(
        out,
        "\nexperts: {} in each of {} layers, {} used by a token",
        c.n_expert, c.n_layer, c.n_expert_used
    )?;
    let mut shown = None;
    for l in 0..c.n_layer {
        let (layer, bytes) = (&experts.layers[l], experts.slab_len(LayerId(l)));
        let formats = (layer.gate.format, layer.up.format, layer.down.format);
        if shown != Some((formats, bytes)) {
            let (gate, up, down) = (formats.0.name(), formats.1.name(), formats.2.name());
            writeln!(
                out,
                "  from layer {l}: {bytes} bytes ({}) each, {gate} gate, {up} up, {down} down",
                Bytes(bytes)
            )?;
            shown = Some((formats, bytes));
        }
    }
    for page in PAGES {
        let aligned = if experts.is_page_aligned(page) {
            "aligned"
        } else {
            "not aligned"
        };
        writeln!(out, "  ranges are {aligned} to pages of {page} bytes")?;
    }
    for note in &model.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}

fn kind(kind: LayerKind) -> &'static str {
    match kind {
        LayerKind::Sliding => "sliding window",
        LayerKind::Csa => "compressed 4:1 with indexer",
        LayerKind::Hca => "compressed 128:1",
    }
}

fn choice(hash_routed: bool) -> &'static str {
    if hash_routed {
        "(by token)"
    } else {
        "(by score)"
    }
}

fn tensors(gguf: &Gguf, out: &mut String) -> std::fmt::Result {
    writeln!(out, "\ntensors (dims fastest first)")?;
    for t in &gguf.tensors {
        let (dims, format) = (format!("{:?}", t.dims), t.format.name());
        writeln!(
            out,
            "  {:<42} {dims:<22} {format:<8} {:>14} + {}",
            t.name, t.extent.offset, t.extent.len
        )?;
    }
    Ok(())
}
