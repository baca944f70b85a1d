"""RichLazy and Bandlimited: tables, summaries and pictures of small runs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from workbench.engine.regime import REGIME_COLUMNS
from workbench.errors import Refused
from workbench.inspect import Bandlimited, RichLazy


@pytest.fixture(scope="module")
def regime():
    return RichLazy("two-choice", ranks=(1, 20), seeds=2, units=20, steps=20).compute()


@pytest.fixture(scope="module")
def bands():
    return Bandlimited((1, 4), (1, 5, 20, 80), seeds=3)


def checked(figure) -> dict:
    layout = json.loads(figure.to_json())["layout"]
    assert layout["title"]["text"].startswith("<b>")
    assert layout["meta"]["caption"].endswith(".")
    for axis in ("xaxis", "yaxis"):
        assert layout[axis]["title"]["text"]
    return layout


def test_the_summary_is_the_mean_over_seeds(regime):
    assert list(regime.table.columns) == list(REGIME_COLUMNS)
    rows = regime.table.query("rank == 20")
    summary = regime.summary.set_index("rank").loc[20]
    assert summary["ka"] == pytest.approx(rows["ka"].mean())
    assert summary["ka_sd"] == pytest.approx(rows["ka"].std())


def test_the_marks_of_the_figure_are_the_means_with_their_deviations(regime):
    figure = regime.figure()
    checked(figure)
    means = [trace for trace in figure.data if trace.error_y.array is not None]
    assert len(means) == 3
    for trace, name in zip(means, ("change", "ra", "ka"), strict=True):
        np.testing.assert_allclose(trace.y, regime.summary[name])
        np.testing.assert_allclose(trace.error_y.array, regime.summary[f"{name}_sd"])


def test_the_axis_shows_the_rank_that_was_chosen_and_says_which(regime):
    from workbench.figures.regime import RANK_NAMES
    from workbench.inspect.regime import BY

    assert tuple(RANK_NAMES) == BY
    other = RichLazy("two-choice", by="entropy_rank")
    other._found = regime.found
    figure = other.figure()
    assert figure.layout.xaxis.title.text == "entropy rank of the initial weight, log scale"
    np.testing.assert_allclose(figure.data[1].x, regime.table.groupby("rank")["entropy_rank"].mean())
    with pytest.raises(Refused, match="near: stable_rank"):
        RichLazy(by="stablerank")


def test_kernels_spectra_and_losses_have_pictures(regime):
    figure = regime.kernels(1)
    checked(figure)
    for trace in figure.data:
        assert np.linalg.norm(trace.z) == pytest.approx(1.0), "each over its own norm"
    checked(regime.losses())
    lengths = [len(trace.y) for trace in regime.spectra().data]
    assert lengths == [1, 20], "zero singular values are left out"
    with pytest.raises(Refused, match="there are 1, 20"):
        regime.kernels(7)


def test_the_errors_over_the_bound_are_a_u(bands):
    checked(bands.figure())
    mean = bands.table.groupby(["frequency", "bound"])["error"].mean()
    assert mean[4, 1] > 0.9 > 0.1 > mean[4, 20]
    assert mean[4, 80] > mean[4, 20]
    assert len(bands.table) == 2 * 4 * 3


def test_less_ridge_is_less_error_and_more_norm(bands):
    figure = bands.ridges()
    checked(figure)
    (line,) = figure.data
    assert list(line.x) == sorted(line.x)
    assert list(line.y) == sorted(line.y, reverse=True)


def test_the_circle_has_equality(bands):
    figure = bands.circle()
    checked(figure)
    outside, error = figure.data
    np.testing.assert_allclose(outside.y, error.y, atol=1e-12)
    np.testing.assert_allclose(np.asarray(outside.y)[[2, 3, 6, 7]], [1, 0.2, 0.2, 0], atol=1e-12)
