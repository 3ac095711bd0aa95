//! What happens in the server, for those who look: the engine's thread writes, others read.

use super::ask::{Done, Reading};
use crate::engine::{Engine, ExpertUse, Plan, SupplyStats};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks at the experts.
const EXPERTS_INTERVAL: Duration = Duration::from_millis(250);

/// The board.
pub struct Board {
    /// What does not change.
    pub fixed: Fixed,
    now: Mutex<Now>,
}

/// What does not change while the server runs.
pub struct Fixed {
    /// The name of the model file, without its end.
    pub model: String,
    /// How experts are supplied.
    pub strategy: &'static str,
    /// What computes.
    pub backend: String,
    /// Layers of the model.
    pub n_layer: usize,
    /// Tokens of a session.
    pub ctx: usize,
    /// Memory by use, in bytes, as it was told at the start.
    pub ledger: Vec<(&'static str, u64)>,
    /// When the server began.
    pub began: Instant,
}

/// What the engine does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nothing.
    #[default]
    Idle,
    /// It reads a prompt.
    Prefill,
    /// It chooses tokens.
    Decode,
}

/// What changes. Counters count from the start.
#[derive(Clone, Debug, Default)]
pub struct Now {
    /// What the engine does.
    pub phase: Phase,
    /// Tokens of that which are done.
    pub done: usize,
    /// Tokens of it at most.
    pub all: usize,
    /// Tokens read in a second, of the prompt that was read last.
    pub prefill_tps: Option<f64>,
    /// Tokens chosen in a second, of the answer in work or the last one.
    pub decode_tps: Option<f64>,
    /// Questions that were begun.
    pub n_begun: u64,
    /// Of those: ended by a fault.
    pub n_failed: u64,
    /// Of those: given up by their askers.
    pub n_cancelled: u64,
    /// Tokens of prompts.
    pub n_prompt: u64,
    /// Of those: not computed, as the engine had them.
    pub n_cached: u64,
    /// Tokens of answers.
    pub n_answer: u64,
    /// Seconds in which prompts were read.
    pub prefill_s: f64,
    /// Tokens of each session, the one used last in front.
    pub sessions: Vec<usize>,
    /// What the supply of experts did.
    pub supply: SupplyStats,
    /// The experts, as they were looked at last.
    pub experts: Experts,
    looked: Option<Instant>,
}

/// One character for each expert: `.` never used and not in memory, `0` to `9` used and not in memory, `a` to `j` in
/// memory; the later in its row, the more it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Experts {
    /// Experts of a layer.
    pub n_expert: usize,
    /// `[n_layer, n_expert]`.
    pub cells: Vec<u8>,
}

impl Board {
    /// The board of an engine that does nothing yet.
    pub fn new(engine: &Engine, plan: &Plan) -> Board {
        let model = Path::new(engine.name()).file_stem();
        Board {
            fixed: Fixed {
                model: model.map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
                strategy: plan.strategy,
                backend: engine.describe_backend(),
                n_layer: engine.supply_table().n_layer(),
                ctx: engine.ctx(),
                ledger: plan.uses.clone(),
                began: Instant::now(),
            },
            now: Mutex::default(),
        }
    }

    /// What there is to see now.
    pub fn look(&self) -> Now {
        self.now().clone()
    }

    /// Nothing is asked.
    pub fn rest(&self, sessions: Vec<usize>) {
        let mut now = self.now();
        now.phase = Phase::Idle;
        (now.done, now.all) = (0, 0);
        now.sessions = sessions;
    }

    /// What the supply of experts did so far; `uses` tells what became of each expert, and is not asked often.
    pub fn supply(&self, stats: SupplyStats, uses: &dyn Fn() -> Vec<ExpertUse>) {
        let mut now = self.now();
        now.supply = stats;
        let is_fresh = |looked: Instant| looked.elapsed() < EXPERTS_INTERVAL;
        if !now.looked.is_some_and(is_fresh) {
            now.experts = Experts::new(&uses(), self.fixed.n_layer);
            now.looked = Some(Instant::now());
        }
    }

    /// As [`Board::supply`], at the end of a piece of work: nothing will be told for some time.
    pub fn settled(&self, engine: &Engine) {
        self.now().looked = None;
        self.supply(engine.supply_stats(), &|| engine.expert_uses());
    }

    /// A question with so many tokens.
    pub fn begin(&self, n_prompt: usize) {
        let mut now = self.now();
        now.n_begun += 1;
        now.phase = Phase::Prefill;
        (now.done, now.all) = (0, n_prompt);
    }

    /// A prompt is read.
    pub fn reading(&self, reading: &Reading) {
        let mut now = self.now();
        (now.done, now.all) = (reading.done, reading.all);
        if reading.tokens_per_s > 0.0 {
            now.prefill_tps = Some(reading.tokens_per_s);
        }
    }

    /// A prompt was read, of which so many tokens were computed.
    pub fn read(&self, n_tokens: usize, time: Duration) {
        let mut now = self.now();
        now.prefill_s += time.as_secs_f64();
        now.prefill_tps = Some(n_tokens as f64 / time.as_secs_f64().max(1e-9));
    }

    /// The token `n` of at most `most` was chosen, `time` after the prompt was read.
    pub fn decoding(&self, n: usize, most: usize, time: Duration) {
        let mut now = self.now();
        now.phase = Phase::Decode;
        (now.done, now.all) = (n, most);
        now.n_answer += 1;
        // The first one comes from the prompt.
        if n > 1 {
            now.decode_tps = Some((n - 1) as f64 / time.as_secs_f64().max(1e-9));
        }
    }

    /// A question was answered.
    pub fn end(&self, done: &Done) {
        let mut now = self.now();
        now.n_prompt += done.n_prompt as u64;
        now.n_cached += done.n_cached as u64;
    }

    /// A question was given up by its asker.
    pub fn cancelled(&self) {
        self.now().n_cancelled += 1;
    }

    /// A question could not be answered.
    pub fn failed(&self) {
        self.now().n_failed += 1;
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        // Figures of which some are older than others are no harm.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Experts {
    fn new(uses: &[ExpertUse], n_layer: usize) -> Experts {
        let most = uses.iter().map(|e| e.touches).max().unwrap_or(0);
        let cell = |touches: u64, resident: bool| match (touches, resident) {
            (0, false) => b'.',
            (n, false) => b'0' + level(n, most),
            (n, true) => b'a' + level(n, most),
        };
        Experts {
            n_expert: uses.len() / n_layer.max(1),
            cells: uses.iter().map(|e| cell(e.touches, e.resident)).collect(),
        }
    }
}

/// 0 to 9, by the logarithm: 9 for the one used most.
fn level(touches: u64, most: u64) -> u8 {
    let part = (1.0 + touches as f64).ln() / (1.0 + most.max(1) as f64).ln();
    (9.0 * part).round().clamp(0.0, 9.0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_grow_with_use_up_to_the_most_used() {
        assert_eq!((level(0, 0), level(0, 1000), level(1000, 1000)), (0, 0, 9));
        let all: Vec<u8> = [1, 10, 100, 999].iter().map(|n| level(*n, 1000)).collect();
        assert!(all.is_sorted() && all[0] < all[2], "{all:?}");
    }
}
