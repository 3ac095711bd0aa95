//! `GET /events`: what happens in the server as a stream of events, for the page.
//!
//! ```text
//! event: state     figures as one JSON object, whenever they changed
//! event: experts   {"layers", "experts", "rows": {"layer": "one character an expert"}}: rows that changed
//! ```

use super::board::{Board, Experts, Phase};
use super::desk::Desk;
use super::memory::Memory;
use crate::error::Result;
use crate::http::Responder;
use crate::json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between two events.
const INTERVAL: Duration = Duration::from_millis(250);

/// When nothing changes, the client hears that the server is still there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Streams events until the client leaves or the server ends.
///
/// Errors: `Closed`, when the client is gone.
pub fn stream(
    (board, desk, memory): (&Board, &Desk, &Memory),
    responder: &mut Responder<'_>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut events = responder.events(&[])?;
    let (mut told, mut sent) = (String::new(), Instant::now());
    let mut seen = Experts::default();
    let mut disk = DiskSpeed::new();
    while !stop.load(Ordering::Relaxed) && !events.is_gone() {
        let now = board.look();
        let speed = disk.look(now.supply.read_bytes);
        let state = state(board, &now, desk, memory, speed);
        // The time alone is no news.
        let news = state.to_string();
        if news != told {
            let uptime = board.fixed.began.elapsed().as_secs_f64();
            let Value::Object(mut members) = state else {
                break;
            };
            members.push(("uptime_s".into(), Value::Number(uptime)));
            events.event("state", &Value::Object(members).to_string())?;
            (told, sent) = (news, Instant::now());
        }
        if let Some(change) = changed_rows(&seen, &now.experts) {
            events.event("experts", &change.to_string())?;
            (seen, sent) = (now.experts, Instant::now());
        }
        if sent.elapsed() >= SIGN_OF_LIFE {
            events.comment("")?;
            sent = Instant::now();
        }
        std::thread::sleep(INTERVAL);
    }
    events.finish()
}

fn state(
    board: &Board,
    now: &super::board::Now,
    desk: &Desk,
    memory: &Memory,
    disk_mbs: f64,
) -> Value {
    let text = |text: &str| Value::Text(text.into());
    let count = |n: usize| Value::Count(n as u64);
    let maybe = |n: Option<u64>| n.map_or(Value::Null, Value::Count);
    let rate = |v: Option<f64>| v.map_or(Value::Null, |v| Value::Number(rounded(v)));
    let phase = match now.phase {
        Phase::Idle => "idle",
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
    };
    let ledger = board.fixed.ledger.iter();
    let ledger = ledger.map(|(name, bytes)| Value::List(vec![text(name), Value::Count(*bytes)]));
    let all: u64 = board.fixed.ledger.iter().map(|(_, bytes)| bytes).sum();
    let sessions = now.sessions.iter().map(|n| {
        let members = [("tokens", count(*n)), ("ctx", count(board.fixed.ctx))];
        object(members)
    });
    object([
        ("model", text(&board.fixed.model)),
        ("strategy", text(board.fixed.strategy)),
        ("backend", text(&board.fixed.backend)),
        ("ctx", count(board.fixed.ctx)),
        ("phase", text(phase)),
        ("done", count(now.done)),
        ("all", count(now.all)),
        ("queue", count(desk.n_waiting())),
        ("requests", Value::Count(now.n_begun)),
        ("errors", Value::Count(now.n_failed)),
        ("prefill_tps", rate(now.prefill_tps)),
        ("decode_tps", rate(now.decode_tps)),
        ("prompt_tokens", Value::Count(now.n_prompt)),
        ("cached_tokens", Value::Count(now.n_cached)),
        ("answer_tokens", Value::Count(now.n_answer)),
        ("sessions", Value::List(sessions.collect())),
        ("ledger", Value::List(ledger.collect())),
        ("ledger_bytes", Value::Count(all)),
        ("rss_bytes", maybe(memory.resident())),
        ("model_cache_bytes", maybe(memory.model_cached())),
        ("hits", Value::Count(now.supply.hits)),
        ("misses", Value::Count(now.supply.misses)),
        ("read_bytes", Value::Count(now.supply.read_bytes)),
        ("disk_mbs", Value::Number(rounded(disk_mbs))),
        (
            "stall_s",
            Value::Number(rounded(now.supply.stall_ns as f64 / 1e9)),
        ),
    ])
}

fn object<'a>(members: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    let members = members.into_iter();
    Value::Object(members.map(|(name, value)| (name.into(), value)).collect())
}

/// Two places behind the point.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The rows that are not as they were seen; `None` when all are.
fn changed_rows(seen: &Experts, now: &Experts) -> Option<Value> {
    if seen == now || now.n_expert == 0 {
        return None;
    }
    let rows = now.cells.chunks(now.n_expert);
    let n_layer = rows.len();
    let changed = rows.enumerate().filter(|(layer, row)| {
        let begin = layer * now.n_expert;
        seen.cells.get(begin..begin + now.n_expert) != Some(row)
    });
    let changed = changed.map(|(layer, row)| {
        let row = String::from_utf8_lossy(row).into_owned();
        (layer.to_string(), Value::Text(row))
    });
    Some(object([
        ("layers", Value::Count(n_layer as u64)),
        ("experts", Value::Count(now.n_expert as u64)),
        ("rows", Value::Object(changed.collect())),
    ]))
}

/// Bytes read between two looks.
struct DiskSpeed {
    at: Instant,
    bytes: Option<u64>,
}

impl DiskSpeed {
    fn new() -> DiskSpeed {
        DiskSpeed {
            at: Instant::now(),
            bytes: None,
        }
    }

    /// MB/s since the last look; 0 at the first.
    fn look(&mut self, bytes: u64) -> f64 {
        let seconds = self.at.elapsed().as_secs_f64().max(1e-3);
        let more = bytes - self.bytes.unwrap_or(bytes).min(bytes);
        self.at = Instant::now();
        self.bytes = Some(bytes);
        more as f64 / 1e6 / seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_that_changed_are_told() {
        let experts = |cells: &str| Experts {
            n_expert: 3,
            cells: cells.into(),
        };
        let (a, b) = (experts("...0a."), experts("...0aj"));
        let told = changed_rows(&a, &b).unwrap().to_string();
        assert_eq!(told, r#"{"layers":2,"experts":3,"rows":{"1":"0aj"}}"#);
        let told = changed_rows(&Experts::default(), &a).unwrap().to_string();
        assert_eq!(
            told,
            r#"{"layers":2,"experts":3,"rows":{"0":"...","1":"0a."}}"#
        );
        assert!(changed_rows(&a, &a).is_none());
    }
}
