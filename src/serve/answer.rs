//! The thread that has the engine: it takes one question after the other and answers it.

use super::answer_text::AnswerText;
use super::ask::{Ask, Done, Finish, Part, Reading};
use super::board::Board;
use super::desk::{Desk, Work};
use super::live::{Live, Which};
use super::logprobs;
use super::own::OwnAnswers;
use crate::engine::answer::{AnswerParser, End, Event};
use crate::engine::chat::{Call, Chat};
use crate::engine::{Chosen, Engine, Form, GuideVocabulary, Prefill, Sampler, Stop, guide};
use crate::error::{Error, ErrorKind, Result};
use crate::units::TokenId;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How late a stop may be noticed, and how often the board is brought up to date when nothing is asked.
const TICK: Duration = Duration::from_millis(100);

/// A warning: JSON that was begun is none.
const CUT_FORM: &str = "the answer was cut before it was whole, so that it may be no JSON";

/// Between two reports of how far a prompt is read.
const READING_INTERVAL: Duration = Duration::from_millis(200);

/// Who answers.
pub struct Answerer<'a> {
    /// What computes.
    pub engine: Engine,
    /// What it holds already.
    pub live: Live,
    /// Its answers in the tokens that it chose.
    pub own: OwnAnswers,
    /// What answers of a given form are made of; none where the vocabulary does not allow it.
    pub guided: Option<Arc<GuideVocabulary>>,
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
            // It comes to light without a request.
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
        if let Some(n_own) = ask.echo {
            return self.echo(work, n_own, &mut sampler);
        }
        let own = self.own.put_into(&ask.tokens, &ask.places.answers);
        let own = own.filter(|own| own.len() <= self.engine.ctx());
        let prompt = own.map_or(Cow::Borrowed(ask.tokens.as_slice()), Cow::Owned);
        let which = self.live.take(&mut self.engine, &prompt, &mut |text| {
            (self.note)(text);
        })?;
        let n_held = self.live.session(which).tokens().len();
        // Clients count the tokens of the text; what is told to be new is what was computed.
        let n_computed = prompt.len() - n_held;
        let n_cached = match n_held {
            0 => 0,
            _ => ask.tokens.len().saturating_sub(n_computed),
        };
        work.give(Part::Started { n_cached });
        if self.read(work, &prompt, which)? == Prefill::Stopped {
            return Ok(None);
        }
        self.generate(work, &prompt, which, &mut sampler, n_cached)
    }

    /// Gives the prompt as the beginning of the text, with the log-probabilities of its tokens if they are wanted, for which
    /// all of it is computed.
    fn echo(&mut self, work: &Work, n_own: usize, sampler: &mut Sampler) -> Result<Option<Done>> {
        let ask = &work.ask;
        let (prompt, own) = (ask.tokens.as_slice(), n_own.min(ask.tokens.len()));
        let mut note = |text: &str| (self.note)(text);
        // Nothing is known behind a single token, so the session is empty.
        let asked = &prompt[..if ask.logprobs.is_some() {
            1
        } else {
            prompt.len()
        }];
        let which = self.live.take(&mut self.engine, asked, &mut note)?;
        let n_cached = self.live.session(which).tokens().len();
        work.give(Part::Started { n_cached });
        let tokenizer = self.engine.tokenizer().clone();
        let mut tokens = Vec::new();
        match ask.logprobs {
            None => {
                if self.read(work, prompt, which)? == Prefill::Stopped {
                    return Ok(None);
                }
            }
            Some(n) => {
                let one = |token: TokenId, logits: &[f32]| {
                    let bytes = tokenizer.token_bytes(token);
                    let chosen = Chosen {
                        token,
                        bytes,
                        logits,
                    };
                    logprobs::of(chosen, n, &tokenizer)
                };
                if own == 0 {
                    tokens.push(logprobs::unknown(tokenizer.token_bytes(prompt[0])));
                }
                let (began, mut at) = (Instant::now(), 0);
                let mut take = |logits: &[f32]| {
                    at += 1;
                    if let Some(token) = prompt.get(at).filter(|_| at >= own) {
                        tokens.push(one(*token, logits));
                    }
                    match work.has_left() {
                        true => Err(Error::new(ErrorKind::Closed, "the asker has left")),
                        false => Ok(()),
                    }
                };
                let session = self.live.session(which);
                let (before, last) = prompt.split_at(prompt.len() - 1);
                match self.engine.prefill_all_logits(session, before, &mut take) {
                    Err(error) if error.kind() == ErrorKind::Closed => return Ok(None),
                    done => done?,
                }
                // Its logits are those of the answer.
                self.engine.prefill(session, last, &mut |_| true)?;
                self.board.read(prompt.len(), began.elapsed());
            }
        }
        let text = tokenizer.decode(&prompt[own..]);
        work.give(Part::Text(
            String::from_utf8_lossy(&text).into_owned(),
            tokens,
        ));
        self.generate(work, prompt, which, sampler, n_cached)
    }

    fn sampler(&self, ask: &Ask) -> Result<Sampler> {
        let mut sampler = Sampler::new(ask.sampling)?;
        sampler.set_adjust(ask.adjust.clone(), &ask.tokens)?;
        if let Some(form) = &ask.held {
            let vocabulary = self.guided.clone().ok_or_else(|| {
                Error::unsupported(
                    "no answer of a given form with this vocabulary: it has no end token",
                )
            })?;
            let end_think = Chat::new(self.engine.tokenizer())?.end_think();
            let begins_behind = ask.reasoning.then_some(end_think);
            sampler.set_guide(Some(guide(vocabulary, form, begins_behind)?));
        }
        Ok(sampler)
    }

    /// Reads what the session does not hold of the prompt, and keeps points: where the system text ends, between sweeps, and
    /// in front of the last token, which opens the answer and may be another one when the conversation goes on.
    fn read(&mut self, work: &Work, tokens: &[TokenId], which: Which) -> Result<Prefill> {
        let shared = &work.ask.places.shared;
        let session = self.live.session(which);
        let (first, last) = (session.tokens().len(), tokens.len() - 1);
        if first == last {
            let state = self.engine.checkpoint(session)?;
            self.live.keep_point(which, state, shared.contains(&last));
        }
        let (began, mut told) = (Instant::now(), None::<Instant>);
        let mut read_to = first;
        while read_to < tokens.len() {
            let end = tokens.len().min(read_to + self.engine.sweep());
            let mut marks = shared.clone();
            marks.push(end.min(last));
            marks.retain(|mark| (read_to + 1..=end).contains(mark));
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
            session.mark(&marks);
            let piece = &tokens[read_to..end];
            if self.engine.prefill(session, piece, &mut tell)? == Prefill::Stopped {
                return Ok(Prefill::Stopped);
            }
            for state in session.take_marked() {
                let is_shared = shared.contains(&state.n_tokens());
                self.live.keep_point(which, state, is_shared);
            }
            read_to = end;
        }
        self.board.read(tokens.len() - first, began.elapsed());
        Ok(Prefill::Done)
    }

    fn generate(
        &mut self,
        work: &Work,
        prompt: &[TokenId],
        which: Which,
        sampler: &mut Sampler,
        n_cached: usize,
    ) -> Result<Option<Done>> {
        let ask = &work.ask;
        let session = self.live.session(which);
        let most = ask.max_tokens.unwrap_or(usize::MAX);
        // The last token is chosen, but need not fit.
        let within = most.min(session.room() + 1);
        let tokenizer = self.engine.tokenizer().clone();
        let mut text = AnswerText::new(work, &tokenizer)?;
        let (board, began) = (self.board, Instant::now());
        let mut answer = Vec::new();
        let mut emit = |chosen: Chosen<'_>| {
            answer.push(chosen.token);
            board.decoding(answer.len(), within, began.elapsed());
            Ok(text.take(chosen))
        };
        let generated = self.engine.generate(session, sampler, most, &mut emit)?;
        let is_cut = matches!(generated.stop, Stop::Length | Stop::ContextFull);
        if is_cut && matches!(ask.held, Some(Form::Json(_) | Form::Schema(_))) {
            work.give(Part::Warning(CUT_FORM.into()));
        }
        let n_reasoning = text.n_reasoning();
        let finish = text.finish(generated.stop);
        // A stop string and what follows it do not come back.
        let is_whole = !matches!(finish, None | Some(Finish::StopString(_)));
        self.live
            .answered(which, is_whole && ask.places.answer_stays);
        let n_answer = answer.len();
        if is_whole {
            let end = match generated.stop {
                Stop::EndOfTurn => End::Whole,
                Stop::Length | Stop::ContextFull | Stop::Asked => End::Cut,
            };
            self.keep_own(ask, prompt, answer, end)?;
        }
        Ok(finish.map(|finish| Done {
            finish,
            n_prompt: ask.tokens.len(),
            n_cached,
            n_answer,
            n_reasoning,
        }))
    }

    /// Keeps the tokens of an answer, as the next prompt will bring its text only.
    fn keep_own(
        &mut self,
        ask: &Ask,
        prompt: &[TokenId],
        answer: Vec<TokenId>,
        end: End,
    ) -> Result<()> {
        let tokenizer = self.engine.tokenizer();
        let chat = Chat::new(tokenizer)?;
        let [prefix @ .., opener] = prompt else {
            return Ok(());
        };
        if prefix.last() != Some(&chat.assistant()) {
            return Ok(());
        }
        let mut said = Said::default();
        let mut parser = AnswerParser::new(ask.reasoning, ask.tools);
        for token in &answer {
            let bytes = tokenizer.token_bytes(*token);
            parser.push(bytes, &mut |event| said.take(event));
        }
        let mut chosen = [&[*opener], answer.as_slice()].concat();
        if parser.is_reasoning() {
            // It was cut there; prompts end it.
            chosen.push(chat.end_think());
        }
        parser.finish(end, &mut |event| said.take(event));
        let plain = chat.answer(*opener, &said.reasoning, &said.content, &said.calls);
        self.own.keep(prefix, plain, chosen);
        Ok(())
    }
}

/// An answer as a client sends it back.
#[derive(Default)]
struct Said {
    reasoning: String,
    content: String,
    calls: Vec<Call>,
    /// The call that is being read: its name, and its arguments so far.
    call: (String, String),
}

impl Said {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Reasoning(more) => self.reasoning += more,
            Event::Text(more) => self.content += more,
            Event::CallBegin(name) => self.call = (name.to_owned(), String::new()),
            Event::CallArguments(more) => self.call.1 += more,
            Event::CallEnd => self.end_call(),
            Event::CallCut(closing) => {
                self.call.1 += closing;
                self.end_call();
            }
            Event::Warning(_) => {}
        }
    }

    fn end_call(&mut self) {
        let (name, arguments) = std::mem::take(&mut self.call);
        self.calls.push(Call::from_history("", &name, &arguments));
    }
}
