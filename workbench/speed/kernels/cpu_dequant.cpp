// name: dequant
// idea: Turn the codes into floats and multiply as ever: no instruction that a plain compiler would not find, and no
//       rounding of the activations; what a codebook stands for is looked up in a register.
// op: Y[M,N] = X[M,K] W[N,K]^T
// bits: 1, 2, 3, 4, 5, 6, 7, 8
// packing: steps
// tolerance: 2e-5
// gain: 2 to 3.8x at 8 bits, 2 to 4x at 4 bits, 2 to 4x at 3 bits, 2 to 4x at 2 bits over torch-fp32: fewer bytes (at 8 bits
//       they allow no more than 32 / 8.25), but the conversions are the limit and not memory
// reference: Dettmers et al. 2023, QLoRA (NF4 by table); Frantar et al. 2022, GPTQ (the 3-bit kernel at batch 1)
#include "cpu/steps.h"

// X in runs with filling: [M][runs][padded] floats
extern "C" void prepare(const Weight* w, const Inputs* in, const float* x, int M, int K) {
    for (int m = 0; m < M; ++m, x += K)
        for (int r = 0; r < w->runs; ++r) {
            float* run = (float*)in->data + ((int64_t)m * w->runs + r) * w->padded;
            const int size = w->starts[r + 1] - w->starts[r];
            std::copy_n(x + w->starts[r], size, run);
            std::fill_n(run + size, w->padded - size, 0.0f);
            float sum = 0;
            for (int k = 0; k < size; ++k) sum += run[k];
            in->sum[m * w->runs + r] = sum;
        }
}

// Four inputs, as often as a vector has room for them
static inline Lane repeated(const float* x) {
#if defined(__AVX512F__)
    return (Lane)_mm512_broadcast_f32x4(_mm_loadu_ps(x));
#elif defined(__AVX2__)
    return (Lane)_mm256_broadcast_ps((const __m128*)x);
#else
    return load<Lane>(x);
#endif
}

// 16 codes as what they stand for: themselves, or a table of 16 values that lies in one or two registers
template <bool TABLE> static inline Floats decoded(const uint8_t* codes, const float* values) {
    if constexpr (!TABLE) return from_bytes(codes);
#if defined(__AVX512F__)
    __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)codes));
    return {(Lane)_mm512_permutexvar_ps(index, _mm512_loadu_ps(values))};
#elif defined(__AVX2__)
    return Floats::of([&](int p) {
        __m256i index = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(codes + 8 * p)));
        __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(values), index);
        __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(values + 8), index);
        return (Lane)_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
    });
#else
    float found[16];
    for (int i = 0; i < 16; ++i) found[i] = values[codes[i]];
    return load<Floats>(found);
#endif
}

template <int B, bool TABLE> static void tiles(const Weight* w, const Inputs* in, float* y, int M, int from, int to) {
    const int64_t stride = (int64_t)w->runs * w->padded;
    for (int tile = from; tile < to; ++tile)
        batches<2>(M, [&](auto count, int first) {
            constexpr int MB = decltype(count)::value;
            const uint8_t* at = w->codes + (int64_t)tile * w->runs * (w->padded / 32) * block_bytes(B);
            Floats result[MB] = {};
            for (int r = 0; r < w->runs; ++r) {
                const float* x = (const float*)in->data + first * stride + (int64_t)r * w->padded;
                Floats sums[MB][4] = {};  // lane 4 i + j of the n-th: row 4 n + i, inputs j, j + 4, j + 8, ...
                for (int k = 0; k < w->padded; k += 32, at += block_bytes(B)) {
                    alignas(64) uint8_t codes[STEPS * 64];
                    unpack<B>(at, codes);
                    for (int t = 0; t < STEPS; ++t) {
                        Lane four[MB];
                        for (int m = 0; m < MB; ++m) four[m] = repeated(x + m * stride + k + 4 * t);
#pragma GCC unroll 4
                        for (int n = 0; n < 4; ++n) {
                            Floats value = decoded<TABLE>(codes + 64 * t + 16 * n, w->values);
                            for (int m = 0; m < MB; ++m)
                                sums[m][n] += Floats::of([&](int p) { return value.part[p] * four[m]; });
                        }
                    }
                }
                const int64_t index = ((int64_t)tile * w->runs + r) * 16;
                Floats scale = read16(w->scale, index, w->wide);
                Floats zero = w->zero ? read16(w->zero, index, w->wide) : Floats::all(w->even);
                for (int m = 0; m < MB; ++m) {
                    float lanes[64], total[16];
                    std::memcpy(lanes, sums[m], sizeof lanes);
                    for (int i = 0; i < 16; ++i)
                        total[i] = (lanes[4 * i] + lanes[4 * i + 1]) + (lanes[4 * i + 2] + lanes[4 * i + 3]);
                    const float sum = in->sum[(int64_t)(first + m) * w->runs + r];
                    result[m] += scale * (load<Floats>(total) - zero * sum);
                }
            }
            for (int m = 0; m < MB; ++m) put16(y + (int64_t)(first + m) * w->N, 16 * tile, w->N, result[m]);
        });
}

// Tiles [from, to) of 16 rows each. Returns 0, or 1 for a width that it does not know.
extern "C" int rows(const Weight* w, const Inputs* in, float* y, int M, int from, int to) {
    if (w->values) {
        switch (w->bits) {
            case 1: return tiles<1, true>(w, in, y, M, from, to), 0;
            case 2: return tiles<2, true>(w, in, y, M, from, to), 0;
            case 3: return tiles<3, true>(w, in, y, M, from, to), 0;
            case 4: return tiles<4, true>(w, in, y, M, from, to), 0;
        }
        return 1;
    }
    switch (w->bits) {
        case 1: return tiles<1, false>(w, in, y, M, from, to), 0;
        case 2: return tiles<2, false>(w, in, y, M, from, to), 0;
        case 3: return tiles<3, false>(w, in, y, M, from, to), 0;
        case 4: return tiles<4, false>(w, in, y, M, from, to), 0;
        case 5: return tiles<5, false>(w, in, y, M, from, to), 0;
        case 6: return tiles<6, false>(w, in, y, M, from, to), 0;
        case 7: return tiles<7, false>(w, in, y, M, from, to), 0;
        case 8: return tiles<8, false>(w, in, y, M, from, to), 0;
    }
    return 1;
}
