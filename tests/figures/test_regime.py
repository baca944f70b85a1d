"""Pictures of rich and lazy trainings and of bandlimited weights: means, bars, ranges, nothing clipped."""

from __future__ import annotations

import numpy as np
import pandas as pd

from workbench.figures.regime import (
    bandlimited_figure,
    circle_figure,
    initial_figure,
    kernels_figure,
    losses_figure,
    regime_figure,
    ridge_figure,
)

RUNS = pd.DataFrame(
    {
        "rank": [1, 1, 10, 10],
        "seed": [0, 1, 0, 1],
        "change": [0.2, 0.4, 0.1, 0.1],
        "ra": [0.5, 0.7, 0.9, 0.9],
        "ka": [0.1, 0.1, 0.4, 0.6],
    }
)


def test_each_panel_has_all_runs_and_their_means_with_deviations():
    figure = regime_figure(RUNS, "a task")
    runs, means = figure.data[::2], figure.data[1::2]
    for trace, mean, name in zip(runs, means, ("change", "ra", "ka"), strict=True):
        np.testing.assert_allclose(trace.y, RUNS[name])
        np.testing.assert_allclose(mean.y, RUNS.groupby("rank")[name].mean())
        np.testing.assert_allclose(mean.error_y.array, RUNS.groupby("rank")[name].std())
    assert list(figure.layout.xaxis.ticktext) == ["1", "10"]
    low, high = figure.layout.xaxis.range
    assert low < 0 < 1 < high, "the outermost marks are whole"
    assert "2 seeds" in figure.layout.title.text


def test_one_seed_has_no_bars_and_no_error():
    figure = regime_figure(RUNS.query("seed == 0"), "a task")
    assert list(figure.data[1].error_y.array) == [0, 0]


def test_kernels_are_compared_at_one_norm_and_scale():
    before, after = np.eye(3), 100 * np.ones((3, 3))
    figure = kernels_figure(before, after, 0.577, "rank 3")
    for trace in figure.data:
        assert np.isclose(np.linalg.norm(trace.z), 1)
    assert figure.layout.coloraxis.cmax == max(np.max(trace.z) for trace in figure.data)
    assert "0.577" in figure.layout.title.text


def test_spectra_leave_zeros_out_and_curves_are_smoothed_over_ten_steps():
    figure = initial_figure({1: np.array([3.0, 1e-9, 0]), 3: np.array([2.0, 1, 1])})
    assert [len(trace.y) for trace in figure.data] == [1, 3]
    (curve,) = losses_figure({1: np.arange(30.0)}, "a task").data
    assert curve.x[0] == 10
    assert np.isclose(curve.y[0], np.mean(np.arange(10)))
    assert len(curve.y) == 21


def test_a_line_for_each_frequency_with_a_bar_from_least_to_most():
    rows = [
        {"frequency": f, "bound": b, "ridge": 1e-6, "seed": s, "error": 0.1 * f * (1 + s), "norm": 10.0 * b}
        for f in (1, 2)
        for b in (1, 10)
        for s in (0, 1)
    ]
    figure = bandlimited_figure(pd.DataFrame(rows), 200)
    error, norm = figure.data[:2]
    np.testing.assert_allclose(error.y, np.sqrt(0.1 * 0.2))
    np.testing.assert_allclose(error.y + error.error_y.array, 0.2)
    np.testing.assert_allclose(error.y - error.error_y.arrayminus, 0.1)
    np.testing.assert_allclose(norm.y, [10, 100])
    assert [trace.name for trace in figure.data if trace.showlegend] == ["f = 1", "f = 2"]
    assert "ridge 1e-06" in figure.layout.title.text


def test_ridges_run_from_strong_to_weak_with_room_for_the_last_label():
    table = pd.DataFrame(
        {"frequency": 2, "bound": 1, "ridge": [1e-6, 1e-2], "error": [0.5, 0.9], "norm": [1000.0, 1.0]}
    )
    figure = ridge_figure(table)
    assert list(figure.data[0].text) == ["1e-02", "1e-06"]
    assert figure.layout.xaxis.range[1] > 3.3


def test_on_the_circle_the_error_is_squared():
    line, marks = circle_figure(np.arange(3), np.array([1.0, 0.5, 0]), np.array([1.0, 0.25, 0]), "y").data
    np.testing.assert_allclose(line.y, marks.y)
