//! Runs of one setup make a cell; cells of one model, state and length of work make a group, in which they can be
//! compared.

use super::read::Run;
use super::row::{Model, Row, Setup};
use crate::units::Bytes;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The order of the strategies this program has; others follow by name.
const STRATEGIES: [&str; 4] = ["full", "baseline", "residency-lru", "nommap"];

/// What Δ is held against.
const REFERENCE: &str = "baseline";

/// Cells that differ in strategy, budget and cap only.
pub struct Group<'a> {
    /// At least one, in the order of tables: no cap first, then from large caps to small; small budgets first; then
    /// the strategies.
    pub cells: Vec<Cell<'a>>,
}

/// Runs that differ in their number only.
pub struct Cell<'a> {
    /// At least one.
    pub runs: Vec<&'a Row>,
}

/// What several runs told of one figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The one in the middle, or the mean of the two there.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

/// Sorts runs into groups, by name of the model, state and length of work.
pub fn groups(runs: &[Run]) -> Vec<Group<'_>> {
    let mut of_work: BTreeMap<_, Vec<&Row>> = BTreeMap::new();
    for Run { row, .. } in runs {
        let model = (&row.model.name, &row.model.quant, &row.model.hash);
        let work = (model, &row.setup.state, row.n_prompt, row.n_gen);
        of_work.entry(work).or_default().push(row);
    }
    let rows = of_work.into_values();
    rows.map(|rows| Group { cells: cells(rows) }).collect()
}

fn cells(rows: Vec<&Row>) -> Vec<Cell<'_>> {
    // A budget is as large as it is for the strategy that takes least for it: `full` takes all for any.
    let mut sizes = BTreeMap::new();
    for Setup {
        budget,
        budget_bytes,
        ..
    } in rows.iter().map(|row| &row.setup)
    {
        let size = sizes.entry(budget).or_insert(*budget_bytes);
        *size = (*size).min(*budget_bytes);
    }
    let mut of_setup: BTreeMap<_, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        let setup = &row.setup;
        let strategy = (strategy_rank(&setup.strategy), &setup.strategy);
        let budget = (sizes[&setup.budget], &setup.budget);
        let cap = (Reverse(setup.cap_bytes.unwrap_or(u64::MAX)), &setup.cap_by);
        let key = (cap, budget, strategy, setup.budget_bytes);
        of_setup.entry(key).or_default().push(row);
    }
    let mut cells: Vec<Cell<'_>> = of_setup.into_values().map(|runs| Cell { runs }).collect();
    for cell in &mut cells {
        cell.runs.sort_by_key(|row| row.setup.run);
    }
    cells
}

/// Where a strategy stands among those this program has; one past the end for others.
pub fn strategy_rank(strategy: &str) -> usize {
    let found = STRATEGIES.iter().position(|s| *s == strategy);
    found.unwrap_or(STRATEGIES.len())
}

impl<'a> Group<'a> {
    /// A row, for what all rows of the group share.
    pub fn row(&self) -> &'a Row {
        self.cells[0].runs[0]
    }

    /// What ran.
    pub fn model(&self) -> &'a Model {
        &self.row().model
    }

    /// The group's heading.
    pub fn title(&self) -> String {
        let row = self.row();
        let Model { name, quant, .. } = &row.model;
        let state = &row.setup.state;
        format!(
            "{name}, {quant}, {state}, {} + {} tokens",
            row.n_prompt, row.n_gen
        )
    }

    /// All caps, the largest first; none counts as the largest.
    pub fn caps(&self) -> Vec<Option<u64>> {
        let mut caps: Vec<_> = self.cells.iter().map(|c| c.setup().cap_bytes).collect();
        caps.dedup();
        caps
    }

    /// The budgets of the cells that `of` picks, the smallest first.
    pub fn budgets(&self, of: impl Fn(&Cell<'_>) -> bool) -> Vec<&'a str> {
        unique(
            self.cells
                .iter()
                .filter(|c| of(c))
                .map(|c| &c.setup().budget),
        )
    }

    /// All strategies, in their order.
    pub fn strategies(&self) -> Vec<&'a str> {
        let mut all = unique(self.cells.iter().map(|c| &c.setup().strategy));
        all.sort_by_key(|strategy| (strategy_rank(strategy), *strategy));
        all
    }

    /// The cells of a cap.
    pub fn under(&self, cap: Option<u64>) -> impl Iterator<Item = &Cell<'a>> {
        let cells = self.cells.iter();
        cells.filter(move |cell| cell.setup().cap_bytes == cap)
    }

    /// The cell that a cell's speed is held against; `None` if that is itself or was not run.
    pub fn reference(&self, cell: &Cell<'_>) -> Option<&Cell<'a>> {
        let setup = cell.setup();
        let of_budget = |other: &&Cell<'_>| {
            let other = other.setup();
            other.strategy == REFERENCE
                && (&other.budget, other.cap_bytes, &other.cap_by)
                    == (&setup.budget, setup.cap_bytes, &setup.cap_by)
        };
        let found = self.cells.iter().find(of_budget);
        found.filter(|_| !is_reference(setup))
    }

    /// One cell a strategy under the largest cap, or under none: that of the budget in the middle, or of the middle of
    /// those the strategy ran with.
    pub fn shown(&self) -> Vec<&Cell<'a>> {
        let cap = self.caps()[0];
        let budgets = self.budgets(|cell| cell.setup().cap_bytes == cap);
        let middle = budgets[(budgets.len() - 1) / 2];
        let of_strategy = |strategy: &str| {
            let cells = self.under(cap).filter(|c| c.setup().strategy == strategy);
            let cells: Vec<&Cell<'a>> = cells.collect();
            let found = cells.iter().find(|cell| cell.setup().budget == middle);
            found
                .or(cells.get(cells.len().saturating_sub(1) / 2))
                .copied()
        };
        self.strategies()
            .into_iter()
            .filter_map(of_strategy)
            .collect()
    }
}

/// Whether others are held against it.
pub fn is_reference(setup: &Setup) -> bool {
    setup.strategy == REFERENCE
}

/// Each text once, in the order of their first.
fn unique<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let mut all: Vec<&str> = Vec::new();
    for text in texts {
        if !all.contains(&text.as_str()) {
            all.push(text);
        }
    }
    all
}

impl<'a> Cell<'a> {
    /// What its runs share.
    pub fn setup(&self) -> &'a Setup {
        &self.runs[0].setup
    }

    /// The run with the median speed of decoding; of two in the middle the slower one.
    pub fn median_run(&self) -> &'a Row {
        let mut runs = self.runs.clone();
        runs.sort_by_key(|row| row.figures().decode_millitokens_per_s);
        runs[(runs.len() - 1) / 2]
    }

    /// What the runs told of a figure; `None` if none did.
    pub fn spread(&self, figure: impl Fn(&Row) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.runs.iter().filter_map(|row| figure(row)).collect())
    }
}

impl Spread {
    /// Of these values; `None` of none.
    pub fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        let median = (low + high) / 2.0;
        Some(Spread {
            median,
            least,
            most,
        })
    }
}

/// The text of a cap.
pub fn cap_name(cap_bytes: Option<u64>) -> String {
    cap_bytes.map_or("no cap".into(), |bytes| {
        Bytes(bytes).to_string().replace(".00 ", " ")
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_is_the_mean_of_two() {
        let spread = Spread::of(vec![4.0, 1.0, 9.0, 2.0]).unwrap();
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 3.0, 9.0));
        assert_eq!(Spread::of(vec![]), None);
    }

    #[test]
    fn caps_are_told_shortly() {
        assert_eq!(cap_name(None), "no cap");
        assert_eq!(cap_name(Some(6 << 30)), "6 GiB");
        assert_eq!(cap_name(Some(3 << 29)), "1.50 GiB");
        assert_eq!(cap_name(Some(1 << 20)), "1 MiB");
    }
}
