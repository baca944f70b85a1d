"""Convergence: every curve of the report by step, its facts and warnings in words; a sentence where there is none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.figures.convergence import curves_figure
from workbench.grid import Report
from workbench.inspect import CURVES, Convergence
from workbench.methods import Statistics


@pytest.fixture
def known(w):
    x = torch.randn(300, w.shape[1], generator=torch.Generator().manual_seed(0))
    x = x @ torch.randn(w.shape[1], w.shape[1], generator=torch.Generator().manual_seed(1)) / 8
    return Statistics(300, x.abs().mean(0), x.square().mean(0), x.abs().amax(0), x.T @ x / 300, x)


def shown(w, report: Report) -> Convergence:
    return Convergence(w, wb.RTN(bits=3).compress(w).with_report(report), "layers.0.down")


def test_the_table_has_every_curve_step_by_step(w):
    found = shown(
        w, Report({"loss": [3.0, 2.0, 1.0], "regulariser": [0.0, 5.0]}, {"best step": 3}, ("too few",))
    )
    assert found.table.to_dict("list") == {
        "curve": ["loss"] * 3 + ["regulariser"] * 2,
        "step": [1, 2, 3, 1, 2],
        "value": [3, 2, 1, 0, 5],
    }
    assert found.table.attrs["facts"] == {"best step": 3}
    assert found.table.attrs["warnings"] == ["too few"]


@pytest.mark.parametrize(
    ("method", "curve", "steps"),
    [
        (wb.AdaRound(bits=3, group_size=-1, steps=40), "loss", 40),
        (wb.FlexRound(bits=3, group_size=-1, steps=30), "loss", 30),
        (wb.AWQ(bits=3, group_size=-1, grid_points=7), "loss", 7),
        (wb.GPTQ(bits=3, group_size=-1, block_size=10), "output error^2", 7),
    ],
    ids=lambda m: m.label if isinstance(m, wb.Method) else str(m),
)
def test_methods_that_search_or_learn_show_how(w, known, method, curve, steps):
    found = Convergence(w, wb.compress(w, [method], known), "layers.0.down")
    values = found.table[found.table["curve"] == curve]["value"].to_numpy()
    assert len(values) == steps
    assert np.isfinite(values).all()
    figure = found.figure()
    json.loads(figure.to_json())
    trace = next(t for t in figure.data if t.name == curve)
    np.testing.assert_allclose(trace.y, values)
    if curve == "output error^2":  # what is moved on is never taken back
        assert (np.diff(values) >= 0).all()
    if "round" in method.name:
        assert (
            found.compressed.report.facts["loss at the end"]
            < found.compressed.report.facts["loss at the start"]
        )


def test_the_axis_is_logarithmic_where_no_value_is_negative(w):
    for values, kind in (([3.0, 0.1], "log"), ([3.0, 0.0], "log"), ([1.0, -1.0], None), ([0.0, 0.0], None)):
        figure = shown(w, Report({"loss": values})).figure()
        assert figure.layout.yaxis.type == kind
        assert np.isnan(figure.data[0].y).tolist() == [kind == "log" and value == 0 for value in values]


def test_a_loss_that_begins_at_rounding_errors_does_not_stretch_the_axis(w):
    low, high = shown(w, Report({"loss": [1e-14, 1e-3, 1e-2]})).figure().layout.yaxis.range
    assert -8 < low < -6
    assert high > -2


def test_long_curves_are_thinned_and_keep_their_steps():
    trace = curves_figure({"loss": np.arange(1, 4001.0)}, "w").data[0]
    assert len(trace.x) <= 500
    assert trace.x[0] == 1
    np.testing.assert_allclose(trace.x, trace.y)  # value = step here


def test_two_curves_have_a_legend_and_differ_in_dash_and_colour(w):
    one = shown(w, Report({"loss": [2.0, 1.0]})).figure()
    assert not one.layout.showlegend
    assert one.layout.yaxis.title.text == "loss"
    two = shown(w, Report({"loss": [2.0, 1.0], "regulariser": [1.0, 2.0]})).figure()
    assert two.layout.showlegend
    assert two.data[0].line.dash != two.data[1].line.dash
    assert two.data[0].line.color != two.data[1].line.color


def test_facts_and_warnings_are_words_above_it(w):
    figure = shown(
        w, Report({"loss": [2.0, 1.0]}, {"best step": 2.0, "axis": "within inputs"}, ("lost to rtn",))
    ).figure()
    (words,) = [note.text for note in figure.layout.annotations]
    assert words == "lost to rtn<br>best step 2 · axis: within inputs"
    assert "layers.0.down" in figure.layout.meta["caption"]


def test_a_method_without_steps_says_so(w):
    assert shown(w, Report()).table.empty
    figure = shown(w, Report()).figure()
    assert len(figure.data) == 0
    assert "no steps to show" in figure.layout.annotations[0].text
    facts = shown(w, Report(facts={"mean clip": 0.8})).figure()
    assert "mean clip 0.8" in facts.layout.annotations[0].text


def test_it_is_a_tab_of_the_bench():
    assert CURVES["convergence"] is Convergence
