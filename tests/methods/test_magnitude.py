"""Magnitude pruning against hand-made examples and its one theorem."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from workbench.errors import Refused
from workbench.methods.prune.magnitude import Magnitude

# The layer of Wanda's hand-made example: three rows of four.
W = torch.tensor([[4.0, 0, 1, -1], [3, -2, -1, -3], [-3, 1, 0, 2]])


def test_golden_rows():
    made = Magnitude(sparsity=0.5, scope="row").compress(W).dequantize()
    assert made.tolist() == [[4, 0, 0, -1], [3, 0, 0, -3], [-3, 0, 0, 2]]


def test_golden_layer():
    # The six of least magnitude in all: ties go in the order of the flattened matrix.
    made = Magnitude(sparsity=0.5).compress(W).dequantize()
    assert made.tolist() == [[4, 0, 0, 0], [3, -2, 0, -3], [-3, 0, 0, 2]]


def test_golden_two_of_four():
    row = torch.tensor([[0.5, -0.1, 0.2, -0.9, 3, 3, -1, 2]])
    made = Magnitude(n_m=(2, 4)).compress(row)
    assert torch.equal(made.dequantize(), torch.tensor([[0.5, 0, 0, -0.9, 3, 3, 0, 0]]))
    assert made.n_m == (2, 4)
    assert made.sparsity == 0.5


def test_a_ragged_last_run_keeps_what_the_others_keep_or_all_it_has():
    row = torch.tensor([[0.5, -0.1, 0.2, -0.9, 1, 2, 3]])
    assert Magnitude(n_m=(2, 4)).compress(row).dequantize()[0, 4:].tolist() == [0, 2, 3]
    assert Magnitude(n_m=(2, 4)).compress(row[:, :5]).dequantize()[0, 4:].tolist() == [1]
    assert "the last run of a row has 3" in Magnitude(n_m=(2, 4)).judge((1, 7)).note
    assert not Magnitude(n_m=(2, 4)).judge((1, 8)).note


def test_kept_weights_are_bit_identical_and_pruned_ones_zero():
    w = torch.randn(16, 48, generator=torch.Generator().manual_seed(0))
    for method in (Magnitude(sparsity=0.3), Magnitude(sparsity=0.3, scope="row"), Magnitude(n_m=(1, 4))):
        made = method.compress(w)
        assert torch.equal(made.dequantize()[made.mask], w[made.mask])
        assert made.dequantize()[~made.mask].count_nonzero() == 0


@pytest.mark.parametrize("options", [{"scope": "layer"}, {"scope": "row"}])
def test_s_0_is_the_identity_and_s_1_all_zero(options):
    assert torch.equal(Magnitude(sparsity=0, **options).compress(W).dequantize(), W)
    assert Magnitude(sparsity=1, **options).compress(W).dequantize().count_nonzero() == 0


@pytest.mark.parametrize("method", [Magnitude(sparsity=0.5), Magnitude(scope="row"), Magnitude(n_m=(2, 4))])
@pytest.mark.parametrize(
    "w", [W, torch.randint(-2, 3, (9, 21), generator=torch.Generator().manual_seed(1)).float()]
)
def test_pruning_again_changes_nothing(method, w):
    once = method.compress(w)
    again = method.compress(once.dequantize())
    assert torch.equal(again.mask, once.mask)
    assert torch.equal(again.dequantize(), once.dequantize())


def test_no_mask_of_the_same_count_is_closer():
    w = torch.randn(2, 3, generator=torch.Generator().manual_seed(2))
    found = (Magnitude(sparsity=0.5).compress(w).dequantize() - w).norm()
    others = [w.flatten()[list(removed)].norm() for removed in combinations(range(6), 3)]
    assert found == pytest.approx(min(others).item())


def test_n_m_is_written_as_people_write_it():
    assert Magnitude(n_m="2:4") == Magnitude(n_m=[2, 4]) == Magnitude(n_m=(2, 4))
    assert Magnitude(n_m="none") == Magnitude(n_m=None) == Magnitude()


@pytest.mark.parametrize(
    "value", [(5, 4), (0, 4), (1, 65), [None, 4], ["a", 4], [2.5, 4], [2], "2/4", 24, {"a": 1}]
)
def test_n_m_that_keeps_nothing_sensible_is_refused_in_one_line(value):
    with pytest.raises(Refused) as refusal:
        Magnitude(n_m=value)
    message = str(refusal.value)
    assert message.startswith("magnitude: n_m = ")
    assert message.count("is not possible") == 1
    assert "\n" not in message
    assert "keeps" in message


def test_labels_tell_scopes_apart():
    labels = [m.label for m in (Magnitude(), Magnitude(scope="row"), Magnitude(n_m=(2, 4)))]
    assert labels == ["magnitude 50 %", "magnitude 50 % rows", "magnitude 2:4"]
