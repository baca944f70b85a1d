"""PL_Alpha_Hill: alpha from a tail whose beginning is chosen by a rule instead of a search.

The estimator of TempBalance (Zhou et al. 2023), AlphaPruning (Lu et al. 2024) and FARMS (Hu et al. 2025). Two ways in
which the published code differs from the papers' formula, 1 + k / sum_{i=1..k} ln(lambda_{n-i+1} / lambda_{n-k}), are
kept, because published numbers were made with them: the threshold itself is one of the k terms (it adds 0 to the sum
and 1 to k), and the rule "peak" has no lower bound (its code compares a logarithm with an eigenvalue).
`hill(..., published=False)` is the papers' formula with both mended.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from workbench.errors import Refused, near
from workbench.spectra.powerlaw import TailFit, fit_from, fit_tail, refuse_few, rounding

ESTIMATORS = ("median", "peak", "search")
LEAST = 5  # eigenvalues, as the published code asks for
BINS = 100  # of the histogram of log10 lambda whose fullest bin is the peak
PEAK = (0.95, 1.5)  # of the peak: the range in which the rule "peak" looks for xmin


def hill(
    eigenvalues: np.ndarray,
    estimator: str = "median",
    *,
    least: int = LEAST,
    threshold: float = 0.0,
    published: bool = True,
) -> TailFit:
    """The tail of eigenvalues [n] (singular values squared, any order) by a rule.

    `estimator`: "median", from the upper half on; "peak", the least D among the xmin near the fullest bin of the
    histogram of log10 lambda; "search", the least D of all (`fit_tail`). Eigenvalues <= `threshold` are dropped first,
    and always those that are zero to the precision of float64: their logarithm is none of the matrix. Raises `Refused`
    for fewer than `least`, equal eigenvalues, NaN, Inf, negative values and an estimator that does not exist."""
    if estimator not in ESTIMATORS:
        raise Refused(
            f"Hill estimator {estimator!r} is none of {', '.join(ESTIMATORS)}{near(estimator, ESTIMATORS)}"
        )
    values = np.asarray(eigenvalues, float)
    # The published code keeps what is only rounding, and fits its tail where a matrix is of lower rank.
    threshold = (
        max(threshold, rounding(values)) if threshold >= 0 else threshold
    )  # below 0: refused in the fit
    if estimator == "search":
        return fit_tail(values, threshold=threshold, least=least)
    kept = np.sort(values[values > threshold])  # NaN is not; what is fitted below refuses it
    refuse_few(len(kept), values, threshold, least)
    if estimator == "median":
        fit = fit_from(values, min(len(kept) // 2, len(kept) - 2), threshold=threshold)
    else:
        fit = fit_tail(values, threshold=threshold, least=least, xmin=_near_peak(kept, published))
    return fit if published else _papers(fit, kept)


def _near_peak(eigenvalues: np.ndarray, published: bool) -> tuple[float, float]:
    """The lowest and the highest xmin that the rule "peak" looks at, for eigenvalues [n], ascending."""
    logs = np.log10(eigenvalues)
    counts, edges = np.histogram(logs, bins=BINS)
    peak = 10 ** edges[np.argmax(counts)]
    low = PEAK[0] * peak
    return (float(np.log10(low)) if published else float(low)), float(PEAK[1] * peak)


def _papers(fit: TailFit, eigenvalues: np.ndarray) -> TailFit:
    """The same tail with the threshold counted out: k = tail - 1."""
    k = fit.tail - 1
    alpha = 1 + k / float(np.log(eigenvalues[fit.xmin_index + 1 :] / fit.xmin).sum())
    return replace(fit, alpha=alpha, sigma=(alpha - 1) / float(np.sqrt(k)))
