//! `infall run`: one prompt, one answer.

use super::args::{Args, Command, Flag};
use super::generate::{self, Answer, Prompt, Restored, SAMPLING_FLAGS, Settings, Stats};
use super::kv_dir::{self, KV_DIR_FLAGS};
use super::model::{self, MODEL_FLAGS};
use super::run_report::Report;
use super::{Source, note, print, profile, read_text};
use crate::engine::chat::Chat;
use crate::engine::tokenizer::Special;
use crate::engine::{Engine, Profile, Session, Stop, interrupt};
use crate::error::{Error, Result};
use crate::units::Phase;
use std::path::Path;
use std::time::Duration;

/// Between two looks at memory for `--report`.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "run",
    positional: "",
    max_positional: 0,
    help: "answers one prompt",
    flags: &[
        &[
            Flag::with(
                &["-p", "--prompt"],
                "TEXT",
                "the prompt (default: standard input)",
            ),
            Flag::with(&["-f", "--file"], "FILE", "a file that holds the prompt"),
            Flag::with(&["--system"], "TEXT", "system text"),
            Flag::with(
                &["--report"],
                "FILE",
                "write plan, figures and peaks of the run as JSON",
            ),
            Flag::switch(
                &["--raw"],
                "continue the text as it is, without the chat template",
            ),
            profile::FLAG,
        ],
        SAMPLING_FLAGS,
        KV_DIR_FLAGS,
        MODEL_FLAGS,
    ],
    run,
};

fn run(args: &Args) -> Result<()> {
    let mut settings = Settings::new(args)?;
    let prompt = match (args.text("-p")?, args.value("-f")) {
        (Some(_), Some(_)) => return Err(Error::usage("-p and -f are both given, expected one")),
        (Some(text), None) => text.to_string(),
        (None, Some(path)) => read_text(Source::File(Path::new(path)))?,
        (None, None) => read_text(Source::Stdin)?,
    };
    let system = args.text("--system")?;
    if args.has("--raw") && system.is_some() {
        return Err(Error::usage("--system has no place in a --raw prompt"));
    }
    let store = kv_dir::store(args)?;
    let prepared = model::prepare(args)?;
    let tokenizer = prepared.tokenizer();
    let tokens = if args.has("--raw") {
        let bos = tokenizer.bos();
        bos.into_iter()
            .chain(tokenizer.encode(&prompt, Special::Parse))
            .collect()
    } else {
        let chat = Chat::new(tokenizer)?;
        let mut tokens = chat.opening(system.unwrap_or(""), settings.thinking);
        tokens.extend(chat.user_turn(&prompt, settings.thinking));
        tokens
    };
    if tokens.is_empty() {
        return Err(Error::usage(
            "the prompt is empty and the vocabulary has no start token",
        ));
    }
    prepared.check_prompt(tokens.len())?;
    let plan = prepared.plan().clone();
    let report = args.value("--report").map(Path::new);
    // What cannot be written should not come to light after an hour.
    let report = report.map(Report::create).transpose()?;
    let watch = report
        .as_ref()
        .map(|_| prepared.watch(WATCH_INTERVAL))
        .transpose()?;
    let mut engine = model::load(prepared, args)?;
    let mut session = engine.session()?;
    settings.tell_seed();
    interrupt::install()?;
    let mut stats = Stats::default();
    let restored = store.as_ref().map_or(Restored::default(), |store| {
        kv_dir::restore_prefix(store, &mut engine, &mut session, &tokens)
    });
    let rest = &tokens[restored.n_tokens..];
    // The answer is no beginning of a later prompt, so the session is saved before it.
    let mut save = |engine: &mut Engine, session: &mut Session| {
        let store = store.as_ref().filter(|_| !rest.is_empty());
        store.is_some_and(|store| kv_dir::save(store, engine, session))
    };
    let prompt = Prompt {
        restored,
        tokens: rest,
        keep_point: false,
        save: &mut save,
    };
    if args.has("--profile") {
        engine.start_profile();
    }
    match generate::answer(&mut engine, &mut session, &mut settings, prompt, &mut stats)? {
        Answer::PrefillStopped => note("stopped while reading the prompt\n"),
        Answer::Given { generated, .. } => {
            print("\n")?;
            if generated.stop == Stop::ContextFull {
                note(&format!(
                    "the context of {} tokens is full (--ctx sets its size)\n",
                    session.ctx()
                ));
            }
        }
    }
    // Before anything else takes time.
    let profile = engine.profile().map(profile_text);
    if let (Some(report), Some(watch)) = (report, watch) {
        report.write(&plan, &engine, &stats, &watch.stop().peaks)?;
    }
    if !settings.quiet {
        note(&stats.line(&engine));
    }
    if let Some(text) = profile {
        note(&text);
    }
    Ok(())
}

/// A table for each phase that computed something.
fn profile_text(profile: &Profile) -> String {
    let phases = Phase::ALL.map(|phase| (phase.name(), profile.phase(phase)));
    let phases = phases.iter().filter(|(_, stages)| stages.n_tokens > 0);
    let tables: String = phases
        .map(|(name, stages)| format!("\n{}", profile::table(name, stages)))
        .collect();
    format!("{tables}\n{}", profile::LEGEND)
}
