"""Axes that several figures share: ticks that can be read whatever the range, one look for all axes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from plotly.subplots import make_subplots

from workbench.figures import error_bits_figure
from workbench.figures.style import all_axes, log_axis, styled


def shown(axis: dict) -> list[str]:
    """The ticks inside the range."""
    low, high = axis["range"]
    return [t for t, v in zip(axis["ticktext"], axis["tickvals"], strict=True) if low <= np.log10(v) <= high]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.03, 0.2], ["0.05", "0.1", "0.2"]),
        ([0.001, 3, 2000], ["0.001", "0.01", "0.1", "1", "10", "100", "10<sup>3</sup>"]),
        ([0.0068, 0.0122], ["0.007", "0.008", "0.009", "0.01", "0.012"]),
        ([5, 5], ["5"]),
    ],
)
def test_every_log_axis_has_ticks(values, ticks):
    axis = log_axis(np.array(values))
    assert shown(axis) == ticks
    low, high = axis["range"]
    assert low < np.log10(min(values)) <= np.log10(max(values)) < high


def test_what_a_log_axis_cannot_show_is_left_out():
    axis = log_axis(np.array([0.0, -1.0, np.nan, np.inf, 10.0, 100.0]))
    assert axis["range"][0] == pytest.approx(1, abs=0.1)
    assert axis["range"][1] == pytest.approx(2, abs=0.1)
    assert log_axis(np.array([]))["range"][1] > 1
    low, high = log_axis(np.array([1e-14, 1.0]), decades=3)["range"]
    assert -3.3 < low < -3
    assert 0 < high < 0.3


def test_all_axes_look_like_the_first():
    figure = all_axes(styled(make_subplots(2, 2)))
    for name in ("xaxis", "xaxis4", "yaxis", "yaxis3"):
        assert figure.layout[name].gridcolor == figure.layout.xaxis.gridcolor is not None
        assert figure.layout[name].title.font.size == 11
    assert figure.layout.xaxis4.anchor == "y4", "the places are left alone"


def test_errors_over_bits_have_whole_bits_and_more_than_one_tick():
    table = pd.DataFrame(
        {"bits": [2, 3, 2, 3], "kl": [0.13, 0.05, 0.1, 0.02], "method": ["a", "a", "b", "b"]}
    )
    figure = error_bits_figure(table, by="method", x="bits", y="kl")
    assert figure.layout.xaxis.dtick == 1
    assert len(shown(figure.layout.yaxis.to_plotly_json())) >= 3
    assert figure.layout.yaxis.title.text == "KL, nats"
    assert [trace.name for trace in figure.data] == ["a", "b"]
