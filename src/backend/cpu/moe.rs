//! Mixture of experts: the router's choice, and gate-up-down products of the chosen experts.

use super::dispatch::TOKENS;
use super::linear::{self, tile_columns};
use super::pool::Tiled;
use super::{Cpu, sigmoid};
use crate::backend::profile::Cost;
use crate::backend::{Experts, Product, Route, Routes};
use crate::error::Result;
use crate::quant::Format;
use crate::units::ExpertId;

/// Smallest sum that weights are divided by.
const MIN_WEIGHT_SUM: f32 = 1.0 / 16384.0;

/// Widest tile of an expert's columns; the stack holds one of gate and one of up.
const MAX_TILE: usize = 64;

/// Affinity of a token to an expert: `sqrt(softplus(x))`.
pub fn score(x: f32) -> f32 {
    let softplus = if x > 20.0 {
        x
    } else if x < -20.0 {
        x.exp()
    } else {
        x.exp().ln_1p()
    };
    softplus.sqrt()
}

/// `silu(min(gate, clamp)) * clamp(up, -clamp, clamp)`
pub fn swiglu(gate: f32, up: f32, clamp: f32) -> f32 {
    let gate = gate.min(clamp);
    gate * sigmoid(gate) * up.max(-clamp).min(clamp)
}

/// See [`crate::backend::Backend::route`].
pub fn route(cpu: &mut Cpu, step: Route<'_, Cpu>, routes: &mut Routes) {
    let n_expert = step.weight.rows;
    linear::matmul(
        cpu,
        step.n,
        step.x,
        &mut [Product {
            weight: step.weight,
            y: step.scores,
        }],
    );
    routes.ids.resize(step.n * step.n_used, ExpertId(0));
    routes.weights.resize(step.n * step.n_used, 0.0);
    let chosen = routes
        .ids
        .chunks_exact_mut(step.n_used)
        .zip(routes.weights.chunks_exact_mut(step.n_used));
    for (scores, (ids, weights)) in step.scores.chunks_exact_mut(n_expert).zip(chosen) {
        scores.iter_mut().for_each(|s| *s = score(*s));
        if !step.preset {
            choose(scores, step.bias.map(Vec::as_slice), ids);
        }
        weigh(scores, ids, step.scale, weights);
    }
}

/// The experts of largest `score + bias`, in descending order; the lower id among equals. NaN never wins
/// against a number.
fn choose(scores: &[f32], bias: Option<&[f32]>, ids: &mut [ExpertId]) {
    let key = |e: usize| scores[e] + bias.map_or(0.0, |b| b[e]);
    for i in 0..ids.len() {
        let (taken, rest) = ids.split_at_mut(i);
        let free = |e: &usize| !taken.contains(&ExpertId(*e as u32));
        let mut candidates = (0..scores.len()).filter(free);
        let Some(mut best) = candidates.next() else {
            return;
        };
        for e in candidates {
            if key(e) > key(best) || (key(best).is_nan() && !key(e).is_nan()) {
                best = e;
            }
        }
        rest[0] = ExpertId(best as u32);
    }
}

/// Weights in proportion to the scores, without bias, that sum to `scale`.
fn weigh(scores: &[f32], ids: &[ExpertId], scale: f32, weights: &mut [f32]) {
    let score = |id: &ExpertId| scores[id.0 as usize];
    let sum = ids.iter().map(score).sum::<f32>().max(MIN_WEIGHT_SUM);
    ids.iter()
        .zip(weights)
        .for_each(|(id, w)| *w = score(id) / sum * scale);
}

/// See [`crate::backend::Backend::experts`]. Both passes cut the columns of all experts alike: each tile runs
/// through the groups, so a weight row is read once for all tokens that chose its expert.
pub fn experts(cpu: &mut Cpu, step: Experts<'_, Cpu>) -> Result<()> {
    let Experts {
        n,
        shape,
        x,
        routes,
        groups,
        which,
        weights,
        hidden,
        out,
    } = step;
    let n_used = routes.ids.len() / n;
    let n_routes = routes.ids.len();
    let [gate, up, down] = [shape.gate, shape.up, shape.down].map(|format| cpu.kernel(format));
    let (gate, up, down) = (gate?, up?, down?);
    let row_bytes = |format: Format, cols: usize| cols / format.block_len() * format.block_bytes();
    let n_threads = cpu.pool.n_threads();
    let n_now = || which.iter().map(|g| groups.of(*g).len()).sum();
    cpu.count(|| Cost::experts(shape, which.len(), n_now()));

    let x = &x[..n * shape.n_embd];
    for form in [gate.activation, up.activation] {
        cpu.prepared
            .fill(&cpu.kernels, &mut cpu.pool, form, x, shape.n_embd);
        if up.activation == gate.activation {
            break;
        }
    }
    let prepared = &cpu.prepared;
    let [gate_bytes, up_bytes] = [shape.gate, shape.up].map(|f| row_bytes(f, shape.n_embd));
    let hidden = &mut hidden[..n_routes * shape.n_ff];
    let tile = tile_columns(shape.n_ff, n_threads).min(MAX_TILE);
    cpu.pool.for_tiles(
        &mut [Tiled::new(hidden, shape.n_ff, tile)],
        |_, mut tile| {
            let columns = tile.columns();
            let range = |bytes: usize| columns.start * bytes..columns.end * bytes;
            let mut gates = [[0.0; MAX_TILE]; TOKENS];
            let mut ups = [[0.0; MAX_TILE]; TOKENS];
            for &g in which {
                let expert = weights(g);
                let gate_rows = &expert.gate[range(gate_bytes)];
                let up_rows = &expert.up[range(up_bytes)];
                for some in groups.of(g).chunks(TOKENS) {
                    for (kernel, rows, y) in
                        [(&gate, gate_rows, &mut gates), (&up, up_rows, &mut ups)]
                    {
                        let mut vectors = [&[][..]; TOKENS];
                        for (vector, r) in vectors.iter_mut().zip(some) {
                            *vector = prepared.row(kernel.activation, x, shape.n_embd, r / n_used);
                        }
                        let mut y = y.each_mut().map(|y| &mut y[..columns.len()]);
                        kernel.times(rows, &vectors[..some.len()], &mut y[..some.len()]);
                    }
                    for (&r, (gate, up)) in some.iter().zip(gates.iter().zip(&ups)) {
                        for (h, (g, u)) in tile.row(r).iter_mut().zip(gate.iter().zip(up)) {
                            *h = routes.weights[r] * swiglu(*g, *u, shape.clamp);
                        }
                    }
                }
            }
        },
    );

    cpu.prepared.fill(
        &cpu.kernels,
        &mut cpu.pool,
        down.activation,
        hidden,
        shape.n_ff,
    );
    let (prepared, bytes) = (&cpu.prepared, row_bytes(shape.down, shape.n_ff));
    let hidden = &*hidden;
    let tile = tile_columns(shape.n_embd, n_threads);
    cpu.pool.for_tiles(
        &mut [Tiled::new(
            &mut out[..n_routes * shape.n_embd],
            shape.n_embd,
            tile,
        )],
        |_, mut tile| {
            let columns = tile.columns();
            let range = columns.start * bytes..columns.end * bytes;
            for &g in which {
                let expert = weights(g);
                let (rows, routes) = (&expert.down[range.clone()], groups.of(g));
                let x = |i: usize| prepared.row(down.activation, hidden, shape.n_ff, routes[i]);
                let part = 0..columns.len();
                let to = (&mut tile, part);
                linear::product(&down, rows, routes.len(), x, to, |i| routes[i]);
            }
        },
    );
    Ok(())
}

/// Columns that [`combine`] sums side by side.
const SOME: usize = 64;

/// See [`crate::backend::Backend::combine`].
pub fn combine(
    cpu: &mut Cpu,
    n: usize,
    n_used: usize,
    n_embd: usize,
    routed: &[f32],
    y: &mut [f32],
) {
    cpu.pool
        .for_rows(&mut y[..n * n_embd], n_embd, &mut cpu.threads, |t, y, _| {
            let routed = &routed[t * n_used * n_embd..][..n_used * n_embd];
            for (c, y) in y.chunks_mut(SOME).enumerate() {
                let mut sums = [0.0; SOME];
                for routed in routed.chunks_exact(n_embd) {
                    let some = routed[c * SOME..].iter().take(y.len());
                    sums.iter_mut().zip(some).for_each(|(sum, v)| *sum += v);
                }
                y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u32]) -> Vec<ExpertId> {
        ids.iter().copied().map(ExpertId).collect()
    }

    fn assert_near(found: &[f32], expected: &[f32]) {
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 1e-6, "{found:?}, expected {expected:?}");
        }
    }

    #[test]
    fn the_score_is_the_root_of_softplus() {
        // sqrt(ln 2); softplus(30) = 30 to 1e-13; softplus(-30) = e^-30.
        for (x, expected) in [
            (0.0, 0.832_554_6),
            (30.0, 5.477_226),
            (-30.0, 3.059_023_2e-7),
        ] {
            assert!(
                (score(x) / expected - 1.0).abs() < 1e-6,
                "{x}: {}",
                score(x)
            );
        }
    }

    #[test]
    fn equal_scores_choose_the_lowest_experts_and_share_the_scale() {
        let (scores, mut chosen, mut weights) = ([score(0.0); 9], ids(&[0; 6]), [0.0; 6]);
        choose(&scores, None, &mut chosen);
        assert_eq!(chosen, ids(&[0, 1, 2, 3, 4, 5]));
        weigh(&scores, &chosen, 1.5, &mut weights);
        assert_near(&weights, &[0.25; 6]);
    }

    #[test]
    fn the_bias_acts_on_the_choice_and_not_on_the_weights() {
        let (scores, bias) = ([1.0, 2.0, 3.0, 4.0], [0.0, 10.0, 0.0, -10.0]);
        let (mut chosen, mut weights) = (ids(&[0; 2]), [0.0; 2]);
        choose(&scores, Some(&bias), &mut chosen);
        assert_eq!(chosen, ids(&[1, 2]));
        weigh(&scores, &chosen, 1.5, &mut weights);
        assert_near(&weights, &[0.6, 0.9]);
    }

    #[test]
    fn nan_scores_lose_and_do_not_hang() {
        let mut chosen = ids(&[0; 3]);
        choose(&[f32::NAN, 1.0, f32::NAN, 2.0], None, &mut chosen);
        assert_eq!(chosen, ids(&[3, 1, 0]));
    }

    #[test]
    fn the_gate_is_clamped_before_silu_and_only_from_above() {
        // silu(10) = 9.999546, not 10; silu(-20) = -4.1223e-8, not silu(-10).
        assert!((swiglu(50.0, 1.0, 10.0) - 9.999_546).abs() < 1e-5);
        assert!((swiglu(-20.0, 1.0, 10.0) / -4.122_307e-8 - 1.0).abs() < 1e-4);
        assert_eq!(swiglu(50.0, 99.0, 10.0), swiglu(50.0, 10.0, 10.0));
        assert_eq!(swiglu(50.0, -99.0, 10.0), swiglu(50.0, -10.0, 10.0));
    }

    /// The one reads f32, the other blocks: the same bits as each product alone.
    #[test]
    fn gate_and_up_may_read_activations_in_different_forms() {
        use crate::backend::{Backend, Groups, Storage};
        use crate::model::experts::ExpertRef;
        use crate::os::{AlignedBuf, Slice};
        use crate::quant::{cast, encode};
        use crate::rng::Rng;
        use crate::units::Extent;
        use std::sync::Arc;

        const N: usize = 3;
        const WIDTH: usize = 512;
        let mut rng = Rng::new(4);
        let mut noise = |n: usize| Vec::from_iter((0..n).map(|_| rng.uniform() - 0.5));
        let x = noise(N * WIDTH);
        let (numbers, down) = (noise(WIDTH * WIDTH), noise(WIDTH * WIDTH));
        let mut blocks = vec![0; WIDTH * Format::Q8_0.row_bytes(WIDTH).unwrap()];
        encode::encode_row(Format::Q8_0, &numbers, &mut blocks);
        let bytes = |format| match format {
            Format::F32 => cast::to_bytes(&numbers),
            _ => &blocks,
        };
        let mut cpu = Cpu::new(crate::options::KernelChoice::Auto, 2).unwrap();
        let mut product = |format| {
            let bytes: &[u8] = bytes(format);
            let mut buf = AlignedBuf::zeroed(bytes.len()).unwrap();
            buf.as_mut_slice().copy_from_slice(bytes);
            let all = Extent {
                offset: 0,
                len: bytes.len() as u64,
            };
            let slice = Slice::new(&Arc::new(buf), all).unwrap();
            let weight = &cpu.matrix(format, WIDTH, WIDTH, slice).unwrap();
            let mut y = vec![0.0; N * WIDTH];
            linear::matmul(&mut cpu, N, &x, &mut [Product { weight, y: &mut y }]);
            y
        };
        let forms = [Format::F32, Format::Q8_0];
        let [plain, blocked] = forms.map(&mut product);
        assert_ne!(plain, blocked);
        let routes = Routes {
            ids: ids(&[0; N]),
            weights: vec![0.5; N],
        };
        let mut groups = Groups::default();
        groups.fill(&routes.ids);
        for (gate, up, g, u) in [
            (forms[0], forms[1], &plain, &blocked),
            (forms[1], forms[0], &blocked, &plain),
        ] {
            let mut hidden = vec![0.0; N * WIDTH];
            cpu.experts(Experts {
                n: N,
                shape: crate::backend::ExpertShape {
                    n_embd: WIDTH,
                    n_ff: WIDTH,
                    gate,
                    up,
                    down: Format::F32,
                    clamp: 1.0,
                },
                x: &x,
                routes: &routes,
                groups: &groups,
                which: &[0],
                weights: &|_| ExpertRef {
                    gate: bytes(gate),
                    up: bytes(up),
                    down: cast::to_bytes(&down),
                },
                hidden: &mut hidden,
                out: &mut vec![0.0; N * WIDTH],
            })
            .unwrap();
            let gated = g.iter().zip(u).map(|(g, u)| 0.5 * swiglu(*g, *u, 1.0));
            assert!(hidden.into_iter().eq(gated), "{gate:?}, {up:?}");
        }
    }
}
