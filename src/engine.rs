//! The engine as the command line and the server see it: open a model, hold sessions, generate tokens.

use crate::backend::cpu::Cpu;
use crate::backend::{self, Backend};
use crate::error::{Context, Error, Result};
use crate::gguf;
use crate::graph::weights::Weights;
use crate::graph::{Graph, Lengths, RouteProbe, Routing};
use crate::options::{Budget, DEFAULT_CTX, Options};
use crate::os::share::Device;
use crate::os::{File, ReadAt};
use crate::routes;
use crate::session::file::Origin;
pub use crate::supply::probe::Probe;
use crate::supply::{Opened, Opening, probe};
use crate::text::tokenizer::Tokenizer;
use crate::text::vocabulary::Vocabulary;
use crate::units::{Bytes, LayerId, Phase, TokenId};
use machine::Machine;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use crate::backend::profile::{Profile, Stage, Stages};
pub use crate::gguf::{Gguf, TensorInfo, header, survey};
pub use crate::graph::SupplyWatch;
pub use crate::json::recogniser::Rules as JsonRules;
pub use crate::model::Model;
pub use crate::model::config::LayerKind;
pub use crate::os::{FileSet, give_memory_back, interrupt, meter, poll};
pub use crate::plan::Plan;
pub use crate::sampler::adjust::{Adjust, MAX_LAST_N};
pub use crate::sampler::guide::Guide;
pub use crate::sampler::vocabulary::GuideVocabulary;
pub use crate::sampler::{Sampler, SamplerOptions};
pub use crate::schema::Schema;
pub use crate::session::Prefill;
pub use crate::session::store::{self as sessions, Store};
pub use crate::supply::{
    ExpertUse, Stats as SupplyStats, StatsTable as SupplyTable, default_strategy,
};
pub use crate::text::call_grammar::CallForm;
pub use crate::text::{answer, chat, stops, stream, tokenizer};

mod form;
mod generated;
mod machine;

pub use form::{Form, guide, guide_vocabulary};
pub use generated::{Chosen, Generated, Stop};
pub use machine::{Conversation, Session, SessionCheckpoint};

/// A model file that was understood, before its weights are loaded: what can be wrong with a prompt or an
/// option shows here.
pub struct Prepared {
    options: Options,
    plan: Plan,
    /// Makes the machine smaller.
    held: Option<meter::Held>,
    files: FileSet,
    model: Model,
    tokenizer: Tokenizer,
}

/// A model, ready to compute.
pub struct Engine {
    machine: Box<dyn Machine>,
    tokenizer: Arc<Tokenizer>,
    name: String,
    strategy: &'static str,
    streams: bool,
    ctx: usize,
    /// Tokens that go through one layer before the next in prefill.
    sweep: usize,
    notes: Vec<String>,
    fixed_locked: u64,
    files: FileSet,
    parts: Vec<gguf::Part>,
    /// See [`routes::model_hash`]; once it was needed.
    model_hash: Option<u64>,
    /// Makes the machine smaller, as long as the engine lives.
    _held: Option<meter::Held>,
}

/// The plan that takes the least memory for a model in `files`, all other options being the defaults. It may take more than
/// there is.
///
/// Errors: a vocabulary that contradicts itself, or has more tokens than the model.
pub fn least_plan(files: &FileSet, model: &Model) -> Result<Plan> {
    let mut options = Options::new(&model.gguf.name);
    options.strategy = default_strategy().into();
    options.supply.budget = Budget::Least;
    options.overcommit = true;
    let tokenizer = tokenizer_for(model)?;
    let ctx = context(&options, model);
    Plan::new(files, model, &options, ctx, tokenizer.memory_bytes())
}

/// Reads the vocabulary of a model file; the file may hold nothing else.
///
/// Errors: as [`header`], and a vocabulary that contradicts itself.
pub fn vocabulary(path: &Path) -> Result<Tokenizer> {
    tokenizer_of(&header(path)?)
}

/// Measures how fast the experts of a model can be read; see [`probe::read_experts`].
///
/// Errors: as [`header`], no model of this architecture, a failed read.
pub fn io_probe(path: &Path, n_readers: usize, queue: usize, bytes: u64) -> Result<Probe> {
    let (files, gguf) = gguf::open(path)?;
    let model = Model::bind(gguf)?;
    probe::read_experts(&files, &model.experts, n_readers, queue, bytes)
}

fn model_hash(files: &FileSet, parts: &[gguf::Part]) -> Result<u64> {
    let starts = parts.iter().map(|p| p.data_start - p.start);
    routes::model_hash(files.files().zip(starts))
}

/// The tokenizer of a model that has a row for each token.
fn tokenizer_for(model: &Model) -> Result<Tokenizer> {
    let tokenizer = tokenizer_of(&model.gguf)?;
    let (n_tokens, n_vocab) = (tokenizer.len(), model.config.n_vocab);
    if n_tokens > n_vocab {
        let name = &model.gguf.name;
        return Err(Error::format(format!(
            "{name}: found {n_tokens} tokens, expected at most {n_vocab}, the rows of the output"
        )));
    }
    Ok(tokenizer)
}

/// Tokens of context: as asked for, else the default.
fn context(options: &Options, model: &Model) -> usize {
    match options.ctx {
        0 => DEFAULT_CTX.min(model.config.n_ctx_train),
        ctx => ctx,
    }
}

fn tokenizer_of(gguf: &Gguf) -> Result<Tokenizer> {
    Tokenizer::new(Vocabulary::read(gguf)?).context(|| &gguf.name)
}

/// Begins a trace of routing in a new file at `path`.
///
/// Errors: the path is that of the model, or the file cannot be written.
fn route_trace(
    path: &Path,
    files: &FileSet,
    model: &Model,
    lengths: Lengths,
) -> Result<RouteProbe> {
    // What does not exist is no model.
    let is_model = std::fs::canonicalize(path).is_ok_and(|path| {
        let same = |file: &File| std::fs::canonicalize(file.path()).is_ok_and(|p| p == path);
        files.files().any(same)
    });
    if is_model {
        let path = path.display();
        return Err(Error::usage(format!(
            "--trace-routes: found {path}, the model itself, expected a file to write"
        )));
    }
    let (c, name) = (&model.config, Path::new(&model.gguf.name).file_name());
    let header = routes::Header {
        model: name.map_or(String::new(), |n| n.to_string_lossy().into_owned()),
        model_hash: model_hash(files, &model.gguf.parts)?,
        n_layer: c.n_layer,
        n_expert: c.n_expert,
        n_used: c.n_expert_used,
        n_vocab: c.n_vocab,
    };
    let out = std::fs::File::create(path).map_err(|e| Error::io(path.display(), &e))?;
    let name = path.display().to_string();
    let mut recorder = routes::Recorder::new(out, &name, header, lengths.sweep)?;
    Ok(Box::new(move |what| {
        match what {
            Routing::Begin { phase, n_tokens } => recorder.begin(phase, n_tokens),
            Routing::Chosen { layer, tokens, ids } => recorder.chosen(layer, tokens, ids),
            Routing::End => return recorder.end(),
        }
        Ok(())
    }))
}

impl Prepared {
    /// Reads everything of a model file but its weights.
    ///
    /// Errors: wrong options, an unreadable or foreign file, memory to hold that is refused.
    pub fn new(options: Options) -> Result<Prepared> {
        options.validate()?;
        let (files, gguf) = gguf::open(&options.model)?;
        let model = Model::bind(gguf)?;
        let tokenizer = tokenizer_for(&model)?;
        let ctx = context(&options, &model);
        let bytes = options.simulate_used_memory;
        let held = (bytes > 0).then(|| meter::simulate_used_memory(bytes));
        let held = held.transpose().context(|| "--simulate-used-memory")?;
        let plan = Plan::new(&files, &model, &options, ctx, tokenizer.memory_bytes());
        let plan = match held {
            Some(_) => plan.context(|| format!("with {} held", Bytes(bytes)))?,
            None => plan?,
        };
        Ok(Prepared {
            options,
            plan,
            held,
            files,
            model,
            tokenizer,
        })
    }

    /// What was decided, and what it takes.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Watches memory and the model files' part of the page cache from now on, every `interval`.
    ///
    /// Errors: a file cannot be opened again, or a thread is refused.
    pub fn watch(&self, interval: Duration) -> Result<meter::Sampler> {
        meter::Sampler::start(interval, Some(self.files.reopen()?))
    }

    /// Drops the model's files from the page cache and returns the bytes that are left there; see [`meter::drop_cached`].
    pub fn drop_cached(&self) -> Option<u64> {
        meter::drop_cached_of(&self.files)
    }

    /// What tells this model from others; see [`routes::model_hash`].
    ///
    /// Errors: a failed read.
    pub fn model_hash(&self) -> Result<u64> {
        model_hash(&self.files, &self.model.gguf.parts)
    }

    /// The model file by meaning.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The name of the kernel table that will compute.
    ///
    /// Errors: this CPU lacks what the options ask for.
    pub fn kernels(&self) -> Result<&'static str> {
        self.plan.backend.kernels(self.options.kernels)
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Things worth telling that are no faults.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.model.notes.clone();
        notes.extend(self.plan.notes.iter().cloned());
        let trained = self.model.config.n_ctx_train;
        if self.plan.ctx > trained {
            notes.push(format!(
                "--ctx {} is more than the {trained} tokens the model was trained for",
                self.plan.ctx
            ));
        }
        notes
    }

    /// An error when `n` tokens do not fit the context.
    pub fn check_prompt(&self, n: usize) -> Result<()> {
        let ctx = self.plan.ctx;
        if n > ctx {
            return Err(Error::usage(format!(
                "the prompt has {n} tokens, expected at most {ctx} (--ctx sets the size of the context)"
            )));
        }
        Ok(())
    }

    /// Loads the weights; `progress(done, all)` tells the bytes loaded.
    ///
    /// Errors: a failed read, refused memory, kernels that this CPU cannot run.
    pub fn load(self, progress: &mut dyn FnMut(u64, u64)) -> Result<Engine> {
        let Prepared {
            options,
            plan,
            held,
            files,
            model,
            tokenizer,
        } = self;
        files.remember()?;
        let name = model.gguf.name.clone();
        let trace = options.trace_routes.as_deref();
        let trace = trace.map(|path| route_trace(path, &files, &model, plan.lengths));
        let trace = trace.transpose()?;
        let parts = model.gguf.parts.clone();
        let loading = Loading {
            name: &name,
            options: &options,
            plan: &plan,
            files: &files,
            model,
            progress,
        };
        let Loaded {
            mut machine,
            notes,
            fixed_locked,
        } = match plan.backend {
            backend::Chosen::Cpu => loading.on(Cpu::new(options.kernels, plan.n_threads)?, None)?,
            #[cfg(any(target_os = "macos", feature = "metal-sim"))]
            backend::Chosen::Metal(_) => {
                let metal = crate::backend::metal::Metal::new()?;
                let memory = metal.memory();
                loading.on(metal, Some(&(memory as _)))?
            }
        };
        machine.set_route_probe(trace);
        Ok(Engine {
            machine,
            tokenizer: Arc::new(tokenizer),
            name: name.clone(),
            strategy: plan.strategy,
            streams: plan.streams,
            ctx: plan.ctx,
            sweep: plan.lengths.sweep,
            notes,
            fixed_locked,
            files,
            parts,
            model_hash: None,
            _held: held,
        })
    }
}

/// What [`Prepared::load`] has until there is a backend.
struct Loading<'a> {
    name: &'a str,
    options: &'a Options,
    plan: &'a Plan,
    files: &'a FileSet,
    model: Model,
    progress: &'a mut dyn FnMut(u64, u64),
}

/// What it finds.
struct Loaded {
    machine: Box<dyn Machine>,
    notes: Vec<String>,
    fixed_locked: u64,
}

impl Loading<'_> {
    /// Loads the weights for a backend, and for the device it reads experts with, if it is not the CPU.
    fn on<B: Backend + 'static>(
        self,
        mut backend: B,
        device: Option<&Arc<dyn Device>>,
    ) -> Result<Loaded> {
        let (options, plan, name) = (self.options, self.plan, self.name);
        let opened = (plan.built.open)(Opening {
            files: self.files,
            model: &self.model,
            options: &options.supply,
            budget: plan.budget,
            device,
            progress: self.progress,
        });
        let Opened {
            fixed,
            experts,
            mut notes,
        } = opened.context(|| name)?;
        notes.extend(fixed.lock().note());
        let weights = Weights::load(&self.model, &fixed, &mut backend, options.kv);
        let (weights, config) = (weights.context(|| name)?, self.model.config);
        let graph = Graph::new(config, backend, weights, experts, plan.lengths, options.kv)?;
        Ok(Loaded {
            machine: Box::new(graph),
            notes,
            fixed_locked: fixed.lock().locked,
        })
    }
}

impl Engine {
    /// The model file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An error when the model's files are not what they were when they were opened, or cannot be read any more. It stays,
    /// and nothing can be computed.
    pub fn check(&self) -> Result<()> {
        self.machine.check()?;
        self.files.check()
    }

    /// A note for the user when a file has another time and nothing else changed; once for each file.
    pub fn take_note(&self) -> Option<String> {
        self.files.take_note()
    }

    /// The result, or why nothing can be computed any more: that tells more than the read that failed for it.
    fn explained<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| self.check().err().unwrap_or(error))
    }

    /// Bytes of weights that the system keeps from being swapped out.
    pub fn locked_bytes(&self) -> u64 {
        self.fixed_locked + self.machine.locked_bytes()
    }

    /// What the supply of experts did so far, by layer and phase.
    ///
    /// Panics when the figures contradict each other: a wrong one must not be told.
    pub fn supply_table(&self) -> &SupplyTable {
        let table = self.machine.supply_table();
        let all = self.machine.supply_stats();
        assert_eq!(
            table.total(),
            all,
            "the layers' figures sum to those of all"
        );
        for layer in (0..table.n_layer()).map(LayerId) {
            for phase in Phase::ALL {
                let s = table.cell(layer, phase);
                let whole = s.hits + s.misses == s.touches;
                assert!(
                    whole,
                    "hits + misses == touches: {layer:?}, {phase:?}, {s:?}"
                );
            }
        }
        table
    }

    /// Notes from now on where the time goes; what was noted before is forgotten.
    pub fn start_profile(&mut self) {
        self.machine.start_profile();
    }

    /// Where the time went since the last [`Engine::start_profile`], up to now; `None` without that call.
    pub fn profile(&mut self) -> Option<&Profile> {
        self.machine.profile()
    }

    /// Whether experts are read as they are needed.
    pub fn streams(&self) -> bool {
        self.streams
    }

    /// What opening the weights brought to light.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Strategy, backend and kernel table.
    pub fn describe(&self) -> String {
        format!("strategy {}, {}", self.strategy, self.describe_backend())
    }

    /// Backend and kernel table.
    pub fn describe_backend(&self) -> String {
        self.machine.describe()
    }

    /// The model's files, to look at their part of the page cache.
    ///
    /// Errors: one cannot be opened again.
    pub fn model_files(&self) -> Result<FileSet> {
        self.files.reopen()
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Tokens that a session holds at most.
    pub fn ctx(&self) -> usize {
        self.ctx
    }

    /// Tokens that go through one layer before the next in prefill: pieces of a prompt of this length, or a multiple of
    /// it, read no expert more often than the whole does.
    pub fn sweep(&self) -> usize {
        self.sweep
    }

    /// What the supply of experts did so far.
    pub fn supply_stats(&self) -> SupplyStats {
        self.machine.supply_stats()
    }

    /// What became of each expert so far, `[n_layer, n_expert]`.
    pub fn expert_uses(&self) -> Vec<ExpertUse> {
        self.machine.expert_uses()
    }

    /// Tells `watch` from now on, after each layer, what the supply of experts does; see [`SupplyWatch`].
    pub fn set_supply_watch(&mut self, watch: SupplyWatch) {
        self.machine.set_supply_watch(Some(watch));
    }

    /// An empty session.
    ///
    /// Errors: memory is refused.
    pub fn session(&mut self) -> Result<Session> {
        self.machine.session(self.ctx)
    }

    /// Appends a prompt; see [`crate::session::Session::prefill`].
    pub fn prefill(
        &mut self,
        session: &mut Session,
        tokens: &[TokenId],
        keep_going: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Prefill> {
        let done = self.machine.prefill(session, tokens, keep_going);
        self.explained(done)
    }

    /// Appends a prompt and gives all logits; see [`crate::session::Session::prefill_all_logits`].
    pub fn prefill_all_logits(
        &mut self,
        session: &mut Session,
        tokens: &[TokenId],
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let done = self.machine.prefill_all_logits(session, tokens, sink);
        self.explained(done)
    }

    /// Appends a window of tokens to each session; see [`crate::session::Session::prefill_windows`].
    pub fn prefill_windows(
        &mut self,
        sessions: &mut [Session],
        tokens: &[TokenId],
        rows: Range<usize>,
        keep_going: &mut dyn FnMut(usize) -> bool,
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<bool> {
        let done = self
            .machine
            .prefill_windows(sessions, tokens, rows, keep_going, sink);
        self.explained(done)
    }

    /// Appends one token.
    pub fn decode(&mut self, session: &mut Session, token: TokenId) -> Result<()> {
        let done = self.machine.decode(session, token);
        self.explained(done)
    }

    /// Keeps what is needed to come back to this point.
    pub fn checkpoint(&mut self, session: &Session) -> Result<SessionCheckpoint> {
        self.machine.checkpoint(session)
    }

    /// Comes back to a checkpoint.
    pub fn rewind(&mut self, session: &mut Session, to: &SessionCheckpoint) -> Result<()> {
        self.machine.rewind(session, to)
    }

    /// Puts what `from` held at a checkpoint of it in the place of what `to` holds; see
    /// [`crate::session::Session::copy`].
    ///
    /// Errors: `from` was cleared since; refused memory, a failed device.
    pub fn copy(&mut self, to: &mut Session, from: &Session, at: &SessionCheckpoint) -> Result<()> {
        self.machine.copy(to, from, at)
    }

    /// What sessions of this engine are computed with.
    fn origin(&mut self) -> Result<Origin> {
        // What is saved is found again by the bytes that the files have now.
        self.check()?;
        let hash = match self.model_hash {
            Some(hash) => hash,
            None => model_hash(&self.files, &self.parts)?,
        };
        self.model_hash = Some(hash);
        Ok(self.machine.origin(hash))
    }

    /// Saves a session, under a name that tells contents apart if none is given, and returns the name; see
    /// [`Store::save`].
    ///
    /// Errors: no space, a failed write; an older session of this name is still there then.
    pub fn save(
        &mut self,
        session: &mut Session,
        store: &Store,
        name: Option<&str>,
    ) -> Result<String> {
        let origin = self.origin()?;
        self.machine.save(session, &[], origin, store, name, None)
    }

    /// Saves a session under a name of the program's own with points of it, in ascending order, each with whether others
    /// share it. Then what holds nothing but a beginning of it is removed. `spared` is not removed to make room.
    ///
    /// Errors: no space, a failed write.
    pub fn save_with_points(
        &mut self,
        session: &mut Session,
        store: &Store,
        points: &[(&SessionCheckpoint, bool)],
        spared: Option<&str>,
    ) -> Result<()> {
        let origin = self.origin()?;
        let (machine, kept) = (&mut self.machine, origin.clone());
        let name = machine.save(session, points, origin, store, None, spared)?;
        store.remove_beginnings(&kept, session.tokens(), &name)
    }

    /// Puts a saved session in the place of what this one holds.
    ///
    /// Errors: none of this name, damage, a session of another model, form or arithmetic, more tokens than fit: the
    /// session is as it was then, unless the file changes at that moment.
    pub fn restore(&mut self, session: &mut Session, store: &Store, name: &str) -> Result<()> {
        let origin = self.origin()?;
        if !session.tokens().is_empty() {
            store.read(name)?.verify()?;
        }
        self.machine
            .restore(session, &origin, &mut store.read(name)?)?;
        store.touch(name);
        Ok(())
    }

    /// The saved session that `tokens` begin with most of.
    ///
    /// Errors: as [`Engine::restore_prefix`].
    pub fn saved_prefix(
        &mut self,
        store: &Store,
        tokens: &[TokenId],
    ) -> Result<Option<sessions::Beginning>> {
        let origin = self.origin()?;
        Ok(store.prefixes(&origin, tokens)?.found.into_iter().next())
    }

    /// Puts the longest saved session that `tokens` begin with in the place of what this one holds, and returns how many
    /// tokens that are: 0 when there is none, and the session is empty then. What could not be used is told to `note`.
    ///
    /// Errors: a folder that cannot be read. A session that cannot be restored is no error.
    pub fn restore_prefix(
        &mut self,
        session: &mut Session,
        store: &Store,
        tokens: &[TokenId],
        note: &mut dyn FnMut(&str),
    ) -> Result<usize> {
        self.restore_with_points(session, store, tokens, note)?;
        Ok(session.tokens().len())
    }

    /// As [`Engine::restore_prefix`], and gives the points of what was restored, in ascending order, each with whether
    /// others share it. The last may be its end.
    ///
    /// Errors: the same.
    pub fn restore_with_points(
        &mut self,
        session: &mut Session,
        store: &Store,
        tokens: &[TokenId],
        note: &mut dyn FnMut(&str),
    ) -> Result<Vec<(SessionCheckpoint, bool)>> {
        session.clear();
        let origin = self.origin()?;
        let found = store.prefixes(&origin, tokens)?;
        found.notes.iter().for_each(|text| note(text));
        for beginning in found.found {
            match self.take_up(session, store, &origin, &beginning) {
                Err(error) => note(&error.to_string()),
                // Two lists of tokens may have one hash.
                Ok(points) if tokens.starts_with(session.tokens()) => {
                    store.touch(&beginning.name);
                    return Ok(points);
                }
                Ok(_) => {}
            }
            session.clear();
        }
        Ok(Vec::new())
    }

    /// Restores a session up to where it is a beginning.
    fn take_up(
        &mut self,
        session: &mut Session,
        store: &Store,
        origin: &Origin,
        beginning: &sessions::Beginning,
    ) -> Result<Vec<(SessionCheckpoint, bool)>> {
        let mut from = store.read(&beginning.name)?;
        let states = self.machine.restore(session, origin, &mut from)?;
        let flags = from.header().points.iter().map(|point| point.is_shared);
        let mut points: Vec<(SessionCheckpoint, bool)> = states.into_iter().zip(flags).collect();
        points.retain(|(state, _)| state.n_tokens() <= beginning.n_tokens);
        if session.tokens().len() > beginning.n_tokens {
            match points.last() {
                Some((state, _)) if state.n_tokens() == beginning.n_tokens => {
                    self.machine.rewind(session, state)?;
                }
                _ => return Err(Error::format(format!("{}: a point is gone", from.name()))),
            }
        }
        Ok(points)
    }

    /// Chooses up to `n` tokens behind what the session holds and gives each to `emit`.
    /// Stops where the turn ends, at the end of the context, or when `emit` answers false. A turn ends at the end token, or
    /// where the model begins the next one itself: at the token of a speaker or at the start token. None of them is given.
    ///
    /// Errors: a failed read, logits that are no numbers, and those of `emit`.
    pub fn generate(
        &mut self,
        session: &mut Session,
        sampler: &mut Sampler,
        n: usize,
        emit: &mut dyn FnMut(Chosen<'_>) -> Result<bool>,
    ) -> Result<Generated> {
        let mut done = Generated {
            n_tokens: 0,
            stop: Stop::Length,
            pending: None,
        };
        let ends = self.tokenizer.ends_of_turn();
        while done.n_tokens < n {
            if let Some(token) = done.pending.take() {
                if session.room() == 0 {
                    return Ok(Generated {
                        stop: Stop::ContextFull,
                        pending: Some(token),
                        ..done
                    });
                }
                self.decode(session, token)?;
            }
            let token = sampler.sample(session.logits())?;
            done.pending = Some(token);
            if ends.contains(&Some(token)) {
                return Ok(Generated {
                    stop: Stop::EndOfTurn,
                    ..done
                });
            }
            done.n_tokens += 1;
            let chosen = Chosen {
                token,
                bytes: self.tokenizer.token_bytes(token),
                logits: session.logits(),
            };
            if !emit(chosen)? {
                return Ok(Generated {
                    stop: Stop::Asked,
                    ..done
                });
            }
        }
        Ok(done)
    }
}
