// Hyper-connections: four residual streams, mixed in front of and behind every sub-layer.
#include <metal_stdlib>
#include "dialect.h"
#include "args.h"
#include "reduce.h"
#include "quant.h"
using namespace metal;

// Streams of a token, and the outputs of a mixer: pre gates, post gates, matrix.
#define HC 4
#define MIXER 24

// What a threadgroup of `hyper_mix` computes: 0 one product of one token, 1 eight of each of four.
FUNCTION_CONSTANT(uint, MIX_TILE, 2);
#define MIX_TOKENS 4
#define MIX_ROWS 8

// raw[token, row] = mixer[row] · streams[token] / rms(streams[token]). The threads share out the columns, 16 at a time, in
// the same way whatever the tile. The grid is (rows, tokens) of tiles. Threadgroup memory: for each simdgroup the sums of
// the tile and of the tokens' squares.
template <typename F>
kernel void hyper_mix(
    constant HyperMixArgs & args    [[buffer(0)]],
    device const uchar    * mixer   [[buffer(1)]],
    device const float    * streams [[buffer(2)]],
    device float          * raw     [[buffer(3)]],
    threadgroup float     * partial [[threadgroup(0)]],
    uint2  group        [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]],
    ushort2 n_threads   [[threads_per_threadgroup]],
    ushort n_simdgroups [[simdgroups_per_threadgroup]])
{
    const ushort n_tokens = MIX_TILE != 0 ? MIX_TOKENS : 1, n_rows = MIX_TILE != 0 ? MIX_ROWS : 1;
    const uint first_token = group.y * n_tokens, first_row = group.x * n_rows;
    float sums[MIX_TOKENS][MIX_ROWS], squares[MIX_TOKENS];
    for (ushort t = 0; t < MIX_TOKENS; ++t) {
        squares[t] = 0.0f;
        for (ushort r = 0; r < MIX_ROWS; ++r) sums[t][r] = 0.0f;
    }
    for (uint p = thread_index; p < args.cols / 16; p += n_threads.x) {
        float x[MIX_TOKENS][16], w[16];
        for (ushort t = 0; t < MIX_TOKENS; ++t) {
            if (t >= n_tokens) continue;
            const uint token = min(first_token + t, args.n - 1);   // a last tile computes some twice
            device const float4 * in = (device const float4 *)(streams + (ulong)token * args.cols) + 4 * p;
            for (ushort i = 0; i < 4; ++i) {
                const float4 v = in[i];
                x[t][4 * i] = v.x;
                x[t][4 * i + 1] = v.y;
                x[t][4 * i + 2] = v.z;
                x[t][4 * i + 3] = v.w;
                squares[t] = fma(v.w, v.w, fma(v.z, v.z, fma(v.y, v.y, fma(v.x, v.x, squares[t]))));
            }
        }
        for (ushort r = 0; r < MIX_ROWS; ++r) {
            if (r >= n_rows) continue;
            const uint row = min(first_row + r, args.rows - 1);
            F::piece(mixer + (ulong)row * args.row_bytes, p, w);
            for (ushort t = 0; t < MIX_TOKENS; ++t) {
                if (t >= n_tokens) continue;
                for (ushort i = 0; i < 16; ++i) sums[t][r] = fma(w[i], x[t][i], sums[t][r]);
            }
        }
    }
    threadgroup float * mine = partial + simdgroup * MIX_TOKENS * (MIX_ROWS + 1);
    for (ushort t = 0; t < MIX_TOKENS; ++t) {
        if (t >= n_tokens) continue;
        const float square = simd_sum(squares[t]);
        if (lane == 0) mine[t * (MIX_ROWS + 1) + MIX_ROWS] = square;
        for (ushort r = 0; r < MIX_ROWS; ++r) {
            if (r >= n_rows) continue;
            const float sum = simd_sum(sums[t][r]);
            if (lane == 0) mine[t * (MIX_ROWS + 1) + r] = sum;
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const ushort t = thread_index / n_rows, r = thread_index % n_rows;
    if (t >= n_tokens || first_token + t >= args.n || first_row + r >= args.rows) return;
    float sum = 0.0f, square = 0.0f;
    for (ushort s = 0; s < n_simdgroups; ++s) {
        threadgroup const float * of = partial + (s * MIX_TOKENS + t) * (MIX_ROWS + 1);
        sum += of[r];
        square += of[MIX_ROWS];
    }
    raw[(ulong)(first_token + t) * args.rows + first_row + r] = sum * norm_scale(square, args.cols, args.eps);
}
KERNEL_INSTANCE("hyper_mix_f32", hyper_mix<F32>)
KERNEL_INSTANCE("hyper_mix_f16", hyper_mix<F16>)
KERNEL_INSTANCE("hyper_mix_bf16", hyper_mix<BF16>)
KERNEL_INSTANCE("hyper_mix_q8_0", hyper_mix<Q8_0>)
KERNEL_INSTANCE("hyper_mix_q4_k", hyper_mix<Q4_K>)
KERNEL_INSTANCE("hyper_mix_q2_k", hyper_mix<Q2_K>)
KERNEL_INSTANCE("hyper_mix_iq2_xxs", hyper_mix<IQ2_XXS>)
KERNEL_INSTANCE("hyper_mix_mxfp4", hyper_mix<MXFP4>)

// sigmoid(raw scale + base) + eps for each stream
static inline float4 pre_gates(device const float * raw, device const float * base, float scale, float eps)
{
    float4 gate;
    gate.x = sigmoid(raw[0] * scale + base[0]) + eps;
    gate.y = sigmoid(raw[1] * scale + base[1]) + eps;
    gate.z = sigmoid(raw[2] * scale + base[2]) + eps;
    gate.w = sigmoid(raw[3] * scale + base[3]) + eps;
    return gate;
}

// u = sum over the streams of gate times stream; then u = u / rms(u) * weight. `x` holds u in between.
static inline void mixed_norm(device const float * streams, float4 gate, device const float * weight, device float * x, uint n_embd, float rms_eps, threadgroup float * partial, ushort thread_index, ushort n_threads, ushort lane, ushort simdgroup, ushort n_simdgroups)
{
    device const float4 * s = (device const float4 *)streams;
    device const float4 * w = (device const float4 *)weight;
    device float4 * u = (device float4 *)x;
    const uint n = n_embd / 4;
    float sum = 0.0f;
    for (uint i = thread_index; i < n; i += n_threads) {
        const float4 v = s[i] * float4(gate.x) + s[n + i] * float4(gate.y) + s[2 * n + i] * float4(gate.z) + s[3 * n + i] * float4(gate.w);
        sum += dot(v, v);
        u[i] = v;
    }
    const float norm = norm_scale(group_sum(sum, partial, lane, simdgroup, n_simdgroups), n_embd, rms_eps);
    for (uint i = thread_index; i < n; i += n_threads) u[i] = u[i] * float4(norm) * w[i];
}

// From the mixer's products raw[token, 24] to the normed input x[token, n_embd], and to the gates mix[token, 20]: a token
// has a threadgroup for each. Lanes 0 to 15 of a simdgroup hold the matrix, entry 4 a + b from stream a to stream b.
kernel void hyper_entry(
    constant HyperArgs & args    [[buffer(0)]],
    device const float * streams [[buffer(1)]],
    device const float * raw     [[buffer(2)]],
    device const float * base    [[buffer(3)]],
    device const float * weight  [[buffer(4)]],
    device float       * mix     [[buffer(5)]],
    device float       * x       [[buffer(6)]],
    threadgroup float  * partial [[threadgroup(0)]],
    uint2  group        [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]],
    ushort2 n_threads   [[threads_per_threadgroup]],
    ushort n_simdgroups [[simdgroups_per_threadgroup]])
{
    const uint token = group.y;
    device const float * m = raw + (ulong)token * MIXER;
    if (group.x == 0) {
        const float4 gate = pre_gates(m, base, args.scale_pre, args.eps);
        mixed_norm(streams + (ulong)token * HC * args.n_embd, gate, weight, x + (ulong)token * args.n_embd, args.n_embd, args.rms_eps, partial, thread_index, n_threads.x, lane, simdgroup, n_simdgroups);
        return;
    }
    if (simdgroup != 0) return;
    const uint j = lane % 4, entry = lane % 16;
    const float post = 2.0f * sigmoid(m[HC + j] * args.scale_post + base[HC + j]);
    float c = m[2 * HC + entry] * args.scale_matrix + base[2 * HC + entry];
    float largest = max(c, simd_shuffle_xor(c, 1));
    largest = max(largest, simd_shuffle_xor(largest, 2));
    c = exp(c - largest);
    float sum = c + simd_shuffle_xor(c, 1);
    sum += simd_shuffle_xor(sum, 2);
    c = c / sum + args.eps;
    for (uint i = 0; i < args.n_sinkhorn; ++i) {
        if (i > 0) {
            // rows
            sum = c + simd_shuffle_xor(c, 1);
            sum += simd_shuffle_xor(sum, 2);
            c /= sum + args.eps;
        }
        // columns
        sum = c + simd_shuffle_xor(c, 4);
        sum += simd_shuffle_xor(sum, 8);
        c /= sum + args.eps;
    }
    device float * out = mix + (ulong)token * (HC + HC * HC);
    if (lane < HC) out[lane] = post;
    if (lane < HC * HC) out[HC + lane] = c;
}

// The same in front of the output matrix: raw[token, 4], no gates behind.
kernel void hyper_head(
    constant HyperArgs & args    [[buffer(0)]],
    device const float * streams [[buffer(1)]],
    device const float * raw     [[buffer(2)]],
    device const float * base    [[buffer(3)]],
    device const float * weight  [[buffer(4)]],
    device float       * x       [[buffer(5)]],
    threadgroup float  * partial [[threadgroup(0)]],
    uint   token        [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]],
    ushort n_threads    [[threads_per_threadgroup]],
    ushort n_simdgroups [[simdgroups_per_threadgroup]])
{
    const float4 gate = pre_gates(raw + (ulong)token * HC, base, args.scale_pre, args.eps);
    mixed_norm(streams + (ulong)token * HC * args.n_embd, gate, weight, x + (ulong)token * args.n_embd, args.n_embd, args.rms_eps, partial, thread_index, n_threads, lane, simdgroup, n_simdgroups);
}

// streams[b] = post_b y + sum over a of C[a][b] streams[a], four columns a thread; the grid is (columns, tokens)
kernel void hyper_exit(
    constant HyperExitArgs & args    [[buffer(0)]],
    device const float     * y       [[buffer(1)]],
    device const float     * mix     [[buffer(2)]],
    device float           * streams [[buffer(3)]],
    uint2 position [[thread_position_in_grid]])
{
    const uint n = args.n_embd / 4, i = position.x, token = position.y;
    if (i >= n) return;
    device float4 * s = (device float4 *)(streams + (ulong)token * HC * args.n_embd) + i;
    device const float * m = mix + (ulong)token * (HC + HC * HC);
    const float4 add = ((device const float4 *)(y + (ulong)token * args.n_embd))[i];
    float4 old[HC];
    for (ushort a = 0; a < HC; ++a) old[a] = s[a * n];
    for (ushort b = 0; b < HC; ++b) {
        float4 sum = float4(0.0f);
        for (ushort a = 0; a < HC; ++a) sum = sum + old[a] * float4(m[HC + HC * a + b]);
        s[b * n] = add * float4(m[b]) + sum;
    }
}
