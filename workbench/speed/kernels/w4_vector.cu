// name: w4_vector
// idea: A lane reads 32 weights in one load of 16 bytes. Neighbouring columns would set the lanes 64 bytes apart when they
//       read activations, so the codes were dealt out to the lanes beforehand: eight lanes read 128 bytes side by side.
// ladder: weight-only 5
// gain: 1 to 1.1x over w4_lop3: a quarter of the loads of weights, each with four times the bytes under way; memory is
//       near, and bytes are no fewer (16 / 4.375 = 3.66x over fp16_gemv is all that there is)
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
// tolerance: 5e-4
// registers: 96
// requires: LDG.E.128, LOP3, HFMA2
// architecture: sm_80
// reference: Frantar et al. 2024, "MARLIN", section 3 (weights shuffled offline for loads of 16 bytes)

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
        sum += __half2float(s_row[group]) * dot_float(codes, load_octet<edge>(x_row, k, K));
    }
    return sum;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
w4_vector(const __half* __restrict__ X, const unsigned* __restrict__ W, const __half* __restrict__ S,
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
