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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tokenizer::Special;
    use crate::gguf::Gguf;
    use crate::os::File;
    use crate::serve::ask::Ask;
    use crate::serve::desk::{Desk, Next};
    use crate::text::vocabulary::Vocabulary;
    use std::path::Path;
    use std::time::Duration;

    fn tokenizer() -> Tokenizer {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dsv4-vocab.gguf");
        let gguf = Gguf::read(&File::open(&path).unwrap()).unwrap();
        Tokenizer::new(Vocabulary::read(&gguf).unwrap()).unwrap()
    }

    fn ask() -> Ask {
        Ask {
            tools: true,
            ..Ask::default()
        }
    }

    /// What a client gets of an answer: reasoning, text, calls with their arguments, warnings, how it ended and after how
    /// many tokens.
    #[derive(Debug, Default, PartialEq)]
    struct Got {
        reasoning: String,
        text: String,
        calls: String,
        n_warnings: usize,
        n_tokens: usize,
        finish: Option<Finish>,
    }

    /// The answer that the tokens of a text make, special ones spelled out.
    fn answer(tokenizer: &Tokenizer, ask: Ask, text: &str, stop: Stop) -> Got {
        let desk = Desk::new(1);
        let ticket = desk.enter(ask).unwrap();
        let work = desk.next(Duration::ZERO).unwrap();
        let mut got = Got::default();
        let mut answer = AnswerText::new(&work, tokenizer).unwrap();
        let logits = vec![0.0; tokenizer.len()];
        let mut stop = stop;
        for token in tokenizer.encode(text, Special::Parse) {
            got.n_tokens += 1;
            let chosen = Chosen {
                token,
                bytes: tokenizer.token_bytes(token),
                logits: &logits,
            };
            if !answer.take(chosen) {
                stop = Stop::Asked;
                break;
            }
        }
        got.finish = answer.finish(stop);
        while let Next::Part(part) = ticket.next(Duration::ZERO) {
            match part {
                Part::Reasoning(more) => got.reasoning += &more,
                Part::Text(more, _) => got.text += &more,
                Part::CallBegin(name) => got.calls += &format!("{name}("),
                Part::CallArguments(more) => got.calls += &more,
                Part::CallEnd => got.calls += ")",
                Part::CallCut(closing) => got.calls += &format!("..{closing}"),
                Part::Warning(_) => got.n_warnings += 1,
                other => panic!("{other:?}"),
            }
        }
        got
    }

    const CALLS: &str = "I look.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" \
                         string=\"true\">x</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"g\">\n\n\
                         </｜DSML｜invoke>\n</｜DSML｜tool_calls>";

    #[test]
    fn control_tokens_are_no_text_but_where_they_mean_something() {
        let tokenizer = tokenizer();
        let hi = "<｜tool▁sep｜>H</think>i<｜place▁holder▁no▁9｜><｜fim▁hole｜><think>!";
        let got = answer(&tokenizer, ask(), hi, Stop::EndOfTurn);
        assert_eq!((got.text.as_str(), got.reasoning.as_str()), ("Hi!", ""));
        assert_eq!((got.n_warnings, got.finish), (0, Some(Finish::EndOfTurn)));
        // Reasoning that the model opens itself, and that the prompt opened.
        let got = answer(&tokenizer, ask(), "\n<think>r</think>t", Stop::EndOfTurn);
        assert_eq!((got.reasoning.as_str(), got.text.as_str()), ("r", "t"));
        let asked = Ask {
            reasoning: true,
            ..ask()
        };
        let got = answer(
            &tokenizer,
            asked,
            "<think>r</think>t</think>",
            Stop::EndOfTurn,
        );
        assert_eq!((got.reasoning.as_str(), got.text.as_str()), ("r", "t"));
        // Without tools the markup is text, and its mark stays.
        let asked = Ask {
            tools: false,
            ..ask()
        };
        assert_eq!(
            answer(&tokenizer, asked, CALLS, Stop::EndOfTurn).text,
            CALLS
        );
    }

    #[test]
    fn no_more_calls_come_than_are_wanted() {
        let tokenizer = tokenizer();
        let with = |most_calls| {
            let ask = Ask {
                most_calls,
                ..ask()
            };
            answer(&tokenizer, ask, CALLS, Stop::EndOfTurn)
        };
        let all = with(None);
        assert_eq!(all.calls, "f({\"a\": \"x\"})g({})");
        assert_eq!(
            (all.n_warnings, all.finish.clone()),
            (0, Some(Finish::Calls))
        );
        let one = with(Some(1));
        assert_eq!(
            (one.calls.as_str(), one.n_warnings),
            ("f({\"a\": \"x\"})", 0)
        );
        assert_eq!(one.finish, Some(Finish::Calls));
        let none = with(Some(0));
        assert_eq!((none.calls.as_str(), none.text.as_str()), ("", "I look."));
        assert_eq!((none.n_warnings, none.finish), (1, Some(Finish::EndOfTurn)));
        assert!(none.n_tokens < one.n_tokens && one.n_tokens < all.n_tokens);
        assert_eq!(with(Some(2)).calls, all.calls);
    }

    #[test]
    fn a_cut_answer_is_no_turn() {
        let tokenizer = tokenizer();
        let cut = |at: &str, stop| {
            let end = CALLS.find(at).unwrap();
            answer(&tokenizer, ask(), &CALLS[..end], stop)
        };
        let got = cut("x</", Stop::Length);
        assert_eq!(
            (got.calls.as_str(), got.n_warnings),
            ("f({\"a\": \"..\"}", 1)
        );
        assert_eq!(got.finish, Some(Finish::Length));
        let got = cut("invoke", Stop::ContextFull);
        assert_eq!((got.calls.as_str(), got.text.as_str()), ("", "I look."));
        assert_eq!((got.n_warnings, got.finish), (1, Some(Finish::ContextFull)));
    }
}
