//! What all row kernels share: seeing the bytes as rows and vectors, and walking them in passes of several.

use super::dispatch::TOKENS;
use crate::quant::blocks::blocks;
use crate::quant::cast::{Plain, from_bytes, zeroed};
use crate::quant::wide::{Act512, n_blocks};

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

/// Calls `many` for `T` vectors at a time, `one` for those that are left.
#[inline(always)]
pub fn in_groups<const T: usize>(
    x: &[&[u8]],
    y: &mut [&mut [f32]],
    many: impl Fn([&[u8]; T], [&mut [f32]; T]),
    one: impl Fn(&[u8], &mut [f32]),
) {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<T>(), y.as_chunks_mut::<T>());
    for (x, y) in x.iter().zip(y) {
        many(*x, y.each_mut().map(|y| &mut **y));
    }
    for (x, y) in x_rest.iter().zip(y_rest) {
        one(x, y);
    }
}

/// The prepared vectors as their blocks.
#[inline(always)]
pub fn vectors<const T: usize, A: Plain>(x: [&[u8]; T]) -> [&[A]; T] {
    x.map(activations)
}

/// The first `n` of each: said once, so that no index in a loop needs a check. A function without target features, as a
/// closure would have them and then not be inlined into `map`.
#[inline(always)]
pub fn cut<const N: usize, B>(rows: [&[B]; N], n: usize) -> [&[B]; N] {
    rows.map(|row| &row[..n])
}

/// Blocks of weights in a row, each as large as `of_32` blocks of x.
pub fn blocks_in_row(x: &[Act512], of_32: usize) -> usize {
    let n = n_blocks(x);
    assert!(n.is_multiple_of(of_32), "whole blocks of weights");
    n / of_32
}

/// What a tile is made of, seen as what it is: the vectors, the blocks of weights, and how many of these a row has.
#[inline(always)]
pub fn tile_parts<'a, B: Plain>(
    rows: &'a [u8],
    x: &[&'a [u8]],
    y: &[&mut [f32]],
    of_32: usize,
) -> ([&'a [Act512]; TOKENS], &'a [B], usize) {
    assert!(
        x.len() == y.len() && x.len() <= TOKENS,
        "an output for each vector"
    );
    let mut vectors = [&[][..]; TOKENS];
    for (vector, x) in vectors.iter_mut().zip(x) {
        *vector = activations(x);
    }
    let (rows, n) = (blocks::<B>(rows), blocks_in_row(vectors[0], of_32));
    for (x, y) in vectors.iter().zip(y) {
        assert_eq!(blocks_in_row(x, of_32), n, "vectors of one length");
        assert_eq!(rows.len(), n * y.len(), "rows of {n} blocks");
    }
    (vectors, rows, n)
}

/// Part `s` of a row, `N` blocks; a part that is left at the end is filled up with zeros in `last`.
#[inline(always)]
pub fn part<'a, B: Plain, const N: usize>(
    row: &'a [B],
    s: usize,
    last: &'a mut Option<[B; N]>,
) -> &'a [B; N] {
    let (parts, rest) = row.as_chunks::<N>();
    match parts.get(s) {
        Some(part) => part,
        None => {
            let last = last.insert([zeroed(); N]);
            last[..rest.len()].copy_from_slice(rest);
            last
        }
    }
}

/// The eight scales and the eight minima of a Q4_K block, byte k for sub-block k; for the layout see
/// [`crate::quant::blocks::BlockQ4K::scales`], which says the same one by one.
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
