// name: fp32_naive
// idea: One thread computes one element of C straight from global memory. Neighbours in a warp take neighbours in a
//       column, so each of their reads of A and writes of C opens a line of memory of its own.
// ladder: fp32 1
// gain: none: the first rung
// op: C[M,N] = A[M,K] B[K,N]
// operands: A fp32, B fp32, C fp32
// shapes: any M, N, K; row-major, rows without gaps; threads beyond the edge of C do nothing
// constants: BM, BN
// grid: ceil(M / BM), ceil(N / BN)
// block: BM, BN
// shared: 0
// tolerance: 5e-6
// registers: 40
// requires: FFMA
// architecture: sm_50
// reference: Boehm 2022, "How to Optimize a CUDA Matmul Kernel", kernel 1

constexpr int BM = 32;  // rows of C per block: a warp takes a column
constexpr int BN = 8;   // columns of C per block

extern "C" __global__ void fp32_naive(const float* __restrict__ A, const float* __restrict__ B, float* __restrict__ C,
                                      int M, int N, int K) {
    const int row = blockIdx.x * BM + threadIdx.x;
    const int column = blockIdx.y * BN + threadIdx.y;
    if (row >= M || column >= N) return;  // the last blocks reach over the edge of C

    float sum = 0.0f;
    for (int k = 0; k < K; ++k) {
        // size_t: row * K passes 2^31 from 46341 x 46341 on
        sum += A[(size_t)row * K + k] * B[(size_t)k * N + column];
    }
    C[(size_t)row * N + column] = sum;
}
