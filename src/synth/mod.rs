//! Random models of true shapes, for tests and benchmarks that need no weights: they compute at the real cost, read
//! the real bytes, and route tokens to experts as real text does.
//!
//! ```text
//! Request --Plan::new--> Plan (header, bound as any model) --create--> file
//! ```
//!
//! # How tokens are routed
//!
//! A cache of experts lives from two habits of real text: some experts are popular, and neighbouring tokens share
//! experts because they share a topic. A generator that reproduces the miss rates measured on the real model takes the
//! six largest of `-0.9 ln(rank) + topic + noise`, with standard deviations of 1.35 (topic, over some 200 tokens) and
//! 1.1 (noise). Here the same comes out of the model's own arithmetic:
//!
//! - **Popularity** is the selection bias `exp_probs_b`, `-0.15 ln(rank)` in another random order of experts for each
//!   layer: the scores sqrt(softplus(x)) of normal logits spread 0.3 where those of the generator spread 1.75.
//! - **Topic** is what the attention of the first layer adds: its keys are small, so that each query attends all
//!   keys of the window about equally, and their mean is nearly the same for the next token. It is made larger than
//!   the embedding: 0.7 of the variance of the next router's input, by its design.
//! - **No loops.** If the topic reached the output, greedy decoding would say one word for ever. So it is written to the
//!   lower half of the channels only, and the norm before the output head drops that half.
//! - The end-of-turn token's row of the output is zero: it is never the likeliest, and answers have the length asked for.
//! - Hash layers have tables of the same skew. As in the real model nothing there makes neighbours alike but popularity.
//!
//! Measured with 8 layers, the mean of those that choose by score, after a start of a quarter of the run (`tests/synth.rs`,
//! `measure`); tokens drawn evenly from the vocabulary, and the model's own greedy ones:
//!
//! | | tokens counted | shared with the token before | uses of the top 5 % | 10 % | 25 % of experts |
//! |---|---|---|---|---|---|
//! | generator, 256 experts | 190 | 0.39 | 0.54 | 0.71 | 0.90 |
//! | bench-q2 with 256 experts, random | 188 | 0.37 | 0.56 | 0.76 | 0.95 |
//! | bench-q2 with 256 experts, greedy | 200 | 0.40 | 0.59 | 0.78 | 0.97 |
//! | generator, 64 experts | 190 | 0.49 | 0.29 | 0.45 | 0.76 |
//! | bench-q2, random | 165 | 0.44 | 0.27 | 0.45 | 0.78 |
//! | bench-q2, greedy | 177 | 0.50 | 0.31 | 0.52 | 0.82 |
//!
//! Longer runs spread over more experts, as topics change. A prompt of text shares more (0.6 to 0.7 with 256 experts):
//! it becomes single bytes, of which few are frequent, and their mean hardly changes. Sizes stay of order 1 over all 43
//! layers, and so does routing (0.4 to 0.7 of 64 experts shared, without a trend).

use crate::error::{Context, Error, ErrorKind, Result};
use crate::gguf::Gguf;
use crate::gguf::writer::Writer;
use crate::model::Model;
use crate::os::{self, ReadAt};
use fill::Content;
use shape::{EXPERTS_SUFFIX, MIN_VOCAB, SHAPES, Shape};
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

mod fill;
mod shape;

/// What model to make; `None` is the shape's own number.
#[derive(Clone, Debug)]
pub struct Request {
    /// One of [`shape_names`].
    pub shape: String,
    /// Layers.
    pub n_layer: Option<usize>,
    /// Routed experts of a layer.
    pub n_expert: Option<usize>,
    /// Tokens of the vocabulary.
    pub n_vocab: Option<usize>,
    /// Layer l has the experts of layer l mod this where they have the same type, so that the file holds no more than
    /// these.
    pub alias_layers: Option<usize>,
    /// Tensor data begins at multiples of this many bytes; 32 if not given.
    pub alignment: Option<u32>,
    /// Same seed and numbers, same bytes.
    pub seed: u64,
}

/// Bounds of a request; the model's own bounds stand in [`crate::model::config`].
const LIMITS: Limits = Limits {
    n_layer: 512,
    n_expert: 4096,
    n_vocab: 1 << 22,
};

struct Limits {
    n_layer: usize,
    n_expert: usize,
    n_vocab: usize,
}

/// The names of the shapes.
pub fn shape_names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|s| s.name)
}

/// A file that is ready to be written.
pub struct Plan {
    writer: Writer,
    contents: HashMap<String, Content>,
    seed: u64,
    /// The file as it will be read.
    pub model: Model,
}

impl Plan {
    /// Lays out the file.
    ///
    /// Errors: `Usage` for an unknown shape and for numbers out of bounds, with the flag of the command line.
    pub fn new(request: &Request) -> Result<Plan> {
        let (shape, alias_layers) = resolve(request)?;
        let mut writer = Writer::new();
        if let Some(alignment) = request.alignment {
            let aligned = writer.aligned(alignment);
            writer = aligned.map_err(|e| Error::usage(format!("--align: {e}")))?;
        }
        let (name, seed) = (shape.name, request.seed);
        writer.string("general.name", &format!("synthetic {name}, seed {seed}"));
        let description = "Random weights of a true shape, made by infall synth; it says nothing";
        writer.string("general.description", description);
        writer.string("infall.synth.shape", name);
        writer.u64("infall.synth.seed", seed);
        if let Some(k) = alias_layers {
            writer.u32("infall.synth.alias_layers", k as u32);
        }
        shape.put_metadata(&mut writer);
        let mut contents = HashMap::new();
        let mut formats = HashMap::new();
        for tensor in shape.tensors() {
            let other = alias_layers.and_then(|k| alias_of(&tensor.name, k));
            // Bytes of another type would be other weights.
            match other.filter(|other| formats.get(other) == Some(&tensor.format)) {
                Some(other) => writer.alias(&tensor.name, &tensor.dims, tensor.format, &other)?,
                None => {
                    writer.tensor(&tensor.name, &tensor.dims, tensor.format)?;
                    formats.insert(tensor.name.clone(), tensor.format);
                    contents.insert(tensor.name, tensor.content);
                }
            }
        }
        let header = writer.header();
        let file_len = header.len() as u64 + writer.data_len();
        let model = Model::bind(Gguf::read(&HeaderOnly { header, file_len })?)?;
        Ok(Plan {
            writer,
            contents,
            seed,
            model,
        })
    }

    /// Bytes of the file.
    pub fn file_len(&self) -> u64 {
        self.model.gguf.file_len
    }

    /// Writes the file to `out`; `progress` is told the bytes written and all bytes, and stops the work with false.
    ///
    /// Errors: `Io` when `out` fails or the work was stopped.
    pub fn write(
        &self,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<()> {
        let (all, mut done) = (self.file_len(), 0);
        let mut written = |n: usize| {
            done += n as u64;
            match progress(done, all) {
                true => Ok(()),
                false => Err(Error::new(ErrorKind::Io, "stopped")),
            }
        };
        self.writer.write(out, |info, sink| {
            fill::fill(
                self.contents[&info.name],
                info,
                self.seed,
                sink,
                &mut written,
            )
        })
    }

    /// Makes the file `path`, under another name until it is whole; after an error nothing of it is left.
    /// An existing file is replaced if `overwrite` says so.
    ///
    /// Errors: `Usage` when there is something at `path`; `Io` when the disk has too little room, fails or is full,
    /// and when the work was stopped.
    pub fn create(
        &self,
        path: &Path,
        overwrite: bool,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<()> {
        self.create_file(path, overwrite, progress)
            .context(|| path.display())
    }

    fn create_file(
        &self,
        path: &Path,
        overwrite: bool,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<()> {
        let name = path
            .file_name()
            .ok_or_else(|| Error::usage("expected the name of a file"))?;
        match fs::metadata(path) {
            Ok(found) if !found.is_file() => {
                return Err(Error::usage("exists and is no regular file"));
            }
            Ok(_) if !overwrite => {
                return Err(Error::usage("exists already (--force replaces it)"));
            }
            _ => {}
        }
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let (needed, free) = (self.file_len(), os::free_space(folder));
        if let Some(free) = free.filter(|free| *free < needed) {
            return Err(Error::new(
                ErrorKind::Io,
                format!("{needed} bytes are needed, but {free} are free"),
            ));
        }
        let mut part_name = name.to_owned();
        part_name.push(format!(".{}.part", std::process::id()));
        let io = |what: &'static str| move |e: std::io::Error| Error::io(what, &e);
        let part_path = folder.join(part_name);
        let mut file = fs::File::create_new(&part_path).map_err(io("create"))?;
        let part = Partial(part_path);
        self.write(
            &mut std::io::BufWriter::with_capacity(1 << 20, &mut file),
            progress,
        )?;
        // A full disk may show only now.
        file.sync_all().map_err(io("write"))?;
        fs::rename(&part.0, path).map_err(io("rename"))
    }
}

/// A file that is removed, unless it was renamed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // After a rename there is nothing to remove.
        let _ = fs::remove_file(&self.0);
    }
}

/// The shape with the numbers of the request, and the layers of experts that the file holds if others share them.
fn resolve(request: &Request) -> Result<(Shape, Option<usize>)> {
    let found = SHAPES.iter().find(|s| s.name == request.shape);
    let mut shape = found.cloned().ok_or_else(|| {
        let known: Vec<_> = shape_names().collect();
        Error::usage(format!(
            "--shape: '{}' is unknown, expected {}",
            request.shape,
            known.join(" | ")
        ))
    })?;
    let within = |flag, value, least, most| match value {
        Some(n) if !(least..=most).contains(&n) => Err(Error::usage(format!(
            "{flag}: found {n}, expected {least} to {most}"
        ))),
        value => Ok(value),
    };
    let set = |number: &mut usize, value: Option<usize>| *number = value.unwrap_or(*number);
    let n_layer = within("--layers", request.n_layer, 1, LIMITS.n_layer)?;
    set(&mut shape.n_layer, n_layer);
    let (n_used, most) = (shape.n_expert_used, LIMITS.n_expert);
    let n_expert = within("--experts", request.n_expert, n_used, most)?;
    set(&mut shape.n_expert, n_expert);
    let n_vocab = within("--vocab", request.n_vocab, MIN_VOCAB, LIMITS.n_vocab)?;
    set(&mut shape.n_vocab, n_vocab);
    let alias = within("--alias-layers", request.alias_layers, 1, shape.n_layer)?;
    Ok((shape, alias))
}

/// The tensor that holds the data of tensor `name` if experts of layers from `k` on are those of earlier layers.
fn alias_of(name: &str, k: usize) -> Option<String> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    (layer >= k && rest.ends_with(EXPERTS_SUFFIX)).then(|| format!("blk.{}.{rest}", layer % k))
}

/// A file of which only the header exists.
struct HeaderOnly {
    header: Vec<u8>,
    file_len: u64,
}

impl ReadAt for HeaderOnly {
    fn len(&self) -> u64 {
        self.file_len
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = self.header.get(start..).unwrap_or(&[]);
        let n = found.len().min(buf.len());
        buf[..n].copy_from_slice(&found[..n]);
        buf[n..].fill(0);
        Ok(())
    }

    fn name(&self) -> &str {
        "synthetic model"
    }
}
