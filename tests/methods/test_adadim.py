"""AdaDim: the axis follows weights and activations together, and its choice is never the worse one."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench.methods import Statistics

GROUPS = {"bits": 3, "group_size": 128}


def data(weights: float, activations: float) -> tuple[torch.Tensor, Statistics, torch.Tensor]:
    """256 x 256, with the weights and the activations of two input channels multiplied."""
    g = torch.Generator().manual_seed(0)
    w, x = torch.randn(256, 256, generator=g) * 0.02, torch.randn(512, 256, generator=g)
    w[:, [10, 100]] *= weights
    x[:, [10, 100]] *= activations
    return w, Statistics(512, hessian=x.T @ x / 512, mean_square=x.square().mean(0)), x


def ratio(w, x) -> float:
    """Output error of groups within outputs over that of groups within inputs, squared."""
    errors = []
    for granularity in ("group", "input"):
        change = wb.RTN(granularity=granularity, **GROUPS).compress(w).dequantize() - w
        errors.append((x @ change.T).norm().item() ** 2)
    return errors[0] / errors[1]


@pytest.mark.parametrize(
    ("weights", "activations", "low", "high"),
    [
        (1, 1, 0.95, 1.05),  # nothing special: no difference
        (1, 50, 0.85, 1.15),  # loud activations alone make none either
        (8, 1, 2.0, 2.8),
        (8, 50, 0.0, 0.5),  # loud and large: the row's grid is the right one
        (1 / 8, 50, 4.0, 7.0),  # loud but small: the row's step is far too wide for it
    ],
)
def test_the_claims_of_the_card_on_which_axis_wins(weights, activations, low, high):
    w, known, x = data(weights, activations)
    found = ratio(w, x)
    assert low < found < high
    made = wb.AdaDim(**GROUPS).compress(w, known)
    if abs(found - 1) > 0.2:
        assert made.report.facts["axis"] == ("within inputs" if found > 1 else "within outputs")


@pytest.mark.parametrize("base", ["rtn", "gptq"])
def test_auto_is_the_better_of_the_two(base):
    w, known, _ = data(1 / 8, 50)
    errors = {
        axis: known.output_error(
            w, wb.AdaDim(base=base, axis=axis, **GROUPS).compress(w, known).dequantize() - w
        )
        for axis in ("auto", "outputs", "inputs")
    }
    assert errors["auto"] == errors["inputs"] < errors["outputs"] / 2


def test_groups_within_inputs_are_groups_of_the_transpose():
    w, _, _ = data(1, 1)
    made = wb.RTN(granularity="input", **GROUPS).compress(w)
    transposed = wb.RTN(granularity="group", **GROUPS).compress(w.T.contiguous())
    assert torch.equal(made.dequantize(), transposed.dequantize().T)
    assert made.bits_per_weight == transposed.bits_per_weight


def test_groups_within_inputs_do_not_mind_input_scales():
    w, _, _ = data(1, 1)
    s = 2.0 ** torch.randint(-3, 4, (256,), generator=torch.Generator().manual_seed(1))
    method = wb.RTN(granularity="input", scale_dtype="float32", **GROUPS)
    torch.testing.assert_close(method.compress(w * s).dequantize() / s, method.compress(w).dequantize())


def test_a_searched_scale_inside():
    w, known, _ = data(1 / 8, 50)
    plain, searched = (
        known.output_error(w, wb.AdaDim(scale_search=s, **GROUPS).compress(w, known).dequantize() - w)
        for s in ("none", "activation")
    )
    assert searched < plain
