"""The noise edge: which directions of a weight matrix drown in the error of its compressed copy.

An error with independent entries spreads over all directions, and its largest singular value is known
beforehand: sd * (sqrt(out) + sqrt(in)), the upper edge of the Marchenko-Pastur law in units of singular
values (Marchenko & Pastur 1967; the largest value converges to it: Yin, Bai & Krishnaiah 1988). A direction
under the edge is changed by up to its whole strength. Sharper: a direction weaker than sd * (out *
in)^(1/4) leaves no outlier above the noise, and its singular vectors become orthogonal to the true ones
(Baik, Ben Arous & Peche 2005; for rectangular matrices Benaych-Georges & Nadakuditi 2012, section 3.1).
Both are limits for large matrices and white errors.

The variance itself is known before anything is rounded: an error that lies anywhere in a cell of width s with equal
chance has variance s^2 / 12 (Bennett 1948). `predicted_variance` is that for any grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import Refused
from workbench.spectra.bulk import mp_density
from workbench.spectra.values import as_matrix, singular_values

if TYPE_CHECKING:
    from workbench.spectra.values import Matrix


def noise_edge(error_variance: float, shape: tuple[int, int]) -> float:
    """Largest singular value to expect of a random matrix of `shape` (out, in) whose entries are
    independent with mean 0 and variance `error_variance` (weights squared): sd * (sqrt(out) + sqrt(in)),
    unit of the weights.

    Marchenko & Pastur 1967; Yin, Bai & Krishnaiah 1988. Raises `Refused` for a variance that is negative or
    not finite, or dimensions under 1."""
    out, inner = checked(error_variance, shape)
    return math.sqrt(error_variance) * (math.sqrt(out) + math.sqrt(inner))


def detection_threshold(error_variance: float, shape: tuple[int, int]) -> float:
    """Singular value under which one direction of a matrix of `shape` (out, in) cannot be found again in
    white noise of `error_variance` (weights squared): sd * (out * in)^(1/4), unit of the weights; never
    above `noise_edge` / 2.

    Benaych-Georges & Nadakuditi 2012, section 3.1 (there for variance 1/in and c = out/in: the threshold
    c^(1/4)). Raises `Refused` as `noise_edge` does."""
    out, inner = checked(error_variance, shape)
    return math.sqrt(error_variance) * (out * inner) ** 0.25


def noise_density(values: np.ndarray, error_variance: float, shape: tuple[int, int]) -> np.ndarray:
    """Density, per unit of the weights, of the singular values of white noise of `shape` (out, in) and `error_variance`
    at `values` [...]: the Marchenko-Pastur law with sigma = sqrt lambda. Integrates to 1. Raises `Refused` as
    `noise_edge` does, and for a variance of 0, which has no density."""
    out, inner = checked(error_variance, shape)
    if error_variance == 0:
        raise Refused("noise edge: an error of variance 0 has no density; the copy is the weight itself")
    values = np.asarray(values, float)
    unit = error_variance * max(out, inner)  # of an eigenvalue of the law
    return mp_density(np.square(values) / unit, max(shape) / min(shape)) * 2 * values / unit


def predicted_variance(values: np.ndarray, levels: np.ndarray, scale: np.ndarray | float = 1.0) -> np.ndarray:
    """Variance [...] to expect of rounding each of values [...] (in units of `scale` [...], before rounding) to the
    nearest of levels [k], ascending; unit of scale squared.

    Within a cell that reaches a below and b above its level the weight may lie anywhere with equal chance: (a^3 + b^3)
    / 3 (a + b), for equal steps s the s^2 / 12 of Bennett 1948. The outermost cells are as wide outwards as inwards;
    what lies beyond is clipped, and its error is known. Off where the density changes much in a cell, as at 2 bits."""
    levels = np.asarray(levels, float)
    if levels.ndim != 1 or len(levels) < 2 or (np.diff(levels) <= 0).any():
        raise Refused(
            f"noise edge: expected two levels or more, ascending, got {levels.tolist()[:5]}; pass all values of a grid"
        )
    half = np.diff(levels) / 2
    below, above = np.r_[half[0], half], np.r_[half, half[-1]]
    cells = (below**3 + above**3) / (3 * (below + above))
    values = np.asarray(values, float)
    found = cells[np.searchsorted(levels[:-1] + half, values)]
    clipped = np.maximum(values - levels[-1] - half[-1], levels[0] - half[0] - values) > 0
    beyond = np.maximum(values - levels[-1], levels[0] - values)
    return np.where(clipped, np.square(beyond), found) * np.square(scale)


@dataclass(frozen=True, eq=False)
class NoiseEdge:
    """The spectrum of a weight matrix before and after compression, and the edge of the error between them.

    `error_variance`: variance of the entries of w_hat - w about their mean, weights squared. `edge` and
    `threshold`: `noise_edge` and `detection_threshold` of it. `error_norm`: ||w_hat - w||_2 as measured;
    well above `edge`, the error is not white (a bias, or columns and rows that err more than others).
    `before`, `after`, `error` [min(out, in)]: singular values of w, w_hat and w_hat - w, descending. All but the
    variance in the unit of the weights. `shape`: (out, in)."""

    error_variance: float
    edge: float
    threshold: float
    error_norm: float
    before: np.ndarray
    after: np.ndarray
    error: np.ndarray
    shape: tuple[int, int]

    @classmethod
    def measure(cls, w: Matrix, w_hat: Matrix) -> NoiseEdge:
        """The edge of w_hat [out, in] as a copy of w [out, in].

        Raises `Refused` when the shapes differ or one is empty, and as `singular_values` does."""
        original, copy = as_matrix(w), as_matrix(w_hat)
        if original.shape != copy.shape or not original.size:
            raise Refused(
                f"noise edge: the weight is {list(original.shape)} and its copy {list(copy.shape)}; compare "
                "a matrix with its own compressed form, same orientation, at least one weight"
            )
        shape, error = (original.shape[0], original.shape[1]), np.subtract(copy, original, dtype=np.float64)
        variance = float(error.var())
        sigmas = singular_values(error)
        return cls(
            error_variance=variance,
            edge=noise_edge(variance, shape),
            threshold=detection_threshold(variance, shape),
            error_norm=float(sigmas[0]),
            before=singular_values(original),
            after=singular_values(copy),
            error=sigmas,
            shape=shape,
        )

    @property
    def lost(self) -> int:
        """Singular values of w under the edge."""
        return int(np.count_nonzero(self.before < self.edge))

    @property
    def kept(self) -> int:
        """Singular values of w at or above the edge; `lost` + `kept` = min(out, in)."""
        return len(self.before) - self.lost

    @property
    def undetectable(self) -> int:
        """Singular values of w under `threshold`; never more than `lost`."""
        return int(np.count_nonzero(self.before < self.threshold))

    @property
    def largest_shift(self) -> float:
        """max_i |after_i - before_i|; by Weyl's inequality never above `error_norm`."""
        return float(np.abs(self.after - self.before).max())


def checked(error_variance: float, shape: tuple[int, int]) -> tuple[int, int]:
    """`shape`, once it and the variance make sense."""
    if not (math.isfinite(error_variance) and error_variance >= 0):
        raise Refused(
            f"noise edge: error_variance is {error_variance}; pass the variance of the error, finite and >= 0"
        )
    if len(shape) != 2 or min(shape) < 1:
        raise Refused(f"noise edge: shape is {list(shape)}; pass (out, in), both at least 1")
    return int(shape[0]), int(shape[1])
