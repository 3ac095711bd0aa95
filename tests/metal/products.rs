//! Products with stored weights, and routed experts, against sums in f64.

use crate::pair::{Pair, ROUNDING, assert_same_bits, dequantized, in_each_order};
use infall::backend::metal::{Buffer, Matrix};
use infall::backend::{Backend, ExpertShape, Experts, Groups, Product, Route, Routes, Storage};
use infall::model::experts::ExpertRef;
use infall::os::Slice;
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

const PHASES: [Phase; 2] = [Phase::Decode, Phase::Prefill];

/// Where rows of a format may begin, but not at more.
fn alignment(format: Format) -> usize {
    match format {
        Format::F32 | Format::F16 | Format::Bf16 => 8,
        Format::Mxfp4 => 1,
        _ => 2,
    }
}

/// A sum in f64, and what one in f32 in any order may be off.
#[derive(Clone, Copy)]
struct Sum {
    value: f64,
    bound: f64,
}

impl Sum {
    fn assert_near(&self, what: &str, found: f32) {
        let Sum { value, bound } = self;
        let error = (f64::from(found) - value).abs();
        assert!(
            error <= *bound,
            "{what}: {found}, expected {value} within {bound}"
        );
    }
}

/// Weights as numbers.
struct Weights {
    cols: usize,
    values: Vec<f32>,
    /// The sizes of what is added up to make a weight: a kernel may round each of a scale's and a minimum's part.
    sizes: Vec<f64>,
}

impl Weights {
    fn new(format: Format, cols: usize, bytes: &[u8]) -> Weights {
        let values = dequantized(format, cols, bytes);
        // A block with a minimum of zero.
        let dmin = match format {
            Format::Q4K => Some(2..4),
            Format::Q2K => Some(82..84),
            _ => None,
        };
        let mut without = bytes.to_vec();
        if let Some(dmin) = dmin {
            let blocks = without.chunks_exact_mut(format.block_bytes());
            blocks.for_each(|block| block[dmin.clone()].fill(0));
        }
        let without = dequantized(format, cols, &without);
        let both = values.iter().zip(&without);
        let sizes = both.map(|(w, scaled)| {
            let (w, scaled) = (f64::from(*w), f64::from(*scaled));
            scaled.abs() + (scaled - w).abs()
        });
        Weights {
            cols,
            sizes: sizes.collect(),
            values,
        }
    }

    /// The product of a row with some values.
    fn times(&self, row: usize, x: &[f32]) -> Sum {
        let at = row * self.cols..(row + 1) * self.cols;
        let (w, sizes) = (&self.values[at.clone()], &self.sizes[at]);
        let terms = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
        let sizes = sizes.iter().zip(x).map(|(s, x)| s * f64::from(*x).abs());
        // A term is a product of four numbers at most, and meets no more additions than there are columns.
        let roundings = (self.cols + 16) as f64;
        Sum {
            value: terms.sum(),
            bound: roundings * f64::from(ROUNDING) * sizes.sum::<f64>(),
        }
    }
}

fn multiply(
    p: &mut Pair,
    (n, groups): (usize, usize),
    x: &Buffer,
    w: &Matrix,
    rows: usize,
) -> Vec<f32> {
    let mut y = p.unwritten(n * rows);
    if groups == 1 {
        let mut products = [Product {
            weight: w,
            y: &mut y.metal,
        }];
        p.metal.matmul(n, x, &mut products).unwrap();
    } else {
        let y = &mut y.metal;
        p.metal.matmul_grouped(n, groups, x, w, y).unwrap();
    }
    p.metal.host(&y.metal).unwrap().to_vec()
}

/// Shapes with ends inside tiles, one of few long rows, and one of groups, each of which reads columns of its own.
#[test]
pub fn a_product_is_the_sum_of_its_terms() {
    in_each_order(|p| {
        for format in FORMATS {
            for (rows, cols, n, groups) in [
                (5, 256, 1, 1),
                (70, 512, 35, 1),
                (9, 4096, 3, 1),
                (3 * 21, 256, 2, 3),
            ] {
                let data = p.any_weights(format, rows, cols, alignment(format));
                let weights = Weights::new(format, cols, data.bytes());
                let w = p.metal.matrix(format, rows, cols, data).unwrap();
                let x = p.random(n * groups * cols, 3.0);
                for phase in PHASES {
                    p.pass(phase);
                    let found = multiply(p, (n, groups), &x.metal, &w, rows);
                    for (t, row) in (0..n).flat_map(|t| (0..rows).map(move |row| (t, row))) {
                        let group = t * groups + row / (rows / groups);
                        let x = &x.cpu[group * cols..][..cols];
                        let what = format!("{format:?} {phase:?} [{rows}, {cols}]: {t}, {row}");
                        weights
                            .times(row, x)
                            .assert_near(&what, found[t * rows + row]);
                    }
                }
            }
        }
    });
}

#[test]
pub fn an_output_does_not_depend_on_the_number_of_tokens() {
    in_each_order(|p| {
        for (i, format) in FORMATS.into_iter().enumerate() {
            let (rows, cols) = [(40, 512), (70, 256), (3, 4096)][i % 3];
            let w = p.matrix(format, rows, cols, 0).metal;
            let all = p.values(45 * cols, 1.0);
            for phase in PHASES {
                p.pass(phase);
                let run = |p: &mut Pair, from: usize, n: usize| {
                    let x = p.with(&all[from * cols..][..n * cols]);
                    multiply(p, (n, 1), &x.metal, &w, rows)
                };
                let whole = run(p, 0, 45);
                for (from, n) in [(0, 1), (7, 1), (30, 15), (44, 1)] {
                    let part = run(p, from, n);
                    let expected = &whole[from * rows..][..n * rows];
                    let what = format!("{format:?} {phase:?}, {n} tokens from {from}");
                    assert_same_bits(&what, &part, expected);
                }
            }
        }
    });
}

#[test]
pub fn tokens_are_embedded_in_all_streams() {
    in_each_order(|p| {
        for format in FORMATS {
            let (vocab, cols) = (19, 512);
            let data = p.any_weights(format, vocab, cols, alignment(format));
            let weights = Weights::new(format, cols, data.bytes());
            let table = p.metal.matrix(format, vocab, cols, data).unwrap();
            let tokens = [18, 0, 7];
            let mut streams = p.unwritten(tokens.len() * 4 * cols).metal;
            let ids = tokens.map(TokenId);
            p.metal.embed(&table, &ids, &mut streams).unwrap();
            let found = p.metal.host(&streams).unwrap();
            for (i, found) in found.iter().enumerate() {
                let at = tokens[i / (4 * cols)] as usize * cols + i % cols;
                let expected = Sum {
                    value: weights.values[at].into(),
                    bound: f64::from(ROUNDING) * weights.sizes[at],
                };
                expected.assert_near(&format!("{format:?}: value {i}"), *found);
            }
        }
    });
}

#[test]
pub fn rows_that_kernels_cannot_read_are_refused() {
    in_each_order(|p| {
        let x = p.unwritten(4 * 272);
        for (format, cols, offset, expected) in [
            (Format::F32, 272, 0, "rows of 272 weights"),
            (Format::F16, 256, 4, "expected a multiple of 8"),
            (Format::Q8_0, 256, 1, "expected a multiple of 2"),
        ] {
            let data = p.any_weights(format, 4, cols, offset);
            let w = p.metal.matrix(format, 4, cols, data).unwrap();
            let mut y = p.unwritten(4).metal;
            let mut products = [Product {
                weight: &w,
                y: &mut y,
            }];
            let error = p.metal.matmul(1, &x.metal, &mut products).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    });
}

/// Experts with weights of their own, as a supply gives them out.
struct Set {
    slices: Vec<[Slice; 3]>,
    _shared: Vec<Shared>,
}

impl Set {
    fn new(p: &mut Pair, n_expert: usize, shape: ExpertShape) -> Set {
        let device: Arc<dyn Device> = p.metal.memory();
        let mut set = Set {
            slices: vec![],
            _shared: vec![],
        };
        for e in 0..n_expert {
            // Not at the start of a page, and no better aligned than must be.
            let at = |format| (2 * e + 1) * alignment(format);
            let (up_gate, down) = (shape.gate, shape.down);
            let slices = [
                p.weights(up_gate, shape.n_ff, shape.n_embd, at(up_gate)),
                p.weights(up_gate, shape.n_ff, shape.n_embd, at(up_gate)),
                p.weights(down, shape.n_embd, shape.n_ff, at(down)),
            ];
            for slice in &slices {
                set._shared
                    .push(Shared::new(&device, slice.bytes(), None).unwrap());
            }
            set.slices.push(slices);
        }
        set
    }

    fn expert(&self, e: ExpertId) -> ExpertRef<'_> {
        let [gate, up, down] = &self.slices[e.0 as usize];
        ExpertRef {
            gate: gate.bytes(),
            up: up.bytes(),
            down: down.bytes(),
        }
    }
}

/// `weight silu(min(gate, clamp)) clamp(up)` of sums with errors.
fn gated(gate: Sum, up: Sum, clamp: f32, weight: f32) -> Sum {
    let (clamp, weight) = (f64::from(clamp), f64::from(weight));
    let (g, u) = (gate.value.min(clamp), up.value.clamp(-clamp, clamp));
    let silu = g / (1.0 + (-g).exp());
    let value = weight * silu * u;
    // Silu is nowhere steeper than 1.1, and no larger than its argument; exp may be off by four roundings, and seven
    // operations follow.
    let off = 1.1 * gate.bound * u.abs() + (silu.abs() + 1.1 * gate.bound) * up.bound;
    let rounded = 12.0 * f64::from(ROUNDING) * value.abs();
    Sum {
        value,
        bound: weight * off + rounded,
    }
}

#[test]
pub fn experts_of_every_format_in_both_phases() {
    in_each_order(|p| {
        for (i, format) in FORMATS.into_iter().enumerate() {
            let shape = ExpertShape {
                n_embd: 256,
                n_ff: 256,
                gate: format,
                up: format,
                down: FORMATS[(i + 3) % FORMATS.len()],
                clamp: 3.0,
            };
            check_experts(p, shape);
        }
    });
}

fn check_experts(p: &mut Pair, shape: ExpertShape) {
    let (n_expert, n_used) = (3, 2);
    let set = Set::new(p, n_expert, shape);
    let numbers = set.slices.iter().map(|[gate, up, down]| {
        let gate_up = |slice: &Slice| Weights::new(shape.gate, shape.n_embd, slice.bytes());
        let down = Weights::new(shape.down, shape.n_ff, down.bytes());
        [gate_up(gate), gate_up(up), down]
    });
    let numbers: Vec<[Weights; 3]> = numbers.collect();
    for (phase, n) in [
        (Phase::Decode, 1),
        (Phase::Decode, 2),
        (Phase::Prefill, 1),
        (Phase::Prefill, 48),
    ] {
        p.pass(phase);
        let x = p.random(n * shape.n_embd, 0.3);
        // The router's choice, so that the weights lie where the kernels look for them.
        let router = p.matrix(Format::F32, n_expert, shape.n_embd, 0).metal;
        let mut scores = p.unwritten(n * n_expert).metal;
        let mut routes = Routes::default();
        let step = Route {
            n,
            n_used,
            weight: &router,
            bias: None,
            scale: 1.5,
            preset: false,
            x: &x.metal,
            scores: &mut scores,
        };
        p.metal.route(step, &mut routes).unwrap();
        p.metal.routes(&mut routes).unwrap();
        let weights = p.metal.route_weights(n * n_used).unwrap();
        let mut groups = Groups::default();
        groups.fill(&routes.ids);
        let mut hidden = p.unwritten(n * n_used * shape.n_ff).metal;
        let mut out = p.unwritten(n * n_used * shape.n_embd).metal;
        // In two parts, as a supply would.
        let all: Vec<usize> = (0..groups.experts.len()).collect();
        for which in [&all[..1], &all[1..]] {
            let step = Experts {
                n,
                shape,
                x: &x.metal,
                routes: &routes,
                groups: &groups,
                which,
                weights: &|g| set.expert(groups.experts[g]),
                hidden: &mut hidden,
                out: &mut out,
            };
            p.metal.experts(step).unwrap();
        }
        let hidden = p.metal.host(&hidden).unwrap().to_vec();
        let out = p.metal.host(&out).unwrap();
        for (r, id) in routes.ids.iter().enumerate() {
            let [gate, up, down] = &numbers[id.0 as usize];
            let what = format!("{shape:?} {phase:?}, route {r} of {}", routes.ids.len());
            let x = &x.cpu[r / n_used * shape.n_embd..][..shape.n_embd];
            let hidden = &hidden[r * shape.n_ff..][..shape.n_ff];
            for (row, found) in hidden.iter().enumerate() {
                let (gate, up) = (gate.times(row, x), up.times(row, x));
                gated(gate, up, shape.clamp, weights[r]).assert_near(&what, *found);
            }
            for (row, found) in out[r * shape.n_embd..][..shape.n_embd].iter().enumerate() {
                down.times(row, hidden).assert_near(&what, *found);
            }
        }
    }
}

#[test]
pub fn gates_are_clamped_and_outputs_summed() {
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
