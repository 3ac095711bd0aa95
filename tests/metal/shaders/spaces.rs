//! The kernels for a compiler that knows address spaces: clang's C++ for OpenCL. It runs nothing.

use fancy_regex::Regex;
use infall::backend::metal::{sim::control, source};
use infall::quant::tables;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The compiler; other versions of clang know other options.
const CLANG: &str = "clang-19";

const SHIM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/metal/shim/spaces");

/// All kernels in one text.
fn sources() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("metal-shaders");
    let mut files = source::read_folder(&folder).unwrap();
    let tables = source::quant_tables(&tables::IQ2_XXS_GRID, &tables::MXFP4_VALUES);
    files.insert("quant_tables.h".to_string(), tables);
    source::flatten(&files).unwrap()
}

/// What the compiler says of a text; `None` where it is missing.
fn said(text: &str) -> Option<String> {
    let shaders = source::parse(text).unwrap();
    // OpenCL's vectors have no constructors.
    let constructor = Regex::new(r"\b((?:float|half|u?int|u?short|u?char|u?long)[234])\(").unwrap();
    let mut opencl = constructor
        .replace_all(&source::blanked(text), "make_$1(")
        .into_owned();
    opencl.push_str(
        "\n#line 1 \"uses\"\n#pragma OPENCL EXTENSION __cl_clang_function_pointers : enable\n",
    );
    for (i, kernel) in shaders.kernels.iter().enumerate() {
        // Templates are read when somebody uses them.
        opencl.push_str(&format!(
            "static void use_{i}() {{ auto used = &{}; (void)used; }}\n",
            kernel.function
        ));
    }
    let extensions =
        "-cl-ext=-all,+cl_khr_fp16,+__opencl_c_generic_address_space,+__cl_clang_function_pointers";
    let mut compiler = Command::new(CLANG)
        .args([
            "-x",
            "clcpp",
            "-cl-std=clc++2021",
            "-target",
            "spir64",
            "-fsyntax-only",
            "-I",
            SHIM,
        ])
        .args([
            "-Xclang",
            extensions,
            "-Xclang",
            "-fdeclare-opencl-builtins",
            "-Xclang",
            "-finclude-default-header",
            "-",
        ])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    compiler
        .stdin
        .take()
        .unwrap()
        .write_all(opencl.as_bytes())
        .unwrap();
    let output = compiler.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), !told.contains("error"), "{told}");
    Some(told)
}

#[test]
fn pointers_stay_in_their_address_spaces() {
    let text = sources();
    let Some(told) = said(&text) else {
        return control::skip(&format!("needs {CLANG}"));
    };
    assert_eq!(told, "");

    let head = "kernel void test(constant CopyArgs & args [[buffer(0)]], device const float * x [[buffer(1)]],
    device float * y [[buffer(2)]], threadgroup float * shared [[threadgroup(0)]])";
    let helper = "static inline float first(device const float * p) { return p[0]; }";
    for (body, why) in [
        (
            "{ device float * p = shared; p[0] = x[0]; }",
            "cannot initialize a variable of type '__global float",
        ),
        (
            "{ y[0] = first(shared); }",
            "no matching function for call to 'first'",
        ),
        ("{ x[0] = y[0]; }", "read-only variable is not assignable"),
        ("{ args.n = 1; }", "read-only variable is not assignable"),
        (
            "{ threadgroup float * p = (threadgroup float *)y; p[0] = 1.0f; }",
            "converts between mismatching address spaces",
        ),
    ] {
        let told = said(&format!(
            "{text}\n#line 1 \"test.metal\"\n{helper}\n{head}\n{body}\n"
        ))
        .unwrap();
        assert!(
            told.contains(why) && told.contains("test.metal:4"),
            "{body}: {told}"
        );
    }
    // In a template, too, which only its instance makes known.
    let template = head.replace("kernel void", "template <typename T>\nkernel void");
    let instance = "KERNEL_INSTANCE(\"test_float\", test<float>)";
    let told = said(&format!(
        "{text}\n{template}\n{{ device T * p = shared; p[0] = x[0]; }}\n{instance}\n"
    ));
    assert!(told.unwrap().contains("cannot initialize"));
}
