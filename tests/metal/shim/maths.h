// Functions of numbers.
#pragma once
#pragma GCC system_header

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define FLT_MAX __FLT_MAX__
#define FLT_MIN __FLT_MIN__
#define FLT_EPSILON __FLT_EPSILON__
#define M_PI_F 3.14159265358979323846f

namespace metal {

// Of floats and their vectors. Metal has more overloads, between which integers and halves would be ambiguous or lose bits.
#define OF_FLOATS(name, value) \
    inline float name(float x) { return value; } \
    template <int N> inline vec<float, N> name(vec<float, N> v) \
    { \
        for (int i = 0; i < N; i++) v[i] = name(v[i]); \
        return v; \
    } \
    template <class T> void name(T) = delete;
OF_FLOATS(exp, __builtin_expf(x))
OF_FLOATS(exp2, __builtin_exp2f(x))
OF_FLOATS(log, __builtin_logf(x))
OF_FLOATS(log2, __builtin_log2f(x))
OF_FLOATS(sqrt, __builtin_sqrtf(x))
OF_FLOATS(rsqrt, 1.0f / __builtin_sqrtf(x))
OF_FLOATS(tanh, __builtin_tanhf(x))
OF_FLOATS(fabs, __builtin_fabsf(x))
OF_FLOATS(floor, __builtin_floorf(x))
OF_FLOATS(ceil, __builtin_ceilf(x))
OF_FLOATS(rint, __builtin_rintf(x))
OF_FLOATS(trunc, __builtin_truncf(x))
OF_FLOATS(sign, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x == 0.0f ? x : 0.0f)
#undef OF_FLOATS

inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline float pow(float x, float y) { return __builtin_powf(x, y); }
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float ldexp(float x, int exponent) { return __builtin_ldexpf(x, exponent); }

// Arguments of one type, as Metal's overloads demand. A NaN gives way to a number.
template <class T> inline T min(T a, T b) { return b < a ? b : a; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }
template <> inline float min<float>(float a, float b) { return __builtin_fminf(a, b); }
template <> inline float max<float>(float a, float b) { return __builtin_fmaxf(a, b); }
template <class T, int N> inline vec<T, N> min(vec<T, N> a, vec<T, N> b)
{
    for (int i = 0; i < N; i++) a[i] = min(a[i], b[i]);
    return a;
}
template <class T, int N> inline vec<T, N> max(vec<T, N> a, vec<T, N> b)
{
    for (int i = 0; i < N; i++) a[i] = max(a[i], b[i]);
    return a;
}
template <class T> inline T clamp(T x, T low, T high) { return min(max(x, low), high); }
template <class T> inline T abs(T x) { return x < T(0) ? T(-x) : x; }
template <class T> inline T select(T no, T yes, bool chosen) { return chosen ? yes : no; }
template <class T, int N> inline vec<T, N> select(vec<T, N> no, vec<T, N> yes, vec<bool, N> chosen)
{
    for (int i = 0; i < N; i++) no[i] = chosen[i] ? yes[i] : no[i];
    return no;
}
template <class T, int N> inline T dot(vec<T, N> a, vec<T, N> b)
{
    T sum = a[0] * b[0];
    for (int i = 1; i < N; i++) sum += a[i] * b[i];
    return sum;
}
template <int N> inline bool any(vec<bool, N> v)
{
    bool result = false;
    for (int i = 0; i < N; i++) result |= v[i];
    return result;
}
template <int N> inline bool all(vec<bool, N> v) { return !any(!v); }

inline uint popcount(uint x) { return __builtin_popcount(x); }
inline ulong popcount(ulong x) { return __builtin_popcountl(x); }
inline uint clz(uint x) { return x ? __builtin_clz(x) : 32; }
inline uint ctz(uint x) { return x ? __builtin_ctz(x) : 32; }

}  // namespace metal
