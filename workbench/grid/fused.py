"""Compiled loops for the case that is live: float32 on the CPU, blocks along the input.

They give the same codes, bit for bit, as the torch expressions in `affine` (a test holds them to it): division,
not multiplication by a reciprocal, and rounding half to even by adding and subtracting 1.5 * 2^23, which the
compiler may not fold because reassociation stays off.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .blocks import Blocks
from .chunks import over_rows
from .grids import IntGrid

ScaleOf = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
CHUNK_WEIGHTS = 2**20  # 4 MB of float32
CHUNK_SCALES = 2**14  # torch shares the work on twice as many among threads of its own, which only wait here

# No reassociation and no contraction: results must not depend on the vector width.
FAST = {"nnan", "ninf", "nsz"}
MAGNITUDE = np.int32(0x7FFFFFFF)  # all bits of a float32 but its sign
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
    bits = array.view(np.int32), low.view(np.int32), high.view(np.int32)
    over_rows(lambda a, b: _range(bits[0], a, b, blocks.columns, bits[1], bits[2]), rows)
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
    codes = _codes(w, grid)
    target = codes.numpy()
    low, high = np.float32(grid.lowest), np.float32(grid.highest)
    over_rows(lambda a, b: _encode(array, a, b, blocks.columns, scales, zeros, low, high, target), len(array))
    return codes


def quantize(
    w: Tensor, grid: IntGrid, blocks: Blocks, scale_of: ScaleOf
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(codes, scale, zero) of blocks of one row: range, `scale_of(low, high)` and codes of each chunk of rows while it
    is in the cache. `scale_of` is called with [rows, groups] on several threads."""
    array, codes = w.numpy(), _codes(w, grid)
    target, groups = codes.numpy(), blocks.counts[1]
    lowest, highest = np.float32(grid.lowest), np.float32(grid.highest)

    def work(start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        part, low, high = array[start:stop], *np.empty((2, stop - start, groups), np.float32)
        _range(part.view(np.int32), 0, len(part), blocks.columns, low.view(np.int32), high.view(np.int32))
        scale, zero = scale_of(torch.from_numpy(low), torch.from_numpy(high))
        scales = scale.float().numpy()
        zeros = np.zeros_like(scales) if zero is None else zero.float().numpy()
        _encode(part, 0, len(part), blocks.columns, scales, zeros, lowest, highest, target[start:stop])
        return scale, zero

    rows = min(CHUNK_WEIGHTS // w.shape[1], CHUNK_SCALES // groups)
    scales, zeros = zip(*over_rows(work, len(array), max(8, rows)), strict=True)
    return codes, torch.cat(scales), None if zeros[0] is None else torch.cat(zeros)


def _codes(w: Tensor, grid: IntGrid) -> Tensor:
    """Room for codes. NumPy asks the system for large pages, which are there ten times sooner than torch's."""
    return torch.from_numpy(np.empty(w.shape, np.int8 if grid.signed else np.uint8))


# The loops below work on slices from 0, one per group: a loop from a variable start is not vectorised.


@njit(nogil=True, cache=True)
def _range(bits, start, stop, size, low, high):
    """Least and greatest of each group, all as the bits of float32: the compiler vectorises a running minimum of
    integers, and not one of floats. Negative floats are ordered backwards; flipping all but the sign mends that."""
    columns = bits.shape[1]
    for i in range(start, stop):
        for group in range(low.shape[1]):
            part = bits[i, group * size : min(columns, group * size + size)]
            least, greatest = np.int32(2**31 - 1), np.int32(-(2**31))
            for j in range(part.shape[0]):
                ordered = part[j] ^ ((part[j] >> 31) & MAGNITUDE)
                least, greatest = min(least, ordered), max(greatest, ordered)
            low[i, group] = least ^ ((least >> 31) & MAGNITUDE)
            high[i, group] = greatest ^ ((greatest >> 31) & MAGNITUDE)


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
