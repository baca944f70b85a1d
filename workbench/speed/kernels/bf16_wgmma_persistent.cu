// name: bf16_wgmma_persistent
// idea: One block for each multiprocessor stays and takes tile after tile: while two warpgroups store their results,
//       the thread that loads already fills the ring for the next tile, so the tensor cores wait for it only once.
// ladder: tensor 6
// gain: 1.05 to 1.15x over bf16_wgmma: filling the ring and storing no longer stand between two tiles
// op: C[M,N] = A[M,K] B[N,K]^T
// operands: A bf16, B bf16, C fp32
// pitch: 16
// maps: A BM BK, B BN BK
// shapes: any M, N, K; row-major, rows of A and B begin at multiples of 16 bytes (the lab pads them); the TMA brings
//         zeros for what lies beyond an edge, stores there are left out
// constants: BM, BN, BK, STAGES, GROUP, BLOCKS
// grid: BLOCKS
// block: 384
// shared: STAGES * ((BM + BN) * BK * 2 + 16)
// tolerance: 1e-5
// registers: 168
// requires: HGMMA, UTMALDG, SYNCS, USETMAXREG
// architecture: sm_90a
// reference: CUTLASS 3, "Persistent kernels"; Shah 2024, "Fast CUDA: outperforming cuBLAS on H100", kernel 6

#include <cuda_bf16.h>

#include "machine.cuh"

constexpr int BM = 128;  // two warpgroups of 64 rows
constexpr int BN = 256;
constexpr int BK = 64;  // 128 bytes: one row of the swizzle
constexpr int STAGES = 4;
constexpr int GROUP = 16;    // tiles that are worked on together share rows of A and columns of B in the cache
constexpr int BLOCKS = 132;  // multiprocessors of an H100 SXM or H200; others work, less evenly
constexpr int MULTIPLYING_WARPS = 8;

// First row of A and of B of a tile: tiles go down GROUP of rows before they go on to the next column.
__device__ __forceinline__ int2 corner_of(int tile, int tiles_m, int tiles_n) {
    const int band = tile / (GROUP * tiles_n), within = tile % (GROUP * tiles_n);
    const int high = min(GROUP, tiles_m - band * GROUP);
    return make_int2((band * GROUP + within % high) * BM, within / high * BN);
}

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
__device__ __forceinline__ void store_tile(float* C, const float (&c)[BN / 2], int row, int M, int column, int N) {
#pragma unroll
    for (int q = 0; q < BN / 8; ++q)
#pragma unroll
        for (int half = 0; half < 4; half += 2)
            store_2<whole>(C, row + 4 * half, M, column + 8 * q, N, c[4 * q + half], c[4 * q + half + 1]);
}

extern "C" __global__ void __launch_bounds__(384, 1)
    bf16_wgmma_persistent(const __grid_constant__ CUtensorMap A, const __grid_constant__ CUtensorMap B,
                          float* __restrict__ C, int M, int N, int K) {
    extern __shared__ __align__(1024) unsigned char shared[];
    __nv_bfloat16* a_tiles = reinterpret_cast<__nv_bfloat16*>(shared);
    __nv_bfloat16* b_tiles = a_tiles + STAGES * BM * BK;
    mbarrier* full = reinterpret_cast<mbarrier*>(b_tiles + STAGES * BN * BK);  // a tile has landed
    mbarrier* empty = full + STAGES;                                           // every warp has read it

    const int tiles_m = (M + BM - 1) / BM, tiles_n = (N + BN - 1) / BN, steps = (K + BK - 1) / BK;

    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; ++s) {
            mbarrier_init(&full[s], 1);
            mbarrier_init(&empty[s], MULTIPLYING_WARPS);
        }
        mbarrier_init_fence();
    }
    __syncthreads();  // nobody comes to an mbarrier that is none yet

    if (threadIdx.x < 128) {  // the warpgroup that loads; one thread of it is enough
        setmaxnreg_dec<40>();
        if (threadIdx.x == 0) {
            int turn = 0;  // goes on from tile to tile
            for (int tile = blockIdx.x; tile < tiles_m * tiles_n; tile += BLOCKS) {
                const int2 corner = corner_of(tile, tiles_m, tiles_n);
                for (int step = 0; step < steps; ++step, ++turn) {
                    const int s = turn % STAGES;
                    mbarrier_wait(&empty[s], turn / STAGES % 2 ^ 1);  // at once in the first round
                    mbarrier_expect(&full[s], (BM + BN) * BK * 2);
                    tma_load_2d(a_tiles + s * BM * BK, &A, &full[s], step * BK, corner.x);
                    tma_load_2d(b_tiles + s * BN * BK, &B, &full[s], step * BK, corner.y);
                }
            }
        }
        return;
    }

    setmaxnreg_inc<232>();
    const int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    int turn = 0;
    for (int tile = blockIdx.x; tile < tiles_m * tiles_n; tile += BLOCKS) {
        float c[BN / 2];
        for (int step = 0; step < steps; ++step, ++turn) {
            const int s = turn % STAGES;
            mbarrier_wait(&full[s], turn / STAGES % 2);
            const unsigned long long a = wgmma_descriptor(a_tiles + s * BM * BK + group * 64 * BK);
            const unsigned long long b = wgmma_descriptor(b_tiles + s * BN * BK);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < BK / 16; ++k)  // 16 columns are 32 bytes on, 2 in the units of a descriptor
                wgmma_m64n256k16_bf16(c, a + 2 * k, b + 2 * k, step + k > 0);
            wgmma_commit();
            wgmma_wait<1>();  // the products of the step before are done, these go on
            if (lane == 0 && step > 0) mbarrier_arrive(&empty[(turn - 1) % STAGES]);
        }
        wgmma_wait<0>();
        if (lane == 0) mbarrier_arrive(&empty[(turn - 1) % STAGES]);  // loads go on while this tile is stored

        const int2 corner = corner_of(tile, tiles_m, tiles_n);
        const int row = corner.x + 64 * group + 16 * warp + lane / 4, column = corner.y + lane % 4 * 2;
        if (corner.x + BM <= M && corner.y + BN <= N && N % 2 == 0) {
            store_tile<true>(C, c, row, M, column, N);
        } else {
            store_tile<false>(C, c, row, M, column, N);
        }
    }
}
