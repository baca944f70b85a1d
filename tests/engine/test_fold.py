"""Folding: the network answers as before, no scale is left where one can go, and every other says why it stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.engine import Recipe, apply
from workbench.engine.fold import fold, pairs
from workbench.errors import Refused


@pytest.fixture(scope="module")
def tiny():
    return wb.load("tiny-llama")


@pytest.fixture(scope="module")
def small(llama_folder):
    """Two blocks with grouped queries and loud channels, so that every transform has something to do."""
    return wb.engine.with_outliers(wb.load(llama_folder), 3)


@pytest.fixture(scope="module")
def batches(small, text_file):
    return wb.evaluation(small, text_file, tokens=1024).inputs_only()


def answers(subject: wb.Variant | wb.Model, batch: torch.Tensor) -> torch.Tensor:
    model = subject if isinstance(subject, wb.Model) else subject.model
    return model.runner.logits(batch, model.running)


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def scaled(variant: wb.Variant) -> set[str]:
    """The last words of the layers that keep an input scale."""
    return {n.rpartition(".")[2] for n, made in variant.weights.items() if made.input_scale is not None}


CHAINS = {
    "scales alone": [wb.SmoothQuant()],
    "smoothquant, rtn": [wb.SmoothQuant(), wb.RTN(bits=8, granularity="channel", symmetric=True)],
    "awq": [wb.AWQ(bits=4, group_size=64, grid_points=5)],
    "awq, gptq": [wb.AWQ(bits=4, group_size=64, grid_points=5), wb.GPTQ(bits=4, group_size=64)],
    "protected": [wb.AWQ(bits=3, group_size=64, grid_points=5, protect=0.02)],
    "inputs too": [wb.SmoothQuant(), wb.RTN(bits=8), wb.Activations()],
    "corrected": [wb.SmoothQuant(), wb.RTN(bits=4), wb.BiasCorrection()],
    "pruned": [wb.SmoothQuant(), wb.Wanda(sparsity=0.5), wb.RTN(bits=4)],
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_a_folded_network_answers_as_before_it_was_folded(small, batches, chain):
    variant = apply(small, Recipe(chain), calibration=batches)
    folded = fold(variant)
    assert scaled(variant) >= {"q_proj", "up_proj", "down_proj"}
    assert scaled(folded) <= {"o_proj"}  # query heads that share a value head have scales of their own
    # The divided scales of v and up are half-precision numbers again. A quantized input may, in consequence, fall to
    # the other side of a midpoint.
    most = 3e-2 if any(isinstance(method, wb.Activations) for method in chain) else 5e-4
    assert off(answers(folded, batches[0]), answers(variant, batches[0])) < most
    assert any(note.startswith("input scales folded") for note in folded.notes)
    for name in scaled(folded):
        assert any("the input scale stays" in note and name in note for note in folded.notes)
    assert all(made.codes.shape == variant.weights[n].codes.shape for n, made in folded.weights.items())


def test_scales_alone_leave_the_float_network_as_it_was(tiny):
    batches = wb.evaluation(tiny, tokens=512, part="calibration").inputs_only()
    variant = apply(tiny, Recipe([wb.SmoothQuant()]), calibration=batches)
    expected = answers(tiny, batches[0])
    assert off(answers(variant, batches[0]), expected) < 1e-4
    assert off(answers(fold(variant), batches[0]), expected) < 1e-4
    norm = "model.layers.0.input_layernorm.weight"
    q = variant.weights["model.layers.0.self_attn.q_proj"]
    folded = fold(variant)
    torch.testing.assert_close(folded.vectors[norm], tiny.source.read(norm).float() / q.input_scale.float())
    torch.testing.assert_close(
        folded.weights["model.layers.0.self_attn.q_proj"].dequantize(), q.dequantize() * q.input_scale.float()
    )
    assert torch.equal(folded.base.source.read(norm), tiny.source.read(norm)), "the base is never changed"


def test_bits_per_weight_fall_by_the_scales_that_are_gone(small, batches):
    variant = apply(small, Recipe([wb.AWQ(bits=4, grid_points=5)]), calibration=batches)
    name = "model.layers.1.mlp.gate_proj"
    before, after = variant.weights[name].storage_bits(), fold(variant).weights[name].storage_bits()
    assert before["inputs"] == 64 * 16
    assert after == {**before, "inputs": 0}


def test_the_pairs_of_a_llama_are_those_of_the_literature(tiny):
    found = {pair.label for pair in pairs(tiny)}
    assert len(found) == 4 * 5
    assert {label for label in found if label.startswith("model.layers.3.")} == {
        "model.layers.3.input_layernorm -> q_proj, k_proj, v_proj",
        "model.layers.3.self_attn.v_proj -> o_proj",
        "model.layers.3.post_attention_layernorm -> gate_proj, up_proj",
        "model.layers.3.mlp.up_proj -> down_proj",
    }


def test_a_vision_transformer_folds_into_norms_with_a_bias_and_not_through_gelu():
    model = wb.load("tiny-vit")
    images = [wb.evaluation(model, part="calibration").inputs[:32]]
    variant = apply(model, Recipe([wb.SmoothQuant()]), calibration=images)
    folded = fold(variant, images[0][:2])
    kept = {n for n, made in folded.weights.items() if made.input_scale is not None}
    assert {n for n in kept if n.endswith("mlp.fc2")} == {f"blocks.{i}.mlp.fc2" for i in range(4)}
    assert not [n for n in kept if n.endswith(("attn.qkv", "mlp.fc1", "attn.proj"))]
    assert any("GELU, say" in note for note in folded.notes)
    assert "blocks.0.norm1.bias" in folded.vectors
    assert off(answers(folded, images[0]), answers(model, images[0])) < 1e-4


def test_a_step_for_some_of_the_readers_stays(small, batches):
    """k and v read the same norm: dividing it for q alone would change them."""
    variant = apply(small, Recipe([wb.Step(wb.SmoothQuant(), "role:q")]), calibration=batches)
    folded = fold(variant)
    assert scaled(folded) == {"q_proj"}
    assert any("not all layers that read the same input have one" in note for note in folded.notes)
    assert folded.vectors == {}


def test_different_scales_of_two_readers_stay(small, batches):
    steps = [wb.Step(wb.SmoothQuant(alpha=0.3), "role:gate"), wb.Step(wb.SmoothQuant(alpha=0.7), "role:up")]
    folded = fold(apply(small, Recipe(steps), calibration=batches))
    assert scaled(folded) == {"gate_proj", "up_proj"}
    assert any("different scales" in note for note in folded.notes)


@pytest.mark.parametrize(
    ("rounding", "reason"),
    [
        (wb.RTN(format="mxfp4"), "coarse themselves"),
        (wb.RTN(bits=8, granularity="tensor"), "rows of the layer before share a scale"),
    ],
)
def test_a_source_whose_scales_cannot_be_divided_says_so(small, batches, rounding, reason):
    steps = [wb.Step(rounding, "role:up"), wb.Step(wb.SmoothQuant(), "role:down")]
    variant = apply(small, Recipe(steps), calibration=batches)
    folded = fold(variant)
    assert scaled(folded) == {"down_proj"}
    assert any(reason in note for note in folded.notes)
    assert torch.equal(answers(folded, batches[0]), answers(variant, batches[0]))


def test_a_source_that_the_recipe_left_alone_is_divided_too(small, batches):
    variant = apply(small, Recipe([wb.Step(wb.SmoothQuant(), "role:down")]), calibration=batches)
    folded = fold(variant)
    assert scaled(folded) == set()
    up = "model.layers.0.mlp.up_proj"
    s = variant.weights["model.layers.0.mlp.down_proj"].input_scale.float()
    torch.testing.assert_close(folded.weights[up].dequantize(), small.weight(up) / s[:, None])
    assert off(answers(folded, batches[0]), answers(small, batches[0])) < 1e-4


def test_the_bias_and_the_shift_of_a_source_are_divided_with_its_rows():
    g = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 5))
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g)
    model = wb.load(module, name="pair", task="classification")
    x = torch.randn(64, 12, generator=g) + 1
    rounding = wb.Step(wb.RTN(bits=3, group_size=4, scale_dtype="float32"), "0")
    steps = [rounding, wb.Step(wb.BiasCorrection(), "0"), wb.Step(wb.SmoothQuant(), "2")]
    variant = apply(model, Recipe(steps), calibration=[x])
    assert variant.weights["0"].shift is not None
    folded = fold(variant, x)
    s = variant.weights["2"].input_scale.float()
    assert folded.weights["2"].input_scale is None
    torch.testing.assert_close(folded.weights["0"].shift, variant.weights["0"].shift / s)
    torch.testing.assert_close(folded.vectors["0.bias"], module[0].bias.detach() / s)
    torch.testing.assert_close(answers(folded, x), answers(variant, x), rtol=1e-4, atol=1e-4)


def test_nothing_to_fold_is_no_change(small):
    variant = apply(small, Recipe([wb.RTN(bits=4)]))
    folded = fold(variant)
    assert folded.weights == variant.weights
    assert folded.vectors == {}
    assert folded.notes == ()


def test_an_activation_may_be_a_module_or_a_function():
    """A ReLU that is a module makes the tensor that the next layer reads: what counts is what lies before it."""

    class Functional(nn.Sequential):
        def forward(self, x):
            return self[1](torch.relu(self[0](x)))

    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    for module in (
        nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2)),
        Functional(nn.Linear(6, 9), nn.Linear(9, 2)),
    ):
        (pair,) = pairs(wb.load(module, task="classification"), x)
        assert (pair.source.name, pair.count, pair.vectors) == ("0", 9, ("0.bias",))
    tanh = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 2))
    found = pairs(wb.load(tanh, task="classification"), x)
    assert list(found) == []
    assert "does not commute" in found.left_out["2"]


def test_inputs_that_nothing_tells_of_are_asked_for():
    model = wb.load(
        nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2)), name="mine", task="classification"
    )
    with pytest.raises(Refused, match="what inputs mine takes: give a batch"):
        apply(model, Recipe([wb.Equalize()]))
    assert apply(model, Recipe([wb.Equalize()]), calibration=iter([torch.ones(2, 6)])).weights


def test_a_network_that_cannot_be_run_is_refused():
    module = nn.Sequential(nn.Linear(4, 4))
    model = wb.load(module)
    with pytest.raises(Refused, match="task="):
        fold(apply(model, Recipe([wb.RTN(bits=4, group_size=4)])))
