#include <metal_stdlib>
#include "dialect.h"
#include "args.h"
using namespace metal;

// y = x
kernel void copy_u32(
    constant CopyArgs  & args [[buffer(0)]],
    device const uint * x    [[buffer(1)]],
    device uint       * y    [[buffer(2)]],
    uint i [[thread_position_in_grid]])
{
    if (i < args.n) y[i] = x[i];
}
