"""The readable CPU rungs: the product as loops in Python, compiled by numba.

In `tiled` a tile of B (128 KB) stays in the second-level cache while every row of A passes over it. torch's library
also keeps a tile of C in registers and packs B, which these loops do not: that is the gap the table shows. Where C is
narrow (N of a few) the innermost loop is too short for vector instructions, and the gap is wide.
"""

from __future__ import annotations

from numba import njit

TILE = 32 * 1024  # floats of B in one tile
BN = 1024  # most columns of it
# "contract" alone: a * b + c may become one instruction, but no sum is reordered
FAST = {"contract"}


@njit(cache=True, nogil=True, fastmath=FAST)
def naive(a, b, c):
    """C[M,N] = A[M,K] B[K,N], float32, row-major, one thread: the definition."""
    M, K = a.shape
    for i in range(M):
        for j in range(b.shape[1]):
            total = a[i, 0] * b[0, j]
            for k in range(1, K):
                total += a[i, k] * b[k, j]
            c[i, j] = total


@njit(cache=True, nogil=True, fastmath=FAST)
def reordered(a, b, c):
    """The same with the innermost loop along the rows of B and C."""
    M, K = a.shape
    c[:, :] = 0.0
    for i in range(M):
        out = c[i]
        for k in range(K):
            x, line = a[i, k], b[k]
            for j in range(len(line)):
                out[j] += x * line[j]


@njit(cache=True, nogil=True, fastmath=FAST)
def tiled(a, b, c):
    """The same with B cut into tiles that stay in the cache."""
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
