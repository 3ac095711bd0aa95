//! From a question to its answers: the wait in the line, the parts as they come, the client that may leave.

use super::fault::Fault;
use super::ids;
use crate::error::Result;
use crate::http::{Events, Framing, Responder, Status};
use crate::json::object::{Json, list};
use crate::serve::ask::{Ask, Done, Finish, Part, Reading, TokenLogprob};
use crate::serve::desk::{Desk, Next, Refused, Ticket};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often a wait for the engine looks whether the client is still there. One that sends nothing more may have left: it is
/// sent something as often, which a client that left refuses.
const TICK: Duration = Duration::from_millis(250);

/// Parts that come within this time are sent together: to wake the thread that sends costs the one that computes.
const GATHERING: Duration = Duration::from_millis(4);

/// A client that waits hears something this often.
const BEAT: Duration = Duration::from_secs(1);

/// And something that no client drops this often. The first time is sooner: each time doubles up to this one.
const SIGN: Duration = Duration::from_secs(5);

/// What fails within this time of an unstreamed question has a status of its own. Then the status is told, for the sake of
/// clients that give up when none comes, and what fails later is told in the body.
const EARLY: Duration = Duration::from_millis(500);

/// What a client that waits for an unstreamed answer gets: JSON may begin with it.
const SPACE: &[u8] = b" ";

/// What a request came to.
pub struct Question {
    /// What the engine is asked, one after the other; at least one.
    pub asks: Vec<Ask>,
    /// Whether the answers are told as they come.
    pub streams: bool,
    /// How they are told.
    pub dialect: Box<dyn Dialect>,
    /// What the client should know, though it is no fault.
    pub warnings: Vec<String>,
}

/// How an API tells answers. What is to be sent goes to `out`; of an answer in one piece the same is told in parts first,
/// and `out` is dropped.
pub trait Dialect {
    /// What makes a stream.
    fn framing(&self) -> Framing {
        Framing::ServerSent
    }
    /// What ids of calls begin with.
    fn call_prefix(&self) -> &'static str;
    /// All answers in one piece, and the figures of all of them.
    fn whole(&mut self, answers: &[Answer], total: &Done) -> Json;
    /// Instead of that: the engine could not go on.
    fn failure(&mut self, fault: &Fault) -> Json;
    /// The stream begins; nothing is known yet but the first question.
    fn begin(&mut self, ask: &Ask, out: &mut Vec<Event>);
    /// The engine begins with an answer, and has so many tokens of the prompt.
    fn started(&mut self, _n_cached: usize, _out: &mut Vec<Event>) {}
    /// The client still waits.
    fn beat(&mut self, _out: &mut Vec<Event>) {}
    /// The client still waits, and is to hear something that no client drops.
    fn waiting(&mut self, out: &mut Vec<Event>);
    /// The answer to the question of this number begins.
    fn next_answer(&mut self, _index: usize, _out: &mut Vec<Event>) {}
    /// More of the reasoning.
    fn reasoning(&mut self, more: &str, out: &mut Vec<Event>);
    /// More of the text.
    fn text(&mut self, more: &str, logprobs: &[TokenLogprob], out: &mut Vec<Event>);
    /// A call begins; nothing is known of its arguments.
    fn call_begin(&mut self, call: &Called, out: &mut Vec<Event>);
    /// More of its arguments, which it holds already.
    fn call_arguments(&mut self, call: &Called, more: &str, out: &mut Vec<Event>);
    /// It ends.
    fn call_end(&mut self, call: &Called, out: &mut Vec<Event>);
    /// An answer ends; all of it was told.
    fn end_answer(&mut self, answer: &Answer, done: &Done, out: &mut Vec<Event>);
    /// The stream ends: the figures of all answers.
    fn end(&mut self, _total: &Done, _out: &mut Vec<Event>) {}
    /// The stream ends because the engine could not go on.
    fn failed(&mut self, fault: &Fault, out: &mut Vec<Event>);
}

/// An event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its name; empty for one without.
    pub name: &'static str,
    /// What it says.
    pub data: String,
}

impl Event {
    /// An event that says a value.
    pub fn new(name: &'static str, data: &Json) -> Event {
        Event {
            name,
            data: data.to_string(),
        }
    }
}

/// What came of an answer so far.
#[derive(Debug, Default)]
pub struct Answer {
    /// What came before the text.
    pub reasoning: String,
    /// The text.
    pub text: String,
    /// The tokens of the text, if they were asked for and the answer is not streamed.
    pub logprobs: Vec<TokenLogprob>,
    /// The tools called.
    pub calls: Vec<Called>,
    /// What the client should know.
    pub warnings: Vec<String>,
    /// Its figures, when it is whole.
    pub done: Option<Done>,
}

/// A call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Called {
    /// Its name in this conversation.
    pub id: String,
    /// The tool.
    pub name: String,
    /// The arguments: one JSON object, or as much of it as came.
    pub arguments: String,
    /// The answer was cut in the call; this makes JSON of the arguments.
    pub cut: Option<&'static str>,
}

impl Called {
    /// The arguments as JSON, closed where they were cut.
    pub fn closed(&self) -> String {
        format!("{}{}", self.arguments, self.cut.unwrap_or(""))
    }
}

/// What there is to say while nothing comes.
enum Stage {
    Waiting,
    Reading(Reading),
    Answering,
}

/// What a look for parts came to.
enum Look {
    /// Nothing came.
    Nothing,
    /// Something came.
    More,
    /// All answers are whole.
    All,
    /// There is no more, and why.
    Broken(Fault),
}

/// Questions that are being answered.
struct Asking<'a> {
    desk: &'a Desk,
    /// What is still to be asked.
    asks: VecDeque<Ask>,
    /// For each question whether its prompt is another one than that before it.
    is_new_prompt: Vec<bool>,
    /// The question at the desk; none while that is full.
    ticket: Option<Ticket>,
    dialect: Box<dyn Dialect>,
    /// The last one is being given; at least one.
    answers: Vec<Answer>,
    /// The figures of those that are whole.
    total: Done,
    stage: Stage,
    keeps_logprobs: bool,
    /// What a stream begins with.
    begun: Vec<Event>,
}

/// Asks and answers.
///
/// Errors: there is no answer, and nothing was sent. That the client left is none.
pub fn reply(
    question: Question,
    desk: &Desk,
    responder: &mut Responder<'_>,
) -> std::result::Result<(), Fault> {
    let streams = question.streams;
    let mut asking = Asking::new(question, desk)?;
    if streams {
        // Errors only tell that the client left.
        let _ = stream(&mut asking, responder);
        return Ok(());
    }
    let begin = Instant::now();
    let fields = [("content-type", "application/json")];
    loop {
        if responder.is_gone() {
            return Ok(());
        }
        let early = if responder.is_half_closed() {
            TICK
        } else {
            EARLY
        };
        let left = early.saturating_sub(begin.elapsed());
        if left.is_zero() {
            break;
        }
        match asking.look(TICK.min(left), &mut Vec::new()) {
            Look::Nothing | Look::More => {}
            Look::Broken(fault) => return Err(fault),
            Look::All => {
                let json = asking.whole().to_string();
                let _ = responder.respond(Status::Ok, &fields, json.as_bytes());
                return Ok(());
            }
        }
    }
    let _ = late(&mut asking, &fields, responder);
    Ok(())
}

/// An answer in one piece whose status is told before it is known.
fn late(
    asking: &mut Asking<'_>,
    fields: &[(&str, &str)],
    responder: &mut Responder<'_>,
) -> Result<()> {
    let mut body = responder.stream(Status::Ok, fields)?;
    let mut heard = Instant::now();
    let json = loop {
        if body.is_gone() {
            return Ok(());
        }
        match asking.look(TICK, &mut Vec::new()) {
            Look::Nothing | Look::More => {}
            Look::Broken(fault) => break asking.dialect.failure(&fault),
            Look::All => break asking.whole(),
        }
        let sign = if body.is_half_closed() { TICK } else { SIGN };
        if heard.elapsed() >= sign {
            body.write(SPACE)?;
            heard = Instant::now();
        }
    };
    body.write(json.to_string().as_bytes())?;
    body.finish()
}

fn stream(asking: &mut Asking<'_>, responder: &mut Responder<'_>) -> Result<()> {
    let framing = asking.dialect.framing();
    let mut events = responder.events(framing, &[])?;
    let mut out = std::mem::take(&mut asking.begun);
    let (mut heard, mut data) = (Instant::now(), Instant::now());
    let mut sign = BEAT;
    let mut last = None;
    while last.is_none() && !events.is_gone() {
        if !out.is_empty() {
            (data, sign) = (Instant::now(), BEAT);
        }
        let is_half_closed = events.is_half_closed();
        if heard.elapsed() >= if is_half_closed { TICK } else { BEAT } {
            events.comment(&asking.stage.describe(asking.desk))?;
            asking.dialect.beat(&mut out);
            heard = Instant::now();
            let is_all = framing == Framing::Lines;
            if data.elapsed() >= sign || (is_all && is_half_closed) {
                asking.dialect.waiting(&mut out);
                (data, sign) = (heard, SIGN.min(sign * 2));
            }
        }
        if !out.is_empty() {
            send(&mut out, &mut events)?;
            heard = Instant::now();
            if matches!(asking.stage, Stage::Answering) {
                std::thread::sleep(GATHERING);
            }
        }
        let mut patience = TICK;
        loop {
            match asking.look(patience, &mut out) {
                Look::Nothing => break,
                Look::More => patience = Duration::ZERO,
                Look::All => {
                    last = Some(Ok(()));
                    break;
                }
                Look::Broken(fault) => {
                    last = Some(Err(fault));
                    break;
                }
            }
        }
    }
    match last {
        None => return Ok(()),
        Some(Ok(())) => asking.dialect.end(&asking.total, &mut out),
        Some(Err(fault)) => asking.dialect.failed(&fault, &mut out),
    }
    send(&mut out, &mut events)?;
    events.finish()
}

impl<'a> Asking<'a> {
    /// Puts the first question to the desk.
    fn new(question: Question, desk: &'a Desk) -> std::result::Result<Asking<'a>, Fault> {
        let mut asks = VecDeque::from(question.asks);
        let is_new = |i: usize| i == 0 || asks[i].tokens != asks[i - 1].tokens;
        let is_new_prompt = (0..asks.len()).map(is_new).collect();
        let first = asks.pop_front();
        let first = first.ok_or_else(|| Fault::Request("prompt: found none".into()))?;
        let (mut dialect, mut begun) = (question.dialect, Vec::new());
        dialect.begin(&first, &mut begun);
        dialect.next_answer(0, &mut begun);
        let answer = Answer {
            warnings: question.warnings,
            ..Answer::default()
        };
        Ok(Asking {
            desk,
            ticket: Some(desk.enter(first)?),
            asks,
            is_new_prompt,
            dialect,
            begun,
            answers: vec![answer],
            total: Done {
                finish: Finish::EndOfTurn,
                n_prompt: 0,
                n_cached: 0,
                n_answer: 0,
                n_reasoning: 0,
            },
            stage: Stage::Waiting,
            keeps_logprobs: !question.streams,
        })
    }

    /// Waits for parts up to `patience`, and takes one.
    fn look(&mut self, patience: Duration, out: &mut Vec<Event>) -> Look {
        let Some(ticket) = &self.ticket else {
            return self.ask_next(patience, out);
        };
        let part = match ticket.next(patience) {
            Next::Nothing => return Look::Nothing,
            Next::Gone => return Look::Broken(self.closed()),
            Next::Part(part) => part,
        };
        match &part {
            Part::Reading(reading) => self.stage = Stage::Reading(*reading),
            Part::Started { .. } => {}
            _ => self.stage = Stage::Answering,
        }
        let index = self.answers.len() - 1;
        let answer = &mut self.answers[index];
        if let (true, Part::Text(_, logprobs)) = (self.keeps_logprobs, &part) {
            answer.logprobs.extend_from_slice(logprobs);
        }
        match answer.take(part, &mut *self.dialect, out) {
            None => Look::More,
            Some(Err(fault)) => Look::Broken(fault),
            Some(Ok(done)) => {
                if done.finish == Finish::ContextFull {
                    answer.warn("the answer ends where the context is full".into());
                }
                self.dialect.end_answer(answer, &done, out);
                add(&mut self.total, &done, self.is_new_prompt[index]);
                answer.done = Some(done);
                self.ticket = None;
                match self.asks.is_empty() {
                    true => Look::All,
                    false => self.ask_next(Duration::ZERO, out),
                }
            }
        }
    }

    /// Puts the next question to the desk, which may be full.
    fn ask_next(&mut self, patience: Duration, out: &mut Vec<Event>) -> Look {
        let Some(ask) = self.asks.front().cloned() else {
            return Look::All;
        };
        match self.desk.enter(ask) {
            Err(Refused::Full { .. }) => {
                std::thread::sleep(patience);
                return Look::Nothing;
            }
            Err(refused) => return Look::Broken(refused.into()),
            Ok(ticket) => self.ticket = Some(ticket),
        }
        self.asks.pop_front();
        self.stage = Stage::Waiting;
        self.dialect.next_answer(self.answers.len(), out);
        self.answers.push(Answer::default());
        Look::More
    }

    /// Why a question was dropped.
    fn closed(&self) -> Fault {
        let closed = self.desk.closed().map(|(why, _)| why);
        Fault::Closed(closed.unwrap_or_else(|| "the server ends".into()))
    }

    fn whole(&mut self) -> Json {
        self.dialect.whole(&self.answers, &self.total)
    }
}

/// Adds the figures of an answer. A prompt counts once for all answers to it.
fn add(total: &mut Done, done: &Done, is_new_prompt: bool) {
    total.finish = done.finish.clone();
    total.n_answer += done.n_answer;
    total.n_reasoning += done.n_reasoning;
    if is_new_prompt {
        total.n_prompt += done.n_prompt;
        total.n_cached += done.n_cached;
    }
}

impl Answer {
    /// Takes a part in and tells it. The last one is given back: the figures, or why the engine could not go on.
    fn take(
        &mut self,
        part: Part,
        dialect: &mut dyn Dialect,
        out: &mut Vec<Event>,
    ) -> Option<std::result::Result<Done, Fault>> {
        match part {
            Part::Started { n_cached } => dialect.started(n_cached, out),
            Part::Reading(_) => {}
            Part::Reasoning(more) => {
                dialect.reasoning(&more, out);
                self.reasoning += &more;
            }
            Part::Text(more, logprobs) => {
                dialect.text(&more, &logprobs, out);
                self.text += &more;
            }
            Part::Warning(what) => self.warn(what),
            Part::CallBegin(name) => {
                let call = Called {
                    id: ids::id(dialect.call_prefix()),
                    name,
                    ..Called::default()
                };
                dialect.call_begin(&call, out);
                self.calls.push(call);
            }
            Part::CallArguments(more) => {
                if let Some(call) = self.calls.last_mut() {
                    call.arguments += &more;
                    dialect.call_arguments(call, &more, out);
                }
            }
            Part::CallEnd => {
                if let Some(call) = self.calls.last() {
                    dialect.call_end(call, out);
                }
            }
            Part::CallCut(closing) => {
                if let Some(call) = self.calls.last_mut() {
                    call.cut = Some(closing);
                    dialect.call_end(call, out);
                }
            }
            Part::Done(done) => return Some(Ok(done)),
            Part::Failed(why) => return Some(Err(Fault::Engine(why))),
        }
        None
    }

    /// Adds a warning, unless it is there.
    fn warn(&mut self, what: String) {
        if !self.warnings.contains(&what) {
            self.warnings.push(what);
        }
    }

    /// The warnings as a list, if there are some.
    pub fn warnings(&self) -> Option<Json> {
        let all = self.warnings.iter().map(Json::from);
        (!self.warnings.is_empty()).then(|| list(all))
    }
}

impl Stage {
    fn describe(&self, desk: &Desk) -> String {
        match self {
            Stage::Waiting => format!("waiting for the engine, {} in line", desk.n_waiting()),
            // At first nobody knows how fast it goes.
            Stage::Reading(Reading {
                done,
                all,
                tokens_per_s: 0.0,
            }) => format!("prefill {done}/{all} tokens"),
            Stage::Reading(reading) => format!(
                "prefill {}/{} tokens, {:.1} t/s, {:.0} s left",
                reading.done,
                reading.all,
                reading.tokens_per_s,
                reading.seconds_left()
            ),
            Stage::Answering => "answering".into(),
        }
    }
}

fn send(out: &mut Vec<Event>, events: &mut Events<'_, '_>) -> Result<()> {
    out.drain(..)
        .for_each(|event| events.put(event.name, &event.data));
    events.send()
}

#[cfg(test)]
mod tests {
    use super::super::chat_answer::ChatAnswer;
    use super::*;
    use crate::engine::SamplerOptions;
    use crate::units::TokenId;

    fn ask(seed: u64, token: u32) -> Ask {
        Ask {
            tokens: vec![TokenId(token)],
            sampling: SamplerOptions {
                seed,
                ..SamplerOptions::default()
            },
            ..Ask::default()
        }
    }

    /// Answers each question by its seed.
    fn engine(desk: &Desk, n: usize) {
        let mut answered = 0;
        while answered < n {
            let Some(work) = desk.next(Duration::from_millis(10)) else {
                continue;
            };
            work.give(Part::Text(format!("{}", work.ask.sampling.seed), vec![]));
            work.give(Part::Done(Done {
                finish: Finish::EndOfTurn,
                n_prompt: 7,
                n_cached: 5,
                n_answer: 1,
                n_reasoning: 0,
            }));
            answered += 1;
        }
    }

    /// All that is told of three questions, the last of which has another prompt, and the answers in one piece.
    fn three(streams: bool) -> (Vec<String>, String) {
        // Nothing may wait besides: later questions find the desk full at times.
        let desk = Desk::new(1);
        std::thread::scope(|scope| {
            scope.spawn(|| engine(&desk, 3));
            let question = Question {
                asks: vec![ask(11, 1), ask(12, 1), ask(13, 2)],
                streams,
                dialect: Box::new(ChatAnswer::new("m", true, false)),
                warnings: vec!["w".into()],
            };
            let mut asking = Asking::new(question, &desk).unwrap();
            let mut out = std::mem::take(&mut asking.begun);
            loop {
                match asking.look(TICK, &mut out) {
                    Look::All => break,
                    Look::Broken(fault) => panic!("{fault:?}"),
                    Look::Nothing | Look::More => {}
                }
            }
            asking.dialect.end(&asking.total, &mut out);
            let whole = asking.whole().to_string();
            (out.into_iter().map(|event| event.data).collect(), whole)
        })
    }

    #[test]
    fn several_answers_come_one_after_the_other() {
        let (events, whole) = three(true);
        let index = |i: usize| format!("\"index\":{i},");
        for (i, text) in ["11", "12", "13"].iter().enumerate() {
            let of_this: Vec<&String> = events.iter().filter(|e| e.contains(&index(i))).collect();
            assert_eq!(of_this.len(), 3, "{events:?}");
            assert!(of_this[0].contains("\"role\":\"assistant\""));
            assert!(of_this[1].contains(&format!("{{\"content\":\"{text}\"}}")));
            assert!(of_this[2].contains("\"finish_reason\":\"stop\""));
            let choice = format!(
                "{}\"message\":{{\"role\":\"assistant\",\"content\":\"{text}\"",
                index(i)
            );
            assert!(whole.contains(&choice), "{whole}");
        }
        // A prompt counts once, however many answers it has.
        let usage = "\"prompt_tokens\":14,\"completion_tokens\":3,\"total_tokens\":17";
        assert!(
            whole.contains(usage) && events[9].contains(usage),
            "{whole}"
        );
        assert_eq!((events.len(), events[10].as_str()), (11, "[DONE]"));
        assert_eq!(whole.matches("infall_warnings").count(), 1);
        assert_eq!(three(false).1.matches("\"message\"").count(), 3);
    }

    #[test]
    fn no_time_is_told_before_it_can_be_known() {
        let reading = |done, tokens_per_s| {
            let all = 6004;
            Stage::Reading(Reading {
                done,
                all,
                tokens_per_s,
            })
        };
        let desk = Desk::new(1);
        assert_eq!(reading(0, 0.0).describe(&desk), "prefill 0/6004 tokens");
        let told = "prefill 1004/6004 tokens, 50.0 t/s, 100 s left";
        assert_eq!(reading(1004, 50.0).describe(&desk), told);
    }
}
