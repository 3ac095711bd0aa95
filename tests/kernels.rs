//! Every kernel table of this machine against the plain Rust twins, all with the same cases.
//!
//! Integer kernels are held against `wide::twin` to the bit, everything with f32 activations against a sum in f64, and so
//! are the twins. How far a result may be off: `kernel_cases/bounds.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod kernel_cases;

use infall::backend::cpu::dispatch::{Activation, FormatKernel, Kernels, TOKENS, available};
use infall::backend::cpu::scalar;
use infall::backend::cpu::wide;
use infall::quant::Format;
use infall::quant::cast::to_bytes;
use infall::quant::wide::{Act512, quantize_512};
use kernel_cases::bounds::bound;
use kernel_cases::{
    BELOW, FILLS, FINITE, Fill, LONGEST, NOT_FINITE, Prepared, Random, Scale, TWIN_BELOW, VECTORS,
    Vector, check, exact, float_parts, parts, row, vector,
};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// All formats that hold weights.
fn formats() -> Vec<Format> {
    let all = Format::ALL.into_iter();
    all.filter(|f| scalar::KERNELS.weight(*f).is_some())
        .collect()
}

// ---- checks --------------------------------------------------------------------------------------

fn run(kernel: FormatKernel, rows: &[u8], x: &Prepared, n_rows: usize) -> Vec<f32> {
    let mut y = vec![f32::from_bits(0x7fc0_1234); n_rows];
    (kernel.rows)(rows, x.bytes(), &mut y);
    y
}

fn assert_same(y: f32, expected: f32, what: &dyn Fn() -> String) {
    assert!(
        y.to_bits() == expected.to_bits() || y.is_nan() && expected.is_nan(),
        "{}: {y:e}, expected just {expected:e}",
        what()
    );
}

/// The largest error seen, as a part of the bound's unit: scalar, twin, fast.
#[derive(Default)]
struct Worst([f64; 3]);

/// All tables, and the twin, on one matrix and one vector.
fn check_rows(
    format: Format,
    rows: &[u8],
    n_rows: usize,
    x: &[f32],
    name: &str,
    worst: &mut Worst,
) {
    let bound = bound(format);
    let row_bytes = format.row_bytes(x.len()).unwrap();
    // One byte off, so that nothing leans on the alignment of rows.
    let shifted: Vec<u8> = [0].iter().chain(rows).copied().collect();
    let row = |r: usize| &rows[r * row_bytes..][..row_bytes];
    let twin_y = wide::twin(format).map(|twin| {
        let x = Prepared::new(twin.activation, x);
        let y = run(twin, rows, &x, n_rows);
        for (r, y) in y.iter().enumerate() {
            let what = || format!("twin of {}, {name}, row {r}", format.name());
            let (sum, magnitudes) = exact(&parts(format, row(r)), &x.values());
            if sum.is_finite() {
                let e = check(*y, sum, magnitudes, (bound.twin, TWIN_BELOW), &what);
                worst.0[1] = worst.0[1].max(e);
            } else {
                // Sums of quants come before the scale, so that inf * 0 + inf is inf here and NaN in f64.
                assert!(!y.is_finite(), "{}: {y:e}, expected {sum}", what());
            }
        }
        y
    });
    for kernels in available() {
        let kernel = kernels.weight(format).unwrap();
        let prepared = Prepared::new(kernel.activation, x);
        let y = run(kernel, &shifted[1..], &prepared, n_rows);
        for (r, y) in y.iter().enumerate() {
            let what = || format!("{} {}, {name}, row {r}", kernels.name, format.name());
            let plain = kernel.activation == Activation::F32;
            let parts = if plain { float_parts } else { parts };
            let (sum, magnitudes) = exact(&parts(format, row(r)), &prepared.values());
            let (units, place) = match (kernel.activation, &twin_y) {
                _ if kernels.name == "scalar" => (bound.scalar, 0),
                (Activation::Block512, Some(twin)) => {
                    assert_same(*y, twin[r], &what);
                    continue;
                }
                _ => (bound.fast, 2),
            };
            let e = check(*y, sum, magnitudes, (units, BELOW), &what);
            worst.0[place] = worst.0[place].max(e);
        }
    }
}

/// Makes a matrix of one kind and checks it.
fn check_kind(
    format: Format,
    (n_rows, cols): (usize, usize),
    (scale, fill, kind): (Scale, Fill, Vector),
    random: &mut Random,
    worst: &mut Worst,
) {
    let name = format!("[{n_rows}, {cols}], {scale:?} scales, {fill:?} bytes, {kind:?} vector");
    let rows: Vec<u8> = (0..n_rows)
        .flat_map(|_| row(format, cols, scale, fill, random))
        .collect();
    let x = vector(kind, cols, random);
    check_rows(format, &rows, n_rows, &x, &name, worst);
}

/// Lengths around whole steps for the float formats, numbers of blocks for the others.
fn lengths(format: Format) -> Vec<usize> {
    match format.block_len() {
        1 => (0..=67)
            .chain([127, 128, 129, 255, 256, 257, LONGEST])
            .collect(),
        len => (0..=9)
            .chain([LONGEST / len])
            .map(|n| n * len)
            .filter(|n| *n <= LONGEST)
            .collect(),
    }
}

#[test]
fn every_table_multiplies_every_format_as_its_twin_does() {
    for format in formats() {
        let random = &mut Random(format as u64);
        let worst = &mut Worst::default();
        let usual = (Scale::Usual, Fill::Random, Vector::Usual);
        for cols in lengths(format) {
            check_kind(format, (3, cols), usual, random, worst);
        }
        for n_rows in 0..=9 {
            check_kind(format, (n_rows, 3 * 256), usual, random, worst);
        }
        for scale in FINITE {
            for fill in FILLS {
                for kind in VECTORS {
                    if format == Format::Mxfp4
                        && matches!(scale, Scale::Largest | Scale::Mixed)
                        && matches!(kind, Vector::Huge)
                    {
                        continue; // the product of the two scales is no f32
                    }
                    check_kind(format, (5, 2 * 256), (scale, fill, kind), random, worst);
                }
            }
        }
        let [scalar, twin, fast] = worst.0;
        println!(
            "{}: off by {scalar:.2} (scalar), {twin:.2} (twin), {fast:.2} (fast); {}",
            format.name(),
            bound(format).reason
        );
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    for format in formats() {
        let random = &mut Random(format as u64);
        let worst = &mut Worst::default();
        for scale in NOT_FINITE {
            for fill in FILLS {
                for kind in VECTORS {
                    check_kind(format, (5, 2 * 256), (scale, fill, kind), random, worst);
                }
            }
        }
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 31, 32, 255, 300, 511] {
                let mut x = vector(Vector::Usual, 512, random);
                x[at] = odd;
                let rows: Vec<u8> = (0..5)
                    .flat_map(|_| row(format, 512, Scale::Usual, Fill::Random, random))
                    .collect();
                check_rows(format, &rows, 5, &x, &format!("{odd} at {at}"), worst);
                for kernels in available() {
                    let kernel = kernels.weight(format).unwrap();
                    let y = run(kernel, &rows, &Prepared::new(kernel.activation, &x), 5);
                    let what = format!("{} {}, {odd} at {at}", kernels.name, format.name());
                    assert!(y.iter().all(|y| !y.is_finite()), "{what}: {y:?}");
                }
            }
        }
    }
}

/// Puts `index` where the grid index of point `p` of a block is.
fn put_index(format: Format, block: &mut [u8], p: usize, index: usize) {
    let mut put = |byte: usize, shift: usize, mask: usize, bits: usize| {
        block[byte] = block[byte] & !(mask << shift) as u8 | ((bits & mask) << shift) as u8;
    };
    match format {
        Format::Iq2Xs => {
            put(2 + 2 * p, 0, 255, index);
            put(3 + 2 * p, 0, 1, index >> 8);
        }
        Format::Iq2S => {
            put(2 + p, 0, 255, index);
            put(66 + p / 4, p % 4 * 2, 3, index >> 8);
        }
        Format::Iq3Xxs => put(2 + p, 0, 255, index),
        Format::Iq3S => {
            put(2 + p, 0, 255, index);
            put(66 + p / 8, p % 8, 1, index >> 8);
        }
        Format::Iq1S => {
            put(2 + p, 0, 255, index);
            for bit in 0..3 {
                let at = p % 4 * 3 + bit;
                put(34 + p / 4 * 2 + at / 8, at % 8, 1, index >> (8 + bit));
            }
        }
        Format::Iq1M => {
            put(p, 0, 255, index);
            put(32 + p / 2, p % 2 * 4, 7, index >> 8);
        }
        _ => {}
    }
}

/// Every place of a row, one by one; in the IQ formats all grid points, in IQ2_XXS all signs and all scales, in MXFP4 all
/// scales.
#[test]
fn one_hot_vectors_give_each_weight() {
    for format in formats() {
        let random = &mut Random(format as u64);
        let cols = match format {
            Format::Iq2Xxs => 16 * 256,
            Format::Mxfp4 => 251 * 32, // above, 12 times the scale is no f32
            Format::Iq3Xxs | Format::Iq2Xs => 16 * 256,
            Format::Iq3S => 8 * 256,
            Format::Iq2S => 32 * 256,
            Format::Iq1S | Format::Iq1M => 64 * 256,
            _ => 512,
        };
        let mut rows = row(format, cols, Scale::Usual, Fill::Random, random);
        for (i, block) in rows.chunks_exact_mut(format.block_bytes()).enumerate() {
            match format {
                Format::Mxfp4 => block[0] = i as u8,
                Format::Iq2Xxs => {
                    for (g, group) in block[2..].as_chunks_mut::<8>().0.iter_mut().enumerate() {
                        // Of twice 256 grid points; of four times 128 signs, each once at every k.
                        let first = (32 * i + 4 * g) as u32;
                        let k = [0, 1, 2, 3];
                        let signs = k.map(|k| ((first + first / 128 + k) % 128) << (7 * k));
                        let s = (3 * i + g) as u32 % 16;
                        let word = signs.iter().sum::<u32>() | (s << 28);
                        group[..4].copy_from_slice(&k.map(|k| (first + k) as u8));
                        group[4..].copy_from_slice(&word.to_le_bytes());
                    }
                }
                other => {
                    let n = match other {
                        Format::Iq3Xxs | Format::Iq3S => 64,
                        _ => 32,
                    };
                    (0..n).for_each(|p| put_index(other, block, p, n * i + p));
                }
            }
        }
        let weights = parts(format, &rows);
        for e in (0..cols).step_by(if format == Format::Mxfp4 { 5 } else { 1 }) {
            // A vector of the block that e is in; the others stay zero.
            let (len, first) = (
                format.block_len(),
                e / format.block_len() * format.block_len(),
            );
            let mut x = vec![0.0; len];
            x[e - first] = 0.75;
            let block = &rows[first / len * format.block_bytes()..][..format.block_bytes()];
            for kernels in available() {
                let kernel = kernels.weight(format).unwrap();
                let [y] = run(kernel, block, &Prepared::new(kernel.activation, &x), 1)[..] else {
                    panic!("one row")
                };
                let (scaled, min) = weights[e];
                let magnitudes = (scaled.abs() + min.abs()) * 0.75;
                let what = || format!("{} {}, element {e}", kernels.name, format.name());
                // The product of two scales rounds below the normal numbers, as in the twins.
                let below = match kernel.activation {
                    Activation::F32 => BELOW,
                    _ => TWIN_BELOW,
                };
                check(y, (scaled - min) * 0.75, magnitudes, (4.0, below), &what);
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    const ROWS: usize = 13;
    for format in formats() {
        let random = &mut Random(format as u64);
        for cols in lengths(format).into_iter().filter(|n| n % 3 != 1) {
            let rows: Vec<u8> = (0..ROWS)
                .flat_map(|_| row(format, cols, Scale::Mixed, Fill::Random, random))
                .collect();
            let row_bytes = rows.len() / ROWS;
            let x = vector(Vector::Usual, cols, random);
            for kernels in available() {
                let kernel = kernels.weight(format).unwrap();
                let x = Prepared::new(kernel.activation, &x);
                let all = run(kernel, &rows, &x, ROWS);
                for first in 0..ROWS {
                    for n in 1..=(ROWS - first).min(9) {
                        let some = run(kernel, &rows[first * row_bytes..][..n * row_bytes], &x, n);
                        for (some, all) in some.iter().zip(&all[first..]) {
                            assert!(
                                some.to_bits() == all.to_bits() || some.is_nan() && all.is_nan(),
                                "{} {}: {n} rows of {cols} from {first}: {some:e}, all: {all:e}",
                                kernels.name,
                                format.name()
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Kernels for several vectors give the bits that their twin for one gives, whatever stands beside.
#[test]
fn a_vector_does_not_depend_on_the_vectors_beside_it() {
    let mut n_kernels = 0;
    for format in formats() {
        let random = &mut Random(77 + format as u64);
        for cols in lengths(format) {
            for n_rows in [1, 2, 3, 8, 9, 17] {
                let rows: Vec<u8> = (0..n_rows)
                    .flat_map(|_| row(format, cols, Scale::Mixed, Fill::Random, random))
                    .collect();
                let x: [Vec<f32>; TOKENS] =
                    std::array::from_fn(|t| vector(VECTORS[t % VECTORS.len()], cols, random));
                for kernels in available() {
                    let kernel = kernels.weight(format).unwrap();
                    let Some(tile) = kernel.tile else { continue };
                    n_kernels += 1;
                    let x = x.each_ref().map(|x| Prepared::new(kernel.activation, x));
                    let alone = x.each_ref().map(|x| run(kernel, &rows, x, n_rows));
                    let x = x.each_ref().map(Prepared::bytes);
                    for n in 0..=TOKENS {
                        let mut y = vec![vec![-1.0_f32; n_rows]; n];
                        let mut to: Vec<&mut [f32]> = y.iter_mut().map(|y| &mut y[..]).collect();
                        tile(&rows, &x[..n], &mut to);
                        for (t, (y, alone)) in y.iter().zip(&alone).enumerate() {
                            for (r, (y, alone)) in y.iter().zip(alone).enumerate() {
                                assert_same(*y, *alone, &|| {
                                    let (name, format) = (kernels.name, format.name());
                                    let shape = format!("row {r} of [{n_rows}, {cols}]");
                                    format!("{name} {format}: {shape}, vector {t} of {n}")
                                });
                            }
                        }
                    }
                }
            }
        }
    }
    if n_kernels == 0 {
        println!("skipped: no table of this machine has such kernels");
    }
}

#[test]
fn lengths_that_do_not_fit_panic() {
    let panics = |what: String, f: &dyn Fn()| {
        assert!(catch_unwind(AssertUnwindSafe(f)).is_err(), "{what}");
    };
    for kernels in available() {
        for format in formats() {
            let kernel = kernels.weight(format).unwrap();
            let x = Prepared::new(kernel.activation, &[1.0; 512]);
            let rows = vec![0; 3 * format.row_bytes(512).unwrap()];
            let what = format!("{} {}", kernels.name, format.name());
            run(kernel, &rows, &x, 3);
            panics(format!("{what}, a row less"), &|| {
                run(kernel, &rows, &x, 2);
            });
            panics(format!("{what}, a row more"), &|| {
                run(kernel, &rows, &x, 4);
            });
            panics(format!("{what}, a byte less"), &|| {
                run(kernel, &rows[1..], &x, 3);
            });
            panics(format!("{what}, part of a block"), &|| {
                (kernel.rows)(&rows, &x.bytes()[1..], &mut [0.0; 3]);
            });
        }
        let k = kernels;
        let name = k.name;
        panics(format!("{name} dot_f32"), &|| {
            (k.dot_f32)(&[0.0; 3], &[0.0; 4]);
        });
        panics(format!("{name} axpys"), &|| {
            (k.axpys)(&[1.0], &[0.0; 4], &mut [0.0; 3]);
        });
        panics(format!("{name} quantize_512, part of a block"), &|| {
            (k.quantize_512)(&[0.0; 33], &mut [Act512::ZERO]);
        });
        panics(format!("{name} quantize_512"), &|| {
            (k.quantize_512)(&[0.0; 512], &mut [Act512::ZERO; 2]);
        });
        panics(format!("{name} f16_to_f32"), &|| {
            (k.f16_to_f32)(&[0; 4], &mut [0.0; 5]);
        });
        panics(format!("{name} f32_to_f16"), &|| {
            (k.f32_to_f16)(&[0.0; 9], &mut [0; 8]);
        });
    }
}

// ---- vectors -------------------------------------------------------------------------------------

/// Values with every kind of bits: a third numbers of moderate size, a third any bits, a third special.
fn any_values(n: usize, random: &mut Random) -> Vec<f32> {
    const SPECIAL: [u32; 14] = [
        0,
        0x8000_0000,
        1,
        0x8000_0001,
        0x007f_ffff,
        0x0080_0000,
        0x7f7f_ffff,
        0xff7f_ffff,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0xffc0_0001,
        0x7f80_0001,
        0x7fff_ffff,
    ];
    let value = |_| match random.below(3) {
        0 => random.unit() * 8.0,
        1 => f32::from_bits(random.bits() as u32),
        _ => f32::from_bits(SPECIAL[random.below(SPECIAL.len())]),
    };
    (0..n).map(value).collect()
}

/// Blocks of activations: usual ones, and such with ties, extremes and single odd values.
fn blocks_of_activations(random: &mut Random) -> Vec<f32> {
    let mut x = Vec::new();
    for kind in VECTORS {
        x.extend(vector(kind, 1024, random));
    }
    for magnitude in [1e-45, 1e-38, 1.4e-36, 1.5e-36, 1.6e-36, 1.0, 1e37, 3e38] {
        x.extend(
            vector(Vector::Usual, 512, random)
                .iter()
                .map(|x| x * magnitude),
        );
    }
    // Halves of the step: the largest is 127, the others n + 0.5.
    x.extend((0..1024).map(|i| {
        if i % 32 == 0 {
            127.0
        } else {
            (i % 200) as f32 - 99.5
        }
    }));
    x.extend((0..1024).map(|i| {
        if i % 32 == 31 {
            -127.0
        } else {
            (i % 200) as f32 - 99.5
        }
    }));
    for odd in [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
        1e-45,
    ] {
        for at in [0, 3, 255] {
            let mut block = vector(Vector::Usual, 256, random);
            block[at] = odd;
            x.extend(block);
        }
    }
    x.extend(any_values(1 << 16, random));
    x
}

#[test]
fn quantisers_equal_the_scalar_ones_to_the_bit() {
    let x = blocks_of_activations(&mut Random(1));
    let mut wide = vec![Act512::ZERO; x.len().div_ceil(512)];
    quantize_512(&x, &mut wide);
    let planes = wide.iter().flat_map(|w| w.hi.iter().chain(&w.lo));
    assert!(planes.flatten().all(|q| *q != -128));
    for kernels in available() {
        let name = kernels.name;
        let mut found = vec![Act512::ZERO; wide.len()];
        (kernels.quantize_512)(&x, &mut found);
        for (i, (f, e)) in found.iter().zip(&wide).enumerate() {
            assert!(
                to_bytes(&[*f]) == to_bytes(&[*e]),
                "{name}, block {i}: {f:?}, {e:?}"
            );
        }
        (kernels.quantize_512)(&[], &mut []);
    }
}

#[test]
fn f16_conversions_equal_the_scalar_ones_to_the_bit() {
    let random = &mut Random(2);
    let halves: Vec<u16> = (0..=u16::MAX).collect();
    let mut widened = vec![0.0; halves.len()];
    (scalar::KERNELS.f16_to_f32)(&halves, &mut widened);
    // All f16 values, what lies just at, below and above the middle to the next, and any bits.
    let mut values = widened.clone();
    for pair in widened
        .windows(2)
        .filter(|p| p[0].is_finite() && p[1].is_finite())
    {
        let middle = (pair[0] + pair[1]) / 2.0;
        let bits = middle.to_bits();
        values.extend([bits - 1, bits, bits + 1].map(f32::from_bits));
    }
    values.extend([65519.9, 65520.0, 65520.1, -65520.0, 2_f32.powi(-25), 1e-8]);
    values.extend(any_values(1 << 18, random));
    let mut narrowed = vec![0; values.len()];
    (scalar::KERNELS.f32_to_f16)(&values, &mut narrowed);
    for kernels in available() {
        let name = kernels.name;
        let mut found = vec![0.0; halves.len()];
        (kernels.f16_to_f32)(&halves, &mut found);
        for (h, (f, e)) in halves.iter().zip(found.iter().zip(&widened)) {
            let (f, e) = (f.to_bits(), e.to_bits());
            assert_eq!(f, e, "{name}: {h:#06x} is {f:#010x}, expected {e:#010x}");
        }
        let mut found = vec![0; values.len()];
        (kernels.f32_to_f16)(&values, &mut found);
        for (v, (f, e)) in values.iter().zip(found.iter().zip(&narrowed)) {
            let v = v.to_bits();
            assert_eq!(f, e, "{name}: {v:#010x} is {f:#06x}, expected {e:#06x}");
        }
        for n in 0..=35 {
            let (x, expected) = (&values[0x3c00..][..n], &narrowed[0x3c00..][..n]);
            let (mut bits, mut back) = (vec![0; n], vec![0.0; n]);
            (kernels.f32_to_f16)(x, &mut bits);
            (kernels.f16_to_f32)(&bits, &mut back);
            assert_eq!((&bits[..], &back[..]), (expected, x), "{name}, {n} values");
        }
    }
}

#[test]
fn vector_kernels_equal_f64() {
    let random = &mut Random(3);
    for kernels in available() {
        // A kernel that is added to the table and not here does not compile.
        let Kernels {
            name,
            weights: _,
            rows_f32: _,
            dot_f32,
            axpys,
            f16_to_f32: _,
            f32_to_f16: _,
            quantize_512: _,
        } = kernels;
        let bound = bound(Format::F32);
        let units = if name == "scalar" {
            bound.scalar
        } else {
            bound.fast
        };
        for n in lengths(Format::F32) {
            for kind in VECTORS {
                let (a, b) = (vector(kind, n, random), vector(Vector::Usual, n, random));
                let what = || format!("{name}, {n} values, {kind:?}");
                let parts: Vec<_> = a.iter().map(|a| (f64::from(*a), 0.0)).collect();
                let (sum, magnitudes) = exact(&parts, &Prepared::F32(b.clone()).values());
                check(dot_f32(&a, &b), sum, magnitudes, (units, BELOW), &what);

                // Several rows give the bits of one after the other.
                let (factors, rows) = ([0.7, -1.3, 0.0], [&a[..], &b, &a].concat());
                let (mut all, mut each) = (a.clone(), a.clone());
                axpys(&factors, &rows, &mut all);
                for (i, factor) in factors.iter().enumerate() {
                    axpys(&[*factor], &rows[i * n..][..n], &mut each);
                }
                let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&all), bits(&each), "{}", what());

                let mut y = b.clone();
                axpys(&[-0.3], &a, &mut y);
                for ((y, a), b) in y.iter().zip(&a).zip(&b) {
                    let (scaled, b) = (f64::from(-0.3_f32) * f64::from(*a), f64::from(*b));
                    // One rounding with a fused product, two without.
                    check(*y, scaled + b, scaled.abs() + b.abs(), (1.0, BELOW), &what);
                }
            }
            for at in 0..n.min(40) {
                let mut a = vector(Vector::Usual, n, random);
                a[at] = f32::NAN;
                assert!(
                    dot_f32(&a, &vec![0.0; n]).is_nan(),
                    "{name}, NaN at {at} of {n}"
                );
                let mut y = vec![1.0; n];
                axpys(&[0.0], &a, &mut y);
                let is_nan: Vec<_> = (0..n).filter(|i| y[*i].is_nan()).collect();
                assert_eq!(is_nan, [at], "{name}, NaN at {at} of {n}");
            }
        }
    }
}

/// Fails when a format or a table is added and has no case above.
#[test]
fn every_format_and_table_has_its_cases() {
    for format in Format::ALL.into_iter().filter(|f| *f != Format::I32) {
        bound(format);
        assert!(formats().contains(&format), "{}", format.name());
    }
    let tables = available();
    assert_eq!(tables[0].name, "scalar");
    for (i, kernels) in tables.iter().enumerate() {
        assert!(tables[..i].iter().all(|k| k.name != kernels.name));
        for format in Format::ALL {
            let kernel = kernels.weight(format);
            assert_eq!(kernel.is_some(), format != Format::I32);
            let Some(kernel) = kernel else { continue };
            let twin = wide::twin(format).map(|twin| twin.activation);
            assert!(
                [Some(Activation::F32), twin].contains(&Some(kernel.activation)),
                "{} {}: {:?} has no twin",
                kernels.name,
                format.name(),
                kernel.activation
            );
        }
    }
    #[cfg(target_arch = "x86_64")]
    {
        let expected = std::arch::is_x86_feature_detected!("avx2");
        assert_eq!(tables.iter().any(|k| k.name == "avx2"), expected);
    }
    #[cfg(target_arch = "aarch64")]
    {
        use std::arch::is_aarch64_feature_detected as has;
        let (dotprod, i8mm) = (has!("dotprod"), has!("i8mm"));
        for (name, expected) in [("neon-dotprod", dotprod), ("neon-i8mm", i8mm)] {
            assert_eq!(tables.iter().any(|k| k.name == name), expected, "{name}");
        }
        assert!(tables.iter().any(|k| k.name == "neon"));
    }
    let names: Vec<_> = tables.iter().map(|k| k.name).collect();
    println!("tables: {}", names.join(" "));
}
