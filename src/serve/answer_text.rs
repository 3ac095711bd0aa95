//! From tokens to the parts of an answer: reasoning, text up to a stop string, calls of tools.

use super::ask::{Finish, Part, TokenLogprob};
use super::desk::Work;
use super::logprobs;
use crate::engine::answer::{AnswerParser, Event};
use crate::engine::stops::StopStrings;
use crate::engine::tokenizer::Tokenizer;
use crate::engine::{Chosen, Stop};
use crate::error::Result;

/// Gives the parts of one answer to its asker.
pub struct AnswerText<'a> {
    parser: AnswerParser,
    out: Out<'a>,
    /// The log-probabilities of how many others are wanted with those of each token.
    n_others: Option<usize>,
    tokenizer: &'a Tokenizer,
    n_reasoning: usize,
}

struct Out<'a> {
    work: &'a Work,
    stops: StopStrings,
    /// Tokens whose text was not given yet.
    tokens: Vec<TokenLogprob>,
    called: bool,
    /// Whether the asker still is.
    is_heard: bool,
}

impl<'a> AnswerText<'a> {
    /// An answer that has not begun.
    ///
    /// Errors: stop strings that are none.
    pub fn new(work: &'a Work, tokenizer: &'a Tokenizer) -> Result<AnswerText<'a>> {
        let ask = &work.ask;
        Ok(AnswerText {
            parser: AnswerParser::new(ask.reasoning, ask.tools),
            out: Out {
                work,
                stops: StopStrings::new(ask.stops.clone())?,
                tokens: Vec::new(),
                called: false,
                is_heard: true,
            },
            n_others: ask.logprobs,
            tokenizer,
            n_reasoning: 0,
        })
    }

    /// Takes a token, gives what has become clear, and tells whether more is wanted.
    pub fn take(&mut self, chosen: Chosen<'_>) -> bool {
        if self.parser.is_reasoning() {
            self.n_reasoning += 1;
        } else if let Some(n) = self.n_others {
            let found = logprobs::of(chosen, n, self.tokenizer);
            self.out.tokens.push(found);
        }
        let out = &mut self.out;
        self.parser.push(chosen.bytes, &mut |event| out.give(event));
        out.is_heard &= !out.work.has_left();
        out.is_heard && out.stops.stopped().is_none()
    }

    /// Tokens of the reasoning so far.
    pub fn n_reasoning(&self) -> usize {
        self.n_reasoning
    }

    /// Gives the rest and tells how the answer ended; `None` when nobody hears it.
    pub fn finish(self, stop: Stop) -> Option<Finish> {
        let mut out = self.out;
        if out.stops.stopped().is_none() {
            self.parser.finish(&mut |event| out.give(event));
        }
        // The rest may bring a stop string too.
        let stopped = out.stops.stopped().map(str::to_owned);
        out.flush();
        if !out.is_heard {
            return None;
        }
        Some(match (stopped, stop) {
            (Some(found), _) => Finish::StopString(found),
            (None, Stop::EndOfTurn | Stop::Asked) if out.called => Finish::Calls,
            (None, Stop::EndOfTurn | Stop::Asked) => Finish::EndOfTurn,
            (None, Stop::Length | Stop::ContextFull) => Finish::Length,
        })
    }
}

impl Out<'_> {
    fn give(&mut self, event: Event<'_>) {
        match event {
            Event::Reasoning(text) => self.send(Part::Reasoning(text.to_owned())),
            Event::Text(text) => {
                let text = self.stops.push(text).to_owned();
                self.send_text(text);
            }
            Event::Calls(calls) => {
                self.flush();
                self.called = true;
                self.send(Part::Calls(calls));
            }
            Event::Malformed { text, reason } => {
                self.flush();
                self.send(Part::Malformed {
                    text: text.to_owned(),
                    reason: reason.to_owned(),
                });
            }
        }
    }

    /// Gives the text that was kept back as it might have become a stop string.
    fn flush(&mut self) {
        if self.stops.stopped().is_none() {
            let text = self.stops.finish().to_owned();
            self.send_text(text);
        }
    }

    fn send_text(&mut self, text: String) {
        if !text.is_empty() {
            let tokens = std::mem::take(&mut self.tokens);
            self.send(Part::Text(text, tokens));
        }
    }

    fn send(&mut self, part: Part) {
        self.is_heard &= self.work.give(part);
    }
}
