//! What is stored in rows of a cache.

use crate::graph::store;
use crate::pair::{Both, BothRows, Pair, in_each_order};
use infall::backend::{Backend, Compress, RowForm};
use infall::units::Phase;

/// Bytes of the first `n` rows of each backend.
fn bytes(p: &mut Pair, rows: &BothRows, n: usize, row_bytes: usize) -> [Vec<u8>; 2] {
    let mut both = [vec![0; n * row_bytes], vec![1; n * row_bytes]];
    p.metal.read_rows(&rows.metal, 0, &mut both[0]).unwrap();
    p.cpu.read_rows(&rows.cpu, 0, &mut both[1]).unwrap();
    both
}

/// Rotations by quarters of a turn, which round nothing.
fn quarters(p: &mut Pair, n: usize, n_rot: usize) -> Both {
    const QUARTERS: [[f32; 2]; 4] = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]];
    let pairs: Vec<f32> = (0..n * n_rot / 2)
        .flat_map(|_| QUARTERS[p.rng.below(4)])
        .collect();
    p.with(&pairs)
}

/// Weights of all sizes: blocks whose scales differ, one of them empty.
fn weights(p: &mut Pair, dim: usize) -> Both {
    let mut values = p.values(dim, 3.0);
    for (i, block) in values.chunks_mut(32).enumerate() {
        let size = [1.0, 1.0 / 1024.0, 0.0, 500.0][i % 4];
        block.iter_mut().for_each(|v| *v *= size);
    }
    p.with(&values)
}

/// The same bytes, not only values that are near. Inputs are 2 and -2: their mean square and its root are exact in any
/// order, so the norm leaves its weight, and what differs is the rounding into the form.
#[test]
pub fn rows_are_stored_in_the_same_bytes() {
    in_each_order(|p| {
        p.pass(Phase::Prefill);
        let (n, n_rot, ratio) = (5, 64, 4);
        let signs = |p: &mut Pair, len: usize| -> Vec<f32> {
            (0..len).map(|_| [2.0, -2.0][p.rng.below(2)]).collect()
        };
        for (form, dim) in [
            (RowForm::F32, 512),
            (RowForm::F16, 512),
            (RowForm::Fp8 { n_rot }, 512),
            (RowForm::Fp4, 128),
        ] {
            let row_bytes = form.row_bytes(dim).unwrap();
            let norm = weights(p, dim);
            // FP4 is the indexer's, whose rows come from its compressor alone.
            if form != RowForm::Fp4 {
                let mut keys = p.rows(form, dim, n, n);
                let values = signs(p, n * dim);
                let mut k = p.with(&values);
                let rope = quarters(p, n, n_rot);
                store(p, n, &mut k, (&norm, 0.0), &rope, n_rot, &mut keys);
                let [found, expected] = bytes(p, &keys, n, row_bytes);
                assert!(expected.iter().any(|b| *b > 1), "{form:?}: nothing stored");
                assert_eq!(found, expected, "{form:?}: keys");
            }

            // Of each window the first token alone has weight.
            let (n, windows) = (2 * ratio, 2);
            let mut ape = vec![-1e4; ratio * dim];
            ape[..dim].fill(0.0);
            let values = signs(p, n * dim);
            let (kv, mut gate, ape) = (p.with(&values), p.with(&vec![0.0; n * dim]), p.with(&ape));
            let mut state = p.with(&vec![0.0; ratio * 2 * dim]);
            let rope = quarters(p, windows, n_rot);
            let mut rows = p.rows(form, dim, windows, windows);
            macro_rules! compress {
                ($backend:ident) => {
                    p.$backend
                        .compress(Compress {
                            n,
                            pos: 0,
                            ratio,
                            overlap: false,
                            dim,
                            n_rot,
                            kv: &kv.$backend,
                            gate: &mut gate.$backend,
                            ape: &ape.$backend,
                            norm: &norm.$backend,
                            rms_eps: 0.0,
                            rope: &rope.$backend,
                            state: &mut state.$backend,
                            rows: &mut rows.$backend,
                        })
                        .unwrap()
                };
            }
            compress!(metal);
            compress!(cpu);
            let [found, expected] = bytes(p, &rows, windows, row_bytes);
            assert_eq!(found, expected, "{form:?}: compressed rows");
        }
    });
}
