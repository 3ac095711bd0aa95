//! What all row kernels share: seeing the bytes as rows, and walking them in passes of several rows.

use crate::quant::cast::{Plain, from_bytes};

/// The prepared vector as its blocks.
pub fn activations<A: Plain>(x: &[u8]) -> &[A] {
    match from_bytes(x) {
        Some(x) => x,
        None => panic!("the vector is no aligned whole number of activation blocks"),
    }
}

/// Writes the product of each row: `many` for passes of `R` rows, `one` for the rows that are left.
///
/// A row is `n` elements of `rows`. For the fixed order both closures run the same code on each row, so
/// that a row's sum does not depend on the pass it falls in.
#[inline(always)]
pub fn in_passes<const R: usize, B>(
    rows: &[B],
    n: usize,
    y: &mut [f32],
    many: impl Fn([&[B]; R]) -> [f32; R],
    one: impl Fn([&[B]; 1]) -> [f32; 1],
) {
    assert_eq!(rows.len(), n * y.len(), "{} rows of {n} elements", y.len());
    let mut row = 0;
    let (passes, rest) = y.as_chunks_mut::<R>();
    for y in passes {
        *y = many(std::array::from_fn(|r| &rows[(row + r) * n..][..n]));
        row += R;
    }
    for y in rest {
        [*y] = one([&rows[row * n..][..n]]);
        row += 1;
    }
}
