//! What is chosen: rows by the indexer, experts by the router.

use crate::graph::store;
use crate::pair::{Pair, in_each_order};
use infall::backend::{Backend, Route, Routes, RowForm, Select, Storage};
use infall::quant::Format;
use infall::units::ExpertId;

/// The choice of `n` tokens of which the first sees `n_rows` rows of whole numbers, whose scores are exact in any order.
fn choose(
    p: &mut Pair,
    (n, n_rows): (usize, usize),
    (n_head, dim): (usize, usize),
    weight: &[f32],
) {
    // A token more sees a row more.
    let (ratio, top_k) = (1, 100);
    let pos = n_rows - 1;
    let capacity = n_rows + n - 1;
    let mut rows = p.rows(RowForm::F32, dim, capacity, capacity);
    // Raw keys as indexer rows: the norm of rows of equal magnitude is exact.
    let signs: Vec<f32> = p
        .whole(capacity * dim, 1)
        .iter()
        .map(|v| if *v > 0.0 { 1.0 } else { -1.0 })
        .collect();
    let mut k = p.with(&signs);
    let norm = p.with(&vec![1.0; dim]);
    let no_turn: Vec<f32> = (0..capacity).flat_map(|_| [1.0, 0.0]).collect();
    let angles = p.with(&no_turn);
    store(p, capacity, &mut k, (&norm, 0.0), &angles, 2, &mut rows);
    let values = p.whole(n * n_head * dim, 1);
    let q = p.with(&values);
    let weight = p.with(weight);
    let mut found = p.metal.selection(n, top_k).unwrap();
    let mut expected = p.cpu.selection(n, top_k).unwrap();
    p.metal
        .select(
            Select {
                n,
                pos,
                ratio,
                n_head,
                dim,
                top_k,
                q: &q.metal,
                head_weight: &weight.metal,
                scale: 1.0,
                rows: &rows.metal,
            },
            &mut found,
        )
        .unwrap();
    p.cpu
        .select(
            Select {
                n,
                pos,
                ratio,
                n_head,
                dim,
                top_k,
                q: &q.cpu,
                head_weight: &weight.cpu,
                scale: 1.0,
                rows: &rows.cpu,
            },
            &mut expected,
        )
        .unwrap();
    let ids = p.metal.host(found.ids()).unwrap();
    for (t, ids) in ids.chunks_exact(top_k).enumerate() {
        let ids: Vec<u32> = ids.iter().map(|v| v.to_bits()).collect();
        assert_eq!(ids, expected.of(t), "token {t} of {n}, {n_rows} rows");
    }
}

/// Ties go to the lower row, whatever the order of threads.
#[test]
pub fn the_indexer_chooses_the_lower_of_equal_rows() {
    in_each_order(|p| {
        for (n_head, dim) in [(8, 32), (9, 8), (72, 16)] {
            for n_rows in [101, 700] {
                let weight = p.whole(2 * n_head, 2);
                choose(p, (2, n_rows), (n_head, dim), &weight);
            }
        }
    });
}

#[test]
pub fn the_indexer_chooses_in_spite_of_nan_and_infinity() {
    in_each_order(|p| {
        // No score is a number; some are, some are infinite or NaN.
        for weight in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut weights = p.whole(8, 2);
            weights[3] = weight;
            choose(p, (1, 300), (8, 8), &weights);
        }
    });
}

/// More scores than are kept at a time.
#[test]
pub fn the_indexer_takes_some_tokens_at_a_time() {
    in_each_order(|p| {
        let weight = p.whole(3 * 8, 2);
        choose(p, (3, 90_000), (8, 8), &weight);
    });
}

#[test]
pub fn the_router_chooses_and_weighs() {
    in_each_order(|p| {
        let n_embd = 64;
        for (n, n_expert, n_used) in [(1, 8, 6), (5, 256, 6), (2, 33, 4)] {
            for with_bias in [false, true] {
                let router = p.matrix(Format::F32, n_expert, n_embd, 0);
                let x = p.random(n * n_embd, 2.0);
                let bias = p.random(n_expert, 0.5);
                for preset in [false, true] {
                    let given: Vec<ExpertId> = (0..n * n_used)
                        .map(|i| ExpertId((i * 5 % n_expert) as u32))
                        .collect();
                    let mut routes = [Routes::default(), Routes::default()];
                    if preset {
                        routes.iter_mut().for_each(|r| r.ids.clone_from(&given));
                    }
                    let mut scores = p.unwritten(n * n_expert);
                    let [found, expected] = &mut routes;
                    let step = Route {
                        n,
                        n_used,
                        weight: &router.metal,
                        bias: with_bias.then_some(&bias.metal),
                        scale: 1.5,
                        preset,
                        x: &x.metal,
                        scores: &mut scores.metal,
                    };
                    p.metal.route(step, found).unwrap();
                    p.metal.routes(found).unwrap();
                    let step = Route {
                        n,
                        n_used,
                        weight: &router.cpu,
                        bias: with_bias.then_some(&bias.cpu),
                        scale: 1.5,
                        preset,
                        x: &x.cpu,
                        scores: &mut scores.cpu,
                    };
                    p.cpu.route(step, expected).unwrap();
                    let what = format!(
                        "{n} tokens, {n_expert} experts, bias {with_bias}, preset {preset}"
                    );
                    assert_eq!(found.ids, expected.ids, "{what}");
                    let weights = p.metal.route_weights(n * n_used).unwrap(); // waits
                    crate::pair::assert_near(&what, &weights, &expected.weights, 1e-4);
                }
            }
        }
    });
}

#[test]
pub fn equal_experts_go_to_the_lower_and_nan_loses() {
    in_each_order(|p| {
        let (n_embd, n_expert, n_used) = (32, 40, 6);
        let router = p.matrix(Format::F32, n_expert, n_embd, 0);
        for nan in [0.0, f32::NAN] {
            let x = p.with(&vec![0.0; n_embd]);
            let mut values = vec![0.25; n_expert];
            values[3] = nan;
            values[30] = 0.5;
            let bias = p.with(&values);
            let mut found = Routes::default();
            let mut scores = p.unwritten(n_expert);
            p.metal
                .route(
                    Route {
                        n: 1,
                        n_used,
                        weight: &router.metal,
                        bias: Some(&bias.metal),
                        scale: 1.0,
                        preset: false,
                        x: &x.metal,
                        scores: &mut scores.metal,
                    },
                    &mut found,
                )
                .unwrap();
            p.metal.routes(&mut found).unwrap();
            assert_eq!(found.ids, [30, 0, 1, 2, 4, 5].map(ExpertId));
            p.metal.wait().unwrap();
        }
    });
}
