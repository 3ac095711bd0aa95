//! What g++'s sanitizers find in kernels: races that happen to give the right result, and what C++ leaves undefined.

use crate::{Memory, alone, load, row, run, told};
use infall::backend::metal::sim::control;
use std::process::Command;

/// A kernel by its body.
struct Case {
    name: &'static str,
    /// Each line of it.
    body: &'static [&'static str],
    /// What is said of it; nothing when it is right.
    said: &'static str,
    /// Lines of the body that are named, from 0.
    lines: &'static [usize],
}

const RACES: [Case; 7] = [
    Case {
        name: "with_a_barrier",
        body: &[
            "shared[t] = x[i];",
            "threadgroup_barrier(mem_flags::mem_threadgroup);",
            "y[i] = shared[t == 0 ? 0 : t - 1];",
        ],
        said: "",
        lines: &[],
    },
    Case {
        name: "without_a_barrier",
        body: &["shared[t] = x[i];", "y[i] = shared[t == 0 ? 0 : t - 1];"],
        said: "data race",
        lines: &[0, 1],
    },
    // A sum hands over values, not memory.
    Case {
        name: "with_a_sum_for_a_barrier",
        body: &[
            "shared[t] = x[i];",
            "const float s = simd_sum(x[i]);",
            "y[i] = s + shared[t == 0 ? 0 : t - 1];",
        ],
        said: "data race",
        lines: &[0, 2],
    },
    Case {
        name: "with_a_barrier_of_the_simdgroup",
        body: &[
            "shared[t] = x[i];",
            "simdgroup_barrier(mem_flags::mem_threadgroup);",
            "y[i] = shared[t % 32 == 0 ? t : t - 1];",
        ],
        said: "",
        lines: &[],
    },
    Case {
        name: "between_groups",
        body: &["shared[t] = 0.0f;", "y[t] = x[i];"],
        said: "data race",
        lines: &[1],
    },
    Case {
        name: "of_atomics",
        body: &[
            "shared[t] = 0.0f;",
            "atomic_fetch_add_explicit((device atomic_uint *)y, 1u, memory_order_relaxed);",
        ],
        said: "",
        lines: &[],
    },
    Case {
        name: "of_matrices",
        body: &[
            "simdgroup_float8x8 m = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);",
            "simdgroup_store(m, shared + t / 32 * 64, 8);",
            "simdgroup_multiply(m, m, m);",
            "y[i] = shared[t / 32 * 64 + 63 - t % 32];",
        ],
        said: "data race",
        lines: &[3],
    },
];

const UNDEFINED: [Case; 5] = [
    Case {
        name: "nothing_undefined",
        body: &["y[i] = (float)(args.n << 31) + shared[t];"],
        said: "",
        lines: &[],
    },
    Case {
        name: "shift",
        body: &[
            "shared[t] = 0.0f;",
            "y[i] = (float)(args.n << (32 * args.n));",
        ],
        said: "shift exponent 32",
        lines: &[1],
    },
    Case {
        name: "overflow",
        body: &["y[i] = (float)(0x7FFFFFFF + (int)args.n) + shared[t];"],
        said: "signed integer overflow",
        lines: &[0],
    },
    Case {
        name: "alignment",
        body: &["y[i] = ((device const float2 *)(x + args.n))[0].x + shared[t];"],
        said: "misaligned",
        lines: &[0],
    },
    Case {
        name: "index",
        body: &["float a[4] = {};", "y[i] = a[4 * args.n] + shared[t];"],
        said: "out of bounds",
        lines: &[1],
    },
];

/// One text of the kernels of all cases, and for each the line of `test.metal` that its body begins on.
fn all() -> (String, Vec<usize>) {
    let mut text = String::new();
    let starts = RACES.iter().chain(&UNDEFINED).map(|case| {
        let head = "(constant Args & args [[buffer(0)]], device const float * x [[buffer(1)]],
    device float * y [[buffer(2)]], threadgroup float * shared [[threadgroup(0)]],
    uint i [[thread_position_in_grid]], ushort t [[thread_index_in_threadgroup]])\n{\n";
        text.push_str(&format!("kernel void {}{head}", case.name));
        // The text begins on line 2.
        let start = text.matches('\n').count() + 2;
        text.push_str(&case.body.join("\n"));
        text.push_str("\n}\n");
        start
    });
    let starts = starts.collect();
    (text, starts)
}

/// Runs the kernel that the environment names, in the order of the indices.
#[test]
#[ignore = "runs under a sanitizer; started by the tests below"]
fn named_kernel() {
    let name = std::env::var("TEST_KERNEL").unwrap();
    let kernels = load(&all().0).unwrap();
    let (x, y) = (Memory::of(&[1.0_f32; 128]), Memory::of(&[0.0_f32; 128]));
    for _ in 0..2 {
        run(&kernels, &name, 1, &[&x, &y], row(2, 64, 0).shared(512)).unwrap();
    }
}

/// Runs each case in a program of its own, and looks at what that says.
fn check(cases: &[Case], environment: &[(&str, &str)]) {
    let starts = all().1;
    let names = RACES.iter().chain(&UNDEFINED).map(|case| case.name);
    let starts: Vec<(&str, usize)> = names.zip(starts).collect();
    for case in cases {
        let environment = [environment, &[("TEST_KERNEL", case.name)]].concat();
        let output = alone("sanitizers::named_kernel", &environment);
        let told = told(&output);
        assert_eq!(
            output.status.success(),
            case.said.is_empty(),
            "{}: {told}",
            case.name
        );
        assert!(told.contains(case.said), "{}: {told}", case.name);
        let start = starts
            .iter()
            .find(|(name, _)| *name == case.name)
            .unwrap()
            .1;
        for line in case.lines {
            let place = format!("test.metal:{}", start + line);
            assert!(
                told.contains(&place),
                "{}: {told}\nexpected {place}",
                case.name
            );
        }
    }
}

/// What g++'s library of ThreadSanitizer is called, if there is one.
fn libtsan() -> Option<String> {
    let output = Command::new("g++")
        .arg("-print-file-name=libtsan.so")
        .output()
        .ok()?;
    let path = String::from_utf8(output.stdout).ok()?.trim().to_string();
    path.starts_with('/').then_some(path)
}

#[test]
fn races_are_found_in_the_order_that_hides_them() {
    let Some(library) = libtsan() else {
        return control::skip("needs g++ with libtsan");
    };
    // It sees what Rust code reads and writes through the C library, but not what orders it.
    let options = "ignore_noninstrumented_modules=1";
    let environment = [
        ("INFALL_METAL_SIM_SANITIZE", "thread"),
        ("LD_PRELOAD", &library),
        ("TSAN_OPTIONS", options),
    ];
    check(&RACES, &environment);
}

#[test]
fn what_is_undefined_is_found() {
    if Command::new("g++").arg("--version").output().is_err() {
        return control::skip("needs g++");
    }
    check(&UNDEFINED, &[("INFALL_METAL_SIM_SANITIZE", "undefined")]);
}
