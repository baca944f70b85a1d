"""History: a tree of variants in which undo and redo move, and nothing is computed again."""

from __future__ import annotations

from dataclasses import replace

import pytest

import workbench as wb
from workbench.engine import History, Recipe, Variant


@pytest.fixture
def history(model):
    return History(Variant(model, Recipe()))


def variant(model, bits):
    return Variant(model, Recipe([wb.RTN(bits=bits)]))


def test_it_begins_with_the_unchanged_base(history):
    assert len(history) == 1
    assert history.variant.label == "base"
    assert not history.can_undo
    assert not history.can_redo
    history.undo()
    history.redo()
    assert history.active == 0


def test_undo_and_redo_move_and_return_the_very_same_variants(history, model):
    made = [variant(model, bits) for bits in (8, 4)]
    for each in made:
        history.add(each)
    assert history.variant is made[1]
    history.undo()
    assert history.variant is made[0]
    history.undo()
    assert history.variant.label == "base"
    assert not history.can_undo
    history.redo()
    history.redo()
    assert history.variant is made[1]
    assert not history.can_redo


def test_a_new_variant_after_undo_begins_a_branch_and_loses_nothing(history, model):
    first, second, third = (variant(model, bits) for bits in (8, 4, 2))
    history.add(first)
    history.add(second)
    history.undo()
    history.add(third)
    assert history.variants[1:] == [first, second, third]
    assert history.nodes[3].parent == 1
    history.undo()
    assert history.variant is first
    history.redo()
    assert history.variant is third  # redo follows the newer branch
    history.go(2)
    history.undo()
    history.redo()
    assert history.variant is second  # and the one that undo came from


def test_going_to_a_variant_and_undoing_follows_its_parent(history, model):
    for bits in (8, 4):
        history.add(variant(model, bits))
        history.go(0)
    assert [node.parent for node in history.nodes] == [None, 0, 0]
    history.go(1)
    history.undo()
    assert history.active == 0
    for wrong in (3, -1):
        with pytest.raises(IndexError, match=f"there is no variant {wrong}: there are 3"):
            history.go(wrong)
    assert history.active == 0


def test_measures_are_filled_in_without_moving(history, model):
    history.add(variant(model, 4))
    history.undo()
    history.replace(1, replace(history.variants[1], measures={"kl": 0.1}))
    assert history.active == 0
    assert history.variants[1].measures == {"kl": 0.1}
    assert history.nodes[1].parent == 0
