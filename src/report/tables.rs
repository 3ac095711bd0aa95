//! The tables of the report, as texts in lines: what [`super::text`] and [`super::html`] both show.

use super::cells::{Cell, Group, Spread, cap_name, is_reference};
use super::read::Skipped;
use super::row::{Row, Supply};
use crate::units::Bytes;

/// What is not known.
pub const UNKNOWN: &str = "–";

/// What the peak of a run may exceed the bytes that were said by.
const KEPT_WITHIN_BYTES: u64 = 64 << 20;

/// A table.
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Its columns; the first stand for the names of lines.
    pub heads: Vec<Head>,
    /// One field a column each.
    pub lines: Vec<Vec<Field>>,
}

/// The head of a column.
pub struct Head {
    /// What stands there.
    pub name: String,
    /// In which unit; empty for texts.
    pub unit: &'static str,
    /// Whether the column holds texts, not numbers.
    pub is_text: bool,
}

/// A field of a table.
#[derive(Clone)]
pub struct Field {
    /// What it says.
    pub text: String,
    /// Smaller: the least and the most of several runs, or the size of a budget.
    pub small: Option<String>,
}

/// A column of numbers about a cell.
type Column = (
    &'static str,
    &'static str,
    fn(&Group<'_>, &Cell<'_>) -> Field,
);

/// How fast.
pub const SPEED: &[Column] = &[
    ("prefill", "tokens/s", |_, cell| with_range(cell, prefill)),
    ("Δ", "%", |group, cell| difference(group, cell, prefill)),
    ("decode", "tokens/s", |_, cell| with_range(cell, decode)),
    ("Δ", "%", |group, cell| difference(group, cell, decode)),
    ("first token", "s", |_, cell| {
        median(cell, |row| Some(row.figures().first_token_ns as f64 / 1e9))
    }),
    ("hits", "%", |_, cell| {
        median(cell, |row| {
            hit_share(&row.decode).map(|share| share * 100.0)
        })
    }),
    ("stall", "ms/token", |_, cell| {
        median(cell, |row| {
            let n_gen = (row.n_gen > 0).then_some(row.n_gen as f64)?;
            Some(row.decode.stall_ns as f64 / 1e6 / n_gen)
        })
    }),
    ("p50", "ms", |_, cell| {
        median(cell, |row| token_ms(row, row.figures().p50_ns))
    }),
    ("p95", "ms", |_, cell| {
        median(cell, |row| token_ms(row, row.figures().p95_ns))
    }),
    ("p99", "ms", |_, cell| {
        median(cell, |row| token_ms(row, row.figures().p99_ns))
    }),
    ("disk", "MB/s", |_, cell| {
        median(cell, |row| {
            row.figures().disk_bytes_per_s.map(|b| b as f64 / 1e6)
        })
    }),
    ("disk, most", "MB/s", |_, cell| {
        median(cell, |row| {
            row.figures().disk_bytes_per_s_max.map(|b| b as f64 / 1e6)
        })
    }),
];

/// The largest figures of memory.
pub const MEMORY: &[Column] = &[
    ("locked, system", "GiB", |_, c| {
        median(c, |row| gib(row.peaks.system_locked_bytes))
    }),
    ("used, system", "GiB", |_, c| {
        median(c, |row| gib(row.peaks.system_used_bytes))
    }),
    ("file-backed, system", "GiB", |_, c| {
        median(c, |row| gib(row.peaks.system_file_bytes))
    }),
    ("model file cached", "GiB", |_, c| {
        median(c, |row| gib(row.peaks.cached_bytes))
    }),
    ("process (RSS)", "GiB", |_, c| {
        median(c, |row| gib(row.peaks.rss_bytes))
    }),
];

/// What the system did for it.
pub const SYSTEM: &[Column] = &[
    ("anonymous", "GiB", |_, c| {
        median(c, |row| gib(row.peaks.anon_bytes))
    }),
    ("locked", "GiB", |_, c| {
        median(c, |row| gib(row.peaks.locked_bytes))
    }),
    ("anonymous, system", "GiB", |_, c| {
        median(c, |row| gib(row.peaks.system_anon_bytes))
    }),
    ("swap used", "GiB", |_, c| {
        median(c, |row| gib(row.peaks.swap_used_bytes))
    }),
    ("compressor", "GiB", |_, c| {
        median(c, |row| gib(row.peaks.compressor_bytes))
    }),
    ("minor faults", "", |_, c| {
        whole(c, |row| row.system.n_minor_faults)
    }),
    ("major faults", "", |_, c| {
        whole(c, |row| row.system.n_major_faults)
    }),
    ("read by process", "GiB", |_, c| {
        median(c, |row| gib(row.system.storage_read_bytes))
    }),
    ("page-ins, system", "GiB", |_, c| {
        median(c, |row| gib(row.system.page_in_bytes))
    }),
    ("swapped out", "GiB", |_, c| {
        median(c, |row| gib(row.system.swap_out_bytes))
    }),
];

/// Tokens of the prompt a second.
pub fn prefill(row: &Row) -> Option<f64> {
    speed(row.figures().prefill_millitokens_per_s)
}

/// Decoded tokens a second.
pub fn decode(row: &Row) -> Option<f64> {
    speed(row.figures().decode_millitokens_per_s)
}

/// Thousandths as ones; a speed of 0 is none.
fn speed(thousandths: u64) -> Option<f64> {
    (thousandths > 0).then_some(thousandths as f64 / 1e3)
}

/// The part of the choices that were there, 0 to 1; `None` without choices.
pub fn hit_share(supply: &Supply) -> Option<f64> {
    (supply.touches > 0).then_some(supply.hits as f64 / supply.touches as f64)
}

fn token_ms(row: &Row, ns: u64) -> Option<f64> {
    (!row.times.token_ns.is_empty()).then_some(ns as f64 / 1e6)
}

fn gib(bytes: Option<u64>) -> Option<f64> {
    bytes.map(|bytes| bytes as f64 / (1u64 << 30) as f64)
}

/// A number with about three digits, thousands apart.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let digits = match size {
        0.0 => 0,
        _ if size < 0.1 => 4,
        _ if size < 1.0 => 3,
        _ if size < 10.0 => 2,
        _ if size < 100.0 => 1,
        _ => 0,
    };
    grouped(&format!("{value:.digits$}"))
}

/// A decimal number with commas between its thousands.
fn grouped(text: &str) -> String {
    let whole = text.find('.').unwrap_or(text.len());
    let first = usize::from(text.starts_with('-'));
    let mut out = String::new();
    for (i, c) in text.char_indices() {
        if i > first && i < whole && (whole - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

impl Field {
    /// A field that says just this.
    pub fn plain(text: impl Into<String>) -> Field {
        let (text, small) = (text.into(), None);
        Field { text, small }
    }

    fn number(value: Option<f64>) -> Field {
        Field::plain(value.map_or(UNKNOWN.into(), number))
    }

    /// The median; with, smaller, the least and the most.
    pub fn spread(spread: Option<Spread>) -> Field {
        let range = spread.filter(|s| s.least < s.most);
        Field {
            small: range.map(|s| format!("{}–{}", number(s.least), number(s.most))),
            ..Field::number(spread.map(|s| s.median))
        }
    }
}

impl Head {
    /// The head of a column of texts.
    pub fn text(name: impl Into<String>) -> Head {
        let (name, unit, is_text) = (name.into(), "", true);
        Head {
            name,
            unit,
            is_text,
        }
    }

    /// The head of a column of numbers.
    pub fn number(name: impl Into<String>, unit: &'static str) -> Head {
        let (name, is_text) = (name.into(), false);
        Head {
            name,
            unit,
            is_text,
        }
    }
}

fn median(cell: &Cell<'_>, figure: fn(&Row) -> Option<f64>) -> Field {
    Field::number(cell.spread(figure).map(|s| s.median))
}

fn whole(cell: &Cell<'_>, figure: fn(&Row) -> Option<u64>) -> Field {
    let spread = cell.spread(|row| figure(row).map(|n| n as f64));
    Field::plain(spread.map_or(UNKNOWN.into(), |s| grouped(&format!("{:.0}", s.median))))
}

fn with_range(cell: &Cell<'_>, figure: fn(&Row) -> Option<f64>) -> Field {
    Field::spread(cell.spread(figure))
}

/// Of the medians, to the reference of the same budget and cap.
fn difference(group: &Group<'_>, cell: &Cell<'_>, figure: fn(&Row) -> Option<f64>) -> Field {
    if is_reference(cell.setup()) {
        return Field::plain("ref");
    }
    let median = |cell: &Cell<'_>| cell.spread(figure).map(|s| s.median);
    let pair = median(cell).zip(group.reference(cell).and_then(median));
    Field::plain(pair.map_or(UNKNOWN.into(), |(own, reference)| {
        format!("{:+.0}", (own / reference - 1.0) * 100.0)
    }))
}

/// One line a cell under a cap, with these columns.
pub fn of_cap(group: &Group<'_>, cap: Option<u64>, title: &str, columns: &[&[Column]]) -> Table {
    let columns: Vec<Column> = columns.iter().copied().flatten().copied().collect();
    let numbers = columns
        .iter()
        .map(|(name, unit, _)| Head::number(*name, unit));
    let mut heads = vec![Head::text("strategy"), Head::text("budget")];
    heads.extend(numbers);
    heads.push(Head::number("runs", ""));
    let line = |cell: &Cell<'_>| {
        let mut line = names(cell);
        line.extend(columns.iter().map(|(_, _, of)| of(group, cell)));
        line.push(Field::plain(cell.runs.len().to_string()));
        line
    };
    Table {
        title: format!("{title}, {}", cap_name(cap)),
        heads,
        lines: group.under(cap).map(line).collect(),
    }
}

fn names(cell: &Cell<'_>) -> Vec<Field> {
    let setup = cell.setup();
    vec![
        Field::plain(&setup.strategy),
        Field {
            text: setup.budget.clone(),
            small: Some(Bytes(setup.budget_bytes).to_string()),
        },
    ]
}

/// What was said beforehand against what was taken, for the run of each cell that took most.
pub fn ledger(group: &Group<'_>) -> Table {
    let mut uses: Vec<&str> = Vec::new();
    for told in group
        .cells
        .iter()
        .flat_map(|c| &c.runs)
        .flat_map(|row| &row.ledger)
    {
        if !uses.contains(&told.name.as_str()) {
            uses.push(&told.name);
        }
    }
    let mut heads = vec![
        Head::text("strategy"),
        Head::text("budget"),
        Head::text("cap"),
    ];
    heads.push(Head::text("kept"));
    heads.push(Head::number("said", "MiB"));
    heads.push(Head::number("peak of process", "MiB"));
    heads.push(Head::number("above", "MiB"));
    heads.extend(uses.iter().map(|name| Head::number(*name, "MiB")));
    let mib = |bytes: u64| bytes as f64 / (1u64 << 20) as f64;
    let line = |cell: &Cell<'_>| {
        let above = |row: &&&Row| {
            let said = i128::from(row.figures().said_bytes);
            row.peaks.rss_bytes.map(|peak| i128::from(peak) - said)
        };
        let worst = cell
            .runs
            .iter()
            .max_by_key(above)
            .copied()
            .unwrap_or(cell.runs[0]);
        let mut line = names(cell);
        line.push(Field::plain(cap_name(cell.setup().cap_bytes)));
        let (said, peak) = (worst.figures().said_bytes, worst.peaks.rss_bytes);
        line.push(Field::plain(match peak {
            None => UNKNOWN,
            Some(peak) if peak <= said.saturating_add(KEPT_WITHIN_BYTES) => "yes",
            Some(_) => "no",
        }));
        line.push(Field::number(Some(mib(said))));
        line.push(Field::number(peak.map(mib)));
        line.push(Field::number(peak.map(|peak| mib(peak) - mib(said))));
        line.extend(uses.iter().map(|name| {
            let told = worst.ledger.iter().find(|told| told.name == *name);
            Field::number(told.map(|told| mib(told.bytes)))
        }));
        line
    };
    Table {
        title: "what was said beforehand, and whether it was kept".into(),
        heads,
        lines: group.cells.iter().map(line).collect(),
    }
}

/// What was not run.
pub fn skipped(skipped: &[Skipped]) -> Table {
    let heads = ["model", "strategy", "budget", "cap", "reason"];
    let line = |one: &Skipped| {
        let texts = one.cell.iter().chain([&one.reason]);
        texts.map(Field::plain).collect()
    };
    Table {
        title: "what was not run, and why".into(),
        heads: heads.into_iter().map(Head::text).collect(),
        lines: skipped.iter().map(line).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_groups() {
        for (value, expected) in [
            (0.0, "0"),
            (0.0213, "0.0213"),
            (0.5, "0.500"),
            (3.456, "3.46"),
            (-40.41, "-40.4"),
            (999.6, "1,000"),
            (164_343.0, "164,343"),
            (-1_234_567.0, "-1,234,567"),
        ] {
            assert_eq!(number(value), expected);
        }
    }
}
