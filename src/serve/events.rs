//! `GET /events`: what happens in the server as a stream of events, for the page.
//!
//! ```text
//! event: state     figures as one JSON object, whenever they changed
//! event: experts   {"layers", "experts", "rows": {"layer": "one character an expert"}}: rows that changed
//! ```

use super::board::{Board, Experts, Now, Phase};
use super::desk::Desk;
use super::memory::Memory;
use crate::error::Result;
use crate::http::{Framing, Responder};
use crate::json::object::{Json, list, object};
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
    let mut events = responder.events(Framing::ServerSent, &[])?;
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
            events.event("state", &state.with("uptime_s", uptime).to_string())?;
            (told, sent) = (news, Instant::now());
        }
        if let Some(change) = changed_rows(&seen, &now.experts) {
            events.event("experts", &change.to_string())?;
            (seen, sent) = (now.experts, Instant::now());
        }
        // One that sends nothing more may have left; sending tells.
        if sent.elapsed() >= SIGN_OF_LIFE || events.is_half_closed() {
            events.comment("")?;
            sent = Instant::now();
        }
        std::thread::sleep(INTERVAL);
    }
    events.finish()
}

fn state(board: &Board, now: &Now, desk: &Desk, memory: &Memory, disk_mbs: f64) -> Json {
    let fixed = &board.fixed;
    let phase = match now.phase {
        Phase::Idle => "idle",
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
    };
    let ledger = fixed.ledger.iter();
    let all: u64 = ledger.clone().map(|(_, bytes)| bytes).sum();
    let ledger = ledger.map(|(name, bytes)| list([(*name).into(), (*bytes).into()]));
    let sessions = now.sessions.iter();
    let sessions = sessions.map(|n| object([("tokens", (*n).into()), ("ctx", fixed.ctx.into())]));
    object([
        ("model", fixed.model.as_str().into()),
        ("strategy", fixed.strategy.into()),
        ("backend", fixed.backend.as_str().into()),
        ("ctx", fixed.ctx.into()),
        ("phase", phase.into()),
        ("done", now.done.into()),
        ("all", now.all.into()),
        ("queue", desk.n_waiting().into()),
        ("requests", now.n_begun.into()),
        ("errors", now.n_failed.into()),
        ("prefill_tps", now.prefill_tps.map(rounded).into()),
        ("decode_tps", now.decode_tps.map(rounded).into()),
        ("prompt_tokens", now.n_prompt.into()),
        ("cached_tokens", now.n_cached.into()),
        ("answer_tokens", now.n_answer.into()),
        ("sessions", list(sessions)),
        ("ledger", list(ledger)),
        ("ledger_bytes", all.into()),
        ("rss_bytes", memory.resident().into()),
        ("model_cache_bytes", memory.model_cached().into()),
        ("hits", now.supply.hits.into()),
        ("misses", now.supply.misses.into()),
        ("read_bytes", now.supply.read_bytes.into()),
        ("disk_mbs", rounded(disk_mbs).into()),
        ("stall_s", rounded(now.supply.stall_ns as f64 / 1e9).into()),
    ])
}

/// Two places behind the point.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The rows that are not as they were seen; `None` when all are.
fn changed_rows(seen: &Experts, now: &Experts) -> Option<Json> {
    if seen == now || now.n_expert == 0 {
        return None;
    }
    let rows = now.cells.chunks(now.n_expert);
    let n_layer = rows.len();
    let changed = rows.enumerate().filter(|(layer, row)| {
        let begin = layer * now.n_expert;
        seen.cells.get(begin..begin + now.n_expert) != Some(row)
    });
    let changed = changed.fold(object([]), |rows, (layer, row)| {
        rows.with(&layer.to_string(), &*String::from_utf8_lossy(row))
    });
    Some(object([
        ("layers", n_layer.into()),
        ("experts", now.n_expert.into()),
        ("rows", changed),
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
