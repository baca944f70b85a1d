"""Column by column: round or remove the weights of one input after another; each error moves onto the inputs that are
still to come. What GPTQ and SparseGPT share (the optimal brain surgeon with one fixed order for all rows).

For w [out, in] and H = X^T X / tokens, with the upper triangular U of H^-1 = U^T U:

    e_i = (w_i - q_i) / U_ii            the error of column i
    w_j -= e_i U_ij   for all j > i     the best answer of the columns to come
    sum e_i^2 = tr(D H D^T),  D = w - q  what it costs in the layer's output (Frantar et al. 2023, eq. 2 and 3)

Rows do not touch each other, so the compiled loop takes them in chunks on all cores; within a block of columns it works
in the first cache, and the rest of the matrix follows by one product a block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ..errors import Refused
from ..grid import Fit, IntGrid
from ..grid.chunks import over_rows
from ..grid.fused import FAST
from ..grid.grids import Grid, TableGrid
from ..jobs import beat

FLOAT, AFFINE, FLOAT_ZERO, TABLE = 0, 1, 2, 3  # how the compiled loop rounds


@dataclass(frozen=True)
class Factor:
    """U [in, in] upper triangular, U^T U = (H + damping)^-1, for the columns in `order`; `dead` inputs are always 0."""

    upper: Tensor
    order: Tensor
    dead: Tensor
    facts: dict[str, float | str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def inverse(self) -> Tensor:
        """Where each input is in the order."""
        return self.order.argsort()


def factorise(hessian: Tensor, damp: float, by_activation: bool = False) -> Factor:
    """Damp H by `damp` times its mean diagonal and factorise its inverse; columns by falling diagonal or as they are.

    One Cholesky: of H with rows and columns reversed, H = R R^T with R upper triangular, so U = R^-1. Where it is not
    positive definite all the same the damping grows tenfold until it is, and a warning says so.
    """
    h = hessian.double()
    if not torch.isfinite(h).all():
        raise Refused("the Hessian has NaN or infinite values: calibrate on other data")
    dead = h.diagonal() <= 0
    order = h.diagonal().argsort(descending=True, stable=True) if by_activation else torch.arange(len(h))
    h = h[order][:, order]
    mean = float(h.diagonal().mean()) or 1.0
    h.diagonal()[dead[order]] = mean  # any value: their weights are zero and stay so
    added, warnings = damp, ()
    eye = torch.eye(len(h), dtype=h.dtype)
    while True:
        lower, failed = torch.linalg.cholesky_ex((h + added * mean * eye).flip(0, 1))
        if not failed:
            break
        added = max(10 * added, 1e-6)
        warnings = (
            f"the Hessian is not positive definite with damping {damp:g}: {added:g} was needed; more data helps",
        )
    upper = torch.linalg.solve_triangular(lower.flip(0, 1), eye, upper=True)
    diagonal = (1 / upper.diagonal()) ** 2
    facts: dict[str, float | str] = {
        "condition (at least)": float(diagonal.max() / diagonal.min()),
        "damping": added,
        "dead inputs": float(dead.sum()),
    }
    return Factor(upper.float(), order, dead, facts, warnings)


class Sweep:
    """One pass over the columns of w [out, in] in the order of `factor`. `w` are the weights as they are compensated,
    `q` what they were rounded to, both in that order; `cost` is tr(D H D^T) so far, one value a block."""

    def __init__(self, w: Tensor, factor: Factor, keep: Tensor | None = None):
        """`keep` [out, in] True where a weight may stay; others are set to zero like every weight of a dead input."""
        self.factor = factor
        self.w = w.float()[:, factor.order].contiguous()
        self.w[:, factor.dead[factor.order]] = 0
        self.q = torch.zeros_like(self.w)
        self.keep = torch.ones_like(self.w, dtype=torch.bool)
        if keep is not None:
            self.keep = keep[:, factor.order].contiguous()
        self.cost: list[float] = []

    def block(self, start: int, stop: int, fit: Fit | None, n_m: tuple[int, int] = (0, 0)) -> None:
        """Round columns [start, stop) to `fit` (laid over the matrix in its own order of inputs; None: keep floats),
        removing what `keep` says, or all but n of every m that cost most; the later columns take up the error."""
        rule = _rule(fit)
        where = self.factor.order.numpy() if fit is not None else np.arange(self.w.shape[1])
        sizes = (fit.blocks.rows, fit.blocks.columns) if fit is not None else (1, 1)
        w, q, keep = self.w.numpy(), self.q.numpy(), self.keep.numpy()
        upper = self.factor.upper.numpy()
        errors = np.empty((len(w), stop - start), np.float32)

        def work(first: int, last: int) -> float:
            return _sweep(w, q, keep, upper, errors, (first, last), (start, stop), sizes, where, n_m, *rule)

        cost = math.fsum(over_rows(work, len(w), chunk=64))
        self.cost.append(cost + (self.cost[-1] if self.cost else 0.0))
        if stop < self.w.shape[1]:
            self.w[:, stop:].addmm_(torch.from_numpy(errors), self.factor.upper[start:stop, stop:], alpha=-1)
        beat(stop, self.w.shape[1], **{"output error^2": self.cost[-1]})

    @property
    def rounded(self) -> Tensor:
        """q [out, in] in the order of the inputs."""
        return self.q[:, self.factor.inverse]

    @property
    def kept(self) -> Tensor:
        """Which weights were kept, in the order of the inputs."""
        return self.keep[:, self.factor.inverse]


def _rule(
    fit: Fit | None,
) -> tuple[int, np.ndarray, np.ndarray, np.float32, np.float32, np.ndarray, np.ndarray]:
    """(how, scales, zeros, lowest, highest, values, midpoints) for the compiled loop."""
    none = np.zeros(0, np.float32)
    if fit is None:
        return FLOAT, np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32), *_bounds(0, 0), none, none
    scales = np.ascontiguousarray(fit.scales.float().numpy())
    if isinstance(fit.grid, IntGrid):
        zeros = np.zeros_like(scales) if fit.zero is None else np.ascontiguousarray(fit.zero.float().numpy())
        how = FLOAT_ZERO if fit.zero is not None and fit.zero.is_floating_point() else AFFINE
        return how, scales, zeros, *_bounds(fit.grid.lowest, fit.grid.highest), none, none
    values = fit.grid.values.float()
    return TABLE, scales, np.zeros_like(scales), *_bounds(0, 0), values.numpy(), _borders(fit.grid).numpy()


def _borders(grid: Grid) -> Tensor:
    """The greatest float32 that still goes to each value but the last."""
    if not isinstance(grid, TableGrid):
        values = grid.values.double()
        return ((values[1:] + values[:-1]) / 2).float()
    borders = grid.borders  # not half way everywhere: a power grid rounds before the root
    if grid.mirrored:  # those of the negative side too; a border itself goes to the smaller number
        borders = torch.cat([torch.nextafter(-borders.flip(0), torch.tensor(-torch.inf)), borders])
    return borders


def _bounds(low: int, high: int) -> tuple[np.float32, np.float32]:
    return np.float32(low), np.float32(high)


@njit(nogil=True, cache=True, fastmath=FAST)
def _sweep(
    w, q, keep, upper, errors, rows, columns, sizes, where, n_m, how, scales, zeros, low, high, values, middle
):
    cost = 0.0
    kept, of = n_m
    start, stop = columns
    for r in range(rows[0], rows[1]):
        for i in range(start, stop):
            if of > 0 and (i - start) % of == 0:
                _choose(w[r], keep[r], upper, i, min(i + of, stop), kept)
            x = w[r, i]
            value = np.float32(0)
            if keep[r, i]:
                scale = scales[r // sizes[0], where[i] // sizes[1]] if how else np.float32(1)
                zero = zeros[r // sizes[0], where[i] // sizes[1]] if how else np.float32(0)
                if how == FLOAT:
                    value = x
                elif how == AFFINE:
                    value = (min(max(np.rint(x / scale) + zero, low), high) - zero) * scale
                elif how == FLOAT_ZERO:
                    value = (min(max(np.rint(x / scale + zero), low), high) - zero) * scale
                else:
                    value = values[_nearest(middle, x / scale)] * scale
            q[r, i] = value
            error = (x - value) / upper[i, i]
            errors[r, i - start] = error
            cost += error * error
            _move(w[r, i + 1 : stop], upper[i, i + 1 : stop], error)
    return cost


@njit(nogil=True, cache=True, fastmath={"nnan", "ninf", "nsz", "contract"})
def _move(w, upper, error):
    for j in range(w.shape[0]):
        w[j] -= error * upper[j]


@njit(nogil=True, cache=True)
def _nearest(middle, y):
    """Index of the value nearest to y, by the midpoints between values."""
    first, last = 0, middle.shape[0]
    while first < last:
        half = (first + last) // 2
        if middle[half] < y:
            first = half + 1
        else:
            last = half
    return first


@njit(nogil=True, cache=True)
def _choose(w, keep, upper, start, stop, kept):
    """Of the columns [start, stop) keep those that would cost most, w^2 / U_ii^2; of equal ones the later."""
    remaining = 0
    for j in range(start, stop):
        remaining += keep[j]
    for _ in range(max(0, remaining - kept)):
        least, at = np.inf, start
        for j in range(start, stop):
            score = (w[j] / upper[j, j]) ** 2
            if keep[j] and score < least:
                least, at = score, j
        keep[at] = False
