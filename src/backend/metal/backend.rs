//! The operations of the graph, each handed to its kernels.

use super::ops::router::Choosing;
use super::{Buffer, Choice, MIXER, Matrix, Metal, Rows, Scratch, Selection, ops, storage};
use crate::backend::{
    Attend, Backend, Compress, Experts, Heads, HyperHead, HyperNumbers, HyperSite, Product, Route,
    Routes, RowForm, Select, StoreKeys,
};
use crate::error::{Error, Result};
use crate::quant::cast;
use crate::units::{ExpertId, Phase, TokenId};
use std::ops::Range;

impl Backend for Metal {
    const QUEUES: bool = true;

    fn describe(&self) -> String {
        format!("backend metal, {}", self.name)
    }

    fn arithmetic(&self) -> String {
        format!("metal {}", self.name)
    }

    fn pass(&mut self, phase: Phase, _: usize) {
        self.phase = phase;
        self.memory.commit();
    }

    fn wait(&mut self) -> Result<()> {
        self.wait_for_all()
    }

    fn write(&mut self, buffer: &mut Buffer, values: &[f32]) -> Result<()> {
        storage::upload(&mut self.encoder, buffer, cast::to_bytes(values))
    }

    fn host<'a>(&mut self, buffer: &'a Buffer) -> Result<&'a [f32]> {
        self.wait_for_all()?;
        Ok(buffer.values())
    }

    fn copy_rows(&mut self, from: &Rows, to: &mut Rows) -> Result<()> {
        self.copy_all(from, to)
    }

    fn read_rows(&mut self, rows: &Rows, first: usize, bytes: &mut [u8]) -> Result<()> {
        self.wait_for_all()?;
        rows.read(first, bytes);
        Ok(())
    }

    fn write_rows(&mut self, rows: &mut Rows, first: usize, bytes: &[u8]) -> Result<()> {
        self.wait_for_all()?;
        rows.write(first, bytes);
        Ok(())
    }

    fn embed(&mut self, table: &Matrix, tokens: &[TokenId], streams: &mut Buffer) -> Result<()> {
        if let Some(token) = tokens.iter().find(|t| t.0 as usize >= table.rows) {
            return Err(Error::limit("token id", token.0, table.rows - 1));
        }
        ops::linear::embed(&mut self.encoder, table, tokens, streams)
    }

    fn hyper_entry(
        &mut self,
        site: &HyperSite<Metal>,
        numbers: HyperNumbers,
        tokens: Range<usize>,
        streams: &Buffer,
        mix: &mut Buffer,
        x: &mut Buffer,
    ) -> Result<()> {
        self.grow(|s| &mut s.mixer, tokens.len() * MIXER)?;
        let raw = &self.scratch.mixer;
        ops::hyper::hyper_entry(
            &mut self.encoder,
            self.phase,
            site,
            numbers,
            tokens,
            streams,
            raw,
            mix,
            x,
        )
    }

    fn hyper_exit(
        &mut self,
        tokens: Range<usize>,
        n_embd: usize,
        y: &Buffer,
        mix: &Buffer,
        streams: &mut Buffer,
    ) -> Result<()> {
        ops::hyper::hyper_exit(&mut self.encoder, tokens, n_embd, y, mix, streams)
    }

    fn hyper_head(
        &mut self,
        head: &HyperHead<Metal>,
        numbers: HyperNumbers,
        tokens: Range<usize>,
        streams: &Buffer,
        x: &mut Buffer,
    ) -> Result<()> {
        self.grow(|s| &mut s.mixer, tokens.len() * MIXER)?;
        let raw = &self.scratch.mixer;
        ops::hyper::hyper_head(
            &mut self.encoder,
            self.phase,
            head,
            numbers,
            tokens,
            streams,
            raw,
            x,
        )
    }

    fn matmul(&mut self, n: usize, x: &Buffer, products: &mut [Product<'_, Metal>]) -> Result<()> {
        products.iter_mut().try_for_each(|p| {
            ops::linear::matmul(
                &mut self.encoder,
                self.phase,
                n,
                x.all(),
                p.weight,
                p.y.all(),
            )
        })
    }

    fn matmul_grouped(
        &mut self,
        n: usize,
        groups: usize,
        x: &Buffer,
        weight: &Matrix,
        y: &mut Buffer,
    ) -> Result<()> {
        let (x, y) = (x.all(), y.all());
        ops::linear::matmul_grouped(&mut self.encoder, self.phase, (n, groups), x, weight, y)
    }

    fn rms_norm(&mut self, n: usize, x: &mut Buffer, weight: &Buffer, eps: f32) -> Result<()> {
        ops::norms::rms_norm(&mut self.encoder, n, x, weight, eps)
    }

    fn head_norm_rope(
        &mut self,
        n: usize,
        heads: Heads,
        q: &mut Buffer,
        rope: &Buffer,
        eps: f32,
    ) -> Result<()> {
        ops::norms::head_norm_rope(&mut self.encoder, n, heads, q, rope, eps)
    }

    fn store_keys(&mut self, step: StoreKeys<'_, Metal>) -> Result<()> {
        ops::norms::store_keys(&mut self.encoder, step)
    }

    fn commit_keys(
        &mut self,
        n: usize,
        pos: usize,
        window: usize,
        chunk: &Rows,
        ring: &mut Rows,
    ) -> Result<()> {
        ops::norms::commit_keys(&mut self.encoder, n, pos, window, chunk, ring)
    }

    fn index_queries(
        &mut self,
        n: usize,
        heads: Heads,
        q: &mut Buffer,
        rope: &Buffer,
        form: RowForm,
    ) -> Result<()> {
        ops::index::index_queries(&mut self.encoder, n, heads, q, rope, form)
    }

    fn compress(&mut self, step: Compress<'_, Metal>) -> Result<()> {
        ops::compress::compress(&mut self.encoder, step)
    }

    fn select(&mut self, step: Select<'_, Metal>, selection: &mut Selection) -> Result<()> {
        let n_rows = (step.pos + step.n) / step.ratio;
        self.grow(|s| &mut s.scores, ops::index::scores_len(step.n, n_rows))?;
        ops::index::select(&mut self.encoder, step, &self.scratch.scores, selection)
    }

    fn attend(&mut self, step: Attend<'_, Metal>) -> Result<()> {
        let parts = ops::attention::Parts::new(self.phase, &step);
        self.grow(|s| &mut s.parts, parts.values(step.heads))?;
        ops::attention::attend(&mut self.encoder, step, parts, &self.scratch.parts)
    }

    fn route(&mut self, step: Route<'_, Metal>, routes: &mut Routes) -> Result<()> {
        let n_chosen = step.n * step.n_used;
        self.grow(|s| &mut s.ids, n_chosen)?;
        self.grow(|s| &mut s.weights, n_chosen)?;
        let (x, scores) = (step.x.all(), step.scores.all());
        ops::linear::matmul(
            &mut self.encoder,
            self.phase,
            step.n,
            x,
            step.weight,
            scores,
        )?;
        if step.preset {
            let ids: Vec<u32> = routes.ids.iter().map(|id| id.0).collect();
            let bytes = cast::to_bytes(&ids);
            storage::upload(&mut self.encoder, &self.scratch.ids, bytes)?;
        }
        let choosing = Choosing {
            n: step.n,
            n_expert: step.weight.rows,
            n_used: step.n_used,
            scale: step.scale,
            preset: step.preset,
        };
        let Scratch { ids, weights, .. } = &self.scratch;
        let bias = step.bias;
        ops::router::route(&mut self.encoder, choosing, step.scores, bias, ids, weights)?;
        self.choice = Choice {
            ready: self.encoder.flush(),
            n: n_chosen,
            n_expert: step.weight.rows,
            is_preset: step.preset,
        };
        Ok(())
    }

    fn routes(&mut self, routes: &mut Routes) -> Result<()> {
        // What comes after the choice runs while it is waited for.
        self.encoder.flush();
        let Choice {
            ready,
            n,
            n_expert,
            is_preset,
        } = self.choice;
        // Even where the choice is known: what is done by then are also the experts of the layer before, in whose place
        // the supply may put others.
        self.encoder.wait_for(ready)?;
        if is_preset {
            return Ok(());
        }
        routes.ids.clear();
        let ids = self.scratch.ids.values()[..n].iter().map(|id| id.to_bits());
        routes.ids.extend(ids.map(ExpertId));
        // A device that fails without a word must not lead the host astray.
        match routes.ids.iter().find(|id| id.0 as usize >= n_expert) {
            Some(id) => Err(Error::limit("Metal: expert chosen", id.0, n_expert - 1)),
            None => Ok(()),
        }
    }

    fn experts(&mut self, step: Experts<'_, Metal>) -> Result<()> {
        let mut slots = Vec::with_capacity(step.which.len());
        let mut not_resident = Vec::new();
        for &g in step.which {
            let expert = (step.weights)(g);
            let mut address = |bytes: &[u8]| {
                let place = self.memory.place(bytes)?;
                let address = place.address();
                if !place.is_resident {
                    not_resident.push(place.buffer);
                }
                Ok::<u64, Error>(address)
            };
            slots.push([
                address(expert.gate)?,
                address(expert.up)?,
                address(expert.down)?,
            ]);
        }
        self.encoder
            .use_buffers(&not_resident.iter().collect::<Vec<_>>())?;
        let weights = &self.scratch.weights;
        ops::experts::experts(&mut self.encoder, self.phase, step, &slots, weights)
    }

    fn swiglu(&mut self, len: usize, clamp: f32, gate: &mut Buffer, up: &Buffer) -> Result<()> {
        ops::experts::swiglu(&mut self.encoder, len, clamp, gate, up)
    }

    fn combine(
        &mut self,
        n: usize,
        n_used: usize,
        n_embd: usize,
        routed: &Buffer,
        y: &mut Buffer,
    ) -> Result<()> {
        ops::experts::combine(&mut self.encoder, n, n_used, n_embd, routed, y)
    }
}
