//! How likely a chosen token was, and which others were likely.

use super::ask::TokenLogprob;
use crate::engine::Chosen;
use crate::engine::tokenizer::Tokenizer;
use crate::units::TokenId;

/// The log-probability of a token among all, at temperature 1, and the `n` likeliest tokens at its place.
pub fn of(chosen: Chosen<'_>, n: usize, tokenizer: &Tokenizer) -> TokenLogprob {
    let logits = chosen.logits;
    let log_sum = log_sum_exp(logits);
    let logprob = |id: usize| f64::from(logits[id]) - log_sum;
    let top = likeliest(logits, n).into_iter().map(|id| {
        let bytes = tokenizer.token_bytes(TokenId(id as u32));
        (bytes.to_vec(), logprob(id))
    });
    TokenLogprob {
        bytes: chosen.bytes.to_vec(),
        logprob: logprob(chosen.token.0 as usize),
        top: top.collect(),
    }
}

/// A token in front of which nothing is, so that it has no probability.
pub fn unknown(bytes: &[u8]) -> TokenLogprob {
    TokenLogprob {
        bytes: bytes.to_vec(),
        logprob: f64::NAN,
        top: Vec::new(),
    }
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let largest = f64::from(largest);
    let sum: f64 = logits.iter().map(|l| (f64::from(*l) - largest).exp()).sum();
    largest + sum.ln()
}

/// The places of the `n` largest, the largest first and of equal ones the lowest place first.
fn likeliest(logits: &[f32], n: usize) -> Vec<usize> {
    let mut best: Vec<usize> = Vec::with_capacity(n + 1);
    for (id, logit) in logits.iter().enumerate() {
        if best.len() == n && best.last().is_none_or(|last| *logit <= logits[*last]) {
            continue;
        }
        let at = best.partition_point(|other| logits[*other] >= *logit);
        best.insert(at, id);
        best.truncate(n);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_the_likeliest_are_in_order() {
        let logits = [1.0f32, 3.0, -f32::INFINITY, 3.0, 0.5, 2.0];
        let log_sum = log_sum_exp(&logits);
        let sum: f64 = logits.iter().map(|l| (f64::from(*l) - log_sum).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
        assert_eq!(likeliest(&logits, 3), [1, 3, 5]);
        assert!(likeliest(&logits, 0).is_empty());
        assert_eq!(likeliest(&logits, 9).len(), 6);
        // Two equal ones of two: ln(1/2).
        assert!((log_sum_exp(&[700.0, 700.0]) - (700.0 + 2f64.ln())).abs() < 1e-9);
    }
}
