"""Pictures of number formats and of the design space: shapes, fronts, frames, and words about what LUTs are worth."""

from __future__ import annotations

import numpy as np
import pandas as pd

from workbench.figures.design_space import SHAPES, design_space_figure
from workbench.figures.number_lines import number_line_figure, sqnr_figure


def points() -> pd.DataFrame:
    rows = [
        ("int4", "int4", "", "int", 30.0, 0.80), ("int8", "int8", "", "int", 80.0, 0.90),
        ("e2m1", "e2m1", "", "float", 36.0, 0.88), ("e4m3", "int8", "gptq", "mixed", 300.0, 0.89),
    ]  # fmt: skip
    names = ("weight", "activation", "helpers", "kind", "luts_per_mac", "accuracy")
    return pd.DataFrame(rows, columns=list(names)).assign(kl=0.1, bits_per_weight=4.0)


BEST = np.array([True, True, True, False])


def test_squares_are_integers_and_circles_floats():
    figure = design_space_figure(points(), BEST, name="net", note="indicative: a model")
    marks = {trace.name: trace for trace in figure.data if trace.mode == "markers"}
    assert {name: trace.marker.symbol for name, trace in marks.items()} == {
        "int, rounded to nearest": SHAPES["int"],
        "float, rounded to nearest": SHAPES["float"],
        "mixed, gptq": SHAPES["mixed"],
    }
    assert len(set(SHAPES.values())) == 3
    assert marks["mixed, gptq"].marker.color != marks["int, rounded to nearest"].marker.color


def test_the_front_is_joined_from_cheap_to_dear_and_named():
    figure = design_space_figure(points(), BEST)
    line = next(trace for trace in figure.data if trace.name == "Pareto front")
    assert (list(line.x), list(line.y)) == ([30, 36, 80], [0.80, 0.88, 0.90])
    names = next(trace for trace in figure.data if trace.mode == "text")
    assert [name.strip() for name in names.text] == ["int4", "e2m1", "int8"]


def test_a_mark_tells_its_whole_configuration():
    figure = design_space_figure(points(), BEST)
    (mixed,) = [trace for trace in figure.data if trace.name == "mixed, gptq"]
    row, words = mixed.customdata[0]
    assert row == 3
    for part in ("weights e4m3, activations int8", "gptq", "accuracy, share: 0.89", "300", "KL, nats: 0.1"):
        assert part in words


def test_what_the_cost_is_worth_is_said_on_the_axis_and_in_the_caption():
    luts = design_space_figure(points(), BEST, note="indicative: a model")
    assert "indicative" in luts.layout.xaxis.title.text
    assert "Indicative: a model." in luts.layout.meta["caption"]
    bits = design_space_figure(points(), BEST, x="bits_per_weight", y="kl")
    assert "indicative" not in bits.layout.xaxis.title.text
    assert bits.layout.yaxis.type == "log"


def test_an_empty_space_is_drawn():
    figure = design_space_figure(points()[:0], np.zeros(0, bool))
    assert "0 combinations" in figure.layout.meta["caption"]


def test_lines_are_over_their_largest_value():
    figure = number_line_figure({"a": np.array([-4.0, 0, 2, 4]), "b": np.array([0.0])})
    assert list(figure.data[0].x) == [-1, 0, 0.5, 1]
    assert list(figure.data[1].x) == [0], "a format of 0 alone is no fault"
    log = number_line_figure({"a": np.array([-4.0, 0, 2, 4])}, log=True)
    assert list(log.data[0].x) == [0.5, 1]
    assert list(log.data[0].customdata) == [2, 4]
    assert log.layout.xaxis.range[0] < np.log10(0.5)


def test_the_best_of_a_width_is_framed():
    rows = [
        ("x", "int4", 4, 10.0),
        ("x", "e2m1", 4, 12.0),
        ("x", "int8", 8, 40.0),
        ("x", "e3m4", 8, float("nan")),
    ]
    figure = sqnr_figure(pd.DataFrame(rows, columns=["data", "format", "bits", "sqnr_db"]))
    frames = [(shape.x0 + shape.x1) / 2 for shape in figure.layout.shapes]
    assert frames == [1, 2]
    assert figure.data[0].texttemplate == "%{text}"
    many = pd.DataFrame(
        [(f"l{i}", "int4", 4, 10.0) for i in range(40)], columns=["data", "format", "bits", "sqnr_db"]
    )
    assert sqnr_figure(many).data[0].texttemplate is None, "40 lines leave no room for numbers"
