"""One row of the spectra table: what the eigenvalues of a weight say, under WeightWatcher's names.

Where WeightWatcher 0.7.7 has a column, the name and the definition are its own, so that tables of both can be joined;
tests/conformity compares with WeightWatcher itself. Its *norms* are of eigenvalues: `spectral_norm` is sigma_max
squared. Martin, Peng & Mahoney 2021, Nature Communications 12:4122.

What differs on purpose:
- fewer than 50 eigenvalues above 1e-5 get no fit, and the reason (there fewer than 8, and under 20 another formula);
- a Marchenko-Pastur fit that ran into the end of its grid, or of fewer than 50 eigenvalues, is empty and says so in
  `mp_problem` (there a number);
- the entropy of a matrix of rank one is 0 (there about -1);
- of a convolution `sv_min` is the smallest singular value (there the largest of the slices' smallest), and N stays the
  larger dimension (there N and M are exchanged where the kernel has an even number of places);
- where that fit and the bulk of the median eigenvalue are far apart, its numbers stand and `mp_doubt` says so;
- random orders come from a seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from workbench.errors import Refused, near
from workbench.spectra.alternatives import best_tail, compare_tails
from workbench.spectra.bulk import doubt, fit_bulk, median_bulk
from workbench.spectra.columns import COLUMNS, EXTRAS
from workbench.spectra.esd import EPS, ESD, esd
from workbench.spectra.farms import check_windows, farms
from workbench.spectra.hill import hill
from workbench.spectra.matrices import Matrices, check_reading, matrices, sizes
from workbench.spectra.powerlaw import LEAST, TailFit, fit_tail
from workbench.spectra.randomized import jensen_shannon_distance, randomized
from workbench.spectra.values import NotFinite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.spectra.values import Matrix

    Value: TypeAlias = float | int | bool | str

SHARE = 1e-10  # WeightWatcher's EPSILON, added to the shares and the rank of the entropy
WEAK = 1e-6  # WeightWatcher's tolerance: eigenvalues under it are its `weak_rank_loss`
OVER_TRAINED, UNDER_TRAINED = 2.0, 6.0


@dataclass(frozen=True)
class Reading:
    """How a row is computed. `conv`: how a convolution becomes matrices ("slices", "im2col"). `extra`: names in EXTRAS,
    in any order, or a text of them with commas between. `rows`, `ratio`, `windows`, `stride`, `estimator`: of FARMS;
    with a `stride` there is a window every so many rows and columns, and `windows` says nothing. `seed`: of the random
    orders."""

    conv: str = "slices"
    extra: tuple[str, ...] | str = ()
    rows: int = 100
    ratio: float = 1.0
    windows: int = 10
    estimator: str = "median"
    seed: int = 0
    stride: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.extra, str):
            names = tuple(name.strip() for name in self.extra.split(",") if name.strip())
            object.__setattr__(self, "extra", names)
        if unknown := [name for name in self.extra if name not in EXTRAS]:
            raise Refused(
                f"spectra: there are no extra columns {unknown[0]!r}{near(unknown[0], EXTRAS)}; there are "
                f"{', '.join(EXTRAS)}"
            )
        check_reading(self.conv)
        check_windows(self.rows, self.ratio, self.windows, self.stride, self.estimator)
        if self.seed < 0:
            raise Refused(f"spectra: seed {self.seed} of the random orders is under 0; take 0 or more")

    @property
    def columns(self) -> dict[str, str]:
        """Column -> what it says, in order; `status` and `reason` last."""
        last = ("warning", "status", "reason")
        found = {name: text for name, text in COLUMNS.items() if name not in last}
        for name, columns in EXTRAS.items():
            if name in self.extra:
                found |= columns
        return found | {name: COLUMNS[name] for name in last}


PLAIN = Reading()


def spectrum_row(
    w: Matrix | Matrices, reading: Reading = PLAIN, known: ESD | None = None
) -> dict[str, Value]:
    """Every column of `reading` for w [out, in] or a convolution [out, in, height, width], a torch tensor or numpy
    array of floats; or for `Matrices`, of which the eigenvalues are pooled. `known`: its ESD, where somebody has it.

    A weight that allows no fit, or holds NaN or Inf, gives NaN where there is no value and the reason in `reason`, so
    that one odd layer never costs the table of a model. Raises `Refused` only for what is no weight matrix: a vector,
    or not floats."""
    try:
        read = w if isinstance(w, Matrices) else matrices(w, reading.conv)
    except NotFinite:
        return failed_row(w.shape, "weights are NaN or Inf", reading)
    row = spectrum_row_of(known or esd(read), reading, read)
    if "farms" in reading.extra and read.M:
        row |= _farms(w, reading, str(row["reason"]))
    return row


def failed_row(shape: Sequence[int], reason: str, reading: Reading = PLAIN) -> dict[str, Value]:
    """The row of a weight of this shape [out, in, ...] of which nothing but the reason can be said."""
    larger, smaller, parts = sizes(shape, reading.conv)
    return _row(reading, {"N": larger, "M": smaller, "rf": parts}, reason)


def spectrum_row_of(found: ESD, reading: Reading = PLAIN, read: Matrices | None = None) -> dict[str, Value]:
    """The row of an ESD that is known already. `read`: the matrices it is of; without them there are no randomized
    columns, and eigenvalues are taken as they are."""
    counts: dict[str, Value] = {"N": found.N, "M": found.M, "rf": found.parts, "num_evals": len(found.sigmas)}
    if not len(found.sigmas):
        return _row(reading, counts, "no weights")
    counts["Q"] = found.Q
    if found.sigmas[0] == 0:
        zeros = {
            "norm": 0.0,
            "spectral_norm": 0.0,
            "lambda_max": 0.0,
            "sv_max": 0.0,
            "sv_min": 0.0,
            "matrix_rank": 0,
        }
        return _row(
            reading, {**counts, **zeros, "rank_loss": len(found.sigmas), "weak_rank_loss": len(found.sigmas)},
            "all weights are zero",
        )  # fmt: skip
    with np.errstate(over="ignore", under="ignore"):
        if not 0 < found.eigenvalues.sum() < np.inf:
            return _row(reading, counts, "squared weights leave the range of float64")
    columns = {**counts, **_sizes(found), **_bulk(found, reading), **_randomized(found, reading, read)}
    try:
        fit = fit_tail(found.eigenvalues)
        if read is not None and not found.sure(fit.xmin):
            found = esd(read, exact=True)
            fit = fit_tail(found.eigenvalues)
    except Refused as refused:
        # The reason is the sentence's first half; the way out is for a person at a prompt, not for a table.
        return _row(
            reading,
            {**columns, **_hill(found, read), **_peak(found, reading, read), **_detX(found, reading, None)},
            str(refused).split("; ")[0],
        )
    tail = {
        **_tail(fit, found),
        **_peak(found, reading, read),
        **_detX(found, reading, fit),
        **_others(found, reading, fit),
    }
    return _row(reading, {**columns, **tail})


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


def _sizes(found: ESD) -> dict[str, Value]:
    """The columns that need no fit."""
    sigmas, eigenvalues = found.sigmas, found.eigenvalues
    norm, largest = float(eigenvalues.sum()), float(eigenvalues[-1])
    rank = int(np.count_nonzero(sigmas > sigmas[0] * found.N * EPS))
    shares = eigenvalues / norm + SHARE
    return {
        "norm": norm,
        "log_norm": float(np.log10(norm)),
        "spectral_norm": largest,
        "log_spectral_norm": float(np.log10(largest)),
        "lambda_max": largest,
        "stable_rank": norm / largest,
        "matrix_rank": rank,
        "rank_loss": found.rank_loss,
        "weak_rank_loss": int(np.count_nonzero(eigenvalues < WEAK)),
        "entropy": float(-(shares * np.log(shares)).sum() / np.log(rank + SHARE)) if rank > 1 else 0.0,
        "sv_max": float(sigmas[0]),
        "sv_min": float(sigmas[-1]),
        "effective_rank": effective_rank(sigmas),
        "participation_ratio": participation_ratio(eigenvalues),
    }


def _tail(fit: TailFit, found: ESD) -> dict[str, Value]:
    """The columns of a fit."""
    eigenvalues = found.eigenvalues
    largest, positive = float(eigenvalues[-1]), eigenvalues[eigenvalues > 0]
    low, high = fit.alpha < OVER_TRAINED, fit.alpha > UNDER_TRAINED
    return {
        "alpha": fit.alpha,
        "D": fit.D,
        "sigma": fit.sigma,
        "xmin": fit.xmin,
        "xmax": largest,
        # Of equal eigenvalues at xmin all count, wherever among them the tail begins.
        "num_pl_spikes": int(np.count_nonzero(eigenvalues >= fit.xmin)),
        "alpha_weighted": fit.alpha * float(np.log10(largest)),
        # A steep fit would overflow in lambda^alpha; lambda / lambda_max does not.
        "log_alpha_norm": float(
            fit.alpha * np.log10(largest) + np.log10(np.sum((positive / largest) ** fit.alpha))
        ),
        "warning": "over-trained" if low else "under-trained" if high else "",
        **_hill(found, None),
    }


def _hill(found: ESD, read: Matrices | None) -> dict[str, Value]:
    """alpha_hill where the tail has no fit: it knows no threshold, so weights may be as small as they like."""
    try:
        fit = hill(found.eigenvalues, least=LEAST)
        if read is not None and not found.sure(fit.xmin):
            fit = hill(esd(read, exact=True).eigenvalues, least=LEAST)
    except Refused:
        return {}
    return {"alpha_hill": fit.alpha}


def _bulk(found: ESD, reading: Reading) -> dict[str, Value]:
    if "mp" not in reading.extra:
        return {}
    return _bulk_columns(found.eigenvalues, found)


def _bulk_columns(eigenvalues: np.ndarray, found: ESD) -> dict[str, Value]:
    """Columns of the bulk of eigenvalues [n] of matrices like those of `found`; only the scale and the problem of one
    that is no fit."""
    if len(eigenvalues) < LEAST:
        return {"mp_problem": f"{len(eigenvalues)} eigenvalues, and a bulk needs {LEAST}"}
    bulk, median = (fit(eigenvalues, found.N, found.M) for fit in (fit_bulk, median_bulk))
    own: dict[str, Value] = {"bulk_max_median": median.high, "spikes_median": median.spikes}
    if median.problem:
        own = {}
    if bulk.problem:
        return {"W_scale": bulk.scale, "mp_problem": bulk.problem, **own}
    return {
        "num_spikes": bulk.spikes,
        "sigma_mp": bulk.sigma,
        "mp_softrank": bulk.softrank,
        "W_scale": bulk.scale,
        "bulk_max": bulk.high,
        "bulk_min": bulk.low,
        "mp_problem": "",
        **own,
        "mp_doubt": doubt(bulk, median, len(eigenvalues)),
    }


def _randomized(found: ESD, reading: Reading, read: Matrices | None) -> dict[str, Value]:
    if "randomize" not in reading.extra or read is None:
        return {}
    shuffles = randomized(read, reading.seed)
    eigenvalues, one = np.sort(np.concatenate(shuffles)), shuffles[0]
    largest = float(found.eigenvalues[-1])
    columns: dict[str, Value] = {
        "max_rand_eval": float(eigenvalues[-1]),
        "rand_distance": jensen_shannon_distance(found.eigenvalues, one),
        "ww_softrank": float(one[-1]) / largest,
        "ww_maxdist": largest - float(one[-1]),
    }
    bulk = _bulk_columns(eigenvalues, found)
    if "num_spikes" in bulk:
        columns["num_traps"] = bulk["num_spikes"]
    return columns | {f"rand_{name}": value for name, value in bulk.items()}


def _detX(found: ESD, reading: Reading, fit: TailFit | None) -> dict[str, Value]:
    """The tail in which the eigenvalues multiply to 1 once their mean is 1: as many from the largest down as it takes
    until their product falls under 1."""
    if "detX" not in reading.extra or len(found.sigmas) < 2:
        return {}
    eigenvalues = found.eigenvalues
    scaled = eigenvalues * (len(eigenvalues) / eigenvalues.sum())
    with np.errstate(divide="ignore"):
        products = np.cumsum(np.log(scaled[::-1]))[:-1]  # the smallest is never asked
    under = np.flatnonzero(products < 0)
    first = len(scaled) - 1 - (int(under[0]) if len(under) else len(products) - 1)
    count = len(scaled) - first if len(under) else len(scaled)
    columns: dict[str, Value] = {
        "detX_num": count,
        "num_ERG_spikes": count,
        "detX_val": float(eigenvalues[first]),
        "detX_val_unrescaled": float(scaled[first]),
    }
    if fit is not None:
        columns["ERG_gap"] = count - int(np.count_nonzero(eigenvalues >= fit.xmin))
    return columns


def _peak(found: ESD, reading: Reading, read: Matrices | None) -> dict[str, Value]:
    """The columns of the Hill estimator from near the peak of the spectrum on; none where it has no tail."""
    if "peak" not in reading.extra:
        return {}
    try:
        fit = hill(found.eigenvalues, "peak")
        if read is not None and not found.sure(fit.xmin):
            fit = hill(esd(read, exact=True).eigenvalues, "peak")
    except Refused:
        return {}
    return {"alpha_peak": fit.alpha, "D_peak": fit.D, "xmin_peak": fit.xmin}


def _others(found: ESD, reading: Reading, fit: TailFit) -> dict[str, Value]:
    if "tails" not in reading.extra:
        return {}
    others = compare_tails(found.eigenvalues, fit)
    cut, exponential, lognormal = (
        others[name] for name in ("truncated_power_law", "exponential", "lognormal")
    )
    return {
        "best_fit": best_tail(others),
        "Lambda": cut.parameters["Lambda"],
        "alpha_TPL": cut.parameters["alpha"],
        "R_TPL": cut.R,
        "p_TPL": cut.p,
        "R_exponential": exponential.R,
        "p_exponential": exponential.p,
        "R_lognormal": lognormal.R,
        "p_lognormal": lognormal.p,
    }


def _farms(w: Matrix | Matrices, reading: Reading, reason: str) -> dict[str, Value]:
    """`reason`: why the whole matrix has no fit; where it has one the reason is FARMS' own."""
    try:
        found = farms(
            w,
            rows=reading.rows,
            ratio=reading.ratio,
            windows=reading.windows,
            stride=reading.stride,
            estimator=reading.estimator,
        )
    except Refused as refused:
        return {} if reason else {"reason": "FARMS: " + str(refused).split("; ")[0]}
    return {
        "alpha_farms": found.alpha,
        "D_farms": found.D,
        "farms_window": f"{found.shape[0]} x {found.shape[1]}",
    }


TEXT = (
    "warning",
    "reason",
    "mp_problem",
    "mp_doubt",
    "rand_mp_problem",
    "rand_mp_doubt",
    "best_fit",
    "farms_window",
)


def _row(reading: Reading, columns: dict[str, Value], reason: str = "") -> dict[str, Value]:
    """All columns in their order; NaN, or an empty text, where `columns` has nothing."""
    known = {**columns, "status": "failed" if reason else "success", "reason": reason}
    return {name: known.get(name, "" if name in TEXT else float("nan")) for name in reading.columns}


def _entropy(weights: np.ndarray) -> float:
    """-sum p ln p in nats with p = weights / sum weights; a share of zero adds nothing. NaN for no weight."""
    total = weights.sum()
    if not total > 0:
        return float("nan")
    p = weights[weights > 0] / total
    p = p[p > 0]  # a share that underflows to zero
    return float(-(p * np.log(p)).sum())
