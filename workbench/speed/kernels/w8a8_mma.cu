// name: w8a8_mma
// idea: The int8 product is scaled where it leaves the registers: each sum of whole numbers is multiplied with the scale
//       of its token and that of its output channel and stored as fp16, so C in int32 is never written or read again.
// ladder: int8 3
// gain: 1 to 1.2x over int8_mma: half the bytes are stored; the second kernel that int8_mma would need to scale its sums
//       (6 bytes an element) is saved besides, which the baseline shows
// op: Y[M,N] = SX[M] SW[N] (X[M,K] W[N,K]^T)
// operands: X int8, W int8, SX fp32, SW fp32, Y fp16
// pitch: 16
// shapes: any M, N, K; row-major, rows begin at multiples of 16 bytes (the lab pads them); copies beyond an edge bring
//         zeros, stores there are left out
// constants: BM, BN, BK, STAGES, BAND
// grid: ceil(M / BM) * ceil(N / BN)
// block: 256
// shared: STAGES * (BM + BN) * BK
// tolerance: 5e-4
// registers: 255
// requires: IMMA, LDSM, LDGSTS, I2F
// architecture: sm_80
// reference: Dettmers et al. 2022, "LLM.int8()", section 2.2, vector-wise quantization; PTX ISA, "Matrix Fragments for
//            mma.m16n8k32"

#include <cuda_fp16.h>

#include "machine.cuh"

constexpr int BM = 128;  // eight warps in 2 x 4, each with 64x64 of Y
constexpr int BN = 256;
constexpr int BK = 64;  // bytes
constexpr int STAGES = 4;
constexpr int BAND = 8;  // blocks that run together share rows of X and of W in the second-level cache
constexpr int THREADS = 256;

// Rows of 64 bytes, four chunks of 16; the chunk's number, xor half the row's, spreads the eight rows that ldmatrix
// reads at once over all banks without padding.
__device__ __forceinline__ int place(int row, int chunk) { return row * BK + (chunk ^ row / 2 % 4) * 16; }

__device__ __forceinline__ void copy_tile(signed char* tile, const signed char* matrix, int rows_here, int row0, int rows,
                                          int k0, int K) {
    const int pitch = (K + 15) / 16 * 16;
    for (int i = threadIdx.x; i < rows_here * (BK / 16); i += THREADS) {
        const int r = i / (BK / 16), chunk = i % (BK / 16), k = k0 + 16 * chunk;
        const int bytes = row0 + r < rows ? min(16, max(0, K - k)) : 0;
        cp_async_16(tile + place(r, chunk), matrix + (bytes ? (size_t)(row0 + r) * pitch + k : 0), bytes);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
w8a8_mma(const signed char* __restrict__ X, const signed char* __restrict__ W, const float* __restrict__ SX,
         const float* __restrict__ SW, __half* __restrict__ Y, int M, int N, int K) {
    extern __shared__ __align__(128) unsigned char shared[];
    signed char* x_tiles = reinterpret_cast<signed char*>(shared);
    signed char* w_tiles = x_tiles + STAGES * BM * BK;

    // Blocks go down BAND tiles of rows before they go on to the next column.
    const int tiles_m = (M + BM - 1) / BM, tiles_n = (N + BN - 1) / BN;
    const int band = blockIdx.x / (BAND * tiles_n), within = blockIdx.x % (BAND * tiles_n);
    const int high = min(BAND, tiles_m - band * BAND);
    const int row0 = (band * BAND + within % high) * BM, column0 = within / high * BN;

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 64;
    const int steps = (K + BK - 1) / BK;

    for (int s = 0; s < STAGES - 1; ++s) {
        if (s < steps) {
            copy_tile(x_tiles + s * BM * BK, X, BM, row0, M, s * BK, K);
            copy_tile(w_tiles + s * BN * BK, W, BN, column0, N, s * BK, K);
        }
        cp_async_commit();  // an empty group at the end keeps the count right
    }

    int c[4][8][4] = {};
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();  // this thread's copies of the oldest tile have landed
        __syncthreads();              // everyone's have, and everyone is done with the tile before it

        const int next = step + STAGES - 1;
        if (next < steps) {
            copy_tile(x_tiles + next % STAGES * BM * BK, X, BM, row0, M, next * BK, K);
            copy_tile(w_tiles + next % STAGES * BN * BK, W, BN, column0, N, next * BK, K);
        }
        cp_async_commit();

        const signed char* x_tile = x_tiles + step % STAGES * BM * BK;
        const signed char* w_tile = w_tiles + step % STAGES * BN * BK;
#pragma unroll
        for (int k = 0; k < BK / 16; k += 2) {  // in chunks of 16
            unsigned a[4][4], b[8][2];
#pragma unroll
            for (int i = 0; i < 4; ++i) ldmatrix_x4(a[i], x_tile + place(warp_row + 16 * i + lane % 16, k + lane / 16));
#pragma unroll
            for (int j = 0; j < 8; j += 2) {
                unsigned r[4];
                ldmatrix_x4(r, w_tile + place(warp_column + 8 * j + lane / 16 * 8 + lane % 8, k + lane / 8 % 2));
                b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
            }
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) mma_s8(c[i][j], a[i], b[j]);
        }
    }

    // The epilogue: whole numbers up to 2^24 are exact as floats, larger ones are rounded by less than fp16 will do.
    float of_column[8][2];
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) of_column[j][e] = SW[min(column0 + warp_column + 8 * j + lane % 4 * 2 + e, N - 1)];
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = row0 + warp_row + 16 * i + lane / 4 + 8 * half;
            if (row >= M) continue;
            const float of_row = SX[row];
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const int column = column0 + warp_column + 8 * j + lane % 4 * 2;
                const float left = float(c[i][j][2 * half]) * of_row * of_column[j][0];
                const float right = float(c[i][j][2 * half + 1]) * of_row * of_column[j][1];
                __half* to = Y + (size_t)row * N + column;
                if (column + 1 < N && N % 2 == 0) {
                    *reinterpret_cast<__half2*>(to) = __floats2half2_rn(left, right);
                } else {
                    if (column < N) to[0] = __float2half_rn(left);
                    if (column + 1 < N) to[1] = __float2half_rn(right);
                }
            }
        }
}
