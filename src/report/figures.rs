//! What follows from a row: speeds, latencies, what was said in all.

use super::record::{Fields, Record};
use super::row::{Row, Series};
use crate::error::Result;

/// What follows from a row. Speeds are in thousandths of a token a second, so that they are whole numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Of the prompt.
    pub prefill_millitokens_per_s: u64,
    /// Of what was decoded.
    pub decode_millitokens_per_s: u64,
    /// From the first token of the prompt to the first of the answer, weights loaded.
    pub first_token_ns: u64,
    /// The median of the decoded tokens.
    pub p50_ns: u64,
    /// 95 of 100 took no longer.
    pub p95_ns: u64,
    /// 99 of 100 took no longer.
    pub p99_ns: u64,
    /// Bytes a second from storage, loading included.
    pub disk_bytes_per_s: Option<u64>,
    /// The most between two looks of the series.
    pub disk_bytes_per_s_max: Option<u64>,
    /// What was said beforehand, all together.
    pub said_bytes: u64,
}

impl Record for Figures {
    fn fields(&mut self, io: &mut Fields<'_>) -> Result<()> {
        io.field(
            "prefill_millitokens_per_s",
            &mut self.prefill_millitokens_per_s,
        )?;
        io.field(
            "decode_millitokens_per_s",
            &mut self.decode_millitokens_per_s,
        )?;
        io.field("first_token_ns", &mut self.first_token_ns)?;
        io.field("p50_ns", &mut self.p50_ns)?;
        io.field("p95_ns", &mut self.p95_ns)?;
        io.field("p99_ns", &mut self.p99_ns)?;
        io.field("disk_bytes_per_s", &mut self.disk_bytes_per_s)?;
        io.field("disk_bytes_per_s_max", &mut self.disk_bytes_per_s_max)?;
        io.field("said_bytes", &mut self.said_bytes)
    }
}

/// Thousandths of `n` things a second; 0 in no time.
fn per_second(n: u64, ns: u64) -> u64 {
    let per_second = u128::from(n) * 1_000_000_000_000 / u128::from(ns.max(1));
    if ns == 0 {
        0
    } else {
        u64::try_from(per_second).unwrap_or(u64::MAX)
    }
}

/// The value that `percent` of 100 do not exceed (nearest rank); 0 of nothing.
fn percentile(values: &[u64], percent: usize) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

impl Row {
    /// What follows from it.
    pub fn figures(&self) -> Figures {
        let tokens = &self.times.token_ns;
        let decode_ns = self.decode_ns();
        let end_ms = self.event("end").filter(|end| *end > 0);
        let disk = self.system.storage_read_bytes.zip(end_ms);
        let speeds = disk_mib_per_s(&self.series);
        let most = speeds.iter().map(|(_, speed)| *speed).reduce(f64::max);
        Figures {
            prefill_millitokens_per_s: per_second(self.n_prompt, self.times.prefill_ns),
            decode_millitokens_per_s: per_second(tokens.len() as u64, decode_ns),
            first_token_ns: self.times.prefill_ns,
            p50_ns: percentile(tokens, 50),
            p95_ns: percentile(tokens, 95),
            p99_ns: percentile(tokens, 99),
            disk_bytes_per_s: disk.map(|(bytes, ms)| bytes.saturating_mul(1000) / ms),
            disk_bytes_per_s_max: most.map(|mib| (mib * 1024.0 * 1024.0) as u64),
            said_bytes: self
                .ledger
                .iter()
                .fold(0, |sum, u| sum.saturating_add(u.bytes)),
        }
    }

    /// Nanoseconds of all decoded tokens.
    pub fn decode_ns(&self) -> u64 {
        let tokens = self.times.token_ns.iter();
        tokens.fold(0, |sum: u64, ns| sum.saturating_add(*ns))
    }
}

/// MiB a second that storage gave to the process between two looks, and when the second one was, in milliseconds.
pub fn disk_mib_per_s(series: &Series) -> Vec<(u64, f64)> {
    let looks: Vec<(u64, u64)> = std::iter::zip(&series.at_ms, &series.read_mib)
        .map(|(at, read)| (*at, *read))
        .collect();
    let pairs = looks.windows(2).filter(|pair| pair[1].0 > pair[0].0);
    pairs
        .map(|pair| {
            let (ms, mib) = (pair[1].0 - pair[0].0, pair[1].1.saturating_sub(pair[0].1));
            (pair[1].0, mib as f64 * 1000.0 / ms as f64)
        })
        .collect()
}
