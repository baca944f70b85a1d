// name: w4_lop3
// idea: No conversion: a code in the mantissa of a half whose exponent says 1024 is that half plus the code. The codes of
//       a pair lie 16 bits apart, so one LOP3 cuts out two and sets their exponents, and one addition takes 1024 away.
// ladder: weight-only 4
// gain: 1.2 to 1.4x over w4_naive: two thirds of the instructions, none of them at a quarter of the rate; no more, since
//       all rungs up to w4_split_k together cannot win more over fp16_gemv than their bytes are fewer, 16 / 4.375 = 3.66x
// op: Y[M,N] = X[M,K] W[N,K]^T
// operands: X fp16, W uint32, S fp16, Z fp16, Y fp16
// packing: w4-pairs-128
// pitch: 16
// shapes: any M, N, K; rows of X begin at multiples of 16 bytes, codes are padded (both by the lab); activations beyond K
//         are zeros, rows of W beyond N are left out, every row of X is a launch of its own along y
// constants: WARPS, GROUP
// grid: ceil(N / WARPS), M
// block: 32 * WARPS
// shared: 0
// tolerance: 5e-4
// registers: 64
// requires: LOP3, HFMA2, SHFL
// architecture: sm_80
// reference: Kim et al. 2022, "Who Says Elephants Can't Run", section 4 (fast conversion of integers)

#include "lowbit.cuh"

constexpr int WARPS = 8;  // rows of a block
constexpr int GROUP = 128;

// Eight weights from column k on times eight activations.
template <bool edge>
__device__ __forceinline__ float eight(const __half* x_row, const unsigned* w_row, const __half* s_row,
                                       const __half* z_row, int k, int K) {
    const Octet codes = minus(unpack_4(w_row[k / 8], 0), __half2half2(z_row[k / GROUP]));
    return __half2float(s_row[k / GROUP]) * dot_float(codes, load_octet<edge>(x_row, k, K));
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
w4_lop3(const __half* __restrict__ X, const unsigned* __restrict__ W, const __half* __restrict__ S,
        const __half* __restrict__ Z, __half* __restrict__ Y, int M, int N, int K) {
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= N) return;  // all lanes of the warp
    const int groups = (K + GROUP - 1) / GROUP, words = (K + 31) / 32 * 4;
    const __half* x_row = X + (size_t)blockIdx.y * ((K + 7) / 8 * 8);
    const unsigned* w_row = W + (size_t)row * words;
    const __half *s_row = S + (size_t)row * groups, *z_row = Z + (size_t)row * groups;

    float sum = 0;
    int k = 8 * lane;
#pragma unroll 4
    for (; k + 8 <= K; k += 256) sum += eight<false>(x_row, w_row, s_row, z_row, k, K);
    if (k < K) sum += eight<true>(x_row, w_row, s_row, z_row, k, K);
    sum = warp_sum(sum);
    if (lane == 0) Y[(size_t)blockIdx.y * N + row] = __float2half_rn(sum);
}
