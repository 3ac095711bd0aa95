//! The kernels' source to a shared object for this processor: C++ of it, the shim in `tests/metal/shim/`, a compiler.
//!
//! Shared objects are kept by a hash of all that decides them, in `$INFALL_METAL_SIM_DIR` or a folder of the user's below
//! the system's folder for temporary files.

use super::cpp::cpp;
use crate::backend::metal::source::Shaders;
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Checks that the compiler adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sanitizer {
    /// None.
    None,
    /// Of what C++ leaves undefined: overflow, shifts, alignment.
    Undefined,
    /// Of races between threads of a dispatch. The process must have been started with g++'s libtsan.
    Thread,
}

impl Sanitizer {
    /// What `$INFALL_METAL_SIM_SANITIZE` asks for: `undefined`, `thread`, or nothing.
    pub fn from_environment() -> Result<Sanitizer, String> {
        match std::env::var("INFALL_METAL_SIM_SANITIZE").as_deref() {
            Err(_) | Ok("") => Ok(Sanitizer::None),
            Ok("undefined") => Ok(Sanitizer::Undefined),
            Ok("thread") => Ok(Sanitizer::Thread),
            Ok(other) => Err(format!(
                "INFALL_METAL_SIM_SANITIZE is {other}, expected undefined or thread"
            )),
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Sanitizer::None => &[],
            Sanitizer::Undefined => &["-g1", "-fsanitize=undefined", "-fno-sanitize-recover=all"],
            Sanitizer::Thread => &["-g1", "-fsanitize=thread"],
        }
    }
}

/// The files that a kernel's source includes, and the runtime.
const SHIM: [(&str, &str); 6] = [
    (
        "metal_stdlib",
        include_str!("../../../../tests/metal/shim/metal_stdlib"),
    ),
    (
        "fibres.h",
        include_str!("../../../../tests/metal/shim/fibres.h"),
    ),
    (
        "vectors.h",
        include_str!("../../../../tests/metal/shim/vectors.h"),
    ),
    (
        "maths.h",
        include_str!("../../../../tests/metal/shim/maths.h"),
    ),
    (
        "simdgroups.h",
        include_str!("../../../../tests/metal/shim/simdgroups.h"),
    ),
    (
        "runtime.cpp",
        include_str!("../../../../tests/metal/shim/runtime.cpp"),
    ),
];

/// Metal's language is a C++14 without exceptions. Its pointers may look at memory as they like; a product and a sum are
/// two operations.
const KERNEL_FLAGS: [&str; 8] = [
    "-std=c++14",
    "-pedantic-errors",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-ffunction-sections",
    "-fdiagnostics-color=never",
];

/// A C++ compiler that knows `_Float16`.
#[derive(Clone, Debug, Hash)]
pub struct Compiler {
    program: OsString,
    is_clang: bool,
    major: u32,
}

impl Compiler {
    /// The one that is used: `$CXX`, or the first there is of clang++ and g++.
    ///
    /// Errors: there is none, or none new enough.
    pub fn find() -> Result<&'static Compiler, String> {
        static FOUND: OnceLock<Result<Compiler, String>> = OnceLock::new();
        let found = FOUND.get_or_init(|| match std::env::var_os("CXX") {
            Some(program) => Compiler::new(program),
            None => Compiler::first(&["clang++-19", "clang++", "g++"]),
        });
        found.as_ref().map_err(String::clone)
    }

    /// The one for a sanitizer: those of g++ are libraries that a program can load later.
    fn find_for(sanitizer: Sanitizer) -> Result<Compiler, String> {
        match sanitizer {
            Sanitizer::None => Compiler::find().cloned(),
            _ => Compiler::first(&["g++"]),
        }
    }

    fn first(programs: &[&str]) -> Result<Compiler, String> {
        let mut found = programs.iter().map(|p| Compiler::new(OsString::from(p)));
        found
            .find(Result::is_ok)
            .unwrap_or_else(|| Err("needs g++ >= 12 or clang >= 16".to_string()))
    }

    fn new(program: OsString) -> Result<Compiler, String> {
        let ask = |option: &str| {
            let output = Command::new(&program).arg(option).output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let name = program.to_string_lossy().into_owned();
        let wrong = |found: String| {
            format!("the C++ compiler {name}: {found}, expected g++ >= 12 or clang >= 16")
        };
        let version = ask("--version").ok_or_else(|| wrong("not found".to_string()))?;
        let is_clang = version.contains("clang");
        let number = ask("-dumpversion").unwrap_or_default();
        let major = number.trim().split('.').next().and_then(|n| n.parse().ok());
        let major = major.ok_or_else(|| wrong(format!("version {}", number.trim())))?;
        if major < if is_clang { 16 } else { 12 } {
            return Err(wrong(format!("version {major}")));
        }
        Ok(Compiler {
            program,
            is_clang,
            major,
        })
    }

    /// Flags for the code of kernels: each half operation rounds.
    fn flags(&self) -> Vec<&'static str> {
        let mut flags = KERNEL_FLAGS.to_vec();
        match (self.is_clang, self.major) {
            (true, _) => flags.extend(["-Xclang", "-ffloat16-excess-precision=none"]),
            (false, 13..) => flags.push("-fexcess-precision=16"),
            (false, _) => {}
        }
        flags
    }

    fn command(&self, folder: &Path, flags: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(folder).args(flags);
        command
    }
}

/// The processor that the code may count on.
fn processor() -> &'static str {
    let has_all = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi2");
    if has_all {
        "-march=x86-64-v3"
    } else {
        "-march=x86-64"
    }
}

/// The shared object of the flat text that declares `shaders`.
///
/// Errors: no compiler, or what it says of the source.
pub fn compile(text: &str, shaders: &Shaders, sanitizer: Sanitizer) -> Result<PathBuf, String> {
    let compiler = Compiler::find_for(sanitizer)?;
    let mut common = vec!["-O2", "-fPIC", processor()];
    if sanitizer == Sanitizer::Thread {
        common.push("-DTHREAD_SANITIZER");
    }
    let source = cpp(text, shaders);
    let mut flags = compiler.flags();
    flags.extend(&common);
    flags.extend(sanitizer.flags());
    let runtime = made(&hashed((&compiler, &common, SHIM), "o"), |work, name| {
        let mut compile = compiler.command(work, &common);
        run(compile.args(["-std=c++17", "-c", "runtime.cpp", "-o", name]))
    })?;
    made(
        &hashed((&compiler, &flags, &source, SHIM), "so"),
        |work, name| {
            let path = work.join("kernels.cpp");
            fs::write(&path, &source).map_err(|why| io(&path, why))?;
            let mut compile = compiler.command(work, &flags);
            run(compile.args(["-I.", "-c", "kernels.cpp", "-o", "kernels.o"]))?;
            let mut link = compiler.command(work, sanitizer.flags());
            link.args(["-shared", "-pthread", "kernels.o", "-o", name]);
            run(link.arg(&runtime))
        },
    )
}

fn hashed(decides: impl Hash, ending: &str) -> String {
    let mut hasher = DefaultHasher::new();
    decides.hash(&mut hasher);
    format!("{:016x}.{ending}", hasher.finish())
}

fn io(what: &Path, why: std::io::Error) -> String {
    format!("{}: {why}", what.display())
}

/// The file `name` among those kept; if it is not there, `make` makes it in a folder of its own that has the shim. It
/// appears whole or not at all.
fn made(
    name: &str,
    make: impl FnOnce(&Path, &str) -> Result<(), String>,
) -> Result<PathBuf, String> {
    static BUILDS: AtomicU32 = AtomicU32::new(0);
    let folder = cache_folder()?;
    let kept = folder.join(name);
    if kept.exists() {
        return Ok(kept);
    }
    let number = BUILDS.fetch_add(1, Ordering::Relaxed);
    let work = folder.join(format!("build-{}-{number}", std::process::id()));
    let make = || {
        fs::create_dir_all(&work).map_err(|why| io(&work, why))?;
        for (name, text) in SHIM {
            let path = work.join(name);
            fs::write(&path, text).map_err(|why| io(&path, why))?;
        }
        make(&work, name)?;
        fs::rename(work.join(name), &kept).map_err(|why| io(&kept, why))
    };
    let done = make();
    let _ = fs::remove_dir_all(&work);
    done.map(|()| kept)
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|why| format!("{program}: {why}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{program} refused the kernels:\n{}",
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// A folder that nobody else can put code into.
fn cache_folder() -> Result<PathBuf, String> {
    if let Some(folder) = std::env::var_os("INFALL_METAL_SIM_DIR") {
        let folder = PathBuf::from(folder);
        let made = fs::create_dir_all(&folder);
        return made
            .map(|()| folder.clone())
            .map_err(|why| format!("{}: {why}", folder.display()));
    }
    let user = fs::metadata("/proc/self")
        .map_err(|why| format!("/proc/self: {why}"))?
        .uid();
    let folder = std::env::temp_dir().join(format!("infall-metal-sim-{user}"));
    let wrong = |what: String| format!("{}: {what}; set INFALL_METAL_SIM_DIR", folder.display());
    let made = fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&folder);
    made.map_err(|why| wrong(why.to_string()))?;
    let found = fs::symlink_metadata(&folder).map_err(|why| wrong(why.to_string()))?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o022 != 0 {
        return Err(wrong("others may write there".to_string()));
    }
    Ok(folder)
}
