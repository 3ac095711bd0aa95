//! The engine as the command line and the server see it: open a model, hold sessions, generate tokens.

use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::error::{Context, Error, Result};
use crate::graph::Graph;
use crate::graph::kv::Checkpoint;
use crate::graph::weights::Weights;
use crate::os::{self, File};
use crate::options::{DEFAULT_CTX, Options};
use crate::sampler::Sampler;
use crate::supply;
use crate::text::tokenizer::Tokenizer;
use crate::units::TokenId;

pub use crate::gguf::{Gguf, TensorInfo};
pub use crate::model::Model;
pub use crate::model::config::LayerKind;
pub use crate::os::interrupt;
pub use crate::sampler::SamplerOptions;
pub use crate::session::Prefill;
pub use crate::text::{chat, stream, tokenizer};

/// A conversation on this engine.
pub type Session = crate::session::Session<Cpu>;
/// A point that a session can come back to.
pub type SessionCheckpoint = Checkpoint<Cpu>;

/// A model, ready to compute.
pub struct Engine {
    graph: Graph<Cpu>,
    tokenizer: Tokenizer,
    name: String,
    strategy: String,
    ctx: usize,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model ended its turn.
    EndOfTurn,
    /// The number of tokens asked for was reached.
    Length,
    /// The context is full.
    ContextFull,
    /// The caller said stop.
    Asked,
}

/// What a generation did.
#[derive(Clone, Copy, Debug)]
pub struct Generated {
    /// Tokens given out; the end-of-turn token is not one of them.
    pub n_tokens: usize,
    /// Why it ended.
    pub stop: Stop,
    /// The last token chosen, which is not in the session yet: it comes before whatever follows.
    pub pending: Option<TokenId>,
}

/// Reads the directory of a model file and binds its tensors, without its weights.
///
/// Errors: the file cannot be read, is no GGUF, or holds no model of this architecture.
pub fn inspect(path: &std::path::Path) -> Result<Model> {
    let file = File::open(path)?;
    bind(&file)
}

/// Reads the vocabulary of a model file; the file may hold nothing else.
///
/// Errors: as [`inspect`], and a vocabulary that contradicts itself.
pub fn vocabulary(path: &std::path::Path) -> Result<Tokenizer> {
    let file = File::open(path)?;
    let name = path.display();
    let gguf = Gguf::read(&file).context(|| &name)?;
    let vocabulary = crate::model::vocabulary(gguf).context(|| &name)?;
    Tokenizer::new(vocabulary).context(|| &name)
}

fn bind(file: &File) -> Result<Model> {
    Gguf::read(file).and_then(Model::bind).context(|| os::ReadAt::name(file).to_string())
}

impl Engine {
    /// Opens a model; `progress(done, all)` tells the bytes loaded.
    ///
    /// Errors: wrong options, an unreadable or foreign file, refused memory.
    pub fn open(options: &Options, progress: &mut dyn FnMut(u64, u64)) -> Result<Engine> {
        options.validate()?;
        let open_supply = supply::strategy(&options.strategy)?;
        let n_threads = if options.threads == 0 { os::n_cpus() } else { options.threads };
        let mut backend = Cpu::new(options.kernels, n_threads)?;

        let file = File::open(&options.model)?;
        let name = options.model.display().to_string();
        let mut model = bind(&file)?;
        let longest = model.config.n_ctx_train;
        let ctx = if options.ctx == 0 { DEFAULT_CTX.min(longest) } else { options.ctx };
        if ctx > longest {
            return Err(Error::usage(format!("--ctx: found {ctx}, expected at most {longest} for {name}")));
        }
        let tokenizer = Tokenizer::new(model.take_vocabulary()?).context(|| &name)?;
        if tokenizer.len() > model.config.n_vocab {
            let (found, expected) = (tokenizer.len(), model.config.n_vocab);
            return Err(Error::format(format!("{name}: vocabulary of {found} tokens, expected at most {expected}")));
        }
        let opened = open_supply(&file, &model, progress).context(|| &name)?;
        let weights = Weights::load(&model, &opened.fixed, &mut backend, options.kv).context(|| &name)?;
        let chunk = options.prefill_chunk.min(ctx);
        let graph = Graph::new(model.config, backend, weights, opened.experts, chunk, options.kv)?;
        Ok(Engine { graph, tokenizer, name, strategy: options.strategy.clone(), ctx })
    }

    /// The model file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Strategy, backend and kernel table.
    pub fn describe(&mut self) -> String {
        format!("strategy {}, {}", self.strategy, self.graph.backend().describe())
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The graph, for tests and tools that look inside.
    pub fn graph(&mut self) -> &mut Graph<Cpu> {
        &mut self.graph
    }

    /// An empty session.
    ///
    /// Errors: memory is refused.
    pub fn session(&mut self) -> Result<Session> {
        Ok(Session::new(self.graph.cache(self.ctx)?))
    }

    /// Appends a prompt; see [`crate::session::Session::prefill`].
    pub fn prefill(
        &mut self,
        session: &mut Session,
        tokens: &[TokenId],
        keep_going: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Prefill> {
        session.prefill(&mut self.graph, tokens, keep_going)
    }

    /// Appends one token.
    pub fn decode(&mut self, session: &mut Session, token: TokenId) -> Result<()> {
        session.decode(&mut self.graph, token)
    }

    /// Keeps what is needed to come back to this point.
    pub fn checkpoint(&mut self, session: &Session) -> Result<SessionCheckpoint> {
        session.checkpoint(&mut self.graph)
    }

    /// Comes back to a checkpoint.
    pub fn rewind(&mut self, session: &mut Session, to: &SessionCheckpoint) -> Result<()> {
        session.rewind(&mut self.graph, to)
    }

    /// Chooses up to `n` tokens behind what the session holds and gives each to `emit` with its bytes.
    /// Stops at the end-of-turn token, at the end of the context, or when `emit` answers false.
    ///
    /// Errors: a failed read, logits that are no numbers, and those of `emit`.
    pub fn generate(
        &mut self,
        session: &mut Session,
        sampler: &mut Sampler,
        n: usize,
        emit: &mut dyn FnMut(TokenId, &[u8]) -> Result<bool>,
    ) -> Result<Generated> {
        let mut done = Generated { n_tokens: 0, stop: Stop::Length, pending: None };
        while done.n_tokens < n {
            if let Some(token) = done.pending.take() {
                if session.room() == 0 {
                    return Ok(Generated { stop: Stop::ContextFull, pending: Some(token), ..done });
                }
                self.decode(session, token)?;
            }
            let token = sampler.sample(session.logits())?;
            done.pending = Some(token);
            if Some(token) == self.tokenizer.eos() {
                return Ok(Generated { stop: Stop::EndOfTurn, ..done });
            }
            done.n_tokens += 1;
            if !emit(token, self.tokenizer.token_bytes(token))? {
                return Ok(Generated { stop: Stop::Asked, ..done });
            }
        }
        Ok(done)
    }
}
