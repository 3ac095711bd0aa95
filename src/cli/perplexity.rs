//! `infall perplexity`: which of two files of a model is better.

use super::args::{Args, Command, Flag};
use super::model::{self, MODEL_FLAGS};
use super::progress::Progress;
use super::whole_file::WholeFile;
use super::{Source, note, print, read_text};
use crate::engine::tokenizer::{Special, Tokenizer};
use crate::engine::{self, Engine, interrupt};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::options::Options;
use crate::perplexity::kld::Divergence;
use crate::perplexity::logits_file::{self, Header, Reader};
use crate::perplexity::score::{Softmax, Sums, perplexity};
use crate::perplexity::{Row, Windows, check_window};
use crate::units::Bytes;
use std::cell::RefCell;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The subcommand.
pub const COMMAND: Command = Command {
    name: "perplexity",
    positional: "",
    max_positional: 0,
    help: "how well the model knows a text, in windows of --ctx tokens (default 512), as llama-perplexity counts",
    flags: &[
        &[
            Flag::with(&["-f", "--file"], "FILE", "the text"),
            Flag::with(
                &["--save-logits"],
                "FILE",
                "keep all probabilities, in the form of llama.cpp's --kl-divergence-base",
            ),
            Flag::with(
                &["--kld"],
                "FILE",
                "compare with probabilities that were kept, on their text (-f is not needed)",
            ),
            Flag::with(&["--chunks"], "N", "the first N windows only"),
        ],
        MODEL_FLAGS,
    ],
    run,
};

/// Tokens of a window when `--ctx` is not given.
const WINDOW: usize = 512;

fn run(args: &Args) -> Result<()> {
    let mut options = model::options(args)?;
    let vocabulary = engine::vocabulary(&options.model)?;
    let base = args.value("--kld").map(|path| Reader::open(path.as_ref()));
    let base = base.transpose()?;
    let windows = windows(args, &options, &vocabulary, base.as_ref())?;
    options.ctx = windows.ctx();
    // Windows that fit into a sweep read each expert once.
    options.windows = (options.prefill_sweep / windows.ctx()).clamp(1, windows.n_windows());
    let together = options.windows;

    let save = args.value("--save-logits").map(Path::new);
    if save.is_some() && base.is_some() {
        return Err(Error::usage("--save-logits and --kld exclude each other"));
    }
    let save = save.map(WholeFile::create).transpose()?;
    let prepared = model::prepare_with(options, args)?;
    let n_vocab = prepared.model().config.n_vocab;
    if let Some(base) = &base
        && base.header().n_vocab != n_vocab
    {
        let found = base.header().n_vocab;
        return Err(Error::usage(format!(
            "--kld: found probabilities of {found} tokens, expected {n_vocab}, the vocabulary of the model"
        )));
    }
    let mut engine = model::load(prepared, args)?;
    interrupt::install()?;
    let mut run = Run {
        engine: &mut engine,
        windows: &windows,
        together,
        quiet: args.has("--quiet"),
    };
    match (base, save) {
        (Some(base), _) => run.compare(base),
        (None, Some(file)) => run.save(file, n_vocab),
        (None, None) => run.measure(&mut |_, _| Ok(())).map(drop),
    }
}

/// The windows of the text, or of the file that is compared with, which must be of the text if one is given.
fn windows(
    args: &Args,
    options: &Options,
    vocabulary: &Tokenizer,
    base: Option<&Reader>,
) -> Result<Windows> {
    let start = vocabulary.text_start();
    let most = args.number("--chunks")?.unwrap_or(usize::MAX);
    let text = args.value("-f").map(|path| -> Result<_> {
        let mut text = read_text(Source::File(path.as_ref()))?;
        // llama.cpp drops one line end of a file, and reads no special tokens in it.
        if text.ends_with('\n') {
            text.pop();
        }
        Ok(vocabulary.encode(&text, Special::Plain))
    });
    let text = text.transpose()?;
    let ctx = match (options.ctx, base) {
        (0, None) => WINDOW,
        (0, Some(base)) => base.header().ctx,
        (ctx, _) => ctx,
    };
    check_window(ctx)?;
    let Some(base) = base else {
        let text = text.ok_or_else(|| Error::usage("-f FILE is needed, the text"))?;
        return Windows::of_text(text, ctx, start, most);
    };
    let header = base.header();
    if ctx != header.ctx {
        let expected = header.ctx;
        return Err(Error::usage(format!(
            "--ctx: found {ctx}, expected {expected}, the windows of the file that --kld names"
        )));
    }
    let windows = Windows::of_logits(header, start, most)?;
    if let Some(text) = text {
        let same = Windows::of_text(text, ctx, start, windows.n_windows())?;
        if same != windows {
            return Err(Error::usage(
                "-f: found another text than that of the file that --kld names",
            ));
        }
    }
    Ok(windows)
}

/// What all ways to score share.
struct Run<'a> {
    engine: &'a mut Engine,
    windows: &'a Windows,
    together: usize,
    quiet: bool,
}

impl Run<'_> {
    /// Gives each row to `score` and prints the lines that it answers; tells whether all windows were computed.
    ///
    /// Errors: as [`Windows::compute`], and a stop before the first windows were done.
    fn windows(
        &mut self,
        score: &mut dyn FnMut(Row<'_>) -> Result<Option<String>>,
    ) -> Result<bool> {
        let n_tokens = self.windows.tokens().len();
        let progress = RefCell::new(Progress::new("perplexity", "tokens", self.quiet));
        let mut tell = |n| {
            progress.borrow_mut().show(n, n_tokens);
            !interrupt::requested()
        };
        let mut score = |row: Row<'_>| match score(row)? {
            Some(line) => {
                progress.borrow_mut().clear();
                print(&line)
            }
            None => Ok(()),
        };
        let start = Instant::now();
        let n = self
            .windows
            .compute(self.engine, self.together, &mut tell, &mut score);
        progress.borrow_mut().clear();
        let (n, all, time) = (n?, self.windows.n_windows(), start.elapsed());
        if n == 0 {
            return Err(Error::new(ErrorKind::Io, "stopped"));
        }
        if n < all {
            note(&format!("stopped after {n} of {all} windows\n"));
        }
        if !self.quiet {
            note(&self.figures(n * self.windows.ctx(), time));
        }
        Ok(n == all)
    }

    fn figures(&self, n_tokens: usize, time: Duration) -> String {
        let (engine, seconds) = (&*self.engine, time.as_secs_f64());
        let (supply, rate) = (engine.supply_stats(), n_tokens as f64 / seconds.max(1e-9));
        let experts = if engine.streams() {
            let read = Bytes(supply.read_bytes);
            format!(
                "; {read} of experts read, {} windows together",
                self.together
            )
        } else {
            String::new()
        };
        format!(
            "{n_tokens} tokens in {seconds:.1} s, {rate:.1} t/s; {}{experts}\n",
            engine.describe()
        )
    }

    /// The perplexity; each row also goes to `keep`. Tells whether all windows were computed.
    fn measure(&mut self, keep: &mut dyn FnMut(&Row<'_>, &Softmax) -> Result<()>) -> Result<bool> {
        let (n_rows, ctx) = (self.windows.rows().len() as u64, self.windows.ctx());
        let mut nll = Sums::default();
        print("window       PPL\n")?;
        let whole = self.windows(&mut |row| {
            let softmax = Softmax::new(row.logits)?;
            nll.add(-softmax.log_p(row.logits[row.next.0 as usize]));
            keep(&row, &softmax)?;
            let ppl = perplexity(&nll).value;
            let line = || format!("{:>6} {ppl:>9.4}\n", row.window + 1);
            Ok((nll.n % n_rows == 0).then(line))
        })?;
        let ppl = perplexity(&nll);
        print(&format!(
            "PPL = {:.4} ± {:.5} ({} windows of {ctx} tokens, {} predictions)\n",
            ppl.value,
            ppl.error,
            nll.n / n_rows,
            nll.n
        ))?;
        Ok(whole)
    }

    fn save(&mut self, file: WholeFile, n_vocab: usize) -> Result<()> {
        let header = Header {
            ctx: self.windows.ctx(),
            n_vocab,
            tokens: self.windows.tokens().to_vec(),
        };
        let failed = |e: &std::io::Error| Error::io("--save-logits", e);
        let mut out = BufWriter::with_capacity(1 << 20, file.open()?);
        header.write(&mut out).map_err(|e| failed(&e))?;
        let whole = self.measure(&mut |row, softmax| {
            out.write_all(&logits_file::encode(row.logits, softmax))
                .map_err(|e| failed(&e))
        })?;
        out.flush().map_err(|e| failed(&e))?;
        if !whole {
            return Err(Error::new(
                ErrorKind::Io,
                "--save-logits: stopped, nothing is kept",
            ));
        }
        file.finish()
    }

    fn compare(&mut self, mut base: Reader) -> Result<()> {
        let n_rows = self.windows.rows().len() as u64;
        let mut found = Divergence::default();
        print(Divergence::HEADER)?;
        self.windows(&mut |row| {
            let base = base.next_row().context(|| "--kld")?;
            found.add(row.logits, base, row.next.0 as usize)?;
            let is_last = found.n_rows() % n_rows == 0;
            Ok(is_last.then(|| found.line(row.window + 1)))
        })?;
        print(&format!("\n{}", found.report()))
    }
}
