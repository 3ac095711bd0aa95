//! Where the three matrices of an expert lie in a slab, and which reads bring them there.
//!
//! ```text
//! file   ....|=== gate ===|......  |=== up ===|....      |=== down ===|....
//!         [window         ]       [window     ]         [window       ]       whole pages
//! slab   [ gate window    | up window    | down window    ]
//! ```
//!
//! A window goes to the slab as it is, so the matrix begins at the same place within its first page as in the
//! file: nothing is copied, and a file whose tensors begin at pages has no bytes around its matrices.

use crate::model::experts::{ExpertExtents, ExpertMap, ExpertRef};
use crate::os::slots::Part;
use crate::units::{ExpertId, Extent, LayerId};

/// Parts that one matrix is split into at most.
const MAX_SPLIT: usize = 4;

/// Parts of one slab at most.
pub const MAX_PARTS: usize = 3 * MAX_SPLIT;

/// Splitting below this costs more in calls than it brings in parallel work.
const MIN_PART: usize = 128 << 10;

/// The slabs of one layer.
#[derive(Clone, Copy, Debug)]
pub struct SlabLayout {
    alignment: usize,
    /// Where the window of gate, up and down begins; the last entry is the length of the slab.
    at: [usize; 4],
}

impl SlabLayout {
    /// For the experts of `layer` in a file whose reads are multiples of `alignment`.
    pub fn new(map: &ExpertMap, layer: LayerId, alignment: usize) -> SlabLayout {
        let mut widest = [0; 3];
        for e in 0..map.n_expert {
            let extents = matrices(map.extents(layer, ExpertId(e as u32)));
            for (widest, extent) in widest.iter_mut().zip(extents) {
                *widest = (*widest).max(Window::new(extent, alignment).len);
            }
        }
        let mut at = [0; 4];
        for (i, len) in widest.into_iter().enumerate() {
            at[i + 1] = at[i] + len;
        }
        SlabLayout { alignment, at }
    }

    /// For every layer. Experts of one size get slabs of one size, so that the slab of one serves another wherever
    /// in their pages they begin.
    pub fn of_layers(map: &ExpertMap, alignment: usize) -> Vec<SlabLayout> {
        let layers = || (0..map.layers.len()).map(LayerId);
        let mut layouts: Vec<SlabLayout> = layers()
            .map(|l| SlabLayout::new(map, l, alignment))
            .collect();
        for l in layers() {
            let equal = layers().filter(|k| map.slab_len(*k) == map.slab_len(l));
            layouts[l.0].at[3] = equal.map(|k| layouts[k.0].len()).max().unwrap_or(0);
        }
        layouts
    }

    /// Bytes of a slab.
    pub fn len(&self) -> usize {
        self.at[3]
    }

    /// Writes the reads of an expert to `parts`, each matrix in up to `split`, and gives their number.
    pub fn parts(
        &self,
        extents: ExpertExtents,
        split: usize,
        parts: &mut [Part; MAX_PARTS],
    ) -> usize {
        let mut n = 0;
        for (extent, start) in matrices(extents).into_iter().zip(self.at) {
            let window = Window::new(extent, self.alignment);
            let need = window.phase + extent.len as usize;
            let split = split.min(window.len / MIN_PART).clamp(1, MAX_SPLIT);
            let step = window.len.div_ceil(split).next_multiple_of(self.alignment);
            for at in (0..window.len).step_by(step) {
                let len = step.min(window.len - at);
                parts[n] = Part {
                    offset: window.offset + at as u64,
                    at: start + at,
                    len,
                    need: len.min(need - at),
                };
                n += 1;
            }
        }
        n
    }

    /// The matrices of an expert whose reads have come.
    pub fn view<'a>(&self, extents: ExpertExtents, slab: &'a [u8]) -> ExpertRef<'a> {
        let part = |i: usize, extent: Extent| {
            let start = self.at[i] + Window::new(extent, self.alignment).phase;
            &slab[start..start + extent.len as usize]
        };
        ExpertRef {
            gate: part(0, extents.gate),
            up: part(1, extents.up),
            down: part(2, extents.down),
        }
    }
}

fn matrices(e: ExpertExtents) -> [Extent; 3] {
    [e.gate, e.up, e.down]
}

/// The whole units of `alignment` bytes around an extent.
struct Window {
    offset: u64,
    /// Bytes before the extent.
    phase: usize,
    len: usize,
}

impl Window {
    fn new(extent: Extent, alignment: usize) -> Window {
        let phase = (extent.offset % alignment as u64) as usize;
        Window {
            offset: extent.offset - phase as u64,
            phase,
            len: (phase + extent.len as usize).next_multiple_of(alignment),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::experts::{ExpertTensor, LayerExperts};
    use crate::quant::Format;

    fn map(offset: u64, slice_bytes: u64) -> ExpertMap {
        let tensor = |i: u64| ExpertTensor {
            name: String::new(),
            format: Format::Q8_0,
            rows: 1,
            cols: 1,
            extent: Extent {
                offset: offset + i * 8 * slice_bytes,
                len: 8 * slice_bytes,
            },
            slice_bytes,
        };
        let layer = LayerExperts {
            gate: tensor(0),
            up: tensor(1),
            down: tensor(2),
        };
        ExpertMap {
            n_expert: 8,
            layers: vec![layer],
        }
    }

    /// Every byte of the matrices is read to where the view looks for it, in aligned reads, whatever the phase.
    #[test]
    fn views_show_what_the_parts_bring() {
        for alignment in [1, 512, 4096] {
            for offset in [0, 1, 31, 4095, 16_383, 8192] {
                for slice in [100, 4096, 700_001] {
                    let map = map(offset, slice);
                    let layout = SlabLayout::new(&map, LayerId(0), alignment);
                    for (e, split) in [(0, 1), (3, 2), (7, 4)] {
                        let extents = map.extents(LayerId(0), ExpertId(e));
                        let mut parts = [Part {
                            offset: 0,
                            at: 0,
                            len: 0,
                            need: 0,
                        }; MAX_PARTS];
                        let n = layout.parts(extents, split, &mut parts);
                        let mut slab = vec![0xee; layout.len()];
                        for p in &parts[..n] {
                            assert!(
                                p.offset % alignment as u64 == 0
                                    && p.at % alignment == 0
                                    && p.len % alignment == 0
                            );
                            // The file's byte at offset o is o modulo 251.
                            for i in 0..p.need {
                                slab[p.at + i] = ((p.offset + i as u64) % 251) as u8;
                            }
                        }
                        let view = layout.view(extents, &slab);
                        for (bytes, extent) in [view.gate, view.up, view.down]
                            .into_iter()
                            .zip(matrices(extents))
                        {
                            assert_eq!(bytes.len() as u64, extent.len);
                            let right = |(i, b): (usize, &u8)| {
                                *b == ((extent.offset + i as u64) % 251) as u8
                            };
                            assert!(
                                bytes.iter().enumerate().all(right),
                                "alignment {alignment}, offset {offset}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn aligned_experts_have_no_bytes_around_them() {
        let layout = SlabLayout::new(&map(4096, 2_162_688), LayerId(0), 4096);
        assert_eq!(layout.len(), 3 * 2_162_688);
    }

    #[test]
    fn experts_of_one_size_share_slabs_wherever_they_begin() {
        let mut map = map(0, 4096);
        // Whole pages, then one page more for each matrix, then experts of another size.
        map.layers.extend(self::map(31, 4096).layers);
        map.layers.extend(self::map(0, 8192).layers);
        let lens = |alignment| {
            let layouts = SlabLayout::of_layers(&map, alignment);
            layouts.iter().map(SlabLayout::len).collect::<Vec<_>>()
        };
        assert_eq!(lens(4096), [3 * 8192; 3]);
        assert_eq!(lens(1), [3 * 4096, 3 * 4096, 3 * 8192]);
    }
}
