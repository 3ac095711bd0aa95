//! Changes of logits before a token is chosen from them: for tokens that were said before, and for those that are asked for.
//!
//! ```text
//! repeat       of the last_n tokens before, each once: logit / repeat, or logit * repeat where it is below 0
//! frequency    logit - count * frequency       count: how often the answer has the token
//! presence     logit - presence                if it has it
//! bias         logit + bias
//! ```

use crate::error::{Error, Result};
use crate::units::TokenId;
use std::collections::{HashMap, VecDeque};

/// The most tokens that `last_n` can ask for.
pub const MAX_LAST_N: usize = 1 << 16;

/// What to change; the default changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Adjust {
    /// For each time that a token was chosen before, from -2 to 2.
    pub frequency: f32,
    /// For a token that was chosen before, from -2 to 2.
    pub presence: f32,
    /// A factor for each of the last tokens, above 0; 1 changes nothing.
    pub repeat: f32,
    /// How many tokens before count for `repeat`, those of the prompt included.
    pub last_n: usize,
    /// From -100 to 100 for each; a token that stands twice gets both.
    pub bias: Vec<(TokenId, f32)>,
}

impl Default for Adjust {
    fn default() -> Adjust {
        Adjust {
            frequency: 0.0,
            presence: 0.0,
            repeat: 1.0,
            last_n: 64,
            bias: Vec::new(),
        }
    }
}

impl Adjust {
    /// Errors: `Usage`, with the name of what is out of its range.
    pub fn validate(&self) -> Result<()> {
        let within = |name: &str, found: f32, low: f32, high: f32| match found {
            found if (low..=high).contains(&found) => Ok(()),
            found => Err(Error::usage(format!(
                "{name}: found {found}, expected a number from {low} to {high}"
            ))),
        };
        within("frequency_penalty", self.frequency, -2.0, 2.0)?;
        within("presence_penalty", self.presence, -2.0, 2.0)?;
        within("repeat_penalty", self.repeat, 0.01, 100.0)?;
        if self.last_n > MAX_LAST_N {
            return Err(Error::limit("repeat_last_n", self.last_n, MAX_LAST_N));
        }
        self.bias.iter().try_for_each(|(token, bias)| {
            within(&format!("logit_bias.{}", token.0), *bias, -100.0, 100.0)
        })
    }

    /// Whether it changes nothing.
    pub fn is_neutral(&self) -> bool {
        self.frequency == 0.0
            && self.presence == 0.0
            && self.repeat == 1.0
            && self.bias.iter().all(|(_, bias)| *bias == 0.0)
    }
}

/// What was said so far, and the logits as they become by it.
#[derive(Clone, Debug)]
pub(super) struct Adjuster {
    adjust: Adjust,
    /// How often the answer has each token.
    counts: HashMap<TokenId, u32>,
    /// The last tokens, the oldest first.
    last: VecDeque<TokenId>,
    /// How often each of them occurs.
    in_last: HashMap<TokenId, u32>,
    /// The changed logits; kept for its memory.
    row: Vec<f32>,
}

impl Adjuster {
    /// At the beginning of an answer to `prompt`.
    pub fn new(adjust: Adjust, prompt: &[TokenId]) -> Adjuster {
        let mut adjuster = Adjuster {
            counts: HashMap::new(),
            last: VecDeque::with_capacity(adjust.last_n + 1),
            in_last: HashMap::new(),
            row: Vec::new(),
            adjust,
        };
        let from = prompt.len().saturating_sub(adjuster.adjust.last_n);
        prompt[from..]
            .iter()
            .for_each(|token| adjuster.remember(*token));
        adjuster
    }

    /// The logits as they are to be chosen from. One that is no number stays, so that it is found.
    pub fn row(&mut self, logits: &[f32]) -> &[f32] {
        let Adjuster {
            adjust,
            counts,
            in_last,
            row,
            ..
        } = self;
        row.clear();
        row.extend_from_slice(logits);
        if adjust.repeat != 1.0 {
            for token in in_last.keys() {
                if let Some(logit) = row.get_mut(token.0 as usize) {
                    *logit = match *logit {
                        logit if logit > 0.0 => logit / adjust.repeat,
                        logit => logit * adjust.repeat,
                    };
                }
            }
        }
        if adjust.frequency != 0.0 || adjust.presence != 0.0 {
            for (token, count) in counts {
                if let Some(logit) = row.get_mut(token.0 as usize) {
                    *logit -= *count as f32 * adjust.frequency + adjust.presence;
                }
            }
        }
        for (token, bias) in &adjust.bias {
            if let Some(logit) = row.get_mut(token.0 as usize) {
                *logit += bias;
            }
        }
        row
    }

    /// Takes a token of the answer.
    pub fn accept(&mut self, token: TokenId) {
        *self.counts.entry(token).or_default() += 1;
        self.remember(token);
    }

    fn remember(&mut self, token: TokenId) {
        self.last.push_back(token);
        *self.in_last.entry(token).or_default() += 1;
        if self.last.len() > self.adjust.last_n
            && let Some(oldest) = self.last.pop_front()
            && let Some(count) = self.in_last.get_mut(&oldest)
        {
            *count -= 1;
            if *count == 0 {
                self.in_last.remove(&oldest);
            }
        }
    }
}
