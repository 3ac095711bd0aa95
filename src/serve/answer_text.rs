//! From tokens to the parts of an answer: reasoning, text up to a stop string, calls of tools.

use super::ask::{Finish, Part, TokenLogprob};
use super::desk::Work;
use super::logprobs;
use crate::engine::answer::{AnswerParser, End, Event};
use crate::engine::stops::StopStrings;
use crate::engine::tokenizer::Tokenizer;
use crate::engine::{Chosen, Stop};
use crate::error::Result;
use crate::units::TokenId;

/// Gives the parts of one answer to its asker.
pub struct AnswerText<'a> {
    parser: AnswerParser,
    out: Out<'a>,
    /// The log-probabilities of how many others are wanted with those of each token.
    n_others: Option<usize>,
    tokenizer: &'a Tokenizer,
    marks: Marks,
    n_reasoning: usize,
}

/// Tokens of control that mean something within an answer.
struct Marks {
    think: Option<TokenId>,
    end_think: Option<TokenId>,
}

struct Out<'a> {
    work: &'a Work,
    stops: StopStrings,
    /// Tokens whose text was not given yet.
    tokens: Vec<TokenLogprob>,
    n_calls: usize,
    /// No more calls are wanted.
    is_enough: bool,
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
                n_calls: 0,
                is_enough: false,
                is_heard: true,
            },
            n_others: ask.logprobs,
            tokenizer,
            marks: Marks {
                think: tokenizer.special("<think>"),
                end_think: tokenizer.special("</think>"),
            },
            n_reasoning: 0,
        })
    }

    /// Takes a token, gives what has become clear, and tells whether more is wanted.
    pub fn take(&mut self, chosen: Chosen<'_>) -> bool {
        let is_reasoning = self.parser.is_reasoning();
        self.n_reasoning += usize::from(is_reasoning);
        if self.is_written(chosen.token) {
            if let (Some(n), false) = (self.n_others, is_reasoning) {
                let found = logprobs::of(chosen, n, self.tokenizer);
                self.out.tokens.push(found);
            }
            let out = &mut self.out;
            self.parser.push(chosen.bytes, &mut |event| out.give(event));
        }
        let out = &mut self.out;
        out.is_heard &= !out.work.has_left();
        out.is_heard && !out.is_enough && out.stops.stopped().is_none()
    }

    /// Whether a token is part of what is written: one of control only where it means something.
    fn is_written(&self, token: TokenId) -> bool {
        let (marks, parser) = (&self.marks, &self.parser);
        match Some(token) {
            mark if mark == marks.end_think => parser.is_reasoning(),
            mark if mark == marks.think => parser.is_fresh(),
            _ => !self.tokenizer.is_control(token),
        }
    }

    /// Tokens of the reasoning so far.
    pub fn n_reasoning(&self) -> usize {
        self.n_reasoning
    }

    /// Gives the rest and tells how the answer ended; `None` when nobody hears it.
    pub fn finish(self, stop: Stop) -> Option<Finish> {
        let mut out = self.out;
        let end = match stop {
            Stop::EndOfTurn => End::Whole,
            Stop::Length | Stop::ContextFull | Stop::Asked => End::Cut,
        };
        if out.stops.stopped().is_none() && !out.is_enough {
            self.parser.finish(end, &mut |event| out.give(event));
        }
        // The rest may bring a stop string too.
        let stopped = out.stops.stopped().map(str::to_owned);
        out.flush();
        if !out.is_heard {
            return None;
        }
        let is_done = out.is_enough || matches!(stop, Stop::EndOfTurn | Stop::Asked);
        Some(match (stopped, stop) {
            (Some(found), _) => Finish::StopString(found),
            _ if is_done && out.n_calls > 0 => Finish::Calls,
            _ if is_done => Finish::EndOfTurn,
            (None, Stop::ContextFull) => Finish::ContextFull,
            _ => Finish::Length,
        })
    }
}

impl Out<'_> {
    fn give(&mut self, event: Event<'_>) {
        if self.is_enough {
            return;
        }
        match event {
            Event::Reasoning(text) => self.send(Part::Reasoning(text.to_owned())),
            Event::Text(text) => {
                let text = self.stops.push(text).to_owned();
                self.send_text(text);
            }
            Event::CallBegin(_) if self.work.ask.most_calls == Some(0) => {
                self.flush();
                self.is_enough = true;
                let what = "a call of a tool is left out: none was wanted";
                self.send(Part::Warning(what.into()));
            }
            Event::CallBegin(name) => {
                self.flush();
                self.n_calls += 1;
                self.send(Part::CallBegin(name.to_owned()));
            }
            Event::CallArguments(more) => self.send(Part::CallArguments(more.to_owned())),
            Event::CallEnd => {
                self.tokens.clear();
                self.send(Part::CallEnd);
                let most = self.work.ask.most_calls;
                self.is_enough = most.is_some_and(|most| self.n_calls >= most);
            }
            Event::CallCut(closing) => self.send(Part::CallCut(closing)),
            Event::Warning(what) => self.send(Part::Warning(what.to_owned())),
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
