// name: fp32_naive
// idea: One thread computes one element of C straight from global memory, so a row of A is fetched again for each
//       column of C and a column of B again for each row: the product waits for memory, not for arithmetic.
// op: C[M,N] = A[M,K] B[K,N]
// bits: 32
// shapes: any M, N, K; row-major, rows without gaps
// constants: BM, BN
// grid: ceil(N / BN), ceil(M / BM)
// block: BN, BM
// shared: 0
// architecture: sm_50
// reference: CUDA C++ Programming Guide, "Shared Memory" (the product without shared memory);
//            Boehm 2022, "How to Optimize a CUDA Matmul Kernel", kernel 2 (neighbours in x read neighbours in B)

constexpr int BM = 8;   // rows of C per block
constexpr int BN = 32;  // columns of C per block: one warp writes one line of C

extern "C" __global__ void fp32_naive(const float* __restrict__ A, const float* __restrict__ B,
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
