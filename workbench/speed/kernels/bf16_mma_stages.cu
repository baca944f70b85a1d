// name: bf16_mma_stages
// idea: A ring of four tiles: while a block multiplies one, the copies of the next three are under way, so memory and
//       tensor cores work at the same time. A warp takes 64x64 of C, so each fragment is used eight times, not four.
// ladder: tensor 4
// gain: 1.5 to 2.5x over bf16_mma_async: loads hide behind products, and each needs half the reads of shared memory
// op: C[M,N] = A[M,K] B[N,K]^T
// operands: A bf16, B bf16, C fp32
// pitch: 16
// shapes: any M, N, K; row-major, rows of A and B begin at multiples of 16 bytes (the lab pads them); copies beyond an
//         edge bring zeros, stores there are left out
// constants: BM, BN, BK, STAGES, GROUP
// grid: ceil(M / BM) * ceil(N / BN)
// block: 256
// shared: STAGES * (BM + BN) * BK * 2
// tolerance: 1e-5
// registers: 255
// requires: HMMA, LDSM, LDGSTS
// architecture: sm_80
// reference: CUTLASS documentation, "Efficient GEMM in CUDA" (pipelining, threadblock rasterization);
//            PTX ISA, "cp.async"

#include <cuda_bf16.h>

#include "machine.cuh"

constexpr int BM = 128;  // eight warps in 2 x 4, each with 64x64 of C
constexpr int BN = 256;
constexpr int BK = 32;
constexpr int STAGES = 4;
constexpr int GROUP = 8;  // blocks that run together share rows of A and columns of B in the second-level cache
constexpr int THREADS = 256;

// Rows of 64 bytes, four chunks of 16; the chunk's number, xor half the row's, spreads the eight rows that ldmatrix
// reads at once over all banks without padding. 64 rows on, the place is 64 * BK on.
__device__ __forceinline__ int place(int row, int chunk) { return row * BK + (chunk ^ row / 2 % 4) * 8; }

// Two neighbours in a row of C: at once where the whole tile lies inside and rows are aligned, else each if it exists.
template <bool whole>
__device__ __forceinline__ void store_2(float* C, int row, int M, int column, int N, float x, float y) {
    float* to = C + (size_t)row * N + column;
    if (whole) {
        *reinterpret_cast<float2*>(to) = make_float2(x, y);
    } else if (row < M) {
        if (column < N) to[0] = x;
        if (column + 1 < N) to[1] = y;
    }
}

template <bool whole>
__device__ __forceinline__ void store_fragments(float* C, const float (&c)[4][8][4], int row, int M, int column,
                                                int N) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j)
#pragma unroll
            for (int half = 0; half < 4; half += 2)
                store_2<whole>(C, row + 16 * i + 4 * half, M, column + 8 * j, N, c[i][j][half], c[i][j][half + 1]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    bf16_mma_stages(const __nv_bfloat16* __restrict__ A, const __nv_bfloat16* __restrict__ B, float* __restrict__ C,
                    int M, int N, int K) {
    extern __shared__ __align__(128) unsigned char shared[];
    __nv_bfloat16* a_tiles = reinterpret_cast<__nv_bfloat16*>(shared);
    __nv_bfloat16* b_tiles = a_tiles + STAGES * BM * BK;

    // Blocks go down GROUP tiles of rows before they go on to the next column.
    const int tiles_m = (M + BM - 1) / BM, tiles_n = (N + BN - 1) / BN;
    const int band = blockIdx.x / (GROUP * tiles_n), within = blockIdx.x % (GROUP * tiles_n);
    const int high = min(GROUP, tiles_m - band * GROUP);
    const int row0 = (band * GROUP + within % high) * BM, column0 = within / high * BN;

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 64;
    const int steps = (K + BK - 1) / BK;

    // What this thread copies: one chunk of every 64th row. A row beyond the edge is the last one again: what comes of
    // it is not stored.
    const int own_row = threadIdx.x / 4, own_k = threadIdx.x % 4 * 8, own_place = place(own_row, threadIdx.x % 4);
    const size_t pitch = (K + 7) / 8 * 8;
    const __nv_bfloat16 *a_from[BM / 64], *b_from[BN / 64];
#pragma unroll
    for (int i = 0; i < BM / 64; ++i) a_from[i] = A + min(row0 + own_row + 64 * i, M - 1) * pitch + own_k;
#pragma unroll
    for (int i = 0; i < BN / 64; ++i) b_from[i] = B + min(column0 + own_row + 64 * i, N - 1) * pitch + own_k;
    auto copy = [&](int step) {
        const int bytes = min(16, max(0, 2 * (K - step * BK - own_k)));  // beyond K: zeros
        __nv_bfloat16* a_to = a_tiles + step % STAGES * BM * BK + own_place;
        __nv_bfloat16* b_to = b_tiles + step % STAGES * BN * BK + own_place;
#pragma unroll
        for (int i = 0; i < BM / 64; ++i) cp_async_16(a_to + i * 64 * BK, a_from[i] + step * BK, bytes);
#pragma unroll
        for (int i = 0; i < BN / 64; ++i) cp_async_16(b_to + i * 64 * BK, b_from[i] + step * BK, bytes);
    };

    for (int s = 0; s < STAGES - 1; ++s) {
        if (s < steps) copy(s);
        cp_async_commit();  // an empty group at the end keeps the count right
    }

    // Where this lane's rows of a fragment begin, for the first and the second 16 columns of a step.
    int a_at[2], b_at[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
        a_at[k] = place(warp_row + lane % 16, 2 * k + lane / 16);
        b_at[k] = place(warp_column + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2);
    }

    float c[4][8][4] = {};
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();  // this thread's copies of the oldest tile have landed
        __syncthreads();              // everyone's have, and everyone is done with the tile before it
        if (step + STAGES - 1 < steps) copy(step + STAGES - 1);
        cp_async_commit();

        const __nv_bfloat16* a_tile = a_tiles + step % STAGES * BM * BK;
        const __nv_bfloat16* b_tile = b_tiles + step % STAGES * BN * BK;
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            unsigned a[4][4], b[8][2];
#pragma unroll
            for (int i = 0; i < 4; ++i) ldmatrix_x4(a[i], a_tile + a_at[k] + 16 * i * BK);
#pragma unroll
            for (int j = 0; j < 8; j += 2) {  // two times 8 columns of B at once
                unsigned r[4];
                ldmatrix_x4(r, b_tile + b_at[k] + 8 * j * BK);
                b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
            }
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) mma_bf16(c[i][j], a[i], b[j]);
        }
    }

    const int row = row0 + warp_row + lane / 4, column = column0 + warp_column + lane % 4 * 2;
    if (row0 + BM <= M && column0 + BN <= N && N % 2 == 0) {
        store_fragments<true>(C, c, row, M, column, N);
    } else {
        store_fragments<false>(C, c, row, M, column, N);
    }
}
