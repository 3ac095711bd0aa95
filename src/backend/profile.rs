//! Where the time of passes goes: a clock that is always in one stage, and what the products of a stage cost.
//!
//! ```text
//! graph    stage(Embed)   stage(HyperConnections)   stage(Projections)   ...   stage(Other)
//! time     --------------|-------------------------|--------------------|-----|------------ ...
//! ```
//!
//! The clock never stops, so the stages of both phases sum to the time between two readings; what lies between the
//! named stages is [`Stage::Other`]. A cost is arithmetic on shapes, counted where a product is done.

use super::ExpertShape;
use crate::quant::Format;
use crate::units::Phase;
use std::ops::AddAssign;
use std::time::Instant;

/// A part of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Rows of the token embedding.
    Embed,
    /// Mixing the streams in front of and behind every sub-layer.
    HyperConnections,
    /// Matrices of queries and keys. Those of the compressor, and of the indexer's keys, weights and queries, are
    /// multiplied in the same passes over the same input: their time and cost are in here.
    Projections,
    /// Norms and rotation of queries and keys, and the rows that keys are stored as.
    Norms,
    /// Pooling windows of tokens into compressed rows, the indexer's too; without its matrices.
    Compressor,
    /// Rotating the indexer's queries, scoring its rows and choosing; without its matrices.
    Indexer,
    /// Scores, softmax and sums over the values of raw and compressed rows.
    Attention,
    /// The two output matrices of attention.
    OutputProjections,
    /// Scores of the experts and the choice.
    Router,
    /// Inside the supply: looking experts up, asking for reads, and waiting for them.
    ExpertSupply,
    /// The shared expert.
    SharedExpert,
    /// The routed experts, and the sum of their outputs. Pages of a mapping that are touched first here are waited
    /// for here.
    RoutedExperts,
    /// The last mix of the streams, the output matrix, and handing out its logits.
    Head,
    /// All between the stages above: angles of the rotation, probes, and what the caller does between passes
    /// (sampling, printing).
    Other,
}

impl Stage {
    /// All of them, in the order of a pass.
    pub const ALL: [Stage; 14] = [
        Stage::Embed,
        Stage::HyperConnections,
        Stage::Projections,
        Stage::Norms,
        Stage::Compressor,
        Stage::Indexer,
        Stage::Attention,
        Stage::OutputProjections,
        Stage::Router,
        Stage::ExpertSupply,
        Stage::SharedExpert,
        Stage::RoutedExperts,
        Stage::Head,
        Stage::Other,
    ];

    /// As tables and files call it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Embed => "embed",
            Stage::HyperConnections => "hyper-connections",
            Stage::Projections => "projections",
            Stage::Norms => "norms, rotation",
            Stage::Compressor => "compressor",
            Stage::Indexer => "indexer",
            Stage::Attention => "attention",
            Stage::OutputProjections => "output projections",
            Stage::Router => "router",
            Stage::ExpertSupply => "expert supply",
            Stage::SharedExpert => "shared expert",
            Stage::RoutedExperts => "routed experts",
            Stage::Head => "head",
            Stage::Other => "other",
        }
    }
}

/// What a product costs, from its shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of weights that it passes over: once, however many tokens share them.
    pub weight_bytes: u64,
    /// Multiplications and additions.
    pub flop: u64,
}

impl Cost {
    /// A matrix `[rows, cols]` with rows of `row_bytes`, times `n` vectors.
    pub fn product(n: usize, rows: usize, cols: usize, row_bytes: usize) -> Cost {
        Cost {
            weight_bytes: (rows * row_bytes) as u64,
            flop: flop(&[n, rows, cols]),
        }
    }

    /// `n_experts` experts of one layer, each read once, for `n_routes` pairs of a token and an expert.
    pub fn experts(shape: ExpertShape, n_experts: usize, n_routes: usize) -> Cost {
        let ExpertShape { n_embd, n_ff, .. } = shape;
        let row = |f: Format, cols: usize| cols / f.block_len() * f.block_bytes();
        let gate_up = row(shape.gate, n_embd) + row(shape.up, n_embd);
        let bytes = n_ff * gate_up + n_embd * row(shape.down, n_ff);
        Cost {
            weight_bytes: (n_experts * bytes) as u64,
            flop: flop(&[3, n_routes, n_ff, n_embd]),
        }
    }

    /// `n` dot products, or sums of scaled vectors, of `dim` values that are no weights.
    pub fn dots(n: usize, dim: usize) -> Cost {
        Cost {
            weight_bytes: 0,
            flop: flop(&[n, dim]),
        }
    }

    /// Rows of weights that are read and not multiplied.
    pub fn rows(n: usize, row_bytes: usize) -> Cost {
        Cost {
            weight_bytes: (n * row_bytes) as u64,
            flop: 0,
        }
    }
}

/// A multiplication and an addition for each element of a box of these sides.
fn flop(sides: &[usize]) -> u64 {
    2 * sides.iter().map(|n| *n as u64).product::<u64>()
}

/// What one stage did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Times it was entered.
    pub calls: u64,
    /// Nanoseconds in it, by the wall clock.
    pub ns: u64,
    /// Its products.
    pub cost: Cost,
}

/// What all stages did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// Tokens of the passes that began.
    pub n_tokens: u64,
    work: [Work; Stage::ALL.len()],
}

impl Stages {
    /// One stage.
    pub fn of(&self, stage: Stage) -> Work {
        self.work[stage as usize]
    }

    /// All of them together.
    pub fn sum(&self) -> Work {
        let mut sum = Work::default();
        self.work.iter().for_each(|work| sum += *work);
        sum
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, more: Cost) {
        self.weight_bytes += more.weight_bytes;
        self.flop += more.flop;
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, more: Work) {
        self.calls += more.calls;
        self.ns += more.ns;
        self.cost += more.cost;
    }
}

impl AddAssign for Stages {
    fn add_assign(&mut self, more: Stages) {
        self.n_tokens += more.n_tokens;
        let works = self.work.iter_mut().zip(more.work);
        works.for_each(|(work, more)| *work += more);
    }
}

/// Stages by phase, and a clock that runs in one of them.
pub struct Profile {
    phases: [Stages; 2],
    phase: Phase,
    stage: Stage,
    /// Up to here time was given to stages.
    settled: Instant,
}

impl Profile {
    /// Begins between passes.
    pub fn new(now: Instant) -> Profile {
        Profile {
            phases: Default::default(),
            phase: Phase::Prefill,
            stage: Stage::Other,
            settled: now,
        }
    }

    /// A pass of `n_tokens` tokens begins: time and cost belong to `phase` from here on, until the next pass.
    pub fn pass(&mut self, phase: Phase, n_tokens: usize, now: Instant) {
        self.settle(now);
        self.phase = phase;
        self.phases[phase as usize].n_tokens += n_tokens as u64;
        self.enter(Stage::Other, now);
    }

    /// The running stage ends and this one begins.
    pub fn enter(&mut self, stage: Stage, now: Instant) {
        self.settle(now);
        self.stage = stage;
        self.running().calls += 1;
    }

    /// The running stage did this product.
    pub fn count(&mut self, more: Cost) {
        self.running().cost += more;
    }

    /// Gives the running stage its time up to `now`.
    pub fn settle(&mut self, now: Instant) {
        let ns = now.duration_since(self.settled).as_nanos();
        self.running().ns += u64::try_from(ns).unwrap_or(u64::MAX);
        self.settled = now;
    }

    /// What the stages did in one phase, up to where the clock was settled.
    pub fn phase(&self, phase: Phase) -> Stages {
        self.phases[phase as usize]
    }

    /// The same of both phases.
    pub fn total(&self) -> Stages {
        let mut total = Stages::default();
        self.phases.iter().for_each(|stages| total += *stages);
        total
    }

    fn running(&mut self) -> &mut Work {
        &mut self.phases[self.phase as usize].work[self.stage as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_stage_stands_at_its_own_place_under_its_own_name() {
        for (i, stage) in Stage::ALL.iter().enumerate() {
            assert_eq!(*stage as usize, i);
            let same = Stage::ALL.iter().filter(|s| s.name() == stage.name());
            assert_eq!(same.count(), 1, "{stage:?}");
        }
    }

    /// Each moment from 0 to 100 µs belongs to one stage of one phase.
    #[test]
    fn the_clock_is_always_in_one_stage() {
        let start = Instant::now();
        let at = |us| start + Duration::from_micros(us);
        let mut profile = Profile::new(start);
        profile.pass(Phase::Prefill, 7, at(3));
        profile.enter(Stage::Embed, at(5));
        profile.enter(Stage::Head, at(11));
        profile.enter(Stage::Embed, at(20));
        profile.enter(Stage::Other, at(24));
        profile.pass(Phase::Decode, 1, at(30));
        profile.enter(Stage::Embed, at(31));
        profile.settle(at(60));
        profile.settle(at(100));

        let of = |phase, stage| {
            let work = profile.phase(phase).of(stage);
            (work.calls, work.ns / 1000)
        };
        assert_eq!(of(Phase::Prefill, Stage::Embed), (2, 6 + 4));
        assert_eq!(of(Phase::Prefill, Stage::Head), (1, 9));
        assert_eq!(of(Phase::Prefill, Stage::Other), (2, 5 + 6));
        assert_eq!(of(Phase::Decode, Stage::Other), (1, 1));
        assert_eq!(of(Phase::Decode, Stage::Embed), (1, 69));
        assert_eq!(of(Phase::Decode, Stage::Router), (0, 0));
        let [prefill, decode] = Phase::ALL.map(|phase| profile.phase(phase));
        assert_eq!((prefill.n_tokens, decode.n_tokens), (7, 1));
        assert_eq!((prefill.sum().ns, decode.sum().ns), (30_000, 70_000));
        let total = profile.total();
        assert_eq!((total.n_tokens, total.sum().ns), (8, 100_000));
        let embed = total.of(Stage::Embed);
        assert_eq!((embed.calls, embed.ns), (3, 79_000));
    }

    #[test]
    fn costs_go_to_the_running_stage() {
        let now = Instant::now();
        let mut profile = Profile::new(now);
        profile.pass(Phase::Decode, 1, now);
        profile.enter(Stage::Router, now);
        profile.count(Cost::product(1, 4, 32, 34));
        profile.count(Cost::product(1, 4, 32, 34));
        let decode = profile.phase(Phase::Decode);
        let expected = Cost {
            weight_bytes: 2 * 136,
            flop: 2 * 256,
        };
        assert_eq!(decode.of(Stage::Router).cost, expected);
        assert_eq!(decode.of(Stage::Other).cost, Cost::default());
        assert_eq!(decode.sum().cost, expected);
        assert_eq!(profile.phase(Phase::Prefill), Stages::default());
    }

    /// By hand. Q4_K has 144 bytes for 256 weights, Q2_K has 84, Q8_0 34 for 32.
    #[test]
    fn costs_follow_from_shapes() {
        let cost = |weight_bytes, flop| Cost { weight_bytes, flop };
        // Five tokens share one reading of [3, 64] in rows of 68 bytes.
        assert_eq!(Cost::product(5, 3, 64, 68), cost(204, 2 * 5 * 3 * 64));
        assert_eq!(Cost::rows(3, 512), cost(1536, 0));
        assert_eq!(Cost::dots(10, 128), cost(0, 2560));
        let shape = ExpertShape {
            n_embd: 512,
            n_ff: 256,
            gate: Format::Q4K,
            up: Format::Q8_0,
            down: Format::Q2K,
            clamp: 1.0,
        };
        // Gate is 256 rows of 288 bytes, up 256 of 544, down 512 of 84.
        let one = 256 * (288 + 544) + 512 * 84;
        let expected = cost(2 * one, 2 * 7 * 3 * 512 * 256);
        assert_eq!(Cost::experts(shape, 2, 7), expected);
    }
}
