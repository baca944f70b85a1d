"""A method is ONE file: dropped into its folder it is registered, validated, documented, in recipes, and calibrated."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.errors import Refused
from workbench.methods import METHODS, Statistics, parameters_of, parse_method, prune

# Wanda, whole: saliency |w| * sqrt(mean x^2), compared within each output row.
FILE = '''
"""Wanda: weights that little passes through go first. Sun et al. 2023, equation 1."""

from pydantic import Field

from workbench.grid import uncompressed
from workbench.methods import Method
from workbench.methods.prune.masks import keep_rows


class WandaLike(Method):
    """Remove the weights of least |w| * norm of the input."""

    name = "wanda-like"
    kind = "prune"
    summary = "Wanda: |w| times the input's norm, within each row"
    source = "Sun et al. 2023"
    needs = frozenset({"mean_square"})

    sparsity: float = Field(0.5, ge=0, le=1, description="share of the weights removed")

    def compress(self, w, statistics=None):
        return uncompressed(w).with_mask(keep_rows(w.abs() * statistics.mean_square.sqrt(), self.sparsity))
'''


@pytest.fixture
def dropped_in(tmp_path, monkeypatch):
    """The file in the folder of pruners, and nothing else; afterwards as if it had never been there."""
    (tmp_path / "wanda_like.py").write_text(FILE)
    monkeypatch.setattr(prune, "__path__", [*prune.__path__, str(tmp_path)])
    monkeypatch.setattr(METHODS, "_walked", False)
    monkeypatch.setattr(METHODS, "_known", dict(METHODS._known))
    yield METHODS["wanda-like"]
    sys.modules.pop("workbench.methods.prune.wanda_like", None)
    vars(wb).pop("WandaLike", None)


# The layer of the paper's idea by hand: column norms 1, 2, 8, 3.
W = torch.tensor([[4.0, 0, 1, -1], [3, -2, -1, -3], [-3, 1, 0, 2]])
EXPECTED = [[4, 0, 1, 0], [0, 0, -1, -3], [-3, 0, 0, 2]]


def test_it_is_registered_public_and_documented(dropped_in):
    assert "wanda-like" in METHODS.names()
    assert wb.WandaLike is dropped_in
    (sparsity,) = parameters_of(dropped_in)
    assert (sparsity.name, sparsity.bounds, sparsity.help) == (
        "sparsity",
        "0 to 1",
        "share of the weights removed",
    )
    assert parse_method("WandaLike(sparsity=0.25)") == wb.WandaLike(sparsity=0.25)


def test_it_is_validated(dropped_in):
    with pytest.raises(Refused, match=r"wanda-like: sparsity = 2 is not possible: take 0 to 1"):
        wb.WandaLike(sparsity=2)
    with pytest.raises(Refused, match=r"wanda-like has no parameter 'sparse'; near: sparsity"):
        wb.WandaLike(sparse=0.5)


def test_it_is_in_recipes(dropped_in):
    recipe = wb.Recipe([wb.WandaLike(sparsity=0.25), wb.RTN()])
    assert "method: wanda-like, layers: '*', sparsity: 0.25" in recipe.to_yaml()
    assert wb.Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_its_golden_numbers_hold_with_the_statistics_it_names(dropped_in):
    statistics = Statistics(tokens=1, mean_square=torch.tensor([1.0, 2, 8, 3]) ** 2)
    assert wb.WandaLike().compress(W, statistics).dequantize().tolist() == EXPECTED


def test_apply_calibrates_for_it(dropped_in):
    module = nn.Linear(4, 3, bias=False)
    module.weight.data = W.clone()
    model = wb.load(nn.Sequential(module), task="classification")
    x = torch.tensor([[1.0, 2, -8, 3], [-1, 2, 8, -3]])  # mean squares 1, 4, 64, 9
    variant = wb.apply(model, wb.Recipe([wb.WandaLike()]), calibration=[x])
    assert variant.weights["0"].dequantize().tolist() == EXPECTED
    with pytest.raises(Refused, match=r"wanda-like needs mean_square of the inputs: give calibration"):
        wb.apply(model, wb.Recipe([wb.WandaLike()]))


def test_it_leaves_no_trace_in_the_other_tests():
    assert "wanda-like" not in METHODS
    assert not hasattr(wb, "WandaLike")
    assert Path(prune.__file__).with_name("wanda_like.py").exists() is False
