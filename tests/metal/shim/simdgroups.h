// Operations between threads. Those of a simdgroup want all 32 lanes, and barriers all threads, at one place in the source:
// stricter than Metal, where the active lanes may do some of them among themselves.
#pragma once
#pragma GCC system_header

// What the lanes hand to each other is no memory of theirs: ThreadSanitizer must not look at it.
#ifdef THREAD_SANITIZER
#define EXCHANGE __attribute__((noinline, no_sanitize("thread")))
#else
#define EXCHANGE inline
#endif
#define SITE fibres::Site site = fibres::Site::here()

namespace metal {

// Where this lane's value of the operation to come has its place; the others stand beside it.
template <class T> EXCHANGE T* exchange_slots()
{
    static_assert(sizeof(T) <= 16, "too wide for an exchange between lanes");
    fibres::Exchange& exchange = *fibres::current->exchange;
    return (T*)exchange.slots[exchange.generation % 2];
}

// One value of all lanes' values, in a fixed order that is nobody's in particular.
template <class T, class F> EXCHANGE T reduce(T value, F combine, fibres::Site site)
{
    T* slots = exchange_slots<T>();
    slots[fibres::current->lane] = value;
    if (fibres::arrive(site, false)) {
        for (unsigned width = fibres::LANES / 2; width > 0; width /= 2) {
            for (unsigned i = 0; i < width; i++) slots[i] = combine(slots[i], slots[i + width]);
        }
    }
    return slots[0];
}

// The value of lane `from`; where there is none, one that nobody can use.
template <class T> EXCHANGE T gather(T value, uint from, fibres::Site site)
{
    T* slots = exchange_slots<T>();
    slots[fibres::current->lane] = value;
    fibres::arrive(site, false);
    if (from < fibres::LANES) return slots[from];
    __builtin_memset((void*)&value, 0xFF, sizeof value);
    return value;
}

// The sum of the values of the first `n` lanes.
template <class T> EXCHANGE T sum_of_first(T value, uint n, fibres::Site site)
{
    T* slots = exchange_slots<T>();
    slots[fibres::current->lane] = value;
    fibres::arrive(site, false);
    T sum = T(0);
    for (uint i = 0; i < n; i++) sum = T(sum + slots[i]);
    return sum;
}

template <class T> struct Sum { T operator()(T a, T b) const { return T(a + b); } };
template <class T> struct Most { T operator()(T a, T b) const { return max(a, b); } };
template <class T> struct Least { T operator()(T a, T b) const { return min(a, b); } };

template <class T> inline T simd_sum(T value, SITE) { return reduce(value, Sum<T>(), site); }
template <class T> inline T simd_max(T value, SITE) { return reduce(value, Most<T>(), site); }
template <class T> inline T simd_min(T value, SITE) { return reduce(value, Least<T>(), site); }
inline bool simd_any(bool value, SITE) { return reduce<int>(value, Most<int>(), site) != 0; }
inline bool simd_all(bool value, SITE) { return reduce<int>(value, Least<int>(), site) != 0; }
template <class T> inline T simd_prefix_inclusive_sum(T value, SITE) { return sum_of_first(value, fibres::current->lane + 1, site); }
template <class T> inline T simd_prefix_exclusive_sum(T value, SITE) { return sum_of_first(value, fibres::current->lane, site); }
template <class T> inline T simd_shuffle(T value, ushort lane, SITE) { return gather(value, lane, site); }
template <class T> inline T simd_shuffle_xor(T value, ushort mask, SITE) { return gather(value, fibres::current->lane ^ mask, site); }
template <class T> inline T simd_broadcast(T value, ushort lane, SITE) { return gather(value, lane, site); }
template <class T> inline T simd_broadcast_first(T value, SITE) { return gather(value, 0, site); }
// Lanes that would reach past the simdgroup keep their own value.
template <class T> inline T simd_shuffle_down(T value, ushort delta, SITE)
{
    const uint lane = fibres::current->lane;
    return gather(value, lane + delta < fibres::LANES ? lane + delta : lane, site);
}
template <class T> inline T simd_shuffle_up(T value, ushort delta, SITE)
{
    const uint lane = fibres::current->lane;
    return gather(value, delta <= lane ? lane - delta : lane, site);
}

// Barriers

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }

inline void threadgroup_barrier(mem_flags, SITE) { fibres::wait_for_group(site); }
inline void simdgroup_barrier(mem_flags flags, SITE) { fibres::arrive(site, flags != mem_flags::mem_none); }

// Matrices of 8 by 8: two elements a lane. Which ones is not Apple's layout, so that nothing can build on it.

template <class T, int R, int C> struct simdgroup_matrix {
    static_assert(R == 8 && C == 8, "8 by 8 is what there is");
    T held[2];
    simdgroup_matrix() : held{T(NAN), T(NAN)} {}
    explicit simdgroup_matrix(T value) : held{value, value} {}
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;

// Row and first column of what this lane holds.
inline uint held_row() { return fibres::current->lane / 4; }
inline uint held_column() { return fibres::current->lane % 4 * 2; }

// Elements of a row are neighbours in memory; of a column, when transposed.
inline ulong element_at(uint k, ulong stride, vec<ulong, 2> origin, bool transposed)
{
    const ulong row = held_row(), column = held_column() + k;
    return transposed ? (origin.y + column) * stride + origin.x + row : (origin.y + row) * stride + origin.x + column;
}

template <class T, int R, int C> inline simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T value)
{
    return simdgroup_matrix<T, R, C>(value);
}
template <class T> inline void simdgroup_load(simdgroup_matrix<T, 8, 8>& to, const T* from, ulong stride = 8, vec<ulong, 2> origin = 0, bool transposed = false)
{
    for (uint k = 0; k < 2; k++) to.held[k] = from[element_at(k, stride, origin, transposed)];
}
template <class T> inline void simdgroup_store(const simdgroup_matrix<T, 8, 8>& from, T* to, ulong stride = 8, vec<ulong, 2> origin = 0, bool transposed = false, SITE)
{
    fibres::arrive(site, false);
    for (uint k = 0; k < 2; k++) to[element_at(k, stride, origin, transposed)] = from.held[k];
}
// d = a b + c; the last lane to arrive does it for all.
template <class D, class A, class B, class C>
EXCHANGE void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a, const simdgroup_matrix<B, 8, 8>& b, const simdgroup_matrix<C, 8, 8>& c, SITE)
{
    fibres::Exchange& exchange = *fibres::current->exchange;
    const uint bank = exchange.generation % 2, at = held_row() * 8 + held_column();
    float* left = (float*)exchange.slots[bank];
    float* right = left + 64;
    float* product = (float*)exchange.results[bank];
    for (uint k = 0; k < 2; k++) {
        left[at + k] = float(a.held[k]);
        right[at + k] = float(b.held[k]);
    }
    if (fibres::arrive(site, false)) {
        for (uint row = 0; row < 8; row++) {
            float sums[8] = {};
            for (uint k = 0; k < 8; k++) {
                for (uint column = 0; column < 8; column++) sums[column] += left[row * 8 + k] * right[k * 8 + column];
            }
            for (uint column = 0; column < 8; column++) product[row * 8 + column] = sums[column];
        }
    }
    for (uint k = 0; k < 2; k++) d.held[k] = D(float(c.held[k]) + product[at + k]);
}
template <class D, class A, class B>
inline void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a, const simdgroup_matrix<B, 8, 8>& b, SITE)
{
    simdgroup_multiply_accumulate(d, a, b, simdgroup_matrix<D, 8, 8>(D(0)), site);
}

// Atomics

template <class T> struct atomic { T value; };
typedef atomic<uint> atomic_uint;
typedef atomic<int> atomic_int;
enum memory_order { memory_order_relaxed };

#define FETCH(name, builtin) \
    template <class T> inline T atomic_fetch_##name##_explicit(atomic<T>* a, T value, memory_order) \
    { \
        return builtin(&a->value, value, __ATOMIC_RELAXED); \
    }
FETCH(add, __atomic_fetch_add)
FETCH(sub, __atomic_fetch_sub)
FETCH(and, __atomic_fetch_and)
FETCH(or, __atomic_fetch_or)
#undef FETCH
template <class T> inline T atomic_load_explicit(const atomic<T>* a, memory_order) { return __atomic_load_n(&a->value, __ATOMIC_RELAXED); }
template <class T> inline void atomic_store_explicit(atomic<T>* a, T value, memory_order) { __atomic_store_n(&a->value, value, __ATOMIC_RELAXED); }
template <class T> inline T atomic_exchange_explicit(atomic<T>* a, T value, memory_order) { return __atomic_exchange_n(&a->value, value, __ATOMIC_RELAXED); }
template <class T, class F> inline T fetch_and_combine(atomic<T>* a, T value, F combine)
{
    T old = __atomic_load_n(&a->value, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&a->value, &old, combine(old, value), true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}
template <class T> inline T atomic_fetch_max_explicit(atomic<T>* a, T value, memory_order) { return fetch_and_combine(a, value, Most<T>()); }
template <class T> inline T atomic_fetch_min_explicit(atomic<T>* a, T value, memory_order) { return fetch_and_combine(a, value, Least<T>()); }

}  // namespace metal

#undef SITE
