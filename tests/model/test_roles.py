"""Roles and blocks from the names that model families use."""

from __future__ import annotations

import pytest
import torch

from workbench.model import DictSource, checkpoint_layers
from workbench.model.roles import ROLES, block_prefix, role_of

# Names as the checkpoints of each family have them.
FAMILIES = {
    "llama, mistral, qwen2": """
        model.embed_tokens embed, model.layers.0.self_attn.q_proj q, model.layers.0.self_attn.k_proj k,
        model.layers.0.self_attn.v_proj v, model.layers.0.self_attn.o_proj o, model.layers.0.mlp.gate_proj gate,
        model.layers.0.mlp.up_proj up, model.layers.0.mlp.down_proj down, lm_head head""",
    "llama, as Meta saved it": """
        tok_embeddings embed, layers.0.attention.wq q, layers.0.attention.wk k, layers.0.attention.wv v,
        layers.0.attention.wo o, layers.0.feed_forward.w1 gate, layers.0.feed_forward.w3 up,
        layers.0.feed_forward.w2 down""",
    "mixtral": """
        model.layers.0.block_sparse_moe.experts.3.w1 gate, model.layers.0.block_sparse_moe.experts.3.w2 down,
        model.layers.0.block_sparse_moe.experts.3.w3 up, model.layers.0.block_sparse_moe.gate fc""",
    "phi3": "model.layers.0.self_attn.qkv_proj qkv, model.layers.0.mlp.gate_up_proj up",
    "gpt2": """
        wte embed, wpe embed, h.0.attn.c_attn qkv, h.0.attn.c_proj o, h.0.mlp.c_fc up, h.0.mlp.c_proj down""",
    "gpt-neox": """
        gpt_neox.embed_in embed, gpt_neox.layers.0.attention.query_key_value qkv, gpt_neox.layers.0.attention.dense o,
        gpt_neox.layers.0.mlp.dense_h_to_4h up, gpt_neox.layers.0.mlp.dense_4h_to_h down, embed_out head""",
    "bloom, falcon": """
        transformer.word_embeddings embed, transformer.h.0.self_attention.query_key_value qkv,
        transformer.h.0.self_attention.dense o, transformer.h.0.mlp.dense_4h_to_h down""",
    "opt": """
        model.decoder.embed_tokens embed, model.decoder.embed_positions embed, model.decoder.project_in fc,
        model.decoder.layers.0.self_attn.out_proj o, model.decoder.layers.0.fc1 up, model.decoder.layers.0.fc2 down""",
    "t5": """
        shared embed, encoder.block.0.layer.0.SelfAttention.q q, encoder.block.0.layer.0.SelfAttention.o o,
        encoder.block.0.layer.0.SelfAttention.relative_attention_bias embed,
        encoder.block.0.layer.1.DenseReluDense.wi up, encoder.block.0.layer.1.DenseReluDense.wi_0 gate,
        encoder.block.0.layer.1.DenseReluDense.wi_1 up, encoder.block.0.layer.1.DenseReluDense.wo down,
        decoder.block.0.layer.1.EncDecAttention.k k, decoder.block.0.layer.1.EncDecAttention.v v, lm_head head""",
    "bert": """
        bert.embeddings.word_embeddings embed, bert.embeddings.position_embeddings embed,
        bert.embeddings.token_type_embeddings embed, bert.encoder.layer.0.attention.self.query q,
        bert.encoder.layer.0.attention.self.key k, bert.encoder.layer.0.attention.self.value v,
        bert.encoder.layer.0.attention.output.dense o, bert.encoder.layer.0.intermediate.dense up,
        bert.encoder.layer.0.output.dense down, bert.pooler.dense fc, cls.predictions.transform.dense fc,
        cls.predictions.decoder head""",
    "distilbert": """
        distilbert.transformer.layer.0.attention.q_lin q, distilbert.transformer.layer.0.attention.out_lin o,
        distilbert.transformer.layer.0.ffn.lin1 up, distilbert.transformer.layer.0.ffn.lin2 down,
        vocab_transform fc, vocab_projector head""",
    "clip": """
        text_model.embeddings.token_embedding embed, text_model.embeddings.position_embedding embed,
        text_model.encoder.layers.0.self_attn.out_proj o, text_model.encoder.layers.0.mlp.fc1 up""",
    "vit, as timm names it": """
        blocks.0.attn.qkv qkv, blocks.0.attn.proj o, blocks.0.mlp.fc1 up, blocks.0.mlp.fc2 down, head head""",
    "torch's own transformer": """
        encoder.layers.0.self_attn.in_proj_weight qkv, encoder.layers.0.self_attn.out_proj o,
        encoder.layers.0.linear1 fc""",
    "gguf": "token_embd embed, blk.0.attn_q q, blk.0.attn_output o, blk.0.ffn_gate gate, blk.0.ffn_down down",
}
CASES = [tuple(pair.split()) for names in FAMILIES.values() for pair in names.split(",")]


@pytest.mark.parametrize(("name", "role"), CASES)
def test_a_layer_has_the_role_that_its_family_gives_its_name(name, role):
    assert role_of(name, 2) == role
    assert role in ROLES


@pytest.mark.parametrize(
    "name", ["conv1", "layer1.0.conv2", "layer2.0.downsample.0", "patch_embed.proj", "features.3"]
)
def test_a_tensor_with_more_than_two_axes_is_a_convolution(name):
    assert role_of(name, 4) == "conv"


def test_a_classifier_of_torchvision_is_a_plain_linear_layer():
    assert role_of("fc", 2) == "fc"
    assert role_of("classifier.6", 2) == "fc"


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("model.layers.3.mlp.experts.7.w1", "model.layers.3"),
        ("layer1.0.downsample.0", "layer1.0"),
        ("encoder.block.2.layer.0.SelfAttention.q", "encoder.block.2"),
        ("classifier.1", None),
        ("features.0", None),
        ("lm_head", None),
    ],
)
def test_a_block_is_what_the_first_counter_counts(name, prefix):
    assert block_prefix(name) == prefix


def names_to_layers(names, config=None, shape=(4, 4)):
    return checkpoint_layers(DictSource({f"{n}.weight": torch.zeros(shape) for n in names}), config or {})


def test_blocks_are_numbered_through_stages_and_stacks():
    names = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer2.0.conv1", "fc"]
    assert [layer.block for layer in names_to_layers(names)] == [None, 0, 0, 1, 2, None]
    names = ["encoder.block.0.q", "encoder.block.1.q", "decoder.block.0.q"]
    assert [layer.block for layer in names_to_layers(names)] == [0, 1, 2]


def test_blocks_go_by_their_number_in_a_checkpoint_that_is_sorted_by_name():
    names = sorted(["lm_head", "model.embed_tokens", *(f"model.layers.{i}.mlp.up_proj" for i in range(12))])
    layers = names_to_layers(names)
    assert [(layer.name, layer.block) for layer in layers] == [
        ("lm_head", None),
        ("model.embed_tokens", None),
        *((f"model.layers.{i}.mlp.up_proj", i) for i in range(12)),
    ]


def test_only_the_families_with_conv1d_are_stored_transposed():
    names = ["transformer.h.0.mlp.c_fc", "transformer.h.0.attn.c_attn"]
    for config, transposed in (
        ({}, True),
        ({"model_type": "gpt2"}, True),
        ({"model_type": "gpt_neo"}, False),
        ({"model_type": "gpt_bigcode"}, False),
    ):
        assert {layer.transposed for layer in names_to_layers(names, config)} == {transposed}
