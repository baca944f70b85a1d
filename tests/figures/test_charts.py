"""Figures take arrays and keep their promises: units, reference, nothing lost by thinning."""

import json

import numpy as np
import pytest

from workbench.figures import histogram_figure, pareto_figure, profile_figure, spectrum_figure
from workbench.figures.charts import POINTS
from workbench.figures.colors import EDGE


def point(bits, kl, short="v", **more):
    return {"bits_per_weight": bits, "kl": kl, "short": short, "hover": f"{bits} bits", **more}


def traces(figure):
    return {trace.name: trace for trace in figure.data}


def test_the_unchanged_model_is_left_out_of_the_pareto_plot():
    figure = pareto_figure([point(16, 0, "base"), point(4, 0.1, "v1"), point(3, float("nan"), "v2")])
    marks = traces(figure)["variant"]
    assert list(marks.x) == [4]
    assert list(marks.text) == ["v1"]
    assert figure.layout.yaxis.type == "log"
    low, high = figure.layout.yaxis.range
    assert low < -1 < high
    assert not figure.layout.annotations


@pytest.mark.parametrize("points", [[], [point(16, 0, "base")]])
def test_an_empty_pareto_plot_says_what_fills_it(points):
    figure = pareto_figure(points)
    [note] = figure.layout.annotations
    assert note.text.startswith("Apply a method")
    assert figure.layout.xaxis.range
    json.loads(figure.to_json())


def test_the_active_variant_is_ringed():
    points = [point(16, 0, "base"), point(4, 0.1, "v1"), point(3, 0.3, "v2")]
    marks = traces(pareto_figure(points, active=2))["variant"]
    assert [width > 0 for width in marks.marker.line.width] == [False, True]
    assert marks.marker.line.color == EDGE
    assert not any(traces(pareto_figure(points, active=0))["variant"].marker.line.width)


def test_a_click_hands_on_the_index_of_the_variant():
    """Of variants that were not measured there are no points: places and indices differ."""
    points = [point(16, 0, "base", index=0), point(4, 0.1, "v2", index=2), point(3, 0.3, "v5", index=5)]
    assert [data[0] for data in traces(pareto_figure(points))["variant"].customdata] == [2, 5]
    plain = [{k: v for k, v in p.items() if k != "index"} for p in points]
    assert [data[0] for data in traces(pareto_figure(plain))["variant"].customdata] == [1, 2]


def test_the_staircase_joins_the_variants_that_no_cheaper_one_beats():
    tried = [(8, 0.01), (2, 3.0), (4, 0.2), (4, 0.1), (5, 0.1), (3, 0.05), (6, 0.2)]
    line = traces(pareto_figure([point(*pair) for pair in tried]))["best so far"]
    assert list(zip(line.x, line.y, strict=True)) == [(2, 3.0), (3, 0.05), (8, 0.01)]
    assert line.line.shape == "hv"


def test_of_variants_of_one_size_only_the_best_is_joined():
    line = traces(pareto_figure([point(4, 0.2), point(4, 0.1), point(4, 0.1)]))["best so far"]
    assert list(zip(line.x, line.y, strict=True)) == [(4, 0.1)]


def test_a_spectrum_of_thousands_is_thinned_to_what_a_screen_shows():
    before = np.geomspace(10, 0.01, 5000)
    figure = spectrum_figure(before, before * 0.9, edge=0.5, lost=2000, name="a")
    lines = traces(figure)
    assert lines["weight"].x[0] == 1
    assert lines["weight"].x[-1] == 5000
    assert len(lines["weight"].x) <= POINTS
    assert (np.diff(lines["weight"].x) > 0).all()
    edge = next(trace for name, trace in lines.items() if name.startswith("noise edge"))
    assert set(edge.y) == {0.5}
    assert "2000 of 5000" in edge.name
    assert "2000 of 5000" in figure.layout.meta["caption"]


def test_an_error_of_zero_has_no_edge_and_a_flat_or_deficient_spectrum_is_drawn():
    for values in (np.ones(3), np.array([5.0, 0.0]), np.zeros(4), np.array([2.0])):
        figure = spectrum_figure(values, values, edge=0.0, lost=0, name="a")
        assert not [name for name in traces(figure) if "edge" in name]
        low, high = figure.layout.yaxis.range
        assert np.isfinite([low, high]).all()
        assert low < high


def test_thinning_a_profile_keeps_the_outlier():
    values = np.full(4999, 0.1)
    values[3333] = 7
    index = np.arange(4999)
    for trace in profile_figure((index, values), (index, values), "a").data:
        assert len(trace.x) <= 2 * POINTS
        assert max(trace.y) == 7
        assert 0 <= min(trace.x) < max(trace.x) <= 100
        assert 3333 - 4999 // POINTS <= trace.customdata[np.argmax(trace.y)] <= 3333


def test_a_profile_of_one_row():
    figure = profile_figure((np.array([0]), np.array([0.5])), (np.arange(3), np.ones(3)), "a")
    assert [len(trace.x) for trace in figure.data] == [1, 3]


def test_empty_bins_are_gaps_on_a_log_scale():
    left = np.linspace(-1, 0.5, 4)
    figure = histogram_figure(left, np.array([0, 0.5, 0.5, 0]), np.array([0, 1.0, 0, 0]), "a")
    compressed, weight = figure.data
    np.testing.assert_array_equal(np.isnan(compressed.y), [True, False, True, True])
    np.testing.assert_array_equal(np.isnan(weight.y), [True, False, False, True])
    np.testing.assert_allclose(weight.x, [-0.75, -0.25, 0.25, 0.75])  # the middles of the bins
    assert figure.layout.yaxis.title.text == "share of weights"


def test_light_and_dark_differ_in_ink_and_sit_on_any_ground():
    light, dark = (pareto_figure([point(4, 0.1)], theme=theme) for theme in ("light", "dark"))
    assert light.layout.font.color != dark.layout.font.color
    for figure in (light, dark):
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
        assert figure.layout.xaxis.title.text == "bits per weight (scales, zeros and masks counted)"
        assert figure.layout.yaxis.title.text == "KL, nats"
