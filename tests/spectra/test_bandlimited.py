"""Bandlimited hidden weights: the exact case on the circle, the U over the bound, and the norm behind it."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.errors import Refused
from workbench.spectra.bandlimited import SWEEP_COLUMNS, circle_residual, fit_bandlimited, sweep

TURN = 2 * np.pi * np.arange(64) / 64


@pytest.mark.parametrize("k", [3, 4])
def test_inside_the_band_nothing_is_left(k):
    error, outside = circle_residual(np.sin(k * TURN), 4)
    assert error < 1e-13
    assert outside < 1e-26


@pytest.mark.parametrize("k", [5, 7])
def test_outside_the_band_everything_is(k):
    assert circle_residual(np.sin(k * TURN), 4) == (pytest.approx(1.0), pytest.approx(1.0))


def test_the_error_is_the_spectrum_outside_the_band_with_equality():
    error, outside = circle_residual(np.sin(3 * TURN) + 0.5 * np.sin(7 * TURN), 4)
    assert error**2 == pytest.approx(0.2, abs=1e-12)
    assert outside == pytest.approx(0.2, abs=1e-12)
    noise = np.random.default_rng(0).standard_normal(64)
    for band in (0, 5, 31):
        error, outside = circle_residual(noise, band)
        assert error**2 == pytest.approx(outside, abs=1e-12)


def test_too_small_a_bound_cannot_reach_and_too_large_a_one_wastes():
    """The card's table, as means over five draws of 200 features: f = 4 has errors .975, .616, .007, .028."""
    rows = sweep([4], [1, 20, 60])
    mean = {bound: np.mean([r["error"] for r in rows if r["bound"] == bound]) for bound in (1, 20, 60)}
    assert mean[1] > 0.9
    assert mean[20] < 0.05
    assert mean[20] < mean[60] < mean[1]
    assert list(rows[0]) == list(SWEEP_COLUMNS)
    assert len(rows) == 15


def test_the_bound_is_one_of_norm_and_no_wall():
    """With less ridge the error falls and the coefficients grow."""
    fits = [fit_bandlimited(2, 1, ridge=ridge) for ridge in (1e-2, 1e-6, 1e-10)]
    errors, norms = [fit.error for fit in fits], [fit.norm for fit in fits]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.9 < errors[1]
    assert norms[2] > 100 * norms[1] > 1000 * norms[0]


def test_the_error_is_that_of_the_curve_it_shows():
    fit = fit_bandlimited(1, 20)
    assert fit.error == pytest.approx(np.linalg.norm(fit.y - fit.fitted) / np.linalg.norm(fit.y))


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda: circle_residual(np.sin(TURN), 32), "a band of 32 is beyond"),
        (lambda: circle_residual(np.zeros(8), 2), "zero"),
        (lambda: fit_bandlimited(0, 1), "frequency 0"),
        (lambda: fit_bandlimited(1, -1), "bound -1"),
        (lambda: fit_bandlimited(1, 1, ridge=0), "ridge 0"),
    ],
)
def test_what_is_no_target_is_refused(act, reason):
    with pytest.raises(Refused, match=reason):
        act()


def test_a_sweep_over_nothing_and_half_a_feature_are_refused():
    with pytest.raises(Refused, match="nothing to fit"):
        sweep([1], [1], seeds=0)
    with pytest.raises(Refused, match="no whole number: take 2"):
        fit_bandlimited(1, 1, features=2.5)
