//! What `run` and `chat` share: sampling flags, streaming an answer to stdout, and its statistics.

use super::args::{Args, Flag};
use super::progress::Progress;
use super::{note, print};
use crate::engine::chat::Thinking;
use crate::engine::stream::Utf8Stream;
use crate::engine::{
    Adjust, Chosen, Engine, Generated, Prefill, Sampler, SamplerOptions, Session,
    SessionCheckpoint, SupplyStats, SupplyTable, interrupt,
};
use crate::error::Result;
use crate::units::{Bytes, Phase, TokenId};
use std::time::{Duration, Instant};

/// Flags of everything that generates.
pub const SAMPLING_FLAGS: &[Flag] = &[
    Flag::with(
        &["-n", "--max-tokens"],
        "N",
        "tokens to generate at most (default 1024; -1: as many as the context holds)",
    ),
    Flag::with(
        &["--temp"],
        "T",
        "temperature (default 1; 0 takes the most likely token)",
    ),
    Flag::with(
        &["--top-p"],
        "P",
        "smallest set of likely tokens with this much probability (default 1: all)",
    ),
    Flag::with(
        &["--min-p"],
        "P",
        "drop tokens less likely than P times the likeliest (default 0.05)",
    ),
    Flag::with(&["--top-k"], "K", "the K likeliest tokens (default 0: all)"),
    Flag::with(
        &["--repeat-penalty"],
        "R",
        "divide logits of the last 64 tokens by R (default 1: as they are)",
    ),
    Flag::with(
        &["--frequency-penalty"],
        "F",
        "take F from the logit of a token for each time it was said (default 0)",
    ),
    Flag::with(
        &["--presence-penalty"],
        "F",
        "take F from the logit of a token that was said (default 0)",
    ),
    Flag::with(
        &["--seed"],
        "S",
        "seed of the sampler (default: random, printed)",
    ),
    Flag::with(
        &["--trace-routes"],
        "FILE",
        "write which experts each token chose, computed tokens in order (format: src/routes.rs)",
    ),
    Flag::switch(&["--think"], "let the model reason first"),
    Flag::switch(&["--nothink"], "answer at once (default)"),
];

/// Tokens generated when `-n` is not given.
const MAX_TOKENS: usize = 1024;

/// What the flags ask for.
pub struct Settings {
    /// Chooses tokens.
    pub sampler: Sampler,
    /// Changes of what they are chosen from.
    adjust: Adjust,
    /// Tokens of an answer at most.
    pub n: usize,
    /// Whether to reason first.
    pub thinking: Thinking,
    /// No progress and no statistics.
    pub quiet: bool,
    /// A seed that the user did not choose, but may want again.
    seed_to_tell: Option<u64>,
}

impl Settings {
    /// Reads the flags.
    pub fn new(args: &Args) -> Result<Settings> {
        let defaults = SamplerOptions::default();
        let seed: Option<u64> = args.number("--seed")?;
        let options = SamplerOptions {
            temperature: args.number("--temp")?.unwrap_or(defaults.temperature),
            top_k: args.number("--top-k")?.unwrap_or(defaults.top_k),
            top_p: args.number("--top-p")?.unwrap_or(defaults.top_p),
            min_p: args.number("--min-p")?.unwrap_or(defaults.min_p),
            seed: seed.unwrap_or_else(random_seed),
        };
        let thinking = if args.has("--think") && !args.has("--nothink") {
            Thinking::On
        } else {
            Thinking::Off
        };
        let quiet = args.has("--quiet");
        let drawn = seed.is_none() && options.temperature > 0.0 && !quiet;
        let seed_to_tell = drawn.then_some(options.seed);
        let sampler = Sampler::new(options)?;
        let neutral = Adjust::default();
        let penalty = |flag, neutral| Ok(args.number(flag)?.unwrap_or(neutral));
        let adjust = Adjust {
            repeat: penalty("--repeat-penalty", neutral.repeat)?,
            frequency: penalty("--frequency-penalty", neutral.frequency)?,
            presence: penalty("--presence-penalty", neutral.presence)?,
            ..neutral
        };
        adjust.validate()?;
        Ok(Settings {
            sampler,
            adjust,
            n: match args.text("-n")? {
                Some("-1") => usize::MAX,
                _ => args.number("-n")?.unwrap_or(MAX_TOKENS),
            },
            thinking,
            quiet,
            seed_to_tell,
        })
    }

    /// Prints a seed that the user did not choose, once.
    pub fn tell_seed(&mut self) {
        if let Some(seed) = self.seed_to_tell.take() {
            note(&format!("seed {seed}\n"));
        }
    }
}

fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds each map's hasher from the system.
    std::hash::RandomState::new().build_hasher().finish()
}

/// What came from a saved session instead of being computed.
#[derive(Clone, Copy, Default)]
pub struct Restored {
    /// Tokens.
    pub n_tokens: usize,
    /// Time for the search and the read.
    pub time: Duration,
}

/// What is to be answered.
pub struct Prompt<'a> {
    /// What the session holds of it already, and where that comes from.
    pub restored: Restored,
    /// The tokens that it does not hold yet.
    pub tokens: &'a [TokenId],
    /// Whether the point before the last of them, the opener, is kept.
    pub keep_point: bool,
    /// Saves the session when all is read, before the answer, and tells whether it did.
    pub save: &'a mut dyn FnMut(&mut Engine, &mut Session) -> bool,
}

/// Figures of one answer.
#[derive(Default)]
pub struct Stats {
    restored: Restored,
    /// Time for saving the session, if it was; it counts for nothing else.
    save: Option<Duration>,
    n_prompt: usize,
    prefill: Duration,
    n_generated: usize,
    first_token: Option<Duration>,
    decode: Duration,
    /// From the start to the end, the tokens that were computed but not shown too.
    all: Duration,
    /// What the supply of experts did for it.
    supply: SupplyTable,
}

impl Stats {
    /// One line.
    pub fn line(&self, engine: &Engine) -> String {
        let rate = |n: usize, time: Duration| {
            if n > 0 {
                format!("{:.1}", n as f64 / time.as_secs_f64().max(1e-9))
            } else {
                "-".into()
            }
        };
        let first = self
            .first_token
            .map_or("-".into(), |t| format!("{:.3}", t.as_secs_f64()));
        // The first token comes from the prefill's logits, so one decode less than tokens was timed.
        let decoded = self.n_generated.saturating_sub(1);
        let restored = match self.restored {
            Restored { n_tokens: 0, .. } => String::new(),
            Restored { n_tokens, time } => {
                format!(
                    "restored {n_tokens} tokens in {:.3} s; ",
                    time.as_secs_f64()
                )
            }
        };
        let saved = self.save.map_or(String::new(), |time| {
            format!(", saved in {:.3} s", time.as_secs_f64())
        });
        format!(
            "{restored}prompt {} tokens, {} t/s{saved}; generated {} tokens, {} t/s; first token {first} s; {}\n",
            self.n_prompt,
            rate(self.n_prompt, self.prefill),
            self.n_generated,
            rate(decoded, self.decode),
            engine.describe(),
        ) + &self.supply_line(engine)
    }

    /// Gives each figure with its name.
    pub fn figures(&self, give: &mut dyn FnMut(&str, f64)) {
        give("restored_tokens", self.restored.n_tokens as f64);
        give("restore_s", self.restored.time.as_secs_f64());
        give("prompt_tokens", self.n_prompt as f64);
        give("prefill_s", self.prefill.as_secs_f64());
        give("generated_tokens", self.n_generated as f64);
        give("decode_s", self.decode.as_secs_f64());
        if let Some(first) = self.first_token {
            give("first_token_s", first.as_secs_f64());
        }
    }

    /// What the experts cost, and where the time went; nothing where all of them are in memory.
    fn supply_line(&self, engine: &Engine) -> String {
        let (s, decode) = (self.supply.total(), self.supply.phase(Phase::Decode));
        if !engine.streams() {
            return String::new();
        }
        let there = |s: SupplyStats| 100.0 * s.hits as f64 / s.touches.max(1) as f64;
        let while_decoding = if decode.touches > 0 {
            format!(" (while generating {:.1} %)", there(decode))
        } else {
            String::new()
        };
        let waited = Duration::from_nanos(s.stall_ns);
        format!(
            "experts: {:.1} % of {} were there{while_decoding}, {} read in {} calls at {:.0} MB/s; of {:.3} s, {:.3} s waited for \
             experts and {:.3} s computed\n",
            there(s),
            s.touches,
            Bytes(s.read_bytes),
            s.reads,
            s.read_bytes as f64 * 1e3 / s.read_ns.max(1) as f64,
            self.all.as_secs_f64(),
            waited.as_secs_f64(),
            self.all.saturating_sub(waited).as_secs_f64(),
        )
    }
}

/// What became of a prompt.
pub enum Answer {
    /// The model answered.
    Given {
        /// How it ended.
        generated: Generated,
        /// The tokens shown.
        tokens: Vec<TokenId>,
        /// Where the opener of the answer was about to be read, if that point was asked for.
        before_opener: Option<SessionCheckpoint>,
    },
    /// The user stopped it while the prompt was read.
    PrefillStopped,
}

/// Appends a prompt, then streams an answer to stdout until it ends or the user presses Ctrl-C.
pub fn answer(
    engine: &mut Engine,
    session: &mut Session,
    settings: &mut Settings,
    prompt: Prompt<'_>,
    stats: &mut Stats,
) -> Result<Answer> {
    let Prompt {
        restored,
        tokens: prompt,
        keep_point,
        save,
    } = prompt;
    let adjust = settings.adjust.clone();
    settings.sampler.set_adjust(adjust, prompt)?;
    let (start, before) = (Instant::now(), engine.supply_table().clone());
    let (body, opener) = prompt.split_at(if keep_point {
        prompt.len() - 1
    } else {
        prompt.len()
    });
    let mut progress = Progress::new("prefill", "tokens", settings.quiet);
    let mut keep_going = |done| {
        progress.show(done, prompt.len());
        !interrupt::requested()
    };
    let mut prefill = engine.prefill(session, body, &mut keep_going)?;
    let mut before_opener = None;
    if keep_point && prefill == Prefill::Done {
        before_opener = Some(engine.checkpoint(session)?);
        prefill = engine.prefill(session, opener, &mut keep_going)?;
    }
    progress.clear();
    if prefill == Prefill::Stopped {
        *stats = Stats {
            restored,
            all: start.elapsed(),
            supply: engine.supply_table() - &before,
            ..Stats::default()
        };
        return Ok(Answer::PrefillStopped);
    }
    let prefill = start.elapsed();
    let saved = save(engine, session);
    let prefilled = Instant::now();
    let save = saved.then(|| prefilled - start - prefill);
    // As if nothing had been done in between.
    let start = prefilled - prefill;
    *stats = Stats {
        restored,
        save,
        n_prompt: prompt.len(),
        prefill,
        ..Stats::default()
    };

    let mut text = Utf8Stream::default();
    let mut tokens = Vec::new();
    let mut emit = |chosen: Chosen<'_>| {
        let now = Instant::now();
        stats.first_token.get_or_insert(now - start + restored.time);
        stats.decode = now - prefilled;
        stats.n_generated += 1;
        tokens.push(chosen.token);
        print(text.push(chosen.bytes))?;
        Ok(!interrupt::requested())
    };
    let generated = engine.generate(session, &mut settings.sampler, settings.n, &mut emit)?;
    stats.all = start.elapsed();
    stats.supply = engine.supply_table() - &before;
    print(text.finish())?;
    if let Some(told) = engine.take_note() {
        note(&format!("\nnote: {told}\n"));
    }
    Ok(Answer::Given {
        generated,
        tokens,
        before_opener,
    })
}
