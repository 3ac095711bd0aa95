//! The probability of one token, and means of many with their errors.

use crate::error::{Error, Result};

/// Fewer values than this have no error that means anything.
const FEW: u64 = 10;

/// What turns logits into logarithms of probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Softmax {
    /// The largest logit.
    pub max: f32,
    /// Where it is, the first of equals.
    pub top: usize,
    /// Logarithm of the sum of all `exp(logit - max)`.
    pub log_sum: f64,
}

impl Softmax {
    /// Of `[n_vocab]`.
    ///
    /// Errors: `Format` when they are no numbers.
    pub fn new(logits: &[f32]) -> Result<Softmax> {
        let mut best = (0, f32::NEG_INFINITY);
        for (i, logit) in logits.iter().enumerate() {
            if *logit > best.1 {
                best = (i, *logit);
            }
        }
        let (top, max) = best;
        let sum: f64 = logits.iter().map(|l| f64::from((l - max).exp())).sum();
        if !max.is_finite() || !sum.is_finite() {
            return Err(Error::format("logits that are no numbers"));
        }
        Ok(Softmax {
            max,
            top,
            log_sum: sum.ln(),
        })
    }

    /// The logarithm of the probability of a token with this logit.
    pub fn log_p(&self, logit: f32) -> f64 {
        f64::from(logit - self.max) - self.log_sum
    }
}

/// Sums of values and of their squares.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Values.
    pub n: u64,
    sum: f64,
    squares: f64,
}

/// A mean and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Its standard error, 0 of few values.
    pub error: f64,
}

impl Sums {
    /// One more value.
    pub fn add(&mut self, value: f64) {
        self.n += 1;
        self.sum += value;
        self.squares += value * value;
    }

    /// The mean of all of them; 0 of none.
    pub fn mean(&self) -> Mean {
        let n = self.n as f64;
        if self.n == 0 {
            return Mean {
                value: 0.0,
                error: 0.0,
            };
        }
        let value = self.sum / n;
        let variance = self.squares / n - value * value;
        let error = if self.n > FEW && variance > 0.0 {
            (variance / (n - 1.0)).sqrt()
        } else {
            0.0
        };
        Mean { value, error }
    }
}

/// Perplexity of tokens whose negative logarithms of probability are in `nll`: e to their mean.
pub fn perplexity(nll: &Sums) -> Mean {
    let mean = nll.mean();
    let value = mean.value.exp();
    Mean {
        value,
        error: value * mean.error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one() {
        let logits = [1.0, -2.0, 30.0, 30.0, 29.5];
        let softmax = Softmax::new(&logits).unwrap();
        assert_eq!((softmax.top, softmax.max), (2, 30.0));
        let sum: f64 = logits.iter().map(|l| softmax.log_p(*l).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(Softmax::new(&[0.0, bad]).is_err());
        }
        assert!(Softmax::new(&[f32::NEG_INFINITY; 3]).is_err());
        assert!(Softmax::new(&[f32::NEG_INFINITY, 0.0]).is_ok());
    }

    /// By hand: 1 to 11 have mean 6, variance 10, and a mean's error of sqrt(10 / 10).
    #[test]
    fn means_have_errors() {
        let mut sums = Sums::default();
        (1..=10).for_each(|i| sums.add(f64::from(i)));
        assert_eq!(sums.mean().error, 0.0, "few");
        sums.add(11.0);
        let mean = sums.mean();
        assert_eq!((mean.value, sums.n), (6.0, 11));
        assert!((mean.error - 1.0).abs() < 1e-12, "{mean:?}");
        assert_eq!(Sums::default().mean().value, 0.0);
    }
}
