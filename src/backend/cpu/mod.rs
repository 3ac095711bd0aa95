//! The CPU backend: plain memory, a thread pool, and a table of kernels chosen at start.

use crate::backend::profile::{Cost, Profile, Stage};
use crate::backend::{
    Attend, Backend, Compress, Experts, HC, Heads, HyperHead, HyperNumbers, HyperSite, Product,
    Route, Routes, RowForm, Select, Storage, StoreKeys,
};
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::options::KernelChoice;
use crate::os::Slice;
use crate::quant::wide::Act512;
use crate::quant::{Format, blocks};
use crate::units::{Phase, TokenId};
use dispatch::{FormatKernel, Kernels};
use pool::Pool;
use std::ops::Range;
use std::time::Instant;

mod attention;
mod compress;
pub mod dispatch;
mod hyper;
mod kv_rows;
mod linear;
mod moe;
pub mod pool;
mod rows;
pub mod scalar;
mod table;
mod unpack;
pub mod wide;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

/// Dot product of two f32 vectors of one length.
type Dot = fn(&[f32], &[f32]) -> f32;

/// The CPU as a [`Backend`].
pub struct Cpu {
    kernels: Kernels,
    pool: Pool,
    prepared: linear::Prepared,
    /// Scratch of each compute thread.
    threads: Vec<Thread>,
    /// Mixer outputs of a chunk.
    mixer_out: Vec<f32>,
    /// Pooled rows of a chunk.
    pooled: Vec<f32>,
    /// Where the time goes, if somebody wants to know.
    profile: Option<Profile>,
}

/// Scratch of one compute thread.
#[derive(Default)]
struct Thread {
    /// Keys in f32.
    keys: Vec<f32>,
    /// Running maximum and sum of each head.
    max: Vec<f32>,
    sum: Vec<f32>,
    /// Indexer scores and their order.
    scores: Vec<f32>,
    order: Vec<u32>,
    /// One row.
    row: Vec<f32>,
}

/// A weight matrix in its stored format, `[rows, cols]`.
pub struct Matrix {
    format: Format,
    kernel: FormatKernel,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    data: Slice,
}

impl Matrix {
    /// The bytes of some rows.
    fn row_range(&self, rows: Range<usize>) -> &[u8] {
        &self.data.bytes()[rows.start * self.row_bytes..rows.end * self.row_bytes]
    }
}

impl Cpu {
    /// A backend with `n_threads` compute threads.
    ///
    /// Errors: the CPU lacks what `kernels` needs, or the system refuses a thread.
    pub fn new(kernels: KernelChoice, n_threads: usize) -> Result<Cpu> {
        Ok(Cpu {
            kernels: dispatch::select(kernels)?,
            pool: Pool::new(n_threads)?,
            prepared: linear::Prepared::default(),
            threads: (0..n_threads).map(|_| Thread::default()).collect(),
            mixer_out: Vec::new(),
            pooled: Vec::new(),
            profile: None,
        })
    }

    /// Jobs that the threads shared so far; each ends with a barrier.
    pub fn n_jobs(&self) -> u64 {
        self.pool.n_jobs()
    }

    /// Notes the cost of a product, if a profile is kept.
    fn count(&mut self, cost: impl FnOnce() -> Cost) {
        if let Some(profile) = &mut self.profile {
            profile.count(cost());
        }
    }

    /// Bytes of scratch at most, beside the graph's buffers, for chunks of `chunk` tokens in a context of `ctx`.
    pub fn scratch_bytes(c: &Config, n_threads: usize, chunk: usize, ctx: usize) -> u64 {
        // The widest rows that products read, as blocks of any kind.
        let inputs = [
            HC * c.n_embd,
            c.n_lora_q,
            c.q_width(),
            c.n_group_o * c.n_lora_o,
            c.n_expert_used * c.n_ff_expert,
        ];
        let widest = inputs.into_iter().max().unwrap_or(0);
        // The other forms of activations take less than this one; rows of experts, and of groups, are rounded up one by
        // one.
        let rounded = c.n_expert_used.max(c.n_group_o);
        let prepared = chunk * (widest.div_ceil(512) + rounded) * size_of::<Act512>();
        let mixed = chunk * (2 * HC + HC * HC) * 4;
        let pooled = (chunk / 4 + 1) * c.head_dim * 4;
        let rows = (ctx / 4).next_multiple_of(attention::KEY_TILE);
        let thread = attention::KEY_TILE * c.head_dim * 4 + 8 * rows + 8 * c.head_dim;
        (prepared + mixed + pooled + n_threads * thread) as u64
    }

    fn kernel(&self, format: Format) -> Result<FormatKernel> {
        let none = || Error::unsupported(format!("{} holds no weights", format.name()));
        self.kernels.weight(format).ok_or_else(none)
    }

    #[cfg(test)]
    fn for_tests() -> Cpu {
        Cpu::new(KernelChoice::Scalar, 2).unwrap()
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `1 / sqrt(mean(x^2) + eps)`
fn norm_scale(dot: Dot, x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

fn rms_norm_row(dot: Dot, x: &mut [f32], weight: &[f32], eps: f32) {
    let norm = norm_scale(dot, x, eps);
    x.iter_mut()
        .zip(weight)
        .for_each(|(v, w)| *v = *v * norm * w);
}

/// `len` values of a type's default, or an error when memory is refused.
fn zeroed<T: Clone + Default>(len: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    reserve(&mut values, len)?;
    values.resize(len, T::default());
    Ok(values)
}

/// Room for `len` values in all, or an error when memory is refused.
fn reserve<T>(values: &mut Vec<T>, len: usize) -> Result<()> {
    values
        .try_reserve_exact(len.saturating_sub(values.len()))
        .map_err(|_| Error::limit("memory: values of a buffer", len, "what the system gives"))
}

impl Storage for Cpu {
    type Buffer = Vec<f32>;
    type Matrix = Matrix;
    type Rows = kv_rows::Rows;
    type Selection = attention::Selection;

    fn buffer(&mut self, len: usize) -> Result<Vec<f32>> {
        zeroed(len)
    }

    fn matrix(&mut self, format: Format, rows: usize, cols: usize, data: Slice) -> Result<Matrix> {
        let row_bytes = format
            .row_bytes(cols)
            .filter(|b| b.checked_mul(rows) == Some(data.bytes().len()));
        let row_bytes = row_bytes.ok_or_else(|| {
            Error::format(format!(
                "matrix [{rows}, {cols}] of {} in {} bytes",
                format.name(),
                data.bytes().len()
            ))
        })?;
        let kernel = self.kernel(format)?;
        Ok(Matrix {
            format,
            kernel,
            rows,
            cols,
            row_bytes,
            data,
        })
    }

    fn rows(&mut self, form: RowForm, dim: usize, capacity: usize) -> Result<kv_rows::Rows> {
        // An indexer scores all rows of a store: made here, so that no token has to. Memory that no
        // context has grown into is never touched.
        for thread in &mut self.threads {
            reserve(
                &mut thread.scores,
                capacity.next_multiple_of(attention::KEY_TILE),
            )?;
            reserve(&mut thread.order, capacity)?;
        }
        kv_rows::Rows::new(form, dim, capacity)
    }

    fn reserve(&mut self, rows: &mut kv_rows::Rows, n: usize) -> Result<()> {
        rows.reserve(n)
    }

    fn selection(&mut self, n: usize, top_k: usize) -> Result<attention::Selection> {
        attention::Selection::new(n, top_k)
    }
}

impl Backend for Cpu {
    fn describe(&self) -> String {
        format!(
            "backend cpu, kernels {}, threads {}",
            self.kernels.name,
            self.pool.n_threads()
        )
    }

    fn arithmetic(&self) -> String {
        format!("cpu {}", self.kernels.name)
    }

    fn start_profile(&mut self) {
        self.profile = Some(Profile::new(Instant::now()));
    }

    fn profile(&mut self) -> Option<&Profile> {
        let profile = self.profile.as_mut()?;
        profile.settle(Instant::now());
        Some(profile)
    }

    fn pass(&mut self, phase: Phase, n_tokens: usize) {
        if let Some(profile) = &mut self.profile {
            profile.pass(phase, n_tokens, Instant::now());
        }
    }

    fn stage(&mut self, stage: Stage) {
        if let Some(profile) = &mut self.profile {
            profile.enter(stage, Instant::now());
        }
    }

    fn write(&mut self, buffer: &mut Vec<f32>, values: &[f32]) -> Result<()> {
        buffer[..values.len()].copy_from_slice(values);
        Ok(())
    }

    fn host<'a>(&mut self, buffer: &'a Vec<f32>) -> Result<&'a [f32]> {
        Ok(buffer)
    }

    fn copy_rows(&mut self, from: &kv_rows::Rows, to: &mut kv_rows::Rows) -> Result<()> {
        to.copy_all(from)
    }

    fn read_rows(&mut self, rows: &kv_rows::Rows, first: usize, bytes: &mut [u8]) -> Result<()> {
        rows.read(first, bytes);
        Ok(())
    }

    fn write_rows(&mut self, rows: &mut kv_rows::Rows, first: usize, bytes: &[u8]) -> Result<()> {
        rows.write(first, bytes);
        Ok(())
    }

    fn embed(&mut self, table: &Matrix, tokens: &[TokenId], streams: &mut Vec<f32>) -> Result<()> {
        let n_embd = table.cols;
        self.count(|| Cost::rows(tokens.len(), table.row_bytes));
        for (token, streams) in tokens.iter().zip(streams.chunks_exact_mut(HC * n_embd)) {
            let id = token.0 as usize;
            if id >= table.rows {
                return Err(Error::limit("token id", id, table.rows - 1));
            }
            blocks::dequantize_row(
                table.format,
                table.row_range(id..id + 1),
                &mut streams[..n_embd],
            );
            (1..HC).for_each(|j| streams.copy_within(..n_embd, j * n_embd));
        }
        Ok(())
    }

    fn hyper_entry(
        &mut self,
        site: &HyperSite<Cpu>,
        numbers: HyperNumbers,
        tokens: Range<usize>,
        streams: &Vec<f32>,
        mix: &mut Vec<f32>,
        x: &mut Vec<f32>,
    ) -> Result<()> {
        let (n, row) = (tokens.len(), HC * site.norm.len());
        let streams = &streams[tokens.start * row..tokens.end * row];
        hyper::entry(self, site, numbers, n, streams, mix, x);
        Ok(())
    }

    fn hyper_exit(
        &mut self,
        tokens: Range<usize>,
        n_embd: usize,
        y: &Vec<f32>,
        mix: &Vec<f32>,
        streams: &mut Vec<f32>,
    ) -> Result<()> {
        let row = HC * n_embd;
        let streams = &mut streams[tokens.start * row..tokens.end * row];
        hyper::exit(self, n_embd, y, mix, streams);
        Ok(())
    }

    fn hyper_head(
        &mut self,
        head: &HyperHead<Cpu>,
        numbers: HyperNumbers,
        tokens: Range<usize>,
        streams: &Vec<f32>,
        x: &mut Vec<f32>,
    ) -> Result<()> {
        let (n, row) = (tokens.len(), HC * head.norm.len());
        let streams = &streams[tokens.start * row..tokens.end * row];
        hyper::head(self, head, numbers, n, streams, x);
        Ok(())
    }

    fn matmul(&mut self, n: usize, x: &Vec<f32>, products: &mut [Product<'_, Cpu>]) -> Result<()> {
        linear::matmul(self, n, x, products);
        Ok(())
    }

    fn matmul_grouped(
        &mut self,
        n: usize,
        groups: usize,
        x: &Vec<f32>,
        weight: &Matrix,
        y: &mut Vec<f32>,
    ) -> Result<()> {
        linear::matmul_grouped(self, n, groups, x, weight, y);
        Ok(())
    }

    fn rms_norm(&mut self, n: usize, x: &mut Vec<f32>, weight: &Vec<f32>, eps: f32) -> Result<()> {
        let (dot, dim) = (self.kernels.dot_f32, weight.len());
        self.pool
            .for_rows(&mut x[..n * dim], dim, &mut self.threads, |_, row, _| {
                rms_norm_row(dot, row, weight, eps);
            });
        Ok(())
    }

    fn head_norm_rope(
        &mut self,
        n: usize,
        heads: Heads,
        q: &mut Vec<f32>,
        rope: &Vec<f32>,
        eps: f32,
    ) -> Result<()> {
        attention::head_norm_rope(self, heads, &mut q[..n * heads.n * heads.dim], rope, eps);
        Ok(())
    }

    fn store_keys(&mut self, step: StoreKeys<'_, Cpu>) -> Result<()> {
        let StoreKeys {
            n,
            k,
            norm,
            rms_eps,
            rope,
            n_rot,
            rows,
        } = step;
        let dot = self.kernels.dot_f32;
        for (t, k) in k.chunks_exact_mut(norm.len()).take(n).enumerate() {
            rms_norm_row(dot, k, norm, rms_eps);
            attention::rotate(k, &rope[t * n_rot..][..n_rot], 1.0);
            rows.store(t, &self.kernels, k, &mut []);
        }
        Ok(())
    }

    fn commit_keys(
        &mut self,
        n: usize,
        pos: usize,
        window: usize,
        chunk: &kv_rows::Rows,
        ring: &mut kv_rows::Rows,
    ) -> Result<()> {
        for t in n.saturating_sub(window)..n {
            ring.copy_from((pos + t) % window, chunk, t);
        }
        Ok(())
    }

    fn index_queries(
        &mut self,
        n: usize,
        heads: Heads,
        q: &mut Vec<f32>,
        rope: &Vec<f32>,
        form: RowForm,
    ) -> Result<()> {
        attention::index_queries(self, heads, &mut q[..n * heads.n * heads.dim], rope, form);
        Ok(())
    }

    fn compress(&mut self, mut step: Compress<'_, Cpu>) -> Result<()> {
        compress::step(self, &mut step);
        Ok(())
    }

    fn select(
        &mut self,
        step: Select<'_, Cpu>,
        selection: &mut attention::Selection,
    ) -> Result<()> {
        attention::select(self, &step, selection);
        Ok(())
    }

    fn attend(&mut self, step: Attend<'_, Cpu>) -> Result<()> {
        attention::attend(self, step);
        Ok(())
    }

    fn route(&mut self, step: Route<'_, Cpu>, routes: &mut Routes) -> Result<()> {
        moe::route(self, step, routes);
        Ok(())
    }

    fn experts(&mut self, step: Experts<'_, Cpu>) -> Result<()> {
        moe::experts(self, step)
    }

    fn swiglu(&mut self, len: usize, clamp: f32, gate: &mut Vec<f32>, up: &Vec<f32>) -> Result<()> {
        gate[..len]
            .iter_mut()
            .zip(up)
            .for_each(|(g, u)| *g = moe::swiglu(*g, *u, clamp));
        Ok(())
    }

    fn combine(
        &mut self,
        n: usize,
        n_used: usize,
        n_embd: usize,
        routed: &Vec<f32>,
        y: &mut Vec<f32>,
    ) -> Result<()> {
        moe::combine(self, n, n_used, n_embd, routed, y);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With values of 1e-4 the mean square is 1e-8: 1e-6 under the root gives 995, behind it 9901.
    #[test]
    fn the_epsilon_of_a_norm_stands_under_the_root() {
        let norm = norm_scale(scalar::KERNELS.dot_f32, &[1e-4; 64], 1e-6);
        assert!((norm - 995.037).abs() < 0.1, "{norm}");
    }
}
