"""The exponent of a spectrum's tail: rho(lambda) ~ lambda^-alpha above xmin, fitted as WeightWatcher does.

For each candidate xmin = lambda_i the continuous maximum-likelihood alpha, and the distance D between the
fitted and the empirical distribution (Kolmogorov-Smirnov); the candidate of least D wins. Clauset, Shalizi
& Newman 2009, eq. 3.1 and section 3.3; Martin & Mahoney 2021 for its use on weights. What surprises: the
empirical distribution is the *left* one (0, 1/n, ..., (n-1)/n), and eigenvalues up to 1e-5 are dropped by
an absolute threshold, so alpha does not depend on the scale of the weights only while no eigenvalue crosses
it. `scan_tail` computes D of every candidate, n^2 / 2 exponentials; `fit_tail` needs only the least, and leaves
a candidate as soon as one gap exceeds the best D so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from workbench.errors import Refused

THRESHOLD = 1e-5  # WeightWatcher's EVALS_THRESH, for spectra computed in float32 or better
LEAST = 50  # below this alpha moves by tenths with single eigenvalues: no fit, unless it is asked for
SPREAD = 1e-9  # a tail whose logarithms span less is one repeated value: it has no exponent
EPS = float(np.finfo(np.float64).eps)
CHUNK = 1 << 16  # entries of the distance matrix at a time: 0.5 MB of float64, which stays in the cache


@dataclass(frozen=True)
class TailScan:
    """Every candidate of a tail fit, for the plots "D over xmin" and "alpha over xmin".

    `eigenvalues` [n]: those above the threshold, ascending. `alpha`, `D`, `sigma` [n - 1]: of the fit that
    starts at `eigenvalues[i]`; alpha is inf and D is 1 where the rest of the tail is one repeated value."""

    eigenvalues: np.ndarray
    alpha: np.ndarray
    D: np.ndarray
    sigma: np.ndarray


@dataclass(frozen=True)
class TailFit:
    """The power law rho(lambda) ~ lambda^-alpha of the eigenvalues from `xmin` up.

    `alpha`: exponent, no unit, 1 or more. `xmin`: where the tail begins, unit of the eigenvalues (weights
    squared). `D`: Kolmogorov-Smirnov distance, 0 to 1. `sigma`: standard error of alpha, (alpha - 1) /
    sqrt(tail). `tail`: how many eigenvalues lie in the tail. `xmin_index`: the place of xmin among the
    ascending eigenvalues above the threshold. `num_evals`: how many those are."""

    alpha: float
    xmin: float
    D: float
    sigma: float
    tail: int
    xmin_index: int
    num_evals: int


def fit_tail(
    eigenvalues: np.ndarray,
    *,
    threshold: float = THRESHOLD,
    least: int = LEAST,
    xmin: tuple[float, float] = (0.0, float("inf")),
) -> TailFit:
    """The best power-law tail of eigenvalues [n] = singular values squared, not divided by any dimension.

    Order does not matter. Eigenvalues <= `threshold` are dropped first; tails begin between the two values of `xmin`.
    Raises `Refused` when fewer than `least` are
    left, when they are all equal, and for NaN, Inf or negative values. Of equal D the longest tail wins."""
    kept, logs = _kept(eigenvalues, threshold)
    refuse_few(len(kept), np.asarray(eigenvalues, float), threshold, least)
    _n, alpha = _exponents(logs)
    if not np.isfinite(alpha).any():
        raise Refused(
            f"tail fit: all {len(kept)} eigenvalues equal {kept[-1]:.6g}, so there "
            "is no tail to fit; a matrix with orthogonal rows or columns looks like this"
        )
    alpha = np.where((kept[:-1] >= xmin[0]) & (kept[:-1] <= xmin[1]), alpha, np.inf)
    if not np.isfinite(alpha).any():
        raise Refused(f"tail fit: no tail begins between {xmin[0]:g} and {xmin[1]:g}; widen xmin")
    best, distance = _least(logs, alpha)
    return _fit(kept, float(alpha[best]), float(distance), int(best))


def fit_from(eigenvalues: np.ndarray, index: int, *, threshold: float = THRESHOLD) -> TailFit:
    """The tail that begins at place `index` of the ascending eigenvalues above `threshold`."""
    kept, logs = _kept(eigenvalues, threshold)
    _n, alpha = _exponents(logs)
    if not 0 <= index < len(alpha) or not np.isfinite(alpha[index]):
        raise Refused(
            f"tail fit: no tail begins at place {index} of {len(kept)} eigenvalues: a tail has two different ones"
        )
    distance = float(_distances(logs, alpha, np.array([index]))[0])
    return _fit(kept, float(alpha[index]), distance, index)


def rounding(eigenvalues: np.ndarray) -> float:
    """Up to where eigenvalues [n] are rounding: squared singular values under n * eps of the largest. In a matrix of
    lower rank they are many."""
    largest = float(np.max(eigenvalues, initial=0.0))
    return largest * (eigenvalues.size * EPS) ** 2 if np.isfinite(largest) else 0.0


def refuse_few(found: int, eigenvalues: np.ndarray, threshold: float, least: int) -> None:
    """Refused where `found` of eigenvalues [n] above the threshold are too few for a fit; with the reason."""
    least = max(least, 2)
    if found >= least:
        return
    said = f"tail fit: {found} of {eigenvalues.size} eigenvalues lie above {threshold:g}"
    nonzero = int(np.count_nonzero(eigenvalues > rounding(eigenvalues)))
    if nonzero >= least and threshold > 0:
        raise Refused(
            f"{said}, though {nonzero} are more than rounding: the weights are small; multiply all of them by one "
            "number, which leaves alpha as it is, or pass a lower threshold to fit_tail (alpha_hill needs none)"
        )
    raise Refused(
        f"{said}, and a fit needs {least}: with fewer alpha moves by tenths with single eigenvalues; take a larger "
        "matrix, or pass a lower least to fit_tail, hill or farms"
    )


def scan_tail(eigenvalues: np.ndarray, *, threshold: float = THRESHOLD) -> TailScan:
    """Alpha, D and sigma of every candidate xmin of eigenvalues [n]; Clauset et al. 2009, eqs. 3.1, 3.2,
    3.9.

    Takes any number of eigenvalues; `fit_tail` says which spectra are enough for a fit. Raises `Refused`
    for NaN, Inf or negative values, and for a threshold under 0."""
    kept, logs = _kept(eigenvalues, threshold)
    n, alpha = _exponents(logs)
    fitted = np.isfinite(alpha)
    distances = np.ones(len(alpha))
    distances[fitted] = _distances(logs, alpha, np.flatnonzero(fitted))
    return TailScan(kept, alpha, distances, (alpha - 1) / np.sqrt(n))


def _kept(eigenvalues: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalues above the threshold, ascending, and their logarithms."""
    values = np.asarray(eigenvalues, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all() or (values < 0).any():
        raise Refused(
            f"tail fit: expected one row of finite eigenvalues >= 0, got shape {list(values.shape)}"
            f"{_first_bad(values)}; pass singular_values(w) ** 2"
        )
    if threshold < 0:
        raise Refused(f"tail fit: threshold {threshold:g} is under 0; take 0 to drop only the zeros")
    kept = np.sort(values[values > threshold])
    # Measured from the largest, so that a common scale of the weights cannot cost digits in the sums.
    return kept, np.log(kept) - np.log(kept[-1]) if len(kept) else kept


def _exponents(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """n_i and alpha_i = 1 + n_i / (sum_{j >= i} ln lambda_j - n_i ln lambda_i) [n - 1] of every candidate but the last:
    a tail of one has no exponent. inf where the rest of the tail is one repeated value."""
    n = np.arange(len(logs), 1, -1)
    excess = np.cumsum(logs[::-1])[::-1][:-1] - n * logs[:-1]
    spread = -logs[:-1] > SPREAD
    return n, np.where(spread, 1 + n / np.where(spread, excess, 1.0), np.inf)


def _fit(kept: np.ndarray, alpha: float, distance: float, index: int) -> TailFit:
    tail = len(kept) - index
    return TailFit(
        alpha=alpha,
        xmin=float(kept[index]),
        D=distance,
        sigma=(alpha - 1) / float(np.sqrt(tail)),
        tail=tail,
        xmin_index=index,
        num_evals=len(kept),
    )


@njit(cache=True, nogil=True)
def _least(logs, alpha):
    """The candidate of least D, and its D. A candidate is left as soon as one gap exceeds the best D so far: a first
    round over a few candidates finds a good one, and the gaps of each are looked at where the last one failed, then
    ever closer."""
    best, place, failed = np.inf, -1, 0
    count = len(alpha)
    for begin, step in ((0, max(1, count // 32)), (0, 1)):
        for i in range(begin, count, step):
            if not np.isfinite(alpha[i]):
                continue
            distance, failed = _gap(logs, alpha[i], i, max(i, failed)), max(i, failed)
            for stride in (64, 8, 1):
                for j in range(i, count + 1, stride):
                    gap = _gap(logs, alpha[i], i, j)
                    if gap > distance:
                        distance, failed = gap, j
                        if distance > best:
                            break
                if distance > best:
                    break
            if distance < best or (distance == best and i < place):
                best, place = distance, i
    return place, best


@njit(cache=True, nogil=True)
def _gap(logs, alpha, i, j):
    """|1 - (lambda_j / lambda_i)^(1 - alpha_i) - (j - i) / n_i|: between the fitted and the left empirical
    distribution."""
    return abs(1 - np.exp((1 - alpha) * (logs[j] - logs[i])) - (j - i) / (len(logs) - i))


def _distances(logs: np.ndarray, alpha: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """D_i = max_{j >= i} |1 - (lambda_j / lambda_i)^(1 - alpha_i) - (j - i) / n_i| for the candidates i in `rows`,
    ascending. logs [n], alpha [n - 1]. Some rows at a time."""
    n, distances = len(logs), np.empty(len(rows))
    start = 0
    while start < len(rows):
        first = rows[start]
        stop = min(len(rows), start + max(1, CHUNK // (n - first)))
        some, j = rows[start:stop, None], np.arange(first, n)
        fitted = logs[None, first:] - logs[some]
        fitted *= 1 - alpha[some]
        left = j[None] < some  # both distributions are 0 there; a steep tail would overflow
        fitted[left] = 0.0
        np.exp(fitted, out=fitted)
        empirical = (j[None] - some) / (n - some)
        empirical[left] = 0.0
        fitted += empirical
        fitted -= 1.0
        distances[start:stop] = np.maximum(fitted.max(axis=1), -fitted.min(axis=1))
        start = stop
    return distances


def _first_bad(values: np.ndarray) -> str:
    """Where the first value is that cannot be an eigenvalue, as a piece of an error message."""
    bad = np.argwhere(~np.isfinite(values) | (values < 0))
    return f" with {values[tuple(bad[0])]:g} at {bad[0].tolist()}" if len(bad) else ""
