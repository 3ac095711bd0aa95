//! What all row kernels share: seeing the bytes as rows, and walking them in passes of several rows.

use crate::quant::cast::{Plain, from_bytes};

/// The prepared vector as its blocks.
pub fn activations<A: Plain>(x: &[u8]) -> &[A] {
    match from_bytes(x) {
        Some(x) => x,
        None => panic!("the vector is no aligned whole number of activation blocks"),
    }
}

/// Writes the products of each row with `T` vectors: `many` for passes of `R` rows, `one` for the rows that are left.
///
/// A row is `n` elements of `rows`. For the fixed order both closures run the same code on each row and vector, so
/// that a sum depends neither on the pass it falls in nor on the vectors beside it.
#[inline(always)]
pub fn in_tiles<const R: usize, const T: usize, B>(
    rows: &[B],
    n: usize,
    mut y: [&mut [f32]; T],
    many: impl Fn([&[B]; R]) -> [[f32; T]; R],
    one: impl Fn([&[B]; 1]) -> [[f32; T]; 1],
) {
    let n_rows = y[0].len();
    assert!(y.iter().all(|y| y.len() == n_rows), "outputs of one length");
    assert_eq!(rows.len(), n * n_rows, "{n_rows} rows of {n} elements");
    let n_passes = n_rows / R;
    for pass in 0..n_passes {
        let row = pass * R;
        let found = many(std::array::from_fn(|r| &rows[(row + r) * n..][..n]));
        for (r, found) in found.iter().enumerate() {
            (0..T).for_each(|t| y[t][row + r] = found[t]);
        }
    }
    for row in n_passes * R..n_rows {
        let [found] = one([&rows[row * n..][..n]]);
        (0..T).for_each(|t| y[t][row] = found[t]);
    }
}

/// As [`in_tiles`] with one vector.
#[inline(always)]
pub fn in_passes<const R: usize, B>(
    rows: &[B],
    n: usize,
    y: &mut [f32],
    many: impl Fn([&[B]; R]) -> [f32; R],
    one: impl Fn([&[B]; 1]) -> [f32; 1],
) {
    in_tiles::<R, 1, B>(
        rows,
        n,
        [y],
        |rows| many(rows).map(|y| [y]),
        |row| one(row).map(|y| [y]),
    );
}

/// The eight scales and the eight minima of a Q4_K block, byte k for sub-block k; for the layout see
/// [`crate::quant::blocks::BlockQ4K::scales_mins`], which says the same one by one.
#[inline(always)]
pub fn q4_k_scales(packed: &[u8; 12]) -> (u64, u64) {
    let [s, m, low] = [0, 4, 8]
        .map(|i| u32::from_le_bytes([packed[i], packed[i + 1], packed[i + 2], packed[i + 3]]));
    let six = 0x3f3f_3f3f;
    let four = 0x0f0f_0f0f;
    let high_two = |word: u32| word >> 2 & 0x3030_3030;
    let scales = u64::from(s & six) | u64::from(low & four | high_two(s)) << 32;
    let mins = u64::from(m & six) | u64::from(low >> 4 & four | high_two(m)) << 32;
    (scales, mins)
}
