// name: fp32_coalesced
// idea: One thread still computes one element of C, but neighbours in a warp compute neighbours in a row: they read
//       32 words of B that lie side by side, one transaction of 128 bytes instead of 32.
// ladder: fp32 2
// gain: 4 to 8x over fp32_naive: a warp's loads of B and its stores to C are one line each instead of 32
// op: C[M,N] = A[M,K] B[K,N]
// operands: A fp32, B fp32, C fp32
// shapes: any M, N, K; row-major, rows without gaps; threads beyond the edge of C do nothing
// constants: BM, BN
// grid: ceil(N / BN), ceil(M / BM)
// block: BN, BM
// shared: 0
// tolerance: 5e-6
// registers: 40
// requires: FFMA
// architecture: sm_50
// reference: CUDA C++ Programming Guide, "Shared Memory" (the product without shared memory);
//            Boehm 2022, "How to Optimize a CUDA Matmul Kernel", kernel 2

constexpr int BM = 8;   // rows of C per block
constexpr int BN = 32;  // columns of C per block: one warp writes one line of C

extern "C" __global__ void fp32_coalesced(const float* __restrict__ A, const float* __restrict__ B,
                                          float* __restrict__ C, int M, int N, int K) {
    const int row = blockIdx.y * BM + threadIdx.y;
    const int column = blockIdx.x * BN + threadIdx.x;
    if (row >= M || column >= N) return;  // the last blocks reach over the edge of C

    float sum = 0.0f;
    for (int k = 0; k < K; ++k) {
        // size_t: row * K passes 2^31 from 46341 x 46341 on
        sum += A[(size_t)row * K + k] * B[(size_t)k * N + column];
    }
    C[(size_t)row * N + column] = sum;
}
