//! `infall io-probe`: how fast this disk can be read, by experts of a model or by plain reads of a file.

use super::args::{Args, Command, Flag};
use super::model::{MODEL_FLAG, model_path};
use super::{note, print};
use crate::bench::device::{self, Cell, Device, Measured, Order, Reached, Way};
use crate::engine::{self, interrupt};
use crate::error::{Error, ErrorKind, Result};
use crate::json::Value;
use crate::units::Bytes;
use std::path::Path;
use std::time::Duration;

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "io-probe",
    positional: "[FILE]",
    max_positional: 1,
    help: "measures how fast experts of the model, or plain pieces of FILE, can be read",
    flags: &[&[
        MODEL_FLAG,
        Flag::with(
            &["--readers"],
            "N",
            "experts: threads that read (default 8)",
        ),
        Flag::with(
            &["--queue"],
            "N",
            "experts: asked for at a time (default 6)",
        ),
        Flag::with(&["--gb"], "N", "experts: gibibytes to read (default 2)"),
        Flag::with(
            &["--seconds"],
            "S",
            "FILE: for each of 96 kinds of reads (default 0.4)",
        ),
        Flag::switch(&["--json"], "FILE: write JSON"),
    ]],
    run,
};

/// Largest accepted `--readers` and `--queue`.
const MOST: usize = 64;

/// What a kind of reads takes beside its reading: dropping the page cache, filling buffers, starting threads.
const OVERHEAD: f64 = 1.2;

/// Longest accepted `--seconds`.
const MOST_SECONDS: f64 = 60.0;

fn run(args: &Args) -> Result<()> {
    let (of_file, of_model) = (
        ["--seconds", "--json"],
        ["-m", "--readers", "--queue", "--gb"],
    );
    let (wrong, expected) = match args.positional.is_empty() {
        true => (of_file.iter().find(|flag| args.has(flag)), "a FILE with it"),
        false => (
            of_model.iter().find(|flag| args.has(flag)),
            "no FILE with it",
        ),
    };
    if let Some(flag) = wrong {
        return Err(Error::usage(format!(
            "{flag} is given, expected {expected}"
        )));
    }
    match args.positional.first() {
        Some(file) => plain(args, file.as_ref()),
        None => experts(args),
    }
}

fn experts(args: &Args) -> Result<()> {
    let count = |flag: &str, default: usize| {
        let n = args.number(flag)?.unwrap_or(default);
        if n == 0 || n > MOST {
            return Err(Error::usage(format!(
                "{flag}: found {n}, expected 1 to {MOST}"
            )));
        }
        Ok(n)
    };
    let (readers, queue) = (count("--readers", 8)?, count("--queue", 6)?);
    let gib: u64 = args.number("--gb")?.unwrap_or(2).min(1 << 20);
    let probe = engine::io_probe(&model_path(args), readers, queue, gib << 30)?;
    let ms = |i: usize| probe.latency[i].as_secs_f64() * 1e3;
    print(&format!(
        "{} in {} experts, {:.2} s: {:.0} MB/s ({readers} readers, {queue} experts at a time); an expert takes \
         {:.1} ms, 1 in 100 more than {:.1} ms\n",
        Bytes(probe.bytes),
        probe.n_experts,
        probe.time.as_secs_f64(),
        probe.bytes as f64 / 1e6 / probe.time.as_secs_f64(),
        ms(0),
        ms(1),
    ))
}

fn plain(args: &Args, path: &Path) -> Result<()> {
    let seconds: f64 = args.number("--seconds")?.unwrap_or(0.4);
    if !(seconds > 0.0 && seconds <= MOST_SECONDS) {
        return Err(Error::usage(format!(
            "--seconds: found {seconds}, expected more than 0, at most {MOST_SECONDS}"
        )));
    }
    let is_json = args.has("--json");
    let mut device = Device::open(path)?;
    let cells: Vec<Cell> = device::cells().collect();
    let n_measured = cells.iter().filter(|c| device.skipped(c).is_none()).count();
    let n_times = n_measured + (device::ROUNDS - 1) * device::DEPTHS.len();
    note(&format!(
        "{n_measured} kinds of reads, {seconds} s each, some in {} rounds: about {:.0} s, longer where one read by each \
         thread takes longer; buffers take up to {}\n",
        device::ROUNDS,
        n_times as f64 * seconds * OVERHEAD,
        Bytes(device.memory_bytes())
    ));
    interrupt::install()?;
    if !is_json {
        print(HEADER)?;
    }
    let (mut measured, mut skipped) = (Vec::new(), Vec::new());
    for cell in cells {
        if let Some(why) = device.skipped(&cell) {
            skipped.push((cell, why));
            continue;
        }
        if interrupt::requested() {
            return Err(Error::new(ErrorKind::Io, "stopped"));
        }
        let found = device.measure(&cell, Duration::from_secs_f64(seconds))?;
        if !is_json {
            print(&line(&cell, &found))?;
        }
        measured.push((cell, found));
    }
    let rounds = rounds(&mut device, &measured, Duration::from_secs_f64(seconds))?;
    let advice = device::advice(&rounds);
    if is_json {
        return print(&format!("{}\n", json(&device, &measured, &skipped, advice)));
    }
    let mut said: Vec<String> = Vec::new();
    for (cell, why) in &skipped {
        // Of one size and way all are skipped for one reason.
        let text = format!(
            "skipped: {}, {}: {why}\n",
            way(cell),
            Bytes(cell.size as u64)
        );
        if !said.contains(&text) {
            said.push(text);
        }
    }
    let cached = measured
        .iter()
        .filter(|(_, m)| m.cached_before.unwrap_or(0) > 0);
    let n_cached = cached.count();
    if n_cached > 0 {
        said.push(format!(
            "note: for {n_cached} kinds of reads a part of the file stayed in the page cache (column cached); their \
             speed may be that of memory\n"
        ));
    }
    said.push(match advice {
        Some((least, best)) => {
            let told = |r: &Reached| format!("{:.2} to {:.2} GB/s", r.gb_per_s[0], r.gb_per_s[2]);
            let n_rounds = device::ROUNDS;
            let few = format!(
                "advice: --readers {}: {n_rounds} rounds of {} random reads of {} gave {}",
                least.cell.depth,
                way(&least.cell),
                Bytes(least.cell.size as u64),
                told(&least)
            );
            if least == best {
                format!("{few}, and no other number more\n")
            } else {
                let depth = best.cell.depth;
                format!("{few}; {depth} gave {}, no difference seen\n", told(&best))
            }
        }
        None => "advice: none, as nothing could be measured\n".into(),
    });
    print(&format!("\n{}", said.concat()))
}

/// The speeds of the cells that decide the advice, in rounds; the first was that of the table.
fn rounds(
    device: &mut Device,
    measured: &[(Cell, Measured)],
    time: Duration,
) -> Result<Vec<(Cell, f64)>> {
    let deciding = device::deciding(measured);
    let first = measured.iter().filter(|(cell, _)| deciding.contains(cell));
    let mut rounds: Vec<(Cell, f64)> = first.map(|(cell, m)| (*cell, m.gb_per_s())).collect();
    for _ in 1..device::ROUNDS {
        for cell in &deciding {
            if interrupt::requested() {
                return Err(Error::new(ErrorKind::Io, "stopped"));
            }
            rounds.push((*cell, device.measure(cell, time)?.gb_per_s()));
        }
    }
    Ok(rounds)
}

/// The first two lines of the table.
const HEADER: &str = "\
| reads    | order      |      size | at a time |  GB/s |   p50 ms |   p95 ms |   p99 ms |     cached |
| -------- | ---------- | --------: | --------: | ----: | -------: | -------: | -------: | ---------: |
";

fn way(cell: &Cell) -> &'static str {
    match cell.way {
        Way::Direct => "direct",
        Way::Buffered => "buffered",
    }
}

fn order(cell: &Cell) -> &'static str {
    match cell.order {
        Order::Sequential => "sequential",
        Order::Random => "random",
    }
}

/// A line of the table.
fn line(cell: &Cell, found: &Measured) -> String {
    let [p50, p95, p99] = found.latency.map(|t| t.as_secs_f64() * 1e3);
    let cached = found
        .cached_before
        .map_or("unknown".into(), |b| Bytes(b).to_string());
    format!(
        "| {:<8} | {:<10} | {:>9} | {:>9} | {:>5.2} | {p50:>8.2} | {p95:>8.2} | {p99:>8.2} | {cached:>10} |\n",
        way(cell),
        order(cell),
        Bytes(cell.size as u64).to_string(),
        cell.depth,
        found.gb_per_s(),
    )
}

/// All of it as one object; bytes, nanoseconds.
fn json(
    device: &Device,
    measured: &[(Cell, Measured)],
    skipped: &[(Cell, String)],
    advice: Option<(Reached, Reached)>,
) -> Value {
    let object = |members: Vec<(&str, Value)>| {
        Value::Object(members.into_iter().map(|(n, v)| (n.into(), v)).collect())
    };
    let count = |n: usize| Value::Count(n as u64);
    let ns = |time: Duration| Value::Count(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    let of_cell = |cell: &Cell| {
        vec![
            ("reads", Value::Text(way(cell).into())),
            ("order", Value::Text(order(cell).into())),
            ("size_bytes", count(cell.size)),
            ("depth", count(cell.depth)),
        ]
    };
    let done = measured.iter().map(|(cell, found)| {
        let mut members = of_cell(cell);
        let [p50, p95, p99] = found.latency.map(ns);
        members.extend([
            ("n_reads", Value::Count(found.n_reads)),
            ("bytes", Value::Count(found.bytes)),
            ("time_ns", ns(found.time)),
            ("gb_per_s", Value::Number(found.gb_per_s())),
            ("p50_ns", p50),
            ("p95_ns", p95),
            ("p99_ns", p99),
            (
                "cached_before_bytes",
                found.cached_before.map_or(Value::Null, Value::Count),
            ),
        ]);
        object(members)
    });
    let not_done = skipped.iter().map(|(cell, why)| {
        let mut members = of_cell(cell);
        members.push(("reason", Value::Text(why.clone())));
        object(members)
    });
    object(vec![
        ("file_bytes", Value::Count(device.file_bytes())),
        (
            "no_direct",
            device.no_direct().map_or(Value::Null, Value::Text),
        ),
        ("memory_bytes", Value::Count(device.memory_bytes())),
        ("measured", Value::List(done.collect())),
        ("skipped", Value::List(not_done.collect())),
        (
            "readers",
            advice.map_or(Value::Null, |(least, _)| count(least.cell.depth)),
        ),
    ])
}
