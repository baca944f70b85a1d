"""Do the leading directions survive: angles between the top singular subspaces of a matrix and of its copy.

The principal angles between two k-dimensional subspaces with orthonormal bases U and V are the arc cosines of the
singular values of U^T V (Bjorck & Golub 1973, theorem 1). What white noise does to one direction is known beforehand:
Benaych-Georges & Nadakuditi 2012, section 3.1 and theorem 2.10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from workbench.errors import Refused
from workbench.spectra.edge import checked
from workbench.spectra.values import as_matrix

if TYPE_CHECKING:
    from workbench.spectra.values import Matrix


@dataclass(frozen=True, eq=False)
class Overlap:
    """Between the top k singular subspaces of two matrices. `left` (outputs), `right` (inputs) [k]: principal angles,
    degrees, ascending. `left_overlap`, `right_overlap`: mean of their squared cosines, 0 to 1: the share of one
    subspace that lies in the other; two random ones have k / dimension."""

    left: np.ndarray
    right: np.ndarray

    @property
    def left_overlap(self) -> float:
        return _share(self.left)

    @property
    def right_overlap(self) -> float:
        return _share(self.right)

    @property
    def largest(self) -> float:
        """Largest of all angles, degrees; NaN where there is none."""
        return float(max(self.left.max(), self.right.max())) if len(self.left) else float("nan")


def overlap(w: Matrix, w_hat: Matrix, k: int = 8) -> Overlap:
    """The Overlap of w and w_hat [out, in], both of float dtype; k is lowered to the rank of w (of zeros: no angles).
    Directions that a copy of lower rank has not are 90 degrees off.

    Where singular value k and k + 1 are nearly equal the subspace itself is arbitrary there, and so is its last angle.
    Raises `Refused` for shapes that differ and k under 1."""
    a, b, k = _pair(w, w_hat, k)
    u, v = _top(a, k)
    u_hat, v_hat = _top(b, u.shape[1])
    return Overlap(_angles(u, u_hat), _angles(v, v_hat))


def kept_directions(w: Matrix, w_hat: Matrix, k: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """How much of each of the k leading left and right singular vectors of w [out, in] lies in the span of the k
    leading ones of w_hat: squared cosines [k] of the angle to it, 0 to 1; k is lowered to the rank of w. The last ones
    lie partly beyond the k of the copy where singular values are close, whatever the error. Raises `Refused` as
    `overlap` does."""
    a, b, k = _pair(w, w_hat, k)
    u, v = _top(a, k)
    u_hat, v_hat = _top(b, u.shape[1])
    return np.square(u_hat.T @ u).sum(0), np.square(v_hat.T @ v).sum(0)


@dataclass(frozen=True)
class Spike:
    """What becomes of a direction of strength s in white noise: its singular value in the sum, and the expected squared
    cosines between its left (outputs) and right (inputs) vectors and those of the sum. 0 under the threshold."""

    value: float
    left: float
    right: float


def predicted_spike(strength: float, error_variance: float, shape: tuple[int, int]) -> Spike:
    """For one direction of singular value `strength` (unit of the weights) in a matrix of `shape` (out, in), and
    independent errors of `error_variance` (weights squared), in the limit of large matrices.

    Raises `Refused` as `noise_edge` does, and for a strength that is negative or not finite.

    With theta = strength / (sd sqrt in) and c = out / in: value = sqrt((1 + theta^2)(c + theta^2)) / theta, left =
    1 - c (1 + theta^2) / (theta^2 (theta^2 + c)), right = 1 - (c + theta^2) / (theta^2 (theta^2 + 1)), if theta >
    c^(1/4)."""
    out, inner = checked(error_variance, shape)
    if not (math.isfinite(strength) and strength >= 0):
        raise Refused(f"spike: strength is {strength}; pass a singular value, finite and >= 0")
    sd = math.sqrt(error_variance)
    if sd == 0:
        return Spike(strength, 1.0, 1.0)
    unit, c = sd * math.sqrt(inner), out / inner
    theta = strength / unit
    if theta <= c**0.25:
        return Spike(unit * (1 + math.sqrt(c)), 0.0, 0.0)
    t = theta * theta
    value = unit * math.sqrt((1 + t) * (c + t)) / theta
    return Spike(value, 1 - c * (1 + t) / (t * (t + c)), 1 - (c + t) / (t * (t + 1)))


def _pair(w: Matrix, w_hat: Matrix, k: int) -> tuple[np.ndarray, np.ndarray, int]:
    a, b = as_matrix(w), as_matrix(w_hat)
    if a.shape != b.shape or not a.size or k < 1:
        raise Refused(
            f"overlap: the weight is {list(a.shape)}, its copy {list(b.shape)}, k {k}; compare a matrix with its own "
            "compressed form, k from 1"
        )
    return a, b, min(k, *a.shape)


def _top(a: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The top k left [out, k] and right [in, k] singular vectors, the leading one first; fewer where the rank is less:
    a direction of strength zero could be any."""
    largest = float(np.abs(a).max())
    if not k or not largest:
        return np.zeros((a.shape[0], 0)), np.zeros((a.shape[1], 0))
    a = a / np.float64(largest)  # squares of 1e-200 or 1e200 leave float64
    wide = a.shape[0] <= a.shape[1]
    gram = a @ a.T if wide else a.T @ a
    n = len(gram)
    values, near = scipy.linalg.eigh(gram, subset_by_index=(n - k, n - 1), check_finite=False)
    # What rounding leaves of a zero in a Gram matrix stays under n eps of its largest eigenvalue.
    near = near[:, ::-1][:, values[::-1] > values[-1] * n * np.finfo(np.float64).eps]
    far, _ = np.linalg.qr((a.T if wide else a) @ near)
    return (near, far) if wide else (far, near)


def _angles(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    missing = np.full(u.shape[1] - v.shape[1], 90.0)
    cosines = np.linalg.svd(u.T @ v, compute_uv=False)
    # Small angles are lost in their cosine: those come from the sine (Bjorck & Golub 1973, section 3).
    sines = np.linalg.svd(v - u @ (u.T @ v), compute_uv=False)[::-1]
    angles = np.where(cosines < 0.7, np.arccos(cosines.clip(0, 1)), np.arcsin(sines.clip(0, 1)))
    return np.r_[np.degrees(np.sort(angles)), missing]


def _share(degrees: np.ndarray) -> float:
    return float(np.square(np.cos(np.radians(degrees))).mean()) if len(degrees) else float("nan")
