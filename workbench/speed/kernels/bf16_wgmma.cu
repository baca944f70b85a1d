// name: bf16_wgmma
// idea: Warps specialise: one thread asks the TMA for whole tiles, two warpgroups do nothing but multiply from shared
//       memory, 64x256 of C each. No thread computes addresses of operands, and registers move to those who multiply.
// ladder: tensor 5
// gain: 1.4 to 1.8x over bf16_mma_stages: mma.sync reaches about 62 % of what the tensor cores of an H100 can do
// op: C[M,N] = A[M,K] B[N,K]^T
// operands: A bf16, B bf16, C fp32
// pitch: 16
// maps: A BM BK, B BN BK
// shapes: any M, N, K; row-major, rows of A and B begin at multiples of 16 bytes (the lab pads them); the TMA brings
//         zeros for what lies beyond an edge, stores there are left out
// constants: BM, BN, BK, STAGES, GROUP
// grid: ceil(M / BM) * ceil(N / BN)
// block: 384
// shared: STAGES * ((BM + BN) * BK * 2 + 16)
// tolerance: 1e-5
// registers: 168
// requires: HGMMA, UTMALDG, SYNCS, USETMAXREG
// architecture: sm_90a
// reference: PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions" and "Tensor Copies"; CUTLASS 3,
//            "Warp-specialized kernels"; Shah 2024, "Fast CUDA: outperforming cuBLAS on H100", kernels 4 and 5

#include <cuda_bf16.h>

#include "machine.cuh"

constexpr int BM = 128;  // two warpgroups of 64 rows
constexpr int BN = 256;
constexpr int BK = 64;  // 128 bytes: one row of the swizzle
constexpr int STAGES = 4;
constexpr int GROUP = 16;  // blocks that run together share rows of A and columns of B in the second-level cache
constexpr int MULTIPLYING_WARPS = 8;

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
    bf16_wgmma(const __grid_constant__ CUtensorMap A, const __grid_constant__ CUtensorMap B, float* __restrict__ C,
               int M, int N, int K) {
    extern __shared__ __align__(1024) unsigned char shared[];
    __nv_bfloat16* a_tiles = reinterpret_cast<__nv_bfloat16*>(shared);
    __nv_bfloat16* b_tiles = a_tiles + STAGES * BM * BK;
    mbarrier* full = reinterpret_cast<mbarrier*>(b_tiles + STAGES * BN * BK);  // a tile has landed
    mbarrier* empty = full + STAGES;                                           // every warp has read it

    const int tiles_m = (M + BM - 1) / BM, tiles_n = (N + BN - 1) / BN, steps = (K + BK - 1) / BK;
    const int band = blockIdx.x / (GROUP * tiles_n), within = blockIdx.x % (GROUP * tiles_n);
    const int high = min(GROUP, tiles_m - band * GROUP);
    const int row0 = (band * GROUP + within % high) * BM, column0 = within / high * BN;

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
            for (int step = 0; step < steps; ++step) {
                const int s = step % STAGES;
                mbarrier_wait(&empty[s], step / STAGES % 2 ^ 1);  // at once in the first round
                mbarrier_expect(&full[s], (BM + BN) * BK * 2);
                tma_load_2d(a_tiles + s * BM * BK, &A, &full[s], step * BK, row0);
                tma_load_2d(b_tiles + s * BN * BK, &B, &full[s], step * BK, column0);
            }
        }
        return;
    }

    setmaxnreg_inc<232>();
    const int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    float c[BN / 2];
    for (int step = 0; step < steps; ++step) {
        const int s = step % STAGES;
        mbarrier_wait(&full[s], step / STAGES % 2);
        const unsigned long long a = wgmma_descriptor(a_tiles + s * BM * BK + group * 64 * BK);
        const unsigned long long b = wgmma_descriptor(b_tiles + s * BN * BK);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < BK / 16; ++k)  // 16 columns are 32 bytes on, 2 in the units of a descriptor
            wgmma_m64n256k16_bf16(c, a + 2 * k, b + 2 * k, step + k > 0);
        wgmma_commit();
        wgmma_wait<1>();  // the products of the step before are done, these go on
        if (lane == 0 && step > 0) mbarrier_arrive(&empty[(step - 1) % STAGES]);
    }
    wgmma_wait<0>();

    const int row = row0 + 64 * group + 16 * warp + lane / 4, column = column0 + lane % 4 * 2;
    if (row0 + BM <= M && column0 + BN <= N && N % 2 == 0) {
        store_tile<true>(C, c, row, M, column, N);
    } else {
        store_tile<false>(C, c, row, M, column, N);
    }
}
