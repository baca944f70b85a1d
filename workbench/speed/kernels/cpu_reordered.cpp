// name: reordered
// idea: The same three loops with the one over columns innermost: B and C are now read along memory, and the compiler
//       finds vector instructions by itself.
// op: C[M,N] = A[M,K] B[K,N]
// bits: 32
// packing: none
// tolerance: 5e-6
// gain: 10 to 20x over naive: whole cache lines are read, and as many lanes work as a vector has
// reference: Goto and van de Geijn 2008, Anatomy of High-Performance Matrix Multiplication
#include <algorithm>

extern "C" void product(const float* A, const float* B, float* C, int M, int N, int K, int) {
    for (int i = 0; i < M; ++i) {
        float* __restrict row = C + (long)i * N;
        std::fill_n(row, N, 0.0f);
        for (int k = 0; k < K; ++k) {
            const float a = A[(long)i * K + k];
            const float* b = B + (long)k * N;
            for (int j = 0; j < N; ++j) row[j] += a * b[j];
        }
    }
}
