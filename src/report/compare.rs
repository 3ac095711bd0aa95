//! Two folders held against each other: cell by cell, where both have it.

use super::cells::{Cell, Spread, cap_name, groups};
use super::read::Folder;
use super::row::Row;
use super::tables::{Field, Head, Table, UNKNOWN, decode, number, prefill};
use super::text;
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// How the second of two spreads stands to the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Each of its runs was faster than each of the first.
    Faster,
    /// Each was slower.
    Slower,
    /// The runs of both lie among each other.
    NoDifference,
    /// One run says nothing about what runs differ by.
    TooFewRuns,
}

impl Verdict {
    /// Of speeds; one of fewer than two runs allows none.
    pub fn of(first: Spread, second: Spread, fewest_runs: usize) -> Verdict {
        if fewest_runs < 2 {
            Verdict::TooFewRuns
        } else if second.least > first.most {
            Verdict::Faster
        } else if second.most < first.least {
            Verdict::Slower
        } else {
            Verdict::NoDifference
        }
    }

    fn name(self) -> &'static str {
        match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::NoDifference => "no difference seen",
            Verdict::TooFewRuns => "too few runs",
        }
    }
}

/// How the second divided by the first stands: of the medians, and from the least to the most of any pair of runs.
pub fn ratio(first: Spread, second: Spread) -> Spread {
    Spread {
        median: second.median / first.median,
        least: second.least / first.most,
        most: second.most / first.least,
    }
}

/// What makes two cells the same: model, state, work, strategy, budget, cap.
type Key<'a> = (
    &'a str,
    &'a str,
    (u64, u64),
    &'a str,
    (&'a str, u64),
    (Option<u64>, &'a str),
);

fn key<'a>(cell: &Cell<'a>) -> Key<'a> {
    let (row, setup) = (cell.runs[0], cell.setup());
    (
        &row.model.hash,
        &setup.state,
        (row.n_prompt, row.n_gen),
        &setup.strategy,
        (&setup.budget, setup.budget_bytes),
        (setup.cap_bytes, &setup.cap_by),
    )
}

/// The comparison of two folders, as text.
///
/// Errors: `Format`, when a model gave different tokens in both, or no cell stands in both.
pub fn compare(first: &Folder, second: &Folder) -> Result<String> {
    let mut hashes = BTreeMap::new();
    for run in first.runs.iter().chain(&second.runs) {
        let row = &run.row;
        let work = (&row.model.hash, row.n_prompt, row.n_gen);
        let before = *hashes.entry(work).or_insert(run);
        super::read::same(
            "token_hash",
            (before, &before.row.token_hash),
            (run, &row.token_hash),
        )?;
    }
    let (groups_1, groups_2) = (groups(&first.runs), groups(&second.runs));
    let cells_2 = groups_2.iter().flat_map(|group| &group.cells);
    let mut cells_2: BTreeMap<Key<'_>, &Cell<'_>> = cells_2.map(|cell| (key(cell), cell)).collect();
    let (mut lines, mut only_first) = (Vec::new(), 0);
    for cell in groups_1.iter().flat_map(|group| &group.cells) {
        match cells_2.remove(&key(cell)) {
            Some(other) => lines.push(line(cell, other)),
            None => only_first += 1,
        }
    }
    if lines.is_empty() {
        return Err(Error::format(
            "found no cell in both folders, expected the same model, state, lengths, strategy, budget and cap",
        ));
    }
    let texts = ["model", "state", "strategy", "budget", "cap"];
    let mut heads: Vec<Head> = texts.into_iter().map(Head::text).collect();
    heads.push(Head::number("runs", ""));
    for what in ["prefill", "decode"] {
        heads.push(Head::number(format!("A: {what}"), "tokens/s"));
        heads.push(Head::number(format!("B: {what}"), "tokens/s"));
        heads.push(Head::number("B / A", ""));
        heads.push(Head::text("B is"));
    }
    let table = text::table(&Table {
        title: "B against A: medians, from the least to the most of the runs".into(),
        heads,
        lines,
    });
    let mut out = format!("A: {}B: {}", text::setting(first), text::setting(second));
    out += &table;
    if only_first + cells_2.len() > 0 {
        out += &format!(
            "\nnot compared: {only_first} cells that only A has, {} that only B has\n",
            cells_2.len()
        );
    }
    Ok(out)
}

fn line(first: &Cell<'_>, second: &Cell<'_>) -> Vec<Field> {
    let (row, setup) = (first.runs[0], first.setup());
    let (n_first, n_second) = (first.runs.len(), second.runs.len());
    let mut line = vec![
        Field::plain(&row.model.name),
        Field::plain(&setup.state),
        Field::plain(&setup.strategy),
        Field::plain(&setup.budget),
        Field::plain(cap_name(setup.cap_bytes)),
        Field::plain(format!("{n_first}, {n_second}")),
    ];
    let figures: [fn(&Row) -> Option<f64>; 2] = [prefill, decode];
    for figure in figures {
        let (a, b) = (first.spread(figure), second.spread(figure));
        line.extend([Field::spread(a), Field::spread(b)]);
        let Some((a, b)) = a.zip(b) else {
            line.extend([Field::plain(UNKNOWN), Field::plain(UNKNOWN)]);
            continue;
        };
        let ratio = ratio(a, b);
        line.push(Field {
            text: number(ratio.median),
            small: (ratio.least < ratio.most)
                .then(|| format!("{}–{}", number(ratio.least), number(ratio.most))),
        });
        let verdict = Verdict::of(a, b, n_first.min(n_second));
        line.push(Field::plain(verdict.name()));
    }
    line
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_runs_that_lie_apart_differ() {
        let spread = |values: &[f64]| Spread::of(values.to_vec()).unwrap();
        let a = spread(&[10.0, 11.0, 12.0]);
        for (b, expected) in [
            (&[12.1, 13.0][..], Verdict::Faster),
            (&[12.0, 13.0], Verdict::NoDifference),
            (&[8.0, 9.9], Verdict::Slower),
            (&[8.0, 10.0], Verdict::NoDifference),
            (&[9.0, 20.0], Verdict::NoDifference),
        ] {
            assert_eq!(Verdict::of(a, spread(b), 2), expected, "{b:?}");
            assert_eq!(Verdict::of(a, spread(b), 1), Verdict::TooFewRuns);
        }
    }

    #[test]
    fn a_ratio_spans_all_pairs_of_runs() {
        let spread = |values: &[f64]| Spread::of(values.to_vec()).unwrap();
        let found = ratio(spread(&[10.0, 16.0, 20.0]), spread(&[5.0, 8.0, 40.0]));
        assert_eq!((found.least, found.median, found.most), (0.25, 0.5, 4.0));
    }
}
