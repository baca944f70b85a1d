"""Readings: the options that reach the columns."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.errors import Refused
from workbench.spectra import Reading, farms, hill, singular_values, spectrum_row

W = np.random.default_rng(0).standard_normal((120, 150)) @ np.diag(np.geomspace(1, 3, 150))


def test_a_stride_is_that_of_farms():
    row = spectrum_row(W, Reading(extra=("farms",), rows=50, stride=30))
    assert row["alpha_farms"] == farms(W, rows=50, stride=30).alpha
    assert row["alpha_farms"] != spectrum_row(W, Reading(extra=("farms",), rows=50))["alpha_farms"]
    with pytest.raises(Refused, match="stride 0 start at 1"):
        Reading(stride=0)


def test_the_peak_is_a_tail_of_the_whole_matrix():
    row = spectrum_row(W, Reading(extra=("peak",)))
    fit = hill(singular_values(W) ** 2, "peak")
    assert row["alpha_peak"] == pytest.approx(fit.alpha, rel=1e-9)
    assert (row["D_peak"], row["xmin_peak"]) == pytest.approx((fit.D, fit.xmin), rel=1e-9)
    assert {"alpha_peak", "D_peak", "xmin_peak"} <= Reading(extra=("peak",)).columns.keys()
    assert "alpha_peak" not in Reading().columns


def test_a_matrix_too_small_for_a_fit_may_have_a_peak_all_the_same():
    small = np.random.default_rng(0).standard_normal((30, 40))
    row = spectrum_row(small, Reading(extra=("peak",)))
    assert np.isnan(row["alpha"])
    assert row["alpha_peak"] == hill(singular_values(small) ** 2, "peak").alpha
    assert np.isnan(spectrum_row(np.zeros((9, 9)), Reading(extra=("peak",)))["alpha_peak"])
    assert np.isnan(spectrum_row(small[:3], Reading(extra=("peak",)))["alpha_peak"])
