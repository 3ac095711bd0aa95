//! Every run-time option of the engine with its default; the only reader of the environment.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// How rows of the KV cache are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvFormat {
    /// binary32: no rounding.
    F32,
    /// binary16.
    F16,
    /// The release's own rounding in its small form: FP8 blocks with a bf16 rotary tail, and
    /// Hadamard-rotated FP4 indexer rows.
    Official,
}

impl KvFormat {
    const NAMES: [(&'static str, KvFormat); 3] = [
        ("f32", KvFormat::F32),
        ("f16", KvFormat::F16),
        ("official", KvFormat::Official),
    ];

    /// The format called `name` on the command line.
    pub fn parse(name: &str) -> Result<KvFormat> {
        by_name("--kv", name, &KvFormat::NAMES)
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        name_of(self, &KvFormat::NAMES)
    }
}

/// Which table of CPU kernels computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelChoice {
    /// The fastest that this CPU runs.
    Auto,
    /// The reference: float activations, plain loops.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 (F, BW, VL, VNNI, VBMI) and GFNI.
    Avx512,
    /// aarch64 with what the processor has beyond NEON: dotprod, i8mm.
    Neon,
}

impl KernelChoice {
    const NAMES: [(&'static str, KernelChoice); 5] = [
        ("auto", KernelChoice::Auto),
        ("scalar", KernelChoice::Scalar),
        ("avx2", KernelChoice::Avx2),
        ("avx512", KernelChoice::Avx512),
        ("neon", KernelChoice::Neon),
    ];

    /// The table called `name` on the command line.
    pub fn parse(name: &str) -> Result<KernelChoice> {
        by_name("--kernels", name, &KernelChoice::NAMES)
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        name_of(self, &KernelChoice::NAMES)
    }
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendChoice {
    /// Metal on macOS where there is a device, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU of Apple's.
    Metal,
}

impl BackendChoice {
    const NAMES: [(&'static str, BackendChoice); 3] = [
        ("auto", BackendChoice::Auto),
        ("cpu", BackendChoice::Cpu),
        ("metal", BackendChoice::Metal),
    ];

    /// The backend called `name` on the command line.
    pub fn parse(name: &str) -> Result<BackendChoice> {
        by_name("--backend", name, &BackendChoice::NAMES)
    }
}

fn by_name<T: Copy>(flag: &str, name: &str, table: &[(&str, T)]) -> Result<T> {
    table
        .iter()
        .find(|(n, _)| *n == name)
        .map(|&(_, value)| value)
        .ok_or_else(|| {
            let known: Vec<_> = table.iter().map(|(n, _)| *n).collect();
            Error::usage(format!(
                "{flag}: '{name}' is unknown, expected {}",
                known.join(" | ")
            ))
        })
}

fn name_of<T: PartialEq>(value: T, table: &[(&'static str, T)]) -> &'static str {
    table
        .iter()
        .find(|(_, v)| *v == value)
        .map_or("?", |(n, _)| n)
}

/// Memory for routed experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// What the machine has left.
    Auto,
    /// What one token uses: no strategy goes on with less. Not on the command line.
    Least,
    /// This many experts, of the mean size where sizes differ.
    Experts(u64),
    /// This many bytes.
    Bytes(u64),
    /// This many thousandths of all experts' bytes.
    Share(u64),
}

impl Budget {
    /// `auto`, `1200` (experts), `8GB` (GiB, whole numbers, any case) or `12.5%` (of all experts).
    pub fn parse(text: &str) -> Result<Budget> {
        let wrong = || {
            let expected = "expected auto, a number of experts (1200), whole gibibytes (8GB) or a part of all (12.5%)";
            Error::usage(format!("--budget: found '{text}', {expected}"))
        };
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Budget::Auto);
        }
        if let Some(percent) = text.strip_suffix('%') {
            return thousandths(percent).map(Budget::Share).ok_or_else(wrong);
        }
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let n: u64 = digits.parse().map_err(|_| wrong())?;
        match &text[digits.len()..] {
            _ if n == 0 => Err(wrong()),
            "" => u32::try_from(n)
                .map(|n| Budget::Experts(n.into()))
                .map_err(|_| wrong()),
            _ => gibibytes(text).map(Budget::Bytes).ok_or_else(wrong),
        }
    }
}

/// Thousandths of `12` or `12.5` percent: above 0, at most all.
fn thousandths(percent: &str) -> Option<u64> {
    let (whole, tenth) = percent.split_once('.').unwrap_or((percent, "0"));
    let number = |digits: &str, most: usize| {
        let plain =
            (1..=most).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse::<u64>().ok())?
    };
    let found = 10 * number(whole, 3)? + number(tenth, 1)?;
    (1..=1000).contains(&found).then_some(found)
}

/// Bytes of `8GB`: whole gibibytes, any case, not 0.
fn gibibytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let is_number = digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number || !text[digits.len()..].eq_ignore_ascii_case("gb") {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    n.checked_mul(1 << 30).filter(|bytes| *bytes > 0)
}

/// The value of `--simulate-used-memory`: `8GB` (GiB, whole numbers, any case), in bytes.
pub fn parse_simulated(text: &str) -> Result<u64> {
    gibibytes(text).ok_or_else(|| {
        let expected = "expected whole gibibytes (8GB)";
        Error::usage(format!(
            "--simulate-used-memory: found '{text}', {expected}"
        ))
    })
}

/// Space for saved sessions when `--kv-space` is not given, in bytes.
pub const DEFAULT_KV_SPACE: u64 = 8 << 30;

/// The value of `--kv-space`: `8GB` (GiB, whole numbers, any case) or a number of bytes, not 0.
pub fn parse_kv_space(text: &str) -> Result<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    let bytes = if plain {
        text.parse().ok().filter(|n| *n > 0)
    } else {
        gibibytes(text)
    };
    bytes.ok_or_else(|| {
        let expected = "expected whole gibibytes (8GB) or a number of bytes";
        Error::usage(format!("--kv-space: found '{text}', {expected}"))
    })
}

/// How experts are read.
#[derive(Clone, Debug)]
pub struct SupplyOptions {
    /// Memory for them.
    pub budget: Budget,
    /// Threads that read.
    pub readers: usize,
    /// Whether reads begin as soon as experts are known, before their layer.
    pub read_ahead: bool,
    /// Whether slabs and fixed weights are kept from being swapped out, as far as the system allows.
    pub lock: bool,
}

/// What a server holds, besides what one session takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Sessions in memory.
    pub sessions: usize,
    /// Points of each to which it can come back.
    pub checkpoints: usize,
    /// Prompts there at a time.
    pub prompts: usize,
    /// Bytes of everything that depends neither on the model nor on the context.
    pub bytes: u64,
}

/// What an engine is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The GGUF file.
    pub model: PathBuf,
    /// Name of the expert-supply strategy, or `auto`.
    pub strategy: String,
    /// How it reads experts.
    pub supply: SupplyOptions,
    /// Bytes that are taken and locked before anything is decided, to see a smaller machine.
    pub simulate_used_memory: u64,
    /// A file that gets the experts of every token.
    pub trace_routes: Option<PathBuf>,
    /// Whether to go on when memory does not suffice.
    pub overcommit: bool,
    /// Compute threads; 0 means one for each CPU this process may use.
    pub threads: usize,
    /// What computes.
    pub backend: BackendChoice,
    /// CPU kernel table.
    pub kernels: KernelChoice,
    /// Storage of the KV cache.
    pub kv: KvFormat,
    /// Tokens that a session can hold; 0 means [`DEFAULT_CTX`] or the model's own length if that is less.
    pub ctx: usize,
    /// Tokens computed together in prefill.
    pub prefill_chunk: usize,
    /// Tokens that go through one layer before the next in prefill.
    pub prefill_sweep: usize,
    /// Sessions that read their tokens together.
    pub windows: usize,
    /// What a server holds.
    pub serving: Option<Serving>,
}

/// Context length when `--ctx` is not given.
pub const DEFAULT_CTX: usize = 32_768;

/// Largest accepted values; they bound every buffer that depends on an option.
pub const LIMITS: Limits = Limits {
    threads: 256,
    readers: 64,
    ctx: 1 << 20,
    prefill_chunk: 4096,
};

/// Bounds of the options.
pub struct Limits {
    /// Compute threads.
    pub threads: usize,
    /// Threads that read.
    pub readers: usize,
    /// Tokens of context: the longest the architecture was trained for.
    pub ctx: usize,
    /// Tokens computed together.
    pub prefill_chunk: usize,
}

impl Options {
    /// Defaults for `model`.
    pub fn new(model: impl Into<PathBuf>) -> Options {
        Options {
            model: model.into(),
            strategy: "full".into(),
            supply: SupplyOptions {
                budget: Budget::Auto,
                readers: 8,
                read_ahead: true,
                lock: true,
            },
            simulate_used_memory: 0,
            trace_routes: None,
            overcommit: false,
            threads: 0,
            backend: BackendChoice::Auto,
            kernels: KernelChoice::Auto,
            kv: KvFormat::F16,
            ctx: 0,
            prefill_chunk: 512,
            prefill_sweep: 4096,
            windows: 1,
            serving: None,
        }
    }

    /// Refuses values outside [`LIMITS`].
    pub fn validate(&self) -> Result<()> {
        at_most("--threads", self.threads, LIMITS.threads)?;
        at_most("--ctx", self.ctx, LIMITS.ctx)?;
        at_most("--prefill-chunk", self.prefill_chunk, LIMITS.prefill_chunk)?;
        at_most("--prefill-sweep", self.prefill_sweep, LIMITS.ctx)?;
        at_most("--readers", self.supply.readers, LIMITS.readers)?;
        if self.supply.readers == 0 {
            return Err(Error::usage("--readers: found 0, expected at least 1"));
        }
        if self.prefill_chunk == 0 {
            return Err(Error::usage(
                "--prefill-chunk: found 0, expected at least 1",
            ));
        }
        Ok(())
    }
}

fn at_most(flag: &str, found: usize, limit: usize) -> Result<()> {
    if found > limit {
        return Err(Error::usage(format!(
            "{flag}: found {found}, expected at most {limit}"
        )));
    }
    Ok(())
}

/// The model to use when `-m` is not given: `INFALL_MODEL`, else the small model under the current
/// folder, else the one beside the sources this program was built from.
pub fn default_model() -> PathBuf {
    if let Some(path) = std::env::var_os("INFALL_MODEL").filter(|v| !v.is_empty()) {
        return PathBuf::from(path);
    }
    let small = Path::new("models/tiny-q4.gguf");
    if small.exists() {
        small.into()
    } else {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(small)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_experts_or_whole_gibibytes_17() {
        let gib = |n: u64| Budget::Bytes(n << 30);
        for (text, expected) in [
            ("auto", Budget::Auto),
            ("32", Budget::Experts(32)),
            ("32GB", gib(32)),
            ("8gb", gib(8)),
            ("1Gb", gib(1)),
            ("4294967295", Budget::Experts(u64::from(u32::MAX))),
            ("11%", Budget::Share(110)),
            ("5.5%", Budget::Share(55)),
            ("0.1%", Budget::Share(1)),
            ("100%", Budget::Share(1000)),
        ] {
            assert_eq!(Budget::parse(text).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "0",
            "0GB",
            "1.5GB",
            "GB",
            "-1",
            "+1",
            "-1GB",
            "8 GB",
            "8G",
            "8GiB",
            "8MB",
            "GB8",
            "x",
            "1200x",
            "4294967296",
            "99999999999999999999",
            "99999999999999999999GB",
            "17179869184GB",
            "٣",
            "%",
            "0%",
            "0.0%",
            "100.1%",
            "101%",
            "1000%",
            "5.55%",
            "5.%",
            ".5%",
            "+5%",
            "5 %",
            "1e1%",
        ] {
            let error = Budget::parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("'{text}'")), "{error}");
            let error = parse_simulated(text).unwrap_err().to_string();
            assert!(
                error.contains(&format!("'{text}', expected whole")),
                "{error}"
            );
        }
        assert_eq!(parse_simulated("12gb").unwrap(), 12 << 30);
        for text in ["auto", "32"] {
            assert!(parse_simulated(text).is_err(), "{text}");
        }
    }
}
