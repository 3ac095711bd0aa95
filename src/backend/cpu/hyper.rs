//! Hyper-connections: four residual streams, mixed in front of and behind every sub-layer.

use super::{Cpu, Dot, norm_scale, sigmoid};
use crate::backend::{HC, HyperHead, HyperNumbers, HyperSite, MIX, Product};

/// Outputs of a mixer: pre gates, post gates, matrix.
const MIXER: usize = 2 * HC + HC * HC;

/// See [`crate::backend::Backend::hyper_entry`].
pub fn entry(
    cpu: &mut Cpu,
    site: &HyperSite<Cpu>,
    numbers: HyperNumbers,
    n: usize,
    streams: &[f32],
    mix: &mut [f32],
    x: &mut [f32],
) {
    let n_embd = site.norm.len();
    let mut raw = std::mem::take(&mut cpu.mixer_out);
    raw.resize(raw.len().max(n * MIXER), 0.0);
    super::linear::matmul(
        cpu,
        n,
        streams,
        &mut [Product {
            weight: &site.mixer,
            y: &mut raw,
        }],
    );

    let dot = cpu.kernels.dot_f32;
    cpu.pool
        .for_rows(&mut raw[..n * MIXER], MIXER, &mut cpu.threads, |t, m, _| {
            let s = &streams[t * HC * n_embd..][..HC * n_embd];
            let norm = norm_scale(dot, s, numbers.rms_eps);
            for (i, m) in m.iter_mut().enumerate() {
                let part = if i < HC {
                    0
                } else {
                    1 + usize::from(i >= 2 * HC)
                };
                *m = *m * norm * site.scale[part] + site.base[i];
            }
            gates(m, numbers);
        });
    for (mix, m) in mix
        .chunks_exact_mut(MIX)
        .zip(raw[..n * MIXER].chunks_exact(MIXER))
    {
        mix.copy_from_slice(&m[HC..]);
    }
    let pre = |t: usize| &raw[t * MIXER..][..HC];
    cpu.pool
        .for_rows(&mut x[..n * n_embd], n_embd, &mut cpu.threads, |t, u, _| {
            weighted_streams(pre(t), &streams[t * HC * n_embd..][..HC * n_embd], u);
            super::rms_norm_row(dot, u, &site.norm, numbers.rms_eps);
        });
    cpu.mixer_out = raw;
}

/// Turns the mixer's scaled and biased outputs into pre gates, post gates and the doubly stochastic matrix,
/// `m[2 HC + HC a + b]` from stream `a` to stream `b`.
pub fn gates(m: &mut [f32], numbers: HyperNumbers) {
    let eps = numbers.eps;
    m[..HC].iter_mut().for_each(|v| *v = sigmoid(*v) + eps);
    m[HC..2 * HC]
        .iter_mut()
        .for_each(|v| *v = 2.0 * sigmoid(*v));
    let c = &mut m[2 * HC..];
    for row in c.chunks_exact_mut(HC) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|v| *v = (*v - max).exp());
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|v| *v = *v / sum + eps);
    }
    normalize_columns(c, eps);
    for _ in 1..numbers.n_sinkhorn {
        for row in c.chunks_exact_mut(HC) {
            let sum: f32 = row.iter().sum::<f32>() + eps;
            row.iter_mut().for_each(|v| *v /= sum);
        }
        normalize_columns(c, eps);
    }
}

fn normalize_columns(c: &mut [f32], eps: f32) {
    for b in 0..HC {
        let sum: f32 = (0..HC).map(|a| c[HC * a + b]).sum::<f32>() + eps;
        (0..HC).for_each(|a| c[HC * a + b] /= sum);
    }
}

/// `u = sum over j of gate_j streams[j]`
fn weighted_streams(gate: &[f32], streams: &[f32], u: &mut [f32]) {
    let n_embd = u.len();
    for (d, u) in u.iter_mut().enumerate() {
        *u = (0..HC).map(|j| gate[j] * streams[j * n_embd + d]).sum();
    }
}

/// See [`crate::backend::Backend::hyper_exit`].
pub fn exit(cpu: &mut Cpu, n_embd: usize, y: &[f32], mix: &[f32], streams: &mut [f32]) {
    cpu.pool
        .for_rows(streams, HC * n_embd, &mut cpu.threads, |t, s, _| {
            let (y, mix) = (&y[t * n_embd..][..n_embd], &mix[t * MIX..][..MIX]);
            let mix: [f32; MIX] = std::array::from_fn(|i| mix[i]);
            let mut streams = s.chunks_exact_mut(n_embd);
            let [Some(s0), Some(s1), Some(s2), Some(s3)] = [(); HC].map(|()| streams.next()) else {
                return;
            };
            // Slices side by side and gates in registers, so that the compiler makes a vector loop of it.
            let streams = s0.iter_mut().zip(s1).zip(s2).zip(s3);
            for ((((s0, s1), s2), s3), y) in streams.zip(y) {
                let old = [*s0, *s1, *s2, *s3];
                let to = |b: usize| {
                    let of = |a: usize| mix[HC + HC * a + b] * old[a];
                    mix[b] * y + (of(0) + of(1) + of(2) + of(3))
                };
                (*s0, *s1, *s2, *s3) = (to(0), to(1), to(2), to(3));
            }
        });
}

/// See [`crate::backend::Backend::hyper_head`].
pub fn head(
    cpu: &mut Cpu,
    head: &HyperHead<Cpu>,
    numbers: HyperNumbers,
    n: usize,
    streams: &[f32],
    x: &mut [f32],
) {
    let n_embd = head.norm.len();
    let mut raw = std::mem::take(&mut cpu.mixer_out);
    raw.resize(raw.len().max(n * HC), 0.0);
    super::linear::matmul(
        cpu,
        n,
        streams,
        &mut [Product {
            weight: &head.mixer,
            y: &mut raw,
        }],
    );
    let dot: Dot = cpu.kernels.dot_f32;
    cpu.pool
        .for_rows(&mut x[..n * n_embd], n_embd, &mut cpu.threads, |t, u, _| {
            let s = &streams[t * HC * n_embd..][..HC * n_embd];
            let norm = norm_scale(dot, s, numbers.rms_eps);
            let gate: [f32; HC] = std::array::from_fn(|j| {
                sigmoid(raw[t * HC + j] * norm * head.scale + head.base[j]) + numbers.eps
            });
            weighted_streams(&gate, s, u);
            super::rms_norm_row(dot, u, &head.norm, numbers.rms_eps);
        });
    cpu.mixer_out = raw;
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: HyperNumbers = HyperNumbers {
        eps: 1e-6,
        n_sinkhorn: 20,
        rms_eps: 1e-6,
    };

    /// Expected values: the fact sheet's float64 result for L[a][b] = sin(1 + 4a + b).
    #[test]
    fn sinkhorn_matches_a_float64_reference() {
        let mut m = [0.0f32; MIXER];
        (0..16).for_each(|i| m[2 * HC + i] = (1.0 + i as f32).sin());
        gates(&mut m, NUMBERS);
        let expected: [f64; 16] = [
            0.32460592, 0.36575493, 0.21272630, 0.09691185, 0.04980485, 0.10345525, 0.33087938,
            0.51585952, 0.43516569, 0.17611124, 0.13996145, 0.24876062, 0.19042253, 0.35467758,
            0.31643187, 0.13846702,
        ];
        for (found, expected) in m[2 * HC..].iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-6,
                "{found} {expected}"
            );
        }
        for b in 0..HC {
            let column: f32 = (0..HC).map(|a| m[2 * HC + HC * a + b]).sum();
            assert!((column - 1.0).abs() < 3e-6);
        }
    }

    #[test]
    fn a_zero_mixer_gives_a_post_gate_of_one() {
        let mut m = [0.0f32; MIXER];
        gates(&mut m, NUMBERS);
        assert_eq!(m[..HC], [0.5 + 1e-6; HC]);
        assert_eq!(m[HC..2 * HC], [1.0; HC]);
    }

    #[test]
    fn the_exit_sends_stream_a_to_stream_b_by_c_of_a_b() {
        let mut cpu = Cpu::for_tests();
        // All of stream 0 goes to stream 2, nothing else moves; y enters stream 1 only.
        let mut mix = [0.0f32; MIX];
        mix[1] = 1.0;
        mix[HC + 2] = 1.0;
        let mut streams = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        exit(&mut cpu, 2, &[10.0, 20.0], &mix, &mut streams);
        assert_eq!(streams, [0.0, 0.0, 10.0, 20.0, 1.0, 2.0, 0.0, 0.0]);
    }
}
