// Stored weights, 16 at a time. A row is a run of blocks; piece p holds its weights 16 p to 16 p + 15. Rows of f32, f16 and
// bf16 begin at multiples of 8 bytes, blocks at even ones, those of MXFP4 at any: nothing wider is read.
#pragma once

#include "quant_tables.h"

struct F32 {
    static inline void piece(device const uchar * row, uint p, thread float * w)
    {
        device const float2 * x = (device const float2 *)row + 8 * p;
        for (ushort i = 0; i < 8; ++i) {
            const float2 v = x[i];
            w[2 * i] = v.x;
            w[2 * i + 1] = v.y;
        }
    }
};

struct F16 {
    static inline void piece(device const uchar * row, uint p, thread float * w)
    {
        device const half4 * x = (device const half4 *)row + 4 * p;
        for (ushort i = 0; i < 4; ++i) {
            const half4 v = x[i];
            w[4 * i] = (float)v.x;
            w[4 * i + 1] = (float)v.y;
            w[4 * i + 2] = (float)v.z;
            w[4 * i + 3] = (float)v.w;
        }
    }
};

static inline float bf16_value(ushort bits)
{
    return as_type<float>((uint)bits << 16);
}

struct BF16 {
    static inline void piece(device const uchar * row, uint p, thread float * w)
    {
        device const ushort4 * x = (device const ushort4 *)row + 4 * p;
        for (ushort i = 0; i < 4; ++i) {
            const ushort4 v = x[i];
            w[4 * i] = bf16_value(v.x);
            w[4 * i + 1] = bf16_value(v.y);
            w[4 * i + 2] = bf16_value(v.z);
            w[4 * i + 3] = bf16_value(v.w);
        }
    }
};

static inline float f16_value(ushort bits)
{
    return (float)as_type<half>(bits);
}

// 32 weights in 34 bytes: d, then 32 quants.
struct Q8_0 {
    static inline void piece(device const uchar * row, uint p, thread float * w)
    {
        device const ushort * block = (device const ushort *)(row + 34 * (p / 2));
        const float d = f16_value(block[0]);
        device const ushort * q = block + 1 + 8 * (p % 2);
        for (ushort i = 0; i < 8; ++i) {
            const char2 pair = as_type<char2>(q[i]);
            w[2 * i] = d * (float)pair.x;
            w[2 * i + 1] = d * (float)pair.y;
        }
    }
};

// The 6-bit scales (x) and minima (y) of two neighbours of the eight sub-blocks of Q4_K, 2 c and 2 c + 1: each in a byte.
// Of twelve bytes the low 6 bits of the first four are scales 0 to 3, those of the next four minima 0 to 3; the last four
// hold the low halves of scales (low nibble) and minima 4 to 7, whose upper two bits are on top of the others.
static inline ushort2 q4_k_scales(device const ushort * packed, ushort c)
{
    if (c < 2) return ushort2(packed[c] & 0x3f3f, packed[c + 2] & 0x3f3f);
    const ushort low = packed[c + 2];
    const ushort scales = (low & 0x0f0f) | (packed[c - 2] >> 2 & 0x3030);
    const ushort minima = (low >> 4 & 0x0f0f) | (packed[c] >> 2 & 0x3030);
    return ushort2(scales, minima);
}

// 256 weights in 144 bytes: d, dmin, 12 bytes of scales and minima, then four times 32 bytes of 4-bit quants: the low
// nibbles are a sub-block of 32 weights, the high ones the next.
struct Q4_K {
    static inline void piece(device const uchar * row, uint p, thread float * w)
    {
        device const ushort * block = (device const ushort *)(row + 144 * (p / 16));
        const ushort s = p % 16 / 2;   // sub-block
        const ushort2 both = q4_k_scales(block + 2, s / 2);
        const float d = f16_value(block[0]) * (float)(both.x >> (8 * (s % 2)) & 255);
        const float m = f16_value(block[1]) * (float)(both.y >> (8 * (s % 2)) & 255);
        device const ushort * q = block + 8 + 16 * (s / 2) + 8 * (p % 2);
        for (ushort i = 0; i < 8; ++i) {
            const ushort nibbles = q[i] >> (4 * (s % 2));
            w[2 * i] = d * (float)(nibbles & 15) - m;
            w[2 * i + 1] = d * (float)(nibbles >> 8 & 15) - m;
        }
    }
};

// 256 weights in 84 bytes: 16 bytes of scale (low nibble) and minimum for 16 weights each, then twice 32 bytes of 2-bit
// quants, the lowest bits of all of them first; d, dmin.
struct Q2_K {
    static inline void piece(device const uchar * row, uint p, thread float * w)
    {
        device const uchar * block = row + 84 * (p / 16);
        const ushort s = p % 16;   // sub-block of 16
        const uchar packed = block[s];
        device const ushort * scales = (device const ushort *)(block + 80);
        const float d = f16_value(scales[0]) * (float)(packed & 15);
        const float m = f16_value(scales[1]) * (float)(packed >> 4);
        device const ushort * q = (device const ushort *)(block + 16 + 32 * (s / 8) + 16 * (s % 2));
        for (ushort i = 0; i < 8; ++i) {
            const ushort pairs = q[i] >> (2 * (s % 8 / 2));
            w[2 * i] = d * (float)(pairs & 3) - m;
            w[2 * i + 1] = d * (float)(pairs >> 8 & 3) - m;
        }
    }
};

// Of a group of 32 weights of IQ2_XXS, its word: four times 7 signs, then a 4-bit scale.
static inline uint iq2_xxs_word(device const ushort * group)
{
    return (uint)group[2] | (uint)group[3] << 16;
}

// The signs of a group's point: a bit is 1 where the weight is negative. The eighth makes their number even.
static inline uint iq2_xxs_signs(uint word, uint point)
{
    const uint seven = word >> (7 * point) & 127;
    return seven | (popcount(seven) & 1) << 7;
}

// 256 weights in 66 bytes: d, then 8 groups of 32: four rows of the grid, then the word.
struct IQ2_XXS {
    static inline void piece(device const uchar * row, uint p, thread float * w)
    {
        device const ushort * block = (device const ushort *)(row + 66 * (p / 16));
        device const ushort * group = block + 1 + 4 * (p % 16 / 2);
        const uint word = iq2_xxs_word(group);
        const float d = f16_value(block[0]) * (float)(2 * (word >> 28) + 1) * 0.125f;
        const ushort indices = group[p % 2];
        for (ushort k = 0; k < 2; ++k) {
            const ulong grid = IQ2_XXS_GRID[indices >> (8 * k) & 255];
            const uint signs = iq2_xxs_signs(word, 2 * (p % 2) + k);
            for (ushort i = 0; i < 8; ++i) {
                const float v = d * (float)(grid >> (8 * i) & 255);
                w[8 * k + i] = (signs >> i & 1) != 0 ? -v : v;
            }
        }
    }
};

// 2^(e - 128), the scale of MXFP4 whose values are twice those of E2M1; NaN for 255.
static inline float mxfp4_scale(uchar e)
{
    if (e == 255) return NAN;
    return e >= 2 ? as_type<float>((uint)(e - 1) << 23) : as_type<float>(0x00200000u << e);
}

// 32 weights in 17 bytes: an exponent, then 16 bytes: low nibbles are the first 16.
struct MXFP4 {
    static inline void piece(device const uchar * row, uint p, thread float * w)
    {
        device const uchar * block = row + 17 * (p / 2);
        const float d = mxfp4_scale(block[0]);
        const ushort shift = 4 * (p % 2);
        for (ushort i = 0; i < 16; ++i) w[i] = d * (float)MXFP4_VALUES[block[1 + i] >> shift & 15];
    }
};
