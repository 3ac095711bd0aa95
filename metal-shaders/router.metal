#include <metal_stdlib>
#include "dialect.h"
#include "args.h"
using namespace metal;

// The smallest sum that weights are divided by.
#define MIN_WEIGHT_SUM (1.0f / 16384.0f)

// sqrt(softplus(x))
static inline float affinity(float x)
{
    const float e = exp(x), u = 1.0f + e;
    // log(1 + e), exact to rounding where 1 + e is not: the error of u is taken back.
    float softplus = u == 1.0f ? e : log(u) * (e / (u - 1.0f));
    if (x > 20.0f) softplus = x;
    return sqrt(softplus);
}

// Numbers in their order; NaN below all of them, both zeros alike, and never 0.
static inline uint rank_of(float x)
{
    const uint bits = as_type<uint>(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return 1;
    if ((bits & 0x7fffffff) == 0) return 0x80000000u;
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// The experts of largest affinity + bias, the lower one among equals, and their weights: in proportion to the affinities, with
// sum `scale`. `x` holds the router's products. A token a simdgroup.
kernel void route(
    constant RouteArgs & args    [[buffer(0)]],
    device const float * x       [[buffer(1)]],
    device const float * bias    [[buffer(2)]],
    device uint        * ids     [[buffer(3)]],
    device float       * weights [[buffer(4)]],
    threadgroup uint   * ranks   [[threadgroup(0)]],
    uint   token [[threadgroup_position_in_grid]],
    ushort lane  [[thread_index_in_simdgroup]])
{
    device const float * in = x + (ulong)token * args.n_expert;
    device uint * chosen = ids + (ulong)token * args.n_used;
    threadgroup uint * taken = ranks + args.n_expert;
    threadgroup float * affinities = (threadgroup float *)(taken + args.n_used);
    if (args.is_preset != 0) {
        for (uint i = lane; i < args.n_used; i += 32) taken[i] = chosen[i];
    } else {
        for (uint e = lane; e < args.n_expert; e += 32) {
            const float b = args.has_bias != 0 ? bias[e] : 0.0f;
            ranks[e] = rank_of(affinity(in[e]) + b);
        }
        for (uint i = 0; i < args.n_used; ++i) {
            // A lane looks at experts of its own only.
            uint best = 0, at = args.n_expert;
            for (uint e = lane; e < args.n_expert; e += 32) {
                if (ranks[e] > best) {
                    best = ranks[e];
                    at = e;
                }
            }
            const uint most = simd_max(best);
            const uint first = simd_min(best == most ? at : args.n_expert);
            if (first % 32 == lane) {
                ranks[first] = 0;
                taken[i] = first;
                chosen[i] = first;
            }
        }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = lane; i < args.n_used; i += 32) affinities[i] = affinity(in[taken[i]]);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    float sum = 0.0f;
    for (uint i = 0; i < args.n_used; ++i) sum += affinities[i];
    sum = sum > MIN_WEIGHT_SUM ? sum : MIN_WEIGHT_SUM;
    for (uint i = lane; i < args.n_used; i += 32) weights[(ulong)token * args.n_used + i] = affinities[i] / sum * args.scale;
}
