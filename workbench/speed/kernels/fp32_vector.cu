// name: fp32_vector
// idea: Loads and stores of 16 bytes. A is turned over on its way into shared memory, so that a thread finds its eight
//       rows side by side there, too: a quarter of the instructions for the same words.
// ladder: fp32 6
// gain: 1.1 to 1.3x over fp32_registers_2d: a quarter of the load instructions takes issue slots from the products
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
// reference: Boehm 2022, "How to Optimize a CUDA Matmul Kernel", kernel 6

#include "fp32_tiles.cuh"

constexpr int BM = 128;  // 16 x 16 threads, 8x8 elements each
constexpr int BN = 128;
constexpr int BK = 8;

extern "C" __global__ void __launch_bounds__(256, 2)
    fp32_vector(const float* __restrict__ A, const float* __restrict__ B, float* __restrict__ C, int M, int N, int K) {
    __shared__ __align__(16) float a_tile[BK][BM];  // column k of A is a row here
    __shared__ __align__(16) float b_tile[BK][BN];

    const int row0 = blockIdx.y * BM, column0 = blockIdx.x * BN;
    const int row = threadIdx.x / 16 * 8, column = threadIdx.x % 16 * 8;  // within the tile
    const int a_row = threadIdx.x / 2, a_k = threadIdx.x % 2 * 4;         // what this thread loads
    const int b_k = threadIdx.x / 32, b_column = threadIdx.x % 32 * 4;

    float c[8][8] = {};
    for (int k0 = 0; k0 < K; k0 += BK) {
        const float4 a4 = load_4(A, row0 + a_row, M, k0 + a_k, K);
        a_tile[a_k + 0][a_row] = a4.x, a_tile[a_k + 1][a_row] = a4.y;
        a_tile[a_k + 2][a_row] = a4.z, a_tile[a_k + 3][a_row] = a4.w;
        *reinterpret_cast<float4*>(&b_tile[b_k][b_column]) = load_4(B, k0 + b_k, K, column0 + b_column, N);
        __syncthreads();  // both tiles are whole

#pragma unroll
        for (int k = 0; k < BK; ++k) {
            float a[8], b[8];
#pragma unroll
            for (int i = 0; i < 8; i += 4) {
                *reinterpret_cast<float4*>(&a[i]) = *reinterpret_cast<const float4*>(&a_tile[k][row + i]);
                *reinterpret_cast<float4*>(&b[i]) = *reinterpret_cast<const float4*>(&b_tile[k][column + i]);
            }
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) c[i][j] += a[i] * b[j];
        }
        __syncthreads();  // everyone has read them
    }

#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; j += 4) {
            const float four[4] = {c[i][j], c[i][j + 1], c[i][j + 2], c[i][j + 3]};
            store_4(C, row0 + row + i, M, column0 + column + j, N, four);
        }
}
