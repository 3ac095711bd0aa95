//! How far a model's probabilities are from those of another, of which a file of logits is there.
//!
//! ```text
//! KLD = sum over the vocabulary of p_base (log p_base - log p), of one row      Δp = p - p_base of the token that follows
//! ```

use super::score::{Mean, Softmax, Sums, perplexity};
use crate::error::Result;
use std::fmt::Write;

/// Tokens less likely than e to this are left out of the sum: in the file they are not told apart.
const LEAST_LOG_P: f32 = -16.0;

/// Fewer rows than this have no distribution worth showing.
const FEW_ROWS: u64 = 100;

/// The parts of a hundred that are shown of KLD and of Δp; 50 is the median.
const KLD_PERCENTILES: [f64; 9] = [99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0, 0.1];
const DELTA_PERCENTILES: [f64; 11] = [
    99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1,
];

/// What was found in the rows so far.
#[derive(Clone, Debug, Default)]
pub struct Divergence {
    nll: Sums,
    nll_base: Sums,
    nll_products: Sums,
    kld: Sums,
    delta: Sums,
    delta_squares: Sums,
    n_same_top: u64,
    klds: Vec<f32>,
    deltas: Vec<f32>,
}

impl Divergence {
    /// One more row: logits of the model, logarithms of the other's probabilities, and the token that follows.
    ///
    /// Errors: logits that are no numbers.
    pub fn add(&mut self, logits: &[f32], base: &[f32], next: usize) -> Result<()> {
        let softmax = Softmax::new(logits)?;
        let (nll, nll_base) = (-softmax.log_p(logits[next]), -f64::from(base[next]));
        self.nll.add(nll);
        self.nll_base.add(nll_base);
        self.nll_products.add(nll * nll_base);

        let log_total = f64::from(softmax.max) + softmax.log_sum;
        let log_total = log_total as f32;
        let mut top = (0, f32::NEG_INFINITY);
        let mut kld = 0.0;
        for (i, (log_base, logit)) in base.iter().zip(logits).enumerate() {
            if *log_base > top.1 {
                top = (i, *log_base);
            }
            if *log_base > LEAST_LOG_P {
                kld += f64::from(log_base.exp() * (log_base - logit + log_total));
            }
        }
        self.kld.add(kld);
        self.klds.push(kld as f32);
        self.n_same_top += u64::from(top.0 == softmax.top);

        let delta = (-nll).exp() - (-nll_base).exp();
        self.delta.add(delta);
        self.delta_squares.add(delta * delta);
        self.deltas.push(delta as f32);
        Ok(())
    }

    /// Rows so far.
    pub fn n_rows(&self) -> u64 {
        self.kld.n
    }

    /// What the columns of [`Divergence::line`] are.
    pub const HEADER: &str = "\
window                 PPL        ln(PPL(Q)/PPL(base))               KL divergence             RMS Δp          same top\n";

    /// The figures so far on one line; `window` counts from 1.
    pub fn line(&self, window: usize) -> String {
        let (ppl, ratio, kld) = (perplexity(&self.nll), self.log_ratio(), self.kld.mean());
        let (rms, top) = (percent(self.rms_delta()), percent(self.same_top()));
        format!(
            "{window:>6}  {:>9.4} ± {:>7.4}  {:>10.5} ± {:>8.5}  {:>10.5} ± {:>8.5}  {:>7.3} ± {:>5.3} %  {:>7.3} ± {:>5.3} %\n",
            ppl.value,
            ppl.error,
            ratio.value,
            ratio.error,
            kld.value,
            kld.error,
            rms.value,
            rms.error,
            top.value,
            top.error
        )
    }

    /// Covariance of the two means of negative logarithms.
    fn covariance(&self) -> f64 {
        if self.n_rows() < 10 {
            return 0.0;
        }
        let mean = |sums: &Sums| sums.mean().value;
        let products = mean(&self.nll_products) - mean(&self.nll) * mean(&self.nll_base);
        products / (self.n_rows() - 1) as f64
    }

    /// Logarithm of the ratio of both perplexities; they were measured on one text, so their errors are no strangers.
    fn log_ratio(&self) -> Mean {
        let (model, base) = (self.nll.mean(), self.nll_base.mean());
        Mean {
            value: model.value - base.value,
            error: error_of_difference(model.error, base.error, self.covariance()),
        }
    }

    fn rms_delta(&self) -> Mean {
        let squares = self.delta_squares.mean();
        let value = squares.value.sqrt();
        let error = if value > 0.0 {
            0.5 / value * squares.error
        } else {
            0.0
        };
        Mean { value, error }
    }

    fn same_top(&self) -> Mean {
        let n = self.n_rows() as f64;
        let value = self.n_same_top as f64 / n.max(1.0);
        let error = (value * (1.0 - value) / (n - 1.0).max(1.0)).sqrt();
        Mean { value, error }
    }

    /// All figures, each with its name, as llama.cpp calls them.
    pub fn report(mut self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        let mut mean = |name: &str, Mean { value, error }: Mean| {
            let _ = writeln!(out, "{name:<30}: {value:>10.6} ± {error:>10.6}");
        };
        let (ppl, base) = (perplexity(&self.nll), perplexity(&self.nll_base));
        let (ratio, covariance) = (self.log_ratio(), self.covariance());
        mean("Mean PPL(Q)", ppl);
        mean("Mean PPL(base)", base);
        mean("Mean ln(PPL(Q)/PPL(base))", ratio);
        let value = ratio.value.exp();
        let error = value * ratio.error;
        mean("Mean PPL(Q)/PPL(base)", Mean { value, error });
        let value = ppl.value - base.value;
        let error = error_of_difference(ppl.error, base.error, ppl.value * base.value * covariance);
        mean("Mean PPL(Q)-PPL(base)", Mean { value, error });
        let errors = self.nll.mean().error * self.nll_base.mean().error;
        let correlation = if errors > 0.0 {
            100.0 * covariance / errors
        } else {
            0.0
        };
        let name = "Cor(ln(PPL(Q)), ln(PPL(base)))";
        let _ = writeln!(out, "{name:<30}: {correlation:>10.2} %\n");

        let few = self.n_rows() < FEW_ROWS;
        let Mean { value, error } = self.kld.mean();
        let _ = writeln!(out, "Mean    KLD: {value:>10.6} ± {error:>10.6}");
        if !few {
            self.klds.sort_unstable_by(f32::total_cmp);
            for (name, value) in spread(&self.klds, &KLD_PERCENTILES) {
                let _ = writeln!(out, "{name} KLD: {value:>10.6}");
            }
        }
        let delta = percent(self.delta.mean());
        let _ = writeln!(
            out,
            "\nMean    Δp: {:>7.3} ± {:>5.3} %",
            delta.value, delta.error
        );
        if !few {
            self.deltas.sort_unstable_by(f32::total_cmp);
            for (name, value) in spread(&self.deltas, &DELTA_PERCENTILES) {
                let _ = writeln!(out, "{name} Δp: {:>7.3} %", 100.0 * value);
            }
        }
        for (name, mean) in [
            ("RMS Δp    ", percent(self.rms_delta())),
            ("Same top p", percent(self.same_top())),
        ] {
            let _ = writeln!(out, "{name}: {:>7.3} ± {:>5.3} %", mean.value, mean.error);
        }
        out
    }
}

fn error_of_difference(a: f64, b: f64, covariance: f64) -> f64 {
    (a * a + b * b - 2.0 * covariance).max(0.0).sqrt()
}

fn percent(mean: Mean) -> Mean {
    Mean {
        value: 100.0 * mean.value,
        error: 100.0 * mean.error,
    }
}

/// The largest value, some between, and the smallest, of sorted ones.
fn spread(sorted: &[f32], percentiles: &[f64]) -> Vec<(String, f64)> {
    let at = |part: f64| {
        let place = part * (sorted.len() - 1) as f64;
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        let (low, high, part) = (sorted[low], sorted[high], place.fract());
        f64::from(low) * (1.0 - part) + f64::from(high) * part
    };
    let between = percentiles.iter().map(|p| {
        let name = match p {
            50.0 => "Median ".into(),
            p => format!("{p:>4.1}%  "),
        };
        (name, at(p / 100.0))
    });
    let largest = [("Maximum".into(), at(1.0))];
    largest
        .into_iter()
        .chain(between)
        .chain([("Minimum".into(), at(0.0))])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logarithms of probabilities that sum to 1.
    fn log_p(p: &[f64]) -> Vec<f32> {
        p.iter().map(|p| p.ln() as f32).collect()
    }

    /// Two coins by hand: base 1/2 1/2, model 1/4 3/4.
    #[test]
    fn the_divergence_of_two_coins() {
        let mut found = Divergence::default();
        let (base, model) = (log_p(&[0.5, 0.5]), log_p(&[0.25, 0.75]));
        for _ in 0..200 {
            found.add(&model, &base, 0).unwrap();
        }
        let kld = 0.5 * (0.5_f64 / 0.25).ln() + 0.5 * (0.5_f64 / 0.75).ln();
        assert!((found.kld.mean().value - kld).abs() < 1e-6);
        assert!((found.delta.mean().value - -0.25).abs() < 1e-6);
        assert!((found.rms_delta().value - 0.25).abs() < 1e-6);
        assert!((found.log_ratio().value - 2_f64.ln()).abs() < 1e-6);
        assert_eq!(found.n_same_top, 0, "the first of equals is the base's top");
        let report = found.report();
        for line in [
            "Mean PPL(Q)                   :   4.000000 ±",
            "Mean PPL(base)                :   2.000000 ±",
            "Mean    KLD:   0.143841 ±",
            "Median  KLD:   0.143841",
            "Maximum Δp: -25.000 %",
            "99.9%   Δp: -25.000 %",
            "RMS Δp    :  25.000 ±",
            "Same top p:   0.000 ±",
        ] {
            assert!(report.contains(line), "{line} in\n{report}");
        }
    }

    #[test]
    fn the_same_model_does_not_diverge() {
        let mut found = Divergence::default();
        let p = log_p(&[0.1, 0.2, 0.7]);
        for next in [0, 1, 2, 2] {
            found.add(&p, &p, next).unwrap();
        }
        assert!(found.kld.mean().value.abs() < 1e-6);
        assert_eq!(found.same_top().value, 1.0);
        assert!(found.rms_delta().value < 1e-6);
        let report = found.report();
        assert!(!report.contains("Median"), "four rows have no spread");
    }

    #[test]
    fn percentiles_lie_between_the_values() {
        let sorted: Vec<f32> = (0..=10).map(|i| i as f32).collect();
        let found = spread(&sorted, &[95.0, 50.0]);
        let values: Vec<f64> = found.iter().map(|(_, v)| *v).collect();
        assert_eq!(values, [10.0, 9.5, 5.0, 0.0]);
        assert_eq!(found[1].0, "95.0%  ");
        assert_eq!(spread(&[2.0], &[50.0])[1].1, 2.0);
    }
}
