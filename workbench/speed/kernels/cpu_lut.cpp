// name: lut
// idea: No products at all: four activations have 16 signed sums, and four bits of a weight plane say which one it is. A
//       byte shuffle looks up 32 or 64 of them at once; cost is linear in bits.
// op: Y[M,N] = X[M,K] W[N,K]^T
// bits: 1, 2, 3, 4
// packing: planes
// tolerance: 2e-2
// gain: 5 to 7.5x at 4 bits, 5 to 9.5x at 3 bits, 5 to 14x at 2 bits, 5 to 20x at 1 bit over torch-fp32: fewer bytes, as
//       with dot; ahead of it at 1 bit, and where no instruction multiplies bytes in fours
// reference: Wei et al. 2024, T-MAC: CPU Renaissance via Table Lookup for Low-Bit LLM Deployment on Edge
#include "cpu/lowbit.h"

// A code is u = sum over planes p of 2^p u_p, and u_p = (1 + s_p) / 2 with a sign s_p. So over a run
//     sum u x = 1/2 sum_p 2^p sum_quads T[index_p] + (2^bits - 1) / 2 sum x
// where T[c] = sum_j (bit j of c ? +1 : -1) x_j. The last sum stays in float.
typedef float Floats8 __attribute__((vector_size(32)));
typedef int32_t Ints8 __attribute__((vector_size(32)));
typedef int8_t Octets8 __attribute__((vector_size(8)));

// Tables [M][runs][quads][16] as 8-bit integers; one scale per run
extern "C" void prepare(const Weight* w, const Inputs* in, const float* x, int M, int K) {
    const int quads = w->padded / 4;
    const Floats8 first = {-1, 1, -1, 1, -1, 1, -1, 1}, second = {-1, -1, 1, 1, -1, -1, 1, 1};
    const Floats8 third = {-1, -1, -1, -1, 1, 1, 1, 1};
    for (int m = 0; m < M; ++m, x += K)
        for (int r = 0; r < w->runs; ++r) {
            float a[132] = {}, most = 0, sum = 0;
            std::copy(x + w->starts[r], x + w->starts[r + 1], a);
            for (int q = 0; q < quads; ++q) {
                const float* b = a + 4 * q;
                most = std::max(most, (std::fabs(b[0]) + std::fabs(b[1])) + (std::fabs(b[2]) + std::fabs(b[3])));
                sum += (b[0] + b[1]) + (b[2] + b[3]);
            }
            const float inverse = most > 0 ? 127 / most : 0;
            int8_t* table = (int8_t*)in->data + ((int64_t)m * w->runs + r) * quads * 16;
            for (int q = 0; q < quads; ++q, table += 16) {
                // bit 3 is 0: the other half is the mirror image, T[15 - c] = -T[c]
                Floats8 half = (first * a[4 * q] + second * a[4 * q + 1] + third * a[4 * q + 2] - a[4 * q + 3]) * inverse;
                half += 0x1.8p23f;  // rounds to nearest even; the integer is then in the last bits
                Octets8 codes = __builtin_convertvector((Ints8)half, Octets8);
                store(table, codes);
                store(table + 8, -(Octets8)__builtin_bswap64((uint64_t)codes));
            }
            in->scale[m * w->runs + r] = most / 127;
            in->sum[m * w->runs + r] = sum;
        }
}

// pair: sums[m][row] of look-ups of the lower plane plus twice those of the upper; single: of one plane. `at` are the
// bytes of one run, `tables` those of the first of MB rows of X, `stride` bytes apart. The sums of a run fit 16 bits:
// 32 quads * 3 * 127 = 12192.
#if defined(__AVX512BW__)
constexpr int MOST = 8;
static inline __m512i look_up(const __m128i* table, __m512i index) {
    __m512i found = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table)), index);
    return _mm512_maddubs_epi16(_mm512_set1_epi16(0x0201), found);
}
template <int MB>
static inline void pair(const uint8_t* at, const int8_t* tables, int64_t stride, int quads, __m512i* total) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int m = 0; m < MB; ++m) total[m] = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int q = 0; q < quads; q += 2, at += 64, tables += 32) {
        fetch(at);
        __m512i both = _mm512_loadu_si512(at);
        __m512i even = _mm512_and_si512(both, low), odd = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        for (int m = 0; m < MB; ++m) {
            const __m128i* table = (const __m128i*)(tables + m * stride);
            total[m] = _mm512_add_epi16(total[m], _mm512_add_epi16(look_up(table, even), look_up(table + 1, odd)));
        }
    }
}
template <int MB>
static inline void pair(const uint8_t* at, const int8_t* tables, int64_t stride, int quads, int16_t (*sums)[32]) {
    __m512i total[MB];
    pair<MB>(at, tables, stride, quads, total);
    for (int m = 0; m < MB; ++m) _mm512_storeu_si512(sums[m], total[m]);
}
// Two pairs, without a way through memory. One after the other, as they lie: reading at two places at a time takes twice
// as long, because the prefetcher does not follow.
#define HAS_FOUR 1
template <int MB>
static inline void four(const uint8_t* at, const int8_t* tables, int64_t stride, int quads, int32_t (*sums)[32]) {
    __m512i lower[MB], upper[MB];
    pair<MB>(at, tables, stride, quads, lower);
    pair<MB>(at + 32 * quads, tables, stride, quads, upper);
    for (int m = 0; m < MB; ++m)
        for (int half = 0; half < 2; ++half) {
            auto wide = [&](__m512i x) {
                return _mm512_cvtepi16_epi32(half ? _mm512_extracti64x4_epi64(x, 1) : _mm512_castsi512_si256(x));
            };
            __m512i sum = _mm512_add_epi32(wide(lower[m]), _mm512_slli_epi32(wide(upper[m]), 2));
            _mm512_storeu_si512(sums[m] + 16 * half, sum);
        }
}
template <int MB>
static inline void single(const uint8_t* at, const int8_t* tables, int64_t stride, int quads, int16_t (*sums)[32]) {
    const __m512i low = _mm512_set1_epi8(15), ones = _mm512_set1_epi8(1);
    __m512i first[MB], second[MB];
    for (int m = 0; m < MB; ++m) first[m] = second[m] = _mm512_setzero_si512();
    for (int q = 0; q < quads; q += 4, at += 64, tables += 64) {
        fetch(at);
        __m512i both = _mm512_loadu_si512(at);
        __m512i even = _mm512_and_si512(both, low), odd = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        for (int m = 0; m < MB; ++m) {
            __m512i four = _mm512_loadu_si512(tables + m * stride);
            __m512i one = _mm512_shuffle_epi8(_mm512_shuffle_i32x4(four, four, 0xa0), even);  // tables 0 0 2 2
            __m512i two = _mm512_shuffle_epi8(_mm512_shuffle_i32x4(four, four, 0xf5), odd);   // tables 1 1 3 3
            first[m] = _mm512_add_epi16(first[m], _mm512_maddubs_epi16(ones, _mm512_unpacklo_epi8(one, two)));
            second[m] = _mm512_add_epi16(second[m], _mm512_maddubs_epi16(ones, _mm512_unpackhi_epi8(one, two)));
        }
    }
    for (int m = 0; m < MB; ++m)
        for (int half = 0; half < 2; ++half) {
            __m512i sum = half ? second[m] : first[m];
            __m256i folded = _mm256_add_epi16(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
            _mm256_storeu_si256((__m256i*)(sums[m] + 16 * half), folded);
        }
}

#elif defined(__AVX2__)
constexpr int MOST = 4;
static inline __m256i both_lanes(const int8_t* table) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table));
}
template <int MB>
static inline void pair(const uint8_t* at, const int8_t* tables, int64_t stride, int quads, int16_t (*sums)[32]) {
    const __m256i low = _mm256_set1_epi8(15), twice = _mm256_set1_epi16(0x0201);
    __m256i total[MB][2];
    for (int m = 0; m < MB; ++m) total[m][0] = total[m][1] = _mm256_setzero_si256();
    for (int q = 0; q < quads; q += 2, at += 64, tables += 32)
        for (int half = 0; half < 2; ++half) {
            if (half == 0) fetch(at);
            __m256i both = _mm256_loadu_si256((const __m256i*)(at + 32 * half));
            __m256i even = _mm256_and_si256(both, low), odd = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
            for (int m = 0; m < MB; ++m) {
                __m256i one = _mm256_shuffle_epi8(both_lanes(tables + m * stride), even);
                __m256i two = _mm256_shuffle_epi8(both_lanes(tables + m * stride + 16), odd);
                total[m][half] = _mm256_add_epi16(total[m][half], _mm256_maddubs_epi16(twice, one));
                total[m][half] = _mm256_add_epi16(total[m][half], _mm256_maddubs_epi16(twice, two));
            }
        }
    for (int m = 0; m < MB; ++m)
        for (int half = 0; half < 2; ++half) _mm256_storeu_si256((__m256i*)(sums[m] + 16 * half), total[m][half]);
}
template <int MB>
static inline void single(const uint8_t* at, const int8_t* tables, int64_t stride, int quads, int16_t (*sums)[32]) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi8(1);
    __m256i first[MB], second[MB];
    for (int m = 0; m < MB; ++m) first[m] = second[m] = _mm256_setzero_si256();
    for (int q = 0; q < quads; q += 2, at += 32, tables += 32) {
        if (q % 4 == 0) fetch(at);
        __m256i both = _mm256_loadu_si256((const __m256i*)at);
        __m256i even = _mm256_and_si256(both, low), odd = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
        for (int m = 0; m < MB; ++m) {
            __m256i one = _mm256_shuffle_epi8(both_lanes(tables + m * stride), even);
            __m256i two = _mm256_shuffle_epi8(both_lanes(tables + m * stride + 16), odd);
            first[m] = _mm256_add_epi16(first[m], _mm256_maddubs_epi16(ones, _mm256_unpacklo_epi8(one, two)));
            second[m] = _mm256_add_epi16(second[m], _mm256_maddubs_epi16(ones, _mm256_unpackhi_epi8(one, two)));
        }
    }
    for (int m = 0; m < MB; ++m) {
        _mm256_storeu_si256((__m256i*)sums[m], first[m]);
        _mm256_storeu_si256((__m256i*)(sums[m] + 16), second[m]);
    }
}

#else
constexpr int MOST = 1;
template <int MB>
static inline void pair(const uint8_t* at, const int8_t* table, int64_t, int quads, int16_t (*sums)[32]) {
    std::memset(sums, 0, sizeof *sums);
    for (int q = 0; q < quads; q += 2, at += 64, table += 32)
        for (int row = 0; row < 32; ++row) {
            const uint8_t lower = at[2 * row], upper = at[2 * row + 1];
            sums[0][row] += table[lower & 15] + table[16 + (lower >> 4)];
            sums[0][row] += 2 * (table[upper & 15] + table[16 + (upper >> 4)]);
        }
}
template <int MB>
static inline void single(const uint8_t* at, const int8_t* table, int64_t, int quads, int16_t (*sums)[32]) {
    std::memset(sums, 0, sizeof *sums);
    for (int q = 0; q < quads; q += 2, at += 32, table += 32)
        for (int b = 0; b < 32; ++b) {
            const int row = (b & 7) | (b & 8) << 1 | (b & 16) >> 1;  // 0-7, 16-23, 8-15, 24-31
            sums[0][row] += table[at[b] & 15] + table[16 + (at[b] >> 4)];
        }
}
#endif

// The sums of a run over all planes, each plane by its power of two
template <int B, int MB>
static inline void all(const uint8_t* at, const int8_t* tables, int64_t stride, int quads, int32_t (*total)[32]) {
#if HAS_FOUR
    if constexpr (B == 4) return four<MB>(at, tables, stride, quads, total);
#endif
    int16_t sums[MB][32];
    std::memset(total, 0, MB * sizeof *total);
    for (int plane = 0; plane < B; plane += 2) {
        if (plane + 1 < B)
            pair<MB>(at, tables, stride, quads, sums), at += 32 * quads;
        else
            single<MB>(at, tables, stride, quads, sums), at += 16 * quads;
        for (int m = 0; m < MB; ++m)
            for (int i = 0; i < 32; ++i) total[m][i] += sums[m][i] << plane;
    }
}
template <int B> static void tiles(const Weight* w, const Inputs* in, float* y, int M, int from, int to) {
    const int quads = w->padded / 4;
    const int64_t stride = (int64_t)w->runs * quads * 16;
    const float centre = ((1 << B) - 1) / 2.0f;
    for (int tile = from; tile < to; ++tile)
        batches<MOST>(M, [&](auto count, int first) {
            constexpr int MB = decltype(count)::value;
            const uint8_t* at = w->codes + (int64_t)tile * w->runs * w->padded * B * 4;
            Floats result[MB][2] = {};
            for (int r = 0; r < w->runs; ++r) {
                const int8_t* tables = (const int8_t*)in->data + first * stride + (int64_t)r * quads * 16;
                int32_t total[MB][32];
                all<B, MB>(at, tables, stride, quads, total), at += 16 * B * quads;
                for (int half = 0; half < 2; ++half) {
                    const int64_t index = (((int64_t)tile * w->runs + r) * 2 + half) * 16;
                    Floats scale = read16(w->scale, index, w->wide);
                    Floats less = (w->zero ? read16(w->zero, index, w->wide) : Floats::all(w->even)) - Floats::all(centre);
                    for (int m = 0; m < MB; ++m) {
                        const int64_t of = (int64_t)(first + m) * w->runs + r;
                        Floats sum = from_int(total[m] + 16 * half) * (0.5f * in->scale[of]);
                        result[m][half] += scale * (sum - less * in->sum[of]);
                    }
                }
            }
            for (int m = 0; m < MB; ++m)
                for (int half = 0; half < 2; ++half)
                    put16(y + (int64_t)(first + m) * w->N, 32 * tile + 16 * half, w->N, result[m][half]);
        });
}

// Tiles [from, to) of 32 rows each. Returns 0, or 1 for a width that it does not know.
extern "C" int rows(const Weight* w, const Inputs* in, float* y, int M, int from, int to) {
    switch (w->bits) {
        case 1: return tiles<1>(w, in, y, M, from, to), 0;
        case 2: return tiles<2>(w, in, y, M, from, to), 0;
        case 3: return tiles<3>(w, in, y, M, from, to), 0;
        case 4: return tiles<4>(w, in, y, M, from, to), 0;
    }
    return 1;
}
