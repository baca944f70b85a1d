// What the low-bit kernels share: a packed weight, packed activations, and the walk over rows and batches.
//
// Y[M,N] = X[M,K] W[N,K]^T with w = scale * (code - zero). A row of W is cut into runs of at most 128 inputs that share
// a scale; each run is filled up to a whole number of blocks, with inputs that are 0. Rows are packed in tiles. Scales
// and zeros lie as [tile][run][row of the tile], in half precision or, where that would lose digits, in float.
#pragma once
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "vectors.h"

struct Weight {
    const uint8_t* codes;
    const void* scale;
    const void* zero;       // or null: `even` everywhere
    const float* values;    // what the codes stand for, 16 of them, or null: the codes themselves
    const int32_t* starts;  // [runs + 1] first input of each run
    int32_t N, runs, padded, bits, wide;  // padded: inputs of a run with filling; wide: scales and zeros are floats
    float even;
};

// Activations as a kernel wants them; who reads `data` knows what it is. [M][runs] scale and sum.
struct Inputs {
    void* data;
    float* scale;
    float* sum;
    int32_t each;  // 1: a scale for each run; 0: one for each row of X
};

static inline Floats read16(const void* from, int64_t index, int wide) {
    return wide ? load<Floats>((const float*)from + index) : from_half((const uint16_t*)from + index);
}

// 16 results of rows first, first + 1, ... of W; those beyond N are filling.
static inline void put16(float* y, int first, int N, Floats value) {
    if (first < N) std::memcpy(y + first, &value, sizeof(float) * std::min(16, N - first));
}

// The codes are read once, from the first byte to the last. Asked for so many bytes ahead, a line is in the second cache
// in time, which the processor does not see to by itself: 12 to 25 % of the time of a product with tables. 8 to 32 KB do
// equally well. It has to be done for every line: with some left out a product takes twice as long.
constexpr int AHEAD = 16 << 10;
static inline void fetch(const uint8_t* at) { __builtin_prefetch(at + AHEAD, 0, 2); }

// Largest |x| of inputs [from, to)
static inline float largest(const float* x, int from, int to) {
    float most = 0;
    for (int k = from; k < to; ++k) most = std::max(most, std::fabs(x[k]));
    return most;
}

// Calls body<4>, <2>, <1> ... so that M rows of X are done; `first` is the row they begin with.
template <int MOST, class Body> static inline void batches(int M, Body&& body) {
    int m = 0;
    if constexpr (MOST >= 8)
        for (; m + 8 <= M; m += 8) body(std::integral_constant<int, 8>{}, m);
    if constexpr (MOST >= 4)
        for (; m + 4 <= M; m += 4) body(std::integral_constant<int, 4>{}, m);
    if constexpr (MOST >= 2)
        for (; m + 2 <= M; m += 2) body(std::integral_constant<int, 2>{}, m);
    for (; m < M; ++m) body(std::integral_constant<int, 1>{}, m);
}
