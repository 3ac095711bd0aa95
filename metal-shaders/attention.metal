// Attention over the raw window and the compressed rows. One vector a key is key and value of all heads, so a threadgroup
// brings some keys to f32 in threadgroup memory and its simdgroups, a head each, share them.
#include <metal_stdlib>
#include "dialect.h"
#include "args.h"
#include "reduce.h"
#include "rows.h"
using namespace metal;

// Width of a head.
FUNCTION_CONSTANT(uint, HEAD_DIM, 1);

// Heads of a threadgroup, and keys that it brings to f32 together; each simdgroup brings two.
#define HEADS 4
#define KEYS 8
// Pairs of values that a lane holds at most: heads are at most 512 wide.
#define PAIRS 8

// One pass over the keys in their fixed order, raw window by position, then compressed rows ascending: the running maximum
// rescales what was summed so far. The sink starts it: maximum = sink, sum = 1, no value. The grid is (heads / 4, tokens).
kernel void attend(
    constant AttendArgs & args       [[buffer(0)]],
    device const float  * q          [[buffer(1)]],
    device const float  * sinks      [[buffer(2)]],
    device const uchar  * ring       [[buffer(3)]],
    device const uchar  * chunk      [[buffer(4)]],
    device const uchar  * compressed [[buffer(5)]],
    device const uint   * selected   [[buffer(6)]],
    device const float  * rope       [[buffer(7)]],
    device float        * out        [[buffer(8)]],
    threadgroup float   * keys       [[threadgroup(0)]],
    uint2  group     [[threadgroup_position_in_grid]],
    ushort lane      [[thread_index_in_simdgroup]],
    ushort simdgroup [[simdgroup_index_in_threadgroup]])
{
    const uint token = group.y, position = args.pos + token;
    const uint head = min(group.x * HEADS + simdgroup, args.n_head - 1);
    const uint first_raw = position + 1 > args.window ? position + 1 - args.window : 0;
    const uint n_raw = position + 1 - first_raw;
    const uint n_visible = args.ratio != 0 ? (position + 1) / args.ratio : 0;
    const bool is_selected = args.top_k != 0 && n_visible > args.top_k;
    const uint n_keys = n_raw + (is_selected ? args.top_k : n_visible);

    device const float2 * query = (device const float2 *)(q + ((ulong)token * args.n_head + head) * HEAD_DIM);
    float2 mine[PAIRS], sums[PAIRS];
    for (ushort j = 0; j < PAIRS; ++j) {
        mine[j] = 32 * j + lane < HEAD_DIM / 2 ? query[32 * j + lane] : float2(0.0f);
        sums[j] = float2(0.0f);
    }
    float largest = sinks[head], total = 1.0f;

    for (uint start = 0; start < n_keys; start += KEYS) {
        threadgroup_barrier(mem_flags::mem_threadgroup);   // the keys before may still be read
        for (ushort k = simdgroup; k < KEYS; k += HEADS) {
            const uint i = start + k;
            threadgroup float2 * to = (threadgroup float2 *)(keys + k * HEAD_DIM);
            if (i >= n_keys) {
                for (uint p = lane; p < HEAD_DIM / 2; p += 32) to[p] = float2(0.0f);
                continue;
            }
            device const uchar * row = ring + (ulong)((first_raw + i) % args.window) * args.row_bytes;
            if (i >= n_raw) {
                const uint w = i - n_raw;
                const uint at = is_selected ? selected[(ulong)token * args.top_k + w] : w;
                row = compressed + (ulong)at * args.row_bytes;
            } else if (first_raw + i >= args.pos) {
                row = chunk + (ulong)(first_raw + i - args.pos) * args.row_bytes;
            }
            for (uint p = lane; p < HEAD_DIM / 2; p += 32) to[p] = load_pair(row, 2 * p, HEAD_DIM, args.n_rot);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);

        float scores[KEYS];
        float most = largest;
        for (ushort k = 0; k < KEYS; ++k) {
            threadgroup const float2 * key = (threadgroup const float2 *)(keys + k * HEAD_DIM);
            float part = 0.0f;
            for (ushort j = 0; j < PAIRS; ++j) {
                if (32 * j + lane < HEAD_DIM / 2) part += dot(mine[j], key[32 * j + lane]);
            }
            scores[k] = start + k < n_keys ? simd_sum(part) * args.scale : -INFINITY;
            most = max(most, scores[k]);
        }
        const float shrink = most > largest ? exp(largest - most) : 1.0f;
        largest = most;
        total *= shrink;
        for (ushort j = 0; j < PAIRS; ++j) sums[j] = sums[j] * float2(shrink);
        for (ushort k = 0; k < KEYS; ++k) {
            if (start + k >= n_keys) break;
            threadgroup const float2 * key = (threadgroup const float2 *)(keys + k * HEAD_DIM);
            const float weight = exp(scores[k] - most);
            total += weight;
            for (ushort j = 0; j < PAIRS; ++j) {
                if (32 * j + lane < HEAD_DIM / 2) sums[j] = sums[j] + key[32 * j + lane] * float2(weight);
            }
        }
    }

    if (group.x * HEADS + simdgroup >= args.n_head) return;
    device float2 * y = (device float2 *)(out + ((ulong)token * args.n_head + head) * HEAD_DIM);
    device const float2 * angles = (device const float2 *)(rope + (ulong)token * args.n_rot);
    const uint tail = (HEAD_DIM - args.n_rot) / 2;
    for (ushort j = 0; j < PAIRS; ++j) {
        const uint p = 32 * j + lane;
        if (p < HEAD_DIM / 2) {
            float2 v = sums[j] / float2(total);
            if (p >= tail) v = rotated(v, angles[p - tail], -1.0f);
            y[p] = v;
        }
    }
}
