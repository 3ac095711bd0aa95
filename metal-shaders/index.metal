// The indexer: which compressed rows a token attends to.
#include <metal_stdlib>
#include "dialect.h"
#include "args.h"
#include "rows.h"
using namespace metal;

// Rows that a threadgroup of four simdgroups scores, 8 each; heads are taken 8 at a time.
#define INDEX_ROWS 32
// Threads of a group that chooses.
#define CHOOSERS 256

// scores[token, row] = sum over heads of weight times the positive part of the dot product. Tokens that see no more than top_k
// rows need no choice. The grid is (rows / 32, tokens); dim is a multiple of 8.
// Threadgroup memory: rows [32, dim], queries [8, dim], products [4, 8, 8].
kernel void index_scores(
    constant IndexArgs & args   [[buffer(0)]],
    device const float * q      [[buffer(1)]],
    device const float * weight [[buffer(2)]],
    device const uchar * rows   [[buffer(3)]],
    device float       * scores [[buffer(4)]],
    threadgroup float  * shared [[threadgroup(0)]],
    uint2  group        [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]],
    ushort2 n_threads   [[threads_per_threadgroup]])
{
    const uint token = group.y, first = group.x * INDEX_ROWS, dim = args.dim;
    const uint n_visible = (args.pos + token + 1) / args.ratio;
    if (n_visible <= args.top_k || first >= n_visible) return;   // the whole group
    threadgroup float * keys = shared;
    threadgroup float * queries = shared + INDEX_ROWS * dim;
    threadgroup float * products = queries + 8 * dim + simdgroup * 64;
    for (uint i = thread_index; i < INDEX_ROWS * dim / 2; i += n_threads.x) {
        const uint row = first + 2 * i / dim;
        float2 v = float2(0.0f);
        if (row < n_visible) v = load_pair(rows + (ulong)row * args.row_bytes, 2 * i % dim, dim, 0);
        keys[2 * i] = v.x;
        keys[2 * i + 1] = v.y;
    }
    float score = 0.0f;   // of row first + 8 simdgroup + lane, in lanes 0 to 7
    for (uint head = 0; head < args.n_head; head += 8) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        device const float * from = q + ((ulong)token * args.n_head + head) * dim;
        for (uint i = thread_index; i < 8 * dim; i += n_threads.x) queries[i] = head + i / dim < args.n_head ? from[i] : 0.0f;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        simdgroup_float8x8 sums = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        for (uint k = 0; k < dim; k += 8) {
            simdgroup_float8x8 a, b;
            simdgroup_load(a, queries + k, dim);
            simdgroup_load(b, keys + (ulong)simdgroup * 8 * dim + k, dim, ulong2(0, 0), true);
            simdgroup_multiply_accumulate(sums, a, b, sums);
        }
        simdgroup_store(sums, products, 8);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint h = 0; h < 8; ++h) {
            const float product = products[8 * h + lane % 8];
            const float w = head + h < args.n_head ? weight[(ulong)token * args.n_head + head + h] * args.scale : 0.0f;
            if (head + h < args.n_head) score += w * (product > 0.0f ? product : 0.0f);
        }
    }
    const uint row = first + 8 * simdgroup + lane;
    if (lane < 8 && row < n_visible) scores[(ulong)token * args.stride + row] = score;
}

// Scores in their order; NaN as the smallest number, both zeros alike.
static inline uint rank_of_score(float x)
{
    const uint bits = as_type<uint>(x + 0.0f);
    if ((bits & 0x7fffffff) > 0x7f800000) return ~0xff800000u;
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// The top_k largest scores of a token, the lower row among equals, ascending by row; a token a threadgroup of 256. The rank
// of the last one chosen is found byte by byte, from counts of the ranks that begin alike; then each thread writes those
// of its own stretch of rows. Threadgroup memory: 256 counts, 256 above, 256 equal, 2 results.
kernel void index_select(
    constant IndexArgs & args   [[buffer(0)]],
    device const float * scores [[buffer(1)]],
    device uint        * ids    [[buffer(2)]],
    threadgroup uint   * shared [[threadgroup(0)]],
    uint   token        [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]])
{
    const uint n_visible = (args.pos + token + 1) / args.ratio;
    if (n_visible <= args.top_k) return;   // the whole group
    threadgroup uint * counts = shared;
    threadgroup uint * above = shared + CHOOSERS;
    threadgroup uint * equal = shared + 2 * CHOOSERS;
    threadgroup uint * found = shared + 3 * CHOOSERS;   // the rank so far, and how many are still to be chosen
    device const float * s = scores + (ulong)token * args.stride;
    const uint stretch = (n_visible + CHOOSERS - 1) / CHOOSERS;
    const uint start = min((uint)thread_index * stretch, n_visible), end = min(start + stretch, n_visible);
    uint rank = 0, mask = 0;
    if (thread_index == 0) found[1] = args.top_k;
    for (uint byte = 4; byte > 0; --byte) {
        const uint shift = 8 * (byte - 1);
        counts[thread_index] = 0;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint i = start; i < end; ++i) {
            const uint r = rank_of_score(s[i]);
            if ((r & mask) == rank) {
                atomic_fetch_add_explicit((threadgroup atomic_uint *)(counts + (r >> shift & 255)), 1u, memory_order_relaxed);
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (thread_index == 0) {
            uint left = found[1], digit = 255;
            while (digit > 0 && counts[digit] < left) {
                left -= counts[digit];
                --digit;
            }
            found[0] = rank | digit << shift;
            found[1] = left;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        rank = found[0];
        mask |= 255u << shift;
    }
    const uint left = found[1];   // of those with this rank, the first so many
    uint n_above = 0, n_equal = 0;
    for (uint i = start; i < end; ++i) {
        const uint r = rank_of_score(s[i]);
        n_above += r > rank ? 1 : 0;
        n_equal += r == rank ? 1 : 0;
    }
    above[thread_index] = n_above;
    equal[thread_index] = n_equal;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    uint at = 0, seen = 0;
    for (ushort i = 0; i < thread_index; ++i) {
        at += above[i];
        seen += equal[i];
    }
    at += min(seen, left);
    device uint * out = ids + (ulong)token * args.top_k;
    for (uint i = start; i < end; ++i) {
        const uint r = rank_of_score(s[i]);
        if (r > rank || (r == rank && seen < left)) {
            out[at] = i;
            ++at;
        }
        seen += r == rank ? 1 : 0;
    }
}
