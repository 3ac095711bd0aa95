// Sums over the threads of a group, in an order that depends on their number alone.
#pragma once

// The sum of `v` over all threads, in every one; `partial` has room for 32 values. All threads must arrive.
static inline float group_sum(float v, threadgroup float * partial, ushort lane, ushort simdgroup, ushort n_simdgroups)
{
    v = simd_sum(v);
    threadgroup_barrier(mem_flags::mem_threadgroup);   // an earlier sum may still be read
    if (lane == 0) partial[simdgroup] = v;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    return simd_sum(lane < n_simdgroups ? partial[lane] : 0.0f);
}

// 1 / sqrt(mean + eps) of a sum of squares
static inline float norm_scale(float sum, uint n, float eps)
{
    return 1.0f / sqrt(sum / (float)n + eps);
}

// A pair of neighbours turned by (cos, sin); direction -1 undoes it.
static inline float2 rotated(float2 v, float2 angle, float direction)
{
    const float s = direction * angle.y;
    return float2(v.x * angle.x - v.y * s, v.x * s + v.y * angle.x);
}

static inline float sigmoid(float x)
{
    return 1.0f / (1.0f + exp(-x));
}

// silu(min(gate, clamp)) * clamp(up, -clamp, clamp)
static inline float swiglu_value(float gate, float up, float limit)
{
    const float g = gate < limit ? gate : limit;
    const float u = up > -limit ? (up < limit ? up : limit) : -limit;
    return g * sigmoid(g) * u;
}
