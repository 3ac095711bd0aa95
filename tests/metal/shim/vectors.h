// Scalars and vectors. Compilers' own vector types will not do: there float4(1, 2, 3, 4) means another thing, and
// int4(float4) keeps the bits.
#pragma once
#pragma GCC system_header

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef _Float16 half;

namespace metal {

template <class T, int N> struct vec;

// Some elements of a vector of N, as one face of its union.
template <class T, int N, int... I> struct Swizzle {
    T all[N];
    typedef vec<T, sizeof...(I)> Value;
    operator Value() const { return Value(all[I]...); }
    Swizzle& operator=(const Value& value)
    {
        const int to[] = {I...};
        for (unsigned i = 0; i < sizeof...(I); i++) all[to[i]] = value[i];
        return *this;
    }
    Swizzle& operator=(const Swizzle& other) { return *this = Value(other); }
};

#define EACH(expression) \
    for (int i = 0; i < N; i++) { expression; } \
    return result
#define BINARY(sign) \
    friend V operator sign(const V& a, const V& b) { V result; EACH(result[i] = T(a[i] sign b[i])); } \
    friend V& operator sign##=(V& a, const V& b) { return a = a sign b; }
#define COMPARISON(sign) \
    friend vec<bool, N> operator sign(const V& a, const V& b) { vec<bool, N> result; EACH(result[i] = a[i] sign b[i]); }

// Element by element; a scalar stands for a vector of it.
template <class T, int N, class V> struct Elementwise {
    BINARY(+) BINARY(-) BINARY(*) BINARY(/) BINARY(%) BINARY(&) BINARY(|) BINARY(^) BINARY(<<) BINARY(>>)
    COMPARISON(==) COMPARISON(!=) COMPARISON(<) COMPARISON(<=) COMPARISON(>) COMPARISON(>=)
    friend V operator-(const V& a) { V result; EACH(result[i] = T(-a[i])); }
    friend V operator~(const V& a) { V result; EACH(result[i] = T(~a[i])); }
    friend vec<bool, N> operator!(const V& a) { vec<bool, N> result; EACH(result[i] = !a[i]); }
};

#undef COMPARISON
#undef BINARY
#undef EACH

// The union's faces forbid the implicit copies.
#define VECTOR_COMMON(N) \
    vec() = default; \
    vec(T v) { for (int i = 0; i < N; i++) all[i] = v; } \
    vec(const vec& v) { for (int i = 0; i < N; i++) all[i] = v.all[i]; } \
    template <class U> explicit vec(const vec<U, N>& v) { for (int i = 0; i < N; i++) all[i] = T(v.all[i]); } \
    vec& operator=(const vec& v) { for (int i = 0; i < N; i++) all[i] = v.all[i]; return *this; } \
    T& operator[](int i) { return all[i]; } \
    const T& operator[](int i) const { return all[i]; }

template <class T> struct alignas(2 * sizeof(T)) vec<T, 2> : Elementwise<T, 2, vec<T, 2>> {
    union {
        T all[2];
        struct { T x, y; };
        Swizzle<T, 2, 0, 1> xy;
        Swizzle<T, 2, 1, 0> yx;
    };
    VECTOR_COMMON(2)
    vec(T a, T b) : x(a), y(b) {}
};

template <class T> struct alignas(4 * sizeof(T)) vec<T, 3> : Elementwise<T, 3, vec<T, 3>> {
    union {
        T all[3];
        struct { T x, y, z; };
        Swizzle<T, 3, 0, 1> xy;
        Swizzle<T, 3, 1, 2> yz;
    };
    VECTOR_COMMON(3)
    vec(T a, T b, T c) : x(a), y(b), z(c) {}
    vec(vec<T, 2> ab, T c) : x(ab.x), y(ab.y), z(c) {}
};

template <class T> struct alignas(4 * sizeof(T)) vec<T, 4> : Elementwise<T, 4, vec<T, 4>> {
    union {
        T all[4];
        struct { T x, y, z, w; };
        Swizzle<T, 4, 0, 1> xy;
        Swizzle<T, 4, 2, 3> zw;
        Swizzle<T, 4, 0, 2> xz;
        Swizzle<T, 4, 1, 3> yw;
        Swizzle<T, 4, 0, 1, 2> xyz;
    };
    VECTOR_COMMON(4)
    vec(T a, T b, T c, T d) : x(a), y(b), z(c), w(d) {}
    vec(vec<T, 2> ab, vec<T, 2> cd) : x(ab.x), y(ab.y), z(cd.x), w(cd.y) {}
    vec(vec<T, 2> ab, T c, T d) : x(ab.x), y(ab.y), z(c), w(d) {}
    vec(vec<T, 3> abc, T d) : x(abc.x), y(abc.y), z(abc.z), w(d) {}
};

#undef VECTOR_COMMON

#define VECTORS(T) \
    typedef vec<T, 2> T##2; \
    typedef vec<T, 3> T##3; \
    typedef vec<T, 4> T##4;
VECTORS(bool) VECTORS(char) VECTORS(uchar) VECTORS(short) VECTORS(ushort) VECTORS(int) VECTORS(uint) VECTORS(long)
VECTORS(ulong) VECTORS(half) VECTORS(float)
#undef VECTORS

// The same bits.
template <class To, class From> inline To as_type(const From& from)
{
    static_assert(sizeof(To) == sizeof(From), "as_type between sizes");
    To to;
    __builtin_memcpy((void*)&to, (const void*)&from, sizeof to);
    return to;
}

}  // namespace metal
