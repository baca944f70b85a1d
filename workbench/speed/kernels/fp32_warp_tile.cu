// name: fp32_warp_tile
// idea: A warp works on one piece of the tile, 64x32 of C, and a thread on four 4x4 squares of it: what the 32 threads
//       read at once lies in 128 bytes of A and 64 of B, so no two of them want different words of one bank.
// ladder: fp32 7
// gain: 1.1 to 1.25x over fp32_vector: eight words in a row per thread made neighbours meet in the same banks
// op: C[M,N] = A[M,K] B[K,N]
// operands: A fp32, B fp32, C fp32
// pitch: 16
// shapes: any M, N, K; row-major, rows of A and B begin at multiples of 16 bytes (the lab pads them); loads beyond an
//         edge give zeros, stores there are left out
// constants: BM, BN
// grid: ceil(N / BN), ceil(M / BM)
// block: 256
// shared: 0
// tolerance: 5e-6
// registers: 128
// requires: FFMA, LDS.128, LDG.E.128
// architecture: sm_50
// reference: Boehm 2022, "How to Optimize a CUDA Matmul Kernel", kernel 10;
//            CUTLASS documentation, "Efficient GEMM in CUDA"

#include "fp32_tiles.cuh"

constexpr int BM = 128;  // eight warps in 2 x 4, each with 64x32 of C
constexpr int BN = 128;
constexpr int BK = 16;
constexpr int PITCH = BM + 4;  // the turned A is written with fewer meetings in a bank

extern "C" __global__ void __launch_bounds__(256, 2)
    fp32_warp_tile(const float* __restrict__ A, const float* __restrict__ B, float* __restrict__ C, int M, int N,
                   int K) {
    __shared__ __align__(16) float a_tile[BK][PITCH];  // column k of A is a row here
    __shared__ __align__(16) float b_tile[BK][BN];

    const int row0 = blockIdx.y * BM, column0 = blockIdx.x * BN;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row = warp / 4 * 64 + lane / 4 * 4, column = warp % 4 * 32 + lane % 4 * 4;  // and 32 rows, 16 columns on

    float c[8][8] = {};
    for (int k0 = 0; k0 < K; k0 += BK) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {  // 64 rows at once
            const int r = 64 * i + threadIdx.x / 4, k = threadIdx.x % 4 * 4;
            const float4 a4 = load_4(A, row0 + r, M, k0 + k, K);
            a_tile[k + 0][r] = a4.x, a_tile[k + 1][r] = a4.y, a_tile[k + 2][r] = a4.z, a_tile[k + 3][r] = a4.w;
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {  // 8 rows at once
            const int k = 8 * i + threadIdx.x / 32, n = threadIdx.x % 32 * 4;
            *reinterpret_cast<float4*>(&b_tile[k][n]) = load_4(B, k0 + k, K, column0 + n, N);
        }
        __syncthreads();  // both tiles are whole

#pragma unroll
        for (int k = 0; k < BK; ++k) {
            float a[2][4], b[2][4];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                *reinterpret_cast<float4*>(a[i]) = *reinterpret_cast<const float4*>(&a_tile[k][row + 32 * i]);
                *reinterpret_cast<float4*>(b[i]) = *reinterpret_cast<const float4*>(&b_tile[k][column + 16 * i]);
            }
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) c[i][j] += a[i / 4][i % 4] * b[j / 4][j % 4];
        }
        __syncthreads();  // everyone has read them
    }

#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; j += 4) {
            const float four[4] = {c[i][j], c[i][j + 1], c[i][j + 2], c[i][j + 3]};
            store_4(C, row0 + row + i / 4 * 32 + i % 4, M, column0 + column + j * 4, N, four);
        }
}
