//! Random contents of tensors, made as fast as a disk takes them.
//!
//! No weight is quantised. A block of a quantised format is random bytes, with only its scales set so that its
//! weights have mean 0 and the standard deviation asked for; such data does not compress, as that of a real model.
//! Every operation is exact or rounded as IEEE 754 says, so that all machines make the same bytes.

use crate::error::Result;
use crate::gguf::TensorInfo;
use crate::gguf::writer::Sink;
use crate::quant::Format;
use crate::quant::grids::{IQ2_S_EIGHTS, IQ3_XXS_GRID};
use crate::quant::tables::IQ2_XXS_GRID;
use crate::rng::Rng;
use half::{bf16, f16};

/// What stands in a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Content {
    /// Independent numbers, about normal in F32 and F16; in other formats `mean` is 0.
    Random {
        /// Their mean.
        mean: f32,
        /// Their standard deviation.
        sd: f32,
    },
    /// As `Random` with mean 0, but the rows from `zero.0` to below `zero.1` are zero.
    Rows {
        /// Standard deviation of the others.
        sd: f32,
        /// Which rows.
        zero: (u64, u64),
    },
    /// As `Random` with a standard deviation of a fifth of `mean`, but the first half is zero.
    UpperHalf {
        /// Mean of the others.
        mean: f32,
    },
    /// A number for each expert: `-slope ln(rank)`, the ranks in random order.
    Popularity {
        /// How fast popularity falls.
        slope: f32,
    },
    /// A row of different experts for each token; the expert of rank r is drawn with a weight of about
    /// `1 / r^exponent`, the ranks in random order.
    Table {
        /// How fast popularity falls.
        exponent: f64,
        /// Experts to draw from.
        n_expert: usize,
    },
}

/// Bytes made at a time: large enough for the disk, small enough for a cache.
const CHUNK: usize = 1 << 20;

/// Writes the whole tensor. The bytes depend on `seed`, the tensor's name, shape and format only.
///
/// `written` is told the bytes of each piece. Errors: those of `out` and `written`.
pub fn fill(
    content: Content,
    info: &TensorInfo,
    seed: u64,
    out: &mut Sink,
    written: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<()> {
    let rng = &mut tensor_rng(seed, &info.name);
    let mut put = |bytes: &[u8]| {
        out.put(bytes)?;
        written(bytes.len())
    };
    let len = info.extent.len as usize; // declared by this program: it fits the machine it is written for
    let row_bytes = info.format.row_bytes(info.dims[0] as usize).unwrap_or(0);
    match content {
        Content::Random { mean, sd } => random(info.format, len, mean, sd, rng, &mut put),
        Content::Rows { sd, zero } => {
            let [begin, end] = [zero.0, zero.1].map(|row| row as usize * row_bytes);
            random(info.format, begin, 0.0, sd, rng, &mut put)?;
            put(&vec![0; end - begin])?;
            random(info.format, len - end, 0.0, sd, rng, &mut put)
        }
        Content::UpperHalf { mean } => {
            put(&vec![0; len / 2])?;
            random(info.format, len - len / 2, mean, 0.2 * mean, rng, &mut put)
        }
        Content::Popularity { slope } => {
            let ranks = shuffled(info.dims[0] as usize, rng);
            let logs = logarithms(ranks.len());
            let bytes: Vec<u8> = ranks
                .iter()
                .flat_map(|r| (-slope * logs[*r]).to_le_bytes())
                .collect();
            put(&bytes)
        }
        Content::Table { exponent, n_expert } => {
            let (n_used, n_rows) = (info.dims[0] as usize, info.dims[1] as usize);
            put(&table(n_rows, n_used, n_expert, exponent, rng))
        }
    }
}

/// A generator of its own for each tensor, so that its bytes do not depend on what else is in the file.
fn tensor_rng(seed: u64, name: &str) -> Rng {
    // FNV-1a of the name; then the finaliser of SplitMix64, since the generator starts slowly from similar seeds.
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325, |h: u64, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3)
    });
    let mut z = hash ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    Rng::new(z ^ (z >> 31))
}

/// `len` bytes of random weights.
fn random(
    format: Format,
    len: usize,
    mean: f32,
    sd: f32,
    rng: &mut Rng,
    put: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let block = format.block_bytes();
    let mut buf = vec![0; (CHUNK / block * block).min(len)];
    let mut left = len;
    while left > 0 {
        let piece = buf.len().min(left);
        let bytes = &mut buf[..piece];
        match format {
            Format::F32 => numbers(bytes, rng, |x| (mean + sd * x).to_le_bytes()),
            Format::F16 => numbers(bytes, rng, |x| f16::from_f32(mean + sd * x).to_le_bytes()),
            Format::Bf16 => numbers(bytes, rng, |x| bf16::from_f32(mean + sd * x).to_le_bytes()),
            _ => blocks(format, sd, bytes, rng),
        }
        put(bytes)?;
        left -= piece;
    }
    Ok(())
}

/// One number of about normal distribution, mean 0 and standard deviation 1, for each `N` bytes.
fn numbers<const N: usize>(out: &mut [u8], rng: &mut Rng, to_bytes: impl Fn(f32) -> [u8; N]) {
    // The sum of four whole numbers below 2^16: its mean, and its standard deviation 2 sqrt((2^32 - 1) / 12).
    const MEAN: i64 = 2 * 65_535;
    const SD: f32 = 37_837.23;
    for out in out.as_chunks_mut().0 {
        let bits = rng.next_u64();
        let sum: u64 = (0..4).map(|i| bits >> (16 * i) & 0xFFFF).sum();
        *out = to_bytes((sum as i64 - MEAN) as f32 / SD);
    }
}

/// Whole blocks of random bytes with the scales that give their weights mean 0 and standard deviation `sd`.
fn blocks(format: Format, sd: f32, out: &mut [u8], rng: &mut Rng) {
    for out in out.chunks_mut(8) {
        out.copy_from_slice(&rng.next_u64().to_le_bytes()[..out.len()]);
    }
    if format == Format::Mxfp4 {
        return mxfp4(sd, out);
    }
    // With d = 1, from the formula of each format (quant::blocks) for quants that are all equally likely:
    // mean of the squares of the weights, and the minimum's scale that makes their mean 0.
    let (square, min) = match format {
        Format::Q8_0 => (5397.5, 0.0), // q = -127..=127, see below
        // scale, min = 0..=63, q = 0..=15; scale * q - 7.5 * min
        Format::Q4K => (66_727.5, 7.5),
        // scale, min = 0..=15, q = 0..=3; scale * q - 1.5 * min
        Format::Q2K => (192.5, 1.5),
        // scale, min = 0..=63, q = 0..=31; scale * q - 15.5 * min
        Format::Q5K => (277_651.5, 15.5),
        // scale = -128..=127, q = 0..=63; scale * (q - 32)
        Format::Q6K => (5461.5 * 341.5, 0.0),
        // (2 s + 1) / 8 * grid, s = 0..=15: the mean square of the first is 341 / 64
        Format::Iq2Xxs => (341.0 / 64.0 * mean_square(IQ2_XXS_GRID.as_flattened()), 0.0),
        Format::Iq2S => (
            341.0 / 64.0 * mean_square(IQ2_S_EIGHTS.points.as_flattened()),
            0.0,
        ),
        // the same with (2 s + 1) / 4
        Format::Iq3Xxs => (341.0 / 16.0 * mean_square(IQ3_XXS_GRID.as_flattened()), 0.0),
        other => panic!("no shape has blocks of {}", other.name()),
    };
    let d = sd / f32::sqrt(square);
    let (d, dmin) = (
        f16::from_f32(d).to_le_bytes(),
        f16::from_f32(d * min).to_le_bytes(),
    );
    for block in out.chunks_exact_mut(format.block_bytes()) {
        match format {
            Format::Q2K => {
                block[80..82].copy_from_slice(&d);
                block[82..84].copy_from_slice(&dmin);
            }
            Format::Q4K | Format::Q5K => {
                block[..2].copy_from_slice(&d);
                block[2..4].copy_from_slice(&dmin);
            }
            Format::Q6K => block[208..].copy_from_slice(&d),
            Format::Q8_0 => {
                block[..2].copy_from_slice(&d);
                // No quantiser makes -128; as 0 it leaves the mean at 0.
                for q in block[2..].iter_mut().filter(|q| **q == 0x80) {
                    *q = 0;
                }
            }
            _ => block[..2].copy_from_slice(&d),
        }
    }
}

/// The mean square of the magnitudes in a grid.
fn mean_square(grid: &[u8]) -> f32 {
    let sum: u32 = grid.iter().map(|m| u32::from(*m).pow(2)).sum();
    sum as f32 / grid.len() as f32
}

/// Sets the scales of random blocks. They are powers of two, so of two neighbours each has its share.
fn mxfp4(sd: f32, out: &mut [u8]) {
    // The mean square of 0, 0.5, 1, 1.5, 2, 3, 4, 6, with signs.
    let square = sd * sd / 8.5625;
    let (mut exponent, mut four) = (131_u8, 256.0); // 4^(exponent - 127), more than weights need
    while four > square {
        (exponent, four) = (exponent - 1, four / 4.0);
    }
    // Of the blocks with twice the scale: square = (1 - share) four + share 4 four.
    let share = (square / four - 1.0) / 3.0;
    for block in out.chunks_exact_mut(Format::Mxfp4.block_bytes()) {
        let doubled = f32::from(block[0]) < 256.0 * share;
        block[0] = exponent + u8::from(doubled);
    }
}

/// The numbers 0 to `n - 1` in random order.
fn shuffled(n: usize, rng: &mut Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, rng.below(i + 1));
    }
    order
}

/// The natural logarithms of 1 to `n`, to within 0.05: the integral of 1/x by the midpoint rule, since a
/// library's logarithm may differ in its last bit from machine to machine.
fn logarithms(n: usize) -> Vec<f32> {
    let mut sum = 0.0;
    (1..=n)
        .map(|rank| {
            let log = sum;
            sum += 1.0 / (rank as f32 + 0.5);
            log
        })
        .collect()
}

/// `n_rows` rows of `n_used` different experts as 32-bit numbers.
fn table(n_rows: usize, n_used: usize, n_expert: usize, exponent: f64, rng: &mut Rng) -> Vec<u8> {
    let order = shuffled(n_expert, rng);
    // The sums of the weights up to each rank. (r + 1)^-e / r^-e = (r + (1 - e) / 2) / (r + (1 + e) / 2), nearly.
    let (mut weight, mut sum) = (1.0, 0.0);
    let sums: Vec<f64> = (1..=n_expert)
        .map(|rank| {
            sum += weight;
            weight *=
                (rank as f64 + (1.0 - exponent) / 2.0) / (rank as f64 + (1.0 + exponent) / 2.0);
            sum
        })
        .collect();
    let mut bytes = Vec::with_capacity(n_rows * n_used * 4);
    let mut row: Vec<usize> = Vec::with_capacity(n_used);
    for _ in 0..n_rows {
        row.clear();
        while row.len() < n_used {
            let at = f64::from(rng.uniform()) * sum;
            let rank = sums.partition_point(|s| *s <= at).min(n_expert - 1);
            // A rank drawn again is drawn anew. The last places of a row that needs nearly all experts would
            // take long: then the next rank that is free is taken.
            let free = |rank: &usize| !row.contains(rank);
            let wanted = if 2 * n_used <= n_expert {
                Some(rank).filter(free)
            } else {
                (rank..n_expert).chain(0..rank).find(free)
            };
            row.extend(wanted);
        }
        bytes.extend(
            row.iter()
                .flat_map(|rank| (order[*rank] as i32).to_le_bytes()),
        );
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::blocks::dequantize_row;

    /// Bytes of a tensor of this content.
    fn made(content: Content, dims: &[u64], format: Format, seed: u64) -> Vec<u8> {
        use crate::gguf::writer::Writer;
        let mut writer = Writer::new();
        writer.tensor("t", dims, format).unwrap();
        let mut out = Vec::new();
        writer
            .write(&mut out, |info, sink| {
                fill(content, info, seed, sink, &mut |_| Ok(()))
            })
            .unwrap();
        let len = dims[1..].iter().product::<u64>() as usize
            * format.row_bytes(dims[0] as usize).unwrap();
        let start = writer.header().len();
        out[start..start + len].to_vec()
    }

    /// Computed with Python's integers from the published constants of FNV-1a, SplitMix64 and xorshift64*.
    #[test]
    fn generators_start_as_in_another_language() {
        let first = |seed, name| tensor_rng(seed, name).next_u64();
        assert_eq!(first(1, "token_embd.weight"), 0xE857_AB9D_2CAB_EDFC);
        assert_eq!(first(2, "token_embd.weight"), 0x60CB_3D1E_ECA7_2851);
        assert_eq!(first(1, "output.weight"), 0xC121_5D1B_130A_B069);
    }

    #[test]
    fn weights_have_the_mean_and_deviation_asked_for() {
        let n = 1 << 20;
        for format in [
            Format::F32,
            Format::F16,
            Format::Bf16,
            Format::Q8_0,
            Format::Q4K,
            Format::Q5K,
            Format::Q6K,
            Format::Q2K,
            Format::Iq2Xxs,
            Format::Iq2S,
            Format::Iq3Xxs,
            Format::Mxfp4,
        ] {
            let sd = 1.0 / 64.0;
            let bytes = made(
                Content::Random { mean: 0.0, sd },
                &[4096, n / 4096],
                format,
                3,
            );
            let mut x = vec![0.0; n as usize];
            dequantize_row(format, &bytes, &mut x);
            let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
            let square = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n as f64;
            // A hundred times the statistical error of the mean would still be small beside `sd`.
            assert!(
                mean.abs() < 0.01 * f64::from(sd),
                "{}: {mean}",
                format.name()
            );
            let found = square.sqrt() / f64::from(sd);
            assert!((0.98..1.02).contains(&found), "{}: {found}", format.name());
        }
    }

    #[test]
    fn zero_parts_are_zero_and_the_others_are_not() {
        let zero = (1, 3);
        let bytes = made(Content::Rows { sd: 1.0, zero }, &[64, 5], Format::Q8_0, 1);
        for (i, row) in bytes.chunks(68).enumerate() {
            assert_eq!(row.iter().all(|b| *b == 0), i == 1 || i == 2, "row {i}");
        }
        let bytes = made(Content::UpperHalf { mean: 1.0 }, &[8, 1], Format::F32, 1);
        for (i, number) in bytes.chunks(4).enumerate() {
            assert_eq!(number == [0; 4], i < 4, "element {i}");
        }
    }

    #[test]
    fn popularity_falls_as_the_logarithm_of_the_rank() {
        let bytes = made(
            Content::Popularity { slope: 2.0 },
            &[256, 1],
            Format::F32,
            5,
        );
        let mut found: Vec<f32> = bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        assert!(!found.is_sorted_by(|a, b| a > b), "the order is random");
        found.sort_by(|a, b| b.total_cmp(a));
        for (i, bias) in found.iter().enumerate() {
            let expected = -2.0 * ((i + 1) as f32).ln();
            assert!((bias - expected).abs() < 0.1, "rank {}: {bias}", i + 1);
        }
    }

    #[test]
    fn tables_hold_different_experts_and_the_popular_ones_more_often() {
        for (n_used, n_expert) in [(6, 64), (6, 6), (3, 8)] {
            let content = Content::Table {
                exponent: 0.66,
                n_expert,
            };
            let bytes = made(content, &[n_used as u64, 4000], Format::I32, 1);
            let mut count = vec![0; n_expert];
            let ids: Vec<usize> = bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| i32::from_le_bytes(*b) as usize)
                .collect();
            for row in ids.chunks(n_used) {
                for (i, id) in row.iter().enumerate() {
                    assert!(!row[..i].contains(id), "{row:?}");
                    count[*id] += 1;
                }
            }
            count.sort_unstable();
            if n_expert == 64 {
                // 64^0.66 = 15.6, less what drawing without repetition takes from the top.
                let ratio = f64::from(count[63]) / f64::from(count[0]);
                assert!((8.0..16.0).contains(&ratio), "{ratio}");
            }
        }
    }
}
