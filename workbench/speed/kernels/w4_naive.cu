// name: w4_naive
// idea: Eight weights of 4 bits in a word; shift, mask, convert, subtract the zero, multiply, one weight after the other.
// ladder: weight-only 3
// gain: 0.8 to 1.1x over w8_gemv: half its bytes, but as many instructions for each weight, and they are the limit
// op: Y[M,N] = X[M,K] W[N,K]^T
// operands: X fp16, W uint32, S fp16, Z fp16, Y fp16
// packing: w4-128
// pitch: 16
// shapes: any M, N, K; rows of X begin at multiples of 16 bytes, codes are padded (both by the lab); activations beyond K
//         are zeros, rows of W beyond N are left out, every row of X is a launch of its own along y
// constants: WARPS, GROUP
// grid: ceil(N / WARPS), M
// block: 32 * WARPS
// shared: 0
// tolerance: 5e-4
// registers: 64
// requires: SHFL
// architecture: sm_80
// reference: Frantar et al. 2022, "GPTQ", section 4 (kernels for fp16 times few bits)

#include "lowbit.cuh"

constexpr int WARPS = 8;  // rows of a block
constexpr int GROUP = 128;

// Eight weights from column k on times eight activations.
template <bool edge>
__device__ __forceinline__ float eight(const __half* x_row, const unsigned* w_row, const __half* s_row,
                                       const __half* z_row, int k, int K) {
    const unsigned word = w_row[k / 8];
    const Octet x = load_octet<edge>(x_row, k, K);
    const float zero = __half2float(z_row[k / GROUP]);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const unsigned code = word >> 4 * i & 15;
        sum += (float(code) - zero) * (i % 2 ? __high2float(x.pair[i / 2]) : __low2float(x.pair[i / 2]));
    }
    return __half2float(s_row[k / GROUP]) * sum;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
w4_naive(const __half* __restrict__ X, const unsigned* __restrict__ W, const __half* __restrict__ S,
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
