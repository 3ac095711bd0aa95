//! What a device must be able to do for the graph: the trait [`Backend`] and the arguments of its operations.
//!
//! Activations are row-major f32, one row a token; `n` is always the number of tokens. An operation may run
//! later than its call returns; [`Backend::host`] waits for what a buffer depends on. Whatever the device,
//! an output element depends on its own inputs only, never on `n` or on the number of threads: prefill and
//! decode give the same bits.

use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::Config;
use crate::model::experts::ExpertRef;
use crate::options::{BackendChoice, KernelChoice};
use crate::os::Slice;
use crate::quant::Format;
use crate::quant::blocks::BlockMxfp4;
use crate::quant::rounding::{self, BlockFp8};
use crate::units::{ExpertId, Phase, TokenId};
use profile::{Profile, Stage};
use std::ops::Range;

pub mod cpu;
#[cfg(any(
    target_os = "macos",
    all(feature = "metal-sim", target_arch = "x86_64")
))]
pub mod metal;
pub mod profile;

/// A backend that can be had here, and what a plan must know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// The CPU.
    Cpu,
    /// A GPU of Apple's.
    #[cfg(any(target_os = "macos", feature = "metal-sim"))]
    Metal(metal::Limits),
}

impl Chosen {
    /// The backend that an option asks for.
    ///
    /// Errors: it is not built in, or has no device here.
    pub fn new(choice: BackendChoice) -> Result<Chosen> {
        match choice {
            BackendChoice::Cpu => Ok(Chosen::Cpu),
            #[cfg(any(target_os = "macos", feature = "metal-sim"))]
            BackendChoice::Metal => Ok(Chosen::Metal(metal::Limits::read()?)),
            #[cfg(not(any(target_os = "macos", feature = "metal-sim")))]
            BackendChoice::Metal => Err(Error::unsupported(
                "--backend metal: is not built in, expected macOS",
            )),
            #[cfg(target_os = "macos")]
            BackendChoice::Auto => Ok(metal::Limits::read().map_or(Chosen::Cpu, Chosen::Metal)),
            #[cfg(not(target_os = "macos"))]
            BackendChoice::Auto => Ok(Chosen::Cpu),
        }
    }

    /// Bytes that every allocation is a multiple of.
    pub fn page(self) -> u64 {
        match self {
            Chosen::Cpu => 1,
            #[cfg(any(target_os = "macos", feature = "metal-sim"))]
            Chosen::Metal(_) => crate::os::share::SHARED_PAGE as u64,
        }
    }

    /// Bytes that the device can use, if it has a bound of its own.
    pub fn working_set(self) -> Option<u64> {
        match self {
            Chosen::Cpu => None,
            #[cfg(any(target_os = "macos", feature = "metal-sim"))]
            Chosen::Metal(limits) => Some(limits.working_set),
        }
    }

    /// Bytes of scratch at most, beside the graph's buffers, for chunks of `chunk` tokens in a context of `ctx`.
    pub fn scratch_bytes(self, c: &Config, n_threads: usize, chunk: usize, ctx: usize) -> u64 {
        match self {
            Chosen::Cpu => cpu::Cpu::scratch_bytes(c, n_threads, chunk, ctx),
            #[cfg(any(target_os = "macos", feature = "metal-sim"))]
            Chosen::Metal(_) => metal::Metal::scratch_bytes(c, chunk, ctx),
        }
    }

    /// Refuses a model that it has no kernels for.
    ///
    /// Errors: a tensor's type, with its name.
    pub fn check(self, model: &Model) -> Result<()> {
        match (self, model) {
            (Chosen::Cpu, _) => Ok(()),
            #[cfg(any(target_os = "macos", feature = "metal-sim"))]
            (Chosen::Metal(_), model) => metal::check(model),
        }
    }

    /// What its kernels are called.
    ///
    /// Errors: this CPU cannot run the table that `kernels` asks for.
    pub fn kernels(self, kernels: KernelChoice) -> Result<&'static str> {
        match self {
            Chosen::Cpu => Ok(cpu::dispatch::select(kernels)?.name),
            #[cfg(any(target_os = "macos", feature = "metal-sim"))]
            Chosen::Metal(_) => Ok("metal"),
        }
    }
}

/// Number of hyper-connection streams; the model is refused when it has another number.
pub use crate::model::config::HC;

/// Values of one token's hyper-connection mix: `HC` post gates, then the `HC` x `HC` matrix by source stream.
pub const MIX: usize = HC + HC * HC;

/// How the rows of a store are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowForm {
    /// binary32.
    F32,
    /// binary16.
    F16,
    /// E4M3 in blocks of 64 with one power-of-two scale each; the last `n_rot` values as bf16.
    Fp8 {
        /// Rotary values at the end of a row.
        n_rot: usize,
    },
    /// Hadamard-rotated E2M1 in blocks of 32 with one power-of-two scale each.
    Fp4,
}

impl RowForm {
    /// Bytes of a stored row.
    ///
    /// Errors: `dim` does not divide into the blocks of the form.
    pub fn row_bytes(self, dim: usize) -> Result<usize> {
        let blocks = |what: &str, len: usize, block: usize| {
            if len == 0 || !len.is_multiple_of(block) {
                return Err(Error::unsupported(format!(
                    "--kv official: {what} has {len} values, expected a multiple of {block} (one block)"
                )));
            }
            Ok(len / block)
        };
        Ok(match self {
            RowForm::F32 => 4 * dim,
            RowForm::F16 => 2 * dim,
            RowForm::Fp8 { n_rot } => {
                let n = blocks(
                    "the part of a key without rotation",
                    dim - n_rot,
                    rounding::FP8_BLOCK,
                )?;
                n * size_of::<BlockFp8>() + 2 * n_rot
            }
            RowForm::Fp4 if !dim.is_power_of_two() => {
                return Err(Error::unsupported(format!(
                    "--kv official: an indexer head has {dim} values, expected a power of two (Hadamard)"
                )));
            }
            RowForm::Fp4 => {
                blocks("an indexer head", dim, rounding::FP4_BLOCK)? * size_of::<BlockMxfp4>()
            }
        })
    }
}

/// One site of a hyper-connection: the mixer in front of attention or of the experts.
pub struct HyperSite<B: Storage + ?Sized> {
    /// `[2 HC + HC^2, HC n_embd]`
    pub mixer: B::Matrix,
    /// `[2 HC + HC^2]`
    pub base: B::Buffer,
    /// Scales of the pre, post and matrix part.
    pub scale: [f32; 3],
    /// Weight of the norm behind the mixer, `[n_embd]`.
    pub norm: B::Buffer,
}

/// The hyper-connection in front of the output matrix.
pub struct HyperHead<B: Storage + ?Sized> {
    /// `[HC, HC n_embd]`
    pub mixer: B::Matrix,
    /// `[HC]`
    pub base: B::Buffer,
    /// Scale of the mixer's output.
    pub scale: f32,
    /// Weight of the output norm, `[n_embd]`.
    pub norm: B::Buffer,
}

/// Numbers of the hyper-connections that all sites share.
#[derive(Clone, Copy, Debug)]
pub struct HyperNumbers {
    /// Added to gates and Sinkhorn sums.
    pub eps: f32,
    /// Iterations of the Sinkhorn normalisation.
    pub n_sinkhorn: usize,
    /// Epsilon of the RMS norms.
    pub rms_eps: f32,
}

/// `y[n, rows] = x[n, cols] · weightᵀ`
pub struct Product<'a, B: Storage + ?Sized> {
    /// `[rows, cols]`
    pub weight: &'a B::Matrix,
    /// `[n, rows]`
    pub y: &'a mut B::Buffer,
}

/// A compressor's step over one chunk of tokens (attention rows or indexer rows).
pub struct Compress<'a, B: Storage + ?Sized> {
    /// Tokens of the chunk.
    pub n: usize,
    /// Position of the first.
    pub pos: usize,
    /// Tokens a compressed row stands for.
    pub ratio: usize,
    /// Whether a row also reads the window before its own (then `kv` and `gate` are `2 dim` wide).
    pub overlap: bool,
    /// Width of a compressed row.
    pub dim: usize,
    /// Rotary values at its end.
    pub n_rot: usize,
    /// `[n, width]`
    pub kv: &'a B::Buffer,
    /// `[n, width]`, without the position bias; it is added here.
    pub gate: &'a mut B::Buffer,
    /// Position bias, `[ratio, width]`.
    pub ape: &'a B::Buffer,
    /// Norm of the pooled row, `[dim]`.
    pub norm: &'a B::Buffer,
    /// Epsilon of that norm.
    pub rms_eps: f32,
    /// Cosine and sine for the first token of each window closed in this chunk, `[windows, n_rot]`.
    pub rope: &'a B::Buffer,
    /// Ring of the last tokens' `kv` and biased `gate`, `[ratio or 2 ratio, 2 width]` by position.
    pub state: &'a mut B::Buffer,
    /// Receives row `w` for every window `w` closed in this chunk.
    pub rows: &'a mut B::Rows,
}

/// The indexer's choice of compressed rows for each token of a chunk.
pub struct Select<'a, B: Storage + ?Sized> {
    /// Tokens of the chunk.
    pub n: usize,
    /// Position of the first.
    pub pos: usize,
    /// Tokens a compressed row stands for.
    pub ratio: usize,
    /// Indexer heads.
    pub n_head: usize,
    /// Their width.
    pub dim: usize,
    /// Rows chosen at most.
    pub top_k: usize,
    /// Rotated queries, `[n, n_head dim]`.
    pub q: &'a B::Buffer,
    /// Weight of each head, unscaled, `[n, n_head]`.
    pub head_weight: &'a B::Buffer,
    /// Scale of a score.
    pub scale: f32,
    /// Indexer rows.
    pub rows: &'a B::Rows,
}

/// Shape of a set of heads.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Heads of a token.
    pub n: usize,
    /// Width of each.
    pub dim: usize,
    /// Rotary values at the end of each.
    pub n_rot: usize,
}

/// RMS norm of the raw key of each token, its rotation, and its storage as a row of the chunk.
pub struct StoreKeys<'a, B: Storage + ?Sized> {
    /// Tokens of the chunk.
    pub n: usize,
    /// `[n, head_dim]`
    pub k: &'a mut B::Buffer,
    /// Weight of the norm, `[head_dim]`.
    pub norm: &'a B::Buffer,
    /// Epsilon of the norm.
    pub rms_eps: f32,
    /// Cosine and sine of each token, `[n, n_rot]`.
    pub rope: &'a B::Buffer,
    /// Rotary values at the end of a key.
    pub n_rot: usize,
    /// Receives row `i` for the token `i`.
    pub rows: &'a mut B::Rows,
}

/// Attention of a chunk over the raw window and the compressed rows.
pub struct Attend<'a, B: Storage + ?Sized> {
    /// Tokens of the chunk.
    pub n: usize,
    /// Position of the first.
    pub pos: usize,
    /// Query heads; keys and values have their width.
    pub heads: Heads,
    /// Keys of the raw window, the token's own included.
    pub window: usize,
    /// `[n, heads.n heads.dim]`
    pub q: &'a B::Buffer,
    /// Logit of each head's sink, `[n_head]`.
    pub sinks: &'a B::Buffer,
    /// Raw rows of positions before the chunk: position modulo `window`.
    pub ring: &'a B::Rows,
    /// Raw rows of the chunk.
    pub chunk: &'a B::Rows,
    /// Compressed rows, the tokens each stands for, and the most that a token attends to.
    pub compressed: Option<Compressed<'a, B>>,
    /// Cosine and sine of each token, `[n, n_rot]`.
    pub rope: &'a B::Buffer,
    /// `[n, heads.n heads.dim]`
    pub out: &'a mut B::Buffer,
}

/// The compressed part of the keys.
pub struct Compressed<'a, B: Storage + ?Sized> {
    /// Attention rows.
    pub rows: &'a B::Rows,
    /// Tokens a row stands for.
    pub ratio: usize,
    /// The indexer's choice, where more rows than its `top_k` are visible.
    pub selected: Option<(&'a B::Selection, usize)>,
}

/// The experts chosen for each token of a chunk, on the host.
#[derive(Default)]
pub struct Routes {
    /// `[n, n_expert_used]`, in the order in which outputs are summed.
    pub ids: Vec<ExpertId>,
    /// Their weights, same shape.
    pub weights: Vec<f32>,
}

/// Scores of the experts and the choice of the best.
pub struct Route<'a, B: Storage + ?Sized> {
    /// Tokens of the chunk.
    pub n: usize,
    /// Experts chosen a token.
    pub n_used: usize,
    /// `[n_expert, n_embd]`
    pub weight: &'a B::Matrix,
    /// Added to a score for the choice only, `[n_expert]`.
    pub bias: Option<&'a B::Buffer>,
    /// Sum of a token's weights.
    pub scale: f32,
    /// True when `routes.ids` already holds the choice (hash-routed layers).
    pub preset: bool,
    /// `[n, n_embd]`
    pub x: &'a B::Buffer,
    /// Scratch for the scores, `[n, n_expert]`.
    pub scores: &'a mut B::Buffer,
}

/// Shape of a layer's experts.
#[derive(Clone, Copy, Debug)]
pub struct ExpertShape {
    /// Model width.
    pub n_embd: usize,
    /// Width of an expert.
    pub n_ff: usize,
    /// Storage of gate.
    pub gate: Format,
    /// Storage of up.
    pub up: Format,
    /// Storage of down.
    pub down: Format,
    /// Limit of the pre-activations.
    pub clamp: f32,
}

/// Some experts of a layer and the places of their outputs.
pub struct Experts<'a, B: Storage + ?Sized> {
    /// Tokens of the chunk.
    pub n: usize,
    /// Shape of each expert.
    pub shape: ExpertShape,
    /// `[n, n_embd]`
    pub x: &'a B::Buffer,
    /// `[n, n_expert_used]`
    pub routes: &'a Routes,
    /// For each chosen expert the indices into `routes` that chose it.
    pub groups: &'a Groups,
    /// The groups of this call.
    pub which: &'a [usize],
    /// Weights of the expert of group `g`.
    pub weights: &'a (dyn Fn(usize) -> ExpertRef<'a> + Sync),
    /// Scratch, `[n n_expert_used, n_ff]`.
    pub hidden: &'a mut B::Buffer,
    /// Receives the weighted output of each route, `[n n_expert_used, n_embd]`.
    pub out: &'a mut B::Buffer,
}

/// Routes sorted by expert: group `g` is `experts[g]`, with `routes[starts[g]..starts[g + 1]]`.
#[derive(Default)]
pub struct Groups {
    /// The distinct experts, ascending.
    pub experts: Vec<ExpertId>,
    /// First route of each group, and the end.
    pub starts: Vec<usize>,
    /// Indices into the routes, by expert, ascending within one.
    pub routes: Vec<usize>,
    /// Routes of each group.
    pub counts: Vec<usize>,
}

impl Groups {
    /// Sorts `ids` by expert. Keeps its memory from call to call.
    pub fn fill(&mut self, ids: &[ExpertId]) {
        self.experts.clear();
        self.starts.clear();
        self.routes.clear();
        self.routes.extend(0..ids.len());
        self.routes.sort_unstable_by_key(|&r| (ids[r], r));
        for (i, &r) in self.routes.iter().enumerate() {
            if self.experts.last() != Some(&ids[r]) {
                self.experts.push(ids[r]);
                self.starts.push(i);
            }
        }
        self.starts.push(ids.len());
        self.counts.clear();
        self.counts
            .extend(self.starts.windows(2).map(|w| w[1] - w[0]));
    }

    /// The routes of group `g`.
    pub fn of(&self, g: usize) -> &[usize] {
        &self.routes[self.starts[g]..self.starts[g + 1]]
    }
}

/// The memory of a device. Apart from [`Backend`], so that what a model will take can be counted without any.
pub trait Storage {
    /// f32 values.
    type Buffer;
    /// A weight matrix in its stored format.
    type Matrix;
    /// Rows of a cache in one [`RowForm`].
    type Rows;
    /// Compressed rows chosen for each token.
    type Selection;

    /// A zeroed buffer of `len` values.
    fn buffer(&mut self, len: usize) -> Result<Self::Buffer>;
    /// A matrix over weights in memory, `[rows, cols]`.
    fn matrix(
        &mut self,
        format: Format,
        rows: usize,
        cols: usize,
        data: Slice,
    ) -> Result<Self::Matrix>;
    /// An empty store for `capacity` rows of `dim` values; memory comes with [`Storage::reserve`].
    fn rows(&mut self, form: RowForm, dim: usize, capacity: usize) -> Result<Self::Rows>;
    /// Makes room for the first `n` rows. Errors when memory is refused.
    fn reserve(&mut self, rows: &mut Self::Rows, n: usize) -> Result<()>;
    /// A selection of up to `top_k` rows for `n` tokens.
    fn selection(&mut self, n: usize, top_k: usize) -> Result<Self::Selection>;
}

/// A device that computes the graph.
pub trait Backend: Storage {
    /// Whether operations run after their call returns. What follows a [`Backend::route`] and does not need its choice
    /// is then best called before [`Backend::routes`] waits for it.
    const QUEUES: bool = false;

    /// Name and kernel table, for the statistics.
    fn describe(&self) -> String;

    /// What decides the bits of a result, in a few words: what was computed by another arithmetic is close, not equal.
    fn arithmetic(&self) -> String;

    /// Notes from now on where the time goes, on a backend that can; what was noted before is forgotten.
    fn start_profile(&mut self) {}
    /// Where the time went since the last [`Backend::start_profile`], up to now; `None` without that call.
    fn profile(&mut self) -> Option<&Profile> {
        None
    }

    /// A pass of `n_tokens` tokens begins, computed for `phase`. Only a backend that keeps a [`profile`] heeds it.
    fn pass(&mut self, _phase: Phase, _n_tokens: usize) {}
    /// What follows, until the next call, belongs to this stage. Only a backend that keeps a [`profile`] heeds it.
    fn stage(&mut self, _stage: Stage) {}

    /// Waits for all work: memory that operations read, and that is not the backend's own, may change from now on.
    ///
    /// Errors: the device failed.
    fn wait(&mut self) -> Result<()> {
        Ok(())
    }

    /// Copies values into the front of a buffer.
    fn write(&mut self, buffer: &mut Self::Buffer, values: &[f32]) -> Result<()>;
    /// The values of a buffer, after all work on it is done.
    fn host<'a>(&mut self, buffer: &'a Self::Buffer) -> Result<&'a [f32]>;
    /// Copies `from` into `to`, both of one size.
    fn copy_rows(&mut self, from: &Self::Rows, to: &mut Self::Rows) -> Result<()>;
    /// The bytes of whole rows from row `first` on, in their [`RowForm`], after all work on them is done. `bytes` is
    /// `[n, RowForm::row_bytes]` for any `n`; room was made for all of them.
    fn read_rows(&mut self, rows: &Self::Rows, first: usize, bytes: &mut [u8]) -> Result<()>;
    /// Puts such bytes back, after all work on the rows is done.
    fn write_rows(&mut self, rows: &mut Self::Rows, first: usize, bytes: &[u8]) -> Result<()>;

    /// All streams of a token start as its embedding. `streams` is `[n, HC, n_embd]`.
    fn embed(
        &mut self,
        table: &Self::Matrix,
        tokens: &[TokenId],
        streams: &mut Self::Buffer,
    ) -> Result<()>;
    /// Mixes the streams of some tokens into the normed input `x[tokens, n_embd]` of a sub-layer, and keeps the
    /// gates of its exit in `mix[tokens, MIX]`. `streams` is `[.., HC, n_embd]`.
    fn hyper_entry(
        &mut self,
        site: &HyperSite<Self>,
        numbers: HyperNumbers,
        tokens: Range<usize>,
        streams: &Self::Buffer,
        mix: &mut Self::Buffer,
        x: &mut Self::Buffer,
    ) -> Result<()>;
    /// `streams[b] = post_b y + sum over a of C[a][b] streams[a]`, for some tokens of `streams`.
    fn hyper_exit(
        &mut self,
        tokens: Range<usize>,
        n_embd: usize,
        y: &Self::Buffer,
        mix: &Self::Buffer,
        streams: &mut Self::Buffer,
    ) -> Result<()>;
    /// Mixes the streams of some tokens into the normed input of the output matrix.
    fn hyper_head(
        &mut self,
        head: &HyperHead<Self>,
        numbers: HyperNumbers,
        tokens: Range<usize>,
        streams: &Self::Buffer,
        x: &mut Self::Buffer,
    ) -> Result<()>;
    /// Several products of the same `x[n, cols]`.
    fn matmul(
        &mut self,
        n: usize,
        x: &Self::Buffer,
        products: &mut [Product<'_, Self>],
    ) -> Result<()>;
    /// `y[n, groups * rows/groups]`: rows of group `g` read columns `g` of `x[n, groups * cols]` only.
    fn matmul_grouped(
        &mut self,
        n: usize,
        groups: usize,
        x: &Self::Buffer,
        weight: &Self::Matrix,
        y: &mut Self::Buffer,
    ) -> Result<()>;
    /// RMS norm of each row in place; `weight[dim]`.
    fn rms_norm(
        &mut self,
        n: usize,
        x: &mut Self::Buffer,
        weight: &Self::Buffer,
        eps: f32,
    ) -> Result<()>;
    /// Weightless RMS norm of each head, then its rotation. `q[n, heads.n heads.dim]`.
    fn head_norm_rope(
        &mut self,
        n: usize,
        heads: Heads,
        q: &mut Self::Buffer,
        rope: &Self::Buffer,
        eps: f32,
    ) -> Result<()>;
    /// See [`StoreKeys`].
    fn store_keys(&mut self, step: StoreKeys<'_, Self>) -> Result<()>;
    /// Moves the chunk's last raw rows into the ring: position modulo `window`.
    fn commit_keys(
        &mut self,
        n: usize,
        pos: usize,
        window: usize,
        chunk: &Self::Rows,
        ring: &mut Self::Rows,
    ) -> Result<()>;
    /// Rotates each indexer query, and rounds it in the way of its rows.
    fn index_queries(
        &mut self,
        n: usize,
        heads: Heads,
        q: &mut Self::Buffer,
        rope: &Self::Buffer,
        form: RowForm,
    ) -> Result<()>;
    /// See [`Compress`].
    fn compress(&mut self, step: Compress<'_, Self>) -> Result<()>;
    /// See [`Select`]; ties go to the lower row.
    fn select(&mut self, step: Select<'_, Self>, selection: &mut Self::Selection) -> Result<()>;
    /// See [`Attend`]; the output is rotated back by the token's own position.
    fn attend(&mut self, step: Attend<'_, Self>) -> Result<()>;
    /// Fills `routes`, if not now then in [`Backend::routes`]; ties go to the lower expert.
    fn route(&mut self, step: Route<'_, Self>, routes: &mut Routes) -> Result<()>;
    /// Waits until the last [`Backend::route`] has filled `routes`; experts of layers before are not read any more then.
    ///
    /// Errors: the device failed.
    fn routes(&mut self, _routes: &mut Routes) -> Result<()> {
        Ok(())
    }
    /// See [`Experts`].
    fn experts(&mut self, step: Experts<'_, Self>) -> Result<()>;
    /// `gate = silu(min(gate, clamp)) * clamp(up, -clamp, clamp)`, `[n, n_ff]` both.
    fn swiglu(
        &mut self,
        len: usize,
        clamp: f32,
        gate: &mut Self::Buffer,
        up: &Self::Buffer,
    ) -> Result<()>;
    /// `y[n, n_embd] += sum over a token's routes, in their order`; `routed[n n_used, n_embd]`.
    fn combine(
        &mut self,
        n: usize,
        n_used: usize,
        n_embd: usize,
        routed: &Self::Buffer,
        y: &mut Self::Buffer,
    ) -> Result<()>;
}
