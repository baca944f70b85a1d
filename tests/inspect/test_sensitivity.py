"""The inspector of sensitivities: one table, the same whether measured or given; recipes and pictures from it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import workbench as wb
from workbench.errors import Refused
from workbench.inspect import Sensitivity
from workbench.jobs import Cancelled, Job

WIDTHS = [wb.RTN(bits=bits, group_size=32) for bits in (2, 4)]


@pytest.fixture(scope="module")
def found(llama, data):
    return Sensitivity(llama, WIDTHS, data, layers="*.mlp.*")


def test_it_is_measured_or_given(llama, data, found):
    pd.testing.assert_frame_equal(
        found.table,
        wb.engine.sensitivity(llama, WIDTHS, data, layers="*.mlp.*"),
        check_exact=False,
        rtol=1e-3,
    )
    again = Sensitivity(found.table)
    assert again.assign(3) == found.assign(3) == wb.engine.assign(found.table, 3)
    with pytest.raises(Refused, match="of a Model and its methods, or of a table, not of str"):
        Sensitivity("tiny-llama", WIDTHS)
    with pytest.raises(Refused, match="no table of sensitivities"):
        Sensitivity(pd.DataFrame({"name": ["a"]}))


def test_bars_become_bits(llama, data, found):
    """The way of a person: look, assign, change one layer by hand, apply."""
    choices = found.assigned(3)
    worst = found.table.sort_values("kl")["name"].iloc[-1]
    recipe = found.recipe(choices | {worst: WIDTHS[1]})
    variant = wb.apply(llama, recipe)
    assert variant.method_label(worst) == WIDTHS[1].label
    stored = found.predicted(choices | {worst: WIDTHS[1].label})
    assert sum(c.nbytes for c in variant.weights.values()) == stored["bytes"]


def test_the_frontier_lies_under_one_method_for_all(found):
    for _, row in found.uniform.iterrows():
        within = found.frontier[found.frontier["bits_per_weight"] <= row["bits_per_weight"] + 1e-9]
        assert within["kl"].min() <= row["kl"] * (1 + 1e-9)
    assert len(found.uniform) == 2
    partly = Sensitivity(found.table.iloc[1:])
    assert list(partly.uniform["method"]) == [WIDTHS[1].label], "a method that one layer lacks is not for all"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_pictures_say_what_they_show(found, theme):
    bars, budget = found.figure(theme), found.pareto(theme, measured=[(3.0, 0.1, "mixed")])
    for figure in (bars, budget):
        json.loads(figure.to_json())
        assert figure.layout.xaxis.title.text
        assert figure.layout.yaxis.title.text
        assert figure.layout.meta["caption"]
    assert "6 layers, each compressed alone" in bars.layout.title.text
    assert "1,024 tokens" in bars.layout.title.text
    measured = next(trace for trace in budget.data if trace.name == "measured")
    assert (list(measured.x), list(measured.y)) == ([3.0], [0.1])
    line = budget.data[0]
    assert (np.diff(np.asarray(line.x)) > 0).all()


def test_a_cancelled_job_ends_it(llama, data):
    job = Job(lambda job: Sensitivity(llama, WIDTHS, data, layers="*.mlp.*", job=job))
    job.cancel()
    with pytest.raises(Cancelled):
        job.run()
