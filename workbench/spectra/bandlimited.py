"""Bandlimited weights: what a shallow network cannot reach when its hidden weights are random and bounded.

Hidden weights are drawn from [-bound, bound] and stay; only the output layer is fitted, by ridge regression. Some
targets then keep an error, and the range that a target needs grows with its frequency.

The theorem behind it (a lower bound by the part of the target's ridgelet spectrum outside the parameters' domain) is
not implemented: its constants were not at hand. Two things are shown instead. On the circle, with cosines and sines of
bounded frequency as features, error = spectrum outside the band holds with equality (`circle_residual`). With tanh
features on [-1, 1] the error is a U over the bound (`sweep`): too small a range cannot reach, too large a one wastes
its features. There the limit is one of conditioning, not a wall: with less ridge the error falls and the coefficients
blow up. So ridge and the norm of the coefficients stand beside every error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np

from workbench.errors import Refused

POINTS = 400  # of the interval [-1, 1], for fitting and for the error
FEATURES = 200
RIDGE = 1e-6


def circle_residual(y: np.ndarray, band: int) -> tuple[float, float]:
    """(relative error of the best fit, energy outside the band as a share) of samples y [n] of one turn of a circle, by
    cosines and sines of the frequencies 0 to `band`. The square of the first is the second, exactly.

    Raises Refused for a band beyond what n samples tell apart."""
    y = np.asarray(y, np.float64)
    n = len(y)
    if not 0 <= band < n / 2:
        raise Refused(
            f"{n} samples tell the frequencies 0 to {(n - 1) // 2} apart: a band of {band} is beyond"
        )
    if not np.isfinite(y).all() or not np.any(y):
        raise Refused("the target is zero, or holds NaN or Inf: it has no relative error")
    turn = 2 * np.pi * np.arange(n) / n
    k = np.arange(band + 1)
    features = np.concatenate([np.cos(np.outer(turn, k)), np.sin(np.outer(turn, k[1:]))], axis=1)
    coefficients = np.linalg.lstsq(features, y, rcond=None)[0]
    error = float(np.linalg.norm(y - features @ coefficients) / np.linalg.norm(y))
    energy = np.abs(np.fft.fft(y)) ** 2
    outside = np.minimum(np.arange(n), n - np.arange(n)) > band
    return error, float(energy[outside].sum() / energy.sum())


@dataclass(frozen=True, eq=False)
class Fit:
    """A target [n] on x [n] and what bounded features made of it; `error` ||y - fit|| / ||y||, `norm` ||c||."""

    x: np.ndarray
    y: np.ndarray
    fitted: np.ndarray
    error: float
    norm: float


def fit_bandlimited(
    frequency: float, bound: float, *, features: int = FEATURES, ridge: float = RIDGE, seed: int = 0
) -> Fit:
    """sin(2 pi frequency x) on [-1, 1] by sum_j c_j tanh(w_j x + b_j), w and b drawn from [-bound, bound]; c minimises
    mean (y - fit)^2 + ridge ||c||^2 over 400 points. Raises Refused for what is not positive."""
    for name, value in {"frequency": frequency, "bound": bound, "features": features, "ridge": ridge}.items():
        if not value > 0 or not np.isfinite(value):
            raise Refused(
                f"{name} {value} of the bandlimited features is not possible: take a number above 0"
            )
    if features != int(features):
        raise Refused(f"{features} bandlimited features are no whole number: take {features:.0f}")
    rng = np.random.default_rng(seed)
    w, b = rng.uniform(-bound, bound, (2, int(features)))
    x = np.linspace(-1, 1, POINTS)
    y = np.sin(2 * np.pi * frequency * x)
    hidden = np.tanh(np.outer(x, w) + b)
    # As least squares of the stacked system: the normal equations would square a condition number of 1e8.
    stacked = np.concatenate([hidden, np.sqrt(ridge * POINTS) * np.eye(int(features))])
    c = np.linalg.lstsq(stacked, np.concatenate([y, np.zeros(int(features))]), rcond=None)[0]
    fitted = hidden @ c
    return Fit(x, y, fitted, float(np.linalg.norm(y - fitted) / np.linalg.norm(y)), float(np.linalg.norm(c)))


SWEEP_COLUMNS = {
    "frequency": "periods of the target sine per unit of x",
    "bound": "hidden weights and biases are drawn from [-bound, bound]",
    "ridge": "factor of ||coefficients||^2 in the fit",
    "seed": "of the hidden weights",
    "error": "||y - fit|| / ||y|| over 400 points of [-1, 1]",
    "norm": "||coefficients|| of the output layer",
}


def sweep(
    frequencies: Iterable[float],
    bounds: Iterable[float],
    *,
    ridges: Iterable[float] = (RIDGE,),
    seeds: int = 5,
    features: int = FEATURES,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, float]]:
    """A row of SWEEP_COLUMNS for each frequency, bound, ridge and seed. Refused where that is none at all."""
    cases = list(product(frequencies, bounds, ridges, range(seeds)))
    if not cases:
        raise Refused("bandlimited: nothing to fit; give at least one frequency, bound, ridge and seed")
    rows = []
    for done, (frequency, bound, ridge, seed) in enumerate(cases):
        step(done, len(cases))
        fit = fit_bandlimited(frequency, bound, features=features, ridge=ridge, seed=seed)
        rows.append(
            dict(zip(SWEEP_COLUMNS, (frequency, bound, ridge, seed, fit.error, fit.norm), strict=True))
        )
    return rows
