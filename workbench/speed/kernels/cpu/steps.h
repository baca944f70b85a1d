// The packing "steps": tiles of 16 rows, blocks of 32 inputs, steps of 4 inputs; byte 4 r + j of a step is row r, input
// j, so that a step is one integer dot product of 16 rows. Codes of b bits are cut into parts of 4, 2 and 1 bits (3 = 2
// + 1), the low bits first. Within a block the part of 4 bits has 4 x 64 bytes (the low half of vector v is step 2v, the
// high half 2v + 1), that of 2 bits 2 x 64 (step 4v + c at bit 2c), that of 1 bit 64 (step c at bit c). 8 bits are 8 x 64.
#pragma once
#include "lowbit.h"

constexpr int STEPS = 8;
constexpr bool has(int bits, int part) { return bits & part; }
constexpr int block_bytes(int bits) { return bits * 32 * 16 / 8; }

// Where a part begins in its block, and at which bit of the code it stands
constexpr int begins(int bits, int part) {
    return (part < 4 && has(bits, 4) ? 256 : 0) + (part < 2 && has(bits, 2) ? 128 : 0);
}
constexpr int stands(int bits, int part) {
    return (part < 4 && has(bits, 4) ? 4 : 0) + (part < 2 && has(bits, 2) ? 2 : 0);
}

// The codes of step T, one to a byte. V is a vector of bytes with shift(), &, | below; at: the block, or its half.
template <int B, int T, class V> static inline V step(const uint8_t* at) {
    if constexpr (B == 8) return V::load(at + 64 * T);
    V code = V::zero();
    if constexpr (has(B, 4)) code = V::load(at + 64 * (T / 2)).template at<4 * (T % 2), 0x0f, 0>();
    if constexpr (has(B, 2)) {
        V part = V::load(at + begins(B, 2) + 64 * (T / 4)).template at<2 * (T % 4), 0x03, stands(B, 2)>();
        code = has(B, 4) ? code | part : part;
    }
    if constexpr (has(B, 1)) {
        V part = V::load(at + begins(B, 1)).template at<T, 0x01, stands(B, 1)>();
        code = B == 1 ? part : code | part;
    }
    return code;
}

// The same for a whole block in plain loops, which the compiler turns into whatever vectors there are: 8 x 64 codes
template <int B, int PART> static inline void unpack_part(const uint8_t* at, uint8_t* codes) {
    constexpr int EACH = 8 / PART, TO = stands(B, PART);
    constexpr bool FIRST = TO == 0;
    at += begins(B, PART);
    for (int v = 0; v < PART; ++v)
        for (int place = 0; place < EACH; ++place, codes += 64)
            for (int i = 0; i < 64; ++i) {
                uint8_t part = (uint8_t)((at[64 * v + i] >> (PART * place) & ((1 << PART) - 1)) << TO);
                codes[i] = FIRST ? part : codes[i] | part;
            }
}
template <int B> static inline void unpack(const uint8_t* at, uint8_t* codes) {
    if constexpr (B == 8) std::memcpy(codes, at, 512);
    if constexpr (B < 8 && has(B, 4)) unpack_part<B, 4>(at, codes);
    if constexpr (B < 8 && has(B, 2)) unpack_part<B, 2>(at, codes);
    if constexpr (B < 8 && has(B, 1)) unpack_part<B, 1>(at, codes);
}
