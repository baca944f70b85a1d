"""The empirical spectral density (ESD): the eigenvalues lambda = sigma^2 of a weight, pooled over its matrices.

Not divided by a dimension, as in WeightWatcher. Martin & Mahoney 2021, JMLR 22(165), section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workbench.spectra.matrices import Matrices, matrices
from workbench.spectra.values import singular_values

if TYPE_CHECKING:
    from workbench.spectra.values import Matrix

EPS = float(np.finfo(np.float64).eps)
SURE = 1e-3  # a singular value above this fraction of the largest keeps ten digits on the Gram road


@dataclass(frozen=True, eq=False)
class ESD:
    """`sigmas` [n]: singular values of all `parts` matrices together, descending, unit of the weights. `N`, `M`: larger
    and smaller dimension of each matrix; n = parts * M. `rank_loss`: singular values that are zero to the precision of
    float64 (under the largest of their own matrix times N times eps). `exact`: whether all came from an SVD."""

    sigmas: np.ndarray
    N: int
    M: int
    parts: int = 1
    rank_loss: int = 0
    exact: bool = False

    @classmethod
    def of(cls, sigmas: np.ndarray, shape: tuple[int, int]) -> ESD:
        """Of one matrix of `shape` (out, in) whose singular values [min(out, in)], descending, are known already."""
        return cls(sigmas, max(shape), min(shape), 1, _zeros(sigmas, max(shape)))

    @property
    def eigenvalues(self) -> np.ndarray:
        """lambda = sigma^2 [n], ascending, weights squared."""
        return np.square(self.sigmas[::-1])

    @property
    def Q(self) -> float:
        """N / M, 1 or more."""
        return self.N / self.M

    def sure(self, eigenvalue: float) -> bool:
        """Whether eigenvalues from this one up keep ten digits."""
        return self.exact or bool(eigenvalue >= (SURE * self.sigmas[0]) ** 2)


def esd(w: Matrix | Matrices, *, conv: str = "slices", exact: bool = False) -> ESD:
    """The ESD of w [out, in], or of a convolution [out, in, height, width] read as `conv` says (see `matrices`).

    `exact`: by SVD, whatever the conditioning. Raises `Refused` as `matrices` does, `NotFinite` for NaN or Inf."""
    read = w if isinstance(w, Matrices) else matrices(w, conv)
    found = [singular_values(part, exact=exact) for part in read.parts]
    lost = sum(_zeros(each, read.N) for each in found)
    pooled = found[0] if len(found) == 1 else np.sort(np.concatenate(found))[::-1]
    return ESD(pooled, read.N, read.M, len(found), lost, exact)


def _zeros(sigmas: np.ndarray, N: int) -> int:
    largest = sigmas.max(initial=0.0)
    return int(np.count_nonzero(~(sigmas > largest * N * EPS)))
