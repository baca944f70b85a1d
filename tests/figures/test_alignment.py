"""Pictures of two networks: what each mark stands for, shared scales, and looks that need no colour."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.figures.alignment import (
    barrier_figure,
    difference_figure,
    directions_figure,
    merge_figure,
    score_figure,
    units_figure,
)

T = np.linspace(0, 1, 5)


def frame(height: float) -> pd.DataFrame:
    barrier = height * 4 * T * (1 - T)
    return pd.DataFrame({"t": T, "loss": 0.3 + barrier, "accuracy": 0.9 - barrier / 4, "barrier": barrier})


def test_both_lines_stand_in_both_panels_and_the_barrier_is_said():
    figure = barrier_figure({"naive": frame(1.5), "matched": frame(0.1)}, "a", "b", "100 images")
    assert [(trace.name, trace.xaxis) for trace in figure.data] == [
        ("naive", "x"), ("naive", "x2"), ("matched", "x"), ("matched", "x2"),
    ]  # fmt: skip
    np.testing.assert_allclose(figure.data[0].y, frame(1.5)["loss"])
    np.testing.assert_allclose(figure.data[3].y, 100 * frame(0.1)["accuracy"])
    assert "naive 1.5, matched 0.1" in figure.layout.title.text
    assert "100 images" in figure.layout.title.text
    looks = {(trace.line.color, trace.line.dash, trace.marker.symbol) for trace in figure.data}
    assert len(looks) == 2
    assert len({look[1] for look in looks}) == len({look[2] for look in looks}) == 2, (
        "told apart without colour"
    )
    assert sum(bool(trace.showlegend) for trace in figure.data) == 2, "each name once"


def test_differences_share_one_scale_and_axes_count_rows_and_columns():
    before, after = np.full((4, 8), 2.0), np.full((4, 8), 0.5)
    figure = difference_figure(before, after, (10.0, 2.5), (64, 32), "w")
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 2.0)
    for trace in figure.data:
        assert (trace.dy, trace.dx) == (16, 4), "cells of 16 rows and 4 columns"
        assert trace.coloraxis == "coloraxis"
    assert "10" in figure.layout.annotations[0].text
    assert "2.5" in figure.layout.annotations[1].text


def test_two_equal_networks_have_a_picture_too():
    zero = np.zeros((3, 3))
    assert difference_figure(zero, zero, (0, 0), (3, 3), "w").layout.coloraxis.cmax == 1.0


def test_every_unit_has_one_dot_and_the_cosines_are_sorted():
    partner, before, after = np.array([2, 0, 1]), np.array([0.1, -0.2, 0.3]), np.array([0.9, 0.2, 0.5])
    dots, first, second = units_figure(partner, before, after, "h").data
    assert list(zip(dots.y, dots.x, strict=True)) == [(0, 2), (1, 0), (2, 1)]
    assert list(first.y) == [0.3, 0.1, -0.2]
    assert list(second.y) == [0.9, 0.5, 0.2]
    assert second.name == "after, mean 0.53"


def test_directions_have_a_scale_around_zero_and_count_from_one():
    m, scores = (
        np.diag([1.0, -0.5]),
        pd.DataFrame({"gamma": [0, 0.5], "before": [0, 0.1], "after": [0.2, 0.7]}),
    )
    figure = directions_figure(0 * m, m, scores, "w")
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-1, 1)
    assert figure.layout.coloraxis.colorscale[3][1] == "#f5f5f5", "zero is pale"
    assert figure.data[0].x0 == figure.data[0].y0 == 1
    np.testing.assert_allclose(score_figure(scores, "w").data[1].y, [0.2, 0.7])


def test_the_bars_are_the_rows_of_the_table_and_have_room_for_their_numbers():
    table = pd.DataFrame({"network": ["a", "b", "plain mean", "merged"], "loss": [0.3, 0.3, 2, 0.4]})
    table["accuracy"] = [0.9, 0.9, 0.1, 0.89]
    figure = merge_figure(table, "100 images")
    loss, accuracy = figure.data
    assert list(loss.y) == list(table["network"])
    np.testing.assert_allclose(accuracy.x, 100 * table["accuracy"])
    assert figure.layout.xaxis.range[1] > 2.2
    assert figure.layout.xaxis2.range[1] > 100
    assert "Mean of 2 networks" in figure.layout.title.text
    assert len(set(loss.marker.color)) == 3


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_titles_lie_inside_the_figure_and_above_the_panels(theme):
    figure = score_figure(
        pd.DataFrame({"gamma": [0, 1], "before": [0, 0], "after": [0, 1]}), "w", theme=theme
    )
    assert 0.9 < figure.layout.title.y < 1
    assert figure.layout.margin.t >= 50
    assert figure.layout.meta["caption"]
