// name: fp16_gemv
// idea: A warp takes one row of W and reads it 16 bytes a lane, side by side. At batch 1 each weight is used once, so
//       nothing but bytes per second counts.
// ladder: weight-only 1
// gain: none: the first rung; what fp16 weights cost
// op: Y[M,N] = X[M,K] W[N,K]^T
// operands: X fp16, W fp16, Y fp16
// pitch: 16
// shapes: any M, N, K; rows of X and W begin at multiples of 16 bytes (the lab pads them); elements beyond K are zeros,
//         rows of W beyond N are left out, every row of X is a launch of its own along y
// constants: WARPS
// grid: ceil(N / WARPS), M
// block: 32 * WARPS
// shared: 0
// tolerance: 5e-4
// registers: 64
// requires: LDG.E.128, SHFL
// architecture: sm_80
// reference: CUDA C++ Best Practices Guide, "Coalesced Access to Global Memory"

#include "lowbit.cuh"

constexpr int WARPS = 8;  // rows of a block

extern "C" __global__ void __launch_bounds__(32 * WARPS)
fp16_gemv(const __half* __restrict__ X, const __half* __restrict__ W, __half* __restrict__ Y, int M, int N, int K) {
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= N) return;  // all lanes of the warp
    const int pitch = (K + 7) / 8 * 8;
    const __half* x_row = X + (size_t)blockIdx.y * pitch;
    const __half* w_row = W + (size_t)row * pitch;

    float sum = 0;
    int k = 8 * lane;
#pragma unroll 4
    for (; k + 8 <= K; k += 256) sum += dot_float(load_octet<false>(x_row, k, K), load_octet<false>(w_row, k, K));
    if (k < K) sum += dot_float(load_octet<true>(x_row, k, K), load_octet<true>(w_row, k, K));
    sum = warp_sum(sum);
    if (lane == 0) Y[(size_t)blockIdx.y * N + row] = __float2half_rn(sum);
}
