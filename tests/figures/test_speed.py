"""Figures of the speed lab: what they draw is what they were given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.figures.colors import BEFORE
from workbench.figures.speed import (
    COLORS,
    REST,
    kind_colors,
    ladder_figure,
    mix_figure,
    occupancy_figure,
    roofline_figure,
)
from workbench.speed.sass import KINDS

POINTS = pd.DataFrame(
    [("slow", 0.5, 1e9, 0.1, "memory"), ("fast", 100.0, 9e10, 0.9, "arithmetic")],
    columns=["kernel", "intensity", "flops", "of_roof", "bound"],
).assign(bits=32, shape="1x1x1")
ROOFS = [
    {"name": "copy", "value": 1e10, "per": "byte", "bits": 0},
    {"name": "read", "value": 2e10, "per": "byte", "bits": 0},
    {"name": "fp32 product", "value": 1e11, "per": "flop", "bits": 32},
    {"name": "int8 product", "value": 1.2e11, "per": "flop", "bits": 8},
]


def test_every_instruction_is_in_one_bar():
    mix = {
        7: {"float": 3, "convert": 1, "wait": 2},
        9: {"move": 4, "branch": 1, "other": 1, "tensor core": 5},
    }
    figure = mix_figure(mix, ["line"] * 9, "k")
    assert sum(sum(trace.x) for trace in figure.data) == 17
    names = [trace.name for trace in figure.data]
    assert names == ["tensor core", "float", "wait", REST]
    assert figure.data[1].x == (4, 0)
    assert figure.data[0].customdata[0][0] == 7
    assert "17 in all" in figure.layout.meta["caption"]


def test_colours_are_those_of_the_bars_and_all_different():
    colors = kind_colors(KINDS)
    assert set(colors) == set(KINDS)
    assert colors["tensor core"] == COLORS["tensor core"]
    assert colors["branch"] == BEFORE
    assert len(set(COLORS.values())) == len(COLORS)


def test_occupancy_is_a_staircase_with_the_kernel_on_it():
    figure = occupancy_figure(
        [(32, 64), (64, 32)],
        [(65536, 64), (131072, 32)],
        at=(40, 2048, 32),
        most=64,
        name="k",
        device="sm_80",
    )
    assert list(figure.data[0].x) == [0, 32, 32, 64, 64]
    assert list(figure.data[0].y) == [64, 64, 32, 32, 0]
    assert (figure.data[1].x[0], figure.data[1].y[0]) == (40, 32)
    assert figure.data[3].x[0] == 2.0  # KiB
    assert "KiB" in figure.layout.xaxis2.title.text
    assert "Not a measurement" in figure.layout.meta["caption"]


def test_a_roofline_has_roofs_points_and_units():
    figure = roofline_figure(POINTS, ROOFS, device="a CPU", where="measured 2026-01-01")
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    assert "FLOP/byte" in figure.layout.xaxis.title.text
    assert "FLOP/s" in figure.layout.yaxis.title.text
    by_name = {trace.name: trace for trace in figure.data}
    assert (by_name["slow"].x[0], by_name["slow"].y[0]) == (0.5, 1e9)
    assert by_name["fp32 product"].x[0] == pytest.approx(5)  # where the read roof reaches it
    slope = np.array(by_name["copy"].y, float) / np.array(by_name["copy"].x, float)
    assert np.nanmax(np.abs(slope / 1e10 - 1)) < 1e-9
    low, high = figure.layout.xaxis.range
    assert low < np.log10(0.5) < np.log10(100) < high
    low, high = figure.layout.yaxis.range
    assert low < 9 < np.log10(1.2e11) < high


def test_a_model_is_hollow_and_called_so():
    ceilings = pd.DataFrame([{"kernel": "k", "intensity": 10.0, "attainable": 1e11}])
    figure = roofline_figure(POINTS.iloc[:0], ROOFS, device="X", where="data sheet", ceilings=ceilings)
    mark = next(trace for trace in figure.data if trace.name == "k (model)")
    assert mark.marker.symbol == "circle-open"
    assert "a model, not measured" in figure.layout.meta["caption"]
    assert any("data sheet" in (note.text or "") for note in figure.layout.annotations)


def ladder(timed: bool) -> pd.DataFrame:
    rows = [
        {
            "kernel": "first",
            "over": "",
            "predicted_low": None,
            "predicted_high": None,
            "gain": None,
            "percent": 2.0,
        },
        {
            "kernel": "second",
            "over": "first",
            "predicted_low": 4.0,
            "predicted_high": 8.0,
            "gain": 5.0,
            "percent": 10.0,
        },
    ]
    frame = pd.DataFrame(rows).assign(idea="an idea", baseline="cublas" if timed else "", where="measured")
    if not timed:
        frame[["percent", "gain"]] = np.nan
    return frame.assign(percent_q25=0.9 * frame["percent"], percent_q75=1.1 * frame["percent"])


def test_a_ladder_shows_percent_and_the_prediction_beside_the_gain():
    figure = ladder_figure(ladder(True), "fp32", note="measured here")
    assert list(figure.data[0].x) == [2, 10]
    predicted = next(trace for trace in figure.data if trace.name == "predicted")
    assert (predicted.base[0], predicted.base[0] + predicted.x[0]) == (4, 8)
    measured = next(trace for trace in figure.data if trace.name == "measured")
    assert measured.x[1] == 5
    assert "% of cublas" in figure.layout.xaxis.title.text
    assert figure.layout.title.text == "measured here"
    low, high = figure.layout.xaxis2.range
    assert low < 0 < np.log10(8) < high


def test_a_ladder_without_a_time_says_so():
    figure = ladder_figure(ladder(False), "fp32")
    assert list(figure.data[0].text) == ["not timed"] * 2
    assert "predictions alone" in figure.layout.meta["caption"]
    assert np.isfinite(figure.layout.xaxis.range).all()
