#include <metal_stdlib>
#include "dialect.h"
#include "args.h"
#include "reduce.h"
using namespace metal;

// y = x, whatever the bits mean
kernel void copy_u32(
    constant CopyArgs & args [[buffer(0)]],
    device const uint * x    [[buffer(1)]],
    device uint       * y    [[buffer(2)]],
    uint i [[thread_position_in_grid]])
{
    if (i < args.n) y[i] = x[i];
}

// gate = silu(min(gate, clamp)) * clamp(up)
kernel void swiglu(
    constant SwigluArgs & args [[buffer(0)]],
    device const float  * up   [[buffer(1)]],
    device float        * gate [[buffer(2)]],
    uint i [[thread_position_in_grid]])
{
    if (i < args.n) gate[i] = swiglu_value(gate[i], up[i], args.clamp);
}

// y[n, n_embd] += the sum over a token's routes, in their order
kernel void combine(
    constant CombineArgs & args   [[buffer(0)]],
    device const float   * routed [[buffer(1)]],
    device float         * y      [[buffer(2)]],
    uint i [[thread_position_in_grid]])
{
    if (i >= args.n * args.n_embd) return;
    const uint token = i / args.n_embd, column = i % args.n_embd;
    device const float * x = routed + (ulong)token * args.n_used * args.n_embd + column;
    float sum = 0.0f;
    for (uint r = 0; r < args.n_used; ++r) sum += x[(ulong)r * args.n_embd];
    y[i] += sum;
}
