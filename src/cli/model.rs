//! The flags of everything that loads a model.

use super::args::{Args, Flag};
use super::note;
use super::progress::Progress;
use crate::engine::{self, Engine, Prepared};
use crate::error::Result;
use crate::options::{self, BackendChoice, Budget, KernelChoice, KvFormat, Options};
use std::path::PathBuf;

/// Which model.
pub const MODEL_FLAG: Flag = Flag::with(
    &["-m", "--model"],
    "FILE",
    "GGUF model (default: $INFALL_MODEL, else models/tiny-q4.gguf here or beside the sources)",
);

/// How to run it.
pub const MODEL_FLAGS: &[Flag] = &[
    MODEL_FLAG,
    Flag::with(
        &["--ctx"],
        "N",
        "tokens of context (default: 32768, or what the model was trained for)",
    ),
    Flag::with(
        &["--kv"],
        "FORM",
        "KV cache: f32 | f16 | official (the release's FP8/FP4 rounding); default f16",
    ),
    Flag::with(
        &["--prefill-chunk"],
        "N",
        "prompt tokens computed together (default 512)",
    ),
    Flag::with(
        &["--prefill-sweep"],
        "N",
        "prompt tokens that go through a layer before the next (default 4096)",
    ),
    Flag::with(
        &["--strategy"],
        "NAME",
        "supply of experts: auto | full | baseline | residency-lru | nommap (default: the last built in)",
    ),
    Flag::with(
        &["--budget", "--ssd-streaming-cache-experts"],
        "SIZE",
        "memory for experts: auto (default), 8GB, 25% of their bytes, or a number of experts (of the mean size, where sizes differ)",
    ),
    Flag::with(&["--readers"], "N", "threads that read experts (default 8)"),
    Flag::switch(
        &["--no-read-ahead"],
        "read experts only when their layer has begun",
    ),
    Flag::switch(&["--overcommit"], "go on when memory does not suffice"),
    Flag::with(
        &["--simulate-used-memory"],
        "NGB",
        "take and lock N GiB first, so that the rest is as on a smaller machine",
    ),
    Flag::with(
        &["--backend"],
        "NAME",
        "what computes: cpu | metal | auto (default: metal on a Mac that has a device, else cpu)",
    ),
    Flag::with(
        &["--threads"],
        "N",
        "compute threads (default: one for each CPU)",
    ),
    Flag::with(
        &["--kernels"],
        "NAME",
        "CPU kernels: scalar | avx2 | avx512 | neon | auto (default)",
    ),
    Flag::switch(&["--quiet"], "no progress and no statistics"),
];

/// The model that `-m` or the defaults name.
pub fn model_path(args: &Args) -> PathBuf {
    args.value("-m")
        .map_or_else(options::default_model, PathBuf::from)
}

/// The options that the flags ask for.
pub fn options(args: &Args) -> Result<Options> {
    let mut options = Options::new(model_path(args));
    options.ctx = args.number("--ctx")?.unwrap_or(options.ctx);
    options.threads = args.number("--threads")?.unwrap_or(options.threads);
    options.prefill_chunk = args
        .number("--prefill-chunk")?
        .unwrap_or(options.prefill_chunk);
    if let Some(name) = args.text("--kv")? {
        options.kv = KvFormat::parse(name)?;
    }
    if let Some(name) = args.text("--backend")? {
        options.backend = BackendChoice::parse(name)?;
    }
    if let Some(name) = args.text("--kernels")? {
        options.kernels = KernelChoice::parse(name)?;
    }
    options.prefill_sweep = args
        .number("--prefill-sweep")?
        .unwrap_or(options.prefill_sweep);
    options.strategy = args
        .text("--strategy")?
        .unwrap_or(engine::default_strategy())
        .into();
    if let Some(size) = args.text("--budget")? {
        options.supply.budget = Budget::parse(size)?;
    }
    options.supply.readers = args.number("--readers")?.unwrap_or(options.supply.readers);
    options.supply.read_ahead = !args.has("--no-read-ahead");
    options.overcommit = args.has("--overcommit");
    if let Some(size) = args.text("--simulate-used-memory")? {
        options.simulate_used_memory = options::parse_simulated(size)?;
    }
    options.trace_routes = args.value("--trace-routes").map(PathBuf::from);
    options.validate()?;
    Ok(options)
}

/// Reads everything but the weights of the model that the flags ask for.
pub fn prepare(args: &Args) -> Result<Prepared> {
    prepare_for(args, 0)
}

/// As [`prepare`]; without `--ctx` the context holds `n` tokens, if that is more than 0.
pub fn prepare_for(args: &Args, n: usize) -> Result<Prepared> {
    let mut options = options(args)?;
    if options.ctx == 0 {
        options.ctx = n;
    }
    prepare_with(options, args)
}

/// As [`prepare`], with options that are more than the flags say.
pub fn prepare_with(options: Options, args: &Args) -> Result<Prepared> {
    let prepared = Prepared::new(options)?;
    if !args.has("--quiet") {
        note(&format!("{}\n", prepared.plan().summary()));
    }
    tell(&prepared.notes(), args);
    Ok(prepared)
}

fn tell(notes: &[String], args: &Args) {
    if !args.has("--quiet") {
        notes
            .iter()
            .for_each(|text| note(&format!("note: {text}\n")));
    }
}

/// Loads its weights.
pub fn load(prepared: Prepared, args: &Args) -> Result<Engine> {
    let mut progress = Progress::new("load", "MiB", args.has("--quiet"));
    let mut show = |done: u64, all: u64| progress.show((done >> 20) as usize, (all >> 20) as usize);
    let engine = prepared.load(&mut show);
    progress.clear();
    let engine = engine?;
    tell(engine.notes(), args);
    Ok(engine)
}
