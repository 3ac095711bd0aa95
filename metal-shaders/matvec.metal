// Products for few tokens: a simdgroup computes some rows, its lanes share out the columns. Each weight is read once.
#include <metal_stdlib>
#include "dialect.h"
#include "args.h"
#include "reduce.h"
#include "dots.h"
#include "experts.h"
using namespace metal;

// Rows of a simdgroup.
#define ROWS 4

struct Rows {
    device const uchar * at[ROWS];
};

// sums += the dot products of the rows with x, of shares first, first + step, ...
template <typename F>
static inline void dot_rows(thread const Rows & rows, device const float * x, uint cols, uint first, uint step, threadgroup const uint * table, thread float * sums)
{
    for (uint p = first; p < cols / 16; p += step) {
        float4 values[4];
        for (ushort i = 0; i < 4; ++i) values[i] = *(device const float4 *)(x + F::column(p, i));
        for (ushort r = 0; r < ROWS; ++r) sums[r] += F::dot_16(rows.at[r], p, values, table);
    }
}

// y[token, group rows] = w[group rows, cols] x[token, group cols]; the grid is (rows, tokens, groups). With `split` all
// simdgroups of a group share the columns of the same rows.
template <typename F>
kernel void matvec(
    constant ProductArgs & args   [[buffer(0)]],
    device const uchar   * w      [[buffer(1)]],
    device const float   * x      [[buffer(2)]],
    device float         * y      [[buffer(3)]],
    threadgroup uint     * shared [[threadgroup(0)]],
    uint3  group        [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]],
    ushort n_simdgroups [[simdgroups_per_threadgroup]])
{
    F::fill(shared, thread_index, 32 * n_simdgroups);
    const bool split = args.split != 0;
    const uint first = (split ? group.x : group.x * n_simdgroups + simdgroup) * ROWS;
    if (first >= args.rows) return;
    device const uchar * matrix = w + (ulong)group.z * args.rows * args.row_bytes;
    Rows rows;
    for (ushort r = 0; r < ROWS; ++r) rows.at[r] = matrix + (ulong)min(first + r, args.rows - 1) * args.row_bytes;
    device const float * in = x + (ulong)group.y * args.x_stride + (ulong)group.z * args.cols;
    float sums[ROWS] = {0.0f, 0.0f, 0.0f, 0.0f};
    const uint begin = split ? thread_index : lane, step = split ? 32 * n_simdgroups : 32;
    dot_rows<F>(rows, in, args.cols, begin, step, shared, sums);
    for (ushort r = 0; r < ROWS; ++r) sums[r] = simd_sum(sums[r]);
    device float * out = y + (ulong)group.y * args.y_stride + (ulong)group.z * args.rows + first;
    if (!split) {
        for (ushort r = 0; r < ROWS; ++r) {
            if (lane == 0 && first + r < args.rows) out[r] = sums[r];
        }
        return;
    }
    threadgroup float * partial = (threadgroup float *)shared;
    threadgroup_barrier(mem_flags::mem_threadgroup);   // the table may still be read
    for (ushort r = 0; r < ROWS; ++r) {
        if (lane == 0) partial[simdgroup * ROWS + r] = sums[r];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (thread_index < ROWS && first + thread_index < args.rows) {
        float sum = 0.0f;
        for (ushort i = 0; i < n_simdgroups; ++i) sum += partial[i * ROWS + thread_index];
        out[thread_index] = sum;
    }
}
KERNEL_INSTANCE("matvec_f32", matvec<F32Dot>)
KERNEL_INSTANCE("matvec_f16", matvec<F16Dot>)
KERNEL_INSTANCE("matvec_bf16", matvec<BF16Dot>)
KERNEL_INSTANCE("matvec_q8_0", matvec<Q8_0Dot>)
KERNEL_INSTANCE("matvec_q4_k", matvec<Q4_KDot>)
KERNEL_INSTANCE("matvec_q2_k", matvec<Q2_KDot>)
KERNEL_INSTANCE("matvec_iq2_xxs", matvec<IQ2_XXSDot>)
KERNEL_INSTANCE("matvec_mxfp4", matvec<MXFP4Dot>)

// hidden[route] = weight[route] * swiglu(gate x, up x) for the routes listed; the grid is (rows, routes).
// A route is (slot, index); its token is index / n_used.
template <typename F>
kernel void expert_gate_up(
    constant ExpertArgs     & args   [[buffer(0)]],
    device const ExpertSlot * slots  [[buffer(1)]],
    device const uint2      * routes [[buffer(2)]],
    device const float      * scale  [[buffer(3)]],
    device const float      * x      [[buffer(4)]],
    device float            * hidden [[buffer(5)]],
    threadgroup uint        * shared [[threadgroup(0)]],
    uint2  group        [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]],
    ushort n_simdgroups [[simdgroups_per_threadgroup]])
{
    F::fill(shared, thread_index, 32 * n_simdgroups);
    const uint first = (group.x * n_simdgroups + simdgroup) * (ROWS / 2);
    if (first >= args.rows) return;
    const uint2 route = routes[group.y];
    Rows rows;
    for (ushort r = 0; r < ROWS / 2; ++r) {
        const ulong at = (ulong)min(first + r, args.rows - 1) * args.row_bytes;
        rows.at[2 * r] = slots[route.x].gate + at;
        rows.at[2 * r + 1] = slots[route.x].up + at;
    }
    float sums[ROWS] = {0.0f, 0.0f, 0.0f, 0.0f};
    dot_rows<F>(rows, x + (ulong)(route.y / args.n_used) * args.cols, args.cols, lane, 32, shared, sums);
    device float * out = hidden + (ulong)route.y * args.rows + first;
    for (ushort r = 0; r < ROWS / 2; ++r) {
        const float gate = simd_sum(sums[2 * r]), up = simd_sum(sums[2 * r + 1]);
        if (lane == 0 && first + r < args.rows) out[r] = scale[route.y] * swiglu_value(gate, up, args.clamp);
    }
}
KERNEL_INSTANCE("expert_gate_up_f32", expert_gate_up<F32Dot>)
KERNEL_INSTANCE("expert_gate_up_f16", expert_gate_up<F16Dot>)
KERNEL_INSTANCE("expert_gate_up_bf16", expert_gate_up<BF16Dot>)
KERNEL_INSTANCE("expert_gate_up_q8_0", expert_gate_up<Q8_0Dot>)
KERNEL_INSTANCE("expert_gate_up_q4_k", expert_gate_up<Q4_KDot>)
KERNEL_INSTANCE("expert_gate_up_q2_k", expert_gate_up<Q2_KDot>)
KERNEL_INSTANCE("expert_gate_up_iq2_xxs", expert_gate_up<IQ2_XXSDot>)
KERNEL_INSTANCE("expert_gate_up_mxfp4", expert_gate_up<MXFP4Dot>)

// out[route] = down hidden[route] for the routes listed; the grid is (rows, routes)
template <typename F>
kernel void expert_down(
    constant ExpertArgs     & args   [[buffer(0)]],
    device const ExpertSlot * slots  [[buffer(1)]],
    device const uint2      * routes [[buffer(2)]],
    device const float      * hidden [[buffer(3)]],
    device float            * out    [[buffer(4)]],
    threadgroup uint        * shared [[threadgroup(0)]],
    uint2  group        [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]],
    ushort n_simdgroups [[simdgroups_per_threadgroup]])
{
    F::fill(shared, thread_index, 32 * n_simdgroups);
    const uint first = (group.x * n_simdgroups + simdgroup) * ROWS;
    if (first >= args.rows) return;
    const uint2 route = routes[group.y];
    Rows rows;
    for (ushort r = 0; r < ROWS; ++r) {
        rows.at[r] = slots[route.x].down + (ulong)min(first + r, args.rows - 1) * args.row_bytes;
    }
    float sums[ROWS] = {0.0f, 0.0f, 0.0f, 0.0f};
    dot_rows<F>(rows, hidden + (ulong)route.y * args.cols, args.cols, lane, 32, shared, sums);
    device float * y = out + (ulong)route.y * args.rows + first;
    for (ushort r = 0; r < ROWS; ++r) {
        const float sum = simd_sum(sums[r]);
        if (lane == 0 && first + r < args.rows) y[r] = sum;
    }
}
KERNEL_INSTANCE("expert_down_f32", expert_down<F32Dot>)
KERNEL_INSTANCE("expert_down_f16", expert_down<F16Dot>)
KERNEL_INSTANCE("expert_down_bf16", expert_down<BF16Dot>)
KERNEL_INSTANCE("expert_down_q8_0", expert_down<Q8_0Dot>)
KERNEL_INSTANCE("expert_down_q4_k", expert_down<Q4_KDot>)
KERNEL_INSTANCE("expert_down_q2_k", expert_down<Q2_KDot>)
KERNEL_INSTANCE("expert_down_iq2_xxs", expert_down<IQ2_XXSDot>)
KERNEL_INSTANCE("expert_down_mxfp4", expert_down<MXFP4Dot>)
