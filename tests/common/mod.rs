//! What the integration tests share: fixtures, and a model opened below the engine.
#![allow(dead_code)]

pub mod float64;
pub mod parts;

use infall::backend::Backend;
use infall::backend::cpu::{Cpu, dispatch};
use infall::error::Result;
use infall::gguf::writer::Writer;
use infall::gguf::{self, Value};
use infall::graph::weights::Weights;
use infall::graph::{Graph, Lengths, Probe};
use infall::model::Model;
use infall::options::{Budget, KernelChoice, Options};
use infall::os::share::Device;
use infall::session::Session;
use infall::supply::{self, Opening};
use infall::units::TokenId;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A file under tests/golden.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// The shipped model.
pub fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-q4.gguf")
}

/// A file of one test's own, removed with this value.
///
/// It lies on the disk of the build, which reads past the page cache; the system's temporary folder may be memory.
pub struct Temporary(pub PathBuf);

impl Temporary {
    /// A path that no other test has, whatever runs beside; nothing is there yet.
    pub fn new(name: &str) -> Temporary {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let (process, n) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        Temporary(folder.join(format!("{process}-{n}-{name}")))
    }

    /// The path as an argument.
    pub fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

/// A folder of one test's own, removed with this value.
pub struct Folder(Temporary);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let folder = Temporary::new(name);
        std::fs::create_dir(&folder.0).unwrap();
        Folder(folder)
    }

    /// The path as an argument.
    pub fn text(&self) -> &str {
        self.0.text()
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.0.join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// The names of its files, in order.
    pub fn names(&self) -> Vec<String> {
        let files = std::fs::read_dir(&self.0.0).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0.0).ok();
    }
}

/// A run of the program without input.
pub fn infall(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_infall"));
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

/// Standard error of a run that must have succeeded.
pub fn succeeded(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// Standard error of a run that must succeed.
pub fn done(args: &[&str]) -> String {
    succeeded(&infall(args))
}

/// A fixture that is not in the repository, if it lies beside the checkout; says so when it does not.
pub fn beside(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/fixtures")
        .join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}

/// Puts a key of another file in `w`.
pub fn put_value(w: &mut Writer, key: &str, value: &Value) {
    fn narrow<T: Copy, U>(values: &[T], to: impl Fn(T) -> U) -> Vec<U> {
        values.iter().map(|v| to(*v)).collect()
    }
    match value {
        Value::Uint(v) => w.u32(key, *v as u32),
        Value::Int(v) => w.u32(key, *v as u32),
        Value::Float(v) => w.f32(key, *v as f32),
        Value::Bool(v) => w.bool(key, *v),
        Value::String(v) => w.string(key, v),
        Value::Uints(v) => w.u32_array(key, &narrow(v, |v| v as u32)),
        Value::Ints(v) => w.i32_array(key, &narrow(v, |v| v as i32)),
        Value::Floats(v) => w.f32_array(key, &narrow(v, |v| v as f32)),
        Value::Strings(v) => w.string_array(key, v),
        Value::Bools(_) => panic!("{key}: no such array in these files"),
    };
}

/// Little-endian f32 values of a file.
pub fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

/// The kernel tables that this machine runs.
pub fn kernel_choices() -> Vec<KernelChoice> {
    let all = [
        KernelChoice::Scalar,
        KernelChoice::Avx2,
        KernelChoice::Avx512,
        KernelChoice::Neon,
    ];
    all.into_iter()
        .filter(|choice| dispatch::select(*choice).is_ok())
        .collect()
}

/// The token ids of the micro fixtures.
pub fn micro_ids() -> Vec<TokenId> {
    let text = std::fs::read_to_string(golden("micro.ids.txt")).unwrap();
    text.split_whitespace()
        .map(|w| TokenId(w.parse().unwrap()))
        .collect()
}

/// A prompt of the shipped model, and how it goes on when the likeliest token is taken each time.
pub struct GreedyCase {
    pub name: String,
    pub prompt: Vec<TokenId>,
    pub expected: Vec<TokenId>,
}

/// Those that an independent implementation gave.
pub fn greedy_cases() -> Vec<GreedyCase> {
    let text = std::fs::read_to_string(golden("tiny-q4.greedy.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids = |v: &serde_json::Value| -> Vec<TokenId> {
        let ids = v.as_array().unwrap().iter();
        ids.map(|id| TokenId(id.as_u64().unwrap() as u32)).collect()
    };
    let case = |case: &serde_json::Value| GreedyCase {
        name: case["prompt"].as_str().unwrap_or("ids").into(),
        prompt: ids(&case["prompt_ids"]),
        expected: ids(&case["greedy_ids"]),
    };
    json["cases"].as_array().unwrap().iter().map(case).collect()
}

/// The token of the largest logit, the lowest among equals.
pub fn likeliest(row: &[f32]) -> TokenId {
    let best = (0..row.len())
        .rev()
        .max_by(|&a, &b| row[a].total_cmp(&row[b]));
    TokenId(best.unwrap() as u32)
}

/// A model on a backend, below the engine.
pub struct Loaded<B: Backend = Cpu> {
    pub graph: Graph<B>,
    pub ctx: usize,
}

impl Loaded {
    /// On the CPU.
    pub fn open(options: &Options) -> Result<Loaded> {
        let cpu = Cpu::new(options.kernels, options.threads.max(1))?;
        Loaded::open_on(options, cpu, None)
    }
}

impl<B: Backend> Loaded<B> {
    /// On a backend that reads experts with `device`, if it is not the CPU.
    pub fn open_on(
        options: &Options,
        mut backend: B,
        device: Option<&Arc<dyn Device>>,
    ) -> Result<Loaded<B>> {
        let (files, gguf) = gguf::open(&options.model)?;
        let model = Model::bind(gguf)?;
        let strategy = supply::built(&options.strategy)?;
        let slabs = (strategy.needs)(&files, &model)?.slabs;
        let budget = match options.supply.budget {
            Budget::Auto => u64::MAX,
            Budget::Least => panic!("no test opens a model with it"),
            Budget::Experts(n) => slabs.bytes_of(n),
            Budget::Bytes(n) => n,
            Budget::Share(n) => slabs.bytes * n / 1000,
        };
        let opened = (strategy.open)(Opening {
            files: &files,
            model: &model,
            options: &options.supply,
            budget,
            device,
            progress: &mut |_, _| {},
        })?;
        let weights = Weights::load(&model, &opened.fixed, &mut backend, options.kv)?;
        let graph = Graph::new(
            model.config,
            backend,
            weights,
            opened.experts,
            Lengths {
                chunk: options.prefill_chunk,
                sweep: options.prefill_sweep.max(options.prefill_chunk),
            },
            options.kv,
        )?;
        Ok(Loaded {
            graph,
            ctx: options.ctx,
        })
    }

    pub fn session(&mut self) -> Session<B> {
        Session::new(self.graph.cache(self.ctx).unwrap())
    }

    pub fn probe(&mut self, probe: Probe) {
        self.graph.set_probe(Some(probe));
    }

    /// Logits after each token: in chunks up to `decode_from`, then one by one.
    pub fn logits(&mut self, tokens: &[TokenId], decode_from: usize) -> Vec<f32> {
        let mut session = self.session();
        let mut all = Vec::new();
        let (prompt, rest) = tokens.split_at(decode_from.min(tokens.len()));
        let mut keep = |row: &[f32]| {
            all.extend_from_slice(row);
            Ok(())
        };
        session
            .prefill_all_logits(&mut self.graph, prompt, &mut keep)
            .unwrap();
        for token in rest {
            session.decode(&mut self.graph, *token).unwrap();
            all.extend_from_slice(session.logits());
        }
        all
    }
}
