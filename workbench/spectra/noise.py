"""Alpha of pure noise: what a Hill estimator says of Gaussian matrices.

A matrix without any structure has no tail, and the estimators that do not search for one still give it an exponent: 2.1
for a square matrix, 5.9 for one sixteen times as long as wide. Such an alpha says something only beside that of noise
of the same shape; the range 2 to 6 of well-trained layers is that of fitted tails. With the rules "peak" and "search"
the exponent of noise scatters widely, from 3 to 7 for a square matrix: theirs is the middle of several draws.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from workbench.errors import Refused
from workbench.spectra.hill import hill
from workbench.spectra.values import singular_values

SMALLER = 256  # rows or columns of what is drawn: the exponent depends on the ratio, hardly on the size
ENTRIES = 1 << 20  # of a matrix that is drawn, at most
DRAWS = {"median": 2}  # of a rule whose exponent of noise is steady
OTHERWISE = 8


@lru_cache(maxsize=512)
def noise_alpha(rows: int, columns: int, estimator: str = "median", pool: int = 1) -> float:
    """The middle of the alphas by `hill` of some draws of `pool` Gaussian matrices of this shape, pooled as FARMS pools
    windows; of this aspect ratio where they would be large. The same number at every call; NaN where they have too few
    eigenvalues."""
    large, small = max(rows, columns), min(rows, columns)
    if small < 1:
        return float("nan")
    ratio = large / small
    smaller = max(1, min(small, SMALLER, int((ENTRIES / ratio) ** 0.5)))
    shape = smaller, max(smaller, round(smaller * ratio))
    random = np.random.default_rng(0)
    found = []
    for _ in range(DRAWS.get(estimator, OTHERWISE)):
        drawn = [singular_values(random.standard_normal(shape)) ** 2 for _ in range(pool)]
        try:
            found.append(hill(np.concatenate(drawn), estimator).alpha)
        except Refused:
            return float("nan")
    return float(np.median(found))
