//! `--profile`: where the time went, as a table or as JSON.

use super::args::Flag;
use crate::engine::{Stage, Stages};
use crate::json;
use std::fmt::Write;

/// The flag.
pub const FLAG: Flag = Flag::switch(
    &["--profile"],
    "show where the time goes, stage by stage, with the weights read and the operations done",
);

/// Column names, the first of text, the others of numbers; in the unit of the numbers below them.
const COLUMNS: [&str; 7] = [
    "stage", "calls", "ms/token", "share", "MB/token", "GB/s", "GFLOP/s",
];

/// What the columns mean; to stand once below all tables.
pub const LEGEND: &str = "\
profile: the clock is always in one stage, so the stages and 'other' sum to the whole time. Projections hold all matrices
that read the same input in one pass: queries, keys, compressor, indexer. Expert supply is looking experts up, asking
for reads and waiting. Other lies between the stages: sampling, printing, angles. MB and GB (10^6, 10^9 bytes) are the
weights that products pass over, once a call however many tokens share them, and rows of the embedding; vectors (norms,
biases) and the KV cache are not counted. GFLOP are two for each multiply-add of a product with weights, and of
attention's and the indexer's dot products and sums.
";

/// A table under a title, of the stages that were entered.
pub fn table(title: &str, stages: &Stages) -> String {
    let entered = Stage::ALL.map(|stage| (stage.name(), stages.of(stage)));
    let entered = entered.into_iter().filter(|(_, work)| work.calls > 0);
    let (all, n_tokens) = (stages.sum(), stages.n_tokens.max(1) as f64);
    let mut rows = vec![COLUMNS.map(String::from)];
    for (name, work) in entered.chain([("all", all)]) {
        let rate = |n: u64| match n {
            0 => "-".into(),
            n => format!("{:.2}", n as f64 / work.ns.max(1) as f64),
        };
        let weights = match work.cost.weight_bytes {
            0 => "-".into(),
            n => format!("{:.3}", n as f64 / 1e6 / n_tokens),
        };
        rows.push([
            name.into(),
            work.calls.to_string(),
            format!("{:.4}", work.ns as f64 / 1e6 / n_tokens),
            format!("{:.1} %", 100.0 * share(work.ns, all.ns)),
            weights,
            rate(work.cost.weight_bytes),
            rate(work.cost.flop),
        ]);
    }
    let widths: [usize; 7] =
        std::array::from_fn(|i| rows.iter().map(|row| row[i].len()).max().unwrap_or(0));
    let rule = std::array::from_fn(|i| {
        let end = if i > 0 { ":" } else { "-" };
        "-".repeat(widths[i] - 1) + end
    });
    rows.insert(1, rule);

    let mut text = format!("{title}: {} tokens\n", stages.n_tokens);
    for row in rows {
        for (i, cell) in row.iter().enumerate() {
            let width = widths[i];
            // Writing to a String does not fail.
            let _ = match i {
                0 => write!(text, "| {cell:<width$} |"),
                _ => write!(text, " {cell:>width$} |"),
            };
        }
        text.push('\n');
    }
    text
}

/// An object for each stage.
pub fn json(stages: &Stages) -> Vec<String> {
    let all = stages.sum().ns;
    let object = |stage: Stage| {
        let (name, work) = (json::quote(stage.name()), stages.of(stage));
        let rate = |n: u64| n as f64 / work.ns.max(1) as f64;
        format!(
            "{{\"stage\": {name}, \"calls\": {}, \"ns\": {}, \"share\": {:.6}, \"weight_bytes\": {}, \"flop\": {}, \
             \"gb_per_s\": {:.6}, \"gflop_per_s\": {:.6}}}",
            work.calls,
            work.ns,
            share(work.ns, all),
            work.cost.weight_bytes,
            work.cost.flop,
            rate(work.cost.weight_bytes),
            rate(work.cost.flop),
        )
    };
    Stage::ALL.map(object).to_vec()
}

fn share(ns: u64, all: u64) -> f64 {
    ns as f64 / all.max(1) as f64
}
