//! Where threads are told to be, in which order they run, and that each runs once.

use crate::{Grid, Memory, SEEDS, load, run};

#[test]
fn each_thread_runs_once_and_knows_its_place() {
    let text = "kernel void test(constant Args & args [[buffer(0)]], device atomic_uint * count [[buffer(1)]], device uint * y [[buffer(2)]],
    uint3 at [[thread_position_in_grid]], uint3 size [[threads_per_grid]], ushort3 inside [[thread_position_in_threadgroup]],
    uint3 group [[threadgroup_position_in_grid]], ushort3 threads [[threads_per_threadgroup]], uint3 groups [[threadgroups_per_grid]],
    uint index [[thread_index_in_threadgroup]], ushort lane [[thread_index_in_simdgroup]],
    ushort simdgroup [[simdgroup_index_in_threadgroup]], uint simdgroups [[simdgroups_per_threadgroup]], uint width [[threads_per_simdgroup]])
{
    const uint i = (at.z * size.y + at.y) * size.x + at.x;
    atomic_fetch_add_explicit(count + i, 1u, memory_order_relaxed);
    const bool fits = at.x == group.x * threads.x + inside.x && at.y == group.y * threads.y + inside.y
        && at.z == group.z * threads.z + inside.z && size.x == groups.x * threads.x && size.y == groups.y * threads.y
        && size.z == groups.z * threads.z && index == (uint)((inside.z * threads.y + inside.y) * threads.x + inside.x)
        && lane == index % 32 && simdgroup == index / 32 && width == 32
        && simdgroups == (uint)(threads.x * threads.y * threads.z / 32);
    y[i] = fits ? i : 0xFFFFFFFF;
}";
    let Some(kernels) = load(text) else {
        return;
    };
    for (groups, threads) in [
        ([1, 1, 1], [32, 1, 1]),
        ([5, 3, 2], [8, 4, 2]),
        ([97, 1, 1], [256, 1, 1]),
        ([1, 7, 1], [4, 1, 256]),
    ] {
        let n: u32 = groups.iter().chain(&threads).product();
        for seed in SEEDS {
            let (count, y) = (
                Memory::of(&vec![0_u32; n as usize]),
                Memory::unset(n as usize),
            );
            let grid = Grid {
                groups,
                threads,
                shared: 0,
                seed,
            };
            run(&kernels, "test", n, &[&count, &y], grid).unwrap();
            assert_eq!(count.get::<u32>(), vec![1; n as usize]);
            assert_eq!(
                y.get::<u32>(),
                (0..n).collect::<Vec<_>>(),
                "{groups:?} {threads:?} seed {seed}"
            );
        }
    }
}

/// The order in which 16 groups of 64 threads come to the first line of a kernel.
#[test]
fn seeds_give_different_orders_of_groups_simdgroups_and_lanes() {
    let text = "kernel void test(constant Args & args [[buffer(0)]], device atomic_uint * next [[buffer(1)]], device uint * y [[buffer(2)]],
    uint i [[thread_position_in_grid]])
{
    y[atomic_fetch_add_explicit(next, 1u, memory_order_relaxed)] = i;
}";
    let Some(kernels) = load(text) else {
        return;
    };
    const N: u32 = 16 * 64;
    let order = |seed: u32| {
        let (next, y) = (Memory::of(&[0_u32]), Memory::unset(N as usize));
        run(&kernels, "test", N, &[&next, &y], crate::row(16, 64, seed)).unwrap();
        y.get::<u32>()
    };
    let again = order;
    assert_eq!(order(0), (0..N).collect::<Vec<_>>());
    let mut seen = [const { Vec::new() }; 3];
    for seed in SEEDS {
        let order = order(seed);
        assert_eq!(order, again(seed), "a seed decides the order");
        // By their first threads: groups, simdgroups of a group, lanes of a simdgroup.
        let mut groups: Vec<u32> = order.iter().map(|i| i / 64).collect();
        groups.dedup();
        let simdgroups: Vec<u32> = order.iter().map(|i| i / 32).collect();
        let lanes: Vec<u32> = order[..32].iter().map(|i| i % 32).collect();
        assert_eq!(groups.len(), 16, "a small dispatch runs group after group");
        for (seen, order) in seen.iter_mut().zip([groups, simdgroups, lanes]) {
            if !seen.contains(&order) {
                seen.push(order);
            }
        }
    }
    let n_orders = seen.map(|orders| orders.len());
    assert!(n_orders.iter().all(|n| *n >= 4), "{n_orders:?}");
}
