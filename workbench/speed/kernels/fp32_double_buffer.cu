// name: fp32_double_buffer
// idea: Two tiles of each operand: while a block multiplies one, the next is on its way from memory into registers, and
//       goes into the other before the one barrier of the step.
// ladder: fp32 8
// gain: 1.05 to 1.3x over fp32_warp_tile: the wait for memory hides behind the products, and one barrier of two is gone
// op: C[M,N] = A[M,K] B[K,N]
// operands: A fp32, B fp32, C fp32
// pitch: 16
// shapes: any M, N, K; row-major, rows of A and B begin at multiples of 16 bytes (the lab pads them); loads beyond an
//         edge give zeros, stores there are left out
// constants: BM, BN, GROUP
// grid: ceil(M / BM) * ceil(N / BN)
// block: 256
// shared: 0
// tolerance: 5e-6
// registers: 128
// requires: FFMA, LDS.128, LDG.E.128
// architecture: sm_50
// reference: CUTLASS documentation, "Efficient GEMM in CUDA" (pipelining)

#include "fp32_tiles.cuh"

constexpr int BM = 128;  // eight warps in 2 x 4, each with 64x32 of C
constexpr int BN = 128;
constexpr int BK = 16;
constexpr int PITCH = BM + 4;
constexpr int GROUP = 8;  // blocks that run together share rows of A and columns of B in the second-level cache

extern "C" __global__ void __launch_bounds__(256, 2)
    fp32_double_buffer(const float* __restrict__ A, const float* __restrict__ B, float* __restrict__ C, int M, int N,
                       int K) {
    __shared__ __align__(16) float a_tile[2][BK][PITCH];  // column k of A is a row here
    __shared__ __align__(16) float b_tile[2][BK][BN];

    // Blocks go down GROUP tiles of rows before they go on to the next column.
    const int tiles_m = (M + BM - 1) / BM, tiles_n = (N + BN - 1) / BN;
    const int band = blockIdx.x / (GROUP * tiles_n), within = blockIdx.x % (GROUP * tiles_n);
    const int high = min(GROUP, tiles_m - band * GROUP);
    const int row0 = (band * GROUP + within % high) * BM, column0 = within / high * BN;

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row = warp / 4 * 64 + lane / 4 * 4, column = warp % 4 * 32 + lane % 4 * 4;  // and 32 rows, 16 columns on
    const int a_row = threadIdx.x / 4, a_k = threadIdx.x % 4 * 4;       // what this thread loads, and 64 rows on
    const int b_k = threadIdx.x / 32, b_column = threadIdx.x % 32 * 4;  // and 8 rows on

    float4 a4[2], b4[2];
    auto load = [&](int k0) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            a4[i] = load_4(A, row0 + a_row + 64 * i, M, k0 + a_k, K);
            b4[i] = load_4(B, k0 + b_k + 8 * i, K, column0 + b_column, N);
        }
    };
    auto keep = [&](int buffer) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int r = a_row + 64 * i;
            a_tile[buffer][a_k + 0][r] = a4[i].x, a_tile[buffer][a_k + 1][r] = a4[i].y;
            a_tile[buffer][a_k + 2][r] = a4[i].z, a_tile[buffer][a_k + 3][r] = a4[i].w;
            *reinterpret_cast<float4*>(&b_tile[buffer][b_k + 8 * i][b_column]) = b4[i];
        }
    };

    load(0);
    keep(0);
    __syncthreads();  // the first tiles are whole

    float c[8][8] = {};
    for (int k0 = 0, buffer = 0; k0 < K; k0 += BK, buffer ^= 1) {
        if (k0 + BK < K) load(k0 + BK);
#pragma unroll
        for (int k = 0; k < BK; ++k) {
            float a[2][4], b[2][4];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                *reinterpret_cast<float4*>(a[i]) = *reinterpret_cast<const float4*>(&a_tile[buffer][k][row + 32 * i]);
                *reinterpret_cast<float4*>(b[i]) =
                    *reinterpret_cast<const float4*>(&b_tile[buffer][k][column + 16 * i]);
            }
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) c[i][j] += a[i / 4][i % 4] * b[j / 4][j % 4];
        }
        if (k0 + BK < K) keep(buffer ^ 1);
        __syncthreads();  // the next tiles are whole, and everyone has read these
    }

#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; j += 4) {
            const float four[4] = {c[i][j], c[i][j + 1], c[i][j + 2], c[i][j + 3]};
            store_4(C, row0 + row + i / 4 * 32 + i % 4, M, column0 + column + j * 4, N, four);
        }
}
