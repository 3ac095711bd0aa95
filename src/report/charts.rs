//! The pictures of the report: which figures of which rows stand on which axes.

use super::axis::Axis;
use super::cells::{Cell, Group, Spread, cap_name, strategy_rank};
use super::figures::disk_mib_per_s;
use super::row::{Row, Series};
use super::svg::{Band, Bar, HeatMap, Line, Plot, Point};
use super::tables::{decode, prefill};

/// A heading with its pictures.
pub struct Figure {
    /// The heading.
    pub title: &'static str,
    /// What to know to read them.
    pub caption: String,
    /// Classes and what they stand for.
    pub key: Vec<(&'static str, String)>,
    /// The pictures; none where nothing is known.
    pub panels: Vec<String>,
}

/// Rectangles of a heat map; for larger models there is none.
const MOST_RECTANGLES: usize = 1 << 15;

/// Columns of the histogram of latencies.
const N_BINS: usize = 28;

/// All pictures of a group, in the order of the page.
pub fn figures(group: &Group<'_>) -> Vec<Figure> {
    vec![
        memory(group),
        speed(group),
        disk(group),
        hits_by_layer(group),
        residency(group),
        touches(group),
        latency(group),
        by_cap(group),
        by_budget(group),
    ]
}

/// What colours a strategy.
pub fn class(strategy: &str) -> &'static str {
    ["s-full", "s-baseline", "s-lru", "s-nommap", "s-other"][strategy_rank(strategy)]
}

/// The title of a cell's picture.
fn name(cell: &Cell<'_>) -> String {
    let setup = cell.setup();
    let cap = setup.cap_bytes.map_or(String::new(), |_| {
        format!(", cap {}", cap_name(setup.cap_bytes))
    });
    format!("{}, {}{cap}", setup.strategy, setup.budget)
}

/// Loading, prompt and answer on the clock of the series, in seconds.
fn phases(row: &Row) -> Vec<Band> {
    let mut events = row.events.clone();
    events.sort_by_key(|event| event.at_ms);
    let pairs = events.windows(2).filter(|pair| pair[0].name != "end");
    let band = |pair: &[super::row::Event]| Band {
        from: seconds(pair[0].at_ms),
        to: seconds(pair[1].at_ms),
        name: pair[0].name.clone(),
    };
    pairs.map(band).collect()
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}

/// One picture a strategy over the same time and with the same height.
fn over_time(group: &Group<'_>, unit: &str, lines: impl Fn(&Row) -> Vec<Line>) -> Vec<String> {
    let shown = group.shown();
    let rows: Vec<(&Row, Vec<Line>)> = shown
        .iter()
        .map(|cell| (cell.median_run(), lines(cell.median_run())))
        .collect();
    let end = rows.iter().filter_map(|(row, _)| row.event("end")).max();
    let points = rows
        .iter()
        .flat_map(|(_, lines)| lines)
        .flat_map(|l| &l.points);
    let most = points.map(|p| p.y).fold(0.0, f64::max);
    let x = Axis::between(0.0, seconds(end.unwrap_or(0)).max(0.001), 6, "s");
    let y = Axis::from_zero(most, 5, unit);
    let plot = |(cell, (row, lines)): (&&Cell<'_>, (&Row, Vec<Line>))| Plot {
        title: name(cell),
        x: x.clone(),
        y: y.clone(),
        bands: phases(row),
        bars: Vec::new(),
        lines,
    };
    panels(shown.iter().zip(rows).map(plot))
}

fn panels(plots: impl Iterator<Item = Plot>) -> Vec<String> {
    let plots = plots.filter(|plot| !plot.is_empty());
    plots.map(|plot| plot.svg()).collect()
}

fn memory(group: &Group<'_>) -> Figure {
    type Column = fn(&Series) -> &[u64];
    let columns: [(&str, &str, Column); 4] = [
        ("m-used", "system", |s| &s.system_used_mib),
        ("m-rss", "process", |s| &s.rss_mib),
        ("m-cached", "file", |s| &s.cached_mib),
        ("m-anon", "anon", |s| &s.anon_mib),
    ];
    let lines = |row: &Row| {
        let line = |(class, name, column): (&'static str, &str, Column)| {
            let points = std::iter::zip(&row.series.at_ms, column(&row.series));
            Line {
                class,
                name: name.into(),
                mark: None,
                points: points
                    .map(|(at, mib)| Point::new(seconds(*at), *mib as f64 / 1024.0))
                    .collect(),
            }
        };
        columns.into_iter().map(line).collect()
    };
    Figure {
        title: "Memory over time",
        caption: "system: memory of the machine in use for anything, its page cache included; process: its memory, mapped files included (RSS); file: what of the model file lies in the page cache; anon: memory of the process that belongs to no file. The shades are the phases load, prefill and decode.".into(),
        key: Vec::new(),
        panels: over_time(group, "GiB", lines),
    }
}

/// A speed that held from one time to another, as a step.
fn steps(speeds: impl Iterator<Item = (f64, f64, f64)>) -> Vec<Point> {
    speeds
        .flat_map(|(from, to, speed)| [Point::new(from, speed), Point::new(to, speed)])
        .collect()
}

/// Tokens a second of the prompt, between two borders that were noted at different times.
fn prefill_steps(row: &Row) -> Vec<(f64, f64, f64)> {
    let mut borders: Vec<(u64, u64)> = Vec::new();
    for (at, n) in std::iter::zip(&row.sweeps.at_ms, &row.sweeps.n_tokens) {
        match borders.last_mut() {
            Some(last) if last.0 == *at => last.1 = *n,
            _ => borders.push((*at, *n)),
        }
    }
    let step = |pair: &[(u64, u64)]| {
        let (from, to) = (seconds(pair[0].0), seconds(pair[1].0));
        (
            from,
            to,
            pair[1].1.saturating_sub(pair[0].1) as f64 / (to - from),
        )
    };
    borders.windows(2).map(step).collect()
}

fn decode_steps(row: &Row) -> Vec<(f64, f64, f64)> {
    let mut at = seconds(row.event("decode").unwrap_or(0));
    let tokens = row.times.token_ns.iter().filter(|ns| **ns > 0);
    tokens
        .map(|ns| {
            let (from, took) = (at, *ns as f64 / 1e9);
            at += took;
            (from, at, 1.0 / took)
        })
        .collect()
}

fn speed(group: &Group<'_>) -> Figure {
    let lines = |row: &Row| {
        let class = class(&row.setup.strategy);
        let line = |steps_of: fn(&Row) -> Vec<(f64, f64, f64)>| Line {
            class,
            name: String::new(),
            mark: None,
            points: steps(steps_of(row).into_iter()),
        };
        vec![line(prefill_steps), line(decode_steps)]
    };
    Figure {
        title: "Tokens a second over time",
        caption: "Prefill: tokens between two borders of a layer or a chunk, by the part of the layers they went through; decode: one step a token.".into(),
        key: Vec::new(),
        panels: over_time(group, "tokens/s", lines),
    }
}

fn disk(group: &Group<'_>) -> Figure {
    let lines = |row: &Row| {
        let mut from = row.series.at_ms.first().copied().unwrap_or(0);
        let speeds = disk_mib_per_s(&row.series).into_iter().map(|(at, mib)| {
            let step = (seconds(from), seconds(at), mib * 1.048_576);
            from = at;
            step
        });
        vec![Line {
            class: class(&row.setup.strategy),
            name: String::new(),
            mark: None,
            points: steps(speeds),
        }]
    };
    Figure {
        title: "Disk over time",
        caption: "What storage gave to the process, between two looks.".into(),
        key: Vec::new(),
        panels: over_time(group, "MB/s", lines),
    }
}

fn hits_by_layer(group: &Group<'_>) -> Figure {
    let line = |cell: &&Cell<'_>| {
        let layers = cell.median_run().layers.iter().enumerate();
        let sum = |list: &[u64]| list.iter().fold(0f64, |sum, n| sum + *n as f64);
        let points = layers.filter_map(|(i, layer)| {
            let touches = sum(&layer.touches);
            (touches > 0.0).then(|| Point::new(i as f64, sum(&layer.hits) / touches * 100.0))
        });
        let strategy = &cell.setup().strategy;
        Line {
            class: class(strategy),
            name: strategy.clone(),
            mark: Some(strategy_rank(strategy)),
            points: points.collect(),
        }
    };
    let last = group.model().n_layer.saturating_sub(1).max(1) as f64;
    let mut x = Axis::between(-0.03 * last, 1.03 * last, (last as usize + 1).min(8), "");
    x.ticks.retain(|(at, _)| at.fract() == 0.0);
    let plot = Plot {
        title: "choices that were there, by layer, prefill and decode".into(),
        x,
        y: Axis::from_zero(100.0, 5, "%"),
        bands: Vec::new(),
        bars: Vec::new(),
        lines: group.shown().iter().map(line).collect(),
    };
    Figure {
        title: "Hits by layer",
        caption: "Layers count from 0.".into(),
        key: Vec::new(),
        panels: panels([plot].into_iter()),
    }
}

/// A heat map of a row, if it is not too large.
fn heat(
    row: &Row,
    title: String,
    class: &'static str,
    level: &dyn Fn(usize, usize) -> usize,
) -> Option<String> {
    let (n_rows, n_columns) = (row.model.n_layer as usize, row.model.n_expert as usize);
    let fits = (1..=MOST_RECTANGLES).contains(&n_rows.saturating_mul(n_columns));
    fits.then(|| {
        let names = ["layers", "experts"];
        HeatMap {
            title,
            n_rows,
            n_columns,
            names,
            level,
            class,
        }
        .svg()
    })
}

fn residency(group: &Group<'_>) -> Figure {
    let panel = |cell: &&Cell<'_>| {
        let row = cell.median_run();
        let level = |layer: usize, expert: usize| match row.layers[layer].resident[expert] {
            0 => 0,
            _ => super::svg::LEVELS,
        };
        heat(row, name(cell), class(&row.setup.strategy), &level)
    };
    Figure {
        title: "Which experts were there at the end",
        caption: "Filled: could be read without a wait.".into(),
        key: Vec::new(),
        panels: group.shown().iter().filter_map(panel).collect(),
    }
}

fn touches(group: &Group<'_>) -> Figure {
    let shown = group.shown();
    let of = |cell: &Cell<'_>| {
        let layers = &cell.median_run().layers;
        layers
            .iter()
            .map(|layer| layer.touches.clone())
            .collect::<Vec<_>>()
    };
    let is_same = shown.windows(2).all(|pair| of(pair[0]) == of(pair[1]));
    let cells = if is_same { &shown[..1] } else { &shown[..] };
    let panel = |cell: &&Cell<'_>| {
        let row = cell.median_run();
        let level = |layer: usize, expert: usize| match row.layers[layer].touches[expert] {
            0 => 0,
            1 => 1,
            2..4 => 2,
            4..8 => 3,
            _ => 4,
        };
        let title = if is_same {
            "all strategies".into()
        } else {
            name(cell)
        };
        heat(row, title, "heat-touches", &level)
    };
    let levels = [
        ("h1", "once"),
        ("h2", "2 to 3"),
        ("h3", "4 to 7"),
        ("h4", "8 times or more"),
    ];
    Figure {
        title: "How often experts were chosen",
        caption: "In prefill and decode; in prefill, tokens that go through a layer together ask for an expert once.".into(),
        key: levels.into_iter().map(|(class, text)| (class, text.into())).collect(),
        panels: cells.iter().filter_map(panel).collect(),
    }
}

fn latency(group: &Group<'_>) -> Figure {
    let shown = group.shown();
    let of = |cell: &Cell<'_>| -> Vec<f64> {
        let tokens = cell.runs.iter().flat_map(|row| &row.times.token_ns);
        tokens
            .filter(|ns| **ns > 0)
            .map(|ns| *ns as f64 / 1e6)
            .collect()
    };
    let all: Vec<Vec<f64>> = shown.iter().map(|cell| of(cell)).collect();
    let least = all.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let most = all.iter().flatten().copied().fold(0.0, f64::max);
    let (from, to) = match least < most {
        true => (least, most),
        false => (most.max(1e-6) * 0.9, most.max(1e-6) * 1.1),
    };
    let ratio = (to / from).powf(1.0 / N_BINS as f64);
    let count = |times: &[f64]| {
        let mut bins = [0u32; N_BINS];
        for time in times {
            let bin = (time / from).ln() / ratio.ln();
            bins[(bin.max(0.0) as usize).min(N_BINS - 1)] += 1;
        }
        bins
    };
    let bins: Vec<_> = all.iter().map(|times| count(times)).collect();
    let highest = bins.iter().flatten().copied().max().unwrap_or(0);
    let (x, y) = (
        Axis::log(from, to, "ms"),
        Axis::from_zero(f64::from(highest), 5, "tokens"),
    );
    let plot = |(cell, bins): (&&Cell<'_>, &[u32; N_BINS])| {
        let bars = bins.iter().enumerate().filter(|(_, n)| **n > 0);
        Plot {
            title: name(cell),
            x: x.clone(),
            y: y.clone(),
            bands: Vec::new(),
            bars: bars
                .map(|(i, n)| Bar {
                    from: from * ratio.powi(i as i32),
                    to: from * ratio.powi(i as i32 + 1),
                    height: f64::from(*n),
                    class: class(&cell.setup().strategy),
                })
                .collect(),
            lines: Vec::new(),
        }
    };
    Figure {
        title: "How long decoded tokens took",
        caption: "Tokens of all runs of a cell, by milliseconds; equal ways to the right are equal ratios.".into(),
        key: Vec::new(),
        panels: panels(shown.iter().zip(&bins).map(plot)),
    }
}

/// What is compared over caps and budgets.
type Speed = (&'static str, fn(&Row) -> Option<f64>);
const SPEEDS: [Speed; 2] = [("decode", decode), ("prefill", prefill)];

/// The point of some runs at `x`.
fn point(x: f64, runs: &[&Row], figure: fn(&Row) -> Option<f64>) -> Option<Point> {
    let spread = Spread::of(runs.iter().filter_map(|row| figure(row)).collect())?;
    let range = (spread.least < spread.most).then_some((spread.least, spread.most));
    let y = spread.median;
    Some(Point { x, y, range })
}

fn line(strategy: &str, points: Vec<Point>) -> Line {
    Line {
        class: class(strategy),
        name: strategy.into(),
        mark: Some(strategy_rank(strategy)),
        points,
    }
}

/// The most that any run of a group reached, for an axis that panels share.
fn fastest(group: &Group<'_>, figure: fn(&Row) -> Option<f64>) -> f64 {
    let runs = group.cells.iter().flat_map(|cell| &cell.runs);
    runs.filter_map(|row| figure(row)).fold(0.0, f64::max)
}

fn by_cap(group: &Group<'_>) -> Figure {
    let mut caps = group.caps();
    caps.reverse();
    let names: Vec<String> = caps.iter().map(|cap| cap_name(*cap)).collect();
    let plots = |(what, figure): Speed| {
        let (names, caps) = (&names, &caps);
        let budgets = group.budgets(|cell| cell.setup().cap_bytes != caps[caps.len() - 1]);
        budgets.into_iter().map(move |budget| {
            let points = |strategy: &str| {
                let at = |(i, cap): (usize, &Option<u64>)| {
                    let cells = group.under(*cap).map(Cell::setup).zip(group.under(*cap));
                    let fits = cells.filter(|(s, _)| s.strategy == strategy && s.budget == budget);
                    let runs: Vec<&Row> = fits.flat_map(|(_, cell)| cell.runs.clone()).collect();
                    // Beside each other, so that no upright line hides another.
                    let aside = (strategy_rank(strategy) as f64 - 1.5) * 0.05;
                    point(i as f64 + aside, &runs, figure)
                };
                caps.iter().enumerate().filter_map(at).collect()
            };
            let strategies = group.strategies().into_iter();
            Plot {
                title: format!("{what}, budget {budget}"),
                x: Axis::named(names),
                y: Axis::from_zero(fastest(group, figure), 5, "tokens/s"),
                bands: Vec::new(),
                bars: Vec::new(),
                lines: strategies.map(|s| line(s, points(s))).collect(),
            }
        })
    };
    let caption = match caps.len() {
        1 => "All runs had the same memory.",
        _ => {
            "Medians; upright lines reach from the least to the most of the runs. Steps to the right are not to scale."
        }
    };
    let panels = match caps.len() {
        1 => Vec::new(),
        _ => panels(SPEEDS.into_iter().flat_map(plots)),
    };
    Figure {
        title: "Speed by memory cap",
        caption: caption.into(),
        key: Vec::new(),
        panels,
    }
}

fn by_budget(group: &Group<'_>) -> Figure {
    let cap = group.caps()[0];
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let most = group.under(cap).map(|cell| gib(cell.setup().budget_bytes));
    let x = Axis::from_zero(most.fold(0.0, f64::max), 6, "GiB");
    let plot = |(what, figure): Speed| {
        let points = |strategy: &str| {
            let cells = group.under(cap).filter(|c| c.setup().strategy == strategy);
            let mut of_size = std::collections::BTreeMap::<u64, Vec<&Row>>::new();
            for cell in cells {
                of_size
                    .entry(cell.setup().budget_bytes)
                    .or_default()
                    .extend(&cell.runs);
            }
            let points = of_size
                .into_iter()
                .filter_map(|(size, runs)| point(gib(size), &runs, figure));
            points.collect()
        };
        let strategies = group.strategies().into_iter();
        Plot {
            title: format!("{what}, {}", cap_name(cap)),
            x: x.clone(),
            y: Axis::from_zero(fastest(group, figure), 5, "tokens/s"),
            bands: Vec::new(),
            bars: Vec::new(),
            lines: strategies.map(|s| line(s, points(s))).collect(),
        }
    };
    Figure {
        title: "Speed by budget",
        caption: "To the right: bytes for experts as they were taken, so that full stands at all of them. Medians; upright lines reach from the least to the most of the runs.".into(),
        key: Vec::new(),
        panels: panels(SPEEDS.into_iter().map(plot)),
    }
}
