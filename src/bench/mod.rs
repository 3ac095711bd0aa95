//! How fast a model computes on this machine, measured as llama.cpp's `llama-bench` does it.
//!
//! ```text
//! ppN @ dD   D tokens | N tokens in one prefill
//! tgN @ dD   D tokens, at least the start token | N tokens one by one
//!            not measured, computed once          measured; then back to the bar, for each run
//! ```
//!
//! What the supply of experts holds stays from run to run, so the first run of a streaming strategy may be slower than
//! the others: see the least and the most of [`Measured::speeds`].
//!
//! The tokens are the same in every run: the start token, then ids drawn evenly from the vocabulary with the seed
//! [`SEED`]. They reach other experts than text does; [`Feed::Greedy`] decodes what the model itself would say.
//! The end-of-turn token is a token like any other.

use crate::engine::tokenizer::Tokenizer;
use crate::engine::{
    Engine, Prefill, Profile, Sampler, SamplerOptions, Session, SessionCheckpoint, Stages,
    SupplyStats,
};
use crate::error::Result;
use crate::rng::Rng;
use crate::units::TokenId;
use std::time::Instant;

pub mod bandwidth;
pub mod device;
pub mod experiment;

/// Where the token ids come from.
pub const SEED: u64 = 1;

/// Offset basis and prime of FNV-1a, 64 bits (Fowler, Noll, Vo).
const FNV: (u64, u64) = (0xCBF2_9CE4_8422_2325, 0x0000_0100_0000_01B3);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A prompt: many tokens at a time.
    Prefill,
    /// An answer: token by token.
    Decode,
}

/// Which tokens a decode is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// Seeded ids, as in a prefill.
    Random,
    /// The model's most likely token each time.
    Greedy,
}

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// What.
    pub kind: Kind,
    /// Tokens of a run; at least 1.
    pub n: usize,
    /// Tokens that are in the context before.
    pub depth: usize,
}

impl Test {
    /// Its name in llama-bench: `pp512`, `tg128 @ d4096`.
    pub fn name(&self) -> String {
        let kind = match self.kind {
            Kind::Prefill => "pp",
            Kind::Decode => "tg",
        };
        match self.depth {
            0 => format!("{kind}{}", self.n),
            depth => format!("{kind}{} @ d{depth}", self.n),
        }
    }

    /// Tokens that it has in the context at most.
    pub fn ctx(&self) -> usize {
        self.n_before() + self.n
    }

    /// Tokens that are computed once, and not measured.
    fn n_before(&self) -> usize {
        match self.kind {
            Kind::Prefill => self.depth,
            Kind::Decode => self.depth.max(1),
        }
    }

    /// Tokens computed before the first measured run: as in llama-bench all of a prompt, or one token.
    fn n_warm_up(&self) -> usize {
        match self.kind {
            Kind::Prefill => self.n,
            Kind::Decode => 1,
        }
    }
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Nanoseconds by the wall clock.
    pub ns: u64,
    /// What the supply of experts did for it.
    pub supply: SupplyStats,
    /// Where the time went, if that was asked for.
    pub stages: Option<Stages>,
}

/// All runs of a test.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What was measured.
    pub test: Test,
    /// At least one.
    pub runs: Vec<Run>,
    /// FNV-1a of the ids of the measured tokens, four little-endian bytes each: the same in each run.
    pub token_hash: u64,
}

impl Measured {
    /// Tokens a second, of each run.
    pub fn speeds(&self) -> Vec<f64> {
        let speed = |run: &Run| self.test.n as f64 * 1e9 / run.ns as f64;
        self.runs.iter().map(speed).collect()
    }

    /// One counter of the supply over all runs.
    pub fn total(&self, counter: impl Fn(&SupplyStats) -> u64) -> u64 {
        self.runs.iter().map(|run| counter(&run.supply)).sum()
    }

    /// Where the time of all runs went, if that was asked for.
    pub fn stages(&self) -> Option<Stages> {
        self.runs
            .iter()
            .filter_map(|run| run.stages)
            .reduce(|mut sum, more| {
                sum += more;
                sum
            })
    }
}

/// An engine with the session that everything is measured in.
pub struct Bench<'a> {
    engine: &'a mut Engine,
    session: Session,
    feed: Feed,
    profiled: bool,
}

impl<'a> Bench<'a> {
    /// Errors: memory is refused.
    pub fn new(engine: &'a mut Engine, feed: Feed) -> Result<Bench<'a>> {
        Ok(Bench {
            session: engine.session()?,
            engine,
            feed,
            profiled: false,
        })
    }

    /// Notes from now on where the time of each run goes.
    pub fn profiled(mut self) -> Bench<'a> {
        self.profiled = true;
        self
    }

    /// Runs a test `n_runs` times, after a run that does not count if there is to be a `warm_up`. `tick(done, all)`
    /// is told how many tokens are computed, and stops the work with false; the answer is then `None`.
    ///
    /// Errors: more tokens than the context holds, a failed read, logits that are no numbers.
    pub fn measure(
        &mut self,
        test: Test,
        n_runs: usize,
        warm_up: bool,
        tick: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Option<Measured>> {
        let ids = ids(self.engine.tokenizer(), test.ctx());
        let (before, ids) = ids.split_at(test.n_before());
        let n_warm_up = if warm_up { test.n_warm_up() } else { 0 };
        let all = before.len() + n_warm_up + n_runs * test.n;

        self.session.clear();
        let stopped = self
            .engine
            .prefill(&mut self.session, before, &mut |n| tick(n, all))?
            == Prefill::Stopped;
        if stopped {
            return Ok(None);
        }
        let mut start = Start {
            first: None,
            point: self.engine.checkpoint(&self.session)?,
        };
        if test.kind == Kind::Decode && self.feed == Feed::Greedy {
            start.first = Some(greedy()?.sample(self.session.logits())?);
        }

        let mut done = before.len();
        if n_warm_up > 0 {
            let mut tick = |n| tick(done + n, all);
            let run = self.run(test.kind, &ids[..n_warm_up], &start, &mut tick)?;
            if run.is_none() {
                return Ok(None);
            }
            done += n_warm_up;
        }
        let mut measured = Measured {
            test,
            runs: Vec::with_capacity(n_runs),
            token_hash: 0,
        };
        for i in 0..n_runs {
            let mut tick = |n| tick(done + n, all);
            let Some(run) = self.run(test.kind, ids, &start, &mut tick)? else {
                return Ok(None);
            };
            done += test.n;
            measured.runs.push(run);
            let hash = hash(&self.session.tokens()[before.len()..]);
            assert!(
                i == 0 || hash == measured.token_hash,
                "{}: every run computes the same tokens",
                test.name()
            );
            measured.token_hash = hash;
        }
        Ok(Some(measured))
    }

    /// Goes back to the start and computes these tokens, or as many of the model's own choice.
    fn run(
        &mut self,
        kind: Kind,
        ids: &[TokenId],
        start: &Start,
        tick: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Run>> {
        let Bench {
            engine,
            session,
            profiled,
            ..
        } = self;
        engine.rewind(session, &start.point)?;
        let mut sampler = greedy()?;
        // The graph's own counters: those of all layers together.
        let supply = engine.supply_stats();
        if *profiled {
            engine.start_profile();
        }
        let clock = Instant::now();
        match kind {
            Kind::Prefill => {
                if engine.prefill(session, ids, tick)? == Prefill::Stopped {
                    return Ok(None);
                }
            }
            Kind::Decode => {
                let mut chosen = start.first;
                for (i, id) in ids.iter().enumerate() {
                    if !tick(i) {
                        return Ok(None);
                    }
                    engine.decode(session, chosen.unwrap_or(*id))?;
                    if chosen.is_some() {
                        chosen = Some(sampler.sample(session.logits())?);
                    }
                }
            }
        }
        let ns = clock.elapsed().as_nanos();
        let stages = engine.profile().map(Profile::total);
        Ok(Some(Run {
            ns: u64::try_from(ns).unwrap_or(u64::MAX).max(1), // it divides
            supply: engine.supply_stats() - supply,
            stages,
        }))
    }
}

/// The start token, if the vocabulary has one, and seeded ids; `n` together.
fn ids(tokenizer: &Tokenizer, n: usize) -> Vec<TokenId> {
    let mut rng = Rng::new(SEED);
    let random = || TokenId(rng.below(tokenizer.len()) as u32);
    let random = std::iter::repeat_with(random);
    tokenizer.bos().into_iter().chain(random).take(n).collect()
}

/// Where a run starts.
struct Start {
    /// The state of the session.
    point: SessionCheckpoint,
    /// What the model would say there, if that is to be decoded.
    first: Option<TokenId>,
}

/// Chooses the most likely token.
fn greedy() -> Result<Sampler> {
    Sampler::new(SamplerOptions {
        temperature: 0.0,
        ..SamplerOptions::default()
    })
}

fn hash(tokens: &[TokenId]) -> u64 {
    let bytes = tokens.iter().flat_map(|token| token.0.to_le_bytes());
    bytes.fold(FNV.0, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(FNV.1)
    })
}

/// The mean; 0 of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The standard deviation of a sample, as in llama-bench: squares divided by one less than their number; 0 of one
/// value.
pub fn sample_sd(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_are_those_of_a_sample() {
        // Mean 5, squares 9 + 1 + 1 + 1 + 0 + 0 + 4 + 16 = 32, of 7.
        let values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        assert_eq!(mean(&values), 5.0);
        assert_eq!(sample_sd(&values), (32.0f64 / 7.0).sqrt());
        assert_eq!(sample_sd(&[1.0, 2.0, 3.0]), 1.0);
        assert_eq!(sample_sd(&[10.0, 20.0]), 50.0f64.sqrt());
        assert_eq!((mean(&[7.5]), sample_sd(&[7.5])), (7.5, 0.0));
        assert_eq!((mean(&[]), sample_sd(&[])), (0.0, 0.0));
    }

    /// The hash of the bytes "foobar" is published with FNV; two ids are eight bytes, so two zeros follow.
    #[test]
    fn hashes_are_fnv_1a() {
        assert_eq!(hash(&[]), 0xCBF2_9CE4_8422_2325);
        let foobar = 0x8594_4171_F739_67E8u64;
        let two_zeros = foobar.wrapping_mul(FNV.1).wrapping_mul(FNV.1);
        let ids = [*b"foob", *b"ar\0\0"].map(|b| TokenId(u32::from_le_bytes(b)));
        assert_eq!(hash(&ids), two_zeros);
    }

    #[test]
    fn names_are_those_of_llama_bench() {
        let test = |kind, n, depth| Test { kind, n, depth };
        let (pp, tg) = (test(Kind::Prefill, 512, 0), test(Kind::Decode, 128, 4096));
        assert_eq!((pp.name().as_str(), pp.ctx()), ("pp512", 512));
        assert_eq!((tg.name().as_str(), tg.ctx()), ("tg128 @ d4096", 4224));
        // The start token comes before.
        assert_eq!(test(Kind::Decode, 128, 0).ctx(), 129);
    }
}
