// Dot products of 16 stored weights with values. Which 16 a lane has at a time is up to the format: those that one read of a
// few bytes gives, four runs of four. `column` says where run i of share p begins; the shares of a row are all its columns.
// What all weights of a sub-block have in common is multiplied once, and quants are masked rather than shifted: the value
// of each is then off by a power of two, which is put right in the sum.
//
// `fill` brings a format's table into threadgroup memory, whose banks serve the lanes' different places at once. All threads
// of a group must call it.
#pragma once

#include "quant.h"

static inline float sum_of(float4 v)
{
    return v.x + v.y + (v.z + v.w);
}

static inline float4 signed_bytes(ushort a, ushort b)
{
    const char2 low = as_type<char2>(a), high = as_type<char2>(b);
    return float4((float)low.x, (float)low.y, (float)high.x, (float)high.y);
}

// The sum of four bytes, of which the bits of a mask count, times x.
static inline float masked_dot(ushort a, ushort b, ushort mask, float4 x)
{
    const ushort upper = mask << 8;
    const float even = (float)(ushort)(a & mask) * x.x + (float)(ushort)(b & mask) * x.z;
    const float odd = (float)(ushort)(a & upper) * x.y + (float)(ushort)(b & upper) * x.w;
    return even + odd * 0.00390625f;
}

struct F32Dot {
    static inline void fill(threadgroup uint * table, ushort thread_index, ushort n_threads) {}

    static inline uint column(uint p, ushort i)
    {
        return 16 * p + 4 * i;
    }

    static inline float dot_16(device const uchar * row, uint p, thread const float4 * x, threadgroup const uint * table)
    {
        device const float2 * w = (device const float2 *)row + 8 * p;
        float sum = 0.0f;
        for (ushort i = 0; i < 4; ++i) {
            const float2 a = w[2 * i], b = w[2 * i + 1];
            sum += dot(float4(a.x, a.y, b.x, b.y), x[i]);
        }
        return sum;
    }
};

struct F16Dot {
    static inline void fill(threadgroup uint * table, ushort thread_index, ushort n_threads) {}

    static inline uint column(uint p, ushort i)
    {
        return 16 * p + 4 * i;
    }

    static inline float dot_16(device const uchar * row, uint p, thread const float4 * x, threadgroup const uint * table)
    {
        device const half4 * w = (device const half4 *)row + 4 * p;
        float sum = 0.0f;
        for (ushort i = 0; i < 4; ++i) sum += dot(float4(w[i]), x[i]);
        return sum;
    }
};

struct BF16Dot {
    static inline void fill(threadgroup uint * table, ushort thread_index, ushort n_threads) {}

    static inline uint column(uint p, ushort i)
    {
        return 16 * p + 4 * i;
    }

    static inline float dot_16(device const uchar * row, uint p, thread const float4 * x, threadgroup const uint * table)
    {
        device const ushort4 * w = (device const ushort4 *)row + 4 * p;
        float sum = 0.0f;
        for (ushort i = 0; i < 4; ++i) {
            const ushort4 v = w[i];
            sum += dot(float4(bf16_value(v.x), bf16_value(v.y), bf16_value(v.z), bf16_value(v.w)), x[i]);
        }
        return sum;
    }
};

struct Q8_0Dot {
    static inline void fill(threadgroup uint * table, ushort thread_index, ushort n_threads) {}

    static inline uint column(uint p, ushort i)
    {
        return 16 * p + 4 * i;
    }

    static inline float dot_16(device const uchar * row, uint p, thread const float4 * x, threadgroup const uint * table)
    {
        device const ushort * block = (device const ushort *)(row + 34 * (p / 2));
        device const ushort * q = block + 1 + 8 * (p % 2);
        float sum = 0.0f;
        for (ushort i = 0; i < 4; ++i) sum += dot(signed_bytes(q[2 * i], q[2 * i + 1]), x[i]);
        return f16_value(block[0]) * sum;
    }
};

// Eight bytes: eight weights of a sub-block, and the same eight of the next.
struct Q4_KDot {
    static inline void fill(threadgroup uint * table, ushort thread_index, ushort n_threads) {}

    static inline uint column(uint p, ushort i)
    {
        return 64 * (p / 4) + 8 * (p % 4) + 32 * (i / 2) + 4 * (i % 2);
    }

    static inline float dot_16(device const uchar * row, uint p, thread const float4 * x, threadgroup const uint * table)
    {
        device const ushort * block = (device const ushort *)(row + 144 * (p / 16));
        const ushort c = p % 16 / 4;
        const ushort2 both = q4_k_scales(block + 2, c);
        device const ushort * q = block + 8 + 16 * c + 4 * (p % 4);
        const ushort q0 = q[0], q1 = q[1], q2 = q[2], q3 = q[3];
        const float first = masked_dot(q0, q1, 0x0f, x[0]) + masked_dot(q2, q3, 0x0f, x[1]);
        const float second = (masked_dot(q0, q1, 0xf0, x[2]) + masked_dot(q2, q3, 0xf0, x[3])) * 0.0625f;
        const float quants = (float)(both.x & 255) * first + (float)(both.x >> 8) * second;
        const float minima = (float)(both.y & 255) * sum_of(x[0] + x[1]) + (float)(both.y >> 8) * sum_of(x[2] + x[3]);
        return f16_value(block[0]) * quants - f16_value(block[1]) * minima;
    }
};

// Four bytes: four weights of each of four sub-blocks.
struct Q2_KDot {
    static inline void fill(threadgroup uint * table, ushort thread_index, ushort n_threads) {}

    static inline uint column(uint p, ushort i)
    {
        return 128 * (p / 8) + 4 * (p % 8) + 32 * i;
    }

    static inline float dot_16(device const uchar * row, uint p, thread const float4 * x, threadgroup const uint * table)
    {
        device const uchar * block = row + 84 * (p / 16);
        const ushort a = p % 16 / 8, m = p % 8;
        device const uchar * packed = block + 8 * a + m / 4;
        device const ushort * q = (device const ushort *)(block + 16 + 32 * a + 4 * m);
        device const ushort * scales = (device const ushort *)(block + 80);
        const ushort q0 = q[0], q1 = q[1];
        float quants = 0.0f, minima = 0.0f, unit = 1.0f;
        for (ushort i = 0; i < 4; ++i) {
            const uchar both = packed[2 * i];
            quants += unit * (float)(both & 15) * masked_dot(q0, q1, 3 << (2 * i), x[i]);
            minima += (float)(both >> 4) * sum_of(x[i]);
            unit *= 0.25f;
        }
        return f16_value(scales[0]) * quants - f16_value(scales[1]) * minima;
    }
};

// Two rows of the grid.
struct IQ2_XXSDot {
    static inline void fill(threadgroup uint * table, ushort thread_index, ushort n_threads)
    {
        for (ushort i = thread_index; i < 256; i += n_threads) {
            table[2 * i] = (uint)IQ2_XXS_GRID[i];
            table[2 * i + 1] = (uint)(IQ2_XXS_GRID[i] >> 32);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }

    static inline uint column(uint p, ushort i)
    {
        return 16 * p + 4 * i;
    }

    // Four magnitudes with signs, of which the lowest four bits count.
    static inline float signed_dot(uint magnitudes, uint signs, float4 x)
    {
        const uchar4 w = as_type<uchar4>(magnitudes);
        return (float)w.x * ((signs & 1) != 0 ? -x.x : x.x) + (float)w.y * ((signs & 2) != 0 ? -x.y : x.y)
            + ((float)w.z * ((signs & 4) != 0 ? -x.z : x.z) + (float)w.w * ((signs & 8) != 0 ? -x.w : x.w));
    }

    static inline float dot_16(device const uchar * row, uint p, thread const float4 * x, threadgroup const uint * table)
    {
        device const ushort * block = (device const ushort *)(row + 66 * (p / 16));
        device const ushort * group = block + 1 + 4 * (p % 16 / 2);
        const uint word = iq2_xxs_word(group);
        const ushort indices = group[p % 2];
        float sum = 0.0f;
        for (ushort k = 0; k < 2; ++k) {
            threadgroup const uint * grid = table + 2 * (indices >> (8 * k) & 255);
            const uint signs = iq2_xxs_signs(word, 2 * (p % 2) + k);
            sum += signed_dot(grid[0], signs, x[2 * k]) + signed_dot(grid[1], signs >> 4, x[2 * k + 1]);
        }
        return f16_value(block[0]) * (float)(2 * (word >> 28) + 1) * 0.125f * sum;
    }
};

// Eight bytes: eight weights of each half of a block.
struct MXFP4Dot {
    static inline void fill(threadgroup uint * table, ushort thread_index, ushort n_threads)
    {
        if (thread_index < 16) table[thread_index] = as_type<uint>((float)MXFP4_VALUES[thread_index]);
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }

    static inline uint column(uint p, ushort i)
    {
        return 32 * (p / 2) + 8 * (p % 2) + 16 * (i / 2) + 4 * (i % 2);
    }

    static inline float dot_16(device const uchar * row, uint p, thread const float4 * x, threadgroup const uint * table)
    {
        device const uchar * block = row + 17 * (p / 2);
        device const uchar * q = block + 1 + 8 * (p % 2);
        threadgroup const float * values = (threadgroup const float *)table;
        float sum = 0.0f;
        for (ushort i = 0; i < 2; ++i) {
            const uchar a = q[4 * i], b = q[4 * i + 1], c = q[4 * i + 2], d = q[4 * i + 3];
            sum += dot(float4(values[a & 15], values[b & 15], values[c & 15], values[d & 15]), x[i]);
            sum += dot(float4(values[a >> 4], values[b >> 4], values[c >> 4], values[d >> 4]), x[2 + i]);
        }
        return mxfp4_scale(block[0]) * sum;
    }
};
