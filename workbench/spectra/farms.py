"""FARMS: the tail of fixed-aspect-ratio submatrices, so that alpha does not depend on the shape of the layer.

The spectrum of pure noise depends on the aspect ratio, and with it alpha: 2.1 for a square Gaussian matrix, 4.6 for one
eight times as long as wide. FARMS cuts windows of one ratio out of the matrix, pools their eigenvalues and fits once.
Hu et al. 2025, "Eigenspectrum Analysis of Neural Networks without Aspect Ratio Bias", section 3. Kept from its code:
where windows begin, and for convolutions the mean of the alphas of each window's pooled slices. Mended: a ratio that
does not fit the matrix shrinks the window (there it silently becomes another ratio), and all of a convolution is
visited (there half of it, for ratios above 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import Refused
from workbench.spectra.hill import ESTIMATORS, hill
from workbench.spectra.matrices import Matrices, matrices
from workbench.spectra.powerlaw import LEAST
from workbench.spectra.values import GRAM_FLOOR, lower_gram, singular_values, symmetric_eigenvalues

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workbench.spectra.values import Matrix

ROWS = 100  # of a window
WINDOWS = 10  # along each dimension
TOGETHER = 1 << 25  # numbers in the pieces that windows share: 256 MB
WORTH = 128  # columns of a piece from which adding it costs less than multiplying it again


@dataclass(frozen=True, eq=False)
class Farms:
    """`alpha`, `D`: of the pooled windows (for a convolution the mean over them). `shape`: (rows, columns) of a window.
    `windows`: how many. `eigenvalues`: pooled, ascending, weights squared. `starts`: (row, column) of each window."""

    alpha: float
    D: float
    shape: tuple[int, int]
    windows: int
    eigenvalues: np.ndarray
    starts: tuple[tuple[int, int], ...]

    @property
    def ratio(self) -> float:
        """Columns to rows of a window; not the one asked for where whole numbers do not allow it."""
        return self.shape[1] / self.shape[0]


def farms(
    w: Matrix | Matrices,
    *,
    rows: int = ROWS,
    ratio: float = 1.0,
    windows: int = WINDOWS,
    stride: int | None = None,
    estimator: str = "median",
    least: int = LEAST,
) -> Farms:
    """FARMS of w [out, in], of a convolution [out, in, height, width], or of `Matrices`, windows of all pooled.

    `rows` of a window, less where the matrix has fewer; `ratio` of its columns to its rows; `windows` along each
    dimension, evenly spread, or one every `stride` rows and columns. `estimator`: one of `hill`. Alphas of different
    `rows` or `ratio`, and of whole matrices, are not comparable: `rows` should not exceed the smallest dimension of the
    layers that are compared. Windows of a convolution are as wide as its slices are, whatever `rows`, `windows` and
    `stride` say. Raises `Refused` for what does not make sense, fewer than `least` eigenvalues in a fit, windows that
    are of lower rank with fewer than `least` directions in all, and as `hill` and `matrices` do."""
    check_windows(rows, ratio, windows, stride, estimator)
    read = w if isinstance(w, Matrices) else matrices(w)
    if not read.M:
        raise Refused(f"FARMS: a weight {list(w.shape)} has no windows; it holds no weights")
    if not isinstance(w, Matrices) and w.ndim > 2:
        return _convolution(read.parts, ratio, estimator, least)
    shape = window_shape(read.shape, rows, ratio)
    starts = tuple(_starts(read.shape, shape, windows, stride))
    pools = [_pools(part, shape, starts) for part in read.parts]
    _refuse_low_rank(pools, [part.dtype for part in read.parts], shape, least)
    eigenvalues = np.sort(np.concatenate([values for pool in pools for values in pool]))
    fit = hill(eigenvalues, estimator, least=least)
    return Farms(fit.alpha, fit.D, shape, len(starts) * len(read.parts), eigenvalues, starts)


def window_shape(shape: tuple[int, int], rows: int, ratio: float) -> tuple[int, int]:
    """(rows, columns) of a window in a matrix of `shape`: `rows` if both fit, else as many as do."""
    out, inner = shape
    r = max(1, min(rows, out, inner, int(inner / ratio)))
    return r, max(1, int(r * ratio))


def _starts(
    shape: tuple[int, int], window: tuple[int, int], windows: int, stride: int | None
) -> Iterator[tuple[int, int]]:
    """Where windows begin: (row, column), rows first."""
    places = []
    for size, length in zip(shape, window, strict=True):
        room = size - length
        step = stride or max(1, room // max(1, windows - 1))
        count = room // step + 1
        places.append([min(k * step, room) for k in range(count if stride else min(windows, count))])
    for row in places[0]:
        for column in places[1]:
            yield row, column


def _pools(
    part: np.ndarray, window: tuple[int, int], starts: tuple[tuple[int, int], ...]
) -> list[np.ndarray]:
    """Eigenvalues of each window of a part, ascending."""
    rows, columns = window
    found = []
    for (i, j), gram in _grams(part, window, starts):
        eigenvalues = symmetric_eigenvalues(gram)
        if eigenvalues[0] < GRAM_FLOOR**2 * eigenvalues[-1]:  # the Gram matrix has lost digits
            eigenvalues = np.sort(np.square(singular_values(part[i : i + rows, j : j + columns])))
        found.append(eigenvalues)
    return found


def _refuse_low_rank(
    pools: list[list[np.ndarray]], dtypes: list[np.dtype], window: tuple[int, int], least: int
) -> None:
    """Refused where windows are of lower rank than they could be and all have the same few directions: counted once in
    each window these would pass for many eigenvalues. What is no more than rounding of the dtype counts as zero."""
    directions = 0
    for pool, dtype in zip(pools, dtypes, strict=True):
        floor = (max(window) * float(np.finfo(dtype).eps)) ** 2
        directions += max(int(np.count_nonzero(values > floor * values[-1])) for values in pool)
    if directions < min(least, len(pools) * min(window)):
        raise Refused(
            f"FARMS: windows of {window[0]} x {window[1]} have no more than {directions} directions, the same in every "
            f"window, and a fit needs {least}; the matrix is of low rank: read stable_rank instead, or pass a lower "
            "least"
        )


def _grams(
    part: np.ndarray, window: tuple[int, int], starts: tuple[tuple[int, int], ...]
) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """(start, smaller Gram matrix in float64, its lower triangle) of each window."""
    (rows, columns), turned = window, window[0] > window[1]
    if turned:
        part, rows, columns, starts = part.T, columns, rows, tuple((j, i) for i, j in starts)
    for i, group in groupby(sorted(starts), key=itemgetter(0)):
        strip = part[i : i + rows].astype(np.float64)
        places = [j for _, j in group]
        for j, gram in zip(places, _overlapping(strip, places, columns), strict=True):
            yield ((j, i) if turned else (i, j)), gram


def _overlapping(strip: np.ndarray, places: list[int], columns: int) -> Iterator[np.ndarray]:
    """Gram matrices [rows, rows], lower triangles, of strip[:, j : j + columns] for ascending `places` j. What windows
    share is multiplied once: the strip is cut where a window begins or ends, and a window is the sum of its pieces."""
    cuts = sorted({*places, *(j + columns for j in places)})
    width = (cuts[-1] - cuts[0]) / (len(cuts) - 1)
    if width < WORTH or len(cuts) * len(strip) ** 2 > TOGETHER:
        for j in places:
            yield lower_gram(strip[:, j : j + columns])
        return
    pieces = [lower_gram(strip[:, begin:end]) for begin, end in pairwise(cuts)]
    for j in places:
        own = pieces[cuts.index(j) : cuts.index(j + columns)]
        gram = own[0].copy(order="F")
        for piece in own[1:]:
            gram += piece
        yield gram


def _convolution(parts: tuple[np.ndarray, ...], ratio: float, estimator: str, least: int) -> Farms:
    """Windows one below the other, as wide as the slices are, the slices in tall orientation; a fit for each window
    of all slices together, and the mean of the alphas."""
    tall = [part if part.shape[0] >= part.shape[1] else part.T for part in parts]
    rows, columns = tall[0].shape
    window = (
        (max(1, int(columns // ratio)), columns) if ratio > 1 else (columns, max(1, int(columns * ratio)))
    )
    starts = tuple((row, 0) for row in range(0, rows - window[0] + 1, window[0]))
    each = [_pools(part, window, starts) for part in tall]
    pools = [np.sort(np.concatenate(same)) for same in zip(*each, strict=True)]
    fits = [hill(pool, estimator, least=least) for pool in pools]
    alpha, distance = (float(np.mean([getattr(fit, name) for fit in fits])) for name in ("alpha", "D"))
    return Farms(alpha, distance, window, len(starts), np.sort(np.concatenate(pools)), starts)


def check_windows(rows: int, ratio: float, windows: int, stride: int | None, estimator: str) -> None:
    """Refused for windows, and an estimator, that do not make sense."""
    if rows < 1 or windows < 1 or (stride is not None and stride < 1):
        raise Refused(f"FARMS: rows {rows}, windows {windows} and stride {stride} start at 1")
    if not 0 < ratio < np.inf:
        raise Refused(f"FARMS: ratio {ratio} is columns to rows of a window, above 0: 1 for square windows")
    if estimator not in ESTIMATORS:
        raise Refused(f"FARMS: estimator {estimator!r} is none of {', '.join(ESTIMATORS)}")
