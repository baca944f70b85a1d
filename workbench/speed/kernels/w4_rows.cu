// name: w4_rows
// idea: A warp takes four rows of W: activations are read and summed once for four, and four loads of weights are under
//       way at the same time. With their sum the zero point costs one product for eight weights.
// ladder: weight-only 7
// gain: 1 to 1.07x over w4_hfma2: a quarter of the loads of activations, and no subtraction for each pair; little is left
//       to memory's limit
// op: Y[M,N] = X[M,K] W[N,K]^T
// operands: X fp16, W uint32, S fp16, Z fp16, Y fp16
// packing: w4-lanes-128
// pitch: 16
// shapes: any M, N, K; rows of X begin at multiples of 16 bytes, codes are padded to 256 columns (both by the lab);
//         activations beyond K are zeros, rows of W beyond N are left out, every row of X is a launch of its own along y
// constants: ROWS, WARPS, GROUP
// grid: ceil(N / (ROWS * WARPS)), M
// block: 32 * WARPS
// shared: 0
// tolerance: 1e-3
// registers: 128
// requires: LDG.E.128, LOP3, HFMA2, SHFL
// architecture: sm_80
// reference: Frantar et al. 2024, "MARLIN", section 3

#include "lowbit.cuh"

constexpr int ROWS = 4;   // of a warp
constexpr int WARPS = 4;
constexpr int GROUP = 128;

// The 32 codes of a lane in one block of 256 columns, for each of ROWS rows. A code minus the zero point as a whole
// number is exact in half precision; what is left of it is taken times the sum of the activations, which all rows share.
template <bool edge>
__device__ __forceinline__ void chunk(float (&sum)[ROWS], const __half* x_row, const unsigned* W, const __half* S,
                                      const __half* Z, int row, int rows, int block, int K) {
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
        const float x_sum = octet_sum(x);
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            const unsigned group = min(row + r, rows - 1) * groups + group_of<GROUP, edge>(block, j, t, K);
            const Zero zero = zero_of(Z, group);
            const float part = dot_half(unpack_4(words[r][j], zero.shift), x);
            sum[r] += __half2float(S[group]) * (part + __low2float(zero.rest) * x_sum);
        }
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
w4_rows(const __half* __restrict__ X, const unsigned* __restrict__ W, const __half* __restrict__ S,
        const __half* __restrict__ Z, __half* __restrict__ Y, int M, int N, int K) {
    const int row = (blockIdx.x * WARPS + threadIdx.x / 32) * ROWS, lane = threadIdx.x % 32;
    if (row >= N) return;  // all lanes of the warp
    const int blocks = (K + 255) / 256;
    const __half* x_row = X + (size_t)blockIdx.y * ((K + 7) / 8 * 8);

    float sum[ROWS] = {};
    int block = lane / 8;
    for (; 256 * block + 256 <= K; block += 4) chunk<false>(sum, x_row, W, S, Z, row, N, block, K);
    if (block < blocks) chunk<true>(sum, x_row, W, S, Z, row, N, block, K);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        const float all = warp_sum(sum[r]);
        if (lane == 0 && row + r < N) Y[(size_t)blockIdx.y * N + row + r] = __float2half_rn(all);
    }
}
