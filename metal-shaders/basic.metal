#include <metal_stdlib>
#include "dialect.h"
#include "args.h"
using namespace metal;

// y = x
kernel void copy_f32(
    constant CopyArgs  & args [[buffer(0)]],
    device const float * x    [[buffer(1)]],
    device float       * y    [[buffer(2)]],
    uint i [[thread_position_in_grid]])
{
    if (i < args.n) y[i] = x[i];
}
