"""Quantized inputs against a computation by hand: per token, per tensor, floats, percentiles, whole networks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench as wb
from workbench.errors import Refused
from workbench.methods import Statistics

W = torch.tensor([[1.0, 0.5, -0.25], [0.0, 2.0, 1.0]])
X = torch.tensor([[1.0, -0.4, 0.25], [10.0, 4.0, -8.9], [0.0, 0.0, 0.0]])


def known(x: torch.Tensor) -> Statistics:
    return Statistics(len(x), max_abs=x.abs().amax(0), low=x.amin(0), high=x.amax(0), sample=x)


def quantized(method: wb.Method, x: torch.Tensor, w: torch.Tensor = W) -> torch.Tensor:
    inputs = method.compress(w, known(x)).running().inputs
    assert inputs is not None
    return inputs(x)


def test_per_token_by_hand():
    """3 bits, symmetric: codes -3 to 3. Token 0: scale 1/3, codes 3, -1, 1. Token 1: 10/3, codes 3, 1, -3. A token of
    zeros stays."""
    found = quantized(wb.Activations(bits=3), X)
    expected = torch.tensor([[1, -1 / 3, 1 / 3], [10, 10 / 3, -10], [0, 0, 0]])
    torch.testing.assert_close(found, expected)


def test_per_token_with_a_zero_point_by_hand():
    """3 bits: codes 0 to 7. Token 0: from -0.4 to 1, scale 0.2, zero 2, so exact but for 0.25 -> 0.2."""
    found = quantized(wb.Activations(bits=3, symmetric=False), X[:1])
    torch.testing.assert_close(found, torch.tensor([[1.0, -0.4, 0.2]]))


def test_per_tensor_by_hand():
    """One scale for all: 10 / 3. What is under half of it is lost, which is the harm of one loud token."""
    found = quantized(wb.Activations(bits=3, granularity="tensor"), X)
    torch.testing.assert_close(found, torch.tensor([[0, 0, 0], [10, 10 / 3, -10], [0, 0, 0]]))


def test_per_tensor_with_a_zero_point_by_hand():
    x = torch.tensor([[-1.0, 6.0, 2.4]])
    found = quantized(wb.Activations(bits=3, granularity="tensor", symmetric=False), x)
    torch.testing.assert_close(found, torch.tensor([[-1.0, 6.0, 2.0]]))  # scale 1, zero 1
    positive = quantized(wb.Activations(bits=3, granularity="tensor", symmetric=False), x + 4)
    torch.testing.assert_close(positive[0, 0] / (10 / 7), torch.tensor(2.0))  # 0 is always on the grid


def test_a_static_range_is_that_of_calibration_and_what_is_beyond_is_clipped():
    method = wb.Activations(bits=3, granularity="tensor")
    made = method.compress(W, known(X[:1]))
    assert made.inputs.scale == pytest.approx(1 / 3)
    assert made.report.facts["input range"] == "-0.4 to 1"
    torch.testing.assert_close(made.running().inputs(X[1:2]), torch.tensor([[1.0, 1.0, -1.0]]))


def test_a_percentile_cuts_off_the_loud_few():
    x = torch.randn(500, 40, generator=torch.Generator().manual_seed(0))
    x[7, 3] = 1000
    whole, cut = (
        wb.Activations(granularity="tensor", range=r, percentile=99.9).compress(torch.ones(2, 40), known(x))
        for r in ("minmax", "percentile")
    )
    assert whole.inputs.scale == pytest.approx(1000 / 127)
    assert cut.inputs.scale == pytest.approx(torch.quantile(x.abs().flatten(), 0.999).item() / 127, rel=1e-3)


def test_floats_have_the_grid_of_the_weights():
    """E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6, scaled so that the largest of the token is 6."""
    found = quantized(wb.Activations(format="e2m1"), torch.tensor([[12.0, -2.9, 0.4]]))
    torch.testing.assert_close(found, torch.tensor([[12.0, -3.0, 0.0]]))
    assert wb.Activations(format="e2m1").grid.code_bits == 4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8), st.booleans(), st.sampled_from(["token", "tensor"]))
def test_no_value_of_calibration_moves_by_more_than_half_a_step(seed, bits, symmetric, granularity):
    x = torch.randn(6, 12, generator=torch.Generator().manual_seed(seed)) * 3
    made = wb.Activations(bits=bits, symmetric=symmetric, granularity=granularity).compress(
        torch.ones(2, 12), known(x)
    )
    _, scale, _ = made.inputs.parts(x)
    # A zero point is rounded too, which moves the grid by up to half a step at its ends.
    most = 0.5 if symmetric else 1.0
    found = made.running().inputs(x)
    assert ((found - x).abs() <= most * scale + 1e-5).all()
    if (
        granularity == "tensor"
    ):  # the range of a token is its own, and that of what was quantized already a little less
        torch.testing.assert_close(made.running().inputs(found), found)


def test_they_need_only_what_they_use_and_leave_the_weight_alone():
    assert wb.Activations().needed == frozenset()
    assert wb.Activations(granularity="tensor").needed == {"low", "high"}
    assert wb.Activations(granularity="tensor", range="percentile").needed == {"sample"}
    made = wb.compress(W, [wb.RTN(bits=4), wb.Activations()], known(X))
    assert torch.equal(made.codes, wb.RTN(bits=4).compress(W).codes)
    with pytest.raises(Refused, match="needs high, low"):
        wb.Activations(granularity="tensor").compress(W)
    with pytest.raises(Refused, match="take int, nf4, any"):
        wb.Activations(format="e9m9")


@pytest.mark.parametrize("format", ["mxfp4", "mxfp8", "mxint8", "nvfp4"])
def test_blocks_of_a_token_are_blocks_of_a_weight(format):
    """An MX input is rounded as a weight [tokens, in] of that format, whatever the shape around it."""
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, 64)
    made = wb.Activations(format=format).compress(torch.ones(3, 64))
    expected = wb.RTN(format=format).compress(x.reshape(10, 64)).dequantize().reshape(x.shape)
    assert torch.equal(made.inputs(x), expected)
    assert not wb.Activations(format=format, granularity="tensor").needed
    assert wb.Activations(format=format).label == f"a {format}"


def test_nf4_inputs_have_a_scale_for_each_token():
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    made = wb.Activations(format="nf4").compress(torch.ones(3, 32))
    expected = wb.RTN(format="nf4", granularity="channel", scale_dtype="float32").compress(x).dequantize()
    torch.testing.assert_close(made.inputs(x), expected)


def test_the_divided_input_is_quantized_and_multiplied_back():
    x = torch.tensor([[64.0, 1.0, -0.5]])
    made = wb.compress(W, [wb.SmoothQuant(alpha=1.0), wb.Activations(bits=4)], known(x))
    torch.testing.assert_close(made.input_scale.float(), torch.tensor([64.0, 1.0, 0.5]))
    torch.testing.assert_close(made.running().inputs(x), x)  # x / s is 1, 1, -1: on any grid
    assert (wb.Activations(bits=4).compress(W).running().inputs(x) != x).any()


@pytest.mark.parametrize("name", ["llama", "tiny-resnet"])
def test_a_network_runs_with_quantized_inputs_and_fewer_bits_hurt_more(name, llama_folder, text_file):
    model = wb.load(llama_folder if name == "llama" else name)
    data = wb.evaluation(model, text_file, tokens=512).first(16)
    quality = wb.Quality(model, data)
    kl = []
    for bits in (8, 6, 4):
        variant = wb.apply(model, wb.Recipe([wb.Activations(bits=bits)]))
        kl.append(quality.measure(variant.weights)["kl"])
    assert 0 < kl[0] < kl[1] < kl[2]
    assert kl[0] < 0.01
