"""Shares from alpha: layers with a heavier tail are better trained, and are pruned less.

AlphaPruning (Lu et al. 2024, section 3.2): r = linear in alpha from 1 - eps to 1 + eps, shares proportional to r, with
the wanted mean. Its code lets a share exceed 1; here shares are clipped and the rest is raised until the mean is met.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workbench.errors import Refused

EPS = 0.3  # of AlphaPruning; FARMS takes 0.2
MOST = 0.99  # no layer loses more than this share of its weights


def shares(
    alphas: Sequence[float] | np.ndarray,
    sizes: Sequence[float] | np.ndarray,
    mean: float,
    *,
    eps: float = EPS,
    most: float = MOST,
) -> np.ndarray:
    """Share of each layer [n], larger where alpha is, of which the mean weighted by `sizes` (weights) is `mean`.

    Equal alphas get equal shares. Raises `Refused` for lengths that differ, alphas that are not finite, a mean above
    `most` and an eps outside 0 to 1."""
    a, n = np.asarray(alphas, float), np.asarray(sizes, float)
    if not len(a) or a.shape != n.shape or not np.isfinite(a).all() or not (n > 0).all():
        raise Refused(
            f"allocation: {len(a)} alphas and {len(n)} sizes; pass one finite alpha and one size above 0 for each layer"
        )
    if not 0 <= mean <= most:
        raise Refused(f"allocation: a mean share of {mean:g} is outside 0 to {most:g}")
    check_eps(eps)
    r = 1 + eps * (2 * spread(a) - 1) if eps else np.ones_like(a)
    return _budgeted(r, n, mean, most)


def check_eps(eps: float) -> None:
    """Refused outside 0 to 1: a layer would get less than nothing."""
    if not 0 <= eps < 1:
        raise Refused(f"allocation: eps is {eps:g}; take 0 (all alike) up to, not including, 1")


def spread(alphas: np.ndarray) -> np.ndarray:
    """alphas [n] moved linearly to 0 (the least) ... 1 (the greatest); 0.5 where all are equal."""
    low, high = alphas.min(), alphas.max()
    return (alphas - low) / (high - low) if high > low else np.full_like(alphas, 0.5)


def _budgeted(r: np.ndarray, n: np.ndarray, mean: float, most: float) -> np.ndarray:
    """Shares proportional to r, none above `most`, with the weighted mean `mean`."""
    clipped = np.zeros(len(r), bool)
    while True:
        left = mean * n.sum() - most * n[clipped].sum()
        free = float((n * r)[~clipped].sum())
        made = np.where(clipped, most, r * left / free if free > 0 else most)
        over = ~clipped & (made > most)
        if not over.any():
            return made
        clipped |= over
