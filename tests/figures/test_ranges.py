"""Ranges before and after learning: a panel for each kind of point, bars that span from low to high."""

from __future__ import annotations

import pandas as pd
import pytest

from workbench.figures.ranges import ranges_figure


def table(moved=("q", "hidden"), blocks: int = 3) -> pd.DataFrame:
    rows = [{"point": "embed", "block": None, "kind": "embed", "bits": 16, **ends(1.0)}]
    for block in range(blocks):
        for kind in ("q", "k", "hidden", "out"):
            factor = 0.9 if kind in moved else 1.0
            bits = 16 if kind == "out" else 8
            rows.append(
                {"point": f"{block}.{kind}", "block": block, "kind": kind, "bits": bits, **ends(factor)}
            )
    return pd.DataFrame(rows).astype({"block": "Int64"})


def ends(factor: float) -> dict[str, float]:
    found = {"minmax_low": -4.0, "minmax_high": 8.0, "start_low": -1.0, "start_high": 3.0}
    return found | {"low": -1.0 * factor, "high": 3.0 * factor}


def test_bars_span_from_low_to_high():
    figure = ranges_figure(table())
    assert [trace.name for trace in figure.data] == ["min-max", "SmoothQuant", "learned"] * 2
    plain, start, learned = figure.data[:3]
    assert list(plain.x) == [0, 1, 2]
    assert (plain.base[0], plain.base[0] + plain.y[0]) == (-4, 8)
    assert (start.base[1], start.base[1] + start.y[1]) == (-1, 3)
    assert (learned.base[2], learned.base[2] + learned.y[2]) == pytest.approx((-0.9, 2.7))
    assert len({trace.marker.color for trace in figure.data}) == 3
    assert sum(bool(trace.showlegend) for trace in figure.data) == 3


def test_panels_are_the_kinds_that_were_learned_or_those_asked_for():
    titles = [note.text for note in ranges_figure(table()).layout.annotations]
    assert titles == ["q, 8 bits", "hidden, 8 bits"]
    chosen = ranges_figure(table(), kinds=["out", "q"])
    assert [note.text for note in chosen.layout.annotations] == ["out, 16 bits", "q, 8 bits"]
    assert "6 of 13 ranges were learned" in ranges_figure(table()).layout.meta["caption"]
    assert "10.0% (median)" in ranges_figure(table()).layout.title.text


def test_many_kinds_take_rows_and_axes_have_names():
    figure = ranges_figure(table(moved=("q", "k", "hidden", "out")))
    assert len(figure.data) == 4 * 3
    assert figure.layout.height > ranges_figure(table()).layout.height
    assert figure.layout.xaxis4.title.text == "block"
    assert figure.layout.yaxis4.title.text == "value"


def test_nothing_learned_is_said():
    assert "no range was learned" in ranges_figure(table(moved=())).layout.annotations[0].text
    with pytest.raises(KeyError):
        ranges_figure(table().drop(columns="low"))
