// name: naive
// idea: The definition: for every element of C, one sum over K. B is read down its columns, a cache line for each number.
// op: C[M,N] = A[M,K] B[K,N]
// bits: 32
// packing: none
// tolerance: 5e-6
// gain: none: this is where the ladder stands, at 1 to 2 % of a vendor's library
// reference: Goto and van de Geijn 2008, Anatomy of High-Performance Matrix Multiplication
extern "C" void product(const float* A, const float* B, float* C, int M, int N, int K, int) {
    for (int i = 0; i < M; ++i)
        for (int j = 0; j < N; ++j) {
            float sum = 0;
            for (int k = 0; k < K; ++k) sum += A[(long)i * K + k] * B[(long)k * N + j];
            C[(long)i * N + j] = sum;
        }
}
