"""Plans: what a recipe will do and leave out, with the reason, before anything is done."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench.engine import Recipe, Step, plan
from workbench.errors import Refused

UP, DOWN = ["layers.0.up_proj", "layers.1.up_proj"], ["layers.0.down_proj", "layers.1.down_proj"]


def planned(model, *steps):
    return {entry.layer.name: entry for entry in plan(model, Recipe(steps)).layers}


def put_on_grid(module, method, names=UP):
    """Those weights of the module as the method leaves them."""
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name in names:
            parameters[f"{name}.weight"].copy_(
                method.compress(parameters[f"{name}.weight"].detach()).dequantize()
            )


def test_a_star_spares_the_embedding_and_says_why(model):
    entries = planned(model, wb.RTN())
    assert [name for name, entry in entries.items() if entry.methods] == [UP[0], DOWN[0], UP[1], DOWN[1]]
    skip = entries["embed_tokens"].skip
    assert skip == "embed and tied with lm_head: '*' leaves it alone, name it to change it (role:embed)"


def test_a_star_spares_an_untied_head_too(module):
    module.lm_head.weight = torch.nn.Parameter(torch.randn(20, 32))
    entries = planned(wb.load(module), wb.RTN())
    assert entries["lm_head"].skip == "head: '*' leaves it alone, name it to change it (role:head)"
    assert not entries["embed_tokens"].methods


@pytest.mark.parametrize("selector", ["role:embed", "embed_tokens", "*, role:embed", "embed*"])
def test_named_explicitly_the_embedding_is_taken_with_its_tie_noted(model, selector):
    entry = planned(model, Step(wb.RTN(), selector))["embed_tokens"]
    assert entry.methods == (wb.RTN(),)
    assert "tied: embed_tokens and lm_head change together" in entry.notes


def test_a_later_star_does_not_take_back_what_was_named(model):
    entries = planned(model, Step(wb.RTN(bits=8), "role:embed"), wb.RTN())
    assert entries["embed_tokens"].methods == (wb.RTN(bits=8),)


def test_a_later_step_of_the_same_kind_wins(model):
    entries = planned(model, wb.RTN(bits=4), Step(wb.RTN(bits=8), "role:down"))
    assert entries[UP[0]].methods == (wb.RTN(bits=4),)
    assert entries[DOWN[0]].methods == (wb.RTN(bits=8),)


def test_another_kind_composes_in_the_order_given(model):
    rtn, magnitude = wb.RTN(), wb.Magnitude()
    assert planned(model, rtn, magnitude)[UP[0]].methods == (rtn, magnitude)
    assert planned(model, magnitude, rtn)[UP[0]].methods == (magnitude, rtn)
    # A step that wins comes where it was given.
    assert planned(model, rtn, magnitude, wb.RTN(bits=2))[UP[0]].methods == (magnitude, wb.RTN(bits=2))


def test_a_group_size_that_does_not_divide_is_noted_or_skipped_with_the_reason(model):
    assert "the last group of a row has 32" in planned(model, wb.RTN())[DOWN[0]].notes[0]
    entries = planned(
        model, wb.RTN(group_size=32, ragged=False), Step(wb.RTN(group_size=64, ragged=False), "role:down")
    )
    assert entries[DOWN[0]].methods == ()
    assert entries[DOWN[0]].skip == "group_size 64 does not divide in = 96; take 32, -1 or ragged: true"
    assert entries[UP[0]].methods


def test_a_method_that_is_skipped_beside_another_is_a_note(model):
    entry = planned(model, wb.RTN(group_size=64, ragged=False), wb.Magnitude())[DOWN[0]]
    assert entry.methods == (wb.Magnitude(),)
    assert any(note.startswith("not done: group_size 64 does not divide") for note in entry.notes)


def test_weights_that_lie_on_the_grid_already_are_skipped(module):
    put_on_grid(module, wb.RTN(bits=4, group_size=32))
    entries = planned(wb.load(module), wb.RTN(bits=4, group_size=32))
    assert entries[UP[0]].methods == ()
    assert entries[UP[0]].skip == (
        "the weights lie on 16 levels in every 32 inputs already: rtn 4 g32 would change nothing"
    )
    assert entries[DOWN[0]].methods
    # 255 steps are 17 times 15: the levels are on the 8-bit grid of the same range too.
    assert not planned(wb.load(module), wb.RTN(bits=8, group_size=32))[UP[0]].methods


@pytest.mark.parametrize(
    "method",
    [
        wb.RTN(bits=3, group_size=32),
        wb.RTN(bits=5, group_size=32),
        wb.RTN(bits=4, group_size=32, symmetric=True),
        wb.RTN(bits=4, granularity="tensor"),
    ],
    ids=repr,
)
def test_on_another_grid_they_are_worked_on_and_it_is_said(module, method):
    put_on_grid(module, wb.RTN(bits=4, group_size=32))
    entry = planned(wb.load(module), method)[UP[0]]
    assert entry.methods == (method,)
    assert (
        "the weights lie on 16 levels in every 32 inputs already: comparisons on them mislead" in entry.notes
    )


def test_a_grid_of_groups_is_not_a_grid_of_rows(module):
    put_on_grid(module, wb.RTN(bits=4, group_size=32), DOWN)
    # group_size is 64 by default, but the granularity says that a row shares a scale.
    entry = planned(wb.load(module), Step(wb.RTN(bits=4, granularity="channel"), "role:down"))[DOWN[0]]
    assert entry.methods
    entry = planned(wb.load(module), Step(wb.RTN(bits=4, group_size=-1), "role:down"))[DOWN[0]]
    assert entry.methods


def test_pruning_is_done_on_any_grid(module):
    put_on_grid(module, wb.RTN(bits=4, group_size=32))
    entry = planned(wb.load(module), wb.Magnitude())[UP[0]]
    assert entry.methods == (wb.Magnitude(),)
    assert entry.notes == ()


def test_nothing_to_do_is_refused_with_the_reasons(model, module):
    with pytest.raises(
        Refused, match=r"nothing to do on toy: skipped: group_size 64 does not divide in = 96"
    ):
        plan(model, Recipe([Step(wb.RTN(group_size=64, ragged=False), "role:down")]))
    put_on_grid(module, wb.RTN(bits=4, group_size=32), [*UP, *DOWN])
    with pytest.raises(Refused, match=r"nothing to do on Network: .*16 levels"):
        plan(wb.load(module), Recipe([wb.RTN(bits=4, group_size=32)]))


def test_a_selector_that_matches_nothing_is_refused_before_the_work(model):
    with pytest.raises(Refused, match=r"'role:gate' matches no layer of toy"):
        plan(model, Recipe([wb.RTN(), Step(wb.RTN(bits=8), "role:gate")]))


def test_an_empty_recipe_plans_nothing(model):
    assert plan(model, Recipe()).layers == ()


def test_the_plan_is_told_in_a_table_and_in_a_few_lines(model):
    made = plan(model, Recipe([wb.RTN(), Step(wb.Magnitude(), "role:up")]))
    table = made.table.set_index("name")
    assert list(table.columns) == ["method", "skip", "note"]
    assert table.loc[UP[0], "method"] == "rtn 4 g64 + magnitude 50 %"
    assert table.loc["embed_tokens", "skip"].startswith("embed and tied")
    lines = made.describe()
    assert lines[0].startswith("4 layers, 1 skipped, about ")
    assert any("(layers.0.down_proj, layers.1.down_proj)" in line for line in lines)


def test_a_plan_knows_which_statistics_it_needs_and_its_memory(model, calibrated):
    made = plan(model, Recipe([wb.RTN(), Step(calibrated(), "role:up")]))
    assert made.needs == {"mean_square"}
    assert plan(model, Recipe([wb.RTN()])).needs == frozenset()
    assert made.peak_bytes == 4 * 96 * 32 + 16 * 96 * 32
