//! One run of the experiment, as it stands in a file: what was asked for, what was said beforehand, what happened.

use super::figures::Figures;
use super::record::{Fields, Json, Record};
use crate::error::{Error, Result};
use crate::json::Value;

/// The form of a row's file; other numbers are refused.
const FORMAT: u64 = 1;

/// A run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The machine in the words of whoever ran it.
    pub machine: String,
    /// The commit of the program, likewise.
    pub commit: String,
    /// The command without the folders of its files.
    pub command: String,
    /// What ran.
    pub model: Model,
    /// How.
    pub setup: Setup,
    /// Tokens of the prompt.
    pub n_prompt: u64,
    /// Tokens decoded behind it, greedily; the end of a turn does not end them.
    pub n_gen: u64,
    /// FNV-1a of all of these ids, hexadecimal.
    pub token_hash: String,
    /// Nanoseconds.
    pub times: Times,
    /// What the supply of experts did for the prompt.
    pub prefill: Supply,
    /// The same for what was decoded.
    pub decode: Supply,
    /// What was said beforehand: bytes by use.
    pub ledger: Vec<Use>,
    /// The largest figures seen between start and end.
    pub peaks: Peaks,
    /// What the run itself, loading included, made the system do.
    pub system: System,
    /// Experts by layer.
    pub layers: Vec<Layer>,
    /// Memory and reads over time.
    pub series: Series,
    /// When what began, in milliseconds on the clock of the series: `load`, `prefill`, `decode`, `end`.
    pub events: Vec<Event>,
    /// How far the prompt was, at each border of a layer and a chunk.
    pub sweeps: Sweeps,
}

/// A model file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// Its name, without the folder.
    pub name: String,
    /// What tells it from others: header and first weights.
    pub hash: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// Layers.
    pub n_layer: u64,
    /// Experts of a layer.
    pub n_expert: u64,
    /// Experts that a token uses in a layer.
    pub n_used: u64,
    /// The type of most of its experts' weights.
    pub quant: String,
}

/// How a model ran.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Setup {
    /// The supply of experts.
    pub strategy: String,
    /// The budget as it was asked for: `11%`, `8GB`.
    pub budget: String,
    /// Experts held: where their sizes differ, so many of the mean size.
    pub n_experts: u64,
    /// Bytes for them.
    pub budget_bytes: u64,
    /// Memory of the smaller machine, if one was asked for.
    pub cap_bytes: Option<u64>,
    /// What made it smaller: `control group`, `locked memory`; empty without.
    pub cap_by: String,
    /// `cold`: nothing of the file in the page cache, nothing held; `warm`: after the same work in the same process.
    pub state: String,
    /// Bytes of the file in the page cache before the first weight was read, if the system tells.
    pub cached_before: Option<u64>,
    /// Which of the repeated runs, from 1.
    pub run: u64,
    /// Kernel table.
    pub kernels: String,
    /// Compute threads.
    pub n_threads: u64,
    /// Tokens of context.
    pub ctx: u64,
}

/// Nanoseconds by the wall clock.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    /// Opening the weights.
    pub load_ns: u64,
    /// The prompt.
    pub prefill_ns: u64,
    /// Each decoded token: one pass, and the choice of the next.
    pub token_ns: Vec<u64>,
}

/// Counters of a supply of experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    /// Selections of an expert by a layer.
    pub touches: u64,
    /// Those that were there.
    pub hits: u64,
    /// Those that were not.
    pub misses: u64,
    /// Experts given up.
    pub evictions: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Nanoseconds in which something was read.
    pub read_ns: u64,
    /// Nanoseconds that a layer waited.
    pub stall_ns: u64,
}

/// One use of memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Use {
    /// For what.
    pub name: String,
    /// How much.
    pub bytes: u64,
}

/// Largest figures; `None` where the system does not tell. See `os::meter` for their meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peaks {
    /// Memory of the process, its mapped files included.
    pub rss_bytes: Option<u64>,
    /// Memory of the process that belongs to no file.
    pub anon_bytes: Option<u64>,
    /// Memory of the process that cannot be swapped out.
    pub locked_bytes: Option<u64>,
    /// The model file's part of the page cache.
    pub cached_bytes: Option<u64>,
    /// Memory of the machine in use for anything.
    pub system_used_bytes: Option<u64>,
    /// Its page cache.
    pub system_file_bytes: Option<u64>,
    /// What belongs to no file.
    pub system_anon_bytes: Option<u64>,
    /// What cannot be swapped out.
    pub system_locked_bytes: Option<u64>,
    /// Swap in use.
    pub swap_used_bytes: Option<u64>,
    /// Memory of compressed pages.
    pub compressor_bytes: Option<u64>,
}

/// What grew from start to end; `None` where the system does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// Faults of the process that needed no read.
    pub n_minor_faults: Option<u64>,
    /// Faults of the process that waited for storage.
    pub n_major_faults: Option<u64>,
    /// Bytes from storage for the process.
    pub storage_read_bytes: Option<u64>,
    /// Bytes from storage for the machine.
    pub page_in_bytes: Option<u64>,
    /// Bytes written to swap by the machine.
    pub swap_out_bytes: Option<u64>,
}

/// The experts of a layer, in their order, for the measured pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layer {
    /// How often each was chosen.
    pub touches: Vec<u64>,
    /// How often it was there.
    pub hits: Vec<u64>,
    /// 1 for those that could be read at the end without a wait, else 0.
    pub resident: Vec<u64>,
}

/// Looks at memory in regular intervals, one number a look in each list; a list is empty where the system does not tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Milliseconds since the start.
    pub at_ms: Vec<u64>,
    /// MiB of the process.
    pub rss_mib: Vec<u64>,
    /// MiB of the process that belong to no file.
    pub anon_mib: Vec<u64>,
    /// MiB of the model file in the page cache.
    pub cached_mib: Vec<u64>,
    /// MiB of the machine in use for anything.
    pub system_used_mib: Vec<u64>,
    /// MiB of its page cache.
    pub system_file_mib: Vec<u64>,
    /// MiB of the machine that cannot be swapped out.
    pub system_locked_mib: Vec<u64>,
    /// MiB of swap in use.
    pub swap_mib: Vec<u64>,
    /// MiB that storage gave to the process so far.
    pub read_mib: Vec<u64>,
}

/// Something began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// What.
    pub name: String,
    /// When.
    pub at_ms: u64,
}

/// Progress of a prefill.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sweeps {
    /// When, on the clock of the series.
    pub at_ms: Vec<u64>,
    /// Tokens done, counted over all layers.
    pub n_tokens: Vec<u64>,
}

impl Record for Row {
    fn fields(&mut self, io: &mut Fields<'_>) -> Result<()> {
        let mut format = FORMAT;
        io.field("infall_row", &mut format)?;
        if format != FORMAT {
            return Err(Error::unsupported(format!(
                "infall_row: found {format}, expected {FORMAT}"
            )));
        }
        io.field("machine", &mut self.machine)?;
        io.field("commit", &mut self.commit)?;
        io.field("command", &mut self.command)?;
        io.field("model", &mut self.model)?;
        io.field("setup", &mut self.setup)?;
        io.field("n_prompt", &mut self.n_prompt)?;
        io.field("n_gen", &mut self.n_gen)?;
        io.field("token_hash", &mut self.token_hash)?;
        io.field("times", &mut self.times)?;
        // What follows from the rest stands there for those who read the file without this program.
        let mut figures = self.figures();
        io.field("figures", &mut figures)?;
        io.field("prefill", &mut self.prefill)?;
        io.field("decode", &mut self.decode)?;
        io.field("ledger", &mut self.ledger)?;
        io.field("peaks", &mut self.peaks)?;
        io.field("system", &mut self.system)?;
        io.field("layers", &mut self.layers)?;
        io.field("series", &mut self.series)?;
        io.field("events", &mut self.events)?;
        io.field("sweeps", &mut self.sweeps)
    }
}

impl Record for Model {
    fn fields(&mut self, io: &mut Fields<'_>) -> Result<()> {
        io.field("name", &mut self.name)?;
        io.field("hash", &mut self.hash)?;
        io.field("bytes", &mut self.bytes)?;
        io.field("n_layer", &mut self.n_layer)?;
        io.field("n_expert", &mut self.n_expert)?;
        io.field("n_used", &mut self.n_used)?;
        io.field("quant", &mut self.quant)
    }
}

impl Record for Setup {
    fn fields(&mut self, io: &mut Fields<'_>) -> Result<()> {
        io.field("strategy", &mut self.strategy)?;
        io.field("budget", &mut self.budget)?;
        io.field("n_experts", &mut self.n_experts)?;
        io.field("budget_bytes", &mut self.budget_bytes)?;
        io.field("cap_bytes", &mut self.cap_bytes)?;
        io.field("cap_by", &mut self.cap_by)?;
        io.field("state", &mut self.state)?;
        io.field("cached_before", &mut self.cached_before)?;
        io.field("run", &mut self.run)?;
        io.field("kernels", &mut self.kernels)?;
        io.field("n_threads", &mut self.n_threads)?;
        io.field("ctx", &mut self.ctx)
    }
}

impl Record for Times {
    fn fields(&mut self, io: &mut Fields<'_>) -> Result<()> {
        io.field("load_ns", &mut self.load_ns)?;
        io.field("prefill_ns", &mut self.prefill_ns)?;
        io.field("token_ns", &mut self.token_ns)
    }
}

impl Record for Supply {
    fn fields(&mut self, io: &mut Fields<'_>) -> Result<()> {
        io.field("touches", &mut self.touches)?;
        io.field("hits", &mut self.hits)?;
        io.field("misses", &mut self.misses)?;
        io.field("evictions", &mut self.evictions)?;
        io.field("read_bytes", &mut self.read_bytes)?;
        io.field("read_ns", &mut self.read_ns)?;
        io.field("stall_ns", &mut self.stall_ns)
    }
}

impl Record for Use {
    fn fields(&mut self, io: &mut Fields<'_>) -> Result<()> {
        io.field("name", &mut self.name)?;
        io.field("bytes", &mut self.bytes)
    }
}

impl Record for Peaks {
    fn fields(&mut self, io: &mut Fields<'_>) -> Result<()> {
        io.field("rss_bytes", &mut self.rss_bytes)?;
        io.field("anon_bytes", &mut self.anon_bytes)?;
        io.field("locked_bytes", &mut self.locked_bytes)?;
        io.field("cached_bytes", &mut self.cached_bytes)?;
        io.field("system_used_bytes", &mut self.system_used_bytes)?;
        io.field("system_file_bytes", &mut self.system_file_bytes)?;
        io.field("system_anon_bytes", &mut self.system_anon_bytes)?;
        io.field("system_locked_bytes", &mut self.system_locked_bytes)?;
        io.field("swap_used_bytes", &mut self.swap_used_bytes)?;
        io.field("compressor_bytes", &mut self.compressor_bytes)
    }
}

impl Record for System {
    fn fields(&mut self, io: &mut Fields<'_>) -> Result<()> {
        io.field("n_minor_faults", &mut self.n_minor_faults)?;
        io.field("n_major_faults", &mut self.n_major_faults)?;
        io.field("storage_read_bytes", &mut self.storage_read_bytes)?;
        io.field("page_in_bytes", &mut self.page_in_bytes)?;
        io.field("swap_out_bytes", &mut self.swap_out_bytes)
    }
}

impl Record for Layer {
    fn fields(&mut self, io: &mut Fields<'_>) -> Result<()> {
        io.field("touches", &mut self.touches)?;
        io.field("hits", &mut self.hits)?;
        io.field("resident", &mut self.resident)
    }
}

impl Record for Series {
    fn fields(&mut self, io: &mut Fields<'_>) -> Result<()> {
        io.field("at_ms", &mut self.at_ms)?;
        for (name, column) in self.columns() {
            io.field(name, column)?;
        }
        Ok(())
    }
}

impl Record for Event {
    fn fields(&mut self, io: &mut Fields<'_>) -> Result<()> {
        io.field("name", &mut self.name)?;
        io.field("at_ms", &mut self.at_ms)
    }
}

impl Record for Sweeps {
    fn fields(&mut self, io: &mut Fields<'_>) -> Result<()> {
        io.field("at_ms", &mut self.at_ms)?;
        io.field("n_tokens", &mut self.n_tokens)
    }
}

impl Series {
    /// Every list but the times, with its name.
    pub fn columns(&mut self) -> [(&'static str, &mut Vec<u64>); 8] {
        [
            ("rss_mib", &mut self.rss_mib),
            ("anon_mib", &mut self.anon_mib),
            ("cached_mib", &mut self.cached_mib),
            ("system_used_mib", &mut self.system_used_mib),
            ("system_file_mib", &mut self.system_file_mib),
            ("system_locked_mib", &mut self.system_locked_mib),
            ("swap_mib", &mut self.swap_mib),
            ("read_mib", &mut self.read_mib),
        ]
    }
}

impl Row {
    /// Reads the text of a row's file.
    ///
    /// Errors: `Format`, when it is no JSON, a field is missing or of another kind, lists that belong together differ in
    /// length, or a figure does not follow from what it is made of; `Unsupported`, another form.
    pub fn parse(text: &str) -> Result<Row> {
        let value = Value::parse(text)?;
        let row = Row::from_json(&value)?;
        row.check()?;
        let Value::Object(members) = &value else {
            return Err(Error::format("found no object"));
        };
        let mut told = Figures::default();
        Fields::Read(members).field("figures", &mut told)?;
        let figures = row.figures();
        if told != figures {
            return Err(Error::format(format!(
                "figures: found {}, expected {}, which follow from the rest",
                told.to_json(),
                figures.to_json()
            )));
        }
        Ok(row)
    }

    /// As its file holds it: one field a line.
    pub fn text(&self) -> String {
        let Value::Object(members) = self.to_json() else {
            return String::new();
        };
        let lines: Vec<String> = members
            .into_iter()
            .map(|(name, value)| format!("{}: {value}", crate::json::quote(&name)))
            .collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }

    /// When something began, in milliseconds.
    pub fn event(&self, name: &str) -> Option<u64> {
        let event = self.events.iter().find(|event| event.name == name);
        event.map(|event| event.at_ms)
    }

    /// What must hold between its parts.
    fn check(&self) -> Result<()> {
        let same = |name: &str, found: usize, expected: usize, of: &str| {
            if found == expected {
                return Ok(());
            }
            Err(Error::format(format!(
                "{name}: found {found} values, expected {expected}, {of}"
            )))
        };
        let n_gen = self.n_gen as usize;
        same("times: token_ns", self.times.token_ns.len(), n_gen, "n_gen")?;
        let mut series = self.series.clone();
        let n_looks = series.at_ms.len();
        for (name, column) in series.columns() {
            if !column.is_empty() {
                same(
                    &format!("series: {name}"),
                    column.len(),
                    n_looks,
                    "the looks of at_ms",
                )?;
            }
        }
        for (name, times) in [
            ("series", &self.series.at_ms),
            ("sweeps", &self.sweeps.at_ms),
        ] {
            if !times.is_sorted() {
                return Err(Error::format(format!(
                    "{name}: at_ms: found times that go back"
                )));
            }
        }
        let n_ticks = self.sweeps.at_ms.len();
        same(
            "sweeps: n_tokens",
            self.sweeps.n_tokens.len(),
            n_ticks,
            "those of at_ms",
        )?;
        let (n_layer, n_expert) = (self.model.n_layer as usize, self.model.n_expert as usize);
        same("layers", self.layers.len(), n_layer, "model.n_layer")?;
        for (i, layer) in self.layers.iter().enumerate() {
            for (name, list) in [
                ("touches", &layer.touches),
                ("hits", &layer.hits),
                ("resident", &layer.resident),
            ] {
                let name = format!("layers: [{i}]: {name}");
                same(&name, list.len(), n_expert, "model.n_expert")?;
            }
        }
        for name in ["load", "prefill", "decode", "end"] {
            if self.event(name).is_none() {
                return Err(Error::format(format!("events: '{name}' is missing")));
            }
        }
        let state = &self.setup.state;
        if !["cold", "warm"].contains(&state.as_str()) {
            let found = crate::json::quote(state);
            return Err(Error::format(format!(
                "setup: state: found {found}, expected \"cold\" or \"warm\""
            )));
        }
        Ok(())
    }
}
