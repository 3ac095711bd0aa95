//! `infall inspect`: what a model file holds, without its weights.

use super::args::{Args, Command, Flag};
use super::{model, print, told};
use crate::engine::{self, FileSet, Gguf, LayerKind, Model, Plan};
use crate::error::{Error, Result};
use crate::units::{Bytes, LayerId};
use std::fmt::Write;
use std::path::PathBuf;

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
    let (files, gguf) = engine::survey(&path)?;
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = header(&gguf, &mut out);
    if args.has("--tensors") {
        let _ = tensors(&gguf, &mut out);
    }
    let arriving = arriving(&gguf);
    // What is in the file is shown even if it is no model that can run.
    let (line, runs) = match understood(&files, gguf, &mut out) {
        Err(error) => (format!("does not run: {error}"), false),
        Ok(plan) => verdict(&plan, arriving.is_some()),
    };
    print(&format!("{out}\n{}{line}\n", arriving.unwrap_or_default()))?;
    if runs { Ok(()) } else { Err(told()) }
}

/// How much of the files is there, if it is not all. Of parts that are missing nothing is known.
fn arriving(gguf: &Gguf) -> Option<String> {
    let parts = || gguf.parts.iter();
    let found: u64 = parts().filter_map(|p| p.len).sum();
    // A file may have bytes behind its tensors.
    let needed = parts().map(|p| p.whole_len.max(p.len.unwrap_or(0)));
    let needed: u64 = needed.sum();
    let percent = 100.0 * found as f64 / needed.max(1) as f64;
    (found < needed)
        .then(|| format!("not complete: {found} of {needed} bytes are there ({percent:.1} %); "))
}

/// Shows what the contents mean, and plans the run that takes the least memory.
fn understood(files: &FileSet, gguf: Gguf, out: &mut String) -> Result<Plan> {
    if let Some(first) = gguf.refused.first() {
        let more = match gguf.refused.len() - 1 {
            0 => String::new(),
            n => format!("; {n} more tensors are of such types"),
        };
        return Err(Error::unsupported(format!("{first}{more}")));
    }
    let model = Model::bind(gguf)?;
    let _ = meaning(&model, out);
    engine::least_plan(files, &model)
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
    let n = gguf.tensors.len();
    match &gguf.parts[..] {
        [_] => {
            let (start, alignment) = (gguf.data_start, gguf.alignment);
            writeln!(out, "{n} tensors from byte {start}, aligned to {alignment}")?;
        }
        parts => {
            writeln!(out, "{n} tensors in {} parts", parts.len())?;
            for (i, part) in (1..).zip(parts) {
                let len = part
                    .len
                    .map_or("missing".into(), |len| Bytes(len).to_string());
                let n = part.n_tensors;
                writeln!(out, "  part {i}: {len:>10}, {n:>4} tensors  {}", part.name)?;
            }
        }
    }
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
        let (i, part) = gguf.part_at(t.extent.offset);
        let (offset, len) = (t.extent.offset - part.start, t.extent.len);
        let name = &t.name;
        write!(
            out,
            "  {name:<42} {dims:<22} {format:<8} {offset:>14} + {len}"
        )?;
        match gguf.parts.len() {
            1 => writeln!(out)?,
            _ => writeln!(out, " in part {}", i + 1)?,
        }
    }
    Ok(())
}
