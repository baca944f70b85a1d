"""Moves: codes beside those of round to nearest, by hand and for every method that rounds otherwise."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.errors import Refused
from workbench.inspect import Moves
from workbench.methods import Statistics

W = torch.tensor([[0.0, 1.0, 2.4, 7.0], [0.4, 3.5, -1.0, 6.0]])


@pytest.fixture
def nearest():
    """3 bits from 0 to 7, and from -1 to 6 with the zero at 1: the step is 1."""
    return wb.RTN(bits=3, granularity="channel", scale_dtype="float32").compress(W)


def test_by_hand(nearest):
    codes = nearest.codes.clone()
    codes[0, 2] += 1  # 2.4 to 3
    codes[1, 1] -= 2  # 4 to 2
    found = Moves(W, nearest, {"mine": replace(nearest, codes=codes), "same": nearest})
    assert found.moved("mine").tolist() == [[0, 0, 1, 0], [0, -2, 0, 0]]
    assert found.moved("same").count_nonzero() == 0
    torch.testing.assert_close(found.distance, torch.tensor([[0, 0, 0.4, 0], [0.4, 0.5, 0, 0]]))
    assert found.table.to_dict("list") == {
        "method": ["mine"] * 3 + ["same"],
        "move": [-2, 0, 1, 0],
        "share": [1 / 8, 6 / 8, 1 / 8, 1],
    }
    by = found.by_distance.query("method == 'mine'").set_index("distance")["moved"]
    assert by.iloc[0] == 0  # five weights that lay on a point
    assert by.iloc[8] == 0.5  # 0.4 steps away: one of two
    assert by.iloc[9] == 1  # half-way
    assert by.iloc[1:8].isna().all()


def test_groups_and_a_learned_step(w):
    x = torch.randn(300, 70, generator=torch.Generator().manual_seed(0)) @ torch.randn(
        70, 70, generator=torch.Generator().manual_seed(1)
    )
    known = Statistics(300, x.abs().mean(0), x.square().mean(0), x.abs().amax(0), x.T @ x / 300, x)
    scheme = {"bits": 3, "group_size": 16, "scale_search": "none"}
    rtn = wb.RTN(**scheme).compress(w)
    methods = {
        "adaround": wb.AdaRound(**scheme, steps=60),
        "flexround": wb.FlexRound(**scheme, steps=60),
        "gptq": wb.GPTQ(**scheme),
    }
    made = {name: method.compress(w, known) for name, method in methods.items()}
    found = Moves(w, rtn, made, "layers.0.down")
    assert found.moved("adaround").abs().max() == 1
    for name in ("adaround", "flexround"):
        share = 100 * (found.moved(name) != 0).float().mean().item()
        assert share == pytest.approx(made[name].report.facts["changed codes, %"], abs=1e-3)
    assert found.table.groupby("method")["share"].sum().to_numpy() == pytest.approx([1, 1, 1])
    # AdaRound moves what lies near the middle: it has least to lose.
    by = found.by_distance.query("method == 'adaround'")["moved"].to_numpy()
    assert by[-1] > 3 * max(by[0], 0.02)


def test_the_picture(nearest):
    codes = nearest.codes.clone()
    codes[0, 2] += 1
    figure = Moves(
        W, nearest, {"one": replace(nearest, codes=codes), "two": nearest}, "layers.0.down"
    ).figure()
    json.loads(figure.to_json())
    assert [(t.type, t.name) for t in figure.data] == [
        ("bar", "one"), ("scatter", "one"), ("bar", "two"), ("scatter", "two"),
    ]  # fmt: skip
    np.testing.assert_allclose(figure.data[0].y, [87.5, 12.5])
    assert figure.data[1].marker.symbol != figure.data[3].marker.symbol
    for axis in ("xaxis", "yaxis", "xaxis2", "yaxis2"):
        assert figure.layout[axis].title.text
    assert "layers.0.down" in figure.layout.meta["caption"]


def test_what_cannot_be_compared_is_refused(nearest):
    with pytest.raises(Refused, match="no method"):
        Moves(W, nearest, {})
    with pytest.raises(Refused, match=r"16 points against .* on 8"):
        Moves(W, nearest, {"four bits": wb.RTN(bits=4, granularity="channel").compress(W)})


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (wb.RTN(bits=3, group_size=2), "other weights share a scale"),
        (wb.RTN(bits=3, granularity="channel", symmetric=True, convention="signed"), "has zero points"),
    ],
)
def test_codes_of_another_grid_are_refused(nearest, other, reason):
    with pytest.raises(Refused, match=reason):
        Moves(W, nearest, {"other": other.compress(W)})


def test_codes_about_another_zero_are_refused(nearest):
    with pytest.raises(Refused, match="zero points differ"):
        Moves(W, nearest, {"other": replace(nearest, zero=nearest.zero + 1)})
