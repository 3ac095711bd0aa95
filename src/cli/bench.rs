//! `infall bench`: how fast a model computes, in the terms of llama.cpp's `llama-bench`.

use super::args::{Args, Command, Flag};
use super::model::{self, MODEL_FLAGS};
use super::progress::Progress;
use super::{note, print, profile};
use crate::bench::{Bench, Feed, Kind, Test, bandwidth};
use crate::engine::interrupt;
use crate::error::{Error, Result};
use format::{Form, Setting, Writer};

mod experiment;
mod format;

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "bench",
    positional: "",
    max_positional: 0,
    help: "measures prefill and decode as llama-bench does, and what memory allows",
    flags: &[
        &[
            Flag::with(
                &["-p", "--n-prompt"],
                "LIST",
                "tokens of the prompts to measure: 512 (default), 512,4096; 0 is none",
            ),
            Flag::with(
                &["-n", "--n-gen"],
                "LIST",
                "tokens to decode one by one: 128 (default), 32,128; 0 is none",
            ),
            Flag::with(
                &["-d", "--depth"],
                "N",
                "tokens in the context before, not measured (default 0)",
            ),
            Flag::with(&["-r", "--runs"], "N", "runs of each test (default 5)"),
            Flag::switch(&["--no-warmup"], "measure the first run too"),
            Flag::switch(
                &["--greedy"],
                "decode the model's most likely tokens (default: seeded random ids)",
            ),
            Flag::switch(&["--no-bandwidth"], "do not measure reading from memory"),
            profile::FLAG,
            Flag::switch(&["--csv"], "write comma-separated values"),
            Flag::switch(&["--json"], "write JSON"),
        ],
        experiment::FLAGS,
        MODEL_FLAGS,
    ],
    run,
};

/// Bounds on what the flags ask for.
const LIMITS: Limits = Limits {
    list: 32,
    tokens: 1 << 20,
    runs: 1000,
};

struct Limits {
    /// Numbers of a list.
    list: usize,
    /// Tokens of a test, those before it too.
    tokens: usize,
    /// Runs of a test.
    runs: usize,
}

fn run(args: &Args) -> Result<()> {
    if let Some(path) = args.value("--row") {
        return experiment::run(args, path.as_ref());
    }
    let tests = tests(args)?;
    let n_runs = args.number("-r")?.unwrap_or(5);
    if n_runs == 0 || n_runs > LIMITS.runs {
        let limit = LIMITS.runs;
        return Err(Error::usage(format!(
            "-r: found {n_runs}, expected 1 to {limit}"
        )));
    }
    let form = match (args.has("--csv"), args.has("--json")) {
        (true, true) => {
            return Err(Error::usage(
                "--csv and --json are both given, expected one",
            ));
        }
        (true, false) => Form::Csv,
        (false, true) => Form::Json,
        (false, false) => Form::Table,
    };
    if form == Form::Csv && args.has("--profile") {
        return Err(Error::usage(
            "--csv has no place for --profile, expected --json or neither",
        ));
    }
    let feed = match args.has("--greedy") {
        true => Feed::Greedy,
        false => Feed::Random,
    };

    let needed = tests.iter().map(Test::ctx).max().unwrap_or(0);
    let prepared = model::prepare_for(args, needed)?;
    let (plan, info) = (prepared.plan(), prepared.model());
    if needed > plan.ctx {
        return Err(Error::usage(format!(
            "--ctx: found {}, expected at least {needed}, the tokens of the longest test",
            plan.ctx
        )));
    }
    let decodes = tests.iter().any(|test| test.kind == Kind::Decode);
    let bandwidth = if decodes && !args.has("--no-bandwidth") {
        Some(bandwidth::measure(plan.n_threads)?)
    } else {
        None
    };
    let totals = info.byte_totals();
    let setting = Setting {
        model: info.gguf.name.clone(),
        model_bytes: totals.routed + totals.fixed + totals.embedding,
        n_params: info.n_params(),
        token_bytes: info.token_bytes(),
        strategy: plan.strategy,
        budget_bytes: plan.budget,
        kernels: prepared.kernels()?,
        n_threads: plan.n_threads,
        feed,
        bandwidth,
    };
    let mut engine = model::load(prepared, args)?;
    let mut bench = Bench::new(&mut engine, feed)?;
    if args.has("--profile") {
        bench = bench.profiled();
    }
    let mut writer = Writer::new(form, setting, &tests);
    interrupt::install()?;
    print(&writer.opening())?;
    let result = measure(&mut bench, &mut writer, &tests, n_runs, args);
    // Whatever happened, what was written is whole.
    let closed = print(&writer.closing());
    result.and(closed)
}

/// Runs one test after the other and prints each when it is done, until the user presses Ctrl-C.
fn measure(
    bench: &mut Bench<'_>,
    writer: &mut Writer,
    tests: &[Test],
    n_runs: usize,
    args: &Args,
) -> Result<()> {
    let warm_up = !args.has("--no-warmup");
    for test in tests {
        let what = match test.kind {
            Kind::Prefill => "prefill",
            Kind::Decode => "decode",
        };
        let mut progress = Progress::new(what, "tokens", args.has("--quiet"));
        let mut tick = |done, all| {
            progress.show(done, all);
            !interrupt::requested()
        };
        let measured = bench.measure(*test, n_runs, warm_up, &mut tick);
        progress.clear();
        let Some(measured) = measured? else {
            note(&format!("stopped in {}\n", test.name()));
            return Ok(());
        };
        print(&writer.row(&measured))?;
    }
    Ok(())
}

/// All tests, prompts first.
fn tests(args: &Args) -> Result<Vec<Test>> {
    let depth = args.number("-d")?.unwrap_or(0);
    let mut tests = Vec::new();
    for (flag, kind, default) in [("-p", Kind::Prefill, "512"), ("-n", Kind::Decode, "128")] {
        let lengths = list(flag, args.text(flag)?.unwrap_or(default))?;
        let lengths = lengths.into_iter().filter(|n| *n > 0);
        tests.extend(lengths.map(|n| Test { kind, n, depth }));
    }
    if tests.is_empty() {
        return Err(Error::usage(
            "-p and -n are both 0, expected something to measure",
        ));
    }
    // Two numbers below the limit have a sum.
    let most = tests.iter().map(|test| test.n).max().unwrap_or(0);
    if depth.max(most) > LIMITS.tokens || depth + most >= LIMITS.tokens {
        let limit = LIMITS.tokens;
        return Err(Error::usage(format!(
            "found {depth} tokens before (-d) and {most} to measure (-p, -n), expected less than {limit} together"
        )));
    }
    Ok(tests)
}

/// Whole numbers between commas.
fn list(flag: &str, text: &str) -> Result<Vec<usize>> {
    let n = text.split(',').count();
    if n > LIMITS.list {
        let limit = LIMITS.list;
        return Err(Error::usage(format!(
            "{flag}: found {n} numbers, expected at most {limit}"
        )));
    }
    let number = |word: &str| {
        word.parse().map_err(|_| {
            Error::usage(format!(
                "{flag}: found '{word}', expected whole numbers from 0 between commas"
            ))
        })
    };
    text.split(',').map(number).collect()
}
