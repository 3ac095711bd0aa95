// Attention over the raw window and the compressed rows. One vector a key is key and value of all heads, so a threadgroup
// brings eight keys to f32 and 16 heads share them, as 8x8 matrices: scores = q keysᵀ, sums = sums + weights keys.
#include <metal_stdlib>
#include "dialect.h"
#include "args.h"
#include "reduce.h"
#include "rows.h"
using namespace metal;

// Width of a head, a multiple of 8.
FUNCTION_CONSTANT(uint, HEAD_DIM, 1);

// Simdgroups of a threadgroup; each brings one key, and sums up every eighth block of eight columns, so many at most.
#define ATTEND_SIMDGROUPS 8
#define ATTEND_BLOCKS 8
#define ATTEND_KEYS 8
#define ATTEND_HEADS 16
// So far may a score exceed what it is taken relative to, e^8 in its weight, before the sums are brought to a new maximum.
#define ATTEND_SLACK 8.0f
// Parts of the keys at most.
#define ATTEND_PARTS 32

// Whether a simdgroup has a block of columns of this number; known to the compiler where all have as many.
static inline bool has_block(ushort b, ushort simdgroup)
{
    return HEAD_DIM % 64 == 0 ? 64 * b < HEAD_DIM : 64 * b + 8 * simdgroup < HEAD_DIM;
}

// The row of key i: raw window by position, then compressed rows ascending.
static inline device const uchar * key_row(constant AttendArgs & args, device const uchar * ring, device const uchar * chunk, device const uchar * compressed, device const uint * chosen, bool is_chosen, uint first_raw, uint n_raw, uint i)
{
    if (i >= n_raw) {
        const uint w = i - n_raw;
        return compressed + (ulong)(is_chosen ? chosen[w] : w) * args.row_bytes;
    }
    const uint p = first_raw + i;
    if (p >= args.pos) return chunk + (ulong)(p - args.pos) * args.row_bytes;
    return ring + (ulong)(p % args.window) * args.row_bytes;
}

// A lane's values of a key, four from 4 lane on, from 128 + 4 lane on, ...; zeros where there is none.
static inline void load_key(device const uchar * row, bool is_there, uint n_rot, ushort lane, thread float4 * v)
{
    for (ushort j = 0; j < 4; ++j) {
        const uint i = 128 * j + 4 * lane;
        v[j] = is_there && i < HEAD_DIM ? load_four(row, i, HEAD_DIM, n_rot) : float4(0.0f);
    }
}

static inline void put_key(thread const float4 * v, threadgroup float * key, ushort lane)
{
    for (ushort j = 0; j < 4; ++j) {
        const uint i = 128 * j + 4 * lane;
        if (i < HEAD_DIM) *(threadgroup float4 *)(key + i) = v[j];
    }
}

// Four values of an output, divided by the sum of weights and turned back.
static inline float4 attended(float4 v, float total, uint i, uint n_rot, device const float * rope)
{
    v = v / float4(total);
    const uint tail = HEAD_DIM - n_rot;
    device const float2 * angles = (device const float2 *)rope;
    if (i >= tail) {
        const float2 turned = rotated(float2(v.x, v.y), angles[(i - tail) / 2], -1.0f);
        v.x = turned.x;
        v.y = turned.y;
    }
    if (i + 2 >= tail) {
        const float2 turned = rotated(float2(v.z, v.w), angles[(i + 2 - tail) / 2], -1.0f);
        v.z = turned.x;
        v.w = turned.y;
    }
    return v;
}

// One pass over the keys in their fixed order, eight at a time. The sink starts it: maximum = sink, sum = 1, no value. The
// grid is (heads / 16, parts, tokens). With several parts, of `part` keys each, their sums go to parts[part, head, dim], then
// their maxima [part, head] and totals [part, head]; else the output to out[token, head, dim].
// Threadgroup memory: keys [8, dim + 4], scores [8, 16, 8] of the simdgroups, weights [16, 8], two diagonal matrices, 16
// maxima, 16 totals, 4 flags.
kernel void attend(
    constant AttendArgs & args       [[buffer(0)]],
    device const float  * q          [[buffer(1)]],
    device const float  * sinks      [[buffer(2)]],
    device const uchar  * ring       [[buffer(3)]],
    device const uchar  * chunk      [[buffer(4)]],
    device const uchar  * compressed [[buffer(5)]],
    device const uint   * selected   [[buffer(6)]],
    device const float  * rope       [[buffer(7)]],
    device float        * parts      [[buffer(8)]],
    device float        * out        [[buffer(9)]],
    threadgroup float   * keys       [[threadgroup(0)]],
    uint3  group        [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]])
{
    const uint first_head = group.x * ATTEND_HEADS, part = group.y, token = group.z, position = args.pos + token;
    const uint first_raw = position + 1 > args.window ? position + 1 - args.window : 0;
    const uint n_raw = position + 1 - first_raw;
    const uint n_visible = args.ratio != 0 ? (position + 1) / args.ratio : 0;
    const bool is_chosen = args.top_k != 0 && n_visible > args.top_k;
    const uint n_keys = n_raw + (is_chosen ? args.top_k : n_visible);
    const uint start = part * args.part;
    const uint end = args.n_parts > 1 ? min(start + args.part, n_keys) : n_keys;
    device const uint * chosen = selected + (ulong)token * args.top_k;

    const uint stride = HEAD_DIM + 4;   // neighbouring keys in other banks
    threadgroup float * scores = keys + ATTEND_KEYS * stride;
    threadgroup float * weights = scores + ATTEND_SIMDGROUPS * ATTEND_HEADS * ATTEND_KEYS;
    threadgroup float * shrinks = weights + ATTEND_HEADS * ATTEND_KEYS;
    threadgroup float * maxima = shrinks + 2 * 64;
    threadgroup float * totals = maxima + ATTEND_HEADS;
    threadgroup float * flags = totals + ATTEND_HEADS;
    threadgroup float * own = keys + simdgroup * stride;

    // Queries, by way of the keys' memory: eight heads, then eight others.
    simdgroup_float8x8 queries[2][ATTEND_BLOCKS], sums[2][ATTEND_BLOCKS];
    float4 next[4];
    #pragma unroll
    for (ushort h = 0; h < 2; ++h) {
        const uint head = first_head + 8 * h + simdgroup;
        device const float4 * query = (device const float4 *)(q + ((ulong)token * args.n_head + head) * HEAD_DIM);
        for (ushort j = 0; j < 4; ++j) {
            const bool is_there = head < args.n_head && 128 * j + 4 * lane < HEAD_DIM;
            next[j] = is_there ? query[32 * j + lane] : float4(0.0f);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        put_key(next, own, lane);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        #pragma unroll
        for (ushort b = 0; b < ATTEND_BLOCKS; ++b) {
            sums[h][b] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
            if (has_block(b, simdgroup)) simdgroup_load(queries[h][b], keys + 64 * b + 8 * simdgroup, stride);
        }
    }

    // Four simdgroups weigh: a thread has one head and one key of the eight.
    const ushort head_of = thread_index / ATTEND_KEYS % ATTEND_HEADS, key_of = thread_index % ATTEND_KEYS;
    float largest = sinks[min(first_head + head_of, args.n_head - 1)];
    float total = part == 0 && key_of == 0 ? 1.0f : 0.0f;
    if (thread_index < 128) shrinks[thread_index] = 0.0f;

    uint i = start + simdgroup;
    load_key(key_row(args, ring, chunk, compressed, chosen, is_chosen, first_raw, n_raw, min(i, n_keys - 1)), i < end, args.n_rot, lane, next);
    for (uint first = start; first < end; first += ATTEND_KEYS) {
        threadgroup_barrier(mem_flags::mem_threadgroup);   // what was there before has been read
        put_key(next, own, lane);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        // On their way while these are worked on.
        i = first + ATTEND_KEYS + simdgroup;
        load_key(key_row(args, ring, chunk, compressed, chosen, is_chosen, first_raw, n_raw, min(i, n_keys - 1)), i < end, args.n_rot, lane, next);

        simdgroup_float8x8 product[2];
        product[0] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        product[1] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        #pragma unroll
        for (ushort b = 0; b < ATTEND_BLOCKS; ++b) {
            if (!has_block(b, simdgroup)) continue;
            simdgroup_float8x8 key;
            simdgroup_load(key, keys + 64 * b + 8 * simdgroup, stride, ulong2(0, 0), true);
            simdgroup_multiply_accumulate(product[0], queries[0][b], key, product[0]);
            simdgroup_multiply_accumulate(product[1], queries[1][b], key, product[1]);
        }
        threadgroup float * mine = scores + simdgroup * ATTEND_HEADS * ATTEND_KEYS;
        simdgroup_store(product[0], mine, ATTEND_KEYS);
        simdgroup_store(product[1], mine + 8 * ATTEND_KEYS, ATTEND_KEYS);
        threadgroup_barrier(mem_flags::mem_threadgroup);

        if (simdgroup < 4) {
            float score = 0.0f;
            for (ushort s = 0; s < ATTEND_SIMDGROUPS; ++s) score += scores[s * ATTEND_HEADS * ATTEND_KEYS + thread_index];
            score = first + key_of < end ? score * args.scale : -INFINITY;
            float most = score;
            for (ushort step = 1; step < ATTEND_KEYS; step *= 2) most = max(most, simd_shuffle_xor(most, step));
            float shrink = 1.0f;
            if (most > largest + ATTEND_SLACK) {
                shrink = exp(largest - most);
                largest = most;
            }
            const float weight = first + key_of < end ? exp(score - largest) : 0.0f;
            total = total * shrink + weight;
            weights[thread_index] = weight;
            if (key_of == 0) shrinks[head_of / 8 * 64 + head_of % 8 * 9] = shrink;
            const float least = simd_min(shrink);
            if (lane == 0) flags[simdgroup] = least;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);

        #pragma unroll
        for (ushort h = 0; h < 2; ++h) {
            if (min(flags[2 * h], flags[2 * h + 1]) == 1.0f) continue;
            simdgroup_float8x8 shrink;
            simdgroup_load(shrink, shrinks + 64 * h, 8);
            #pragma unroll
            for (ushort b = 0; b < ATTEND_BLOCKS; ++b) {
                if (!has_block(b, simdgroup)) continue;
                simdgroup_float8x8 less;
                simdgroup_multiply(less, shrink, sums[h][b]);
                sums[h][b] = less;
            }
        }
        simdgroup_float8x8 weight[2];
        simdgroup_load(weight[0], weights, ATTEND_KEYS);
        simdgroup_load(weight[1], weights + 8 * ATTEND_KEYS, ATTEND_KEYS);
        #pragma unroll
        for (ushort b = 0; b < ATTEND_BLOCKS; ++b) {
            if (!has_block(b, simdgroup)) continue;
            simdgroup_float8x8 value;
            simdgroup_load(value, keys + 64 * b + 8 * simdgroup, stride);
            simdgroup_multiply_accumulate(sums[0][b], weight[0], value, sums[0][b]);
            simdgroup_multiply_accumulate(sums[1][b], weight[1], value, sums[1][b]);
        }
    }

    if (simdgroup < 4) {
        for (ushort step = 1; step < ATTEND_KEYS; step *= 2) total += simd_shuffle_xor(total, step);
        if (key_of == 0) {
            maxima[head_of] = largest;
            totals[head_of] = total;
        }
    }
    #pragma unroll
    for (ushort h = 0; h < 2; ++h) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        #pragma unroll
        for (ushort b = 0; b < ATTEND_BLOCKS; ++b) {
            if (has_block(b, simdgroup)) simdgroup_store(sums[h][b], keys + 64 * b + 8 * simdgroup, stride);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        const uint head = first_head + 8 * h + simdgroup;
        if (head >= args.n_head) continue;
        for (ushort j = 0; j < 4; ++j) {
            const uint at = 128 * j + 4 * lane;
            if (at >= HEAD_DIM) continue;
            const float4 v = *(threadgroup const float4 *)(own + at);
            if (args.n_parts > 1) {
                *(device float4 *)(parts + ((ulong)part * args.n_head + head) * HEAD_DIM + at) = v;
            } else {
                device const float * angles = rope + (ulong)token * args.n_rot;
                device float * to = out + ((ulong)token * args.n_head + head) * HEAD_DIM + at;
                *(device float4 *)to = attended(v, totals[8 * h + simdgroup], at, args.n_rot, angles);
            }
        }
        if (args.n_parts > 1 && lane == 0) {
            const uint n = args.n_parts * args.n_head, at = part * args.n_head + head;
            parts[(ulong)n * HEAD_DIM + at] = maxima[8 * h + simdgroup];
            parts[(ulong)n * HEAD_DIM + n + at] = totals[8 * h + simdgroup];
        }
    }
}

// Joins the parts of one token's heads; a simdgroup has 128 columns of a head. The grid is (columns / 128, heads).
kernel void attend_join(
    constant AttendArgs & args  [[buffer(0)]],
    device const float  * parts [[buffer(1)]],
    device const float  * rope  [[buffer(2)]],
    device float        * out   [[buffer(3)]],
    uint2  group [[threadgroup_position_in_grid]],
    ushort lane  [[thread_index_in_simdgroup]])
{
    const uint head = group.y, column = 128 * group.x + 4 * lane, n = args.n_parts * args.n_head;
    device const float * maxima = parts + (ulong)n * HEAD_DIM + head;
    device const float * totals = maxima + n;
    // A lane a part.
    const bool is_there = lane < args.n_parts;
    const float own = is_there ? maxima[lane * args.n_head] : -INFINITY;
    const float most = simd_max(own);
    const float shrink = is_there ? exp(own - most) : 0.0f;
    const float total = simd_sum(is_there ? shrink * totals[lane * args.n_head] : 0.0f);
    float4 sum = float4(0.0f);
    for (ushort part = 0; part < args.n_parts; ++part) {
        const float factor = simd_shuffle(shrink, part);
        if (column >= HEAD_DIM) continue;
        sum = sum + *(device const float4 *)(parts + ((ulong)part * args.n_head + head) * HEAD_DIM + column) * float4(factor);
    }
    if (column >= HEAD_DIM) return;
    *(device float4 *)(out + (ulong)head * HEAD_DIM + column) = attended(sum, total, column, args.n_rot, rope);
}
