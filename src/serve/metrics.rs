//! `GET /metrics`: counters and gauges in the text form of Prometheus, version 0.0.4.

use super::board::Board;
use super::desk::Desk;
use super::memory::Memory;
use std::fmt::Write;

/// What the text is.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All figures of now.
pub fn text(board: &Board, desk: &Desk, memory: &Memory) -> String {
    let (fixed, now) = (&board.fixed, board.look());
    let supply = now.supply;
    let seconds = |ns: u64| ns as f64 / 1e9;
    let mut out = Text(String::new());
    out.counter("requests_total", "Requests begun.", now.n_begun);
    out.counter(
        "requests_failed_total",
        "Requests ended by a fault.",
        now.n_failed,
    );
    out.counter(
        "requests_cancelled_total",
        "Requests given up by their clients.",
        now.n_cancelled,
    );
    out.gauge("queue_length", "Requests that wait.", desk.n_waiting());
    out.counter(
        "prompt_tokens_total",
        "Tokens of answered prompts.",
        now.n_prompt,
    );
    out.counter(
        "prompt_tokens_cached_total",
        "Of those, tokens that were not computed again.",
        now.n_cached,
    );
    out.counter("answer_tokens_total", "Tokens of answers.", now.n_answer);
    out.maybe(
        "prefill_tokens_per_second",
        "Speed of the last prompt.",
        now.prefill_tps,
    );
    out.maybe(
        "decode_tokens_per_second",
        "Speed of the last answer.",
        now.decode_tps,
    );
    out.counter(
        "expert_hits_total",
        "Experts that were in memory when their layer chose them.",
        supply.hits,
    );
    out.counter(
        "expert_misses_total",
        "Experts that had to be read.",
        supply.misses,
    );
    out.counter(
        "expert_evictions_total",
        "Experts given up.",
        supply.evictions,
    );
    out.counter(
        "expert_read_bytes_total",
        "Bytes of experts read.",
        supply.read_bytes,
    );
    out.counter(
        "expert_read_seconds_total",
        "Time in which at least one read ran.",
        seconds(supply.read_ns),
    );
    out.counter(
        "expert_stall_seconds_total",
        "Time in which layers waited for experts.",
        seconds(supply.stall_ns),
    );
    let speed = supply.read_bytes as f64 / seconds(supply.read_ns);
    out.maybe(
        "expert_read_bytes_per_second",
        "Speed of reads while they ran.",
        speed.is_finite().then_some(speed),
    );
    out.head(
        "memory_planned_bytes",
        "gauge",
        "Memory by use, told before the start.",
    );
    for (name, bytes) in &fixed.ledger {
        out.line(
            &format!("memory_planned_bytes{{use=\"{}\"}}", label(name)),
            bytes,
        );
    }
    out.maybe(
        "memory_resident_bytes",
        "Memory of this process.",
        memory.resident(),
    );
    out.maybe(
        "model_page_cache_bytes",
        "Bytes of the model file in the page cache.",
        memory.model_cached(),
    );
    out.head(
        "session_tokens",
        "gauge",
        "Tokens of a session, the one used last first.",
    );
    for (i, n) in now.sessions.iter().enumerate() {
        out.line(&format!("session_tokens{{session=\"{i}\"}}"), n);
    }
    out.gauge("context_tokens", "Tokens of a session at most.", fixed.ctx);
    out.gauge(
        "uptime_seconds",
        "Since the start.",
        fixed.began.elapsed().as_secs(),
    );
    out.head("info", "gauge", "What runs.");
    let info = format!(
        "info{{model=\"{}\",strategy=\"{}\",backend=\"{}\",version=\"{}\"}}",
        label(&fixed.model),
        label(fixed.strategy),
        label(&fixed.backend),
        env!("CARGO_PKG_VERSION")
    );
    out.line(&info, 1);
    out.0
}

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "# HELP infall_{name} {help}");
        let _ = writeln!(self.0, "# TYPE infall_{name} {kind}");
    }

    fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "infall_{name} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "counter", help);
        self.line(name, value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "gauge", help);
        self.line(name, value);
    }

    /// Nothing where there is no figure.
    fn maybe(&mut self, name: &str, help: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.gauge(name, help, value);
        }
    }
}

/// The value of a label.
fn label(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    escaped.replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn labels_are_escaped() {
        assert_eq!(super::label("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
