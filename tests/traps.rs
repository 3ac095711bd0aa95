//! The known ways to get this model wrong, and the tests that fail when they are made.
//!
//! Each mistake below was made in the source once, and the named test was seen to fail; where several fail, the
//! one that names the place is listed. Numbers are those of the project's fact sheet. Tests without a module
//! stand in this file, `traps_whole` is beside it; `rope` and `kv` are unit tests of `src/graph/`, and `attention`, `compress`, `hyper`, `moe`
//! of `src/backend/cpu/`, `rounding` and `tables` of `src/quant/`, `model` of `src/model/`; `golden` and
//! `quant_golden` are the other integration tests. Everything runs on the scalar kernels: other tables replace
//! row kernels only, and are compared with the scalar ones elsewhere.
//!
//! | trap | mistake | test |
//! |---|---|---|
//! | 1, 2 | rotation of half-split pairs; of the first values | `attention::rotation_turns_neighbours_at_the_end_only_and_back` |
//! | 3 | matrix of the exit transposed | `hyper::the_exit_sends_stream_a_to_stream_b_by_c_of_a_b` |
//! | 4 | post gate not doubled | `hyper::a_zero_mixer_gives_a_post_gate_of_one` |
//! | 5 | 1 or 19 Sinkhorn iterations; rows last | `sinkhorn_does_twenty_iterations_and_ends_with_columns` |
//! | 6 | mean of the streams at the head | `hyper_connections_mix_the_raw_streams_by_gates_of_their_common_norm` |
//! | 7 | no norm of query heads | `every_norm_adds_its_eps_under_the_root` |
//! | 8, 9 | no sink, or a scaled one; output not turned back | `a_sink_takes_its_share_and_the_output_is_turned_back` |
//! | 10, 11 | one table of angles for all layers | `rope::each_kind_of_layer_has_its_table_and_windows_turn_by_their_first_token` |
//! | 12 | output groups of every n-th head | `output_groups_are_neighbouring_heads` |
//! | 13, 14 | no YaRN; its magnitude factor | `rope::each_kind_of_layer_has_its_table_and_windows_turn_by_their_first_token` |
//! | 15 | window one too wide or too narrow | `a_token_attends_to_its_window_and_to_every_window_closed_so_far` |
//! | 16 | a row visible one token late | the same; `attention::visibility_counts_the_window_closed_by_the_token_itself` |
//! | 17 | rows that overlap the raw window left out | `a_token_attends_to_its_window_and_to_every_window_closed_so_far` |
//! | 18, 19 | row turned by its last token, or by its index | `rope::each_kind_of_layer_has_its_table_and_windows_turn_by_their_first_token` |
//! | 20 | no position bias | `compressed_rows_do_not_know_chunks_and_match_float64` |
//! | 21, 22 | no overlap; halves swapped | `compress::overlapping_windows_pool_the_previous_half_a_and_their_own_half_b` |
//! | 23 | one gate for all channels | `compress::windows_without_overlap_weigh_each_channel_by_its_own_gates` |
//! | 24 | choice of the indexer ignored | `golden::residual_streams_match_after_every_layer` |
//! | 25, 26 | no ReLU; head weights made positive, or softmaxed | `the_indexer_selects_the_largest_scores_among_rows_visible_to_each_token` |
//! | 27 | indexer queries from the latent without its norm | `golden::residual_streams_match_after_every_layer` |
//! | 28, 30 - 32 | SwiGLU bounds missing, one-sided, on both sides of the gate, behind silu | `moe::the_gate_is_clamped_before_silu_and_only_from_above` |
//! | 29 | no bound on the shared expert | `golden::residual_streams_match_after_every_layer` |
//! | 33 | sigmoid as score | `moe::the_score_is_the_root_of_softplus` |
//! | 34, 35 | no selection bias; bias in the weights | `golden::residual_streams_match_after_every_layer` |
//! | 36 | weights not normalised, or not scaled | `moe::equal_scores_choose_the_lowest_experts_and_share_the_scale` |
//! | 37, 38 | hash layers by score; with equal weights | `golden::residual_streams_match_after_every_layer` |
//! | 39 | gate and up swapped | `experts_match_float64_for_any_width_and_type`; shared: `golden::residual_streams_match_after_every_layer` |
//! | 40 | rounding on or off against the option | `kv::every_store_has_the_form_that_was_asked_for`; `traps_whole::each_form_of_the_cache_moves_logits_by_what_its_rounding_costs` |
//! | 41 | E4M3 on rotary values; rounding before rotation | `raw_keys_are_rounded_after_their_rotation_and_only_before_it_in_the_row`; `compressed_and_indexer_rows_are_rounded_after_their_rotation` |
//! | 42 | scale no power of two, or rounded the wrong way | `rounding::scale_is_the_ceiling_at_and_above_a_power`; `rounding::fp8_block_of_sines` |
//! | 43 | Hadamard on rows or queries only; on keys; wrong blocks | `traps_whole::the_rounded_indexer_selects_nearly_the_same_rows`; `raw_keys_...`; `compressed_and_indexer_rows_...` |
//! | 44 | indexer rotation behind Hadamard, at the front, by the plain table; a norm on its queries | `indexer_queries_are_rounded_like_indexer_rows`; table: `golden::residual_streams_match_after_every_layer` |
//! | 45 | candidates of the chunk's first or last token, or of earlier ones | `the_indexer_selects_the_largest_scores_among_rows_visible_to_each_token` |
//! | 46 | bias by place in the chunk, or one off | `compressed_rows_do_not_know_chunks_and_match_float64` |
//! | 47 | indexer rows only from the first choice on | `golden::micro_q2_float_path_matches_float64` (chunks of 64 and 7) |
//! | 48 | pooling in 16 bits; absent slots as zeros, or as -inf minus -inf | `compress::overlapping_windows_pool_the_previous_half_a_and_their_own_half_b`; bf16: `compressed_rows_do_not_know_chunks_and_match_float64` |
//! | 49 | ring overwritten before it is read | `golden::micro_q2_float_path_matches_float64` (chunks of 64) |
//! | 50, 51 | norm of one stream; input from normed streams; mixer sums in 16 bits | `hyper_connections_mix_the_raw_streams_by_gates_of_their_common_norm` |
//! | 52 | eps outside the root, of another size, or not the file's | `every_norm_adds_its_eps_under_the_root` and those of 20 and 50; `traps_whole::the_eps_of_the_file_reaches_every_norm` |
//! | 53 | types of one layer, or of gate, for all | `traps_whole::types_belong_to_tensors_not_to_files`; `experts_match_float64_for_any_width_and_type` |
//! | 54 | field order, sign parity, grid | `quant_golden::weights_equal_the_golden_file`; `tables::codes_and_grid_have_their_hashes` |
//! | 55 | width of down taken for that of gate | `experts_match_float64_for_any_width_and_type`; shape: `model::flash_binds_in_each_convention_with_the_known_totals` |
//! | 56 | hash experts of another token than the input | `golden::residual_streams_match_after_every_layer` |
//! | 57 | arrays of exactly `n_layer` elements demanded | `model::flash_has_the_published_numbers` |
//! | 66 | angles in f32 | `rope::angles_keep_their_phase_and_magnitude_at_a_million` |
//!
//! No test can catch: a wrong eps in the norm of the query latent (part of 52), since the norm of each head, and
//! the order of the indexer's scores, forget the latent's scale. No mistake of this code: 58 and 59 are about
//! fixtures and comparisons (the golden models randomise every weight and have no near ties). Elsewhere or not
//! built: 60 to 64 (prompt and sampler), 65 (reads past the page cache), 67 (steering).

#![allow(clippy::unwrap_used)]

mod common;

use common::float64::{
    angle_table, angles, assert_near, dot, fp4_row, fp8_row, hyper_gates, logistic, rms, turned,
    wide,
};
use infall::backend::cpu::Cpu;
use infall::backend::cpu::scalar::KERNELS;
use infall::backend::{
    Attend, Backend, Compress, Compressed, ExpertShape, Experts, Groups, HC, Heads, HyperHead,
    HyperNumbers, HyperSite, MIX, Routes, RowForm, Select, Storage, StoreKeys,
};
use infall::model::experts::ExpertRef;
use infall::options::KernelChoice;
use infall::os::{AlignedBuf, Slice};
use infall::quant::Format;
use infall::units::{ExpertId, Extent};
use std::sync::Arc;

type Matrix = <Cpu as Storage>::Matrix;

fn cpu() -> Cpu {
    Cpu::new(KernelChoice::Scalar, 2).unwrap()
}

/// Values in -1..1 of a fixed sequence.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 8_388_608.0 - 1.0 // 24 bits
    };
    (0..n).map(|_| next()).collect()
}

fn times(x: &[f32], factor: f32) -> Vec<f32> {
    x.iter().map(|v| v * factor).collect()
}

fn matrix(cpu: &mut Cpu, rows: usize, values: &[f32]) -> Matrix {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut memory = AlignedBuf::zeroed(bytes.len()).unwrap();
    memory.as_mut_slice().copy_from_slice(&bytes);
    let len = bytes.len() as u64;
    let all = Extent { offset: 0, len };
    let data = Slice::new(&Arc::new(memory), all).unwrap();
    let cols = values.len() / rows;
    cpu.matrix(Format::F32, rows, cols, data).unwrap()
}

// Norms.

/// Where values are small, eps decides: 3e-6 against a mean square near 1e-6.
#[test]
fn every_norm_adds_its_eps_under_the_root() {
    const EPS: f32 = 3e-6;
    let mut cpu = cpu();
    let (n, dim, n_rot) = (2, 96, 16);
    let weight = noise(1, dim);
    let x = times(&noise(2, n * dim), 2e-3);
    let expected: Vec<Vec<f64>> = x
        .chunks(dim)
        .map(|x| rms(&wide(x), Some(&wide(&weight)), EPS.into()))
        .collect();

    let mut y = x.clone();
    cpu.rms_norm(n, &mut y, &weight, EPS).unwrap();
    assert_near("row", &y, &expected.concat(), 1e-5);

    let still = [1.0, 0.0].repeat(n * n_rot / 2);
    let mut k = x.clone();
    let mut rows = cpu.rows(RowForm::F32, dim, n).unwrap();
    cpu.reserve(&mut rows, n).unwrap();
    cpu.store_keys(StoreKeys {
        n,
        k: &mut k,
        norm: &weight,
        rms_eps: EPS,
        rope: &still,
        n_rot,
        rows: &mut rows,
    })
    .unwrap();
    let mut found = vec![0.0; dim];
    for (t, expected) in expected.iter().enumerate() {
        rows.load(t, &KERNELS, &mut found);
        assert_near("key", &found, expected, 1e-5);
    }

    let heads = Heads {
        n: 3,
        dim: 32,
        n_rot,
    };
    let mut q = x.clone();
    cpu.head_norm_rope(n, heads, &mut q, &still, EPS).unwrap();
    let expected: Vec<f64> = x
        .chunks(32)
        .flat_map(|x| rms(&wide(x), None, EPS.into()))
        .collect();
    assert_near("head", &q, &expected, 1e-5);
}

// Hyper-connections.

/// Entry and head against float64, with streams so small that eps decides, of unequal size, and so large that
/// sums leave what binary16 holds.
#[test]
fn hyper_connections_mix_the_raw_streams_by_gates_of_their_common_norm() {
    const N_EMBD: usize = 32;
    let numbers = HyperNumbers {
        eps: 2e-4,
        n_sinkhorn: 3,
        rms_eps: 3e-6,
    };
    let (eps, rms_eps) = (f64::from(numbers.eps), f64::from(numbers.rms_eps));
    let mut cpu = cpu();
    let fan_in = HC * N_EMBD;
    let (mixer, head_mixer) = (
        times(&noise(3, 24 * fan_in), 0.2),
        times(&noise(4, 4 * fan_in), 0.2),
    );
    let (base, head_base) = (noise(5, 24), noise(6, 4));
    let norm: Vec<f32> = noise(7, N_EMBD).iter().map(|v| 1.0 + 0.2 * v).collect();
    let site = HyperSite {
        mixer: matrix(&mut cpu, 24, &mixer),
        base: base.clone(),
        scale: [0.5, 1.5, 0.7],
        norm: norm.clone(),
    };
    let head = HyperHead {
        mixer: matrix(&mut cpu, 4, &head_mixer),
        base: head_base.clone(),
        scale: 1.2,
        norm: norm.clone(),
    };
    for sizes in [[1e-3; 4], [1.0, 0.1, 5.0, 30.0], [3e4, 1e5, 2e4, 7e4]] {
        let streams: Vec<f32> = noise(8, fan_in)
            .iter()
            .enumerate()
            .map(|(i, v)| v * sizes[i / N_EMBD])
            .collect();
        let s = wide(&streams);
        let normed = rms(&s, None, rms_eps);
        let products = |mixer: &[f32]| -> Vec<f64> {
            mixer
                .chunks(fan_in)
                .map(|row| dot(&wide(row), &normed))
                .collect()
        };
        let input = |gates: &[f64]| {
            let u: Vec<f64> = (0..N_EMBD)
                .map(|d| (0..4).map(|j| gates[j] * s[j * N_EMBD + d]).sum())
                .collect();
            rms(&u, Some(&wide(&norm)), rms_eps)
        };

        let logits: Vec<f64> = products(&mixer)
            .iter()
            .enumerate()
            .map(|(i, m)| m * [0.5, 1.5, 0.7, 0.7, 0.7, 0.7][i / 4] + f64::from(base[i]))
            .collect();
        let gates = hyper_gates(&logits, eps, numbers.n_sinkhorn);
        let (mut mix, mut x) = (vec![0.0; MIX], vec![0.0; N_EMBD]);
        cpu.hyper_entry(&site, numbers, 0..1, &streams, &mut mix, &mut x)
            .unwrap();
        assert_near("post gates and matrix", &mix, &gates[4..], 2e-5);
        assert_near("input", &x, &input(&gates), 2e-5);

        let y = noise(9, N_EMBD);
        let expected: Vec<f64> = (0..fan_in)
            .map(|i| {
                let (b, d) = (i / N_EMBD, i % N_EMBD);
                let kept: f64 = (0..4)
                    .map(|a| gates[8 + 4 * a + b] * s[a * N_EMBD + d])
                    .sum();
                gates[4 + b] * f64::from(y[d]) + kept
            })
            .collect();
        let mut after = streams.clone();
        cpu.hyper_exit(0..1, N_EMBD, &y, &mix, &mut after).unwrap();
        assert_near("exit", &after, &expected, 2e-5);

        let gates: Vec<f64> = products(&head_mixer)
            .iter()
            .zip(&head_base)
            .map(|(m, b)| logistic(m * 1.2f32 as f64 + f64::from(*b)) + eps)
            .collect();
        cpu.hyper_head(&head, numbers, 0..1, &streams, &mut x)
            .unwrap();
        assert_near("head", &x, &input(&gates), 2e-5);
    }
}

/// Three streams that all want to go to stream 0: after 20 iterations rows and columns still disagree by 2e-5,
/// so one iteration less, or rows last, shows.
#[test]
fn sinkhorn_does_twenty_iterations_and_ends_with_columns() {
    let numbers = HyperNumbers {
        eps: 1e-6,
        n_sinkhorn: 20,
        rms_eps: 1e-6,
    };
    let mut base = vec![0.0f32; 24];
    for (at, v) in [
        (0, 14.0),
        (4, 14.0),
        (5, 1.0),
        (8, 14.0),
        (10, 2.0),
        (15, 3.0),
    ] {
        base[8 + at] = v;
    }
    let mut cpu = cpu();
    let site = HyperSite {
        mixer: matrix(&mut cpu, 24, &[0.0; 24 * 16]),
        base: base.clone(),
        scale: [1.0; 3],
        norm: vec![1.0; 4],
    };
    let (mut mix, mut x) = (vec![0.0; MIX], vec![0.0; 4]);
    cpu.hyper_entry(&site, numbers, 0..1, &vec![1.0; 16], &mut mix, &mut x)
        .unwrap();
    let gates = hyper_gates(&wide(&base), 1e-6, 20);
    // Two elements as another program computed them.
    assert!((gates[8] - 0.410_798_1).abs() < 1e-7 && (gates[23] - 0.782_332_3).abs() < 1e-7);
    assert_near("matrix", &mix[4..], &gates[8..], 2e-6);
}

// Attention.

/// Scores of zero weigh all keys alike, and key j is 1 at place j alone: the output lists the keys.
#[test]
fn a_token_attends_to_its_window_and_to_every_window_closed_so_far() {
    const N: usize = 24;
    const WINDOW: usize = 8;
    const RATIO: usize = 4;
    let heads = Heads {
        n: 2,
        dim: 34,
        n_rot: 2,
    };
    let unit = |at: usize| {
        let mut row = vec![0.0f32; 34];
        row[at] = 1.0;
        row
    };
    let mut cpu = cpu();
    for chunk in [1, 5, N] {
        let mut ring = cpu.rows(RowForm::F32, 34, WINDOW).unwrap();
        cpu.reserve(&mut ring, WINDOW).unwrap();
        let mut chunk_rows = cpu.rows(RowForm::F32, 34, N).unwrap();
        cpu.reserve(&mut chunk_rows, N).unwrap();
        let mut rows = cpu.rows(RowForm::F32, 34, N / RATIO).unwrap();
        cpu.reserve(&mut rows, N / RATIO).unwrap();
        (0..N / RATIO).for_each(|w| rows.store(w, &KERNELS, &unit(N + w), &mut []));
        for pos in (0..N).step_by(chunk) {
            let n = chunk.min(N - pos);
            (0..n).for_each(|t| chunk_rows.store(t, &KERNELS, &unit(pos + t), &mut []));
            let mut out = vec![0.0; n * 2 * 34];
            cpu.attend(Attend {
                n,
                pos,
                heads,
                window: WINDOW,
                q: &vec![0.0; n * 2 * 34],
                sinks: &vec![0.0; 2],
                ring: &ring,
                chunk: &chunk_rows,
                compressed: Some(Compressed {
                    rows: &rows,
                    ratio: RATIO,
                    selected: None,
                }),
                rope: &[1.0, 0.0].repeat(n),
                out: &mut out,
            })
            .unwrap();
            cpu.commit_keys(n, pos, WINDOW, &chunk_rows, &mut ring)
                .unwrap();
            for (i, out) in out.chunks(34).enumerate() {
                let p = pos + i / 2;
                let raw = (0..=p).filter(|key| key + WINDOW > p);
                let closed = (0..N / RATIO).filter(|w| RATIO * w + RATIO - 1 <= p);
                let keys: Vec<usize> = raw.chain(closed.map(|w| N + w)).collect();
                // The sink's zero counts once more.
                let weight = 1.0 / (keys.len() + 1) as f64;
                let expected: Vec<f64> = (0..34)
                    .map(|j| if keys.contains(&j) { weight } else { 0.0 })
                    .collect();
                assert_near(
                    &format!("chunk {chunk}, position {p}"),
                    out,
                    &expected,
                    1e-6,
                );
            }
        }
    }
}

/// One key, as likely as the sink: half of its value comes out, turned back by the query's position.
#[test]
fn a_sink_takes_its_share_and_the_output_is_turned_back() {
    let heads = Heads {
        n: 1,
        dim: 16,
        n_rot: 8,
    };
    let mut cpu = cpu();
    let (position, key) = (29, wide(&noise(11, 16)));
    let kept: Vec<f32> = turned(key.clone(), &angles(position, 8))
        .iter()
        .map(|v| *v as f32)
        .collect();
    let q = times(&noise(12, 16), 3.0);
    let sink = (dot(&wide(&q), &wide(&kept)) / 4.0) as f32;
    let mut rows = cpu.rows(RowForm::F32, 16, 1).unwrap();
    cpu.reserve(&mut rows, 1).unwrap();
    rows.store(0, &KERNELS, &kept, &mut []);
    let ring = cpu.rows(RowForm::F32, 16, 1).unwrap();
    let mut out = vec![0.0; 16];
    cpu.attend(Attend {
        n: 1,
        pos: position,
        heads,
        window: 1,
        q: &q,
        sinks: &vec![sink],
        ring: &ring,
        chunk: &rows,
        compressed: None,
        rope: &angle_table([position].into_iter(), 8),
        out: &mut out,
    })
    .unwrap();
    let expected: Vec<f64> = key.iter().map(|v| v / 2.0).collect();
    assert_near("output", &out, &expected, 1e-5);
}

/// Output groups are neighbouring heads: what head 2 of 4 says reaches the second of two groups only.
#[test]
fn output_groups_are_neighbouring_heads() {
    let mut cpu = cpu();
    let weight = matrix(&mut cpu, 6, &[1.0; 6 * 8]);
    for (head, expected) in [
        (1, [4.0, 4.0, 4.0, 0.0, 0.0, 0.0]),
        (2, [0.0, 0.0, 0.0, 4.0, 4.0, 4.0]),
    ] {
        let mut attended = vec![0.0; 16];
        attended[4 * head..][..4].fill(1.0);
        let mut y = vec![0.0; 6];
        cpu.matmul_grouped(1, 2, &attended, &weight, &mut y)
            .unwrap();
        assert_eq!(y, expected, "head {head}");
    }
}

// Compressors and indexer.

/// A compressor step in float64: row `w` of tokens with these projections.
#[derive(Clone, Copy)]
struct Pooling<'a> {
    ratio: usize,
    overlap: bool,
    dim: usize,
    n_rot: usize,
    kv: &'a [f32],
    gate: &'a [f32],
    ape: &'a [f32],
    norm: &'a [f32],
    eps: f32,
}

impl Pooling<'_> {
    fn row(&self, w: usize) -> Vec<f64> {
        let width = if self.overlap { 2 * self.dim } else { self.dim };
        let pooled: Vec<f64> = (0..self.dim)
            .map(|e| {
                // (token, channel) of each slot: the window before with half a, the own one with half b.
                let own = (self.ratio * w..self.ratio * (w + 1)).map(|t| (t, width - self.dim + e));
                let before = (0..self.ratio * w)
                    .filter(|t| self.overlap && t + self.ratio >= self.ratio * w)
                    .map(|t| (t, e));
                let (mut sum, mut value) = (0.0, 0.0);
                for (t, channel) in before.chain(own) {
                    let bias = self.ape[t % self.ratio * width + channel];
                    let weight =
                        (f64::from(self.gate[t * width + channel]) + f64::from(bias)).exp();
                    sum += weight;
                    value += weight * f64::from(self.kv[t * width + channel]);
                }
                value / sum
            })
            .collect();
        let normed = rms(&pooled, Some(&wide(self.norm)), self.eps.into());
        turned(normed, &angles(self.ratio * w, self.n_rot))
    }

    /// The rows that the backend makes of the tokens in chunks.
    fn rows_of(&self, cpu: &mut Cpu, form: RowForm, chunk: usize) -> Vec<Vec<f32>> {
        let width = if self.overlap { 2 * self.dim } else { self.dim };
        let n_tokens = self.kv.len() / width;
        let n_rows = n_tokens / self.ratio;
        let kept = if self.overlap {
            2 * self.ratio
        } else {
            self.ratio
        };
        let mut state = vec![0.0; kept * 2 * width];
        let mut rows = cpu.rows(form, self.dim, n_rows).unwrap();
        cpu.reserve(&mut rows, n_rows).unwrap();
        for pos in (0..n_tokens).step_by(chunk) {
            let n = chunk.min(n_tokens - pos);
            let closed = pos / self.ratio..(pos + n) / self.ratio;
            cpu.compress(Compress {
                n,
                pos,
                ratio: self.ratio,
                overlap: self.overlap,
                dim: self.dim,
                n_rot: self.n_rot,
                kv: &self.kv[pos * width..][..n * width].to_vec(),
                gate: &mut self.gate[pos * width..][..n * width].to_vec(),
                ape: &self.ape.to_vec(),
                norm: &self.norm.to_vec(),
                rms_eps: self.eps,
                rope: &angle_table(closed.map(|w| self.ratio * w), self.n_rot),
                state: &mut state,
                rows: &mut rows,
            })
            .unwrap();
        }
        let load = |w| {
            let mut row = vec![0.0; self.dim];
            rows.load(w, &KERNELS, &mut row);
            row
        };
        (0..n_rows).map(load).collect()
    }
}

/// Both kinds of compressors, with chunks that cut windows anywhere, and values so small that eps counts.
#[test]
fn compressed_rows_do_not_know_chunks_and_match_float64() {
    let mut cpu = cpu();
    let (dim, n_rot) = (24, 8);
    for (ratio, overlap, n) in [(4, true, 22), (8, false, 43)] {
        let width = if overlap { 2 * dim } else { dim };
        let pooling = Pooling {
            ratio,
            overlap,
            dim,
            n_rot,
            kv: &times(&noise(20, n * width), 5e-3),
            gate: &times(&noise(21, n * width), 2.0),
            ape: &times(&noise(22, ratio * width), 2.0),
            norm: &noise(23, dim),
            eps: 3e-6,
        };
        for chunk in [1, 3, 5, 7, n] {
            for (w, row) in pooling
                .rows_of(&mut cpu, RowForm::F32, chunk)
                .iter()
                .enumerate()
            {
                let what = format!("ratio {ratio}, chunk {chunk}, row {w}");
                assert_near(&what, row, &pooling.row(w), 1e-5);
            }
        }
    }
}

/// Each token of a chunk chooses among the rows that are closed at its own position, by the positive parts of
/// its heads' products, under weights of either sign.
#[test]
fn the_indexer_selects_the_largest_scores_among_rows_visible_to_each_token() {
    const N: usize = 60;
    const TOP_K: usize = 5;
    let (ratio, n_head, dim) = (4, 4, 32);
    let (q, weight) = (noise(30, N * n_head * dim), noise(31, N * n_head));
    let keys = noise(32, N / ratio * dim);
    let mut cpu = cpu();
    let mut rows = cpu.rows(RowForm::F32, dim, N / ratio).unwrap();
    cpu.reserve(&mut rows, N / ratio).unwrap();
    keys.chunks(dim)
        .enumerate()
        .for_each(|(w, key)| rows.store(w, &KERNELS, key, &mut []));
    for chunk in [1, 7, N] {
        for pos in (0..N).step_by(chunk) {
            let n = chunk.min(N - pos);
            let mut selection = cpu.selection(n, TOP_K).unwrap();
            let step = Select {
                n,
                pos,
                ratio,
                n_head,
                dim,
                top_k: TOP_K,
                q: &q[pos * n_head * dim..][..n * n_head * dim].to_vec(),
                head_weight: &weight[pos * n_head..][..n * n_head].to_vec(),
                scale: 0.5,
                rows: &rows,
            };
            cpu.select(step, &mut selection).unwrap();
            for p in pos..pos + n {
                let score = |w: usize| -> f64 {
                    (0..n_head)
                        .map(|h| {
                            let q = wide(&q[(p * n_head + h) * dim..][..dim]);
                            f64::from(weight[p * n_head + h])
                                * dot(&q, &wide(&keys[w * dim..][..dim])).max(0.0)
                        })
                        .sum()
                };
                let mut visible: Vec<usize> = (0..N / ratio)
                    .filter(|w| ratio * w + ratio - 1 <= p)
                    .collect();
                if visible.len() <= TOP_K {
                    continue;
                }
                visible.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
                assert!(
                    score(visible[TOP_K - 1]) - score(visible[TOP_K]) > 1e-4,
                    "not tied"
                );
                let mut expected = visible[..TOP_K].to_vec();
                expected.sort_unstable();
                let found: Vec<usize> = selection.of(p - pos).iter().map(|w| *w as usize).collect();
                assert_eq!(found, expected, "chunk {chunk}, position {p}");
            }
        }
    }
}

// Rounding of what is kept.

/// Raw keys: norm, rotation, then E4M3 in blocks of 64 for all but the rotary values, which become bf16.
#[test]
fn raw_keys_are_rounded_after_their_rotation_and_only_before_it_in_the_row() {
    let (n, dim, n_rot) = (3, 192, 64);
    let mut cpu = cpu();
    let mut rows = cpu.rows(RowForm::Fp8 { n_rot }, dim, n).unwrap();
    cpu.reserve(&mut rows, n).unwrap();
    let norm = noise(40, dim);
    // Blocks of unequal size, so that they need scales of their own.
    let x: Vec<f32> = noise(41, n * dim)
        .iter()
        .enumerate()
        .map(|(i, v)| v * [0.03, 1.0, 5.0][i % dim / 64])
        .collect();
    let rope = angle_table(100..100 + n, n_rot);
    cpu.store_keys(StoreKeys {
        n,
        k: &mut x.clone(),
        norm: &norm,
        rms_eps: 1e-6,
        rope: &rope,
        n_rot,
        rows: &mut rows,
    })
    .unwrap();
    let mut found = vec![0.0; dim];
    for (t, x) in x.chunks(dim).enumerate() {
        let key = turned(
            rms(&wide(x), Some(&wide(&norm)), 1e-6),
            &angles(100 + t, n_rot),
        );
        rows.load(t, &KERNELS, &mut found);
        assert_near("key", &found, &fp8_row(&key, n_rot), 1e-9);
    }
}

/// Compressed rows are kept like raw ones; indexer rows are Hadamard-rotated and become E2M1 in blocks of 32.
#[test]
fn compressed_and_indexer_rows_are_rounded_after_their_rotation() {
    let mut cpu = cpu();
    for (form, ratio, overlap) in [
        (RowForm::Fp8 { n_rot: 64 }, 8, false),
        (RowForm::Fp8 { n_rot: 64 }, 4, true),
        (RowForm::Fp4, 4, true),
    ] {
        let (dim, n) = (128, 24);
        let width = if overlap { 2 * dim } else { dim };
        let pooling = Pooling {
            ratio,
            overlap,
            dim,
            n_rot: 64,
            kv: &noise(42, n * width),
            gate: &times(&noise(43, n * width), 2.0),
            ape: &times(&noise(44, ratio * width), 2.0),
            norm: &noise(45, dim),
            eps: 1e-6,
        };
        for (w, row) in pooling.rows_of(&mut cpu, form, 5).iter().enumerate() {
            let expected = match form {
                RowForm::Fp4 => fp4_row(&pooling.row(w)),
                _ => fp8_row(&pooling.row(w), 64),
            };
            assert_near(&format!("{form:?}, row {w}"), row, &expected, 1e-9);
        }
    }
}

/// Indexer queries get no norm; they are rotated at the end, and rounded like the rows they meet.
#[test]
fn indexer_queries_are_rounded_like_indexer_rows() {
    let heads = Heads {
        n: 3,
        dim: 128,
        n_rot: 64,
    };
    let mut cpu = cpu();
    let q = times(&noise(50, 2 * 3 * 128), 7.0);
    let rope = angle_table(33..35, 64);
    for form in [RowForm::F32, RowForm::Fp4] {
        let mut found = q.clone();
        cpu.index_queries(2, heads, &mut found, &rope, form)
            .unwrap();
        for (i, (found, q)) in found.chunks(128).zip(q.chunks(128)).enumerate() {
            let turned = turned(wide(q), &angles(33 + i / 3, 64));
            match form {
                RowForm::Fp4 => assert_near("rounded", found, &fp4_row(&turned), 1e-9),
                _ => assert_near("rotated", found, &turned, 1e-6),
            }
        }
    }
}

// Experts.

/// Experts of another width than the model, with types that differ between gate and down.
#[test]
fn experts_match_float64_for_any_width_and_type() {
    let (n, n_embd, n_ff, clamp) = (3, 48, 16, 2.0);
    let encode = |format: Format, values: &[f32]| -> Vec<u8> {
        match format {
            Format::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            _ => values
                .iter()
                .flat_map(|v| half::f16::from_f32(*v).to_le_bytes())
                .collect(),
        }
    };
    // Multiples of 1/64 are the same in both types.
    let weights = |seed, len| -> Vec<f32> {
        noise(seed, len)
            .iter()
            .map(|v| (v * 64.0).round() / 64.0)
            .collect()
    };
    let x = times(&noise(60, n * n_embd), 3.0);
    let experts: Vec<[Vec<f32>; 3]> = (0..4)
        .map(|e| [61, 62, 63].map(|seed| weights(seed + 10 * e, n_embd * n_ff)))
        .collect();
    let routes = Routes {
        ids: [3, 1, 1, 0, 3, 2].map(ExpertId).to_vec(),
        weights: vec![0.9, 0.6, 1.0, 0.5, 0.25, 1.25],
    };
    let mut groups = Groups::default();
    groups.fill(&routes.ids);
    let mut cpu = cpu();
    for formats in [
        [Format::F32, Format::F32, Format::F32],
        [Format::F16, Format::F16, Format::F32],
        [Format::F32, Format::F32, Format::F16],
        [Format::F32, Format::F16, Format::F32],
        [Format::F16, Format::F32, Format::F16],
    ] {
        let [gate, up, down] = formats;
        let bytes: Vec<[Vec<u8>; 3]> = experts
            .iter()
            .map(|[g, u, d]| [encode(gate, g), encode(up, u), encode(down, d)])
            .collect();
        let aligned: Vec<[AlignedBuf; 3]> = bytes
            .iter()
            .map(|parts| {
                parts.each_ref().map(|bytes| {
                    let mut buf = AlignedBuf::zeroed(bytes.len()).unwrap();
                    buf.as_mut_slice().copy_from_slice(bytes);
                    buf
                })
            })
            .collect();
        let ids = &groups.experts;
        let mut out = vec![0.0; 6 * n_embd];
        cpu.experts(Experts {
            n,
            shape: ExpertShape {
                n_embd,
                n_ff,
                gate,
                up,
                down,
                clamp,
            },
            x: &x,
            routes: &routes,
            groups: &groups,
            which: &(0..groups.experts.len()).collect::<Vec<_>>(),
            weights: &|g| {
                let [gate, up, down] = &aligned[ids[g].0 as usize];
                ExpertRef {
                    gate: gate.as_slice(),
                    up: up.as_slice(),
                    down: down.as_slice(),
                }
            },
            hidden: &mut vec![0.0; 6 * n_ff],
            out: &mut out,
        })
        .unwrap();
        let bound = f64::from(clamp);
        for (r, out) in out.chunks(n_embd).enumerate() {
            let [gate, up, down] = &experts[routes.ids[r].0 as usize];
            let x = wide(&x[r / 2 * n_embd..][..n_embd]);
            let hidden: Vec<f64> = gate
                .chunks(n_embd)
                .zip(up.chunks(n_embd))
                .map(|(gate, up)| {
                    let g = dot(&wide(gate), &x).min(bound);
                    g * logistic(g) * dot(&wide(up), &x).clamp(-bound, bound)
                })
                .collect();
            let expected: Vec<f64> = down
                .chunks(n_ff)
                .map(|row| f64::from(routes.weights[r]) * dot(&wide(row), &hidden))
                .collect();
            assert_near(&format!("route {r}, {formats:?}"), out, &expected, 1e-5);
        }
    }
}
