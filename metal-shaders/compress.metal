// Compressors: a window of tokens becomes one row, by a softmax over time for each channel.
#include <metal_stdlib>
#include "dialect.h"
#include "args.h"
#include "reduce.h"
#include "rows.h"
using namespace metal;

// kv or gate of the token at a position, from the chunk or from the ring of the last tokens before it; the position bias is
// added to gates of the chunk, those of the ring have it.
static inline float kv_at(constant CompressArgs & args, device const float * kv, device const float * state, uint width, uint p, uint channel)
{
    if (p >= args.pos) return kv[(ulong)(p - args.pos) * width + channel];
    return state[(ulong)(p % args.capacity) * 2 * width + channel];
}

static inline float gate_at(constant CompressArgs & args, device const float * gate, device const float * ape, device const float * state, uint width, uint p, uint channel)
{
    if (p >= args.pos) return gate[(ulong)(p - args.pos) * width + channel] + ape[(p % args.ratio) * width + channel];
    return state[(ulong)(p % args.capacity) * 2 * width + width + channel];
}

// Row w = first + group: pooled, normed, rotated by its first token's angles, stored. With overlap, the first half of
// the channels of the window before takes part too; before window 0 there is none. A window a threadgroup;
// threadgroup memory: the row, and 32 values for sums.
kernel void compress(
    constant CompressArgs & args  [[buffer(0)]],
    device const float    * kv    [[buffer(1)]],
    device const float    * gate  [[buffer(2)]],
    device const float    * ape   [[buffer(3)]],
    device const float    * state [[buffer(4)]],
    device const float    * norm  [[buffer(5)]],
    device const float    * rope  [[buffer(6)]],
    device uchar          * rows  [[buffer(7)]],
    threadgroup float     * row   [[threadgroup(0)]],
    uint   group        [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]],
    ushort n_threads    [[threads_per_threadgroup]],
    ushort n_simdgroups [[simdgroups_per_threadgroup]])
{
    const uint w = args.first + group, own = args.ratio * w;
    const uint width = args.overlap != 0 ? 2 * args.dim : args.dim;
    const uint start = args.overlap != 0 && w > 0 ? own - args.ratio : own;
    float squares = 0.0f;
    for (uint e = thread_index; e < args.dim; e += n_threads) {
        float largest = -INFINITY;
        for (uint p = start; p < own + args.ratio; ++p) {
            const uint channel = args.overlap != 0 && p >= own ? args.dim + e : e;
            largest = max(largest, gate_at(args, gate, ape, state, width, p, channel));
        }
        float sum = 0.0f, value = 0.0f;
        for (uint p = start; p < own + args.ratio; ++p) {
            const uint channel = args.overlap != 0 && p >= own ? args.dim + e : e;
            const float weight = exp(gate_at(args, gate, ape, state, width, p, channel) - largest);
            sum += weight;
            value += weight * kv_at(args, kv, state, width, p, channel);
        }
        value /= sum;
        squares += value * value;
        row[e] = value;
    }
    // Its barriers are those of the row, too.
    const float scale = norm_scale(group_sum(squares, row + args.dim, lane, simdgroup, n_simdgroups), args.dim, args.eps);
    device const float2 * angles = (device const float2 *)(rope + (ulong)group * args.n_rot);
    const uint tail = (args.dim - args.n_rot) / 2;
    for (uint i = thread_index; i < args.dim / 2; i += n_threads) {
        float2 v = float2(row[2 * i], row[2 * i + 1]) * float2(scale) * float2(norm[2 * i], norm[2 * i + 1]);
        if (i >= tail) v = rotated(v, angles[i - tail], 1.0f);
        row[2 * i] = v.x;
        row[2 * i + 1] = v.y;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (simdgroup != 0) return;
    store_row(row, rows + (ulong)w * args.row_bytes, args.dim, args.n_rot, lane);
}

// Keeps kv and biased gate of the chunk's last tokens for the next chunk; the grid is (channels, tokens).
kernel void compress_commit(
    constant CompressCommitArgs & args  [[buffer(0)]],
    device const float          * kv    [[buffer(1)]],
    device const float          * gate  [[buffer(2)]],
    device const float          * ape   [[buffer(3)]],
    device float                * state [[buffer(4)]],
    uint2 position [[thread_position_in_grid]])
{
    const uint channel = position.x, token = args.first + position.y;
    if (channel >= args.width || token >= args.n) return;
    const uint p = args.pos + token;
    device float * to = state + (ulong)(p % args.capacity) * 2 * args.width + channel;
    to[0] = kv[(ulong)token * args.width + channel];
    to[args.width] = gate[(ulong)token * args.width + channel] + ape[(p % args.ratio) * args.width + channel];
}
