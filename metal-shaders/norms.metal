#include <metal_stdlib>
#include "dialect.h"
#include "args.h"
#include "reduce.h"
#include "rows.h"
using namespace metal;

// x = x / rms(x) * weight, a row a threadgroup; dim is a multiple of 4
kernel void rms_norm(
    constant NormArgs  & args    [[buffer(0)]],
    device const float * weight  [[buffer(1)]],
    device float       * x       [[buffer(2)]],
    threadgroup float  * partial [[threadgroup(0)]],
    uint   row          [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]],
    ushort n_threads    [[threads_per_threadgroup]],
    ushort n_simdgroups [[simdgroups_per_threadgroup]])
{
    device float4 * v = (device float4 *)(x + (ulong)row * args.dim);
    device const float4 * w = (device const float4 *)weight;
    float sum = 0.0f;
    for (uint i = thread_index; i < args.dim / 4; i += n_threads) sum += dot(v[i], v[i]);
    const float norm = norm_scale(group_sum(sum, partial, lane, simdgroup, n_simdgroups), args.dim, args.eps);
    for (uint i = thread_index; i < args.dim / 4; i += n_threads) v[i] = v[i] * float4(norm) * w[i];
}

// Each head of q without weight, then its end rotated by the token's angles; a head a simdgroup.
kernel void head_norm_rope(
    constant HeadNormArgs & args [[buffer(0)]],
    device const float    * rope [[buffer(1)]],
    device float          * q    [[buffer(2)]],
    uint   group        [[threadgroup_position_in_grid]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]],
    ushort n_simdgroups [[simdgroups_per_threadgroup]])
{
    const uint head = group * n_simdgroups + simdgroup;
    if (head >= args.n_rows) return;
    device float2 * x = (device float2 *)(q + (ulong)head * args.dim);
    float sum = 0.0f;
    for (uint i = lane; i < args.dim / 2; i += 32) sum += dot(x[i], x[i]);
    const float norm = norm_scale(simd_sum(sum), args.dim, args.eps);
    device const float2 * angles = (device const float2 *)(rope + (ulong)(head / args.n_head) * args.n_rot);
    const uint tail = (args.dim - args.n_rot) / 2;
    for (uint i = lane; i < args.dim / 2; i += 32) {
        float2 v = x[i] * float2(norm);
        if (i >= tail) v = rotated(v, angles[i - tail], 1.0f);
        x[i] = v;
    }
}

// The raw key of a token: norm, rotation, and its row in the store of the chunk; a token a simdgroup.
kernel void store_keys(
    constant StoreKeysArgs & args [[buffer(0)]],
    device const float     * k    [[buffer(1)]],
    device const float     * norm [[buffer(2)]],
    device const float     * rope [[buffer(3)]],
    device uchar           * rows [[buffer(4)]],
    threadgroup float      * row  [[threadgroup(0)]],
    uint   token [[threadgroup_position_in_grid]],
    ushort lane  [[thread_index_in_simdgroup]])
{
    device const float2 * x = (device const float2 *)(k + (ulong)token * args.dim);
    device const float2 * w = (device const float2 *)norm;
    device const float2 * angles = (device const float2 *)(rope + (ulong)token * args.n_rot);
    float sum = 0.0f;
    for (uint i = lane; i < args.dim / 2; i += 32) sum += dot(x[i], x[i]);
    const float scale = norm_scale(simd_sum(sum), args.dim, args.eps);
    const uint tail = (args.dim - args.n_rot) / 2;
    for (uint i = lane; i < args.dim / 2; i += 32) {
        float2 v = x[i] * float2(scale) * w[i];
        if (i >= tail) v = rotated(v, angles[i - tail], 1.0f);
        row[2 * i] = v.x;
        row[2 * i + 1] = v.y;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    store_row(row, rows + (ulong)token * args.row_bytes, args.dim, args.n_rot, lane);
}

// The last rows of a chunk go into the ring: position modulo window. A row a threadgroup.
kernel void commit_keys(
    constant CommitKeysArgs & args  [[buffer(0)]],
    device const uchar      * chunk [[buffer(1)]],
    device uchar            * ring  [[buffer(2)]],
    uint   group        [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort n_threads    [[threads_per_threadgroup]])
{
    const uint token = args.first + group;
    device const uchar * from = chunk + (ulong)token * args.row_bytes;
    device uchar * to = ring + (ulong)((args.pos + token) % args.window) * args.row_bytes;
    for (uint i = thread_index; i < args.row_bytes; i += n_threads) to[i] = from[i];
}

// An indexer query: its end rotated; where its rows are FP4, transformed and rounded as they are. A head a simdgroup, which has
// memory for one.
kernel void index_queries(
    constant IndexQueriesArgs & args [[buffer(0)]],
    device const float        * rope [[buffer(1)]],
    device float              * q    [[buffer(2)]],
    threadgroup float         * row  [[threadgroup(0)]],
    uint   group        [[threadgroup_position_in_grid]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]],
    ushort n_simdgroups [[simdgroups_per_threadgroup]])
{
    const uint head = group * n_simdgroups + simdgroup;
    if (head >= args.n_rows) return;
    threadgroup float * own = row + simdgroup * args.dim;
    device float2 * x = (device float2 *)(q + (ulong)head * args.dim);
    device const float2 * angles = (device const float2 *)(rope + (ulong)(head / args.n_head) * args.n_rot);
    const uint tail = (args.dim - args.n_rot) / 2;
    for (uint i = lane; i < args.dim / 2; i += 32) {
        float2 v = x[i];
        if (i >= tail) v = rotated(v, angles[i - tail], 1.0f);
        own[2 * i] = v.x;
        own[2 * i + 1] = v.y;
    }
    if (ROW_FORM == ROW_FP4) {
        hadamard(own, args.dim, lane);
        for (uint b = 0; b < args.dim / 32; ++b) {
            const float v = own[32 * b + lane];
            const int exponent = fp4_exponent(v);
            own[32 * b + lane] = e2m1_value(e2m1_code(v * power_of_two(-exponent))) * power_of_two(exponent);
        }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = lane; i < args.dim / 2; i += 32) x[i] = float2(own[2 * i], own[2 * i + 1]);
}
