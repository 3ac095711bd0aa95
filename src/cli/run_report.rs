//! `--report FILE`: what a run decided beforehand and what came of it, as one JSON object.

use super::generate::Stats;
use crate::engine::meter::{Process, Sample};
use crate::engine::{Engine, Plan, SupplyStats};
use crate::error::{Error, Result};
use crate::json;
use crate::units::{LayerId, Phase};
use std::io::Write;
use std::path::Path;

/// The members of a JSON object, written one after the other.
struct Object(String);

impl Object {
    fn raw(&mut self, name: &str, value: impl std::fmt::Display) {
        let comma = if self.0.len() > 1 { "," } else { "" };
        self.0 += &format!("{comma}\n  {}: {value}", json::quote(name));
    }

    fn text(&mut self, name: &str, value: &str) {
        self.raw(name, json::quote(value));
    }

    /// `null` where the system does not tell.
    fn maybe(&mut self, name: &str, value: Option<u64>) {
        match value {
            Some(value) => self.raw(name, value),
            None => self.raw(name, "null"),
        }
    }
}

/// A report that is to be written.
pub struct Report {
    file: std::fs::File,
    name: String,
}

impl Report {
    /// An empty file at `path`.
    ///
    /// Errors: it cannot be made.
    pub fn create(path: &Path) -> Result<Report> {
        let name = path.display().to_string();
        let file = std::fs::File::create(path).map_err(|e| Error::io(&name, &e))?;
        Ok(Report { file, name })
    }

    /// Writes the report of a run.
    ///
    /// Errors: the file cannot be written.
    pub fn write(
        mut self,
        plan: &Plan,
        engine: &Engine,
        stats: &Stats,
        peaks: &Sample,
    ) -> Result<()> {
        let text = text(plan, engine, stats, peaks);
        let written = self.file.write_all(text.as_bytes());
        written.map_err(|e| Error::io(&self.name, &e))
    }
}

fn text(plan: &Plan, engine: &Engine, stats: &Stats, peaks: &Sample) -> String {
    let mut o = Object("{".into());
    o.text("model", engine.name());
    o.text("strategy", plan.strategy);
    o.raw("n_threads", plan.n_threads);
    o.raw("ctx", plan.ctx);
    o.raw("budget_experts", plan.n_experts);
    o.raw("budget_bytes", plan.budget);
    for (name, bytes) in &plan.uses {
        o.raw(&format!("plan_{}_bytes", name.replace(' ', "_")), bytes);
    }
    o.raw("plan_total_bytes", plan.total());
    stats.figures(&mut |name, value| o.raw(name, value));
    let table = engine.supply_table();
    for (name, value) in counters(table.total()) {
        o.raw(name, value);
    }
    o.raw("phases", by_phase(|phase| table.phase(phase)));
    let layers = (0..table.n_layer()).map(LayerId);
    let layers: Vec<String> = layers
        .map(|layer| by_phase(|phase| table.cell(layer, phase)))
        .collect();
    o.raw("layers", format!("[\n    {}\n  ]", layers.join(",\n    ")));
    o.raw("locked_bytes", engine.locked_bytes());
    let now = Process::now();
    o.maybe("process_locked_bytes", now.locked_bytes);
    o.maybe("peak_rss_bytes", now.peak_rss_bytes);
    o.maybe("storage_read_bytes", now.storage_read_bytes);
    o.maybe("major_faults", now.n_major_faults);
    o.maybe("peak_model_cached_bytes", peaks.cached_bytes);
    o.maybe("peak_system_used_bytes", peaks.system.used_bytes);
    o.0 + "\n}\n"
}

/// The counters of the supply with their names.
fn counters(s: SupplyStats) -> [(&'static str, u64); 11] {
    [
        ("expert_touches", s.touches),
        ("expert_hits", s.hits),
        ("expert_misses", s.misses),
        ("expert_ahead_used", s.ahead_used),
        ("expert_ahead_wasted", s.ahead_wasted),
        ("expert_evictions", s.evictions),
        ("experts_read", s.experts_read),
        ("reads", s.reads),
        ("read_bytes", s.read_bytes),
        ("read_ns", s.read_ns),
        ("stall_ns", s.stall_ns),
    ]
}

/// An object with one object of counters a phase, on one line.
fn by_phase(of: impl Fn(Phase) -> SupplyStats) -> String {
    let phases = Phase::ALL.map(|phase| {
        let members =
            counters(of(phase)).map(|(name, value)| format!("{}: {value}", json::quote(name)));
        format!("{}: {{{}}}", json::quote(phase.name()), members.join(", "))
    });
    format!("{{{}}}", phases.join(", "))
}
