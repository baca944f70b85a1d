"""The readable CPU rung: the product in loops ordered and cut so that the innermost one runs along memory.

A tile of B (128 KB) stays in the second-level cache while every row of A passes over it. torch's library also
keeps a tile of C in registers and packs B, which these loops do not: that is the gap the table shows. Where C is
narrow (N of a few) the innermost loop is too short for vector instructions, and the gap is wide.
"""

from __future__ import annotations

from numba import njit

TILE = 32 * 1024  # floats of B in one tile
BN = 1024  # most columns of it


# "contract" alone: a * b + c may become one instruction, but no sum is reordered
@njit(cache=True, nogil=True, fastmath={"contract"})
def tiled(a, b, c):
    """C[M,N] = A[M,K] B[K,N], float32, row-major, one thread."""
    M, K = a.shape
    N = b.shape[1]
    BK = TILE // min(N, BN)  # a narrow B has a taller tile, so A is read in longer runs
    c[:, :] = 0.0
    for k0 in range(0, K, BK):
        for n0 in range(0, N, BN):
            n1 = min(n0 + BN, N)
            for i in range(M):
                out = c[i, n0:n1]
                for k in range(k0, min(k0 + BK, K)):
                    x, line = a[i, k], b[k, n0:n1]
                    for j in range(n1 - n0):
                        out[j] += x * line[j]
