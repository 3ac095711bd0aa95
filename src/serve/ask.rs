//! What passes between the APIs and the engine: a question in tokens, and the parts of its answer as they come.

use crate::engine::SamplerOptions;
use crate::engine::{Adjust, Form};
use crate::units::TokenId;
use std::ops::Range;

/// What the engine should know of a prompt to compute no more of it than it must.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// How many tokens it may share with other conversations, in ascending order: its system text.
    pub shared: Vec<usize>,
    /// Where answers stand in it.
    pub answers: Vec<Range<usize>>,
    /// Whether the answer will stand in the next prompt as it is given now; not if its reasoning will be dropped.
    pub answer_stays: bool,
}

/// A question, whichever API it came by.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// The whole prompt, with everything that was said before.
    pub tokens: Vec<TokenId>,
    /// Where the parts of the prompt are.
    pub places: Places,
    /// Whether the prompt ends with the opener of reasoning.
    pub reasoning: bool,
    /// Whether the answer may call tools; without, what looks like a call is text.
    pub tools: bool,
    /// Calls at most, behind which the answer ends; with 0 a call that the model writes all the same is left out.
    pub most_calls: Option<usize>,
    /// Tokens of the answer at most; without, as many as the context holds.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: SamplerOptions,
    /// Changes of what it is chosen from.
    pub adjust: Adjust,
    /// Strings that end the answer; they are searched in its text, not in the reasoning.
    pub stops: Vec<String>,
    /// What the answer is held to.
    pub held: Option<Form>,
    /// For each token of the text its log-probability, and those of this many others.
    pub logprobs: Option<usize>,
    /// The text begins with the prompt, without so many tokens at its front.
    pub echo: Option<usize>,
}

impl Ask {
    /// The same question so many times, each with a seed of its own.
    pub fn repeated(self, n: usize) -> impl Iterator<Item = Ask> {
        (0..n as u64).map(move |i| {
            let mut ask = self.clone();
            ask.sampling.seed = ask.sampling.seed.wrapping_add(i);
            ask
        })
    }
}

/// A part of an answer. [`Part::Done`] and [`Part::Failed`] are the last.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// The engine begins, and this many tokens of the prompt need not be computed.
    Started {
        /// Tokens that the engine has already.
        n_cached: usize,
    },
    /// The prompt is read; told after each chunk.
    Reading(Reading),
    /// More of the reasoning.
    Reasoning(String),
    /// More of the text, and the tokens that it came with, if log-probabilities were asked for.
    Text(String, Vec<TokenLogprob>),
    /// A call of the tool of this name begins.
    CallBegin(String),
    /// More of its arguments; all pieces together are one JSON object, and none ends within an escape.
    CallArguments(String),
    /// The call is whole.
    CallEnd,
    /// The answer was cut within the call; what would make JSON of its arguments.
    CallCut(&'static str),
    /// What the asker should know of the answer.
    Warning(String),
    /// All of the answer was given.
    Done(Done),
    /// The engine could not go on, and why.
    Failed(String),
}

/// How far the prompt is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Tokens of the prompt that the engine has, those it had before included.
    pub done: usize,
    /// Tokens of the prompt.
    pub all: usize,
    /// Tokens read in a second so far; 0 before the first are read.
    pub tokens_per_s: f64,
}

impl Reading {
    /// Seconds until the rest is read, if it goes on like this.
    pub fn seconds_left(&self) -> f64 {
        (self.all - self.done) as f64 / self.tokens_per_s.max(1e-9)
    }
}

/// A token and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Its bytes, which may be a part of a character.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability among all tokens, at temperature 1, before penalties and biases.
    pub logprob: f64,
    /// The likeliest tokens at this place, the likeliest first; as many as were asked for.
    pub top: Vec<(Vec<u8>, f64)>,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn.
    EndOfTurn,
    /// A stop string, which is not part of the text.
    StopString(String),
    /// The tokens asked for.
    Length,
    /// The end of the context.
    ContextFull,
    /// It called tools.
    Calls,
}

/// The figures of a finished answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// How it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Tokens of the prompt that were not computed, since the engine had them.
    pub n_cached: usize,
    /// Tokens of the answer, those of reasoning and calls included.
    pub n_answer: usize,
    /// Tokens of the reasoning.
    pub n_reasoning: usize,
}
