"""Figures of spectra: what is on them, on which axes, in both themes."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.figures.spectra import density_figure, error_spectrum_figure, scan_figure

EIGENVALUES = np.sort(np.random.default_rng(0).pareto(2, 200) + 0.5)


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
        "weight", "compressed", "bulk (median)", "α 3.00 ± 0.20", "x<sub>min</sub>", "noise edge",
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


def test_a_long_note_stands_above_the_axes_in_lines_that_fit():
    reason = "0 of 200 eigenvalues lie above 1e-05, though 200 are more than rounding: the weights are small"
    figure = density_figure(EIGENVALUES, EIGENVALUES, note=reason)
    [note] = figure.layout.annotations
    assert (note.yanchor, note.y) == ("bottom", 1)
    assert note.text.replace("<br>", " ") == f"no tail: {reason}"
    assert max(map(len, note.text.split("<br>"))) < 70
    assert figure.layout.margin.t >= 14 * note.text.count("<br>") + 14
    assert figure.layout.height > 200


def test_ticks_are_numbers_or_powers_of_ten():
    figure = density_figure(EIGENVALUES * 1e5, EIGENVALUES * 1e5, edge=1e4)
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        assert not any("e" in text for text in axis.ticktext)
        shown = [tick for tick in axis.tickvals if axis.range[0] <= np.log10(tick) <= axis.range[1]]
        assert len(shown) >= 3
    assert "2·10<sup>5</sup>" in figure.layout.xaxis.ticktext
    assert "1 / weights squared" in figure.layout.yaxis.title.text


def test_spectra_of_zeros_and_of_one_value_are_drawn():
    for values in (np.zeros(5), np.ones(5), np.r_[np.zeros(3), 2.0]):
        density_figure(values, values)


def test_an_error_spectrum_has_two_panels():
    k = np.linspace(1, 0.5, 8)
    figure = error_spectrum_figure(
        np.linspace(0.1, 1, 60), (np.linspace(0, 1, 9), np.ones(9)), 0.9, 7, (k, k), (k, k), None, "down",
        variances=(0.5, 0.25),
    )  # fmt: skip
    assert {trace.yaxis for trace in figure.data} == {"y", "y2"}
    assert "edge, 7 below" in [trace.name for trace in figure.data]
    assert "7 of 60 directions" in figure.layout.meta["caption"]
    assert (
        figure.layout.annotations[0].text
        == "variance of the error: 0.5 predicted from the step, 0.25 measured"
    )
    assert "isolated direction" not in [trace.name for trace in figure.data]
    assert figure.data[0].y @ np.array(figure.data[0].width) == pytest.approx(1)  # a density


def test_a_scan_marks_the_chosen_candidate():
    alpha, distance = np.linspace(1.5, 4, 199), np.abs(np.linspace(-1, 1, 199))
    figure = scan_figure(EIGENVALUES, alpha, distance, 99)
    assert [trace.x[0] for trace in figure.data if trace.mode == "markers"] == [EIGENVALUES[99]] * 2
