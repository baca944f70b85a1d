// name: nf4_shared
// idea: Any sixteen values: the code is an index into a table of floats in shared memory. Sixteen words lie in sixteen
//       banks, so the lanes never wait for one another.
// ladder: weight-only 11
// gain: 0.7 to 0.95x over w4_split_k: a load from shared memory for each weight is what the freedom of a table costs
// op: Y[M,N] = X[M,K] W[N,K]^T
// operands: X fp16, W uint32, S fp16, T fp32, Y fp16
// packing: nf4-lanes-128
// pitch: 16
// shapes: any M, N, K; rows of X begin at multiples of 16 bytes, codes are padded to 256 columns (both by the lab);
//         activations beyond K are zeros, rows of W beyond N are left out, every row of X is a launch of its own along y
// constants: ROWS, WARPS, GROUP
// grid: ceil(N / ROWS), M
// block: 32 * WARPS
// shared: 0
// tolerance: 5e-4
// registers: 128
// requires: LDG.E.128, LDS
// architecture: sm_80
// reference: Dettmers et al. 2023, "QLoRA" (NF4); Guo et al. 2024, "FLUTE" (tables in shared memory)

#include "lowbit.cuh"

constexpr int ROWS = 4;   // of a block
constexpr int WARPS = 4;  // share the columns
constexpr int GROUP = 128;

// The 32 codes of a lane in one block of 256 columns, for each of ROWS rows.
template <bool edge>
__device__ __forceinline__ void chunk(float (&sum)[ROWS], const __half* x_row, const unsigned* W, const __half* S,
                                      const float* table, int row, int rows, int block, int K) {
    const int t = threadIdx.x % 8, groups = (K + GROUP - 1) / GROUP, blocks = (K + 255) / 256;
    unsigned words[ROWS][4];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {  // the last row again, where there are no more
        const unsigned at = min(row + r, rows - 1);
        const uint4 four = *reinterpret_cast<const uint4*>(W + (at * blocks + block) * 32 + 4 * t);
        words[r][0] = four.x, words[r][1] = four.y, words[r][2] = four.z, words[r][3] = four.w;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const Octet x = load_octet<edge>(x_row, 256 * block + 64 * j + 8 * t, K);
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            const unsigned group = min(row + r, rows - 1) * groups + group_of<GROUP, edge>(block, j, t, K);
            float part = 0;
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const float value = table[words[r][j] >> (4 * (i / 2) + 16 * (i % 2)) & 15];
                part += value * (i % 2 ? __high2float(x.pair[i / 2]) : __low2float(x.pair[i / 2]));
            }
            sum[r] += __half2float(S[group]) * part;
        }
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
nf4_shared(const __half* __restrict__ X, const unsigned* __restrict__ W, const __half* __restrict__ S,
           const float* __restrict__ T, __half* __restrict__ Y, int M, int N, int K) {
    __shared__ float part[WARPS][ROWS];
    __shared__ float table[16];

    const int row = blockIdx.x * ROWS, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int blocks = (K + 255) / 256;
    const __half* x_row = X + (size_t)blockIdx.y * ((K + 7) / 8 * 8);

    if (threadIdx.x < 16) table[threadIdx.x] = T[threadIdx.x];
    __syncthreads();  // the table is whole

    float sum[ROWS] = {};
    int block = 4 * warp + lane / 8;
    for (; 256 * block + 256 <= K; block += 4 * WARPS) chunk<false>(sum, x_row, W, S, table, row, N, block, K);
    if (block < blocks) chunk<true>(sum, x_row, W, S, table, row, N, block, K);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        const float all = warp_sum(sum[r]);
        if (lane == 0) part[warp][r] = all;
    }
    __syncthreads();  // every warp has written its part
    if (threadIdx.x < ROWS && row + threadIdx.x < N) {
        float all = 0;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) all += part[w][threadIdx.x];
        Y[(size_t)blockIdx.y * N + row + threadIdx.x] = __float2half_rn(all);
    }
}
