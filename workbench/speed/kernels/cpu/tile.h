// The register tile: ROWS x COLUMNS of C stay in registers while K passes by, so that a loaded vector is used ROWS times.
// A and B are copied to panels first, in the order in which the tile reads them; what is missing at the edges is 0.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

#include "vectors.h"

// As many registers as leave room for a row of B and an element of A
#if defined(__AVX512F__)
constexpr int ROWS = 8, VECTORS = 3;
#elif defined(__AVX2__)
constexpr int ROWS = 6, VECTORS = 2;
#else
constexpr int ROWS = 4, VECTORS = 2;
#endif
constexpr int COLUMNS = VECTORS * LANES;
constexpr int DEPTH = 256;   // K of a panel: a panel of B of this depth stays in the first-level cache
constexpr int HEIGHT = 192;  // rows of A packed at a time, for the second-level cache

static inline void tile(const float* a, const float* b, float* c, int64_t ldc, int depth, int rows, int columns, bool add) {
    Lane sum[ROWS][VECTORS] = {};
    for (int k = 0; k < depth; ++k, a += ROWS, b += COLUMNS) {
        Lane line[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) line[v] = load<Lane>(b + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) sum[r][v] += a[r] * line[v];
    }
    if (rows == ROWS && columns == COLUMNS) {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) {
                float* to = c + r * ldc + v * LANES;
                store(to, add ? load<Lane>(to) + sum[r][v] : sum[r][v]);
            }
        return;
    }
    float whole[ROWS][COLUMNS];
    std::memcpy(whole, sum, sizeof whole);
    for (int r = 0; r < rows; ++r)
        for (int j = 0; j < columns; ++j) c[r * ldc + j] = whole[r][j] + (add ? c[r * ldc + j] : 0);
}

// Columns [from, to) of C[M,N] = A[M,K] B[K,N]
static void columns_of(const float* A, const float* B, float* C, int M, int N, int K, int from, int to) {
    const int panels = (to - from + COLUMNS - 1) / COLUMNS;
    struct Free {
        void operator()(float* p) const { ::operator delete[](p, std::align_val_t(64)); }
    };
    auto room = [](size_t n) {
        return std::unique_ptr<float[], Free>(static_cast<float*>(::operator new[](4 * n, std::align_val_t(64))));
    };
    auto packed_b = room((size_t)panels * COLUMNS * DEPTH), packed_a = room((size_t)(HEIGHT + ROWS) * DEPTH);
    for (int k0 = 0; k0 < K; k0 += DEPTH) {
        const int depth = std::min(DEPTH, K - k0);
        for (int p = 0; p < panels; ++p) {
            const int j0 = from + p * COLUMNS, width = std::min(COLUMNS, to - j0);
            float* out = packed_b.get() + (size_t)p * COLUMNS * depth;
            for (int k = 0; k < depth; ++k, out += COLUMNS) {
                const float* line = B + (int64_t)(k0 + k) * N + j0;
                std::copy_n(line, width, out);
                std::fill_n(out + width, COLUMNS - width, 0.0f);
            }
        }
        for (int i0 = 0; i0 < M; i0 += HEIGHT) {
            const int height = std::min(HEIGHT, M - i0);
            for (int i = 0; i < height; i += ROWS)
                for (int r = 0; r < ROWS; ++r) {
                    float* out = packed_a.get() + (size_t)i * depth + r;
                    const float* line = A + (int64_t)(i0 + i + r) * K + k0;
                    if (i + r < height)
                        for (int k = 0; k < depth; ++k) out[(size_t)k * ROWS] = line[k];
                    else
                        for (int k = 0; k < depth; ++k) out[(size_t)k * ROWS] = 0;
                }
            for (int p = 0; p < panels; ++p)
                for (int i = 0; i < height; i += ROWS) {
                    const int j0 = from + p * COLUMNS;
                    tile(packed_a.get() + (size_t)i * depth, packed_b.get() + (size_t)p * COLUMNS * depth,
                         C + (int64_t)(i0 + i) * N + j0, N, depth, std::min(ROWS, height - i),
                         std::min(COLUMNS, to - j0), k0 > 0);
                }
        }
    }
}
