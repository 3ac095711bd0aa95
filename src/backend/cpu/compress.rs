//! Compressors: a window of tokens becomes one row, by a softmax over time for each channel.

use super::attention::rotate;
use super::{Cpu, rms_norm_row};
use crate::backend::Compress;

/// See [`crate::backend::Backend::compress`].
pub fn step(cpu: &mut Cpu, step: &mut Compress<'_, Cpu>) {
    let width = if step.overlap { 2 * step.dim } else { step.dim };
    let gate = &mut step.gate[..step.n * width];
    for (t, z) in gate.chunks_exact_mut(width).enumerate() {
        let ape = &step.ape[((step.pos + t) % step.ratio) * width..][..width];
        z.iter_mut().zip(ape).for_each(|(z, a)| *z += a);
    }
    let history = History {
        pos: step.pos,
        width,
        capacity: step.state.len() / (2 * width),
        kv: &step.kv[..step.n * width],
        gate,
        state: &mut step.state[..],
    };
    let dot = cpu.kernels.dot_f32;
    let first = step.pos / step.ratio;
    let n_windows = (step.pos + step.n) / step.ratio - first;
    let mut pooled = std::mem::take(&mut cpu.pooled);
    pooled.resize(pooled.len().max(n_windows * step.dim), 0.0);
    let (ratio, overlap, rms_eps, n_rot) = (step.ratio, step.overlap, step.rms_eps, step.n_rot);
    let (norm, rope) = (&step.norm[..], &step.rope[..]);
    cpu.pool.for_rows(
        &mut pooled[..n_windows * step.dim],
        step.dim,
        &mut cpu.threads,
        |i, row, own| {
            pool_window(&history, first + i, ratio, overlap, row, &mut own.row);
            rms_norm_row(dot, row, norm, rms_eps);
            rotate(row, &rope[i * n_rot..][..n_rot], 1.0);
        },
    );
    for (i, row) in pooled.chunks_exact(step.dim).take(n_windows).enumerate() {
        let scratch = &mut cpu.threads[0].row;
        scratch.resize(scratch.len().max(step.dim), 0.0);
        step.rows.store(first + i, &cpu.kernels, row, scratch);
    }
    cpu.pooled = pooled;
    history.commit();
}

/// `kv` and biased `gate` of the tokens of this chunk and of the last ones before it.
struct History<'a> {
    /// Position of the chunk's first token.
    pos: usize,
    width: usize,
    /// Tokens that the ring holds.
    capacity: usize,
    kv: &'a [f32],
    gate: &'a [f32],
    /// `[capacity, 2 width]` by position modulo `capacity`: kv, then gate.
    state: &'a mut [f32],
}

impl History<'_> {
    /// (kv, gate) of the token at position `p`.
    fn at(&self, p: usize) -> (&[f32], &[f32]) {
        match p.checked_sub(self.pos) {
            Some(t) => (
                &self.kv[t * self.width..][..self.width],
                &self.gate[t * self.width..][..self.width],
            ),
            None => self.state[(p % self.capacity) * 2 * self.width..][..2 * self.width]
                .split_at(self.width),
        }
    }

    /// Keeps the last tokens for the next chunk.
    fn commit(self) {
        let n = self.kv.len() / self.width;
        for t in n.saturating_sub(self.capacity)..n {
            let at = ((self.pos + t) % self.capacity) * 2 * self.width;
            let (kv, gate) = self.state[at..at + 2 * self.width].split_at_mut(self.width);
            kv.copy_from_slice(&self.kv[t * self.width..][..self.width]);
            gate.copy_from_slice(&self.gate[t * self.width..][..self.width]);
        }
    }
}

/// Pools window `w` into `row`. With overlap, the first half of the channels of the window before it takes
/// part too; before window 0 there is none, and nothing is added for it.
fn pool_window(
    history: &History<'_>,
    w: usize,
    ratio: usize,
    overlap: bool,
    row: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    let dim = row.len();
    let start = if overlap && w > 0 {
        ratio * (w - 1)
    } else {
        ratio * w
    };
    // Half a (from 0) serves the next window, half b (from dim) the token's own.
    let half = |p: usize| if overlap && p >= ratio * w { dim } else { 0 };
    scratch.resize(scratch.len().max(2 * dim), 0.0);
    let (max, sum) = scratch[..2 * dim].split_at_mut(dim);
    max.fill(f32::NEG_INFINITY);
    sum.fill(0.0);
    row.fill(0.0);
    for p in start..ratio * (w + 1) {
        let gate = &history.at(p).1[half(p)..][..dim];
        max.iter_mut().zip(gate).for_each(|(m, g)| *m = m.max(*g));
    }
    for p in start..ratio * (w + 1) {
        let (kv, gate) = history.at(p);
        let (kv, gate) = (&kv[half(p)..][..dim], &gate[half(p)..][..dim]);
        for e in 0..dim {
            let weight = (gate[e] - max[e]).exp();
            sum[e] += weight;
            row[e] += weight * kv[e];
        }
    }
    row.iter_mut().zip(sum).for_each(|(v, s)| *v /= *s);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fact sheet's example: one channel, token t has kv (t + 1, t + 10) and gate (0.1 t, 0.2 t).
    #[test]
    fn overlapping_windows_pool_the_previous_half_a_and_their_own_half_b() {
        let kv: Vec<f32> = (0..12)
            .flat_map(|t| [t as f32 + 1.0, t as f32 + 10.0])
            .collect();
        let gate: Vec<f32> = (0..12)
            .flat_map(|t| [0.1 * t as f32, 0.2 * t as f32])
            .collect();
        // Windows read from the chunk alone, or partly from the ring behind a chunk border at 5.
        for border in [0, 5] {
            let mut state = vec![0.0; 8 * 4];
            let before = History {
                pos: 0,
                width: 2,
                capacity: 8,
                kv: &kv[..2 * border],
                gate: &gate[..2 * border],
                state: &mut state,
            };
            before.commit();
            let history = History {
                pos: border,
                width: 2,
                capacity: 8,
                kv: &kv[2 * border..],
                gate: &gate[2 * border..],
                state: &mut state,
            };
            for (w, expected) in [(0, 11.747209318_f64), (1, 12.136458507)] {
                let mut row = [0.0];
                pool_window(&history, w, 4, true, &mut row, &mut Vec::new());
                assert!(
                    (f64::from(row[0]) - expected).abs() < 1e-5,
                    "window {w}: {} {expected}",
                    row[0]
                );
            }
        }
    }

    #[test]
    fn windows_without_overlap_weigh_each_channel_by_its_own_gates() {
        // Two channels; the gates of the first favour token 0, of the second token 1, by e^100.
        let (kv, gate) = ([1.0, 2.0, 3.0, 4.0], [100.0, 0.0, 0.0, 100.0]);
        let history = History {
            pos: 0,
            width: 2,
            capacity: 2,
            kv: &kv,
            gate: &gate,
            state: &mut [],
        };
        let mut row = [0.0; 2];
        pool_window(&history, 0, 2, false, &mut row, &mut Vec::new());
        assert_eq!(row, [1.0, 4.0]);
    }
}
