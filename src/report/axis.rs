//! Axes of pictures: where a number lies on them, and which round numbers are marked.

/// One direction of a plot.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What stands at its end.
    pub unit: String,
    /// Where it begins.
    pub from: f64,
    /// Where it ends; more than `from`.
    pub to: f64,
    /// What is marked on it.
    pub ticks: Vec<(f64, String)>,
    /// Whether equal ways are equal ratios; then `from` is more than 0.
    pub is_log: bool,
}

impl Axis {
    /// From 0 to the round number that holds `most`, with about `n` marks.
    pub fn from_zero(most: f64, n: usize, unit: &str) -> Axis {
        let most = if most > 0.0 && most.is_finite() {
            most
        } else {
            1.0
        };
        let step = step(most / n as f64);
        Axis::between(0.0, (most / step - 1e-9).ceil() * step, n, unit)
    }

    /// From one number to another, as they are, with at most `n` steps.
    pub fn between(from: f64, to: f64, n: usize, unit: &str) -> Axis {
        let (unit, is_log) = (unit.into(), false);
        let ticks = ticks(from, to, n);
        Axis {
            unit,
            from,
            to,
            ticks,
            is_log,
        }
    }

    /// From one number above 0 to another by equal ratios; marks at 1, 2 and 5 times powers of ten, or at round
    /// numbers if there are few of these.
    pub fn log(from: f64, to: f64, unit: &str) -> Axis {
        let powers = from.log10().floor() as i32..=to.log10().ceil() as i32;
        let all = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|n| n * 10f64.powi(power)));
        let inside = all.filter(|at| (from..=to).contains(at));
        let mut marks: Vec<(f64, String)> = inside.map(|at| (at, label(at, at))).collect();
        if marks.len() < 3 {
            marks = ticks(from, to, 4);
        }
        Axis {
            ticks: marks,
            is_log: true,
            ..Axis::between(from, to, 1, unit)
        }
    }

    /// Names beside each other, at 0, 1, 2, ...
    pub fn named(names: &[String]) -> Axis {
        let ticks = names.iter().enumerate();
        Axis {
            unit: String::new(),
            from: -0.2,
            to: names.len() as f64 - 0.8,
            ticks: ticks.map(|(i, name)| (i as f64, name.clone())).collect(),
            is_log: false,
        }
    }

    /// Where on the axis a number lies: 0 at its beginning, 1 at its end.
    pub fn place(&self, value: f64) -> f64 {
        let of = |v: f64| {
            if self.is_log {
                v.max(f64::MIN_POSITIVE).ln()
            } else {
                v
            }
        };
        let place = (of(value) - of(self.from)) / (of(self.to) - of(self.from));
        if place.is_finite() {
            place.clamp(0.0, 1.0)
        } else {
            0.0
        }
    }
}

/// The least of 1, 2 and 5 times a power of ten that is not less.
fn step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|n| n * power);
    // A hair above the step is the step: 0.30000000000000004 / 3 asks for 0.1.
    let fits = steps.into_iter().find(|step| *step >= least * (1.0 - 1e-9));
    fits.unwrap_or(10.0 * power)
}

/// Round numbers from one to another, both included if they are round, at most `n` steps apart.
pub fn ticks(from: f64, to: f64, n: usize) -> Vec<(f64, String)> {
    let span = to - from;
    if !(span > 0.0 && span.is_finite()) || n == 0 {
        return Vec::new();
    }
    let step = step(span / n as f64);
    let (first, last) = ((from / step - 1e-9).ceil(), (to / step + 1e-9).floor());
    let all = (0..=n).map(|i| first + i as f64).filter(|i| *i <= last);
    // Adding 0 makes a plain zero of a negative one.
    let at = all.map(|i| i * step + 0.0);
    at.map(|at| (at, label(at, step))).collect()
}

/// A number with the digits that tell it from the next one, a `step` away.
fn label(value: f64, step: f64) -> String {
    let digits = (-step.log10()).ceil().clamp(0.0, 12.0) as usize;
    let text = format!("{value:.digits$}");
    match text.len() {
        // Large numbers are what machines made up; nobody reads them to the last digit.
        15.. => format!("{value:.0e}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(ticks: &[(f64, String)]) -> Vec<&str> {
        ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round() {
        for (from, to, n, expected) in [
            (0.0, 10.0, 5, vec!["0", "2", "4", "6", "8", "10"]),
            (0.0, 0.3, 3, vec!["0.0", "0.1", "0.2", "0.3"]),
            (34.0, 91.0, 4, vec!["40", "60", "80"]),
            (0.0, 13.473, 4, vec!["0", "5", "10"]),
            (0.0, 1e18, 1, vec!["0e0", "1e18"]),
            (5.0, 5.0, 4, vec![]),
            (0.0, f64::INFINITY, 4, vec![]),
        ] {
            let found = ticks(from, to, n);
            let labels = labels(&found);
            assert_eq!(
                labels[labels.len().saturating_sub(1)..],
                expected[expected.len().saturating_sub(1)..]
            );
            if to < 1e15 {
                assert_eq!(labels, expected, "{from} to {to}");
            }
        }
    }

    #[test]
    fn an_axis_ends_at_a_round_number() {
        for (most, end) in [
            (7.1, 8.0),
            (8.0, 8.0),
            (0.0, 1.0),
            (f64::NAN, 1.0),
            (1234.0, 1500.0),
        ] {
            let axis = Axis::from_zero(most, 4, "GiB");
            assert_eq!(axis.to, end, "{most}");
            assert_eq!(axis.ticks.last().map(|t| t.0), Some(end));
        }
    }

    #[test]
    fn equal_ratios_are_equal_ways() {
        let axis = Axis::log(1.0, 100.0, "ms");
        assert_eq!(axis.place(10.0), 0.5);
        assert_eq!(axis.place(0.0), 0.0);
        assert_eq!(
            labels(&axis.ticks),
            ["1", "2", "5", "10", "20", "50", "100"]
        );
        assert_eq!(
            labels(&Axis::log(34.0, 91.0, "ms").ticks),
            ["40", "60", "80"]
        );
    }
}
