// The indexer: which compressed rows a token attends to.
#include <metal_stdlib>
#include "dialect.h"
#include "args.h"
#include "rows.h"
using namespace metal;

// Rows that a threadgroup of eight simdgroups scores, each for eight heads at a time.
#define INDEX_ROWS 32
#define INDEX_SIMDGROUPS 8
// Threads of a group that chooses, in simdgroups of 32, and what it counts ranks in.
#define SELECT_THREADS 256
#define SELECT_SIMDGROUPS 8
#define SELECT_BINS 2048

// scores[token - first, row] = sum over heads of weight times the positive part of the dot product. Tokens that see no more
// than top_k rows need no choice. The grid is (rows / 32, tokens); dim is a multiple of 8, and there are 8 heads at least.
// Threadgroup memory: rows [32, dim + 4], products [8, 32] and scores [32] of each simdgroup.
kernel void index_scores(
    constant IndexArgs & args   [[buffer(0)]],
    device const float * q      [[buffer(1)]],
    device const float * weight [[buffer(2)]],
    device const uchar * rows   [[buffer(3)]],
    device float       * scores [[buffer(4)]],
    threadgroup float  * keys   [[threadgroup(0)]],
    uint2  group        [[threadgroup_position_in_grid]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]])
{
    const uint token = args.first + group.y, first = group.x * INDEX_ROWS, dim = args.dim;
    const uint n_visible = (args.pos + token + 1) / args.ratio;
    if (n_visible <= args.top_k || first >= n_visible) return;   // the whole group
    const uint stride = dim + 4;   // neighbouring rows in other banks
    threadgroup float * products = keys + INDEX_ROWS * stride + simdgroup * 8 * INDEX_ROWS;
    threadgroup float * sums = keys + INDEX_ROWS * stride + INDEX_SIMDGROUPS * 8 * INDEX_ROWS;
    for (uint r = simdgroup; r < INDEX_ROWS; r += INDEX_SIMDGROUPS) {
        for (uint i = 4 * lane; i < dim; i += 128) {
            device const uchar * row = rows + (ulong)(first + r) * args.row_bytes;
            const float4 v = first + r < n_visible ? load_four(row, i, dim, 0) : float4(0.0f);
            *(threadgroup float4 *)(keys + r * stride + i) = v;
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float score = 0.0f;   // of row first + lane, for the heads of this simdgroup
    for (uint head = 8 * simdgroup; head < args.n_head; head += 8 * INDEX_SIMDGROUPS) {
        const uint from = min(head, args.n_head - 8);   // the last ones may have been there already
        device const float * queries = q + ((ulong)token * args.n_head + from) * dim;
        simdgroup_float8x8 product[4];
        for (ushort r = 0; r < 4; ++r) product[r] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        for (uint k = 0; k < dim; k += 8) {
            simdgroup_float8x8 query, key;
            simdgroup_load(query, queries + k, dim);
            #pragma unroll
            for (ushort r = 0; r < 4; ++r) {
                simdgroup_load(key, keys + 8 * r * stride + k, stride, ulong2(0, 0), true);
                simdgroup_multiply_accumulate(product[r], query, key, product[r]);
            }
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);   // the products before have been read
        for (ushort r = 0; r < 4; ++r) simdgroup_store(product[r], products + 8 * r, INDEX_ROWS);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        device const float * w = weight + (ulong)token * args.n_head + from;
        for (uint h = head - from; h < 8; ++h) {
            const float positive = products[h * INDEX_ROWS + lane];
            score += w[h] * args.scale * (positive > 0.0f ? positive : 0.0f);
        }
    }
    sums[simdgroup * INDEX_ROWS + lane] = score;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (simdgroup != 0 || first + lane >= n_visible) return;
    score = 0.0f;
    for (ushort s = 0; s < INDEX_SIMDGROUPS; ++s) score += sums[s * INDEX_ROWS + lane];
    scores[(ulong)group.y * args.stride + first + lane] = score;
}

// Scores in their order; NaN as the smallest number, both zeros alike.
static inline uint rank_of_score(float x)
{
    const uint bits = as_type<uint>(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return ~0xff800000u;
    if ((bits & 0x7fffffff) == 0) return 0x80000000u;
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// The top_k largest scores of a token, the lower row among equals, ascending by row; a token a threadgroup of 256. The rank
// of the last one chosen is found in three steps, from counts of the ranks that begin alike; then each simdgroup writes
// those of its own stretch of rows. Threadgroup memory: bins, 16 totals, 2 results.
kernel void index_select(
    constant IndexArgs & args   [[buffer(0)]],
    device const float * scores [[buffer(1)]],
    device uint        * ids    [[buffer(2)]],
    threadgroup uint   * bins   [[threadgroup(0)]],
    uint   group        [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]])
{
    const uint token = args.first + group;
    const uint n_visible = (args.pos + token + 1) / args.ratio;
    if (n_visible <= args.top_k) return;   // the whole group
    threadgroup uint * totals = bins + SELECT_BINS;
    threadgroup uint * found = totals + 2 * SELECT_SIMDGROUPS;
    device const float * s = scores + (ulong)group * args.stride;
    // The rank of the last one chosen as far as it is known, and how many of those with it are chosen.
    uint rank = 0, known = 0, left = args.top_k;
    for (ushort step = 0; step < 3; ++step) {
        const uint shift = step == 0 ? 21 : step == 1 ? 10 : 0;
        const uint n_bins = step == 2 ? SELECT_BINS / 2 : SELECT_BINS;
        for (uint b = thread_index; b < n_bins; b += SELECT_THREADS) bins[b] = 0;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint i = thread_index; i < n_visible; i += SELECT_THREADS) {
            const uint r = rank_of_score(s[i]);
            if ((r & known) == rank) {
                atomic_fetch_add_explicit((threadgroup atomic_uint *)(bins + (r >> shift & (n_bins - 1))), 1u, memory_order_relaxed);
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        // A thread has some neighbouring bins, the first the uppermost.
        const uint each = n_bins / SELECT_THREADS, top = n_bins - 1 - each * thread_index;
        uint own = 0;
        for (uint b = 0; b < each; ++b) own += bins[top - b];
        uint above = simd_prefix_exclusive_sum(own);
        if (lane == 31) totals[simdgroup] = above + own;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (ushort g = 0; g < simdgroup; ++g) above += totals[g];
        if (above < left && above + own >= left) {   // one thread
            uint bin = top;
            while (above + bins[bin] < left) {
                above += bins[bin];
                --bin;
            }
            found[0] = bin;
            found[1] = left - above;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        rank |= found[0] << shift;
        known |= (n_bins - 1) << shift;
        left = found[1];
    }

    const uint stretch = (n_visible + SELECT_THREADS - 1) / SELECT_THREADS * 32;
    const uint start = min(simdgroup * stretch, n_visible), end = min(start + stretch, n_visible);
    uint n_above = 0, n_equal = 0;
    for (uint i = start + lane; i < end; i += 32) {
        const uint r = rank_of_score(s[i]);
        n_above += r > rank ? 1 : 0;
        n_equal += r == rank ? 1 : 0;
    }
    n_above = simd_sum(n_above);
    n_equal = simd_sum(n_equal);
    if (lane == 0) {
        totals[simdgroup] = n_above;
        totals[SELECT_SIMDGROUPS + simdgroup] = n_equal;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    uint above = 0, equal = 0;   // in front of the rows that come now
    for (ushort g = 0; g < simdgroup; ++g) {
        above += totals[g];
        equal += totals[SELECT_SIMDGROUPS + g];
    }
    device uint * out = ids + (ulong)token * args.top_k;
    for (uint first = start; first < end; first += 32) {
        const uint i = first + lane, r = i < end ? rank_of_score(s[i]) : 0;
        const bool is_above = r > rank, is_equal = i < end && r == rank;
        const uint both = (is_above ? 1 : 0) | (is_equal ? 1 << 16 : 0);
        const uint before = simd_prefix_exclusive_sum(both), all = simd_sum(both);
        const uint equal_before = equal + (before >> 16);
        if (is_above || (is_equal && equal_before < left)) out[above + (before & 0xffff) + min(equal_before, left)] = i;
        above += all & 0xffff;
        equal += all >> 16;
    }
}
