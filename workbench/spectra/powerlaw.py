"""The exponent of a spectrum's tail: rho(lambda) ~ lambda^-alpha above xmin, fitted as WeightWatcher does.

For each candidate xmin = lambda_i the continuous maximum-likelihood alpha, and the distance D between the
fitted and the empirical distribution (Kolmogorov-Smirnov); the candidate of least D wins. Clauset, Shalizi
& Newman 2009, eq. 3.1 and section 3.3; Martin & Mahoney 2021 for its use on weights. What surprises: the
empirical distribution is the *left* one (0, 1/n, ..., (n-1)/n), and eigenvalues up to 1e-5 are dropped by
an absolute threshold, so alpha does not depend on the scale of the weights only while no eigenvalue crosses
it. Cost: n^2 / 2 exponentials, in chunks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workbench.errors import Refused

THRESHOLD = 1e-5  # WeightWatcher's EVALS_THRESH, for spectra computed in float32 or better
LEAST = 10  # WeightWatcher's MIN_EVALS: with fewer there is no fit
RELIABLE = 50  # below this alpha moves by tenths with single eigenvalues
SPREAD = 1e-9  # a tail whose logarithms span less is one repeated value: it has no exponent
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
    ascending eigenvalues above the threshold. `num_evals`: how many those are; under 50 the fit is not
    `reliable`."""

    alpha: float
    xmin: float
    D: float
    sigma: float
    tail: int
    xmin_index: int
    num_evals: int

    @property
    def reliable(self) -> bool:
        """Whether enough eigenvalues went in for alpha to mean something; see `sigma` for how much."""
        return self.num_evals >= RELIABLE


def fit_tail(eigenvalues: np.ndarray, *, threshold: float = THRESHOLD) -> TailFit:
    """The best power-law tail of eigenvalues [n] = singular values squared, not divided by any dimension.

    Order does not matter. Eigenvalues <= `threshold` are dropped first. Raises `Refused` when fewer than 10
    are left, when they are all equal, and for NaN, Inf or negative values."""
    scan = scan_tail(eigenvalues, threshold=threshold)
    if len(scan.eigenvalues) < LEAST:
        raise Refused(
            f"tail fit: {len(scan.eigenvalues)} of {np.size(eigenvalues)} eigenvalues lie above "
            f"{threshold:g}, and a fit needs {LEAST}; take a larger matrix, or a lower threshold"
        )
    if not np.isfinite(scan.alpha).any():
        raise Refused(
            f"tail fit: all {len(scan.eigenvalues)} eigenvalues equal {scan.eigenvalues[-1]:.6g}, so there "
            "is no tail to fit; a matrix with orthogonal rows or columns looks like this"
        )
    best = int(np.argmin(scan.D))
    return TailFit(
        alpha=float(scan.alpha[best]),
        xmin=float(scan.eigenvalues[best]),
        D=float(scan.D[best]),
        sigma=float(scan.sigma[best]),
        tail=len(scan.eigenvalues) - best,
        xmin_index=best,
        num_evals=len(scan.eigenvalues),
    )


def scan_tail(eigenvalues: np.ndarray, *, threshold: float = THRESHOLD) -> TailScan:
    """Alpha, D and sigma of every candidate xmin of eigenvalues [n]; Clauset et al. 2009, eqs. 3.1, 3.2,
    3.9.

    Takes any number of eigenvalues; `fit_tail` says which spectra are enough for a fit. Raises `Refused`
    for NaN, Inf or negative values, and for a threshold under 0."""
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
    logs = np.log(kept) - np.log(kept[-1]) if len(kept) else kept
    n = np.arange(len(kept), 1, -1)  # the tail's length at each candidate; a tail of one has no exponent
    excess = np.cumsum(logs[::-1])[::-1][:-1] - n * logs[:-1]
    spread = -logs[:-1] > SPREAD
    alpha = 1 + n / np.where(spread, excess, 1.0)
    distances = np.where(spread, _distances(logs, alpha), 1.0)
    alpha = np.where(spread, alpha, np.inf)
    return TailScan(kept, alpha, distances, (alpha - 1) / np.sqrt(n))


def _distances(logs: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """D_i = max_{j >= i} |1 - (lambda_j / lambda_i)^(1 - alpha_i) - (j - i) / n_i| for all candidates i;
    logs [n] ascending, alpha [n - 1]. A band of rows of the triangle at a time."""
    n, distances = len(logs), np.empty(len(alpha))
    places = np.arange(n, dtype=np.float64)
    start = 0
    while start < len(alpha):
        stop = min(len(alpha), start + max(1, CHUNK // (n - start)))
        rows = np.arange(start, stop)[:, None]
        fitted = logs[None, start:] - logs[start:stop, None]
        fitted *= 1 - alpha[start:stop, None]
        # j < i lies left of the band's diagonal; cut there, or a steep tail overflows. Both cdfs are then 0.
        left = places[None, start:stop] < rows
        fitted[:, : stop - start][left] = 0.0
        np.exp(fitted, out=fitted)
        empirical = (places[None, start:] - rows) / (n - rows)
        empirical[:, : stop - start][left] = 0.0
        fitted += empirical
        fitted -= 1.0
        distances[start:stop] = np.maximum(fitted.max(axis=1), -fitted.min(axis=1))
        start = stop
    return distances


def _first_bad(values: np.ndarray) -> str:
    """Where the first value is that cannot be an eigenvalue, as a piece of an error message."""
    bad = np.argwhere(~np.isfinite(values) | (values < 0))
    return f" with {values[tuple(bad[0])]:g} at {bad[0].tolist()}" if len(bad) else ""
