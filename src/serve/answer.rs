//! The thread that has the engine: it takes one question after the other and answers it.

use super::answer_text::AnswerText;
use super::ask::{Ask, Done, Part, Reading};
use super::board::Board;
use super::desk::{Desk, Work};
use super::live::{Live, Which};
use crate::engine::chat::Chat;
use crate::engine::{Chosen, Engine, JsonVocabulary, Prefill, Sampler, guide};
use crate::error::{Error, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How late a stop may be noticed, and how often the board is brought up to date when nothing is asked.
const TICK: Duration = Duration::from_millis(100);

/// Between two reports of how far a prompt is read.
const READING_INTERVAL: Duration = Duration::from_millis(200);

/// Who answers.
pub struct Answerer<'a> {
    /// What computes.
    pub engine: Engine,
    /// What it holds already.
    pub live: Live,
    /// What answers in JSON are made of; none where the vocabulary does not allow it.
    pub json: Option<Arc<JsonVocabulary>>,
    /// Where questions come from.
    pub desk: &'a Desk,
    /// Where it is told what happens.
    pub board: &'a Board,
    /// Where it is told what goes wrong and is no fault of a question.
    pub note: &'a dyn Fn(&str),
}

impl Answerer<'_> {
    /// Answers until `is_over`, then saves what is in memory. A model that cannot be read any more closes the desk.
    ///
    /// Errors: that it cannot.
    pub fn run(&mut self, is_over: &dyn Fn() -> bool) -> Result<()> {
        let mut health = Ok(());
        while !is_over() {
            if let Some(work) = self.desk.next(TICK) {
                self.answer(&work);
                self.desk.ended();
                self.board.settled(&self.engine);
            }
            // Nobody needs to ask for it to come to light.
            health = health.and_then(|()| self.look_at_model());
            self.board.rest(self.live.lengths());
        }
        // What a changed file would be asked for with.
        if health.is_ok() {
            self.live
                .save(&mut self.engine, &mut |text| (self.note)(text));
        }
        health
    }

    /// Closes the desk when the model cannot be read any more.
    ///
    /// Errors: that it cannot.
    fn look_at_model(&self) -> Result<()> {
        let found = self.engine.check();
        if let Err(error) = &found {
            self.desk.close(&error.to_string());
        }
        if let Some(told) = self.engine.take_note() {
            (self.note)(&told);
        }
        found
    }

    fn answer(&mut self, work: &Work) {
        self.board.begin(work.ask.tokens.len());
        let last = match self.try_answer(work) {
            Ok(Some(done)) => {
                self.board.end(&done);
                Part::Done(done)
            }
            Ok(None) => return self.board.cancelled(),
            Err(error) => {
                self.board.failed();
                if self.look_at_model().is_err() {
                    // The closed desk tells why.
                    return;
                }
                Part::Failed(error.to_string())
            }
        };
        work.give(last);
    }

    /// `None` when the asker has left.
    fn try_answer(&mut self, work: &Work) -> Result<Option<Done>> {
        let ask = &work.ask;
        if ask.tokens.is_empty() {
            return Err(Error::usage("the prompt is empty"));
        }
        let mut sampler = self.sampler(ask)?;
        let which = self.live.take(&mut self.engine, &ask.tokens, &mut |text| {
            (self.note)(text);
        })?;
        let n_cached = self.live.session(which).tokens().len();
        if self.read(work, which)? == Prefill::Stopped {
            return Ok(None);
        }
        self.generate(work, which, &mut sampler, n_cached)
    }

    fn sampler(&self, ask: &Ask) -> Result<Sampler> {
        let mut sampler = Sampler::new(ask.sampling)?;
        sampler.set_adjust(ask.adjust.clone(), &ask.tokens)?;
        if let Some(form) = &ask.held {
            let vocabulary = self.json.clone().ok_or_else(|| {
                Error::unsupported("no JSON with this vocabulary: it has no end token")
            })?;
            let end_think = Chat::new(self.engine.tokenizer())?.end_think();
            let begins_behind = ask.reasoning.then_some(end_think);
            sampler.set_guide(Some(guide(vocabulary, form, begins_behind)?));
        }
        Ok(sampler)
    }

    /// Reads what the session does not hold of the prompt, and keeps points: between sweeps, and in front of the last token,
    /// which opens the answer and may be another one when the conversation goes on.
    fn read(&mut self, work: &Work, which: Which) -> Result<Prefill> {
        let tokens = &work.ask.tokens;
        let session = self.live.session(which);
        let (first, last) = (session.tokens().len(), tokens.len() - 1);
        let (began, mut told) = (Instant::now(), None::<Instant>);
        let mut read_to = first;
        while read_to < tokens.len() {
            let end = match last {
                last if read_to == last => tokens.len(),
                last => last.min(read_to + self.engine.sweep()),
            };
            let mut tell = |done: usize| {
                let now = Instant::now();
                let seconds = (now - began).as_secs_f64();
                let reading = Reading {
                    done: read_to + done,
                    all: tokens.len(),
                    tokens_per_s: (read_to + done - first) as f64 / seconds.max(1e-9),
                };
                if told.is_none_or(|told| now - told >= READING_INTERVAL) {
                    told = Some(now);
                    self.board.reading(&reading);
                    return work.give(Part::Reading(reading));
                }
                !work.has_left()
            };
            let session = self.live.session(which);
            let piece = &tokens[read_to..end];
            if self.engine.prefill(session, piece, &mut tell)? == Prefill::Stopped {
                return Ok(Prefill::Stopped);
            }
            if end <= last {
                self.live.keep_point(&mut self.engine, which)?;
            }
            read_to = end;
        }
        self.board.read(tokens.len() - first, began.elapsed());
        Ok(Prefill::Done)
    }

    fn generate(
        &mut self,
        work: &Work,
        which: Which,
        sampler: &mut Sampler,
        n_cached: usize,
    ) -> Result<Option<Done>> {
        let ask = &work.ask;
        let session = self.live.session(which);
        // The last token is chosen, but need not fit.
        let most = ask.max_tokens.unwrap_or(usize::MAX).min(session.room() + 1);
        let tokenizer = self.engine.tokenizer().clone();
        let mut text = AnswerText::new(work, &tokenizer)?;
        let (board, began, mut n_answer) = (self.board, Instant::now(), 0);
        let mut emit = |chosen: Chosen<'_>| {
            n_answer += 1;
            board.decoding(n_answer, most, began.elapsed());
            Ok(text.take(chosen))
        };
        let generated = self.engine.generate(session, sampler, most, &mut emit)?;
        let n_reasoning = text.n_reasoning();
        let finish = text.finish(generated.stop);
        Ok(finish.map(|finish| Done {
            finish,
            n_prompt: ask.tokens.len(),
            n_cached,
            n_answer,
            n_reasoning,
        }))
    }
}
