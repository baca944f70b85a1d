// 16 floats on every machine: one, two or four vectors of the length that its registers have, by the vector extensions
// of GCC and clang. (Vectors longer than a register go through memory at every step, at a tenth of the speed.)
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr int PARTS = 16 / LANES;

typedef float Lane __attribute__((vector_size(4 * LANES)));
typedef int32_t Whole __attribute__((vector_size(4 * LANES)));

template <class T> static inline T load(const void* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
template <class T> static inline void store(void* to, T value) { std::memcpy(to, &value, sizeof value); }

struct Floats {
    Lane part[PARTS];

    static Floats all(float x) {
        Floats made;
        for (Lane& lane : made.part) lane = Lane{} + x;
        return made;
    }
    // fill(p) is the p-th vector
    template <class Fill> static inline Floats of(Fill&& fill) {
        Floats made;
        for (int p = 0; p < PARTS; ++p) made.part[p] = fill(p);
        return made;
    }
};
static inline Floats operator+(Floats a, Floats b) { return Floats::of([&](int p) { return a.part[p] + b.part[p]; }); }
static inline Floats operator-(Floats a, Floats b) { return Floats::of([&](int p) { return a.part[p] - b.part[p]; }); }
static inline Floats operator*(Floats a, Floats b) { return Floats::of([&](int p) { return a.part[p] * b.part[p]; }); }
static inline Floats operator*(Floats a, float b) { return Floats::of([&](int p) { return a.part[p] * b; }); }
static inline void operator+=(Floats& a, Floats b) { a = a + b; }

// 16 whole numbers
static inline Floats from_int(const int32_t* from) {
    return Floats::of([&](int p) { return __builtin_convertvector(load<Whole>(from + LANES * p), Lane); });
}

// 16 bytes without sign
static inline Floats from_bytes(const uint8_t* from) {
#if defined(__AVX512F__)
    return {(Lane)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)from)))};
#elif defined(__AVX2__)
    return Floats::of([&](int p) {
        return (Lane)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(from + 8 * p))));
    });
#else
    int32_t wide[16];
    for (int i = 0; i < 16; ++i) wide[i] = from[i];
    return from_int(wide);
#endif
}

// 16 numbers in half precision
static inline Floats from_half(const uint16_t* from) {
#if defined(__AVX512F__)
    return {(Lane)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from))};
#elif defined(__AVX2__)
    return Floats::of([&](int p) { return (Lane)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from + p)); });
#else
    // The exponent is shifted into place and its bias multiplied away. Infinity and NaN do not occur in scales.
    uint32_t rest[16], sign[16];
    for (int i = 0; i < 16; ++i) {
        rest[i] = (uint32_t)(from[i] & 0x7fff) << 13;
        sign[i] = (uint32_t)(from[i] & 0x8000) << 16;
    }
    return Floats::of([&](int p) {
        Lane size = load<Lane>(rest + LANES * p) * 0x1p112f;
        return (Lane)((Whole)size | load<Whole>(sign + LANES * p));
    });
#endif
}
