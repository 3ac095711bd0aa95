// Hyper-connections: four residual streams, mixed in front of and behind every sub-layer.
#include <metal_stdlib>
#include "dialect.h"
#include "args.h"
#include "reduce.h"
using namespace metal;

// Streams of a token, and the outputs of a mixer: pre gates, post gates, matrix.
#define HC 4
#define MIXER 24

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

// 1 / rms of all streams of a token
static inline float streams_norm(device const float * streams, uint n, float rms_eps, threadgroup float * partial, ushort thread_index, ushort n_threads, ushort lane, ushort simdgroup, ushort n_simdgroups)
{
    device const float4 * s = (device const float4 *)streams;
    float sum = 0.0f;
    for (uint i = thread_index; i < n / 4; i += n_threads) sum += dot(s[i], s[i]);
    return norm_scale(group_sum(sum, partial, lane, simdgroup, n_simdgroups), n, rms_eps);
}

// From the mixer's products raw[token, 24] to the gates mix[token, 20] and the normed input x[token, n_embd]; a token a
// threadgroup. Lanes 0 to 15 of a simdgroup hold the matrix, entry 4 a + b from stream a to stream b.
kernel void hyper_entry(
    constant HyperArgs & args    [[buffer(0)]],
    device const float * streams [[buffer(1)]],
    device const float * raw     [[buffer(2)]],
    device const float * base    [[buffer(3)]],
    device const float * weight  [[buffer(4)]],
    device float       * mix     [[buffer(5)]],
    device float       * x       [[buffer(6)]],
    threadgroup float  * partial [[threadgroup(0)]],
    uint   token        [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]],
    ushort lane         [[thread_index_in_simdgroup]],
    ushort simdgroup    [[simdgroup_index_in_threadgroup]],
    ushort n_threads    [[threads_per_threadgroup]],
    ushort n_simdgroups [[simdgroups_per_threadgroup]])
{
    device const float * s = streams + (ulong)token * HC * args.n_embd;
    const float norm = streams_norm(s, HC * args.n_embd, args.rms_eps, partial, thread_index, n_threads, lane, simdgroup, n_simdgroups);
    device const float * m = raw + (ulong)token * MIXER;
    // Every simdgroup computes the gates for itself.
    const uint j = lane % 4, entry = lane % 16;
    const float pre = sigmoid(m[j] * norm * args.scale_pre + base[j]) + args.eps;
    const float post = 2.0f * sigmoid(m[HC + j] * norm * args.scale_post + base[HC + j]);
    float c = m[2 * HC + entry] * norm * args.scale_matrix + base[2 * HC + entry];
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
    if (simdgroup == 0) {
        device float * out = mix + (ulong)token * (HC + HC * HC);
        if (lane < HC) out[lane] = post;
        if (lane < HC * HC) out[HC + lane] = c;
    }
    const float4 gate = float4(simd_broadcast(pre, 0), simd_broadcast(pre, 1), simd_broadcast(pre, 2), simd_broadcast(pre, 3));
    mixed_norm(s, gate, weight, x + (ulong)token * args.n_embd, args.n_embd, args.rms_eps, partial, thread_index, n_threads, lane, simdgroup, n_simdgroups);
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
    device const float * s = streams + (ulong)token * HC * args.n_embd;
    const float norm = streams_norm(s, HC * args.n_embd, args.rms_eps, partial, thread_index, n_threads, lane, simdgroup, n_simdgroups);
    const uint j = lane % 4;
    const float pre = sigmoid(raw[(ulong)token * HC + j] * norm * args.scale_pre + base[j]) + args.eps;
    const float4 gate = float4(simd_broadcast(pre, 0), simd_broadcast(pre, 1), simd_broadcast(pre, 2), simd_broadcast(pre, 3));
    mixed_norm(s, gate, weight, x + (ulong)token * args.n_embd, args.n_embd, args.rms_eps, partial, thread_index, n_threads, lane, simdgroup, n_simdgroups);
}

// streams[b] = post_b y + sum over a of C[a][b] streams[a]
kernel void hyper_exit(
    constant HyperExitArgs & args    [[buffer(0)]],
    device const float     * y       [[buffer(1)]],
    device const float     * mix     [[buffer(2)]],
    device float           * streams [[buffer(3)]],
    uint i [[thread_position_in_grid]])
{
    if (i >= args.n * args.n_embd) return;
    const uint token = i / args.n_embd, column = i % args.n_embd;
    device float * s = streams + (ulong)token * HC * args.n_embd + column;
    device const float * m = mix + (ulong)token * (HC + HC * HC);
    float old[HC];
    for (ushort a = 0; a < HC; ++a) old[a] = s[(ulong)a * args.n_embd];
    for (ushort b = 0; b < HC; ++b) {
        float sum = 0.0f;
        for (ushort a = 0; a < HC; ++a) sum += m[HC + HC * a + b] * old[a];
        s[(ulong)b * args.n_embd] = m[b] * y[i] + sum;
    }
}
