//! Strategy `full`: the whole model mapped and resident. The twin the other strategies are tested against.

use super::fixed::Fixed;
use super::{ExpertSupply, Opened};
use crate::error::Result;
use crate::model::Model;
use crate::model::experts::{ExpertMap, ExpertRef};
use crate::os::{File, Map, Memory, Slice};
use crate::units::{ExpertId, Extent, LayerId};
use std::sync::Arc;

/// Bytes made resident between two reports of progress.
const STEP: usize = 64 << 20;

struct Full {
    file: Slice,
    map: ExpertMap,
}

/// Maps the file and asks the system to read all of it.
pub fn open(file: &File, model: &Model, progress: &mut dyn FnMut(u64, u64)) -> Result<Opened> {
    let map = Map::new(file)?;
    let len = map.as_slice().len() as u64;
    for offset in (0..len).step_by(STEP) {
        progress(offset, len);
        map.populate(Extent {
            offset,
            len: STEP as u64,
        });
    }
    let memory = Arc::new(Memory::Map(map));
    let file = Slice::new(&memory, Extent { offset: 0, len })?;
    let experts = Box::new(Full {
        file,
        map: model.experts.clone(),
    });
    Ok(Opened {
        fixed: Fixed::whole_file(memory),
        experts,
    })
}

impl ExpertSupply for Full {
    fn acquire(&mut self, _: LayerId, _: &[ExpertId]) -> Result<()> {
        Ok(())
    }

    fn expert(&self, layer: LayerId, expert: ExpertId) -> ExpertRef<'_> {
        let bytes = self.file.bytes();
        let part = |e: Extent| &bytes[e.offset as usize..(e.offset + e.len) as usize];
        let e = self.map.extents(layer, expert);
        ExpertRef {
            gate: part(e.gate),
            up: part(e.up),
            down: part(e.down),
        }
    }
}
