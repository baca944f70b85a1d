// What the weight-only kernels share: eight activations at once, the sum of a warp, whole numbers that become halves.
#pragma once
#ifdef __CUDACC_RTC__  // the emulator has its own halves
#include <cuda_fp16.h>
#endif

#include "machine.cuh"

constexpr unsigned MAGIC = 0x64006400;  // 1024 as a half, twice: the low ten bits of each are counted in ones

struct Octet {
    __half2 pair[4];
};

__device__ __forceinline__ __half2 as_half2(unsigned bits) { return *reinterpret_cast<__half2*>(&bits); }

// Elements k to k + 7 of a row that begins at a multiple of 16 bytes, as does k. At an edge: zeros beyond K.
template <bool edge> __device__ __forceinline__ Octet load_octet(const __half* __restrict__ row, int k, int K) {
    uint4 bits = make_uint4(0, 0, 0, 0);
    if (!edge || k < K) bits = *reinterpret_cast<const uint4*>(row + k);
    if (edge) {
        unsigned* words = reinterpret_cast<unsigned*>(&bits);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (k + 2 * i >= K) words[i] = 0;
            else if (k + 2 * i + 1 >= K) words[i] &= 0xFFFF;
        }
    }
    return {as_half2(bits.x), as_half2(bits.y), as_half2(bits.z), as_half2(bits.w)};
}

// The sum over the 32 lanes, in all of them.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(~0u, x, lanes);
    return x;
}

// The fields of both halves of a word that `mask` covers, as mantissas: 1024 + field * (lowest bit of the mask).
__device__ __forceinline__ __half2 fields(unsigned word, unsigned mask) { return as_half2(lop3<0xEA>(word, mask, MAGIC)); }

// Eight codes of 4 bits, pairs 16 bits apart, minus `least`: exact as long as that is a whole number.
__device__ __forceinline__ Octet unpack_4(unsigned word, int least) {
    const __half2 low = __float2half2_rn(-1024.0f - least), high = __float2half2_rn(-64.0f - least);
    const __half2 sixteenth = __float2half2_rn(0.0625f);
    const unsigned upper = word >> 8;
    return {__hadd2(fields(word, 0x000F000F), low), __hfma2(fields(word, 0x00F000F0), sixteenth, high),
            __hadd2(fields(upper, 0x000F000F), low), __hfma2(fields(upper, 0x00F000F0), sixteenth, high)};
}

// The same minus a zero point: `shift` is -1024 less that as a whole number, twice.
__device__ __forceinline__ Octet unpack_4(unsigned word, __half2 shift) {
    const __half2 high = __hadd2(shift, __float2half2_rn(960.0f)), sixteenth = __float2half2_rn(0.0625f);
    const unsigned upper = word >> 8;
    return {__hadd2(fields(word, 0x000F000F), shift), __hfma2(fields(word, 0x00F000F0), sixteenth, high),
            __hadd2(fields(upper, 0x000F000F), shift), __hfma2(fields(upper, 0x00F000F0), sixteenth, high)};
}

// The zero point of a group for `lanes` layouts: what to add to the mantissas, and what is then left of it.
struct Zero {
    __half2 shift, rest;
};
__device__ __forceinline__ Zero zero_of(const __half* __restrict__ Z, unsigned group) {
    const __half2 both = reinterpret_cast<const __half2*>(Z)[group];
    return {__half2half2(__low2half(both)), __half2half2(__high2half(both))};
}

// The sum of eight products, each product and sum of four in half precision.
__device__ __forceinline__ float dot_half(const Octet& a, const Octet& b) {
    __half2 sum = __hmul2(a.pair[0], b.pair[0]);
#pragma unroll
    for (int i = 1; i < 4; ++i) sum = __hfma2(a.pair[i], b.pair[i], sum);
    return __low2float(sum) + __high2float(sum);
}

// The sum of eight products in float.
__device__ __forceinline__ float dot_float(const Octet& a, const Octet& b) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        sum += __low2float(a.pair[i]) * __low2float(b.pair[i]);
        sum += __high2float(a.pair[i]) * __high2float(b.pair[i]);
    }
    return sum;
}

__device__ __forceinline__ Octet plus(const Octet& a, __half2 b) {
    return {__hadd2(a.pair[0], b), __hadd2(a.pair[1], b), __hadd2(a.pair[2], b), __hadd2(a.pair[3], b)};
}

__device__ __forceinline__ Octet minus(const Octet& a, __half2 b) {
    return {__hsub2(a.pair[0], b), __hsub2(a.pair[1], b), __hsub2(a.pair[2], b), __hsub2(a.pair[3], b)};
}

// The sum of eight halves.
__device__ __forceinline__ float octet_sum(const Octet& a) {
    const __half2 sum = __hadd2(__hadd2(a.pair[0], a.pair[1]), __hadd2(a.pair[2], a.pair[3]));
    return __low2float(sum) + __high2float(sum);
}

// The group of columns 256 block + 64 j + 8 t on; beyond the last column the last one, whose activations are zeros.
template <int group, bool edge> __device__ __forceinline__ int group_of(int block, int j, int t, int K) {
    if (edge) return min(256 * block + 64 * j + 8 * t, K - 1) / group;
    return 256 / group * block + (group < 64 ? (64 * j + 8 * t) / group : 64 * j / group);
}

// Eight codes of 2 bits in the low byte of each half of a word; `shift` as in unpack_4.
__device__ __forceinline__ Octet unpack_2(unsigned word, __half2 shift) {
    return {__hadd2(fields(word, 0x00030003), shift),
            __hfma2(fields(word, 0x000C000C), __float2half2_rn(0.25f), __hadd2(shift, __float2half2_rn(768.0f))),
            __hfma2(fields(word, 0x00300030), __float2half2_rn(0.0625f), __hadd2(shift, __float2half2_rn(960.0f))),
            __hfma2(fields(word, 0x00C000C0), __float2half2_rn(0.015625f), __hadd2(shift, __float2half2_rn(1008.0f)))};
}

// The 32 codes of 3 bits in three words: five pairs in each word, the last pair from their highest bits. The whole zero
// point of each octet is taken off.
__device__ __forceinline__ void unpack_3(Octet (&codes)[4], unsigned a, unsigned b, unsigned c, const Zero (&zeros)[4]) {
    const __half2 by_8 = __float2half2_rn(0.125f), by_64 = __float2half2_rn(0.015625f);
    const unsigned words[3] = {a, b, c};
#pragma unroll
    for (int p = 0; p < 15; ++p) {
        const unsigned word = p % 5 < 3 ? words[p / 5] : words[p / 5] >> 9;
        const int place = p % 5 < 3 ? p % 5 : p % 5 - 3;  // in fields of three bits
        const __half2 shift = zeros[p / 4].shift;
        __half2& pair = codes[p / 4].pair[p % 4];
        if (place == 0) pair = __hadd2(fields(word, 0x00070007), shift);
        if (place == 1) pair = __hfma2(fields(word, 0x00380038), by_8, __hadd2(shift, __float2half2_rn(896.0f)));
        if (place == 2) pair = __hfma2(fields(word, 0x01C001C0), by_64, __hadd2(shift, __float2half2_rn(1008.0f)));
    }
    const unsigned last = (a >> 15 & 0x00010001) | (b >> 14 & 0x00020002) | (c >> 13 & 0x00040004);
    codes[3].pair[3] = __hadd2(fields(last, 0x00070007), zeros[3].shift);
}
