"""Bars of layers: sorted, coloured by role or by method, none of them hidden, and never too many."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.figures.sensitivity import TOP, budget_figure, sensitivity_figure


def table(kl: dict[str, list[float]], methods=("rtn 3", "rtn 4")) -> pd.DataFrame:
    rows = [
        {"name": name, "role": name.rpartition(".")[2], "method": method, "bits_per_weight": 3.3, "kl": value,
         "top1_agreement": 0.9}
        for name, values in kl.items()
        for method, value in zip(methods, values, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


KL = {"model.0.up": [0.1, 0.01], "model.0.down": [0.5, 0.02], "model.1.up": [0.02, 0.03]}


def test_the_worst_layer_is_on_top_and_names_are_short():
    axis = sensitivity_figure(table(KL)).layout.yaxis
    assert list(axis.categoryarray) == ["model.1.up", "model.0.up", "model.0.down"]
    assert list(axis.ticktext) == ["1.up", "0.up", "0.down"]


def test_of_several_methods_each_has_its_colour_and_no_bar_hides_another():
    figure = sensitivity_figure(table(KL))
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [trace.name for trace in bars] == ["rtn 3", "rtn 4"]
    assert len({trace.marker.color for trace in bars}) == 2
    spans = {}
    for trace in bars:
        for name, begin, length in zip(trace.y, trace.base, trace.x, strict=True):
            spans.setdefault(name, []).append((begin, begin + length))
    for name, found in spans.items():
        (_, end), (begin, last) = sorted(found)
        assert begin == pytest.approx(end), "one begins where the other ends"
        assert [end, last] == pytest.approx(sorted(KL[name]))
    marks = [trace for trace in figure.data if trace.type == "scatter"]
    assert [sorted(trace.x) for trace in marks] == [[0.02, 0.1, 0.5], [0.01, 0.02, 0.03]]
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.xaxis.title.text == "KL, nats"


def test_of_one_method_the_colours_are_the_roles():
    figure = sensitivity_figure(table({n: v[:1] for n, v in KL.items()}, ["rtn 3"]))
    assert sorted(trace.name for trace in figure.data) == ["down", "up"]
    assert figure.layout.legend.title.text == "role"
    assert "rtn 3" in figure.layout.title.text
    assert "Worst: model.0.down, 0.5 nats" in figure.layout.meta["caption"]


def test_a_click_hands_on_layer_and_method():
    clicks = {tuple(row[:2]) for trace in sensitivity_figure(table(KL)).data for row in trace.customdata}
    assert clicks == {(name, method) for name in KL for method in ("rtn 3", "rtn 4")}


def test_more_layers_than_fit_are_left_out_and_said_so():
    many = table({f"layers.{i}.up": [1e-3 * (i + 1)] for i in range(TOP + 40)}, ["rtn 3"])
    figure = sensitivity_figure(many)
    assert len(figure.layout.yaxis.tickvals) == TOP
    assert figure.layout.yaxis.tickvals[-1] == f"layers.{TOP + 39}.up"
    assert f"the {TOP} worst of {TOP + 40} layers" in figure.layout.title.text
    assert sum(len(trace.y) for trace in figure.data) == TOP


def test_a_kl_of_zero_or_none_is_no_bar_and_no_fault():
    for kl in (0.0, float("nan")):
        figure = sensitivity_figure(table({"a": [kl], "b": [0.1]}, ["rtn 3"]))
        assert np.isfinite(figure.layout.xaxis.range).all()
        assert sensitivity_figure(table({"a": [kl]}, ["rtn 3"])).layout.xaxis.range[0] < 0


def test_the_budget_is_a_staircase_with_what_was_measured():
    uniform = pd.DataFrame({"method": ["rtn 3"], "bits_per_weight": [3.3], "kl": [0.2]})
    figure = budget_figure(
        np.array([2.0, 3.0, 4.0]), np.array([1.0, 0.1, 0.0]), uniform, [(3.1, 0.15, "mixed")]
    )
    steps, plain, measured = figure.data
    assert steps.line.shape == "hv"
    assert np.isnan(steps.y[-1]), "a sum of 0 is not on a log axis"
    assert list(plain.text) == ["rtn 3"]
    assert list(measured.y) == [0.15]
    assert len(budget_figure(np.array([2.0]), np.array([1.0]), uniform).data) == 2
