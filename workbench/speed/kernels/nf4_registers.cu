// name: nf4_registers
// idea: The table in registers: PRMT picks four bytes out of eight by four nibbles, and the codes are such nibbles.
//       Values in half precision are two bytes, looked up apart and put together.
// ladder: weight-only 12
// gain: 0.8 to 1.05x over nf4_shared: about three instructions for a weight, but no load, and products in half precision;
//       the bytes, 16 / 4.125 = 3.88x fewer than fp16_gemv's, allow no more
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
// tolerance: 1e-3
// registers: 128
// requires: LDG.E.128, PRMT, HFMA2, STS
// architecture: sm_80
// reference: PTX ISA, "prmt"; Guo et al. 2024, "FLUTE"

#include "lowbit.cuh"

constexpr int ROWS = 4;   // of a block
constexpr int WARPS = 4;  // share the columns
constexpr int GROUP = 128;

// Sixteen halves as bytes: those of four values in a register, low bytes and high bytes apart.
struct Table {
    unsigned low[4], high[4];

    __device__ __forceinline__ explicit Table(const float* T) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            unsigned bits[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) bits[e] = __half_as_ushort(__float2half_rn(T[4 * i + e]));
            const unsigned first = bits[0] | bits[1] << 16, second = bits[2] | bits[3] << 16;
            low[i] = __byte_perm(first, second, 0x6420), high[i] = __byte_perm(first, second, 0x7531);
        }
    }

    // The bytes of four codes, which are the low four nibbles of `codes`: three bits of each pick in both halves of the
    // table, then the fourth picks the half.
    __device__ __forceinline__ static unsigned four(const unsigned (&bytes)[4], unsigned codes) {
        const unsigned place = codes & 0x7777, half = lop3<0xEA>(codes >> 1, 0x4444, 0x3210);
        return __byte_perm(__byte_perm(bytes[0], bytes[1], place), __byte_perm(bytes[2], bytes[3], place), half);
    }

    // Eight codes in pairs 16 bits apart.
    __device__ __forceinline__ Octet look_up(unsigned word) const {
        const unsigned low_0 = four(low, word), high_0 = four(high, word);  // the first of each pair
        const unsigned low_1 = four(low, word >> 16), high_1 = four(high, word >> 16);
        Octet values;
#pragma unroll
        for (int p = 0; p < 4; ++p) {
            const unsigned first = __byte_perm(low_0, high_0, 0x40 + 0x11 * p);
            const unsigned second = __byte_perm(low_1, high_1, 0x40 + 0x11 * p);
            values.pair[p] = as_half2(__byte_perm(first, second, 0x5410));
        }
        return values;
    }
};

// The 32 codes of a lane in one block of 256 columns, for each of ROWS rows.
template <bool edge>
__device__ __forceinline__ void chunk(float (&sum)[ROWS], const __half* x_row, const unsigned* W, const __half* S,
                                      const Table& table, int row, int rows, int block, int K) {
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
            sum[r] += __half2float(S[group]) * dot_half(table.look_up(words[r][j]), x);
        }
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
nf4_registers(const __half* __restrict__ X, const unsigned* __restrict__ W, const __half* __restrict__ S,
              const float* __restrict__ T, __half* __restrict__ Y, int M, int N, int K) {
    __shared__ float part[WARPS][ROWS];

    const int row = blockIdx.x * ROWS, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int blocks = (K + 255) / 256;
    const __half* x_row = X + (size_t)blockIdx.y * ((K + 7) / 8 * 8);

    const Table table(T);
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
