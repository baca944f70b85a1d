// The language of CUDA C++ for a C++ compiler: keywords, vector types, barriers, shuffles, atomics, mathematics.
#pragma once
#include "bulk.h"
#include "fibers.h"
#include "floats.h"
#include "races.h"
#include "shared.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __managed__ static
#define __grid_constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __shared__ EMU_SHARED static
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __CUDA_ARCH__ 900

#define EMU_VECTORS(T, N, A2, A4)                                \
    struct alignas(A2) N##2 { T x, y; };                         \
    struct N##3 { T x, y, z; };                                  \
    struct alignas(A4) N##4 { T x, y, z, w; };                   \
    inline N##2 make_##N##2(T x, T y) { return {x, y}; }         \
    inline N##3 make_##N##3(T x, T y, T z) { return {x, y, z}; } \
    inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTORS(float, float, 8, 16)
EMU_VECTORS(int, int, 8, 16)
EMU_VECTORS(signed char, char, 2, 4)
EMU_VECTORS(unsigned char, uchar, 2, 4)
EMU_VECTORS(short, short, 4, 8)
EMU_VECTORS(unsigned short, ushort, 4, 8)
EMU_VECTORS(double, double, 16, 16)
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- barriers and warps ----------------------------------------------------------------------------------------

namespace emu {

static void barrier(unsigned id, unsigned wanted, bool stay, const char* what, int line) {
    Barrier& b = barriers[id];
    if (b.arrived && id == 0 && b.line != line) {
        self().line = line;
        violation("divergent barrier",
                  "came to __syncthreads in line %d, while %u threads of its block wait in that of line %d", line,
                  b.arrived, b.line);
    }
    b.line = line;
    const bool every = id == 0 && wanted == thread_count;
    if (!every) race_arrive(id);
    if (++b.arrived >= wanted) {
        b.arrived = 0;
        if (every) race_syncthreads();
        for (unsigned i = 0; i < thread_count; ++i)
            if (threads[i].state == WAITS_BLOCK && threads[i].barrier == id) {
                set_ready(i);
                if (!every) race_leave(i, id);
            }
        if (stay && !every) race_leave(current, id);
        self().line = line;
        if (stay) yield();  // who comes last has no right to go on first
        return;
    }
    if (!stay) return;
    self().barrier = id;
    wait(WAITS_BLOCK, what, line);
}

inline unsigned lane() { return current % 32; }
// The lanes of this warp that exist: a block need not be whole warps.
inline unsigned living(unsigned mask) {
    const unsigned first = current / 32 * 32, left = thread_count - first;
    return left >= 32 ? mask : mask & ((1u << left) - 1);
}

// The lanes of `mask` meet in one instruction; the last to come does it for all. Lanes of other masks may meet at the
// same time.
using Act = void (*)(void** arguments, unsigned mask);
static void together(unsigned mask, const char* what, int line, void* mine, Act act) {
    mask = living(mask);
    Meeting* m = nullptr;
    for (Meeting& one : meetings[current / 32])
        if (one.arrived[0] && one.wanted[0] == mask) m = &one;
    if (!m)
        for (Meeting& one : meetings[current / 32])
            if (!one.arrived[0]) m = &one;
    if (!m) violation("warp", "more than 4 groups of lanes of a warp are under way, in line %d", line);
    if (!m->arrived[0]) m->wanted[0] = mask, m->what = what, m->line = line;
    if (m->what != what)
        violation("warp", "came to %s in line %d, while lanes of its warp wait in %s of line %d", what, line, m->what,
                  m->line);
    m->arguments[lane()] = mine;
    m->arrived[0] |= 1u << lane();
    if (m->arrived[0] != mask) {
        wait(WAITS_WARP, what, line);
        return;
    }
    self().line = line;
    act(m->arguments, mask);
    m->arrived[0] = 0;
    for (unsigned i = 0; i < 32; ++i)
        if (mask >> i & 1 && i != lane()) set_ready(current / 32 * 32 + i);
}

struct Shuffle {
    uint64_t in, out;
    int from;  // lane that this one reads, or -1: its own
};
static void shuffle(void** arguments, unsigned mask) {
    for (unsigned i = 0; i < 32; ++i) {
        if (!(mask >> i & 1)) continue;
        auto* s = static_cast<Shuffle*>(arguments[i]);
        const bool there = s->from >= 0 && s->from < 32 && mask >> s->from & 1;
        s->out = there ? static_cast<Shuffle*>(arguments[s->from])->in : s->in;
    }
}
template <class T>
T shuffled(unsigned mask, T value, int from, const char* what, int line) {
    Shuffle s{0, 0, from};
    memcpy(&s.in, &value, sizeof value);
    together(mask, what, line, &s, shuffle);
    memcpy(&value, &s.out, sizeof value);
    return value;
}
struct Vote {
    unsigned mine, all;
};
static void vote(void** arguments, unsigned mask) {
    unsigned all = 0;
    for (unsigned i = 0; i < 32; ++i)
        if (mask >> i & 1) all |= (static_cast<Vote*>(arguments[i])->mine != 0) << i;
    for (unsigned i = 0; i < 32; ++i)
        if (mask >> i & 1) static_cast<Vote*>(arguments[i])->all = all;
}
static void only_memory(void**, unsigned mask) { race_syncwarp(mask); }

}  // namespace emu

inline void __syncthreads(int line = __builtin_LINE()) {
    if (!emu::without(line)) emu::barrier(0, emu::thread_count, true, "__syncthreads", line);
}
inline void bar_sync(unsigned id, unsigned count, int line = __builtin_LINE()) {
    if (!emu::without(line)) emu::barrier(id, count, true, "bar_sync", line);
}
inline void bar_arrive(unsigned id, unsigned count, int line = __builtin_LINE()) {
    if (!emu::without(line)) emu::barrier(id, count, false, "bar_arrive", line);
}
inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE()) {
    if (!emu::without(line)) emu::together(mask, "__syncwarp", line, nullptr, emu::only_memory);
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) { emu::yield(); }
inline unsigned __activemask() { return emu::living(~0u); }

template <class T>
T __shfl_sync(unsigned mask, T v, int source, int width = 32, int line = __builtin_LINE()) {
    return emu::shuffled(mask, v, int(emu::lane() / width * width) + source % width, "__shfl_sync", line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, int line = __builtin_LINE()) {
    const int from = emu::lane() ^ bits;
    return emu::shuffled(mask, v, from / width == int(emu::lane()) / width ? from : -1, "__shfl_xor_sync", line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, int by, int width = 32, int line = __builtin_LINE()) {
    const int from = emu::lane() + by;
    return emu::shuffled(mask, v, from / width == int(emu::lane()) / width ? from : -1, "__shfl_down_sync", line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, int by, int width = 32, int line = __builtin_LINE()) {
    const int from = int(emu::lane()) - by;
    return emu::shuffled(mask, v, from >= int(emu::lane()) / width * width ? from : -1, "__shfl_up_sync", line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    emu::Vote v{unsigned(predicate != 0), 0};
    emu::together(mask, "__ballot_sync", line, &v, emu::vote);
    return v.all;
}
inline int __any_sync(unsigned mask, int p, int line = __builtin_LINE()) { return __ballot_sync(mask, p, line) != 0; }
inline int __all_sync(unsigned mask, int p, int line = __builtin_LINE()) {
    return __ballot_sync(mask, p, line) == emu::living(mask);
}
template <class T>
T __reduce_add_sync(unsigned mask, T v, int line = __builtin_LINE()) {
    struct Sum {
        T mine, all;
    } s{v, 0};
    emu::together(mask, "__reduce_add_sync", line, &s, [](void** a, unsigned m) {
        T all = 0;
        for (unsigned i = 0; i < 32; ++i)
            if (m >> i & 1) all += static_cast<Sum*>(a[i])->mine;
        for (unsigned i = 0; i < 32; ++i)
            if (m >> i & 1) static_cast<Sum*>(a[i])->all = all;
    });
    return s.all;
}

// ---- atomics: fibers do not interrupt one another --------------------------------------------------------------

namespace emu {
struct Atomic {  // while it is there, one is under way
    const Unseen unseen;
    Atomic(const void* at, size_t bytes, int line) { race_atomic(at, bytes, line); }
};
}  // namespace emu

template <class T>
T atomicAdd(T* p, T v, int line = __builtin_LINE()) {
    const emu::Atomic now(p, sizeof *p, line);
    const T old = *p;
    *p = T(old + v);
    return old;
}
template <class T>
T atomicSub(T* p, T v, int line = __builtin_LINE()) {
    const emu::Atomic now(p, sizeof *p, line);
    const T old = *p;
    *p = T(old - v);
    return old;
}
template <class T>
T atomicMax(T* p, T v, int line = __builtin_LINE()) {
    const emu::Atomic now(p, sizeof *p, line);
    const T old = *p;
    *p = old < v ? v : old;
    return old;
}
template <class T>
T atomicMin(T* p, T v, int line = __builtin_LINE()) {
    const emu::Atomic now(p, sizeof *p, line);
    const T old = *p;
    *p = v < old ? v : old;
    return old;
}
template <class T>
T atomicExch(T* p, T v, int line = __builtin_LINE()) {
    const emu::Atomic now(p, sizeof *p, line);
    const T old = *p;
    *p = v;
    return old;
}
template <class T>
T atomicCAS(T* p, T compare, T v, int line = __builtin_LINE()) {
    const emu::Atomic now(p, sizeof *p, line);
    const T old = *p;
    if (old == compare) *p = v;
    return old;
}
template <class T>
T atomicOr(T* p, T v, int line = __builtin_LINE()) {
    const emu::Atomic now(p, sizeof *p, line);
    const T old = *p;
    *p = old | v;
    return old;
}
template <class T>
T atomicAnd(T* p, T v, int line = __builtin_LINE()) {
    const emu::Atomic now(p, sizeof *p, line);
    const T old = *p;
    *p = old & v;
    return old;
}
inline __half2 atomicAdd(__half2* p, __half2 v, int line = __builtin_LINE()) {
    const emu::Atomic now(p, sizeof *p, line);
    const __half2 old = *p;
    *p = __hadd2(old, v);
    return old;
}

// ---- mathematics and bits --------------------------------------------------------------------------------------

template <class T>
T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
    return a < b ? b : a;
}
inline unsigned min(unsigned a, int b) { return min(a, unsigned(b)); }
inline unsigned min(int a, unsigned b) { return min(unsigned(a), b); }
inline unsigned max(unsigned a, int b) { return max(a, unsigned(b)); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline int __float2int_rn(float x) { return int(lrintf(x)); }
inline float __int2float_rn(int x) { return float(x); }
inline float __int_as_float(int x) { return emu::from_bits(x); }
inline int __float_as_int(float x) { return emu::to_bits(x); }
inline float __uint_as_float(unsigned x) { return emu::from_bits(x); }
inline unsigned __float_as_uint(float x) { return emu::to_bits(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; ++i) y |= (x >> i & 1) << (31 - i);
    return y;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const uint64_t both = uint64_t(b) << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned s = selector >> 4 * i & 15, byte = both >> 8 * (s & 7) & 0xFF;
        r |= (s & 8 ? (byte & 0x80 ? 0xFFu : 0u) : byte) << 8 * i;
    }
    return r;
}
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned by) {
    return (uint64_t(hi) << 32 | lo) << (by & 31) >> 32;
}
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned by) {
    return unsigned((uint64_t(hi) << 32 | lo) >> (by & 31));
}
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; ++i) c += int(int8_t(a >> 8 * i)) * int(int8_t(b >> 8 * i));
    return c;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return uint64_t(a) * b >> 32; }
inline int __mul24(int a, int b) { return a * b; }
template <class T>
T __ldg(const T* p) {
    return *p;
}
template <class T>
T __ldcs(const T* p) {
    return *p;
}
template <class T>
T __ldca(const T* p) {
    return *p;
}
template <class T>
T __ldcg(const T* p) {
    return *p;
}
template <class T>
void __stcs(T* p, T v) {
    *p = v;
}
template <class T>
void __stcg(T* p, T v) {
    *p = v;
}

// ---- shared memory as the machine addresses it -----------------------------------------------------------------

namespace emu {
template <class T>
T* dynamic(const char* name) {
    dynamic_name = name, dynamic_element = sizeof(T);
    return reinterpret_cast<T*>(dynamic_shared);
}
inline unsigned shared_address(const void* p) {
    const auto* at = static_cast<const unsigned char*>(p);
    if (at < workbench_shared_start || at >= workbench_shared_end)
        violation("address space", "used an address as one of shared memory that is none");
    return unsigned(at - dynamic_shared);
}
}  // namespace emu
inline size_t __cvta_generic_to_shared(const void* p) { return emu::shared_address(p); }
