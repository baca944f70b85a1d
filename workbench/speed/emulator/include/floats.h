// fp16 and bf16 as CUDA's headers name them, rounded to nearest, ties to even.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace emu {
inline uint32_t to_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
inline float from_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

inline float half_to_float(uint16_t h) {
    // The exponent moves from bias 15 to bias 127 by a product that is exact for normal and subnormal numbers.
    const float x = from_bits((uint32_t(h) & 0x7FFF) << 13) * 0x1p112f;
    return from_bits(to_bits((h & 0x7C00) == 0x7C00 ? from_bits((uint32_t(h) & 0x7FFF) << 13 | 0x7F800000) : x) |
                     (uint32_t(h) & 0x8000) << 16);
}
inline uint16_t float_to_half(float value) {
    const uint32_t u = to_bits(value), sign = u >> 16 & 0x8000, size = u & 0x7FFFFFFF;
    if (size > 0x7F800000) return sign | 0x7E00;
    if (size >= 0x477FF000) return sign | 0x7C00;  // from 65520 on: infinity
    if (size < 0x38800000) {                       // subnormal in fp16: let the float adder round
        const float rounded = from_bits(size) + 0.5f;
        return sign | (to_bits(rounded) - to_bits(0.5f));
    }
    return sign | ((size - 0x38000000 + 0xFFF + (size >> 13 & 1)) >> 13);
}
inline float bf16_to_float(uint16_t b) { return from_bits(uint32_t(b) << 16); }
inline uint16_t float_to_bf16(float value) {
    const uint32_t u = to_bits(value);
    if ((u & 0x7FFFFFFF) > 0x7F800000) return 0x7FFF;
    return (u + 0x7FFF + (u >> 16 & 1)) >> 16;
}
}  // namespace emu

// Arithmetic in float, rounded once, as the hardware's fma and add do.
#define EMU_FLOAT16(T, T2, LOAD, STORE)                                                                    \
    struct T {                                                                                             \
        uint16_t bits;                                                                                     \
        T() = default;                                                                                     \
        T(float x) : bits(emu::STORE(x)) {}                                                                \
        T(double x) : T(float(x)) {}                                                                       \
        T(int x) : T(float(x)) {}                                                                          \
        operator float() const { return emu::LOAD(bits); }                                                 \
    };                                                                                                     \
    struct alignas(4) T2 {                                                                                 \
        T x, y;                                                                                            \
    };                                                                                                     \
    inline T2 __hfma2(T2 a, T2 b, T2 c) {                                                                  \
        return {T(fmaf(float(a.x), float(b.x), float(c.x))), T(fmaf(float(a.y), float(b.y), float(c.y)))}; \
    }                                                                                                      \
    inline T2 __hmul2(T2 a, T2 b) { return {T(float(a.x) * float(b.x)), T(float(a.y) * float(b.y))}; }     \
    inline T2 __hadd2(T2 a, T2 b) { return {T(float(a.x) + float(b.x)), T(float(a.y) + float(b.y))}; }     \
    inline T2 __hsub2(T2 a, T2 b) { return {T(float(a.x) - float(b.x)), T(float(a.y) - float(b.y))}; }     \
    inline T __hfma(T a, T b, T c) { return T(fmaf(float(a), float(b), float(c))); }                       \
    inline T __hmul(T a, T b) { return T(float(a) * float(b)); }                                           \
    inline T __hadd(T a, T b) { return T(float(a) + float(b)); }                                           \
    inline T __hsub(T a, T b) { return T(float(a) - float(b)); }                                           \
    inline T __low2##T(T2 a) { return a.x; }

EMU_FLOAT16(__half, __half2, half_to_float, float_to_half)
EMU_FLOAT16(__nv_bfloat16, __nv_bfloat162, bf16_to_float, float_to_bf16)
using half = __half;
using half2 = __half2;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return x; }
inline __half __float2half_rn(float x) { return x; }
inline __half __int2half_rn(int x) { return float(x); }
inline __half __ushort2half_rn(unsigned short x) { return float(x); }
inline __half2 __half2half2(__half x) { return {x, x}; }
inline __half2 __float2half2_rn(float x) { return {x, x}; }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline __half __low2half(__half2 v) { return v.x; }
inline __half __high2half(__half2 v) { return v.y; }
inline float __low2float(__half2 v) { return v.x; }
inline float __high2float(__half2 v) { return v.y; }
inline __half __ushort_as_half(unsigned short u) {
    __half h;
    h.bits = u;
    return h;
}
inline unsigned short __half_as_ushort(__half h) { return h.bits; }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) { return {x, x}; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short u) {
    __nv_bfloat16 h;
    h.bits = u;
    return h;
}
