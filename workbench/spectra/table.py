"""One row of the spectra table: what the singular values of a weight matrix say, under WeightWatcher's
names.

Where WeightWatcher (version 0.7, `RMT_Util.py` and `weightwatcher.py`) has a column, the name and the
definition are its own, so that tables of both can be joined; the deviations are written in `COLUMNS`. Its
*norms* are of eigenvalues: `spectral_norm` is sigma_max squared. Martin, Peng & Mahoney 2021, Nature
Communications 12:4122.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from scipy.special import logsumexp

from workbench.errors import Refused
from workbench.spectra.powerlaw import TailFit, fit_tail
from workbench.spectra.values import NotFinite, singular_values

if TYPE_CHECKING:
    from workbench.spectra.values import Matrix

    Value: TypeAlias = float | int | bool | str

COLUMNS: dict[str, str] = {
    "N": "larger dimension of the matrix; count",
    "M": "smaller dimension of the matrix; count",
    "Q": "N / M, aspect ratio, 1 or more; no unit",
    "num_evals": "eigenvalues lambda = sigma^2 of the matrix, zeros included, = M; count",
    "alpha": "exponent of the fitted tail, rho(lambda) ~ lambda^-alpha from xmin up; no unit; about 2 to 6 "
    "in well-trained layers",
    "D": "Kolmogorov-Smirnov distance between the tail and its fit, 0 to 1; no unit",
    "sigma": "standard error of alpha, (alpha - 1) / sqrt(num_pl_spikes); no unit",
    "xmin": "eigenvalue at which the tail begins; weights squared",
    "xmax": "largest eigenvalue of the fit, = spectral_norm; weights squared",
    "num_pl_spikes": "eigenvalues in the tail, lambda >= xmin; count",
    "reliable": "whether 50 or more eigenvalues above 1e-5 went into the fit; else alpha is a guess (ours)",
    "norm": "sum of lambda, the squared Frobenius norm; weights squared",
    "log_norm": "log10 of norm",
    "spectral_norm": "lambda_max, the *square* of the matrix norm ||w||_2; weights squared",
    "log_spectral_norm": "log10 of spectral_norm",
    "alpha_weighted": "alpha * log10(lambda_max), the paper's alpha-hat; depends on the scale of the weights",
    "log_alpha_norm": "log10 of the sum of lambda^alpha",
    "stable_rank": "norm / spectral_norm, 1 to M; no unit",
    "matrix_rank": "singular values above sigma_max * N * eps, with the eps of float32 (float64 for float64 "
    "weights); count",
    "rank_loss": "num_evals - matrix_rank; count",
    "entropy": "-sum p ln p / ln(matrix_rank) with p = lambda / sum lambda, 0 to 1; 0 for rank one; no unit "
    "(WeightWatcher adds 1e-10 to p and to the rank)",
    "effective_rank": "exp of -sum p ln p with p = sigma / sum sigma, 1 to M; no unit; Roy & "
    "Vetterli 2007 (ours)",
    "participation_ratio": "(sum lambda)^2 / sum lambda^2, 1 to M; no unit (ours)",
    "status": '"ok", or why columns are NaN (ours)',
}


def spectrum_row(w: Matrix) -> dict[str, Value]:
    """Every column of `COLUMNS` for w [out, in], a torch tensor or numpy array of floats.

    A matrix that allows no fit, or holds NaN or Inf, gives NaN where there is no value and the reason in
    `status`, so that one odd layer never costs the table of a model. Raises `Refused` only for what is no
    weight matrix: not 2-D, or not floats."""
    try:
        sigmas = singular_values(w)
    except NotFinite:
        return _row(w.shape, status="weights are NaN or Inf")
    return spectrum_row_of(sigmas, w.shape, eps=_rank_eps(w))


def spectrum_row_of(
    sigmas: np.ndarray, shape: tuple[int, int], *, eps: float = float(np.finfo(np.float32).eps)
) -> dict[str, Value]:
    """The row of a matrix of `shape` (out, in) whose singular values [min(out, in)], descending, are known
    already.

    `eps`: precision of the stored weights, for `matrix_rank`."""
    count = len(sigmas)
    if not count:
        return _row(shape, num_evals=0, status="no weights")
    if sigmas[0] == 0:
        zeros = {"norm": 0.0, "spectral_norm": 0.0, "matrix_rank": 0, "rank_loss": count}
        return _row(shape, num_evals=count, **zeros, status="all weights are zero")
    with np.errstate(over="ignore", under="ignore"):
        eigenvalues = np.square(sigmas)
        if not 0 < eigenvalues.sum() < np.inf:
            return _row(shape, num_evals=count, status="squared weights leave the range of float64")
    columns = _sizes(sigmas, eigenvalues, tolerance=sigmas[0] * max(shape) * eps)
    try:
        fit = fit_tail(eigenvalues)
    except Refused as refused:
        # The reason is the sentence's first half; the way out is for a person at a prompt, not for a table.
        return _row(shape, **columns, status=str(refused).split("; ")[0])
    return _row(shape, **columns, **_tail(fit, eigenvalues), status="ok")


def effective_rank(sigmas: np.ndarray) -> float:
    """exp of the entropy of sigma / sum sigma, 1 to n, of singular values [n]; Roy & Vetterli 2007.
    NaN when all are zero."""
    return float(np.exp(_entropy(sigmas)))


def participation_ratio(eigenvalues: np.ndarray) -> float:
    """(sum lambda)^2 / sum lambda^2, 1 to n, of eigenvalues [n]: how many equal ones would be as spread
    out. NaN when all are zero."""
    largest = np.max(eigenvalues, initial=0.0)
    if not largest > 0:
        return float("nan")
    shares = eigenvalues / largest  # squares of the eigenvalues themselves leave float64 early
    return float(shares.sum() ** 2 / np.square(shares).sum())


def _sizes(sigmas: np.ndarray, eigenvalues: np.ndarray, *, tolerance: float) -> dict[str, Value]:
    """The columns that need no fit."""
    norm, largest = float(eigenvalues.sum()), float(eigenvalues[0])
    rank = int(np.count_nonzero(sigmas > tolerance))
    return {
        "num_evals": len(eigenvalues),
        "norm": norm,
        "log_norm": float(np.log10(norm)),
        "spectral_norm": largest,
        "log_spectral_norm": float(np.log10(largest)),
        "stable_rank": norm / largest,
        "matrix_rank": rank,
        "rank_loss": len(eigenvalues) - rank,
        "entropy": _entropy(eigenvalues) / float(np.log(rank)) if rank > 1 else 0.0,
        "effective_rank": effective_rank(sigmas),
        "participation_ratio": participation_ratio(eigenvalues),
    }


def _tail(fit: TailFit, eigenvalues: np.ndarray) -> dict[str, Value]:
    """The columns of a fit."""
    largest, positive = float(eigenvalues[0]), eigenvalues[eigenvalues > 0]
    return {
        "alpha": fit.alpha,
        "D": fit.D,
        "sigma": fit.sigma,
        "xmin": fit.xmin,
        "xmax": largest,
        "num_pl_spikes": fit.tail,
        "reliable": fit.reliable,
        "alpha_weighted": fit.alpha * float(np.log10(largest)),
        # A steep fit would overflow in lambda^alpha; its logarithm does not.
        "log_alpha_norm": float(logsumexp(fit.alpha * np.log(positive)) / np.log(10)),
    }


def _row(shape: tuple[int, int], **columns: Value) -> dict[str, Value]:
    """All columns in their order; NaN where `columns` has nothing."""
    larger, smaller = max(shape), min(shape)
    known: dict[str, Value] = {"N": larger, "M": smaller, "reliable": False, **columns}
    if smaller:
        known["Q"] = larger / smaller
    return {name: known.get(name, float("nan")) for name in COLUMNS}


def _entropy(weights: np.ndarray) -> float:
    """-sum p ln p in nats with p = weights / sum weights; a share of zero adds nothing. NaN for no weight."""
    total = weights.sum()
    if not total > 0:
        return float("nan")
    p = weights[weights > 0] / total
    p = p[p > 0]  # a share that underflows to zero
    return float(-(p * np.log(p)).sum())


def _rank_eps(w: Matrix) -> float:
    """eps of float64 for float64 weights, else of float32: half precision has exact weights, not exact
    products, and its own eps times N would leave a large matrix no rank at all."""
    return float(np.finfo(np.float64 if str(w.dtype).endswith("float64") else np.float32).eps)
