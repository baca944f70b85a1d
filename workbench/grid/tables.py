"""Compiled loops for grids that are tables: codebooks, minifloats, signs. The same codes, bit for bit, as torch's.

The value of a weight is found by comparing it with every border, four at a time: that is elementwise and has no
branches, so for 16 values it takes little longer than rounding to an integer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

from .blocks import Blocks
from .chunks import over_rows
from .fused import FAST, new_codes, per_row
from .grids import TableGrid

Levels = tuple[np.ndarray, np.ndarray]


def levels_of(grid: TableGrid | None) -> Levels:
    """(borders, values) as float32, filled up for loops that take four borders at a time."""
    if grid is None:
        return np.full(4, np.inf, np.float32), np.zeros(5, np.float32)
    borders, values = grid.borders.numpy(), grid.ladder.numpy()
    more = -len(borders) % 4
    return np.append(borders, np.full(more, np.inf, np.float32)), np.append(
        values, np.repeat(values[-1:], more)
    )


def ranks_of(grid: TableGrid | None) -> Levels:
    """The same with the number of each value in its place."""
    borders, values = levels_of(grid)
    return borders, np.arange(len(values), dtype=np.float32)


def encode(w: Tensor, grid: TableGrid, blocks: Blocks, scale: Tensor) -> Tensor:
    """Codes [out, in], uint8, for `fused.fits` of w and positive scales [counts]."""
    array, codes, scales = w.numpy(), new_codes(w, grid.dtype), per_row(scale, blocks)
    target, ranks = codes.numpy(), ranks_of(grid)
    sign = 1 << (grid.code_bits - 1) if grid.mirrored else 0
    over_rows(lambda a, b: _encode(array, a, b, blocks.columns, scales, ranks, sign, target), len(array))
    return codes


@njit(nogil=True, cache=True, fastmath=FAST)
def _encode(w, start, stop, size, scales, ranks, sign, codes):
    columns = w.shape[1]
    room = np.empty((2, min(size, columns)), np.float32)
    for i in range(start, stop):
        for group in range(scales.shape[1]):
            first = group * size
            last = min(columns, first + size)
            encode_table_group(w[i, first:last], scales[i, group], ranks, sign, room, codes[i, first:last])


@njit(nogil=True, cache=True, fastmath=FAST)
def encode_table_group(x, scale, ranks, sign, room, codes):
    """The number of the value nearest to x / scale; with `sign`, of its magnitude, and that bit if x is negative."""
    n = x.shape[0]
    y, found = room[0, :n], room[1, :n]
    for j in range(n):
        y[j] = abs(x[j] / scale) if sign else x[j] / scale
    nearest(y, ranks[0], ranks[1], found)
    for j in range(n):
        codes[j] = np.int32(found[j]) | (sign if as_int(x[j]) < 0 else 0)


@njit(nogil=True, cache=True, fastmath=FAST)
def nearest(y, borders, values, found):
    """found = the value that each y goes to."""
    found[:] = values[0]
    for k in range(0, len(borders), 4):
        b0, b1, b2, b3 = borders[k], borders[k + 1], borders[k + 2], borders[k + 3]
        v1, v2, v3, v4 = values[k + 1], values[k + 2], values[k + 3], values[k + 4]
        for i in range(y.shape[0]):
            v = v1 if y[i] > b0 else found[i]
            v = v2 if y[i] > b1 else v
            v = v3 if y[i] > b2 else v
            found[i] = v4 if y[i] > b3 else v


def _reinterpreted(source: Any, target: Any, bits: ir.Type) -> Any:
    def make(_context, builder, _signature, arguments):
        return builder.bitcast(arguments[0], bits)

    return lambda _context, _value: (target(source), make)


# The bits of a float32, and the float32 of bits.
as_int: Any = intrinsic(_reinterpreted(types.float32, types.int32, ir.IntType(32)))
as_float: Any = intrinsic(_reinterpreted(types.int32, types.float32, ir.FloatType()))
