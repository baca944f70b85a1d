// name: sparse_mma
// idea: A 2:4 sparse left factor: of every four neighbours two are kept, with two bits each that say which. The tensor core
//       picks the rows of B that belong to them and does the product of 32 columns in the time of 16.
// ladder: sparse 2
// gain: 1.3 to 1.7x over sparse_dense: half the products and half the bytes of A, but all of B through
//       shared memory
// op: C[M,N] = A[M,K] B[N,K]^T
// operands: A bf16, E uint32, B bf16, C fp32
// packing: 2:4
// pitch: 16
// shapes: any M, N, K; rows of B begin at multiples of 16 bytes, A is padded to 32 columns and its metadata to tiles of
//         16 x 32 (the lab does both); copies beyond an edge bring zeros, stores there are left out
// constants: BM, BN, BK, STAGES, BAND
// grid: ceil(M / BM) * ceil(N / BN)
// block: 256
// shared: STAGES * (BM * BK + 2 * BN * BK + BM * BK // 8)
// tolerance: 1e-5
// registers: 255
// requires: HMMA.SP, LDSM, LDGSTS
// architecture: sm_80
// reference: PTX ISA, "mma.sp"; Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks" (section 3)

#include <cuda_bf16.h>

#include "machine.cuh"

constexpr int BM = 128;  // eight warps in 2 x 4, each with 64x64 of C
constexpr int BN = 256;
constexpr int BK = 64;  // columns of the dense matrix
constexpr int STAGES = 2;
constexpr int BAND = 8;  // blocks that run together share rows of A and columns of B in the second-level cache
constexpr int THREADS = 256;

struct Stage {
    __nv_bfloat16 a[BM * BK / 2];  // what is kept
    __nv_bfloat16 b[BN * BK];
    unsigned e[BM * BK / 32];  // [16 rows][32 columns][16 words], see mma_sparse_bf16
};

// Rows of A are 64 bytes (four chunks of 16), those of B 128 (eight). The chunk's number, xor some of the row's, spreads
// the eight rows that ldmatrix reads at once over all banks without padding.
__device__ __forceinline__ int place_a(int row, int chunk) { return row * (BK / 2) + (chunk ^ row / 2 % 4) * 8; }
__device__ __forceinline__ int place_b(int row, int chunk) { return row * BK + (chunk ^ row % 8) * 8; }

// `high` rows of a matrix, `columns` of each; chunks of 8 beyond K elements, and rows beyond `rows`, become zeros.
template <int high, int columns, int (*place)(int, int)>
__device__ __forceinline__ void copy_tile(__nv_bfloat16* tile, const __nv_bfloat16* matrix, int row0, int rows, int k0,
                                          int K) {
    const int pitch = (K + 7) / 8 * 8;
    for (int i = threadIdx.x; i < high * (columns / 8); i += THREADS) {
        const int r = i / (columns / 8), chunk = i % (columns / 8), k = k0 + 8 * chunk;
        const int bytes = row0 + r < rows ? min(16, max(0, 2 * (K - k))) : 0;
        cp_async_16(tile + place(r, chunk), matrix + (bytes ? (size_t)(row0 + r) * pitch + k : 0), bytes);
    }
}

__device__ __forceinline__ void copy_stage(Stage& to, const __nv_bfloat16* A, const unsigned* E, const __nv_bfloat16* B,
                                           int row0, int column0, int k0, int M, int N, int K) {
    const int tiles = (K + 31) / 32;  // of metadata along K
    copy_tile<BM, BK / 2, place_a>(to.a, A, row0, M, k0 / 2, tiles * 16);
    copy_tile<BN, BK, place_b>(to.b, B, column0, N, k0, K);
    if (threadIdx.x < BM * BK / 128) {  // 16 bytes each; where there are no more, other places: zeros stay zeros
        const int words = threadIdx.x * 4, high = row0 / 16 + words / (BK / 2), wide = k0 / 32 + words / 16 % (BK / 32);
        const size_t tile = (size_t)min(high, (M - 1) / 16) * tiles + min(wide, tiles - 1);
        cp_async_16(to.e + words, E + tile * 16 + words % 16);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
sparse_mma(const __nv_bfloat16* __restrict__ A, const unsigned* __restrict__ E, const __nv_bfloat16* __restrict__ B,
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
        if (s < steps) copy_stage(ring[s], A, E, B, row0, column0, s * BK, M, N, K);
        cp_async_commit();  // an empty group at the end keeps the count right
    }

    float c[4][8][4] = {};
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();  // this thread's copies of the oldest stage have landed
        __syncthreads();              // everyone's have, and everyone is done with the stage before it

        const int next = step + STAGES - 1;
        if (next < steps) copy_stage(ring[next % STAGES], A, E, B, row0, column0, next * BK, M, N, K);
        cp_async_commit();

        const Stage& now = ring[step % STAGES];
#pragma unroll
        for (int k = 0; k < BK / 32; ++k) {
            unsigned a[4][4], b[8][4], e[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                ldmatrix_x4(a[i], now.a + place_a(warp_row + 16 * i + lane % 16, 2 * k + lane / 16));
                // Lanes 4g and 4g + 1 hold the places of rows g and g + 8; what the others hold is not looked at.
                e[i] = now.e[((warp_row / 16 + i) * (BK / 32) + k) * 16 + lane / 4 * 2 + lane % 2];
            }
#pragma unroll
            for (int j = 0; j < 8; ++j)
                ldmatrix_x4(b[j], now.b + place_b(warp_column + 8 * j + lane % 8, 4 * k + lane / 8));
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) mma_sparse_bf16(c[i][j], a[i], b[j], e[i]);
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
