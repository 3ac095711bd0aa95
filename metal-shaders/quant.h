// Stored weights, 16 at a time. A row is a run of blocks; piece p holds its weights 16 p to 16 p + 15. Blocks begin at
// any byte (2-byte numbers at even ones), so nothing wider than a byte is read but f16, bf16 and f32 rows of their own.
#pragma once

#include "quant_tables.h"

// The value of an f16 that may begin at any byte.
static inline float half_at(device const uchar * p)
{
    return (float)as_type<half>((ushort)(p[0] | (ushort)p[1] << 8));
}

struct F32 {
    static inline void piece(device const uchar * row, uint p, thread float * w)
    {
        device const float * x = (device const float *)row + 16 * p;
        for (ushort i = 0; i < 16; ++i) w[i] = x[i];
    }
};

struct F16 {
    static inline void piece(device const uchar * row, uint p, thread float * w)
    {
        device const half * x = (device const half *)row + 16 * p;
        for (ushort i = 0; i < 16; ++i) w[i] = (float)x[i];
    }
};

struct BF16 {
    static inline void piece(device const uchar * row, uint p, thread float * w)
    {
        device const ushort * x = (device const ushort *)row + 16 * p;
        for (ushort i = 0; i < 16; ++i) w[i] = as_type<float>((uint)x[i] << 16);
    }
};

// 32 weights in 34 bytes: d, then 32 quants.
struct Q8_0 {
    static inline void piece(device const uchar * row, uint p, thread float * w)
    {
        device const uchar * block = row + 34 * (p / 2);
        const float d = half_at(block);
        device const char * q = (device const char *)(block + 2 + 16 * (p % 2));
        for (ushort i = 0; i < 16; ++i) w[i] = d * (float)q[i];
    }
};

// 256 weights in 144 bytes: d, dmin, 12 bytes of 6-bit scales and minima, 128 bytes of 4-bit quants.
struct Q4_K {
    static inline void piece(device const uchar * row, uint p, thread float * w)
    {
        device const uchar * block = row + 144 * (p / 16);
        device const uchar * packed = block + 4;
        const ushort s = p % 16 / 2;   // sub-block of 32
        ushort scale, low;
        if (s < 4) {
            scale = packed[s] & 63;
            low = packed[s + 4] & 63;
        } else {
            scale = (packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4;
            low = (packed[s + 4] >> 4) | (packed[s] >> 6) << 4;
        }
        const float d = half_at(block) * (float)scale;
        const float m = half_at(block + 2) * (float)low;
        device const uchar * q = block + 16 + 32 * (s / 2) + 16 * (p % 2);
        const ushort shift = 4 * (s % 2);
        for (ushort i = 0; i < 16; ++i) w[i] = d * (float)(q[i] >> shift & 15) - m;
    }
};

// 256 weights in 84 bytes: 16 bytes of scale and minimum for 16 weights each, 64 bytes of 2-bit quants, d, dmin.
struct Q2_K {
    static inline void piece(device const uchar * row, uint p, thread float * w)
    {
        device const uchar * block = row + 84 * (p / 16);
        const ushort s = p % 16;   // sub-block of 16
        const uchar packed = block[s];
        const float d = half_at(block + 80) * (float)(packed & 15);
        const float m = half_at(block + 82) * (float)(packed >> 4);
        device const uchar * q = block + 16 + 32 * (s / 8) + 16 * (s % 2);
        const ushort shift = 2 * (s % 8 / 2);
        for (ushort i = 0; i < 16; ++i) w[i] = d * (float)(q[i] >> shift & 3) - m;
    }
};

// 256 weights in 66 bytes: d, then 8 groups of 32: four rows of the grid, then four times 7 signs and a 4-bit scale.
struct IQ2_XXS {
    static inline void piece(device const uchar * row, uint p, thread float * w)
    {
        device const uchar * block = row + 66 * (p / 16);
        device const uchar * group = block + 2 + 8 * (p % 16 / 2);
        const uint word = (uint)group[4] | (uint)group[5] << 8 | (uint)group[6] << 16 | (uint)group[7] << 24;
        const float d = half_at(block) * (float)(2 * (word >> 28) + 1) * 0.125f;
        for (ushort k = 0; k < 2; ++k) {
            const ushort point = 2 * (p % 2) + k;
            const ulong grid = IQ2_XXS_GRID[group[point]];
            const uint seven = word >> (7 * point) & 127;
            const uint signs = seven | (popcount(seven) & 1) << 7;   // the eighth makes their number even
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
