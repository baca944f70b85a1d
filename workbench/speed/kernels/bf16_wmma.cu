// name: bf16_wmma
// idea: A warp multiplies 16x16 tiles with one instruction of the tensor cores. The fragments of wmma hide which lane
//       holds what, and so everything goes through shared memory in the order of rows.
// ladder: tensor 1
// gain: none: the first rung
// op: C[M,N] = A[M,K] B[N,K]^T
// operands: A bf16, B bf16, C fp32
// shapes: any M, N, K; row-major, rows without gaps; loads beyond an edge give zeros, stores there are left out
// constants: BM, BN, BK
// grid: ceil(N / BN), ceil(M / BM)
// block: 128
// shared: 0
// tolerance: 1e-5
// registers: 128
// requires: HMMA
// architecture: sm_80
// reference: CUDA C++ Programming Guide, "Warp Matrix Functions"

#include <cuda_bf16.h>
#include <mma.h>
using namespace nvcuda;

constexpr int BM = 64;  // four warps, each with 32x32 of C
constexpr int BN = 64;
constexpr int BK = 32;
constexpr int PITCH = BK + 8;  // 80 bytes: eight rows of 16 bytes lie in different banks

extern "C" __global__ void __launch_bounds__(128)
    bf16_wmma(const __nv_bfloat16* __restrict__ A, const __nv_bfloat16* __restrict__ B, float* __restrict__ C, int M,
              int N, int K) {
    __shared__ __align__(32) __nv_bfloat16 a_tile[BM * PITCH];
    __shared__ __align__(32) __nv_bfloat16 b_tile[BN * PITCH];
    __shared__ __align__(32) float c_tile[4][16 * 16];

    const int row0 = blockIdx.y * BM, column0 = blockIdx.x * BN;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;

    wmma::fragment<wmma::accumulator, 16, 16, 16, float> c[2][2];
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) wmma::fill_fragment(c[i][j], 0.0f);

    for (int k0 = 0; k0 < K; k0 += BK) {
#pragma unroll
        for (int i = 0; i < BM * BK / 128; ++i) {  // BM = BN: one loop for both, four rows at once
            const int r = 4 * i + threadIdx.x / BK, k = threadIdx.x % BK;
            const bool inside = k0 + k < K;
            const __nv_bfloat16 zero = __float2bfloat16(0.0f);
            a_tile[r * PITCH + k] = inside && row0 + r < M ? A[(size_t)(row0 + r) * K + k0 + k] : zero;
            b_tile[r * PITCH + k] = inside && column0 + r < N ? B[(size_t)(column0 + r) * K + k0 + k] : zero;
        }
        __syncthreads();  // both tiles are whole

        for (int k = 0; k < BK; k += 16) {
            wmma::fragment<wmma::matrix_a, 16, 16, 16, __nv_bfloat16, wmma::row_major> a[2];
            wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, wmma::col_major> b[2];  // B^T: columns of K
            for (int i = 0; i < 2; ++i) {
                wmma::load_matrix_sync(a[i], &a_tile[(warp_row + 16 * i) * PITCH + k], PITCH);
                wmma::load_matrix_sync(b[i], &b_tile[(warp_column + 16 * i) * PITCH + k], PITCH);
            }
            for (int i = 0; i < 2; ++i)
                for (int j = 0; j < 2; ++j) wmma::mma_sync(c[i][j], a[i], b[j], c[i][j]);
        }
        __syncthreads();  // everyone has read them
    }

    // Through shared memory, because only there it is known which element is which.
    for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 2; ++j) {
            wmma::store_matrix_sync(c_tile[warp], c[i][j], 16, wmma::mem_row_major);
            __syncwarp();  // the other lanes' elements are there
            for (int e = lane; e < 256; e += 32) {
                const int row = row0 + warp_row + 16 * i + e / 16, column = column0 + warp_column + 16 * j + e % 16;
                if (row < M && column < N) C[(size_t)row * N + column] = c_tile[warp][e];
            }
            __syncwarp();  // all are read before the next 16x16 overwrite them
        }
    }
}
