//! Every byte decided before the first is taken: which strategy, how many experts, and what all of it needs.
//!
//! ```text
//! available = fixed weights + experts + KV cache + activations + kernels + threads + tokenizer + margin
//! ```

use crate::backend::Chosen;
use crate::error::{Error, Result};
use crate::graph::{Lengths, tally};
use crate::model::Model;
use crate::options::{Budget, Options};
use crate::os::{self, FileSet};
use crate::routes;
use crate::supply::{self, Built, SupplyNeeds};
use crate::units::Bytes;
use std::fmt;

/// A compute thread's stack as far as it is touched.
const COMPUTE_STACK: u64 = 256 << 10;

/// What `auto` leaves of the available memory to everybody else, as a part of it.
const MARGIN: u64 = 10;

/// The decisions and what they cost.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The strategy that was chosen.
    pub strategy: &'static str,
    /// Why, where the user left it open.
    pub why: Option<String>,
    /// Whether a budget bounds its experts; if not, all are in memory.
    pub streams: bool,
    /// What computes.
    pub backend: Chosen,
    /// How to open it.
    pub built: Built,
    /// Tokens of context.
    pub ctx: usize,
    /// Tokens computed together.
    pub lengths: Lengths,
    /// Compute threads.
    pub n_threads: usize,
    /// Experts held: where their sizes differ, so many of the mean size.
    pub n_experts: u64,
    /// Bytes for them.
    pub budget: u64,
    /// The mean size, where sizes differ.
    pub mean_slab: Option<u64>,
    /// What is taken, by use: name, bytes.
    pub uses: Vec<(&'static str, u64)>,
    /// Memory that can be had, if the system says, and by the device that computes; with what is held to simulate a smaller machine, as that is one of
    /// the uses.
    pub available: Option<u64>,
    /// Things worth telling that are no faults.
    pub notes: Vec<String>,
}

impl Plan {
    /// Decides for a model in these files. `tokenizer` is what the vocabulary takes already.
    ///
    /// Errors: usage errors for what is not built in, and for a budget that holds too little or cannot be had;
    /// they say what can.
    pub fn new(
        files: &FileSet,
        model: &Model,
        options: &Options,
        ctx: usize,
        tokenizer: u64,
    ) -> Result<Plan> {
        let backend = Chosen::new(options.backend)?;
        backend.check(model)?;
        let available = least(os::available_memory(), backend.working_set());
        let lengths = Lengths {
            chunk: options.prefill_chunk.min(ctx),
            sweep: options
                .prefill_sweep
                .max(options.prefill_chunk)
                .min(ctx * options.windows),
        };
        let n_threads = match options.threads {
            0 => os::n_cpus(),
            n => n,
        };
        let graph = tally::needs(&model.config, options.kv, ctx, lengths, backend.page())?;
        let serving = options.serving.as_ref();
        let sessions = serving.map_or(options.windows, |serving| serving.sessions) as u64;
        let mut plan = Plan {
            strategy: "",
            why: None,
            streams: false,
            backend,
            built: supply::built("full")?,
            ctx,
            lengths,
            n_threads,
            n_experts: 0,
            budget: 0,
            mean_slab: None,
            uses: vec![
                ("KV cache", graph.kv * sessions),
                ("activations", graph.scratch + model.weights.vector_bytes()),
                (
                    "kernels",
                    backend.scratch_bytes(&model.config, n_threads, lengths.chunk, ctx),
                ),
                ("tokenizer", tokenizer),
            ],
            available,
            notes: Vec::new(),
        };
        if let Some(serving) = &options.serving {
            // While a sweep of a prompt is read, one to come back to if it is stopped, and up to three on the way.
            let n_points = sessions * serving.checkpoints as u64 + 4;
            plan.uses.push(("checkpoints", n_points * graph.checkpoint));
            // A prompt is at most as long as the context. Answers in JSON need the order of the tokens by their text.
            let prompts = (4 * ctx * serving.prompts) as u64;
            let json = tokenizer + 32 * model.config.n_vocab as u64;
            plan.uses.push(("server", serving.bytes + prompts + json));
        }
        if options.trace_routes.is_some() {
            let c = &model.config;
            let token_len = routes::token_len(c.n_layer, c.n_expert, c.n_expert_used);
            plan.uses
                .push(("route trace", (lengths.sweep * token_len) as u64));
        }
        match options.strategy.as_str() {
            "auto" => plan.choose(files, model, options)?,
            name => plan.take(name, files, model, options)?,
        }
        plan.check_room(options)?;
        plan.add_held(options.simulate_used_memory);
        Ok(plan)
    }

    /// Puts memory that was taken to simulate a smaller machine on both sides, when all is decided for what is left.
    fn add_held(&mut self, held: u64) {
        if held == 0 {
            return;
        }
        let left = self
            .available
            .map_or("an unknown rest".into(), |a| Bytes(a).to_string());
        self.notes.push(format!(
            "{} of memory is held (--simulate-used-memory): planned for the {left} that is left",
            Bytes(held)
        ));
        self.uses.push(("held", held));
        self.available = self.available.map(|a| a + held);
    }

    /// `full` if it fits, else the best that is built in.
    fn choose(&mut self, files: &FileSet, model: &Model, options: &Options) -> Result<()> {
        let mut full = self.clone();
        full.take("full", files, model, options)?;
        let room = self.available.map(|a| a - a / MARGIN);
        let (needed, fits) = (
            Bytes(full.total()),
            room.is_some_and(|room| full.total() <= room),
        );
        let room = room.map_or("unknown".into(), |r| Bytes(r).to_string());
        if fits {
            full.why = Some(format!("all of the model fits: {needed} of {room}"));
            *self = full;
            return Ok(());
        }
        self.take(supply::default_strategy(), files, model, options)?;
        self.why = Some(format!("all of the model does not fit: {needed} of {room}"));
        Ok(())
    }

    fn take(
        &mut self,
        name: &str,
        files: &FileSet,
        model: &Model,
        options: &Options,
    ) -> Result<()> {
        self.built = supply::built(name)?;
        self.strategy = self.built.name;
        let needs = (self.built.needs)(files, model)?;
        self.streams = needs.streams;
        let readers = needs.n_pools * options.supply.readers as u64;
        let threads =
            self.n_threads as u64 * COMPUTE_STACK + readers * os::slots::READER_STACK as u64;
        self.uses.insert(0, ("fixed weights", needs.fixed));
        self.uses.push(("threads", threads));
        self.set_budget(&needs, model, options)?;
        self.uses.insert(1, ("experts", self.budget));
        Ok(())
    }

    fn set_budget(&mut self, needs: &SupplyNeeds, model: &Model, options: &Options) -> Result<()> {
        let (slabs, all) = (needs.slabs, needs.slabs.n);
        self.mean_slab = slabs.is_mixed.then(|| slabs.bytes / all);
        if !needs.streams {
            (self.n_experts, self.budget) = (all, model.experts.total_bytes());
            return Ok(());
        }
        let c = &model.config;
        let least = (c.n_layer * c.n_expert_used) as u64;
        let asked = match options.supply.budget {
            Budget::Least => least,
            Budget::Experts(n) => n,
            Budget::Bytes(bytes) => slabs.count_in(bytes),
            Budget::Share(thousandths) => (all * thousandths + 500) / 1000,
            Budget::Auto => match self.available {
                Some(available) => {
                    slabs.count_in((available - available / MARGIN).saturating_sub(self.total()))
                }
                None => {
                    return Err(Error::usage(
                        "--budget: the system does not tell its memory, expected a number",
                    ));
                }
            },
        };
        if asked < least {
            let (n_layer, n_used) = (c.n_layer, c.n_expert_used);
            let (size, needed) = (Bytes(slabs.bytes_of(1)), Bytes(slabs.bytes_of(least)));
            let mean = if slabs.is_mixed { ", the mean" } else { "" };
            return Err(Error::usage(format!(
                "--budget: found room for {asked} experts of {size}{mean}, expected at least {least} ({n_layer} layers, \
                 {n_used} experts a token): {needed}",
            )));
        }
        if asked > all && options.supply.budget != Budget::Auto {
            self.notes
                .push(format!("the budget is more than all {all} experts take"));
        }
        self.n_experts = asked.min(all);
        self.budget = slabs.bytes_of(self.n_experts);
        Ok(())
    }

    /// How many experts are held, for the user.
    pub fn experts_held(&self) -> String {
        match self.mean_slab {
            Some(mean) => format!("{} of {}, the mean", self.n_experts, Bytes(mean)),
            None => self.n_experts.to_string(),
        }
    }

    /// Refuses what the machine does not have, unless the user insists.
    fn check_room(&self, options: &Options) -> Result<()> {
        let (total, Some(available)) = (self.total(), self.available) else {
            return Ok(());
        };
        if total <= available || options.overcommit {
            return Ok(());
        }
        let rest = total - self.budget;
        let largest = available.saturating_sub(rest);
        Err(Error::limit(
            &format!("--strategy {}: memory", self.strategy),
            format!("{} ({self})", Bytes(total)),
            format!(
                "{} that is available; {} is left for experts (--budget), --overcommit tries all the same",
                Bytes(available),
                Bytes(largest)
            ),
        ))
    }

    /// What the user sees before anything is loaded, on one line.
    pub fn summary(&self) -> String {
        let why = self
            .why
            .as_ref()
            .map_or(String::new(), |why| format!(" ({why})"));
        let available = self
            .available
            .map_or("unknown".into(), |a| Bytes(a).to_string());
        format!(
            "{}{why}: {} of {available} available = {self}",
            self.strategy,
            Bytes(self.total())
        )
    }

    /// All uses together.
    pub fn total(&self) -> u64 {
        self.uses.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// The lower of two bounds, where there are any.
fn least(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}

/// The uses on one line.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, bytes)) in self.uses.iter().enumerate() {
            let between = if i == 0 { "" } else { " + " };
            write!(f, "{between}{name} {}", Bytes(*bytes))?;
            if *name == "experts" {
                write!(f, " ({})", self.experts_held())?;
            }
        }
        Ok(())
    }
}
