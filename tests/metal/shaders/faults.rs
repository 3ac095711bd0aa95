//! Kernels with a fault that often stays hidden on a GPU. Each is found; the same kernel without the fault is fine.

use crate::{Grid, Memory, SEEDS, alone, load, row, run, run_with, told};

const HEAD: &str = "kernel void test(constant Args & args [[buffer(0)]], device float * y [[buffer(1)]],
    uint i [[thread_position_in_grid]], ushort lane [[thread_index_in_simdgroup]], ushort simdgroup [[simdgroup_index_in_threadgroup]])\n";

/// What a kernel of one buffer says, run on two groups of 64.
fn said(body: &str, seed: u32) -> Option<Result<(), String>> {
    let kernels = load(&format!("{HEAD}{body}"))?;
    let y = Memory::unset(128);
    Some(run(&kernels, "test", 128, &[&y], row(2, 64, seed)))
}

/// The fault is reported under every seed, with all of `parts`.
fn is_reported(body: &str, parts: &[&str]) {
    for seed in SEEDS {
        let Some(said) = said(body, seed) else {
            return;
        };
        let why = said.expect_err(body);
        assert!(
            parts.iter().all(|part| why.contains(part)),
            "seed {seed}: {why}"
        );
    }
}

const NEIGHBOUR: &str =
    "kernel void test(constant Args & args [[buffer(0)]], device const float * x [[buffer(1)]],
    device float * y [[buffer(2)]], threadgroup float * shared [[threadgroup(0)]],
    uint i [[thread_position_in_grid]], ushort t [[thread_index_in_threadgroup]])
{
    shared[t] = x[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    y[i] = shared[t == 0 ? 0 : t - 1];
}";

#[test]
fn a_missing_barrier_shows_in_all_orders_but_that_of_the_indices() {
    let expected: Vec<f32> = (0..128_i16)
        .map(|i| f32::from(if i % 64 == 0 { i } else { i - 1 }))
        .collect();
    let x = Memory::of(&(0..128_i16).map(f32::from).collect::<Vec<_>>());
    for without in [false, true] {
        let barrier = "threadgroup_barrier(mem_flags::mem_threadgroup);";
        let text = if without {
            NEIGHBOUR.replace(barrier, "")
        } else {
            NEIGHBOUR.to_string()
        };
        let Some(kernels) = load(&text) else {
            return;
        };
        for seed in SEEDS {
            let y = Memory::unset(128);
            run(
                &kernels,
                "test",
                128,
                &[&x, &y],
                row(2, 64, seed).shared(256),
            )
            .unwrap();
            let is_right = y.get::<f32>() == expected;
            assert_eq!(is_right, !without || seed == 0, "seed {seed}");
        }
    }
}

#[test]
fn a_simdgroup_operation_of_some_lanes_is_reported() {
    is_reported(
        "{\n if (lane < 7) y[i] = simd_sum(1.0f);\n}",
        &["test.metal:5", "has ended", "a simdgroup operation"],
    );
    let both = "{\n float v = lane < 7\n ? simd_sum(1.0f)\n : simd_max(1.0f);\n y[i] = v;\n}";
    is_reported(
        both,
        &[
            "at a simdgroup operation (test.metal:6)",
            "at a simdgroup operation (test.metal:7)",
        ],
    );
    assert_eq!(
        said("{\n if (simdgroup < 1) y[i] = simd_sum(1.0f);\n}", 3).unwrap_or(Ok(())),
        Ok(())
    );
}

#[test]
fn a_lane_that_leaves_early_is_reported() {
    is_reported(
        "{\n if (lane == 9) return;\n y[i] = simd_sum(1.0f);\n}",
        &["lane 9", "has ended", "test.metal:6"],
    );
    is_reported(
        "{\n if (lane == 9) return;\n threadgroup_barrier(mem_flags::mem_threadgroup);\n}",
        &["has ended", "a threadgroup barrier (test.metal:6)"],
    );
    let whole = "{\n if (simdgroup == 1) return;\n y[i] = simd_sum(1.0f);\n}";
    assert_eq!(said(whole, 5).unwrap_or(Ok(())), Ok(()));
}

#[test]
fn a_barrier_of_some_threads_is_reported() {
    let body = "{\n if (simdgroup != 0) threadgroup_barrier(mem_flags::mem_threadgroup);\n y[i] = 1.0f;\n}";
    is_reported(body, &["has ended", "a threadgroup barrier (test.metal:5)"]);
    let two = "{\n if (simdgroup != 0)\n threadgroup_barrier(mem_flags::mem_threadgroup);\n else\n threadgroup_barrier(mem_flags::mem_threadgroup);\n}";
    is_reported(two, &["test.metal:6", "test.metal:8"]);
    let mixed = "{\n if (lane == 3)\n threadgroup_barrier(mem_flags::mem_threadgroup);\n else\n y[i] = simd_sum(1.0f);\n}";
    is_reported(
        mixed,
        &[
            "a threadgroup barrier (test.metal:6)",
            "a simdgroup operation (test.metal:8)",
        ],
    );
}

#[test]
fn unset_threadgroup_memory_is_not_a_number() {
    let text = NEIGHBOUR.replace("shared[t] = x[i];", "");
    let Some(kernels) = load(&text) else {
        return;
    };
    let (x, y) = (Memory::unset(64), Memory::of(&[0.0_f32; 64]));
    run(&kernels, "test", 64, &[&x, &y], row(1, 64, 0).shared(256)).unwrap();
    assert!(y.get::<f32>().iter().all(|v| v.is_nan()));
}

#[test]
#[ignore = "ends its program; run by the test below"]
fn stores_past_a_buffer() {
    let kernels = load(&format!("{HEAD}{{ y[i + 64] = 1.0f; }}")).unwrap();
    let _ = run(&kernels, "test", 0, &[&Memory::unset(124)], row(1, 64, 0));
}

#[test]
#[ignore = "ends its program; run by the test below"]
fn stores_past_threadgroup_memory() {
    let kernels = load(&NEIGHBOUR.replace("shared[t] =", "shared[t + 1] =")).unwrap();
    let (x, y) = (Memory::unset(64), Memory::unset(64));
    let _ = run(&kernels, "test", 0, &[&x, &y], row(1, 64, 0).shared(256));
}

#[test]
fn a_touch_past_the_end_of_memory_ends_the_program() {
    use std::os::unix::process::ExitStatusExt;
    if load(NEIGHBOUR).is_none() {
        return;
    }
    for test in [
        "faults::stores_past_a_buffer",
        "faults::stores_past_threadgroup_memory",
    ] {
        let output = alone(test, &[]);
        let signal = output.status.signal();
        assert!(
            signal.is_some_and(|s| s == libc::SIGSEGV || s == libc::SIGABRT),
            "{test}: {:?} {}",
            output.status,
            told(&output)
        );
    }
}

/// Marks the start of each of 4097 rows of 2^20 values: 16 GiB, of which a page each has memory.
#[test]
fn an_index_that_overflows_32_bits_shows() {
    const ROWS: usize = 4097;
    const STRIDE: usize = 1 << 20;
    let text = format!("{HEAD}{{ if (i < args.n) y[(ulong)i * {STRIDE}] = (float)i; }}");
    let bytes = 4 * ROWS * STRIDE;
    for overflows in [false, true] {
        let text = if overflows {
            text.replace("(ulong)i", "i")
        } else {
            text.clone()
        };
        let Some(kernels) = load(&text) else {
            return;
        };
        // SAFETY: a new mapping, which is only touched where kernels and the lines below do.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let start = libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            );
            assert_ne!(start, libc::MAP_FAILED);
            let mut launch = crate::Launch {
                kernel: "test",
                constants: &[],
                buffers: [std::ptr::null_mut(); 31],
                groups: [ROWS.div_ceil(32) as u32, 1, 1],
                threads: [32, 1, 1],
                shared: 0,
                seed: 0,
            };
            let args = Memory::of(&[ROWS as u32]);
            launch.buffers[0] = args.0.start().as_ptr();
            launch.buffers[1] = start.cast();
            crate::Kernels::run(&*kernels, &launch).unwrap();
            let last = *start.cast::<f32>().add((ROWS - 1) * STRIDE);
            assert_eq!(last == 4096.0, !overflows);
            libc::munmap(start, bytes);
        }
    }
}

#[test]
fn a_dispatch_that_metal_would_refuse_is_refused() {
    let text = format!(
        "FUNCTION_CONSTANT(uint, FORM, 3);\n{HEAD}{{ y[i] = (float)FORM; }}\n{}",
        NEIGHBOUR.replace("void test", "void shared_test")
    );
    let Some(kernels) = load(&text) else {
        return;
    };
    let y = Memory::unset(64);
    let fine = row(1, 64, 0);
    let refused = |kernel: &str, memories: &[&Memory], grid: Grid, constants: &[(u32, u32)]| {
        run_with(&kernels, kernel, 0, memories, grid, constants)
    };
    assert_eq!(refused("test", &[&y], fine, &[(3, 7)]), Ok(()));
    assert_eq!(y.get::<f32>(), [7.0; 64]);
    for (kernel, memories, grid, constants, why) in [
        (
            "none",
            &[&y][..],
            fine,
            &[(3, 7)][..],
            "there is no such kernel",
        ),
        ("test", &[], fine, &[(3, 7)], "buffer 1 is not set"),
        (
            "test",
            &[&y],
            fine,
            &[(2, 7)],
            "function constant 3 is not set",
        ),
        (
            "test",
            &[&y],
            row(1, 48, 0),
            &[(3, 7)],
            "48 threads a group",
        ),
        (
            "test",
            &[&y],
            row(1, 1056, 0),
            &[(3, 7)],
            "1056 threads a group",
        ),
        ("test", &[&y], row(0, 64, 0), &[(3, 7)], "no groups"),
        (
            "shared_test",
            &[&y, &y],
            fine,
            &[],
            "threadgroup memory is not set",
        ),
        (
            "shared_test",
            &[&y, &y],
            fine.shared(20),
            &[],
            "20 bytes of threadgroup memory",
        ),
        (
            "shared_test",
            &[&y, &y],
            fine.shared(32784),
            &[],
            "32784 bytes of threadgroup memory",
        ),
    ] {
        let said = refused(kernel, memories, grid, constants).unwrap_err();
        assert!(said.contains(why), "{said}, expected {why}");
    }
}

#[test]
fn what_breaks_the_dialect_or_does_not_compile_is_no_library() {
    use infall::backend::metal::sim::{Loaded, compile::Sanitizer};
    let Some(_) = load(NEIGHBOUR) else {
        return;
    };
    let refusal = |body: &str| {
        let text = crate::flat(&format!("{HEAD}{body}"));
        Loaded::from_source(&text, Sanitizer::None)
            .err()
            .expect(body)
    };
    assert!(refusal("{ y[i] = 1.0; }").contains("test.metal:4: found 1.0, expected 1.0f"));
    for (body, why) in [
        ("{ y[i] = z; }", "test.metal:4"),
        (
            "{ uint a = 1; ushort b = 2; y[i] = (float)min(a, b); }",
            "no matching function",
        ),
        ("{ y[i] = exp(1); }", "delete"),
        // C++17, which Metal's language is not yet.
        (
            "{ float2 v = float2(1.0f); auto [a, b] = v; y[i] = a; }",
            "test.metal:4",
        ),
        (
            "{ int4 v = float4(1.0f); y[i] = (float)v.x; }",
            "test.metal:4",
        ),
        (
            "{ simdgroup_float8x8 a; simdgroup_store(a, args.n); }",
            "simdgroup_store",
        ),
    ] {
        let said = refusal(body);
        assert!(said.contains(why), "{body}: {said}");
    }
}
