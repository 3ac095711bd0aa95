//! From a question to its answer: the wait in the line, the parts as they come, the client that may leave.

use super::fault::Fault;
use super::ids;
use crate::engine::chat::Call;
use crate::error::Result;
use crate::http::{Events, Responder, Status};
use crate::json::object::{Json, list};
use crate::serve::ask::{Ask, Done, Part, Reading, TokenLogprob};
use crate::serve::desk::{Desk, Next, Ticket};
use std::time::{Duration, Instant};

/// How often a wait for the engine looks whether the client is still there.
const TICK: Duration = Duration::from_millis(250);

/// Parts that come within this time are sent together: to wake the thread that sends costs the one that computes.
const GATHERING: Duration = Duration::from_millis(4);

/// A client that waits hears something this often.
const BEAT: Duration = Duration::from_secs(1);

/// What a request came to.
pub struct Question {
    /// What the engine is asked.
    pub ask: Ask,
    /// Whether the answer is told as it comes.
    pub streams: bool,
    /// How it is told.
    pub dialect: Box<dyn Dialect>,
    /// What the client should know, though it is no fault.
    pub warnings: Vec<String>,
}

/// How an API tells an answer. What is to be sent goes to `out`.
pub trait Dialect {
    /// What ids of calls begin with.
    fn call_prefix(&self) -> &'static str;
    /// The answer in one piece; its parts were told before.
    fn whole(&mut self, answer: &Answer, done: &Done) -> Json;
    /// The stream begins; nothing is known yet.
    fn begin(&mut self, out: &mut Vec<Event>);
    /// The client still waits.
    fn waiting(&mut self, _out: &mut Vec<Event>) {}
    /// More of the reasoning.
    fn reasoning(&mut self, more: &str, out: &mut Vec<Event>);
    /// More of the text.
    fn text(&mut self, more: &str, logprobs: &[TokenLogprob], out: &mut Vec<Event>);
    /// Calls of tools.
    fn calls(&mut self, calls: &[Call], out: &mut Vec<Event>);
    /// The stream ends; all of the answer was told.
    fn end(&mut self, answer: &Answer, done: &Done, out: &mut Vec<Event>);
    /// The stream ends because the engine could not go on.
    fn failed(&mut self, fault: &Fault, out: &mut Vec<Event>);
}

/// A server-sent event.
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
    /// The tools called, each with an id.
    pub calls: Vec<Call>,
    /// What the client should know.
    pub warnings: Vec<String>,
}

/// What there is to say while nothing comes.
enum Stage {
    Waiting,
    Reading(Reading),
    Answering,
}

/// Asks and answers.
///
/// Errors: there is no answer, and nothing was sent. That the client left is none.
pub fn reply(
    question: Question,
    desk: &Desk,
    responder: &mut Responder<'_>,
) -> std::result::Result<(), Fault> {
    let ticket = desk.enter(question.ask)?;
    let mut dialect = question.dialect;
    let mut answer = Answer {
        warnings: question.warnings,
        ..Answer::default()
    };
    if question.streams {
        // Errors only tell that the client left.
        let _ = stream(&ticket, desk, &mut *dialect, &mut answer, responder);
        return Ok(());
    }
    while !responder.is_gone() {
        let part = match ticket.next(TICK) {
            Next::Nothing => continue,
            Next::Gone => return Err(gone(desk)),
            Next::Part(part) => part,
        };
        if let Part::Text(_, logprobs) = &part {
            answer.logprobs.extend_from_slice(logprobs);
        }
        match answer.take(part, &mut *dialect, &mut Vec::new()) {
            None => {}
            Some(Err(fault)) => return Err(fault),
            Some(Ok(done)) => {
                let json = dialect.whole(&answer, &done).to_string();
                let fields = [("content-type", "application/json")];
                let _ = responder.respond(Status::Ok, &fields, json.as_bytes());
                return Ok(());
            }
        }
    }
    Ok(())
}

fn stream(
    ticket: &Ticket,
    desk: &Desk,
    dialect: &mut dyn Dialect,
    answer: &mut Answer,
    responder: &mut Responder<'_>,
) -> Result<()> {
    let mut events = responder.events(&[])?;
    let (mut out, mut stage) = (Vec::new(), Stage::Waiting);
    dialect.begin(&mut out);
    let mut heard = Instant::now();
    let mut last = None;
    while last.is_none() && !events.is_gone() {
        if heard.elapsed() >= BEAT {
            events.comment(&stage.describe(desk))?;
            dialect.waiting(&mut out);
            heard = Instant::now();
        }
        if !out.is_empty() {
            send(&mut out, &mut events)?;
            heard = Instant::now();
            if matches!(stage, Stage::Answering) {
                std::thread::sleep(GATHERING);
            }
        }
        let mut patience = TICK;
        while last.is_none() {
            let part = match ticket.next(patience) {
                Next::Nothing => break,
                Next::Gone => {
                    last = Some(Err(gone(desk)));
                    break;
                }
                Next::Part(part) => part,
            };
            stage = match &part {
                Part::Reading(reading) => Stage::Reading(*reading),
                _ => Stage::Answering,
            };
            last = answer.take(part, dialect, &mut out);
            patience = Duration::ZERO;
        }
    }
    match last {
        None => return Ok(()),
        Some(Ok(done)) => dialect.end(answer, &done, &mut out),
        Some(Err(fault)) => dialect.failed(&fault, &mut out),
    }
    send(&mut out, &mut events)?;
    events.finish()
}

/// Why a question was dropped.
fn gone(desk: &Desk) -> Fault {
    let closed = desk.closed().map(|(why, _)| why);
    Fault::Closed(closed.unwrap_or_else(|| "the server ends".into()))
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
            Part::Reading(_) => {}
            Part::Reasoning(more) => {
                dialect.reasoning(&more, out);
                self.reasoning += &more;
            }
            Part::Text(more, logprobs) => {
                dialect.text(&more, &logprobs, out);
                self.text += &more;
            }
            Part::Malformed { text, reason } => {
                dialect.text(&text, &[], out);
                self.text += &text;
                self.warnings.push(reason);
            }
            Part::Calls(mut calls) => {
                for call in &mut calls {
                    call.id = ids::id(dialect.call_prefix());
                }
                dialect.calls(&calls, out);
                self.calls.extend(calls);
            }
            Part::Done(done) => return Some(Ok(done)),
            Part::Failed(why) => return Some(Err(Fault::Engine(why))),
        }
        None
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
    use super::*;

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
