//! The kernels of `metal-shaders/` for the program to include: `$OUT_DIR/infall.metal`, all of them in one text, and
//! `$OUT_DIR/infall.metallib`, compiled by Apple's compiler; empty where there is none.
//!
//! Only macOS and the feature `metal-sim` need them; elsewhere nothing is done.

#[allow(dead_code, unused_imports)]
#[path = "src/backend/metal/source/mod.rs"]
mod source;
#[allow(dead_code)]
#[path = "src/quant/tables.rs"]
mod tables;

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is_macos = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "macos");
    let is_simulated = std::env::var_os("CARGO_FEATURE_METAL_SIM").is_some();
    if !is_macos && !is_simulated {
        return;
    }
    for read in [
        "metal-shaders",
        "src/backend/metal/source",
        "src/quant/tables.rs",
    ] {
        println!("cargo:rerun-if-changed={read}");
    }
    if let Err(why) = build(is_macos) {
        println!("cargo:warning={}", why.replace('\n', " "));
        std::process::exit(1);
    }
}

fn build(is_macos: bool) -> Result<(), String> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let mut files = source::read_folder(Path::new("metal-shaders"))
        .map_err(|why| format!("metal-shaders: {why}"))?;
    let tables = source::quant_tables(&tables::IQ2_XXS_GRID, &tables::MXFP4_VALUES);
    files.insert("quant_tables.h".to_string(), tables);
    let text = source::flatten(&files).map_err(|fault| fault.to_string())?;
    if let Err(faults) = source::parse(&text) {
        for fault in &faults {
            println!("cargo:warning={fault}");
        }
        return Err(format!("{} faults in metal-shaders", faults.len()));
    }
    let write = |name: &str, bytes: &[u8]| {
        let path = out.join(name);
        std::fs::write(&path, bytes).map_err(|why| format!("{}: {why}", path.display()))
    };
    write("infall.metal", text.as_bytes())?;
    write("infall.metallib", &[])?;
    if is_macos && let Err(why) = compile(&out) {
        // The program compiles its text when it starts.
        println!("cargo:warning=metal-shaders are compiled at run time: {why}");
        write("infall.metallib", &[])?;
    }
    Ok(())
}

/// Calls Apple's compiler. Exact arithmetic: sums in the order written, functions in their precise form.
fn compile(out: &Path) -> Result<(), String> {
    run(
        out,
        &[
            "metal",
            "-std=metal3.0",
            "-O2",
            "-fmetal-math-mode=safe",
            "-fmetal-math-fp32-functions=precise",
            "-ffp-contract=off",
            "-c",
            "infall.metal",
            "-o",
            "infall.air",
        ],
    )?;
    run(out, &["metallib", "infall.air", "-o", "infall.metallib"])
}

fn run(out: &Path, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("xcrun");
    command
        .args(["-sdk", "macosx"])
        .args(arguments)
        .current_dir(out);
    let output = command
        .output()
        .map_err(|why| format!("xcrun: {why}; install Xcode"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr)
        .trim()
        .replace('\n', " ");
    // Since Xcode 26 the compiler is a download of its own.
    if said.contains("cannot execute tool 'metal'") || said.contains("unable to find utility") {
        return Err(
            "Apple's compiler is missing; xcodebuild -downloadComponent MetalToolchain installs it"
                .to_string(),
        );
    }
    Err(format!("xcrun {}: {said}", arguments[0]))
}
