// Products for one token: a simdgroup computes some rows, its lanes share out the columns, 16 at a time.
#include <metal_stdlib>
#include "dialect.h"
#include "args.h"
#include "reduce.h"
#include "quant.h"
#include "experts.h"
using namespace metal;

// Rows of a simdgroup.
#define ROWS 4

// The dot product of 16 weights and 16 values.
static inline float dot_16(thread const float * w, thread const float * x)
{
    float sum = 0.0f;
    for (ushort i = 0; i < 16; ++i) sum += w[i] * x[i];
    return sum;
}

static inline void load_16(device const float * from, thread float * to)
{
    device const float4 * x = (device const float4 *)from;
    for (ushort i = 0; i < 4; ++i) {
        const float4 v = x[i];
        to[4 * i] = v.x;
        to[4 * i + 1] = v.y;
        to[4 * i + 2] = v.z;
        to[4 * i + 3] = v.w;
    }
}

// y[token, group rows] = w[group rows, cols] x[token, group cols]; the grid is (rows, tokens, groups)
template <typename F>
kernel void matvec(
    constant ProductArgs & args [[buffer(0)]],
    device const uchar   * w    [[buffer(1)]],
    device const float   * x    [[buffer(2)]],
    device float         * y    [[buffer(3)]],
    uint3  group        [[threadgroup_position_in_grid]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]],
    ushort n_simdgroups [[simdgroups_per_threadgroup]])
{
    const uint first = (group.x * n_simdgroups + simdgroup) * ROWS;
    if (first >= args.rows) return;
    device const float * in = x + (ulong)group.y * args.x_stride + (ulong)group.z * args.cols;
    device const uchar * rows[ROWS];
    for (ushort r = 0; r < ROWS; ++r) {
        const uint row = min(first + r, args.rows - 1);
        rows[r] = w + ((ulong)group.z * args.rows + row) * args.row_bytes;
    }
    float sums[ROWS] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint p = lane; p < args.cols / 16; p += 32) {
        float values[16], weights[16];
        load_16(in + 16 * p, values);
        for (ushort r = 0; r < ROWS; ++r) {
            F::piece(rows[r], p, weights);
            sums[r] += dot_16(weights, values);
        }
    }
    device float * out = y + (ulong)group.y * args.y_stride + (ulong)group.z * args.rows;
    for (ushort r = 0; r < ROWS; ++r) {
        const float sum = simd_sum(sums[r]);
        if (lane == 0 && first + r < args.rows) out[first + r] = sum;
    }
}
KERNEL_INSTANCE("matvec_f32", matvec<F32>)
KERNEL_INSTANCE("matvec_f16", matvec<F16>)
KERNEL_INSTANCE("matvec_bf16", matvec<BF16>)
KERNEL_INSTANCE("matvec_q8_0", matvec<Q8_0>)
KERNEL_INSTANCE("matvec_q4_k", matvec<Q4_K>)
KERNEL_INSTANCE("matvec_q2_k", matvec<Q2_K>)
KERNEL_INSTANCE("matvec_iq2_xxs", matvec<IQ2_XXS>)
KERNEL_INSTANCE("matvec_mxfp4", matvec<MXFP4>)

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
    uint2  group        [[threadgroup_position_in_grid]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]],
    ushort n_simdgroups [[simdgroups_per_threadgroup]])
{
    const uint first = (group.x * n_simdgroups + simdgroup) * (ROWS / 2);
    if (first >= args.rows) return;
    const uint2 route = routes[group.y];
    device const float * in = x + (ulong)(route.y / args.n_used) * args.cols;
    device const uchar * rows[ROWS];
    for (ushort r = 0; r < ROWS / 2; ++r) {
        const ulong at = (ulong)min(first + r, args.rows - 1) * args.row_bytes;
        rows[2 * r] = slots[route.x].gate + at;
        rows[2 * r + 1] = slots[route.x].up + at;
    }
    float sums[ROWS] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint p = lane; p < args.cols / 16; p += 32) {
        float values[16], weights[16];
        load_16(in + 16 * p, values);
        for (ushort r = 0; r < ROWS; ++r) {
            F::piece(rows[r], p, weights);
            sums[r] += dot_16(weights, values);
        }
    }
    device float * out = hidden + (ulong)route.y * args.rows;
    for (ushort r = 0; r < ROWS / 2; ++r) {
        const float gate = simd_sum(sums[2 * r]), up = simd_sum(sums[2 * r + 1]);
        if (lane == 0 && first + r < args.rows) out[first + r] = scale[route.y] * swiglu_value(gate, up, args.clamp);
    }
}
KERNEL_INSTANCE("expert_gate_up_f32", expert_gate_up<F32>)
KERNEL_INSTANCE("expert_gate_up_f16", expert_gate_up<F16>)
KERNEL_INSTANCE("expert_gate_up_bf16", expert_gate_up<BF16>)
KERNEL_INSTANCE("expert_gate_up_q8_0", expert_gate_up<Q8_0>)
KERNEL_INSTANCE("expert_gate_up_q4_k", expert_gate_up<Q4_K>)
KERNEL_INSTANCE("expert_gate_up_q2_k", expert_gate_up<Q2_K>)
KERNEL_INSTANCE("expert_gate_up_iq2_xxs", expert_gate_up<IQ2_XXS>)
KERNEL_INSTANCE("expert_gate_up_mxfp4", expert_gate_up<MXFP4>)

// out[route] = down hidden[route] for the routes listed; the grid is (rows, routes)
template <typename F>
kernel void expert_down(
    constant ExpertArgs     & args   [[buffer(0)]],
    device const ExpertSlot * slots  [[buffer(1)]],
    device const uint2      * routes [[buffer(2)]],
    device const float      * hidden [[buffer(3)]],
    device float            * out    [[buffer(4)]],
    uint2  group        [[threadgroup_position_in_grid]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]],
    ushort n_simdgroups [[simdgroups_per_threadgroup]])
{
    const uint first = (group.x * n_simdgroups + simdgroup) * ROWS;
    if (first >= args.rows) return;
    const uint2 route = routes[group.y];
    device const float * in = hidden + (ulong)route.y * args.cols;
    device const uchar * rows[ROWS];
    for (ushort r = 0; r < ROWS; ++r) {
        rows[r] = slots[route.x].down + (ulong)min(first + r, args.rows - 1) * args.row_bytes;
    }
    float sums[ROWS] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint p = lane; p < args.cols / 16; p += 32) {
        float values[16], weights[16];
        load_16(in + 16 * p, values);
        for (ushort r = 0; r < ROWS; ++r) {
            F::piece(rows[r], p, weights);
            sums[r] += dot_16(weights, values);
        }
    }
    device float * y = out + (ulong)route.y * args.rows;
    for (ushort r = 0; r < ROWS; ++r) {
        const float sum = simd_sum(sums[r]);
        if (lane == 0 && first + r < args.rows) y[first + r] = sum;
    }
}
KERNEL_INSTANCE("expert_down_f32", expert_down<F32>)
KERNEL_INSTANCE("expert_down_f16", expert_down<F16>)
KERNEL_INSTANCE("expert_down_bf16", expert_down<BF16>)
KERNEL_INSTANCE("expert_down_q8_0", expert_down<Q8_0>)
KERNEL_INSTANCE("expert_down_q4_k", expert_down<Q4_K>)
KERNEL_INSTANCE("expert_down_q2_k", expert_down<Q2_K>)
KERNEL_INSTANCE("expert_down_iq2_xxs", expert_down<IQ2_XXS>)
KERNEL_INSTANCE("expert_down_mxfp4", expert_down<MXFP4>)

// All streams of a token start as its row of the table; a thread writes 16 values of each. The grid is (pieces, tokens).
template <typename F>
kernel void embed(
    constant EmbedArgs & args    [[buffer(0)]],
    device const uchar * table   [[buffer(1)]],
    device const uint  * tokens  [[buffer(2)]],
    device float       * streams [[buffer(3)]],
    uint2 position [[thread_position_in_grid]])
{
    const uint p = position.x, token = position.y;
    if (16 * p >= args.cols || token >= args.n) return;
    float w[16];
    F::piece(table + (ulong)tokens[token] * args.row_bytes, p, w);
    device float * out = streams + (ulong)token * 4 * args.cols + 16 * p;
    for (ushort stream = 0; stream < 4; ++stream) {
        for (ushort i = 0; i < 16; ++i) out[stream * args.cols + i] = w[i];
    }
}
KERNEL_INSTANCE("embed_f32", embed<F32>)
KERNEL_INSTANCE("embed_f16", embed<F16>)
KERNEL_INSTANCE("embed_bf16", embed<BF16>)
KERNEL_INSTANCE("embed_q8_0", embed<Q8_0>)
KERNEL_INSTANCE("embed_q4_k", embed<Q4_K>)
KERNEL_INSTANCE("embed_q2_k", embed<Q2_K>)
KERNEL_INSTANCE("embed_iq2_xxs", embed<IQ2_XXS>)
KERNEL_INSTANCE("embed_mxfp4", embed<MXFP4>)
