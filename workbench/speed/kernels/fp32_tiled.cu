// name: fp32_tiled
// idea: A block copies one square tile of A and one of B into shared memory and multiplies from there, so each
//       operand comes from global memory once per tile instead of once per element: TILE times less traffic.
// ladder: fp32 3
// gain: 1.2 to 2x over fp32_coalesced: 32 times fewer reads from global memory, of which the caches saved most before
// op: C[M,N] = A[M,K] B[K,N]
// operands: A fp32, B fp32, C fp32
// shapes: any M, N, K; row-major, rows without gaps; loads beyond an edge give zeros
// constants: TILE
// grid: ceil(N / TILE), ceil(M / TILE)
// block: TILE, TILE
// shared: 0
// tolerance: 5e-6
// registers: 40
// requires: FFMA, LDS
// architecture: sm_50
// reference: CUDA C++ Programming Guide, "Shared Memory" (the product with shared memory);
//            Boehm 2022, "How to Optimize a CUDA Matmul Kernel", kernel 3

constexpr int TILE = 32;  // 32 x 32 threads; two tiles of 4 KB each

extern "C" __global__ void fp32_tiled(const float* __restrict__ A, const float* __restrict__ B, float* __restrict__ C,
                                      int M, int N, int K) {
    __shared__ float a_tile[TILE][TILE];
    __shared__ float b_tile[TILE][TILE];

    const int x = threadIdx.x, y = threadIdx.y;
    const int row = blockIdx.y * TILE + y;
    const int column = blockIdx.x * TILE + x;

    float sum = 0.0f;
    for (int k0 = 0; k0 < K; k0 += TILE) {
        // A thread beyond the edge of C still loads (zeros, which add nothing) and still meets the barriers.
        a_tile[y][x] = row < M && k0 + x < K ? A[(size_t)row * K + k0 + x] : 0.0f;
        b_tile[y][x] = column < N && k0 + y < K ? B[(size_t)(k0 + y) * N + column] : 0.0f;
        __syncthreads();  // both tiles are whole before anyone reads them

        for (int k = 0; k < TILE; ++k) { sum += a_tile[y][k] * b_tile[k][x]; }
        __syncthreads();  // everyone has read them before the next ones overwrite them
    }
    if (row < M && column < N) C[(size_t)row * N + column] = sum;
}
