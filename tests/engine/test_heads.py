"""Heads of fused projections: our rows against the keys, values and attention of transformers' own modules."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.engine.heads import fused_order, heads_in, heads_of
from workbench.engine.spectra import spectra
from workbench.errors import Refused

transformers = pytest.importorskip("transformers")

SMALL = {"vocab_size": 40, "hidden_size": 32}
FOUR = {"num_attention_heads": 4, "num_hidden_layers": 1}
ARCHITECTURES = {
    "GPTNeoX": SMALL | FOUR | {"intermediate_size": 48},
    "Bloom": SMALL | {"n_head": 4, "n_layer": 1},
    "Persimmon": SMALL | FOUR | {"intermediate_size": 48, "qk_layernorm": False},
    "Falcon grouped": SMALL | FOUR | {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
    "Falcon one key": SMALL | FOUR | {"multi_query": True},
    "Falcon": SMALL | FOUR | {"multi_query": False, "alibi": True, "bias": True},
    "GPTBigCode one key": {"vocab_size": 40, "n_embd": 32, "n_head": 4, "n_layer": 1, "multi_query": True},
    "GPTBigCode": {"vocab_size": 40, "n_embd": 32, "n_head": 4, "n_layer": 1, "multi_query": False},
    "GPT2": {"vocab_size": 40, "n_embd": 32, "n_head": 4, "n_layer": 1},
    "Mpt": {"vocab_size": 40, "d_model": 32, "n_heads": 4, "n_layers": 1},
    "Dbrx": {
        "vocab_size": 40, "d_model": 32, "n_heads": 4, "n_layers": 1,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 100.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 2, "moe_top_k": 1},
    },
    "GPTNeoXJapanese": SMALL | FOUR | {"intermediate_multiple_size": 2},
    "Phi3": SMALL
    | FOUR
    | {"intermediate_size": 48, "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 1},
}  # fmt: skip


@pytest.fixture(params=ARCHITECTURES, scope="module")
def saved(request, tmp_path_factory):
    """A network of transformers, and the same as a Model."""
    kind = request.param.split()[0]
    config = getattr(transformers, f"{kind}Config")(**ARCHITECTURES[request.param])
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in network.parameters():  # biases begin at zero, and a tiny network hardly attends
        torch.nn.init.normal_(parameter, std=0.4)
    folder = tmp_path_factory.mktemp("heads")
    network.save_pretrained(folder)
    return network, wb.load(folder)


def rows_of(model, layer) -> dict[str, dict[int, list[int]]]:
    """role -> head -> rows, of the layer's heads."""
    numbers = np.arange(layer.shape[0], dtype=np.float64)[:, None]
    found = defaultdict(dict)
    for role, head, part in heads_in(model, layer, numbers):
        found[role][head] = part[:, 0].astype(int).tolist()
    return found


def fused(network, model):
    """The fused layer, and its module."""
    [layer] = [layer for layer in model.layers if layer.role == "qkv"]
    [module] = [m for name, m in network.named_modules() if name.endswith(layer.name.split(".", 1)[-1])]
    return layer, module


@torch.no_grad()
def test_keys_and_values_that_transformers_caches_are_those_of_our_rows(saved):
    network, model = saved
    layer, module = fused(network, model)
    answers = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: answers.append(output))
    # Of one token: positions begin at 0, where rotary embeddings turn nothing.
    cache = network(torch.tensor([[5]]), use_cache=True).past_key_values.layers[0]
    handle.remove()
    answer, rows = answers[0].flatten(), rows_of(model, layer)
    assert sorted(row for heads in rows.values() for some in heads.values() for row in some) == list(
        range(len(answer))
    )
    for role, cached in (("k", cache.keys), ("v", cache.values)):
        cached = cached.reshape(-1, answer.numel() // sum(map(len, rows.values())))
        each = len(cached) // len(rows[role])  # some architectures repeat them for their query heads
        for head, own in rows[role].items():
            for repeated in cached[head * each : (head + 1) * each]:
                torch.testing.assert_close(answer[own], repeated)


@torch.no_grad()
def test_a_query_of_zeros_changes_the_attention_of_its_own_head_only(saved):
    network, model = saved
    layer, module = fused(network, model)
    tokens = torch.tensor([[5, 9, 3, 17]])
    rows = rows_of(model, layer)["q"]
    assert len(rows) == heads_of(model, layer) == 4
    before = network(tokens, output_attentions=True, use_cache=False).attentions[0][0]
    for head, own in rows.items():
        handle = module.register_forward_hook(
            lambda _module, _inputs, output, own=own: output.index_fill(-1, torch.tensor(own), 0.0)
        )
        after = network(tokens, output_attentions=True, use_cache=False).attentions[0][0]
        handle.remove()
        moved = (after - before).abs().amax((1, 2)) > 1e-6
        assert moved.nonzero().flatten().tolist() == [head]


def test_a_loud_head_is_loud_in_the_table(tmp_path):
    config = transformers.GPTNeoXConfig(
        hidden_size=256, num_attention_heads=4, num_hidden_layers=1, intermediate_size=64, vocab_size=40
    )
    torch.manual_seed(0)
    network = transformers.GPTNeoXForCausalLM(config)
    with torch.no_grad():  # [heads, 3, size]: the key of head 0
        network.gpt_neox.layers[0].attention.query_key_value.weight[64:128] *= 10
    network.save_pretrained(tmp_path)
    frame = spectra(wb.load(tmp_path), "*query_key_value", heads=True)
    loudest = frame.loc[frame["log_norm"].idxmax()]
    assert (loudest["role"], loudest["head"]) == ("k", 0)
    assert (frame["log_norm"] > frame["log_norm"].median() + 1).sum() == 1


@pytest.mark.parametrize(
    ("config", "name", "words"),
    [
        ({"model_type": "codegen"}, "h.0.attn.qkv_proj", "not known for a codegen model; leave heads out"),
        ({}, "h.0.attn.query_key_value", "no model_type"),
    ],
)
def test_an_order_that_is_not_known_is_refused(config, name, words):
    with pytest.raises(Refused, match=words):
        fused_order(config, name, 4)


def test_a_layer_of_an_unknown_order_has_a_row_with_the_reason(tmp_path):
    config = transformers.CodeGenConfig(n_embd=64, n_head=4, n_layer=1, vocab_size=40, rotary_dim=8)
    transformers.CodeGenForCausalLM(config).save_pretrained(tmp_path)
    [row] = spectra(wb.load(tmp_path), "role:qkv", heads=True).to_dict("records")
    assert row["status"] == "failed"
    assert "not known for a codegen model" in row["reason"]
