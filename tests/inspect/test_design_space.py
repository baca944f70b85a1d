"""The design space: each point is the variant of its recipe, the front is what nothing beats, a cancel loses none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import workbench as wb
from workbench.engine.design import HELPERS, Design
from workbench.errors import Refused
from workbench.inspect import DesignSpace
from workbench.inspect.design_space import COSTS, DESIGN_COLUMNS, pareto
from workbench.jobs import Cancelled, Job
from workbench.measure import Evaluation, Quality
from workbench.measure.hardware import CostModel, LutPrices, Number


class Small(nn.Module):
    """A convolution, a hidden layer, a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.middle = nn.Linear(64, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        return self.head(torch.relu(self.middle(torch.relu(self.stem(x)).flatten(1))))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    module = Small()
    with torch.no_grad():
        for layer in (module.stem, module.middle, module.head):
            layer.weight *= 3
    return wb.load(module, name="small", task="classification")


@pytest.fixture(scope="module")
def images():
    random = torch.Generator().manual_seed(1)
    return Evaluation(torch.randn(80, 1, 6, 6, generator=random), torch.arange(80) % 5, "80 noises", batch=40)


@pytest.fixture
def space(small, images):
    return lambda *a, **k: DesignSpace(small, *a, data=images, calibration=images.inputs_only(), **k)


def test_a_point_is_the_variant_of_its_recipe(small, images, space):
    found = space(["int4", "e2m1"], helpers=[(), ("bias-correction",)]).run()
    table = found.table
    assert list(table.columns) == [name for name in DESIGN_COLUMNS if name != "perplexity"]
    assert list(table.attrs["columns"]) == list(table.columns)
    assert list(zip(table["weight"], table["helpers"], strict=True)) == [
        ("int4", ""), ("e2m1", ""), ("int4", "bias-correction"), ("e2m1", "bias-correction"),
    ]  # fmt: skip
    quality = Quality(small, images)
    for row, design in zip(table.itertuples(), found.designs, strict=True):
        variant = wb.apply(small, found.designer.recipe(design), calibration=images.inputs_only())
        assert row.kl == pytest.approx(quality.measure(variant.weights)["kl"], rel=1e-4)
        assert set(variant.weights) == {"stem", "middle", "head"}
        assert variant.weights["middle"].grid.code_bits == 4
        assert variant.weights["stem"].grid.code_bits == variant.weights["head"].grid.code_bits == 8
        assert all(made.inputs is not None for made in variant.weights.values())
    assert (table["kl"] > 0).all()


@pytest.mark.parametrize("helper", HELPERS)
def test_every_helper_works_on_ints_and_floats(space, helper):
    plain = space(["int4", "e2m1"]).run().table
    found = space(["int4", "e2m1"], helpers=[(helper,)], options={"adaround": {"steps": 30}}).run().table
    assert np.isfinite(found["kl"]).all()
    assert (found["kl"].to_numpy() != plain["kl"].to_numpy()).all(), "it does something"
    assert (found["luts_per_mac"] == plain["luts_per_mac"]).all()


def test_more_bits_are_closer(space):
    table = space([f"int{bits}" for bits in (3, 4, 6, 8)]).run().table
    assert list(table["kl"]) == sorted(table["kl"], reverse=True)
    assert list(table["luts_per_mac"]) == sorted(table["luts_per_mac"])
    assert list(table["bits_per_weight"]) == sorted(table["bits_per_weight"])


def test_the_cost_is_that_of_every_layer_at_its_own_formats(space):
    found = space(["e2m1"])
    model = CostModel()
    ends, middle = Number.of("e3m4"), Number.of("e2m1")
    luts = 16 * 36 * model.mac(ends, ends, 9)["luts"] + 64 * 24 * model.mac(middle, middle, 64)["luts"]
    luts += 24 * 5 * model.mac(ends, ends, 24)["luts"]
    cost = found.cost(Design("e2m1", "e2m1"))
    assert cost["lut_macs"] == pytest.approx(luts)
    assert cost["luts_per_mac"] == pytest.approx(luts / (16 * 36 + 64 * 24 + 24 * 5))
    plain = space(["e2m1"], ends=False).cost(Design("e2m1", "e2m1"))
    # '*' leaves the head alone, so it is not counted there
    assert plain["lut_macs"] < cost["lut_macs"]
    free = space(["e2m1"], costs=CostModel(prices=LutPrices(shifter=0))).cost(Design("e2m1", "e2m1"))
    assert free["lut_macs"] < cost["lut_macs"]


def test_combinations_and_float_inputs(space):
    assert [d.label for d in space(["int4", "e2m1"], ["int8", "e4m3"]).designs] == [
        "int4 / int8", "int4 / e4m3", "e2m1 / int8", "e2m1 / e4m3",
    ]  # fmt: skip
    found = space(["int4", "int8"], None).run()
    assert found.table["luts_per_mac"].isna().all()
    assert list(found.table["activation"]) == ["float", "float"]
    assert len(found.front()) == 0, "what has no cost in LUTs is on no front"
    assert len(found.front("bits_per_weight", "kl")) == 2


def test_a_cancelled_run_keeps_its_points_and_goes_on(space):
    found = space(["int3", "int4", "int6"])

    class Stopping(Job):
        def step(self, done, total, text=""):
            if done == 2:
                self.cancel()
            super().step(done, total, text)

    job = Stopping(found.run)
    with pytest.raises(Cancelled):
        job.run()
    assert list(found.table["weight"]) == ["int3", "int4"]
    before = found.table
    job = found.start()
    job.wait()
    assert (job.state, job.done, job.total) == ("done", 3, 3)
    assert list(found.table["weight"]) == ["int3", "int4", "int6"]
    assert found.table[:2].equals(before), "what was measured is not measured again"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("against", COSTS)
def test_the_picture_names_its_front(space, theme, against):
    found = space(["int3", "int6", "e2m1", "e3m2"]).run()
    figure = found.figure(theme, against=against, quality="kl")
    json.loads(figure.to_json())
    named = next(trace for trace in figure.data if trace.mode == "text")
    assert [name.strip() for name in named.text] == list(found.front(against, "kl")["weight"])
    assert ("indicative" in figure.layout.meta["caption"].lower()) == (against != "bits_per_weight")
    assert "80 noises" in figure.layout.title.text


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_is_what_no_other_point_beats(points):
    cost, loss = (np.array([p[i] for p in points], float) for i in (0, 1))
    best = pareto(cost, loss)
    for i, (c, e) in enumerate(points):
        beaten = any(c2 <= c and e2 <= e and (c2, e2) != (c, e) for c2, e2 in points)
        assert best[i] == (not beaten)
    assert best.any()
    holed = np.r_[np.nan, cost], np.r_[0.0, loss]
    assert not pareto(*holed)[0]
    assert (pareto(*holed)[1:] == best).all()


def test_what_is_no_space_is_refused(space):
    with pytest.raises(Refused, match="at least one format"):
        space([])
    with pytest.raises(Refused, match="'int2' is no format"):
        space(["int2"])
    found = space(["int4"])
    with pytest.raises(Refused, match="'luts' is no cost of a design; near: lut_macs"):
        found.figure(against="luts")
    with pytest.raises(Refused, match="'perplexity' is no measure of small"):
        found.front(quality="perplexity")
