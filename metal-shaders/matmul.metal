// Products for many tokens: a group of four simdgroups computes a tile of 64 rows of weights by up to 32 tokens, of which
// each simdgroup has 16 rows. Weights are unpacked into threadgroup memory once for all tokens of the tile.
//
// ```text
// threadgroup memory   weights: 64 rows, 32 columns     values: 32 tokens, 32 columns     in blocks of 8 by 8, row by row
// afterwards           sums: 32 tokens, 64 rows
// ```
#include <metal_stdlib>
#include "dialect.h"
#include "args.h"
#include "reduce.h"
#include "quant.h"
#include "experts.h"
using namespace metal;

#define TILE_ROWS 64
#define TILE_TOKENS 32
#define TILE_COLS 32
#define TILE_THREADS 128

// The place of (row, column) in blocks of 8 by 8, four blocks side by side.
static inline ushort block_place(ushort row, ushort column)
{
    return 64 * (4 * (row / 8) + column / 8) + 8 * (row % 8) + column % 8;
}

// Leaves in `shared` the sums over all columns, [TILE_TOKENS, TILE_ROWS], of the first n tokens. A thread brings half a row
// of weights, row `thread_index / 2` of the tile, and a quarter of a token's values, token `thread_index / 4`: `weights` and
// `values` are theirs. The order of a sum depends on the columns alone.
template <typename F>
static inline void multiply_tile(device const uchar * weights, device const float * values, uint cols, ushort n, threadgroup float * shared, ushort thread_index, ushort simdgroup)
{
    threadgroup float * w = shared;
    threadgroup float * x = shared + TILE_ROWS * TILE_COLS;
    threadgroup float4 * own_w = (threadgroup float4 *)(w + block_place(thread_index / 2, 16 * (thread_index % 2)));
    threadgroup float4 * own_x = (threadgroup float4 *)(x + block_place(thread_index / 4, 8 * (thread_index % 4)));
    const bool has_token = thread_index / 4 < n;
    simdgroup_float8x8 sums[8];
    for (ushort i = 0; i < 8; ++i) sums[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    for (uint k = 0; k < cols; k += TILE_COLS) {
        float piece[16];
        F::piece(weights, k / 16 + thread_index % 2, piece);
        for (ushort i = 0; i < 4; ++i) own_w[i / 2 * 16 + i % 2] = float4(piece[4 * i], piece[4 * i + 1], piece[4 * i + 2], piece[4 * i + 3]);
        device const float4 * from = (device const float4 *)(values + k + 8 * (thread_index % 4));
        own_x[0] = has_token ? from[0] : float4(0.0f);
        own_x[1] = has_token ? from[1] : float4(0.0f);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (ushort c = 0; c < TILE_COLS / 8; ++c) {
            simdgroup_float8x8 columns[2], rows;
            for (ushort i = 0; i < 2; ++i) {
                simdgroup_load(columns[i], w + 64 * (4 * (2 * simdgroup + i) + c), 8, ulong2(0, 0), true);
            }
            for (ushort t = 0; t < TILE_TOKENS / 8; ++t) {
                if (8 * t >= n) continue;
                simdgroup_load(rows, x + 64 * (4 * t + c), 8);
                simdgroup_multiply_accumulate(sums[2 * t], rows, columns[0], sums[2 * t]);
                simdgroup_multiply_accumulate(sums[2 * t + 1], rows, columns[1], sums[2 * t + 1]);
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    for (ushort t = 0; t < TILE_TOKENS / 8; ++t) {
        if (8 * t >= n) continue;
        threadgroup float * to = shared + 8 * t * TILE_ROWS + 16 * simdgroup;
        simdgroup_store(sums[2 * t], to, TILE_ROWS);
        simdgroup_store(sums[2 * t + 1], to + 8, TILE_ROWS);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
}

// y[token, group rows] = w[group rows, cols] x[token, group cols]; the grid is (row tiles, token tiles, groups), with
// `tile` tokens in one
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
    const uint first_row = group.x * TILE_ROWS, first_token = group.y * args.tile;
    const ushort n_rows = min(args.rows - first_row, (uint)TILE_ROWS), n = min(args.n - first_token, args.tile);
    const uint row = first_row + min((uint)thread_index / 2, n_rows - 1u);
    const uint token = first_token + min((uint)thread_index / 4, n - 1u);
    device const uchar * weights = w + ((ulong)group.z * args.rows + row) * args.row_bytes;
    device const float * values = x + (ulong)token * args.x_stride + (ulong)group.z * args.cols;
    multiply_tile<F>(weights, values, args.cols, n, shared, thread_index, simdgroup);
    device float * out = y + (ulong)first_token * args.y_stride + (ulong)group.z * args.rows + first_row;
    for (ushort i = thread_index; i < n * TILE_ROWS; i += TILE_THREADS) {
        const ushort r = i % TILE_ROWS, t = i / TILE_ROWS;
        if (r < n_rows) out[(ulong)t * args.y_stride + r] = shared[i];
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

// hidden[route] = weight[route] * swiglu(gate x, up x); the grid is (row tiles, tiles of routes). The first half of a tile's
// rows is of gate, the second half the same rows of up.
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
    const uint first_row = group.x * (TILE_ROWS / 2);
    const ushort n_rows = min(args.rows - first_row, (uint)TILE_ROWS / 2), n = tiles[group.y].n;
    device const uint * chosen = routes + tiles[group.y].first;
    device const ExpertSlot * slot = slots + tiles[group.y].slot;
    const uint row = first_row + min((uint)thread_index / 2 % (TILE_ROWS / 2), n_rows - 1u);
    const uint token = chosen[min((uint)thread_index / 4, n - 1u)] / args.n_used;
    device const uchar * weights = (thread_index < TILE_ROWS ? slot->gate : slot->up) + (ulong)row * args.row_bytes;
    multiply_tile<F>(weights, x + (ulong)token * args.cols, args.cols, n, shared, thread_index, simdgroup);
    for (ushort i = thread_index; i < n * (TILE_ROWS / 2); i += TILE_THREADS) {
        const ushort r = i % (TILE_ROWS / 2), t = i / (TILE_ROWS / 2);
        const float gate = shared[t * TILE_ROWS + r], up = shared[t * TILE_ROWS + TILE_ROWS / 2 + r];
        const uint route = chosen[t];
        if (r < n_rows) hidden[(ulong)route * args.rows + first_row + r] = scale[route] * swiglu_value(gate, up, args.clamp);
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
    const uint first_row = group.x * TILE_ROWS;
    const ushort n_rows = min(args.rows - first_row, (uint)TILE_ROWS), n = tiles[group.y].n;
    device const uint * chosen = routes + tiles[group.y].first;
    const uint row = first_row + min((uint)thread_index / 2, n_rows - 1u);
    const uint route = chosen[min((uint)thread_index / 4, n - 1u)];
    device const uchar * weights = slots[tiles[group.y].slot].down + (ulong)row * args.row_bytes;
    multiply_tile<F>(weights, hidden + (ulong)route * args.cols, args.cols, n, shared, thread_index, simdgroup);
    for (ushort i = thread_index; i < n * TILE_ROWS; i += TILE_THREADS) {
        const ushort r = i % TILE_ROWS, t = i / TILE_ROWS;
        if (r < n_rows) out[(ulong)chosen[t] * args.rows + first_row + r] = shared[i];
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
