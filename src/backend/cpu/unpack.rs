//! FENCE: how the formats of weights become bytes, written once for all instruction sets.
//!
//! Promise: the only unsafe step is an unchecked read of a grid point, whose index was checked before.
//!
//! [`unpackers`] makes a function for each format inside an instruction set's own module, of the few steps on vectors that
//! this module names below. A vector `V` has `W` lanes of eight bytes; lane `i` holds eight columns of a block of 32 weights:
//!
//! ```text
//! vector 4g + k of Columns:   columns 8k..8k + 8 of the blocks gW, gW + 1, .. gW + W - 1
//!
//! V, W                        AVX-512: 8 lanes, AVX2: 4, NEON: 2
//! eights([u64; W]) -> V       lanes from eight bytes each
//! sixteens(of) -> [V; 2]      lanes from the first eight of 16 bytes each, and from the last eight
//! shift_right(V, [u64; W])    each lane by its own number of bits
//! up::<N>(V), down::<N>(V)    all bits by N, between bytes too
//! splat(u8) -> V              the byte in all places
//! and(V, u8), or(V, V), add(V, V), sub(V, u8)      byte by byte
//! lookup(&[i8; 16], V)        a byte of the table for each code 0..16
//! mask(&[u8; 32], first, k)   255 where a bit of byte 4 (first + lane) + k is set: bit j for byte j of the lane
//! negate(V, &[u8; 32], first, k)                   the bytes whose bit is set so, negated
//! eights_of(&Eights<N>, &[u16; 32]) -> [V; 32 / W]        points of eight columns, by index
//! iq1_points(&[u16; 32]) -> [V; 32 / W]                 those of IQ1, times eight
//! fours(&Fours, &[u8; 64], &[u8; 8]) -> [V; 32 / W]     points of four columns, by index and ninth bit of the index
//! f16([u8; 2]) -> f32
//! ```
//!
//! A large function with one caller is compiled into it, with two it is not, and large ones that wait for look-ups lose a
//! quarter of their speed by that. So those have a parameter `USE` that tells callers apart and does nothing else.
#![allow(dead_code, unused_macros)] // NEON needs fewer of the shapes; a processor that is none of the three needs nothing

/// What the bytes and numbers of a format are.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Largest magnitude of a byte.
    pub largest: i32,
    /// Whether bytes are signed numbers.
    pub signed: bool,
    /// Whether there are minima.
    pub mins: bool,
    /// Whether the halves of a block have factors.
    pub factors: bool,
}

impl Shape {
    /// Signed bytes with one scale a block.
    pub const fn signed(largest: i32) -> Shape {
        Shape {
            largest,
            signed: true,
            mins: false,
            factors: false,
        }
    }

    /// Unsigned bytes with a scale and minima.
    pub const fn with_mins(largest: i32) -> Shape {
        Shape {
            largest,
            signed: false,
            mins: true,
            factors: false,
        }
    }

    /// Signed bytes with a scale for the block and a factor for each half.
    pub const fn with_factors(largest: i32) -> Shape {
        Shape {
            factors: true,
            ..Shape::signed(largest)
        }
    }
}

pub const Q8_0: Shape = Shape::signed(128);
pub const Q4_0: Shape = Shape::signed(8);
pub const Q4_1: Shape = Shape::with_mins(15);
pub const Q5_0: Shape = Shape::signed(16);
pub const Q5_1: Shape = Shape::with_mins(31);
/// The factors 0..=15 of the halves are multiplied into the bytes.
pub const Q2_K: Shape = Shape::with_mins(3 * 15);
pub const Q3_K: Shape = Shape::with_factors(4);
pub const Q4_K: Shape = Shape::with_mins(15);
pub const Q5_K: Shape = Shape::with_mins(31);
pub const Q6_K: Shape = Shape::with_factors(32);
pub const IQ1_S: Shape = Shape::signed(9);
pub const IQ1_M: Shape = Shape::with_factors(9);
pub const IQ2_XXS: Shape = Shape::signed(43);
pub const IQ2_XS: Shape = Shape::with_factors(43);
pub const IQ2_S: Shape = Shape::with_factors(43);
pub const IQ3_XXS: Shape = Shape::signed(62);
pub const IQ3_S: Shape = Shape::signed(15);
pub const IQ4_NL: Shape = Shape::signed(127);
pub const IQ4_XS: Shape = Shape::signed(127);
pub const MXFP4: Shape = Shape::signed(12);

/// A number for each block of 32 weights, of 256.
pub type Eight<T> = [T; 8];

/// What goes with the bytes of 256 weights.
#[derive(Clone, Copy)]
pub struct Numbers {
    /// Scale of each block.
    pub scales: Eight<f32>,
    /// Minima of the halves of each block.
    pub mins: [Eight<f32>; 2],
    /// Factors of the halves of each block.
    pub factors: [Eight<i32>; 2],
}

impl Numbers {
    /// One scale a block.
    #[inline(always)]
    pub fn new(scales: Eight<f32>) -> Numbers {
        Numbers {
            scales,
            mins: [[0.0; 8]; 2],
            factors: [[0; 8]; 2],
        }
    }
}

/// Eight bytes from `at` on.
#[inline(always)]
pub fn eight<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

/// Bytes as numbers, times `d`.
#[inline(always)]
pub fn times(d: f32, x: &Eight<u8>) -> Eight<f32> {
    let mut y = [0.0; 8];
    for (y, x) in y.iter_mut().zip(x) {
        *y = d * f32::from(*x);
    }
    y
}

/// A number of each of eight blocks.
#[inline(always)]
pub fn each<B, T: Copy + Default>(w: &[B; 8], of: impl Fn(&B) -> T) -> Eight<T> {
    let mut y = [T::default(); 8];
    for (y, w) in y.iter_mut().zip(w) {
        *y = of(w);
    }
    y
}

/// The odd factors `2 s + 1` of halves that are the nibbles of eight bytes.
#[inline(always)]
pub fn odd_factors(scales: &Eight<u8>) -> [Eight<i32>; 2] {
    let mut factors = [[0; 8]; 2];
    for (b, s) in scales.iter().enumerate() {
        factors[0][b] = 2 * i32::from(s & 15) + 1;
        factors[1][b] = 2 * i32::from(s >> 4) + 1;
    }
    factors
}

/// The 16 scales of Q3_K less 32, by halves; as [`crate::quant::blocks::BlockQ3K::scale`] says one by one.
#[inline(always)]
pub fn q3_k_factors(packed: &[u8; 12]) -> [Eight<i32>; 2] {
    let low = eight(packed, 0);
    let high = u32::from_le_bytes([packed[8], packed[9], packed[10], packed[11]]);
    let high = u64::from(high) | u64::from(high >> 2) << 32;
    let four = 0x0f0f_0f0f_0f0f_0f0f;
    let two = 0x0303_0303_0303_0303;
    let mut scales = [0; 16];
    scales.as_chunks_mut().0[0] = (low & four | (high & two) << 4).to_le_bytes();
    scales.as_chunks_mut().0[1] = (low >> 4 & four | (high >> 4 & two) << 4).to_le_bytes();
    let mut factors = [[0; 8]; 2];
    for (b, scale) in scales.into_iter().enumerate() {
        factors[b % 2][b / 2] = i32::from(scale) - 32;
    }
    factors
}

/// Eight bytes of -1 where the top bit of `word` is set, else of 1.
#[inline(always)]
pub fn one_up_or_down(word: u16) -> u64 {
    i64::from(word as i16 >> 15) as u64 | (u64::MAX / 255)
}

/// The eighth sign bit of each byte of seven: it makes their number even.
#[inline(always)]
pub fn with_parity<const N: usize>(seven: [u8; N]) -> [u8; N] {
    let mut signs = seven;
    for s in &mut signs {
        let fold = *s ^ *s >> 4;
        let fold = fold ^ fold >> 2;
        *s |= (fold ^ fold >> 1) << 7;
    }
    signs
}

/// Of eight words with four fields of seven bits each, the signs of the points.
#[inline(always)]
pub fn word_signs(words: &[[u8; 4]; 8]) -> [u8; 32] {
    let mut seven = [0; 32];
    for (seven, word) in seven.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        let word = u32::from_le_bytes(*word);
        let fields =
            word & 0x7f | word << 1 & 0x7f00 | word << 2 & 0x7f_0000 | word << 3 & 0x7f00_0000;
        *seven = fields.to_le_bytes();
    }
    with_parity(seven)
}

/// `eights_of` and `fours` by a load for each point.
macro_rules! points_by_loads {
    ($features:tt) => {
        use crate::quant::grids::IQ1_GRID;

        /// Points of eight columns by a load for each. The indices go through memory: to take them out of a vector one by
        /// one costs more than to load them.
        #[target_feature(enable = $features)]
        #[inline]
        fn eights_by_loads<const N: usize, const USE: usize, const M: bool>(
            grid: &[[u8; 8]; N],
            index: &[u16; 32],
        ) -> [V; 32 / W] {
            assert!(
                index.iter().all(|i| usize::from(*i) < N),
                "points of the grid"
            );
            let index = std::hint::black_box(index);
            let mut points = [eights([0; W]); 32 / W];
            for (v, points) in points.iter_mut().enumerate() {
                *points = lanes(|i| {
                    let index = usize::from(index[4 * (v / 4 * W + i) + v % 4]);
                    // SAFETY: all indices were just seen to be below N.
                    u64::from_le_bytes(unsafe { *grid.get_unchecked(index) })
                });
            }
            points
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn iq1_points<const USE: usize, const M: bool>(index: &[u16; 32]) -> [V; 32 / W] {
            eights_by_loads::<_, USE, M>(&IQ1_GRID, index)
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn eights_of<const N: usize, const USE: usize>(
            grid: &'static Eights<N>,
            index: &[u16; 32],
        ) -> [V; 32 / W] {
            eights_by_loads::<_, USE, false>(&grid.points, index)
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn fours(grid: &'static Fours, low: &[u8; 64], ninth: &[u8; 8]) -> [V; 32 / W] {
            let mut index = [0_u16; 64];
            for (b, index) in index.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                for (p, index) in index.iter_mut().enumerate() {
                    *index = u16::from(low[8 * b + p]) | u16::from(ninth[b]) << (8 - p) & 256;
                }
            }
            let index = std::hint::black_box(&index);
            let mut points = [eights([0; W]); 32 / W];
            for (v, points) in points.iter_mut().enumerate() {
                *points = lanes(|i| {
                    let p = 8 * (v / 4 * W + i) + v % 4 * 2;
                    let four = |p: usize| {
                        // SAFETY: an index has nine bits.
                        unsafe { *grid.points.get_unchecked(usize::from(index[p])) }
                    };
                    u64::from(four(p)) | u64::from(four(p + 1)) << 32
                });
            }
            points
        }
    };
}
pub(in crate::backend::cpu) use points_by_loads;

/// See the head of this file. `$features` are those of the calling module.
macro_rules! unpackers {
    ($features:tt) => {
        use crate::backend::cpu::rows::q4_k_scales;
        use crate::backend::cpu::unpack::{
            Eight, Numbers, each, eight, odd_factors, one_up_or_down, q3_k_factors, times,
            with_parity, word_signs,
        };
        use crate::quant::blocks::{
            BlockIq1M, BlockIq1S, BlockIq2S, BlockIq2Xs, BlockIq3S, BlockIq3Xxs, BlockIq4Nl,
            BlockIq4Xs, BlockMxfp4, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ5K,
            BlockQ6K,
        };
        use crate::quant::grids::{
            Eights, Fours, IQ2_S_EIGHTS, IQ2_XS_EIGHTS, IQ3_S_FOURS, IQ3_XXS_FOURS,
        };
        use crate::quant::tables::{IQ4_VALUES, MXFP4_SCALES, MXFP4_VALUES};

        /// 256 weights of a row.
        pub struct Columns {
            /// Bytes in the order of `unpack.rs`.
            pub bytes: [V; 32 / W],
            /// What goes with them.
            pub numbers: Numbers,
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn columns(numbers: Numbers, bytes: impl Fn(usize, usize) -> V) -> Columns {
            let mut all = [eights([0; W]); 32 / W];
            for (g, four) in all.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                for (k, vector) in four.iter_mut().enumerate() {
                    *vector = bytes(g * W, k);
                }
            }
            Columns {
                bytes: all,
                numbers,
            }
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn lanes(of: impl Fn(usize) -> u64) -> V {
            let mut lanes = [0; W];
            for (i, lane) in lanes.iter_mut().enumerate() {
                *lane = of(i);
            }
            eights(lanes)
        }

        /// Lanes moved down by as many bits as `bits` says.
        #[target_feature(enable = $features)]
        #[inline]
        fn field(x: V, bits: impl Fn(usize) -> usize) -> V {
            let mut counts = [0; W];
            for (i, count) in counts.iter_mut().enumerate() {
                *count = bits(i) as u64;
            }
            shift_right(x, counts)
        }

        /// Four bits of blocks with low nibbles for columns 0..16 and high ones for 16..32.
        #[target_feature(enable = $features)]
        #[inline]
        fn halves<'a>(k: usize, qs: impl Fn(usize) -> &'a [u8; 16]) -> V {
            let x = sixteens(qs)[k % 2];
            and(if k < 2 { x } else { down::<4>(x) }, 15)
        }

        #[target_feature(enable = $features)]
        #[inline]
        pub fn q4_0(w: &[BlockQ4_0; 8]) -> Columns {
            let numbers = Numbers::new(each(w, |w| f16(w.d)));
            columns(numbers, |first, k| sub(halves(k, |i| &w[first + i].qs), 8))
        }

        #[target_feature(enable = $features)]
        #[inline]
        pub fn q4_1(w: &[BlockQ4_1; 8]) -> Columns {
            let numbers = Numbers {
                mins: [each(w, |w| -f16(w.m)); 2],
                ..Numbers::new(each(w, |w| f16(w.d)))
            };
            columns(numbers, |first, k| halves(k, |i| &w[first + i].qs))
        }

        /// The fifth bits of eight blocks, byte by byte.
        #[inline(always)]
        fn fifths<B>(w: &[B; 8], qh: impl Fn(&B) -> [u8; 4]) -> [u8; 32] {
            let mut bits = [0; 32];
            for (bits, w) in bits.as_chunks_mut::<4>().0.iter_mut().zip(w) {
                *bits = qh(w);
            }
            bits
        }

        #[target_feature(enable = $features)]
        #[inline]
        pub fn q5_0(w: &[BlockQ5_0; 8]) -> Columns {
            let numbers = Numbers::new(each(w, |w| f16(w.d)));
            let bits = fifths(w, |w| w.qh);
            columns(numbers, |first, k| {
                let low = halves(k, |i| &w[first + i].qs);
                sub(or(low, and(mask(&bits, first, k), 16)), 16)
            })
        }

        #[target_feature(enable = $features)]
        #[inline]
        pub fn q5_1(w: &[BlockQ5_1; 8]) -> Columns {
            let numbers = Numbers {
                mins: [each(w, |w| -f16(w.m)); 2],
                ..Numbers::new(each(w, |w| f16(w.d)))
            };
            let bits = fifths(w, |w| w.qh);
            columns(numbers, |first, k| {
                let low = halves(k, |i| &w[first + i].qs);
                or(low, and(mask(&bits, first, k), 16))
            })
        }

        #[target_feature(enable = $features)]
        #[inline]
        pub fn iq4_nl(w: &[BlockIq4Nl; 8]) -> Columns {
            let numbers = Numbers::new(each(w, |w| f16(w.d)));
            columns(numbers, |first, k| {
                lookup(&IQ4_VALUES, halves(k, |i| &w[first + i].qs))
            })
        }

        #[target_feature(enable = $features)]
        #[inline]
        pub fn mxfp4(w: &[BlockMxfp4; 8]) -> Columns {
            let numbers = Numbers::new(each(w, |w| MXFP4_SCALES[usize::from(w.e)]));
            columns(numbers, |first, k| {
                lookup(&MXFP4_VALUES, halves(k, |i| &w[first + i].qs))
            })
        }

        #[target_feature(enable = $features)]
        #[inline]
        pub fn iq4_xs([w]: &[BlockIq4Xs; 1]) -> Columns {
            let (d, mut scales) = (f16(w.d), [0.0; 8]);
            for (b, scale) in scales.iter_mut().enumerate() {
                *scale = d * f32::from(w.scale(b));
            }
            let qs = w.qs.as_chunks::<16>().0;
            columns(Numbers::new(scales), |first, k| {
                lookup(&IQ4_VALUES, halves(k, |i| &qs[first + i]))
            })
        }

        #[target_feature(enable = $features)]
        #[inline]
        pub fn q3_k([w]: &[BlockQ3K; 1]) -> Columns {
            let numbers = Numbers {
                factors: q3_k_factors(&w.scales),
                ..Numbers::new([f16(w.d); 8])
            };
            columns(numbers, |first, k| {
                let low = lanes(|i| eight(&w.qs, (first + i) / 4 * 32 + 8 * k));
                let low = and(field(low, |i| (first + i) % 4 * 2), 3);
                let high = lanes(|_| eight(&w.hmask, 8 * k));
                let high = up::<2>(and(field(high, |i| first + i), 1));
                sub(or(low, high), 4)
            })
        }

        #[target_feature(enable = $features)]
        #[inline]
        pub fn q5_k([w]: &[BlockQ5K; 1]) -> Columns {
            let (scales, mins) = q4_k_scales(&w.scales);
            let numbers = Numbers {
                mins: [times(f16(w.dmin), &mins.to_le_bytes()); 2],
                ..Numbers::new(times(f16(w.d), &scales.to_le_bytes()))
            };
            columns(numbers, |first, k| {
                let low = lanes(|i| eight(&w.qs, (first + i) / 2 * 32 + 8 * k));
                let low = and(field(low, |i| (first + i) % 2 * 4), 15);
                let high = lanes(|_| eight(&w.qh, 8 * k));
                let high = up::<4>(and(field(high, |i| first + i), 1));
                or(low, high)
            })
        }

        #[target_feature(enable = $features)]
        #[inline]
        pub fn q6_k([w]: &[BlockQ6K; 1]) -> Columns {
            let mut factors = [[0; 8]; 2];
            for (b, scale) in w.scales.iter().enumerate() {
                factors[b % 2][b / 2] = i32::from(*scale);
            }
            let numbers = Numbers {
                factors,
                ..Numbers::new([f16(w.d); 8])
            };
            columns(numbers, |first, k| {
                // Of 128 elements the blocks 0 and 2 share bytes, and 1 and 3.
                let low = lanes(|i| {
                    let b = first + i;
                    eight(&w.ql, b / 4 * 64 + b % 2 * 32 + 8 * k)
                });
                let low = and(field(low, |i| (first + i) % 4 / 2 * 4), 15);
                let high = lanes(|i| eight(&w.qh, (first + i) / 4 * 32 + 8 * k));
                let high = up::<4>(and(field(high, |i| (first + i) % 4 * 2), 3));
                sub(or(low, high), 32)
            })
        }

        #[target_feature(enable = $features)]
        #[inline]
        pub fn iq2_xs<const USE: usize>([w]: &[BlockIq2Xs; 1]) -> Columns {
            let numbers = Numbers {
                factors: odd_factors(&w.scales),
                ..Numbers::new([f16(w.d) * 0.125; 8])
            };
            let (mut index, mut seven) = ([0; 32], [0; 32]);
            for ((index, seven), word) in index.iter_mut().zip(&mut seven).zip(&w.qs) {
                let word = u16::from_le_bytes(*word);
                (*index, *seven) = (word & 511, (word >> 9) as u8);
            }
            let (points, signs) = (
                eights_of::<_, USE>(&IQ2_XS_EIGHTS, &index),
                with_parity(seven),
            );
            columns(numbers, |first, k| {
                negate(points[first / W * 4 + k], &signs, first, k)
            })
        }

        #[target_feature(enable = $features)]
        #[inline]
        pub fn iq2_s<const USE: usize>([w]: &[BlockIq2S; 1]) -> Columns {
            let numbers = Numbers {
                factors: odd_factors(&w.scales),
                ..Numbers::new([f16(w.d) * 0.125; 8])
            };
            let mut index = [0_u16; 32];
            for (b, index) in index.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                for (p, index) in index.iter_mut().enumerate() {
                    let high = u16::from(w.qh[b]) << (8 - 2 * p) & 0x300;
                    *index = u16::from(w.qs[4 * b + p]) | high;
                }
            }
            let points = eights_of::<_, USE>(&IQ2_S_EIGHTS, &index);
            columns(numbers, |first, k| {
                negate(points[first / W * 4 + k], &w.signs, first, k)
            })
        }

        #[target_feature(enable = $features)]
        #[inline]
        pub fn iq3_xxs([w]: &[BlockIq3Xxs; 1]) -> Columns {
            let (d, mut scales) = (f16(w.d) * 0.25, [0.0; 8]);
            for (scale, word) in scales.iter_mut().zip(&w.words) {
                *scale = d * f32::from(word[3] >> 4 << 1 | 1);
            }
            let signs = word_signs(&w.words);
            let points = fours(&IQ3_XXS_FOURS, &w.qs, &[0; 8]);
            columns(Numbers::new(scales), |first, k| {
                negate(points[first / W * 4 + k], &signs, first, k)
            })
        }

        #[target_feature(enable = $features)]
        #[inline]
        pub fn iq3_s([w]: &[BlockIq3S; 1]) -> Columns {
            let (d, mut scales) = (f16(w.d), [0.0; 8]);
            for (pair, s) in scales.as_chunks_mut::<2>().0.iter_mut().zip(w.scales) {
                *pair = [
                    d * f32::from(s << 1 & 30 | 1),
                    d * f32::from(s >> 3 & 30 | 1),
                ];
            }
            let points = fours(&IQ3_S_FOURS, &w.qs, &w.qh);
            columns(Numbers::new(scales), |first, k| {
                negate(points[first / W * 4 + k], &w.signs, first, k)
            })
        }

        /// Points of IQ1, and to each eight columns what is added to them; `[k][b]` is of columns `8k..` of block `b`.
        #[target_feature(enable = $features)]
        #[inline]
        fn iq1<const USE: usize, const M: bool>(
            numbers: Numbers,
            index: &[u16; 32],
            ones: &[Eight<u64>; 4],
        ) -> Columns {
            let points = iq1_points::<USE, M>(index);
            columns(numbers, |first, k| {
                add(points[first / W * 4 + k], lanes(|i| ones[k][first + i]))
            })
        }

        #[target_feature(enable = $features)]
        #[inline]
        pub fn iq1_s<const USE: usize>([w]: &[BlockIq1S; 1]) -> Columns {
            let (d, mut scales) = (f16(w.d) * 0.125, [0.0; 8]);
            let (mut index, mut ones) = ([0; 32], [0; 8]);
            for (b, word) in w.qh.iter().enumerate() {
                let word = u16::from_le_bytes(*word);
                scales[b] = d * f32::from(word >> 11 & 14 | 1);
                ones[b] = one_up_or_down(word);
            }
            for (b, word) in w.qh.iter().enumerate() {
                let word = u16::from_le_bytes(*word);
                for k in 0..4 {
                    index[4 * b + k] = u16::from(w.qs[4 * b + k]) | (word >> (3 * k) & 7) << 8;
                }
            }
            iq1::<USE, false>(Numbers::new(scales), &index, &[ones; 4])
        }

        #[target_feature(enable = $features)]
        #[inline]
        pub fn iq1_m<const USE: usize>([w]: &[BlockIq1M; 1]) -> Columns {
            let mut factors = [[0; 8]; 2];
            for (pair, word) in w.scales.iter().enumerate() {
                let word = i32::from(u16::from_le_bytes(*word)) << 1;
                for i in 0..2 {
                    factors[0][2 * pair + i] = word >> (6 * i) & 14 | 1;
                    factors[1][2 * pair + i] = word >> (6 * i + 3) & 14 | 1;
                }
            }
            let numbers = Numbers {
                factors,
                ..Numbers::new([f16(w.d()) * 0.125; 8])
            };
            let (mut index, mut ones) = ([0; 32], [[0; 8]; 4]);
            for (p, qh) in w.qh.iter().enumerate() {
                let qh = u16::from(*qh);
                index[2 * p] = u16::from(w.qs[2 * p]) | qh << 8 & 0x700;
                index[2 * p + 1] = u16::from(w.qs[2 * p + 1]) | qh << 4 & 0x700;
            }
            for (b, [low, high]) in w.qh.as_chunks::<2>().0.iter().enumerate() {
                for (half, qh) in [u16::from(*low), u16::from(*high)].into_iter().enumerate() {
                    ones[2 * half][b] = one_up_or_down(qh << 12);
                    ones[2 * half + 1][b] = one_up_or_down(qh << 8);
                }
            }
            iq1::<USE, true>(numbers, &index, &ones)
        }
    };
}
pub(in crate::backend::cpu) use unpackers;
