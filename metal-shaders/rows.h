// Rows of the KV cache as they are stored; src/backend/cpu/kv_rows.rs and src/quant/rounding.rs say the same.
#pragma once

// Form of the rows: 0 f32, 1 f16, 2 E4M3 in blocks of 64 with the rotary end as bf16, 3 Hadamard-rotated E2M1 in blocks
// of 32.
FUNCTION_CONSTANT(uint, ROW_FORM, 0);
#define ROW_F32 0
#define ROW_F16 1
#define ROW_FP8 2
#define ROW_FP4 3

// 2^exponent, for the exponents of normal numbers
static inline float power_of_two(int exponent)
{
    return as_type<float>((uint)(exponent + 127) << 23);
}

// The least e with 2^e >= a / b, from the bits; both are positive and normal.
static inline int ceil_log2_ratio(float a, float b)
{
    const uint x = as_type<uint>(a), y = as_type<uint>(b);
    const int mantissa = (x & 0x7fffff) > (y & 0x7fffff) ? 1 : 0;
    return (int)(x >> 23 & 255) - (int)(y >> 23 & 255) + mantissa;
}

// The E4M3 code nearest to x, ties to the even code; at most that of 448.
static inline uchar e4m3_code(float x)
{
    const uint bits = as_type<uint>(x), sign = bits >> 24 & 0x80, low = bits & 0x7fffffff;
    if (low > 0x7f800000) return (uchar)(sign | 0x7f);
    const float a = as_type<float>(low);
    if (a >= 448.0f) return (uchar)(sign | 0x7e);
    if (a < 0.015625f) {
        // multiples of 2^-9; the sum with 2^23 rounds to the nearest even one
        const float n = (a * 512.0f + 8388608.0f) - 8388608.0f;
        return (uchar)(sign | (uint)n);
    }
    const uint rounded = low + 0x7ffff + (low >> 20 & 1);
    return (uchar)(sign | ((rounded >> 20) - (120 << 3)));
}

static inline float e4m3_value(uchar code)
{
    const uint exponent = code >> 3 & 15, mantissa = code & 7;
    float v = (float)mantissa / 512.0f;
    if (exponent != 0) v = as_type<float>((exponent + 120) << 23 | mantissa << 20);
    if ((code & 127) == 127) v = NAN;
    return code >= 128 ? -v : v;
}

// The E2M1 code nearest to x, ties to the even code; at most that of 6, which NaN gives too.
static inline uchar e2m1_code(float x)
{
    const uint bits = as_type<uint>(x), low = bits & 0x7fffffff;
    const float a = as_type<float>(low);
    uint code = (a > 0.25f ? 1 : 0) + (a >= 0.75f ? 1 : 0) + (a > 1.25f ? 1 : 0) + (a >= 1.75f ? 1 : 0)
        + (a > 2.5f ? 1 : 0) + (a >= 3.5f ? 1 : 0) + (a > 5.0f ? 1 : 0);
    if (low > 0x7f800000) code = 7;
    return (uchar)((bits >> 28 & 8) | code);
}

static inline float e2m1_value(uchar code)
{
    const uint c = code & 7;
    // 0, 0.5, 1, 1.5, 2, 3, 4, 6
    float v = c < 4 ? 0.5f * (float)c : c == 4 ? 2.0f : c == 5 ? 3.0f : c == 6 ? 4.0f : 6.0f;
    return (code & 8) != 0 ? -v : v;
}

// The larger magnitude, passing over NaN.
static inline float larger(float m, float x)
{
    const float a = fabs(x);
    return a > m ? a : m;
}

static inline ushort bf16_bits(float x)
{
    const uint bits = as_type<uint>(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return (ushort)(bits >> 16 | 0x40);
    return (ushort)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Rounds 2^k values to E2M1 in blocks of 32 after their Hadamard transform, all in place: what the store keeps of them. The
// simdgroup of the lanes has the row to itself.
static inline void hadamard(threadgroup float * row, uint dim, ushort lane)
{
    for (uint width = 1; width < dim; width *= 2) {
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (uint i = lane; i < dim / 2; i += 32) {
            const uint low = i / width * 2 * width + i % width;
            const float a = row[low], b = row[low + width];
            row[low] = a + b;
            row[low + width] = a - b;
        }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    const float norm = 1.0f / sqrt((float)dim);
    for (uint i = lane; i < dim; i += 32) row[i] *= norm;
    simdgroup_barrier(mem_flags::mem_threadgroup);
}

// The exponent of the scale of a block of E2M1, whose values the lanes of a simdgroup hold.
static inline int fp4_exponent(float x)
{
    const float least = 6.0f * as_type<float>(0x00800000u);
    const float largest = simd_max(larger(0.0f, x));
    return ceil_log2_ratio(largest > least ? largest : least, 6.0f);
}

// Stores a row of values, which must be there, as one simdgroup. FP4 destroys them.
static inline void store_row(threadgroup float * row, device uchar * out, uint dim, uint n_rot, ushort lane)
{
    if (ROW_FORM == ROW_F32) {
        device float * to = (device float *)out;
        for (uint i = lane; i < dim; i += 32) to[i] = row[i];
    } else if (ROW_FORM == ROW_F16) {
        device half * to = (device half *)out;
        for (uint i = lane; i < dim; i += 32) to[i] = (half)row[i];
    } else if (ROW_FORM == ROW_FP8) {
        const uint n_blocks = (dim - n_rot) / 64;
        for (uint b = 0; b < n_blocks; ++b) {
            const float x = row[64 * b + lane], y = row[64 * b + 32 + lane];
            const float largest = simd_max(larger(larger(1e-4f, x), y));
            const int exponent = ceil_log2_ratio(largest, 448.0f);
            const float inverse = power_of_two(-exponent);
            device uchar * block = out + 65 * b;
            if (lane == 0) block[0] = (uchar)(exponent + 127);
            block[1 + lane] = e4m3_code(x * inverse);
            block[33 + lane] = e4m3_code(y * inverse);
        }
        for (uint i = lane; i < n_rot; i += 32) {
            const ushort bits = bf16_bits(row[dim - n_rot + i]);
            out[65 * n_blocks + 2 * i] = (uchar)(bits & 255);
            out[65 * n_blocks + 2 * i + 1] = (uchar)(bits >> 8);
        }
    } else {
        hadamard(row, dim, lane);
        for (uint b = 0; b < dim / 32; ++b) {
            const int exponent = fp4_exponent(row[32 * b + lane]);
            const float inverse = power_of_two(-exponent);
            device uchar * block = out + 17 * b;
            if (lane == 0) block[0] = (uchar)(exponent + 127);
            if (lane < 16) {
                const uchar low = e2m1_code(row[32 * b + lane] * inverse);
                const uchar high = e2m1_code(row[32 * b + 16 + lane] * inverse);
                block[1 + lane] = (uchar)(low | high << 4);
            }
        }
    }
}

static inline float bf16_at(device const uchar * at)
{
    return as_type<float>(((uint)at[0] | (uint)at[1] << 8) << 16);
}

// Values i to i + 3 of a stored row, i a multiple of 4, as is the row's length. Rows of the FP4 form stay Hadamard-rotated.
static inline float4 load_four(device const uchar * row, uint i, uint dim, uint n_rot)
{
    if (ROW_FORM == ROW_F32) return ((device const float4 *)row)[i / 4];
    if (ROW_FORM == ROW_F16) {
        const half4 v = ((device const half4 *)row)[i / 4];
        return float4((float)v.x, (float)v.y, (float)v.z, (float)v.w);
    }
    if (ROW_FORM == ROW_FP8) {
        const uint n_codes = dim - n_rot;
        if (i < n_codes) {
            device const uchar * block = row + 65 * (i / 64);
            device const uchar * code = block + 1 + i % 64;
            const float scale = power_of_two((int)block[0] - 127);
            return float4(e4m3_value(code[0]) * scale, e4m3_value(code[1]) * scale, e4m3_value(code[2]) * scale, e4m3_value(code[3]) * scale);
        }
        device const uchar * at = row + 65 * (n_codes / 64) + 2 * (i - n_codes);
        return float4(bf16_at(at), bf16_at(at + 2), bf16_at(at + 4), bf16_at(at + 6));
    }
    device const uchar * block = row + 17 * (i / 32);
    device const uchar * code = block + 1 + i % 16;
    const float scale = power_of_two((int)block[0] - 127);
    const ushort shift = 4 * (i % 32 / 16);
    return float4(e2m1_value((uchar)(code[0] >> shift)) * scale, e2m1_value((uchar)(code[1] >> shift)) * scale, e2m1_value((uchar)(code[2] >> shift)) * scale, e2m1_value((uchar)(code[3] >> shift)) * scale);
}
