"""Plot: one plotly.js for all the figures of a page."""

import json

import ipywidgets as ipw
import numpy as np
import plotly.graph_objects as go
import pytest

from workbench.figures.charts import described
from workbench.widgets import Plot
from workbench.widgets.plot import runtime

MB = 1e6


def figure(seed=0, points=1000):
    values = np.random.default_rng(seed).normal(size=(2, points))
    return described(go.Figure().add_scatter(x=values[0], y=values[1], mode="markers"), f"Figure {seed}.")


def nbytes(widget):
    """What a page is sent of a widget."""
    return len(json.dumps(widget.get_state(), default=str))


def test_eight_figures_send_at_most_six_megabytes():
    plots = [Plot(figure(seed)) for seed in range(8)]
    assert len({plot.runtime.model_id for plot in plots}) == 1
    alone = sum(map(nbytes, plots))
    assert alone < 1 * MB
    assert alone + nbytes(runtime()) < 6 * MB


def test_the_script_travels_with_the_runtime_only():
    plot = Plot(figure())
    assert "Plotly" in runtime().source
    assert len(runtime().source) > 1 * MB > 20 * nbytes(plot)
    assert plot.get_state()["runtime"] == f"IPY_MODEL_{runtime().model_id}"


def test_arrays_travel_in_binary_and_come_back():
    plot = Plot(figure(3), height=200)
    drawn = json.loads(plot.spec)["data"][0]["x"]
    assert set(drawn) == {"dtype", "bdata"}
    assert len(drawn["bdata"]) == pytest.approx(1000 * 8 * 4 / 3, abs=4)
    assert (plot.label, plot.height) == ("Figure 3.", 200)


def test_another_figure_takes_the_place_of_the_first():
    plot = Plot(figure(1))
    first = plot.spec
    plot.show(figure(2))
    assert plot.spec != first
    assert plot.label == "Figure 2."
    plot.show(go.Figure())
    assert plot.label == ""


def test_a_click_on_a_point_is_heard():
    plot, picked = Plot(figure()), []
    click = {"type": "pick", "data": [2, "hover"]}
    plot._handle_custom_msg(click, [])  # nobody listens yet
    plot.on_pick(picked.append)
    plot._handle_custom_msg(click, [])
    plot._handle_custom_msg({"type": "else"}, [])
    assert picked == [[2, "hover"]]
    assert isinstance(plot, ipw.DOMWidget)
