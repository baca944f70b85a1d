"""Weight equalization: golden ranges, pairs that keep the function, and those (GELU) that must not be touched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.engine import Recipe, apply, plan
from workbench.engine.fold import equalized
from workbench.errors import Refused
from workbench.methods.transform.equalize import factor

# Card P5, "CLE": weights of two layers in a row, with the bias of the first.
W1 = torch.tensor([[2.0, -1], [0.1, 0.05], [0.5, -0.4]])
B1 = torch.tensor([0.2, -0.01, 0.1])
W2 = torch.tensor([[0.1, 1, -0.3], [-0.2, 2, 0.4]])


def network(activation: nn.Module, w1=W1, b1=B1, w2=W2) -> wb.Model:
    module = nn.Sequential(
        nn.Linear(*reversed(w1.shape)), activation, nn.Linear(*reversed(w2.shape), bias=False)
    )
    with torch.no_grad():
        module[0].weight.copy_(w1)
        module[0].bias.copy_(b1)
        module[2].weight.copy_(w2)
    return wb.load(module, name="pair", task="classification")


def shared(model: wb.Model, method: wb.Method, inputs: torch.Tensor | None = None) -> wb.Model:
    inputs = (
        torch.randn(64, model.layers[0].shape[1], generator=torch.Generator().manual_seed(0))
        if inputs is None
        else inputs
    )
    return equalized(model, plan(model, Recipe([method])), inputs)


def outputs(model: wb.Model, inputs: torch.Tensor) -> torch.Tensor:
    return model.runner.logits(inputs, model.running)


def test_the_factors_of_the_card():
    c = factor(W1.abs().amax(1), W2.abs().amax(0))
    torch.testing.assert_close(1 / c, torch.tensor([3.162278, 0.223607, 1.118034]))
    # alpha = 0 leaves the consumer at 1, alpha = 1 the source
    rows, columns = W1.abs().amax(1), W2.abs().amax(0)
    torch.testing.assert_close(columns / factor(rows, columns, 0.0), torch.ones(3))
    torch.testing.assert_close(rows * factor(rows, columns, 1.0), torch.ones(3))


def test_channels_without_range_stay():
    c = factor(torch.tensor([1.0, 0.0, 1e-12]), torch.tensor([0.0, 4.0, 4.0]))
    assert c.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.Identity(), nn.LeakyReLU(0.1)], ids=lambda a: type(a).__name__
)
def test_both_layers_end_with_the_ranges_of_the_card_and_the_function_stays(activation):
    model = network(activation)
    inputs = torch.randn(64, 2, generator=torch.Generator().manual_seed(1)) * 5
    made = shared(model, wb.Equalize(), inputs)
    expected = torch.tensor([0.632456, 0.447214, 0.447214])
    torch.testing.assert_close(made.weight("0").abs().amax(1), expected)
    torch.testing.assert_close(made.weight("2").abs().amax(0), expected)
    torch.testing.assert_close(made.vectors["0.bias"], B1 / torch.tensor([3.162278, 0.223607, 1.118034]))
    torch.testing.assert_close(outputs(made, inputs), outputs(model, inputs), rtol=1e-5, atol=1e-5)
    assert torch.equal(model.weight("0"), W1), "the model itself is never changed"


def test_a_bias_in_the_range_of_its_row():
    model = network(nn.ReLU(), b1=torch.tensor([8.0, 0.0, 0.0]))
    plain, counted = (shared(model, wb.Equalize(bias=b, iterations=1)).weight("0") for b in (False, True))
    assert counted[0].abs().max() < plain[0].abs().max()
    torch.testing.assert_close(counted[1:], plain[1:])


@pytest.mark.parametrize("activation", [nn.GELU(), nn.Tanh(), nn.ReLU6()], ids=lambda a: type(a).__name__)
def test_what_does_not_commute_is_refused(activation):
    model = network(activation)
    with pytest.raises(Refused, match=r"no two of the selected layers.*can share"):
        shared(model, wb.Equalize(), torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) * 5)


def test_only_selected_layers_are_touched():
    model = network(nn.ReLU())
    with pytest.raises(Refused, match="no two of the selected layers"):
        equalized(model, plan(model, Recipe([wb.Step(wb.Equalize(), "0")])), torch.randn(8, 2))
    untouched = equalized(model, plan(model, Recipe([wb.RTN()])), torch.randn(8, 2))
    assert untouched is model


@pytest.mark.parametrize(("bits", "gain"), [(4, 2), (6, 2.5), (8, 3)])
def test_grids_of_a_whole_tensor_gain(bits, gain):
    """Card P5: rows of W1 log-normal, sigma 1.5, one scale a tensor: 2.5, 5.3 and 7 times less output error."""
    g = torch.Generator().manual_seed(0)
    w1 = torch.randn(64, 32, generator=g) * torch.exp(1.5 * torch.randn(64, 1, generator=g)) / 6
    w2, inputs = torch.randn(16, 64, generator=g) / 8, torch.randn(256, 32, generator=g)
    model = network(nn.ReLU(), w1, torch.zeros(64), w2)
    rounding = wb.RTN(bits=bits, granularity="tensor", symmetric=True)
    float_outputs, errors = outputs(model, inputs), []
    for steps in ([rounding], [wb.Equalize(), rounding]):
        variant = apply(model, Recipe(steps), calibration=[inputs])
        found = outputs(variant.model, inputs)
        errors.append(((found - float_outputs).norm() / float_outputs.norm()).item() ** 2)
    assert errors[0] / errors[1] > gain


@pytest.mark.parametrize("name", ["tiny-resnet", "llama"])
def test_a_whole_network_answers_as_before(name, llama_folder, text_file):
    """Batch norms between convolutions are merged; SwiGLU shares between up and down, attention between v and o."""
    model = wb.load(llama_folder if name == "llama" else name)
    data = wb.evaluation(model, text_file, tokens=512).first(8)
    variant = apply(model, Recipe([wb.Equalize()]), calibration=[data.inputs])
    assert any("ranges of joined layers were shared" in note for note in variant.notes)
    changed = [
        n for n, made in variant.weights.items() if not torch.equal(made.dequantize(), model.weight(n))
    ]
    assert len(changed) >= 6, changed
    before, after = model.runner.logits(data.inputs), outputs(variant.model, data.inputs)
    assert ((after - before).norm() / before.norm()).item() < 1e-4


def test_alone_it_does_nothing():
    assert torch.equal(wb.Equalize().compress(W1).dequantize(), W1)
    with pytest.raises(Refused, match="iterations"):
        wb.Equalize(iterations=0)
