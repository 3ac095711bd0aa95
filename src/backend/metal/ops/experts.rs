//! Routed experts, and what surrounds them.

use super::super::args::{CombineArgs, ExpertArgs, SwigluArgs};
use super::super::encode::{Encoder, Grid};
use super::super::kernels::Kernel;
use super::super::{Buffer, Metal};
use super::each;
use super::linear::{
    ROWS, SIMDGROUPS, TILE_ROWS, TILE_THREADS, TILE_TOKENS, check_rows, matvec_shared, tile_shared,
};
use crate::backend::Experts;
use crate::error::{Error, Result};
use crate::quant::{Format, cast};
use crate::units::Phase;

/// Addresses of gate, up and down of one expert on the device.
pub type ExpertSlot = [u64; 3];

/// See [`crate::backend::Experts`]: `slots[i]` is the expert of group `step.which[i]`; `weights` are those of the routes,
/// `[n, n_used]`.
pub fn experts(
    e: &mut Encoder,
    phase: Phase,
    step: Experts<'_, Metal>,
    slots: &[ExpertSlot],
    weights: &Buffer,
) -> Result<()> {
    let (shape, n_used) = (step.shape, step.routes.ids.len() / step.n.max(1));
    let row_bytes = |format: Format, cols: usize| {
        let bytes = format.row_bytes(cols);
        bytes.ok_or_else(|| Error::unsupported(format!("{} rows of {cols}", format.name())))
    };
    let args = |rows: usize, cols: usize, format: Format| {
        Ok::<ExpertArgs, Error>(ExpertArgs {
            n_used: n_used as u32,
            rows: rows as u32,
            cols: cols as u32,
            row_bytes: row_bytes(format, cols)? as u32,
            clamp: shape.clamp,
        })
    };
    if shape.up != shape.gate {
        return Err(Error::unsupported(format!(
            "Metal: gate of {} with up of {}, expected one type for both",
            shape.gate.name(),
            shape.up.name()
        )));
    }
    let gate_up = args(shape.n_ff, shape.n_embd, shape.gate)?;
    let down = args(shape.n_embd, shape.n_ff, shape.down)?;
    for [gate, up, down_at] in slots {
        check_rows(shape.gate, shape.n_embd, *gate)?;
        check_rows(shape.gate, shape.n_embd, *up)?;
        check_rows(shape.down, shape.n_ff, *down_at)?;
    }
    let words: Vec<u32> = slots
        .iter()
        .flatten()
        .flat_map(|a| [*a as u32, (a >> 32) as u32])
        .collect();
    let slots = e.upload(cast::to_bytes(&words))?;
    let (x, hidden, out, weights) = (
        step.x.all(),
        step.hidden.all(),
        step.out.all(),
        weights.all(),
    );
    let groups = || {
        step.which
            .iter()
            .enumerate()
            .map(|(slot, g)| (slot, step.groups.of(*g)))
    };
    match phase {
        Phase::Decode => {
            let mut routes = Vec::new();
            for (slot, some) in groups() {
                some.iter()
                    .for_each(|r| routes.extend([slot as u32, *r as u32]));
            }
            let n_routes = routes.len() / 2;
            let routes = e.upload(cast::to_bytes(&routes))?;
            let (slots, routes) = (slots.bind(), routes.bind());
            let grid = |rows: usize, rows_each: usize, format: Format| Grid {
                groups: [rows.div_ceil(rows_each * SIMDGROUPS), n_routes, 1],
                threads: 32 * SIMDGROUPS,
                shared: matvec_shared(format),
            };
            // Gate and up share the rows of a simdgroup, or of a tile.
            let binds = [slots, routes, weights, x, hidden];
            let kernel = Kernel::ExpertGateUp(shape.gate);
            let some = grid(shape.n_ff, ROWS / 2, shape.gate);
            e.dispatch(kernel, &[], &gate_up, &binds, some)?;
            let binds = [slots, routes, hidden, out];
            let kernel = Kernel::ExpertDown(shape.down);
            let all = grid(shape.n_embd, ROWS, shape.down);
            e.dispatch(kernel, &[], &down, &binds, all)
        }
        Phase::Prefill => {
            let (mut tiles, mut routes) = (Vec::new(), Vec::new());
            for (slot, some) in groups() {
                for tile in some.chunks(TILE_TOKENS) {
                    tiles.extend([slot as u32, routes.len() as u32, tile.len() as u32]);
                    routes.extend(tile.iter().map(|r| *r as u32));
                }
            }
            let n_tiles = tiles.len() / 3;
            let tiles = e.upload(cast::to_bytes(&tiles))?;
            let routes = e.upload(cast::to_bytes(&routes))?;
            let (slots, tiles, routes) = (slots.bind(), tiles.bind(), routes.bind());
            let grid = |rows: usize, rows_each: usize| Grid {
                groups: [rows.div_ceil(rows_each), n_tiles, 1],
                threads: TILE_THREADS,
                shared: tile_shared(),
            };
            let binds = [slots, tiles, routes, weights, x, hidden];
            let kernel = Kernel::ExpertGateUpMany(shape.gate);
            e.dispatch(
                kernel,
                &[],
                &gate_up,
                &binds,
                grid(shape.n_ff, TILE_ROWS / 2),
            )?;
            let binds = [slots, tiles, routes, hidden, out];
            let kernel = Kernel::ExpertDownMany(shape.down);
            e.dispatch(kernel, &[], &down, &binds, grid(shape.n_embd, TILE_ROWS))
        }
    }
}

/// See [`crate::backend::Backend::swiglu`].
pub fn swiglu(e: &mut Encoder, len: usize, clamp: f32, gate: &Buffer, up: &Buffer) -> Result<()> {
    let args = SwigluArgs {
        n: len as u32,
        clamp,
    };
    e.dispatch(
        Kernel::Swiglu,
        &[],
        &args,
        &[up.all(), gate.all()],
        each(len),
    )
}

/// See [`crate::backend::Backend::combine`].
pub fn combine(
    e: &mut Encoder,
    n: usize,
    n_used: usize,
    n_embd: usize,
    routed: &Buffer,
    y: &Buffer,
) -> Result<()> {
    let args = CombineArgs {
        n: n as u32,
        n_used: n_used as u32,
        n_embd: n_embd as u32,
    };
    let binds = [routed.all(), y.all()];
    e.dispatch(Kernel::Combine, &[], &args, &binds, each(n * n_embd))
}
