//! Synthetic models: whole, runnable, repeatable, and routed like real text.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::Loaded;
use infall::backend::cpu::Cpu;
use infall::error::{ErrorKind, Result};
use infall::gguf::Gguf;
use infall::graph::Graph;
use infall::graph::weights::Weights;
use infall::model::Model;
use infall::model::experts::ExpertRef;
use infall::options::{KernelChoice, KvFormat, Options};
use infall::os::File;
use infall::rng::Rng;
use infall::session::Session;
use infall::supply::{self, ExpertSupply, Opening, Stats};
use infall::synth::{Plan, Request};
use infall::units::{ExpertId, LayerId, TokenId};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

fn request(shape: &str) -> Request {
    Request {
        shape: shape.into(),
        n_layer: None,
        n_expert: None,
        n_vocab: None,
        alias_layers: None,
        alignment: None,
        seed: 1,
    }
}

/// Which experts each layer used, token by token.
type Routes = Arc<Mutex<Vec<Vec<Vec<ExpertId>>>>>;

/// A supply that notes what is asked of it.
struct Recorder {
    inner: Box<dyn ExpertSupply>,
    routes: Routes,
}

impl ExpertSupply for Recorder {
    fn begin(&mut self, layer: LayerId, experts: &[ExpertId], counts: &[usize]) -> Result<()> {
        self.routes.lock().unwrap()[layer.0].push(experts.to_vec());
        self.inner.begin(layer, experts, counts)
    }
    fn next(&mut self) -> Result<&[usize]> {
        self.inner.next()
    }
    fn expert(&self, layer: LayerId, expert: ExpertId) -> ExpertRef<'_> {
        self.inner.expert(layer, expert)
    }
    fn stats(&self) -> Stats {
        self.inner.stats()
    }
}

/// Routes of the tokens, and the logits of the last; `greedy` more tokens are the likeliest ones.
fn routes(path: &Path, tokens: &[TokenId], greedy: usize) -> (Vec<Vec<Vec<ExpertId>>>, Vec<f32>) {
    let options = Options::new(path);
    let file = File::open(path).unwrap();
    let model = Model::bind(Gguf::read(&file).unwrap()).unwrap();
    let opened = supply::strategy("full").unwrap()(Opening {
        path,
        file: &file,
        model: &model,
        options: &options.supply,
        budget: u64::MAX,
        progress: &mut |_, _| {},
    })
    .unwrap();
    let mut cpu = Cpu::new(KernelChoice::Auto, 2).unwrap();
    let weights = Weights::load(&model, &opened.fixed, &mut cpu, KvFormat::F16).unwrap();
    let routes = Routes::new(Mutex::new(vec![Vec::new(); model.config.n_layer]));
    let recorder = Recorder {
        inner: opened.experts,
        routes: Arc::clone(&routes),
    };
    let config = model.config;
    let mut graph =
        Graph::new(config, cpu, weights, Box::new(recorder), 16, KvFormat::F16).unwrap();
    let mut session = Session::new(graph.cache(4096).unwrap());
    for token in tokens {
        session.decode(&mut graph, *token).unwrap();
    }
    for _ in 0..greedy {
        let logits = session.logits();
        let best = (0..logits.len())
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
            .unwrap();
        session.decode(&mut graph, TokenId(best as u32)).unwrap();
    }
    let routes = std::mem::take(&mut *routes.lock().unwrap());
    (routes, session.logits().to_vec())
}

/// Share of the experts that the token before used too.
fn overlap(routes: &[Vec<ExpertId>]) -> f64 {
    let shared = |w: &[Vec<ExpertId>]| w[1].iter().filter(|e| w[0].contains(e)).count();
    let all: usize = routes[1..].iter().map(Vec::len).sum();
    routes.windows(2).map(shared).sum::<usize>() as f64 / all as f64
}

/// Share of all uses that the `part` most used of `n` experts have.
fn top_share(routes: &[Vec<ExpertId>], n: usize, part: f64) -> f64 {
    let mut count = vec![0; n];
    routes
        .iter()
        .flatten()
        .for_each(|e| count[e.0 as usize] += 1);
    count.sort_unstable_by(|a, b| b.cmp(a));
    let top = ((n as f64 * part) as usize).max(1);
    count[..top].iter().sum::<usize>() as f64 / count.iter().sum::<usize>() as f64
}

/// Prints the figures of a file: `SYNTH_FILE=model.gguf cargo test --test synth -- --ignored --nocapture measure`.
#[test]
#[ignore = "measures a file that it is given"]
fn measure() {
    let path = PathBuf::from(std::env::var_os("SYNTH_FILE").expect("SYNTH_FILE names a file"));
    let n: usize = std::env::var("N").map_or(400, |n| n.parse().unwrap());
    let mut rng = Rng::new(9);
    let uniform: Vec<TokenId> = (0..n)
        .map(|_| TokenId(12 + rng.below(4084) as u32))
        .collect();
    let text = include_str!("../README.md").as_bytes();
    let bytes: Vec<TokenId> = text
        .iter()
        .take(n)
        .map(|b| TokenId(12 + u32::from(*b)))
        .collect();
    let n_expert = Model::bind(Gguf::read(&File::open(&path).unwrap()).unwrap())
        .unwrap()
        .config
        .n_expert;
    for (what, tokens, greedy) in [
        ("random", &uniform, 0),
        ("text", &bytes, 0),
        ("greedy", &bytes[..16].to_vec(), n),
    ] {
        let (routes, logits) = routes(&path, tokens, greedy);
        let mean = logits.iter().sum::<f32>() / logits.len() as f32;
        let sd =
            (logits.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / logits.len() as f32).sqrt();
        println!("{what}: logits {mean} +- {sd}");
        for (l, routes) in routes.iter().enumerate() {
            let routes = &routes[routes.len() / 4..];
            println!(
                "  layer {l}: overlap {:.3}, after 8 {:.3}, top 5% {:.3}, 10% {:.3}, 25% {:.3}, 50% {:.3}",
                overlap(routes),
                overlap(&routes.iter().step_by(8).cloned().collect::<Vec<_>>()),
                top_share(routes, n_expert, 0.05),
                top_share(routes, n_expert, 0.1),
                top_share(routes, n_expert, 0.25),
                top_share(routes, n_expert, 0.5),
            );
        }
    }
}
