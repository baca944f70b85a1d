// name: dot
// idea: Unpack the codes to bytes and multiply them with 8-bit activations, four products and their sum in one
//       instruction (vpdpbusd); the scales of weights and activations come in once per 128 inputs.
// op: Y[M,N] = X[M,K] W[N,K]^T
// bits: 1, 2, 3, 4, 5, 6, 7, 8
// packing: steps
// tolerance: 2e-2
// gain: 2.5 to 3.8x at 8 bits, 5 to 7.5x at 4 bits, 5 to 9.5x at 3 bits, 5 to 14x at 2 bits, 5 to 20x at 1 bit over
//       torch-fp32: a row of X reads the weights once, and with a scale and a zero of 2 bytes for 128 of them they are
//       32 / (bits + 1/4) times fewer bytes, which bounds it; at 1 bit other work does
// reference: Gerganov et al., llama.cpp (integer dot products on block-quantized activations);
//            Intel 64 and IA-32 Architectures Software Developer's Manual, VPDPBUSD
#include "cpu/steps.h"

// X as 8-bit integers, symmetric: [M][runs][padded]
extern "C" void prepare(const Weight* w, const Inputs* in, const float* x, int M, int K) {
    for (int m = 0; m < M; ++m, x += K) {
        float whole = in->each ? 0 : largest(x, 0, K);
        for (int r = 0; r < w->runs; ++r) {
            int from = w->starts[r], to = w->starts[r + 1];
            float most = in->each ? largest(x, from, to) : whole;
            float inverse = most > 0 ? 127 / most : 0;
            int8_t* q = (int8_t*)in->data + ((int64_t)m * w->runs + r) * w->padded;
            int sum = 0;
            for (int k = from; k < to; ++k) {
                // adding 1.5 * 2^23 rounds to nearest even: the last bits of the float are then the integer
                float shifted = x[k] * inverse + 0x1.8p23f;
                int32_t code;
                std::memcpy(&code, &shifted, 4);
                code -= 0x4b400000;
                q[k - from] = (int8_t)code;
                sum += code;
            }
            for (int k = to - from; k < w->padded; ++k) q[k] = 0;
            in->scale[m * w->runs + r] = most / 127;
            in->sum[m * w->runs + r] = (float)sum;
        }
    }
}

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
constexpr int MOST = 8;
struct Zmm {
    __m512i v;
    static Zmm load(const void* from) { return {_mm512_loadu_si512(from)}; }
    static Zmm zero() { return {_mm512_setzero_si512()}; }
    template <int FROM, int MASK, int TO> Zmm at() const {
        __m512i moved = v;  // in lanes of 16 bits: what crosses from the neighbour byte is masked away
        if constexpr (FROM > TO) moved = _mm512_srli_epi16(v, FROM - TO);
        if constexpr (FROM < TO) moved = _mm512_slli_epi16(v, TO - FROM);
        return {_mm512_and_si512(moved, _mm512_set1_epi8((char)(MASK << TO)))};
    }
    Zmm operator|(Zmm other) const { return {_mm512_or_si512(v, other.v)}; }
};
// The instruction takes unsigned codes. So the signed bytes of a codebook are stored 128 higher
constexpr int CODES_LESS = 0, TABLE_MORE = 128;

template <int B, bool TABLE, int MB> struct Dot {
    static constexpr int CHAINS = MB >= 4 ? 1 : 4 / MB;  // independent sums hide the latency of the instruction
    __m512i sums[MB][CHAINS], table;

    explicit Dot(const int8_t* table8) {
        if constexpr (TABLE) table = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table8));
    }
    void clear() {
        for (int m = 0; m < MB; ++m)
            for (int c = 0; c < CHAINS; ++c) sums[m][c] = _mm512_setzero_si512();
    }
    template <int T> void one(const uint8_t* at, const int8_t* q, int64_t stride) {
        __m512i code = step<B, T, Zmm>(at).v;
        if constexpr (TABLE) code = _mm512_shuffle_epi8(table, code);
        for (int m = 0; m < MB; ++m) {
            __m512i x = _mm512_set1_epi32(load<int32_t>(q + m * stride + 4 * T));
            sums[m][T % CHAINS] = _mm512_dpbusd_epi32(sums[m][T % CHAINS], code, x);
        }
    }
    void block(const uint8_t* at, const int8_t* q, int64_t stride) {
        one<0>(at, q, stride), one<1>(at, q, stride), one<2>(at, q, stride), one<3>(at, q, stride);
        one<4>(at, q, stride), one<5>(at, q, stride), one<6>(at, q, stride), one<7>(at, q, stride);
    }
    Floats total(int m) const {
        __m512i sum = sums[m][0];
        for (int c = 1; c < CHAINS; ++c) sum = _mm512_add_epi32(sum, sums[m][c]);
        return {(Lane)_mm512_cvtepi32_ps(sum)};
    }
};

#elif defined(__AVX2__)
constexpr int MOST = 4;
struct Ymm {
    __m256i v;
    static Ymm load(const void* from) { return {_mm256_loadu_si256((const __m256i*)from)}; }
    static Ymm zero() { return {_mm256_setzero_si256()}; }
    template <int FROM, int MASK, int TO> Ymm at() const {
        __m256i moved = v;
        if constexpr (FROM > TO) moved = _mm256_srli_epi16(v, FROM - TO);
        if constexpr (FROM < TO) moved = _mm256_slli_epi16(v, TO - FROM);
        return {_mm256_and_si256(moved, _mm256_set1_epi8((char)(MASK << TO)))};
    }
    Ymm operator|(Ymm other) const { return {_mm256_or_si256(v, other.v)}; }
};

// vpmaddubsw adds two products in 16 bits, saturating. Codes up to 4 bits leave room for the 8 steps of a block. Bytes
// with all 8 bits do not fit even once (2 * 255 * 127), so they become signed, and their sign goes to the activation:
// |w| * (sign(w) x) is at most 128 * 127, and two of them are 32512.
constexpr int CODES_LESS = 128, TABLE_MORE = 0;
template <int B, bool TABLE, int MB> struct Dot {
    static constexpr bool SIGNED = B == 8 || TABLE;
    static constexpr int ROOM = SIGNED ? 1 : std::min(STEPS, 32767 / (2 * 127 * ((1 << B) - 1)));  // steps
    __m256i sums[2][MB], table;

    explicit Dot(const int8_t* table8) {
        if constexpr (TABLE) table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table8));
    }
    void clear() {
        for (int m = 0; m < MB; ++m) sums[0][m] = sums[1][m] = _mm256_setzero_si256();
    }
    template <int H, int T> void one(__m256i* part, const uint8_t* at, const int8_t* q, int64_t stride) {
        __m256i code = step<B, T, Ymm>(at + 32 * H).v;
        if constexpr (TABLE) code = _mm256_shuffle_epi8(table, code);
        if constexpr (B == 8) code = _mm256_xor_si256(code, _mm256_set1_epi8((char)0x80));
        for (int m = 0; m < MB; ++m) {
            __m256i x = _mm256_set1_epi32(load<int32_t>(q + m * stride + 4 * T));
            __m256i two;
            if constexpr (SIGNED)
                two = _mm256_maddubs_epi16(_mm256_abs_epi8(code), _mm256_sign_epi8(x, code));
            else
                two = _mm256_maddubs_epi16(code, x);
            part[m] = T % ROOM == 0 ? two : _mm256_add_epi16(part[m], two);
            if (T % ROOM == ROOM - 1 || T == STEPS - 1)
                sums[H][m] = _mm256_add_epi32(sums[H][m], _mm256_madd_epi16(part[m], _mm256_set1_epi16(1)));
        }
    }
    template <int H> void half(const uint8_t* at, const int8_t* q, int64_t stride) {
        __m256i part[MB];
        one<H, 0>(part, at, q, stride), one<H, 1>(part, at, q, stride), one<H, 2>(part, at, q, stride);
        one<H, 3>(part, at, q, stride), one<H, 4>(part, at, q, stride), one<H, 5>(part, at, q, stride);
        one<H, 6>(part, at, q, stride), one<H, 7>(part, at, q, stride);
    }
    void block(const uint8_t* at, const int8_t* q, int64_t stride) { half<0>(at, q, stride), half<1>(at, q, stride); }
    Floats total(int m) const {
        return {{(Lane)_mm256_cvtepi32_ps(sums[0][m]), (Lane)_mm256_cvtepi32_ps(sums[1][m])}};
    }
};

#else
constexpr int MOST = 1, CODES_LESS = 0, TABLE_MORE = 0;
template <int B, bool TABLE, int MB> struct Dot {
    int32_t sums[16];
    const int8_t* table;

    explicit Dot(const int8_t* table8) : table(table8) {}
    void clear() { std::memset(sums, 0, sizeof sums); }
    void block(const uint8_t* at, const int8_t* q, int64_t) {
        uint8_t codes[STEPS * 64];
        unpack<B>(at, codes);
        if (TABLE)
            for (uint8_t& code : codes) code = (uint8_t)table[code];
        for (int t = 0; t < STEPS; ++t)
            for (int r = 0; r < 16; ++r)
                for (int j = 0; j < 4; ++j) {
                    const uint8_t code = codes[64 * t + 4 * r + j];
                    sums[r] += (TABLE ? (int8_t)code : code) * q[4 * t + j];
                }
    }
    Floats total(int) const { return from_int(sums); }
};
#endif

template <int B, bool TABLE> static void tiles(const Weight* w, const Inputs* in, float* y, int M, int from, int to) {
    // A byte that is multiplied stands for unit * (byte - offset)
    alignas(64) int8_t table[16] = {};
    float unit = 1;
    const float offset = TABLE ? TABLE_MORE : B == 8 ? -CODES_LESS : 0;
    if (TABLE) {
        const float most = largest(w->values, 0, 16);
        unit = most > 0 ? most / 127 : 1;
        for (int i = 0; i < 16; ++i) table[i] = (int8_t)(std::lrint(w->values[i] / unit) + TABLE_MORE);
    }
    const int blocks = w->padded / 32;
    const int64_t stride = (int64_t)w->runs * w->padded;
    for (int tile = from; tile < to; ++tile) {
        batches<MOST>(M, [&](auto count, int first) {
            constexpr int MB = decltype(count)::value;
            const uint8_t* at = w->codes + (int64_t)tile * w->runs * blocks * block_bytes(B);
            Dot<B, TABLE, MB> dot(table);
            Floats result[MB] = {};
            for (int r = 0; r < w->runs; ++r) {
                const int8_t* q = (const int8_t*)in->data + first * stride + r * w->padded;
                dot.clear();
                for (int b = 0; b < blocks; ++b, at += block_bytes(B), q += 32) dot.block(at, q, stride);
                const int64_t index = ((int64_t)tile * w->runs + r) * 16;
                Floats scale = read16(w->scale, index, w->wide) * unit;
                Floats zero = w->zero ? read16(w->zero, index, w->wide) : Floats::all(w->even);
                zero = zero * (1 / unit) + Floats::all(offset);
                for (int m = 0; m < MB; ++m) {
                    const int64_t of = (int64_t)(first + m) * w->runs + r;
                    result[m] += scale * ((dot.total(m) - zero * in->sum[of]) * in->scale[of]);
                }
            }
            for (int m = 0; m < MB; ++m) put16(y + (int64_t)(first + m) * w->N, 16 * tile, w->N, result[m]);
        });
    }
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
