// name: bf16_mma_async
// idea: cp.async copies 16 bytes from global to shared memory without a register in between, so no thread waits with a
//       value in hand: all copies of a tile are under way at once.
// ladder: tensor 3
// gain: 1.2 to 1.8x over bf16_mma: the loads of a tile overlap each other, and their registers are free
// op: C[M,N] = A[M,K] B[N,K]^T
// operands: A bf16, B bf16, C fp32
// pitch: 16
// shapes: any M, N, K; row-major, rows of A and B begin at multiples of 16 bytes (the lab pads them); copies beyond an
//         edge bring zeros, stores there are left out
// constants: BM, BN, BK
// grid: ceil(N / BN), ceil(M / BM)
// block: 256
// shared: 0
// tolerance: 1e-5
// registers: 128
// requires: HMMA, LDSM, LDGSTS
// architecture: sm_80
// reference: PTX ISA, "cp.async"; CUDA C++ Programming Guide, "Asynchronous Data Copies"

#include <cuda_bf16.h>

#include "machine.cuh"

constexpr int BM = 128;  // eight warps in 2 x 4, each with 64x32 of C
constexpr int BN = 128;
constexpr int BK = 32;
constexpr int PITCH = BK + 8;  // 80 bytes: the eight rows that ldmatrix reads at once lie in different banks

extern "C" __global__ void __launch_bounds__(256)
    bf16_mma_async(const __nv_bfloat16* __restrict__ A, const __nv_bfloat16* __restrict__ B, float* __restrict__ C,
                   int M, int N, int K) {
    __shared__ __align__(128) __nv_bfloat16 a_tile[BM * PITCH];
    __shared__ __align__(128) __nv_bfloat16 b_tile[BN * PITCH];

    const int row0 = blockIdx.y * BM, column0 = blockIdx.x * BN;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 32;

    // What this thread loads: 8 elements of every 64th row. A row beyond the edge is the last one again: what comes of
    // it is not stored.
    const int own_row = threadIdx.x / 4, own_k = threadIdx.x % 4 * 8, own_place = own_row * PITCH + own_k;
    const size_t pitch = (K + 7) / 8 * 8;
    const __nv_bfloat16 *a_from[2], *b_from[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        a_from[i] = A + min(row0 + own_row + 64 * i, M - 1) * pitch + own_k;
        b_from[i] = B + min(column0 + own_row + 64 * i, N - 1) * pitch + own_k;
    }

    float c[4][4][4] = {};  // [16 rows][8 columns][element of the lane]
    for (int k0 = 0; k0 < K; k0 += BK) {
        const int bytes = min(16, max(0, 2 * (K - k0 - own_k)));  // beyond K: zeros
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            cp_async_16(&a_tile[own_place + 64 * i * PITCH], a_from[i] + k0, bytes);
            cp_async_16(&b_tile[own_place + 64 * i * PITCH], b_from[i] + k0, bytes);
        }
        cp_async_commit();
        cp_async_wait<0>();  // this thread's copies have landed
        __syncthreads();     // and so have everyone's

#pragma unroll
        for (int k = 0; k < BK; k += 16) {
            unsigned a[4][4], b[4][2];
#pragma unroll
            for (int i = 0; i < 4; ++i)  // lanes 0-15: rows of the left half, 16-31: of the right
                ldmatrix_x4(a[i], &a_tile[(warp_row + 16 * i + lane % 16) * PITCH + k + lane / 16 * 8]);
#pragma unroll
            for (int j = 0; j < 4; j += 2) {  // two times 8 columns of B at once
                unsigned r[4];
                ldmatrix_x4(r,
                            &b_tile[(warp_column + 8 * j + lane / 16 * 8 + lane % 8) * PITCH + k + lane / 8 % 2 * 8]);
                b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
            }
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) mma_bf16(c[i][j], a[i], b[j]);
        }
        __syncthreads();  // everyone has read them
    }

#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int row = row0 + warp_row + 16 * i + lane / 4 + e / 2 * 8;
                const int column = column0 + warp_column + 8 * j + lane % 4 * 2 + e % 2;
                if (row < M && column < N) C[(size_t)row * N + column] = c[i][j][e];
            }
}
