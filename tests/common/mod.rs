//! What the integration tests share: fixtures, and a model opened below the engine.
#![allow(dead_code)]

use infall::backend::cpu::{Cpu, dispatch};
use infall::error::Result;
use infall::gguf::Gguf;
use infall::graph::weights::Weights;
use infall::graph::{Graph, Lengths, Probe};
use infall::model::Model;
use infall::options::{Budget, KernelChoice, Options};
use infall::os::File;
use infall::session::Session;
use infall::supply::{self, Opening};
use infall::units::TokenId;
use std::path::{Path, PathBuf};

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

/// A model on the CPU, below the engine.
pub struct Loaded {
    pub graph: Graph<Cpu>,
    pub ctx: usize,
}

impl Loaded {
    pub fn open(options: &Options) -> Result<Loaded> {
        let file = File::open(&options.model)?;
        let model = Model::bind(Gguf::read(&file)?)?;
        let strategy = supply::built(&options.strategy)?;
        let budget = match options.supply.budget {
            Budget::Auto => u64::MAX,
            Budget::Experts(n) => n * (strategy.needs)(&options.model, &model)?.slab,
            Budget::Bytes(n) => n,
        };
        let opened = (strategy.open)(Opening {
            path: &options.model,
            file: &file,
            model: &model,
            options: &options.supply,
            budget,
            progress: &mut |_, _| {},
        })?;
        let mut cpu = Cpu::new(options.kernels, options.threads.max(1))?;
        let weights = Weights::load(&model, &opened.fixed, &mut cpu, options.kv)?;
        let graph = Graph::new(
            model.config,
            cpu,
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

    pub fn session(&mut self) -> Session<Cpu> {
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
