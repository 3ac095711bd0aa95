//! The structure that src/lib.rs promises, held against the sources: who imports whom, where unsafe code stands,
//! where features are read.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

/// Modules by row; a module imports from rows above its own only (rows do not import their neighbours).
/// `engine` is what `cli` sees of everything below.
const ROWS: &[&[&str]] = &[
    &["units", "error", "rng"],
    &["options", "os", "quant", "json", "sha256"],
    &["gguf", "routes", "http", "schema"],
    &["model", "text", "sampler"],
    &["supply", "backend"],
    &["graph"],
    &["session", "plan", "synth"],
    &["engine", "report"],
    &["bench", "serve", "perplexity", "verify"],
    &["cli"],
];

/// What a row may use in spite of its place: `cli` shows and parses, it knows no tensors.
const CLI_MAY_USE: &[&str] = &[
    "bench",
    "serve",
    "perplexity",
    "verify",
    "engine",
    "report",
    "synth",
    "options",
    "error",
    "http",
    "json",
    "sha256",
    "units",
];

/// Files that may hold unsafe code.
const FENCES: &[&str] = &[
    "os/",
    "quant/cast.rs",
    "backend/cpu/pool.rs",
    "backend/cpu/table.rs",
    "backend/cpu/unpack.rs",
    "backend/cpu/avx2.rs",
    "backend/cpu/avx2/",
    "backend/cpu/avx512.rs",
    "backend/cpu/avx512/",
    "backend/cpu/neon.rs",
    "backend/cpu/neon/",
    "backend/metal/objc.rs",
    "backend/metal/messages.rs",
    "backend/metal/api.rs",
    "backend/metal/args.rs",
    "backend/metal/encode.rs",
    "backend/metal/memory.rs",
    "backend/metal/storage.rs",
    "backend/metal/sim/",
];

/// Files that may read `cfg`, other than `cfg(test)`.
const CFG_READERS: &[&str] = &[
    "supply/mod.rs",
    "os/mod.rs",
    "os/",
    "backend/mod.rs",
    "engine.rs",
    "backend/cpu/mod.rs",
    "backend/cpu/dispatch.rs",
    "backend/metal/mod.rs",
];

struct Source {
    /// Below src/, with slashes.
    name: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    walk(&root, &root, &mut sources);
    assert!(sources.len() > 20, "the sources lie under src/");
    sources
}

fn walk(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            walk(root, &path, sources);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .replace('\\', "/");
            let text = std::fs::read_to_string(&path).unwrap();
            sources.push(Source { name, text });
        }
    }
}

impl Source {
    /// The top-level module that the file belongs to.
    fn module(&self) -> &str {
        self.name.split('/').next().unwrap().trim_end_matches(".rs")
    }

    /// Lines of code before the unit tests, with their numbers.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self
            .text
            .find("\n#[cfg(test)]\nmod ")
            .unwrap_or(self.text.len());
        let lines = self.text[..end].lines().enumerate();
        lines
            .map(|(i, line)| (i + 1, line))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places
            .iter()
            .any(|p| self.name == *p || p.ends_with('/') && self.name.starts_with(p))
    }
}

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

/// The modules that a line names after `crate::`.
fn crate_uses(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        &rest[..end]
    })
}

#[test]
fn imports_point_to_rows_above() {
    for source in sources() {
        let module = source.module();
        if module == "lib" || module == "main" {
            continue;
        }
        let own = row(module).unwrap_or_else(|| panic!("{module} stands in no row"));
        for (line_number, line) in source.code() {
            for used in crate_uses(line).filter(|used| *used != module && !used.is_empty()) {
                let at = format!("src/{}:{line_number}: {}", source.name, line.trim());
                let other = row(used).unwrap_or_else(|| panic!("{at}\n{used} stands in no row"));
                assert!(other < own, "{at}\n{module} must not use {used}");
                assert!(
                    module != "cli" || CLI_MAY_USE.contains(&used),
                    "{at}\ncli must not use {used}"
                );
            }
        }
    }
}

#[test]
fn unsafe_code_stands_behind_fences_with_its_reasons() {
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        let fenced = source.is_in(FENCES);
        if source.text.contains("allow(unsafe_code)") {
            assert!(fenced, "src/{} opens a fence", source.name);
        }
        for (i, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap();
            let opens = ["unsafe {", "unsafe impl"]
                .iter()
                .any(|what| code.contains(what));
            if !opens {
                continue;
            }
            let at = format!("src/{}:{}", source.name, i + 1);
            assert!(fenced, "{at}: unsafe code outside the fences");
            let reasons = &lines[i.saturating_sub(5)..=i];
            assert!(
                reasons.iter().any(|l| l.contains("SAFETY")),
                "{at}: no SAFETY comment"
            );
        }
    }
}

#[test]
fn only_the_operating_system_module_uses_libc() {
    for source in sources().iter().filter(|s| s.module() != "os") {
        for (line_number, line) in source.code() {
            assert!(
                !line.contains("libc::"),
                "src/{}:{line_number}: {line}",
                source.name
            );
        }
    }
}

#[test]
fn features_and_platforms_are_read_in_few_places() {
    for source in sources().iter().filter(|s| !s.is_in(CFG_READERS)) {
        for (line_number, line) in source.code() {
            let reads = line.contains("cfg(")
                && !line.contains("cfg(test)")
                && !line.contains("target_endian");
            assert!(!reads, "src/{}:{line_number}: {}", source.name, line.trim());
            assert!(
                !line.contains("cfg_attr(feature"),
                "src/{}:{line_number}",
                source.name
            );
        }
    }
}

#[test]
fn only_the_named_crates_are_shipped() {
    let manifest = include_str!("../Cargo.toml");
    let start = manifest.find("[dependencies]").unwrap() + "[dependencies]".len();
    let section = manifest[start..].split("\n[").next().unwrap();
    let names: Vec<&str> = section
        .lines()
        .filter_map(|l| l.split_once('='))
        .map(|(name, _)| name.trim())
        .collect();
    assert_eq!(names, ["libc", "half", "memchr"]);
}

#[test]
fn a_source_file_holds_one_idea() {
    for source in sources() {
        let lines = source.text.lines().count();
        let is_table = source.name == "text/unicode.rs";
        assert!(
            lines <= 800 || is_table,
            "src/{} has {lines} lines: does it hold two ideas?",
            source.name
        );
    }
}
