"""GPTQ: golden numbers (float64 reference, tolerance 1e-6), the loss identity, invariants of the sweep."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench as wb
from workbench.errors import Refused
from workbench.methods import Statistics
from workbench.methods.columns import Sweep, factorise

REFERENCE = wb.GPTQ(bits=2, group_size=-1, scale_search="none", order="natural", scale_dtype="float32")
W = torch.tensor([[0.7, -0.3, 0.2, 0.9], [-0.5, 0.6, -0.1, 0.4]])
X = torch.tensor([[1, 1, 0, 0], [1, 0.9, 0.1, 0], [0, 0.2, 1, 1], [0.1, 0, 1, 0.8], [0.5, 0.5, 0.5, 0.5]])


def statistics(x: torch.Tensor) -> Statistics:
    return Statistics(len(x), x.abs().mean(0), x.square().mean(0), x.abs().amax(0), x.T @ x / len(x), x)


def correlated(seed: int, out: int = 32, inputs: int = 64, n: int = 512) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=g) / 8
    return torch.randn(out, inputs, generator=g), torch.randn(n, inputs, generator=g) @ mix


def output_error(w, made, x) -> float:
    return ((x @ (made.dequantize() - w).T).norm() ** 2 / (x @ w.T).norm() ** 2).item()


def test_golden_weights_and_loss_of_the_reference():
    made = REFERENCE.compress(W, statistics(X))
    expected = [[0.8, -0.4, 0, 0.8], [-0.366667, 0.366667, 0, 0.366667]]
    torch.testing.assert_close(made.dequantize(), torch.tensor(expected), atol=1e-6, rtol=0)
    assert made.report.curves["output error^2"][-1] == pytest.approx(0.0447591, abs=1e-6)
    change = X @ (made.dequantize() - W).T
    assert change.square().sum().item() == pytest.approx(0.220533, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 7, 16, 128]), st.booleans())
def test_the_cost_of_the_sweep_is_the_output_error_under_the_damped_hessian(seed, block_size, by_activation):
    w, x = correlated(seed)
    method = REFERENCE.with_(
        bits=3, block_size=block_size, order="activation" if by_activation else "natural"
    )
    made = method.compress(w, statistics(x))
    h = (x.T @ x / len(x)).double()
    h += 0.01 * h.diagonal().mean() * torch.eye(64, dtype=torch.float64)
    change = (made.dequantize() - w).double()
    expected = torch.einsum("oi,ij,oj->", change, h, change).item()
    assert made.report.curves["output error^2"][-1] == pytest.approx(expected, rel=2e-3)


def test_the_block_size_changes_nothing_but_speed():
    w, x = correlated(1)
    known = statistics(x)
    made = [REFERENCE.with_(bits=3, block_size=size).compress(w, known).codes for size in (1, 16, 50, 128)]
    # A weight that lies within rounding of a midpoint may fall either way: sums are added in other orders.
    for other in made[1:]:
        assert (made[0] != other).float().mean() < 0.002


@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"granularity": "input", "group_size": 8}])
def test_uncorrelated_inputs_leave_nothing_to_compensate(options):
    w, _ = correlated(2)
    known = Statistics(64, hessian=3 * torch.eye(64), mean_square=torch.full((64,), 3.0))
    method = wb.GPTQ(bits=3, scale_search="none", **{"group_size": 16, **options})
    assert torch.equal(method.compress(w, known).codes, method.baseline.compress(w).codes)


def test_a_dead_input_has_no_weights_and_harms_nobody():
    w, x = correlated(3)
    x[:, 5] = 0
    made = wb.GPTQ(bits=4, group_size=16).compress(w, statistics(x))
    assert made.dequantize()[:, 5].count_nonzero() == 0
    assert made.report.facts["dead inputs"] == 1
    assert torch.isfinite(made.dequantize()).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("order", ["natural", "activation"])
def test_it_beats_rounding_to_nearest_on_correlated_inputs(bits, order):
    """The card measured 1.9 to 2.3 times less; 1.7 is asserted for any seed."""
    w, x = correlated(0)
    method = REFERENCE.with_(bits=bits, order=order)
    nearest = output_error(w, method.baseline.compress(w), x)
    assert nearest / output_error(w, method.compress(w, statistics(x)), x) > 1.7


def test_moving_groups_follow_the_order_and_say_so():
    w, x = correlated(5, 32, 96)
    made = wb.GPTQ(bits=3, group_size=32, static_groups=False, scale_search="none").compress(w, statistics(x))
    assert made.order is not None
    assert sorted(made.order.tolist()) == list(range(96))
    whole = made.dequantize()
    torch.testing.assert_close(made.dequantize(slice(3, 7), slice(10, 40)), whole[3:7, 10:40])
    row = made.at(3, 10)
    assert (row["code"] - row["zero"]) * row["scale"] == pytest.approx(whole[3, 10].item(), rel=1e-5)
    natural = wb.GPTQ(bits=3, group_size=32, static_groups=False, scale_search="none", order="natural")
    assert natural.compress(w, statistics(x)).order is None
    # A group index for each input costs 16 bits an input.
    assert made.storage_bits()["inputs"] == 16 * 96


def test_weights_that_a_pruner_removed_stay_zero_and_the_others_answer_for_rounding():
    w, x = correlated(6)
    known = statistics(x)
    mask = wb.Wanda().compress(w, known).mask
    pruned = w * mask
    made = wb.GPTQ(bits=4, group_size=16).compress(pruned, replace(known, mask=mask))
    assert made.dequantize()[~mask].count_nonzero() == 0
    rounded = wb.RTN(bits=4, group_size=16).compress(pruned).with_mask(mask)
    assert output_error(pruned, made, x) < output_error(pruned, rounded, x)


@pytest.mark.parametrize("format", ["e2m1", "nf4", "mxfp4", "nvfp4", "power"])
def test_any_grid_with_fixed_scales(format):
    w, x = correlated(7, 32, 128)
    method = wb.GPTQ(format=format, group_size=32, scale_search="none")
    made = method.compress(w, statistics(x))
    torch.testing.assert_close(
        made.grid.decode(made.codes), made.grid.decode(made.grid.encode(made.grid.decode(made.codes)))
    )
    assert output_error(w, made, x) < output_error(w, method.baseline.compress(w), x)


def test_the_original_network_as_target_answers_errors_of_earlier_layers():
    w, x = correlated(8, 32, 64, 2048)
    g = torch.Generator().manual_seed(9)
    disturbed = x + 0.3 * torch.randn(x.shape, generator=g) @ torch.randn(64, 64, generator=g) / 8
    known = replace(statistics(disturbed), cross=x.T @ disturbed / len(x))
    wanted = x @ w.T

    def distance(match):
        made = wb.GPTQ(bits=8, group_size=-1, match=match).compress(w, known)
        return (disturbed @ made.dequantize().T - wanted).norm().item()

    assert distance("original") < 0.9 * distance("layer")


def test_a_hessian_of_too_few_rows_is_damped_further_and_said():
    w, x = correlated(10)
    made = wb.GPTQ(bits=4, damp=0.0).compress(w, statistics(x[:20]))
    assert any("not positive definite" in warning for warning in made.report.warnings)
    with pytest.raises(Refused, match="NaN or infinite"):
        wb.GPTQ().compress(w, statistics(x * float("nan")))


def test_the_factor_is_that_of_the_inverse():
    _, x = correlated(11)
    h = x.T @ x / len(x)
    factor = factorise(h, 0.01, by_activation=True)
    damped = h.double() + 0.01 * h.diagonal().mean().double() * torch.eye(64, dtype=torch.float64)
    product = factor.upper.double().T @ factor.upper.double()
    torch.testing.assert_close(product, damped[factor.order][:, factor.order].inverse(), rtol=1e-4, atol=1e-5)
    assert torch.equal(factor.upper, factor.upper.triu())
    diagonal = h.diagonal()[factor.order]
    assert torch.equal(diagonal, diagonal.sort(descending=True).values)


def test_columns_that_were_visited_are_not_touched_again():
    w, x = correlated(12)
    sweep = Sweep(w, factorise(x.T @ x / len(x), 0.01))
    sweep.block(0, 16, None)
    before = sweep.q[:, :16].clone()
    sweep.block(16, 64, None)
    assert torch.equal(sweep.q[:, :16], before)
    assert torch.equal(sweep.rounded, w)  # nothing rounded, nothing removed


def test_it_composes_with_the_scales_of_awq():
    w, x = correlated(13, 64, 128)
    x[:, 7] *= 30
    known = statistics(x)
    made = wb.compress(w, [wb.AWQ(bits=3, group_size=32), wb.GPTQ(bits=3, group_size=32)], known)
    assert made.input_scale is not None
    assert output_error(w, made, x) < output_error(w, wb.RTN(bits=3, group_size=32).compress(w), x)


@pytest.mark.parametrize("format", ["power", "e3m2", "nf4", "int", "ternary"])
def test_without_correlations_every_grid_rounds_as_to_nearest(format):
    """H = I: nothing to compensate, so the borders between values have to be the grid's own."""
    w = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    known = Statistics(64, mean_square=torch.ones(64), hessian=torch.eye(64))
    options = {"format": format, "bits": 4, "group_size": 32, "scale_search": "none"}
    assert torch.equal(
        wb.GPTQ(**options, damp=0).compress(w, known).dequantize(), wb.RTN(**options).compress(w).dequantize()
    )


@pytest.mark.parametrize("format", ["kmeans", "power"])
def test_a_learned_grid_is_one_for_all_groups(format):
    w, known = torch.randn(8, 64), Statistics(64, mean_square=torch.ones(64), hessian=torch.eye(64))
    with pytest.raises(Refused, match="take static_groups: true"):
        wb.GPTQ(format=format, static_groups=False).compress(w, known)
