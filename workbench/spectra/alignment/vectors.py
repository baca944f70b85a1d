"""Why matching works: the leading singular vectors of two networks turn towards each other.

A permutation cannot touch singular values, so all that it can do for ||A - B|| it does through

    M_ij = (u_i^a . u_j^b) (v_i^a . v_j^b),   ||A - B||_F^2 = sum s_a^2 + sum s_b^2 - 2 sum_ij s_i^a s_j^b M_ij

where large singular values dominate (Ito, Yamada & Kumagai 2024, "Analysis of linear mode connectivity via
permutation-based weight matching"). The identity is exact. How the scores R and R_gamma are normalised is a
reconstruction: the paper was not at hand in full. Here R is sum_ij M_ij over all layers by the number of singular
directions, and R_gamma counts directions with s_i >= gamma s_1 on both sides, divided by the smaller count.
Directions that a weight has not, where its singular value is zero but for rounding, count nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import Refused
from workbench.spectra.values import as_matrix

if TYPE_CHECKING:
    from workbench.spectra.values import Matrix


ROUNDING = 1e-13  # of the largest singular value: what an SVD in float64 leaves of a zero


@dataclass(frozen=True, eq=False)
class VectorAlignment:
    """Singular values [n] of one weight in two networks, descending, and M [n, n] of their directions."""

    s_a: np.ndarray
    s_b: np.ndarray
    m: np.ndarray

    @cached_property
    def squared_distance(self) -> float:
        """||A - B||_F^2, by the identity above."""
        return float(np.sum(self.s_a**2) + np.sum(self.s_b**2) - 2 * self.s_a @ self.m @ self.s_b)

    def leading(self, gamma: float) -> tuple[float, int]:
        """(sum of M_ij, count) over the directions with s >= gamma s_1 in each network; the smaller count."""
        # Directions that are zero but for rounding could be any; a zero matrix has none at all.
        rows, columns = (
            int(np.sum((s >= gamma * s[0]) & (s > ROUNDING * s[0]))) for s in (self.s_a, self.s_b)
        )
        return float(self.m[:rows, :columns].sum()), min(rows, columns)


@dataclass(frozen=True, eq=False)
class Decomposition:
    """w [out, in] = u [out, n] diag(s) v [n, in], float64, s descending."""

    u: np.ndarray
    s: np.ndarray
    v: np.ndarray

    @classmethod
    def of(cls, w: Matrix) -> Decomposition:
        """Raises Refused for NaN and Inf, for what is no matrix, and for an empty one."""
        matrix = as_matrix(w).astype(np.float64)
        if 0 in matrix.shape:
            raise Refused(f"a weight of {list(matrix.shape)} has no singular directions")
        return cls(*np.linalg.svd(matrix, full_matrices=False))

    def alignment(self, other: Decomposition) -> VectorAlignment:
        """M_ij with the other. Raises Refused where the shapes differ."""
        one, two = ([len(each.u), each.v.shape[1]] for each in (self, other))
        if one != two:
            raise Refused(f"two weights of {one} and {two} have no directions in common to compare")
        return VectorAlignment(self.s, other.s, (self.u.T @ other.u) * (self.v @ other.v.T))


def singular_alignment(a: Matrix, b: Matrix) -> VectorAlignment:
    """M_ij of two weights [out, in] of one shape. Signs of singular vectors cancel; where singular values are equal
    only sums of M over their subspace mean anything. Raises Refused for different shapes, NaN and Inf."""
    return Decomposition.of(a).alignment(Decomposition.of(b))


def alignment_score(layers: VectorAlignment | Iterable[VectorAlignment], gamma: float = 0.0) -> float:
    """R_gamma of one layer or of several together, at most 1, which it is where all directions coincide."""
    given = [layers] if isinstance(layers, VectorAlignment) else list(layers)
    if not 0 <= gamma <= 1:
        raise Refused(f"gamma {gamma} is no fraction of the largest singular value: take 0 (all) to 1")
    sums, counts = zip(*(layer.leading(gamma) for layer in given), strict=True) if given else ((), ())
    return sum(sums) / sum(counts) if sum(counts) else float("nan")


def scores(layers: Mapping[str, VectorAlignment], gammas: Iterable[float]) -> np.ndarray:
    """[gammas]: R_gamma of all layers together."""
    return np.array([alignment_score(layers.values(), gamma) for gamma in gammas])
