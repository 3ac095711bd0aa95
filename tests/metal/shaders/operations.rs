//! What the shim's operations compute, against plain loops.

use crate::{Memory, SEEDS, load, row, run};

/// Values that are whole and distinct in a simdgroup, 128 of them.
fn values() -> Vec<f32> {
    (0..128_u16).map(|i| f32::from(i * 37 % 128)).collect()
}

/// An expression of a lane, of `v`, its value of [`values`], `u`, the same as uint, and `lane`; and a lane's result from the
/// values of its simdgroup.
type Case = (&'static str, fn(&[f32], usize) -> f32);

fn check(cases: &[Case]) {
    let kernel = |(i, (expression, _)): (usize, &Case)| {
        format!(
            "kernel void test_{i}(constant Args & args [[buffer(0)]], device const float * x [[buffer(1)]],
    device float * y [[buffer(2)]], uint i [[thread_position_in_grid]], ushort lane [[thread_index_in_simdgroup]])
{{
    const float v = x[i];
    const uint u = (uint)v;
    y[i] = (float)({expression});
}}
"
        )
    };
    let text: String = cases.iter().enumerate().map(kernel).collect();
    let Some(kernels) = load(&text) else {
        return;
    };
    let x = values();
    for (i, (expression, expected)) in cases.iter().enumerate() {
        let expected: Vec<f32> = (0..128)
            .map(|i| expected(&x[i / 32 * 32..][..32], i % 32))
            .collect();
        for seed in SEEDS {
            let y = Memory::unset(128);
            run(
                &kernels,
                &format!("test_{i}"),
                128,
                &[&Memory::of(&x), &y],
                row(2, 64, seed),
            )
            .unwrap();
            assert_eq!(y.get::<f32>(), expected, "{expression}, seed {seed}");
        }
    }
}

#[test]
fn lanes_exchange_what_they_should() {
    check(&[
        ("simd_sum(v)", |x, _| x.iter().sum()),
        ("simd_sum(simd_sum(v) + v)", |x, _| {
            33.0 * x.iter().sum::<f32>()
        }),
        ("simd_max(v)", |x, _| x.iter().copied().fold(0.0, f32::max)),
        ("simd_min(u)", |x, _| x.iter().copied().fold(1e9, f32::min)),
        ("simd_prefix_inclusive_sum(u)", |x, lane| {
            x[..=lane].iter().sum()
        }),
        ("simd_prefix_exclusive_sum(v)", |x, lane| {
            x[..lane].iter().sum()
        }),
        ("simd_shuffle(v, 31 - lane)", |x, lane| x[31 - lane]),
        ("simd_shuffle_xor(v, 5)", |x, lane| x[lane ^ 5]),
        ("simd_shuffle_down(v, 3)", |x, lane| {
            x[if lane < 29 { lane + 3 } else { lane }]
        }),
        ("simd_shuffle_up(v, 3)", |x, lane| {
            x[if lane < 3 { lane } else { lane - 3 }]
        }),
        ("simd_broadcast(v, 7)", |x, _| x[7]),
        ("simd_broadcast_first(v)", |x, _| x[0]),
        ("simd_any(lane == 3)", |_, _| 1.0),
        ("simd_all(lane != 3)", |_, _| 0.0),
        ("simd_max(float2(v, -v)).y", |x, _| {
            -x.iter().copied().fold(1e9, f32::min)
        }),
    ]);
}

#[test]
fn functions_compute_what_their_names_say() {
    check(&[
        ("exp(v * 0.01f)", |x, lane| (x[lane] * 0.01).exp()),
        ("log(v + 1.0f)", |x, lane| (x[lane] + 1.0).ln()),
        ("rsqrt(v + 1.0f)", |x, lane| 1.0 / (x[lane] + 1.0).sqrt()),
        ("fma(v, v, 0.5f)", |x, lane| x[lane].mul_add(x[lane], 0.5)),
        (
            "min(v, 50.0f) + max(u, 20u) + clamp(v, 30.0f, 40.0f)",
            |x, lane| x[lane].min(50.0) + x[lane].max(20.0) + x[lane].clamp(30.0, 40.0),
        ),
        ("min(v, NAN)", |x, lane| x[lane]),
        (
            "dot(float4(v, 1.0f, 2.0f, 3.0f), float4(2.0f, v, 0.0f, 1.0f))",
            |x, lane| 3.0 * x[lane] + 3.0,
        ),
        ("popcount(u) + clz(u) + ctz(u | 64)", |x, lane| {
            let u = x[lane] as u32;
            (u.count_ones() + u.leading_zeros() + (u | 64).trailing_zeros()) as f32
        }),
        (
            "as_type<uint>(v) == as_type<uint>((float)u) ? 1.0f : 0.0f",
            |_, _| 1.0,
        ),
        (
            "any(float2(v, 3.0f) < float2(0.0f)) || all(uint2(u, 1) >= uint2(0))",
            |_, _| 1.0,
        ),
        (
            "select(float2(1.0f), float2(v), bool2(true, false)).x",
            |x, lane| x[lane],
        ),
    ]);
}

#[test]
fn vectors_work_element_by_element() {
    check(&[
        (
            "(float4(v) * 2.0f + float4(0.0f, 1.0f, 2.0f, 3.0f)).w",
            |x, lane| 2.0 * x[lane] + 3.0,
        ),
        (
            "((float4)uchar4((uchar)255, (uchar)1, (uchar)2, (uchar)3)).x",
            |_, _| 255.0,
        ),
        ("uchar2(uint2(u, u) + 256).y", |x, lane| x[lane]),
        ("float(int4(float4(v, -1.5f, 2.5f, 0.0f)).y)", |_, _| -1.0),
        (
            "float2(float4(float2(v, 1.0f), float2(2.0f, 3.0f)).zw).y + (float)uint2(uint3(u).xy).x",
            |x, lane| 3.0 + x[lane],
        ),
        ("(-float2(v, 1.0f)).x", |x, lane| -x[lane]),
        ("(ushort4(7) >> ushort4(1) & ushort4(1)).z", |_, _| 1.0),
        ("float2(v, 5.0f)[1]", |_, _| 5.0),
    ]);
}

#[test]
fn halves_round_after_each_operation() {
    check(&[
        ("(half)2048.0f + (half)1.0f + (half)1.0f", |_, _| 2048.0),
        ("(float)(half)65520.0f", |_, _| f32::INFINITY),
        ("as_type<half>((ushort)0x3C01)", |_, _| 1.000_976_6),
    ]);
}

const PRODUCT: &str = "kernel void test(constant Args & args [[buffer(0)]], device const float * a [[buffer(1)]],
    device const float * b [[buffer(2)]], device float * c [[buffer(3)]], threadgroup float * shared [[threadgroup(0)]],
    uint group [[threadgroup_position_in_grid]], ushort simdgroup [[simdgroup_index_in_threadgroup]])
{
    // c[8, 16] = a[8, 24] b[16, 24]^T, a half of the columns a simdgroup
    simdgroup_float8x8 sums = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
    for (uint k = 0; k < 24; k += 8) {
        simdgroup_float8x8 left, right;
        simdgroup_load(left, a, 24, ulong2(k, 0));
        simdgroup_load(right, b + k + simdgroup * 8 * 24, 24, ulong2(0, 0), true);
        simdgroup_multiply_accumulate(sums, left, right, sums);
    }
    simdgroup_store(sums, shared + simdgroup * 8, 16);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_float8x8 done;
    simdgroup_load(done, shared + simdgroup * 8, 16);
    simdgroup_store(done, c + simdgroup * 8, 16);
}";

#[test]
fn matrices_are_multiplied() {
    let Some(kernels) = load(PRODUCT) else {
        return;
    };
    let a: Vec<f32> = (0..8 * 24_u16)
        .map(|i| f32::from(i * 7 % 13) - 6.0)
        .collect();
    let b: Vec<f32> = (0..16 * 24_u16)
        .map(|i| f32::from(i * 5 % 11) - 5.0)
        .collect();
    let dot = |i: usize, j: usize| (0..24).map(|k| a[i * 24 + k] * b[j * 24 + k]).sum::<f32>();
    let expected: Vec<f32> = (0..8 * 16).map(|at| 1.0 + dot(at / 16, at % 16)).collect();
    for seed in SEEDS {
        let c = Memory::unset(8 * 16);
        run(
            &kernels,
            "test",
            0,
            &[&Memory::of(&a), &Memory::of(&b), &c],
            row(1, 64, seed).shared(512),
        )
        .unwrap();
        assert_eq!(c.get::<f32>(), expected, "seed {seed}");
    }
}

#[test]
fn atomics_count_over_groups_on_several_threads() {
    let text = "kernel void test(constant Args & args [[buffer(0)]], device atomic_uint * sum [[buffer(1)]], uint i [[thread_position_in_grid]])
{
    atomic_fetch_add_explicit(sum, i % 3, memory_order_relaxed);
    atomic_fetch_max_explicit(sum + 1, i, memory_order_relaxed);
    atomic_fetch_min_explicit(sum + 2, i + 5, memory_order_relaxed);
    atomic_fetch_or_explicit(sum + 3, 1u << (i % 9), memory_order_relaxed);
}";
    let Some(kernels) = load(text) else {
        return;
    };
    let sum = Memory::of(&[0_u32, 0, u32::MAX, 0]);
    run(&kernels, "test", 0, &[&sum], row(300, 1024, 1)).unwrap();
    assert_eq!(sum.get::<u32>(), [300 * 1024, 300 * 1024 - 1, 5, 511]);
}
