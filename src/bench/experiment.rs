//! One run of the experiment: a fixed prompt, then a fixed number of greedy tokens, in a known state of the page cache,
//! watched from before the first weight is read to after the last token.

use super::{greedy, hash, ids};
use crate::engine::meter::{Sample, Watched};
use crate::engine::{Engine, Prefill, Prepared, Session, SupplyStats, SupplyTable};
use crate::error::{Error, ErrorKind, Result};
use crate::report::Row;
use crate::report::row;
use crate::units::{Phase, TokenId};
use std::time::{Duration, Instant};

/// Between two looks at memory.
const INTERVAL: Duration = Duration::from_millis(250);

/// What is in memory when the measured work begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing of the model: its file is dropped from the page cache, and what is left there is an error.
    Cold,
    /// What the same work, done once before in the same process, left behind.
    Warm,
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Experiment {
    /// Tokens of the prompt, at least 1.
    pub n_prompt: usize,
    /// Tokens to decode behind it, at least 1.
    pub n_gen: usize,
    /// The state before.
    pub state: State,
}

impl Experiment {
    /// Loads the model with `load`, does the work and gives its row, in which whoever asked for it fills in machine,
    /// commit, command, the number of the run and the cap. `keep_going` stops the work with false.
    ///
    /// Errors: the file cannot be dropped from the page cache, a failed read, `Closed` after a stop, and those of `load`.
    pub fn run(
        self,
        prepared: Prepared,
        load: &mut dyn FnMut(Prepared) -> Result<Engine>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Row> {
        let plan = prepared.plan().clone();
        let mut row = Row {
            model: model(&prepared)?,
            n_prompt: self.n_prompt as u64,
            n_gen: self.n_gen as u64,
            ..Row::default()
        };
        row.setup = row::Setup {
            strategy: plan.strategy.into(),
            n_experts: plan.n_experts,
            budget_bytes: plan.budget,
            kernels: prepared.kernels()?.into(),
            n_threads: plan.n_threads as u64,
            ctx: plan.ctx as u64,
            ..row::Setup::default()
        };
        let uses = plan.uses.iter();
        let uses = uses.map(|&(name, bytes)| row::Use {
            name: name.into(),
            bytes,
        });
        row.ledger = uses.collect();
        row.setup.state = match self.state {
            State::Cold => "cold",
            State::Warm => "warm",
        }
        .into();
        if self.state == State::Cold {
            row.setup.cached_before = drop_cached(&prepared)?;
        }

        let watch = prepared.watch(INTERVAL)?;
        let mut events = Events {
            began: watch.began(),
            row: &mut row,
        };
        events.note("load");
        let clock = Instant::now();
        let mut engine = load(prepared)?;
        events.row.times.load_ns = nanoseconds(clock);
        let mut session = engine.session()?;
        let prompt = ids(engine.tokenizer(), self.n_prompt);
        if self.state == State::Warm {
            events.note("warm-up");
            self.work(&mut engine, &mut session, &prompt, &mut events, keep_going)?;
            session.clear();
        }
        let before = (engine.supply_table().clone(), engine.expert_uses());
        self.work(&mut engine, &mut session, &prompt, &mut events, keep_going)?;
        events.note("end");
        row.token_hash = format!("{:016x}", hash(session.tokens()));
        let table = engine.supply_table() - &before.0;
        let uses = engine.expert_uses();
        let watched = watch.stop();

        fill_supply(&mut row, &table);
        for layer in 0..table.n_layer() {
            let n = row.model.n_expert as usize;
            let experts = layer * n..(layer + 1) * n;
            let pairs = std::iter::zip(&uses[experts.clone()], &before.1[experts]);
            let mut told = row::Layer::default();
            for (now, then) in pairs {
                told.touches.push(now.touches - then.touches);
                told.hits.push(now.hits - then.hits);
                told.resident.push(u64::from(now.resident));
            }
            row.layers.push(told);
        }
        fill_watched(&mut row, &watched);
        Ok(row)
    }

    /// Prompt and answer; the times and events of the last call count.
    fn work(
        &self,
        engine: &mut Engine,
        session: &mut Session,
        prompt: &[TokenId],
        events: &mut Events<'_>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        let stopped = || Error::new(ErrorKind::Closed, "stopped");
        let mut sampler = greedy()?;
        events.row.sweeps = row::Sweeps::default();
        events.row.times.token_ns = Vec::with_capacity(self.n_gen);
        events.note("prefill");
        let clock = Instant::now();
        let done = engine.prefill(session, prompt, &mut |n| {
            events.tick(n);
            keep_going()
        })?;
        if done == Prefill::Stopped {
            return Err(stopped());
        }
        let mut token = sampler.sample(session.logits())?;
        events.row.times.prefill_ns = nanoseconds(clock);
        events.note("decode");
        for _ in 0..self.n_gen {
            if !keep_going() {
                return Err(stopped());
            }
            let clock = Instant::now();
            engine.decode(session, token)?;
            token = sampler.sample(session.logits())?;
            events.row.times.token_ns.push(nanoseconds(clock));
        }
        Ok(())
    }
}

/// Notes when what happened.
struct Events<'a> {
    began: Instant,
    row: &'a mut Row,
}

impl Events<'_> {
    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// The last of one name counts.
    fn note(&mut self, name: &str) {
        let at_ms = self.now();
        self.row.events.retain(|event| event.name != name);
        self.row.events.push(row::Event {
            name: name.into(),
            at_ms,
        });
    }

    fn tick(&mut self, n_tokens: usize) {
        let at_ms = self.now();
        self.row.sweeps.at_ms.push(at_ms);
        self.row.sweeps.n_tokens.push(n_tokens as u64);
    }
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn model(prepared: &Prepared) -> Result<row::Model> {
    let model = prepared.model();
    let name = std::path::Path::new(&model.gguf.name).file_name();
    Ok(row::Model {
        name: name.map_or(String::new(), |name| name.to_string_lossy().into_owned()),
        hash: format!("{:016x}", prepared.model_hash()?),
        bytes: model.gguf.file_len,
        n_layer: model.config.n_layer as u64,
        n_expert: model.config.n_expert as u64,
        n_used: model.config.n_expert_used as u64,
        quant: model
            .experts
            .layers
            .first()
            .map_or("", |l| l.gate.format.name())
            .into(),
    })
}

/// Nothing of the file is in the page cache afterwards; `None` where the system does not tell.
fn drop_cached(prepared: &Prepared) -> Result<Option<u64>> {
    match prepared.drop_cached() {
        Some(left @ 1..) => {
            let name = &prepared.model().gguf.name;
            Err(Error::new(
                ErrorKind::Io,
                format!(
                    "{name}: {left} bytes stay in the page cache, expected none before a cold run: is another program using it?"
                ),
            ))
        }
        left => Ok(left),
    }
}

fn fill_supply(row: &mut Row, table: &SupplyTable) {
    let counters = |s: SupplyStats| row::Supply {
        touches: s.touches,
        hits: s.hits,
        misses: s.misses,
        evictions: s.evictions,
        read_bytes: s.read_bytes,
        read_ns: s.read_ns,
        stall_ns: s.stall_ns,
    };
    row.prefill = counters(table.phase(Phase::Prefill));
    row.decode = counters(table.phase(Phase::Decode));
}

fn fill_watched(row: &mut Row, watched: &Watched) {
    let (process, system) = (&watched.peaks.process, &watched.peaks.system);
    row.peaks = row::Peaks {
        rss_bytes: process.peak_rss_bytes.max(process.rss_bytes),
        anon_bytes: process.anon_bytes,
        locked_bytes: process.locked_bytes,
        cached_bytes: watched.peaks.cached_bytes,
        system_used_bytes: system.used_bytes,
        system_file_bytes: system.file_bytes,
        system_anon_bytes: system.anon_bytes,
        system_locked_bytes: system.locked_bytes,
        swap_used_bytes: system.swap_used_bytes,
        compressor_bytes: system.compressor_bytes,
    };
    let (Some(first), Some(last)) = (watched.samples.first(), watched.samples.last()) else {
        return;
    };
    let grown = |of: fn(&Sample) -> Option<u64>| {
        of(last)
            .zip(of(first))
            .map(|(last, first)| last.saturating_sub(first))
    };
    row.system = row::System {
        n_minor_faults: grown(|s| s.process.n_minor_faults),
        n_major_faults: grown(|s| s.process.n_major_faults),
        storage_read_bytes: grown(|s| s.process.storage_read_bytes),
        page_in_bytes: grown(|s| s.system.page_in_bytes),
        swap_out_bytes: grown(|s| s.system.swap_out_bytes),
    };
    let samples = &watched.samples;
    let column = |of: fn(&Sample) -> Option<u64>| {
        let values: Option<Vec<u64>> = samples.iter().map(|s| of(s).map(|b| b >> 20)).collect();
        values.unwrap_or_default()
    };
    row.series = row::Series {
        at_ms: samples.iter().map(|s| s.at.as_millis() as u64).collect(),
        rss_mib: column(|s| s.process.rss_bytes),
        anon_mib: column(|s| s.process.anon_bytes),
        cached_mib: column(|s| s.cached_bytes),
        system_used_mib: column(|s| s.system.used_bytes),
        system_file_mib: column(|s| s.system.file_bytes),
        system_locked_mib: column(|s| s.system.locked_bytes),
        swap_mib: column(|s| s.system.swap_used_bytes),
        read_mib: column(|s| s.process.storage_read_bytes),
    };
    // Progress is told far more often than a picture can show.
    let keep = row.sweeps.at_ms.len().div_ceil(MOST_TICKS).max(1);
    let thin = |list: &mut Vec<u64>| {
        *list = list.iter().step_by(keep).copied().collect();
    };
    thin(&mut row.sweeps.at_ms);
    thin(&mut row.sweeps.n_tokens);
}

/// Borders of layers and chunks that a row keeps.
const MOST_TICKS: usize = 512;
