// name: w3_split_k
// idea: Three bits: five pairs fill 15 bits of each half of a word, and the bits left over in three words are the sixteenth
//       pair, so 32 weights take 12 bytes and nothing is wasted.
// ladder: weight-only 13
// gain: 1.1 to 1.3x over w4_split_k: three quarters of the bytes, a few more instructions
// op: Y[M,N] = X[M,K] W[N,K]^T
// operands: X fp16, W uint32, S fp16, Z fp16, Y fp16
// packing: w3-lanes-128
// pitch: 16
// shapes: any M, N, K; rows of X begin at multiples of 16 bytes, codes are padded to 256 columns (both by the lab);
//         activations beyond K are zeros, rows of W beyond N are left out, every row of X is a launch of its own along y
// constants: ROWS, WARPS, GROUP
// grid: ceil(N / ROWS), M
// block: 32 * WARPS
// shared: 0
// tolerance: 1e-3
// registers: 128
// requires: LOP3, HFMA2, STS
// architecture: sm_80
// reference: turboderp, ExLlamaV2 (3-bit codes in words of five pairs)

#include "lowbit.cuh"

constexpr int ROWS = 4;   // of a block
constexpr int WARPS = 4;  // share the columns
constexpr int GROUP = 128;

// The 32 codes of a lane in one block of 256 columns, for each of ROWS rows. A code minus the zero point as a whole
// number is exact in half precision; what is left of it is taken times the sum of the activations, which all rows share.
template <bool edge>
__device__ __forceinline__ void chunk(float (&sum)[ROWS], const __half* x_row, const unsigned* W, const __half* S,
                                      const __half* Z, int row, int rows, int block, int K) {
    const int t = threadIdx.x % 8, groups = (K + GROUP - 1) / GROUP, blocks = (K + 255) / 256;
    Octet x[4];
    float x_sum[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        x[j] = load_octet<edge>(x_row, 256 * block + 64 * j + 8 * t, K);
        x_sum[j] = octet_sum(x[j]);
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        const unsigned at = min(row + r, rows - 1);  // the last row again, where there are no more
        const unsigned* three = W + (at * blocks + block) * 24 + t;
        unsigned groups_of[4];
        Zero zeros[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            groups_of[j] = at * groups + group_of<GROUP, edge>(block, j, t, K);
            zeros[j] = zero_of(Z, groups_of[j]);
        }
        Octet codes[4];
        unpack_3(codes, three[0], three[8], three[16], zeros);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float part = dot_half(codes[j], x[j]) + __low2float(zeros[j].rest) * x_sum[j];
            sum[r] += __half2float(S[groups_of[j]]) * part;
        }
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
w3_split_k(const __half* __restrict__ X, const unsigned* __restrict__ W, const __half* __restrict__ S,
           const __half* __restrict__ Z, __half* __restrict__ Y, int M, int N, int K) {
    __shared__ float part[WARPS][ROWS];

    const int row = blockIdx.x * ROWS, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int blocks = (K + 255) / 256;
    const __half* x_row = X + (size_t)blockIdx.y * ((K + 7) / 8 * 8);

    float sum[ROWS] = {};
    int block = 4 * warp + lane / 8;
    for (; 256 * block + 256 <= K; block += 4 * WARPS) chunk<false>(sum, x_row, W, S, Z, row, N, block, K);
    if (block < blocks) chunk<true>(sum, x_row, W, S, Z, row, N, block, K);
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
