"""Figures of all layers: who stands where, in which colour, beside what, and what is said of those without a value."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.figures.layers import allocation_figure, aspect_figure, layers_figure, words
from workbench.spectra import COLUMNS


def layers(**columns) -> pd.DataFrame:
    rows = {
        "name": ["embed", "0.q", "0.down", "1.q", "1.down", "head"],
        "role": ["embed", "q", "down", "q", "down", "head"],
        "block": pd.array([None, 0, 0, 1, 1, None], "Int64"),
        "alpha": [2.0, 3.0, 4.0, np.nan, 5.0, 3.5],
    }
    return pd.DataFrame(rows | columns)


def marks(figure):
    """role -> (colour, mark, first x)."""
    return {
        t.name: (t.marker.color, t.marker.symbol, t.x[0])
        for t in figure.data
        if t.mode == "markers" and t.name and not t.marker.symbol.endswith("-open")
    }


def test_all_layers_stand_at_their_depth_and_none_is_invented():
    figure = layers_figure(layers())
    points = {row[0]: x for trace in figure.data for x, row in zip(trace.x, trace.customdata, strict=True)}
    assert set(points) == {"embed", "0.q", "0.down", "1.down", "head"}  # 1.q has no alpha
    assert {name: round(x) for name, x in points.items()} == {
        "embed": -1, "0.q": 0, "0.down": 0, "1.down": 1, "head": 2,
    }  # fmt: skip
    assert list(figure.layout.xaxis.ticktext) == ["0", "1", "before", "after"]
    assert "5 layers" in figure.layout.meta["caption"]


@pytest.mark.parametrize("metric", ["alpha_hill", "alpha_farms", "alpha_peak", "lost"])
def test_the_range_of_well_trained_layers_is_that_of_fitted_tails_only(metric):
    assert [(s.y0, s.y1) for s in layers_figure(layers()).layout.shapes] == [(2.0, 6.0)]
    other = layers_figure(layers(**{metric: [1, 2, 3, 4, 5, 6]}), metric)
    assert not other.layout.shapes
    assert "well-trained" not in other.layout.title.text


def test_noise_is_a_line_where_it_is_one_and_a_stroke_at_each_layer_where_it_is_not():
    table = layers(alpha_hill=[1.5, 1.6, 1.7, np.nan, 1.6, 1.5])
    line = next(
        t for t in layers_figure(table, "alpha_hill", noise=np.full(6, 2.1)).data if t.name == "noise"
    )
    assert set(line.y) == {2.1}
    noise = np.array([5.9, 2.1, 3.0, 2.1, 3.0, np.nan])
    figure = layers_figure(table, "alpha_hill", noise=noise)
    strokes = next(t for t in figure.data if t.name == "noise")
    at = {
        row[0]: x
        for t in figure.data
        if t.customdata is not None
        for x, row in zip(t.x, t.customdata, strict=True)
    }
    ends = np.array(strokes.x).reshape(-1, 3)[:, :2].mean(1)
    values = dict(zip(ends.round(6), np.array(strokes.y).reshape(-1, 3)[:, 0], strict=True))
    known = dict(zip(table["name"], noise, strict=True))
    assert len(at) == 5
    np.testing.assert_equal([values[round(x, 6)] for x in at.values()], [known[name] for name in at])
    assert "Gaussian noise of the same shape" in figure.layout.title.text
    assert figure.layout.yaxis.range[1] > 5.9


def test_a_role_keeps_its_colour_its_mark_and_its_place_whichever_layers_have_a_value():
    whole = marks(layers_figure(layers(alpha=[2.0, 3, 4, 3, 5, 3.5])))
    few = marks(layers_figure(layers(alpha=[np.nan, np.nan, 4, np.nan, 5, 3.5])))
    assert set(few) == {"down", "head"}
    assert all(few[role][:2] == whole[role][:2] for role in few)
    assert few["down"][2] == pytest.approx(whole["down"][2])


def test_layers_without_a_value_are_counted_in_the_figure_and_the_reason_is_said():
    reasons = ["tail fit: 9 of 9 eigenvalues lie above 1e-05, and a fit needs 50: with fewer it moves"] * 6
    reasons[3] = reasons[3].replace("9", "16")
    table = layers(alpha=[np.nan, 3, 4, np.nan, 5, 3.5], reason=reasons)
    figure = layers_figure(table, title="t")
    assert "2 of 6 layers have none; embed: 9 of 9 eigenvalues" in figure.layout.title.text
    assert "other reasons" not in figure.layout.title.text  # it differs in its numbers only
    assert "embed, 1.q: 9 of 9" in figure.layout.meta["caption"]
    untouched = layers(lost_share=[np.nan, 0.1, 0, 0.2, 0.1, 0.3], method=[np.nan, *["rtn"] * 5], reason="")
    assert (
        "1 of 6 layers has none; not compressed" in layers_figure(untouched, "lost_share").layout.title.text
    )
    assert "none" not in layers_figure(layers(alpha=[2.0] * 6), title="t").layout.title.text


def test_marks_at_zero_are_whole():
    low, high = layers_figure(layers(lost=[0, 1, 0, 2, 0, 10]), "lost").layout.yaxis.range
    assert low < 0 < 10 < high
    assert layers_figure(layers(log_norm=[3.0] * 6), "log_norm").layout.yaxis.range is None


def test_axes_have_words_and_units():
    assert layers_figure(layers(lost=[1] * 6), "lost").layout.yaxis.title.text == (
        "directions under the noise edge, count"
    )
    table = layers(sv_max=[1.0] * 6)
    table.attrs["columns"] = COLUMNS
    assert layers_figure(table, "sv_max").layout.yaxis.title.text == "sv_max, unit of the weights"
    assert words("alpha_hill")[1] == "alpha_hill (no unit)"
    assert words("mine", "of my own")[1] == "mine"


def test_layers_after_compression_are_open_marks_joined_to_their_own():
    table = layers(after_alpha=[np.nan, 3.5, 4.5, 2.0, 5.5, np.nan])
    figure = layers_figure(table, title="t", done="rtn 3")
    opened = [
        trace for trace in figure.data if trace.mode == "markers" and trace.marker.symbol.endswith("-open")
    ]
    assert sorted(value for trace in opened for value in trace.y) == [3.5, 4.5, 5.5]
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert sum(np.isnan(np.array(trace.y, float)).sum() for trace in lines) == 3
    assert "open marks: after rtn 3" in figure.layout.title.text


def test_a_model_without_blocks_has_its_layers_in_order():
    table = layers(block=pd.array([None] * 6, "Int64"))
    assert layers_figure(table).layout.xaxis.title.text == "layer"


def height(figure) -> float:
    """px that the lines of the title take."""
    return 17 * (figure.layout.title.text.count("<br>") + 1)


def test_there_is_room_for_every_line_of_a_title():
    table = pd.DataFrame({"series": ["a", "a"], "aspect_ratio": [1, 2], "alpha": [2, 3], "spread": [0.1] * 2})
    note = "a word of it " * 9
    allocation = allocation_figure(["x"], np.ones(1), np.ones(1), "bits", note=note)
    for figure in (
        aspect_figure(table),
        allocation,
        layers_figure(layers(reason=note), title="a title " * 20),
    ):
        lines = [line for line in figure.layout.title.text.split("<br>")]
        assert figure.layout.margin.t >= height(figure)
        assert all(len(line.partition(">")[2].partition("</")[0]) <= 72 for line in lines)


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
    figure = allocation_figure(
        ["x", "y"],
        np.array([2.0, 3.0]),
        np.array([0.4, 0.6]),
        "sparsity",
        metric="alpha_farms",
        note="z: spared",
    )
    assert list(figure.data[0].y) == [0.4, 0.6]
    assert figure.data[1].name == "alpha_farms"
    assert "alpha_farms" in figure.layout.yaxis2.title.text
    assert "What alpha_farms gives" in figure.layout.title.text
    assert "z: spared" in figure.layout.title.text
