// name: rational_terms
// idea: The denominator of the published kernels, and so of the models trained with them: the absolute value of every
//       term, not of their sum. Otherwise rational_columns; absolute values are free on operands.
// ladder: rational-forward 3
// gain: 0.9 to 1.1x over rational_columns: the same loads, products and stores
// op: Y[M,N] = P(X[M,N]) / (1 + sum |q X[M,N]^i|)
// operands: X fp32, P fp32, Q fp32, Y fp32
// shapes: any M, N and number of groups K; columns n with floor(n K / N) = g form group g
// constants: COLUMNS, ROWS
// grid: ceil(N / COLUMNS), ceil(M / ROWS)
// block: COLUMNS
// shared: 0
// tolerance: 1e-6
// registers: 64
// requires: FFMA
// architecture: sm_50
// reference: github.com/Adamdad/rational_kat_cu (which form; not its code); Yang and Wang 2024, section 4

#include "rational.cuh"

constexpr int COLUMNS = 128;
constexpr int ROWS = 32;  // a thread goes down

extern "C" __global__ void __launch_bounds__(COLUMNS)
rational_terms(const float* __restrict__ X, const float* __restrict__ P, const float* __restrict__ Q,
               float* __restrict__ Y, int M, int N, int K) {
    const int n = blockIdx.x * COLUMNS + threadIdx.x;
    if (n >= N) return;
    const Rational<true> f(P, Q, (long long)n * K / N);
    const int first = blockIdx.y * ROWS, last = min(M, first + ROWS);
#pragma unroll 8
    for (int m = first; m < last; ++m) Y[(size_t)m * N + n] = f.value(X[(size_t)m * N + n]);
}
