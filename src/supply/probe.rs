//! How fast the experts of a file can be read: what a supply's figures are held against.

use super::slab::{MAX_PARTS, SlabLayout};
use crate::error::Result;
use crate::model::experts::ExpertMap;
use crate::os::slots::{Part, SlotId, Slots, Source, Urgency};
use crate::os::{FileSet, ReadAt};
use crate::rng::Rng;
use crate::units::{ExpertId, LayerId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a probe found.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Bytes read.
    pub bytes: u64,
    /// Experts read.
    pub n_experts: u64,
    /// Time for all of them.
    pub time: Duration,
    /// Time from the demand of an expert to its last byte: median and 99 of 100.
    pub latency: [Duration; 2],
}

/// Reads random experts past the page cache, `queue` at a time with `n_readers` threads, until `bytes` are read.
///
/// Errors: a failed read; memory or threads are refused.
pub fn read_experts(
    files: &FileSet,
    map: &ExpertMap,
    n_readers: usize,
    queue: usize,
    bytes: u64,
) -> Result<Probe> {
    let file = Arc::new(files.direct()?);
    let layouts = SlabLayout::of_layers(map, file.alignment());
    let largest = layouts.iter().map(SlabLayout::len).max().unwrap_or(0);
    let mut slots = Slots::new(Source::File(file), n_readers, queue, queue * MAX_PARTS)?;
    let ids = (0..queue)
        .map(|_| slots.add(largest))
        .collect::<Result<Vec<SlotId>>>()?;
    let mut begun = vec![Instant::now(); queue];
    let mut latencies = Vec::new();
    let mut rng = Rng::new(1);
    let mut demand = |slots: &mut Slots, id: SlotId| {
        let layer = LayerId(rng.below(map.layers.len()));
        let expert = ExpertId(rng.below(map.n_expert) as u32);
        let mut parts = [Part::default(); MAX_PARTS];
        let n = layouts[layer.0].parts(map.extents(layer, expert), 1, &mut parts);
        slots.fill(id, Urgency::Demand, &parts[..n]);
    };
    // Once around first, so that the memory is there when the clock starts.
    for id in &ids {
        demand(&mut slots, *id);
        slots.wait(*id)?;
    }
    let before = slots.totals().n_bytes;
    let start = Instant::now();
    for (id, begun) in ids.iter().zip(&mut begun) {
        *begun = Instant::now();
        demand(&mut slots, *id);
    }
    let mut next = 0;
    loop {
        slots.wait(ids[next])?;
        latencies.push(begun[next].elapsed());
        if slots.totals().n_bytes - before >= bytes {
            break;
        }
        begun[next] = Instant::now();
        demand(&mut slots, ids[next]);
        next = (next + 1) % queue;
    }
    let time = start.elapsed();
    latencies.sort_unstable();
    let at = |part: usize| latencies[(latencies.len() - 1) * part / 100];
    Ok(Probe {
        bytes: slots.totals().n_bytes - before,
        n_experts: latencies.len() as u64,
        time,
        latency: [at(50), at(99)],
    })
}
