"""Two products in Triton, as one would write them today: a dense one, and one with weights of 4 bits.

Imported only where Triton is installed. With TRITON_INTERPRET=1 in the environment before the import they run on the
CPU, one program after the other, on torch's CPU tensors.

Source: Tillet et al. 2019; the language's own reference for `dot`, `swizzle2d` and `autotune`.
"""

from __future__ import annotations

import triton
import triton.language as tl

BAND = (
    8  # rows of tiles that are walked down before the next column: their operands are in the cache meanwhile
)
FEW = 16  # rows that the smallest tile of a tensor core has: with no more, W is what has to be read


@triton.jit
def dense(
    a,
    b,
    c,
    M,
    N,
    K,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    WHOLE: tl.constexpr,
    ROWS_OF_TILES: tl.constexpr,
):
    """C[M,N] = A[M,K] B[N,K]^T, summed in fp32. WHOLE: TILE_K divides K."""
    across, down = tl.cdiv(N, TILE_N), tl.cdiv(M, TILE_M)
    place = tl.program_id(0)
    row, column = tl.swizzle2d(place // across, place % across, down, across, ROWS_OF_TILES)
    m, n = row * TILE_M + tl.arange(0, TILE_M), column * TILE_N + tl.arange(0, TILE_N)
    k = tl.arange(0, TILE_K)
    # rows beyond the last are read as rows that exist, and not written: that needs no mask
    left = a + (m % M).to(tl.int64)[:, None] * K + k[None, :]
    right = b + (n % N).to(tl.int64)[None, :] * K + k[:, None]
    total = tl.zeros((TILE_M, TILE_N), tl.float32)
    for first in range(0, K, TILE_K):
        if WHOLE:
            total = tl.dot(tl.load(left + first), tl.load(right + first), total)
        else:
            rest = k < K - first
            total = tl.dot(
                tl.load(left + first, mask=rest[None, :], other=0.0),
                tl.load(right + first, mask=rest[:, None], other=0.0),
                total,
            )
    to = c + m.to(tl.int64)[:, None] * N + n[None, :]
    tl.store(to, total.to(c.dtype.element_ty), mask=(m[:, None] < M) & (n[None, :] < N))


@triton.jit
def weight_only(
    x, codes, scale, zero, y, M, N, K, TILE_M: tl.constexpr, TILE_N: tl.constexpr, HALF: tl.constexpr
):
    """Y[M,N] = X[M,K] W[N,K]^T, W = (code - zero) scale with scale and zero [N, K / (2 HALF)] for 2 HALF inputs each.
    Byte j of the HALF bytes of a group in codes [N, K/2] holds input j in its lower half and input j + HALF in its
    upper one: so both halves are multiplied as they lie, without an exchange between threads."""
    across = tl.cdiv(N, TILE_N)
    place = tl.program_id(0)
    m = place // across * TILE_M + tl.arange(0, TILE_M)
    n = place % across * TILE_N + tl.arange(0, TILE_N)
    j = tl.arange(0, HALF)
    groups = K // (2 * HALF)
    row = (n % N).to(tl.int64)
    left = x + (m % M).to(tl.int64)[:, None] * K + j[None, :]
    right = codes + row[None, :] * (K // 2) + j[:, None]
    total = tl.zeros((TILE_M, TILE_N), tl.float32)
    for group in range(groups):
        packed = tl.load(right + group * HALF)
        step = tl.load(scale + row * groups + group)[None, :].to(tl.float32)
        origin = tl.load(zero + row * groups + group)[None, :].to(tl.float32)
        low = ((packed & 15).to(tl.float32) - origin) * step
        high = ((packed >> 4).to(tl.float32) - origin) * step
        first = left + group * 2 * HALF
        total = tl.dot(tl.load(first), low.to(x.dtype.element_ty), total)
        total = tl.dot(tl.load(first + HALF), high.to(x.dtype.element_ty), total)
    to = y + m.to(tl.int64)[:, None] * N + n[None, :]
    tl.store(to, total.to(y.dtype.element_ty), mask=(m[:, None] < M) & (n[None, :] < N))


def _configs(*tiles: tuple[int, ...]) -> list[triton.Config]:
    """Of (TILE_M, TILE_N, TILE_K or 0 for none, warps, stages) each."""
    return [
        triton.Config(
            {"TILE_M": m, "TILE_N": n} | ({"TILE_K": k} if k else {}), num_warps=warps, num_stages=stages
        )
        for m, n, k, warps, stages in tiles
    ]


DENSE = _configs(
    (16, 16, 256, 4, 4),
    (16, 32, 256, 4, 4),
    (16, 64, 128, 4, 5),
    (64, 64, 64, 4, 4),
    (64, 128, 64, 4, 4),
    (128, 128, 64, 8, 4),
    (128, 256, 64, 8, 3),
)
WEIGHT_ONLY = _configs(
    (16, 16, 0, 2, 5),
    (16, 32, 0, 4, 4),
    (16, 64, 0, 4, 4),
    (16, 128, 0, 8, 4),
    (64, 64, 0, 4, 4),
    (128, 128, 0, 8, 3),
)


def _worth_trying(configs: list, arguments: dict, **_: object) -> list:
    """Tiles of few rows for few rows, the others for more."""
    few = arguments["M"] <= FEW
    return [one for one in configs if (one.kwargs["TILE_M"] <= FEW) == few]


def _tuned(kernel: object, configs: list[triton.Config]) -> object:
    """The kernel with the tile that is fastest for a shape, found at its first launch."""
    choose = triton.autotune(
        configs, key=["M", "N", "K"], prune_configs_by={"early_config_prune": _worth_trying}
    )
    return choose(kernel)


tuned_dense = _tuned(triton.heuristics({"WHOLE": lambda told: told["K"] % told["TILE_K"] == 0})(dense), DENSE)
tuned_weight_only = _tuned(weight_only, WEIGHT_ONLY)
