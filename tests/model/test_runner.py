"""Runner: the network with some weights replaced computes what the network with those weights computes."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.errors import Refused
from workbench.model.runner import Runner

IDS = torch.arange(48).reshape(2, 24) % 61


def replaced(module, model, weights):
    """A copy of the module in which the weights really are others."""
    other = copy.deepcopy(module).eval()
    parameters = dict(other.named_parameters())
    for name, matrix in weights.items():
        layer = model.layer(name)
        with torch.no_grad():
            parameters[layer.tensor].copy_(matrix.T if layer.transposed else matrix.reshape(layer.stored))
    return other


def halves(model):
    """Every layer's weight at half its size."""
    return {layer.name: model.base_weight(layer.name) / 2 for layer in model.layers}


def assert_same_logits(module, model, inputs, forward):
    unchanged = model.runner.logits(inputs)
    with torch.no_grad():
        torch.testing.assert_close(unchanged, forward(replaced(module, model, {})), rtol=1e-5, atol=1e-6)
    for weights in (halves(model), {name: w for name, w in list(halves(model).items())[2:4]}):
        found = model.runner.logits(inputs, {model.layer(name): w for name, w in weights.items()})
        with torch.no_grad():
            expected = forward(replaced(module, model, weights))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(found, unchanged, atol=1e-3)
    assert torch.equal(model.runner.logits(inputs), unchanged)


def test_a_llama_with_replaced_weights(llama):
    assert_same_logits(llama, wb.load(llama), IDS, lambda module: module(IDS).logits)


def test_a_gpt2_with_conv1d_and_a_tied_head(gpt2):
    assert_same_logits(gpt2, wb.load(gpt2, task="language"), IDS, lambda module: module(IDS).logits)


def test_a_gpt2_from_a_folder(gpt2, gpt2_folder):
    assert_same_logits(gpt2, wb.load(gpt2_folder), IDS, lambda module: module(IDS).logits)


def test_a_convolutional_network(conv_net):
    x = torch.randn(3, 2, 9, 9, generator=torch.Generator().manual_seed(1))
    assert_same_logits(conv_net, wb.load(conv_net, task="classification"), x, lambda module: module(x))


def test_running_changes_nothing_of_a_module_in_memory(conv_net):
    before = copy.deepcopy(conv_net.state_dict())
    model = wb.load(conv_net, task="classification")
    x = torch.randn(3, 2, 9, 9)
    over = model.with_overlays({"fc": wb.RTN(bits=2).compress(model.weight("fc"))})
    for each in (model, over):
        each.runner.logits(x, {each.layer(n): c.dequantize() for n, c in each.overlays.items()})
    after = conv_net.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())  # batch norm's sums too
    assert conv_net.training
    assert conv_net.drop.training
    assert all(parameter.requires_grad for parameter in conv_net.parameters())
    assert not model.runner.module.training


def test_a_checkpoint_of_the_bare_base_model_finds_its_parameters(gpt2):
    source_names = {
        "wte.weight": "transformer.wte.weight",
        "h.0.mlp.c_fc.weight": "transformer.h.0.mlp.c_fc.weight",
    }
    runner = Runner(lambda: copy.deepcopy(gpt2), "language")
    from workbench.model import TensorInfo
    from workbench.model.layer import layer_of

    for stored, parameter in source_names.items():
        assert runner.parameter_name(layer_of(TensorInfo(stored, (24, 96), torch.float32))) == parameter
    with pytest.raises(Refused, match=r"GPT2LMHeadModel has no parameter for h.7.mlp.c_fc.weight"):
        runner.parameter_name(layer_of(TensorInfo("h.7.mlp.c_fc.weight", (24, 96), torch.float32)))


def heard(model, inputs, names):
    found = {}
    with model.runner.inputs_of(
        [model.layer(name) for name in names], lambda layer, x: found.update({layer.name: x})
    ):
        model.runner.logits(inputs)
    return found


def test_the_inputs_of_a_layer_times_its_weight_are_its_output(gpt2, conv_net):
    x = torch.randn(3, 2, 9, 9, generator=torch.Generator().manual_seed(1))
    for module, inputs, names in (
        (gpt2, IDS, ["transformer.h.1.mlp.c_fc", "transformer.h.0.attn.c_attn"]),
        (conv_net, x, ["conv1", "layer1.0.0", "layer1.0.1", "fc"]),
    ):
        model = wb.load(module, task="classification" if module is conv_net else "language")
        outputs = {}
        copied = model.runner.module
        handles = [
            copied.get_submodule(name).register_forward_hook(
                lambda m, i, o, name=name, outputs=outputs: outputs.update({name: o})
            )
            for name in names
        ]
        found = heard(model, inputs, names)
        for handle in handles:
            handle.remove()
        assert set(found) == set(names)
        for name in names:
            bias = copied.get_submodule(name).bias
            output = found[name] @ model.weight(name).T + (0 if bias is None else bias)
            expected = outputs[name]
            expected = expected.flatten(2).transpose(1, 2) if expected.dim() == 4 else expected
            torch.testing.assert_close(output, expected.reshape(output.shape), rtol=1e-4, atol=1e-5)


def test_layers_without_one_matrix_product_are_not_heard(gpt2, conv_net):
    assert heard(wb.load(gpt2, task="language"), IDS, ["transformer.wte", "transformer.wpe"]) == {}
    model = wb.load(conv_net, task="classification")
    assert heard(model, torch.randn(1, 2, 9, 9), ["depthwise"]) == {}


def test_hooks_are_gone_afterwards_also_after_an_error(conv_net):
    model = wb.load(conv_net, task="classification")

    def fail(layer, x):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), model.runner.inputs_of([model.layer("fc")], fail):
        model.runner.logits(torch.randn(1, 2, 9, 9))
    assert model.runner.logits(torch.randn(1, 2, 9, 9)).shape == (1, 5)


def test_what_was_heard_can_be_used_in_a_gradient(conv_net):
    model = wb.load(conv_net, task="classification")
    x = heard(model, torch.randn(2, 2, 9, 9), ["fc"])["fc"]
    w = torch.zeros(5, 8, requires_grad=True)
    (x @ w.T).sum().backward()
    torch.testing.assert_close(w.grad[0], x.sum(0))


def test_a_model_without_a_tokenizer_says_so(llama):
    with pytest.raises(Refused, match="came without a tokenizer"):
        wb.load(llama).runner.tokenize("a")


def test_the_module_is_built_once_and_only_when_needed():
    built = []

    def build():
        built.append(1)
        return nn.Linear(4, 2)

    runner = Runner(build, "classification")
    assert built == []
    runner.logits(torch.ones(1, 4))
    runner.logits(torch.ones(1, 4))
    assert built == [1]


def test_inputs_are_prepared_once():
    runner = Runner(lambda: nn.Identity(), "classification", prepare=lambda x: x / 2)
    assert runner.logits(torch.ones(1, 4)).tolist() == [[0.5] * 4]


def test_networks_built_by_several_threads_at_once_are_whole(llama_folder):
    """transformers patches itself while it builds: two models opened side by side lost their tied heads."""
    token = torch.zeros(1, 4, dtype=torch.long)
    expected = wb.load(llama_folder).runner.logits(token)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: wb.load(llama_folder).runner.logits(token), range(12)))
    assert all(torch.equal(logits, expected) for logits in found)
    from transformers import PreTrainedModel

    assert PreTrainedModel.tie_weights.__name__ == "tie_weights"  # the patch is gone
