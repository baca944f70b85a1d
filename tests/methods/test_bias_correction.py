"""Bias correction: the golden numbers, a mean output error of zero, and by how much the error falls."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench as wb
from workbench.errors import Refused
from workbench.methods import Statistics


def known(x: torch.Tensor) -> Statistics:
    return Statistics(
        len(x), mean=x.mean(0), sample=x, low=x.amin(0), high=x.amax(0), max_abs=x.abs().amax(0)
    )


def error(w, made, x) -> torch.Tensor:
    """The output error [tokens, out] of what runs."""
    running = made.running()
    y = (x if running.inputs is None else running.inputs(x)) @ running.matrix.T
    return y + (0 if running.shift is None else running.shift) - x @ w.T


def test_golden():
    """Card P5, "Bias correction": shift -0.15, mean squared error 0.02625 -> 0.00375."""
    w = torch.tensor([[0.9, -0.4, 0.25]])
    x = torch.tensor([[1.0, 2, 0], [0, 1, 2], [1, 1, 1], [2, 0, 1]])
    rounding = wb.RTN(bits=3, granularity="channel", symmetric=True, scale_dtype="float32")
    made = wb.compress(w, [rounding, wb.BiasCorrection()], known(x))
    torch.testing.assert_close(made.dequantize(), torch.tensor([[0.9, -0.3, 0.3]]))
    assert made.shift.tolist() == pytest.approx([-0.15], abs=1e-6)
    assert error(w, rounding.compress(w), x).square().mean().item() == pytest.approx(0.02625, abs=1e-6)
    assert error(w, made, x).square().mean().item() == pytest.approx(0.00375, abs=1e-6)
    assert made.report.facts["largest shift"] == pytest.approx(0.15, abs=1e-6)


CHAINS = {
    "rounded": [wb.RTN(bits=2, group_size=16)],
    "pruned": [wb.Magnitude(sparsity=0.5)],
    "inputs per token": [wb.RTN(bits=3), wb.Activations(bits=3, symmetric=False)],
    "inputs per tensor": [wb.RTN(bits=3), wb.Activations(bits=3, granularity="tensor")],
    "smoothed": [wb.SmoothQuant(), wb.RTN(bits=3), wb.Activations(bits=3)],
}


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_the_mean_error_of_every_output_is_zero_and_the_rest_falls_by_its_square(chain, seed):
    g = torch.Generator().manual_seed(seed)
    w, x = torch.randn(12, 32, generator=g), torch.randn(64, 32, generator=g) + torch.randn(32, generator=g)
    without, made = (wb.compress(w, [*chain, *more], known(x)) for more in ([], [wb.BiasCorrection()]))
    before, after = (error(w, each, x) for each in (without, made))
    assert before.mean(0).abs().max() > 1e-3, "there was something to correct"
    torch.testing.assert_close(after.mean(0), torch.zeros(12), atol=2e-5, rtol=0)
    drop = before.square().mean(0) - after.square().mean(0)
    torch.testing.assert_close(drop, made.shift.square(), rtol=1e-3, atol=1e-4)


def test_codes_stay_and_the_shift_is_counted():
    g = torch.Generator().manual_seed(0)
    w, x = torch.randn(12, 32, generator=g), torch.randn(64, 32, generator=g) + 1
    plain, made = wb.RTN(bits=3).compress(w), wb.compress(w, [wb.RTN(bits=3), wb.BiasCorrection()], known(x))
    assert torch.equal(plain.codes, made.codes)
    assert made.bits_per_weight == plain.bits_per_weight + 32 * 12 / w.numel()  # a float for each output


def test_an_exact_weight_has_nothing_to_correct():
    w, x = torch.ones(3, 4), torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    assert wb.BiasCorrection().compress(w, known(x)).shift.count_nonzero() == 0
    with pytest.raises(Refused, match="needs mean, sample"):
        wb.BiasCorrection().compress(w)


def test_the_mean_output_of_a_networks_layer_is_mended_where_it_runs():
    """Of a network: the shift is added where the layer runs, and the mean of its output is that of the float layer on
    the same inputs."""
    model = wb.load("tiny-vit")
    images = wb.evaluation(model, part="calibration").first(32).inputs_only()
    name = "blocks.0.mlp.fc1"
    rounding = wb.Step(wb.RTN(bits=2, granularity="tensor"), name)
    means = []
    for steps in ([], [rounding], [rounding, wb.Step(wb.BiasCorrection(), name)]):
        changed = wb.apply(model, wb.Recipe(steps), calibration=images).model.running if steps else {}
        heard: list[torch.Tensor] = []
        module = model.runner.module.get_submodule(name)
        handle = module.register_forward_hook(lambda _m, _x, y, heard=heard: heard.append(y))
        # The bench's own hook adds the shift; it was registered first only where hooks run in that order.
        for batch in images:
            model.runner.logits(batch, changed)
        handle.remove()
        means.append((torch.cat(heard).flatten(0, 1).mean(0), changed))
    layer = model.layer(name)
    shift = means[2][1][layer].shift
    off = (means[1][0] - means[0][0]).abs().max()
    torch.testing.assert_close(means[1][0] + shift, means[0][0], atol=1e-4 * float(off) + 1e-4, rtol=0)
    assert off > 0.01
