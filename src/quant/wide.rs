//! Activations as 16 blocks of 32 side by side: one vector of 64 bytes, or two of 32, holds columns of many blocks.

/// Blocks of an [`Act512`].
pub const BLOCKS: usize = 16;

/// 512 activations as 16 blocks of 32, each in 15 bits and a sign: `x = d * (128 * hi + lo)`. Unused blocks at the end of a
/// row are zero; a row of just 256 stands here twice, so that it meets two rows of weights at once.
///
/// Eight columns of eight blocks make a vector: vector `4h + k` holds the columns `8k..8k + 8` of the blocks `8h..8h + 8`,
/// so that four products by fours, added up, leave two lanes for each block.
///
/// Two planes of signed bytes, because byte products are the fast ones of every instruction set. With one plane (8 bits, as
/// other engines do) activations are rounded by 0.5 %, which is enough to change the likeliest token wherever two are close.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Act512 {
    /// Upper part, -127..=127: kernels rely on -128 never occurring.
    pub hi: [[i8; 64]; 8],
    /// Lower part, -64..=63.
    pub lo: [[i8; 64]; 8],
    /// Scale of each block; NaN when an input was NaN or infinite.
    pub d: [f32; BLOCKS],
    /// Sum of `128 * hi + lo` of each block's halves.
    pub sums: [[i32; BLOCKS]; 2],
    /// Sum of the activations of each block's halves, for formats with minima.
    pub halves: [[f32; BLOCKS]; 2],
    /// Blocks in use, in every place.
    pub n_blocks: [u32; BLOCKS],
}

const _: () = assert!(size_of::<Act512>() == 1408);

impl Act512 {
    /// No blocks.
    pub const ZERO: Act512 = Act512 {
        hi: [[0; 64]; 8],
        lo: [[0; 64]; 8],
        d: [0.0; BLOCKS],
        sums: [[0; BLOCKS]; 2],
        halves: [[0.0; BLOCKS]; 2],
        n_blocks: [0; BLOCKS],
    };

    /// Blocks in use.
    pub fn n_blocks(&self) -> usize {
        self.n_blocks[0] as usize
    }
}

/// Blocks that a row of whole [`Act512`] holds.
pub fn n_blocks(x: &[Act512]) -> usize {
    x.iter().map(Act512::n_blocks).sum()
}

/// Vector, and place in it, of column `e` of block `b`.
pub const fn place(b: usize, e: usize) -> (usize, usize) {
    (b / 8 * 4 + e / 8, b % 8 * 8 + e % 8)
}

/// Quantises a row in blocks of 32: `d = amax / 16256`, `128 hi + lo = x / d` to the nearest. `out.len()` is `x.len()` by
/// 512, rounded up. Always inlined, so that a caller compiled for more CPU features gets a faster version of the very same
/// arithmetic.
#[inline(always)]
pub fn quantize_512(x: &[f32], out: &mut [Act512]) {
    in_blocks(x, out, |x| {
        let (mut hi, mut lo) = ([0; 32], [0; 32]);
        let (d, inverse) = act_scale(x);
        planes(x, inverse, &mut hi, &mut lo);
        let halves = [0, 1].map(|h| {
            let (hi, lo) = (&hi.as_chunks::<16>().0[h], &lo.as_chunks::<16>().0[h]);
            let hi: i32 = hi.iter().map(|q| i32::from(*q)).sum();
            let lo: i32 = lo.iter().map(|q| i32::from(*q)).sum();
            128 * hi + lo
        });
        Block { d, hi, lo, halves }
    });
}

/// The largest magnitude of `128 * hi + lo`.
const ACT_MAX: f32 = 127.0 * 128.0;

/// A block whose largest magnitude is below this counts as zero: its scale would be subnormal.
pub const ACT_TINY: f32 = ACT_MAX * f32::MIN_POSITIVE;

/// The scale of a block and its inverse. NaN and 0 when an input is not finite: every product is then NaN.
#[inline(always)]
fn act_scale(x: &[f32]) -> (f32, f32) {
    // As bits, a NaN is larger than any number.
    let amax = x
        .iter()
        .map(|x| x.to_bits() & 0x7fff_ffff)
        .fold(0, u32::max);
    scale_of(f32::from_bits(amax))
}

/// The scale for values whose largest magnitude is `amax`, and its inverse.
#[inline(always)]
pub fn scale_of(amax: f32) -> (f32, f32) {
    if !amax.is_finite() {
        (f32::NAN, 0.0)
    } else if amax < ACT_TINY {
        (0.0, 0.0)
    } else {
        (amax / ACT_MAX, ACT_MAX / amax)
    }
}

#[inline(always)]
fn planes<const N: usize>(x: &[f32; N], inverse: f32, hi: &mut [i8; N], lo: &mut [i8; N]) {
    for i in 0..N {
        // With inverse 0, NaN and infinity become NaN, and NaN becomes 0.
        let q = (x[i] * inverse).round_ties_even() as i32;
        let upper = (q + 64) >> 7;
        hi[i] = upper as i8;
        lo[i] = (q - (upper << 7)) as i8;
    }
}

/// 32 quantised activations.
pub struct Block {
    /// Scale.
    pub d: f32,
    /// Upper part.
    pub hi: [i8; 32],
    /// Lower part.
    pub lo: [i8; 32],
    /// Sum of `128 * hi + lo` of each half.
    pub halves: [i32; 2],
}

/// Puts each 32 values of a row, quantised by `block`, in their place.
#[inline(always)]
pub fn in_blocks(x: &[f32], out: &mut [Act512], block: impl Fn(&[f32; 32]) -> Block) {
    assert!(
        x.len().is_multiple_of(32) && x.len().div_ceil(512) == out.len(),
        "16 blocks of 32 values each"
    );
    for (x, out) in x.chunks(512).zip(&mut *out) {
        let x = x.as_chunks::<32>().0;
        if x.len() < BLOCKS {
            *out = Act512::ZERO;
        }
        out.n_blocks = [x.len() as u32; BLOCKS];
        for (b, x) in x.iter().enumerate() {
            let Block { d, hi, lo, halves } = block(x);
            for k in 0..4 {
                let (vector, _) = place(b, 8 * k);
                out.hi[vector].as_chunks_mut().0[b % 8] = hi.as_chunks::<8>().0[k];
                out.lo[vector].as_chunks_mut().0[b % 8] = lo.as_chunks::<8>().0[k];
            }
            for (h, half) in halves.into_iter().enumerate() {
                out.sums[h][b] = half;
                out.halves[h][b] = d * half as f32;
            }
            out.d[b] = d;
        }
    }
    if let ([only], 256) = (out, x.len()) {
        only.hi.copy_within(..4, 4);
        only.lo.copy_within(..4, 4);
        only.d.copy_within(..8, 8);
        only.sums.iter_mut().for_each(|s| s.copy_within(..8, 8));
        only.halves.iter_mut().for_each(|h| h.copy_within(..8, 8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    /// Scale and quants of a block, one by one.
    fn plain(x: &[f32]) -> (f32, Vec<i32>) {
        let amax = x.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
        let inverse = if amax < ACT_TINY { 0.0 } else { 16256.0 / amax };
        let d = if amax < ACT_TINY { 0.0 } else { amax / 16256.0 };
        let quants = x.iter().map(|x| (x * inverse).round_ties_even() as i32);
        (d, quants.collect())
    }

    #[test]
    fn blocks_of_32_lie_in_their_places() {
        for n in [0_usize, 1, 3, 5, 9, 16, 17, 32, 39] {
            let x: Vec<f32> = (0..32 * n)
                .map(|i| (i as f32 * 0.37).sin() * i as f32)
                .collect();
            let mut wide = vec![Act512::ZERO; n.div_ceil(16)];
            // What lay there before must not shine through.
            wide.iter_mut().for_each(|w| w.hi = [[9; 64]; 8]);
            quantize_512(&x, &mut wide);
            assert_eq!(n_blocks(&wide), n);
            for (b, x) in x.chunks(32).enumerate() {
                let wide = &wide[b / 16];
                let (d, quants) = plain(x);
                assert_eq!(wide.d[b % 16], d);
                for (e, (x, q)) in x.iter().zip(&quants).enumerate() {
                    let (v, at) = place(b % 16, e);
                    let (hi, lo) = (wide.hi[v][at], wide.lo[v][at]);
                    assert_eq!(128 * i32::from(hi) + i32::from(lo), *q);
                    assert!(hi != -128 && (-64..64).contains(&lo));
                    assert!((x - d * *q as f32).abs() <= d * 0.51, "element {e}");
                }
                let halves = [quants[..16].iter().sum::<i32>(), quants[16..].iter().sum()];
                for (j, sum) in halves.iter().enumerate() {
                    assert_eq!(wide.sums[j][b % 16], *sum);
                    assert_eq!(wide.halves[j][b % 16], d * *sum as f32);
                }
            }
            if let (Some(last), false) = (wide.last(), n % 16 == 0) {
                for b in (n % 16..16).filter(|_| n != 8) {
                    assert_eq!((last.d[b], last.sums.map(|s| s[b])), (0.0, [0; 2]));
                    for (v, at) in (0..32).map(|e| place(b, e)) {
                        assert_eq!((last.hi[v][at], last.lo[v][at]), (0, 0));
                    }
                }
            }
        }
    }

    #[test]
    fn odd_activations() {
        let block = |x: [f32; 32]| {
            let mut wide = [Act512::ZERO];
            quantize_512(&x, &mut wide);
            let plane = |p: &[[i8; 64]; 8], e| p[place(0, e).0][place(0, e).1];
            let [w] = wide;
            (
                w.d[0],
                [0, 9].map(|e| (plane(&w.hi, e), plane(&w.lo, e))),
                w.sums[0][0] + w.sums[1][0],
            )
        };
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 32];
            x[9] = odd;
            assert!(block(x).0.is_nan());
        }
        for tiny in [0.0, -0.0, 1e-45, -1e-40, ACT_TINY.next_down()] {
            assert_eq!(block([tiny; 32]), (0.0, [(0, 0); 2], 0));
        }
        for edge in [ACT_TINY, f32::MAX, -f32::MAX] {
            let sign = edge.signum() as i32;
            let (d, quants, sum) = block([edge; 32]);
            assert!(d.is_normal());
            assert_eq!(
                (quants, sum),
                ([(127 * sign as i8, 0); 2], 32 * 16256 * sign)
            );
        }
    }

    #[test]
    fn a_row_of_256_stands_there_twice() {
        let x: Vec<f32> = (0..256).map(|i| i as f32 - 99.5).collect();
        let mut wide = [Act512::ZERO];
        quantize_512(&x, &mut wide);
        let [w] = &wide;
        assert_eq!(
            (w.n_blocks(), &w.hi[..4], &w.lo[..4]),
            (8, &w.hi[4..], &w.lo[4..])
        );
        assert_eq!(&w.d[..8], &w.d[8..]);
        assert!(w.sums.iter().all(|s| s[..8] == s[8..]));
        assert!(w.halves.iter().all(|h| h[..8] == h[8..]));
    }

    #[test]
    fn every_column_has_a_place_of_its_own() {
        let mut places: Vec<_> = (0..512).map(|c| place(c / 32, c % 32)).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 512);
        assert_eq!((place(5, 0), place(14, 31)), ((0, 40), (7, 55)));
    }
}
