//! FENCE: kernels for aarch64 with NEON, and with its four-byte products (`dotprod`) where there are any.
//!
//! Promise: Rust compiles for aarch64 only with NEON; `dotprod` is used by the table of [`with_dotprod`]
//! only, which leaves it on a CPU where it was detected. Inside, the only unsafe steps are loads and stores
//! through references to arrays of the right size, and single instructions that touch registers only.
//!
//! One vector at a time, in blocks of its own ([`Act32`], [`Act256`]): `rows_*` drives `*_dots::<R>`, which takes R rows in one pass, so that
//! a load of x serves R rows. Sums stay in lanes until the end of a row: the order is fixed by the row's
//! length. `DOT` chooses the byte product, see [`dot`].
//!
//! Seen running under emulation only, on Linux; for macOS seen type-checked only.
#![allow(unsafe_code)]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use crate::backend::cpu::dispatch::{Activation, FormatKernel, Kernels, RowsKernel, WeightKernels};
use crate::backend::cpu::rows::{activations, in_passes, q4_k_scales};
use crate::backend::cpu::scalar;
use crate::quant::blocks::{BlockIq2Xxs, BlockMxfp4, BlockQ2K, BlockQ4K, BlockQ8_0, blocks};
use crate::quant::cast::to_bytes;
use crate::quant::encode::{Act32, Act256};
use crate::quant::tables::{IQ2_XXS_GRID, MXFP4_SCALES, MXFP4_VALUES};

/// The table that every aarch64 processor runs.
pub const KERNELS: Kernels = table::<false>("neon");

/// The table with four-byte products, or `None` on a CPU without them.
pub fn with_dotprod() -> Option<Kernels> {
    is_aarch64_feature_detected!("dotprod").then_some(const { table::<true>("neon-dotprod") })
}

/// With `DOT` only for a CPU that has `dotprod`.
const fn table<const DOT: bool>(name: &'static str) -> Kernels {
    const { assert!(cfg!(target_feature = "neon")) };
    Kernels {
        name,
        // SAFETY (of every closure here): NEON is there, as just asserted, and `dotprod` where DOT is true:
        // such a table leaves this module only after `with_dotprod` has detected it.
        weights: WeightKernels {
            // SAFETY: as above.
            f32: kernel(Activation::F32, |rows, x, y| unsafe {
                rows_f32(rows, x, y)
            }),
            // SAFETY: as above.
            f16: kernel(Activation::F32, |rows, x, y| unsafe {
                rows_f16(rows, x, y)
            }),
            // SAFETY: as above.
            bf16: kernel(Activation::F32, |rows, x, y| unsafe {
                rows_bf16(rows, x, y)
            }),
            // SAFETY: as above.
            q8_0: kernel(Activation::Block32, |rows, x, y| unsafe {
                rows_q8_0::<DOT>(rows, x, y)
            }),
            // SAFETY: as above.
            q4_k: kernel(Activation::Block256, |rows, x, y| unsafe {
                rows_q4_k::<DOT>(rows, x, y)
            }),
            // SAFETY: as above.
            q2_k: kernel(Activation::Block256, |rows, x, y| unsafe {
                rows_q2_k::<DOT>(rows, x, y)
            }),
            // SAFETY: as above.
            iq2_xxs: kernel(Activation::Block256, |rows, x, y| unsafe {
                rows_iq2_xxs::<DOT>(rows, x, y)
            }),
            // SAFETY: as above.
            mxfp4: kernel(Activation::Block32, |rows, x, y| unsafe {
                rows_mxfp4::<DOT>(rows, x, y)
            }),
        },
        // SAFETY: as above.
        dot_f32: |a, b| unsafe { dot_f32(a, b) },
        // SAFETY: as above.
        axpys: |a, rows, y| unsafe { axpys(a, rows, y) },
        // SAFETY: as above.
        f16_to_f32: |x, y| unsafe { f16_to_f32(x, y) },
        // SAFETY: as above.
        f32_to_f16: |x, y| unsafe { f32_to_f16(x, y) },
        // The quantisers are the scalar ones, which are compiled for NEON too.
        ..scalar::KERNELS
    }
}

const fn kernel(activation: Activation, rows: RowsKernel) -> FormatKernel {
    FormatKernel {
        activation,
        rows,
        tile: None,
    }
}

// ---- weights times f32: 16 columns a step --------------------------------------------------------

/// 16 values.
type Sixteen = [float32x4_t; 4];

#[target_feature(enable = "neon")]
fn rows_f32(rows: &[u8], x: &[u8], y: &mut [f32]) {
    float_rows::<64>(rows, x, y, |w| f32_weights(w));
}

#[target_feature(enable = "neon")]
fn rows_f16(rows: &[u8], x: &[u8], y: &mut [f32]) {
    float_rows::<32>(rows, x, y, |w| {
        let [[a, b], [c, d]] = halves_u8(w).map(|w| words(w));
        [widen_f16(a), widen_f16(b), widen_f16(c), widen_f16(d)]
    });
}

#[target_feature(enable = "neon")]
fn rows_bf16(rows: &[u8], x: &[u8], y: &mut [f32]) {
    float_rows::<32>(rows, x, y, |w| {
        let [[a, b], [c, d]] = halves_u8(w).map(|w| words(w));
        [a, b, c, d].map(|w| vreinterpretq_f32_u32(vshll_n_u16::<16>(w)))
    });
}

#[target_feature(enable = "neon")]
fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of one length");
    let [sum] = float_dots::<1, 64>([to_bytes(a)], b, |w| f32_weights(w));
    sum
}

#[target_feature(enable = "neon")]
#[inline]
fn f32_weights(w: &[u8; 64]) -> Sixteen {
    let (w, _) = w.as_chunks::<16>();
    std::array::from_fn(|i| vreinterpretq_f32_u8(load_u8(&w[i])))
}

/// Rows of weights of `STEP / 16` bytes; `weights` widens 16 of them.
#[target_feature(enable = "neon")]
#[inline]
fn float_rows<const STEP: usize>(
    rows: &[u8],
    x: &[u8],
    y: &mut [f32],
    weights: impl Fn(&[u8; STEP]) -> Sixteen + Copy,
) {
    let x: &[f32] = activations(x);
    in_passes::<4, _>(
        rows,
        x.len() * (STEP / 16),
        y,
        |rows| float_dots(rows, x, weights),
        |row| float_dots(row, x, weights),
    );
}

#[target_feature(enable = "neon")]
#[inline]
fn float_dots<const R: usize, const STEP: usize>(
    rows: [&[u8]; R],
    x: &[f32],
    weights: impl Fn(&[u8; STEP]) -> Sixteen,
) -> [f32; R] {
    let mut acc = [[vdupq_n_f32(0.0); 4]; R];
    let (xs, x_tail) = x.as_chunks::<16>();
    let steps = rows.map(|row| &row.as_chunks::<STEP>().0[..xs.len()]);
    for (i, x) in xs.iter().enumerate() {
        let x = f32_weights(as_bytes(x));
        for r in 0..R {
            acc[r] = add_products(acc[r], weights(&steps[r][i]), x);
        }
    }
    if !x_tail.is_empty() {
        // The columns that are left, filled up with zeros.
        let mut x = [0.0; 16];
        x[..x_tail.len()].copy_from_slice(x_tail);
        let x = f32_weights(as_bytes(&x));
        for r in 0..R {
            let tail = rows[r].as_chunks::<STEP>().1;
            let mut w = [0; STEP];
            w[..tail.len()].copy_from_slice(tail);
            acc[r] = add_products(acc[r], weights(&w), x);
        }
    }
    acc.map(|[a, b, c, d]| vaddvq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d))))
}

#[target_feature(enable = "neon")]
#[inline]
fn add_products(acc: Sixteen, w: Sixteen, x: Sixteen) -> Sixteen {
    std::array::from_fn(|i| vfmaq_f32(acc[i], w[i], x[i]))
}

// ---- byte products -------------------------------------------------------------------------------

/// `acc` plus 16 products of signed bytes, in four sums; exact for all `w`, and `x` from -127.
///
/// Which of the products are in which sum differs with `DOT`. Without it the sums of two products reach
/// 2 * 128 * 127, which fits 16 bits.
#[target_feature(enable = "neon")]
#[inline]
fn dot<const DOT: bool>(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    if DOT {
        // SAFETY: `DOT` is true in the table of `with_dotprod` only, which detected the instruction.
        unsafe { sdot(acc, w, x) }
    } else {
        let pairs = vmull_s8(vget_low_s8(w), vget_low_s8(x));
        vpadalq_s16(acc, vmlal_high_s8(pairs, w, x))
    }
}

/// `128 hi + lo` in each lane. Over a block a lane sums at most 31 * 43 * 16256 * 64 (IQ2_XXS), which fits 32 bits.
#[target_feature(enable = "neon")]
#[inline]
fn join_planes([hi, lo]: [int32x4_t; 2]) -> int32x4_t {
    vaddq_s32(vshlq_n_s32::<7>(hi), lo)
}

/// 32 products of signed bytes and `128 hi + lo`, in four sums.
#[target_feature(enable = "neon")]
#[inline]
fn dot_planes<const DOT: bool>(w: [int8x16_t; 2], planes: [[int8x16_t; 2]; 2]) -> int32x4_t {
    join_planes(planes.map(|x| dot::<DOT>(dot::<DOT>(vdupq_n_s32(0), w[0], x[0]), w[1], x[1])))
}

/// `acc` plus the products of each four bytes. (The intrinsic `vdotq_s32` is not stable yet.)
///
/// Not compiled for `dotprod`, but told to the assembler: so it can be inlined into NEON functions.
///
/// # Safety
///
/// The CPU has `dotprod`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn sdot(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: by the caller's promise the instruction exists; it touches only the registers named.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.16b",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

// ---- formats with blocks of 32 activations ---------------------------------------------------------------

#[target_feature(enable = "neon")]
fn rows_q8_0<const DOT: bool>(rows: &[u8], x: &[u8], y: &mut [f32]) {
    let x = activations(x);
    in_passes::<4, _>(
        blocks(rows),
        x.len(),
        y,
        |rows| q8_0_dots::<DOT, _>(rows, x),
        |row| q8_0_dots::<DOT, _>(row, x),
    );
}

#[target_feature(enable = "neon")]
#[inline]
fn q8_0_dots<const DOT: bool, const R: usize>(rows: [&[BlockQ8_0]; R], x: &[Act32]) -> [f32; R] {
    let mut acc = [vdupq_n_f32(0.0); R];
    let rows = rows.map(|row| &row[..x.len()]);
    for (i, x) in x.iter().enumerate() {
        let planes = [halves_i8(&x.hi), halves_i8(&x.lo)];
        for r in 0..R {
            let w = &rows[r][i];
            let sums = dot_planes::<DOT>(halves_i8(&w.q), planes);
            acc[r] = vfmaq_n_f32(acc[r], vcvtq_f32_s32(sums), f16(w.d) * x.d);
        }
    }
    acc.map(|a| vaddvq_f32(a))
}

#[target_feature(enable = "neon")]
fn rows_mxfp4<const DOT: bool>(rows: &[u8], x: &[u8], y: &mut [f32]) {
    let x = activations(x);
    in_passes::<4, _>(
        blocks(rows),
        x.len(),
        y,
        |rows| mxfp4_dots::<DOT, _>(rows, x),
        |row| mxfp4_dots::<DOT, _>(row, x),
    );
}

#[target_feature(enable = "neon")]
#[inline]
fn mxfp4_dots<const DOT: bool, const R: usize>(rows: [&[BlockMxfp4]; R], x: &[Act32]) -> [f32; R] {
    let values = load_i8(&MXFP4_VALUES);
    let mut acc = [vdupq_n_f32(0.0); R];
    let rows = rows.map(|row| &row[..x.len()]);
    for (i, x) in x.iter().enumerate() {
        let planes = [halves_i8(&x.hi), halves_i8(&x.lo)];
        for r in 0..R {
            let w = &rows[r][i];
            let quants = nibbles(load_u8(&w.qs)).map(|codes| vqtbl1q_s8(values, codes));
            let sums = dot_planes::<DOT>(quants, planes);
            let scale = MXFP4_SCALES[usize::from(w.e)] * x.d;
            acc[r] = vfmaq_n_f32(acc[r], vcvtq_f32_s32(sums), scale);
        }
    }
    acc.map(|a| vaddvq_f32(a))
}

/// Low nibbles, high nibbles.
#[target_feature(enable = "neon")]
#[inline]
fn nibbles(bytes: uint8x16_t) -> [uint8x16_t; 2] {
    [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)]
}

// ---- formats with blocks of 256 activations ---------------------------------------------------------------

#[target_feature(enable = "neon")]
fn rows_q4_k<const DOT: bool>(rows: &[u8], x: &[u8], y: &mut [f32]) {
    let x = activations(x);
    in_passes::<2, _>(
        blocks(rows),
        x.len(),
        y,
        |rows| q4_k_dots::<DOT, _>(rows, x),
        |row| q4_k_dots::<DOT, _>(row, x),
    );
}

#[target_feature(enable = "neon")]
#[inline]
fn q4_k_dots<const DOT: bool, const R: usize>(rows: [&[BlockQ4K]; R], x: &[Act256]) -> [f32; R] {
    let zero = vdupq_n_s32(0);
    let mut acc = [vdupq_n_f32(0.0); R];
    let mut min_acc = [vdupq_n_f32(0.0); R];
    let rows = rows.map(|row| &row[..x.len()]);
    for (i, x) in x.iter().enumerate() {
        let planes = [x.hi.as_chunks::<32>().0, x.lo.as_chunks::<32>().0];
        let [a, b, c, d] = f32_weights(as_bytes(&x.sums));
        let x_sums = [vpaddq_f32(a, b), vpaddq_f32(c, d)];
        for r in 0..R {
            let w = &rows[r][i];
            let (scales, mins) = q4_k_scales(&w.scales);
            let scales = scales.to_le_bytes();
            let mut sums = zero;
            for (c, qs) in w.qs.as_chunks::<32>().0.iter().enumerate() {
                let [a, b] = halves_u8(qs).map(|qs| nibbles(qs));
                for h in 0..2 {
                    let k = 2 * c + h;
                    let quants = [a[h], b[h]].map(|q| vreinterpretq_s8_u8(q));
                    let sum = dot_planes::<DOT>(quants, planes.map(|x| halves_i8(&x[k])));
                    sums = vmlaq_n_s32(sums, sum, i32::from(scales[k]));
                }
            }
            let mins = floats(vmovl_u8(vcreate_u8(mins)));
            acc[r] = vfmaq_n_f32(acc[r], vcvtq_f32_s32(sums), f16(w.d) * x.d);
            let min_sums = vfmaq_f32(vmulq_f32(mins[0], x_sums[0]), mins[1], x_sums[1]);
            min_acc[r] = vfmaq_n_f32(min_acc[r], min_sums, f16(w.dmin) * x.d);
        }
    }
    std::array::from_fn(|r| vaddvq_f32(acc[r]) - vaddvq_f32(min_acc[r]))
}

#[target_feature(enable = "neon")]
fn rows_q2_k<const DOT: bool>(rows: &[u8], x: &[u8], y: &mut [f32]) {
    let x = activations(x);
    in_passes::<2, _>(
        blocks(rows),
        x.len(),
        y,
        |rows| q2_k_dots::<DOT, _>(rows, x),
        |row| q2_k_dots::<DOT, _>(row, x),
    );
}

#[target_feature(enable = "neon")]
#[inline]
fn q2_k_dots<const DOT: bool, const R: usize>(rows: [&[BlockQ2K]; R], x: &[Act256]) -> [f32; R] {
    let zero = vdupq_n_s32(0);
    let mut acc = [vdupq_n_f32(0.0); R];
    let mut min_acc = [vdupq_n_f32(0.0); R];
    let rows = rows.map(|row| &row[..x.len()]);
    for (i, x) in x.iter().enumerate() {
        let planes = [x.hi.as_chunks::<16>().0, x.lo.as_chunks::<16>().0];
        let x_sums = f32_weights(as_bytes(&x.sums));
        for r in 0..R {
            let w = &rows[r][i];
            let [scales, mins] = nibbles(load_u8(&w.scales));
            let scales = bytes_of(scales);
            let mut sums = zero;
            for (b, qs) in w.qs.as_chunks::<16>().0.iter().enumerate() {
                let qs = load_u8(qs);
                let quants = [
                    qs,
                    vshrq_n_u8::<2>(qs),
                    vshrq_n_u8::<4>(qs),
                    vshrq_n_u8::<6>(qs),
                ];
                for (j, q) in quants.into_iter().enumerate() {
                    // 16 weights at 128a + 32j + 16h, with b = 2a + h: one sub-block.
                    let s = b / 2 * 8 + 2 * j + b % 2;
                    let q = vreinterpretq_s8_u8(vandq_u8(q, vdupq_n_u8(3)));
                    let sum = join_planes(planes.map(|x| dot::<DOT>(zero, q, load_i8(&x[s]))));
                    sums = vmlaq_n_s32(sums, sum, i32::from(scales[s]));
                }
            }
            acc[r] = vfmaq_n_f32(acc[r], vcvtq_f32_s32(sums), f16(w.d) * x.d);
            let [a, b] = floats(vmovl_u8(vget_low_u8(mins)));
            let [c, d] = floats(vmovl_high_u8(mins));
            let min_sums = add_products([vdupq_n_f32(0.0); 4], [a, b, c, d], x_sums);
            let min_sums = vaddq_f32(
                vaddq_f32(min_sums[0], min_sums[1]),
                vaddq_f32(min_sums[2], min_sums[3]),
            );
            min_acc[r] = vfmaq_n_f32(min_acc[r], min_sums, f16(w.dmin) * x.d);
        }
    }
    std::array::from_fn(|r| vaddvq_f32(acc[r]) - vaddvq_f32(min_acc[r]))
}

/// Eight words as values.
#[target_feature(enable = "neon")]
#[inline]
fn floats(x: uint16x8_t) -> [float32x4_t; 2] {
    [
        vcvtq_f32_u32(vmovl_u16(vget_low_u16(x))),
        vcvtq_f32_u32(vmovl_high_u16(x)),
    ]
}

#[target_feature(enable = "neon")]
fn rows_iq2_xxs<const DOT: bool>(rows: &[u8], x: &[u8], y: &mut [f32]) {
    let x = activations(x);
    in_passes::<2, _>(
        blocks(rows),
        x.len(),
        y,
        |rows| iq2_xxs_dots::<DOT, _>(rows, x),
        |row| iq2_xxs_dots::<DOT, _>(row, x),
    );
}

#[target_feature(enable = "neon")]
#[inline]
fn iq2_xxs_dots<const DOT: bool, const R: usize>(
    rows: [&[BlockIq2Xxs]; R],
    x: &[Act256],
) -> [f32; R] {
    let zero = vdupq_n_s32(0);
    // Eight bytes take the first sign byte, eight the second; of it byte j the bit j.
    let sign_byte = vcombine_u8(vdup_n_u8(0), vdup_n_u8(1));
    let sign_bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    let mut acc = [vdupq_n_f32(0.0); R];
    let rows = rows.map(|row| &row[..x.len()]);
    for (i, x) in x.iter().enumerate() {
        let planes = [x.hi.as_chunks::<16>().0, x.lo.as_chunks::<16>().0];
        for r in 0..R {
            let w = &rows[r][i];
            let mut sums = zero;
            for (half, groups) in w.groups.as_chunks::<4>().0.iter().enumerate() {
                let (signs, factors) = iq2_xxs_words(groups);
                for (g, group) in groups.iter().enumerate() {
                    let mut sum = [zero; 2];
                    for h in 0..2 {
                        let pick = vaddq_u8(sign_byte, vdupq_n_u8((4 * g + 2 * h) as u8));
                        let minus = vtstq_u8(vqtbl1q_u8(signs, pick), sign_bit);
                        let minus = vreinterpretq_s8_u8(minus);
                        let points = iq2_xxs_points(group[2 * h], group[2 * h + 1]);
                        let points = vsubq_s8(veorq_s8(points, minus), minus);
                        for (sum, x) in sum.iter_mut().zip(planes) {
                            *sum = dot::<DOT>(*sum, points, load_i8(&x[8 * half + 2 * g + h]));
                        }
                    }
                    sums = vmlaq_n_s32(sums, join_planes(sum), factors[g]);
                }
            }
            let scale = f16(w.d) * 0.125 * x.d;
            acc[r] = vfmaq_n_f32(acc[r], vcvtq_f32_s32(sums), scale);
        }
    }
    acc.map(|a| vaddvq_f32(a))
}

/// Two grid points.
#[target_feature(enable = "neon")]
#[inline]
fn iq2_xxs_points(a: u8, b: u8) -> int8x16_t {
    let point = |index| vcreate_s8(u64::from_le_bytes(IQ2_XXS_GRID[usize::from(index)]));
    vcombine_s8(point(a), point(b))
}

/// Of four groups: their 16 sign bytes in element order, and their odd scale factors.
#[target_feature(enable = "neon")]
#[inline]
fn iq2_xxs_words(groups: &[[u8; 8]; 4]) -> (uint8x16_t, [i32; 4]) {
    // The second word of each group, in order.
    let (halves, _) = groups.as_flattened().as_chunks::<16>();
    let [a, b] = [0, 1].map(|i: usize| vreinterpretq_u32_u8(load_u8(&halves[i])));
    let words = vuzp2q_u32(a, b);
    // Four fields of seven bits to the low seven bits of four bytes.
    let field = |shifted, mask| vandq_u32(shifted, vdupq_n_u32(mask));
    let seven = vorrq_u32(
        vorrq_u32(field(words, 0x7f), field(vshlq_n_u32::<1>(words), 0x7f00)),
        vorrq_u32(
            field(vshlq_n_u32::<2>(words), 0x7f_0000),
            field(vshlq_n_u32::<3>(words), 0x7f00_0000),
        ),
    );
    // The eighth sign is the lowest bit of the number of the others.
    let seven = vreinterpretq_u8_u32(seven);
    let signs = vorrq_u8(seven, vshlq_n_u8::<7>(vcntq_u8(seven)));
    let factors = vorrq_u32(field(vshrq_n_u32::<27>(words), 30), vdupq_n_u32(1));
    let mut odd = [0; 4];
    // SAFETY: `odd` is 16 bytes that may be written.
    unsafe { vst1q_s32(odd.as_mut_ptr(), vreinterpretq_s32_u32(factors)) }
    (signs, odd)
}

// ---- vectors -------------------------------------------------------------------------------------

#[target_feature(enable = "neon")]
fn axpys(a: &[f32], rows: &[f32], y: &mut [f32]) {
    assert_eq!(rows.len(), a.len() * y.len(), "rows of one length");
    // Every aarch64 processor multiplies and adds in one step: this is a vector loop.
    for (a, row) in a.iter().zip(rows.chunks_exact(y.len().max(1))) {
        for (y, x) in y.iter_mut().zip(row) {
            *y = a.mul_add(*x, *y);
        }
    }
}

#[target_feature(enable = "neon")]
fn f16_to_f32(x: &[u16], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "vectors of one length");
    let widen = |x: &[u16; 4], y: &mut [f32; 4]| {
        // SAFETY: `x` is 8 bytes and `y` is 16 that may be written.
        unsafe { vst1q_f32(y.as_mut_ptr(), widen_f16(vld1_u16(x.as_ptr()))) }
    };
    let ((xs, x_tail), (ys, y_tail)) = (x.as_chunks(), y.as_chunks_mut());
    for (x, y) in xs.iter().zip(ys) {
        widen(x, y);
    }
    let (mut x, mut y) = ([0; 4], [0.0; 4]);
    x[..x_tail.len()].copy_from_slice(x_tail);
    widen(&x, &mut y);
    y_tail.copy_from_slice(&y[..y_tail.len()]);
}

#[target_feature(enable = "neon")]
fn f32_to_f16(x: &[f32], y: &mut [u16]) {
    assert_eq!(x.len(), y.len(), "vectors of one length");
    let narrow = |x: &[f32; 4], y: &mut [u16; 4]| {
        // SAFETY: `x` is 16 bytes and `y` is 8 that may be written.
        unsafe { vst1_u16(y.as_mut_ptr(), narrow_f16(vld1q_f32(x.as_ptr()))) }
    };
    let ((xs, x_tail), (ys, y_tail)) = (x.as_chunks(), y.as_chunks_mut());
    for (x, y) in xs.iter().zip(ys) {
        narrow(x, y);
    }
    let (mut x, mut y) = ([0.0; 4], [0; 4]);
    x[..x_tail.len()].copy_from_slice(x_tail);
    narrow(&x, &mut y);
    y_tail.copy_from_slice(&y[..y_tail.len()]);
}

// ---- loads, conversions --------------------------------------------------------------------------

/// An array of f32 seen as bytes.
#[inline(always)]
fn as_bytes(x: &[f32; 16]) -> &[u8; 64] {
    // SAFETY: a reference to as many initialised bytes, of alignment 1.
    unsafe { &*x.as_ptr().cast() }
}

#[target_feature(enable = "neon")]
#[inline]
fn load_u8(x: &[u8; 16]) -> uint8x16_t {
    // SAFETY: `x` is 16 bytes; a load of bytes needs no alignment.
    unsafe { vld1q_u8(x.as_ptr()) }
}

#[target_feature(enable = "neon")]
#[inline]
fn load_i8(x: &[i8; 16]) -> int8x16_t {
    // SAFETY: `x` is 16 bytes; a load of bytes needs no alignment.
    unsafe { vld1q_s8(x.as_ptr()) }
}

#[target_feature(enable = "neon")]
#[inline]
fn halves_u8(x: &[u8; 32]) -> [uint8x16_t; 2] {
    let (x, _) = x.as_chunks::<16>();
    [load_u8(&x[0]), load_u8(&x[1])]
}

#[target_feature(enable = "neon")]
#[inline]
fn halves_i8(x: &[i8; 32]) -> [int8x16_t; 2] {
    let (x, _) = x.as_chunks::<16>();
    [load_i8(&x[0]), load_i8(&x[1])]
}

/// Bytes as 16-bit words, four in a vector.
#[target_feature(enable = "neon")]
#[inline]
fn words(x: uint8x16_t) -> [uint16x4_t; 2] {
    let x = vreinterpretq_u16_u8(x);
    [vget_low_u16(x), vget_high_u16(x)]
}

#[target_feature(enable = "neon")]
#[inline]
fn bytes_of(x: uint8x16_t) -> [u8; 16] {
    let mut bytes = [0; 16];
    // SAFETY: `bytes` is 16 bytes that may be written.
    unsafe { vst1q_u8(bytes.as_mut_ptr(), x) }
    bytes
}

/// The value of f16 bits.
#[target_feature(enable = "neon")]
#[inline]
fn f16(bytes: [u8; 2]) -> f32 {
    vgetq_lane_f32::<0>(widen_f16(vdup_n_u16(u16::from_le_bytes(bytes))))
}

/// Four f16 bits to their values. (The type of the intrinsic `vcvt_f32_f16` is newer than this crate's Rust.)
#[target_feature(enable = "neon")]
#[inline]
fn widen_f16(bits: uint16x4_t) -> float32x4_t {
    let values;
    // SAFETY: an instruction every aarch64 processor has; it reads and writes only the registers named.
    unsafe {
        asm!(
            "fcvtl {values:v}.4s, {bits:v}.4h",
            values = lateout(vreg) values,
            bits = in(vreg) bits,
            options(pure, nomem, nostack),
        );
    }
    values
}

/// Four values rounded to f16 bits: nearest-even, as the processor is set at the start of a program.
#[target_feature(enable = "neon")]
#[inline]
fn narrow_f16(values: float32x4_t) -> uint16x4_t {
    let bits;
    // SAFETY: as in `widen_f16`.
    unsafe {
        asm!(
            "fcvtn {bits:v}.4h, {values:v}.4s",
            bits = lateout(vreg) bits,
            values = in(vreg) values,
            options(pure, nomem, nostack),
        );
    }
    bits
}
