//! What a supply of experts promises: the same tokens whatever the strategy, the budget and the timing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Loaded, golden, micro_ids, tiny};
use infall::options::{Budget, Options};
use infall::supply::STRATEGIES;
use infall::units::TokenId;
use std::path::Path;

fn logits(
    model: &Path,
    ids: &[TokenId],
    decode_from: usize,
    change: &dyn Fn(&mut Options),
) -> Vec<f32> {
    let mut options = Options::new(model);
    (options.ctx, options.prefill_chunk, options.threads) = (600, 64, 2);
    change(&mut options);
    let mut loaded = Loaded::open(&options).unwrap();
    loaded.logits(ids, decode_from)
}

#[test]
fn logits_do_not_depend_on_the_supply_1() {
    let tiny_ids: Vec<TokenId> = (0..180).map(|i| TokenId((i * 37 + 11) % 4000)).collect();
    for (model, ids, budgets) in [
        (
            golden("micro-q2.gguf"),
            micro_ids()[..200].to_vec(),
            [3, 8, 20, 40],
        ),
        (tiny(), tiny_ids, [6, 32, 96, 192]),
    ] {
        let expected = logits(&model, &ids, 100, &|_| {});
        for strategy in STRATEGIES {
            for budget in budgets {
                for read_ahead in [true, false] {
                    let found = logits(&model, &ids, 100, &|o| {
                        o.strategy = strategy.name.into();
                        o.supply.budget = Budget::Experts(budget);
                        o.supply.read_ahead = read_ahead;
                    });
                    let same = found
                        .iter()
                        .zip(&expected)
                        .all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(
                        same,
                        "{}, {budget} experts, read ahead {read_ahead}",
                        strategy.name
                    );
                }
            }
        }
    }
}
