// name: threaded
// idea: The register tile on every core: each thread has columns of C of its own, and nothing to wait for but the end.
// op: C[M,N] = A[M,K] B[K,N]
// bits: 32
// packing: panels
// tolerance: 5e-6
// gain: 1 to 2x over register-tiled: as many times as there are free cores, two of them here
// reference: Smith et al. 2014, Anatomy of High-Performance Many-Threaded Matrix Multiplication
#include <thread>
#include <vector>

#include "cpu/tile.h"

extern "C" void product(const float* A, const float* B, float* C, int M, int N, int K, int threads) {
    const int panels = (N + COLUMNS - 1) / COLUMNS;
    threads = std::max(1, std::min(threads, panels));
    auto part = [&](int t) {
        const int from = panels * t / threads * COLUMNS, to = std::min(N, panels * (t + 1) / threads * COLUMNS);
        columns_of(A, B, C, M, N, K, from, to);
    };
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(part, t);
    part(0);
    for (std::thread& other : others) other.join();
}
