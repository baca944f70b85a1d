// name: int8_dp4a
// idea: Four products of bytes and their sum in one instruction, on the ordinary cores: the tile of fp32_registers_2d with
//       words of four int8 in place of floats. The result is exact.
// ladder: int8 1
// gain: none: the first rung; four times the products of FFMA per instruction, a quarter of the bytes
// op: C[M,N] = A[M,K] B[N,K]^T
// operands: A int8, B int8, C int32
// pitch: 16
// shapes: any M, N, K; row-major, rows of A and B begin at multiples of 16 bytes (the lab pads them); bytes beyond an edge
//         are zeros, stores there are left out
// constants: BM, BN
// grid: ceil(N / BN), ceil(M / BM)
// block: 256
// shared: 0
// tolerance: 0
// registers: 128
// requires: IDP, LDS.128
// architecture: sm_80
// reference: CUDA C++ Programming Guide, "__dp4a"; Boehm 2022, "How to Optimize a CUDA Matmul Kernel", kernel 5

constexpr int BM = 128;  // 16 x 16 threads, 8x8 elements each
constexpr int BN = 128;
constexpr int BK = 8;  // words of four int8
constexpr int PITCH = BM + 4;

// Word k of a row; zeros beyond the matrix.
__device__ __forceinline__ int load_word(const signed char* matrix, int row, int rows, int k, int K) {
    if (row >= rows || 4 * k >= K) return 0;
    const int word = reinterpret_cast<const int*>(matrix + (size_t)row * ((K + 15) / 16 * 16))[k];
    return 4 * k + 4 <= K ? word : word & ((1 << 8 * (K - 4 * k)) - 1);
}

extern "C" __global__ void __launch_bounds__(256)
int8_dp4a(const signed char* __restrict__ A, const signed char* __restrict__ B, int* __restrict__ C, int M, int N, int K) {
    __shared__ __align__(16) int a_tile[BK][PITCH];  // word k of each row, so that a thread finds its rows side by side
    __shared__ __align__(16) int b_tile[BK][PITCH];

    const int row0 = blockIdx.y * BM, column0 = blockIdx.x * BN;
    const int row = threadIdx.x / 16 * 8, column = threadIdx.x % 16 * 8;  // within the tile

    int c[8][8] = {};
    for (int k0 = 0; 4 * k0 < K; k0 += BK) {
#pragma unroll
        for (int i = 0; i < BM * BK / 256; ++i) {
            const int r = threadIdx.x / BK + i * (256 / BK), k = threadIdx.x % BK;
            a_tile[k][r] = load_word(A, row0 + r, M, k0 + k, K);
            b_tile[k][r] = load_word(B, column0 + r, N, k0 + k, K);
        }
        __syncthreads();  // both tiles are whole

#pragma unroll
        for (int k = 0; k < BK; ++k) {
            int a[8], b[8];
#pragma unroll
            for (int i = 0; i < 8; i += 4) {
                *reinterpret_cast<int4*>(&a[i]) = *reinterpret_cast<const int4*>(&a_tile[k][row + i]);
                *reinterpret_cast<int4*>(&b[i]) = *reinterpret_cast<const int4*>(&b_tile[k][column + i]);
            }
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) c[i][j] = __dp4a(a[i], b[j], c[i][j]);
        }
        __syncthreads();  // everyone has read them
    }

#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const int m = row0 + row + i, n = column0 + column + j;
            if (m < M && n < N) C[(size_t)m * N + n] = c[i][j];
        }
}
