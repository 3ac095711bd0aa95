//! Products with stored weights, and routed experts.

use crate::pair::{Pair, ROUNDING, assert_near, assert_same_bits, dequantized, in_each_order};
use infall::backend::{Backend, ExpertShape, Experts, Groups, Product, Route, Routes, Storage};
use infall::model::experts::ExpertRef;
use infall::os::share::{Device, Shared};
use infall::quant::Format;
use infall::units::{ExpertId, Phase, TokenId};
use std::sync::Arc;

const FORMATS: [Format; 8] = [
    Format::F32,
    Format::F16,
    Format::Bf16,
    Format::Q8_0,
    Format::Q4K,
    Format::Q2K,
    Format::Iq2Xxs,
    Format::Mxfp4,
];

/// `[n, rows]` in f64, and what sums of f32 in any order may be off.
fn product(w: &[f32], x: &[f32], rows: usize, cols: usize) -> (Vec<f32>, f32) {
    let mut most = 0.0f64;
    let mut y = Vec::new();
    for x in x.chunks_exact(cols) {
        for w in w.chunks_exact(cols).take(rows) {
            let terms = || w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            y.push(terms().sum::<f64>() as f32);
            most = most.max(terms().map(f64::abs).sum());
        }
    }
    // Each term is rounded, and each addition.
    (y, (cols + 2) as f32 * ROUNDING * most as f32)
}

#[test]
fn products_of_every_format_in_both_phases() {
    in_each_order(|p| {
        for format in FORMATS {
            for (rows, cols, n) in [(5, 256, 1), (37, 512, 3), (64, 256, 33)] {
                let w = p.matrix(format, rows, cols, 64);
                let x = p.random(n * cols, 2.0);
                for phase in [Phase::Decode, Phase::Prefill] {
                    p.pass(phase);
                    let mut y = p.unwritten(n * rows);
                    let mut products = [Product {
                        weight: &w.metal,
                        y: &mut y.metal,
                    }];
                    p.metal.matmul(n, &x.metal, &mut products).unwrap();
                    let mut products = [Product {
                        weight: &w.cpu,
                        y: &mut y.cpu,
                    }];
                    p.cpu.matmul(n, &x.cpu, &mut products).unwrap();
                    let what = format!("{format:?} [{rows}, {cols}] x {n}, {phase:?}");
                    // Both are off by as much.
                    let size = cols as f32 * 2.0 * 4.0;
                    p.assert_near(&what, &y, 2.0 * cols as f32 * ROUNDING * size);
                }
            }
        }
    });
}

#[test]
fn an_output_does_not_depend_on_the_number_of_tokens() {
    in_each_order(|p| {
        let (rows, cols) = (40, 512);
        let w = p.matrix(Format::Q4K, rows, cols, 0);
        let all = p.values(45 * cols, 1.0);
        for phase in [Phase::Decode, Phase::Prefill] {
            p.pass(phase);
            let run = |p: &mut Pair, from: usize, n: usize| {
                let x = p.with(&all[from * cols..][..n * cols]);
                let mut y = p.unwritten(n * rows);
                let mut products = [Product {
                    weight: &w.metal,
                    y: &mut y.metal,
                }];
                p.metal.matmul(n, &x.metal, &mut products).unwrap();
                p.metal.host(&y.metal).unwrap().to_vec()
            };
            let whole = run(p, 0, 45);
            for (from, n) in [(0, 1), (7, 1), (30, 15), (44, 1)] {
                let part = run(p, from, n);
                let expected = &whole[from * rows..][..n * rows];
                assert_same_bits(
                    &format!("{phase:?}, {n} tokens from {from}"),
                    &part,
                    expected,
                );
            }
        }
    });
}

#[test]
fn groups_read_their_own_columns() {
    in_each_order(|p| {
        let (n, groups, rows, cols) = (3, 4, 8, 64);
        let w = p.matrix(Format::Q8_0, groups * rows, cols, 0);
        let x = p.random(n * groups * cols, 1.0);
        for phase in [Phase::Decode, Phase::Prefill] {
            p.pass(phase);
            let mut y = p.unwritten(n * groups * rows);
            p.metal
                .matmul_grouped(n, groups, &x.metal, &w.metal, &mut y.metal)
                .unwrap();
            p.cpu
                .matmul_grouped(n, groups, &x.cpu, &w.cpu, &mut y.cpu)
                .unwrap();
            p.assert_near("groups", &y, 2.0 * cols as f32 * ROUNDING * cols as f32);
        }
    });
}

#[test]
fn tokens_are_embedded_in_all_streams() {
    in_each_order(|p| {
        for format in FORMATS {
            let (vocab, cols) = (19, 512);
            let table = p.matrix(format, vocab, cols, 0);
            let tokens = [TokenId(18), TokenId(0), TokenId(7)];
            let mut streams = p.unwritten(tokens.len() * 4 * cols);
            p.metal
                .embed(&table.metal, &tokens, &mut streams.metal)
                .unwrap();
            p.cpu.embed(&table.cpu, &tokens, &mut streams.cpu).unwrap();
            p.assert_near(&format!("{format:?}"), &streams, 0.0);
        }
    });
}

/// Experts with weights of their own, as a supply gives them out.
struct Set {
    gate: Vec<infall::os::Slice>,
    up: Vec<infall::os::Slice>,
    down: Vec<infall::os::Slice>,
    _shared: Vec<Shared>,
}

impl Set {
    fn new(p: &mut Pair, n_expert: usize, shape: ExpertShape) -> Set {
        let mut set = Set {
            gate: vec![],
            up: vec![],
            down: vec![],
            _shared: vec![],
        };
        let device: Arc<dyn Device> = p.metal.memory();
        for e in 0..n_expert {
            // Not at the start of a page, and at even bytes only.
            let at = 2 * e;
            set.gate
                .push(p.weights(shape.gate_up, shape.n_ff, shape.n_embd, at));
            set.up
                .push(p.weights(shape.gate_up, shape.n_ff, shape.n_embd, 16 + at));
            set.down
                .push(p.weights(shape.down, shape.n_embd, shape.n_ff, 0));
        }
        for slice in set.gate.iter().chain(&set.up).chain(&set.down) {
            set._shared
                .push(Shared::new(&device, slice.bytes(), None).unwrap());
        }
        set
    }

    fn expert(&self, e: ExpertId) -> ExpertRef<'_> {
        let e = e.0 as usize;
        ExpertRef {
            gate: self.gate[e].bytes(),
            up: self.up[e].bytes(),
            down: self.down[e].bytes(),
        }
    }
}

#[test]
fn experts_of_every_format_in_both_phases() {
    in_each_order(|p| {
        for (i, format) in FORMATS.into_iter().enumerate() {
            let n_expert = 5;
            let shape = ExpertShape {
                n_embd: 256,
                n_ff: 256,
                gate_up: format,
                down: FORMATS[(i + 3) % FORMATS.len()],
                clamp: 3.0,
            };
            let set = Set::new(p, n_expert, shape);
            for (phase, n) in [
                (Phase::Decode, 1),
                (Phase::Decode, 2),
                (Phase::Prefill, 1),
                (Phase::Prefill, 35),
            ] {
                p.pass(phase);
                let n_used = 2;
                let x = p.random(n * shape.n_embd, 0.3);
                // The router's choice, so that the weights lie where the kernels look for them.
                let router = p.matrix(Format::F32, n_expert, shape.n_embd, 0);
                let mut scores = p.unwritten(n * n_expert);
                let (mut routes, mut found) = (Routes::default(), Routes::default());
                let step = Route {
                    n,
                    n_used,
                    weight: &router.cpu,
                    bias: None,
                    scale: 1.5,
                    preset: false,
                    x: &x.cpu,
                    scores: &mut scores.cpu,
                };
                p.cpu.route(step, &mut routes).unwrap();
                let step = Route {
                    n,
                    n_used,
                    weight: &router.metal,
                    bias: None,
                    scale: 1.5,
                    preset: false,
                    x: &x.metal,
                    scores: &mut scores.metal,
                };
                p.metal.route(step, &mut found).unwrap();
                p.metal.routes(&mut found).unwrap();
                assert_eq!(found.ids, routes.ids, "{phase:?}, {n} tokens");
                let mut groups = Groups::default();
                groups.fill(&routes.ids);
                let mut hidden = p.unwritten(n * n_used * shape.n_ff);
                let mut out = p.unwritten(n * n_used * shape.n_embd);
                // In two parts, as a supply would.
                let all: Vec<usize> = (0..groups.experts.len()).collect();
                for which in [&all[..1], &all[1..]] {
                    let weights = |g: usize| set.expert(groups.experts[g]);
                    p.metal
                        .experts(Experts {
                            n,
                            shape,
                            x: &x.metal,
                            routes: &found,
                            groups: &groups,
                            which,
                            weights: &weights,
                            hidden: &mut hidden.metal,
                            out: &mut out.metal,
                        })
                        .unwrap();
                    p.cpu
                        .experts(Experts {
                            n,
                            shape,
                            x: &x.cpu,
                            routes: &routes,
                            groups: &groups,
                            which,
                            weights: &weights,
                            hidden: &mut hidden.cpu,
                            out: &mut out.cpu,
                        })
                        .unwrap();
                }
                let what = format!("{format:?}, {phase:?}, {n} tokens");
                // A hidden value is a product of two sums of 256 terms of at most 0.3, clamped to 3.
                let bound = 300.0 * ROUNDING * 256.0 * 0.3 * 9.0;
                p.assert_near(&what, &hidden, bound);
                p.assert_near(&what, &out, bound * 256.0);
            }
        }
    });
}

#[test]
fn gates_are_clamped_and_outputs_summed() {
    in_each_order(|p| {
        let mut gate = p.random(1000, 8.0);
        let up = p.random(1000, 8.0);
        p.metal
            .swiglu(1000, 5.0, &mut gate.metal, &up.metal)
            .unwrap();
        p.cpu.swiglu(1000, 5.0, &mut gate.cpu, &up.cpu).unwrap();
        p.assert_near("swiglu", &gate, 25.0 * 16.0 * ROUNDING);
        let (n, n_used, n_embd) = (3, 6, 96);
        let routed = p.random(n * n_used * n_embd, 1.0);
        let mut y = p.random(n * n_embd, 1.0);
        p.metal
            .combine(n, n_used, n_embd, &routed.metal, &mut y.metal)
            .unwrap();
        p.cpu
            .combine(n, n_used, n_embd, &routed.cpu, &mut y.cpu)
            .unwrap();
        p.assert_near("combine", &y, 0.0);
    });
}

/// Against f64, without the CPU backend between.
#[test]
fn a_product_is_the_sum_of_its_terms() {
    in_each_order(|p| {
        for format in FORMATS {
            let (rows, cols, n) = (9, 512, 2);
            let data = p.weights(format, rows, cols, 0);
            let x = p.random(n * cols, 1.0);
            let (expected, bound) =
                product(&dequantized(format, cols, data.bytes()), &x.cpu, rows, cols);
            let w = p.metal.matrix(format, rows, cols, data).unwrap();
            for phase in [Phase::Decode, Phase::Prefill] {
                p.pass(phase);
                let mut y = p.unwritten(n * rows);
                let mut products = [Product {
                    weight: &w,
                    y: &mut y.metal,
                }];
                p.metal.matmul(n, &x.metal, &mut products).unwrap();
                let found = p.metal.host(&y.metal).unwrap();
                assert_near(&format!("{format:?}, {phase:?}"), found, &expected, bound);
            }
        }
    });
}
