//! `infall chat`: a conversation, on a terminal or a pipe.
//!
//! History stays in the KV cache; a turn prefills only what is new. Reasoning is dropped from history, as the
//! chat template asks: the session comes back to the point before it, and the bare answer is prefilled with
//! the next turn.

use super::args::{Args, Command, Flag};
use super::generate::{self, Answer, Prompt, Restored, SAMPLING_FLAGS, Settings, Stats};
use super::kv_dir::{self, KV_DIR_FLAGS};
use super::model::{self, MODEL_FLAGS};
use super::turns::{ChatCommand, Given, Turns};
use super::{note, print};
use crate::engine::chat::{Chat, Thinking};
use crate::engine::{Engine, Prefill, Session, SessionCheckpoint, Stop, Store, interrupt};
use crate::error::{Error, Result};
use crate::units::TokenId;
use std::io::IsTerminal;
use std::time::Instant;

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "chat",
    positional: "",
    max_positional: 0,
    help: "holds a conversation; several lines are one turn between lines of \"\"\", behind a \\, pasted, or together on a pipe",
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
/reset      forget the conversation (also /clear)
/quit       leave (also /exit, /bye and Ctrl-D); Ctrl-C stops an answer
//quit      asks what begins like a command; other texts may begin with /

Several lines are one turn when they are pasted, when each but the last ends
with \\, and between \"\"\" and \"\"\". On a pipe, lines that come together are one
turn, and an empty line begins the next.
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
    let mut turns = Turns::new()?;
    if turns.is_terminal() && !chat.settings.quiet {
        note(&format!(
            "{}, {}; /help lists the commands\n",
            chat.engine.name(),
            chat.engine.describe()
        ));
    }
    while let Some(given) = turns.next()? {
        match given {
            Given::Text(text) => chat.turn(&text)?,
            Given::Command(command) => {
                if !chat.command(&command)? {
                    break;
                }
            }
            Given::Unknown(word) => note(&format!(
                "unknown command {word}; /help lists them, /{word} asks it\n"
            )),
        }
    }
    if turns.is_terminal() {
        print("\n")
    } else {
        Ok(())
    }
}

impl Conversation {
    fn reset(&mut self) {
        self.session.clear();
        self.pending.clear();
        self.rewind_to = None;
    }

    /// Does what a command says; false for the end. What goes wrong ends no conversation.
    fn command(&mut self, command: &ChatCommand) -> Result<bool> {
        let done = match command {
            ChatCommand::Quit => return Ok(false),
            ChatCommand::Help => return print(HELP).map(|()| true),
            ChatCommand::Think => {
                self.settings.thinking = Thinking::On;
                Ok(())
            }
            ChatCommand::Nothink => {
                self.settings.thinking = Thinking::Off;
                Ok(())
            }
            ChatCommand::Stats => {
                self.show_stats();
                Ok(())
            }
            ChatCommand::Reset => {
                self.reset();
                Ok(())
            }
            ChatCommand::Save(name) => self.save(name),
            ChatCommand::Load(name) => self.load(name),
        };
        if let Err(error) = done {
            note(&format!("{error}\n"));
        }
        Ok(true)
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
