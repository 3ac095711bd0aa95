//! Attention: queries and keys, the indexer's choice, softmax with sinks over raw and compressed rows.

use super::dispatch::Kernels;
use super::kv_rows::Rows;
use super::{Cpu, Thread, norm_scale};
use crate::backend::profile::Cost;
use crate::backend::{Attend, Compressed, Heads, RowForm, Select};
use crate::error::Result;
use crate::quant::cast::to_bytes;
use crate::quant::rounding;

/// Keys that are brought to f32 together.
pub const KEY_TILE: usize = 64;

/// Rotates the last values of a row by `rope = (cos, sin)...`, pairs of neighbours. `direction` -1 undoes it.
pub fn rotate(row: &mut [f32], rope: &[f32], direction: f32) {
    let tail = row.len() - rope.len();
    for (pair, angle) in row[tail..].chunks_exact_mut(2).zip(rope.chunks_exact(2)) {
        let (a, b, cos, sin) = (pair[0], pair[1], angle[0], direction * angle[1]);
        pair[0] = a * cos - b * sin;
        pair[1] = a * sin + b * cos;
    }
}

/// See [`crate::backend::Backend::head_norm_rope`].
pub fn head_norm_rope(cpu: &mut Cpu, heads: Heads, q: &mut [f32], rope: &[f32], eps: f32) {
    let dot = cpu.kernels.dot_f32;
    let n_rot = heads.n_rot;
    cpu.pool
        .for_rows(q, heads.n * heads.dim, &mut cpu.threads, |t, q, _| {
            for head in q.chunks_exact_mut(heads.dim) {
                let norm = norm_scale(dot, head, eps);
                head.iter_mut().for_each(|v| *v *= norm);
                rotate(head, &rope[t * n_rot..][..n_rot], 1.0);
            }
        });
}

/// See [`crate::backend::Backend::index_queries`].
pub fn index_queries(cpu: &mut Cpu, heads: Heads, q: &mut [f32], rope: &[f32], form: RowForm) {
    let n_rot = heads.n_rot;
    cpu.pool
        .for_rows(q, heads.n * heads.dim, &mut cpu.threads, |t, q, _| {
            for head in q.chunks_exact_mut(heads.dim) {
                rotate(head, &rope[t * n_rot..][..n_rot], 1.0);
                if form == RowForm::Fp4 {
                    rounding::hadamard(head);
                    rounding::fp4_round(head);
                }
            }
        });
}

/// Indexer rows chosen for each token: `ids[token top_k..]`, ascending; all `top_k` are used.
pub struct Selection {
    ids: Vec<u32>,
    top_k: usize,
}

impl Selection {
    /// Room for `n` tokens.
    ///
    /// Errors: memory is refused.
    pub fn new(n: usize, top_k: usize) -> Result<Selection> {
        Ok(Selection {
            ids: super::zeroed(n * top_k)?,
            top_k,
        })
    }

    /// The rows chosen for token `t` of the chunk.
    pub fn of(&self, t: usize) -> &[u32] {
        &self.ids[t * self.top_k..][..self.top_k]
    }
}

/// Compressed rows that a query at `pos` sees: windows whose last token is not behind it.
pub fn n_visible(pos: usize, ratio: usize) -> usize {
    (pos + 1) / ratio
}

/// See [`crate::backend::Backend::select`]. Tokens that see no more than `top_k` rows get no entry: they
/// attend to all.
pub fn select(cpu: &mut Cpu, step: &Select<'_, Cpu>, selection: &mut Selection) {
    let kernels = cpu.kernels;
    let first = (0..step.n).find(|t| n_visible(step.pos + t, step.ratio) > step.top_k);
    let Some(first) = first else { return };
    cpu.count(|| {
        let n_rows = (first..step.n).map(|t| n_visible(step.pos + t, step.ratio));
        Cost::dots(step.n_head * n_rows.sum::<usize>(), step.dim)
    });
    let ids = &mut selection.ids[first * step.top_k..step.n * step.top_k];
    if step.n - first == 1 {
        // One token: its scores are shared out.
        let n_rows = n_visible(step.pos + first, step.ratio);
        let mut scores = std::mem::take(&mut cpu.threads[0].scores);
        scores.resize(scores.len().max(n_rows), 0.0);
        let tiles = n_rows.div_ceil(KEY_TILE);
        scores.resize(scores.len().max(tiles * KEY_TILE), 0.0);
        cpu.pool.for_rows(
            &mut scores[..tiles * KEY_TILE],
            KEY_TILE,
            &mut cpu.threads,
            |i, scores, own| {
                let len = KEY_TILE.min(n_rows - i * KEY_TILE);
                score_rows(
                    &kernels,
                    step,
                    first,
                    i * KEY_TILE,
                    &mut scores[..len],
                    &mut own.row,
                );
            },
        );
        top_rows(&scores[..n_rows], &mut cpu.threads[0].order, ids);
        cpu.threads[0].scores = scores;
        return;
    }
    cpu.pool
        .for_rows(ids, step.top_k, &mut cpu.threads, |i, ids, own| {
            let t = first + i;
            let n_rows = n_visible(step.pos + t, step.ratio);
            own.scores.resize(own.scores.len().max(n_rows), 0.0);
            score_rows(
                &kernels,
                step,
                t,
                0,
                &mut own.scores[..n_rows],
                &mut own.row,
            );
            top_rows(&own.scores[..n_rows], &mut own.order, ids);
        });
}

/// `scores[i]` of row `start + i`: sum over heads of weight times the positive part of the dot product.
fn score_rows(
    kernels: &Kernels,
    step: &Select<'_, Cpu>,
    t: usize,
    start: usize,
    scores: &mut [f32],
    row: &mut Vec<f32>,
) {
    let q = &step.q[t * step.n_head * step.dim..][..step.n_head * step.dim];
    let weight = &step.head_weight[t * step.n_head..][..step.n_head];
    row.resize(row.len().max(step.dim), 0.0);
    let row = &mut row[..step.dim];
    let dot = kernels.dot_f32;
    for (i, score) in scores.iter_mut().enumerate() {
        step.rows.load(start + i, kernels, row);
        let heads = q.chunks_exact(step.dim).zip(weight);
        *score = heads
            .map(|(q, w)| w * step.scale * dot(q, row).max(0.0))
            .sum();
    }
}

/// The `ids.len()` largest scores, lower row first among equals, ascending by row. NaN counts as smallest.
fn top_rows(scores: &[f32], order: &mut Vec<u32>, ids: &mut [u32]) {
    let key = |w: u32| {
        let s = scores[w as usize];
        if s.is_nan() {
            f32::NEG_INFINITY
        } else {
            s + 0.0
        }
    };
    order.clear();
    order.extend(0..scores.len() as u32);
    order.select_nth_unstable_by(ids.len() - 1, |&a, &b| {
        key(b).total_cmp(&key(a)).then(a.cmp(&b))
    });
    ids.copy_from_slice(&order[..ids.len()]);
    ids.sort_unstable();
}

/// See [`crate::backend::Backend::attend`].
pub fn attend(cpu: &mut Cpu, step: Attend<'_, Cpu>) {
    // Heads are shared out too when there are fewer tokens than threads.
    let n_head = step.heads.n;
    let shares = cpu.pool.n_threads().div_ceil(step.n).min(n_head);
    let heads_each = (1..=n_head)
        .find(|h| n_head.is_multiple_of(*h) && n_head / h <= shares)
        .unwrap_or(n_head);
    let kernels = cpu.kernels;
    // Each key is multiplied with the query, and as a value with its score.
    cpu.count(|| {
        let n_keys = (0..step.n).map(|t| Keys::of(&step, t).len());
        Cost::dots(2 * n_head * n_keys.sum::<usize>(), step.heads.dim)
    });
    let mut out = std::mem::take(step.out);
    let row_len = heads_each * step.heads.dim;
    let used = step.n * n_head * step.heads.dim;
    cpu.pool.for_rows(
        &mut out[..used],
        row_len,
        &mut cpu.threads,
        |i, out, own| {
            let first = i * heads_each;
            attend_heads(&kernels, &step, first / n_head, first % n_head, out, own);
        },
    );
    *step.out = out;
}

/// Heads `head..` of token `t`, as many as `out` holds. One pass over the keys in tiles: the running maximum
/// rescales what was summed so far. The sink starts it: maximum = sink, sum = 1, no value.
fn attend_heads(
    kernels: &Kernels,
    step: &Attend<'_, Cpu>,
    t: usize,
    head: usize,
    out: &mut [f32],
    own: &mut Thread,
) {
    let scores_of = kernels.rows_f32;
    let dim = step.heads.dim;
    let n_head = out.len() / dim;
    let q = &step.q[(t * step.heads.n + head) * dim..][..out.len()];
    let scale = 1.0 / (dim as f32).sqrt();
    out.fill(0.0);
    own.max.clear();
    own.max.extend_from_slice(&step.sinks[head..head + n_head]);
    own.sum.clear();
    own.sum.resize(n_head, 1.0);
    own.keys.resize(own.keys.len().max(KEY_TILE * dim), 0.0);

    let keys = Keys::of(step, t);
    let mut start = 0;
    while start < keys.len() {
        let len = KEY_TILE.min(keys.len() - start);
        let tile = &mut own.keys[..len * dim];
        for (i, key) in tile.chunks_exact_mut(dim).enumerate() {
            keys.load(start + i, kernels, key);
        }
        for h in 0..n_head {
            let q = &q[h * dim..][..dim];
            let o = &mut out[h * dim..][..dim];
            let mut scores = [0.0; KEY_TILE];
            let scores = &mut scores[..len];
            scores_of(to_bytes(&*tile), to_bytes(q), scores);
            let mut max = own.max[h];
            for s in scores.iter_mut() {
                *s *= scale;
                max = max.max(*s);
            }
            if max > own.max[h] {
                let shrink = (own.max[h] - max).exp();
                own.sum[h] *= shrink;
                o.iter_mut().for_each(|v| *v *= shrink);
                own.max[h] = max;
            }
            for s in scores.iter_mut() {
                *s = (*s - max).exp();
                own.sum[h] += *s;
            }
            (kernels.axpys)(scores, tile, o);
        }
        start += len;
    }
    for (o, sum) in out.chunks_exact_mut(dim).zip(&own.sum) {
        o.iter_mut().for_each(|v| *v /= sum);
        rotate(
            o,
            &step.rope[t * step.heads.n_rot..][..step.heads.n_rot],
            -1.0,
        );
    }
}

/// The keys of one token in their fixed order: raw window by position, then compressed rows ascending.
struct Keys<'a> {
    ring: &'a Rows,
    chunk: &'a Rows,
    pos: usize,
    window: usize,
    /// Positions of the raw keys.
    first_raw: usize,
    n_raw: usize,
    compressed: Option<(&'a Rows, Option<&'a [u32]>)>,
    n_compressed: usize,
}

impl<'a> Keys<'a> {
    fn of(step: &Attend<'a, Cpu>, t: usize) -> Keys<'a> {
        let p = step.pos + t;
        let first_raw = (p + 1).saturating_sub(step.window);
        let (compressed, n_compressed) = match &step.compressed {
            None => (None, 0),
            Some(Compressed {
                rows,
                ratio,
                selected,
            }) => {
                let visible = n_visible(p, *ratio);
                let chosen = selected
                    .filter(|(_, top_k)| visible > *top_k)
                    .map(|(s, _)| s.of(t));
                (Some((*rows, chosen)), chosen.map_or(visible, <[u32]>::len))
            }
        };
        Keys {
            ring: step.ring,
            chunk: step.chunk,
            pos: step.pos,
            window: step.window,
            first_raw,
            n_raw: p + 1 - first_raw,
            compressed,
            n_compressed,
        }
    }

    fn len(&self) -> usize {
        self.n_raw + self.n_compressed
    }

    fn load(&self, i: usize, kernels: &Kernels, key: &mut [f32]) {
        if i < self.n_raw {
            let p = self.first_raw + i;
            match p.checked_sub(self.pos) {
                Some(in_chunk) => self.chunk.load(in_chunk, kernels, key),
                None => self.ring.load(p % self.window, kernels, key),
            }
        } else if let Some((rows, chosen)) = self.compressed {
            let w = i - self.n_raw;
            rows.load(chosen.map_or(w, |ids| ids[w] as usize), kernels, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visibility_counts_the_window_closed_by_the_token_itself() {
        let cases = [
            (2, 4, 0),
            (3, 4, 1),
            (126, 128, 0),
            (127, 128, 1),
            (2050, 4, 512),
            (2051, 4, 513),
        ];
        for (pos, ratio, expected) in cases {
            assert_eq!(
                n_visible(pos, ratio),
                expected,
                "position {pos}, ratio {ratio}"
            );
        }
    }

    #[test]
    fn rotation_turns_neighbours_at_the_end_only_and_back() {
        let (sin, cos) = 1f32.sin_cos();
        let mut row = [5.0, 6.0, 1.0, 0.0, 0.0, 1.0];
        rotate(&mut row, &[cos, sin, cos, sin], 1.0);
        assert_eq!(row, [5.0, 6.0, cos, sin, -sin, cos]);
        rotate(&mut row, &[cos, sin, cos, sin], -1.0);
        for (found, expected) in row.iter().zip([5.0, 6.0, 1.0, 0.0, 0.0, 1.0]) {
            assert!((found - expected).abs() < 1e-7);
        }
    }

    #[test]
    fn ties_go_to_the_lower_row_and_nan_never_wins() {
        let scores = [1.0, 3.0, f32::NAN, 1.0, -0.0, 0.0, 3.0, 1.0];
        let mut order = Vec::new();
        for (k, expected) in [
            (1, vec![1]),
            (3, vec![0, 1, 6]),
            (4, vec![0, 1, 3, 6]),
            (6, vec![0, 1, 3, 4, 6, 7]),
        ] {
            let mut ids = vec![0; k];
            top_rows(&scores, &mut order, &mut ids);
            assert_eq!(ids, expected);
        }
    }

    /// A single 1, turned by a quarter to the last place, becomes a row of equal magnitudes whose signs tell that
    /// the rotation came first.
    #[test]
    fn indexer_queries_are_rotated_then_transformed_then_rounded() {
        let mut cpu = Cpu::for_tests();
        let heads = Heads {
            n: 1,
            dim: 32,
            n_rot: 2,
        };
        let mut q = vec![0.0; 32];
        q[30] = 1.0;
        // cos 0, sin 1: the pair (1, 0) becomes (0, 1), so that the one stands at place 31.
        let rope = [0.0, 1.0];
        index_queries(&mut cpu, heads, &mut q, &rope, RowForm::Fp4);
        // Row 31 of the Sylvester matrix is the product of the signs of all five bits: the parity of the place.
        let size = 1.0 / 32f32.sqrt();
        // amax / 6 = 0.02946, so the scale is 2^-5 and 0.17678 / 2^-5 = 5.657 rounds to 6: 0.1875.
        assert!((size / 0.031_25 - 5.657).abs() < 1e-3);
        for (i, v) in q.iter().enumerate() {
            let sign = if i.count_ones() % 2 == 0 { 1.0 } else { -1.0 };
            assert_eq!(*v, sign * 0.1875, "place {i}");
        }
        // Without rounding the form changes nothing but the rotation.
        let mut q = vec![0.0; 32];
        q[30] = 1.0;
        index_queries(&mut cpu, heads, &mut q, &rope, RowForm::F16);
        assert_eq!((q[30], q[31]), (0.0, 1.0));
    }
}
