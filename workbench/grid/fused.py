"""Compiled loops for the case that is live: float32 on the CPU, blocks along the input.

They give the same codes, bit for bit, as the torch expressions in `affine` (a test holds them to it): division,
not multiplication by a reciprocal, and rounding half to even by adding and subtracting 1.5 * 2^23, which the
compiler may not fold because reassociation stays off.
"""

from __future__ import annotations

import weakref

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .blocks import Blocks
from .chunks import over_rows
from .grids import IntGrid

CONVENTIONS = ("asymmetric", "signed", "narrow", "half_step")
ASYMMETRIC, SIGNED = 0, 1
DROPPED = {
    torch.float16: 13,
    torch.bfloat16: 16,
    torch.float32: 0,
}  # bits of a float32 that a scale does without

# No reassociation and no contraction: results must not depend on the vector width.
FAST = {"nnan", "ninf", "nsz"}
MAGNITUDE = np.int32(0x7FFFFFFF)  # all bits of a float32 but its sign
NOTHING = np.float32(0)
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
    scales, zeros = per_row(scale, blocks), per_row(zero, blocks)
    codes = new_codes(w, grid.dtype)
    target = codes.numpy()
    low, high = np.float32(grid.lowest), np.float32(grid.highest)
    over_rows(lambda a, b: _encode(array, a, b, blocks.columns, scales, zeros, low, high, target), len(array))
    return codes


def quantize(
    w: Tensor, grid: IntGrid, blocks: Blocks, convention: str, scale_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """(codes, scale, zero) as `affine.fit` and `encode` make them, for blocks of one row, each row while it is in the
    first cache. None where some scale does not fit into `scale_dtype`: then all of them have to be wider."""
    array, codes = w.numpy(), new_codes(w, grid.dtype)
    target, counts, asymmetric = codes.numpy(), blocks.counts, convention == "asymmetric"
    scales = np.empty(counts, np.float32)
    zeros = np.zeros(counts, np.uint8) if asymmetric else np.zeros((counts[0], 0), np.uint8)
    limits = torch.finfo(scale_dtype)
    rule = (
        CONVENTIONS.index(convention),
        np.float32(steps_of(grid.bits, convention)),
        np.float32(limits.tiny),
        np.float32(limits.max),
        DROPPED[scale_dtype],
    )
    bounds = np.float32(grid.lowest), np.float32(grid.highest)

    def work(start: int, stop: int) -> bool:
        return _quantize(
            array, array.view(np.int32), start, stop, blocks.columns, rule, bounds, scales, zeros, target
        )

    if not all(over_rows(work, len(array))):
        return None
    return codes, torch.from_numpy(scales).to(scale_dtype), torch.from_numpy(zeros) if asymmetric else None


def per_row(values: Tensor | None, blocks: Blocks) -> np.ndarray:
    """A value per block as float32 [out, groups]; zeros for None. By NumPy, in this thread: torch would share work
    as small as this among threads of its own, and on a busy machine wait for them longer than it takes."""
    shape = blocks.shape[0], blocks.counts[1]
    if values is None:
        return np.zeros(shape, np.float32)
    array = values.view(torch.int16) if values.dtype == torch.bfloat16 else values
    array = array.cpu().numpy()
    if values.dtype == torch.bfloat16:  # NumPy has none: its bits are the upper half of a float32's
        array = (array.astype(np.int32) << 16).view(np.float32)
    return np.ascontiguousarray(np.broadcast_to(array.astype(np.float32), shape))


def steps_of(bits: int, convention: str) -> float:
    """What the range of a block is divided by to give its scale."""
    whole, half = 2**bits - 1, 2 ** (bits - 1)
    return {"asymmetric": whole, "narrow": half - 1, "half_step": half - 0.5, "signed": -half}[convention]


_spare: list[np.ndarray] = []  # the block of codes that was let go last


def new_codes(w: Tensor, dtype: torch.dtype) -> Tensor:
    """Room for codes: that of the last ones of this size that nobody refers to any more, as when a slider moves. The
    system would clear every page of a new block first, which takes as long as encoding does."""
    try:
        block = _spare.pop()
    except IndexError:  # none was let go, or another thread has taken it
        block = None
    if block is None or block.size != w.numel():
        block = np.empty(w.numel(), np.uint8)
    codes = block.view(np.int8 if dtype == torch.int8 else np.uint8).reshape(w.shape)
    weakref.finalize(codes, _let_go, block).atexit = False
    return torch.from_numpy(codes)  # which refers to `codes` as long as the tensor or any view of it lives


def _let_go(block: np.ndarray) -> None:
    _spare[:] = [block]


# The loops below work on slices from 0, one per group: a loop from a variable start is not vectorised.


@njit(nogil=True, cache=True, fastmath=FAST)
def _quantize(w, bits, start, stop, size, rule, bounds, scales, zeros, codes):
    """Range, scales and codes of each row in turn; False as soon as a scale does not fit."""
    convention, steps, least, most, dropped = rule
    columns, groups = w.shape[1], scales.shape[1]
    low, high = np.empty(groups, np.float32), np.empty(groups, np.float32)
    for i in range(start, stop):
        _range_with_zero(bits[i], size, low.view(np.int32), high.view(np.int32))
        for group in range(groups):
            a, b = low[group], high[group]
            if convention == ASYMMETRIC:
                scale = (b - a) / steps
            elif convention == SIGNED:
                scale = (a if -a > b else b) / steps
            else:
                scale = max(-a, b) / steps
            scale = np.float32(1) if scale == 0 else scale
            if abs(scale) < least or abs(scale) > most:
                return False
            scales[i, group] = scale
        shorten(scales[i].view(np.int32), dropped)
        for group in range(groups):
            scale, offset = scales[i, group], NOTHING
            if convention == ASYMMETRIC:
                offset = ROUND - (low[group] / scale + ROUND)
                offset = min(max(offset, bounds[0]), bounds[1])
                zeros[i, group] = np.uint8(offset)
            first = group * size
            last = min(columns, first + size)
            encode_group(w[i, first:last], scale, offset, bounds[0], bounds[1], codes[i, first:last])
    return True


@njit(nogil=True, cache=True)
def _range_with_zero(bits, size, low, high):
    """Least and greatest of each group and 0, as bits of float32, which is what every convention asks for. Of raw
    bits the greatest signed one is the greatest float, and the greatest unsigned one the least negative float."""
    for group in range(low.shape[0]):
        part = bits[group * size : min(bits.shape[0], group * size + size)]
        greatest, negative = np.int32(0), np.uint32(0)
        for j in range(part.shape[0]):
            greatest, negative = max(greatest, part[j]), max(negative, np.uint32(part[j]))
        high[group] = greatest
        low[group] = min(np.int32(0), np.int32(negative))


@njit(nogil=True, cache=True)
def shorten(bits, dropped):
    """Round float32, given as its bits, half to even to `dropped` bits less."""
    if dropped:
        for j in range(bits.shape[0]):
            half = (np.int32(1) << (dropped - 1)) - 1 + ((bits[j] >> dropped) & 1)
            bits[j] = ((bits[j] + half) >> dropped) << dropped


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
            encode_group(
                w[i, first:last], scales[i, group], zeros[i, group], lowest, highest, codes[i, first:last]
            )


@njit(nogil=True, cache=True, fastmath=FAST)
def encode_group(x, scale, zero, lowest, highest, codes):
    # Both bounds are integers, so clamping before rounding gives the same codes as after.
    low, high = lowest - zero, highest - zero
    for j in range(x.shape[0]):
        y = x[j] / scale
        y = y if y > low else low
        y = y if y < high else high
        codes[j] = np.int32((y + ROUND) - ROUND + zero)
