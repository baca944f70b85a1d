"""Figures of spectra: what is on them, on which axes, in both themes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.figures.spectra import (
    allocation_figure,
    aspect_figure,
    density_figure,
    error_spectrum_figure,
    layers_figure,
    scan_figure,
)

EIGENVALUES = np.sort(np.random.default_rng(0).pareto(2, 200) + 0.5)


def layers(**columns) -> pd.DataFrame:
    rows = {
        "name": ["embed", "0.q", "0.down", "1.q", "1.down", "head"],
        "role": ["embed", "q", "down", "q", "down", "head"],
        "block": pd.array([None, 0, 0, 1, 1, None], "Int64"),
        "alpha": [2.0, 3.0, 4.0, np.nan, 5.0, 3.5],
    }
    return pd.DataFrame(rows | columns)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_density_is_log_log_with_its_tail_bulk_and_edge(theme):
    x = np.linspace(0.5, 2, 50)
    figure = density_figure(
        EIGENVALUES,
        EIGENVALUES * 1.1,
        tail=(3.0, 0.2, 1.0, 90),
        bulk=(x, np.full(50, 0.4)),
        edge=0.6,
        theme=theme,
    )
    assert [trace.name for trace in figure.data] == [
        "weight", "compressed", "noise bulk", "α 3.00 ± 0.20", "x<sub>min</sub>", "noise edge",
    ]  # fmt: skip
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "log")
    law = figure.data[3]
    # share of the tail * (alpha - 1) / xmin at its beginning
    assert law.y[0] == pytest.approx(90 / 200 * 2)
    assert "squared" in figure.layout.xaxis.title.text


def test_a_density_without_a_tail_says_why():
    figure = density_figure(EIGENVALUES[:9], None, note="9 of 9 eigenvalues")
    assert len(figure.data) == 1
    assert figure.layout.annotations[0].text == "no tail: 9 of 9 eigenvalues"


def test_spectra_of_zeros_and_of_one_value_are_drawn():
    for values in (np.zeros(5), np.ones(5), np.r_[np.zeros(3), 2.0]):
        density_figure(values, values)


def test_all_layers_stand_at_their_depth_and_none_is_invented():
    figure = layers_figure(layers())
    points = {row[0]: x for trace in figure.data for x, row in zip(trace.x, trace.customdata, strict=True)}
    assert set(points) == {"embed", "0.q", "0.down", "1.down", "head"}  # 1.q has no alpha
    assert {name: round(x) for name, x in points.items()} == {
        "embed": -1,
        "0.q": 0,
        "0.down": 0,
        "1.down": 1,
        "head": 2,
    }
    assert list(figure.layout.xaxis.ticktext) == ["0", "1", "before", "after"]
    band = figure.layout.shapes[0]
    assert (band.y0, band.y1) == (2.0, 6.0)
    assert "5 layers" in figure.layout.meta["caption"]
    assert "1 layers have none" in figure.layout.meta["caption"]
    assert not layers_figure(layers(lost=[1, 2, 3, 4, 5, 6]), "lost").layout.shapes


def test_layers_after_compression_are_open_marks_joined_to_their_own():
    table = layers(after_alpha=[np.nan, 3.5, 4.5, 2.0, 5.5, np.nan])
    figure = layers_figure(table, title="t")
    opened = [
        trace for trace in figure.data if trace.mode == "markers" and trace.marker.symbol.endswith("-open")
    ]
    assert sorted(value for trace in opened for value in trace.y) == [3.5, 4.5, 5.5]
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert sum(np.isnan(np.array(trace.y, float)).sum() for trace in lines) == 3
    assert "open marks" in figure.layout.title.text


def test_a_model_without_blocks_has_its_layers_in_order():
    table = layers(block=pd.array([None] * 6, "Int64"))
    assert layers_figure(table).layout.xaxis.title.text == "layer"


def test_an_error_spectrum_has_two_panels():
    k = np.linspace(1, 0.5, 8)
    figure = error_spectrum_figure(
        np.linspace(0.1, 1, 60), (np.linspace(0, 1, 9), np.ones(9)), 0.9, 7, (k, k), (k, k), "down"
    )
    assert {trace.yaxis for trace in figure.data} == {"y", "y2"}
    assert "edge, 7 below" in [trace.name for trace in figure.data]
    assert "7 of 60 directions" in figure.layout.meta["caption"]
    assert figure.data[0].y @ np.array(figure.data[0].width) == pytest.approx(1)  # a density


def test_a_scan_marks_the_chosen_candidate():
    alpha, distance = np.linspace(1.5, 4, 199), np.abs(np.linspace(-1, 1, 199))
    figure = scan_figure(EIGENVALUES, alpha, distance, 99)
    assert [trace.x[0] for trace in figure.data if trace.mode == "markers"] == [EIGENVALUES[99]] * 2


def test_aspect_and_allocation():
    table = pd.DataFrame(
        {
            "series": ["a", "a", "b", "b"],
            "aspect_ratio": [1, 2, 1, 2],
            "alpha": [2, 3, 2, 2],
            "spread": [0.1] * 4,
        }
    )
    assert [trace.name for trace in aspect_figure(table).data] == ["a", "b"]
    figure = allocation_figure(["x", "y"], np.array([2.0, 3.0]), np.array([0.4, 0.6]), "sparsity")
    assert list(figure.data[0].y) == [0.4, 0.6]
    assert figure.layout.yaxis2.title.text == "alpha"
