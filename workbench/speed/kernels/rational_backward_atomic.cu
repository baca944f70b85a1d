// name: rational_backward_atomic
// idea: A thread an element: the gradients of the ten coefficients are added to the sums in memory, each element for
//       itself. All elements of a group meet at ten addresses.
// ladder: rational-backward 1
// gain: none: the first rung; the traffic of additions is what makes it slow
// op: DX[M,N], DP[K,6], DQ[K,4] = gradient of P(X) / (1 + |Q(X)|)
// operands: G fp32, X fp32, P fp32, Q fp32, DX fp32, DP fp32, DQ fp32
// zeroed: DP, DQ
// shapes: any M, N and number of groups K; columns n with floor(n K / N) = g form group g
// constants: THREADS
// grid: ceil(M * N / THREADS)
// block: THREADS
// shared: 0
// tolerance: 2e-5
// registers: 64
// requires: FFMA
// architecture: sm_50
// reference: Yang and Wang 2024, "Kolmogorov-Arnold Transformer"; Raffel and Chen 2025, "FlashKAT" (why it is slow)

#include "rational.cuh"

constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS)
rational_backward_atomic(const float* __restrict__ G, const float* __restrict__ X, const float* __restrict__ P,
                         const float* __restrict__ Q, float* __restrict__ DX, float* __restrict__ DP,
                         float* __restrict__ DQ, int M, int N, int K) {
    const long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (i >= (long long)M * N) return;
    const int group = (long long)(i % N) * K / N;
    float sums[10] = {};
    DX[i] = Rational<false>(P, Q, group).backward(X[i], G[i], sums);
#pragma unroll
    for (int j = 0; j < 6; ++j) atomicAdd(&DP[6 * group + j], sums[j]);
#pragma unroll
    for (int j = 0; j < 4; ++j) atomicAdd(&DQ[4 * group + j], sums[6 + j]);
}
