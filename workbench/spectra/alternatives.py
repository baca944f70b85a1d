"""Is the tail a power law at all? Other distributions on the same tail, and their likelihoods compared.

Exponential, power law with exponential cut-off (truncated power law) and lognormal, each by maximum likelihood on the
eigenvalues from xmin up; compared by Vuong's test, nested pairs by the likelihood-ratio test (Wilks 1938). Clauset,
Shalizi & Newman 2009, table 2.1 and section 5; Vuong 1989. What surprises: the truncated power law contains both the
power law (Lambda = 0) and the exponential (alpha = 0), so it is always the likeliest of the three and says nothing by
that alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import erfc, log_ndtr

if TYPE_CHECKING:
    from collections.abc import Callable

    from workbench.spectra.powerlaw import TailFit

SIGNIFICANT = 0.05  # p below which the sign of a likelihood ratio means something


@dataclass(frozen=True)
class Alternative:
    """One distribution fitted to a tail. `parameters`: its own names (alpha, Lambda in 1 / weights squared, mu, s).
    `loglikelihood`: sum over the tail, nats. `R`: log-likelihood ratio to the power law, nats, > 0 where this one fits
    better, and `p`: how often a ratio of that size comes by chance."""

    name: str
    parameters: dict[str, float]
    loglikelihood: float
    R: float
    p: float


def compare_tails(eigenvalues: np.ndarray, fit: TailFit) -> dict[str, Alternative]:
    """power_law, truncated_power_law, exponential, lognormal -> Alternative, on the eigenvalues from fit.xmin up."""
    tail = np.asarray(eigenvalues, float)
    t = tail[tail >= fit.xmin] / fit.xmin  # every likelihood below is of t >= 1; ratios do not feel the scale
    power = np.log(fit.alpha - 1) - fit.alpha * np.log(t)
    found = {"power_law": Alternative("power_law", {"alpha": fit.alpha}, _sum(power, fit.xmin), 0.0, 1.0)}
    makers: dict[str, Callable[[np.ndarray, float], tuple[dict[str, float], np.ndarray]]] = {
        "truncated_power_law": _truncated,
        "exponential": _exponential,
        "lognormal": _lognormal,
    }
    for name, make in makers.items():
        parameters, likelihoods = make(t, fit.xmin)
        # A power law is the truncated one with Lambda = 0; the others are not nested.
        R, p = _ratio(likelihoods, power, nested=name == "truncated_power_law")
        found[name] = Alternative(name, parameters, _sum(likelihoods, fit.xmin), R, p)
    return found


def best_tail(found: dict[str, Alternative]) -> str:
    """The name of the distribution that fits best: the power law, unless another is significantly better; of several
    that are, the one of least AIC. The truncated power law stands back for an exponential that is not significantly
    worse than it."""
    better = {name: each for name, each in found.items() if each.R > 0 and each.p < SIGNIFICANT}
    cut, exponential = found["truncated_power_law"], found["exponential"]
    if cut.name in better and _nested(cut.loglikelihood - exponential.loglikelihood) >= SIGNIFICANT:
        del better[cut.name]
        better[exponential.name] = exponential
    # Akaike's criterion, halved and turned round: nats less one for each parameter.
    best = max(better.values(), key=lambda each: each.loglikelihood - len(each.parameters), default=None)
    return "power_law" if best is None else best.name


def _nested(gain: float) -> float:
    """How often one parameter more gains as many nats by chance: chi-squared with one degree beyond twice the gain."""
    return float(erfc(np.sqrt(max(gain, 0.0))))


def _sum(likelihoods: np.ndarray, xmin: float) -> float:
    """Of lambda instead of t = lambda / xmin."""
    return float(likelihoods.sum() - len(likelihoods) * np.log(xmin))


def _exponential(t: np.ndarray, xmin: float) -> tuple[dict[str, float], np.ndarray]:
    """p(t) = L exp(-L (t - 1)); the maximum is at 1 / mean(t - 1)."""
    rate = 1 / float(np.mean(t - 1))
    return {"Lambda": rate / xmin}, np.log(rate) - rate * (t - 1)


def _truncated(t: np.ndarray, xmin: float) -> tuple[dict[str, float], np.ndarray]:
    """p(t) = t^-alpha exp(-L (t - 1)) / Z(alpha, L), L >= 0."""
    mean_log, mean = float(np.log(t).mean()), float(t.mean())

    def negative(x: np.ndarray) -> float:
        return x[0] * mean_log + x[1] * (mean - 1) + np.log(_normalizer(x[0], x[1]))

    start = 1 + 1 / mean_log
    bounds = [(-5.0, max(20.0, 2 * start)), (1e-9, 1e3)]  # with a cut-off any exponent has a finite integral
    # Two starts: near the power law, and near the exponential.
    tries = [(start, 0.01 / mean), (1.5, 1 / max(mean - 1, 1e-9))]
    best = min(
        (minimize(negative, x0, bounds=bounds, method="L-BFGS-B") for x0 in tries), key=lambda r: r.fun
    )
    alpha, rate = map(float, best.x)
    return {"alpha": alpha, "Lambda": rate / xmin}, -alpha * np.log(t) - rate * (t - 1) - np.log(
        _normalizer(alpha, rate)
    )


def _normalizer(alpha: float, rate: float) -> float:
    """Integral of t^-alpha exp(-rate (t - 1)) from 1 to infinity, over s = ln t."""
    # Where rate e^s passes 700, or beyond s = 40 / (alpha - 1), nothing is left.
    end = float(np.log1p(700 / rate))
    end = min(end, 40 / (alpha - 1)) if alpha > 1 else end
    value, _error = quad(
        lambda s: np.exp((1 - alpha) * s - rate * np.expm1(s)), 0, end, limit=200, epsabs=0, epsrel=1e-10
    )
    return value


def _lognormal(t: np.ndarray, xmin: float) -> tuple[dict[str, float], np.ndarray]:
    """ln t normal with mean m and deviation s, cut at t = 1."""
    y = np.log(t)

    def likelihoods(m: float, s: float) -> np.ndarray:
        # 1 - Phi(-m / s) = Phi(m / s): the share of the normal above ln t = 0
        return -y - 0.5 * ((y - m) / s) ** 2 - np.log(s * np.sqrt(2 * np.pi)) - log_ndtr(m / s)

    def negative(x: np.ndarray) -> float:
        return -float(likelihoods(x[0], np.exp(x[1])).sum())

    best = minimize(negative, (float(y.mean()), float(np.log(y.std() + 1e-9))), method="Nelder-Mead",
                    options={"xatol": 1e-8, "fatol": 1e-10, "maxiter": 2000})  # fmt: skip
    m, s = float(best.x[0]), float(np.exp(best.x[1]))
    return {"mu": m + float(np.log(xmin)), "s": s}, likelihoods(m, s)


def _ratio(one: np.ndarray, other: np.ndarray, *, nested: bool) -> tuple[float, float]:
    """R = sum(one - other) and its p: two-sided normal (Vuong), or chi-squared with one degree for nested models."""
    difference = one - other
    R, n = float(difference.sum()), len(difference)
    if nested:
        return R, _nested(R)
    spread = float(difference.std())
    if spread == 0:
        return R, 1.0
    return R, float(erfc(abs(R) / (spread * np.sqrt(2 * n))))
