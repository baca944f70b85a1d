"""Compiled loops for the case that is live: float32 on the CPU, blocks along the input.

They give the same codes, bit for bit, as the torch expressions in `affine` (a test holds them to it): division,
not multiplication by a reciprocal, and rounding half to even by adding and subtracting 1.5 * 2^23, which the
compiler may not fold because reassociation stays off.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .blocks import Blocks
from .chunks import over_rows
from .grids import IntGrid

# No reassociation and no contraction: results must not depend on the vector width.
FAST = {"nnan", "ninf", "nsz"}
ROUND = np.float32(12582912.0)  # 1.5 * 2^23: x + ROUND - ROUND rounds |x| < 2^22 half to even


def fits(w: Tensor, blocks: Blocks) -> bool:
    """Whether the compiled path serves: enough weights to matter, float32, contiguous, one row or all to a block."""
    return (
        w.device.type == "cpu"
        and w.dtype == torch.float32
        and w.is_contiguous()
        and w.numel() >= 4096
        and blocks.rows in (1, w.shape[0])
        and blocks.columns > 1
    )


def block_range(w: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """(min, max) of each block [counts]."""
    array, (rows, groups) = w.numpy(), (w.shape[0], blocks.counts[1])
    low, high = np.empty((rows, groups), np.float32), np.empty((rows, groups), np.float32)
    over_rows(lambda a, b: _range(array, a, b, blocks.columns, low, high), rows)
    lows, highs = torch.from_numpy(low), torch.from_numpy(high)
    if blocks.counts[0] == 1:
        return lows.amin(0, keepdim=True), highs.amax(0, keepdim=True)
    return lows, highs


def encode(w: Tensor, grid: IntGrid, blocks: Blocks, scale: Tensor, zero: Tensor | None) -> Tensor:
    """Codes [out, in], uint8 or int8."""
    array = w.numpy()
    scales = scale.float().expand(w.shape[0], -1).numpy()
    zeros = torch.zeros_like(scale, dtype=torch.float32) if zero is None else zero.float()
    zeros = zeros.expand(w.shape[0], -1).numpy()
    codes = torch.empty(w.shape, dtype=grid.dtype)
    target = codes.numpy()
    low, high = np.float32(grid.lowest), np.float32(grid.highest)
    over_rows(lambda a, b: _encode(array, a, b, blocks.columns, scales, zeros, low, high, target), len(array))
    return codes


# The loops below work on slices from 0, one per group: a loop from a variable start is not vectorised.


@njit(nogil=True, cache=True, fastmath=FAST)
def _range(w, start, stop, size, low, high):
    columns = w.shape[1]
    lows, highs = np.empty(size, np.float32), np.empty(size, np.float32)
    for i in range(start, stop):
        for group in range(low.shape[1]):
            first = group * size
            part = w[i, first : min(columns, first + size)]
            low[i, group], high[i, group] = _least_and_greatest(part, lows, highs)


@njit(nogil=True, cache=True, fastmath=FAST)
def _least_and_greatest(x, lows, highs):
    """Folds halves onto each other: the compiler vectorises this, and not a running minimum."""
    half = x.shape[0] // 2
    least = greatest = x[-1]
    for k in range(half):
        a, b = x[k], x[half + k]
        lows[k] = a if a < b else b
        highs[k] = a if a > b else b
    while half > 8:
        if half % 2:
            least, greatest = min(least, lows[half - 1]), max(greatest, highs[half - 1])
        half //= 2
        for k in range(half):
            a, b = lows[k], lows[half + k]
            lows[k] = a if a < b else b
            a, b = highs[k], highs[half + k]
            highs[k] = a if a > b else b
    for k in range(half):
        least, greatest = min(least, lows[k]), max(greatest, highs[k])
    return least, greatest


@njit(nogil=True, cache=True, fastmath=FAST)
def _encode(w, start, stop, size, scales, zeros, lowest, highest, codes):
    columns = w.shape[1]
    for i in range(start, stop):
        for group in range(scales.shape[1]):
            first = group * size
            last = min(columns, first + size)
            _encode_group(
                w[i, first:last], scales[i, group], zeros[i, group], lowest, highest, codes[i, first:last]
            )


@njit(nogil=True, cache=True, fastmath=FAST)
def _encode_group(x, scale, zero, lowest, highest, codes):
    # Both bounds are integers, so clamping before rounding gives the same codes as after.
    low, high = lowest - zero, highest - zero
    for j in range(x.shape[0]):
        y = x[j] / scale
        y = y if y > low else low
        y = y if y < high else high
        codes[j] = np.int32((y + ROUND) - ROUND + zero)
