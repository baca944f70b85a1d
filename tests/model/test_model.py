"""Model: an immutable base, its table, selectors, overlays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.errors import Refused
from workbench.grid import uncompressed
from workbench.model import LAYER_COLUMNS

Q0, Q1, DOWN0, DOWN1 = (f"layers.{i}.{name}" for name in ("q_proj", "down_proj") for i in (0, 1))


def test_the_table_has_a_row_a_layer_and_describes_its_columns(model):
    table = model.table
    assert list(table.columns) == list(LAYER_COLUMNS)
    assert table.attrs["columns"] == LAYER_COLUMNS
    assert list(table["name"]) == ["embed_tokens", Q0, DOWN0, Q1, DOWN1, "lm_head"]
    assert list(table["role"]) == ["embed", "q", "down", "q", "down", "head"]
    assert list(table["block"].fillna(-1)) == [-1, 0, 0, 1, 1, -1]
    row = table.set_index("name").loc[DOWN1]
    assert (row["rows"], row["columns"], row["shape"], row["dtype"], row["parameters"]) == (
        8, 16, [8, 16], "float32", 128,
    )  # fmt: skip
    assert model.parameters == table["parameters"].sum() == 2 * 80 + 2 * 64 + 2 * 128
    assert "toy" in repr(model)
    assert "6 layers" in repr(model)


def test_a_model_without_layers_has_an_empty_table():
    empty = wb.load(nn.LayerNorm(4))
    assert empty.table.empty
    assert list(empty.table.columns) == list(LAYER_COLUMNS)


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("*", ["embed_tokens", Q0, DOWN0, Q1, DOWN1, "lm_head"]),
        ("layers.0.*", [Q0, DOWN0]),
        ("*.q_proj", [Q0, Q1]),
        ("*.q_proj.weight", [Q0, Q1]),
        (DOWN0, [DOWN0]),
        ("role:down", [DOWN0, DOWN1]),
        ("role:down, layers.0.*", [Q0, DOWN0, DOWN1]),  # the model's order, each once
        (" role:head ,, role:embed", ["embed_tokens", "lm_head"]),
        ("layers.[1].*", [Q1, DOWN1]),
    ],
)
def test_selectors_are_globs_roles_and_lists_of_them(model, selector, names):
    assert [layer.name for layer in model.select(selector)] == names


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("*.q_prj", r"the selector '\*.q_prj' matches no layer of toy; near: .*q_proj"),
        ("role:don", "the selector 'role:don' matches no layer of toy; near: down"),
        ("role:gate", "'role:gate' matches no layer of toy"),
        ("role:q, nothing", "the selector 'nothing' matches no layer of toy; known: embed_tokens"),
        ("", "empty selector matches no layer of toy; '\\*' is all of them"),
        (" , ", "empty selector"),
        ("LAYERS.*", "matches no layer"),
    ],
)
def test_a_selector_that_matches_nothing_is_refused_with_near_names(model, selector, message):
    with pytest.raises(Refused, match=message):
        model.select(selector)


def test_a_layer_is_found_by_name_or_refused_with_near_names(model):
    assert model.layer("lm_head.weight") is model.layer("lm_head")
    with pytest.raises(Refused, match=r"toy has no layer 'lm_haed'; near: lm_head"):
        model.layer("lm_haed")


def changed(model, name, value=1.0):
    return {name: uncompressed(torch.full(model.layer(name).shape, value))}


def test_overlays_change_what_is_seen_and_dropping_them_undoes_it(model):
    before = {layer.name: model.base_weight(layer.name).clone() for layer in model.layers}
    over = model.with_overlays(changed(model, Q0))
    assert torch.equal(over.weight(Q0), torch.ones(8, 8))
    assert torch.equal(over.weight(Q1), before[Q1])
    assert torch.equal(over.base_weight(Q0), before[Q0])
    assert torch.equal(model.weight(Q0), before[Q0])
    assert model.overlays == {}
    assert over.base.overlays == {}
    assert all(torch.equal(over.base.weight(name), w) for name, w in before.items())
    # Other overlays replace these.
    assert list(over.with_overlays(changed(model, Q1)).overlays) == [Q1]


def test_an_overlay_of_another_shape_or_layer_is_refused(model):
    with pytest.raises(Refused, match=r"layers.0.q_proj is \(8, 8\), not \(8, 16\)"):
        model.with_overlays({Q0: uncompressed(torch.ones(8, 16))})
    with pytest.raises(Refused, match=r"no layer 'layers.0.k_proj'; near: layers.0.q_proj"):
        model.with_overlays({"layers.0.k_proj": uncompressed(torch.ones(8, 8))})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused_with_their_place(bad):
    module = nn.ModuleDict({"fc": nn.Linear(4, 3)})
    module["fc"].weight.data[2, 1] = bad
    module["fc"].weight.data[2, 3] = bad
    broken = wb.load(module, name="broken")
    message = r"fc of broken has 2 NaN or infinite weights, the first at row 2, column 1: .*selector"
    with pytest.raises(Refused, match=message):
        broken.weight("fc")


def test_large_weights_whose_sum_overflows_are_numbers_all_the_same():
    module = nn.ModuleDict({"fc": nn.Linear(4, 3)})
    module["fc"].weight.data[:] = 3e38
    assert wb.load(module).weight("fc").max() > 1e38


def test_a_model_that_cannot_run_says_why(model):
    assert model.task is None
    with pytest.raises(Refused, match="ModuleDict in memory: pass task="):
        model.runner  # noqa: B018


def test_an_embedding_of_ones_own_is_told_by_its_module():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.items, self.mix = nn.Embedding(30, 8), nn.Linear(8, 5)

        def forward(self, ids):
            return self.mix(self.items(ids).mean(1))

    tied = Own()
    tied.out = nn.Linear(8, 30, bias=False)  # registered after the table, and before it in the next
    tied.out.weight = tied.items.weight
    other = nn.ModuleDict({"out": nn.Linear(8, 30, bias=False), "tab": nn.Embedding(30, 8)})
    other["tab"].weight = other["out"].weight
    assert [layer.role for layer in wb.load(tied).layers] == ["embed", "fc"]
    assert [(layer.name, layer.role) for layer in wb.load(other).layers] == [("out", "embed")]
    model = wb.load(Own(), task="classification")
    assert {layer.name: layer.role for layer in model.layers} == {"items": "embed", "mix": "fc"}
    assert [entry.layer.name for entry in wb.plan(model, wb.Recipe([wb.RTN()])).work] == ["mix"]
