//! The choice of a token from its logits.
//!
//! ```text
//! temperature <= 0   the largest logit, the lowest id on ties
//! otherwise          p = exp((logit - largest) / temperature), so that the likeliest has 1
//!   plain            keep p >= min_p; draw in order of id
//!   top_k or top_p   sort by p; keep the top_k best; stop before the first p < min_p and behind the token with
//!                    which the sum reaches top_p of the whole (of the top_k best, if given); draw
//! ```
//!
//! Before, logits may be changed for what was said ([`adjust`]).
//!
//! Equal logits, options and state of the generator give the same token. A guide leaves some tokens only; the others are
//! as if they were not there.

pub mod adjust;
pub mod guide;
pub mod mask;
pub mod vocabulary;

use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::units::TokenId;
use adjust::{Adjust, Adjuster};
use guide::Guide;
use mask::Mask;

/// The most candidates that `top_k` can ask for.
const MAX_TOP_K: usize = 1024;

/// How to choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits; 0 or less takes the most likely token.
    pub temperature: f32,
    /// Keep this many of the likeliest tokens, at most 1024; 0 keeps all.
    pub top_k: usize,
    /// Keep the likeliest tokens up to this probability together; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this part of the likeliest.
    pub min_p: f32,
    /// Where the generator starts.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.05,
            seed: 0,
        }
    }
}

impl SamplerOptions {
    /// Errors: `Usage`, with the flag that is wrong.
    fn validate(&self) -> Result<()> {
        let wrong = |flag: &str, found: f32, expected: &str| {
            Err(Error::usage(format!(
                "{flag}: found {found}, expected {expected}"
            )))
        };
        if !self.temperature.is_finite() {
            return wrong("--temp", self.temperature, "a finite number");
        }
        for (flag, p) in [("--top-p", self.top_p), ("--min-p", self.min_p)] {
            if !(0.0..=1.0).contains(&p) {
                return wrong(flag, p, "a number from 0 to 1");
            }
        }
        Ok(())
    }
}

/// Chooses tokens.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    rng: Rng,
    /// Tokens that may be drawn; kept for its memory.
    candidates: Vec<Candidate>,
    guide: Option<Guide>,
    adjuster: Option<Box<Adjuster>>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    token: TokenId,
    /// Relative to the likeliest token.
    p: f32,
}

impl Candidate {
    /// The likelier first, then the lower id: a total order, so that sorting has one result.
    fn rank(&self, other: &Candidate) -> std::cmp::Ordering {
        other
            .p
            .total_cmp(&self.p)
            .then(self.token.cmp(&other.token))
    }
}

impl Sampler {
    /// A sampler at the start of its random numbers.
    ///
    /// Errors: `Usage` when an option is not a number or out of its range.
    pub fn new(options: SamplerOptions) -> Result<Sampler> {
        options.validate()?;
        Ok(Sampler {
            options,
            rng: Rng::new(options.seed),
            candidates: Vec::new(),
            guide: None,
            adjuster: None,
        })
    }

    /// From now on the guide says which tokens may be chosen, and is told each; `None` lets all be chosen again.
    pub fn set_guide(&mut self, guide: Option<Guide>) {
        self.guide = guide;
    }

    /// From now on logits are changed before a token is chosen from them; `prompt` is what was said before. What is
    /// neutral changes nothing.
    ///
    /// Errors: `Usage` and `Limit` for a number out of its range.
    pub fn set_adjust(&mut self, adjust: Adjust, prompt: &[TokenId]) -> Result<()> {
        adjust.validate()?;
        let adjuster = || Box::new(Adjuster::new(adjust.clone(), prompt));
        self.adjuster = (!adjust.is_neutral()).then(adjuster);
        Ok(())
    }

    /// The guide, as far as it has come.
    pub fn guide(&self) -> Option<&Guide> {
        self.guide.as_ref()
    }

    /// Chooses one of the tokens whose logits are given, by id; with a guide, one of those it allows.
    ///
    /// Only the first call allocates, as long as the number of logits does not grow.
    /// Errors: `Format` when there is no logit, one is NaN or infinite, or all that may be chosen are minus infinity.
    pub fn sample(&mut self, logits: &[f32]) -> Result<TokenId> {
        let Some(mut adjuster) = self.adjuster.take() else {
            return self.sample_guided(logits);
        };
        let chosen = self.sample_guided(adjuster.row(logits));
        if let Ok(token) = chosen {
            adjuster.accept(token);
        }
        self.adjuster = Some(adjuster);
        chosen
    }

    fn sample_guided(&mut self, logits: &[f32]) -> Result<TokenId> {
        let Some(mut guide) = self.guide.take() else {
            return self.sample_from(logits, |_| true);
        };
        let chosen = match guide.mask() {
            Some(mask) => self.sample_allowed(logits, mask),
            None => self.sample_from(logits, |_| true),
        };
        let taken = chosen.and_then(|token| guide.accept(token).map(|()| token));
        self.guide = Some(guide);
        taken
    }

    /// As [`Sampler::sample`] without a guide, from the tokens of a mask.
    pub fn sample_allowed(&mut self, logits: &[f32], mask: &Mask) -> Result<TokenId> {
        self.sample_from(logits, |token| mask.allows(token))
    }

    fn sample_from(&mut self, logits: &[f32], allows: impl Fn(TokenId) -> bool) -> Result<TokenId> {
        let likeliest = argmax(logits, &allows)?;
        if self.options.temperature <= 0.0 {
            return Ok(likeliest);
        }
        self.collect(logits, logits[likeliest.0 as usize], allows);
        Ok(self.draw().unwrap_or(likeliest))
    }

    /// Fills `candidates` with the tokens that the options leave, in the order in which they are drawn.
    fn collect(&mut self, logits: &[f32], largest: f32, allows: impl Fn(TokenId) -> bool) {
        let SamplerOptions {
            temperature,
            top_k,
            top_p,
            min_p,
            ..
        } = self.options;
        let candidates = &mut self.candidates;
        candidates.clear();
        candidates.reserve(logits.len());
        let all = (0..).map(TokenId).zip(logits);
        let all = all.filter(|(token, _)| allows(*token));
        let all = all.map(|(token, logit)| {
            let p = ((logit - largest) / temperature).exp();
            Candidate { token, p }
        });
        if top_k == 0 && top_p >= 1.0 {
            candidates.extend(all.filter(|c| c.p >= min_p));
            return;
        }
        candidates.extend(all);
        let k = top_k.min(MAX_TOP_K);
        if 0 < k && k < candidates.len() {
            candidates.select_nth_unstable_by(k - 1, Candidate::rank);
            candidates.truncate(k);
            // Sums depend on the order, and the selection promises none.
            candidates.sort_unstable_by(Candidate::rank);
        }
        let whole = sum(candidates);
        // The walk would stop before these anyway; without them less is sorted.
        candidates.retain(|c| c.p >= min_p);
        candidates.sort_unstable_by(Candidate::rank);
        let mut reached = 0.0;
        let behind = candidates.iter().position(|c| {
            reached += f64::from(c.p);
            reached >= f64::from(top_p) * whole
        });
        candidates.truncate(behind.map_or(candidates.len(), |i| i + 1));
    }

    /// Draws by probability; `None` only if rounding leaves nothing, which the likeliest token's 1 prevents.
    fn draw(&mut self) -> Option<TokenId> {
        let target = f64::from(self.rng.uniform()) * sum(&self.candidates);
        let mut reached = 0.0;
        let drawn = self.candidates.iter().find(|c| {
            reached += f64::from(c.p);
            reached > target
        });
        drawn.map(|c| c.token)
    }
}

/// In f64: an f32 sum over a whole vocabulary would lose its least likely tokens.
fn sum(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|c| f64::from(c.p)).sum()
}

/// The token with the largest logit of those allowed, the lowest id on ties.
fn argmax(logits: &[f32], allows: impl Fn(TokenId) -> bool) -> Result<TokenId> {
    let mut best: Option<(usize, f32)> = None;
    for (i, logit) in logits.iter().enumerate() {
        if logit.is_nan() || *logit == f32::INFINITY {
            return Err(Error::format(format!(
                "logit of token {i}: found {logit}, expected a number"
            )));
        }
        let better = best.is_none_or(|(_, largest)| *logit > largest);
        if better && allows(TokenId(i as u32)) {
            best = Some((i, *logit));
        }
    }
    match best {
        Some((i, logit)) if logit > f32::NEG_INFINITY => Ok(TokenId(i as u32)),
        Some(_) => Err(Error::format("logits: all are -inf, expected numbers")),
        None if !logits.is_empty() => Err(Error::format(
            "logits: none belongs to a token that may be chosen",
        )),
        None => Err(Error::format(
            "logits: found none, expected one for each token",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(options: SamplerOptions) -> Sampler {
        Sampler::new(options).unwrap()
    }

    /// The options that keep everything.
    const ALL: SamplerOptions = SamplerOptions {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed: 5,
    };

    fn logits(seed: u64, n: usize) -> Vec<f32> {
        let mut rng = Rng::new(seed);
        // Few values, so that there are ties.
        (0..n)
            .map(|_| (rng.uniform() * 40.0).round() / 4.0 - 5.0)
            .collect()
    }

    #[test]
    fn no_temperature_takes_the_largest_logit_and_the_lowest_id_on_ties() {
        for temperature in [0.0, -0.0, -1.0] {
            let mut greedy = sampler(SamplerOptions { temperature, ..ALL });
            assert_eq!(greedy.sample(&[1.0, 3.0, -2.0, 3.0]).unwrap(), TokenId(1));
            assert_eq!(
                greedy.sample(&[f32::NEG_INFINITY, -7.0]).unwrap(),
                TokenId(1)
            );
            assert_eq!(greedy.sample(&[-0.0, 0.0]).unwrap(), TokenId(0));
        }
    }

    #[test]
    fn wrong_options_are_usage_errors_that_name_the_flag() {
        let nan = f32::NAN;
        for (options, flag) in [
            (
                SamplerOptions {
                    temperature: nan,
                    ..ALL
                },
                "--temp: found NaN",
            ),
            (
                SamplerOptions {
                    temperature: f32::INFINITY,
                    ..ALL
                },
                "--temp: found inf",
            ),
            (SamplerOptions { top_p: nan, ..ALL }, "--top-p: found NaN"),
            (SamplerOptions { top_p: 1.5, ..ALL }, "--top-p: found 1.5"),
            (SamplerOptions { top_p: -0.1, ..ALL }, "--top-p: found -0.1"),
            (SamplerOptions { min_p: nan, ..ALL }, "--min-p: found NaN"),
            (SamplerOptions { min_p: 2.0, ..ALL }, "--min-p: found 2"),
            (SamplerOptions { min_p: -1.0, ..ALL }, "--min-p: found -1"),
        ] {
            let error = Sampler::new(options).unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::Usage);
            assert!(error.to_string().starts_with(flag), "{error}");
        }
    }

    #[test]
    fn logits_that_are_no_numbers_are_errors() {
        let infinity = f32::INFINITY;
        for options in [
            ALL,
            SamplerOptions {
                temperature: 0.0,
                ..ALL
            },
            SamplerOptions { top_k: 2, ..ALL },
        ] {
            for wrong in [
                &[][..],
                &[f32::NAN],
                &[1.0, f32::NAN, 2.0],
                &[1.0, infinity],
                &[-infinity, -infinity],
            ] {
                assert!(sampler(options).sample(wrong).is_err(), "{wrong:?}");
            }
            assert_eq!(
                sampler(options).sample(&[-infinity, 0.0]).unwrap(),
                TokenId(1)
            );
        }
    }

    /// The rules with real probabilities and nothing but sorts and walks.
    fn twin(options: SamplerOptions, logits: &[f32], uniform: f32) -> u32 {
        let largest = logits.iter().copied().fold(f32::MIN, f32::max);
        let mut all: Vec<(u32, f64)> = (0..)
            .zip(logits)
            .map(|(id, l)| (id, f64::from(((l - largest) / options.temperature).exp())))
            .collect();
        let mut kept = Vec::new();
        if options.top_k == 0 && options.top_p == 1.0 {
            kept.extend(
                all.iter()
                    .copied()
                    .filter(|(_, p)| *p >= f64::from(options.min_p)),
            );
        } else {
            all.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap()); // stable: the lower id first on ties
            if options.top_k > 0 {
                all.truncate(options.top_k.min(1024));
            }
            let whole: f64 = all.iter().map(|(_, p)| p).sum();
            let mut mass = 0.0;
            for (id, p) in all {
                if p < f64::from(options.min_p) {
                    break;
                }
                kept.push((id, p));
                mass += p / whole;
                if mass >= f64::from(options.top_p) {
                    break;
                }
            }
        }
        let whole: f64 = kept.iter().map(|(_, p)| p).sum();
        let mut mass = 0.0;
        for (id, p) in &kept {
            mass += p / whole;
            if mass > f64::from(uniform) {
                return *id;
            }
        }
        kept.last().unwrap().0
    }

    #[test]
    fn equals_the_twin_under_all_options() {
        for seed in 1..40 {
            for temperature in [0.3, 1.0, 5.0] {
                for (top_k, top_p) in [
                    (0, 1.0),
                    (1, 1.0),
                    (7, 1.0),
                    (7, 0.6),
                    (0, 0.9),
                    (0, 0.0),
                    (1500, 0.99),
                ] {
                    for min_p in [0.0, 0.05, 1.0] {
                        let options = SamplerOptions {
                            temperature,
                            top_k,
                            top_p,
                            min_p,
                            seed,
                        };
                        let (mut sampler, mut rng) = (sampler(options), Rng::new(seed));
                        for n in [1, 2, 50, 2000] {
                            let logits = logits(seed * 10_000 + n, n as usize);
                            let found = sampler.sample(&logits).unwrap().0;
                            assert_eq!(
                                found,
                                twin(options, &logits, rng.uniform()),
                                "{options:?}, {n} logits"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        let probabilities = [0.5_f32, 0.25, 0.15, 0.1];
        let logits = probabilities.map(f32::ln);
        let first_two = [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0];
        for (options, expected) in [
            (ALL, probabilities),
            (SamplerOptions { top_k: 2, ..ALL }, first_two),
            (SamplerOptions { top_p: 0.7, ..ALL }, first_two),
            (SamplerOptions { min_p: 0.4, ..ALL }, first_two),
        ] {
            let mut sampler = sampler(options);
            let mut seen = [0; 4];
            for _ in 0..40_000 {
                seen[sampler.sample(&logits).unwrap().0 as usize] += 1;
            }
            for (n, p) in seen.into_iter().zip(expected) {
                // 5 standard deviations of a share of 40,000 draws are at most 0.0125.
                let share = n as f32 / 40_000.0;
                assert!((share - p).abs() < 0.0125, "{options:?}: {seen:?}");
                assert!(p > 0.0 || n == 0, "{options:?}: {seen:?}");
            }
        }
    }

    /// Probabilities that are exact, so that `reaches` and `at least` are told from `exceeds`.
    #[test]
    fn bounds_are_part_of_what_is_kept() {
        let halves = [0.0, f32::ln(0.5), f32::ln(0.5)];
        assert_eq!(halves[1].exp(), 0.5);
        for (options, logits, n_kept) in [
            (SamplerOptions { top_p: 0.5, ..ALL }, &[0.0; 4][..], 2),
            (SamplerOptions { top_p: 0.5, ..ALL }, &halves, 1),
            (SamplerOptions { top_p: 0.75, ..ALL }, &halves, 2),
            (SamplerOptions { min_p: 0.5, ..ALL }, &halves, 3),
            (
                SamplerOptions {
                    min_p: 0.5,
                    top_k: 3,
                    ..ALL
                },
                &halves,
                3,
            ),
            (
                SamplerOptions {
                    min_p: 0.51,
                    top_k: 3,
                    ..ALL
                },
                &halves,
                1,
            ),
            (SamplerOptions { top_k: 3, ..ALL }, &[0.0; 4], 3),
        ] {
            let mut sampler = sampler(options);
            for _ in 0..200 {
                // Ties go to the lower id, so that the kept tokens are the first ones.
                assert!(
                    (sampler.sample(logits).unwrap().0 as usize) < n_kept,
                    "{options:?}"
                );
            }
            assert_eq!(sampler.candidates.len(), n_kept, "{options:?}");
        }
    }

    /// The formulas over the whole history, for each token by itself.
    fn adjusted(adjust: &Adjust, said: &[u32], n_prompt: usize, logits: &[f32]) -> Vec<f32> {
        let adjusted = logits.iter().enumerate().map(|(id, logit)| {
            let id = id as u32;
            let mut logit = *logit;
            let window = said.len().saturating_sub(adjust.last_n);
            if said[window..].contains(&id) {
                let factor = if logit > 0.0 {
                    1.0 / adjust.repeat
                } else {
                    adjust.repeat
                };
                logit = if factor == adjust.repeat {
                    logit * factor
                } else {
                    logit / adjust.repeat
                };
            }
            let count = said[n_prompt..]
                .iter()
                .filter(|token| **token == id)
                .count();
            if count > 0 {
                logit -= count as f32 * adjust.frequency + adjust.presence;
            }
            let biases = adjust.bias.iter().filter(|(token, _)| token.0 == id);
            biases.fold(logit, |logit, (_, bias)| logit + bias)
        });
        adjusted.collect()
    }

    #[test]
    fn penalties_and_biases_equal_their_formulas_over_the_whole_history() {
        let some = Adjust {
            frequency: 0.5,
            presence: 0.25,
            repeat: 1.5,
            last_n: 5,
            bias: vec![
                (TokenId(3), 4.0),
                (TokenId(7), -100.0),
                (TokenId(3), 1.0),
                (TokenId(999), 5.0),
            ],
        };
        let all = [
            some.clone(),
            Adjust {
                frequency: -1.0,
                ..Adjust::default()
            },
            Adjust {
                presence: 2.0,
                ..Adjust::default()
            },
            Adjust {
                repeat: 0.5,
                last_n: 2,
                ..Adjust::default()
            },
            Adjust { last_n: 0, ..some },
        ];
        for (adjust, temperature) in all.iter().flat_map(|a| [(a, 0.0), (a, 0.8)]) {
            let options = SamplerOptions { temperature, ..ALL };
            let mut said = vec![1, 3, 3, 9, 2, 1, 30];
            let n_prompt = said.len();
            let prompt: Vec<TokenId> = said.iter().copied().map(TokenId).collect();
            let (mut one, mut twin) = (sampler(options), sampler(options));
            one.set_adjust(adjust.clone(), &prompt).unwrap();
            for step in 1..200 {
                let row = logits(step % 9 + 1, 40);
                let expected = twin
                    .sample(&adjusted(adjust, &said, n_prompt, &row))
                    .unwrap();
                assert_eq!(
                    one.sample(&row).unwrap(),
                    expected,
                    "{adjust:?}, step {step}"
                );
                said.push(expected.0);
            }
        }
        // A token that is forbidden by its bias is never chosen; one that is wished for is.
        let mut greedy = sampler(SamplerOptions {
            temperature: 0.0,
            ..ALL
        });
        let bias = vec![(TokenId(1), -100.0), (TokenId(2), 100.0)];
        greedy
            .set_adjust(
                Adjust {
                    bias,
                    ..Adjust::default()
                },
                &[],
            )
            .unwrap();
        assert_eq!(greedy.sample(&[0.0, 50.0, -40.0]).unwrap(), TokenId(2));
        assert!(greedy.sample(&[0.0, f32::NAN]).is_err());
    }

    #[test]
    fn what_is_neutral_changes_no_bit_and_what_is_out_of_range_is_named() {
        let neutral = Adjust {
            bias: vec![(TokenId(1), 0.0)],
            ..Adjust::default()
        };
        let mut plain = sampler(ALL);
        let mut with = sampler(ALL);
        with.set_adjust(neutral, &[TokenId(3)]).unwrap();
        assert!(with.adjuster.is_none());
        for seed in 1..100 {
            let row = logits(seed, 300);
            assert_eq!(with.sample(&row).unwrap(), plain.sample(&row).unwrap());
        }
        for (adjust, expected) in [
            (
                Adjust {
                    frequency: 2.1,
                    ..Adjust::default()
                },
                "frequency_penalty: found 2.1, expected a number from -2 to 2",
            ),
            (
                Adjust {
                    presence: f32::NAN,
                    ..Adjust::default()
                },
                "presence_penalty: found NaN",
            ),
            (
                Adjust {
                    repeat: 0.0,
                    ..Adjust::default()
                },
                "repeat_penalty: found 0",
            ),
            (
                Adjust {
                    last_n: 70_000,
                    ..Adjust::default()
                },
                "repeat_last_n 70000",
            ),
            (
                Adjust {
                    bias: vec![(TokenId(5), 101.0)],
                    ..Adjust::default()
                },
                "logit_bias.5: found 101",
            ),
        ] {
            let message = plain.set_adjust(adjust, &[]).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn only_the_first_call_allocates() {
        for options in [
            ALL,
            SamplerOptions { top_k: 40, ..ALL },
            SamplerOptions { top_p: 0.9, ..ALL },
        ] {
            let mut sampler = sampler(options);
            sampler.sample(&logits(1, 5000)).unwrap();
            let memory = (sampler.candidates.as_ptr(), sampler.candidates.capacity());
            for seed in 2..20 {
                sampler.sample(&logits(seed, 5000)).unwrap();
                assert_eq!(
                    (sampler.candidates.as_ptr(), sampler.candidates.capacity()),
                    memory
                );
            }
        }
    }
}
