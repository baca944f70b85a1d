"""Outliers on purpose: the same answers to the bit, loud channels where they were asked for, nothing else changed."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench.engine import collect, with_outliers
from workbench.errors import Refused

IDS = torch.arange(48).view(2, 24)


@pytest.fixture(scope="module")
def tiny():
    return wb.load("tiny-llama")


@pytest.fixture(scope="module")
def loud(tiny):
    return with_outliers(tiny, [7, 100])


def test_the_network_answers_as_before_to_the_bit(tiny, loud):
    assert torch.equal(tiny.runner.logits(IDS), loud.runner.logits(IDS))
    # A factor that is no power of two rounds: close, and not the same.
    thirty = with_outliers(tiny, [7, 100], factor=30.0).runner.logits(IDS)
    torch.testing.assert_close(thirty, tiny.runner.logits(IDS), rtol=1e-4, atol=1e-4)


def test_the_asked_channels_are_loud_and_no_other(tiny, loud):
    name = "model.layers.2.mlp.up_proj"
    quiet, found = (collect(m, [m.layer(name)], {"max_abs"}, [IDS])[name].max_abs for m in (tiny, loud))
    expected = torch.ones(256)
    expected[[7, 100]] = 32
    torch.testing.assert_close(found, quiet * expected)
    torch.testing.assert_close(loud.base_weight(name) * expected, tiny.base_weight(name))
    down = "model.layers.2.mlp.down_proj"
    assert torch.equal(loud.base_weight(down), tiny.base_weight(down))


def test_the_model_it_came_from_is_unchanged_and_the_new_one_is_a_base(tiny, loud):
    assert not loud.overlays
    assert not tiny.overlays
    assert {la.name for la in loud.layers} == {la.name for la in tiny.layers}
    norm = "model.layers.0.input_layernorm.weight"
    assert torch.equal(tiny.runner.module.get_parameter(norm), tiny.source.read(norm).float())
    assert loud.source.read(norm)[7] == 32 * tiny.source.read(norm)[7]
    assert loud.name == "tiny-llama with outliers"
    assert wb.evaluation(loud, tokens=256).inputs.shape == (1, 256), "it brings its tokenizer"


def test_a_number_of_channels_is_drawn_by_the_seed_and_the_same_in_every_block(tiny):
    one, two, other = (with_outliers(tiny, 3, seed=seed) for seed in (0, 0, 1))
    norms = [n for n in tiny.source.tensors() if n.endswith("layernorm.weight")]

    def raised(model):
        ratios = [model.source.read(n).float() / tiny.source.read(n).float() for n in norms]
        return {tuple((r > 2).nonzero().flatten().tolist()) for r in ratios}

    assert len(raised(one)) == 1
    assert len(next(iter(raised(one)))) == 3
    assert raised(one) == raised(two) != raised(other)


def test_a_layer_norm_with_a_bias_and_only_selected_layers():
    vit = wb.load("tiny-vit")
    images = wb.evaluation(vit, part="calibration").inputs[:4]
    loud = with_outliers(vit, [5], layers="blocks.1.*")
    torch.testing.assert_close(loud.runner.logits(images), vit.runner.logits(images), rtol=1e-5, atol=1e-5)
    for name, factor in (("blocks.1.norm1.bias", 32), ("blocks.0.norm1.bias", 1)):
        assert loud.source.read(name)[5] == factor * vit.source.read(name)[5]


def test_bad_input_is_refused(tiny):
    changed = tiny.with_overlays(
        {"model.layers.0.mlp.up_proj": wb.RTN().compress(tiny.weight("model.layers.0.mlp.up_proj"))}
    )
    for make, words in (
        (lambda: with_outliers(changed), "give the unchanged model"),
        (lambda: with_outliers(tiny, factor=0.0), "above 0"),
        (lambda: with_outliers(tiny, 257), "257 loud channels"),
        (lambda: with_outliers(tiny, [300]), "channel 300"),
        (lambda: with_outliers(tiny, []), "empty list"),
        (lambda: with_outliers(tiny, layers="role:down"), "no norm"),
        (lambda: with_outliers(tiny, layers="role:q"), "no norm"),  # k and v read it too
    ):
        with pytest.raises(Refused, match=words):
            make()
