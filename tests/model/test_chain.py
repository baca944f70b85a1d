"""Chain: blocks in a row give what the whole network gives, also when only one of them is in memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.model import Chain

MODELS = ["tiny-llama", "tiny-vit", "tiny-resnet"]


def through(chain: Chain, batch: torch.Tensor, weights=None) -> torch.Tensor:
    weights = weights or {}
    with torch.no_grad():
        flow = chain.enter(batch, weights=weights)
        for index in range(len(chain)):
            with chain.opened(index):
                flow = chain.step(index, flow, weights)
        return chain.leave(flow, weights=weights)


def batch_of(model) -> torch.Tensor:
    return wb.evaluation(model, part="calibration").inputs[:2]


@pytest.mark.parametrize("name", MODELS)
def test_block_by_block_is_the_network(name):
    model = wb.load(name)
    batch = batch_of(model)
    chain = Chain(model, batch[:1])
    assert len(chain) == {"tiny-llama": 5, "tiny-vit": 4, "tiny-resnet": 9}[name]
    torch.testing.assert_close(through(chain, batch), model.runner.logits(batch), rtol=1e-5, atol=1e-5)
    inside = [layer.name for layers in chain.layers for layer in layers]
    assert sorted([*inside, *(layer.name for layer in chain.outside)]) == sorted(model.table["name"])


@pytest.mark.parametrize("name", MODELS)
def test_with_changed_weights_and_vectors_too(name):
    model = wb.load(name)
    batch = batch_of(model)
    changed = wb.apply(model, wb.Recipe([wb.RTN(bits=3)])).model
    vector = next(
        n for n, info in model.source.tensors().items() if len(info.shape) == 1 and n.endswith("weight")
    )
    changed = changed.with_overlays(changed.overlays, {vector: 1.1 * model.source.read(vector).float()})
    expected = model.runner.logits(batch, changed.running)
    assert not torch.allclose(expected, model.runner.logits(batch), atol=1e-3)
    found = through(Chain(model, batch[:1]), batch, changed.running)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_frame_holds_one_block_at_a_time():
    model = wb.load("tiny-llama")
    batch = batch_of(model)
    chain = Chain(model, batch[:1], frame=True)

    def held() -> set[str]:
        return {
            n.split(".")[2]
            for n, p in chain.module.named_parameters()
            if "layers" in n and p.device.type != "meta"
        }

    assert held() == set()
    with chain.opened(2):
        assert held() == {"2"}
    assert held() == set()
    torch.testing.assert_close(
        through(chain, batch), wb.load("tiny-llama").runner.logits(batch), rtol=1e-5, atol=1e-5
    )
    assert not model.runner.built


def test_a_network_that_is_no_chain_is_one_block():
    class Skipping(nn.Module):
        """The second block reads what the first one read: the hidden state is not handed on."""

        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.ModuleDict({"up_proj": nn.Linear(8, 8)}) for _ in range(2))

        def forward(self, x):
            return self.layers[0]["up_proj"](x) + self.layers[1]["up_proj"](x)

    model = wb.load(Skipping(), task="classification")
    x = torch.randn(4, 8)
    chain = Chain(model, x)
    assert chain.names == [""]
    assert [layer.name for layer in chain.layers[0]] == ["layers.0.up_proj", "layers.1.up_proj"]
    torch.testing.assert_close(through(chain, x), model.runner.logits(x))


def test_nothing_of_a_bypassed_block_is_left_behind():
    model = wb.load("tiny-vit")
    batch = batch_of(model)
    chain = Chain(model, batch[:1])
    with pytest.raises(ZeroDivisionError):
        chain.enter(batch, hear=lambda layer, x: 1 / 0)
    torch.testing.assert_close(through(chain, batch), model.runner.logits(batch), rtol=1e-5, atol=1e-5)


def test_gradients_reach_the_weights_of_a_block():
    model = wb.load("tiny-llama")
    chain = Chain(model, batch_of(model)[:1])
    layer = chain.layers[1][0]
    w = model.weight(layer.name).requires_grad_()
    flow = chain.enter(batch_of(model))
    chain.run(1, flow, {layer: w}).square().mean().backward()
    assert w.grad is not None
    assert w.grad.abs().sum() > 0
