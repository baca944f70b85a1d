// name: sparse_dense
// idea: The dense product in the tile of sparse_mma, so that the ratio of the two is what sparsity brings.
// ladder: sparse 1
// gain: none: the first rung, the dense twin
// op: C[M,N] = A[M,K] B[N,K]^T
// operands: A bf16, B bf16, C fp32
// pitch: 16
// shapes: any M, N, K; row-major, rows begin at multiples of 16 bytes (the lab pads them); copies beyond an edge bring
//         zeros, stores there are left out
// constants: BM, BN, BK, STAGES, BAND
// grid: ceil(M / BM) * ceil(N / BN)
// block: 256
// shared: STAGES * 2 * (BM + BN) * BK
// tolerance: 1e-5
// registers: 255
// requires: HMMA, LDSM, LDGSTS
// architecture: sm_80
// reference: CUTLASS documentation, "Efficient GEMM in CUDA"; PTX ISA, "cp.async"

#include <cuda_bf16.h>

#include "machine.cuh"

constexpr int BM = 128;  // eight warps in 2 x 4, each with 64x64 of C
constexpr int BN = 256;
constexpr int BK = 64;  // columns of the dense matrix
constexpr int STAGES = 2;
constexpr int BAND = 8;  // blocks that run together share rows of A and columns of B in the second-level cache
constexpr int THREADS = 256;

struct Stage {
    __nv_bfloat16 a[BM * BK];
    __nv_bfloat16 b[BN * BK];
};

// Rows of 128 bytes, eight chunks of 16; the chunk's number, xor the row's, spreads the eight rows that ldmatrix reads at
// once over all banks without padding.
__device__ __forceinline__ int place(int row, int chunk) { return row * BK + (chunk ^ row % 8) * 8; }

// `high` rows of a matrix; what is beyond it becomes zeros.
template <int high>
__device__ __forceinline__ void copy_tile(__nv_bfloat16* tile, const __nv_bfloat16* matrix, int row0, int rows, int k0,
                                          int K) {
    const int pitch = (K + 7) / 8 * 8;
    for (int i = threadIdx.x; i < high * (BK / 8); i += THREADS) {
        const int r = i / (BK / 8), chunk = i % (BK / 8), k = k0 + 8 * chunk;
        const int bytes = row0 + r < rows ? min(16, max(0, 2 * (K - k))) : 0;
        cp_async_16(tile + place(r, chunk), matrix + (bytes ? (size_t)(row0 + r) * pitch + k : 0), bytes);
    }
}

__device__ __forceinline__ void copy_stage(Stage& to, const __nv_bfloat16* A, const __nv_bfloat16* B, int row0, int column0,
                                           int k0, int M, int N, int K) {
    copy_tile<BM>(to.a, A, row0, M, k0, K);
    copy_tile<BN>(to.b, B, column0, N, k0, K);
}

extern "C" __global__ void __launch_bounds__(THREADS)
sparse_dense(const __nv_bfloat16* __restrict__ A, const __nv_bfloat16* __restrict__ B,
             float* __restrict__ C, int M, int N, int K) {
    extern __shared__ __align__(128) unsigned char shared[];
    Stage* ring = reinterpret_cast<Stage*>(shared);

    // Blocks go down BAND tiles of rows before they go on to the next column.
    const int tiles_m = (M + BM - 1) / BM, tiles_n = (N + BN - 1) / BN;
    const int band = blockIdx.x / (BAND * tiles_n), within = blockIdx.x % (BAND * tiles_n);
    const int high = min(BAND, tiles_m - band * BAND);
    const int row0 = (band * BAND + within % high) * BM, column0 = within / high * BN;

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 64;
    const int steps = (K + BK - 1) / BK;

    for (int s = 0; s < STAGES - 1; ++s) {
        if (s < steps) copy_stage(ring[s], A, B, row0, column0, s * BK, M, N, K);
        cp_async_commit();  // an empty group at the end keeps the count right
    }

    float c[4][8][4] = {};
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();  // this thread's copies of the oldest stage have landed
        __syncthreads();              // everyone's have, and everyone is done with the stage before it

        const int next = step + STAGES - 1;
        if (next < steps) copy_stage(ring[next % STAGES], A, B, row0, column0, next * BK, M, N, K);
        cp_async_commit();

        const Stage& now = ring[step % STAGES];
#pragma unroll
        for (int k = 0; k < BK / 8; k += 2) {  // in chunks of 8
            unsigned a[4][4], b[8][2];
#pragma unroll
            for (int i = 0; i < 4; ++i) ldmatrix_x4(a[i], now.a + place(warp_row + 16 * i + lane % 16, k + lane / 16));
#pragma unroll
            for (int j = 0; j < 8; j += 2) {
                unsigned r[4];
                ldmatrix_x4(r, now.b + place(warp_column + 8 * j + lane / 16 * 8 + lane % 8, k + lane / 8 % 2));
                b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
            }
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) mma_bf16(c[i][j], a[i], b[j]);
        }
    }

#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = row0 + warp_row + 16 * i + lane / 4 + 8 * half;
                const int column = column0 + warp_column + 8 * j + lane % 4 * 2;
                if (row >= M) continue;
                float* to = C + (size_t)row * N + column;
                if (column + 1 < N && N % 2 == 0) {
                    *reinterpret_cast<float2*>(to) = make_float2(c[i][j][2 * half], c[i][j][2 * half + 1]);
                } else {
                    if (column < N) to[0] = c[i][j][2 * half];
                    if (column + 1 < N) to[1] = c[i][j][2 * half + 1];
                }
            }
}
