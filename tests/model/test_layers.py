"""Layers: every weight as a matrix [out, in], however the checkpoint keeps it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.model import DictSource, TensorInfo, checkpoint_layers, module_layers
from workbench.model.layer import layer_of


def layer(name, shape, dtype=torch.float32, **options):
    return layer_of(TensorInfo(name, shape, dtype), **options)


def test_gpt2_in_memory_is_turned_the_right_way(gpt2):
    model = wb.load(gpt2)
    c_fc = model.layer("transformer.h.1.mlp.c_fc")
    assert (c_fc.shape, c_fc.stored, c_fc.transposed) == ((96, 24), (24, 96), True)
    assert "stored transposed [in, out]" in c_fc.note
    assert torch.equal(model.base_weight(c_fc.name), gpt2.transformer.h[1].mlp.c_fc.weight.T)
    # The tied embedding beside it is a plain matrix.
    assert not model.layer("transformer.wte").transposed


def test_gpt2_from_a_folder_has_the_same_layers(gpt2, gpt2_folder):
    saved, memory = wb.load(gpt2_folder), wb.load(gpt2)
    assert {x.name for x in saved.layers} == {x.name for x in memory.layers}
    for each in memory.layers:
        other = saved.layer(each.name)
        assert (other.role, other.block, other.shape, other.stored) == (
            each.role,
            each.block,
            each.shape,
            each.stored,
        )
        assert (other.tied, other.note, other.dtype) == (each.tied, each.note, each.dtype)
        assert torch.equal(saved.base_weight(each.name), memory.base_weight(each.name))


def test_a_tied_weight_is_one_layer_that_names_the_others(gpt2, gpt2_folder):
    for model in (wb.load(gpt2), wb.load(gpt2_folder)):
        embedding = model.layer("transformer.wte")
        assert embedding.tied == ("lm_head",)
        assert "tied with lm_head" in embedding.note
        assert all(each.name != "lm_head" for each in model.layers)


def test_a_checkpoint_with_a_head_of_its_own_is_not_tied():
    tensors = {"model.embed_tokens.weight": torch.zeros(4, 2), "lm_head.weight": torch.zeros(4, 2)}
    for config in ({}, {"tie_word_embeddings": True}, {"tie_word_embeddings": False}):
        assert [each.tied for each in checkpoint_layers(DictSource(tensors), config)] == [(), ()]
    del tensors["lm_head.weight"]
    assert checkpoint_layers(DictSource(tensors), {"tie_word_embeddings": True})[0].tied == ("lm_head",)
    assert checkpoint_layers(DictSource(tensors), {"tie_word_embeddings": False})[0].tied == ()


def test_a_module_without_conv1d_is_not_transposed_although_its_names_are_gpt2s():
    module = nn.ModuleDict(
        {"h": nn.ModuleList([nn.ModuleDict({"mlp": nn.ModuleDict({"c_fc": nn.Linear(3, 7)})})])}
    )
    (only,) = module_layers(module)[1]
    assert (only.name, only.shape, only.transposed) == ("h.0.mlp.c_fc", (7, 3), False)


def test_fused_matrices_say_so():
    assert layer("blocks.0.attn.qkv.weight", (96, 32)).note == "fused q, k, v: 96 rows"
    assert layer("layers.0.mlp.gate_up_proj.weight", (96, 32)).note == "fused gate, up: 96 rows"


def test_a_convolution_is_out_times_channel_times_kernel(conv_net):
    model = wb.load(conv_net)
    conv = model.layer("conv1")
    assert (conv.role, conv.shape, conv.stored) == ("conv", (6, 2 * 3 * 3), (6, 2, 3, 3))
    assert conv.note == "convolution 3 x 3, 2 channels in: columns are channel x kernel"
    w = model.base_weight("conv1")
    assert w[4, 1 * 9 + 2 * 3 + 0] == conv_net.conv1.weight[4, 1, 2, 0]
    assert torch.equal(conv.to_tensor(w), conv_net.conv1.weight)


def test_stacked_experts_are_rows_of_one_matrix():
    experts = layer("model.layers.0.mlp.experts.down_proj", (4, 32, 48))
    assert (experts.shape, experts.role) == ((128, 48), "down")
    assert "4 experts stacked" in experts.note


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("model.norm.weight", (8,), torch.float32),
        ("q_proj.bias", (8,), torch.float32),
        ("pos_embed", (1, 49, 8), torch.float32),
        ("relative_index.weight", (4, 4), torch.int64),
        ("empty.weight", (0, 4), torch.float32),
        ("scores.running_mean", (4, 4), torch.float32),
    ],
)
def test_what_is_no_weight_matrix_is_no_layer(name, shape, dtype):
    assert layer(name, shape, dtype) is None


@pytest.mark.parametrize("shape", [(6, 4), (6, 2, 3, 3)])
@pytest.mark.parametrize("conv1d", [False, True])
def test_to_matrix_and_to_tensor_are_inverse(shape, conv1d):
    each = layer("a.weight", shape, conv1d=conv1d)
    tensor = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    matrix = each.to_matrix(tensor)
    assert tuple(matrix.shape) == each.shape
    assert torch.equal(each.to_tensor(matrix), tensor)
    assert each.parameters == tensor.numel()
