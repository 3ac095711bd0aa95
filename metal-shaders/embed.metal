// Rows of the token table.
#include <metal_stdlib>
#include "dialect.h"
#include "args.h"
#include "quant.h"
using namespace metal;

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
    device float4 * out = (device float4 *)(streams + (ulong)token * 4 * args.cols + 16 * p);
    for (ushort i = 0; i < 4; ++i) {
        const float4 some = float4(w[4 * i], w[4 * i + 1], w[4 * i + 2], w[4 * i + 3]);
        for (ushort stream = 0; stream < 4; ++stream) out[stream * (args.cols / 4) + i] = some;
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
