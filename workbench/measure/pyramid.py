"""Error pyramids: what a map shows of a matrix that is larger than the screen.

Level 0 is the weights; level k has cells of 2^k x 2^k weights with the extreme and the mean of what is shown.
The error of a compressed weight is reduced to 8 x 8 cells in one compiled pass over weights and codes; higher
levels come from that one, and anything finer is read back exactly from the window in view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit
from torch import Tensor

from ..grid import CompressedWeight, IntGrid
from ..grid.chunks import over_rows
from ..grid.fused import FAST, per_row

CELL = 8  # weights on a side of the finest stored cells
TILE = 1024  # columns that the compiled loops keep in the first cache: a multiple of CELL


@dataclass(frozen=True)
class Cells:
    """Reduction of a matrix to 8 x 8 cells: `peak` is the largest |x| and `total` the sum of |x| in each cell,
    float32 [ceil(out / 8), ceil(in / 8)]; `squares` is the sum of x^2 over the matrix, `columns` that of each
    column [in] and `strips` that of each strip of 8 rows [ceil(out / 8)]."""

    shape: tuple[int, int]
    peak: np.ndarray
    total: np.ndarray
    strips: np.ndarray
    columns: np.ndarray

    @property
    def squares(self) -> float:
        return float(self.strips.sum())

    @property
    def largest(self) -> float:
        return float(self.peak.max(initial=0.0))

    @cached_property
    def counts(self) -> np.ndarray:
        """Weights in each cell: fewer at the ragged edges."""
        sides = [np.minimum(CELL, n - CELL * np.arange(-(-n // CELL))) for n in self.shape]
        return np.outer(*sides).astype(np.float32)

    def at(self, level: int, how: str) -> np.ndarray:
        """Cells of 2^level weights on a side, level >= 3; `how` is max (of |x|) or mean (of |x|)."""
        steps = 2 ** (level - 3)
        if how == "max":
            return _coarser(self.peak, steps, np.maximum)
        return _coarser(self.total, steps, np.add) / _coarser(self.counts, steps, np.add)


@dataclass(frozen=True)
class ErrorCells:
    """The reductions of one comparison: the weights, the compressed weights, and their difference."""

    weight: Cells
    compressed_squares: float
    error: Cells

    @property
    def numbers(self) -> dict[str, float]:
        """The weight errors of `measure.weight` from the sums of the same pass."""
        return errors_from_sums(
            self.weight.squares, self.compressed_squares, self.error.squares, self.error.largest
        )


def errors_from_sums(w2: float, v2: float, e2: float, largest: float) -> dict[str, float]:
    """relative_error = |e| / |w|, sqnr_db = 10 log10(|w|^2 / |e|^2), cosine of w and the compressed w, max_error.

    The cosine follows from the three norms: 2 <w, v> = |w|^2 + |v|^2 - |e|^2.
    """
    ratio = e2 / w2 if w2 > 0 else math.nan
    norms = math.sqrt(w2 * v2)
    return {
        "relative_error": math.sqrt(ratio) if ratio == ratio else math.nan,
        "sqnr_db": -10 * math.log10(ratio) if ratio > 0 else math.inf if ratio == 0 else math.nan,
        "cosine": (w2 + v2 - e2) / (2 * norms) if norms > 0 else math.nan,
        "max_error": largest,
    }


def weight_cells(w: Tensor) -> Cells:
    """Cells of a matrix [out, in] by itself."""
    return _cells_of(w, None)[0]


def error_cells(w: Tensor, compressed: CompressedWeight, weight: Cells | None = None) -> ErrorCells:
    """Cells of compressed - w in one pass; `weight` are the cells of w where they are known already.

    w [out, in] float32. About twice the time of reading the matrix for integer grids; other grids are
    dequantized chunk by chunk first.
    """
    error, compressed_squares = _cells_of(w, compressed)
    return ErrorCells(weight or weight_cells(w), compressed_squares, error)


def _cells_of(w: Tensor, compressed: CompressedWeight | None) -> tuple[Cells, float]:
    out, inputs = w.shape
    rows, columns = -(-out // CELL), -(-inputs // CELL)
    peak, total = np.empty((rows, columns), np.float32), np.empty((rows, columns), np.float32)
    strips = np.empty((rows, 2), np.float64)
    source = w.float().contiguous().numpy()
    affine = None if compressed is None else _affine_parts(compressed)

    def work(start: int, stop: int) -> np.ndarray:
        sums = np.zeros(inputs, np.float64)
        if affine is not None:
            _affine_cells(source, *affine, start, stop, peak, total, strips, sums)
        elif compressed is None:
            _plain_cells(source[start:stop], source[start:stop], 0, start // CELL, peak, total, strips, sums)
        else:
            values = compressed.dequantize(rows=slice(start, stop)).contiguous().numpy()
            _plain_cells(source[start:stop], values, 1, start // CELL, peak, total, strips, sums)
        return sums

    columns_total = np.sum(over_rows(work, out), axis=0) if out else np.zeros(inputs)
    cells = Cells((out, inputs), peak, total, strips[:, 0], columns_total)
    return cells, float(strips[:, 1].sum())


def _affine_parts(compressed: CompressedWeight) -> tuple[np.ndarray, np.ndarray, np.ndarray, int] | None:
    """(codes, scales, zeros, group size) where the compiled loop can decode them itself."""
    blocks, scales = compressed.blocks, compressed.scales
    if not isinstance(compressed.grid, IntGrid) or not compressed.plain or scales is None:
        return None
    if blocks.rows not in (1, compressed.shape[0]) or blocks.columns == 1:
        return None
    codes = compressed.codes.contiguous().numpy()
    return codes, per_row(scales, blocks), per_row(compressed.zero, blocks), blocks.columns


# The loops go over tiles of 8 rows x TILE columns, so that the four sums of each column stay in the first cache.


@njit(nogil=True, cache=True, fastmath=FAST)
def _affine_cells(w, codes, scales, zeros, size, start, stop, peak, total, strips, sums):
    columns = w.shape[1]
    buffers, lanes = np.empty((4, TILE), np.float32), np.empty((2, TILE), np.float64)
    biggest, absolute, square, value2 = buffers[0], buffers[1], buffers[2], buffers[3]
    for top in range(start, stop, CELL):
        lanes[:] = 0
        for left in range(0, columns, TILE):
            right = min(columns, left + TILE)
            buffers[:] = 0
            for i in range(top, min(top + CELL, stop)):
                first = left
                while first < right:
                    group = first // size
                    last = min(right, (group + 1) * size)
                    a, b = first - left, last - left
                    _affine_group(
                        w[i, first:last],
                        codes[i, first:last],
                        scales[i, group],
                        zeros[i, group],
                        biggest[a:b],
                        absolute[a:b],
                        square[a:b],
                        value2[a:b],
                    )
                    first = last
            _close_tile(buffers, lanes, left, right, top // CELL, peak, total, sums)
        strips[top // CELL, 0], strips[top // CELL, 1] = lanes[0].sum(), lanes[1].sum()


@njit(nogil=True, cache=True, fastmath=FAST)
def _affine_group(w, codes, scale, zero, biggest, absolute, square, value2):
    for j in range(w.shape[0]):
        value = (np.float32(codes[j]) - zero) * scale
        error = value - w[j]
        size = abs(error)
        biggest[j] = size if size > biggest[j] else biggest[j]
        absolute[j] += size
        square[j] += error * error
        value2[j] += value * value


@njit(nogil=True, cache=True, fastmath=FAST)
def _plain_cells(w, values, subtract, first_strip, peak, total, strips, sums):
    """The same for values that are at hand; without `subtract` of the values themselves."""
    rows, columns = w.shape
    buffers, lanes = np.empty((4, TILE), np.float32), np.empty((2, TILE), np.float64)
    keep = np.float32(subtract)
    for top in range(0, rows, CELL):
        strip = first_strip + top // CELL
        lanes[:] = 0
        for left in range(0, columns, TILE):
            right = min(columns, left + TILE)
            buffers[:] = 0
            for i in range(top, min(top + CELL, rows)):
                _plain_row(
                    w[i, left:right],
                    values[i, left:right],
                    keep,
                    buffers[0],
                    buffers[1],
                    buffers[2],
                    buffers[3],
                )
            _close_tile(buffers, lanes, left, right, strip, peak, total, sums)
        strips[strip, 0], strips[strip, 1] = lanes[0].sum(), lanes[1].sum()


@njit(nogil=True, cache=True, fastmath=FAST)
def _plain_row(w, values, keep, biggest, absolute, square, value2):
    for j in range(w.shape[0]):
        error = values[j] - w[j] * keep
        size = abs(error)
        biggest[j] = size if size > biggest[j] else biggest[j]
        absolute[j] += size
        square[j] += error * error
        value2[j] += values[j] * values[j]


@njit(nogil=True, cache=True, fastmath=FAST)
def _close_tile(buffers, lanes, left, right, row, peak, total, sums):
    """Reduce the sums of the columns [left, right) of a strip to its cells, and add them to the matrix's."""
    width, first = right - left, left // CELL
    biggest, absolute = buffers[0], buffers[1]
    for cell in range(width // CELL):
        largest, added = biggest[cell * CELL], absolute[cell * CELL]
        for j in range(cell * CELL + 1, cell * CELL + CELL):
            largest = max(largest, biggest[j])
            added += absolute[j]
        peak[row, first + cell], total[row, first + cell] = largest, added
    if width % CELL:
        ragged = width - width % CELL
        peak[row, first + width // CELL] = biggest[ragged:width].max()
        total[row, first + width // CELL] = absolute[ragged:width].sum()
    # Sums side by side, one a column: a single running sum would wait for each addition.
    _add(sums[left:right], buffers[2])
    _add(lanes[0, :width], buffers[2])
    _add(lanes[1, :width], buffers[3])


@njit(nogil=True, cache=True, fastmath=FAST)
def _add(sums, more):
    for j in range(sums.shape[0]):
        sums[j] += more[j]


def _coarser(cells: np.ndarray, steps: int, combine: np.ufunc) -> np.ndarray:
    """Cells combined `steps` x `steps`, ragged edges included."""
    if steps <= 1:
        return cells
    for axis in (0, 1):
        cells = combine.reduceat(cells, np.arange(0, cells.shape[axis], steps), axis=axis)
    return cells
