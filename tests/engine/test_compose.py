"""What composes on a layer, in which order, and what is refused with its reason."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench.engine import Recipe, compress, plan
from workbench.engine.compose import added, compared, notes, objection, output_error
from workbench.errors import Refused
from workbench.grid import FloatGrid
from workbench.methods import Statistics


@pytest.fixture
def layer():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(256, 64, generator=g)
    x[:, 5] *= 20
    known = Statistics(
        256,
        x.abs().mean(0),
        x.square().mean(0),
        x.abs().amax(0),
        x.T @ x / 256,
        x,
        x.mean(0),
        x.amin(0),
        x.amax(0),
    )
    return torch.randn(48, 64, generator=g) * 0.05, known


def chain(*methods):
    made = ()
    for method in methods:
        made = added(made, method)
    return [method.name for method in made]


def test_of_two_roundings_the_later_wins_but_the_scales_of_awq_stay():
    assert chain(wb.RTN(), wb.GPTQ()) == ["gptq"]
    assert chain(wb.AWQ(), wb.GPTQ()) == ["awq", "gptq"]
    assert chain(wb.AWQ(), wb.AWQ(bits=3)) == ["awq"]
    assert chain(wb.GPTQ(), wb.AWQ()) == ["awq"]
    assert chain(wb.AWQ(), wb.GPTQ(), wb.RTN()) == ["awq", "rtn"]
    assert chain(wb.SmoothQuant(), wb.AWQ(), wb.GPTQ(), wb.Activations()) == [
        "smoothquant", "awq", "gptq", "activations",
    ]  # fmt: skip
    assert chain(wb.Wanda(), wb.SparseGPT(), wb.RTN()) == ["sparsegpt", "rtn"]


@pytest.mark.parametrize(
    ("methods", "reason"),
    [
        ((wb.RTN, wb.SmoothQuant), "its scales change the weights that rtn 4 g64 has rounded: put it before"),
        ((wb.RTN, wb.BiasCorrection, wb.GPTQ), "corrects what is left over: put it last"),
        ((lambda: wb.SparseGPT(bits=4), wb.RTN), "rounds already while it prunes"),
        ((wb.RTN, lambda: wb.SparseGPT(bits=4)), "it rounds while it prunes, and so does rtn 4 g64"),
    ],
)
def test_what_does_not_compose_is_refused_with_its_reason(methods, reason):
    model = wb.load("tiny-llama")
    with pytest.raises(Refused, match=reason):
        plan(model, Recipe([make() for make in methods]))


def test_what_is_worth_knowing_is_noted():
    assert "their scales are multiplied" in notes([wb.SmoothQuant(), wb.AWQ()])[0]
    assert "clipping is left to the latter" in notes([wb.AWQ(), wb.GPTQ()])[0]
    assert "changes nothing there" in notes([wb.SmoothQuant(), wb.RTN(granularity="input")])[0]
    assert notes([wb.Wanda(), wb.RTN()]) == []


def test_scales_of_transforms_are_multiplied_and_the_float_function_stays(layer):
    w, known = layer
    made = compress(w, [wb.SmoothQuant(alpha=0.5), wb.SmoothQuant(alpha=0.3)], known)
    torch.testing.assert_close(made.dequantize(), w, rtol=1e-5, atol=1e-6)
    both = compress(w, [wb.SmoothQuant(), wb.RTN(bits=8)], known)
    assert both.input_scale is not None
    torch.testing.assert_close(both.dequantize(), w, rtol=0.05, atol=0.02)


def test_activations_see_the_divided_input(layer):
    w, known = layer
    plain = compress(w, [wb.RTN(bits=8), wb.Activations(granularity="tensor")], known)
    smooth = compress(w, [wb.SmoothQuant(), wb.RTN(bits=8), wb.Activations(granularity="tensor")], known)
    assert smooth.inputs.scale < plain.inputs.scale / 2
    assert output_error(w, smooth, known) < output_error(w, plain, known) / 2


def test_bias_correction_comes_last_and_helps(layer):
    w, known = layer
    shifted = Statistics(**{**vars(known.scaled(torch.ones(64)))})
    shifted.sample = known.sample + 0.5
    shifted.mean = shifted.sample.mean(0)
    made = compress(w, [wb.RTN(bits=2), wb.BiasCorrection()], shifted)
    without = compress(w, [wb.RTN(bits=2)], shifted)
    assert made.shift is not None
    assert output_error(w, made, shifted) < torch.tensor(
        ((shifted.sample @ (without.dequantize() - w).T).norm() / (shifted.sample @ w.T).norm()).item()
    )


def test_kinds_work_in_their_order_whatever_the_recipes(layer):
    w, known = layer
    assert chain(wb.Activations(), wb.RTN()) == ["rtn", "activations"]
    assert chain(wb.RTN(), wb.SparseGPT()) == ["sparsegpt", "rtn"]
    assert chain(wb.RTN(), wb.Magnitude()) == ["rtn", "magnitude"]  # on what was rounded, as it was asked
    one, other = (
        compress(w, methods, known)
        for methods in (
            [wb.RTN(), wb.SparseGPT(), wb.Activations()],
            [wb.Activations(), wb.SparseGPT(), wb.RTN()],
        )
    )
    assert one.inputs is not None
    assert one.sparsity == 0.5
    assert one.bits_per_weight < 5
    assert torch.equal(one.dequantize(), other.dequantize())


def test_losing_to_the_plain_method_is_seen_with_divided_and_quantized_inputs(layer):
    """The plain method gets the same division and the same quantizer, so that rounding alone is judged."""
    w, known = layer
    methods = [wb.SmoothQuant(), wb.GPTQ(bits=8, group_size=32), wb.Activations(granularity="tensor")]
    facts = compared(w, compress(w, methods, known), methods, known).facts
    plain = [wb.SmoothQuant(), wb.RTN(bits=8, group_size=32), wb.Activations(granularity="tensor")]
    expected = output_error(w, compress(w, plain, known), known)
    assert facts["output error of rtn"] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_float_dtype_are_taken(layer, dtype):
    w, known = layer
    parameter = torch.nn.Parameter(w.to(dtype).T.contiguous()).T  # not contiguous, asks for gradients
    made = compress(parameter, [wb.AWQ(), wb.GPTQ()], known)
    assert made.dequantize().dtype == torch.float32


def test_a_weight_that_is_not_finite_is_refused(layer):
    w = layer[0].repeat(8, 8)
    w[3, 5] = torch.nan
    for method in (wb.RTN(), wb.HQQ(), wb.Magnitude()):
        with pytest.raises(Refused, match="NaN or infinite"):
            compress(w, [method])


def test_every_pair_composes_or_says_why(layer):
    """All ordered pairs of methods: a finite result, or one sentence."""
    from workbench.methods import METHODS

    quick = {"adaround": {"steps": 10}, "flexround": {"steps": 10}, "nupes": {"steps": 10}, "mobilequant": {}}
    w, known = layer
    names = [name for name in METHODS if METHODS[name].__module__.startswith("workbench.")]
    for first in names:
        for second in names:
            one, two = (METHODS[n](**quick.get(n, {})) for n in (first, second))
            if objection(added((), one), two):
                with pytest.raises(Refused, match="does not compose"):
                    added(added((), one), two)
                continue
            methods = added(added((), one), two)
            made = compress(w, methods, known)
            assert torch.isfinite(made.dequantize()).all(), (first, second)
            kinds = {method.kind for method in methods}
            assert (made.mask is not None) == ("prune" in kinds), (first, second)
            assert isinstance(made.grid, FloatGrid) != any(m.rounds for m in methods), (first, second)
            if "activation" in kinds:
                assert made.inputs is not None, (first, second)
            if "correct" in kinds:
                assert made.shift is not None, (first, second)
            if "smoothquant" in (first, second):
                assert made.input_scale is not None, (first, second)
            assert made.shape == (48, 64)
