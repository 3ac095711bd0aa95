//! `infall chat`: a conversation, on a terminal or a pipe.
//!
//! History stays in the KV cache; a turn prefills only what is new. Reasoning is dropped from history, as the
//! chat template asks: the session comes back to the point before it, and the bare answer is prefilled with
//! the next turn.

use super::args::{Args, Command, Flag};
use super::generate::{self, Answer, Prompt, Restored, SAMPLING_FLAGS, Settings, Stats};
use super::kv_dir::{self, KV_DIR_FLAGS};
use super::model::{self, MODEL_FLAGS};
use super::{LIMITS, note, print};
use crate::engine::chat::{Chat, Thinking};
use crate::engine::{Engine, Prefill, Session, SessionCheckpoint, Stop, Store, interrupt};
use crate::error::{Error, Result};
use crate::units::TokenId;
use std::io::{BufRead, IsTerminal};
use std::time::Instant;

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "chat",
    positional: "",
    max_positional: 0,
    help: "holds a conversation; each line of standard input is a turn",
    flags: &[
        &[
            Flag::with(&["--system"], "TEXT", "system text"),
            Flag::with(
                &["--resume"],
                "NAME",
                "go on with a saved session of --kv-dir",
            ),
        ],
        SAMPLING_FLAGS,
        KV_DIR_FLAGS,
        MODEL_FLAGS,
    ],
    run,
};

const HELP: &str = "\
/think      let the model reason before it answers
/nothink    answer at once
/stats      figures of the last answer, and how full the context is
/save NAME  keep the conversation in --kv-dir
/load NAME  go on with a kept one instead
/reset      forget the conversation
/quit       leave (so does Ctrl-D); Ctrl-C stops an answer
";

struct Conversation {
    engine: Engine,
    session: Session,
    settings: Settings,
    system: String,
    stats: Stats,
    /// Ends of the last answer that are not in the session yet.
    pending: Vec<TokenId>,
    /// Where the last answer's reasoning began, if it is to be dropped.
    rewind_to: Option<SessionCheckpoint>,
    /// Where conversations are kept.
    store: Option<Store>,
}

fn run(args: &Args) -> Result<()> {
    let mut settings = Settings::new(args)?;
    let system = args.text("--system")?.unwrap_or("").to_string();
    let (store, resumed) = (kv_dir::store(args)?, args.text("--resume")?);
    match resumed {
        Some(_) if store.is_none() => return Err(Error::usage("--resume needs --kv-dir")),
        Some(_) if args.has("--system") => {
            return Err(Error::usage(
                "--system has no place in a conversation that goes on: --resume brings its own",
            ));
        }
        Some(_) | None => {}
    }
    let prepared = model::prepare(args)?;
    Chat::new(prepared.tokenizer())?;
    let mut engine = model::load(prepared, args)?;
    let session = engine.session()?;
    settings.tell_seed();
    interrupt::install()?;
    let mut chat = Conversation {
        engine,
        session,
        settings,
        system,
        stats: Stats::default(),
        pending: Vec::new(),
        rewind_to: None,
        store,
    };
    if let Some(name) = resumed {
        chat.load(name)?;
    }
    let terminal = std::io::stdin().is_terminal();
    if terminal && !chat.settings.quiet {
        note(&format!(
            "{}, {}; /help lists the commands\n",
            chat.engine.name(),
            chat.engine.describe()
        ));
    }
    loop {
        if terminal {
            print("> ")?;
        }
        let Some(line) = read_line()? else { break };
        match line.trim() {
            "" => {}
            "/quit" => break,
            "/help" => print(HELP)?,
            "/think" => chat.settings.thinking = Thinking::On,
            "/nothink" => chat.settings.thinking = Thinking::Off,
            "/stats" => chat.show_stats(),
            "/reset" => chat.reset(),
            command if command.starts_with('/') => chat.command(command),
            text => chat.turn(text)?,
        }
    }
    if terminal { print("\n") } else { Ok(()) }
}

/// A line of input without its end, or `None` at the end of input.
///
/// The standard library's own line reading goes on after Ctrl-C; here it drops the line.
fn read_line() -> Result<Option<String>> {
    let mut stdin = std::io::stdin().lock();
    let mut bytes = Vec::new();
    loop {
        let (n, ended) = match stdin.fill_buf() {
            Ok([]) if bytes.is_empty() => return Ok(None),
            Ok([]) => break,
            Ok(found) => {
                let end = found.iter().position(|b| *b == b'\n');
                bytes.extend_from_slice(&found[..end.unwrap_or(found.len())]);
                (end.map_or(found.len(), |i| i + 1), end.is_some())
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => (0, false),
            Err(e) => return Err(Error::io("standard input", &e)),
        };
        stdin.consume(n);
        if interrupt::requested() {
            interrupt::clear();
            bytes.clear();
            print("\n> ")?;
        } else if ended {
            break;
        } else if bytes.len() as u64 > LIMITS.text_bytes {
            return Err(Error::limit("bytes of a line", "found", LIMITS.text_bytes));
        }
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(e) => {
            note(&format!(
                "the line is not UTF-8 text at byte {}\n",
                e.utf8_error().valid_up_to()
            ));
            Ok(Some(String::new()))
        }
    }
}

impl Conversation {
    fn reset(&mut self) {
        self.session.clear();
        self.pending.clear();
        self.rewind_to = None;
    }

    /// A command with a name behind it. What goes wrong ends no conversation.
    fn command(&mut self, command: &str) {
        let done = match command.split_once(char::is_whitespace) {
            Some(("/save", name)) => self.save(name.trim()),
            Some(("/load", name)) => self.load(name.trim()),
            _ => {
                let what = format!("unknown command {command}; /help lists them");
                Err(Error::usage(what))
            }
        };
        if let Err(error) = done {
            note(&format!("{error}\n"));
        }
    }

    /// Where conversations are kept.
    fn store(&self) -> Result<Store> {
        let missing = || Error::usage("no folder for sessions: --kv-dir names one");
        self.store.clone().ok_or_else(missing)
    }

    /// Keeps the conversation as the next turn will find it: with the last answer's end, without its reasoning.
    fn save(&mut self, name: &str) -> Result<()> {
        let store = self.store()?;
        if let Some(point) = self.rewind_to.take() {
            self.engine.rewind(&mut self.session, &point)?;
        }
        let before = self.session.tokens().len();
        let mut keep_going = |_| !interrupt::requested();
        let read = self
            .engine
            .prefill(&mut self.session, &self.pending, &mut keep_going);
        interrupt::clear();
        // Stopped, it keeps the tokens of whole sweeps.
        let n_read = self.session.tokens().len().saturating_sub(before);
        self.pending.drain(..n_read);
        if read? == Prefill::Stopped {
            return Err(Error::usage("stopped, nothing was saved"));
        }
        if self.session.tokens().is_empty() {
            return Err(Error::usage("the conversation is empty, nothing was saved"));
        }
        self.engine.save(&mut self.session, &store, Some(name))?;
        let n = self.session.tokens().len();
        note(&format!("{name}: {n} tokens saved\n"));
        Ok(())
    }

    /// Goes on with a kept conversation instead of this one, which stays if that fails.
    fn load(&mut self, name: &str) -> Result<()> {
        let store = self.store()?;
        let start = Instant::now();
        self.engine.restore(&mut self.session, &store, name)?;
        self.pending.clear();
        self.rewind_to = None;
        if !self.settings.quiet {
            let (n, time) = (self.session.tokens().len(), start.elapsed().as_secs_f64());
            note(&format!("{name}: {n} tokens restored in {time:.3} s\n"));
        }
        Ok(())
    }

    fn show_stats(&self) {
        let line = self.stats.line(&self.engine);
        note(&format!(
            "{line}context: {} of {} tokens\n",
            self.session.tokens().len(),
            self.session.ctx()
        ));
    }

    /// One question and its answer. A turn that does not fit or is stopped while it is read leaves the
    /// conversation as it was.
    fn turn(&mut self, text: &str) -> Result<()> {
        let thinking = self.settings.thinking;
        if let Some(point) = self.rewind_to.take() {
            self.engine.rewind(&mut self.session, &point)?;
        }
        let chat = Chat::new(self.engine.tokenizer())?;
        let mut tokens = Vec::new();
        if self.session.tokens().is_empty() {
            tokens.extend(chat.opening(&self.system, thinking));
        }
        tokens.extend_from_slice(&self.pending);
        tokens.extend(chat.user_turn(text, thinking));
        let (end_think, eos) = (chat.end_think(), chat.end_of_turn());
        if tokens.len() >= self.session.room() {
            let (needed, room) = (tokens.len(), self.session.room());
            note(&format!(
                "{needed} tokens do not fit into the {room} left; /reset starts anew, --ctx sets the size\n"
            ));
            return Ok(());
        }
        let before = self.engine.checkpoint(&self.session)?;
        let drop_reasoning = thinking != Thinking::Off;
        let Conversation {
            engine,
            session,
            settings,
            stats,
            ..
        } = self;
        let prompt = Prompt {
            restored: Restored::default(),
            tokens: &tokens,
            keep_point: drop_reasoning,
            save: &mut |_, _| false,
        };
        let answer = generate::answer(engine, session, settings, prompt, stats);
        interrupt::clear();
        let Answer::Given {
            generated,
            tokens,
            before_opener,
        } = answer?
        else {
            self.engine.rewind(&mut self.session, &before)?;
            note("stopped while reading the prompt\n");
            return Ok(());
        };
        self.rewind_to = before_opener;
        print("\n")?;
        self.pending.clear();
        if drop_reasoning {
            let content = tokens
                .iter()
                .position(|t| *t == end_think)
                .map_or(tokens.len(), |i| i + 1);
            self.pending.push(end_think);
            self.pending.extend_from_slice(&tokens[content..]);
        } else {
            self.pending.extend(generated.pending.filter(|t| *t != eos));
        }
        self.pending.push(eos);
        match generated.stop {
            Stop::ContextFull => {
                note("the context is full; /reset starts anew, --ctx sets its size\n")
            }
            Stop::Length => note("(-n reached)\n"),
            Stop::EndOfTurn | Stop::Asked => {}
        }
        if !self.settings.quiet && std::io::stderr().is_terminal() {
            note(&self.stats.line(&self.engine));
        }
        Ok(())
    }
}
