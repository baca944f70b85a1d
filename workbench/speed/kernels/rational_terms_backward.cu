// name: rational_terms_backward
// idea: The gradient for the denominator of the published kernels, the absolute value of every term; otherwise
//       rational_backward.
// ladder: rational-backward 3
// gain: 0.9 to 1.1x over rational_backward: the same loads and stores, a few more products
// op: DX[M,N], DP[K,6], DQ[K,4] = gradient of P(X) / (1 + sum |q X^i|)
// operands: G fp32, X fp32, P fp32, Q fp32, DX fp32, DP fp32, DQ fp32
// zeroed: DP, DQ
// shapes: any M, N and number of groups K; columns n with floor(n K / N) = g form group g
// constants: COLUMNS, ROWS
// grid: ceil(N / COLUMNS), ceil(M / ROWS)
// block: COLUMNS
// shared: 0
// tolerance: 2e-5
// registers: 64
// requires: FFMA, LDS
// architecture: sm_50
// reference: github.com/Adamdad/rational_kat_cu (which form; not its code); Raffel and Chen 2025, "FlashKAT", section 4

#include "rational.cuh"

constexpr int COLUMNS = 128;
constexpr int ROWS = 32;  // a thread goes down

extern "C" __global__ void __launch_bounds__(COLUMNS)
rational_terms_backward(const float* __restrict__ G, const float* __restrict__ X, const float* __restrict__ P,
                        const float* __restrict__ Q, float* __restrict__ DX, float* __restrict__ DP,
                        float* __restrict__ DQ, int M, int N, int K) {
    __shared__ float of_column[10][COLUMNS + 1];

    const int n0 = blockIdx.x * COLUMNS, n = n0 + threadIdx.x;
    const int first = blockIdx.y * ROWS, last = min(M, first + ROWS);
    float sums[10] = {};
    if (n < N) {
        const Rational<true> f(P, Q, (long long)n * K / N);
#pragma unroll 4
        for (int m = first; m < last; ++m) {
            const size_t i = (size_t)m * N + n;
            DX[i] = f.backward(X[i], G[i], sums);
        }
    }
#pragma unroll
    for (int j = 0; j < 10; ++j) of_column[j][threadIdx.x] = sums[j];
    __syncthreads();  // the sums of all columns are there

    // The groups of this block, from that of its first column to that of its last.
    const int low = (long long)n0 * K / N, high = (long long)min(n0 + COLUMNS - 1, N - 1) * K / N;
    for (int i = threadIdx.x; i < (high - low + 1) * 10; i += COLUMNS) {
        const int group = low + i / 10, j = i % 10;
        const int from = ((long long)group * N + K - 1) / K, to = ((long long)(group + 1) * N + K - 1) / K;  // columns
        float sum = 0;
        for (int c = max(from, n0); c < min(to, n0 + COLUMNS); ++c) sum += of_column[j][c - n0];
        atomicAdd(j < 6 ? &DP[6 * group + j] : &DQ[4 * group + j - 6], sum);
    }
}
