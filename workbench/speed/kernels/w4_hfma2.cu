// name: w4_hfma2
// idea: Multiply in half precision, two weights an instruction; only the sums of eight products go on in float, so that
//       the error stays that of a few roundings.
// ladder: weight-only 6
// gain: 1 to 1.08x over w4_vector: four HFMA2 in place of 16 conversions and eight FFMA for eight weights, which counts
//       only where memory is not yet the limit
// op: Y[M,N] = X[M,K] W[N,K]^T
// operands: X fp16, W uint32, S fp16, Z fp16, Y fp16
// packing: w4-lanes-128
// pitch: 16
// shapes: any M, N, K; rows of X begin at multiples of 16 bytes, codes are padded to 256 columns (both by the lab);
//         activations beyond K are zeros, rows of W beyond N are left out, every row of X is a launch of its own along y
// constants: WARPS, GROUP
// grid: ceil(N / WARPS), M
// block: 32 * WARPS
// shared: 0
// tolerance: 1e-3
// registers: 96
// requires: LDG.E.128, LOP3, HFMA2
// architecture: sm_80
// reference: CUDA Math API, "Half2 Arithmetic Functions"; Kim et al. 2022, section 4

#include "lowbit.cuh"

constexpr int WARPS = 8;  // rows of a block
constexpr int GROUP = 128;

// The 32 weights of a lane in one block of 256 columns, times their activations.
template <bool edge>
__device__ __forceinline__ float chunk(const __half* x_row, const uint4* w_row, const __half* s_row, const __half* z_row,
                                       int block, int K) {
    const int t = threadIdx.x % 8;
    const uint4 four = w_row[8 * block + t];
    const unsigned words[4] = {four.x, four.y, four.z, four.w};
    float sum = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const int k = 256 * block + 64 * j + 8 * t, group = group_of<GROUP, edge>(block, j, t, K);
        const Zero zero = zero_of(z_row, group);
        const Octet codes = plus(unpack_4(words[j], zero.shift), zero.rest);
        sum += __half2float(s_row[group]) * dot_half(codes, load_octet<edge>(x_row, k, K));
    }
    return sum;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
w4_hfma2(const __half* __restrict__ X, const unsigned* __restrict__ W, const __half* __restrict__ S,
         const __half* __restrict__ Z, __half* __restrict__ Y, int M, int N, int K) {
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= N) return;  // all lanes of the warp
    const int groups = (K + GROUP - 1) / GROUP, blocks = (K + 255) / 256;
    const __half* x_row = X + (size_t)blockIdx.y * ((K + 7) / 8 * 8);
    const uint4* w_row = reinterpret_cast<const uint4*>(W) + (size_t)row * blocks * 8;
    const __half *s_row = S + (size_t)row * groups, *z_row = Z + (size_t)row * groups * 2;

    float sum = 0;
    int block = lane / 8;
#pragma unroll 2
    for (; 256 * block + 256 <= K; block += 4) sum += chunk<false>(x_row, w_row, s_row, z_row, block, K);
    if (block < blocks) sum += chunk<true>(x_row, w_row, s_row, z_row, block, K);
    sum = warp_sum(sum);
    if (lane == 0) Y[(size_t)blockIdx.y * N + row] = __float2half_rn(sum);
}
