// name: register-tiled
// idea: A tile of C stays in registers while K passes by, so every number loaded is used 8 or 48 times; A and B are
//       copied to panels in the order in which the tile reads them.
// op: C[M,N] = A[M,K] B[K,N]
// bits: 32
// packing: panels
// tolerance: 5e-6
// gain: 3 to 5x over reordered: what is loaded is used 8 or 48 times, so the multipliers are the limit
// reference: Goto and van de Geijn 2008, Anatomy of High-Performance Matrix Multiplication;
//            Van Zee and van de Geijn 2015, BLIS
#include "cpu/tile.h"

extern "C" void product(const float* A, const float* B, float* C, int M, int N, int K, int) {
    columns_of(A, B, C, M, N, K, 0, N);
}
