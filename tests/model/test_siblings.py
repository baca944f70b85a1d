"""The embedded siblings: one recipe, other seeds. Same shapes, other weights, the accuracy that was written down."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench.model import zoo

SIBLINGS = [("tiny-mlp", "tiny-mlp-b"), ("tiny-mlp", "tiny-mlp-c"), ("tiny-resnet", "tiny-resnet-b")]


@pytest.mark.parametrize(("first", "second"), SIBLINGS)
def test_siblings_have_one_architecture_and_other_weights(first, second):
    a, b = wb.load(first), wb.load(second)
    assert a.config == b.config
    assert [(la.name, la.shape) for la in a.layers] == [(la.name, la.shape) for la in b.layers]
    for layer in a.layers:
        cosine = torch.cosine_similarity(
            a.weight(layer.name).flatten(), b.weight(layer.name).flatten(), dim=0
        )
        assert cosine.abs() < 0.6, f"{layer.name}: the seeds are independent"


@pytest.mark.parametrize("name", ["tiny-mlp", "tiny-mlp-b", "tiny-mlp-c", "tiny-resnet-b"])
def test_a_sibling_is_as_good_as_its_record_says(name):
    model = wb.load(name)
    measured = wb.Quality(model, wb.evaluation(model)).measure()["accuracy"]
    assert measured == pytest.approx(zoo.embedded(name).record["test_accuracy_shipped_2000"], abs=1e-3)
    assert measured > 0.9


def test_the_layers_of_the_mlp_have_their_roles():
    model = wb.load("tiny-mlp")
    assert {layer.name: (layer.role, layer.shape) for layer in model.layers} == {
        "layers.0": ("fc", (512, 784)),
        "layers.1": ("fc", (512, 512)),
        "layers.2": ("fc", (512, 512)),
        "head": ("head", (10, 512)),
    }
