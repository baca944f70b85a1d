// name: rational_naive
// idea: A thread an element: it finds out its group, reads ten coefficients, and computes both polynomials by Horner's
//       rule. The coefficients come from the cache, but each of them is a load.
// ladder: rational-forward 1
// gain: none: the first rung
// op: Y[M,N] = P(X[M,N]) / (1 + |Q(X[M,N])|)
// operands: X fp32, P fp32, Q fp32, Y fp32
// shapes: any M, N and number of groups K; columns n with floor(n K / N) = g form group g
// constants: THREADS
// grid: ceil(M * N / THREADS)
// block: THREADS
// shared: 0
// tolerance: 1e-6
// registers: 64
// requires: FFMA
// architecture: sm_50
// reference: Yang and Wang 2024, "Kolmogorov-Arnold Transformer", section 4 and equation 11

#include "rational.cuh"

constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS)
rational_naive(const float* __restrict__ X, const float* __restrict__ P, const float* __restrict__ Q, float* __restrict__ Y,
               int M, int N, int K) {
    const long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (i >= (long long)M * N) return;
    const int group = (long long)(i % N) * K / N;
    Y[i] = Rational<false>(P, Q, group).value(X[i]);
}
