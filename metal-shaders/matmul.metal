// Products for many tokens: a threadgroup of four simdgroups computes a tile of 32 rows of weights by 32 tokens. Weights
// are unpacked into threadgroup memory once for all tokens of the tile; each simdgroup has a quarter of it, 16 by 16.
#include <metal_stdlib>
#include "dialect.h"
#include "args.h"
#include "reduce.h"
#include "quant.h"
#include "experts.h"
using namespace metal;

// Rows, tokens and columns of a tile.
#define TILE 32

// Four products of 8 by 8, of 16 rows by 16 tokens.
struct Quarter {
    simdgroup_float8x8 at[4];
};

static inline void clear(thread Quarter & sums)
{
    for (ushort i = 0; i < 4; ++i) sums.at[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
}

// 32 rows of weights, 32 columns of each from `p0` on, two pieces a row: threads 0 to 63 unpack one each.
template <typename F>
static inline void unpack_tile(device const uchar * w, uint row_bytes, uint first, uint n_rows, uint p0, threadgroup float * tile, ushort thread_index)
{
    if (thread_index >= 2 * TILE) return;
    const uint row = min(first + thread_index / 2, n_rows - 1);
    float weights[16];
    F::piece(w + (ulong)row * row_bytes, p0 + thread_index % 2, weights);
    threadgroup float * to = tile + (thread_index / 2) * TILE + 16 * (thread_index % 2);
    for (ushort i = 0; i < 16; ++i) to[i] = weights[i];
}

// sums += tile of weights (rows) times tile of values (tokens), both [32, 32 columns]
static inline void multiply_tile(threadgroup const float * weights, threadgroup const float * values, ushort simdgroup, thread Quarter & sums)
{
    threadgroup const float * w = weights + (simdgroup / 2) * 16 * TILE;
    threadgroup const float * x = values + (simdgroup % 2) * 16 * TILE;
    for (ushort k = 0; k < TILE; k += 8) {
        simdgroup_float8x8 a[2], b[2];
        for (ushort i = 0; i < 2; ++i) {
            simdgroup_load(a[i], w + i * 8 * TILE + k, TILE);
            simdgroup_load(b[i], x + i * 8 * TILE + k, TILE, ulong2(0, 0), true);
        }
        for (ushort i = 0; i < 4; ++i) {
            simdgroup_multiply_accumulate(sums.at[i], a[i / 2], b[i % 2], sums.at[i]);
        }
    }
}

// The sums as [32 rows, 32 tokens] in threadgroup memory.
static inline void store_tile(thread Quarter & sums, threadgroup float * tile, ushort simdgroup)
{
    threadgroup float * to = tile + (simdgroup / 2) * 16 * TILE + (simdgroup % 2) * 16;
    for (ushort i = 0; i < 4; ++i) simdgroup_store(sums.at[i], to + (i / 2) * 8 * TILE + (i % 2) * 8, TILE);
}

// y[token, group rows] = w[group rows, cols] x[token, group cols]; the grid is (row tiles, token tiles, groups), a group
// has 128 threads
template <typename F>
kernel void matmul(
    constant ProductArgs & args [[buffer(0)]],
    device const uchar   * w    [[buffer(1)]],
    device const float   * x    [[buffer(2)]],
    device float         * y    [[buffer(3)]],
    threadgroup float    * shared [[threadgroup(0)]],
    uint3  group        [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]])
{
    threadgroup float * weights = shared;
    threadgroup float * values = shared + TILE * TILE;
    const uint first_row = group.x * TILE, first_token = group.y * TILE;
    device const uchar * matrix = w + (ulong)group.z * args.rows * args.row_bytes;
    Quarter sums;
    clear(sums);
    for (uint k = 0; k < args.cols; k += TILE) {
        unpack_tile<F>(matrix, args.row_bytes, first_row, args.rows, k / 16, weights, thread_index);
        for (ushort i = thread_index; i < TILE * TILE; i += 128) {
            const uint token = first_token + i / TILE;
            values[i] = token < args.n ? x[(ulong)token * args.x_stride + (ulong)group.z * args.cols + k + i % TILE] : 0.0f;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        multiply_tile(weights, values, simdgroup, sums);
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    store_tile(sums, shared, simdgroup);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (ushort i = thread_index; i < TILE * TILE; i += 128) {
        const uint row = first_row + i % TILE, token = first_token + i / TILE;
        if (row < args.rows && token < args.n) {
            y[(ulong)token * args.y_stride + (ulong)group.z * args.rows + row] = shared[(i % TILE) * TILE + i / TILE];
        }
    }
}
KERNEL_INSTANCE("matmul_f32", matmul<F32>)
KERNEL_INSTANCE("matmul_f16", matmul<F16>)
KERNEL_INSTANCE("matmul_bf16", matmul<BF16>)
KERNEL_INSTANCE("matmul_q8_0", matmul<Q8_0>)
KERNEL_INSTANCE("matmul_q4_k", matmul<Q4_K>)
KERNEL_INSTANCE("matmul_q2_k", matmul<Q2_K>)
KERNEL_INSTANCE("matmul_iq2_xxs", matmul<IQ2_XXS>)
KERNEL_INSTANCE("matmul_mxfp4", matmul<MXFP4>)

// hidden[route] = weight[route] * swiglu(gate x, up x); the grid is (row tiles, tiles of routes)
template <typename F>
kernel void expert_gate_up_many(
    constant ExpertArgs     & args   [[buffer(0)]],
    device const ExpertSlot * slots  [[buffer(1)]],
    device const RouteTile  * tiles  [[buffer(2)]],
    device const uint       * routes [[buffer(3)]],
    device const float      * scale  [[buffer(4)]],
    device const float      * x      [[buffer(5)]],
    device float            * hidden [[buffer(6)]],
    threadgroup float       * shared [[threadgroup(0)]],
    uint2  group        [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]])
{
    threadgroup float * gate_tile = shared;
    threadgroup float * up_tile = shared + TILE * TILE;
    threadgroup float * values = shared + 2 * TILE * TILE;
    const uint first_row = group.x * TILE;
    const uint slot = tiles[group.y].slot, n = tiles[group.y].n;
    device const uint * chosen = routes + tiles[group.y].first;
    Quarter gates, ups;
    clear(gates);
    clear(ups);
    for (uint k = 0; k < args.cols; k += TILE) {
        unpack_tile<F>(slots[slot].gate, args.row_bytes, first_row, args.rows, k / 16, gate_tile, thread_index);
        unpack_tile<F>(slots[slot].up, args.row_bytes, first_row, args.rows, k / 16, up_tile, thread_index);
        for (ushort i = thread_index; i < TILE * TILE; i += 128) {
            const uint r = i / TILE;
            values[i] = r < n ? x[(ulong)(chosen[r] / args.n_used) * args.cols + k + i % TILE] : 0.0f;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        multiply_tile(gate_tile, values, simdgroup, gates);
        multiply_tile(up_tile, values, simdgroup, ups);
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    store_tile(gates, gate_tile, simdgroup);
    store_tile(ups, up_tile, simdgroup);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (ushort i = thread_index; i < TILE * TILE; i += 128) {
        const uint row = first_row + i % TILE, r = i / TILE;
        if (row < args.rows && r < n) {
            const uint at = (i % TILE) * TILE + r;
            hidden[(ulong)chosen[r] * args.rows + row] = scale[chosen[r]] * swiglu_value(gate_tile[at], up_tile[at], args.clamp);
        }
    }
}
KERNEL_INSTANCE("expert_gate_up_many_f32", expert_gate_up_many<F32>)
KERNEL_INSTANCE("expert_gate_up_many_f16", expert_gate_up_many<F16>)
KERNEL_INSTANCE("expert_gate_up_many_bf16", expert_gate_up_many<BF16>)
KERNEL_INSTANCE("expert_gate_up_many_q8_0", expert_gate_up_many<Q8_0>)
KERNEL_INSTANCE("expert_gate_up_many_q4_k", expert_gate_up_many<Q4_K>)
KERNEL_INSTANCE("expert_gate_up_many_q2_k", expert_gate_up_many<Q2_K>)
KERNEL_INSTANCE("expert_gate_up_many_iq2_xxs", expert_gate_up_many<IQ2_XXS>)
KERNEL_INSTANCE("expert_gate_up_many_mxfp4", expert_gate_up_many<MXFP4>)

// out[route] = down hidden[route]; the grid is (row tiles, tiles of routes)
template <typename F>
kernel void expert_down_many(
    constant ExpertArgs     & args   [[buffer(0)]],
    device const ExpertSlot * slots  [[buffer(1)]],
    device const RouteTile  * tiles  [[buffer(2)]],
    device const uint       * routes [[buffer(3)]],
    device const float      * hidden [[buffer(4)]],
    device float            * out    [[buffer(5)]],
    threadgroup float       * shared [[threadgroup(0)]],
    uint2  group        [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]])
{
    threadgroup float * weights = shared;
    threadgroup float * values = shared + TILE * TILE;
    const uint first_row = group.x * TILE;
    const uint slot = tiles[group.y].slot, n = tiles[group.y].n;
    device const uint * chosen = routes + tiles[group.y].first;
    Quarter sums;
    clear(sums);
    for (uint k = 0; k < args.cols; k += TILE) {
        unpack_tile<F>(slots[slot].down, args.row_bytes, first_row, args.rows, k / 16, weights, thread_index);
        for (ushort i = thread_index; i < TILE * TILE; i += 128) {
            const uint r = i / TILE;
            values[i] = r < n ? hidden[(ulong)chosen[r] * args.cols + k + i % TILE] : 0.0f;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        multiply_tile(weights, values, simdgroup, sums);
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    store_tile(sums, shared, simdgroup);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (ushort i = thread_index; i < TILE * TILE; i += 128) {
        const uint row = first_row + i % TILE, r = i / TILE;
        if (row < args.rows && r < n) out[(ulong)chosen[r] * args.rows + row] = shared[(i % TILE) * TILE + r];
    }
}
KERNEL_INSTANCE("expert_down_many_f32", expert_down_many<F32>)
KERNEL_INSTANCE("expert_down_many_f16", expert_down_many<F16>)
KERNEL_INSTANCE("expert_down_many_bf16", expert_down_many<BF16>)
KERNEL_INSTANCE("expert_down_many_q8_0", expert_down_many<Q8_0>)
KERNEL_INSTANCE("expert_down_many_q4_k", expert_down_many<Q4_K>)
KERNEL_INSTANCE("expert_down_many_q2_k", expert_down_many<Q2_K>)
KERNEL_INSTANCE("expert_down_many_iq2_xxs", expert_down_many<IQ2_XXS>)
KERNEL_INSTANCE("expert_down_many_mxfp4", expert_down_many<MXFP4>)
